"""`ls`, `stat`, `rm`, `cp`, what an object must be, and objects as files, on a real server."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import subprocess
from pathlib import Path

import pytest
import servers
from commands import COMMAND, Bench, credentials, environment, run
from webservers import ScriptedServer

import artifacts
from artifacts import Access, IntegrityError, RequestError
from creds.errors import ObjectChanged, ObjectNotFound
from creds.models import Credentials


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


def test_stat_and_rm_of_several(bench, keys):
    """Each URL is done, and a failure does not keep the others; the exit code tells of it."""
    bench.put("a", b"1")
    bench.put("b", b"22")
    shown = run("stat", bench.place("a"), bench.place("none"), bench.place("b"), "--json", *keys)
    assert shown.code == 4
    assert [line.get("key") for line in shown.lines] == ["a", "b", None]
    removed = run("rm", bench.place("a"), bench.place("b"), "--dry-run", "--json", *keys)
    assert (removed.code, removed.statuses, len(bench.keys())) == (0, {"a": "planned", "b": "planned"}, 2)
    removed = run("rm", bench.place("a"), bench.place("b"), *keys)
    assert (removed.code, bench.keys()) == (0, [])
    assert removed.out.splitlines()[0] == f"a: done, {bench.place('a')}"


def test_ls(bench, keys):
    """One level or all, an object, a folder without its slash, a bucket; what is not there, and what may be empty."""
    for key in ("k", "p/a", "p/d/b", "p/d/e/c", "p-x"):
        bench.put(key, key.encode())
    bucket = bench.place("").removesuffix("/")

    def listed(url: str, *options: str) -> list[str]:
        result = run("ls", url, *options, *keys)
        assert result.code == 0
        return [line.split("\t")[2] for line in result.out.splitlines()]

    assert listed(bucket) == ["k", "p-x", "p/"]
    assert listed(bench.place("p")) == listed(bench.place("p/")) == ["p/a", "p/d/"]
    assert sorted(listed(bucket, "--recursive")) == ["k", "p-x", "p/a", "p/d/b", "p/d/e/c"]
    assert listed(bench.place("none/")) == []
    several = run("ls", bench.place("k"), bench.place("none"), bench.place("p/d/"), "--long", *keys)
    assert several.code == 4
    size, modified, rest = several.out.splitlines()[0].split("\t")
    assert (size, modified[-1], rest.split("  ")[1]) == ("1", "Z", bench.place("k"))
    assert several.out.splitlines()[2].split("\t")[2] == f"-  {bench.place('p/d/e/')}"
    first, last, _ = run("ls", "--json", bench.place("p"), *keys).lines
    assert tuple(first) == OBJECT_KEYS
    assert (first["type"], first["location"], first["key"], first["size_bytes"]) == (
        "object",
        bench.place("p/a"),
        "p/a",
        3,
    )
    assert (last["type"], last["key"], last["size_bytes"], last["etag"]) == ("folder", "p/d/", None, None)
    assert run("ls", f"s3://{bench.host}/no-such-bucket", *keys).code == 4


OBJECT_KEYS = ("v", "type", "location", "key", "size_bytes", "modified", "etag", "version", "checksums")


def test_object_keys_are_documented():
    """docs/objects.md has a row for each key of --json, in their order."""
    page = (Path(__file__).parent.parent / "docs" / "objects.md").read_text()
    table = page.partition("| key | meaning |")[2].partition("\n\n")[0]
    assert tuple(re.findall(r"`(\w+)`", "".join(line.split("|")[1] for line in table.splitlines()[2:]))) == OBJECT_KEYS


def test_ls_of_hostile_names(tmp_path):
    """A name neither moves the cursor nor turns the writing, and one that is no text is printed all the same."""
    folder = tmp_path / "names"
    folder.mkdir()
    names = [b"a\x1b[2Jb", b"new\nline", "\u202egpj.exe".encode(), b"\xff\xfe"]
    for name in names:
        Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).write_bytes(b"x")
    shown = run("ls", f"file://{folder}")
    assert shown.code == 0
    assert sorted(line.split("\t")[2].removeprefix(f"{folder}/") for line in shown.out.splitlines()) == [
        "\\u202egpj.exe",
        "\\udcff\\udcfe",
        "a\\x1b[2Jb",
        "new\\nline",
    ]
    told = run("ls", f"file://{folder}/", "--json")
    assert told.content.isascii()
    assert {os.fsencode(line["key"]) for line in told.lines[:-1]} == {
        os.fsencode(folder) + b"/" + name for name in names
    }


def test_ls_where_nothing_lists(tmp_path):
    """A web server without WebDAV says so; nothing is made up."""
    with ScriptedServer(lambda _seen: (405, {}, b"")) as server:
        refused = run("ls", f"{server.url}/folder/", "--endpoint", server.url)
    assert refused.code == 2
    assert "WebDAV" in refused.err


def test_ls_of_a_closed_pipe(bench, keys):
    """Whoever reads may leave: no traceback, and the exit code of a broken pipe."""
    bench.put("k", b"1")
    reading, writing = os.pipe()
    os.close(reading)
    command = [*COMMAND, "ls", "-q", bench.place("k"), *map(str, keys)]
    done = subprocess.run(command, env=environment(), stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.fixture
def access() -> Access:
    return Access(credentials=Credentials.model_validate(credentials(servers.ADMIN)))


def test_sha256(bench, keys, access, tmp_path):
    """Wrong: nothing appears here or there, exit 6; right: it does, and the receipt says so."""
    content = os.urandom(9_000_000)
    right, wrong = hashlib.sha256(content).hexdigest(), "0" * 64
    source, place = tmp_path / "source", bench.place("k")
    source.write_bytes(content)
    with pytest.raises(IntegrityError, match=right):
        artifacts.put(source, place, sha256=wrong, access=access)
    assert bench.keys() == []
    sent = artifacts.put(source, place, sha256=right.upper(), access=access)
    assert (sent.verified, sent.sha256) == ("sha256", right)
    refused = run("get", place, tmp_path / "got", "--sha256", wrong, *keys)
    assert refused.code == 6
    assert right in refused.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["keys.json", "source"]
    assert artifacts.get(place, tmp_path / "got", sha256=right, access=access).verified == "sha256"
    assert (tmp_path / "got").read_bytes() == content
    with pytest.raises(RequestError, match="64 hex digits"):
        artifacts.get(place, tmp_path / "got", sha256="abc", access=access)
    streamed = run("get", place, "-", "--sha256", wrong, *keys)
    assert (streamed.code, streamed.content) == (6, content)


def test_if_match(bench, keys, access, tmp_path):
    """get, put and rm of the expected object, its ETag with or without quotes; of another: exit 7, all as it was."""
    place = bench.place("k")

    def etag() -> str:
        return bench.client.head_object(Bucket=bench.bucket, Key="k")["ETag"]

    bench.put("k", b"first")
    first = etag()
    bench.put("k", b"second")
    (tmp_path / "new").write_bytes(b"third")
    assert run("get", place, tmp_path / "got", "--if-match", first, *keys).code == 7
    with pytest.raises(ObjectChanged):
        artifacts.put(tmp_path / "new", place, if_match=first, access=access)
    with pytest.raises(ObjectChanged):
        artifacts.remove(place, if_match=first, access=access)
    assert not (tmp_path / "got").exists()
    assert bench.read("k") == b"second"
    artifacts.get(place, tmp_path / "got", if_match=etag().strip('"'), access=access)
    assert artifacts.put(tmp_path / "new", place, if_match=etag().strip('"'), access=access).conditional == "enforced"
    assert bench.read("k") == b"third"
    assert run("rm", place, "--if-match", etag(), *keys).code == 0
    assert bench.keys() == []


def test_open(bench, access):
    """An object as a binary file: lines, pieces, the rest; its meta; closed with the block."""
    content = b"first\nsecond\n" + os.urandom(3_000_000)
    bench.put("k", content)
    with artifacts.open(bench.place("k"), access=access) as file:
        assert file.meta.size_bytes == len(content)
        assert (file.readable(), file.seekable(), file.writable()) == (True, False, False)
        assert file.readline() == b"first\n"
        assert file.read(6) == b"second"
        space = bytearray(10)
        assert file.readinto(space) == 10
        assert bytes(space) + file.read() == content[12:]
        assert file.read() == b""
    assert file.closed
    bench.put("t", "é\nb".encode())
    with io.TextIOWrapper(artifacts.open(bench.place("t"), access=access), encoding="utf-8") as text:
        assert list(text) == ["é\n", "b"]
    bench.put("empty", b"")
    with artifacts.open(bench.place("empty"), access=access) as file:
        assert list(file) == []


def test_open_is_one_generation(bench, access):
    """When the object is replaced while it is read the next part is an error, never another object's."""
    bench.put("k", b"a" * 80_000_000)
    file = artifacts.open(bench.place("k"), access=access)
    with file:
        assert file.read(10) == b"a" * 10
        bench.put("k", b"b" * 80_000_000)
        with pytest.raises(ObjectChanged):
            file.read()
    with pytest.raises(ObjectNotFound):
        artifacts.open(bench.place("none"), access=access)
    with pytest.raises(ObjectChanged):
        artifacts.open(bench.place("k"), if_match="0" * 32, access=access)
