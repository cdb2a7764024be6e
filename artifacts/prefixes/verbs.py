"""The four verbs of prefixes."""

from __future__ import annotations

import contextlib
import functools
import os
import stat
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from artifacts import transfer
from artifacts.errors import DiskError, UnsafeKey
from artifacts.events import OnEvent, Receipt
from artifacts.objects import Access, How
from artifacts.prefixes.folder import Folder, Paths, unsafe
from artifacts.prefixes.job import Job, Piece
from artifacts.prefixes.same import OLD_FILE, same, same_md5, stamp
from artifacts.scratch import SCRATCH
from artifacts.text import printable
from artifacts.turns import Turns
from creds.store import Buffer, Cancel, ObjectMeta


def get_prefix(
    url: str,
    path: str | os.PathLike[str],
    *,
    dry_run: bool = False,
    parallel: int | None = None,
    access: Access | None = None,
    how: How | None = None,
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
        parallel: objects moved side by side; None is what the server bears and this machine has use for.
        how: as :func:`artifacts.get` takes it; the whole prefix counts as one transfer of this machine.

    Returns:
        One receipt an object, sorted by label, which is the key below the prefix.

    Raises:
        ObjectNotFound: nothing lies below the prefix.
        PrefixError: objects failed; it has their errors and all receipts.
        CredsError, DiskError, Cancelled.
    """
    with (
        Job("get", url, access, on_event, cancel, dry_run=dry_run, parallel=parallel, how=how) as job,
        Folder(os.fspath(path), dry_run=dry_run) as folder,
    ):
        return job.run(_Getting(job, folder).pieces())


def put_prefix(
    path: str | os.PathLike[str],
    url: str,
    *,
    dry_run: bool = False,
    parallel: int | None = None,
    access: Access | None = None,
    how: How | None = None,
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
        parallel: objects moved side by side; None is what the server bears and this machine has use for.
        how: as :func:`artifacts.put` takes it; the whole folder counts as one transfer of this machine.

    Returns:
        One receipt a file, sorted by label, which is its path below the folder.

    Raises:
        PrefixError: files failed; it has their errors and all receipts.
        CredsError, DiskError, Cancelled.
    """
    _check_readable(os.fspath(path))
    with Job("put", url, access, on_event, cancel, dry_run=dry_run, parallel=parallel, how=how) as job:
        return job.run(_Putting(job).pieces(os.fspath(path)))


def remove_prefix(
    url: str,
    *,
    dry_run: bool = False,
    parallel: int | None = None,
    access: Access | None = None,
    on_event: OnEvent | None = None,
    cancel: Cancel | None = None,
) -> tuple[Receipt, ...]:
    """Delete every object below a prefix; none is no error. Folders of servers of files stay.

    Args:
        url: ends with ``/``.
        dry_run: say what would be deleted, and delete nothing.
        parallel: objects deleted side by side; None as :func:`get_prefix` takes it.

    Returns:
        One receipt an object, sorted by label, which is the key below the prefix.

    Raises:
        PrefixError: objects failed; it has their errors and all receipts.
        CredsError, Cancelled.
    """
    with Job("delete", url, access, on_event, cancel, dry_run=dry_run, parallel=parallel) as job:

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
    parallel: int | None = None,
    access: Access | None = None,
    on_event: OnEvent | None = None,
    cancel: Cancel | None = None,
) -> tuple[Receipt, ...]:
    """Copy every object below a prefix to another, through this machine and not onto its disk.

    Objects of one size whose ETags are one MD5 are the same, and are not copied. Nothing below ``target`` is deleted.

    Args:
        source, target: end with ``/``.
        dry_run: say what would be copied, and copy nothing.
        parallel: objects copied side by side; None as :func:`get_prefix` takes it.

    Returns:
        One receipt an object, sorted by label, which is the key below the prefix.

    Raises:
        ObjectNotFound: nothing lies below ``source``.
        PrefixError: objects failed; it has their errors and all receipts.
        CredsError, Cancelled.
    """
    with (
        Job("put", target, access, on_event, cancel, dry_run=dry_run, parallel=parallel) as job,
        Job("get", source, access, None, job.cancel, dry_run=dry_run, parallel=parallel) as origin,
    ):
        there = dict(job.listed())

        def copy(label: str, meta: ObjectMeta) -> Receipt:
            old = there.get(label)
            if old is not None and same_md5(old, meta):
                return job.receipt(label, "unchanged", old, object_bytes=old.size_bytes)
            if dry_run:
                return job.receipt(label, "planned", object_bytes=meta.size_bytes)
            on_retry = job.report.on_retry(job.op, label)
            with (
                job.few_large.turn(meta.size_bytes),
                origin.store.open(meta.key, cancel=job.cancel, on_retry=on_retry) as reading,
            ):
                return job.sent(label, transfer.reading_source(reading))

        pieces = origin.listed(empty_is_missing=True)
        return job.run(((label, functools.partial(copy, label, meta)) for label, meta in pieces), origin)


class _Getting:
    """Brings one object after the other into the folder."""

    def __init__(self, job: Job, folder: Folder) -> None:
        self._job = job
        self._folder = folder
        self._turns = Turns()

    def pieces(self) -> Iterator[Piece]:
        """What is to be done, in the listing's order; marks of folders are passed over."""
        paths = Paths()
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
            old = None if at is None or self._folder.was_empty else _status(name, at)
        except NotADirectoryError:
            raise unsafe(label, "needs a folder where a file or link is") from None
        if old is not None and not stat.S_ISREG(old.st_mode):
            raise unsafe(label, "is a file, and something else has its name here")
        here = printable(f"{self._folder.path}/{os.fsdecode(path)}")
        if old is not None and at is not None and same(name, at, old, meta, by_time=True, cancel=self._job.cancel):
            return self._job.receipt(label, "unchanged", meta, path=here, object_bytes=meta.size_bytes)
        if self._job.dry_run:
            return self._job.receipt(label, "planned", meta, path=here, object_bytes=meta.size_bytes)
        assert at is not None
        with self._job.few_large.turn(meta.size_bytes):
            return self._fetch(meta, label, here, at, name)

    def _fetch(self, meta: ObjectMeta, label: str, here: str, at: int, name: bytes) -> Receipt:
        job, began = self._job, time.time()
        with transfer.Incoming(job.store, meta.key, job.asked(label)) as incoming:
            whole = incoming.whole()
            if whole is None:
                with self._filling(at, name) as descriptor:
                    self._write(descriptor, incoming.buffers)
                    verified = incoming.verify()
                    stamp(descriptor, meta, incoming.reading.meta, began)
            else:
                verified = incoming.verify()
        if whole is not None:
            with self._turns.taken(), self._filling(at, name) as descriptor:
                self._write(descriptor, whole)
                stamp(descriptor, meta, incoming.reading.meta, began)
        done = incoming.done(transfer.plain(incoming.tap.count), verified)
        warnings = tuple({**warning, "path": warning["path"] or here} for warning in done.warnings)
        return job.receipt(label, "done", path=here, **done.facts(), warnings=warnings)

    @contextlib.contextmanager
    def _filling(self, at: int, name: bytes) -> Iterator[int]:
        """A descriptor of a new file, which has its name when the ``with`` block has ended."""
        descriptor, scratch = self._folder.new_file()
        try:
            try:
                yield descriptor
            finally:
                os.close(descriptor)
            os.rename(scratch, name, src_dir_fd=self._folder.scratch, dst_dir_fd=at)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(scratch, dir_fd=self._folder.scratch)
            raise

    def _write(self, descriptor: int, buffers: Iterable[Buffer]) -> None:
        progress = self._job.progress
        for buffer in buffers:
            size = len(buffer)
            written = os.write(descriptor, buffer)
            while written < size:
                written += os.write(descriptor, memoryview(buffer)[written:])
            if progress is not None:
                progress.add(size)


def _refuse(error: UnsafeKey) -> Receipt:
    raise error


def _status(name: bytes, at: int) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=at, follow_symlinks=False)
    except FileNotFoundError:
        return None


@dataclass(frozen=True, slots=True)
class _File:
    """Something below a folder that is to be sent; ``name`` is its path below it, ``error`` why it cannot be read."""

    name: str
    path: str
    regular: bool = True
    error: OSError | None = None


def _check_readable(path: str) -> None:
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK))
    except OSError as error:
        raise DiskError.of("read", printable(path), error) from error


def _files(path: str) -> Iterator[_File]:
    """What lies below a folder, but for folders that can be read and what is unfinished; or the one file itself."""
    if not os.path.isdir(path):  # noqa: PTH112 - as it was given
        yield _File(os.path.basename(path), path)  # noqa: PTH119 - as it was given
        return
    pending = [("", path)]
    while pending:
        above, folder = pending.pop()
        try:
            with os.scandir(folder) as found:
                entries = sorted(found, key=lambda entry: os.fsencode(entry.name))
        except OSError as error:
            yield _File(above, folder, error=error)
            continue
        below = []
        for entry in entries:
            name = above + entry.name
            if entry.is_dir(follow_symlinks=False):
                if above or not SCRATCH.fullmatch(os.fsencode(entry.name)):
                    below.append((name + "/", entry.path))
            else:
                yield _File(name, entry.path, regular=entry.is_file(follow_symlinks=False))
        pending += reversed(below)


class _Putting:
    """Sends one file after the other."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._there: dict[str, ObjectMeta] = {}

    def pieces(self, path: str) -> Iterator[Piece]:
        """What is to be done, in the order of the names."""
        self._there = dict(self._job.listed())
        for file in _files(path):
            yield file.name, functools.partial(self._put, file)

    def _put(self, file: _File) -> Receipt:
        job, label, path = self._job, file.name, printable(file.path)
        if file.error is not None:
            raise DiskError.of("read", path, file.error) from file.error
        if not file.regular:
            return job.receipt(label, "skipped", path=path, warnings=({"code": "no-file", "path": path},))
        if not _is_text(label):
            raise UnsafeKey(f"the name {printable(label)!r} is no Unicode text, as keys are", hint="rename the file")
        try:
            descriptor = os.open(file.path, OLD_FILE)
        except OSError as error:
            raise DiskError.of("read", path, error) from error
        try:
            status, meta = os.fstat(descriptor), self._there.get(label)
            if meta is not None and same(file.path, None, status, meta, by_time=False, cancel=job.cancel):
                return job.receipt(label, "unchanged", meta, path=path, object_bytes=status.st_size)
            if job.dry_run:
                return job.receipt(label, "planned", path=path, object_bytes=status.st_size)
            with job.few_large.turn(status.st_size):
                return job.sent(label, transfer.file_source(descriptor, path), path)
        finally:
            os.close(descriptor)


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
