"""The store of local files: the conformance suite, and what confines it."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from conformance import Conformance

from creds.errors import AccessDenied, BucketNotFound, NotSupported, ObjectChanged, ObjectNotFound, StoreError
from creds.stores.files import FilesStore


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    (tmp_path / "secret").write_bytes(b"outside")
    return tmp_path / "root"


class TestFiles(Conformance):
    enforces = False  # comparing an ETag and renaming are two steps
    pins_etag = False
    signs = False  # nothing serves a folder by URL

    @pytest.fixture
    def store(self, root: Path) -> FilesStore:
        return FilesStore(root)


@pytest.mark.parametrize(
    "key",
    ["../secret", "a/../../secret", "..", ".", "", "/etc/passwd", "a//b", "a/", "./a", "a/./b", "a\0b", "a/..", "/"],
)
def test_keys_that_lead_out(root: Path, key: str) -> None:
    # No key that is not a plain path below the root is taken, by any verb.
    store = FilesStore(root)
    (root / "a").mkdir()
    for verb in (store.open, store.head, store.delete, lambda k: store.write(k, [b"x"])):
        with pytest.raises(AccessDenied, match="not a path below the root"):
            verb(key)
    assert sorted(p.name for p in root.rglob("*")) == ["a"]
    assert (root.parent / "secret").read_bytes() == b"outside"


@pytest.mark.parametrize("link_to", ["../secret", "/etc/passwd", "inside", "missing"])
def test_a_link_as_the_file(root: Path, link_to: str) -> None:
    # A symbolic link is refused wherever it leads, and is neither followed nor replaced nor deleted.
    (root / "inside").write_bytes(b"x")
    (root / "link").symlink_to(link_to)
    store = FilesStore(root)
    for verb in (store.open, store.head, store.delete, lambda k: store.write(k, [b"x"])):
        with pytest.raises(AccessDenied, match="symbolic link"):
            verb("link")
    assert (root / "link").is_symlink()
    assert [entry.key for entry in store.list()] == ["inside"]


def test_a_link_as_a_folder(root: Path) -> None:
    # A link in the middle of a path is refused by name; listing does not descend into it.
    (root / "out").symlink_to("..")
    store = FilesStore(root)
    for verb in (store.open, store.head, store.delete, lambda k: store.write(k, [b"x"])):
        with pytest.raises(AccessDenied, match="'out' is a symbolic link"):
            verb("out/secret")
    assert list(store.list()) == []
    assert (root.parent / "secret").read_bytes() == b"outside"


def test_a_folder_swapped_for_a_link_while_writing(root: Path) -> None:
    # The folder that was opened is written to, even when its name is a link by the time of the rename.
    (root / "d").mkdir()
    outside = root.parent / "outside"
    outside.mkdir()
    store = FilesStore(root)

    def buffers():
        yield b"one"
        (root / "d").rename(root / "moved")
        (root / "d").symlink_to(outside)
        yield b"two"

    store.write("d/k", buffers())
    assert list(outside.iterdir()) == []
    assert (root / "moved" / "k").read_bytes() == b"onetwo"


def test_what_is_no_file(root: Path) -> None:
    # A FIFO does not hang and a folder is no object.
    os.mkfifo(root / "fifo")
    (root / "folder").mkdir()
    store = FilesStore(root)
    with pytest.raises(AccessDenied, match="not a regular file"):
        store.open("fifo")
    with pytest.raises(ObjectNotFound, match="a folder, not a file"):
        store.open("folder")
    with pytest.raises(ObjectNotFound, match="a folder, not a file"):
        store.head("folder")
    with pytest.raises(AccessDenied, match="no regular file has this name"):
        store.write("folder", [b"x"])
    with pytest.raises(ObjectNotFound):
        store.open("folder/missing/deep")
    (root / "file").write_bytes(b"x")
    with pytest.raises(ObjectNotFound):
        store.open("file/below")


def test_missing_root(tmp_path: Path) -> None:
    # A root that does not exist is the bucket that does not exist.
    store = FilesStore(tmp_path / "none", location="file:///masked")
    with pytest.raises(BucketNotFound, match="no such folder") as caught:
        store.open("k")
    assert caught.value.location == "file:///masked"
    with pytest.raises(BucketNotFound):
        list(store.list())


def test_change_while_read(root: Path) -> None:
    # A file written to while it is read is ObjectChanged; one replaced is read to its end, as it was opened.
    (root / "k").write_bytes(b"a" * (3 << 20))
    store = FilesStore(root)
    with store.open("k") as reading:
        assert reading.pinned == "weak"
        assert len(next(iter(reading))) == 1 << 20
        with (root / "k").open("ab") as more:
            more.write(b"b")
        with pytest.raises(ObjectChanged, match="changed while it was read"):
            list(reading)
    with store.open("k") as reading:
        next(iter(reading))
        store.write("k", [b"new"])
        assert sum(map(len, reading)) == (2 << 20) + 1


def test_truncated_while_read(root: Path) -> None:
    # A file cut short is an error, never a short content.
    (root / "k").write_bytes(b"a" * (3 << 20))
    with FilesStore(root).open("k") as reading:
        next(iter(reading))
        os.truncate(root / "k", 100)
        with pytest.raises(ObjectChanged):
            list(reading)


def test_unfinished_files_stay_hidden(root: Path) -> None:
    # While a write runs its file lies beside the target under a name that is no key.
    store = FilesStore(root)
    seen: list[str] = []

    def buffers():
        yield b"x"
        seen.extend(entry.key for entry in store.list())
        seen.extend(name.name for name in (root / "d").iterdir())
        yield b"y"

    store.write("d/k", buffers())
    (unfinished,) = seen
    assert unfinished.startswith(".k.partial-")
    with pytest.raises(AccessDenied, match="unfinished files"):
        store.write("d/" + unfinished, [b"x"])
    assert [entry.key for entry in store.list()] == ["d/k"]


def test_created_meanwhile(root: Path) -> None:
    # if_none_match holds at the moment of publishing, not only when the write begins.
    store = FilesStore(root)

    def buffers():
        yield b"mine"
        (root / "k").write_bytes(b"theirs")

    with pytest.raises(ObjectChanged, match="exists already"):
        store.write("k", buffers(), if_none_match=True)
    assert (root / "k").read_bytes() == b"theirs"
    assert [path.name for path in root.iterdir()] == ["k"]


def test_one_of_many_creates(root: Path) -> None:
    # Creating is atomic, although conditions in general are not claimed to be.
    store = FilesStore(root)
    won: list[int] = []
    begin = threading.Barrier(8)

    def create(number: int) -> None:
        begin.wait()
        try:
            store.write("k", [b"%d" % number], if_none_match=True)
        except ObjectChanged:
            return
        won.append(number)

    threads = [threading.Thread(target=create, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert (root / "k").read_bytes() == b"%d" % won[0]


def test_full_disk(root: Path) -> None:
    # A write that the disk refuses says why, and leaves nothing.
    import resource
    import signal

    store = FilesStore(root)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(StoreError, match="File too large"):
            store.write("k", [b"x" * 2000])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert list(root.iterdir()) == []


def test_other_verbs(root: Path) -> None:
    # There is no SDK behind it and nothing to sign; closing releases the root.
    open_files = Path("/proc/self/fd")
    before = len(list(open_files.iterdir()))
    store = FilesStore(root)
    assert store.client is None
    with pytest.raises(NotSupported):
        store.sign("k")
    store.write("k", [b"x"])
    store.close()
    store.close()
    assert len(list(open_files.iterdir())) == before


def test_names_that_are_not_utf8(root: Path) -> None:
    # A name that is no UTF-8 is listed and read back by the key the listing gave.
    (root / os.fsdecode(b"caf\xe9")).write_bytes(b"latin")
    store = FilesStore(root)
    (entry,) = store.list()
    with store.open(entry.key) as reading:
        assert b"".join(reading) == b"latin"
