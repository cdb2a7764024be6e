"""Single objects, with the caller's own authority: what ``get``, ``put``, ``ls``, ``stat``, ``rm`` and ``cp`` do.

``artifacts.prefixes`` has the same for many.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from stat import S_ISDIR
from typing import IO, TYPE_CHECKING, Any, Self, cast

from artifacts import transfer
from artifacts.errors import DiskError, FolderError, RequestError
from artifacts.events import OnEvent, Receipt, Report, Started, error_facts, resolved_facts
from artifacts.limits import FREE_SPACE, Budget, free_bytes
from artifacts.scratch import Scratch
from creds.errors import LocationError, ObjectChanged, ObjectNotFound, ToolkitError
from creds.location import Location
from creds.policy import Policy
from creds.resolve import Resolved, resolve
from creds.store import Buffer, Cancel, ObjectMeta, Reading, Store, StoreOptions

if TYPE_CHECKING:
    from artifacts.cache import BlobCache
    from artifacts.locks import HostSlots
    from creds.models import Credentials


_ONLY = "object"
"""The name of what is unfinished, while it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """As whom, and how, one object is reached.

    Attributes:
        credentials: None leaves it to ``options`` (``ambient``, ``profile``) or to nobody in particular.
        policy: None is the caller's own authority.
    """

    credentials: Credentials | None = None
    options: StoreOptions | None = None
    policy: Policy | None = None

    @classmethod
    def own(cls, profile: str | None = None) -> Self:
        """The caller's own AWS setup: a profile by name, or the machine's chain."""
        return cls(options=StoreOptions(ambient=profile is None, profile=profile))

    def resolve(self, url: str, *, prefix: bool = False) -> Resolved:
        """Where ``url`` is and how it is reached, without a connection.

        Args:
            prefix: many objects are meant, so the URL may have no key.

        Raises:
            LocationError, CredentialError, PolicyError.
        """
        location = Location.parse(url, prefix=prefix)
        if location is None:
            raise LocationError("the URL is empty")
        return resolve(location, self.credentials, self.options, self.policy or Policy.for_caller())


@dataclass(frozen=True, slots=True, kw_only=True)
class How:
    """How objects are moved, whatever they are and wherever.

    Attributes:
        cache: objects that are fetched are taken from it, and kept in it; None asks the store for every byte.
        verify: hold what is fetched to the checksum or ETag that its server has of it, where no digest is given. What
            has neither is fetched with the warning ``unverifiable``.
        slots: how many transfers this machine may have at once, over all processes that share them.
    """

    cache: BlobCache | None = None
    verify: bool = False
    slots: HostSlots | None = None

    def taken(self, report: Report, op: str, label: str, cancel: Cancel | None) -> AbstractContextManager[None]:
        """Wait until this machine may have one more transfer."""
        if self.slots is None:
            return contextlib.nullcontext()
        return self.slots.taken(cancel or Cancel(), report.on_wait(op, label))


class _Move:
    """One object on its way: its store, and what is told of it."""

    def __init__(
        self,
        op: str,
        resolved: Resolved,
        path: Path | None,
        report: Report,
        cancel: Cancel | None,
        how: How | None = None,
    ) -> None:
        self.op = op
        self.resolved = resolved
        self.path = path
        self.report = report
        self.cancel = cancel
        self.how = how or How()
        self.label = resolved.key.rpartition("/")[2]
        if not self.label:
            raise LocationError(
                f"{resolved.location} names no object",
                hint="the key must not end in '/'; get_prefix and put_prefix take prefixes",
            )

    def asked(self, promised: Mapping[str, Any]) -> transfer.Asked:
        return transfer.Asked(
            **promised,
            verify=self.how.verify,
            open=None if self.how.cache is None else self.how.cache.opener(self.resolved),
            cancel=self.cancel,
            on_bytes=self.report.on_bytes(self.op, self.label),
            on_retry=self.report.on_retry(self.op, self.label),
        )

    @contextlib.contextmanager
    def store(self) -> Iterator[Store]:
        with (
            self.how.taken(self.report, self.op, self.label, self.cancel),
            contextlib.closing(self.resolved.open()) as store,
        ):
            yield store

    def fetch(self, into: int, *, name: str, unpacking: bool, **promised: Any) -> transfer.Transferred:
        with self.store() as store:
            return transfer.fetch(
                store,
                self.resolved.key,
                into,
                self.asked(promised),
                name=name,
                unpacking=unpacking,
                budget=Budget(max_bytes=free_bytes(into), name=FREE_SPACE),
            )

    def upload(
        self, source: transfer.Source, *, if_absent: bool, journals: Path | None = None, **promised: Any
    ) -> transfer.Transferred:
        with contextlib.ExitStack() as opened:
            store = opened.enter_context(self.store())
            if journals is not None:
                from artifacts.journal import resuming

                name = f"{self.resolved.location}\0{self.path and self.path.absolute()}"
                store, source = opened.enter_context(resuming(store, source, journals, name, keeps=True))
            return transfer.upload(
                store,
                self.resolved.key,
                source,
                if_none_match=if_absent,
                **promised,
                cancel=self.cancel,
                on_bytes=self.report.on_bytes(self.op, self.label),
                on_retry=self.report.on_retry(self.op, self.label),
            )

    def started(self, total_bytes: int | None = None) -> None:
        self.report.emit(
            Started(op=self.op, label=self.label, location=str(self.resolved.location), total_bytes=total_bytes)
        )

    def done(self, moved: transfer.Transferred) -> Receipt:
        warnings = tuple({**warning, "path": warning["path"] or self.label} for warning in moved.warnings)
        return self._receipt("done", **moved.facts(), warnings=warnings)

    def over(self, status: str) -> Receipt:
        """The receipt where no bytes moved."""
        return self._receipt(status)

    def failed(self, error: ToolkitError) -> Receipt:
        return self._receipt("failed", error=error_facts(error))

    def _receipt(self, status: str, **facts: Any) -> Receipt:
        path = None if self.path is None else str(self.path)
        return self.report.receipt(self.op, self.label, status, path=path, **resolved_facts(self.resolved), **facts)


@contextlib.contextmanager
def _moving(
    op: str,
    url: str,
    path: Path | None,
    access: Access | None,
    on_event: OnEvent | None,
    cancel: Cancel | None,
    how: How | None = None,
) -> Iterator[_Move]:
    move = _Move(op, (access or Access()).resolve(url), path, Report(on_event), cancel, how)
    move.started()
    try:
        yield move
    except ToolkitError as error:
        move.failed(error)
        raise


def get(
    url: str,
    path: str | os.PathLike[str],
    *,
    unpack: bool = False,
    sha256: str | None = None,
    if_match: str | None = None,
    access: Access | None = None,
    how: How | None = None,
    on_event: OnEvent | None = None,
    cancel: Cancel | None = None,
) -> Receipt:
    """Fetch the object at ``url`` to ``path``, which appears whole or not at all.

    Args:
        path: the file, replaced when it exists, or a folder it is put into under the key's last segment; with
            ``unpack`` the folder to make, which must be missing or empty.
        unpack: unpack an archive.
        sha256: the digest, in hex digits, that the object must have; else nothing appears.
        if_match: the ETag that it must have.
        how: through which cache, verified, and as one of how many transfers of this machine.

    Raises:
        FolderError: ``unpack``, and ``path`` is not an empty folder.
        IntegrityError: the object has another digest.
        ObjectChanged: the object is not ``if_match``.
        CredsError, ArchiveError, LimitExceeded, DiskError, Cancelled.
    """
    target = Path(path)
    promised = _promised(sha256, if_match)
    with _moving("get", url, target, access, on_event, cancel, how) as move:
        if unpack:
            return move.done(_get_folder(move, target, **promised))
        if target.is_dir() or str(path).endswith("/"):
            move.path = target = target / move.label
        return move.done(_get_file(move, target, **promised))


def _promised(sha256: str | None, if_match: str | None) -> dict[str, Any]:
    """What a transfer holds the object to."""
    if sha256 is None:
        return {"expect": None, "if_match": quoted_etag(if_match)}
    from artifacts.digests import Digest

    expect = Digest.parse(sha256)
    if expect is None or expect.algorithm != "sha256":
        raise RequestError("the sha256 to compare with has not 64 hex digits")
    return {"expect": expect, "if_match": quoted_etag(if_match)}


def quoted_etag(etag: str | None) -> str | None:
    """An ETag as stores write it, in quotes: people leave them to their shell."""
    return etag if etag is None or etag.startswith(('"', "W/")) else f'"{etag}"'


def _get_folder(move: _Move, target: Path, **promised: Any) -> transfer.Transferred:
    if os.path.lexists(target) and (not target.is_dir() or any(target.iterdir())):
        raise FolderError(f"{target} exists and is not an empty folder", hint="give a new folder")
    with _scratch(target) as (_, scratch):
        place = target.parent / scratch.name
        with transfer.partial_folder(place, _ONLY) as partial:
            moved = move.fetch(partial.descriptor, name=move.label, unpacking=True, **promised)
            partial.publish(target)
    return moved


def _get_file(move: _Move, target: Path, **promised: Any) -> transfer.Transferred:
    with _scratch(target) as (parent, scratch):
        moved = move.fetch(scratch.descriptor, name=_ONLY, unpacking=False, **promised)
        os.rename(_ONLY, target.name, src_dir_fd=scratch.descriptor, dst_dir_fd=parent)
    return moved


@contextlib.contextmanager
def _scratch(target: Path) -> Iterator[tuple[int, Scratch]]:
    """The folder that ``target`` is in, made if it is missing, and one inside it for what is unfinished."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DiskError.of("make folder", str(target.parent), error) from error
    try:
        parent = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with Scratch(parent) as scratch:
                yield parent, scratch
        finally:
            os.close(parent)
    except OSError as error:
        if isinstance(error, ToolkitError):
            raise
        raise DiskError.of("write", str(target), error) from error


def get_stream(
    url: str,
    out: IO[bytes],
    *,
    sha256: str | None = None,
    if_match: str | None = None,
    access: Access | None = None,
    how: How | None = None,
    on_event: OnEvent | None = None,
    cancel: Cancel | None = None,
) -> Receipt:
    """Write the object at ``url`` to ``out`` as it comes. An error after the first byte leaves ``out`` cut short.

    Args:
        sha256: the digest, in hex digits, that the object must have; known when all of it was written.
        if_match: the ETag that it must have; looked at before the first byte.
        how: as :func:`get` takes it.

    Raises:
        IntegrityError, ObjectChanged: it has not.
        CredsError, Cancelled; OSError from ``out``.
    """
    promised = _promised(sha256, if_match)
    with _moving("get", url, None, access, on_event, cancel, how) as move:
        with move.store() as store:
            moved = transfer.copy(store, move.resolved.key, out, move.asked(promised))
        return move.done(moved)


def put(
    path: str | os.PathLike[str] | IO[bytes],
    url: str,
    *,
    if_absent: bool = False,
    if_match: str | None = None,
    sha256: str | None = None,
    resume: str | os.PathLike[str] | None = None,
    access: Access | None = None,
    how: How | None = None,
    on_event: OnEvent | None = None,
    cancel: Cancel | None = None,
) -> Receipt:
    """Send a file, a folder or a stream to ``url``; the object appears when it is complete, or not at all.

    Args:
        path: a file is sent as it is; a folder is packed by the URL's extension; a stream is read to its end.
        if_absent: only where nothing is yet.
        if_match: only over the object that has this ETag.
        sha256: the digest, in hex digits, that the bytes sent must have; else nothing is published.
        resume: a folder, for a large file that goes to S3: what was sent is remembered there, and the next call of the
            same file and URL sends the rest. A call that fails keeps its parts on the server for that, as one does that
            is killed; without ``resume`` it removes them.
        how: as one of how many transfers of this machine.

    Raises:
        NotSupported: ``resume``, and it is no S3 server.
        FolderInUse: ``resume``, and another process does the same.
        ObjectChanged: ``if_absent``, and there is an object; or it is not ``if_match``.
        IntegrityError: the bytes have another digest.
        CredsError, ArchiveError, DiskError, Cancelled.
    """
    promised = _promised(sha256, if_match)
    local = Path(path) if isinstance(path, str | os.PathLike) else None
    with _moving("put", url, local, access, on_event, cancel, how) as move, contextlib.ExitStack() as opened:
        if isinstance(path, str | os.PathLike):
            source = opened.enter_context(local_source(Path(path), move.resolved.key))
        else:
            source = transfer.stream_source(path)
        journals = None if resume is None else Path(resume)
        return move.done(move.upload(source, if_absent=if_absent, journals=journals, **promised))


def ls(
    url: str, *, recursive: bool = False, access: Access | None = None, cancel: Cancel | None = None
) -> Iterator[ObjectMeta]:
    """List what is at ``url``, sorted by key, page by page as it is asked for.

    A URL that ends with ``/``, or has no key, is a prefix: what lies below it is listed, which may be nothing. Any
    other URL is an object, or a folder that is listed as if it had its ``/``.

    Args:
        recursive: list what lies deeper, too. Else a folder is told once, by its key with a ``/`` and without a size.

    Yields:
        What the store's listing says. The key of a file is its absolute path.

    Raises:
        ObjectNotFound: the URL is no prefix, and there is neither an object nor a folder.
        NotSupported: the server lists nothing.
        CredsError, Cancelled.
    """
    resolved = (access or Access()).resolve(url, prefix=True)
    root = "" if resolved.verdict.root is None else resolved.verdict.root.rstrip("/") + "/"
    with contextlib.closing(resolved.open()) as store:
        key = resolved.key
        first = None
        if key and not key.endswith("/"):
            first = next(iter(store.list(key, recursive=False, cancel=cancel)), None)
            key += "/"
        if first is not None and first.key == resolved.key:
            yield replace(first, key=root + first.key)
            return
        found = store.list(key, recursive=recursive, cancel=cancel)
        if key != resolved.key:
            below = next(found, None)
            if below is None:
                where = str(resolved.location)
                raise ObjectNotFound(f"list {where}: neither an object nor a folder", op="list", location=where)
            found = itertools.chain((below,), found)
        for meta in found:
            yield replace(meta, key=root + meta.key) if root else meta


def stat(url: str, *, access: Access | None = None, cancel: Cancel | None = None) -> ObjectMeta:
    """What the store says of the object at ``url``, without its bytes.

    Raises:
        CredsError, Cancelled.
    """
    resolved = (access or Access()).resolve(url)
    with contextlib.closing(resolved.open()) as store:
        return store.head(resolved.key, cancel=cancel)


def remove(
    url: str,
    *,
    if_match: str | None = None,
    dry_run: bool = False,
    access: Access | None = None,
    on_event: OnEvent | None = None,
    cancel: Cancel | None = None,
) -> Receipt:
    """Delete the object at ``url``; one that is absent already is no error (S3 cannot tell).

    Args:
        if_match: only the object that has this ETag. It is compared just before; a writer in between is not noticed.
        dry_run: say what would be deleted, and delete nothing.

    Raises:
        ObjectChanged: the object is not ``if_match``.
        CredsError, Cancelled.
    """
    wanted = quoted_etag(if_match)
    with _moving("delete", url, None, access, on_event, cancel) as move:
        resolved = move.resolved
        with contextlib.closing(resolved.open()) as store:
            if wanted is not None and store.head(resolved.key, cancel=cancel).etag != wanted:
                where = str(resolved.location)
                raise ObjectChanged(f"delete {where}: not the expected object", op="delete", location=where)
            if not dry_run:
                store.delete(resolved.key, cancel=cancel)
        return move.over("planned" if dry_run else "done")


class ObjectFile(io.BufferedReader):
    """One object, open for reading as a binary file; not seekable. See :func:`open`.

    Attributes:
        meta: what the store says of it.
    """

    def __init__(self, raw: _Raw) -> None:
        super().__init__(cast(io.RawIOBase, raw), buffer_size=1 << 16)
        self.meta: ObjectMeta = raw.reading.meta


class _Raw(io.RawIOBase):
    """A reading's buffers, taken in pieces of any size."""

    def __init__(self, reading: Reading, opened: contextlib.ExitStack) -> None:
        self.reading = reading
        self._buffers = iter(reading)
        self._opened = opened
        self._rest: Buffer = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not len(self._rest):
            try:
                self._rest = next(self._buffers)
            except StopIteration:
                return 0
        view = memoryview(buffer).cast("B")
        piece = memoryview(self._rest)[: len(view)]
        view[: len(piece)] = piece
        self._rest = memoryview(self._rest)[len(piece) :]
        return len(piece)

    def close(self) -> None:
        if not self.closed:
            self._opened.close()
        super().close()


def open(  # noqa: A001 - the word for it, as in os, io and gzip
    url: str, *, if_match: str | None = None, access: Access | None = None, cancel: Cancel | None = None
) -> ObjectFile:
    """Open the object at ``url`` for reading, as a binary file that is a context manager.

    What is read is one generation of the object: when it is replaced meanwhile, the next read raises ObjectChanged.
    The file has the object's :class:`~creds.store.ObjectMeta` as ``meta``.

    Args:
        if_match: the ETag that it must have.

    Raises:
        ObjectChanged: the object is not ``if_match``.
        CredsError, Cancelled: reads raise these as well.
    """
    resolved = (access or Access()).resolve(url)
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(contextlib.closing(resolved.open()))
        reading = stack.enter_context(store.open(resolved.key, if_match=quoted_etag(if_match), cancel=cancel))
        return ObjectFile(_Raw(reading, stack.pop_all()))


def copy(
    source: str,
    target: str,
    *,
    if_absent: bool = False,
    access: Access | None = None,
    on_event: OnEvent | None = None,
    cancel: Cancel | None = None,
) -> Receipt:
    """Stream the object at ``source`` to ``target``, through this machine and not onto its disk.

    Args:
        if_absent: only where nothing is yet.

    Raises:
        ObjectChanged: ``if_absent``, and there is an object; or the source was replaced meanwhile.
        CredsError, Cancelled: ``target`` is as it was.
    """
    there = (access or Access()).resolve(source)
    with (
        _moving("put", target, None, access, on_event, cancel) as move,
        contextlib.closing(there.open()) as store,
        store.open(there.key, cancel=cancel, on_retry=move.report.on_retry("put", move.label)) as reading,
    ):
        return move.done(move.upload(transfer.reading_source(reading), if_absent=if_absent))


@contextlib.contextmanager
def local_source(path: Path, key: str) -> Iterator[transfer.Source]:
    """What is at ``path``: a file as it is, or a folder packed by ``key``'s extension.

    Raises:
        DiskError: there is nothing, or it cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise DiskError.of("read", str(path), error) from error
    try:
        if S_ISDIR(os.fstat(descriptor).st_mode):
            from artifacts.archive.pack import scan

            yield transfer.folder_source(scan(descriptor), key)
        else:
            yield transfer.file_source(descriptor, str(path))
    finally:
        os.close(descriptor)
