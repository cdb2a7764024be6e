"""One store, one key, one folder: stream an object into files, and files into an object.

Nothing here knows a request, a label, a policy or a state file. Between the store and the disk everything is an
iterator of buffers::

    fetch :  Store.open or the cache -> tap (progress, digest) -> decompress -> untar -> a folder, published by rename
    upload:  scan -> pack -> compress -> tap (progress, digest) -> Store.write

A failure at any point leaves neither a folder nor an object.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Self

from artifacts.archive import formats
from artifacts.archive.formats import in_thread
from artifacts.archive.unpack import Unpacked, unpack, write_file
from artifacts.digests import Digest, DigestedReading, computing
from artifacts.errors import DiskError, IntegrityError
from artifacts.limits import Budget
from creds.errors import AccessDenied, ObjectChanged, ObjectNotFound
from creds.store import Buffer, Cancel, ObjectMeta, OnRetry, Reading, Store

if TYPE_CHECKING:
    from artifacts.archive.pack import Scan

OnBytes = Callable[[int, int | None], None]
"""Called with the object's bytes so far and in all (None while unknown)."""

PROGRESS_SECONDS = 0.1
READ_BYTES = 1 << 20
SMALL_BYTES = 1 << 20
"""An object of at most this size may be held in memory as a whole."""
FILE = "file"
_LARGE_BYTES = 8 << 20
_LARGE_AT_ONCE = 8


class FewLarge:
    """Lets few large objects be on their way at once, whatever is on its way besides.

    Each may hold a part beside the window, a decompressor and open folders: with more of them memory would not be
    bounded. They keep several connections busy each, so more of them would be no faster.

    Args:
        asked: more of them, where somebody asks for so many transfers.
    """

    def __init__(self, asked: int | None = None) -> None:
        self._places = threading.Semaphore(max(_LARGE_AT_ONCE, asked or 0))

    def turn(self, size_bytes: int | None) -> contextlib.AbstractContextManager[object]:
        """Wait until an object of this size, in bytes, may be moved; one of no known size is taken for large.

        All that use this are stopped together: whoever waits has its turn when another one ends.
        """
        return contextlib.nullcontext() if size_bytes is not None and size_bytes < _LARGE_BYTES else self._places


@dataclass(frozen=True, slots=True, kw_only=True)
class Transferred:
    """What one fetch or upload did.

    Attributes:
        meta: the object as the store knows it.
        object_bytes, unpacked_bytes: as stored, and as files.
        attempts: tries that were needed, retries of parts included; 1 is a clean run.
        verified, pinned, conditional, cache: as in :class:`~artifacts.events.Receipt`.
        warnings: as there; an empty path is the object's own.
        format: how the object is packed.
    """

    meta: ObjectMeta
    object_bytes: int
    unpacked_bytes: int
    members: int
    sha256: str | None = None
    verified: str = "none"
    pinned: str = "none"
    conditional: str | None = None
    cache: str = "off"
    attempts: int = 1
    seconds: float = 0.0
    format: str | None = None
    warnings: tuple[dict[str, str], ...] = ()

    def facts(self) -> dict[str, Any]:
        """What a receipt says of it, the warnings apart."""
        return {
            "object_bytes": self.object_bytes,
            "unpacked_bytes": self.unpacked_bytes,
            "members": self.members,
            "sha256": self.sha256,
            "verified": self.verified,
            "pinned": self.pinned,
            "conditional": self.conditional,
            "cache": self.cache,
            "attempts": self.attempts,
            "etag": self.meta.etag,
            "version": self.meta.version,
            "seconds": round(self.seconds, 3),
            "bytes_per_second": int(self.object_bytes / self.seconds) if self.seconds > 0 else None,
        }


class _Tap:
    """Passes buffers on, and counts, digests and reports them."""

    def __init__(
        self,
        algorithm: str | None,
        total_bytes: int | None,
        cancel: Cancel | None,
        on_bytes: OnBytes | None,
    ) -> None:
        self.count = 0
        self._digest = computing(algorithm) if algorithm else None
        self._total_bytes = total_bytes
        self._cancel = cancel
        self._on_bytes = on_bytes

    def through(self, buffers: Iterable[Buffer]) -> Iterator[Buffer]:
        due = time.monotonic() + PROGRESS_SECONDS
        for buffer in buffers:
            if self._cancel is not None:
                self._cancel.check()
            self.count += len(buffer)
            if self._digest is not None:
                self._digest.update(buffer)
            if self._on_bytes is not None and (now := time.monotonic()) >= due:
                due = now + PROGRESS_SECONDS
                self._on_bytes(self.count, self._total_bytes)
            yield buffer

    def check_size(self) -> None:
        if self._total_bytes is not None and self.count != self._total_bytes:
            raise IntegrityError(
                f"the object has {self._total_bytes} bytes and {self.count} came", hint="fetch it again"
            )

    def hexdigest(self) -> str | None:
        return None if self._digest is None else self._digest.hexdigest()


class Attempts:
    """Counts retries on their way to whoever listens."""

    def __init__(self, on_retry: OnRetry | None) -> None:
        self.count = 1
        self._on_retry = on_retry

    def __call__(self, retry: Any) -> None:
        self.count += 1
        if self._on_retry is not None:
            self._on_retry(retry)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is asked of an object that is fetched, and how it is told.

    Attributes:
        expect: what its bytes must hash to.
        verify: without ``expect``, hold it to the checksum or ETag that the server has of it.
        if_match: the ETag that it must have.
        open: begins to read it in the store's place, as :meth:`artifacts.cache.BlobCache.open` does; takes the store,
            the key, ``meta`` (what the store said of it just now, or None), ``if_match``, ``cancel`` and ``on_retry``.
        on_bytes: called about ten times a second.
        few_large: when a large object may come, once it has been asked for; None is at once.
    """

    expect: Digest | None = None
    verify: bool = False
    if_match: str | None = None
    open: Callable[..., Reading] | None = None
    cancel: Cancel | None = None
    on_bytes: OnBytes | None = None
    on_retry: OnRetry | None = None
    few_large: FewLarge | None = None


class Incoming:
    """One object on its way here; a context manager that closes what it opened.

    Args:
        opened: begins to read it in place of ``asked.open``.

    Attributes:
        buffers: its bytes, in order; iterated once.
        tap: counts them.

    Raises:
        StoreError: as :meth:`creds.store.Store.open` and ``head`` raise.
    """

    def __init__(self, store: Store, key: str, asked: Asked, opened: Callable[..., Reading] | None = None) -> None:
        self._began = time.monotonic()
        self._asked = asked
        self._opened = opened or asked.open
        self._attempts = Attempts(asked.on_retry)
        expect, if_match, known = asked.expect, asked.if_match, None
        if asked.verify and expect is None:
            known = store.head(key, checksums=True, cancel=asked.cancel)
            expect = Digest.of(known)
            if_match = if_match or (known.etag if known.strong else None)
        self._expect = expect
        self.reading = reading = self._open(store, key, if_match, known)
        self._cached = reading if isinstance(reading, DigestedReading) else None
        # Once is enough.
        taps = expect is not None and not (self._cached is not None and expect.algorithm == "sha256")
        algorithm = expect.algorithm if expect is not None and taps else None
        size = reading.meta.size_bytes
        self.tap = _Tap(algorithm, size, asked.cancel, asked.on_bytes)
        self.buffers: Iterable[Buffer] = self.tap.through(reading)
        self._small = size is not None and size <= SMALL_BYTES
        self._turn = contextlib.nullcontext() if asked.few_large is None else asked.few_large.turn(size)
        self._threaded: formats.Threaded[Buffer] | None = None
        if taps and not self._small:  # a thread costs more than the digest of a small object
            self.buffers = self._threaded = in_thread(self.buffers, depth=1)

    def __enter__(self) -> Self:
        self._turn.__enter__()
        self.reading.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._close(kind, error, trace)
        finally:
            self._turn.__exit__(kind, error, trace)

    def _close(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._threaded is None:
            self.reading.__exit__(kind, error, trace)
            return
        # The thread may wait for the network: it is told to end, then its source is closed, then it is waited for.
        self._threaded.stop()
        try:
            self.reading.__exit__(kind, error, trace)
        finally:
            self._threaded.close()

    def _open(self, store: Store, key: str, if_match: str | None, known: ObjectMeta | None) -> Reading:
        asked: dict[str, Any] = {"if_match": if_match, "cancel": self._asked.cancel, "on_retry": self._attempts}
        reading = store.open(key, **asked) if self._opened is None else self._opened(store, key, meta=known, **asked)
        if known is not None and known.replaced_by(reading.meta):
            with reading:
                raise ObjectChanged(f"open {key}: the object changed while it was asked for", op="open", location=key)
        return reading

    def whole(self) -> list[Buffer] | None:
        """All ``buffers`` of a small object; None, and nothing taken, where it is not known to be one.

        Raises:
            IntegrityError: more came than there should be.
        """
        if not self._small:
            return None
        buffers = []
        for buffer in self.buffers:
            buffers.append(buffer)
            if self.tap.count > SMALL_BYTES:
                self.tap.check_size()
        return buffers

    def verify(self) -> str:
        """Hold what came, to its end, to what is known of it; called before the reading is closed.

        Raises:
            IntegrityError.
        """
        self.tap.check_size()
        if self._expect is not None:
            return self._expect.check(self._sha256() if self._expect.algorithm == "sha256" else self.tap.hexdigest())
        # What is in the cache was digested when it came, and again now.
        return "sha256" if self._cached is not None and self._cached.cache == "hit" else "none"

    def _sha256(self) -> str | None:
        if self._cached is not None:
            return self._cached.sha256
        sha256 = self._expect is not None and self._expect.algorithm == "sha256"
        return self.tap.hexdigest() if sha256 else None

    def done(self, unpacked: Unpacked, verified: str) -> Transferred:
        """What became of it, when it is closed."""
        if self._asked.on_bytes is not None:
            self._asked.on_bytes(self.tap.count, self.tap.count)
        warnings = [*unpacked.warnings, *(self._cached.warnings if self._cached is not None else ())]
        if self._asked.verify and self._expect is None:
            warnings.append({"code": "unverifiable", "path": ""})
        return Transferred(
            meta=self.reading.meta,
            object_bytes=self.tap.count,
            unpacked_bytes=unpacked.unpacked_bytes,
            members=unpacked.members,
            sha256=self._sha256(),
            verified=verified,
            pinned=self.reading.pinned,
            cache="off" if self._cached is None else self._cached.cache,
            attempts=self._attempts.count,
            seconds=time.monotonic() - self._began,
            format=unpacked.format,
            warnings=tuple(warnings),
        )


def fetch(
    store: Store,
    key: str,
    into: int,
    asked: Asked | None = None,
    *,
    name: str,
    unpacking: bool,
    budget: Budget | None = None,
) -> Transferred:
    """Stream the object ``key`` into the folder behind the descriptor ``into``.

    Args:
        into: an open descriptor of an empty folder; what is in it after an error is the caller's to remove.
        name: the file's name when nothing is unpacked; the second hint, after magic bytes, of what the object is.
        unpacking: unpack an archive, rather than write the object as one file.
        budget: charged with every byte and member before it is written.

    Raises:
        StoreError: as :meth:`creds.store.Store.open` raises; ObjectChanged when the object is not ``if_match``.
        ArchiveError, LimitExceeded, IntegrityError, DiskError, Cancelled.
    """
    budget = budget or Budget()
    with Incoming(store, key, asked or Asked()) as incoming:
        done: Unpacked
        if unpacking:
            size = incoming.reading.meta.size_bytes
            done = unpack(incoming.buffers, into, name=name, budget=budget, object_bytes=size)
        else:
            done = write_file(incoming.buffers, into, name, budget)
        verified = incoming.verify()
    return incoming.done(done, verified)


def copy(store: Store, key: str, out: IO[bytes], asked: Asked | None = None) -> Transferred:
    """Write the object ``key`` to ``out`` as it comes; what it must hash to is looked at when all of it came.

    Raises:
        StoreError, IntegrityError, Cancelled; OSError from ``out``.
    """
    with Incoming(store, key, asked or Asked()) as incoming:
        for buffer in incoming.buffers:
            out.write(buffer)
        out.flush()
        verified = incoming.verify()
    return incoming.done(plain(incoming.tap.count), verified)


def plain(size: int) -> Unpacked:
    """What is said of an object that is written as it is."""
    return Unpacked(members=1, unpacked_bytes=size, format=FILE)


def _verified(expect: Digest | None, tap: _Tap, buffers: Iterable[Buffer]) -> Iterator[Buffer]:
    """``buffers``, and an error in the place of their end where they are not what was promised."""
    yield from tap.through(buffers)
    if expect is not None:
        expect.check(tap.hexdigest())


@dataclass(slots=True, kw_only=True)
class PartialFolder:
    """A folder being filled beside its place.

    Attributes:
        descriptor: what :func:`fetch` writes into.
    """

    path: str
    descriptor: int
    published: bool = False

    def publish(self, target: str | os.PathLike[str]) -> None:
        """Put the folder in its place. What was there is moved aside first and removed afterwards.

        Raises:
            DiskError: the folder stays where it was.
        """
        try:
            aside = self._take_place(target)
        except OSError as error:
            raise DiskError.of("rename to", str(target), error) from error
        self.published = True
        if aside is not None:
            import shutil

            shutil.rmtree(aside, ignore_errors=True)

    def _take_place(self, target: str | os.PathLike[str]) -> Path | None:
        """Rename to ``target``; the path that a folder with content, which was there, was moved to."""
        try:
            os.rename(self.path, target)  # noqa: PTH104 - thousands of times, and a path's methods cost as much
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        else:
            return None
        place = Path(target)
        aside = place.with_name(f".{place.name}.replaced-{os.urandom(8).hex()}")
        place.rename(aside)
        Path(self.path).rename(place)
        return aside


@contextlib.contextmanager
def partial_folder(parent: str | os.PathLike[str], name: str) -> Iterator[PartialFolder]:
    """A new folder beside ``parent/name``, removed at the end unless it was published.

    Raises:
        DiskError: it cannot be made.
    """
    path = f"{os.fspath(parent)}/.{name}.partial-{os.urandom(8).hex()}"
    try:
        os.mkdir(path)  # noqa: PTH102 - as in PartialFolder.publish
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise DiskError.of("make folder", path, error) from error
    partial = PartialFolder(path=path, descriptor=descriptor)
    try:
        yield partial
    finally:
        os.close(descriptor)
        if not partial.published:
            import shutil

            shutil.rmtree(path, ignore_errors=True)


_LEFTOVER = re.compile(r"\.(?P<name>.+)\.(?P<kind>partial|replaced)-[0-9a-f]{16}")


def recover(parent: Path) -> None:
    """Finish or undo what an interrupted process left in ``parent``; nobody else may be at work there.

    Raises:
        DiskError: something cannot be moved or removed.
    """
    import shutil

    try:
        for entry in list(os.scandir(parent)):
            match = _LEFTOVER.fullmatch(entry.name)
            if match is None or not entry.is_dir(follow_symlinks=False):
                continue
            if match["kind"] == "replaced" and not os.path.lexists(parent / match["name"]):
                Path(entry.path).rename(parent / match["name"])
            else:
                shutil.rmtree(entry.path)
    except OSError as error:
        raise DiskError.of("clean up", str(parent), error) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What an upload sends.

    Attributes:
        buffers: the plain bytes, in order; iterated once.
        compression: how they are compressed on their way, None for not at all.
        size_hint_bytes: about how many there will be before compression; None when nobody knows.
        members, unpacked_bytes: what the receipt says of them.
        warnings: asked when everything was sent.
        about: says what stands for the bytes: while it stays the same, they can be read again alike. None where they
            cannot.
    """

    buffers: Iterable[Buffer]
    compression: formats.Compression | None = None
    size_hint_bytes: int | None = None
    members: int = 1
    unpacked_bytes: int = 0
    format: str | None = None
    warnings: Callable[[], Iterable[dict[str, str]]] = tuple
    about: Callable[[], str] | None = None


def folder_source(found: Scan, key: str) -> Source:
    """A folder as a reproducible tar, compressed as the key's extension says."""
    from artifacts.archive.pack import pack

    compression = formats.compression_of_name(key)
    packed = pack(found)
    return Source(
        buffers=packed,
        compression=compression,
        size_hint_bytes=found.size_bytes,
        members=len(found.entries),
        unpacked_bytes=sum(entry.size_bytes for entry in found.entries),
        format="tar" if compression is None else f"tar+{compression}",
        warnings=lambda: packed.warnings,
    )


def file_source(descriptor: int, path: str, *, compression: formats.Compression | None = None) -> Source:
    """An open file as it is, or compressed; what is appended to it while it is sent is not sent.

    Args:
        descriptor: of a regular file; stays the caller's to close.
        path: its name, for messages.

    Raises:
        DiskError: it is no regular file.
    """
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        raise DiskError(f"{path} is no regular file")
    return Source(
        buffers=read_exactly(descriptor, path, found.st_size),
        compression=compression,
        size_hint_bytes=found.st_size,
        unpacked_bytes=found.st_size,
        format=FILE if compression is None else f"{FILE}+{compression}",
        # Another version of a compressor may give other bytes.
        about=(lambda: _signature(descriptor)) if compression is None else None,
    )


def _signature(descriptor: int) -> str:
    found = os.fstat(descriptor)
    return f"{found.st_dev} {found.st_ino} {found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"


def read_exactly(descriptor: int, path: str, size: int) -> Iterator[Buffer]:
    """The first ``size`` bytes of a file; one that was cut short meanwhile is an error, never a short object."""
    left = size
    while left:
        try:
            buffer = os.read(descriptor, min(left, READ_BYTES))
        except OSError as error:
            raise DiskError.of("read", path, error) from error
        if not buffer:
            raise DiskError(f"{path} was cut short while it was sent", retryable=True)
        left -= len(buffer)
        yield buffer


def stream_source(stream: IO[bytes]) -> Source:
    """Whatever ``stream`` holds until its end."""
    return Source(buffers=iter(lambda: stream.read(READ_BYTES), b""))


def reading_source(reading: Reading) -> Source:
    """What another store reads, as it comes."""
    size = reading.meta.size_bytes
    return Source(buffers=reading, size_hint_bytes=size, unpacked_bytes=size or 0, format=FILE)


def upload(
    store: Store,
    key: str,
    source: Source,
    *,
    if_match: str | None = None,
    if_none_match: bool = False,
    same_is_done: bool = False,
    expect: Digest | None = None,
    cancel: Cancel | None = None,
    on_bytes: OnBytes | None = None,
    on_retry: OnRetry | None = None,
) -> Transferred:
    """Stream ``source`` into the object ``key``, which appears when it is complete, or not at all.

    Args:
        if_match, if_none_match: the write's condition, as :meth:`creds.store.Store.write` takes it.
        same_is_done: when the condition does not hold because the very bytes are there already, whoever stored them
            (an earlier try that died before it could say so), that is success. Not for a lock or a marker.
        expect: the sha256 that the bytes sent must have, looked at before they are published.
        on_bytes: called about ten times a second.

    Raises:
        StoreError: as :meth:`creds.store.Store.write` raises; ObjectChanged when the condition does not hold.
        IntegrityError: the bytes are not what ``expect`` says.
        DiskError: a file cannot be read.
        Cancelled.
    """
    began = time.monotonic()
    attempts = Attempts(on_retry)
    total = source.size_hint_bytes if source.compression is None else None
    tap = _Tap("sha256", total, cancel, on_bytes)
    with contextlib.ExitStack() as threads:
        buffers = threads.enter_context(in_thread(source.buffers))
        if source.compression is not None:
            buffers = threads.enter_context(in_thread(formats.compress(buffers, source.compression)))
        sending = _verified(expect, tap, buffers)
        try:
            meta = store.write(
                key,
                sending,
                size_hint_bytes=source.size_hint_bytes,
                if_match=if_match,
                if_none_match=if_none_match,
                cancel=cancel,
                on_retry=attempts,
            )
        except ObjectChanged:
            if not same_is_done:
                raise
            for _ in sending:
                pass
            same = _stored_already(store, key, tap, cancel)
            if same is None:
                raise
            meta = same
    if on_bytes is not None:
        on_bytes(tap.count, tap.count)
    conditional = None
    if if_match is not None or if_none_match:
        conditional = "enforced" if store.enforces_conditions else "ignored"
    return Transferred(
        meta=meta,
        object_bytes=tap.count,
        unpacked_bytes=source.unpacked_bytes,
        members=source.members,
        sha256=tap.hexdigest(),
        verified="none" if expect is None else expect.algorithm,
        conditional=conditional,
        attempts=attempts.count,
        seconds=time.monotonic() - began,
        format=source.format,
        warnings=tuple(source.warnings()),
    )


def _stored_already(store: Store, key: str, tap: _Tap, cancel: Cancel | None) -> ObjectMeta | None:
    """What is there, if it is what was to be sent, byte for byte; None if it is anything else."""
    with contextlib.suppress(ObjectNotFound, AccessDenied), store.open(key, cancel=cancel) as reading:
        if reading.meta.size_bytes != tap.count:
            return None
        there = _Tap("sha256", tap.count, cancel, None)
        for _ in there.through(reading):
            pass
        if there.hexdigest() == tap.hexdigest():
            return reading.meta
    return None
