"""How the archive tests look at trees: a folder to unpack into, beside a canary."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from artifacts.archive.unpack import Unpacked, unpack
from artifacts.limits import Budget, Limits


def snapshot(root: Path) -> dict[str, tuple]:
    """Path to (kind, mode, mtime in ns, content or target) of everything beneath a folder."""
    found = {}
    for path in root.rglob("*"):
        status = path.lstat()
        kind = stat.S_IFMT(status.st_mode)
        content = b""
        if kind == stat.S_IFREG:
            content = path.read_bytes()
        elif kind == stat.S_IFLNK:
            content = os.fsencode(path.readlink())
        mode = 0o777 if kind == stat.S_IFLNK else status.st_mode & 0o7777
        found[str(path.relative_to(root))] = (kind, mode, status.st_mtime_ns, content)
    return found


def open_descriptors() -> set[str]:
    """The numbers of this process's open descriptors."""
    return {path.name for path in Path("/proc/self/fd").iterdir()}


class Place:
    """A folder to unpack into, and a canary outside it that hostile members aim at."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.root = base / "into"
        self.root.mkdir()
        (base / "canary").write_bytes(b"untouched")
        (base / "canary-folder").mkdir()
        self.outside = self._outside()

    def _outside(self) -> dict[str, tuple]:
        return {
            path: facts[:2] + facts[3:] for path, facts in snapshot(self.base).items() if not path.startswith("into")
        }

    def unpack(
        self,
        archive: bytes,
        name: str = "a.tar",
        *,
        step: int = 1 << 16,
        budget: Budget | None = None,
        size: int | None = None,
    ) -> Unpacked:
        descriptor = os.open(self.root, os.O_DIRECTORY)
        try:
            pieces = (memoryview(archive)[at : at + step] for at in range(0, len(archive), step))
            return unpack(pieces, descriptor, name=name, budget=budget or Budget(Limits()), object_bytes=size)
        finally:
            os.close(descriptor)

    def tree(self) -> dict[str, tuple]:
        return snapshot(self.root)

    def names(self) -> set[str]:
        return set(self.tree())

    def assert_outside_untouched(self) -> None:
        assert self.outside == self._outside()
