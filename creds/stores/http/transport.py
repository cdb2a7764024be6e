"""One request: with the credential of its moment, its redirects looked at one by one, its failure translated."""

from __future__ import annotations

import base64
import contextlib
import http.client
import re
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import urllib3
from urllib3.exceptions import HTTPError
from urllib3.response import BaseHTTPResponse

from creds import retry
from creds.errors import CredentialError, PolicyError, StoreError, ToolkitError, Unauthenticated, bare
from creds.store import Buffer, Cancel, OnRetry, Retries, StoreOptions, Tls
from creds.stores.http.connections import Addresses, Connections, asking, forget
from creds.stores.http.errors import failed, of_failure, of_status
from creds.stores.url import Url
from creds.stores.wire import stoppable

T = TypeVar("T")

MAX_REDIRECTS = 5

_REDIRECTS = (301, 302, 303, 307, 308)
_DRAINED_BYTES = 64 << 10  # an answer's body up to this is read away, to keep its connection
_VALUE = re.compile(r"[\x20-\x7e\xa0-\xff]*")


def basic(user: str, password: str) -> str:
    """The value of an Authorization header for a user and a password, as UTF-8 (RFC 7617).

    Raises:
        CredentialError: the user holds a colon, which would end it.
    """
    if ":" in user:
        raise CredentialError("the user holds a ':', which Basic authentication cannot carry")
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode("ascii")


class Login:
    """The credential over the tries of one piece of work: asked for anew each time, and once more when refused."""

    def __init__(self, authorization: Callable[[], str | None] | None) -> None:
        self._ask = authorization
        self._used: str | None = None

    def header(self) -> dict[str, str]:
        """The header that carries it, if there is one."""
        self._used = self._now()
        return {} if self._used is None else {"Authorization": self._used}

    def renewed(self, error: ToolkitError) -> bool:
        """Was the credential refused, and is there another one now?"""
        return isinstance(error, Unauthenticated) and self._now() != self._used

    def _now(self) -> str | None:
        value = None if self._ask is None else self._ask()
        # http.client would refuse it too, and quote it.
        if value is not None and not _VALUE.fullmatch(value):
            del value
            raise CredentialError(
                "the credential holds a character that no header may hold",
                hint="a token's file must hold the token on one line; a password beyond latin-1 must be encoded",
            )
        return value


class Transport:
    """Requests to one server as one identity, and to wherever its redirects may lead.

    Args: as :class:`creds.stores.http.store.HttpStore` has them.
    """

    def __init__(
        self,
        base: Url,
        *,
        authorization: Callable[[], str | None] | None,
        options: StoreOptions,
        addresses: Addresses | None,
        redirect: Callable[[str], None] | None,
        trusted: Callable[[str], Tls] | None,
        location: str,
    ) -> None:
        self.base = base
        self.options = options
        self._authorization = authorization
        self._redirect = redirect
        self.throttle = options.sessions.shared(("throttle", base.scheme, base.host, base.port), retry.Throttle)
        self._connections = Connections(base, options, addresses, location, trusted)

    @property
    def client(self) -> urllib3.PoolManager:
        """The pools that serve the store's own server."""
        return self._connections.to(self.base)

    def close(self) -> None:
        self._connections.close()

    def login(self) -> Login:
        """The credential for one piece of work."""
        return Login(self._authorization)

    def call(
        self,
        op: str,
        work: Callable[[Login], T],
        *,
        cancel: Cancel | None = None,
        on_retry: OnRetry | None = None,
        retries: Retries | None = None,
    ) -> T:
        """Do idempotent ``work`` with retries, and stop waiting for it when ``cancel`` is set."""
        login = self.login()
        schedule = retry.Schedule(op, retries or self.options.retries, on_retry=on_retry, throttle=self.throttle)

        def renewed(error: ToolkitError) -> bool:
            return isinstance(error, Unauthenticated) and stoppable(lambda: login.renewed(error), cancel)

        return retry.run(lambda: stoppable(lambda: work(login), cancel), schedule, cancel=cancel, refresh=renewed)

    def ask(
        self,
        op: str,
        where: str,
        method: str,
        url: Url,
        login: Login,
        *,
        headers: Mapping[str, str] | None = None,
        body: Buffer | Iterable[Buffer] | None = None,
        accepted: tuple[int, ...] = (200,),
    ) -> BaseHTTPResponse:
        """Send one request and return its answer, whose body is still to be read or finished.

        Redirects of GET and HEAD are followed, each to where ``redirect`` allows; the credential stays behind.

        Raises:
            StoreError: the status is not among ``accepted``, or there was no answer.
            PolicyError: a redirect leads where it may not.
        """
        for _ in range(MAX_REDIRECTS + 1):
            answer = self._exchange(op, where, method, url, login, headers or {}, body)
            if answer.status in accepted:
                return answer
            error = of_status(
                answer.status, answer.headers, op, where, signed=bool(url.query), tls=url.scheme == "https"
            )
            finish(answer)
            if answer.status not in _REDIRECTS or method not in ("GET", "HEAD") or "location" not in answer.headers:
                raise error
            url = self._followed(op, where, url, answer)
        raise failed(StoreError, op, where, f"redirected more than {MAX_REDIRECTS} times")

    def _followed(self, op: str, where: str, url: Url, answer: BaseHTTPResponse) -> Url:
        to, said = url, ""
        try:
            to = url.joined(answer.headers["location"])
        except ValueError as error:
            said = str(error)
        if said:
            raise failed(StoreError, op, where, f"redirected to what is no usable URL: {said}")
        if url.scheme == "https" and to.scheme == "http":
            raise PolicyError(
                f"{op} {where}: redirected from TLS to plaintext ({to.origin})",
                rule="redirect-plaintext",
                location=where,
                hint="use the https URL of that server, if it has one",
            )
        if self._redirect is not None:
            self._redirect(to.shown)
        return to

    def _exchange(
        self,
        op: str,
        where: str,
        method: str,
        url: Url,
        login: Login,
        headers: Mapping[str, str],
        body: Buffer | Iterable[Buffer] | None,
    ) -> BaseHTTPResponse:
        sent = {"Accept-Encoding": "identity", "User-Agent": "artifact-creds", **headers}
        if url.origin == self.base.origin:
            sent |= login.header()
        manager = self._connections.to(url)
        forwarded = isinstance(manager, urllib3.ProxyManager) and url.scheme == "http"
        # What is raised leaves this block first: frames below it, and this one's locals, hold the credential.
        try:
            with asking(url.origin + url.target if forwarded else url.target):
                return manager.urlopen(
                    method,
                    url.shown,
                    redirect=False,
                    headers=sent,
                    body=body,
                    retries=False,
                    preload_content=False,
                    decode_content=False,
                )
        except (HTTPError, OSError, http.client.HTTPException) as error:
            failure = of_failure(error, op, where)
            cause: BaseException = bare(error)
        finally:
            sent.clear()
        failure.__traceback__ = None
        raise failure from (None if failure is cause else cause)


def finish(answer: BaseHTTPResponse) -> None:
    """Be done with an answer: its connection is kept where little of the body is left, and closed otherwise."""
    connection = answer.connection
    left = answer.length_remaining
    # What it said is known already: a body that breaks changes nothing, and its connection is closed below.
    with contextlib.suppress(HTTPError, OSError):
        while left is not None and left <= _DRAINED_BYTES and answer.read(_DRAINED_BYTES):
            pass
    forget(connection)
    answer.close()
