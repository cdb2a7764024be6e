"""Compression: which it is, streams in a row, cut short, damaged, bounded; and the thread between two stages."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import threading

import pytest
import zstandard

from artifacts.archive.formats import (
    CHUNK_BYTES,
    LEVELS,
    compress,
    compression_of_name,
    decompress,
    in_thread,
    is_tar_name,
    sniff_compression,
    without_suffix,
)
from artifacts.errors import CorruptArchive, UnsupportedArchive

ALL = ["gzip", "bzip2", "xz", "zstd"]
OTHERS = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": zstandard.ZstdCompressor(write_checksum=True).compress,
}
OPEN = {
    "gzip": gzip.decompress,
    "bzip2": bz2.decompress,
    "xz": lzma.decompress,
    "zstd": lambda packed: zstandard.ZstdDecompressor().stream_reader(io.BytesIO(packed)).read(),
}


def pieces(content: bytes, step: int):
    return (memoryview(content)[at : at + step] for at in range(0, len(content), step))


def expand(packed: bytes, compression: str, step: int = 1000) -> bytes:
    return b"".join(decompress(pieces(packed, step), compression))


CONTENT = random.Random(1).randbytes(200_000) + b"text " * 100_000


@pytest.mark.parametrize("compression", ALL)
@pytest.mark.parametrize("step", [1, 7, 65_536, 1 << 24])
def test_another_writers_stream_is_read_in_pieces_of_any_size(compression, step):
    content = CONTENT if step > 7 else CONTENT[:3000]
    assert expand(OTHERS[compression](content), compression, step) == content


@pytest.mark.parametrize("compression", ALL)
def test_what_we_compress_another_reads_and_it_is_the_same_every_time(compression):
    packed = b"".join(compress(pieces(CONTENT, 100_000), compression))
    assert OPEN[compression](packed) == CONTENT
    assert b"".join(compress(pieces(CONTENT, 100_000), compression)) == packed
    assert sniff_compression(packed[:10]) == compression


def test_gzip_headers_hold_no_time_and_no_name():
    packed = b"".join(compress([b"x"], "gzip"))
    assert packed[:8] == b"\x1f\x8b\x08\x00\x00\x00\x00\x00"


@pytest.mark.parametrize("compression", ALL)
def test_streams_in_a_row_are_one(compression):
    one, two = OTHERS[compression](b"one" * 5000), OTHERS[compression](b"")
    for step in (1, 50, 10_000):
        assert expand(one + two + one, compression, step) == b"one" * 10_000


def test_many_short_gzip_members_are_read_without_going_over_them_again():
    packed = gzip.compress(b"ab") * 20_000
    assert expand(packed, "gzip", 1 << 20) == b"ab" * 20_000


@pytest.mark.parametrize("compression", ["gzip", "bzip2", "xz"])
def test_zeros_after_a_stream_are_padding(compression):
    packed = OTHERS[compression](b"content")
    assert expand(packed + bytes(1024), compression, 100) == b"content"
    assert expand(packed + bytes(512) + packed, compression, 100) == b"contentcontent"


@pytest.mark.parametrize("compression", ALL)
@pytest.mark.parametrize("step", [1, 10_000])
def test_other_bytes_after_a_stream_are_corruption(compression, step):
    with pytest.raises(CorruptArchive, match=compression):
        expand(OTHERS[compression](b"content") + b"garbage that is long enough", compression, step)


@pytest.mark.parametrize("compression", ALL)
def test_every_cut_short_stream_is_corruption(compression):
    packed = OTHERS[compression](CONTENT[:500])
    for end in range(len(packed)):
        with pytest.raises(CorruptArchive, match="ends before its end"):
            expand(packed[:end], compression, 100)


@pytest.mark.parametrize("compression", ALL)
def test_a_flipped_bit_never_passes(compression):
    packed = bytearray(OTHERS[compression](CONTENT[:20_000]))
    packed[len(packed) // 2] ^= 4
    with pytest.raises(CorruptArchive, match=f"{compression} stream"):
        expand(bytes(packed), compression)


@pytest.mark.parametrize("compression", ALL)
def test_a_bomb_comes_in_small_buffers(compression):
    bomb = OTHERS[compression](bytes(64 << 20))
    assert len(bomb) < 100_000
    sizes = [len(piece) for piece in decompress([bomb], compression)]
    assert sum(sizes) == 64 << 20
    assert max(sizes) <= CHUNK_BYTES


def test_zstd_skippable_frames_are_skipped_and_cut_ones_seen():
    frame = OTHERS["zstd"](b"content")
    skippable = b"\x53\x2a\x4d\x18\x05\0\0\0hello"
    assert sniff_compression(skippable) == "zstd"
    for step in (1, 3, 1000):
        assert expand(skippable + frame + skippable + frame, "zstd", step) == b"contentcontent"
    with pytest.raises(CorruptArchive, match="ends before its end"):
        expand(frame + skippable[:-1], "zstd")


def test_zstd_frames_of_every_header_shape_are_followed():
    for size in (0, 1, 255, 256, 70_000):
        for checksum in (False, True):
            for known in (False, True):
                compressor = zstandard.ZstdCompressor(write_checksum=checksum, write_content_size=known)
                frame = compressor.compress(CONTENT[:size])
                if not known:
                    stream = compressor.compressobj()
                    frame = stream.compress(CONTENT[:size]) + stream.flush()
                assert expand(frame * 2, "zstd", 11) == CONTENT[:size] * 2
                with pytest.raises(CorruptArchive):
                    expand(frame[:-1], "zstd")


def test_a_zstd_window_beyond_the_limit_is_unsupported():
    parameters = zstandard.ZstdCompressionParameters(window_log=28, enable_ldm=True)
    stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    with pytest.raises(UnsupportedArchive, match="window of more than 128 MiB"):
        expand(stream.compress(CONTENT) + stream.flush(), "zstd")


def test_an_xz_dictionary_beyond_the_limit_is_unsupported():
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 512 << 20, "preset": 0}]
    stream = bytearray(
        lzma.compress(b"x" * 1000, format=lzma.FORMAT_XZ, filters=[{"id": lzma.FILTER_LZMA2, "preset": 9}])
    )
    # Writing such a stream takes gigabytes, so its dictionary size (and the header's checksum) are set by hand.
    import zlib

    at = stream.index(b"\x21\x01", 12) + 2
    stream[at] = 34  # 512 MiB
    header = 12
    length = (stream[header] + 1) * 4
    stream[header + length - 4 : header + length] = zlib.crc32(stream[header : header + length - 4]).to_bytes(
        4, "little"
    )
    assert filters[0]["dict_size"] == 512 << 20
    with pytest.raises(UnsupportedArchive, match="more than 256 MiB of memory"):
        expand(bytes(stream), "xz")


@pytest.mark.parametrize("compression", ALL)
def test_levels_outside_the_scale_are_refused(compression):
    allowed = LEVELS[compression]
    for level in (allowed[0] - 1, allowed[-1] + 1):
        with pytest.raises(
            ValueError, match=f"{compression} has the levels {allowed[0]} to {allowed[-1]}, not {level}"
        ):
            compress([b""], compression, level=level)
    packed = b"".join(compress([b"x" * 1000], compression, level=allowed[0]))
    assert OPEN[compression](packed) == b"x" * 1000


@pytest.mark.parametrize(
    ("name", "compression", "inner", "tar"),
    [
        ("a.tar", None, "a.tar", True),
        ("a.tar.gz", "gzip", "a.tar", True),
        ("A.TGZ", "gzip", "A.tar", True),
        ("a.tar.bz2", "bzip2", "a.tar", True),
        ("a.tbz2", "bzip2", "a.tar", True),
        ("a.tbz", "bzip2", "a.tar", True),
        ("a.tar.xz", "xz", "a.tar", True),
        ("a.txz", "xz", "a.tar", True),
        ("a.tar.zst", "zstd", "a.tar", True),
        ("a.tzst", "zstd", "a.tar", True),
        ("data.csv.gz", "gzip", "data.csv", False),
        ("data.csv.XZ", "xz", "data.csv", False),
        ("data.bz2", "bzip2", "data", False),
        ("data.zst", "zstd", "data", False),
        ("data.zip", None, "data.zip", False),
        ("gz", None, "gz", False),
        ("", None, "", False),
    ],
)
def test_what_a_name_says(name, compression, inner, tar):
    assert (compression_of_name(name), without_suffix(name), is_tar_name(name)) == (compression, inner, tar)


@pytest.mark.parametrize(
    ("head", "compression"),
    [
        (b"\x1f\x8b\x08\x00", "gzip"),
        (b"\x1f\x8b\x07\x00", None),
        (b"BZh91AY&SY", "bzip2"),
        (b"BZh9\x17\x72\x45\x38\x50\x90", "bzip2"),
        (b"BZh0" + b"1AY&SY", None),
        (b"BZhello wor", None),
        (b"BZh", None),
        (b"\xfd7zXZ\x00", "xz"),
        (b"\x28\xb5\x2f\xfd", "zstd"),
        (b"", None),
        (b"\x50\x2a\x4d", None),
    ],
)
def test_magic_bytes(head, compression):
    assert sniff_compression(head) == compression


# The thread between two stages


def test_items_come_in_order_and_the_thread_ends():
    with in_thread(iter(range(1000)), depth=2) as items:
        assert list(items) == list(range(1000))
    assert not [thread for thread in threading.enumerate() if thread.name == "in_thread"]


def test_what_the_source_raises_is_raised_where_it_is_read_after_what_came_before():
    def source():
        yield 1
        raise CorruptArchive("in the thread")

    with in_thread(source()) as items:
        assert next(items) == 1
        with pytest.raises(CorruptArchive, match="in the thread"):
            next(items)
        with pytest.raises(StopIteration):
            next(items)


def test_a_reader_that_stops_ends_an_endless_source_and_closes_it_in_its_own_thread():
    closed = []

    def source():
        try:
            while True:
                yield b"x"
        finally:
            closed.append(threading.current_thread().name)

    def read():
        with in_thread(source(), depth=1) as items:
            assert next(items) == b"x"
            raise KeyError

    with pytest.raises(KeyError):
        read()
    assert closed == ["in_thread"]


def test_a_reader_waiting_in_another_thread_is_woken_by_stop():
    gate = threading.Event()

    def source():
        gate.wait(10)
        yield 1

    items = in_thread(source())
    ended = []
    reader = threading.Thread(target=lambda: ended.append(list(items)))
    reader.start()
    items.stop()
    reader.join(10)
    assert ended == [[]]
    gate.set()
    items.close()


def test_an_iterator_that_nobody_holds_ends_its_thread():
    def source():
        while True:
            yield 1

    items = in_thread(source(), depth=1)
    assert next(items) == 1
    thread = items._thread
    del items
    thread.join(10)
    assert not thread.is_alive()


def test_closing_twice_and_threads_in_a_row():
    with in_thread(in_thread(in_thread(iter(range(100)), depth=1), depth=1), depth=1) as items:
        assert next(items) == 0
        items.close()
        items.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "in_thread"]
