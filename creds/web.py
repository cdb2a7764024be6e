"""One small exchange over HTTP, for keys and tokens: by the same CA, proxies, timeouts and retries as the stores.

The stores have engines of their own. This is for what stands beside them: a security token service, an issuer's
published keys. A redirect is never followed, since what is sent may be a token.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from creds import retry
from creds.errors import RefreshError, bare
from creds.proxies import proxy_of
from creds.secret import Secret
from creds.store import Retry, StoreOptions

if TYPE_CHECKING:
    import urllib3

LIMIT_BYTES = 1 << 20
"""An answer that is longer is none that was asked for."""

T = TypeVar("T")


class Answer(NamedTuple):
    """A server's answer with a status below 500, other than 429, or with 501: it will never do what was asked."""

    status: int
    body: bytes


def ask(
    method: str,
    url: str,
    options: StoreOptions,
    read: Callable[[Answer], T],
    *,
    what: str,
    body: Secret | None = None,
    headers: Mapping[str, str] | None = None,
) -> T:
    """Make one idempotent request, with retries. Blocks; connects to nothing but ``url``'s server or its proxy.

    Args:
        method, url, body, headers: the request. Nothing of it is logged or part of an error but the URL's origin.
        options: its CA, client certificate, proxies, timeouts and retries.
        read: makes the result of the answer; what it raises is raised, or is tried again if it is retryable.
        what: who is asked, for messages.

    Raises:
        RefreshError: no answer, or none of use; retryable unless the server's certificate is not trusted.
        CredentialError: the client's certificate cannot be used.
        LocationError: the authority's cannot be read, or a proxy's URL.
    """
    import logging

    def attempt() -> T:
        return read(_once(method, url, options, what, body, headers or {}))

    def tell(again: Retry) -> None:
        logging.getLogger("creds").info("%s; trying again in %.1f s", again.error, again.wait_seconds)

    return retry.run(attempt, retry.Schedule("refresh", options.retries, on_retry=tell))


def _once(
    method: str, url: str, options: StoreOptions, what: str, body: Secret | None, headers: Mapping[str, str]
) -> Answer:
    import urllib3
    from urllib3.exceptions import HTTPError, NewConnectionError, SSLError
    from urllib3.exceptions import TimeoutError as Silence

    try:
        with _pool(url, options) as pool:
            response = pool.request(
                method,
                url,
                body=None if body is None else body.get_secret_value().encode(),
                headers={"Accept-Encoding": "identity", "User-Agent": "artifact-creds", **headers},
                redirect=False,
                retries=False,
                preload_content=False,
                timeout=urllib3.Timeout(connect=options.connect_timeout_seconds, read=options.read_timeout_seconds),
            )
            content = _content(response, options.retries.for_seconds)
    except SSLError as error:
        if "CERTIFICATE_VERIFY_FAILED" not in str(error):
            raise _unreached(what) from bare(error)
        raise RefreshError(
            f"{what}: the server's certificate is not trusted",
            hint="check the endpoint's name, and give a private authority's certificate by --ca",
        ) from bare(error)
    except NewConnectionError as error:  # before its parent, the time-out
        raise _unreached(what) from bare(error)
    except Silence as error:
        raise RefreshError(f"{what}: no answer in time", retryable=True) from bare(error)
    except (HTTPError, OSError) as error:
        raise _unreached(what) from bare(error)
    if (response.status >= 500 and response.status != 501) or response.status == 429:
        raise RefreshError(f"{what}: answered {response.status}", retryable=True)
    if len(content) > LIMIT_BYTES:
        raise RefreshError(f"{what}: the answer is longer than {LIMIT_BYTES} bytes")
    return Answer(response.status, content)


def _content(response: urllib3.BaseHTTPResponse, seconds: float) -> bytes:
    """The answer's body, no further than one byte beyond the limit; a server that drips it is given up in time."""
    from urllib3.exceptions import TimeoutError as Silence

    content = bytearray()
    ends = time.monotonic() + seconds
    try:
        while len(content) <= LIMIT_BYTES and (part := response.read1(65_536, decode_content=False)):
            content += part
            if time.monotonic() > ends:
                raise Silence
    finally:
        response.close()
    return bytes(content[: LIMIT_BYTES + 1])


def _unreached(what: str) -> RefreshError:
    hint = "check that the endpoint is up and reachable"
    return RefreshError(f"{what}: cannot be reached", hint=hint, retryable=True)


def _pool(url: str, options: StoreOptions) -> urllib3.PoolManager:
    """Connections for one exchange: keys are renewed so seldom that a kept connection would be closed by then."""
    import urllib3

    origin = url.partition("://")[0] + "://" + url.partition("://")[2].partition("/")[0]
    trust = options.tls.context(shown=True) if origin.startswith("https:") else None
    proxy = proxy_of(origin, options)
    if proxy is None:
        return urllib3.PoolManager(ssl_context=trust)
    return urllib3.ProxyManager(
        proxy.url,
        proxy_headers=dict(proxy.headers),
        proxy_ssl_context=options.tls.context(shown=False) if proxy.url.startswith("https:") else None,
        ssl_context=trust,
    )
