"""A server's tree of files as a store: what FTP and SFTP have in common.

:class:`TreeStore` holds everything that makes a store of a tree: connections kept for reuse, retries, resuming, files
published by a rename, listing in order, cancelling. An engine is a :class:`Session`, one connection that one thread
uses at a time, and says what went wrong by :class:`Failure` or by the system's own ``OSError``.

Such servers know a file's size and time and nothing else, so ETags are made of those two and ``pinned`` is ``weak``;
and none of them can hold a condition together with a rename, so ``enforces_conditions`` is False.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any, Protocol, Self

from creds import retry
from creds.errors import (
    AccessDenied,
    NotSupported,
    ObjectChanged,
    ObjectNotFound,
    StoreError,
    StoreTimeout,
    StoreUnavailable,
    ToolkitError,
)
from creds.store import Buffer, Cancel, ObjectMeta, OnRetry, StoreOptions

Addresses = Callable[[str, int], list[str]]
"""From a host's name and a port to the addresses that may be connected to."""

MAX_DEPTH = 100
"""Folders within folders that a listing descends: a server may show a link that leads upwards as a folder."""

_IDLE_SESSIONS = 4
_SWEEP_SECONDS = 0.5
_PARTIAL = re.compile(r"\..*\.partial-[0-9a-f]{16}", re.DOTALL)


class Failure(Exception):
    """What an engine says went wrong; the store adds the operation and the location.

    Args:
        kind: the error to raise.
        said: the rest of its message.
        hint: as in the error.
        server_code: the server's own number or word.
        retryable: overrides the kind's own answer.
    """

    def __init__(
        self,
        kind: type[StoreError],
        said: str,
        *,
        hint: str | None = None,
        server_code: str | None = None,
        retryable: bool | None = None,
    ) -> None:
        super().__init__(said)
        self.kind = kind
        self.said = said
        self.hint = hint
        self.server_code = server_code
        self.retryable = retryable


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One name in a folder.

    Attributes:
        name: the last part of its path.
        folder: may it have entries of its own?
        size_bytes: None where the server does not tell.
        modified: timezone-aware; None where the server does not tell.
    """

    name: str
    folder: bool = False
    size_bytes: int | None = None
    modified: datetime | None = None

    @property
    def etag(self) -> str | None:
        """Size and time as an ETag; None where one of them is unknown."""
        if self.modified is None or self.size_bytes is None:
            return None
        return f'"{int(self.modified.timestamp() * 1_000_000):x}-{self.size_bytes:x}"'

    def meta(self, key: str) -> ObjectMeta:
        """The entry as what a store says of ``key``."""
        return ObjectMeta(key=key, size_bytes=self.size_bytes, etag=self.etag, modified=self.modified)


class Upload(Protocol):
    """A file being written."""

    def write(self, view: memoryview) -> None:
        """Send all of ``view``, or fail."""

    def finish(self) -> None:
        """Wait until the server has everything."""

    def drop(self) -> bool:
        """Give up within half a second. Is the session good for one more command?"""


class Session(Protocol):
    """One connection. Every verb may raise Failure, OSError or EOFError; keys were checked by :class:`TreeStore`."""

    @property
    def client(self) -> Any:
        """The library's own object, once connected."""

    @property
    def aborted(self) -> bool:
        """:meth:`abort` was called; the session is not used again."""

    def connect(self) -> None:
        """Connect and log in. Called once, before anything else."""

    def fresh(self) -> bool:
        """Is the idle connection still good, as far as one can see without asking the server?"""

    def abort(self) -> None:
        """Break what the session is doing, from another thread."""

    def close(self) -> None:
        """End the connection and its threads without waiting for the server."""

    def head(self, key: str) -> Entry:
        """What the server says of a file; ObjectNotFound where there is none, or a folder."""

    def names(self, folder: str) -> Sequence[Entry]:
        """The files and folders in a folder (``""`` is the folder of the login); ObjectNotFound where it is none."""

    def read(self, key: str, start: int, end: int) -> Iterator[bytes]:
        """The file's bytes from ``start``, as far as they go; the server agreed to send them when this returns."""

    def create(self, key: str) -> Upload:
        """A new file, in a folder that exists."""

    def rename(self, old: str, new: str, *, replace: bool) -> None:
        """Give a file its final name; NotSupported rather than anything that takes two steps."""

    def make_folder(self, folder: str) -> None:
        """Make a folder if it can be made; whether it is there shows when something is put into it."""

    def remove(self, key: str) -> None:
        """Remove a file; one that is absent is no error."""


def dial(
    host: str, port: int, addresses: Addresses | None, timeout_seconds: float, track: Callable[[socket.socket], None]
) -> socket.socket:
    """Connect to the first address that answers.

    Args:
        host: a name or address, without brackets.
        port: the TCP port.
        addresses: gives the addresses to try, and no other is used; None resolves the name.
        timeout_seconds: for each address.
        track: told each socket before it connects, so that another thread can break it.

    Raises:
        OSError: none answered, or the name does not resolve.
        PolicyError: out of ``addresses``.
    """
    if addresses is not None:
        found = addresses(host, port)
    else:
        found = [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    last: OSError = ConnectionError(f"the name {host} has no address")
    for address in dict.fromkeys(found):
        sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
        try:
            sock.settimeout(timeout_seconds)
            track(sock)
            sock.connect((address, port))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            sock.close()
            last = error
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise last


def shut(sock: socket.socket | None) -> None:
    """Break a connection so that a thread which waits for it wakes up; its owner closes it."""
    if sock is not None:
        with contextlib.suppress(OSError):
            # Not SSLSocket's own, which would let the other thread go on in plaintext.
            socket.socket.shutdown(sock, socket.SHUT_RDWR)


def printable(text: str, secret: str | None = None) -> str:
    """A server's words as one line that is safe to show: no control characters, and ``secret`` masked."""
    line = " ".join(text.split())[:300]
    if secret:
        line = line.replace(secret, "***")
    return "".join(char if char.isprintable() else "?" for char in line)


class TreeStore:
    """The files below the folder that a login leads to. Engines subclass it and give sessions.

    A key is a path: components parted by ``/``, none of them empty, ``.`` or ``..``. It counts from the folder of the
    login; one that starts with ``/`` counts from the server's root. Links are the server's own business.

    Files are written beside the target as ``.NAME.partial-*`` and renamed; such names are no keys and are not listed.
    """

    _barred = "\0"
    """Characters that no key may have."""

    def __init__(self, options: StoreOptions, location: str) -> None:
        self._options = options
        self._location = location
        self._lock = threading.Lock()
        self._idle: list[Session] = []
        self._busy: set[Session] = set()
        self._folders: set[str] = set()
        self._closed = False
        self._own: Session | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._location}>"

    def __del__(self) -> None:
        if hasattr(self, "_own"):
            self.close()

    @property
    def client(self) -> Any:
        """The library's live object (``ftplib.FTP``, ``paramiko.SFTPClient``), logged in on a connection of its own.

        Closed with the store.
        """
        with self._lock:
            own = self._own
        if own is None:
            own = self._session()
            try:
                with self._speaking("open", "", None):
                    own.connect()
            except BaseException:
                own.close()
                raise
            with self._lock:
                self._own, extra = self._own or own, self._own and own
                own = self._own
            if extra is not None:
                extra.close()
        return own.client

    def _session(self) -> Session:
        """A session that is not connected yet."""
        raise NotImplementedError

    @property
    def enforces_conditions(self) -> bool:
        """False: comparing and renaming are two steps, and another writer may come between."""
        return False

    def close(self) -> None:
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
            busy = list(self._busy)
            own, self._own = self._own, None
        for session in busy:
            session.abort()
        for session in idle:
            session.close()
        if own is not None:
            own.close()

    # Connections and errors.

    def _where(self, key: str) -> str:
        shown = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in key)
        return f"{self._location}/{shown}"

    def _schedule(self, op: str, on_retry: OnRetry | None) -> retry.Schedule:
        return retry.Schedule(op, self._options.retries, on_retry=on_retry)

    @contextmanager
    def _speaking(self, op: str, key: str, cancel: Cancel | None) -> Iterator[None]:
        """Turn what engines and the system say in the block into this toolkit's errors."""
        try:
            yield
        except ToolkitError:
            raise
        except Failure as error:
            _raise_cancelled(cancel, error)
            where = self._where(key)
            raise error.kind(
                f"{op} {where}: {error.said}",
                op=op,
                location=where,
                hint=error.hint,
                server_code=error.server_code,
                retryable=error.retryable,
            ) from error
        except TimeoutError as error:
            _raise_cancelled(cancel, error)
            where = self._where(key)
            raise StoreTimeout(f"{op} {where}: the server took too long", op=op, location=where) from error
        except (OSError, EOFError) as error:
            _raise_cancelled(cancel, error)
            where = self._where(key)
            said, hint = _broken(error)
            raise StoreUnavailable(f"{op} {where}: {said}", op=op, location=where, hint=hint) from error

    def _take(self, op: str, key: str, cancel: Cancel | None) -> Session:
        """A connected session, for this thread until it is given back."""
        if cancel is not None:
            cancel.check()
        stale: list[Session] = []
        with self._lock:
            if self._closed:
                raise StoreError(f"{op} {self._where(key)}: the store is closed", op=op, location=self._where(key))
            session = None
            while self._idle and session is None:
                session = self._idle.pop()
                if not session.fresh():
                    stale.append(session)
                    session = None
            connected = session is not None
            session = session or self._session()
            self._busy.add(session)
        for other in stale:
            other.close()
        if not connected:
            try:
                with _aborting(cancel, session), self._speaking(op, key, cancel):
                    session.connect()
            except BaseException:
                self._give(session, good=False)
                raise
        return session

    def _give(self, session: Session, *, good: bool) -> None:
        with self._lock:
            self._busy.discard(session)
            keep = good and not session.aborted and not self._closed and len(self._idle) < _IDLE_SESSIONS
            if keep:
                self._idle.append(session)
        if not keep:
            session.close()

    @contextmanager
    def _using(self, op: str, key: str, cancel: Cancel | None) -> Iterator[Session]:
        session = self._take(op, key, cancel)
        good = False
        try:
            with _aborting(cancel, session), self._speaking(op, key, cancel):
                yield session
            good = True
        except (ObjectNotFound, AccessDenied, NotSupported, ObjectChanged):
            good = True  # an answer, not a breakdown
            raise
        finally:
            self._give(session, good=good)

    # Keys.

    def _parts(self, op: str, key: str) -> tuple[list[str], str]:
        """The folders above a key, outermost first, and its name."""
        where = self._where(key)
        parts = key.removeprefix("/").split("/")
        if any(part in {"", ".", ".."} for part in parts):
            raise NotSupported(f"{op} {where}: not a plain path", op=op, location=where)
        barred = next((char for char in self._barred if char in key), None)
        if barred is not None:
            message = f"{op} {where}: a path with {barred!a} is not sent to a server"
            raise NotSupported(message, op=op, location=where)
        try:
            key.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError as error:
            raise NotSupported(f"{op} {where}: not Unicode", op=op, location=where) from error
        root = "/" if key.startswith("/") else ""
        return [root + "/".join(parts[:count]) for count in range(1, len(parts))], parts[-1]

    # The verbs.

    def open(
        self,
        key: str,
        *,
        start: int = 0,
        if_match: str | None = None,
        cancel: Cancel | None = None,
        on_retry: OnRetry | None = None,
    ) -> TreeReading:
        """Begin to read ``key`` from byte ``start``; its size and time are asked for first, and again at the end."""
        self._parts("open", key)
        reading = TreeReading(self, key, start, if_match, cancel, on_retry)
        retry.run(reading.begin, self._schedule("open", on_retry), cancel=cancel)
        return reading

    def head(self, key: str, *, checksums: bool = False, cancel: Cancel | None = None) -> ObjectMeta:  # noqa: ARG002 - the protocol has none
        self._parts("head", key)

        def work() -> ObjectMeta:
            with self._using("head", key, cancel) as session:
                return session.head(key).meta(key)

        return retry.run(work, self._schedule("head", None), cancel=cancel)

    def delete(self, key: str, *, cancel: Cancel | None = None) -> None:
        """Remove ``key``; one that is absent is no error. Folders that become empty stay."""
        self._parts("delete", key)

        def work() -> None:
            with self._using("delete", key, cancel) as session:
                session.remove(key)

        retry.run(work, self._schedule("delete", None), cancel=cancel)

    def sign(self, key: str, method: str = "GET", *, expires_seconds: int = 3600) -> str:  # noqa: ARG002 - refused
        """Always NotSupported: the protocol has no signed URLs."""
        where = self._where(key)
        raise NotSupported(f"sign {where}: there are no signed URLs in this protocol", op="sign", location=where)

    # Listing.

    def list(self, prefix: str = "", *, recursive: bool = True, cancel: Cancel | None = None) -> Iterator[ObjectMeta]:
        """Every file whose key starts with ``prefix``, sorted by the key's bytes, one request or more a folder."""
        top = prefix.rpartition("/")[0]
        if top.strip("/"):
            self._parts("list", top)
        elif prefix.startswith("/"):
            top = "/"
        pending: list[tuple[str, Entry | None]] = [(_below(top), None)]
        while pending:
            if cancel is not None:
                cancel.check()
            path, entry = pending.pop()
            if entry is not None and not entry.folder:
                with contextlib.suppress(ObjectNotFound):  # removed since its folder was read
                    yield entry.meta(path) if entry.modified is not None else self.head(path, cancel=cancel)
                continue
            if not recursive and entry is not None and len(path) > len(prefix):
                yield ObjectMeta(key=path)
                continue
            # A folder's key in the order of bytes is its name with the slash: "a-b" sorts before "a/b".
            inside = [
                (path + found.name + ("/" if found.folder else ""), found)
                for found in self._names(path, cancel, missing=bool(top.strip("/")) or entry is not None)
            ]
            inside.sort(key=lambda pair: pair[0].encode("utf-8", "surrogateescape"), reverse=True)
            pending += [pair for pair in inside if pair[0].startswith(prefix) or prefix.startswith(pair[0])]

    def _names(self, path: str, cancel: Cancel | None, *, missing: bool) -> Iterable[Entry]:
        """What lies in a folder; nothing where it is ``missing`` and may be."""
        if path.count("/") > MAX_DEPTH:
            where = self._where(path)
            raise StoreError(f"list {where}: more than {MAX_DEPTH} folders deep", op="list", location=where)
        folder = "/" if path == "/" else path.rstrip("/")

        def work() -> Sequence[Entry]:
            with self._using("list", folder, cancel) as session:
                return session.names(folder)

        try:
            found = retry.run(work, self._schedule("list", None), cancel=cancel)
        except ObjectNotFound:
            if missing:
                return ()
            raise
        for entry in found:
            if entry.name in {"", ".", ".."} or "/" in entry.name or "\0" in entry.name:
                where = self._where(path)
                message = f"list {where}: the server names an entry {entry.name!a}"
                raise StoreError(message, op="list", location=where)
        return (entry for entry in found if not _PARTIAL.fullmatch(entry.name))

    # Writing.

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
        on_retry: OnRetry | None = None,
    ) -> ObjectMeta:
        """Write all of ``buffers`` as the file ``key``; folders above it are made.

        Conditions are compared before the first byte and again just before the rename; another writer in between is
        not noticed. A connection that breaks after the first byte ends the write: ``buffers`` cannot be read again.
        A content type and metadata have no place in a file and are dropped.
        """
        folders, name = self._parts("write", key)
        where = self._where(key)
        if _PARTIAL.fullmatch(name):
            raise AccessDenied(f"write {where}: such names are kept for unfinished files", op="write", location=where)
        if if_match is not None or if_none_match:

            def first_look() -> None:
                with self._using("write", key, cancel) as session:
                    _compare(session, key, if_match, if_none_match=if_none_match)

            retry.run(first_look, self._schedule("write", on_retry), cancel=cancel)
        short = name.encode("utf-8", "surrogateescape")[:200].decode("utf-8", "ignore")
        scratch = key.removesuffix(name) + f".{short}.partial-{secrets.token_hex(8)}"

        def begin() -> tuple[Session, Upload]:
            return self._begin(key, folders, scratch, cancel)

        session, upload = retry.run(begin, self._schedule("write", on_retry), cancel=cancel)
        try:
            entry = self._fill(key, scratch, session, upload, buffers, cancel)
        except BaseException:
            self._drop(session, upload, scratch)
            raise
        self._give(session, good=True)
        try:
            self._publish(key, scratch, entry, if_match, cancel, on_retry, if_none_match=if_none_match)
        except BaseException:
            self._sweep(scratch)
            raise
        return entry.meta(key)

    def _begin(self, key: str, folders: Iterable[str], scratch: str, cancel: Cancel | None) -> tuple[Session, Upload]:
        session = self._take("write", key, cancel)
        try:
            with _aborting(cancel, session), self._speaking("write", key, cancel):
                for folder in folders:
                    if folder not in self._folders:
                        session.make_folder(folder)
                upload = session.create(scratch)
        except BaseException:
            self._folders.difference_update(folders)
            self._give(session, good=False)
            raise
        if len(self._folders) > 10_000:
            self._folders.clear()
        self._folders.update(folders)
        return session, upload

    def _fill(
        self,
        key: str,
        scratch: str,
        session: Session,
        upload: Upload,
        buffers: Iterable[Buffer],
        cancel: Cancel | None,
    ) -> Entry:
        """Send everything, and see that the server has everything."""
        count = 0
        with _aborting(cancel, session):
            # The caller's iterator runs outside of _speaking: what it raises is the caller's, and passes through.
            for buffer in buffers:
                if cancel is not None:
                    cancel.check()
                view = memoryview(buffer).cast("B")
                with self._speaking("write", key, cancel):
                    upload.write(view)
                count += len(view)
            if cancel is not None:
                cancel.check()
            with self._speaking("write", key, cancel):
                upload.finish()
                entry = session.head(scratch)
                if entry.size_bytes not in (None, count):
                    raise Failure(StoreUnavailable, f"the server kept {entry.size_bytes} of {count} bytes")
        return entry

    def _publish(
        self,
        key: str,
        scratch: str,
        entry: Entry,
        if_match: str | None,
        cancel: Cancel | None,
        on_retry: OnRetry | None,
        *,
        if_none_match: bool,
    ) -> None:
        again = False

        def work() -> None:
            nonlocal again
            with self._using("write", key, cancel) as session:
                # The answer to an earlier try may have been lost after the server had done it.
                if again and _found(session, scratch) is None and _found(session, key) == _renamed(entry, key):
                    return
                again = True
                _compare(session, key, if_match, if_none_match=if_none_match)
                session.rename(scratch, key, replace=not if_none_match)

        retry.run(work, self._schedule("write", on_retry), cancel=cancel)

    def _drop(self, session: Session, upload: Upload, scratch: str) -> None:
        """End an unfinished write and remove what is there of it, within a second."""
        done = False
        with contextlib.suppress(Failure, OSError, EOFError):
            if upload.drop():
                session.remove(scratch)
                done = True
        self._give(session, good=False)
        if not done:
            self._sweep(scratch)

    def _sweep(self, scratch: str) -> None:
        """Remove an unfinished file over a connection of its own. A server that is away keeps it."""
        bound = Cancel()
        timer = threading.Timer(_SWEEP_SECONDS, bound.cancel)
        timer.start()
        try:
            with contextlib.suppress(ToolkitError), self._using("delete", scratch, bound) as session:
                session.remove(scratch)
        finally:
            timer.cancel()
            timer.join()


class TreeReading:
    """A file being read over a connection of its own, which is taken up again elsewhere when it breaks."""

    def __init__(
        self,
        store: TreeStore,
        key: str,
        start: int,
        if_match: str | None,
        cancel: Cancel | None,
        on_retry: OnRetry | None,
    ) -> None:
        self.meta = ObjectMeta(key=key)
        self._store = store
        self._key = key
        self._position = start
        self._if_match = if_match
        self._cancel = cancel
        self._on_retry = on_retry
        self._entry: Entry | None = None
        self._session: Session | None = None
        self._buffers: Iterator[bytes] = iter(())
        self._watch = contextlib.ExitStack()
        self._schedule: retry.Schedule | None = None
        self._done = False

    @property
    def pinned(self) -> str:
        """``weak``: size and time. ``none`` where the server does not tell the time."""
        return "none" if self.meta.etag is None else "weak"

    def begin(self) -> None:
        """Ask for the bytes from where the reading stands. Called again after a break."""
        self._leave(good=False)
        session = self._store._take("open", self._key, self._cancel)  # noqa: SLF001 - one class in two halves
        self._session = session
        self._watch.enter_context(_aborting(self._cancel, session))
        try:
            with self._store._speaking("open", self._key, self._cancel):  # noqa: SLF001 - as above
                self._check(session)
                size = self.meta.size_bytes
                if size is None or self._position < size:
                    self._buffers = session.read(self._key, self._position, -1 if size is None else size)
        except BaseException as error:
            self._leave(good=isinstance(error, (ObjectNotFound, AccessDenied, ObjectChanged)))
            raise

    def _check(self, session: Session) -> None:
        """Is the file the one that was asked for, and the one that the reading began with?"""
        entry = session.head(self._key)
        if self._entry is None:
            if self._if_match is not None and entry.etag != self._if_match:
                raise Failure(ObjectChanged, "not the expected file")
            if entry.size_bytes is not None and self._position > entry.size_bytes:
                raise Failure(ObjectChanged, f"cannot start at byte {self._position} of {entry.size_bytes}")
            self._entry = entry
            self.meta = entry.meta(self._key)
        elif entry != self._entry:
            raise Failure(ObjectChanged, "the file changed while it was read")

    def __iter__(self) -> Iterator[Buffer]:
        return self

    def __next__(self) -> Buffer:
        if self._cancel is not None:
            self._cancel.check()
        if self._done:
            raise StopIteration
        while True:
            try:
                if self._session is None:
                    self.begin()
                buffer = self._step()
            except ToolkitError as error:
                self._leave(good=False)
                self._wait(error)
                continue
            except BaseException:
                self._leave(good=False)
                raise
            if buffer is None:
                self._done = True
                self._leave(good=True)
                raise StopIteration
            self._schedule = None
            self._position += len(buffer)
            return buffer

    def _step(self) -> bytes | None:
        """The next buffer; None at the end, after a last look at the file."""
        session, size = self._session, self.meta.size_bytes
        assert session is not None
        with self._store._speaking("open", self._key, self._cancel):  # noqa: SLF001 - one class in two halves
            buffer = next(self._buffers, None)
            if buffer is not None:
                if size is not None and self._position + len(buffer) > size:
                    raise Failure(ObjectChanged, "the file grew while it was read")
                return buffer
            self._check(session)
            if size is not None and self._position < size:
                raise Failure(StoreUnavailable, f"the server sent {self._position} of {size} bytes")
            return None

    def _wait(self, error: ToolkitError) -> None:
        """Wait before the next try; the tries are counted from the last byte that came."""
        if self._schedule is None:
            self._schedule = self._store._schedule("open", self._on_retry)  # noqa: SLF001 - one class in two halves
        (self._cancel or Cancel()).wait(self._schedule.wait_seconds(error))

    def _leave(self, *, good: bool) -> None:
        session, self._session = self._session, None
        self._buffers = iter(())
        self._watch.close()
        if session is not None:
            self._store._give(session, good=good)  # noqa: SLF001 - one class in two halves

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection, unless the whole file was read and it can serve again."""
        self._done = True
        self._leave(good=False)


def _aborting(cancel: Cancel | None, session: Session) -> contextlib.AbstractContextManager[None]:
    return contextlib.nullcontext() if cancel is None else cancel.calling(session.abort)


def _raise_cancelled(cancel: Cancel | None, error: BaseException) -> None:
    """A connection that broke because the work was stopped is no failure."""
    if cancel is not None and cancel.cancelled:
        raise cancel.error() from error


def _broken(error: OSError | EOFError) -> tuple[str, str | None]:
    """What to say of a connection that could not be made or did not last."""
    if isinstance(error, socket.gaierror):
        return "the server's name does not resolve", "check the host's name and this machine's DNS"
    if isinstance(error, ConnectionRefusedError):
        return "nothing listens there", "check the host and the port, and that the server runs"
    if isinstance(error, EOFError):
        return "the server closed the connection", None
    return f"the connection broke: {printable(error.strerror or str(error) or type(error).__name__)}", None


def _below(folder: str) -> str:
    return folder if folder in {"", "/"} else folder + "/"


def _found(session: Session, key: str) -> Entry | None:
    """What the server says of a file, None where there is none."""
    try:
        return session.head(key)
    except Failure as error:
        if error.kind is ObjectNotFound:
            return None
        raise


def _renamed(entry: Entry, key: str) -> Entry:
    return Entry(name=key.rpartition("/")[2], size_bytes=entry.size_bytes, modified=entry.modified)


def _compare(session: Session, key: str, if_match: str | None, *, if_none_match: bool) -> None:
    if if_match is None and not if_none_match:
        return
    entry = _found(session, key)
    if if_none_match and entry is not None:
        raise Failure(ObjectChanged, "the file exists already")
    if if_match is not None and entry is None:
        raise Failure(ObjectChanged, "the file is gone")
    if if_match is not None and entry is not None and entry.etag != if_match:
        raise Failure(ObjectChanged, "not the expected file")
