"""The store in memory, which users' own tests are given."""

from __future__ import annotations

import pytest
from conformance import Conformance

from creds.errors import ObjectChanged, StoreUnavailable
from creds.testing import MemoryStore


class TestMemory(Conformance):
    signs = False  # nothing serves memory by URL

    @pytest.fixture
    def store(self) -> MemoryStore:
        return MemoryStore(part_bytes=1000)


class TestWeakMemory(Conformance):
    enforces = False  # asked to be like a server that ignores conditions
    signs = False

    @pytest.fixture
    def store(self) -> MemoryStore:
        return MemoryStore(enforces_conditions=False)


def test_parts() -> None:
    # A reading yields buffers of the size asked for.
    store = MemoryStore({"k": b"abcdefgh"}, part_bytes=3)
    with store.open("k") as reading:
        assert [bytes(part) for part in reading] == [b"abc", b"def", b"gh"]
        assert reading.pinned == "etag"
    with MemoryStore({"k": b"abcdefgh"}).open("k") as reading:
        assert reading.pinned == "none"


def test_change_while_read() -> None:
    # An object replaced between two parts is noticed at the second.
    store = MemoryStore({"k": b"abcdefgh"}, part_bytes=3)
    with store.open("k") as reading:
        assert next(iter(reading)) == b"abc"
        store.write("k", [b"other"])
        with pytest.raises(ObjectChanged, match="changed while it was read"):
            next(iter(reading))


def test_before_sees_every_verb_and_may_fail_it() -> None:
    # The hook hears the verbs and the parts, and what it raises is raised.
    heard: list[tuple[str, str]] = []

    def before(verb: str, key: str) -> None:
        heard.append((verb, key))
        if verb == "delete":
            raise StoreUnavailable("down")

    store = MemoryStore({"k": b"1234"}, part_bytes=2, before=before)
    with store.open("k") as reading:
        assert b"".join(reading) == b"1234"
    with pytest.raises(StoreUnavailable, match="down"):
        store.delete("k")
    assert heard == [("open", "k"), ("read", "k"), ("read", "k"), ("delete", "k")]
    assert store.objects == {"k": b"1234"}
