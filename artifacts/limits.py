"""What a request may cost this machine. Passing a limit is an error, never a truncation."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass

from artifacts.errors import LimitExceeded

FREE_SPACE = "free space"
"""The name of the limit that is this machine's, not the request's."""


_HINTS = {
    FREE_SPACE: "free space, lower --keep-free, or use another machine",
    "max_bytes": "raise --max-bytes if the request may have it",
    "resources_needed.hdd": "the experiment asked for too little: raise experiment.resources_needed.hdd",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The operator's limits on one request.

    Attributes:
        max_bytes: unpacked bytes of all its artifacts together.
        max_members: archive members of all its artifacts together.
        max_depth: folders below one artifact's own.
        max_name_bytes: of a member's whole path, as UTF-8.
        max_ratio: unpacked bytes for each byte of the object, once ``ratio_floor_bytes`` are unpacked.
        ratio_floor_bytes: below this much output the ratio is not looked at: small files compress well.
        max_artifacts: artifacts of a request.
    """

    max_bytes: int = 100 << 30
    max_members: int = 10_000_000
    max_depth: int = 256
    max_name_bytes: int = 4096
    max_ratio: int = 1100
    ratio_floor_bytes: int = 64 << 20
    max_artifacts: int = 10_000

    def most_unpacked_bytes(self, object_bytes: int) -> int:
        """How much an object may unpack to before the ratio is passed."""
        return max(self.ratio_floor_bytes - 1, self.max_ratio * max(1, object_bytes))


class Budget:
    """What is left of a request's bytes and members, shared by the artifacts that are fetched side by side.

    Args:
        limits: the operator's limits.
        max_bytes: the bytes this request may unpack.
        name: what set ``max_bytes``, as the user knows it; the error carries it.
    """

    def __init__(self, limits: Limits | None = None, *, max_bytes: int | None = None, name: str = "max_bytes") -> None:
        self.limits = limits or Limits()
        self.max_bytes = self.limits.max_bytes if max_bytes is None else max_bytes
        self.name = name
        self._lock = threading.Lock()
        self._bytes = 0
        self._members = 0

    def take_bytes(self, count: int) -> None:
        """Account for ``count`` more unpacked bytes, before they are written."""
        with self._lock:
            self._bytes += count
            seen = self._bytes
        if seen > self.max_bytes:
            raise LimitExceeded(
                f"the artifacts unpack to more than {self.max_bytes} bytes ({self.name})",
                limit=self.name,
                allowed=self.max_bytes,
                seen=seen,
                hint=_HINTS.get(self.name),
            )

    def take_members(self, count: int = 1) -> None:
        """Account for ``count`` more archive members."""
        with self._lock:
            self._members += count
            seen = self._members
        if seen > self.limits.max_members:
            raise LimitExceeded(
                f"the archives hold more than {self.limits.max_members} members (max_members)",
                limit="max_members",
                allowed=self.limits.max_members,
                seen=seen,
            )

    def take(self, count: int, members: int) -> None:
        """Account for ``members`` more archive members and their ``count`` bytes, before they are written."""
        with self._lock:
            self._bytes += count
            self._members += members
            passed = self._bytes > self.max_bytes or self._members > self.limits.max_members
        if passed:
            # Either call says which limit it was; nothing is counted twice.
            self.take_bytes(0)
            self.take_members(0)

    def has(self, count: int, members: int) -> bool:
        """Whether so much is left; others may take it the moment after."""
        return self._bytes + count <= self.max_bytes and self._members + members <= self.limits.max_members

    def give_bytes(self, count: int) -> None:
        """Return what a failed attempt had taken and has removed again."""
        with self._lock:
            self._bytes -= count

    def check_ratio(self, unpacked_bytes: int, object_bytes: int) -> None:
        """Refuse an archive that unpacks to far more than it is."""
        if unpacked_bytes > self.limits.most_unpacked_bytes(object_bytes):
            raise LimitExceeded(
                f"the archive unpacks to more than {self.limits.max_ratio} times its size (max_ratio)",
                limit="max_ratio",
                allowed=self.limits.max_ratio * max(1, object_bytes),
                seen=unpacked_bytes,
            )


def free_bytes(where: int | str | os.PathLike[str], keep_free_bytes: int = 0) -> int:
    """What the file system of an open folder or a path can still take, less what is to be kept free."""
    found = os.statvfs(where)
    return max(0, found.f_bavail * found.f_frsize - keep_free_bytes)
