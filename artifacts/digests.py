"""Digests of objects: what a request promises, what a server knows, and how bytes are held to it."""

from __future__ import annotations

import base64
import hashlib
import string
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, Self

from artifacts.errors import IntegrityError
from creds.store import Buffer, ObjectMeta


@dataclass(frozen=True, slots=True, kw_only=True)
class Digest:
    """What an object's bytes must hash to.

    Attributes:
        algorithm: ``sha256``, ``md5``, ``sha1``, ``crc32``, ``crc32c`` or ``crc64nvme``.
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
        if algorithm is None or not set(text) <= set(string.hexdigits):
            return None
        return cls(algorithm=algorithm, hexdigest=text.lower())

    @classmethod
    def of(cls, meta: ObjectMeta) -> Self | None:
        """The strongest digest that the server told and that can be computed here; None where there is none.

        Args:
            meta: the answer to a ``head`` that asked for checksums.
        """
        for algorithm, make in _MAKERS.items():
            try:
                value = base64.b64decode(meta.checksums.get(algorithm, ""), validate=True)
            except ValueError:
                continue
            computed = make() if value else None
            if computed is not None and len(computed.hexdigest()) == 2 * len(value):
                return cls(algorithm=algorithm, hexdigest=value.hex(), by="etag" if algorithm == "md5" else "checksum")
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
    """Begin a digest of one of :class:`Digest`'s algorithms."""
    made = _MAKERS[algorithm]()
    assert made is not None
    return made


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


def _hash(algorithm: str) -> Callable[[], Computing | None]:
    return lambda: hashlib.new(algorithm, usedforsecurity=False)


def _crc32() -> Computing | None:
    from isal import isal_zlib

    return _Crc(isal_zlib.crc32, 4)


def _aws(algorithm: str, size: int) -> Callable[[], Computing | None]:
    """One of AWS' own, where its library is installed (the extra ``crc``): the standard library has neither."""

    def make() -> Computing | None:
        try:
            from awscrt import checksums
        except ImportError:
            return None
        return _Crc(getattr(checksums, algorithm), size)

    return make


# The strongest first; of an ETag's MD5 only the last is left to say, which is the slowest of all.
_MAKERS: dict[str, Callable[[], Computing | None]] = {
    "sha256": _hash("sha256"),
    "sha1": _hash("sha1"),
    "crc64nvme": _aws("crc64nvme", 8),
    "crc32c": _aws("crc32c", 4),
    "crc32": _crc32,
    "md5": _hash("md5"),
}
