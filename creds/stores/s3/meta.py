"""What the engines' answers tell of an object."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from creds.store import ObjectMeta

_MD5 = re.compile(r'"([0-9a-fA-F]{32})"')


def of_response(key: str, response: Mapping[str, Any]) -> ObjectMeta:
    """From boto3's answer to a HEAD, GET or PUT."""
    size = response.get("ContentLength")
    ranged = response.get("ContentRange")
    if ranged is not None:
        total = str(ranged).rpartition("/")[2]
        size = int(total) if total.isdecimal() else None
    return ObjectMeta(
        key=key,
        size_bytes=size,
        etag=_quoted(response.get("ETag")),
        version=_version(response.get("VersionId")),
        modified=_utc(response.get("LastModified")),
        checksums={
            name.removeprefix("Checksum").lower(): value
            for name, value in response.items()
            if name.startswith("Checksum") and name != "ChecksumType" and "-" not in str(value)
        },
    )


def with_md5(found: ObjectMeta, response: Mapping[str, Any], bucket: str) -> ObjectMeta:
    """``found``, from the answer to a HEAD, with the MD5 that its ETag is, where S3 says that it is one.

    It is not where KMS or a key of the customer's encrypts, where parts were put together, and in directory buckets.
    Source: the S3 API reference, "Object", ETag; the user guide on directory buckets.
    """
    md5 = _MD5.fullmatch(found.etag or "")
    ciphered = response.get("SSECustomerAlgorithm") or str(response.get("ServerSideEncryption", "")).startswith("aws:")
    if md5 is None or ciphered or bucket.endswith("--x-s3"):
        return found
    value = base64.b64encode(bytes.fromhex(md5[1])).decode("ascii")
    return replace(found, checksums={**found.checksums, "md5": value})


def of_entry(entry: Mapping[str, Any]) -> ObjectMeta:
    """From one entry of boto3's listing."""
    return ObjectMeta(
        key=entry["Key"],
        size_bytes=entry.get("Size"),
        etag=_quoted(entry.get("ETag")),
        modified=_utc(entry.get("LastModified")),
    )


def of_obstore(key: str, meta: Mapping[str, Any]) -> ObjectMeta:
    """From obstore's answer to a GET."""
    modified: datetime | None = meta["last_modified"]
    if modified == datetime.fromtimestamp(0, UTC):
        modified = None  # obstore's stand-in for a header that was not there
    return ObjectMeta(
        key=key,
        size_bytes=meta["size"],
        etag=meta.get("e_tag"),
        version=_version(meta.get("version")),
        modified=modified,
    )


def _quoted(etag: str | None) -> str | None:
    """An ETag as HTTP writes it; some servers leave out the quotes in a listing."""
    if not etag or etag.startswith(('"', "W/")):
        return etag or None
    return f'"{etag}"'


def _version(version: str | None) -> str | None:
    return None if version == "null" else version  # S3's id for what was written while versioning was off


def _utc(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.astimezone(UTC)
