"""What an upload of one file has sent, kept on disk so that the next process goes on where a dead one stopped."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from artifacts.errors import DiskError, FolderInUse, RequestError
from artifacts.locks import FileLock
from artifacts.state import write_all
from artifacts.transfer import Source
from creds.errors import NotSupported
from creds.store import Buffer, Store


class Journal:
    """A journal of one upload: a line of JSON for the upload, one for each part that the server has.

    Only its owner may read it. It holds no credential, but who has one could go on with the upload.

    Args:
        path: of the file; missing while nothing is remembered.

    Attributes:
        about: what stands for the bytes that are sent.
        keeps: a failure leaves the parts on the server.
        goes_on: parts of an earlier process count.
    """

    goes_on = False

    def __init__(self, path: Path, about: str, *, keeps: bool) -> None:
        self._path = path
        self.about = about
        self.keeps = keeps

    def load(self) -> Sequence[Mapping[str, Any]]:
        """What an earlier try left. A last line that was cut short counts for nothing.

        Raises:
            DiskError: it cannot be read.
        """
        try:
            lines = self._path.read_bytes().split(b"\n")[:-1]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise DiskError.of("read", str(self._path), error) from error
        try:
            entries = [dict(json.loads(line)) for line in lines]
        except (TypeError, ValueError):
            return []
        self.goes_on = len(entries) > 1
        return entries

    def begin(self, upload: Mapping[str, Any]) -> None:
        """Forget all that was, and remember a new upload.

        Raises:
            DiskError: it cannot be written.
        """
        self.forget()
        self._write(upload, os.O_CREAT | os.O_EXCL)

    def add(self, part: Mapping[str, Any]) -> None:
        """Remember a part.

        Raises:
            DiskError: it cannot be written.
        """
        self._write(part, os.O_APPEND)

    def _write(self, entry: Mapping[str, Any], flags: int) -> None:
        # Not forced to the disk: what a machine that dies forgets is sent again.
        line = json.dumps(entry, separators=(",", ":")).encode() + b"\n"
        try:
            file = os.open(self._path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC | flags, 0o600)
            try:
                write_all(file, line)
            finally:
                os.close(file)
        except OSError as error:
            raise DiskError.of("write", str(self._path), error) from error

    def forget(self) -> None:
        """Forget all.

        Raises:
            DiskError: it cannot be removed.
        """
        self.goes_on = False
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            raise DiskError.of("remove", str(self._path), error) from error


def resumable(store: Store, source: Source) -> bool:
    """Can an upload go on later? Where the store takes parts, and the bytes can be read again."""
    return source.about is not None and getattr(store, "resuming", None) is not None


@contextlib.contextmanager
def resuming(store: Store, source: Source, folder: Path, name: str, *, keeps: bool) -> Iterator[tuple[Store, Source]]:
    """``store`` and ``source`` such that an upload goes on with what an earlier process of the same ``name`` left.

    Args:
        folder: where journals are kept; made when missing, for its owner alone.
        name: of the upload, the same in every process that does it.
        keeps: a failure leaves the parts on the server for the next try; else only the death of the process does.

    Raises:
        RequestError: the source cannot be read again.
        NotSupported: this store takes nothing in parts.
        FolderInUse: another process does this very upload.
        DiskError: the folder cannot be used; or, from the source, it was changed while it was sent.
    """
    if source.about is None:
        raise RequestError("only a file that is sent as it is can be resumed, no folder and no stream")
    if not resumable(store, source):
        raise NotSupported("only uploads to S3 can be resumed", op="write")
    path = folder / f"{hashlib.sha256(name.encode('utf-8', 'surrogateescape')).hexdigest()[:32]}.json"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise DiskError.of("make folder", str(folder), error) from error
    lock_path = path.with_suffix(".lock")
    with contextlib.closing(FileLock(lock_path)) as lock:
        if not lock.try_acquire():
            raise FolderInUse("another process does this very upload", hint="wait for it")
        journal = Journal(path, source.about(), keeps=keeps)
        try:
            yield store.resuming(journal), replace(source, buffers=_steady(source, journal))  # type: ignore[attr-defined]  # looked for above
        finally:
            # Whoever opens it right now holds a file that a third will not find. Two at once are slow and no more:
            # parts count only when the server has them in the upload that goes on.
            if not path.exists():
                lock_path.unlink(missing_ok=True)


def _steady(source: Source, journal: Journal) -> Iterator[Buffer]:
    """The source's buffers, and an error in the place of their end where the parts would be of two different files."""
    yield from source.buffers
    if journal.goes_on and source.about is not None and source.about() != journal.about:
        raise DiskError("the file was changed while it was sent", retryable=True)
