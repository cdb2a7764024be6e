"""``file:`` locations: a folder as a store, confined to its root.

The root is opened once and everything below it is reached through directory descriptors, one component at a time and
never through a symbolic link; so no key, and no link that somebody else plants while we work, leads out of it.

An object's ETag is made of its inode, modification time and size. It tells two generations apart as well as the file
system does, but it is no digest, and the files are read in place: ``pinned`` is therefore ``weak``.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

from creds.errors import (
    AccessDenied,
    BucketNotFound,
    NotSupported,
    ObjectChanged,
    ObjectNotFound,
    StoreError,
    ToolkitError,
)
from creds.store import Buffer, Cancel, ObjectMeta, OnRetry

READ_BYTES = 1 << 20

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PARTIAL = re.compile(rb"\..*\.partial-[0-9a-f]{16}", re.DOTALL)


class FilesStore:
    """The files below one folder.

    A key is a relative path: components parted by ``/``, none of them empty, ``.`` or ``..``. Symbolic links below the
    root are refused, not followed. Files are published by a rename beside the target; they are not synced to the disk,
    as the artifacts themselves can be fetched or made again.

    Args:
        root: an existing folder; opened when the store is first used. It may itself be reached through links.
        location: how errors name the root; its path as a ``file:`` URL where it is empty.
    """

    def __init__(self, root: str | os.PathLike[str], location: str = "") -> None:
        self._root = os.fspath(root)
        self._location = location or f"file://{self._root}"
        self._lock = threading.Lock()
        self._fd: int | None = None

    def __repr__(self) -> str:
        return f"<FilesStore {self._location}>"

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        with self._lock:
            fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)

    @property
    def client(self) -> Any:
        """None: there is no SDK behind a folder."""
        return None

    @property
    def enforces_conditions(self) -> bool:
        """False: creating is atomic here, but between comparing an ETag and the rename another writer may come."""
        return False

    # Descending.

    def _where(self, key: str) -> str:
        shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in key)
        return f"{self._location}/{shown}"

    @contextmanager
    def _speaking(self, op: str, key: str) -> Iterator[None]:
        """Turn what the system says in the block into this toolkit's errors."""
        try:
            yield
        except ToolkitError:
            raise
        except OSError as error:
            where = self._where(key)
            if error.errno in {errno.ENOENT, errno.ENOTDIR}:
                raise ObjectNotFound(f"{op} {where}: no such file", op=op, location=where) from error
            if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
                raise AccessDenied(f"{op} {where}: {error.strerror}", op=op, location=where) from error
            raise StoreError(f"{op} {where}: {error.strerror}", op=op, location=where) from error

    def _parts(self, op: str, key: str) -> tuple[list[bytes], bytes]:
        """The folders and the name that a key is made of."""
        *folders, name = os.fsencode(key).split(b"/")
        if any(part in {b"", b".", b".."} or b"\0" in part for part in (*folders, name)):
            where = self._where(key)
            raise AccessDenied(f"{op} {where}: not a path below the root", op=op, location=where)
        return folders, name

    def _top(self, op: str) -> int:
        """A descriptor of the root, for the caller to close."""
        with self._lock:
            if self._fd is None:
                try:
                    self._fd = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                except (FileNotFoundError, NotADirectoryError) as error:
                    message = f"{op} {self._location}: no such folder"
                    hint = "make the folder first"
                    raise BucketNotFound(message, op=op, location=self._location, hint=hint) from error
                except OSError as error:
                    message = f"{op} {self._location}: {error.strerror}"
                    raise AccessDenied(message, op=op, location=self._location) from error
            return os.dup(self._fd)

    def _refuse_link(self, op: str, key: str, name: bytes, folder: int) -> None:
        """Say that ``name`` is a link, where the system says that it is no folder, or has too many links."""
        try:
            status = os.stat(name, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            return
        if stat.S_ISLNK(status.st_mode):
            where = self._where(key)
            message = f"{op} {where}: {os.fsdecode(name)!r} is a symbolic link; links are not followed"
            raise AccessDenied(message, op=op, location=where)

    @contextmanager
    def _folder(self, op: str, key: str, folders: list[bytes], *, make: bool = False) -> Iterator[int]:
        """The open folder that ``folders`` name below the root."""
        current = self._top(op)
        try:
            with self._speaking(op, key):
                for name in folders:
                    below = self._step(op, key, current, name, make=make)
                    os.close(current)
                    current = below
            yield current
        finally:
            os.close(current)

    def _step(self, op: str, key: str, folder: int, name: bytes, *, make: bool) -> int:
        try:
            return os.open(name, _FOLDER, dir_fd=folder)
        except FileNotFoundError:
            if not make:
                raise
        except OSError:
            self._refuse_link(op, key, name, folder)
            raise
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o777, dir_fd=folder)
        return os.open(name, _FOLDER, dir_fd=folder)

    def _open_file(self, key: str) -> tuple[int, os.stat_result]:
        folders, name = self._parts("open", key)
        where = self._where(key)
        with self._folder("open", key, folders) as folder, self._speaking("open", key):
            try:
                # Not blocking: a FIFO would wait for its writer, and is refused below.
                fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
            except OSError:
                self._refuse_link("open", key, name, folder)
                raise
        status = os.fstat(fd)
        if stat.S_ISREG(status.st_mode):
            return fd, status
        os.close(fd)
        raise self._no_file("open", where, status)

    def _no_file(self, op: str, where: str, status: os.stat_result) -> StoreError:
        if stat.S_ISDIR(status.st_mode):
            return ObjectNotFound(f"{op} {where}: a folder, not a file", op=op, location=where)
        if stat.S_ISLNK(status.st_mode):
            return AccessDenied(f"{op} {where}: a symbolic link; links are not followed", op=op, location=where)
        return AccessDenied(f"{op} {where}: not a regular file", op=op, location=where)

    # The verbs.

    def open(
        self,
        key: str,
        *,
        start: int = 0,
        if_match: str | None = None,
        cancel: Cancel | None = None,
        on_retry: OnRetry | None = None,  # noqa: ARG002 - a local read is not repeated
    ) -> _FileReading:
        if cancel is not None:
            cancel.check()
        fd, status = self._open_file(key)
        where = self._where(key)
        reading = _FileReading(fd, _meta(key, status), where, start, cancel)
        said = ""
        if if_match is not None and reading.meta.etag != if_match:
            said = "not the expected file"
        elif start > status.st_size:
            said = f"cannot start at byte {start} of {status.st_size}"
        if said:
            reading.close()
            raise ObjectChanged(f"open {where}: {said}", op="open", location=where)
        return reading

    def write(
        self,
        key: str,
        buffers: Iterable[Buffer],
        *,
        size_hint_bytes: int | None = None,  # noqa: ARG002 - a file grows as it is written
        if_match: str | None = None,
        if_none_match: bool = False,
        content_type: str | None = None,  # noqa: ARG002 - a file has no such thing
        metadata: Mapping[str, str] | None = None,  # noqa: ARG002 - as above
        cancel: Cancel | None = None,
        on_retry: OnRetry | None = None,  # noqa: ARG002 - a local write is not repeated
    ) -> ObjectMeta:
        """Write all of ``buffers`` as the file ``key``; parent folders are made.

        ``if_none_match`` is atomic: the finished file is linked to its name. ``if_match`` is compared before the first
        byte and again just before the rename; another writer in between is not noticed. A content type and metadata
        have no place in a file and are dropped.
        """
        folders, name = self._parts("write", key)
        if _PARTIAL.fullmatch(name):
            where = self._where(key)
            raise AccessDenied(f"write {where}: such names are kept for unfinished files", op="write", location=where)
        with self._folder("write", key, folders, make=True) as folder:
            self._compare(key, folder, name, if_match, if_none_match=if_none_match)
            scratch = b"." + name[:200] + f".partial-{os.urandom(8).hex()}".encode()
            try:
                status = self._fill(key, folder, scratch, buffers, cancel)
                self._publish(key, folder, scratch, name, if_match, if_none_match=if_none_match)
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(scratch, dir_fd=folder)
            return _meta(key, status)

    def _fill(
        self, key: str, folder: int, scratch: bytes, buffers: Iterable[Buffer], cancel: Cancel | None
    ) -> os.stat_result:
        # The caller's iterator runs outside of _speaking: what it raises is the caller's, and passes through.
        with self._speaking("write", key):
            fd = os.open(
                scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666, dir_fd=folder
            )
        try:
            for buffer in buffers:
                if cancel is not None:
                    cancel.check()
                view = memoryview(buffer).cast("B")
                with self._speaking("write", key):
                    while len(view):
                        view = view[os.write(fd, view) :]
            if cancel is not None:
                cancel.check()
            return os.fstat(fd)
        finally:
            os.close(fd)

    def _publish(
        self, key: str, folder: int, scratch: bytes, name: bytes, if_match: str | None, *, if_none_match: bool
    ) -> None:
        with self._speaking("write", key):
            if if_none_match:
                try:
                    os.link(scratch, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
                except FileExistsError as error:
                    raise self._changed(key, "the file exists already") from error
                return
            self._compare(key, folder, name, if_match, if_none_match=False)
            os.replace(scratch, name, src_dir_fd=folder, dst_dir_fd=folder)

    def _compare(self, key: str, folder: int, name: bytes, if_match: str | None, *, if_none_match: bool) -> None:
        with self._speaking("write", key):
            try:
                status = os.stat(name, dir_fd=folder, follow_symlinks=False)
            except FileNotFoundError:
                if if_match is not None:
                    raise self._changed(key, "the file is gone") from None
                return
            if not stat.S_ISREG(status.st_mode):
                where = self._where(key)
                what = "a symbolic link" if stat.S_ISLNK(status.st_mode) else "no regular file"
                message = f"write {where}: {what} has this name"
                raise AccessDenied(message, op="write", location=where)
            if if_none_match:
                raise self._changed(key, "the file exists already")
            if if_match is not None and _etag(status) != if_match:
                raise self._changed(key, "not the expected file")

    def _changed(self, key: str, said: str) -> ObjectChanged:
        where = self._where(key)
        return ObjectChanged(f"write {where}: {said}", op="write", location=where)

    def head(self, key: str, *, checksums: bool = False, cancel: Cancel | None = None) -> ObjectMeta:  # noqa: ARG002 - the protocol has none
        if cancel is not None:
            cancel.check()
        folders, name = self._parts("head", key)
        with self._folder("head", key, folders) as folder, self._speaking("head", key):
            status = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if not stat.S_ISREG(status.st_mode):
            raise self._no_file("head", self._where(key), status)
        return _meta(key, status)

    def list(self, prefix: str = "", *, recursive: bool = True, cancel: Cancel | None = None) -> Iterator[ObjectMeta]:
        """Every regular file whose key starts with ``prefix``, sorted by the key's bytes. Links are not objects."""
        wanted = os.fsencode(prefix)
        top = wanted.rpartition(b"/")[0]
        pending = [top + b"/" if top else b""]
        while pending:
            if cancel is not None:
                cancel.check()
            path = pending.pop()
            if path and not path.endswith(b"/"):
                with contextlib.suppress(ObjectNotFound):  # removed since its folder was read
                    yield self.head(os.fsdecode(path))
                continue
            if not recursive and len(path) > len(wanted):
                yield ObjectMeta(key=os.fsdecode(path))
                continue
            # A folder's key in the order of bytes is its name with the slash: "a-b" sorts before "a/b".
            inside = sorted(path + name for name in self._names(path))
            pending += [inner for inner in reversed(inside) if inner.startswith(wanted) or wanted.startswith(inner)]

    def _names(self, path: bytes) -> Sequence[bytes]:
        """What lies in a folder: regular files as they are named, folders with a slash."""
        key = os.fsdecode(path.rstrip(b"/"))
        folders = []
        if path:
            above, last = self._parts("list", key)
            folders = [*above, last]
        names = []
        try:
            with self._folder("list", key, folders) as folder, self._speaking("list", key), os.scandir(folder) as found:
                for entry in found:
                    name = os.fsencode(entry.name)
                    if entry.is_dir(follow_symlinks=False):
                        names.append(name + b"/")
                    elif entry.is_file(follow_symlinks=False) and not _PARTIAL.fullmatch(name):
                        names.append(name)
        except ObjectNotFound:
            return []
        return names

    def delete(self, key: str, *, cancel: Cancel | None = None) -> None:
        if cancel is not None:
            cancel.check()
        folders, name = self._parts("delete", key)
        with (
            contextlib.suppress(ObjectNotFound),
            self._folder("delete", key, folders) as folder,
            self._speaking("delete", key),
        ):
            status = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if not stat.S_ISREG(status.st_mode):
                raise self._no_file("delete", self._where(key), status)
            os.unlink(name, dir_fd=folder)

    def sign(self, key: str, method: str = "GET", *, expires_seconds: int = 3600) -> str:  # noqa: ARG002 - refused
        """Always NotSupported: nothing serves a folder by URL."""
        where = self._where(key)
        raise NotSupported(f"sign {where}: a file has no signed URL", op="sign", location=where)


def _etag(status: os.stat_result) -> str:
    return f'"{status.st_ino:x}-{status.st_mtime_ns:x}-{status.st_size:x}"'


def _meta(key: str, status: os.stat_result) -> ObjectMeta:
    return ObjectMeta(
        key=key,
        size_bytes=status.st_size,
        etag=_etag(status),
        modified=datetime.fromtimestamp(status.st_mtime, UTC),
    )


class _FileReading:
    """An open file, read in place from ``start`` to the size it had when it was opened."""

    pinned = "weak"

    def __init__(self, fd: int, meta: ObjectMeta, where: str, start: int, cancel: Cancel | None) -> None:
        self.meta = meta
        self._file = os.fdopen(fd, "rb", buffering=0)
        self._where = where
        self._position = start
        self._cancel = cancel

    def __iter__(self) -> Iterator[Buffer]:
        return self

    def __next__(self) -> Buffer:
        if self._cancel is not None:
            self._cancel.check()
        size = self.meta.size_bytes or 0
        fd = self._file.fileno()
        try:
            chunk = os.pread(fd, min(READ_BYTES, size - self._position), self._position)
        except OSError as error:
            message = f"open {self._where}: {error.strerror}"
            raise StoreError(message, op="open", location=self._where) from error
        if _etag(os.fstat(fd)) != self.meta.etag or (not chunk and self._position < size):
            message = f"open {self._where}: the file changed while it was read"
            raise ObjectChanged(message, op="open", location=self._where)
        if not chunk:
            raise StopIteration
        self._position += len(chunk)
        return chunk

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
