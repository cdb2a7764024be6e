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
import errno
import functools
import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from artifacts.archive.formats import in_thread
from artifacts.digests import DigestedReading
from artifacts.errors import ArchiveError, DiskError, FolderError, IntegrityError
from artifacts.limits import free_bytes
from artifacts.locks import FileLock
from artifacts.partial import PartialFile
from artifacts.state import write_private
from creds.errors import ObjectChanged, ToolkitError
from creds.store import Buffer, Cancel, ObjectMeta, OnRetry, Reading, Store

if TYPE_CHECKING:
    from creds.resolve import Resolved

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
        meta: ObjectMeta | None = None,
        if_match: str | None = None,
        cancel: Cancel | None = None,
        on_retry: OnRetry | None = None,
    ) -> Reading:
        """Begin to read ``key``: from here when the store still has the same, else from the store, and keep it.

        While another process fetches the same object this one waits, and then reads what that one left here.

        Args:
            location: names the object among all others: the server, the bucket, the key; see :meth:`opener`.
            meta: what the store said of the object just now, where it was asked already.
            if_match: the ETag that the object must have.

        Returns:
            A :class:`CachedReading`, or the store's own reading where the object cannot be kept.

        Raises:
            As :meth:`creds.store.Store.open`. DiskError: the cache cannot be read.
        """
        folder = self._objects / _name(location)
        opening = _Opening(store, key, if_match, cancel, on_retry)
        try:
            lock = _locked(folder, cancel or Cancel())
        except DiskError:
            return self._passing(opening.open(), folder)
        try:
            return self._opened(opening, meta, folder, lock)
        except BaseException:
            lock.close()
            raise

    def opener(self, resolved: Resolved, below: str = "") -> Callable[..., Reading]:
        """:meth:`open` for one object, named by its server, bucket and key, whatever credential reads it.

        Of an http location's query only what signs it is left out: what else is in it may choose the object.

        Args:
            resolved: the object, or a prefix.
            below: the rest of the key, after the prefix.
        """
        location, verdict = resolved.location, resolved.verdict
        named = (pair for pair in location.query.split("&") if pair)
        query = [pair for pair in named if pair.partition("=")[0].lower() not in _SIGNING]
        server = (location.scheme, verdict.endpoint_url or "", verdict.root or "", location.bucket)
        return functools.partial(self.open, location="\0".join((*server, resolved.key + below, *query)))

    def _opened(self, opening: _Opening, meta: ObjectMeta | None, folder: Path, lock: FileLock) -> Reading:
        if any(path.suffix in (".json", ".partial") for path in folder.iterdir()):
            # Something is here: one question tells whether it still counts.
            meta = meta or opening.head()
            blob = _Blob.of(folder, meta)
            if blob is not None and opening.if_match in (None, blob.etag):
                if (held := blob.held()) is not None:
                    lock.close()
                    return _Hit(blob, meta, held)
                if (resumed := self._resumed(opening, blob, lock)) is not None:
                    return resumed
        reading = opening.open()
        blob = _Blob.of(folder, reading.meta)
        if blob is None or blob.size_bytes > self.max_bytes:
            lock.close()
            return reading
        return self._filling(reading, blob, lock)

    def _resumed(self, opening: _Opening, blob: _Blob, lock: FileLock) -> Reading | None:
        """Go on where a process that died stopped; None where nothing of it counts."""
        partial = blob.partial()
        try:
            if 0 < partial.resumed_bytes < blob.size_bytes:
                with contextlib.suppress(ObjectChanged):
                    reading = opening.open(start=partial.resumed_bytes, if_match=blob.etag)
                    return _Filling(reading, blob, partial, lock)
            partial.remove()
        except BaseException:
            partial.close()
            raise
        partial.close()
        return None

    def _filling(self, reading: Reading, blob: _Blob, lock: FileLock) -> Reading:
        try:
            if self.trim(blob.size_bytes):
                return _Filling(reading, blob, blob.partial(), lock)
        except DiskError:
            pass  # told by the warning
        except BaseException:
            with reading:
                raise
        lock.close()
        return self._passing(reading, blob.folder)

    def _passing(self, reading: Reading, folder: Path) -> Reading:
        """What cannot be kept, though it should be: that costs the download nothing."""
        blob = _Blob.of(folder, reading.meta)
        return reading if blob is None else _Filling(reading, blob, None, None, warnings=(_not_cached(folder),))

    def trim(self, room_bytes: int = 0) -> bool:
        """Remove what was used longest ago until ``room_bytes`` more have room; what is being read stays readable.

        Returns:
            Is there that room now?

        Raises:
            DiskError: something cannot be removed.
        """
        try:
            with contextlib.closing(FileLock(self.folder / "lock")) as lock:
                lock.acquire(Cancel())
                return self._trim(room_bytes)
        except OSError as error:
            if isinstance(error, ToolkitError):
                raise
            raise DiskError.of("clean up", str(self.folder), error) from error

    def _trim(self, room_bytes: int) -> bool:
        kept = []
        for path in self._objects.glob("*/*"):
            if path.suffix in (".object", ".partial"):
                with contextlib.suppress(FileNotFoundError):
                    found = path.stat()
                    kept.append((found.st_mtime_ns, found.st_size, path))
        used = sum(size for _, size, _ in kept)
        free = free_bytes(self.folder, self.keep_free_bytes)
        for _, size, path in sorted(kept):
            if used + room_bytes <= self.max_bytes and room_bytes <= free:
                return True
            if _removed(path):
                used -= size
                free += size
        return used + room_bytes <= self.max_bytes and room_bytes <= free


def _removed(path: Path) -> bool:
    """Remove an object, or what a dead process left of one; its folder too, where nobody is at work in it."""
    try:
        lock = FileLock(path.parent / "lock")
    except DiskError as error:
        if error.errno == errno.ENOENT:
            return False  # another one was quicker
        raise
    with contextlib.closing(lock):
        idle = lock.try_acquire()
        if path.suffix == ".partial" and not idle:
            return False  # it is being filled
        for name in (path.with_suffix(".json"), path.with_name(f"{path.name}.journal"), path):
            name.unlink(missing_ok=True)
        if idle and [left.name for left in path.parent.iterdir()] == ["lock"]:
            (path.parent / "lock").unlink()
            path.parent.rmdir()
    return True


def _locked(folder: Path, cancel: Cancel) -> FileLock:
    """The folder of one object's location, made if need be, and held.

    Whoever cleans up may remove it in between: what was locked then is no longer there, and it is made anew.
    """
    while True:
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            lock = FileLock(folder / "lock")
        except OSError as error:
            if error.errno == errno.ENOENT and folder.parent.is_dir():
                continue
            raise DiskError.of("make folder", str(folder), error) from error
        try:
            lock.acquire(cancel)
            if lock.is_current():
                return lock
        except BaseException:
            lock.close()
            raise
        lock.close()


_SIGNING = frozenset(
    (
        *(f"x-amz-{name}" for name in ("algorithm", "credential", "date", "expires", "signedheaders", "signature")),
        *("x-amz-security-token", "x-amz-checksum-mode", "x-amz-content-sha256", "x-id"),
        *("awsaccesskeyid", "signature", "expires"),
        *(f"x-goog-{name}" for name in ("algorithm", "credential", "date", "expires", "signedheaders", "signature")),
        *("googleaccessid", "sig", "se", "sp", "sv", "sr", "st", "spr", "skoid", "sktid", "skt", "ske", "sks", "skv"),
    )
)
"""The parameters that sign a URL: of S3 (version 4 and 2), Google Cloud Storage and Azure (shared access)."""


@dataclass(frozen=True, slots=True)
class _Opening:
    """How the store would be asked for one object."""

    store: Store
    key: str
    if_match: str | None
    cancel: Cancel | None
    on_retry: OnRetry | None

    def head(self) -> ObjectMeta:
        return self.store.head(self.key, cancel=self.cancel)

    def open(self, *, start: int = 0, if_match: str | None = None) -> Reading:
        return self.store.open(
            self.key, start=start, if_match=if_match or self.if_match, cancel=self.cancel, on_retry=self.on_retry
        )


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


class CachedReading(DigestedReading):
    """A reading that passes through the cache, in a thread of its own: reading, digesting and keeping cost no time.

    Attributes:
        meta, pinned: as :class:`creds.store.Reading` has them.
        cache: ``hit`` or ``miss``.
        warnings: that the object could not be kept.
    """

    cache = "hit"

    def __init__(self, meta: ObjectMeta, pinned: str, warnings: tuple[dict[str, str], ...] = ()) -> None:
        self.meta = meta
        self.pinned = pinned
        self.warnings = warnings
        self._digest = hashlib.sha256()
        self._buffers = in_thread(self._read(), depth=1)

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

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
        self._damage: IntegrityError | None = None
        super().__init__(meta, "etag")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._buffers.close()
        try:
            if isinstance(error, ArchiveError | IntegrityError) and error is not self._damage:
                self._doubt(error)
        finally:
            os.close(self._file)

    def _doubt(self, error: ToolkitError) -> None:
        """What does not unpack may be a damaged copy of what does."""
        os.lseek(self._file, 0, os.SEEK_SET)
        self._digest = hashlib.sha256()
        try:
            for _ in self._read():
                pass
        except IntegrityError as damage:
            raise damage from error

    def _read(self) -> Iterator[Buffer]:
        try:
            while buffer := os.read(self._file, READ_BYTES):
                self._digest.update(buffer)
                yield buffer
        except OSError as error:
            raise DiskError.of("read", str(self._blob.path("object")), error) from error
        if self._digest.hexdigest() != self._sha256:
            self._blob.remove()
            self._damage = IntegrityError(
                f"the cache's copy of {self.meta.key} was damaged, and is removed",
                hint="run again: it will be fetched anew",
                retryable=True,
            )
            raise self._damage


class _Filling(CachedReading):
    """What comes from the store, and is kept on its way."""

    cache = "miss"

    def __init__(
        self,
        reading: Reading,
        blob: _Blob,
        partial: PartialFile | None,
        lock: FileLock | None,
        *,
        warnings: tuple[dict[str, str], ...] = (),
    ) -> None:
        self._reading = reading.__enter__()
        self._blob = blob
        self._partial = partial
        self._lock = lock
        super().__init__(reading.meta, reading.pinned, warnings)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._buffers.stop()
            try:
                self._reading.__exit__(kind, error, trace)
            finally:
                self._buffers.close()
                if isinstance(error, ArchiveError | IntegrityError):
                    self._give_up()  # what came may be wrong: it is nothing to go on from
                else:
                    self._keep()
        finally:
            if self._lock is not None:
                self._lock.close()

    def _read(self) -> Iterator[Buffer]:
        for buffer in self._partial.prefix() if self._partial is not None else ():
            self._digest.update(buffer)
            yield buffer
        for buffer in self._reading:
            self._digest.update(buffer)
            if self._partial is not None:
                try:
                    self._partial.write(buffer)
                except DiskError:
                    self._not_cached()
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
        except OSError:
            self._not_cached()

    def _not_cached(self) -> None:
        """A cache that cannot be written is no reason to fail: the object goes where it was asked for."""
        self.warnings = (_not_cached(self._blob.folder),)
        self._give_up()

    def _give_up(self) -> None:
        if self._partial is None:
            return
        with contextlib.suppress(OSError):
            self._partial.remove()
        self._partial.close()
        self._partial = None


def _not_cached(folder: Path) -> dict[str, str]:
    return {"code": "not-cached", "path": str(folder.parent.parent)}


def _name(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:40]
