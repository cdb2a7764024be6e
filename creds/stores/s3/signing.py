"""AWS Signature Version 4, in a request's headers or its query.

Source: AWS, "Create a signed AWS API request" (canonical request, string to sign, signing key), with S3's exceptions: a
path is encoded once and never normalized. Held to botocore's signer by a test.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from creds.keys import AwsKeys

EMPTY_SHA256 = hashlib.sha256().hexdigest()
UNSIGNED = "UNSIGNED-PAYLOAD"

_ALGORITHM = "AWS4-HMAC-SHA256"
_UNSIGNED = frozenset(("user-agent", "accept-encoding"))  # what a proxy on the way may change


def signed(
    method: str,
    path: str,
    query: str,
    headers: Mapping[str, str],
    keys: AwsKeys,
    region: str,
    *,
    sha256: str = EMPTY_SHA256,
    now: float | None = None,
) -> dict[str, str]:
    """``headers`` and those that sign the request.

    Args:
        path, query: as they are sent: encoded, the query sorted by name.
        headers: by lower-case name, ``host`` among them.
        sha256: of the body, in hex; or ``UNSIGNED``.
        now: seconds since the epoch; None is this moment.
    """
    moment = _moment(now)
    sent = {**headers, "x-amz-content-sha256": sha256, "x-amz-date": moment}
    if keys.token:
        sent["x-amz-security-token"] = keys.token
    names = sorted(name for name in sent if name not in _UNSIGNED)
    listed = ";".join(names)
    canonical = "\n".join(
        [method, path, query, *(f"{name}:{' '.join(sent[name].split())}" for name in names), "", listed, sha256]
    )
    scope, signature = _signature(canonical, moment, keys, region)
    sent["authorization"] = (
        f"{_ALGORITHM} Credential={keys.access_key}/{scope}, SignedHeaders={listed}, Signature={signature}"
    )
    return sent


def presigned(
    method: str,
    netloc: str,
    path: str,
    query: Mapping[str, str],
    keys: AwsKeys,
    region: str,
    seconds: int,
    *,
    now: float | None = None,
) -> str:
    """The query that lets whoever has the URL send the request, from ``now`` on for so many ``seconds``."""
    moment = _moment(now)
    terms = {
        **query,
        "X-Amz-Algorithm": _ALGORITHM,
        "X-Amz-Credential": f"{keys.access_key}/{_scope(moment, region)}",
        "X-Amz-Date": moment,
        "X-Amz-Expires": str(seconds),
        "X-Amz-SignedHeaders": "host",
    }
    if keys.token:
        terms["X-Amz-Security-Token"] = keys.token
    listed = query_of(terms)
    canonical = "\n".join([method, path, listed, f"host:{netloc}", "", "host", UNSIGNED])
    return f"{listed}&X-Amz-Signature={_signature(canonical, moment, keys, region)[1]}"


def query_of(terms: Mapping[str, str]) -> str:
    """A query as it is sent, and signed: encoded and sorted."""
    return "&".join(sorted(f"{quote(name, safe='-_.~')}={quote(text, safe='-_.~')}" for name, text in terms.items()))


def _moment(now: float | None) -> str:
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))


def _scope(moment: str, region: str) -> str:
    return f"{moment[:8]}/{region}/s3/aws4_request"


def _signature(canonical: str, moment: str, keys: AwsKeys, region: str) -> tuple[str, str]:
    """The scope, and the signature of a canonical request."""
    scope = _scope(moment, region)
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    key = _signing_key(keys.secret_key, moment[:8], region)
    return scope, hmac.digest(key, f"{_ALGORITHM}\n{moment}\n{scope}\n{digest}".encode(), "sha256").hex()


@functools.lru_cache(maxsize=64)
def _signing_key(secret: str, date: str, region: str) -> bytes:
    """The key of one day; four digests that all requests of the day share."""
    key = f"AWS4{secret}".encode()
    for word in (date, region, "s3", "aws4_request"):
        key = hmac.digest(key, word.encode(), "sha256")
    return key
