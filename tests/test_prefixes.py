"""Prefixes on real servers: what moves, what is the same, what is refused, what is left when it breaks off."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import resource
import signal
import time
import uuid
from collections import Counter
from pathlib import Path

import ftpservers
import pytest
import servers
import webservers
from commands import Bench, credentials, fill, finish, restartable, run, start, tree

from artifacts import Access, PrefixError, UnsafeKey, copy_prefix, get_prefix, ls, put_prefix, remove_prefix
from artifacts.errors import DiskError
from artifacts.prefixes.folder import Paths
from creds.errors import BucketNotFound, Cancelled, LocationError, ObjectNotFound, Unauthenticated
from creds.models import Credentials
from creds.policy import Endpoint, Policy
from creds.store import Cancel, Retries, Ssh, StoreOptions
from creds.testing import Fault, FaultProxy

MIB = 1 << 20


def access(keys: servers.Keys = servers.ADMIN, **options: object) -> Access:
    return Access(
        credentials=Credentials.model_validate(credentials(keys)),
        options=StoreOptions(retries=Retries(attempts=2, first_wait_seconds=0.01), **options),
    )


def login(user: str, password: str, url: str, **options: object) -> Access:
    return Access(
        credentials=Credentials.model_validate({"plain": {"user": user, "password": password}}),
        options=StoreOptions(**options),
        policy=Policy.for_caller(endpoints=[Endpoint.parse(url)]),
    )


def statuses(receipts) -> dict[str, str]:
    return {receipt.label: receipt.status for receipt in receipts}


def old(folder: Path) -> Path:
    """The same files, as if they had been written long ago."""
    for path in folder.rglob("*"):
        os.utime(path, (1_700_000_000, 1_700_000_000))
    return folder


@pytest.fixture
def bench(seaweed, bucket, tmp_path) -> Bench:
    return Bench(seaweed, bucket, tmp_path)


@pytest.fixture
def keys(tmp_path) -> tuple[str | Path, ...]:
    path = tmp_path / "keys.json"
    path.write_text(json.dumps(credentials(servers.ADMIN)))
    return ("--credentials", path)


@pytest.fixture
def moto(moto_server, tmp_path) -> Bench:
    """A bucket on a server that takes any key."""
    return Bench(moto_server, moto_server.make_bucket(f"b-{uuid.uuid4().hex[:12]}"), tmp_path)


# -- what moves --------------------------------------------------------------------------------------------------


def test_round_trip_of_more_than_a_page(bench, tmp_path):
    """1,100 files become objects and files again; then only what differs moves, here as there."""
    here = fill(tmp_path / "here", {f"d{n % 7}/f{n:04}": f"{n}" for n in range(1100)})
    there, back = bench.place("some prefix/"), tmp_path / "back"
    sent = put_prefix(here, there, access=access())
    assert Counter(receipt.status for receipt in sent) == {"done": 1100}
    assert sent[0].label == "d0/f0000"
    assert sent[0].location == bench.place("some%20prefix/d0/f0000")
    assert bench.read("some prefix/d3/f0010") == b"10"
    assert Counter(statuses(put_prefix(here, there, access=access())).values()) == {"unchanged": 1100}

    got = get_prefix(there, back, access=access())
    assert Counter(receipt.status for receipt in got) == {"done": 1100}
    assert tree(back) == tree(here)
    assert sorted(path.name for path in back.iterdir()) == [f"d{n}" for n in range(7)]

    bench.put("some prefix/d0/f0000", b"X")  # as long as before
    times = (back / "d1/f0001").stat()
    (back / "d1/f0001").write_bytes(b"Y")  # and with its times put back
    os.utime(back / "d1/f0001", ns=(times.st_atime_ns, times.st_mtime_ns))
    (back / "d2/f0002").unlink()
    (back / "mine").write_bytes(b"not theirs")
    moved = {"d0/f0000", "d1/f0001", "d2/f0002"}
    planned = get_prefix(there, back, dry_run=True, access=access())
    assert {label for label, status in statuses(planned).items() if status == "planned"} == moved
    assert (back / "d1/f0001").read_bytes() == b"Y"
    got = get_prefix(there, back, access=access())
    assert {label for label, status in statuses(got).items() if status == "done"} == moved
    assert len(got) == 1100
    assert tree(back) == tree(here) | {"d0/f0000": b"X", "mine": b"not theirs"}


def test_objects_in_parts(bench, tmp_path):
    """An ETag of parts tells what is the same, though times differ; one byte that differs is seen, though they agree."""
    content = os.urandom(20 * MIB + 1)
    fill(tmp_path / "here", {"big": content})
    there = bench.place("p/")
    put_prefix(tmp_path / "here", there, access=access())
    ((meta),) = ls(there, access=access())
    assert meta.etag is not None
    assert meta.etag.endswith('-3"')
    assert statuses(put_prefix(tmp_path / "here", there, access=access())) == {"big": "unchanged"}
    assert statuses(get_prefix(there, tmp_path / "here", access=access())) == {"big": "unchanged"}

    changed = tmp_path / "here" / "big"
    changed.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert statuses(put_prefix(tmp_path / "here", there, dry_run=True, access=access())) == {"big": "planned"}
    assert statuses(get_prefix(there, tmp_path / "here", access=access())) == {"big": "done"}
    assert changed.read_bytes() == content


def test_times_decide_where_no_digest_does(tmp_path):
    """From a store without digests: a file that `get` gave its object's time is the same; what is touched is not."""
    source = old(fill(tmp_path / "source", {"a": "1", "d/b": "22", "d/c": "3"}))
    (source / "d/c").touch()  # of this very moment: it may be replaced within the second
    url = f"file://{source}/"
    assert statuses(get_prefix(url, tmp_path / "got")) == dict.fromkeys(("a", "d/b", "d/c"), "done")
    assert tree(tmp_path / "got") == tree(source)
    assert statuses(get_prefix(url, tmp_path / "got")) == {"a": "unchanged", "d/b": "unchanged", "d/c": "done"}
    (tmp_path / "got" / "a").write_bytes(b"9")
    os.utime(source / "d/b", (1_700_000_001, 1_700_000_001))
    assert statuses(get_prefix(url, tmp_path / "got")) == {"a": "done", "d/b": "done", "d/c": "done"}
    # What is sent can be proved the same by nothing.
    assert statuses(put_prefix(source, f"file://{tmp_path}/got/")) == dict.fromkeys(("a", "d/b", "d/c"), "done")


def test_copy_and_remove(bench, tmp_path):
    """A prefix copied, then only what differs; removed, after a dry run that removed nothing."""
    for key, content in {"p/a": b"1", "p/d/b": b"2", "other": b"3"}.items():
        bench.put(key, content)
    source, target = bench.place("p/"), bench.place("q/")
    assert statuses(copy_prefix(source, target, dry_run=True, access=access())) == {"a": "planned", "d/b": "planned"}
    assert statuses(copy_prefix(source, target, access=access())) == {"a": "done", "d/b": "done"}
    bench.put("p/a", b"X")
    assert statuses(copy_prefix(source, target, access=access())) == {"a": "done", "d/b": "unchanged"}
    assert (bench.read("q/a"), bench.read("q/d/b")) == (b"X", b"2")
    assert statuses(remove_prefix(source, dry_run=True, access=access())) == {"a": "planned", "d/b": "planned"}
    assert len(bench.keys()) == 5
    assert statuses(remove_prefix(source, access=access())) == {"a": "done", "d/b": "done"}
    assert bench.keys() == ["other", "q/a", "q/d/b"]
    assert remove_prefix(source, access=access()) == ()


def test_one_file_to_a_prefix(bench, tmp_path):
    """A file is put under its own name."""
    fill(tmp_path, {"model.bin": "m"})
    assert statuses(put_prefix(tmp_path / "model.bin", bench.place("p/"), access=access())) == {"model.bin": "done"}
    assert bench.read("p/model.bin") == b"m"


def test_links_and_other_things_are_skipped(bench, tmp_path):
    """Links are not followed, a FIFO is not opened; a name that is no text is refused, and the rest is sent."""
    here = fill(tmp_path / "here", {"a": "1"})
    (here / "link").symlink_to("/etc/passwd")
    (here / "folder").symlink_to("/etc")
    os.mkfifo(here / "pipe")
    (here / os.fsdecode(b"b\xff")).write_bytes(b"2")
    (here / ".artifacts-partial-0123456789abcdef").mkdir()
    (here / ".artifacts-partial-0123456789abcdef" / "0").write_bytes(b"half")
    with pytest.raises(PrefixError, match="1 of 5 objects failed") as failed:
        put_prefix(here, bench.place("p/"), access=access())
    assert statuses(failed.value.receipts) == {
        "a": "done",
        "b\\udcff": "failed",
        "folder": "skipped",
        "link": "skipped",
        "pipe": "skipped",
    }
    assert bench.keys() == ["p/a"]


def test_what_cannot_be_read_here(bench, tmp_path):
    """A folder that the system will not open fails by its name; what lies beside it is sent."""
    here = fill(tmp_path / "here", {"a": "1", "z/b": "2"})
    folder = os.open(here, os.O_RDONLY)
    for _ in range(17):  # one path of more than 4,096 bytes
        os.mkdir("n" * 250, dir_fd=folder)
        below = os.open("n" * 250, os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = below
    os.close(folder)
    with pytest.raises(PrefixError, match="1 of 3 objects failed") as failed:
        put_prefix(here, bench.place("p/"), access=access())
    ((label, error),) = failed.value.failures.items()
    assert label.startswith("nnn")
    assert isinstance(error, DiskError)
    assert error.errno == errno.ENAMETOOLONG
    assert bench.keys() == ["p/a", "p/z/b"]


def test_many_folders_and_few_descriptors(bench, tmp_path):
    """More folders than a process may open at once are no matter."""
    here = fill(tmp_path / "here", {f"d{n}/e/f": "x" for n in range(300)})
    put_prefix(here, bench.place("p/"), access=access())
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (450, hard))
    try:
        get_prefix(bench.place("p/"), tmp_path / "got", access=access())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(tree(tmp_path / "got")) == 300


# -- what is refused ---------------------------------------------------------------------------------------------


def test_keys_that_would_leave_the_folder(moto, tmp_path):
    """Each is refused by its name, the others are fetched; nothing is written elsewhere."""
    bad = [
        "../out",
        "a/../../out",
        "/etc/out",
        "x//y",
        "./z",
        "d/.",
        "n" * 256,
        ".artifacts-partial-0123456789abcdef/0",
    ]
    for key in (*bad, "good", "d/good"):
        moto.put(f"p/{key}", key.encode())
    moto.put("p/", b"")
    moto.put("p/e/", b"")
    moto.put("p/full/", b"a folder's mark that holds something")
    with pytest.raises(PrefixError) as failed:
        get_prefix(moto.place("p/"), tmp_path / "in" / "got", access=access())
    assert set(failed.value.failures) == {*bad, "full/"}
    assert {type(error) for error in failed.value.failures.values()} == {UnsafeKey}
    assert tree(tmp_path) == {"in/got/good": b"good", "in/got/d/good": b"d/good"}
    assert str(failed.value.failures["../out"]) == "the key '../out' has a part that is '.' or '..'"


def test_keys_that_clash(moto, tmp_path):
    """Of a file and what lies below it the first in the listing's order is fetched, and the others are refused."""
    for key in ("a", "a-", "a/b", "a/c/d", "e/f"):
        moto.put(f"p/{key}", key.encode())
    with pytest.raises(PrefixError) as failed:
        get_prefix(moto.place("p/"), tmp_path / "got", access=access())
    assert set(failed.value.failures) == {"a/b", "a/c/d"}
    assert tree(tmp_path / "got") == {"a": b"a", "a-": b"a-", "e/f": b"e/f"}


def test_clashes_in_any_order():
    """Also where a server lists in no order, and of what it tells twice, no file becomes a folder or the reverse."""
    paths = Paths()
    assert paths.path("x/y/z") == b"x/y/z"
    for label in ("x", "x/y", "x/y/z/q"):
        with pytest.raises(UnsafeKey):
            paths.path(label)
    with pytest.raises(UnsafeKey, match="has a NUL"):
        paths.path("a\0b")
    with pytest.raises(UnsafeKey, match="too long"):
        paths.path("/".join(["n" * 200] * 30))


def test_what_is_in_the_way(bench, tmp_path):
    """A link or folder where a file must be, a link where a folder must be: refused, and nothing goes through."""
    outside = fill(tmp_path / "outside", {"x": "theirs"})
    got = fill(tmp_path / "got", {"folder/kept": "k", "file": "f"})
    (got / "link").symlink_to(outside)
    (got / "name").symlink_to(outside / "x")
    for key in ("link/x", "name", "folder", "file/x", "fine"):
        bench.put(f"p/{key}", b"new")
    with pytest.raises(PrefixError) as failed:
        get_prefix(bench.place("p/"), got, access=access())
    assert set(failed.value.failures) == {"link/x", "name", "folder", "file/x"}
    assert (outside / "x").read_text() == "theirs"
    assert (got / "name").is_symlink()
    assert (got / "fine").read_bytes() == b"new"


def test_nothing_there(bench, tmp_path):
    """Nothing below the prefix, no such bucket, no prefix at all: errors, and no success with nothing in it."""
    with pytest.raises(ObjectNotFound, match="nothing lies below"):
        get_prefix(bench.place("typo/"), tmp_path / "got", access=access())
    with pytest.raises(BucketNotFound):
        get_prefix(f"s3://{bench.host}/no-such-bucket/p/", tmp_path / "got", access=access())
    with pytest.raises(LocationError, match="does not end with '/'"):
        get_prefix(bench.place("p"), tmp_path / "got", access=access())
    wrong = servers.Keys(servers.ADMIN.access_key, "wrong")
    with pytest.raises(Unauthenticated):
        get_prefix(bench.place("p/"), tmp_path / "got", access=access(wrong))


# -- other stores ------------------------------------------------------------------------------------------------


def there_and_back(folder: Path, url: str, reached: Access) -> None:
    """Put, list, get, get again, remove."""
    here = fill(folder / "here", {"a": "1", "d/b c": "22", "d/é": "3"})
    assert set(statuses(put_prefix(here, url, access=reached)).values()) == {"done"}
    assert [meta.key.rpartition("/")[2] or "d/" for meta in ls(url, access=reached)] == ["a", "d/"]
    assert set(statuses(get_prefix(url, folder / "back", access=reached)).values()) == {"done"}
    assert tree(folder / "back") == tree(here)
    assert set(statuses(remove_prefix(url, access=reached))) == {"a", "d/b c", "d/é"}
    assert list(ls(url, recursive=True, access=reached)) == []


def test_ftp(tmp_path):
    """Prefixes on an FTP server; what is old there is not fetched twice."""
    with ftpservers.pyftpd() as server:
        url = f"ftp://127.0.0.1:{server.port}"
        reached = login(ftpservers.USER, ftpservers.PASSWORD, url)
        there_and_back(tmp_path, f"{url}/some/where/", reached)
        old(fill(server.root / "old", {"x": "1", "y/z": "2"}))
        assert set(statuses(get_prefix(f"{url}/old/", tmp_path / "old", access=reached)).values()) == {"done"}
        assert set(statuses(get_prefix(f"{url}/old/", tmp_path / "old", access=reached)).values()) == {"unchanged"}


def test_sftp(tmp_path):
    """Prefixes on an SFTP server."""
    with ftpservers.asyncssh_sftp() as server:
        url = f"sftp://127.0.0.1:{server.port}"
        ssh = Ssh(fingerprints=(server.fingerprint,))
        there_and_back(tmp_path, f"{url}/p/", login(ftpservers.USER, ftpservers.PASSWORD, url, ssh=ssh))


def test_webdav(wsgidav, tmp_path):
    """Prefixes on a WebDAV server."""
    reached = login(webservers.USER, webservers.PASSWORD, wsgidav.url)
    there_and_back(tmp_path, f"{wsgidav.url}/prefixes/p/", reached)


# -- breaking off ------------------------------------------------------------------------------------------------


def test_the_server_dies(tmp_path):
    """It is killed after some objects: exit 75 soon, what is here is whole; a second run finishes."""
    with restartable(tmp_path / "server") as server:
        objects = {f"{n:03}": os.urandom(1000) for n in range(200)}
        fill(tmp_path / "server" / "buckets" / "bucket" / "p", objects)  # what it is sent it would write later
        with FaultProxy(server.server.address) as proxy:
            proxy.add(Fault(match="^GET /bucket/p/", times=60))
            proxy.add(Fault(match="^GET /bucket/p/", hook=server.kill, delay_seconds=0.2))
            place = f"s3://{proxy.url.removeprefix('http://')}/bucket/p/"
            keys = tmp_path / "keys.json"
            keys.write_text(json.dumps(credentials(server.keys)))
            command = ("get", place, tmp_path / "got", "--credentials", keys, "--retries", "1", "--json")
            broken = run(*command)
            assert broken.code == 75
            assert broken.summary["failed"] > 0
            here = tree(tmp_path / "got")
            assert 0 < len(here) < 200
            assert here == {name: objects[name] for name in here}
            server.start()
            again = run(*command)
        assert again.code == 0
        assert again.summary["done"] + again.summary["unchanged"] == 200
        assert again.summary["unchanged"] == len(here)
        assert tree(tmp_path / "got") == objects


def test_interrupted(bench, keys, tmp_path):
    """Ctrl-C in the middle: exit 130, nothing half-made stays, and the next run goes on."""
    for n in range(20):
        bench.put(f"p/{n}", os.urandom(200_000))
    with FaultProxy(bench.server.address) as proxy:
        proxy.add(Fault(match="^GET .*/p/1", times=100, down_bytes_per_second=20_000))
        process = start("get", bench.through(proxy.url).place("p/"), tmp_path / "got", *keys, "--transfers", "20")
        while not (tmp_path / "got" / "9").exists():
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        assert finish(process).code == 130
    assert {path.name for path in (tmp_path / "got").iterdir()} <= {str(n) for n in (0, *range(2, 10))}
    assert run("get", bench.place("p/"), tmp_path / "got", *keys).code == 0
    assert len(tree(tmp_path / "got")) == 20


def test_cancelled_before_it_began(bench, tmp_path):
    """A job that is stopped does nothing, and says so."""
    bench.put("p/a", b"1")
    cancel = Cancel()
    cancel.cancel()
    with pytest.raises(Cancelled):
        get_prefix(bench.place("p/"), tmp_path / "got", access=access(), cancel=cancel)
    assert tree(tmp_path) == {}


def test_what_a_killed_process_left(bench, tmp_path):
    """Its unfinished files are removed by the next run; those of a process that lives are left alone."""
    bench.put("p/a", b"1")
    got = tmp_path / "got"
    fill(got, {".artifacts-partial-0123456789abcdef/0": "half", ".artifacts-partial-fedcba9876543210/0": "at work"})
    living = os.open(got / ".artifacts-partial-fedcba9876543210", os.O_RDONLY)
    try:
        fcntl.flock(living, fcntl.LOCK_EX)
        get_prefix(bench.place("p/"), got, access=access())
        assert tree(got) == {".artifacts-partial-fedcba9876543210/0": b"at work", "a": b"1"}
    finally:
        os.close(living)


def test_one_object_out_of_order(bench, tmp_path):
    """An object that keeps failing while others are served does not stop them."""
    for n in range(40):
        bench.put(f"p/{n:02}", b"x")
    with FaultProxy(bench.server.address) as proxy:
        proxy.add(Fault(match="^GET .*/p/00 ", times=100, status=503))
        with pytest.raises(PrefixError, match="1 of 40 objects failed") as failed:
            get_prefix(bench.through(proxy.url).place("p/"), tmp_path / "got", access=access())
    assert failed.value.retryable
    assert set(failed.value.failures) == {"00"}
    assert len(tree(tmp_path / "got")) == 39


# -- the command -------------------------------------------------------------------------------------------------


def test_commands(bench, keys, tmp_path):
    """put, ls, get, cp and rm of prefixes, as a person sees them."""
    fill(tmp_path / "here", {"a": "1", "d/b": "22"})
    place = bench.place("p/")
    planned = run("put", tmp_path / "here", place, "--dry-run", *keys)
    assert (planned.code, bench.keys()) == (0, [])
    assert sorted(line.partition(",")[0] for line in planned.out.splitlines()) == ["a: planned", "d/b: planned"]
    assert planned.said[-1] == "2 objects: 2 planned, 3 B"
    sent = run("put", tmp_path / "here", place, *keys)
    assert (sent.code, sent.said[-1]) == (0, "2 objects: 2 done, 3 B")
    again = run("put", tmp_path / "here", place, *keys)
    assert (again.code, again.out, again.said[-1]) == (0, "", "2 objects: 2 unchanged, 0 B")
    got = run("get", place, tmp_path / "got", "--json", *keys)
    assert got.statuses == {"a": "done", "d/b": "done"}
    assert (got.receipts["d/b"]["path"], got.summary["done"]) == (f"{tmp_path}/got/d/b", 2)
    assert run("get", place, "-", *keys).code == 2
    assert run("get", bench.place("none/"), tmp_path / "x", *keys).code == 4
    assert run("cp", place, bench.place("q/"), *keys).code == 0
    refused = run("rm", place, *keys)
    assert (refused.code, len(bench.keys())) == (2, 4)
    assert "--recursive" in refused.err
    assert run("rm", "-r", "--dry-run", place, *keys).said[-1] == "2 objects: 2 planned, 3 B"
    assert run("rm", "-r", place, bench.place("q/"), *keys).code == 0
    assert bench.keys() == []


def test_a_whole_bucket(moto, keys):
    """The bucket's own URL is a prefix too, and a receipt says where each object is."""
    moto.put("a/b", b"1")
    gone = run("rm", "-r", moto.place(""), "--json", *keys)
    assert gone.receipts["a/b"]["location"] == moto.place("a/b")
    assert moto.keys() == []


def test_unsafe_keys_exit_6(moto, keys, tmp_path):
    """The command names the key and ends with 6; the rest is there."""
    moto.put("p/../up\x1b[31m", b"1")
    moto.put("p/ok", b"2")
    got = run("get", moto.place("p/"), tmp_path / "got", *keys)
    assert got.code == 6
    assert any(line.startswith("../up\\x1b[31m: failed: the key") for line in got.said)
    assert got.said[-1] == "error: 1 of 2 objects failed; exit 6"
    assert tree(tmp_path / "got") == {"ok": b"2"}
