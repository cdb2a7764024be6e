"""One object into one file, over several processes' lives: what one fetched before it died is not fetched again.

What came is kept in a part beside its journal (see ``artifacts.partial``) and takes its place by a rename. Only objects
with a strong ETag that are large enough to be worth a journal are; others are fetched as ever.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from artifacts import transfer
from artifacts.archive.unpack import Unpacked, file_name, write_file
from artifacts.errors import DiskError
from artifacts.limits import Budget
from artifacts.partial import SYNC_BYTES, PartialFile
from creds.errors import Cancelled, NotSupported, ObjectChanged, StoreError
from creds.store import Buffer, Cancel, ObjectMeta, OnRetry, Reading, Store


def fetch_file(
    store: Store, key: str, into: Callable[[bool], int], part: Part, asked: transfer.Asked, *, name: str, budget: Budget
) -> transfer.Transferred:
    """As :func:`artifacts.transfer.fetch` without unpacking, and going on where an earlier process stopped.

    Args:
        into: gives a descriptor of an empty folder on the file system of ``part``; called once, when it is needed. Told
            whether the whole object is at hand, so that nothing is waited for from then on.
        part: where what came is kept until all of it is here. A part of another generation of the object is not used.
    """
    keeping = _Keeping(part)
    try:
        with transfer.Incoming(store, key, asked, keeping.open) as incoming:
            whole = incoming.whole() if keeping.file is None else None
            if keeping.file is not None:
                done = _filled(keeping.file, incoming.buffers, budget)
            elif whole is None:
                done = write_file(incoming.buffers, into(False), name, budget)
            verified = incoming.verify()
        if whole is not None:
            done = write_file(whole, into(True), name, budget)
        elif keeping.file is not None:
            keeping.adopt(into(False), name)
    except BaseException as error:
        keeping.end(error)
        raise
    return incoming.done(done, verified)


def _filled(file: PartialFile, buffers: Iterable[Buffer], budget: Budget) -> Unpacked:
    count = 0
    budget.take_members()
    try:
        for buffer in buffers:
            budget.take_bytes(len(buffer))
            count += len(buffer)
            if count > file.size_bytes:  # else it was here before
                file.write(buffer)
    except BaseException:
        budget.give_bytes(count)
        raise
    return transfer.plain(count)


@dataclass(frozen=True, slots=True)
class Part:
    """Where what came of one object is kept.

    Attributes:
        folder: of all parts; made when missing.
        names: tells the object from others.
        left: may an earlier process have left something?
    """

    folder: Path
    names: tuple[str, ...]
    left: bool = True

    @property
    def path(self) -> Path:
        """The part itself; its journal is beside it."""
        named = hashlib.sha256("\0".join(self.names).encode("utf-8", "surrogatepass")).hexdigest()
        return self.folder / named[:40]


class _Keeping:
    """What is kept of one object.

    Attributes:
        file: None where nothing can be kept.
    """

    def __init__(self, part: Part) -> None:
        self.file: PartialFile | None = None
        self._part = part

    def open(
        self,
        store: Store,
        key: str,
        *,
        meta: ObjectMeta | None,
        if_match: str | None,
        cancel: Cancel | None,
        on_retry: OnRetry | None,
    ) -> Reading:
        """Begin to read ``key``, from where the part ends if it is one of the same generation."""
        del meta
        left = PartialFile.left(self._part.path) if self._part.left else None
        if left is not None:
            with contextlib.suppress(ObjectChanged, NotSupported):
                if if_match in (None, left.etag):
                    rest = store.open(
                        key, start=left.resumed_bytes, if_match=left.etag, cancel=cancel, on_retry=on_retry
                    )
                    self.file = left
                    return _Resumed(left, rest)
            left.remove()
            left.close()
        reading = store.open(key, if_match=if_match, cancel=cancel, on_retry=on_retry)
        etag, size = reading.meta.etag, reading.meta.size_bytes
        if etag is not None and reading.meta.strong and size is not None and size > SYNC_BYTES:
            try:
                self._part.folder.mkdir(mode=0o700, exist_ok=True)
                self.file = PartialFile(self._part.path, etag=etag, size_bytes=size, mode=0o666)
            except OSError as error:
                with reading:
                    raise DiskError.of("write", str(self._part.path), error) from error
        return reading

    def adopt(self, into: int, name: str) -> None:
        """Give the whole file its place."""
        assert self.file is not None
        try:
            self.file.close()
            os.rename(self.file.path, file_name(name), dst_dir_fd=into)
            self.file.remove()
        except OSError as error:
            raise DiskError.of("rename to", name, error) from error

    def end(self, error: BaseException) -> None:
        """Keep what came where it can be gone on from, else forget it."""
        if self.file is None:
            return
        kept = isinstance(error, StoreError | Cancelled) and not isinstance(error, ObjectChanged)
        with contextlib.suppress(OSError):  # what is told is what the fetch failed with
            if kept:
                self.file.sync()
            else:
                self.file.remove()
        self.file.close()


class _Resumed:
    """What is here, and then the rest from the store."""

    def __init__(self, file: PartialFile, rest: Reading) -> None:
        self._file = file
        self._rest = rest
        self.meta = rest.meta
        self.pinned = "etag"

    def __iter__(self) -> Iterator[Buffer]:
        yield from self._file.prefix()
        yield from self._rest

    def __enter__(self) -> Self:
        self._rest.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._rest.__exit__(kind, error, trace)
