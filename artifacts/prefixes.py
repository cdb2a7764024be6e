"""Many objects and one folder: what ``get``, ``put``, ``rm`` and ``cp`` do with a prefix, a URL that ends with ``/``.

The objects move side by side while the prefix is still being listed, over one store: its connections and its window
are shared. Each is whole or not there, an object that fails does not stop the others, and nothing is deleted that was
not asked for. A failure that would meet every object (the server is gone, the keys are refused, the disk is full) ends
the work instead of being met a thousand times.

What is the same here and there is not moved. That is never a guess:

==========================================  ==========================================================================
what is known of the object                 it is the same when
==========================================  ==========================================================================
its size                                    the file has that size, and one of:
an ETag that is an MD5                      the file's bytes have that MD5
an ETag that is made of the parts' MD5s     the file, cut into parts of a usual size, has that ETag
any other ETag, or none: ``get``            the file has the object's time, which ``get`` gave it
any other ETag, or none: ``put``, ``cp``    never: it is sent again
==========================================  ==========================================================================

``get`` gives a file its object's time only if the object was older than two seconds: servers tell times in seconds,
and one that is replaced within the second must not look the same.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import itertools
import os
import queue
import re
import secrets
import shutil
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from artifacts import transfer
from artifacts.archive.folders import OPEN_FOLDER, Folders
from artifacts.errors import DiskError, IntegrityError, PrefixError, UnsafeKey
from artifacts.events import OnEvent, Progress, Receipt, Report, Started, error_facts
from artifacts.objects import Access
from artifacts.staging import resolved_facts
from artifacts.text import printable
from creds.errors import (
    Cancelled,
    LocationError,
    ObjectNotFound,
    RefreshError,
    StoreError,
    ToolkitError,
    Unauthenticated,
)
from creds.location import quoted
from creds.resolve import Resolved
from creds.store import Cancel, ObjectMeta, Store

_Piece = tuple[str, Callable[[], Receipt]]
"""An object's label, and what is to be done with it."""

DEFAULT_PARALLEL = 16
_AHEAD = 2048
"""Objects that are listed ahead of those at work: about two pages of S3."""
_READ_BYTES = 1 << 20
_MAX_NAME_BYTES = 255
_MAX_PATH_BYTES = 4095
_SETTLED_SECONDS = 2.0
_MIB = 1 << 20
_USUAL_PARTS = tuple(size * _MIB for size in (5, 8, 10, 15, 16, 20, 25, 32, 50, 64, 100, 128, 256, 512, 1024))
_MD5 = re.compile(r'"([0-9a-fA-F]{32})"')
_PARTS_MD5 = re.compile(r'"([0-9a-fA-F]{32})-([1-9][0-9]{0,4})"')
_SCRATCH = re.compile(rb"\.artifacts-partial-[0-9a-f]{16}")
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OLD_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def get_prefix(
    url: str,
    path: str | os.PathLike[str],
    *,
    dry_run: bool = False,
    parallel: int = DEFAULT_PARALLEL,
    access: Access | None = None,
    on_event: OnEvent | None = None,
    cancel: Cancel | None = None,
) -> tuple[Receipt, ...]:
    """Fetch every object below a prefix into a folder, but for those that are there already.

    A key becomes a path below the folder. A key that cannot (``..``, an empty part, a NUL, a name that is too long, a
    file where a folder must be) is refused by its name, and the others are fetched. Keys that end with ``/`` and hold
    nothing mark folders, and are passed over. Nothing in the folder is deleted.

    Args:
        url: ends with ``/``.
        path: the folder; made when it is missing.
        dry_run: say what would be fetched, and touch nothing.
        parallel: objects moved side by side.

    Returns:
        One receipt an object, sorted by label, which is the key below the prefix.

    Raises:
        ObjectNotFound: nothing lies below the prefix.
        PrefixError: objects failed; it has their errors and all receipts.
        CredsError, DiskError, Cancelled.
    """
    with (
        _Job("get", url, access, on_event, cancel, dry_run=dry_run, parallel=parallel) as job,
        _Folder(os.fspath(path), dry_run=dry_run) as folder,
    ):
        return job.run(_Getting(job, folder).pieces())


def put_prefix(
    path: str | os.PathLike[str],
    url: str,
    *,
    dry_run: bool = False,
    parallel: int = DEFAULT_PARALLEL,
    access: Access | None = None,
    on_event: OnEvent | None = None,
    cancel: Cancel | None = None,
) -> tuple[Receipt, ...]:
    """Send every file below a folder, or one file, to a prefix, but for those that are there already.

    Links are not followed, and only files are stored: what is skipped has a receipt that says so. Nothing below the
    prefix is deleted.

    Args:
        path: a folder, or a file that is put under its own name.
        url: ends with ``/``.
        dry_run: say what would be sent, and send nothing.
        parallel: objects moved side by side.

    Returns:
        One receipt a file, sorted by label, which is its path below the folder.

    Raises:
        PrefixError: files failed; it has their errors and all receipts.
        CredsError, DiskError, Cancelled.
    """
    _check_readable(os.fspath(path))
    with _Job("put", url, access, on_event, cancel, dry_run=dry_run, parallel=parallel) as job:
        return job.run(_Putting(job).pieces(os.fspath(path)))


def remove_prefix(
    url: str,
    *,
    dry_run: bool = False,
    parallel: int = DEFAULT_PARALLEL,
    access: Access | None = None,
    on_event: OnEvent | None = None,
    cancel: Cancel | None = None,
) -> tuple[Receipt, ...]:
    """Delete every object below a prefix; none is no error. Folders of servers of files stay.

    Args:
        url: ends with ``/``.
        dry_run: say what would be deleted, and delete nothing.
        parallel: objects deleted side by side.

    Returns:
        One receipt an object, sorted by label, which is the key below the prefix.

    Raises:
        PrefixError: objects failed; it has their errors and all receipts.
        CredsError, Cancelled.
    """
    with _Job("delete", url, access, on_event, cancel, dry_run=dry_run, parallel=parallel) as job:

        def remove(label: str, meta: ObjectMeta) -> Receipt:
            if not dry_run:
                job.store.delete(meta.key, cancel=job.cancel)
            return job.receipt(label, "planned" if dry_run else "done", meta, object_bytes=meta.size_bytes)

        return job.run((label, functools.partial(remove, label, meta)) for label, meta in job.listed())


def copy_prefix(
    source: str,
    target: str,
    *,
    dry_run: bool = False,
    parallel: int = DEFAULT_PARALLEL,
    access: Access | None = None,
    on_event: OnEvent | None = None,
    cancel: Cancel | None = None,
) -> tuple[Receipt, ...]:
    """Copy every object below a prefix to another, through this machine and not onto its disk.

    Objects of one size whose ETags are one MD5 are the same, and are not copied. Nothing below ``target`` is deleted.

    Args:
        source, target: end with ``/``.
        dry_run: say what would be copied, and copy nothing.
        parallel: objects copied side by side.

    Returns:
        One receipt an object, sorted by label, which is the key below the prefix.

    Raises:
        ObjectNotFound: nothing lies below ``source``.
        PrefixError: objects failed; it has their errors and all receipts.
        CredsError, Cancelled.
    """
    with (
        _Job("put", target, access, on_event, cancel, dry_run=dry_run, parallel=parallel) as job,
        _Job("get", source, access, None, job.cancel, dry_run=dry_run, parallel=parallel) as origin,
    ):
        there = dict(job.listed())

        def copy(label: str, meta: ObjectMeta) -> Receipt:
            old = there.get(label)
            if old is not None and _same_md5(old, meta):
                return job.receipt(label, "unchanged", old, object_bytes=old.size_bytes)
            if dry_run:
                return job.receipt(label, "planned", object_bytes=meta.size_bytes)
            on_retry = job.report.on_retry(job.op, label)
            with origin.store.open(meta.key, cancel=job.cancel, on_retry=on_retry) as reading:
                return job.sent(label, transfer.reading_source(reading))

        pieces = origin.listed(empty_is_missing=True)
        return job.run((label, functools.partial(copy, label, meta)) for label, meta in pieces)


def _same_md5(some: ObjectMeta, other: ObjectMeta) -> bool:
    """Do both have one size, and one ETag that is an MD5?"""
    return (
        some.size_bytes == other.size_bytes
        and some.etag is not None
        and some.etag == other.etag
        and _MD5.fullmatch(some.etag) is not None
    )


class _Job:
    """One command on one prefix: its store, who works on what side by side, and what is told of it."""

    def __init__(
        self,
        op: str,
        url: str,
        access: Access | None,
        on_event: OnEvent | None,
        cancel: Cancel | None,
        *,
        dry_run: bool,
        parallel: int,
    ) -> None:
        if not url.endswith("/"):
            raise LocationError("the URL is no prefix: it does not end with '/'", hint="end it with '/'")
        self.op = op
        self.resolved: Resolved = (access or Access()).resolve(url, prefix=True)
        self.report = Report(on_event)
        self.dry_run = dry_run
        self.progress: _Progress | None = None
        self._outer = cancel or Cancel()
        self._parallel = max(1, parallel)
        self._facts = resolved_facts(self.resolved)
        self._where: str = self._facts.pop("location")
        if on_event is not None and not dry_run:
            self.progress = _Progress(op, self._where, self.report)

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self.cancel = stack.enter_context(self._outer.child())
            self.store: Store = stack.enter_context(contextlib.closing(self.resolved.open()))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def listed(self, *, empty_is_missing: bool = False) -> Iterator[tuple[str, ObjectMeta]]:
        """What lies below the prefix, each with its label: its key as it goes on after the prefix.

        Raises:
            ObjectNotFound: nothing does, and ``empty_is_missing``.
        """
        prefix, found = self.resolved.key, False
        for meta in self.store.list(prefix, cancel=self.cancel):
            if not meta.key.startswith(prefix):
                raise StoreError(f"list {self._where}: the server names a key outside of it", location=self._where)
            found = True
            yield meta.key[len(prefix) :], meta
        if empty_is_missing and not found:
            raise ObjectNotFound(
                f"nothing lies below {self._where}", op="list", location=self._where, hint="check the prefix"
            )

    def receipt(self, label: str, status: str, meta: ObjectMeta | None = None, **facts: Any) -> Receipt:
        """The receipt of one object that is over."""
        if meta is not None:
            facts |= {"etag": meta.etag, "version": meta.version}
        # Names of files that are no Unicode text would not print.
        shown = label if label.isascii() else label.encode("utf-8", "backslashreplace").decode()
        return self.report.receipt(self.op, shown, status, location=self._where + quoted(label), **self._facts, **facts)

    def sent(self, label: str, source: transfer.Source, path: str | None = None) -> Receipt:
        """Store one object, and its receipt."""
        done = transfer.upload(
            self.store,
            self.resolved.key + label,
            source,
            cancel=self.cancel,
            on_bytes=None if self.progress is None else self.progress.of_one(),
            on_retry=self.report.on_retry(self.op, label),
        )
        return self.receipt(label, "done", path=path, **done.facts())

    def run(self, pieces: Iterable[_Piece]) -> tuple[Receipt, ...]:
        """Do all pieces of work side by side, while they are still being found.

        Raises:
            PrefixError: some failed.
            Cancelled: the work was stopped. What is done is done.
            ToolkitError: the finding failed before anything was found.
        """
        if self.progress is not None:
            self.progress.begin()
        crowd = _Crowd(self)
        broken_off = crowd.feed(pieces, self._parallel)
        self._outer.check()
        if broken_off is not None:
            if not crowd.receipts:
                raise broken_off
            crowd.failures[self._where] = broken_off
        receipts = tuple(sorted(crowd.receipts, key=lambda receipt: receipt.label))
        if crowd.failures:
            said = f"{sum(receipt.status == 'failed' for receipt in receipts)} of {len(receipts)} objects failed"
            if broken_off is not None:
                said += f", and finding them broke off: {broken_off}"
            raise PrefixError(said, failures=crowd.failures, receipts=receipts)
        return receipts


class _Crowd:
    """Threads that share the pieces of one job."""

    def __init__(self, job: _Job) -> None:
        self._job = job
        self._waiting: queue.Queue[_Piece | None] = queue.Queue(_AHEAD)
        self._succeeded = 0.0  # when, by the monotonic clock, a piece last did
        self._broken: BaseException | None = None
        self.receipts: list[Receipt] = []
        self.failures: dict[str, ToolkitError] = {}

    def feed(self, pieces: Iterable[_Piece], parallel: int) -> ToolkitError | None:
        """Have all pieces done. What finding them failed with is returned, so that those found may be finished."""
        threads: list[threading.Thread] = []
        broken_off: ToolkitError | None = None
        try:
            for piece in pieces:
                self._waiting.put(piece)
                if len(threads) < parallel:
                    threads.append(threading.Thread(target=self._run, name="artifacts-prefix"))
                    threads[-1].start()
        except Cancelled:
            pass  # by the caller, who is told; or for a failure, which is
        except ToolkitError as error:
            broken_off = error
        except BaseException:
            self._job.cancel.cancel("stopped")
            raise
        finally:
            for _ in threads:
                self._waiting.put(None)
            for thread in threads:
                thread.join()
        if self._broken is not None:
            raise self._broken
        return broken_off

    def _run(self) -> None:
        while (piece := self._waiting.get()) is not None:
            try:
                self._do(*piece)
            except BaseException as error:  # noqa: BLE001 - a bug ends the job, in the thread that called
                self._broken = error
                self._job.cancel.cancel("stopped")

    def _do(self, label: str, work: Callable[[], Receipt]) -> None:
        began = time.monotonic()
        try:
            self._job.cancel.check()
            receipt = work()
            self._succeeded = time.monotonic()
        except Cancelled:
            receipt = self._job.receipt(label, "skipped")
        except ToolkitError as error:
            receipt = self._failed(label, error, began)
        except OSError as error:
            receipt = self._failed(label, DiskError.of("use", _named(error, label), error), began)
        self.receipts.append(receipt)

    def _failed(self, label: str, error: ToolkitError, began: float) -> Receipt:
        self.failures[label] = error
        everywhere = isinstance(error, Unauthenticated | RefreshError | DiskError)
        # One object may be out of order for long; where no other was served meanwhile, it is the server.
        if everywhere or (error.retryable and self._succeeded < began):
            self._job.cancel.cancel("an object failed as every other would")
        return self._job.receipt(label, "failed", error=error_facts(error))


def _named(error: OSError, label: str) -> str:
    name = error.filename
    return printable(os.fsdecode(name)) if isinstance(name, str | bytes) else label


class _Progress:
    """The bytes of all objects together, told about ten times a second."""

    def __init__(self, op: str, label: str, report: Report) -> None:
        self._op = op
        self._label = label
        self._report = report
        self._lock = threading.Lock()
        self._bytes = 0
        self._due = 0.0

    def begin(self) -> None:
        self._report.emit(Started(op=self._op, label=self._label, location=self._label))

    def add(self, count: int) -> None:
        with self._lock:
            self._bytes += count
            now = time.monotonic()
            if now < self._due:
                return
            self._due = now + transfer.PROGRESS_SECONDS
            done = self._bytes
        self._report.emit(Progress(op=self._op, label=self._label, done_bytes=done))

    def of_one(self) -> transfer.OnBytes:
        """What one transfer tells its own bytes so far."""
        before = 0

        def on_bytes(done: int, _total: int | None) -> None:
            nonlocal before
            self.add(done - before)
            before = done

        return on_bytes


# -- get ---------------------------------------------------------------------------------------------------------


class _Folder:
    """The folder that files are put into, each by a rename when it is whole.

    Files are written in a hidden folder of this process inside of it. One that a process left behind, which was killed,
    is removed by the next: the system's lock on it tells whether its owner is alive.
    """

    def __init__(self, path: str, *, dry_run: bool) -> None:
        self.path = path
        self._dry_run = dry_run
        self._stack = contextlib.ExitStack()
        self._numbers = itertools.count()
        self._local = threading.local()
        self.root: int | None = None
        self.scratch = -1

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
        if not self._dry_run:
            self._sweep()
            self._make_scratch(stack)

    def _make_scratch(self, stack: contextlib.ExitStack) -> None:
        while True:
            name = f".artifacts-partial-{secrets.token_hex(8)}"
            os.mkdir(name, 0o700, dir_fd=self.root)
            stack.callback(self._remove, name)
            try:
                self.scratch = os.open(name, OPEN_FOLDER, dir_fd=self.root)
                stack.callback(os.close, self.scratch)
                fcntl.flock(self.scratch, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(self.scratch).st_nlink:
                    return
            except (FileNotFoundError, BlockingIOError):
                pass  # another process took it for a dead one's before it was locked

    def _sweep(self) -> None:
        """Remove what dead processes left."""
        assert self.root is not None
        for name in os.listdir(self.root):  # noqa: PTH208 - of a descriptor
            if _SCRATCH.fullmatch(os.fsencode(name)) is None:
                continue
            with contextlib.suppress(OSError):  # in use by another process, or not ours to remove
                left = os.open(name, OPEN_FOLDER, dir_fd=self.root)
                try:
                    fcntl.flock(left, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    self._remove(name)
                finally:
                    os.close(left)

    def _remove(self, name: str) -> None:
        shutil.rmtree(name, ignore_errors=True, dir_fd=self.root)

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
            folders = self._local.folders = Folders(self.root)
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


class _Paths:
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
            raise _unsafe(label, "is no Unicode text") from None
        parts = path.split(b"/")
        if b"" in parts:
            raise _unsafe(label, "has an empty part")
        if b".." in parts or b"." in parts:
            raise _unsafe(label, "has a part that is '.' or '..'")
        if b"\0" in path:
            raise _unsafe(label, "has a NUL")
        if len(path) > _MAX_PATH_BYTES or max(map(len, parts)) > _MAX_NAME_BYTES:
            raise _unsafe(label, "is too long for a file's name")
        if _SCRATCH.fullmatch(parts[0]):
            raise _unsafe(label, "begins with a name that is kept for unfinished files")
        if path in self._folders:
            raise _unsafe(label, "is a file, and there are keys below it")
        above = path
        while above := above.rpartition(b"/")[0]:
            if above in self._files:
                raise _unsafe(label, f"lies below {printable(os.fsdecode(above))!r}, which is a file")
            if above in self._folders:
                break
            self._folders.add(above)
        self._files.add(path)
        return path


def _unsafe(label: str, why: str) -> UnsafeKey:
    return UnsafeKey(f"the key {printable(label)!r} {why}", hint="fetch it by itself, to a name of your choice")


class _Getting:
    """Brings one object after the other into the folder."""

    def __init__(self, job: _Job, folder: _Folder) -> None:
        self._job = job
        self._folder = folder

    def pieces(self) -> Iterator[_Piece]:
        """What is to be done, in the listing's order; marks of folders are passed over."""
        paths = _Paths()
        for label, meta in self._job.listed(empty_is_missing=True):
            if (not label or label.endswith("/")) and not meta.size_bytes:
                continue
            try:
                path = paths.path(label)
            except UnsafeKey as error:
                yield label, functools.partial(_refuse, error)
            else:
                yield label, functools.partial(self._get, label, meta, path)

    def _get(self, label: str, meta: ObjectMeta, path: bytes) -> Receipt:
        parent, _, name = path.rpartition(b"/")
        try:
            at = self._folder.parent(parent, make=not self._job.dry_run)
            old = None if at is None else _status(name, at)
        except NotADirectoryError:
            raise _unsafe(label, "needs a folder where a file or link is") from None
        if old is not None and not stat.S_ISREG(old.st_mode):
            raise _unsafe(label, "is a file, and something else has its name here")
        here = printable(f"{self._folder.path}/{os.fsdecode(path)}")
        if old is not None and at is not None and _same(name, at, old, meta, by_time=True):
            return self._job.receipt(label, "unchanged", meta, path=here, object_bytes=meta.size_bytes)
        if self._job.dry_run:
            return self._job.receipt(label, "planned", meta, path=here, object_bytes=meta.size_bytes)
        assert at is not None
        return self._fetch(meta, label, here, at, name)

    def _fetch(self, meta: ObjectMeta, label: str, here: str, at: int, name: bytes) -> Receipt:
        job, began = self._job, time.monotonic()
        attempts = transfer.Attempts(job.report.on_retry(job.op, label))
        descriptor, scratch = self._folder.new_file()
        try:
            try:
                now, count, pinned = self._fill(descriptor, meta.key, attempts)
                _stamp(descriptor, meta, now, time.time() - (time.monotonic() - began))
            finally:
                os.close(descriptor)
            os.rename(scratch, name, src_dir_fd=self._folder.scratch, dst_dir_fd=at)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(scratch, dir_fd=self._folder.scratch)
            raise
        seconds = time.monotonic() - began
        return job.receipt(
            label,
            "done",
            now,
            path=here,
            object_bytes=count,
            unpacked_bytes=count,
            members=1,
            pinned=pinned,
            attempts=attempts.count,
            seconds=round(seconds, 3),
            bytes_per_second=int(count / seconds) if seconds > 0 else None,
        )

    def _fill(self, descriptor: int, key: str, attempts: transfer.Attempts) -> tuple[ObjectMeta, int, str]:
        job, count, progress = self._job, 0, self._job.progress
        with job.store.open(key, cancel=job.cancel, on_retry=attempts) as reading:
            for buffer in reading:
                size = len(buffer)
                written = os.write(descriptor, buffer)
                while written < size:
                    written += os.write(descriptor, memoryview(buffer)[written:])
                count += size
                if progress is not None:
                    progress.add(size)
            now = reading.meta
            if now.size_bytes is not None and now.size_bytes != count:
                raise IntegrityError(f"the object has {now.size_bytes} bytes and {count} came", hint="fetch it again")
            return now, count, reading.pinned


def _refuse(error: UnsafeKey) -> Receipt:
    raise error


def _status(name: bytes, at: int) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=at, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _stamp(descriptor: int, listed: ObjectMeta, now: ObjectMeta, began: float) -> None:
    """Give a file the time that the listing told of its object, where the two are one generation that has settled."""
    modified = listed.modified
    if modified is None or listed.size_bytes != now.size_bytes or listed.etag not in (None, now.etag):
        return
    if now.modified is None or abs((now.modified - modified).total_seconds()) >= 1:
        return
    if began - modified.timestamp() > _SETTLED_SECONDS:
        os.utime(descriptor, ns=(time.time_ns(), _nanoseconds(modified)))


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _nanoseconds(moment: datetime) -> int:
    passed = moment - _EPOCH
    return (passed.days * 86_400 + passed.seconds) * 1_000_000_000 + passed.microseconds * 1000


# -- what is the same --------------------------------------------------------------------------------------------


def _same(name: str | bytes, at: int | None, status: os.stat_result, meta: ObjectMeta, *, by_time: bool) -> bool:
    """Is a file what an object is? See the module's table."""
    if meta.size_bytes is None or meta.size_bytes != status.st_size:
        return False
    etag = meta.etag or ""
    whole = _MD5.fullmatch(etag)
    if whole is not None:
        return _md5_of_parts(name, at, status, [status.st_size or 1]) == [whole[1].lower()]
    parts = _PARTS_MD5.fullmatch(etag)
    if parts is not None:
        sizes = _part_sizes(status.st_size, int(parts[2]))
        if parts[1].lower() in _md5_of_parts(name, at, status, sizes, nested=True):
            return True
    return by_time and meta.modified is not None and status.st_mtime_ns == _nanoseconds(meta.modified)


def _part_sizes(size: int, count: int) -> list[int]:
    """The usual sizes of parts that cut ``size`` bytes into ``count``."""
    even = -(-size // count)
    return sorted(
        {part for part in (*_USUAL_PARTS, even, -(-even // _MIB) * _MIB) if part and -(-size // part) == count}
    )


def _md5_of_parts(
    name: str | bytes, at: int | None, status: os.stat_result, sizes: list[int], *, nested: bool = False
) -> list[str]:
    """The MD5 of a file, or with ``nested`` those of its parts' MD5s for each size of part, in one pass over it."""
    if not sizes:
        return []
    cuts = [_Cut(size, nested=nested) for size in sizes]
    descriptor = os.open(name, _OLD_FILE, dir_fd=at)
    try:
        left = status.st_size
        while left and (buffer := os.read(descriptor, min(left, _READ_BYTES))):
            left -= len(buffer)
            for cut in cuts:
                cut.add(buffer)
    finally:
        os.close(descriptor)
    return [] if left else [cut.hexdigest() for cut in cuts]


class _Cut:
    """The digest of bytes that are cut into parts."""

    def __init__(self, size: int, *, nested: bool) -> None:
        self._size = size
        self._nested = nested
        self._left = size
        self._part = hashlib.md5(usedforsecurity=False)
        self._digests: list[bytes] = []

    def add(self, buffer: bytes) -> None:
        view = memoryview(buffer)
        while view:
            if not self._left:
                self._digests.append(self._part.digest())
                self._part, self._left = hashlib.md5(usedforsecurity=False), self._size
            piece = view[: self._left]
            self._part.update(piece)
            self._left -= len(piece)
            view = view[len(piece) :]

    def hexdigest(self) -> str:
        if not self._nested:
            return self._part.hexdigest()
        return hashlib.md5(b"".join((*self._digests, self._part.digest())), usedforsecurity=False).hexdigest()


# -- put ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _File:
    """Something below a folder that is to be sent; ``name`` is its path below it."""

    name: str
    path: str
    regular: bool


def _check_readable(path: str) -> None:
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK))
    except OSError as error:
        raise DiskError.of("read", printable(path), error) from error


def _files(path: str) -> Iterator[_File]:
    """What lies below a folder, but for folders and what is unfinished; or the one file itself.

    Raises:
        DiskError: a folder cannot be read.
    """
    if not os.path.isdir(path):  # noqa: PTH112 - as it was given
        yield _File(os.path.basename(path), path, regular=True)  # noqa: PTH119 - as it was given
        return
    pending = [("", path)]
    while pending:
        above, folder = pending.pop()
        try:
            with os.scandir(folder) as found:
                entries = sorted(found, key=lambda entry: os.fsencode(entry.name))
        except OSError as error:
            raise DiskError.of("read", printable(folder), error) from error
        below = []
        for entry in entries:
            name = above + entry.name
            if entry.is_dir(follow_symlinks=False):
                if above or not _SCRATCH.fullmatch(os.fsencode(entry.name)):
                    below.append((name + "/", entry.path))
            else:
                yield _File(name, entry.path, regular=entry.is_file(follow_symlinks=False))
        pending += reversed(below)


class _Putting:
    """Sends one file after the other."""

    def __init__(self, job: _Job) -> None:
        self._job = job
        self._there: dict[str, ObjectMeta] = {}

    def pieces(self, path: str) -> Iterator[_Piece]:
        """What is to be done, in the order of the names."""
        self._there = dict(self._job.listed())
        for file in _files(path):
            yield file.name, functools.partial(self._put, file)

    def _put(self, file: _File) -> Receipt:
        job, label, path = self._job, file.name, printable(file.path)
        if not file.regular:
            return job.receipt(label, "skipped", path=path, warnings=({"code": "no-file", "path": path},))
        if not _is_text(label):
            raise UnsafeKey(f"the name {printable(label)!r} is no Unicode text, as keys are", hint="rename the file")
        try:
            descriptor = os.open(file.path, _OLD_FILE)
        except OSError as error:
            raise DiskError.of("read", path, error) from error
        try:
            status, meta = os.fstat(descriptor), self._there.get(label)
            if meta is not None and _same(file.path, None, status, meta, by_time=False):
                return job.receipt(label, "unchanged", meta, path=path, object_bytes=status.st_size)
            if job.dry_run:
                return job.receipt(label, "planned", path=path, object_bytes=status.st_size)
            return job.sent(label, transfer.file_source(descriptor, path), path)
        finally:
            os.close(descriptor)


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
