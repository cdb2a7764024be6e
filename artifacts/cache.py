"""One download of each object for a whole machine: a folder of objects as they are stored, shared by processes.

A cache never answers in the store's place. Each use asks the store for the object's ETag with the credential of who
asks, so whoever may not read the object does not get it from here, and what was replaced is fetched again. Only
objects with a strong ETag and a size are kept, and their bytes are digested on the way in and on the way out.

::

    <folder>/lock                               held while something is removed
    <folder>/objects/<location>/lock            held by the one process that fetches
    <folder>/objects/<location>/<etag>.object   the bytes; its modification time is its last use
    <folder>/objects/<location>/<etag>.json     what they are: etag, version, size, sha256
    <folder>/objects/<location>/<etag>.partial  what a process that died left, with its journal

``<location>`` and ``<etag>`` are digests, so nothing of a name or an answer becomes a path. A file appears by rename,
its description first: one without the other is nothing. A cache that cannot be written costs the download nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from artifacts.archive.formats import in_thread
from artifacts.errors import DiskError, FolderError, IntegrityError
from artifacts.limits import free_bytes
from artifacts.locks import FileLock
from artifacts.partial import PartialFile
from artifacts.state import write_private
from creds.errors import ObjectChanged, ToolkitError
from creds.store import Buffer, Cancel, ObjectMeta, OnRetry, Reading, Store

DEFAULT_MAX_BYTES = 50 << 30
READ_BYTES = 1 << 20


class BlobCache:
    """A folder of objects, at most ``max_bytes`` of them; those used longest ago go first.

    Args:
        folder: made when missing, for its owner alone. Processes of one user share it.
        max_bytes: of all objects together; a larger one is not kept.
        keep_free_bytes: free space to leave on its file system.

    Raises:
        FolderError: the folder is another user's, or others may write to it.
        DiskError: it cannot be made.
    """

    def __init__(
        self, folder: str | os.PathLike[str], *, max_bytes: int = DEFAULT_MAX_BYTES, keep_free_bytes: int = 0
    ) -> None:
        self.folder = Path(folder)
        self.max_bytes = max_bytes
        self.keep_free_bytes = keep_free_bytes
        self._objects = self.folder / "objects"
        try:
            self._objects.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = self.folder.stat()
        except OSError as error:
            raise DiskError.of("make folder", str(self._objects), error) from error
        if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o022:
            raise FolderError(
                f"{self.folder} is no cache: it is another user's, or others may write to it",
                hint="give a folder of your own with mode 0700",
            )

    def open(
        self,
        store: Store,
        key: str,
        *,
        location: str,
        cancel: Cancel | None = None,
        on_retry: OnRetry | None = None,
    ) -> Reading:
        """Begin to read ``key``: from here when the store still has the same, else from the store, and keep it.

        While another process fetches the same object this one waits, and then reads what that one left here.

        Args:
            location: names the object among all others: the server, the bucket, the key.

        Returns:
            A :class:`CachedReading`, or the store's own reading where the object cannot be kept.

        Raises:
            As :meth:`creds.store.Store.open`. DiskError: the cache cannot be read.
        """
        folder = self._objects / _name(location)
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise DiskError.of("make folder", str(folder), error) from error
        lock = FileLock(folder / "lock")
        try:
            lock.acquire(cancel or Cancel())
            return self._opened(store, key, folder, lock, cancel, on_retry)
        except BaseException:
            lock.close()
            raise

    def _opened(
        self, store: Store, key: str, folder: Path, lock: FileLock, cancel: Cancel | None, on_retry: OnRetry | None
    ) -> Reading:
        if any(path.suffix in (".json", ".partial") for path in folder.iterdir()):
            # Something is here: one question tells whether it still counts.
            meta = store.head(key, cancel=cancel)
            blob = _Blob.of(folder, meta)
            if blob is not None:
                if (held := blob.held()) is not None:
                    lock.close()
                    return _Hit(blob, meta, held)
                if (resumed := self._resumed(store, key, blob, lock, cancel, on_retry)) is not None:
                    return resumed
        reading = store.open(key, cancel=cancel, on_retry=on_retry)
        blob = _Blob.of(folder, reading.meta)
        if blob is None or blob.size_bytes > self.max_bytes:
            lock.close()
            return reading
        return self._filling(reading, blob, lock)

    def _resumed(
        self, store: Store, key: str, blob: _Blob, lock: FileLock, cancel: Cancel | None, on_retry: OnRetry | None
    ) -> Reading | None:
        """Go on where a process that died stopped; None where nothing of it counts."""
        partial = blob.partial()
        if 0 < partial.resumed_bytes < blob.size_bytes:
            with contextlib.suppress(ObjectChanged):
                reading = store.open(
                    key, start=partial.resumed_bytes, if_match=blob.etag, cancel=cancel, on_retry=on_retry
                )
                return _Filling(self, reading, blob, partial, lock)
        partial.remove()
        partial.close()
        return None

    def _filling(self, reading: Reading, blob: _Blob, lock: FileLock) -> Reading:
        try:
            self.trim(blob.size_bytes)
            partial = blob.partial()
        except BaseException:
            with reading:
                raise
        return _Filling(self, reading, blob, partial, lock)

    def trim(self, room_bytes: int = 0) -> None:
        """Remove what was used longest ago until ``room_bytes`` more have room; what is being read stays readable.

        Raises:
            DiskError: something cannot be removed.
        """
        try:
            with contextlib.closing(FileLock(self.folder / "lock")) as lock:
                lock.acquire(Cancel())
                self._trim(room_bytes)
        except OSError as error:
            if isinstance(error, ToolkitError):
                raise
            raise DiskError.of("clean up", str(self.folder), error) from error

    def _trim(self, room_bytes: int) -> None:
        kept = []
        for path in self._objects.glob("*/*.object"):
            with contextlib.suppress(FileNotFoundError):
                found = path.stat()
                kept.append((found.st_mtime_ns, found.st_size, path))
        used = sum(size for _, size, _ in kept)
        free = free_bytes(self.folder, self.keep_free_bytes)
        for _, size, path in sorted(kept):
            if used + room_bytes <= self.max_bytes and room_bytes <= free:
                return
            path.with_suffix(".json").unlink(missing_ok=True)
            path.unlink(missing_ok=True)
            used -= size
            free += size


@dataclass(frozen=True, slots=True, kw_only=True)
class _Blob:
    """One generation of one object: where it is kept."""

    folder: Path
    etag: str
    version: str | None
    size_bytes: int

    @classmethod
    def of(cls, folder: Path, meta: ObjectMeta) -> Self | None:
        """None for what cannot be kept: without a strong ETag and a size nothing says what it is."""
        if meta.etag is None or not meta.strong or meta.size_bytes is None:
            return None
        return cls(folder=folder, etag=meta.etag, version=meta.version, size_bytes=meta.size_bytes)

    def path(self, suffix: str) -> Path:
        return self.folder / f"{_name(self.etag, self.version or '')}.{suffix}"

    def partial(self) -> PartialFile:
        return PartialFile(self.path("partial"), etag=self.etag, size_bytes=self.size_bytes)

    def description(self, sha256: str) -> dict[str, Any]:
        return {"etag": self.etag, "version": self.version, "size_bytes": self.size_bytes, "sha256": sha256}

    def held(self) -> tuple[int, str] | None:
        """An open descriptor of the object and its sha256, or None when it is not here whole."""
        try:
            description = json.loads(self.path("json").read_bytes())
            sha256 = description.get("sha256")
            if description != self.description(sha256):
                return None
            descriptor = os.open(self.path("object"), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except (FileNotFoundError, ValueError, AttributeError):
            return None
        except OSError as error:
            raise DiskError.of("read", str(self.path("object")), error) from error
        if os.fstat(descriptor).st_size != self.size_bytes:
            os.close(descriptor)
            return None
        with contextlib.suppress(OSError):  # when it was used matters to nothing but the order of removal
            os.utime(descriptor)
        return descriptor, sha256

    def publish(self, partial: PartialFile, sha256: str) -> None:
        write_private(self.path("json"), json.dumps(self.description(sha256)).encode())
        partial.publish(self.path("object"))
        for path in self.folder.iterdir():
            # Another generation of the object: nobody asks for it again.
            if path.name != "lock" and not path.name.startswith(self.path("").name):
                path.unlink(missing_ok=True)

    def remove(self) -> None:
        for suffix in ("json", "object"):
            self.path(suffix).unlink(missing_ok=True)


class CachedReading:
    """A reading that passes through the cache, in a thread of its own: reading, digesting and keeping cost no time.

    Attributes:
        meta, pinned: as :class:`creds.store.Reading` has them.
        cache: ``hit`` or ``miss``.
        warnings: why the object could not be kept, when everything was read.
    """

    cache = "hit"

    def __init__(self, meta: ObjectMeta, pinned: str) -> None:
        self.meta = meta
        self.pinned = pinned
        self.warnings: tuple[dict[str, str], ...] = ()
        self._digest = hashlib.sha256()
        self._buffers = in_thread(self._read())

    def __iter__(self) -> Iterator[Buffer]:
        return self._buffers

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        raise NotImplementedError

    def _read(self) -> Iterator[Buffer]:
        raise NotImplementedError


class _Hit(CachedReading):
    """What is here already."""

    def __init__(self, blob: _Blob, meta: ObjectMeta, held: tuple[int, str]) -> None:
        self._blob = blob
        self._file, self._sha256 = held
        super().__init__(meta, "etag")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._buffers.close()
        os.close(self._file)

    def _read(self) -> Iterator[Buffer]:
        try:
            while buffer := os.read(self._file, READ_BYTES):
                self._digest.update(buffer)
                yield buffer
        except OSError as error:
            raise DiskError.of("read", str(self._blob.path("object")), error) from error
        if self._digest.hexdigest() != self._sha256:
            self._blob.remove()
            raise IntegrityError(
                f"the cache's copy of {self.meta.key} was damaged, and is removed",
                hint="run again: it will be fetched anew",
                retryable=True,
            )


class _Filling(CachedReading):
    """What comes from the store, and is kept on its way."""

    cache = "miss"

    def __init__(self, cache: BlobCache, reading: Reading, blob: _Blob, partial: PartialFile, lock: FileLock) -> None:
        self._cache = cache
        self._reading = reading.__enter__()
        self._blob = blob
        self._partial: PartialFile | None = partial
        self._lock = lock
        super().__init__(reading.meta, reading.pinned)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._buffers.stop()
            try:
                self._reading.__exit__(kind, error, trace)
            finally:
                self._buffers.close()
                self._keep()
        finally:
            self._lock.close()

    def _read(self) -> Iterator[Buffer]:
        assert self._partial is not None
        for buffer in self._partial.prefix():
            self._digest.update(buffer)
            yield buffer
        for buffer in self._reading:
            self._digest.update(buffer)
            if self._partial is not None:
                try:
                    self._partial.write(buffer)
                except DiskError as error:
                    self._give_up(error)
            yield buffer

    def _keep(self) -> None:
        """Publish the object when it is whole; else leave what came for the next process."""
        if self._partial is None:
            return
        try:
            if self._partial.size_bytes == self._blob.size_bytes:
                self._blob.publish(self._partial, self._digest.hexdigest())
            else:
                self._partial.sync()
            self._partial.close()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        """A cache that cannot be written is no reason to fail: the object goes where it was asked for."""
        assert self._partial is not None
        self.warnings = ({"code": "not-cached", "path": str(error)},)
        with contextlib.suppress(OSError):
            self._partial.remove()
        self._partial.close()
        self._partial = None


def _name(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:40]


def warnings_of(reading: Reading) -> Iterable[dict[str, str]]:
    """What a reading wants the receipt to say, now that it has ended."""
    return reading.warnings if isinstance(reading, CachedReading) else ()
