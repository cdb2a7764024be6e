"""The folder that objects are put into, and keys as paths below it: both are hostile until proved otherwise."""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from artifacts.archive.folders import Folders
from artifacts.errors import DiskError, UnsafeKey
from artifacts.scratch import SCRATCH, Scratch
from artifacts.text import printable

_OPEN_FOLDERS = 8  # of one thread: listings come folder by folder, and many threads share what a process may open
_MAX_NAME_BYTES = 255
_MAX_PATH_BYTES = 4095
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Folder:
    """The folder that files are put into, each by a rename when it is whole.

    Files are written in a :class:`~artifacts.scratch.Scratch` inside of it.
    """

    def __init__(self, path: str, *, dry_run: bool) -> None:
        self.path = path
        self._dry_run = dry_run
        self._stack = contextlib.ExitStack()
        self._numbers = itertools.count()
        self._local = threading.local()
        self.root: int | None = None
        self.scratch = -1
        self.was_empty = True

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            try:
                self._open(stack)
            except OSError as error:
                raise DiskError.of("use folder", printable(self.path), error) from error
            self._stack = stack.pop_all()
        return self

    def _open(self, stack: contextlib.ExitStack) -> None:
        if not self._dry_run:
            Path(self.path).mkdir(parents=True, exist_ok=True)
        elif not os.path.lexists(self.path):
            return
        self.root = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, self.root)
        with os.scandir(self.root) as found:
            self.was_empty = not any(found)
        if not self._dry_run:
            self.scratch = stack.enter_context(Scratch(self.root)).descriptor

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def parent(self, path: bytes, *, make: bool) -> int | None:
        """The descriptor of a folder, good for this thread until it asks for the next; None where there is none.

        Raises:
            NotADirectoryError: a file or link is in its place, or in that of a folder above it.
        """
        if self.root is None:
            return None
        if not path:
            return self.root
        folders: Folders | None = getattr(self._local, "folders", None)
        if folders is None:
            folders = self._local.folders = Folders(self.root, _OPEN_FOLDERS)
            self._stack.callback(folders.close)
        try:
            return folders.make(path) if make else folders.find(path)
        except FileNotFoundError:
            if make:
                raise
            return None

    def new_file(self) -> tuple[int, str]:
        """A new empty file among the unfinished, and its name there."""
        name = str(next(self._numbers))
        return os.open(name, _NEW_FILE, 0o666, dir_fd=self.scratch), name


class Paths:
    """Keys as paths below one folder; those that cannot be are refused by name, and so is the second of two that clash.

    Listings are told to it in their order by one thread.
    """

    def __init__(self) -> None:
        self._files: set[bytes] = set()
        self._folders: set[bytes] = set()

    def path(self, label: str) -> bytes:
        """The path of a key, as it goes on after the prefix.

        Raises:
            UnsafeKey.
        """
        try:
            path = label.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            raise unsafe(label, "is no Unicode text") from None
        parts = path.split(b"/")
        if b"" in parts:
            raise unsafe(label, "has an empty part")
        if b".." in parts or b"." in parts:
            raise unsafe(label, "has a part that is '.' or '..'")
        if b"\0" in path:
            raise unsafe(label, "has a NUL")
        if len(path) > _MAX_PATH_BYTES or max(map(len, parts)) > _MAX_NAME_BYTES:
            raise unsafe(label, "is too long for a file's name")
        if SCRATCH.fullmatch(parts[0]):
            raise unsafe(label, "begins with a name that is kept for unfinished files")
        if path in self._folders:
            raise unsafe(label, "is a file, and there are keys below it")
        above = path
        while above := above.rpartition(b"/")[0]:
            if above in self._files:
                raise unsafe(label, f"lies below {printable(os.fsdecode(above))!r}, which is a file")
            if above in self._folders:
                break
            self._folders.add(above)
        self._files.add(path)
        return path


def unsafe(label: str, why: str) -> UnsafeKey:
    """The error about a key that cannot be a file here."""
    return UnsafeKey(f"the key {printable(label)!r} {why}", hint="fetch it by itself, to a name of your choice")
