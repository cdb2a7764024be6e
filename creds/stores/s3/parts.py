"""How an upload is cut into parts."""

from __future__ import annotations

import base64
import hashlib
import re
import zlib
from collections.abc import Callable, Iterable, Sequence

from creds.store import Buffer

MAX_PARTS = 10_000  # S3's own limit on one upload

_MIN_BYTES = 8 << 20
_MAX_BYTES = 1 << 30
_HINTED_PARTS = 9_000  # parts a size hint is cut into: a tenth is left for a hint that was too small
_PIECE_BYTES = 128 << 10  # pieces of a part this large are not worth a copy
_UNHINTED_STEP = 800  # parts of one size while the size is unknown


def first_part_bytes(size_hint_bytes: int | None, part_bytes: int) -> int:
    """The size of an upload's parts: at least 8 MiB, and for a known size one that needs at most 9,000 of them."""
    smallest = max(_MIN_BYTES, part_bytes)
    if size_hint_bytes is None:
        return smallest
    needed = -(-size_hint_bytes // _HINTED_PARTS)
    return max(smallest, -(-needed // (1 << 20)) << 20)


def part_bytes_at(number: int, first: int, *, hinted: bool) -> int:
    """The size of part ``number`` (from 1).

    S3 takes 10,000 parts. While the size is unknown parts are equal for 800 numbers and then double, up to 1 GiB: that
    reaches 5 TiB, S3's largest object, and starts with a memory that suits small ones. (Equal parts for as long as
    possible, because some servers want all but the last alike.) With a hint, only what goes past it doubles.
    """
    steps = max(0, number - 1 - _HINTED_PARTS) // 100 if hinted else (number - 1) // _UNHINTED_STEP
    return max(first, min(_MAX_BYTES, first << min(steps, 40)))


class Part:
    """The bytes of one part as they came: put together they would be copied once more."""

    def __init__(self, pieces: Sequence[Buffer]) -> None:
        self.pieces = pieces
        self.size_bytes = sum(map(len, pieces))
        self._sha256: str | None = None

    def md5(self) -> str:
        """In hex, as many servers' ETags have it."""
        digest = hashlib.md5(usedforsecurity=False)
        for piece in self.pieces:
            digest.update(piece)
        return digest.hexdigest()

    def sha256(self) -> str:
        """In hex, as a signature has it; computed once for all tries."""
        if self._sha256 is None:
            digest = hashlib.sha256()
            for piece in self.pieces:
                digest.update(piece)
            self._sha256 = digest.hexdigest()
        return self._sha256

    def crc32(self) -> str:
        """In base64, as S3 has it."""
        value = 0
        for piece in self.pieces:
            value = zlib.crc32(piece, value)
        return base64.b64encode(value.to_bytes(4, "big")).decode("ascii")


class Gather:
    """Buffers of any size in, pieces of the size asked for out."""

    def __init__(self, buffers: Iterable[Buffer], check: Callable[[], None]) -> None:
        self._buffers = iter(buffers)
        self._check = check
        self._rest = memoryview(b"")

    def take(self, count: int) -> Part:
        """The next ``count`` bytes; fewer only at the end. Calls ``check`` before each buffer."""
        held: list[Buffer] = []
        small: list[Buffer] = []
        size = small_bytes = 0
        while size < count:
            if not len(self._rest):
                self._check()
                try:
                    self._rest = memoryview(next(self._buffers)).cast("B")
                except StopIteration:
                    break
                continue
            piece = self._rest[: count - size]
            self._rest = self._rest[len(piece) :]
            size += len(piece)
            # Joined, small ones cost a copy; apart, each would cost a call of the system.
            small.append(piece)
            small_bytes += len(piece)
            if small_bytes >= _PIECE_BYTES:
                held.append(piece if len(small) == 1 else b"".join(small))
                small, small_bytes = [], 0
        if small:
            held.append(b"".join(small))
        return Part(held)


def etag_of(etags: list[str]) -> str | None:
    """The ETag S3 gives to an object of these parts, where the parts' own are MD5s; None where they are not."""
    digests = [etag.strip('"') for etag in etags]
    if not all(re.fullmatch(r"[0-9a-f]{32}", digest) for digest in digests):
        return None
    whole = hashlib.md5(b"".join(map(bytes.fromhex, digests)), usedforsecurity=False).hexdigest()
    return f'"{whole}-{len(etags)}"'
