"""Archives as GNU tar, Python and Info-ZIP write them become the trees they were made from."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import os
import random
import shutil
import stat
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trees import Place, snapshot

from artifacts.archive.unpack import unpack, write_file
from artifacts.errors import ArchiveError, CorruptArchive, DiskError, LimitExceeded, UnsafeMember, UnsupportedArchive
from artifacts.limits import Budget
from creds.store import Buffer

FILE, FOLDER, LINK = stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK

COMPRESS = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": zstandard.ZstdCompressor().compress,
}


def fill(root: Path) -> None:
    """A tree with every kind of member and name that a job may leave."""
    (root / "deep" / "er" / ("long" * 20) / ("longer" * 20)).mkdir(parents=True)
    (root / "deep" / "er" / ("long" * 20) / ("longer" * 20) / ("file" * 30)).write_bytes(b"far down")
    (root / "empty").mkdir(mode=0o750)
    (root / "empty-file").touch()
    (root / "exact").write_bytes(b"x" * 1024)
    (root / "large").write_bytes(random.Random(2).randbytes(300_001))
    (root / "name with spaces\nand a newline").write_bytes(b"1")
    (root / "ümläut-名前").write_bytes(b"2")
    (root / "not-utf8-\udcff\udcfe").write_bytes(b"3")
    (root / "script.sh").write_bytes(b"#!/bin/sh\n")
    (root / "script.sh").chmod(0o755)
    (root / "private").write_bytes(b"4")
    (root / "private").chmod(0o600)
    (root / "deep" / "link").symlink_to("../script.sh")
    (root / "dangling").symlink_to("nowhere/at/all")
    (root / "long-link").symlink_to("d/" * 70 + "end")
    (root / "deep" / "hard").hardlink_to(root / "large")
    for number, path in enumerate(sorted(root.rglob("*"), reverse=True)):
        os.utime(path, ns=(1, 1_500_000_000_000_000_000 + number * 1_000_000_000), follow_symlinks=False)


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("source")
    fill(root)
    return root


def gnu_tar(root: Path, *options: str) -> bytes:
    return subprocess.run(
        ["tar", "-c", "--sort=name", *options, "-C", str(root), "."], check=True, capture_output=True
    ).stdout


@pytest.mark.parametrize("format_", ["gnu", "oldgnu", "pax", "posix"])
@pytest.mark.parametrize("step", [137, 1 << 20])
def test_what_gnu_tar_writes(place, source, format_, step):
    archive = gnu_tar(source, f"--format={format_}")
    done = place.unpack(archive, step=step)
    assert place.tree() == snapshot(source)
    assert (done.format, done.warnings) == ("tar", [])
    assert done.members == len(snapshot(source)) + 1  # and the folder itself, as "./"
    # The hard link's content is one file's.
    assert os.lstat(place.root / "large").st_ino == os.lstat(place.root / "deep" / "hard").st_ino


@pytest.mark.parametrize("format_", ["ustar", "v7"])
def test_what_gnu_tar_writes_in_the_formats_of_short_names(place, tmp_path, format_):
    root = tmp_path / "into" / "source"
    root.mkdir()
    (root / "a" / ("b" * 60)).mkdir(parents=True)
    (root / "a" / ("b" * 60) / ("c" * (30 if format_ == "v7" else 90))).write_bytes(b"content")
    (root / "l").symlink_to("a")
    archive = gnu_tar(root, f"--format={format_}")
    expected = snapshot(root)
    expected = {path: (*facts[:2], facts[2] // 10**9 * 10**9, facts[3]) for path, facts in expected.items()}
    subprocess.run(["rm", "-r", str(root)], check=True)
    place.unpack(archive)
    assert place.tree() == expected


@pytest.mark.parametrize("format_", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_what_python_writes(place, source, format_):
    def fits(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        # ustar cannot hold these.
        long = len(member.linkname) > 100 or "longer" in member.name
        return None if format_ == tarfile.USTAR_FORMAT and long else member

    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format_) as tar:
        tar.add(source, "", filter=fits)
    place.unpack(out.getvalue(), step=1000)
    expected = snapshot(source)
    if format_ == tarfile.USTAR_FORMAT:
        expected = {path: facts for path, facts in expected.items() if path in place.names()}
        assert len(expected) >= 15
    assert place.tree() == expected


def test_pax_times_are_kept_to_the_nanosecond(place, tmp_path):
    root = place.base / "canary-folder"
    (root / "f").touch()
    os.utime(root / "f", ns=(1, 1_234_567_890_123_456_789))
    archive = gnu_tar(root, "--format=pax")
    (root / "f").unlink()
    place.unpack(archive)
    assert place.tree()["f"][2] == 1_234_567_890_123_456_789


def test_times_before_1970_in_pax_and_base_256(place):
    for format_, name in ((tarfile.PAX_FORMAT, "pax"), (tarfile.GNU_FORMAT, "gnu")):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=format_) as tar:
            member = tarfile.TarInfo(name)
            member.mtime = -86_400
            tar.addfile(member)
        place.unpack(out.getvalue())
        assert place.tree()[name][2] == -86_400 * 10**9


@pytest.mark.parametrize("version", ["0.0", "0.1", "1.0", "old"])
def test_sparse_files_in_every_format(place, version, tmp_path):
    root = tmp_path / "canary-folder"
    with (root / "sparse").open("wb") as file:
        for number in range(60):  # more pieces than one header holds
            file.seek(number * 100_000)
            file.write(b"piece %d" % number)
        file.truncate(7_000_001)
    (root / "zz-after").write_bytes(b"after")
    expected = (root / "sparse").read_bytes()
    how = ["--format=gnu"] if version == "old" else ["--format=pax", f"--sparse-version={version}"]
    archive = gnu_tar(root, "--sparse", *how)
    assert len(archive) < 3_000_000
    (root / "sparse").unlink()
    (root / "zz-after").unlink()
    done = place.unpack(archive, step=1000)
    assert (place.root / "sparse").read_bytes() == expected
    assert (place.root / "zz-after").read_bytes() == b"after"
    assert done.unpacked_bytes == 7_000_006
    assert (place.root / "sparse").stat().st_blocks * 512 < 3_000_000


@pytest.mark.parametrize("compression", COMPRESS)
def test_the_bytes_decide_not_the_name(place, source, compression):
    archive = COMPRESS[compression](gnu_tar(source))
    done = place.unpack(archive, "misleading.zip", size=len(archive))
    assert place.tree() == snapshot(source)
    assert done.format == f"tar+{compression}"


@pytest.mark.parametrize("magic", [b"\x1f\x8b\x08", b"BZh91AY&SY", b"PK\x03\x04", b"\x28\xb5\x2f\xfd"])
def test_a_first_member_named_like_another_formats_magic(place, magic):
    """A tar begins with a file name, which may be any bytes: a header whose checksum holds is a tar."""
    name = os.fsdecode(magic)
    assert place.unpack(made((member(name), b"x"), format_=tarfile.GNU_FORMAT)).format == "tar"
    assert magic in {os.fsencode(path) for path in place.names()}


def made(*members: tuple[tarfile.TarInfo, bytes], format_: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format_) as tar:
        for member, content in members:
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return out.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", mode: int = 0o644) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, link, mode
    return info


def test_names_with_dots_and_double_slashes_are_the_same_names(place):
    place.unpack(
        made(
            (member("./a//b/./one"), b"1"),
            (member("a/b/two"), b"2"),
            (member("./a/b//three/."), b"3"),
            (member("c/./", tarfile.DIRTYPE), b""),
            (member("...", tarfile.REGTYPE), b"4"),
            (member("..data", tarfile.REGTYPE), b"5"),
        )
    )
    assert place.names() == {"a", "a/b", "a/b/one", "a/b/two", "a/b/three", "c", "...", "..data"}


def test_modes_lose_setuid_and_the_owner_keeps_access(place):
    old = os.umask(0o077)
    try:
        place.unpack(
            made(
                (member("setuid", mode=0o6755), b""),
                (member("sticky", tarfile.DIRTYPE, mode=0o3777), b""),
                (member("none", mode=0), b""),
                (member("open", mode=0o666), b""),
                (member("others", mode=0o055), b""),
                (member("closed", tarfile.DIRTYPE, mode=0), b""),
                (member("closed/inside"), b"x"),
            )
        )
    finally:
        os.umask(old)
    assert {path: facts[1] for path, facts in place.tree().items()} == {
        "setuid": 0o755,
        "sticky": 0o777,
        "none": 0o600,
        "open": 0o666,
        "others": 0o755,
        "closed": 0o700,
        "closed/inside": 0o644,
    }


def test_the_later_of_two_members_with_one_name_stands(place):
    place.unpack(
        made(
            (member("f"), b"first"),
            (member("l", tarfile.SYMTYPE, "f"), b""),
            (member("e", tarfile.DIRTYPE), b""),
            (member("h", tarfile.LNKTYPE, "f"), b""),
            (member("g"), b"a file"),
            (member("s", tarfile.SYMTYPE, "e"), b""),
            (member("f"), b"second"),
            (member("l"), b"was a link"),
            (member("e"), b"was a folder"),
            (member("g", tarfile.DIRTYPE), b""),
            (member("g/in"), b"in"),
            (member("s", tarfile.DIRTYPE), b""),
            (member("s/in"), b"in s"),
        )
    )
    content = {path: facts[3] for path, facts in place.tree().items() if facts[0] == FILE}
    assert content == {
        "f": b"second",
        "h": b"first",
        "l": b"was a link",
        "e": b"was a folder",
        "g/in": b"in",
        "s/in": b"in s",
    }


def test_an_old_style_folder_is_a_file_with_a_slash(place):
    place.unpack(header(b"old/", b"\0") + header(b"new/", b"0", magic=b"") + END)
    assert {path: facts[0] for path, facts in place.tree().items()} == {"old": FOLDER, "new": FOLDER}


def header(
    name: bytes,
    kind: bytes,
    size: bytes = b"00000000000\0",
    mtime: bytes = b"00000000000\0",
    link: bytes = b"",
    magic: bytes = b"ustar\x0000",
) -> bytes:
    """A header by hand, its checksum right."""
    block = bytearray(512)
    block[: len(name)] = name
    block[100:124] = b"0000644\x000000000\x000000000\0"
    block[124:136] = size
    block[136:148] = mtime
    block[148:156] = b" " * 8
    block[156:157] = kind
    block[157 : 157 + len(link)] = link
    block[257 : 257 + len(magic)] = magic
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


END = bytes(1024)


def test_headers_without_magic_contiguous_files_and_signed_checksums(place):
    signed = bytearray(header(b"signed-\xff\xfe", b"0", magic=b""))
    signed[148:156] = b" " * 8
    signed[148:156] = b"%06o\0 " % sum(byte - 256 if byte > 127 else byte for byte in signed)
    place.unpack(header(b"v7", b"0", magic=b"") + header(b"contiguous", b"7") + bytes(signed) + END, "x")
    assert place.names() == {"v7", "contiguous", "signed-\udcff\udcfe"}


def test_sizes_in_base_256(place):
    size = (0x80).to_bytes(1, "big") + (3).to_bytes(11, "big")
    place.unpack(header(b"f", b"0", size=size) + b"abc".ljust(512, b"\0") + END)
    assert (place.root / "f").read_bytes() == b"abc"


def test_fields_padded_with_spaces(place):
    place.unpack(
        header(b"f", b"0", size=b"          3 ", mtime=b" 14514711200"[:11] + b"\0") + b"abc".ljust(512, b"\0") + END
    )
    assert (place.root / "f").read_bytes() == b"abc"


def test_a_gnu_header_has_no_prefix_where_posix_has_one(place):
    block = bytearray(header(b"f", b"0", magic=b"ustar  \0"))
    block[345:356] = b"14514711200"  # GNU's access time
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    place.unpack(bytes(block) + END)
    assert place.names() == {"f"}


def pax(records: dict[bytes, bytes], kind: bytes = b"x") -> bytes:
    payload = b""
    for key, value in records.items():
        rest = len(key) + len(value) + 3
        length = rest + len(str(rest + len(str(rest))))
        payload += b"%d %s=%s\n" % (length, key, value)
    return header(b"pax", kind, size=b"%011o\0" % len(payload)) + payload + bytes(-len(payload) % 512)


def test_global_pax_headers_hold_until_a_member_says_otherwise(place):
    place.unpack(
        pax({b"comment": b"abc", b"mtime": b"1000"}, b"g")
        + header(b"one", b"0")
        + pax({b"mtime": b"2000.25"})
        + header(b"two", b"0")
        + pax({b"mtime": b""})
        + header(b"three", b"0", mtime=b"00000000007\0")
        + END
    )
    assert {path: facts[2] for path, facts in place.tree().items()} == {
        "one": 1000 * 10**9,
        "two": 2000_250_000_000,
        "three": 7 * 10**9,
    }


def test_a_pax_size_stands_above_the_headers(place):
    place.unpack(pax({b"size": b"3"}) + header(b"f", b"0") + b"abc".ljust(512, b"\0") + END)
    assert (place.root / "f").read_bytes() == b"abc"


# Single files, empty archives, what is no archive


@pytest.mark.parametrize("compression", COMPRESS)
def test_one_compressed_file_loses_its_suffix(place, compression):
    suffix = {"gzip": "gz", "bzip2": "bz2", "xz": "xz", "zstd": "zst"}[compression]
    done = place.unpack(COMPRESS[compression](b"a,b\n" * 1000), f"data.csv.{suffix}")
    assert (place.root / "data.csv").read_bytes() == b"a,b\n" * 1000
    assert (done.format, done.members, done.unpacked_bytes) == (compression, 1, 4000)


def test_one_compressed_file_without_a_suffix_keeps_its_name(place):
    place.unpack(gzip.compress(b""), "blob")
    assert (place.root / "blob").read_bytes() == b""


def test_a_compressed_zip_is_one_file(place):
    place.unpack(gzip.compress(zipped({"a": b"1"})), "model.npz.gz")
    assert zipfile.ZipFile(place.root / "model.npz").namelist() == ["a"]


def test_zeros_in_a_compressed_file_are_its_content(place):
    place.unpack(gzip.compress(bytes(10_240)), "zeros.gz")
    assert (place.root / "zeros").read_bytes() == bytes(10_240)


@pytest.mark.parametrize("name", ["a.tar.gz", "a.tgz"])
def test_a_suffix_that_would_leave_no_name_is_refused(place, name):
    with pytest.raises(UnsafeMember, match="'' cannot be the name of a file"):
        place.unpack(gzip.compress(b"x"), ".gz")
    with pytest.raises(UnsafeMember, match=r"'\.\.' cannot be the name of a file"):
        place.unpack(gzip.compress(b"x"), "...gz")
    assert place.names() == set()
    assert name


@pytest.mark.parametrize(
    ("archive", "name"),
    [
        (bytes(1024), "a.tar"),
        (bytes(10_240), "blob"),
        (bytes(512), "blob"),
        (gzip.compress(bytes(10_240)), "a.tar.gz"),
        (gzip.compress(bytes(10_240)), "blob"),
        (zstandard.compress(bytes(1024)), "a.TZST"),
    ],
)
def test_an_empty_tar_is_nothing_but_zeros(place, archive, name):
    done = place.unpack(archive, name)
    assert (done.members, done.unpacked_bytes, done.warnings, place.names()) == (0, 0, [], set())


@pytest.mark.parametrize(
    ("content", "name", "seen"),
    [
        (b"hello world", "notes.txt", "it begins with b'hello wo'"),
        (b"hello world" * 100, "notes.tar", "it begins with b'hello wo'"),
        (gzip.compress(b"hello world" * 100), "notes.tar.gz", "it begins with b'hello wo'"),
        (b"", "empty", "it is empty"),
        (b"7z\xbc\xaf'\x1c rest", "a.7z", "it is a 7-Zip archive"),
        (bytes(10_241), "disk.img", "it begins with b'"),
        (bytes(100), "disk.img", "it begins with b'"),
        (bytes(1024) + b"x", "disk.img", "it begins with b'"),
    ],
)
def test_what_is_no_archive_is_said_and_what_it_is(place, content, name, seen):
    with pytest.raises(UnsupportedArchive) as caught:
        place.unpack(content, name)
    assert str(caught.value).startswith(f"'{name}' is no archive that can be unpacked: {seen}")
    assert caught.value.hint.startswith("tar, tar.gz")
    assert place.names() == set()


def test_a_name_in_a_message_cannot_write_to_the_terminal(place):
    with pytest.raises(UnsupportedArchive) as caught:
        place.unpack(b"x", "a\x1b[31m\nb")
    assert "\x1b" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_write_file_writes_it_as_it_is(place):
    descriptor = os.open(place.root, os.O_DIRECTORY)
    try:
        done = write_file(iter([b"ab", memoryview(b"cd"), b""]), descriptor, "données.tar.gz", Budget())
        for name in ("", ".", "..", "a/b", "a\0b", "\ud800"):
            with pytest.raises(UnsafeMember, match="cannot be the name of a file"):
                write_file([b"x"], descriptor, name, Budget())
        with pytest.raises(UnsafeMember, match="name too long for this file system"):
            write_file([b"x"], descriptor, "n" * 256, Budget())
        budget = Budget(max_bytes=5)
        with pytest.raises(LimitExceeded, match="more than 5 bytes"):
            write_file([b"xxxx", b"xx"], descriptor, "too-much", budget)
        assert (place.root / "too-much").read_bytes() == b"xxxx"
        budget.take_bytes(5)  # what was taken is given back
    finally:
        os.close(descriptor)
    assert (place.root / "données.tar.gz").read_bytes() == b"abcd"
    assert (done.format, done.members, done.unpacked_bytes) == ("file", 1, 4)


# zip


def zipped(content: dict[str | zipfile.ZipInfo, bytes], how: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", how) as archive:
        for name, inside in content.items():
            archive.writestr(name, inside, how)
    return out.getvalue()


def entry(name: str, mode: int = 0, system: int = 3, when: tuple = (2001, 2, 3, 4, 5, 6)) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, when)
    info.create_system = system
    info.external_attr = mode << 16
    return info


@pytest.mark.parametrize("how", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_zip_with_modes_links_and_times(place, how):
    content = random.Random(3).randbytes(100_000) + bytes(2 << 20)
    archive = zipped(
        {
            entry("d/", FOLDER | 0o2750): b"",
            entry("d/run", FILE | 0o4755): content,
            entry("l", LINK | 0o777): b"d/run",
            entry("plain", 0, 0): b"from elsewhere",
            entry("ü"): b"unicode",
            entry("bad-date", when=(1980, 0, 0, 0, 0, 0)): b"",
        },
        how,
    )
    done = place.unpack(archive, "a.tar.gz", step=10_000)
    when = 981_173_106_000_000_000
    tree = place.tree()
    assert tree["d"][:3] == (FOLDER, 0o750, when)
    assert tree["d/run"] == (FILE, 0o755, when, content)
    assert tree["l"] == (LINK, 0o777, when, b"d/run")
    assert tree["plain"] == (FILE, 0o644, when, b"from elsewhere")
    assert tree["ü"][3] == b"unicode"
    assert tree["bad-date"][2] == 0
    assert (done.format, done.members, done.unpacked_bytes) == ("zip", 6, len(content) + 14 + 7)


def test_the_extended_timestamp_of_a_zip_is_utc(place):
    info = entry("f")
    info.extra = b"UT\x05\x00\x01" + (1_111_111_111).to_bytes(4, "little")
    place.unpack(zipped({info: b""}), "a.zip")
    assert place.tree()["f"][2] == 1_111_111_111 * 10**9


def test_a_zip_of_raw_unix_names_keeps_their_bytes(place):
    archive = zipped({entry("name-XX"): b"1"}).replace(b"name-XX", b"name-\xff\x81")
    place.unpack(archive, "a.zip")
    assert place.names() == {"name-\udcff\udc81"}


def test_an_empty_zip(place):
    assert place.unpack(zipped({}), "a.zip").members == 0
    assert place.names() == set()


def test_a_zip_whose_directory_is_too_large_to_hold_is_unsupported(place, monkeypatch):
    archive = zipped({str(number): b"" for number in range(30)})
    monkeypatch.setattr("artifacts.archive.unzip.MAX_DIRECTORY_BYTES", 1000)
    with pytest.raises(UnsupportedArchive, match="a directory of 1430 bytes; at most 1000 are read"):
        place.unpack(archive, "a.zip")


def test_an_encrypted_zip_is_unsupported(place):
    archive = bytearray(zipped({"secret": b"x"}))
    archive[archive.index(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(UnsupportedArchive, match="member 'secret' is encrypted"):
        place.unpack(bytes(archive), "a.zip")


def test_an_unknown_method_in_a_zip_is_unsupported(place):
    archive = bytearray(zipped({"f": b"x"}))
    archive[archive.index(b"PK\x01\x02") + 10] = 97
    archive[8] = 97
    with pytest.raises(UnsupportedArchive, match="the zip uses what is not read here"):
        place.unpack(bytes(archive), "a.zip")


def test_damaged_and_cut_zips_are_corrupt(place):
    archive = zipped({"f": random.Random(4).randbytes(5000)})
    damaged = bytearray(archive)
    damaged[2000] ^= 1
    for broken in (archive[:-30], archive[:2000], bytes(damaged)):
        with pytest.raises(CorruptArchive, match="the zip is corrupt"):
            place.unpack(broken, "a.zip")
        for left in place.root.iterdir():
            left.unlink()


@pytest.mark.parametrize(
    ("info", "content", "message"),
    [
        (entry("../x"), b"", r"member '../x' has '..' in its name"),
        (entry("/x"), b"", "member '/x' has an absolute name"),
        (entry("l", LINK), b"../canary", "link to '../canary', which leaves the folder"),
        (entry("l", LINK), b"/etc", "link to the absolute path '/etc'"),
        (entry("l", LINK), b"x" * 5000, "link to a path of 5000 bytes; at most 4096"),
        (entry("fifo", stat.S_IFIFO | 0o644), b"", "is no file, folder or link: mode 10644"),
    ],
)
def test_hostile_zips(place, info, content, message):
    with pytest.raises(UnsafeMember, match=message):
        place.unpack(zipped({info: content}), "a.zip")
    assert place.names() == set()


def test_a_nul_in_a_zip_name_is_refused(place):
    with pytest.raises(UnsafeMember, match="NUL"):
        place.unpack(zipped({entry("aXb"): b"1"}).replace(b"aXb", b"a\0b"), "a.zip")


def test_the_copy_of_a_zip_stays_within_the_budget_and_is_then_free(place):
    archive = zipped({"f": b"x" * 1000}, zipfile.ZIP_STORED)
    with pytest.raises(LimitExceeded, match="more than 1050 bytes"):
        place.unpack(archive, "a.zip", budget=Budget(max_bytes=1050))
    assert len(archive) > 1050
    budget = Budget(max_bytes=2000)
    place.unpack(archive, "a.zip", budget=budget)
    budget.take_bytes(1000)
    with pytest.raises(LimitExceeded):
        budget.take_bytes(1)


def test_a_zip_whose_member_lies_before_its_beginning_is_corrupt(place):
    """A directory that says it is further on than it is moves the first member to a negative offset."""
    archive = bytearray(zipped({"a": b"x"}, 0))
    end = archive.rindex(b"PK\x05\x06")
    offset = int.from_bytes(archive[end + 16 : end + 20], "little")
    archive[end + 16 : end + 20] = (offset + 1).to_bytes(4, "little")
    with pytest.raises(CorruptArchive, match="before its beginning"):
        place.unpack(bytes(archive), "x.zip")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_archives_only_ever_raise_what_is_promised(tmp_path_factory, data):
    made_of = data.draw(st.sampled_from(["zip", "tar", "pax"]))
    inside = {"a/b": b"hello" * 50, "c": b"", "d/": b""}
    if made_of == "zip":
        archive = bytearray(zipped(inside, data.draw(st.sampled_from([0, 8, 12, 14]))))
    else:
        archive = bytearray(
            made(
                (member("a/b"), b"hello" * 50),
                (member("l" * 120), b"x"),
                (member("s", tarfile.SYMTYPE, "a"), b""),
                format_=tarfile.GNU_FORMAT if made_of == "tar" else tarfile.PAX_FORMAT,
            )[:5120]
        )
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(archive) - 1))
        archive[at] = data.draw(st.integers(0, 255))
    if made_of != "zip":
        for at in range(0, len(archive), 512):  # make the checksums right again, so that the fields are read
            if archive[at + 257 : at + 262] == b"ustar":
                archive[at + 148 : at + 156] = b" " * 8
                archive[at + 148 : at + 156] = b"%06o\0 " % sum(archive[at : at + 512])
    archive = archive[: data.draw(st.integers(len(archive) - 100, len(archive)))]
    place = Place(tmp_path_factory.mktemp("fuzz"))
    with contextlib.suppress(ArchiveError, LimitExceeded, DiskError):
        place.unpack(bytes(archive), "x")
    place.assert_outside_untouched()


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=20).filter(
    lambda name: name not in (".", "..") and len(name.encode()) < 200
)
TREES = st.recursive(
    st.binary(max_size=2000),
    lambda inner: st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)


def grow(root: Path, tree: dict) -> None:
    for name, inside in tree.items():
        if isinstance(inside, dict):
            (root / name).mkdir()
            grow(root / name, inside)
        else:
            (root / name).write_bytes(inside)


BSDTAR = shutil.which("bsdtar")
WRITERS = ["gnu", "pax", "python", *(["bsd-pax", "bsd-gnutar"] if BSDTAR else [])]


def written(root: Path, writer: str) -> bytes:
    if writer == "python":
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as tar:
            tar.add(root, "")
        return out.getvalue()
    if writer.startswith("bsd-"):
        how = ["--format", writer.removeprefix("bsd-"), "-C", str(root), "."]
        return subprocess.run([BSDTAR, "-cf", "-", *how], check=True, capture_output=True).stdout
    return gnu_tar(root, f"--format={writer}")


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(NAMES, TREES, max_size=5), st.sampled_from(WRITERS))
def test_any_tree_unpacks_as_gnu_tar_bsdtar_and_python_unpack_it(tmp_path_factory, tree, writer):
    base = tmp_path_factory.mktemp("random")
    (base / "source").mkdir()
    grow(base / "source", tree)
    archive = written(base / "source", writer)
    place = Place(base)
    place.unpack(archive, step=777)
    # GNU tar sets a folder's time too early unless its members follow it at once, as it writes them itself.
    for peer in filter(None, (BSDTAR, None if writer.startswith("bsd-") else shutil.which("tar"))):
        theirs = base / Path(peer).name
        theirs.mkdir()
        subprocess.run([peer, "-xpf", "-", "-C", str(theirs)], input=archive, check=True)
        assert place.tree() == snapshot(theirs)
    (base / "pythons").mkdir()
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(base / "pythons", filter="tar")
    drop = {path: (*facts[:2], *facts[3:]) for path, facts in place.tree().items()}  # its times are floats
    assert drop == {path: (*facts[:2], *facts[3:]) for path, facts in snapshot(base / "pythons").items()}


def test_the_whole_stream_is_read_and_closed_over(place):
    seen = []

    def source():
        for piece in (made((member("f"), b"x")), bytes(512), bytes(9000)):
            seen.append(len(piece))
            yield piece

    descriptor = os.open(place.root, os.O_DIRECTORY)
    try:
        buffers: list[Buffer] = source()  # type: ignore[assignment]
        unpack(buffers, descriptor, name="a.tar", budget=Budget(max_bytes=1))
    finally:
        os.close(descriptor)
    assert seen == [10_240, 512, 9000]


def test_content_after_the_end_marker_is_warned_of(place):
    one = made((member("f"), b"x"))
    done = place.unpack(one + one)
    assert done.warnings == [{"code": "data-after-end", "path": ""}]
    assert done.members == 1


def test_more_folders_than_may_be_open(place):
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (128, hard))
    try:
        members = []
        for number in range(300):
            members.append((member(f"{number % 50}/{number}", tarfile.DIRTYPE), b""))
            members.append((member(f"{number % 50}/{number}/file"), b"%d" % number))
        members += [(member("same", tarfile.DIRTYPE), b"")]
        members += [(member(f"same/{number}", tarfile.DIRTYPE), b"") for number in range(300)]
        members += [(member("same/0/hard", tarfile.LNKTYPE, "49/299/file"), b"")]
        place.unpack(made(*members))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert (place.root / "49" / "299" / "file").read_bytes() == b"299"
    assert (place.root / "same" / "0" / "hard").read_bytes() == b"299"
    assert len(place.names()) == 50 + 600 + 301 + 1


def test_a_deep_tree_with_few_descriptors(place):
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (128, hard))
    deep = "/".join("abcdefghij" * 20)
    try:
        place.unpack(made((member(f"{deep}/file"), b"down"), (member("x/hard", tarfile.LNKTYPE, f"{deep}/file"), b"")))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert (place.root / "x" / "hard").read_bytes() == b"down"
