"""What the server's answers tell of an object."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime

from creds.store import ObjectMeta
from creds.stores.s3.documents import Entry

_CHECKSUM = "x-amz-checksum-"
_SSE = "x-amz-server-side-encryption"
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_DATE = re.compile(r"[A-Z][a-z]{2}, (\d\d) ([A-Z][a-z]{2}) (\d{4}) (\d\d):(\d\d):(\d\d) GMT")
_MD5 = re.compile(r'"([0-9a-fA-F]{32})(?:-([1-9][0-9]{0,4}))?"')


def of_headers(key: str, headers: Mapping[str, str]) -> ObjectMeta:
    """From the headers, by lower-case name, of an answer to a HEAD, GET or PUT."""
    ranged = headers.get("content-range")
    return ObjectMeta(
        key=key,
        size_bytes=number(headers.get("content-length") if ranged is None else ranged.rpartition("/")[2]),
        etag=quoted(headers.get("etag")),
        version=_version(headers.get("x-amz-version-id")),
        modified=_moment(headers.get("last-modified")),
        checksums={
            name.removeprefix(_CHECKSUM): value
            for name, value in headers.items()
            if name.startswith(_CHECKSUM) and name != f"{_CHECKSUM}type" and "-" not in value
        },
    )


def number(text: str | None) -> int | None:
    """A count as a header has it; None where there is none."""
    return int(text) if text is not None and text.isascii() and text.isdecimal() and len(text) < 20 else None


def with_md5(
    found: ObjectMeta,
    headers: Mapping[str, str],
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
    ciphered = f"{_SSE}-customer-algorithm" in headers or headers.get(_SSE, "").startswith("aws:")
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


def of_entry(entry: Entry) -> ObjectMeta:
    """From one entry of a listing."""
    return ObjectMeta(
        key=entry["Key"],
        size_bytes=number(entry.get("Size")),
        etag=quoted(entry.get("ETag")),
        modified=moment(entry.get("LastModified")),
    )


def moment(text: str | None) -> datetime | None:
    """A moment as S3's documents write it (ISO 8601); None where it is none."""
    try:
        found = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


def _moment(text: str | None) -> datetime | None:
    """An HTTP date (RFC 9110, 5.6.7), in the one form that may be sent; None where it is none."""
    found = _DATE.fullmatch(text or "")
    if found is None:
        return None
    day, month, year, hour, minute, second = found.groups()
    try:
        return datetime(int(year), _MONTHS.index(month) + 1, int(day), int(hour), int(minute), int(second), tzinfo=UTC)
    except ValueError:
        return None


def quoted(etag: str | None) -> str | None:
    """An ETag as HTTP writes it; some servers leave out the quotes in a listing."""
    if not etag or etag.startswith(('"', "W/")):
        return etag or None
    return f'"{etag}"'


def _version(version: str | None) -> str | None:
    return None if version == "null" else version  # S3's id for what was written while versioning was off
