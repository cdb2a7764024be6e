"""A file that is filled over several processes' lives: what was safely on disk when one died is not fetched again.

Beside the file lies its journal, which says of which object it is a part and how many bytes of it were flushed. A
file without a journal that fits is worth nothing and begins anew. The bytes that count are read again by whoever goes
on, so that a digest covers the whole.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from artifacts.errors import DiskError
from artifacts.state import write_all, write_private
from creds.store import Buffer

SYNC_BYTES = 64 << 20
"""How much is written between two entries of the journal: what a crash costs at the most."""

READ_BYTES = 1 << 20


class PartialFile:
    """The beginning of one generation of an object, growing. One process at a time: the caller sees to it.

    Args:
        path: the file, in a folder of ours; its journal is beside it.
        etag: what names the generation.
        size_bytes: of the whole object.

    Attributes:
        resumed_bytes: what an earlier process left: read it by :meth:`prefix`, and fetch from there.
        size_bytes: how much is in it now.

    Raises (all methods):
        DiskError.
    """

    def __init__(self, path: Path, *, etag: str, size_bytes: int) -> None:
        self.path = path
        self._journal = path.with_name(f"{path.name}.journal")
        self._etag = etag
        self._whole_bytes = size_bytes
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            self.size_bytes = self.resumed_bytes = self._flushed()
            os.ftruncate(self._file, self.resumed_bytes)
        except OSError as error:
            raise DiskError.of("write", str(path), error) from error
        self._synced = self.resumed_bytes

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
        return {"etag": self._etag, "size_bytes": self._whole_bytes, "offset": offset}

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
        """Append ``buffer``; from time to time flush, and note how far."""
        try:
            os.lseek(self._file, self.size_bytes, os.SEEK_SET)
            write_all(self._file, buffer)
            self.size_bytes += len(buffer)
            if self.size_bytes - self._synced >= SYNC_BYTES:
                self.sync()
        except OSError as error:
            raise DiskError.of("write", str(self.path), error) from error

    def sync(self) -> None:
        """Flush what was written, and note how far."""
        if self.size_bytes == self._synced:
            return
        try:
            os.fdatasync(self._file)
            write_private(self._journal, json.dumps(self._entry(self.size_bytes)).encode())
        except OSError as error:
            raise DiskError.of("write", str(self.path), error) from error
        self._synced = self.size_bytes

    def publish(self, target: Path) -> None:
        """Flush the file and give it its final name."""
        try:
            os.fsync(self._file)
            self.path.replace(target)
            self._journal.unlink(missing_ok=True)
        except OSError as error:
            raise DiskError.of("rename to", str(target), error) from error

    def remove(self) -> None:
        """Forget the file; it stays open until :meth:`close`."""
        self.path.unlink(missing_ok=True)
        self._journal.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file; it stays where it is."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
