"""Is a file what an object is?

What is the same here and there is not moved. That is never a guess:

==========================================  ==========================================================================
what is known of the object                 it is the same when
==========================================  ==========================================================================
its size                                    the file has that size, and one of:
an ETag that is an MD5                      the file's bytes have that MD5
an ETag that is made of the parts' MD5s     the file, cut into parts of a usual size, has that ETag
any other ETag, or none: ``get``            the file has the object's time, which ``get`` gave it
any other ETag, or none: ``put``, ``cp``    never: it is sent again
==========================================  ==========================================================================

Whether parts have a usual size cannot be known: an ETag of parts that the file has not is one of the others.

``get`` gives a file its object's time only where the time decides, and only if the object was older than two seconds:
servers tell times in seconds, and one that is replaced within the second must not look the same.
"""

from __future__ import annotations

import os
import re
import time
from datetime import UTC, datetime

from artifacts.digests import computing
from creds.store import Cancel, ObjectMeta

_READ_BYTES = 1 << 20
_MIB = 1 << 20
_SETTLED_SECONDS = 2.0
_USUAL_PARTS = tuple(size * _MIB for size in (5, 8, 10, 15, 16, 20, 25, 32, 50, 64, 100, 128, 256, 512, 1024))
_MD5 = re.compile(r'"([0-9a-fA-F]{32})"')
_PARTS_MD5 = re.compile(r'"([0-9a-fA-F]{32})-([1-9][0-9]{0,4})"')
OLD_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def same(
    name: str | bytes, at: int | None, status: os.stat_result, meta: ObjectMeta, *, by_time: bool, cancel: Cancel
) -> bool:
    """Is a file what an object is? See the module's table."""
    if meta.size_bytes is None or meta.size_bytes != status.st_size:
        return False
    etag = meta.etag or ""
    whole = _MD5.fullmatch(etag)
    if whole is not None:
        return _md5_of_parts(name, at, status, [status.st_size or 1], cancel) == [whole[1].lower()]
    parts = _PARTS_MD5.fullmatch(etag)
    if parts is not None:
        sizes = _part_sizes(status.st_size, int(parts[2]))
        if parts[1].lower() in _md5_of_parts(name, at, status, sizes, cancel, nested=True):
            return True
    return by_time and meta.modified is not None and status.st_mtime_ns == _nanoseconds(meta.modified)


def _part_sizes(size: int, count: int) -> list[int]:
    """The usual sizes of parts that cut ``size`` bytes into ``count``."""
    even = -(-size // count)
    return sorted(
        {part for part in (*_USUAL_PARTS, even, -(-even // _MIB) * _MIB) if part and -(-size // part) == count}
    )


def _md5_of_parts(
    name: str | bytes,
    at: int | None,
    status: os.stat_result,
    sizes: list[int],
    cancel: Cancel,
    *,
    nested: bool = False,
) -> list[str]:
    """The MD5 of a file, or with ``nested`` those of its parts' MD5s for each size of part, in one pass over it."""
    if not sizes:
        return []
    cuts = [computing(f"md5/{size}" if nested else "md5") for size in sizes]
    descriptor = os.open(name, OLD_FILE, dir_fd=at)
    try:
        left = status.st_size
        while left and (buffer := os.read(descriptor, min(left, _READ_BYTES))):
            cancel.check()
            left -= len(buffer)
            for cut in cuts:
                cut.update(buffer)
    finally:
        os.close(descriptor)
    return [] if left else [cut.hexdigest() for cut in cuts]


def same_md5(some: ObjectMeta, other: ObjectMeta) -> bool:
    """Do both have one size, and one ETag that is an MD5?"""
    return (
        some.size_bytes == other.size_bytes
        and some.etag is not None
        and some.etag == other.etag
        and _MD5.fullmatch(some.etag) is not None
    )


def stamp(descriptor: int, listed: ObjectMeta, now: ObjectMeta, began: float) -> None:
    """Give a file the time that the listing told of its object, where the two are one generation that has settled."""
    modified = listed.modified
    if (
        _MD5.fullmatch(listed.etag or "")
        or modified is None
        or listed.size_bytes != now.size_bytes
        or listed.etag not in (None, now.etag)
    ):
        return
    if now.modified is None or abs((now.modified - modified).total_seconds()) >= 1:
        return
    if began - modified.timestamp() > _SETTLED_SECONDS:
        os.utime(descriptor, ns=(time.time_ns(), _nanoseconds(modified)))


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _nanoseconds(moment: datetime) -> int:
    passed = moment - _EPOCH
    return (passed.days * 86_400 + passed.seconds) * 1_000_000_000 + passed.microseconds * 1000
