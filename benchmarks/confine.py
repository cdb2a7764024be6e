"""A memory cgroup for a contender, where one may be made; else a limit of its private memory."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20
MOUNT = Path("/sys/fs/cgroup")


@dataclass(frozen=True, kw_only=True)
class Confinement:
    """Where processes are put.

    Attributes:
        group: the cgroup's folder, None where none may be made.
    """

    limit_bytes: int
    group: Path | None

    def said(self) -> str:
        """What the kernel counted in the group since it was made."""
        limit = f"{self.limit_bytes // MIB} MiB"
        if self.group is None:
            return f"no memory cgroup may be made here: private memory was limited to {limit} (RLIMIT_DATA)"
        peak = self._number("memory.peak", "memory.max_usage_in_bytes")
        hits = self._number("memory.events", "memory.failcnt", key="max")
        kills = self._number("memory.events", "memory.oom_control", key="oom_kill")
        return (
            f"in a memory cgroup of {limit}: {peak / MIB:.0f} MiB at its peak, page cache of what is written included; "
            f"the kernel took cache back {hits:,} times and killed {kills} processes"
        )

    def _number(self, *names: str, key: str = "") -> int:
        """From the first file that is there: the whole, or the line of ``key`` where it has lines."""
        assert self.group is not None
        text = next(path.read_text() for name in names if (path := self.group / name).exists())
        found = re.search(rf"^{key} (\d+)$", text, re.MULTILINE) or re.search(r"^(\d+)$", text)
        return int(found[1]) if found else 0


@contextmanager
def confined(limit_bytes: int) -> Iterator[Confinement]:
    """Make a memory cgroup, of version 2 or 1, below the one this process is in; it is removed at the end."""
    made = next((group for parent in _parents() if (group := _make(parent, limit_bytes))), None)
    try:
        yield Confinement(limit_bytes=limit_bytes, group=made)
    finally:
        if made is not None:
            made.rmdir()


def _parents() -> Iterator[Path]:
    """Where a group could be made: beside this process's own, or in it."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers in {"", "memory"}:
            own = MOUNT / controllers / path.lstrip("/")
            yield own
            if own.parent.is_relative_to(MOUNT):
                yield own.parent


def _make(parent: Path, limit_bytes: int) -> Path | None:
    group = parent / f"bench-{os.getpid()}"
    with suppress(OSError):
        group.mkdir()
        for name in ("memory.max", "memory.limit_in_bytes"):
            if (path := group / name).exists():
                path.write_text(str(limit_bytes))
                return group
        group.rmdir()
    return None
