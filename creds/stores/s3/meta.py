"""What the engines' answers tell of an object."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from creds.store import ObjectMeta

_MD5 = re.compile(r'"([0-9a-fA-F]{32})(?:-([1-9][0-9]{0,4}))?"')


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


def with_md5(
    found: ObjectMeta,
    response: Mapping[str, Any],
    bucket: str,
    part: Callable[[int], tuple[int | None, int | None]],
) -> ObjectMeta:
    """``found``, from the answer to a HEAD, with the MD5 that its ETag is, where S3 says that it is one.

    It is not where KMS or a key of the customer's encrypts, and in directory buckets. Of an object in parts it is that
    of its parts' MD5s, worth something where these are known to have one size.

    Source: the S3 API reference, "Object", ETag; the user guide on directory buckets.

    Args:
        part: tells the size of one part, and their count.
    """
    md5 = _MD5.fullmatch(found.etag or "")
    ciphered = response.get("SSECustomerAlgorithm") or str(response.get("ServerSideEncryption", "")).startswith("aws:")
    if md5 is None or ciphered or bucket.endswith("--x-s3"):
        return found
    name = "md5"
    if md5[2] is not None:
        size = _one_size(found.size_bytes or 0, int(md5[2]), part)
        if size is None:
            return found
        name = f"md5/{size}"
    value = base64.b64encode(bytes.fromhex(md5[1])).decode("ascii")
    return replace(found, checksums={**found.checksums, name: value})


def _one_size(whole: int, count: int, part: Callable[[int], tuple[int | None, int | None]]) -> int | None:
    """The size of each part but the last; None where that of the first and the last do not say so."""
    size, told = part(1)
    if not size or told != count or -(-whole // size) != count:
        return None
    return size if count == 1 or part(count)[0] == whole - size * (count - 1) else None


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
