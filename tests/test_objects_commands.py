"""`stat`, `rm` and `cp` on a real server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import Bench, credentials, run


@pytest.fixture
def bench(seaweed, bucket, tmp_path) -> Bench:
    return Bench(seaweed, bucket, tmp_path)


@pytest.fixture
def keys(bench, tmp_path) -> tuple[str | Path, ...]:
    path = tmp_path / "keys.json"
    path.write_text(json.dumps(credentials(bench.server.admin)))
    return ("--credentials", path)


def test_stat(bench, keys):
    """Size, time and ETag, for a person and as JSON; a missing object is exit 4."""
    bench.put("k", b"12345")
    shown = run("stat", bench.place("k"), *keys)
    assert shown.code == 0
    assert shown.out.split("\t")[0] == "5"
    assert shown.out.endswith("\tk\n")
    (fact, summary) = run("stat", bench.place("k"), "--json", *keys).lines
    assert (fact["type"], fact["size_bytes"], fact["key"]) == ("object", 5, "k")
    assert fact["modified"].endswith("Z")
    assert summary["exit"] == 0
    assert run("stat", bench.place("none"), *keys).code == 4


def test_rm(bench, keys):
    """The object is gone; removing it again is no error."""
    bench.put("k", b"1")
    bench.put("other", b"2")
    assert run("rm", bench.place("k"), *keys).code == 0
    assert bench.keys() == ["other"]
    assert run("rm", bench.place("k"), *keys).code == 0


def test_cp(bench, keys, tmp_path):
    """An object is copied byte for byte, also from and to this machine's files, and not onto what is there."""
    content = bytes(range(256)) * 80_000
    bench.put("from", content)
    assert run("cp", bench.place("from"), bench.place("to"), *keys).code == 0
    assert bench.read("to") == content
    # The same bytes are no excuse: an object may be a lock.
    assert run("cp", bench.place("from"), bench.place("to"), "--if-absent", *keys).code == 7
    bench.put("to", b"something else")
    assert run("cp", bench.place("from"), bench.place("to"), "--if-absent", *keys).code == 7
    assert bench.read("to") == b"something else"
    assert run("cp", bench.place("none"), bench.place("to"), *keys).code == 4
    assert bench.read("to") == b"something else"
