"""A folder becomes the same bytes every time, read back right by everyone, and what changes meanwhile is told."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import random
import shutil
import socket
import stat
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trees import Place, open_descriptors, snapshot

from artifacts.archive import pack as module
from artifacts.archive.pack import Scan, pack, scan, signature_of_file
from artifacts.errors import DiskError


@contextlib.contextmanager
def scanned(root: Path, **how) -> Iterator[Scan]:
    descriptor = os.open(root, os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        yield scan(descriptor, **how)
    finally:
        os.close(descriptor)


def packed(root: Path) -> bytes:
    with scanned(root) as found:
        packing = pack(found)
        archive = b"".join(packing)
        assert packing.warnings == []
        assert len(archive) == found.size_bytes
        return archive


def fill(root: Path) -> None:
    (root / "data" / "er").mkdir(parents=True)
    (root / "data.csv").write_bytes(b"a,b\n")
    (root / "data-2").write_bytes(b"")
    (root / "data" / "exact").write_bytes(b"x" * 512)
    (root / "data" / "large").write_bytes(random.Random(5).randbytes(3_000_001))
    (root / "data" / "er" / "link").symlink_to("../large")
    (root / "data" / "hard").hardlink_to(root / "data" / "exact")
    (root / "run").write_bytes(b"#!/bin/sh\n")
    (root / "run").chmod(0o4755)
    (root / ("n" * 100)).write_bytes(b"100")
    (root / ("n" * 101)).write_bytes(b"101")
    (root / ("f" * 100)).mkdir()
    (root / ("p" * 150) / ("q" * 100)).mkdir(parents=True)
    (root / ("p" * 150) / ("q" * 99)).write_bytes(b"fits ustar")
    (root / ("p" * 160)).mkdir()
    (root / ("p" * 160) / "r").write_bytes(b"does not")
    (root / "ünïcode-名前").write_bytes(b"utf-8")
    (root / ("名" * 60)).write_bytes(b"long utf-8")
    (root / "to-unicode").symlink_to("ünïcode-名前")
    (root / "long-link").symlink_to("t/" * 80 + "x")
    (root / "to-bytes").symlink_to("to-\udcff")
    for name in ("bytes-\udcff\udcfe", "long-\udcff" + "b" * 120):
        (root / name).write_bytes(b"no utf-8")
    for number, path in enumerate(sorted(root.rglob("*"), reverse=True)):
        os.utime(path, ns=(1, (1_600_000_000 + number) * 10**9), follow_symlinks=False)
    os.utime(root / "run", ns=(1, -5 * 10**9))
    os.utime(root / "data-2", ns=(1, 9_000_000_000 * 10**9))


@pytest.fixture
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("packed") / "root"
    root.mkdir()
    fill(root)
    return root


def expected(root: Path) -> dict[str, tuple]:
    """The tree without setuid."""
    return {path: (facts[0], facts[1] & 0o777, *facts[2:]) for path, facts in snapshot(root).items()}


def timeless(tree: dict[str, tuple], *paths: str) -> dict[str, tuple]:
    return {path: (*facts[:2], 0, facts[3]) if path in paths else facts for path, facts in tree.items()}


def without_link_times(tree: dict[str, tuple]) -> dict[str, tuple]:
    """Python's tarfile does not set them."""
    return timeless(tree, *(path for path, facts in tree.items() if facts[0] == stat.S_IFLNK))


def test_unpacking_gives_the_tree_and_packing_that_the_same_bytes(place, root):
    archive = packed(root)
    place.unpack(archive, step=100_000)
    assert place.tree() == expected(root)
    assert packed(place.root) == archive


def test_gnu_tar_and_python_read_the_same_tree(tmp_path, root):
    archive = packed(root)
    theirs, pythons = tmp_path / "theirs", tmp_path / "pythons"
    theirs.mkdir()
    pythons.mkdir()
    done = subprocess.run(["tar", "xpf", "-", "-C", str(theirs)], input=archive, capture_output=True, check=True)
    # GNU tar sets a folder's time when the next member is not in it, though more may follow: "data", "data-2", "data/er".
    assert timeless(snapshot(theirs), "data") == timeless(expected(root), "data")
    # GNU tar says that it takes such names as they are, and that a time lies in the future.
    said = [
        line for line in done.stderr.decode().splitlines() if "hdrcharset" not in line and "in the future" not in line
    ]
    assert said in (["tar: run: implausibly old time stamp 1969-12-31 23:59:55"], [])
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(pythons, filter="fully_trusted")
    assert without_link_times(snapshot(pythons)) == without_link_times(expected(root))


def test_members_are_sorted_by_the_bytes_of_their_stored_name_and_owned_by_nobody(root):
    with tarfile.open(fileobj=io.BytesIO(packed(root))) as tar:
        members = tar.getmembers()
    names = [os.fsencode(member.name) + (b"/" if member.isdir() else b"") for member in members]
    assert names == sorted(names)
    assert names[:4] == [b"bytes-\xff\xfe", b"data-2", b"data.csv", b"data/"]
    for member in members:
        assert (member.uid, member.gid, member.uname, member.gname) == (0, 0, "", "")
        assert member.mode & ~0o777 == 0
        assert member.mtime == int(member.mtime)
        assert not member.islnk()


def test_pax_only_where_ustar_cannot_say_it(root):
    archive = packed(root)
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        extended = {member.name: set(member.pax_headers) - {"hdrcharset"} for member in tar if member.pax_headers}
    assert extended == {
        "n" * 101: {"path"},
        "f" * 100: {"path"},
        "p" * 150: {"path"},
        "p" * 160: {"path"},
        "p" * 160 + "/r": {"path"},
        "p" * 150 + "/" + "q" * 100: {"path"},
        "ünïcode-名前": {"path"},
        "名" * 60: {"path"},
        "long-\udcff" + "b" * 120: {"path"},
        "to-unicode": {"linkpath"},
        "long-link": {"linkpath"},
        "run": {"mtime"},
        "data-2": {"mtime"},
    }


def test_the_bytes_are_what_they_were(tmp_path):
    # A change of this digest changes every packed object's name: it must be meant.
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").write_bytes(b"content\n")
    (tmp_path / "a" / "link").symlink_to("b/file")
    (tmp_path / "ü").write_bytes(b"")
    for path in [*tmp_path.rglob("*")]:
        if not path.is_symlink():
            path.chmod(0o750)
        os.utime(path, ns=(0, 1_700_000_000_999_999_999), follow_symlinks=False)
    archive = packed(tmp_path)
    assert len(archive) == 512 * (2 + 2 + 1 + 3 + 2)
    assert archive[-1024:] == bytes(1024)
    assert hashlib.sha256(archive).hexdigest() == DIGEST


DIGEST = "95bd33043b00ce8cb7fc640c1c4a3eef7929b06e7ee83665f2b2728525be3094"


def test_sizes_beyond_eight_gigabytes():
    entry = module.Entry(b"huge", "file", 0o644, 8 << 30, 0, 0, 1, b"")
    header = module._header(entry)
    with tarfile.open(fileobj=io.BytesIO(header + bytes(1024)), mode="r|") as tar:
        assert tar.next().size == 8 << 30
    assert module._member_bytes(entry) == (8 << 30) + 1536
    below = entry._replace(size_bytes=(8 << 30) - 512)
    assert module._member_bytes(below) == 8 << 30


def test_buffers_are_neither_tiny_nor_huge_nor_used_again(tmp_path):
    for number in range(3000):
        (tmp_path / f"{number}").write_bytes(b"%d" % number)
    (tmp_path / "a-large").write_bytes(bytes(5 << 20))
    with scanned(tmp_path) as found:
        buffers = list(pack(found))
    assert max(map(len, buffers)) <= (1 << 20) + (256 << 10)
    assert len(buffers) <= 3 + 5 + 3000 * 1024 // (256 << 10)
    assert b"".join(buffers) == packed(tmp_path)


def test_an_empty_folder(tmp_path):
    with scanned(tmp_path) as found:
        assert (found.empty, found.entries, found.skipped, found.size_bytes) == (True, (), (), 1024)
        assert b"".join(pack(found)) == bytes(1024)


def test_only_one_entry(root):
    with scanned(root, only="data") as found:
        assert [entry.path for entry in found.entries] == [
            b"data", b"data/er", b"data/er/link", b"data/exact", b"data/hard", b"data/large",
        ]  # fmt: skip
    with scanned(root, only="run") as found:
        assert [(entry.path, entry.kind) for entry in found.entries] == [(b"run", "file")]
    descriptor = os.open(root, os.O_DIRECTORY)
    try:
        with pytest.raises(DiskError, match=r"^cannot list 'missing': No such file or directory \(ENOENT\)$"):
            scan(descriptor, only="missing")
    finally:
        os.close(descriptor)


def test_what_is_no_file_is_skipped_and_named(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "d").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        where = Path.cwd()
        os.chdir(tmp_path / "d")
        try:
            listener.bind("socket")
        finally:
            os.chdir(where)
        with scanned(tmp_path) as found:
            assert found.skipped == ("d/socket", "fifo")
            assert [entry.path for entry in found.entries] == [b"d"]
            assert not found.empty


def test_links_are_stored_and_never_followed(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    root = tmp_path / "root"
    root.mkdir()
    (root / "folder").symlink_to("../outside")
    (root / "file").symlink_to(outside / "secret")
    (root / "inside").symlink_to("file")
    with scanned(root) as found:
        packing = pack(found)
        archive = b"".join(packing)
    assert b"secret\n" not in archive
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        assert {member.name: (member.type, member.linkname) for member in tar} == {
            "folder": (tarfile.SYMTYPE, "../outside"),
            "file": (tarfile.SYMTYPE, str(outside / "secret")),
            "inside": (tarfile.SYMTYPE, "file"),
        }
    assert packing.warnings == [{"code": "link-leaves", "path": "file"}, {"code": "link-leaves", "path": "folder"}]


def test_a_link_in_place_of_the_folder_is_not_opened(tmp_path):
    (tmp_path / "label").symlink_to(".")
    with pytest.raises(NotADirectoryError):
        os.open(tmp_path / "label", os.O_DIRECTORY | os.O_NOFOLLOW)


# The signature


def test_the_signature_changes_with_everything_that_can_change(root):
    def signature() -> str:
        with scanned(root) as found:
            return found.signature

    seen = {signature()}
    assert signature() in seen

    def rewrite_in_place_with_the_old_time():
        status = (root / "data.csv").stat()
        (root / "data.csv").write_bytes(b"b,a\n")
        os.utime(root / "data.csv", ns=(status.st_atime_ns, status.st_mtime_ns))

    def replace_link():
        (root / "long-link").unlink()
        (root / "long-link").symlink_to("elsewhere")

    changes = [
        (root / "new").touch,
        (root / "data-2").unlink,
        lambda: (root / "run").chmod(0o700),
        lambda: (root / "data.csv").write_bytes(b"longer than before"),
        rewrite_in_place_with_the_old_time,
        replace_link,
        lambda: (root / "data" / "er").rename(root / "data" / "or"),
        lambda: os.utime(root / "data", ns=(1, 2)),
    ]
    for number, change in enumerate(changes, 2):
        change()
        seen.add(signature())
        assert len(seen) == number


def test_reading_and_the_folder_itself_do_not_change_the_signature(root):
    with scanned(root) as found:
        before = found.signature
    packed(root)
    os.utime(root, ns=(5, 5))
    root.rename(root.with_name("moved"))
    with scanned(root.with_name("moved")) as found:
        assert found.signature == before


# What changes meanwhile


def after_scan(root: Path, change) -> tuple[dict[str, bytes], list[dict[str, str]], int]:
    """What the archive holds, the warnings, and by how much it differs from what was announced."""
    with scanned(root) as found:
        change()
        packing = pack(found)
        archive = b"".join(packing)
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        held = {member.name: tar.extractfile(member).read() for member in tar if member.isfile()}
    return held, packing.warnings, len(archive) - found.size_bytes


@pytest.fixture
def three(tmp_path) -> Path:
    for name in ("a", "b", "c"):
        (tmp_path / name).write_bytes(name.encode() * 700)
    return tmp_path


def test_a_file_that_shrank_is_filled_up(three):
    held, warnings, off = after_scan(three, lambda: os.truncate(three / "b", 10))
    assert held == {"a": b"a" * 700, "b": b"b" * 10 + bytes(690), "c": b"c" * 700}
    assert (warnings, off) == ([{"code": "changed", "path": "b"}], 0)


def test_a_large_file_that_shrank_to_nothing_is_filled_up(three):
    (three / "b").write_bytes(bytes(range(256)) * 20_000)
    held, warnings, off = after_scan(three, lambda: os.truncate(three / "b", 0))
    assert held["b"] == bytes(256 * 20_000)
    assert (warnings, off) == ([{"code": "changed", "path": "b"}], 0)


def test_a_file_that_grew_is_cut(three):
    held, warnings, off = after_scan(three, lambda: (three / "b").write_bytes(b"x" * 5000))
    assert held == {"a": b"a" * 700, "b": b"x" * 700, "c": b"c" * 700}
    assert (warnings, off) == ([{"code": "changed", "path": "b"}], 0)


def test_a_file_that_was_rewritten_is_told(three):
    def rewrite():
        (three / "b").write_bytes(b"y" * 700)
        os.utime(three / "b", ns=(1, 1))

    held, warnings, off = after_scan(three, rewrite)
    assert held["b"] == b"y" * 700
    assert (warnings, off) == ([{"code": "changed", "path": "b"}], 0)


def test_a_file_replaced_by_another_is_told(three):
    def replace():
        status = (three / "b").stat()
        (three / "new").write_bytes(b"z" * 700)
        os.utime(three / "new", ns=(1, status.st_mtime_ns))
        (three / "new").rename(three / "b")

    held, warnings, _ = after_scan(three, replace)
    assert held["b"] == b"z" * 700
    assert warnings == [{"code": "changed", "path": "b"}]


def turn_into_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("a")


def turn_into_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def turn_into_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("change", [Path.unlink, turn_into_link, turn_into_fifo, turn_into_folder])
def test_a_file_that_is_none_any_more_is_left_out_and_told(three, change):
    held, warnings, off = after_scan(three, lambda: change(three / "b"))
    assert held == {"a": b"a" * 700, "c": b"c" * 700}
    assert (warnings, off) == ([{"code": "vanished", "path": "b"}], -1536)


def test_a_folder_replaced_by_a_link_leads_nowhere(tmp_path):
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "d").mkdir(parents=True)
    outside.mkdir()
    (root / "d" / "f").write_bytes(b"mine")
    (outside / "f").write_bytes(b"secret")

    def replace():
        shutil.rmtree(root / "d")
        (root / "d").symlink_to(outside)

    held, warnings, _ = after_scan(root, replace)
    assert held == {}
    assert warnings == [{"code": "vanished", "path": "d/f"}]


UNREADABLE = """
import os, sys
from artifacts.archive.pack import pack, scan
from artifacts.errors import DiskError
root = sys.argv[1]
if os.getuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
for folder in ("file", "folder"):
    at = os.open(f"{root}/{folder}", os.O_DIRECTORY)
    try:
        list(pack(scan(at)))
    except DiskError as error:
        print(error, error.errno, sep="|")
"""


def test_what_cannot_be_read_is_an_error_never_left_out(tmp_path):
    (tmp_path / "file").mkdir()
    (tmp_path / "file" / "closed").write_bytes(b"x")
    (tmp_path / "file" / "closed").chmod(0)
    (tmp_path / "folder" / "closed").mkdir(parents=True)
    (tmp_path / "folder" / "closed").chmod(0)
    place = tmp_path
    while place != place.parent and not place.stat().st_mode & stat.S_IXOTH:
        place.chmod(0o711)  # so that another user comes this far
        place = place.parent
    script = tmp_path / "script.py"
    script.write_text(UNREADABLE)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", UNREADABLE, str(tmp_path)], capture_output=True, text=True, check=False, env=environment
    )
    (tmp_path / "folder" / "closed").chmod(0o700)
    assert done.stdout.splitlines() == [
        f"cannot read 'closed': Permission denied (EACCES)|{errno.EACCES}",
        f"cannot list folder 'closed': Permission denied (EACCES)|{errno.EACCES}",
    ], done.stderr


def test_stopping_early_closes_what_is_open(root):
    before = open_descriptors()
    with scanned(root) as found:
        packing = pack(found)
        next(packing)
        packing.close()
        assert list(packing) == []
    assert open_descriptors() <= before


NAMES = st.binary(min_size=1, max_size=120).filter(
    lambda name: b"/" not in name and b"\0" not in name and name not in (b".", b"..")
)
LEAVES = st.tuples(st.sampled_from([0o644, 0o755, 0o600, 0o777]), st.binary(max_size=1500)) | NAMES
TREES = st.recursive(LEAVES, lambda inner: st.dictionaries(NAMES, inner, max_size=4), max_leaves=10)


def grow(root: Path, tree: dict) -> None:
    for name, inside in tree.items():
        path = root / os.fsdecode(name)
        if isinstance(inside, dict):
            path.mkdir()
            grow(path, inside)
        elif isinstance(inside, bytes):
            path.symlink_to(os.fsdecode(inside))
        else:
            path.write_bytes(inside[1])
            path.chmod(inside[0])
        os.utime(path, ns=(0, len(name) * 10**15), follow_symlinks=False)


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(NAMES, TREES, max_size=4))
def test_any_tree_comes_back_whoever_unpacks_it(tmp_path_factory, tree):
    base = tmp_path_factory.mktemp("any")
    (base / "root").mkdir()
    grow(base / "root", tree)
    archive = packed(base / "root")
    place = Place(base)
    place.unpack(archive, "x.tar", step=999)
    assert place.tree() == snapshot(base / "root")
    assert packed(place.root) == archive
    for name in ("tar", "python"):
        (base / name).mkdir()
    subprocess.run(["tar", "xpf", "-", "-C", str(base / "tar")], input=archive, capture_output=True, check=True)
    folders = [path for path, facts in snapshot(base / "root").items() if facts[0] == stat.S_IFDIR]
    assert timeless(snapshot(base / "tar"), *folders) == timeless(snapshot(base / "root"), *folders)
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(base / "python", filter="fully_trusted")
    assert without_link_times(snapshot(base / "python")) == without_link_times(snapshot(base / "root"))
    shutil.rmtree(base)


@pytest.mark.parametrize("name", [b"o00001", "données".encode(), b"\xff.bin"])
def test_the_signature_of_one_file_is_that_of_its_folder(tmp_path, name):
    path = tmp_path / os.fsdecode(name)
    path.write_bytes(b"content")
    path.chmod(0o640)
    with scanned(tmp_path) as found:
        assert signature_of_file(found.folder, name) == found.signature


def test_the_signature_of_a_file_that_is_not_there_is_an_error(tmp_path):
    with scanned(tmp_path) as found, pytest.raises(DiskError, match="cannot list 'gone'.*ENOENT"):
        signature_of_file(found.folder, b"gone")
