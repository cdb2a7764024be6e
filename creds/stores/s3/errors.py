"""What an answer, or its absence, means."""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from creds.errors import (
    AccessDenied,
    BucketNotFound,
    NotSupported,
    ObjectChanged,
    ObjectNotFound,
    StoreError,
    StoreTimeout,
    StoreUnavailable,
    Unauthenticated,
)
from creds.stores.http1 import BadAnswer
from creds.stores.s3.connections import UnknownHost, Unreached

E = TypeVar("E", bound=StoreError)


@dataclass(frozen=True, slots=True)
class _Rule:
    """What an answer means; ``said`` is for what is no answer, and has no status to name."""

    kind: type[StoreError]
    retryable: bool = False
    hint: str | None = None
    said: str = ""


_HINT_CLOCK = "this machine's clock differs from the server's; set it right"
_HINT_DENIED = (
    "give a credential that may do this; without the ListBucket permission S3 answers 403 for a missing key too"
)
HINT_NOT_S3 = "check that the endpoint is an S3 server"
_HINT_REGION = "the bucket is in another region: set it (--region, or region in the credential)"

_THROTTLED = _Rule(StoreUnavailable, retryable=True)
_KEYS = _Rule(Unauthenticated, hint="check the access key, the secret and the session token; temporary keys end")
_CLOCK = _Rule(Unauthenticated, hint=_HINT_CLOCK)
_REGION = _Rule(StoreError, hint=_HINT_REGION)
_DENIED = _Rule(AccessDenied, hint=_HINT_DENIED)
_CHANGED = _Rule(ObjectChanged, hint="what is there is not what was expected: look at it with 'artifacts stat'")
_UNFIT = _Rule(StoreError, hint="if the object is encrypted with a key of your own, give that key: --sse-c-key")

_BY_CODE: Mapping[str, _Rule] = {
    "NoSuchKey": _Rule(ObjectNotFound),
    "NoSuchVersion": _Rule(ObjectNotFound),
    "NoSuchBucket": _Rule(BucketNotFound, hint="check the bucket's name and the endpoint"),
    "AccessDenied": _DENIED,
    "AllAccessDisabled": _Rule(AccessDenied),
    "InvalidAccessKeyId": _KEYS,
    "InvalidClientTokenId": _KEYS,
    "SignatureDoesNotMatch": _KEYS,
    "InvalidToken": _KEYS,
    "ExpiredToken": _KEYS,
    "ExpiredTokenException": _KEYS,
    "TokenRefreshRequired": _KEYS,
    "RequestTimeTooSkewed": _CLOCK,
    "RequestExpired": _CLOCK,
    "PreconditionFailed": _CHANGED,
    "ConditionalRequestConflict": _THROTTLED,
    "OperationAborted": _THROTTLED,
    "SlowDown": _THROTTLED,
    "ServiceUnavailable": _THROTTLED,
    "InternalError": _THROTTLED,
    "RequestTimeout": _THROTTLED,
    "Throttling": _THROTTLED,
    "ThrottlingException": _THROTTLED,
    "RequestLimitExceeded": _THROTTLED,
    "PermanentRedirect": _REGION,
    "TemporaryRedirect": _THROTTLED,
    "AuthorizationHeaderMalformed": _REGION,
    "IllegalLocationConstraintException": _REGION,
    "InvalidRequest": _UNFIT,
    "InvalidArgument": _UNFIT,
    "NotImplemented": _Rule(NotSupported),
    "MethodNotAllowed": _Rule(NotSupported),
}
_BY_STATUS: Mapping[int, _Rule] = {
    301: _REGION,
    302: _Rule(StoreError, hint=HINT_NOT_S3),
    303: _Rule(StoreError, hint=HINT_NOT_S3),
    307: _THROTTLED,
    308: _REGION,
    401: _KEYS,
    403: _DENIED,
    404: _Rule(ObjectNotFound),
    405: _Rule(NotSupported),
    408: _THROTTLED,
    412: _CHANGED,
    425: _THROTTLED,
    429: _THROTTLED,
    500: _THROTTLED,
    501: _Rule(NotSupported),
    502: _THROTTLED,
    503: _THROTTLED,
    504: _THROTTLED,
}

_SILENT = _Rule(StoreTimeout, retryable=True, said="no answer in time")
_UNKNOWN_HOST = _Rule(
    StoreUnavailable,
    retryable=True,
    said="the server's name is not known",
    hint="check the endpoint's host name, or the proxy's",
)
_UNREACHED = _Rule(
    StoreUnavailable,
    retryable=True,
    said="cannot connect",
    hint="check that the endpoint, or the proxy before it, is up and reachable",
)
_BROKEN = _Rule(StoreUnavailable, retryable=True, said="the connection broke")
_UNTRUSTED = _Rule(
    StoreUnavailable,
    said="the server's certificate is not trusted",
    hint="check the endpoint's name, and give a private authority's certificate by --ca",
)
_UNSHOWN = _Rule(
    StoreUnavailable,
    said="the server ended the TLS handshake",
    hint="if it asks for a client's certificate, show one by --client-cert",
)
_NO_TLS = _Rule(
    StoreUnavailable,
    said="the server does not speak TLS here",
    hint="check the port; a server in plaintext is named as one: --endpoint http://HOST:PORT",
)
# Go's servers and nginx answer so in the clear, where they speak TLS.
_BARE_400 = _Rule(
    StoreError, hint="S3 gives a reason and this did not: check the endpoint; where it speaks TLS name it as https://"
)
_NOT_S3 = _Rule(StoreError, said="an answer that is not S3's", hint=HINT_NOT_S3)

_CODE = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,63}")
_REQUEST_ID = re.compile(r"[A-Za-z0-9/+=._:-]{1,128}")
_REGION_NAME = re.compile(r"[a-z0-9-]{1,40}")
_SAID_CODE = re.compile(rb"<Code>([^<]*)</Code>")
_SAID_REQUEST_ID = re.compile(rb"<RequestId>([^<]*)</RequestId>")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server says, or that it does not, stripped of everything that must not be printed."""

    status: int | None = None
    code: str | None = None
    request_id: str | None = None
    retry_after_seconds: float | None = None
    region: str | None = None  # the bucket's, where S3 tells it
    fault: _Rule = _NOT_S3  # what happened where there is no status


def of_answer(status: int, headers: Mapping[str, str], body: bytes) -> Answer:
    """What an answer other than a success says."""
    code, request_id = _SAID_CODE.search(body), _SAID_REQUEST_ID.search(body)
    after = headers.get("retry-after", "")
    return Answer(
        status,
        code and code[1].decode("utf-8", "replace"),
        request_id[1].decode("utf-8", "replace") if request_id else headers.get("x-amz-request-id"),
        float(after) if after.isdecimal() else None,
        headers.get("x-amz-bucket-region"),
    )


def of_failure(error: Exception) -> Answer:
    """What it means that there was no answer, or not all of it."""
    if isinstance(error, BadAnswer):
        return Answer(fault=_NOT_S3)
    if isinstance(error, TimeoutError):
        return Answer(fault=_SILENT)
    if isinstance(error, ssl.SSLError):
        return Answer(fault=_of_tls(error))
    if isinstance(error, UnknownHost):
        return Answer(fault=_UNKNOWN_HOST)
    return Answer(fault=_UNREACHED if isinstance(error, Unreached) else _BROKEN)


def _of_tls(error: Exception) -> _Rule:
    """Why there is no TLS, or none any more; OpenSSL tells it in words."""
    text = str(error)
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return _UNTRUSTED
    if "WRONG_VERSION_NUMBER" in text or "RECORD_LAYER_FAILURE" in text:
        return _NO_TLS
    return _UNSHOWN if "alert" in text.lower() else _BROKEN


def error_of(answer: Answer, op: str, where: str) -> StoreError:
    """The error that ``answer`` is. Of the server's own words only those that cannot say anything else are repeated."""
    code = answer.code if answer.code and _CODE.fullmatch(answer.code) else None
    request_id = answer.request_id if answer.request_id and _REQUEST_ID.fullmatch(answer.request_id) else None
    if answer.status is None:
        rule, said = answer.fault, answer.fault.said
    else:
        rule = _BY_CODE.get(code or "") or _BY_STATUS.get(answer.status) or _Rule(StoreError)
        if (answer.status, code) == (400, None):
            rule = _BARE_400
        said = f"{answer.status} {code}" if code else str(answer.status)
    error = failed(
        rule.kind,
        op,
        where,
        said,
        http_status=answer.status,
        server_code=code,
        server_request_id=request_id,
        hint=_hint_of(rule, answer),
        retryable=rule.retryable,
    )
    error.retry_after_seconds = answer.retry_after_seconds
    return error


def _hint_of(rule: _Rule, answer: Answer) -> str | None:
    if rule is _REGION and answer.region is not None and _REGION_NAME.fullmatch(answer.region):
        return f"the bucket is in {answer.region}: set --region {answer.region}, or region in the credential"
    return rule.hint


def failed(kind: type[E], op: str, where: str, said: str, **more: Any) -> E:
    """An error of ``kind``, worded as all of this store's are."""
    return kind(f"{op} {where}: {said}", op=op, location=where, **more)
