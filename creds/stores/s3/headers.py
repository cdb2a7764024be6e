"""What goes with a request beside the object: who pays for it, and how the object is encrypted there.

The sources are AWS' pages on requester pays, and on SSE-S3, SSE-KMS and SSE-C; the last has the list of the operations
that want the customer's key.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping

from creds.store import S3

PAYER = ("x-amz-request-payer", "requester")

_SSE = "x-amz-server-side-encryption"
_ENCRYPTING = frozenset(("PutObject", "CreateMultipartUpload", "CopyObject"))
_BY_CUSTOMERS_KEY = _ENCRYPTING | {"UploadPart", "CompleteMultipartUpload", "GetObject", "HeadObject"}


def of_operation(s3: S3, operation: str) -> dict[str, str]:
    """The headers of one operation, as S3's API reference calls it."""
    headers = dict([PAYER]) if s3.requester_pays else {}
    if s3.sse is not None and operation in _ENCRYPTING:
        headers[_SSE] = s3.sse
        if s3.sse_kms_key_id is not None:
            headers[f"{_SSE}-aws-kms-key-id"] = s3.sse_kms_key_id
        if s3.sse_kms_context:
            headers[f"{_SSE}-context"] = _base64(json.dumps(dict(s3.sse_kms_context)).encode())
    if s3.sse_c_key is not None and operation in _BY_CUSTOMERS_KEY:
        headers |= _customer(s3.sse_c_key, _SSE)
        if operation == "CopyObject":
            headers |= _customer(s3.sse_c_key, "x-amz-copy-source-server-side-encryption")
    return headers


def metadata(values: Mapping[str, str]) -> dict[str, str]:
    """The headers that carry an object's metadata."""
    return {f"x-amz-meta-{name.lower()}": value for name, value in values.items()}


def _customer(key: bytes, lead: str) -> dict[str, str]:
    return {
        f"{lead}-customer-algorithm": "AES256",
        f"{lead}-customer-key": _base64(key),
        f"{lead}-customer-key-MD5": _base64(hashlib.md5(key, usedforsecurity=False).digest()),
    }


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
