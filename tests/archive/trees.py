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
    for folder, folders, files in os.walk(os.fsencode(root)):
        for name in folders + files:
            path = os.path.join(folder, name)
            status = os.lstat(path)
            kind = stat.S_IFMT(status.st_mode)
            if kind == stat.S_IFREG:
                with open(path, "rb") as file:
                    content = file.read()
            else:
                content = os.readlink(path) if kind == stat.S_IFLNK else b""
            mode = 0o777 if kind == stat.S_IFLNK else status.st_mode & 0o7777
            found[os.fsdecode(os.path.relpath(path, os.fsencode(root)))] = (kind, mode, status.st_mtime_ns, content)
    return found


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
        return {path: facts[:2] + facts[3:] for path, facts in snapshot(self.base).items() if not path.startswith("into")}

    def unpack(
        self, archive: bytes, name: str = "a.tar", *, step: int = 1 << 16, budget: Budget | None = None, size: int | None = None
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


