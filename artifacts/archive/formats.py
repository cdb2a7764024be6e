"""Which format is it, and the streams that expand and compress: magic bytes decide first, the name second.

Every stage here is an iterator of buffers over an iterator of buffers. Expansion is bounded: one step gives at most
``CHUNK_BYTES`` whatever the input claims, so a bomb is met one small buffer at a time. The libraries release the
interpreter's lock while they work, hence :func:`in_thread`: a stage in a thread of its own costs the others nothing.
"""

from __future__ import annotations

import bz2
import lzma
import threading
import zlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from types import TracebackType
from typing import Any, Final, Generic, Literal, Protocol, Self, TypeVar

import zstandard
from isal import igzip_lib, isal_zlib

from artifacts.errors import CorruptArchive, UnsupportedArchive
from creds.store import Buffer

Compression = Literal["gzip", "bzip2", "xz", "zstd"]

CHUNK_BYTES: Final = 1 << 20
ZSTD_WINDOW_BYTES: Final = 128 << 20  # what zstd(1) accepts without --long
XZ_MEMORY_BYTES: Final = 256 << 20  # xz -9 needs 65 MiB

DEFAULT_LEVELS: Final[dict[Compression, int]] = {"gzip": 1, "bzip2": 9, "xz": 1, "zstd": 3}
"""Fast rather than small: an artifact is written once and read a few times, and the network is rarely what is slow."""

LEVELS: Final[dict[Compression, range]] = {
    "gzip": range(4),  # ISA-L's own scale
    "bzip2": range(1, 10),
    "xz": range(10),
    "zstd": range(1, 23),
}

_ZSTD_THREADS = 2  # a fixed number: the output must not depend on the machine, and 1 or more all give the same bytes
_FIRST_FEED_BYTES, _MAX_FEED_BYTES = 8 << 10, 256 << 10

_MAGIC: tuple[tuple[bytes, Compression], ...] = (
    (b"\x1f\x8b\x08", "gzip"),
    (b"\xfd7zXZ\0", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
)
_BZIP2_BLOCKS = (b"1AY&SY", b"\x17\x72\x45\x38\x50\x90")  # a first block, or the end of an empty stream
_ZSTD_FRAME, _ZSTD_SKIPPABLE = 0xFD2FB528, 0x184D2A50

_SUFFIXES: tuple[tuple[str, Compression, str], ...] = (
    (".tgz", "gzip", ".tar"),
    (".tbz2", "bzip2", ".tar"),
    (".tbz", "bzip2", ".tar"),
    (".txz", "xz", ".tar"),
    (".tzst", "zstd", ".tar"),
    (".gz", "gzip", ""),
    (".bz2", "bzip2", ""),
    (".xz", "xz", ""),
    (".zst", "zstd", ""),
)


def sniff_compression(head: bytes) -> Compression | None:
    """The compression whose magic bytes ``head`` begins with; None when it begins with none of them.

    Args:
        head: the first bytes of the object; 10 are enough.
    """
    for magic, compression in _MAGIC:
        if head.startswith(magic):
            return compression
    if head[:3] == b"BZh" and head[3:4] in b"123456789" and head[4:10] in _BZIP2_BLOCKS:
        return "bzip2"
    if len(head) >= 4 and int.from_bytes(head[:4], "little") & 0xFFFFFFF0 == _ZSTD_SKIPPABLE:
        return "zstd"
    return None


def compression_of_name(name: str) -> Compression | None:
    """The compression that a key's extension asks for, without regard to case; None for plain."""
    lower = name.lower()
    return next((compression for suffix, compression, _ in _SUFFIXES if lower.endswith(suffix)), None)


def without_suffix(name: str) -> str:
    """The name that what is inside should have: ``data.csv.gz`` gives ``data.csv``, ``a.tgz`` gives ``a.tar``."""
    lower = name.lower()
    for suffix, _, inner in _SUFFIXES:
        if lower.endswith(suffix):
            return name[: -len(suffix)] + inner
    return name


def is_tar_name(name: str) -> bool:
    """Whether a name claims a tar, compressed or not."""
    return without_suffix(name).lower().endswith(".tar")


class _Decoder(Protocol):
    """What ``bz2``, ``lzma`` and ISA-L's decompressors have in common."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: Any, max_length: int = -1) -> bytes: ...


def decompress(buffers: Iterable[Buffer], compression: Compression) -> Iterator[Buffer]:
    """Expand a compressed stream, several streams in a row included.

    Zero bytes after a gzip, bzip2 or xz stream are padding, as gzip(1) and xz(1) have it.

    Args:
        buffers: the compressed bytes.
        compression: what they are, as :func:`sniff_compression` tells.

    Yields:
        Buffers of at most ``CHUNK_BYTES``.

    Raises:
        CorruptArchive: a checksum differs, the stream ends too early, or something else follows it.
        UnsupportedArchive: the stream needs more memory than ``ZSTD_WINDOW_BYTES`` or ``XZ_MEMORY_BYTES``.
    """
    if compression == "zstd":
        return _zstd(buffers)
    return _streams(buffers, compression)


def _gzip_decoder() -> _Decoder:
    decoder: _Decoder = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
    return decoder


_DECODERS: dict[Compression, Callable[[], _Decoder]] = {
    "gzip": _gzip_decoder,
    "bzip2": bz2.BZ2Decompressor,
    "xz": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, XZ_MEMORY_BYTES),
}


def _streams(buffers: Iterable[Buffer], compression: Compression) -> Iterator[Buffer]:
    start = _DECODERS[compression]
    decoder: _Decoder | None = None
    feed_bytes = _FIRST_FEED_BYTES
    seen = False
    for buffer in buffers:
        view = memoryview(buffer)
        at = 0
        while at < len(view):
            if decoder is None:
                at += _zeros(view, at) if seen else 0
                if at == len(view):
                    break
                decoder, seen = start(), True
                # A stream that ends gives back what it did not use as a copy, so short streams are fed little.
                feed_bytes = _FIRST_FEED_BYTES
            fed = view[at : at + feed_bytes]
            feed_bytes = min(2 * feed_bytes, _MAX_FEED_BYTES)
            at += len(fed)
            yield from _drain(decoder, fed, compression)
            if decoder.eof:
                at -= len(decoder.unused_data)
                decoder = None
    if decoder is not None or not seen:
        raise CorruptArchive(f"the {compression} stream ends before its end: the object is cut short")


def _zeros(view: memoryview, at: int) -> int:
    """How many zero bytes ``view`` holds from ``at`` on."""
    count = 0
    for start in range(at, len(view), _MAX_FEED_BYTES):
        piece = bytes(view[start : start + _MAX_FEED_BYTES])
        rest = len(piece.lstrip(b"\0"))
        count += len(piece) - rest
        if rest:
            break
    return count


def _drain(decoder: _Decoder, fed: memoryview, compression: Compression) -> Iterator[Buffer]:
    given: Buffer = fed
    while True:
        try:
            out = decoder.decompress(given, CHUNK_BYTES)
        except lzma.LZMAError as error:
            if "memory" in str(error).lower():
                raise UnsupportedArchive(
                    f"the xz stream needs more than {XZ_MEMORY_BYTES >> 20} MiB of memory to expand"
                ) from error
            raise CorruptArchive(f"the {compression} stream is corrupt: {error}") from error
        except (OSError, EOFError, ValueError, igzip_lib.IsalError) as error:  # type: ignore[misc]  # untyped
            raise CorruptArchive(f"the {compression} stream is corrupt: {error}") from error
        if out:
            yield out
        if decoder.eof or decoder.needs_input:
            return
        given = b""


class _ZstdFrames:
    """Follows zstd frames from header to header and tells whether a stream ended between two of them.

    The library's reader takes a frame that is cut short for a whole one, so this is looked at here. The layout is that
    of RFC 8878, section 3.1.
    """

    def __init__(self, buffers: Iterable[Buffer]) -> None:
        self._buffers = iter(buffers)
        self._held = bytearray()
        self._between = False
        self._seen = False
        self._steps = self._walk()
        self._want = next(self._steps)

    def read(self, _count: int = -1) -> Buffer:
        """The next buffer, followed; empty at the end, which must lie between two frames."""
        for buffer in self._buffers:
            if len(buffer):
                self._seen = True
                self._follow(memoryview(buffer))
                return buffer
        if not (self._seen and self._between) or self._held:
            raise CorruptArchive("the zstd stream ends before its end: the object is cut short")
        return b""

    def _follow(self, view: memoryview) -> None:
        at = 0
        while at < len(view):
            if self._want < 0:
                step = min(-self._want, len(view) - at)
                self._want += step
                done = self._want == 0
            else:
                step = min(self._want - len(self._held), len(view) - at)
                self._held += view[at : at + step]
                done = len(self._held) == self._want
            at += step
            if done:
                header = bytes(self._held)
                self._held.clear()
                self._want = self._steps.send(header)

    def _walk(self) -> Generator[int, bytes, None]:
        """Yields how many bytes it wants to see, or (negative) how many to pass over; never 0."""
        while True:
            self._between = True
            magic = int.from_bytes((yield 4), "little")
            self._between = False
            if magic & 0xFFFFFFF0 == _ZSTD_SKIPPABLE:
                size = int.from_bytes((yield 4), "little")
                if size:
                    yield -size
                continue
            if magic != _ZSTD_FRAME:
                raise CorruptArchive("the zstd stream is followed by bytes that are no zstd")
            descriptor = (yield 1)[0]
            single = descriptor >> 5 & 1
            rest = (1 - single) + (0, 1, 2, 4)[descriptor & 3] + (single, 2, 4, 8)[descriptor >> 6]
            if rest:
                yield -rest
            last = False
            while not last:
                block = int.from_bytes((yield 3), "little")
                last = bool(block & 1)
                size = 1 if block >> 1 & 3 == 1 else block >> 3
                if size:
                    yield -size
            if descriptor >> 2 & 1:
                yield -4


def _zstd(buffers: Iterable[Buffer]) -> Iterator[Buffer]:
    frames: Any = _ZstdFrames(buffers)
    decoder = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_BYTES)
    with decoder.stream_reader(frames, read_across_frames=True, closefd=False) as reader:
        while True:
            try:
                out = reader.read(CHUNK_BYTES)
            except zstandard.ZstdError as error:
                if "too much memory" in str(error):
                    raise UnsupportedArchive(
                        f"the zstd stream needs a window of more than {ZSTD_WINDOW_BYTES >> 20} MiB"
                    ) from error
                raise CorruptArchive(f"the zstd stream is corrupt: {error}") from error
            if not out:
                return
            yield out


class _Encoder(Protocol):
    """What every library's compressor has."""

    def compress(self, data: Any, /) -> bytes: ...
    def flush(self) -> bytes: ...


def _zstd_encoder(level: int) -> _Encoder:
    compressor = zstandard.ZstdCompressor(level=level, threads=_ZSTD_THREADS, write_checksum=True)
    encoder: _Encoder = compressor.compressobj()
    return encoder


def _gzip_encoder(level: int) -> _Encoder:
    # wbits of 16 and more asks for gzip's header: without a name, its time zero.
    encoder: _Encoder = isal_zlib.compressobj(level, wbits=16 + zlib.MAX_WBITS)
    return encoder


_ENCODERS: dict[Compression, Callable[[int], _Encoder]] = {
    "gzip": _gzip_encoder,
    "bzip2": bz2.BZ2Compressor,
    "xz": lambda level: lzma.LZMACompressor(lzma.FORMAT_XZ, preset=level),
    "zstd": _zstd_encoder,
}


def compress(buffers: Iterable[Buffer], compression: Compression, *, level: int | None = None) -> Iterator[Buffer]:
    """Compress a stream; the same bytes in the same buffers give the same bytes out, on any machine.

    Args:
        buffers: the plain bytes.
        compression: the format.
        level: on the format's own scale, see ``LEVELS``; ``DEFAULT_LEVELS`` when None.

    Raises:
        ValueError: the format has no such level.
    """
    chosen = DEFAULT_LEVELS[compression] if level is None else level
    if chosen not in LEVELS[compression]:
        allowed = LEVELS[compression]
        raise ValueError(f"{compression} has the levels {allowed[0]} to {allowed[-1]}, not {chosen}")
    return _compressed(buffers, _ENCODERS[compression](chosen))


def _compressed(buffers: Iterable[Buffer], encoder: _Encoder) -> Iterator[Buffer]:
    for buffer in buffers:
        if out := encoder.compress(buffer):
            yield out
    yield encoder.flush()


T = TypeVar("T")


class _Channel(Generic[T]):
    """What the two sides of a thread share: a bounded row of items, and how it ended."""

    def __init__(self, depth: int) -> None:
        self.depth = depth
        self.items: deque[T] = deque()
        self.changed = threading.Condition()
        self.stopped = False
        self.ended = False
        self.error: BaseException | None = None

    def put(self, item: T) -> bool:
        """Add an item when there is room; False when nobody wants it any more."""
        with self.changed:
            while len(self.items) >= self.depth and not self.stopped:
                self.changed.wait()
            if self.stopped:
                return False
            self.items.append(item)
            self.changed.notify_all()
            return True

    def get(self) -> T:
        with self.changed:
            while not self.items and not self.ended and not self.stopped:
                self.changed.wait()
            if self.stopped:
                raise StopIteration
            if self.items:
                item = self.items.popleft()
                self.changed.notify_all()
                return item
            error, self.error = self.error, None
        if error is not None:
            raise error
        raise StopIteration

    def stop(self) -> None:
        with self.changed:
            self.stopped = True
            self.items.clear()
            self.changed.notify_all()

    def end(self, error: BaseException | None) -> None:
        with self.changed:
            self.error = error
            self.ended = True
            self.changed.notify_all()


def _pump(source: Iterable[T], channel: _Channel[T]) -> None:
    """The thread: run the source, hand over its items, close it here where it ran, tell how it ended."""
    failure: BaseException | None = None
    iterator = iter(source)
    try:
        for item in iterator:
            if not channel.put(item):
                break
    except BaseException as error:  # noqa: BLE001 - it is raised again where the items are read
        failure = error
    close = getattr(iterator, "close", None)
    if close is not None:
        try:
            close()
        except BaseException as error:  # noqa: BLE001 - as above; the first failure is the one to tell
            failure = failure or error
    channel.end(failure)


class Threaded(Generic[T]):
    """An iterator whose source runs in a thread of its own. Made by :func:`in_thread`; a context manager."""

    def __init__(self, source: Iterable[T], depth: int) -> None:
        self._channel: _Channel[T] = _Channel(depth)
        # The thread holds the channel only, so that an iterator nobody holds any more is collected and stops it.
        self._thread = threading.Thread(target=_pump, args=(source, self._channel), name="in_thread", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        return self._channel.get()

    def stop(self) -> None:
        """Tell the thread to end and do not wait for it; may be called from any thread."""
        self._channel.stop()

    def close(self) -> None:
        """End the thread and wait until it has ended.

        It ends when its source gives the next item or fails: what waits on a network is woken by its own ``Cancel``.
        """
        self._channel.stop()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self._channel.stop()


def in_thread(source: Iterable[T], *, depth: int = 4) -> Threaded[T]:
    """Run a stage in a thread of its own, up to ``depth`` items ahead of who reads it.

    What the source raises is raised from ``next()`` here. The source is closed in the thread it ran in, so that
    closing can never meet a generator that is running.

    Args:
        source: an iterator, used by nobody else from now on.
        depth: how many items may wait.

    Returns:
        An iterator and context manager; leaving the ``with`` block ends the thread.
    """
    return Threaded(source, depth)
