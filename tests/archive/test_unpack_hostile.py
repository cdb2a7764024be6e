"""Archives made to do harm: each is refused by class and message, and nothing outside the folder changes."""

from __future__ import annotations

import errno
import gzip
import io
import itertools
import os
import re
import resource
import shutil
import subprocess
import sys
import tarfile
import textwrap
import threading
import time
import zlib
from pathlib import Path

import pytest
from trees import Place

from artifacts.archive.unpack import unpack
from artifacts.errors import ArtifactsError, CorruptArchive, DiskError, LimitExceeded, UnsafeMember
from artifacts.limits import Budget, Limits

FILE, FOLDER, LINK, HARD = tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE


def tar(*members: tuple, format_: int = tarfile.GNU_FORMAT) -> bytes:
    """(name, kind, link or content) each."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format_) as archive:
        for name, kind, what in members:
            info = tarfile.TarInfo(name)
            info.type = kind
            content = b""
            if kind == FILE:
                content = what
                info.size = len(content)
            else:
                info.linkname = what
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def refused(place: Place, archive: bytes, error: type[ArtifactsError], message: str, **how) -> ArtifactsError:
    with pytest.raises(error) as caught:
        place.unpack(archive, **how)
    assert type(caught.value) is error
    assert re.search(message, str(caught.value)), str(caught.value)
    place.assert_outside_untouched()
    return caught.value


@pytest.mark.parametrize("format_", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../canary", "member '../canary/?' has '..' in its name"),
        ("a/../../canary", "has '..' in its name"),
        ("a/..", "has '..' in its name"),
        ("..", "has '..' in its name"),
        ("./../canary", "has '..' in its name"),
        ("/canary", "member '/canary/?' has an absolute name"),
        ("//canary", "has an absolute name"),
        ("é/../../canary", "has '..' in its name"),
        ("x" * 120 + "/../../canary", "has '..' in its name"),
    ],
)
def test_names_that_leave_the_folder(place, format_, name, message):
    for kind, what in ((FILE, b"harm"), (FOLDER, ""), (LINK, "x"), (HARD, "x")):
        refused(place, tar(("x", FILE, b""), (name, kind, what), format_=format_), UnsafeMember, message)
        (place.root / "x").unlink()
    assert place.names() == set()


def test_a_name_is_checked_after_its_folder_was_used_by_another(place):
    # The folder of the member before is remembered: what follows must not slip past the checks on its back.
    for first, second in (("a/x", "a/.."), ("x", ".."), ("x", "/canary"), ("a/x", "a/"), ("./x", "./..")):
        refused(
            place,
            tar((first, FILE, b"1"), (second, LINK, "x")),
            UnsafeMember,
            "has '..' in its name|absolute name|replace a folder that is not empty",
        )
        subprocess.run(["find", str(place.root), "-mindepth", "1", "-delete"], check=True)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("/etc/passwd", "is a link to the absolute path '/etc/passwd'"),
        ("/", "is a link to the absolute path '/'"),
        ("..", "is a link to '..', which leaves the folder"),
        ("../canary", "which leaves the folder"),
        ("x/../../canary", "which leaves the folder"),
        ("./.././canary", "which leaves the folder"),
        ("x" * 5000, "is a link to a path of 5000 bytes; at most 4096"),
        ("", "is a link without a target"),
    ],
)
def test_links_that_leave_the_folder(place, target, message):
    error = CorruptArchive if not target else UnsafeMember
    refused(
        place, tar(("l", LINK, target)), error, re.escape(f"member 'l' {message}" if message[:2] == "is" else message)
    )
    assert place.names() == set()


def test_links_that_stay_inside_are_kept(place):
    links = {
        "a/b/up": "../../a",
        "a/self": ".",
        "root": "a/..",
        "a/root": "..",
        "loop": "loop",
        "two": "one",
        "one": "two",
        "far": "a/b/up/b/up/b",
    }
    place.unpack(tar(("a/b/file", FILE, b""), *((name, LINK, target) for name, target in links.items())))
    assert {name: facts[3].decode() for name, facts in place.tree().items() if facts[3]} == links


@pytest.mark.parametrize(
    "members",
    [
        # Each reads as staying inside; the system, following the first link, would leave.
        [("d/e", FOLDER, ""), ("a", LINK, "d/e"), ("d/e/b", LINK, "../.."), ("x", LINK, "a/b/../canary")],
        [("d/e/f", FOLDER, ""), ("a", LINK, "."), ("l", LINK, "a/../canary")],
        [("l", LINK, "a/../canary"), ("a", LINK, ".")],
        [("a", LINK, "."), ("b", LINK, "a/.."), ("c", LINK, "b/canary")],
        [("s", LINK, "."), ("t", LINK, "s/s/s/../../../canary")],
        # The middle does not exist, and the way through it leaves all the same.
        [("d/a", LINK, ".."), ("d/l", LINK, "a/missing/../../canary")],
    ],
)
def test_links_that_leave_by_way_of_other_links(place, members):
    refused(place, tar(*members), UnsafeMember, "is a link to '.*', which leaves the folder")
    subprocess.run(["find", str(place.root), "-mindepth", "1", "-delete"], check=True)
    refused(place, tar(*members, ("after", FILE, b"")), UnsafeMember, "which leaves the folder")


def test_every_pair_and_triple_of_links_that_is_let_through_really_stays_inside(place):
    # What the system says of each tree is the judge.
    targets = ["d", ".", "..", "a", "a/..", "b/..", "d/..", "d/../..", "b/a", "d/c", "c/..", "../d", "missing/.."]
    kept = 0
    for a, b, c in itertools.product(targets, targets, targets):
        names = (("a", a), ("b", b), ("d/c", c))
        root = place.root / "t"
        root.mkdir()
        inner = Place.__new__(Place)
        inner.root = root
        try:
            inner.unpack(tar(("d", FOLDER, ""), *((name, LINK, target) for name, target in names)))
        except UnsafeMember:
            pass
        else:
            kept += 1
            for name, _ in names:
                try:
                    real = os.path.realpath(root / name, strict=True)
                except FileNotFoundError:
                    real = os.path.realpath(root / name)
                except OSError as error:
                    if error.errno != errno.ELOOP:
                        raise
                    continue
                assert real == str(root) or real.startswith(f"{root}/"), names
        shutil.rmtree(root)
    assert kept > 100


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("d", FOLDER, ""), ("l", LINK, "d"), ("l/f", FILE, b"x")], "member 'l/f' lies beneath 'l', which is a link"),
        ([("l", LINK, "missing"), ("l/f", FILE, b"x")], "member 'l/f' lies beneath 'l', which is a link"),
        ([("l", LINK, "missing"), ("l/d/f", FOLDER, "")], "lies beneath 'l', which is a link"),
        ([("d/f", FILE, b"x"), ("l", LINK, "d"), ("l/s", LINK, "x")], "lies beneath 'l', which is a link"),
        ([("d/f", FILE, b"x"), ("l", LINK, "d"), ("l/h", HARD, "d/f")], "lies beneath 'l', which is a link"),
        ([("f", FILE, b"x"), ("f/g", FILE, b"y")], "member 'f/g' lies beneath 'f', which is no folder"),
        ([("d/f", FILE, b"x"), ("d", FILE, b"y")], "member 'd' would replace a folder that is not empty"),
        ([("d/f", FILE, b"x"), ("d", LINK, "x")], "member 'd' would replace a folder that is not empty"),
        ([("d/f", FILE, b"x"), ("g", FILE, b""), ("d", HARD, "g")], "would replace a folder that is not empty"),
    ],
)
def test_members_beneath_links_and_files(place, members, message):
    refused(place, tar(*members), UnsafeMember, re.escape(message))


def test_a_folder_emptied_by_nothing_cannot_be_used_after_it_was_replaced(place):
    # The folder's descriptor is remembered; once a link stands in its place it must not be written to.
    archive = tar(("d", FOLDER, ""), ("d", LINK, "e"), ("d/f", FILE, b"x"))
    refused(place, archive, UnsafeMember, "member 'd/f' lies beneath 'd', which is a link")
    assert place.names() == {"d"}


@pytest.mark.parametrize(
    ("members", "error", "message"),
    [
        ([("h", HARD, "missing")], CorruptArchive, "is a hard link to 'missing', which is not there before it"),
        ([("h", HARD, "d/missing")], CorruptArchive, "which is not there before it"),
        ([("h", HARD, "h")], CorruptArchive, "member 'h' is a hard link to itself"),
        ([("f", FILE, b""), ("f", HARD, "./f")], CorruptArchive, "member 'f' is a hard link to itself"),
        ([("h", HARD, "../canary")], UnsafeMember, "member '../canary' has '..' in its name"),
        ([("h", HARD, "/etc/passwd")], UnsafeMember, "has an absolute name"),
        ([("l", LINK, "x"), ("h", HARD, "l")], UnsafeMember, "is a hard link to 'l', which is a link"),
        ([("d", FOLDER, ""), ("h", HARD, "d")], UnsafeMember, "which is no file"),
        ([("d", FOLDER, ""), ("h", HARD, ".")], UnsafeMember, "which is no file"),
        ([("d/f", FILE, b""), ("l", LINK, "d"), ("h", HARD, "l/f")], UnsafeMember, "which lies beneath no folder"),
    ],
)
def test_hard_links_to_what_the_archive_did_not_bring(place, members, error, message):
    refused(place, tar(*members), error, re.escape(message))


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        (tarfile.CHRTYPE, "character device"),
        (tarfile.BLKTYPE, "block device"),
        (tarfile.FIFOTYPE, "FIFO"),
        (b"M", "part of another volume"),
        (b"V", "volume label"),
        (b"Z", "kind b'Z'"),
    ],
)
def test_devices_and_unknown_kinds_are_errors_not_skipped(place, kind, what):
    archive = tar(("f", FILE, b"1"), ("dev", kind, ""), ("g", FILE, b"2"))
    refused(place, archive, UnsafeMember, re.escape(f"member 'dev' is no file, folder or link: {what}"))
    assert place.names() == {"f"}


def test_names_too_long_and_too_deep(place):
    limits = Limits(max_name_bytes=50, max_depth=3)
    long = tar(("d/" + "n" * 49, FILE, b""))
    refused(
        place,
        long,
        UnsafeMember,
        r"a name of 51 bytes; at most 50 are allowed \(max_name_bytes\)",
        budget=Budget(limits),
    )
    deep = tar(("a/b/c/d/e", FILE, b""))
    refused(
        place, deep, UnsafeMember, r"lies 4 folders deep; at most 3 are allowed \(max_depth\)", budget=Budget(limits)
    )
    place.unpack(tar(("a/b/c/e", FILE, b""), ("d/" + "n" * 48, FILE, b"")), budget=Budget(limits))
    refused(place, tar(("n" * 300, FILE, b"")), UnsafeMember, "has a name too long for this file system")
    refused(place, tar(("n" * 300 + "/f", FILE, b"")), UnsafeMember, "has a name too long for this file system")


def test_nul_in_a_pax_name(place):
    record = b"16 path=ab\0cdef\n"
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, len(record)
    archive = header.tobuf() + record.ljust(512, b"\0") + tar(("f", FILE, b""))
    refused(place, archive, UnsafeMember, "has a NUL in its name")


# Limits


def test_a_member_is_charged_before_it_is_written(place):
    archive = tar(("small", FILE, b"x" * 100), ("large", FILE, b"y" * 1000))
    error = refused(
        place,
        archive,
        LimitExceeded,
        r"unpack to more than 1099 bytes \(hdd\)",
        budget=Budget(max_bytes=1099, name="hdd"),
    )
    assert (error.limit, error.allowed, error.seen) == ("hdd", 1099, 1100)
    assert place.names() == {"small"}


def test_exactly_the_budget_is_enough_and_a_failure_gives_it_back(place):
    archive = tar(("a", FILE, b"x" * 100), ("b", FILE, b"y" * 1000))
    budget = Budget(max_bytes=1100)
    refused(place, archive[:1024], CorruptArchive, "cut short", budget=budget)
    place.unpack(archive, budget=budget)
    with pytest.raises(LimitExceeded):
        budget.take_bytes(1)


def test_more_members_than_allowed(place):
    archive = tar(*((str(number), FILE, b"") for number in range(6)))
    error = refused(
        place, archive, LimitExceeded, r"more than 5 members \(max_members\)", budget=Budget(Limits(max_members=5))
    )
    assert (error.limit, error.allowed, error.seen) == ("max_members", 5, 6)
    assert len(place.names()) == 5


def test_limits_passed_among_many_members_leave_exactly_what_fits(place):
    members = tar(*((f"{number:03}", FILE, b"x") for number in range(300)))
    error = refused(place, members, LimitExceeded, "more than 150 members", budget=Budget(Limits(max_members=150)))
    assert (error.seen, len(place.names())) == (151, 150)


def test_bytes_passed_among_many_members_leave_exactly_what_fits(place):
    members = tar(*((f"{number:03}", FILE, b"x" * 10) for number in range(300)))
    error = refused(place, members, LimitExceeded, "more than 1005 bytes", budget=Budget(max_bytes=1005))
    assert (error.seen, len(place.names())) == (1010, 100)


def bomb(count: int, name: str = "bomb"):
    """A gzip of ``count`` zeros in a tar, made piece by piece."""
    info = tarfile.TarInfo(name)
    info.size = count
    pieces = [info.tobuf(tarfile.GNU_FORMAT)] if name else []
    zeros = gzip.compress(bytes(64 << 20), 9)
    return [gzip.compress(piece) for piece in pieces] + [zeros] * (count >> 26)


def test_a_tar_bomb_stops_at_its_header(place):
    started = []

    def buffers():
        for piece in bomb(10 << 30):
            started.append(len(piece))
            yield piece

    descriptor = os.open(place.root, os.O_DIRECTORY)
    try:
        with pytest.raises(LimitExceeded, match="more than 1073741824 bytes"):
            unpack(buffers(), descriptor, name="a.tgz", budget=Budget(max_bytes=1 << 30), object_bytes=10 << 20)
    finally:
        os.close(descriptor)
    assert len(started) < 10
    assert place.names() == set()


@pytest.mark.parametrize("name", ["zeros.gz", "zeros.tar.gz"])
def test_a_bomb_that_is_no_tar_stops_at_the_limit(place, name):
    seen = []

    def buffers():
        for piece in bomb(10 << 30, ""):
            seen.append(len(piece))
            yield piece

    descriptor = os.open(place.root, os.O_DIRECTORY)
    try:
        with pytest.raises(LimitExceeded, match="more than 134217728 bytes") as caught:
            unpack(buffers(), descriptor, name=name, budget=Budget(max_bytes=128 << 20))
    finally:
        os.close(descriptor)
    assert caught.value.seen <= (128 << 20) + (1 << 20)
    assert len(seen) <= 6
    assert sum(facts[2] >= 0 and len(facts[3]) for facts in place.tree().values()) <= 128 << 20


def test_an_archive_that_unpacks_to_too_many_times_its_size(place):
    limits = Limits(max_ratio=100, ratio_floor_bytes=1000)
    archive = gzip.compress(tar(("zeros", FILE, bytes(1 << 20))))
    error = refused(
        place,
        archive,
        LimitExceeded,
        r"more than 100 times its size \(max_ratio\)",
        budget=Budget(limits),
        size=len(archive),
    )
    assert (error.limit, error.allowed, error.seen) == ("max_ratio", 100 * len(archive), 1 << 20)
    assert place.names() == set()
    place.unpack(archive, budget=Budget(limits))  # without the object's size there is no ratio


def test_a_sparse_file_costs_what_it_reads_as(place):
    source = place.base / "canary-folder" / "sparse"
    with source.open("wb") as file:
        file.truncate(1 << 40)
    archive = subprocess.run(["tar", "-cS", "-C", str(source.parent), "sparse"], check=True, capture_output=True).stdout
    source.unlink()
    refused(place, archive, LimitExceeded, "unpack to more than", budget=Budget(max_bytes=1 << 30))
    assert place.names() == set()


def test_endless_extended_headers_are_a_bomb(place, monkeypatch):
    monkeypatch.setattr("artifacts.archive.tree.FREE_OVERHEAD_BYTES", 1 << 20)
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XGLTYPE, 0
    error = refused(
        place, header.tobuf() * 5000, LimitExceeded, "bytes beside its members", budget=Budget(max_bytes=1000)
    )
    assert error.allowed == 1 << 20


# Corruption


def test_every_flipped_byte_of_a_header_is_seen(place):
    archive = tar(("f", FILE, b"content"))
    for at in range(0, 500, 7):
        broken = bytearray(archive)
        broken[at] ^= 0x11
        with pytest.raises(CorruptArchive, match="checksum does not hold"):
            place.unpack(bytes(broken), "a.tar") if at not in range(257, 262) else place.unpack(
                archive[:1024] + bytes(broken), "a.tar"
            )
        for left in place.root.iterdir():
            left.unlink()


def test_every_cut_is_seen(place):
    archive = tar(("folder/f", FILE, b"x" * 700), ("n" * 150, FILE, b"y"))
    end = archive.rindex(b"y") // 512 * 512 + 512
    for cut in [*range(1, end + 512, 100), 512, 1024, end, end + 511]:
        refused(place, archive[:cut], CorruptArchive, "the archive ends before its end marker: it is cut short")
        subprocess.run(["find", str(place.root), "-mindepth", "1", "-delete"], check=True)
    place.unpack(archive[: end + 512])  # one block of zeros is the end


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({124: b"77777777777\0"}, "unpack to more than"),
        ({124: b"-0000000001\0"}, "a tar header's size is no number"),
        ({124: b"0000000009x\0"}, "a tar header's size is no number"),
        ({124: b"\xff" * 12}, "has a size below zero"),
        ({124: b"\x80" + b"\xff" * 11}, "unpack to more than"),
        ({124: b"\xc0" + bytes(11)}, "a tar header's size is no number"),
        ({136: b"\x80" + b"\xff" * 11}, "a member's time lies"),
        ({136: b"0_000000000\0"}, "a tar header's time is no number"),
        ({100: b"99999999"}, "a tar header's mode is no number"),
    ],
)
def test_numbers_that_are_none(place, change, message):
    archive = bytearray(tar(("f", FILE, b"x")))
    for at, field in change.items():
        archive[at : at + len(field)] = field
    archive[148:156] = b" " * 8
    archive[148:156] = b"%06o\0 " % sum(archive[:512])
    with pytest.raises((CorruptArchive, LimitExceeded), match=message):
        place.unpack(bytes(archive), budget=Budget(max_bytes=1 << 20))
    assert place.names() == set()


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"no length", "record has no length"),
        (b"99 path=x\n", "record does not end where it says"),
        (b"9 path=xx\n", "record does not end where it says"),
        (b"7 path\n", "record does not end where it says"),
        (b"6 =ab\n", "record does not end where it says"),
        (b"1 path=x\n", "record does not end where it says"),
        (b"11 size=-5\n", "size is no number"),
        (b"13 mtime=1e9\n", "time is no number"),
        (b"13 mtime=inf\n", "time is no number"),
        (b"30 mtime=99999999999999999999\n", "a member's time lies"),
        (b"22 GNU.sparse.major=1\n", "does not tell its size"),
        (b"22 GNU.sparse.map=1,2\n", "size is no number"),
        (b"24 GNU.sparse.map=1,2,3\n19 GNU.sparse.size=9\n", "does not end|no number|does not add up"),
    ],
)
def test_pax_headers_that_are_none(place, payload, message):
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, len(payload)
    archive = header.tobuf() + payload.ljust(512, b"\0") + tar(("f", FILE, b"x"))
    refused(place, archive, CorruptArchive, message)
    assert place.names() == set()


@pytest.mark.parametrize(
    "map_", [b"1\n0\n", b"1\n5\n2\n", b"1\n-1\n2\n", b"9\n", b"x\n", b"2\n4\n2\n0\n2\n", b"1" * 600]
)
def test_sparse_maps_that_do_not_add_up(place, map_):
    records = b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n25 GNU.sparse.realsize=6\n"
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, len(records)
    content = map_.ljust(512, b"\0") + b"ab"
    archive = header.tobuf() + records.ljust(512, b"\0") + tar(("f", FILE, content))
    refused(place, archive, CorruptArchive, "does not add up|no number")
    assert place.names() == set()


def test_an_absurd_extended_header(place):
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, 1 << 30
    refused(
        place,
        header.tobuf() + bytes(1024),
        CorruptArchive,
        "an extended tar header of 1073741824 bytes; at most 16777216",
    )


def test_an_extended_header_without_its_member(place):
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, 10
    archive = header.tobuf() + b"10 path=x\n".ljust(512, b"\0") + bytes(1024)
    refused(place, archive, CorruptArchive, "ends between an extended header and its member")


def test_what_the_source_raises_comes_through_and_no_thread_stays(place):
    def buffers(compressed):
        yield compressed[:20]
        raise TimeoutError("the network")

    descriptor = os.open(place.root, os.O_DIRECTORY)
    try:
        for content in (tar(("f", FILE, b"x")), gzip.compress(tar(("f", FILE, b"x")))):
            with pytest.raises(TimeoutError, match="the network"):
                unpack(buffers(content), descriptor, name="a", budget=Budget())
    finally:
        os.close(descriptor)
    assert not [thread for thread in threading.enumerate() if thread.name == "in_thread"]


def test_a_refused_member_stops_an_endless_compressed_source(place):
    def buffers():
        packer = zlib.compressobj(wbits=31)
        yield packer.compress(tar(("../canary", FILE, b""))) + packer.flush(zlib.Z_SYNC_FLUSH)
        while True:
            yield b"\0\0\0\xff\xff"  # a block of nothing
            time.sleep(0.001)

    descriptor = os.open(place.root, os.O_DIRECTORY)
    try:
        with pytest.raises(UnsafeMember):
            unpack(buffers(), descriptor, name="a", budget=Budget())
    finally:
        os.close(descriptor)


# The disk


def test_a_file_larger_than_this_process_may_write_is_a_disk_error(place):
    archive = tar(("small", FILE, b"x"), ("large", FILE, b"y" * 100_000))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        error = refused(place, archive, DiskError, r"^cannot write 'large': File too large \(EFBIG\)$")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert error.errno == errno.EFBIG
    assert "ulimit -f" in error.hint
    assert isinstance(error, OSError)


FULL = """
import os, sys, errno
from artifacts.archive.unpack import unpack, write_file
from artifacts.errors import DiskError
from artifacts.limits import Budget
root = sys.argv[1]
for what in ("tar", "file"):
    into = os.open(root, os.O_DIRECTORY)
    try:
        if what == "tar":
            unpack([sys.stdin.buffer.read()], into, name="a.tar", budget=Budget())
        else:
            write_file([bytes(1 << 20)] * 8, into, "f", Budget())
    except DiskError as error:
        assert error.errno == errno.ENOSPC, error.errno
        print(error, "|", error.hint)
    os.system(f"rm -rf {root}/*")
"""


def test_a_full_disk_is_a_disk_error(tmp_path):
    may = subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False)
    if may.returncode:
        pytest.skip("this machine lets nobody mount in a namespace of their own")
    archive = tar(("first", FILE, bytes(1 << 20)), ("second", FILE, bytes(8 << 20)))
    script = textwrap.dedent(f"""
        mount -t tmpfs -o size=4m none {tmp_path} && exec {sys.executable} -c '{FULL}' {tmp_path}
    """)
    done = subprocess.run(["unshare", "-rm", "sh", "-c", script], input=archive, capture_output=True, check=False)
    assert done.stdout.decode().splitlines() == [
        "cannot write 'second': No space left on device (ENOSPC) | free space or use another machine",
        "cannot write 'f': No space left on device (ENOSPC) | free space or use another machine",
    ], done.stderr.decode()


def test_no_descriptors_left_is_a_disk_error(place):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(list(Path("/proc/self/fd").iterdir()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 3, hard))
    try:
        error = refused(
            place, tar(("/".join("abcdefgh"), FILE, b"")), DiskError, r"^cannot create folder 'a.*\(EMFILE\)$"
        )
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert error.errno == errno.EMFILE
