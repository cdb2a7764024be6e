"""What an answer, or its absence, means."""

from __future__ import annotations

import re
import ssl
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from urllib3 import exceptions as urllib3

from creds.errors import (
    AccessDenied,
    NotSupported,
    ObjectChanged,
    ObjectNotFound,
    StoreError,
    StoreTimeout,
    StoreUnavailable,
    ToolkitError,
    Unauthenticated,
)

E = TypeVar("E", bound=StoreError)


@dataclass(frozen=True, slots=True)
class _Rule:
    kind: type[StoreError] = StoreError
    retryable: bool = False
    hint: str | None = None


_BUSY = _Rule(StoreUnavailable, retryable=True)
_RULES: Mapping[int, _Rule] = {
    401: _Rule(Unauthenticated, hint="check the user and password, or the token; tokens end"),
    403: _Rule(AccessDenied),
    404: _Rule(ObjectNotFound),
    405: _Rule(NotSupported),
    407: _Rule(hint="the proxy wants a user and password: write them into its URL"),
    408: _BUSY,
    409: _Rule(hint="a folder above it is missing, or is a file"),
    410: _Rule(ObjectNotFound),
    411: _Rule(NotSupported),
    412: _Rule(ObjectChanged),
    413: _Rule(hint="the server's limit for one upload is smaller"),
    423: _Rule(StoreUnavailable, retryable=True, hint="another client holds a lock on it"),
    425: _BUSY,
    429: _BUSY,
    500: _BUSY,
    501: _Rule(NotSupported),
    502: _BUSY,
    503: _BUSY,
    504: _BUSY,
    507: _Rule(hint="the server has no room left"),
}
_HINT_CA = "check the endpoint's name, and give a private authority's certificate by --ca"
_HINT_CLIENT_CERT = "show one by --client-cert and --client-key"
_HINT_PROXY = "check HTTP_PROXY, HTTPS_PROXY and NO_PROXY"
_REQUEST_IDS = ("x-request-id", "x-amz-request-id")
_REQUEST_ID = re.compile(r"[A-Za-z0-9/+=._:-]{1,128}")
_CHALLENGE = re.compile(r"\s*([A-Za-z][A-Za-z0-9-]{0,31})(?:\s|$)")
_TUNNEL = re.compile(r"Tunnel connection failed: (\d{3})")


def failed(kind: type[E], op: str, where: str, said: str, **more: Any) -> E:
    """An error of ``kind``, worded as all of this store's are."""
    return kind(f"{op} {where}: {said}", op=op, location=where, **more)


def of_status(
    status: int, headers: Mapping[str, str], op: str, where: str, *, signed: bool, tls: bool = False
) -> StoreError:
    """The error that an answer is. Of the server's words only those that cannot say anything else are repeated.

    Args:
        signed: the request's URL was a presigned one.
        tls: the server was spoken to over TLS.
    """
    rule = _RULES.get(status, _BUSY if status > 504 else _Rule())
    hint = rule.hint
    if 300 <= status < 400:
        hint = "the server redirects this request; only GET and HEAD follow one: use the URL it leads to"
    if status == 400 and tls:
        # nginx's answer, where others break the handshake; only a body would tell, and a HEAD has none.
        hint = f"a server that wants a client certificate may say so by 400: {_HINT_CLIENT_CERT}"
    if signed and status in (400, 401, 403):
        hint = "a presigned URL ends, and is good for one method alone: have a new one made"
    challenge = _CHALLENGE.match(headers.get("www-authenticate") or "") if status == 401 else None
    if challenge is not None:
        hint = f"the server asks for {challenge[1]}; {hint}"
    ids = (headers.get(name) or "" for name in _REQUEST_IDS)
    error = failed(
        rule.kind,
        op,
        where,
        str(status),
        http_status=status,
        server_request_id=next((text for text in ids if _REQUEST_ID.fullmatch(text)), None),
        hint=hint,
        retryable=rule.retryable,
    )
    error.retry_after_seconds = _retry_after(headers.get("retry-after") or "")
    return error


def _retry_after(text: str) -> float | None:
    if text.isdecimal() and text.isascii():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def of_failure(error: BaseException, op: str, where: str) -> ToolkitError:
    """The error that a request without an answer is: what urllib3 raised, or what was raised inside of it."""
    chain = list(_chain(error))
    for inner in chain:
        if isinstance(inner, ToolkitError):
            return inner
    for inner in chain:
        if isinstance(inner, ssl.SSLError):
            return _of_tls(inner, op, where)
    if any(isinstance(inner, urllib3.ProxyError) or _TUNNEL.search(str(inner)) for inner in chain):
        return _of_proxy(chain, op, where)
    if any(isinstance(inner, urllib3.NameResolutionError) for inner in chain):
        said, hint = "the server's name is not known", "check the host's name and this machine's DNS"
        return failed(StoreUnavailable, op, where, said, hint=hint)
    if any(isinstance(inner, urllib3.NewConnectionError | ConnectionRefusedError) for inner in chain):
        return failed(StoreUnavailable, op, where, "cannot connect", hint="check that the server is up and reachable")
    if any(isinstance(inner, urllib3.TimeoutError | TimeoutError) for inner in chain):
        return failed(StoreTimeout, op, where, "no answer in time")
    return failed(StoreUnavailable, op, where, "the connection broke")


def _chain(error: BaseException) -> Iterator[BaseException]:
    """``error`` and what it was made of: urllib3 puts the reason into its arguments, Python into the cause.

    Not the context: that may be an older failure which was being dealt with.
    """
    pending, seen = [error], set[int]()
    while pending:
        current = pending.pop(0)
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        pending += [reason for reason in (*current.args, current.__cause__) if isinstance(reason, BaseException)]


def _of_tls(error: ssl.SSLError, op: str, where: str) -> StoreError:
    reason = error.reason or ""
    if isinstance(error, ssl.SSLCertVerificationError):
        # OpenSSL's own words: the only name in them is the one that was asked for.
        told = error.verify_message or "not trusted"
        named = "ostname mismatch" in told or "IP address mismatch" in told
        return failed(
            StoreUnavailable,
            op,
            where,
            f"the server's certificate is refused: {told}",
            hint="the certificate is for another name: check the host in the URL" if named else _HINT_CA,
            retryable=False,
        )
    if "CERTIFICATE_REQUIRED" in reason or "HANDSHAKE_FAILURE" in reason:
        return failed(Unauthenticated, op, where, "the server wants a client certificate", hint=_HINT_CLIENT_CERT)
    if "ALERT" in reason and ("CERTIFICATE" in reason or "UNKNOWN_CA" in reason):
        return failed(Unauthenticated, op, where, "the server refuses the client certificate", hint=_HINT_CLIENT_CERT)
    if reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST"):
        hint = "check the port, or write the location as http:// if the policy allows it"
        said = "the server does not speak TLS here"
        return failed(StoreUnavailable, op, where, said, hint=hint, retryable=False)
    return failed(StoreUnavailable, op, where, "the TLS connection broke")


def _of_proxy(chain: list[BaseException], op: str, where: str) -> StoreError:
    refused = next((match for inner in chain if (match := _TUNNEL.search(str(inner)))), None)
    if refused is None:
        return failed(StoreUnavailable, op, where, "cannot connect to the proxy", hint=_HINT_PROXY)
    status = int(refused[1])
    hint = _RULES[407].hint if status == 407 else _HINT_PROXY
    return failed(
        StoreUnavailable, op, where, f"the proxy answers {status}", hint=hint, retryable=status in (502, 503, 504)
    )
