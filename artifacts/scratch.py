"""A hidden folder for what is unfinished, inside the folder where it will appear by rename.

Its process holds a lock on it. One that a process left behind, which was killed, is removed by the next that works in
the same folder: the system's lock tells whether its owner is alive.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from types import TracebackType
from typing import Final, Self

from artifacts.archive.folders import OPEN_FOLDER

SCRATCH: Final = re.compile(rb"\.artifacts-partial-[0-9a-f]{16}")


class Scratch:
    """A scratch folder of this process, while the ``with`` block runs.

    Args:
        root: an open descriptor of the folder that it is made in; stays the caller's to close.

    Attributes:
        name: its name there.
        descriptor: of the scratch folder itself.

    Raises:
        OSError: it cannot be made.
    """

    def __init__(self, root: int) -> None:
        self._root = root
        self.name = ""
        self.descriptor = -1

    def __enter__(self) -> Self:
        self._sweep()
        while True:
            self.name = f".artifacts-partial-{os.urandom(8).hex()}"
            os.mkdir(self.name, 0o700, dir_fd=self._root)
            try:
                self.descriptor = os.open(self.name, OPEN_FOLDER, dir_fd=self._root)
                fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(self.descriptor).st_nlink:
                    return self
            except (FileNotFoundError, BlockingIOError):
                pass  # another process took it for a dead one's before it was locked
            except BaseException:
                self.__exit__(None, None, None)
                raise
            self._close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove(self.name)
        self._close()

    def _close(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def _sweep(self) -> None:
        """Remove what dead processes left."""
        for name in os.listdir(self._root):  # noqa: PTH208 - of a descriptor
            if SCRATCH.fullmatch(os.fsencode(name)) is None:
                continue
            with contextlib.suppress(OSError):  # in use by another process, or not ours to remove
                left = os.open(name, OPEN_FOLDER, dir_fd=self._root)
                try:
                    fcntl.flock(left, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    self._remove(name)
                finally:
                    os.close(left)

    def _remove(self, name: str) -> None:
        with contextlib.suppress(OSError):  # mostly what was in it has been put into its place
            os.rmdir(name, dir_fd=self._root)
            return
        import shutil

        shutil.rmtree(name, ignore_errors=True, dir_fd=self._root)
