"""Folders below one root, reached by descriptors: no path from outside is ever resolved by the system.

Each component is opened relative to its parent's descriptor and never through a link, so nothing that an archive or a
running job plants in a folder can lead a later step out of it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
from types import TracebackType
from typing import Final, Self

OPEN_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

_MOST_OPEN, _FEWEST_OPEN = 256, 8


class Folders:
    """A bounded set of open folders, the least recently used closed first. A context manager.

    A descriptor given out is good until the next call; paths are relative, with single slashes and no dots.

    Args:
        root: a descriptor of the root, which stays the caller's.
        most: folders kept open, at least 2; None is what one artifact of several may take.
    """

    def __init__(self, root: int, most: int | None = None) -> None:
        self._root = root
        self._open: dict[bytes, int] = {}
        self._most = most

    def find(self, path: bytes) -> int:
        """A descriptor of an existing folder.

        Raises:
            NotADirectoryError: a component is a link or no folder; ``filename`` is its path.
            FileNotFoundError: there is none.
            OSError: the system refuses.
        """
        return self._descend(path, make=False)

    def make(self, path: bytes) -> int:
        """A descriptor of a folder, which is made with its parents where it does not exist.

        Raises:
            NotADirectoryError: a component is a link or no folder; ``filename`` is its path.
            OSError: the system refuses.
        """
        return self._descend(path, make=True)

    def forget(self, path: bytes) -> None:
        """Close a folder that is to be removed."""
        descriptor = self._open.pop(path, None)
        if descriptor is not None:
            os.close(descriptor)

    def _descend(self, path: bytes, *, make: bool) -> int:
        missing = []
        at = path
        while at and at not in self._open:
            at, _, name = at.rpartition(b"/")
            missing.append(name)
        descriptor = self._root
        if at:
            descriptor = self._open[at] = self._open.pop(at)
        while missing:
            name = missing.pop()
            at = at + b"/" + name if at else name
            descriptor = _enter(descriptor, name, at, make=make)
            self._open[at] = descriptor
            if self._most is None:
                self._most = _share()
            if len(self._open) > self._most:
                os.close(self._open.pop(next(iter(self._open))))
        return descriptor

    def close(self) -> None:
        while self._open:
            os.close(self._open.popitem()[1])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _share() -> int:
    """Several artifacts move side by side: none may take a large part of what this process may open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = _MOST_OPEN if soft == resource.RLIM_INFINITY else soft // 16
    return max(_FEWEST_OPEN, min(_MOST_OPEN, allowed))


def _enter(parent: int, name: bytes, path: bytes, *, make: bool) -> int:
    try:
        try:
            return os.open(name, OPEN_FOLDER, dir_fd=parent)
        except FileNotFoundError:
            if not make:
                raise
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o755, dir_fd=parent)
        return os.open(name, OPEN_FOLDER, dir_fd=parent)
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.ELOOP):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path) from error
        raise
