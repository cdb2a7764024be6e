"""One object and one path, with the caller's own authority: what ``artifacts get`` and ``artifacts put`` do."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISDIR
from typing import IO, Any, Self

from artifacts import transfer
from artifacts.archive.pack import scan
from artifacts.errors import DiskError, FolderError
from artifacts.events import OnEvent, Receipt, Report, Started, error_facts
from artifacts.limits import FREE_SPACE, Budget, free_bytes
from artifacts.staging import resolved_facts
from creds.errors import LocationError, ToolkitError
from creds.location import Location
from creds.models import Credentials
from creds.policy import Policy
from creds.resolve import Resolved, resolve
from creds.store import Cancel, ObjectMeta, StoreOptions


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

    def resolve(self, url: str) -> Resolved:
        """Where ``url`` is and how it is reached, without a connection.

        Raises:
            LocationError, CredentialError, PolicyError.
        """
        location = Location.parse(url)
        if location is None:
            raise LocationError("the URL is empty")
        return resolve(location, self.credentials, self.options, self.policy or Policy.for_caller())


class _Move:
    """One object on its way: its store, and what is told of it."""

    def __init__(self, op: str, resolved: Resolved, path: Path | None, report: Report, cancel: Cancel | None) -> None:
        self.op = op
        self.resolved = resolved
        self.path = path
        self.report = report
        self.cancel = cancel
        self.label = resolved.key.rpartition("/")[2]
        if not self.label:
            raise LocationError(f"{resolved.location} names no object", hint="the key must not end in '/'")

    def fetch(self, into: int, *, name: str, unpacking: bool) -> transfer.Transferred:
        with contextlib.closing(self.resolved.open()) as store:
            return transfer.fetch(
                store,
                self.resolved.key,
                into,
                name=name,
                unpacking=unpacking,
                budget=Budget(max_bytes=free_bytes(into), name=FREE_SPACE),
                cancel=self.cancel,
                on_bytes=self.report.on_bytes(self.op, self.label),
                on_retry=self.report.on_retry(self.op, self.label),
            )

    def upload(self, source: transfer.Source, *, if_absent: bool) -> transfer.Transferred:
        with contextlib.closing(self.resolved.open()) as store:
            return transfer.upload(
                store,
                self.resolved.key,
                source,
                if_none_match=if_absent,
                cancel=self.cancel,
                on_bytes=self.report.on_bytes(self.op, self.label),
                on_retry=self.report.on_retry(self.op, self.label),
            )

    def started(self, total_bytes: int | None = None) -> None:
        self.report.emit(
            Started(op=self.op, label=self.label, location=str(self.resolved.location), total_bytes=total_bytes)
        )

    def done(self, moved: transfer.Transferred) -> Receipt:
        return self._receipt("done", **moved.facts(), warnings=moved.warnings)

    def failed(self, error: ToolkitError) -> Receipt:
        return self._receipt("failed", error=error_facts(error))

    def _receipt(self, status: str, **facts: Any) -> Receipt:
        path = None if self.path is None else str(self.path)
        return self.report.receipt(self.op, self.label, status, path=path, **resolved_facts(self.resolved), **facts)


@contextlib.contextmanager
def _moving(
    op: str, url: str, path: Path | None, access: Access | None, on_event: OnEvent | None, cancel: Cancel | None
) -> Iterator[_Move]:
    move = _Move(op, (access or Access()).resolve(url), path, Report(on_event), cancel)
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
    access: Access | None = None,
    on_event: OnEvent | None = None,
    cancel: Cancel | None = None,
) -> Receipt:
    """Fetch the object at ``url`` to ``path``, which appears whole or not at all.

    Args:
        path: the file, replaced when it exists, or a folder it is put into under the key's last segment; with
            ``unpack`` the folder to make, which must be missing or empty.
        unpack: unpack an archive.

    Raises:
        FolderError: ``unpack``, and ``path`` is not an empty folder.
        CredsError, ArchiveError, LimitExceeded, DiskError, Cancelled.
    """
    target = Path(path)
    with _moving("get", url, target, access, on_event, cancel) as move:
        if unpack:
            return move.done(_get_folder(move, target))
        if target.is_dir() or str(path).endswith("/"):
            move.path = target = target / move.label
        return move.done(_get_file(move, target))


def _get_folder(move: _Move, target: Path) -> transfer.Transferred:
    if os.path.lexists(target) and (not target.is_dir() or any(target.iterdir())):
        raise FolderError(f"{target} exists and is not an empty folder", hint="give a new folder")
    _make_parent(target)
    with transfer.partial_folder(target.parent, target.name) as partial:
        moved = move.fetch(partial.descriptor, name=move.label, unpacking=True)
        partial.publish(target)
    return moved


def _get_file(move: _Move, target: Path) -> transfer.Transferred:
    _make_parent(target)
    partial = target.with_name(f".{target.name}.partial-{secrets.token_hex(8)}")
    try:
        folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            moved = move.fetch(folder, name=partial.name, unpacking=False)
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
            os.close(folder)
    except OSError as error:
        if isinstance(error, ToolkitError):
            raise
        raise DiskError.of("write", str(target), error) from error
    return moved


def _make_parent(target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DiskError.of("make folder", str(target.parent), error) from error


def get_stream(
    url: str,
    out: IO[bytes],
    *,
    access: Access | None = None,
    on_event: OnEvent | None = None,
    cancel: Cancel | None = None,
) -> Receipt:
    """Write the object at ``url`` to ``out`` as it comes. An error after the first byte leaves ``out`` cut short.

    Raises:
        CredsError, Cancelled; OSError from ``out``.
    """
    with _moving("get", url, None, access, on_event, cancel) as move:
        with contextlib.closing(move.resolved.open()) as store:
            moved = transfer.copy(
                store,
                move.resolved.key,
                out,
                cancel=cancel,
                on_bytes=move.report.on_bytes("get", move.label),
                on_retry=move.report.on_retry("get", move.label),
            )
        return move.done(moved)


def put(
    path: str | os.PathLike[str] | IO[bytes],
    url: str,
    *,
    if_absent: bool = False,
    access: Access | None = None,
    on_event: OnEvent | None = None,
    cancel: Cancel | None = None,
) -> Receipt:
    """Send a file, a folder or a stream to ``url``; the object appears when it is complete, or not at all.

    Args:
        path: a file is sent as it is; a folder is packed by the URL's extension; a stream is read to its end.
        if_absent: only where nothing is yet.

    Raises:
        ObjectChanged: ``if_absent``, and there is an object.
        CredsError, ArchiveError, DiskError, Cancelled.
    """
    local = Path(path) if isinstance(path, str | os.PathLike) else None
    with _moving("put", url, local, access, on_event, cancel) as move, contextlib.ExitStack() as opened:
        if isinstance(path, str | os.PathLike):
            source = opened.enter_context(local_source(Path(path), move.resolved.key))
        else:
            source = transfer.stream_source(path)
        return move.done(move.upload(source, if_absent=if_absent))


def stat(url: str, *, access: Access | None = None, cancel: Cancel | None = None) -> ObjectMeta:
    """What the store says of the object at ``url``, without its bytes.

    Raises:
        CredsError, Cancelled.
    """
    resolved = (access or Access()).resolve(url)
    with contextlib.closing(resolved.open()) as store:
        return store.head(resolved.key, cancel=cancel)


def remove(url: str, *, access: Access | None = None, cancel: Cancel | None = None) -> None:
    """Delete the object at ``url``; one that is absent already is no error (S3 cannot tell).

    Raises:
        CredsError, Cancelled.
    """
    resolved = (access or Access()).resolve(url)
    with contextlib.closing(resolved.open()) as store:
        store.delete(resolved.key, cancel=cancel)


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
            yield transfer.folder_source(scan(descriptor), key)
        else:
            yield transfer.file_source(descriptor, str(path))
    finally:
        os.close(descriptor)
