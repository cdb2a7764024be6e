"""Files that processes of one machine hold one after another; the system frees what a dead one held."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from artifacts.errors import DiskError
from creds.store import Cancel

WAIT_SECONDS = 0.1
LONG_SECONDS = 2.0
"""A wait that takes longer is told."""


class FileLock:
    """A file that one process, or one thread of it, holds at a time.

    Args:
        path: made when missing; its folder must be ours.

    Raises:
        DiskError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file: int | None = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise DiskError.of("open", str(path), error) from error

    def try_acquire(self) -> bool:
        """Take it if nobody holds it."""
        assert self._file is not None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def acquire(self, cancel: Cancel) -> None:
        """Wait until it is ours.

        Raises:
            Cancelled.
        """
        while not self.try_acquire():
            cancel.wait(WAIT_SECONDS)

    def is_current(self) -> bool:
        """Is it still the file at its path, which somebody may have removed before it was ours?"""
        assert self._file is not None
        try:
            there = self._path.lstat()
        except FileNotFoundError:
            return False
        return os.path.samestat(there, os.fstat(self._file))

    def close(self) -> None:
        """Give it up; a second call does nothing."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


class HostSlots:
    """So many transfers at once on this machine, whatever number of processes want some.

    Args:
        folder: shared by the processes, all of one user; made when missing.
        count: how many transfers.

    Attributes:
        count: as above.

    Raises:
        DiskError: the folder cannot be made.
    """

    def __init__(self, folder: Path, count: int) -> None:
        self.count = count
        self._paths = [folder / f"slot-{number}" for number in range(count)]
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise DiskError.of("make folder", str(folder), error) from error

    @contextlib.contextmanager
    def taken(self, cancel: Cancel, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Hold one slot while the ``with`` block runs; wait for it first.

        Args:
            on_wait: called once when the wait takes long.

        Raises:
            Cancelled. DiskError: a slot cannot be opened.
        """
        with contextlib.closing(self._take(cancel, on_wait)):
            yield

    def _take(self, cancel: Cancel, on_wait: Callable[[], None]) -> FileLock:
        due = time.monotonic() + LONG_SECONDS
        told = False
        while True:
            for path in self._paths:
                lock = FileLock(path)
                if lock.try_acquire():
                    return lock
                lock.close()
            if not told and time.monotonic() >= due:
                told = True
                on_wait()
            cancel.wait(WAIT_SECONDS)
