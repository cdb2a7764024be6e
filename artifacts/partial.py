"""A file that is filled over several processes' lives: what was safely on disk when one died is not fetched again.

Beside the file lies its journal, which says of which object it is a part and how many bytes of it were flushed. A
file without a journal that fits is worth nothing and begins anew. The bytes that count are read again by whoever goes
on, so that a digest covers the whole.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from artifacts.errors import DiskError
from artifacts.state import write_all, write_private
from creds.store import Buffer

SYNC_BYTES = 64 << 20
"""How much is written between two entries of the journal: what a crash costs at the most."""

READ_BYTES = 1 << 20


def _journal(path: Path) -> Path:
    return path.with_name(f"{path.name}.journal")


class PartialFile:
    """The beginning of one generation of an object, growing. One process at a time: the caller sees to it.

    Args:
        path: the file, in a folder of ours; its journal is beside it.
        etag: what names the generation.
        size_bytes: of the whole object.
        mode: of the file, less the umask.

    Attributes:
        etag: what names the generation.
        resumed_bytes: what an earlier process left: read it by :meth:`prefix`, and fetch from there.
        size_bytes: how much is in it now.

    Raises (all methods):
        DiskError.
    """

    def __init__(self, path: Path, *, etag: str, size_bytes: int, mode: int = 0o600) -> None:
        self.path = path
        self._journal = _journal(path)
        self.etag = etag
        self._whole_bytes = size_bytes
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
            self.size_bytes = self.resumed_bytes = self._flushed()
            os.ftruncate(self._file, self.resumed_bytes)
        except OSError as error:
            raise DiskError.of("write", str(path), error) from error
        self._synced = self.resumed_bytes
        self._syncing: threading.Thread | None = None
        self._failed: OSError | None = None

    @classmethod
    def left(cls, path: Path) -> Self | None:
        """What an earlier process left at ``path``, whatever it is a part of; None where there is nothing to use."""
        try:
            entry = json.loads(_journal(path).read_bytes())
            etag, size = entry["etag"], entry["size_bytes"]
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None
        if not (isinstance(etag, str) and isinstance(size, int)):
            return None
        found = cls(path, etag=etag, size_bytes=size)
        if found.resumed_bytes:
            return found
        found.remove()
        found.close()
        return None

    def _flushed(self) -> int:
        """How many bytes of this very generation are on disk for certain."""
        try:
            entry = json.loads(self._journal.read_bytes())
            offset = entry["offset"]
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return 0
        there = os.fstat(self._file).st_size
        fits = entry == self._entry(offset) and isinstance(offset, int) and 0 <= offset <= min(there, self._whole_bytes)
        return offset if fits else 0

    def _entry(self, offset: int) -> dict[str, Any]:
        return {"etag": self.etag, "size_bytes": self._whole_bytes, "offset": offset}

    def prefix(self) -> Iterator[Buffer]:
        """What an earlier process left, in order."""
        offset = 0
        while offset < self.resumed_bytes:
            try:
                buffer = os.pread(self._file, min(READ_BYTES, self.resumed_bytes - offset), offset)
            except OSError as error:
                raise DiskError.of("read", str(self.path), error) from error
            if not buffer:
                raise DiskError(f"{self.path} was cut short while it was read", retryable=True)
            offset += len(buffer)
            yield buffer

    def write(self, buffer: Buffer) -> None:
        """Append ``buffer``; from time to time it is flushed and noted how far, in a thread of its own."""
        try:
            os.lseek(self._file, self.size_bytes, os.SEEK_SET)
            write_all(self._file, buffer)
            self.size_bytes += len(buffer)
            if self.size_bytes - self._synced >= SYNC_BYTES and not self._busy():
                self._syncing = threading.Thread(target=self._note, args=(self.size_bytes,), daemon=True)
                self._syncing.start()
        except OSError as error:
            raise DiskError.of("write", str(self.path), error) from error

    def _busy(self) -> bool:
        """Is it still being flushed? Raises what that failed with."""
        if self._failed is not None:
            raise self._failed
        return self._syncing is not None and self._syncing.is_alive()

    def _note(self, offset: int) -> None:
        try:
            os.fdatasync(self._file)
            write_private(self._journal, json.dumps(self._entry(offset)).encode())
            self._synced = offset
        except OSError as error:
            self._failed = error

    def sync(self) -> None:
        """Flush what was written, and note how far."""
        self._settle()
        if self.size_bytes > self._synced:
            self._note(self.size_bytes)
        if self._failed is not None:
            raise DiskError.of("write", str(self.path), self._failed) from self._failed

    def _settle(self) -> None:
        """Wait until nothing is being flushed."""
        if self._syncing is not None:
            self._syncing.join()
            self._syncing = None

    def publish(self, target: Path) -> None:
        """Flush the file and give it its final name."""
        self._settle()
        try:
            os.fsync(self._file)
            self.path.replace(target)
            self._journal.unlink(missing_ok=True)
        except OSError as error:
            raise DiskError.of("rename to", str(target), error) from error

    def remove(self) -> None:
        """Forget the file; it stays open until :meth:`close`."""
        self._settle()
        self.path.unlink(missing_ok=True)
        self._journal.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file; it stays where it is."""
        self._settle()
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
