"""Digests of objects: what a request promises, what a server knows, and how bytes are held to it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, Self

from artifacts.errors import IntegrityError
from creds.store import Buffer, ObjectMeta

_HEX = frozenset("0123456789abcdefABCDEF")


@dataclass(frozen=True, slots=True, kw_only=True)
class Digest:
    """What an object's bytes must hash to.

    Attributes:
        algorithm: ``sha256``, ``md5``, ``sha1``, ``crc32``, ``crc32c``, ``crc64nvme``, or ``md5/SIZE``: the MD5 of the
            MD5s of parts of so many bytes.
        hexdigest: in lower case.
        by: whose word it is, as receipts have it: ``checksum`` or ``etag`` of the server; empty is the request's, which
            goes by the algorithm.
    """

    algorithm: str
    hexdigest: str
    by: str = ""

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """A digest from an artifact's ``hash``: 64 hex digits are sha256, 32 are md5; None for anything else."""
        algorithm = {64: "sha256", 32: "md5"}.get(len(text))
        if algorithm is None or not set(text) <= _HEX:
            return None
        return cls(algorithm=algorithm, hexdigest=text.lower())

    @classmethod
    def of(cls, meta: ObjectMeta) -> Self | None:
        """The strongest digest that the server told and that can be computed here; None where there is none.

        Args:
            meta: the answer to a ``head`` that asked for checksums.
        """
        for algorithm in sorted(meta.checksums, key=_strength):
            try:
                value = base64.b64decode(meta.checksums[algorithm], validate=True)
                computed = computing(algorithm)
            except (ImportError, ValueError):
                continue
            if len(computed.hexdigest()) == 2 * len(value):
                by = "etag" if algorithm.startswith("md5") else "checksum"
                return cls(algorithm=algorithm, hexdigest=value.hex(), by=by)
        return None

    @property
    def verified(self) -> str:
        """What a receipt says of an object that has it."""
        return self.by or self.algorithm

    def check(self, seen: str | None) -> str:
        """Hold what was computed to this.

        Returns:
            What the receipt says.

        Raises:
            IntegrityError: it differs.
        """
        if seen == self.hexdigest:
            return self.verified
        if not self.by:
            raise IntegrityError(
                f"the object's {self.algorithm} is {seen}, promised was {self.hexdigest}",
                hint="the object was replaced, or the promise is of something else",
            )
        raise IntegrityError(
            f"the {self.algorithm} of what came is {seen}, the server's {self.by} says {self.hexdigest}",
            hint="fetch it again; if it stays so, the object is damaged where it is stored",
        )


class DigestedReading:
    """A reading that digests for itself what passes through it, and may have it from elsewhere than the store.

    Attributes:
        cache: ``hit`` or ``miss``, as a receipt has it.
        warnings: for the receipt, when everything was read.
    """

    cache: str
    warnings: tuple[dict[str, str], ...]

    @property
    def sha256(self) -> str:
        """The digest of what was read: the whole object's once its end was met."""
        raise NotImplementedError


class Computing(Protocol):
    """A digest on its way."""

    def update(self, buffer: Buffer, /) -> None: ...
    def hexdigest(self) -> str: ...


def computing(algorithm: str) -> Computing:
    """Begin a digest of one of :class:`Digest`'s algorithms.

    Raises:
        ImportError: it is AWS' own, and their library is not installed.
        ValueError: it is none of them.
    """
    name, _, size = algorithm.partition("/")
    if name not in _ALGORITHMS or (size and (name != "md5" or not size.isdecimal() or not int(size))):
        raise ValueError(f"no digest is called {algorithm!r}")
    if size:
        return _Parts(int(size))
    if not name.startswith("crc"):
        return hashlib.new(name, usedforsecurity=False)
    if name == "crc32":
        from isal import isal_zlib

        return _Crc(isal_zlib.crc32, 4)
    from awscrt import checksums  # the extra ``crc``: neither is in the standard library

    return _Crc(getattr(checksums, name), 8 if name == "crc64nvme" else 4)


_ALGORITHMS = ("sha256", "sha1", "crc64nvme", "crc32c", "crc32", "md5")
"""The strongest first, but for MD5: an ETag is what is left where there is no checksum, and it is the slowest."""


def _strength(algorithm: str) -> int:
    name = algorithm.partition("/")[0]
    return _ALGORITHMS.index(name) if name in _ALGORITHMS else len(_ALGORITHMS)


class _Crc:
    """A cyclic redundancy check as a digest; S3 writes its bytes with the highest first."""

    def __init__(self, step: Callable[[Buffer, int], int], size: int) -> None:
        self._step = step
        self._size = size
        self._value = 0

    def update(self, buffer: Buffer) -> None:
        self._value = self._step(buffer, self._value)

    def hexdigest(self) -> str:
        return self._value.to_bytes(self._size, "big").hex()


class _Parts:
    """The MD5 of the MD5s of parts, as S3 makes the ETag of an object that was stored in parts."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._left = size
        self._part = hashlib.md5(usedforsecurity=False)
        self._whole = hashlib.md5(usedforsecurity=False)

    def update(self, buffer: Buffer) -> None:
        view = memoryview(buffer)
        while view:
            if not self._left:
                self._whole.update(self._part.digest())
                self._part, self._left = hashlib.md5(usedforsecurity=False), self._size
            piece = view[: self._left]
            self._part.update(piece)
            self._left -= len(piece)
            view = view[len(piece) :]

    def hexdigest(self) -> str:
        whole = self._whole.copy()
        whole.update(self._part.digest())
        return whole.hexdigest()
