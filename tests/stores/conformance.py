"""What every store must do, as one suite. A store's tests subclass it and give a ``store``.

A real difference between stores is a flag with its reason, never a changed test.
"""

from __future__ import annotations

import base64
import hashlib
import os
import threading
from collections.abc import Iterator

import pytest

from creds.errors import Cancelled, NotSupported, ObjectChanged, ObjectNotFound
from creds.store import Cancel, Store

MIB = 1 << 20
CONTENT = os.urandom(MIB) + os.urandom(4321)

KEYS = (
    "plain.txt",
    "a folder/a file+plus.txt",
    "per%cent/%2F/%41",
    "ünï/日本語/😀",
    "q?u=e&r#y",
    "'quotes'\"<angle>|pipe",
    "back\\slash",
    "deep/" * 20 + "end",
    "..data/.hidden/...",
    " lead and trail ",
    "~tilde*star",
    "tab\tnew\nline",
)


class Conformance:
    """The behaviours. Flags say what a store may lack."""

    enforces = True
    """The server holds conditions on writes."""
    pins_etag = True
    """A reading of several parts is pinned to its ETag (False: files, which have only size and time)."""
    lists_etags = True
    """A listing tells the ETags that the other verbs tell."""
    signs = True
    """``sign`` gives a URL."""
    keys = KEYS
    """Keys that the store's server keeps as they are."""
    sorted_listing = True
    """The server lists keys in the order of their bytes."""

    @pytest.fixture
    def store(self) -> Store:
        raise NotImplementedError

    def test_write_then_read(self, store: Store) -> None:
        # What was written comes back, whole and in order, however the buffers were cut.
        pieces = [CONTENT[:10], memoryview(CONTENT)[10:1000], CONTENT[1000:1000], CONTENT[1000:]]
        written = store.write("k", pieces)
        assert (written.key, written.size_bytes) == ("k", len(CONTENT))
        with store.open("k") as reading:
            assert reading.meta.size_bytes == len(CONTENT)
            assert reading.meta.key == "k"
            assert b"".join(reading) == CONTENT

    def test_checksums_are_those_of_the_content(self, store: Store) -> None:
        # Asking for them tells no less; a store that has none tells none, and what it calls an MD5 is one.
        store.write("k", [CONTENT])
        plain, asked = store.head("k"), store.head("k", checksums=True)
        assert (asked.size_bytes, asked.etag) == (plain.size_bytes, plain.etag)
        for name in set(asked.checksums) & {"md5", "sha1", "sha256"}:
            assert base64.b64decode(asked.checksums[name]) == hashlib.new(name, CONTENT).digest()

    def test_meta_agrees(self, store: Store) -> None:
        # write, head, open and list tell the same ETag and size.
        written = store.write("k", [b"some content"])
        with store.open("k") as reading:
            opened = reading.meta
        (listed,) = list(store.list("k"))
        head = store.head("k")
        assert written.etag is not None
        assert written.etag.startswith('"')
        assert {written.etag, head.etag, opened.etag} == {written.etag}
        assert listed.etag == (written.etag if self.lists_etags else None)
        assert {written.size_bytes, head.size_bytes, opened.size_bytes, listed.size_bytes} == {12}
        assert head.modified is not None
        assert head.modified.tzinfo is not None
        assert head.modified == opened.modified

    def test_empty(self, store: Store) -> None:
        # An empty object is an object: no buffers, size 0.
        store.write("empty", [])
        assert store.head("empty").size_bytes == 0
        with store.open("empty") as reading:
            assert reading.meta.size_bytes == 0
            assert list(reading) == []

    @pytest.mark.parametrize("start", [1, MIB, len(CONTENT) - 1, len(CONTENT)])
    def test_start(self, store: Store, start: int) -> None:
        # Reading from a byte gives the rest, and nothing at the very end; meta tells the whole size.
        store.write("k", [CONTENT])
        with store.open("k", start=start) as reading:
            assert b"".join(reading) == CONTENT[start:]
            assert reading.meta.size_bytes == len(CONTENT)

    def test_start_beyond_the_end(self, store: Store) -> None:
        # An object shorter than the byte to resume from is not the object that was meant.
        store.write("k", [b"123"])
        with pytest.raises(ObjectChanged, match="cannot start at byte 4 of 3"):
            store.open("k", start=4)

    def test_overwrite(self, store: Store) -> None:
        # A second write replaces the first, with another ETag.
        first = store.write("k", [b"one"])
        second = store.write("k", [b"two!"])
        assert first.etag != second.etag
        with store.open("k") as reading:
            assert b"".join(reading) == b"two!"

    def test_missing(self, store: Store) -> None:
        # A missing key is ObjectNotFound, catchable as FileNotFoundError, from open and head alike.
        with pytest.raises(ObjectNotFound) as opened:
            store.open("no/such")
        with pytest.raises(FileNotFoundError) as headed:
            store.head("no/such")
        assert (opened.value.op, headed.value.op) == ("open", "head")
        assert opened.value.retryable is False
        assert str(opened.value.location).endswith("/no/such")

    def test_delete(self, store: Store) -> None:
        # Deleting removes; deleting what is absent is no error.
        store.write("a/k", [b"x"])
        store.delete("a/k")
        with pytest.raises(ObjectNotFound):
            store.head("a/k")
        store.delete("a/k")
        store.delete("never/was")

    def test_list(self, store: Store) -> None:
        # Every key with the prefix and no other; a prefix need not end at a slash.
        for key in ("b", "a/2", "a/1", "a-b", "ab/c", "c/d/e/f"):
            store.write(key, [key.encode()])
        assert [entry.key for entry in store.list("a/")] == ["a/1", "a/2"]
        assert {entry.key for entry in store.list("a")} == {"a/1", "a/2", "a-b", "ab/c"}
        assert {entry.key for entry in store.list()} == {"b", "a/2", "a/1", "a-b", "ab/c", "c/d/e/f"}
        assert [entry.key for entry in store.list("c/d/e/")] == ["c/d/e/f"]
        assert list(store.list("zzz")) == []
        assert list(store.list("b/nothing")) == []

    def test_list_one_level(self, store: Store) -> None:
        # What lies deeper is told once, as its folder, without a size; objects are told as ever.
        for key in ("b", "a/2", "a/1", "a-b", "ab/c", "c/d/e/f"):
            store.write(key, [key.encode()])

        def level(prefix: str = "") -> list[tuple[str, int | None]]:
            return sorted((entry.key, entry.size_bytes) for entry in store.list(prefix, recursive=False))

        assert level() == [("a-b", 3), ("a/", None), ("ab/", None), ("b", 1), ("c/", None)]
        assert level("a") == [("a-b", 3), ("a/", None), ("ab/", None)]
        assert level("a/") == [("a/1", 3), ("a/2", 3)]
        assert level("c/") == [("c/d/", None)]
        assert level("zzz/") == []

    def test_list_is_sorted(self, store: Store) -> None:
        # By the bytes of the whole key: "a-b" comes before "a/1", and capitals before small letters.
        keys = ["a/1", "a-b", "a", "B", "a0", "é", "z"]
        for key in keys:
            if key != "a":  # a file system cannot hold both "a" and "a/1"
                store.write(key, [b"x"])
        listed = [entry.key for entry in store.list()]
        if not self.sorted_listing:
            listed.sort(key=str.encode)
        assert listed == ["B", "a-b", "a/1", "a0", "z", "é"]

    def test_keys(self, store: Store) -> None:
        # Each key comes back as it was given: from open, head, list and delete.
        for key in self.keys:
            store.write(key, [key.encode()])
        assert {entry.key for entry in store.list()} == set(self.keys)
        for key in self.keys:
            with store.open(key) as reading:
                assert b"".join(reading) == key.encode(), key
            assert store.head(key).size_bytes == len(key.encode())
            assert [entry.key for entry in store.list(key)] == [key]
        for key in self.keys:
            store.delete(key)
        assert list(store.list()) == []

    def test_open_if_match(self, store: Store) -> None:
        # The expected generation is read; another is ObjectChanged.
        meta = store.write("k", [b"content"])
        with store.open("k", if_match=meta.etag) as reading:
            assert b"".join(reading) == b"content"
        with pytest.raises(ObjectChanged):
            store.open("k", if_match='"00000000000000000000000000000000"')

    def test_create_only(self, store: Store) -> None:
        # if_none_match writes what is absent and refuses what is there, which stays as it was.
        store.write("k", [b"first"], if_none_match=True)
        with pytest.raises(ObjectChanged):
            store.write("k", [b"second"], if_none_match=True)
        with store.open("k") as reading:
            assert b"".join(reading) == b"first"

    def test_replace_only(self, store: Store) -> None:
        # if_match replaces the expected generation and refuses another, or none.
        first = store.write("k", [b"first"])
        second = store.write("k", [b"second"], if_match=first.etag)
        with pytest.raises(ObjectChanged):
            store.write("k", [b"third"], if_match=first.etag)
        with pytest.raises(ObjectChanged):
            store.write("absent", [b"x"], if_match=second.etag)
        assert store.head("k").etag == second.etag
        with pytest.raises(ObjectNotFound):
            store.head("absent")

    def test_enforces_conditions(self, store: Store) -> None:
        # The store knows what its server does, and asking leaves nothing behind.
        assert store.enforces_conditions is self.enforces
        assert list(store.list()) == []

    def test_one_of_many_creates(self, store: Store) -> None:
        # Where conditions are enforced, of eight that create side by side exactly one does.
        if not self.enforces:
            pytest.skip("this server ignores conditions")
        won: list[int] = []
        begin = threading.Barrier(8)

        def create(number: int) -> None:
            begin.wait()
            try:
                store.write("raced", [b"%d" % number], if_none_match=True)
            except ObjectChanged:
                return
            won.append(number)

        threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        with store.open("raced") as reading:
            assert b"".join(reading) == b"%d" % won[0]

    def test_failed_source_writes_nothing(self, store: Store) -> None:
        # What the source raises passes through as it is, and no object appears, nor anything else.
        class Broken(OSError):
            pass

        def buffers() -> Iterator[bytes]:
            yield CONTENT
            raise Broken("the source broke")

        with pytest.raises(Broken, match="the source broke"):
            store.write("k", buffers())
        assert list(store.list()) == []

    def test_failed_overwrite_keeps_the_old(self, store: Store) -> None:
        # A write that fails leaves the object that was there.
        store.write("k", [b"old"])

        def buffers() -> Iterator[bytes]:
            yield b"new"
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            store.write("k", buffers())
        with store.open("k") as reading:
            assert b"".join(reading) == b"old"

    def test_leaving_early(self, store: Store) -> None:
        # A reading left before its end, or never begun, disturbs nothing; the store goes on.
        store.write("k", [CONTENT])
        with store.open("k") as reading:
            assert len(next(iter(reading))) > 0
        with store.open("k"):
            pass
        with store.open("k") as reading:
            assert hashlib.sha256(b"".join(reading)).digest() == hashlib.sha256(CONTENT).digest()

    def test_cancelled_before(self, store: Store) -> None:
        # With a switch that is set already every verb raises Cancelled and does nothing.
        store.write("k", [b"kept"])
        cancel = Cancel()
        cancel.cancel("enough")
        with pytest.raises(Cancelled, match="enough"):
            store.open("k", cancel=cancel)
        with pytest.raises(Cancelled, match="enough"):
            store.write("k", [b"new"], cancel=cancel)
        with pytest.raises(Cancelled, match="enough"):
            store.head("k", cancel=cancel)
        with pytest.raises(Cancelled, match="enough"):
            list(store.list(cancel=cancel))
        with pytest.raises(Cancelled, match="enough"):
            store.delete("k", cancel=cancel)
        with store.open("k") as reading:
            assert b"".join(reading) == b"kept"

    def test_cancelled_between_buffers(self, store: Store) -> None:
        # A switch set while the source is read stops the write; nothing appears.
        cancel = Cancel()

        def buffers() -> Iterator[bytes]:
            yield b"one"
            cancel.cancel("stop")
            yield b"two"

        with pytest.raises(Cancelled, match="stop"):
            store.write("k", buffers(), cancel=cancel)
        assert list(store.list()) == []

    def test_many_threads(self, store: Store) -> None:
        # One store serves many threads at once.
        failed: list[Exception] = []

        def work(number: int) -> None:
            try:
                content = os.urandom(100_000 + number)
                store.write(f"t/{number}", [content])
                with store.open(f"t/{number}") as reading:
                    assert b"".join(reading) == content
            except Exception as error:  # noqa: BLE001 - told to the test's own thread
                failed.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failed == []
        assert len(list(store.list("t/"))) == 8

    def test_sign(self, store: Store) -> None:
        # A signed URL reads the object without any credential; a store that cannot sign says so.
        store.write("dir/a b+c", [b"signed"])
        if not self.signs:
            with pytest.raises(NotSupported):
                store.sign("dir/a b+c")
            return
        import urllib.request

        with urllib.request.urlopen(store.sign("dir/a b+c", expires_seconds=60)) as answer:
            assert answer.read() == b"signed"
        request = urllib.request.Request(store.sign("put", "PUT"), data=b"by url", method="PUT")
        request.add_header("Content-Type", "")
        with urllib.request.urlopen(request) as answer:
            assert answer.status == 200
        with store.open("put") as reading:
            assert b"".join(reading) == b"by url"
        with pytest.raises(NotSupported):
            store.sign("put", "DELETE")

    def test_close_twice(self, store: Store) -> None:
        # Closing is done once, and closing again does nothing.
        store.write("k", [b"x"])
        store.close()
        store.close()
