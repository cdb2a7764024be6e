"""The command from end to end on a real server: what it moves, prints, remembers and ends with."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import pty
import re
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import servers
from commands import (
    COMMAND,
    RECEIPT_KEYS,
    SECONDS,
    SUMMARY_KEYS,
    Bench,
    Result,
    credentials,
    environment,
    fill,
    finish,
    kept_files,
    labels,
    restartable,
    run,
    start,
    tar,
    tree,
)

from artifacts.request import Request
from creds.testing import Fault, FaultProxy

ROOT = Path(__file__).parent.parent
EXPERIMENT = ROOT / "artifacts" / "cli" / "experiment"
OWN = {"AWS_ACCESS_KEY_ID": servers.ADMIN.access_key, "AWS_SECRET_ACCESS_KEY": servers.ADMIN.secret_key}
TOLD = "credentials: your own AWS setup (default chain)"


@pytest.fixture
def bench(seaweed, bucket, tmp_path) -> Bench:
    return Bench(seaweed, bucket, tmp_path)


@pytest.fixture
def proxied(bench) -> Iterator[tuple[Bench, FaultProxy]]:
    """The same, through a proxy that breaks things when it is told to."""
    with FaultProxy(bench.server.address) as proxy:
        yield bench.through(proxy.url), proxy


@pytest.fixture
def keys(bench) -> Path:
    """A request's ``credentials`` object in a file."""
    path = bench.folder / "keys.json"
    path.write_text(json.dumps(credentials(servers.ADMIN)))
    return path


def meta(folder: Path) -> dict[str, tuple[int, int]]:
    """Mode and modification time, in whole seconds, of everything below ``folder``."""
    return {
        str(path.relative_to(folder)): (path.lstat().st_mode, int(path.lstat().st_mtime))
        for path in sorted(folder.rglob("*"))
        if not path.is_symlink()
    }


# -- the main job ------------------------------------------------------------------------------------------------


@pytest.fixture
def example(seaweed, tmp_path) -> Path:
    """examples/request.json, with this server's address and a bucket of its own, in a place of its own."""
    name = f"example-{tmp_path.name.lower().replace('_', '-')}"
    seaweed.make_bucket(name)
    text = (ROOT / "examples" / "request.json").read_text()
    text = text.replace("127.0.0.1:9000", seaweed.endpoint_url.removeprefix("http://")).replace("artifacts-demo", name)
    text = text.replace("../artifacts/cli/experiment", "experiment")
    shutil.copytree(EXPERIMENT, tmp_path / "experiment", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "experiment" / "workspace" / "run.sh").write_text("#!/bin/sh\n")
    (tmp_path / "experiment" / "workspace" / "run.sh").chmod(0o750)
    path = tmp_path / "request.json"
    path.write_text(text)
    return path


def test_the_main_job(seaweed, example, tmp_path):
    """push, check, run, get: what is staged is what was pushed, file by file; what is fetched is what the run left."""
    url, local, job, full = seaweed.endpoint_url, tmp_path / "experiment", tmp_path / "job", tmp_path / "full.json"

    pushed = run("push", example, "-o", full)
    assert pushed.code == 0
    assert pushed.said == [f"wrote {full}"]
    assert [line.partition(",")[0] for line in pushed.out.splitlines()] == ["dataset: done", "workspace: done"]
    assert stat.S_IMODE(full.stat().st_mode) == 0o600

    checked = run("check", full, "--endpoint", url)
    assert (checked.code, checked.err) == (0, "")
    rows = {row[0]: row for row in (line.split("\t") for line in checked.out.splitlines())}
    rule = f"endpoint.{url.removeprefix('http://')}"
    assert {label: row[1] for label, row in rows.items()} == {
        "dataset": "found",
        "modeldir": "missing",
        "output": "missing",
        "workspace": "found",
    }
    assert rows["dataset"][2:7] == [url, rows["modeldir"][3], "datasets/points.tar.gz", rule, "aws AKAD…0001"]

    ran = run("run", full, "--into", job, "--endpoint", url, "--", sys.executable, "train.py")
    assert ran.code == 0
    for label in ("workspace", "dataset"):
        assert tree(job / label) == tree(local / label)
        assert meta(job / label) == meta(local / label)
    model = json.loads((job / "modeldir" / "model.json").read_text())
    assert model["steps"] == 300
    assert abs(model["slope"] - 3) < 1

    place = Request.load(full).experiment.artifacts["modeldir"].qualified
    got = run("get", "--unpack", place, tmp_path / "results", env=OWN)
    assert (got.code, got.said) == (0, [TOLD])
    assert tree(tmp_path / "results") == tree(job / "modeldir")

    again = run("run", full, "--into", job, "--endpoint", url, "--", sys.executable, "train.py")
    assert again.code == 0
    assert json.loads((job / "modeldir" / "model.json").read_text())["steps"] == 600


def test_push_names_objects_by_content(bench):
    """An empty key is the sha256 of the plain tar; the second push sends nothing and says unchanged."""
    fill(bench.folder / "ws", {"b": "2", "a/x": "1", "empty": ""})
    (bench.folder / "ws" / "link").symlink_to("a/x")
    (bench.folder / "ws" / "run.sh").write_text("#!/bin/sh\n")
    (bench.folder / "ws" / "run.sh").chmod(0o755)
    artifact = {
        "bucket": bench.bucket,
        "key": "",
        "local": "ws",
        "unpack": True,
        "credentials": credentials(servers.ADMIN),
    }
    artifact["qualified"] = f"s3://{bench.host}/{bench.bucket}"
    full = bench.folder / "full.json"
    assert run("push", bench.request({"w": artifact}), "-o", full).code == 0

    (key,) = bench.keys()
    content = bench.read(key)
    assert key == f"blobstore/{hashlib.sha256(content).hexdigest()}.tar"
    assert content == gnu_tar(bench.folder / "ws")
    completed = json.loads(full.read_text())["experiment"]["artifacts"]["w"]
    assert (completed["key"], completed["qualified"]) == (key, bench.place(key))
    assert completed["credentials"]["aws"] == credentials(servers.ADMIN)["aws"]

    with FaultProxy(bench.server.address) as proxy:
        through = bench.through(proxy.url)
        artifact["qualified"] = f"s3://{through.host}/{bench.bucket}"
        second = run("push", through.request({"w": artifact}), "-o", full, "--json")
        assert second.statuses == {"w": "unchanged"}
        assert proxy.count("^PUT|^POST") == 0
    assert stat.S_IMODE(full.stat().st_mode) == 0o600
    written = run(
        "push", bench.request({"w": artifact | {"qualified": completed["qualified"]}}), "-o", "-", secret=True
    )
    assert written.code == 0
    assert json.loads(written.out)["experiment"]["artifacts"]["w"]["key"] == key


def gnu_tar(folder: Path) -> bytes:
    """What GNU tar makes of ``folder``: ustar, members sorted by bytes, uid and gid 0, no names."""
    names = sorted(os.fsencode(path.relative_to(folder)) for path in folder.rglob("*"))
    return subprocess.run(
        [
            *("tar", "-cf", "-", "-b1", "--format=ustar", "--owner=0", "--group=0", "--numeric-owner"),
            *("--no-recursion", "-C", str(folder), "--null", "-T", "-"),
        ],
        input=b"\0".join(names),
        capture_output=True,
        check=True,
    ).stdout


# -- stage and upload --------------------------------------------------------------------------------------------


def test_receipts(bench):
    """``--json``: one receipt an artifact with every key in its order, the summary last; nothing for a person."""
    bench.put("ws.tar.gz", tar({"a": b"1", "s/b": b"22"}, "w:gz"))
    bench.put("data/points.csv", b"x,y\n")
    digest = hashlib.sha256(b"x,y\n").hexdigest()
    request = bench.request(
        {
            "workspace": bench.artifact("ws.tar.gz"),
            "data": bench.artifact("data/points.csv", unpack=False, hash=digest),
            "out": bench.artifact("out.tar.zst", mutable=True),
            "scratch": {"mutable": True},
        }
    )
    result = bench.stage(request, "--json")
    assert result.code == 0
    assert result.said == ["warning: scratch: has no location: nothing is fetched or uploaded"]
    *receipts, summary = result.lines
    assert [tuple(receipt) for receipt in receipts] == [RECEIPT_KEYS] * 4
    assert tuple(summary) == SUMMARY_KEYS
    assert result.statuses == {"workspace": "done", "data": "done", "out": "empty", "scratch": "empty"}
    assert {key: summary[key] for key in ("v", "type", "op", "done", "unchanged", "empty", "failed", "owed")} == {
        "v": 1,
        "type": "summary",
        "op": "stage",
        "done": 2,
        "unchanged": 0,
        "empty": 2,
        "failed": 0,
        "owed": [],
    }
    assert (summary["exit"], summary["command_exit"]) == (0, None)
    workspace, data = result.receipts["workspace"], result.receipts["data"]
    assert summary["bytes"] == workspace["object_bytes"] + 4
    assert {line["run"] for line in result.lines} == {summary["run"]}
    assert re.fullmatch(r"[0-9A-HJKMNP-TV-Z]{26}", summary["run"])
    for line in result.lines:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])
    assert {
        key: workspace[key]
        for key in (
            "v",
            "type",
            "experiment",
            "op",
            "location",
            "path",
            "mutable",
            "unpacked_bytes",
            "members",
            "error",
        )
    } == {
        "v": 1,
        "type": "receipt",
        "experiment": "exp-1",
        "op": "fetch",
        "location": bench.place("ws.tar.gz"),
        "path": str(bench.job / "workspace"),
        "mutable": False,
        "unpacked_bytes": 3,
        "members": 2,
        "error": None,
    }
    assert workspace["etag"] == bench.client.head_object(Bucket=bench.bucket, Key="ws.tar.gz")["ETag"]
    assert workspace["rule"] == f"endpoint.{bench.host}"
    assert workspace["credential"] == {"kind": "aws", "id": "AKAD…0001", "source": "request", "expires_at": None}
    assert (workspace["attempts"], workspace["cache"], workspace["verified"]) == (1, "off", "none")
    assert (data["verified"], data["sha256"]) == ("sha256", digest)
    assert result.receipts["scratch"]["warnings"] == [{"code": "no-location", "path": "scratch"}]
    assert tree(bench.job / "workspace") == {"a": b"1", "s/b": b"22"}
    assert tree(bench.job / "data") == {"points.csv": b"x,y\n"}

    fill(bench.job / "out", {"log": "line\n"})
    uploaded = bench.upload(request, "--json")
    assert uploaded.statuses == {"out": "done", "scratch": "skipped"}
    out = uploaded.receipts["out"]
    assert (out["op"], out["conditional"], out["members"]) == ("upload", "enforced", 1)
    assert out["sha256"] == hashlib.sha256(bench.read("out.tar.zst")).hexdigest()
    assert bench.upload(request, "--json").statuses == {"out": "unchanged", "scratch": "skipped"}
    assert bench.stage(request, "--json").statuses == {
        "workspace": "unchanged",
        "data": "unchanged",
        "out": "unchanged",
        "scratch": "empty",
    }


def test_lines_for_a_person(bench):
    """Not on a terminal: a line a result on standard output; -v tells beginnings, -q only what went wrong."""
    bench.put("ws.tar", tar({"a": b"1", "b": b"2"}))
    request = bench.request({"workspace": bench.artifact("ws.tar"), "out": bench.artifact("o.tar", mutable=True)})
    plain = bench.stage(request)
    assert plain.err == ""
    assert sorted(re.sub(r"[\d.]+ (?=s,)", "T ", line) for line in plain.out.splitlines()) == [
        f"out: empty, {bench.place('o.tar')}",
        f"workspace: done, 2.0 kB, 2 members, T s, {bench.place('ws.tar')}".replace("2.0 kB", "10.2 kB"),
    ]
    quiet = bench.stage(request, "-q", "--fresh")
    assert quiet == Result(0, b"", "")
    told = bench.stage(request, "-v", "--fresh")
    assert sorted(told.said) == [
        f"out: fetching {bench.place('o.tar')}",
        f"workspace: fetching {bench.place('ws.tar')}",
    ]
    bench.client.delete_object(Bucket=bench.bucket, Key="ws.tar")
    failed = bench.stage(request, "-q", "--fresh")
    assert (failed.code, failed.out) == (4, "")
    assert len(failed.said) == 2


def test_the_log_file(bench):
    """Everything that happened, in UTC, appended, and no secret."""
    bench.put("ws.tar", tar({"a": b"1"}))
    log = bench.folder / "log"
    request = bench.request({"workspace": bench.artifact("ws.tar")})
    for flags in ((), ("--fresh",)):
        assert bench.stage(request, "-q", "--log-file", str(log), *flags, env={"TZ": "Asia/Tokyo"}).code == 0
    failed = bench.stage(bench.request({"a": bench.artifact("none.tar")}), "-q", "--log-file", str(log))
    assert failed.code == 4
    lines = log.read_text().splitlines()
    now = time.gmtime()
    for line in lines:
        match = re.fullmatch(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)\.\d{3}Z (DEBUG|INFO) .+", line)
        assert match is not None
        written = time.strptime(match[1] + " UTC", "%Y-%m-%dT%H:%M:%S %Z")
        assert abs(time.mktime(written) - time.mktime(now)) < 600
    assert sum("Published(op='fetch', label='workspace'" in line for line in lines) == 2
    assert sum("error: 1 of 1 artifacts failed; exit 4" in line for line in lines) == 1
    assert servers.ADMIN.secret_key not in log.read_text()
    unwritable = bench.stage(request, "--log-file", str(bench.folder / "none" / "log"))
    assert unwritable.code == 2
    assert unwritable.said == [f"error: --log-file {bench.folder / 'none' / 'log'}: No such file or directory"]


def test_check(bench):
    """Where, by which rule, as whom, what is there; each failure in one line; the code staging would end with."""
    bench.put("ws.tar", tar({"a": b"1"}))
    etag = bench.client.head_object(Bucket=bench.bucket, Key="ws.tar")["ETag"]
    request = bench.request(
        {
            "ws": bench.artifact("ws.tar"),
            "new": bench.artifact("out.tar", mutable=True),
            "scratch": {"mutable": True},
            "none": bench.artifact("none.tar"),
            "refused": {"qualified": "s3://minio.ml.svc:9000/b/k.tar"},
            "denied": bench.artifact("ws.tar", credentials=credentials(servers.READER)),
        }
    )
    rule = f"endpoint.{bench.host}"
    where = [bench.url, bench.bucket]
    result = run("check", request, "--endpoint", bench.url)
    assert result.code == 3
    assert [line.split("\t") for line in result.out.splitlines()] == [
        ["ws", "found", *where, "ws.tar", rule, "aws AKAD…0001", "10.2 kB", etag],
        ["new", "missing", *where, "out.tar", rule, "aws AKAD…0001", "", ""],
        ["scratch", "none", "", "", "", "", "", "", ""],
        ["none", "failed", *where, "none.tar", rule, "aws AKAD…0001", "", ""],
        ["refused", "failed", "", "", "", "not-named", "", "", ""],
        ["denied", "failed", *where, "ws.tar", rule, "aws AKRE…0002", "", ""],
    ]
    assert [line.partition(" (hint")[0] for line in result.said] == [
        f"none: failed: head {bench.place('none.tar')}: 404 NoSuchKey",
        "refused: failed: s3://minio.ml.svc:9000/b/k.tar: the endpoint minio.ml.svc:9000 is not named",
        f"denied: failed: head {bench.place('ws.tar')}: 403 AccessDenied",
    ]
    assert "(hint: add --endpoint http://minio.ml.svc:9000 " in result.said[1]

    as_json = run("check", request, "--endpoint", bench.url, "--json")
    assert (as_json.code, as_json.said) == (3, result.said)
    *lines, settings, summary = as_json.lines
    assert (settings["type"], settings["settings"]["network.retries"]) == ("settings", 5)
    assert [line["type"] for line in lines] == ["check"] * 6
    assert len({tuple(line) for line in lines}) == 1
    assert (lines[0]["object_bytes"], lines[0]["etag"], lines[0]["error"]) == (10240, etag, None)
    assert (lines[4]["error"]["code"], lines[4]["error"]["rule"]) == ("policy", "not-named")
    assert (summary["op"], summary["exit"]) == ("check", 3)
    quiet = run("check", request, "--endpoint", bench.url, "-q")
    assert (quiet.code, quiet.out, quiet.said) == (3, "", result.said)
    assert sorted(path.name for path in bench.folder.iterdir()) == ["request.json"]
    assert bench.keys() == ["ws.tar"]


def test_start_empty(bench):
    """A 403 that hides a missing key: --start-empty begins with an empty folder, and the upload finds none or fails."""
    shared = Bench(bench.server, servers.SHARED_BUCKET, bench.folder)
    key = f"{bench.bucket}/out.tar"
    # These keys may do nothing in this bucket, so the server does not say whether the object exists.
    request = bench.request({"out": bench.artifact("out.tar", mutable=True, credentials=credentials(servers.READER))})
    assert bench.stage(request).code == 5
    assert bench.stage(request, "--start-empty", "out", "--json").statuses == {"out": "empty"}
    shutil.rmtree(bench.job)
    mine = shared.request({"out": shared.artifact(key, mutable=True, credentials=credentials(servers.WRITER))})
    assert shared.stage(mine, "--start-empty", "out", "--json").statuses == {"out": "empty"}
    fill(bench.job / "out", {"log": "mine"})
    shared.put(key, b"somebody else's")
    conflict = shared.upload(mine, "--json")
    assert (conflict.code, conflict.error("out")["code"]) == (7, "object-changed")
    assert shared.read(key) == b"somebody else's"
    shared.client.delete_object(Bucket=shared.bucket, Key=key)
    assert shared.upload(mine, "--json").receipts["out"]["conditional"] == "enforced"


def test_endpoints_by_file_and_environment(bench):
    """$ARTIFACTS_ENDPOINTS and artifacts.toml allow an endpoint; a name that is not read is told, with what was meant."""
    bench.put("ws.tar", tar({"a": b"1"}))
    request = bench.request({"a": bench.artifact("ws.tar")})
    assert run("stage", request, "--into", bench.job).code == 3
    named = {"ARTIFACTS_ENDPOINTS": f"https://other.example, {bench.url}"}
    assert run("stage", request, "--into", bench.job, env=named).code == 0

    text = f'version = 1\nversoin = 2\n[endpoint."{bench.host}"]\nurl = "{bench.url}"\nregon = "eu-west-1"\n'
    config = fill(bench.folder, {"config/artifacts/artifacts.toml": text}) / "config" / "artifacts" / "artifacts.toml"
    warnings = [
        f"warning: {config}: versoin is not read; did you mean version?",
        f'warning: {config}: endpoint."{bench.host}".regon is not read; did you mean region?',
    ]
    for flags, env in (
        (("--config", config), {}),
        ((), {"ARTIFACTS_CONFIG": str(config)}),
        ((), {"XDG_CONFIG_HOME": str(bench.folder / "config")}),
    ):
        result = run("stage", request, "--into", bench.job, *flags, env=env)
        assert (result.code, result.said) == (0, warnings)

    for text, problem in (
        ("version = 2\n", "version: expected 1, got 2"),
        ("version =\n", "Invalid value"),
        ('version = 1\n[endpoint."a:1"]\nurl = "http://b:1"\n', 'endpoint."a:1".url names another host: b:1'),
        ('version = 1\n[endpoint."a:1"]\nregion = 5\n', 'endpoint."a:1".region: expected a valid string'),
    ):
        config.write_text(text)
        result = run("check", request, "--config", config)
        assert result.code == 2
        assert len(result.said) == 1
        assert problem in result.err
    missing = run("check", request, "--config", bench.folder / "none.toml")
    assert (missing.code, missing.said) == (2, [f"error: --config: {bench.folder / 'none.toml'} is no file"])


def test_files_below_a_root(bench):
    """A request's file: URL is read and written below --file-root, and nowhere through a link."""
    data = fill(bench.folder / "data", {"ws.tar": tar({"a": b"1"})})
    fill(bench.folder / "private", {"ws.tar": tar({"secret": b"1"})})
    (data / "link").symlink_to(bench.folder / "private")
    request = bench.request(
        {
            "w": {"qualified": f"file://{data}/ws.tar", "unpack": True},
            "out": {"qualified": f"file://{data}/out.tar", "mutable": True, "unpack": True},
        }
    )
    result = run("stage", request, "--into", bench.job, "--file-root", data, "--json")
    assert (result.code, result.statuses) == (0, {"w": "done", "out": "empty"})
    assert result.receipts["w"]["rule"] == f"file-root.{data}"
    fill(bench.job / "out", {"log": "1"})
    assert run("upload", request, "--from", bench.job, "--file-root", data).code == 0
    with tarfile.open(data / "out.tar") as archive:
        assert archive.getnames() == ["log"]
    linked = bench.request({"w": {"qualified": f"file://{data}/link/ws.tar", "unpack": True}})
    shutil.rmtree(bench.job)
    assert run("stage", linked, "--into", bench.job, "--file-root", data).code not in (0, 1)
    assert labels(bench.job) == []


def test_the_request_from_standard_input(bench):
    """``-`` is standard input."""
    bench.put("ws.tar", tar({"a": b"1"}))
    document = bench.request({"w": bench.artifact("ws.tar")}).read_bytes()
    result = run("stage", "-", "--into", bench.job, "--endpoint", bench.url, stdin=document)
    assert (result.code, labels(bench.job)) == (0, ["w"])


# -- broken servers, and signals ---------------------------------------------------------------------------------


def test_the_server_dies_in_the_middle(tmp_path):
    """A real server is killed while it sends: 75, nothing half-made; started again, the second stage finishes.

    What was finished is not fetched a second time.
    """
    small, large = {"a": b"1"}, kept_files(4_000_000, 8)
    with restartable(tmp_path / "server") as life, FaultProxy(life.server.address) as proxy:
        life.server.make_bucket("bench")
        bench = Bench(life.server, "bench", tmp_path, proxy.url)
        bench.put("small.tar", tar(small))
        bench.put("large.tar", tar(large))
        request = bench.request({"small": bench.artifact("small.tar"), "large": bench.artifact("large.tar")})
        # The small one is in its place before the large one gets far.
        fault = Fault(match="GET .*large", times=9, mid_hook=(2_000_000, life.kill), down_bytes_per_second=4_000_000)
        proxy.add(fault)
        broken = bench.stage(request, "--json")
        assert broken.code == 75
        assert broken.statuses == {"small": "done", "large": "failed"}
        assert broken.error("large")["retryable"] is True
        assert labels(bench.job) == ["small"]

        fault.times = 0
        fetched = proxy.count("GET .*small")
        life.start()
        healed = bench.stage(request, "--json")
        assert (healed.code, healed.statuses) == (0, {"small": "unchanged", "large": "done"})
        assert proxy.count("GET .*small") == fetched
    assert tree(bench.job / "small") == small
    assert tree(bench.job / "large") == large


def test_cut_and_corrupted_answers_are_mended(proxied):
    """A connection that breaks and a server that throttles are retried unseen; a person is told of each retry."""
    bench, proxy = proxied
    files = kept_files(2_000_000)
    bench.put("ws.tar", tar(files))
    proxy.add(Fault(match="GET .*ws", status=503))
    proxy.add(Fault(match="GET .*ws", down_cut_bytes=700_000))
    result = bench.stage(bench.request({"w": bench.artifact("ws.tar")}), "--json")
    assert result.code == 0
    assert result.receipts["w"]["attempts"] >= 2
    assert any(re.match(r"w: attempt 1 failed \(open .*503.*\); again in [\d.]+ s", line) for line in result.said)
    assert tree(bench.job / "w") == files


def slowed(bench: Bench, proxy: FaultProxy) -> None:
    """An object whose fetch takes minutes."""
    bench.put("slow.tar", tar(kept_files(3_000_000)))
    proxy.add(Fault(match="GET .*slow", times=1000, down_bytes_per_second=50_000))


def signalled(process: subprocess.Popen[bytes], number: int, proxy: FaultProxy) -> tuple[Result, float]:
    """Send a signal once the fetch is on its way; the result, and how long it took to end."""
    ends = time.monotonic() + SECONDS
    while not proxy.count("GET .*slow"):
        assert time.monotonic() < ends
        assert process.poll() is None
        time.sleep(0.02)
    time.sleep(0.2)
    began = time.monotonic()
    process.send_signal(number)
    return finish(process), time.monotonic() - began


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_slow_stage(proxied, number, code):
    """Ctrl-C and SIGTERM end at once, with their code; nothing half-made is left, and the next stage works."""
    bench, proxy = proxied
    slowed(bench, proxy)
    request = bench.request({"a": bench.artifact("slow.tar"), "b": bench.artifact("slow.tar", unpack=False)})
    process = start("stage", request, "--into", bench.job, "--endpoint", bench.url, "--json")
    result, seconds = signalled(process, number, proxy)
    assert result.code == result.summary["exit"] == code
    assert seconds < 5
    assert result.said == [f"stopped by {signal.Signals(number).name}"]
    assert result.statuses == {"a": "skipped", "b": "skipped"}
    assert labels(bench.job) == []
    direct = Bench(bench.server, bench.bucket, bench.folder)
    assert direct.stage(direct.request({"a": direct.artifact("slow.tar")})).code == 0


@pytest.mark.parametrize("flags", [(), ("--unpack",)])
def test_a_signal_ends_a_slow_get(proxied, flags):
    """A file or a folder that is half there is removed."""
    bench, proxy = proxied
    slowed(bench, proxy)
    process = start("get", bench.place("slow.tar"), bench.folder / "got" / "copy", *flags, env=OWN)
    result, seconds = signalled(process, signal.SIGINT, proxy)
    assert result.code == 130
    assert seconds < 5
    assert result.said == [TOLD, "slow.tar: failed: stopped by SIGINT"]
    assert list((bench.folder / "got").iterdir()) == []


def test_a_signal_ends_a_put_from_a_pipe(bench):
    """``put -`` that waits for more input ends on Ctrl-C, and no object appears."""
    process = start("put", "-", bench.place("k"), env=OWN, stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(os.urandom(1_000_000))
    process.stdin.flush()
    assert process.stderr is not None
    assert process.stderr.readline().decode() == TOLD + "\n"
    time.sleep(0.5)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.wait(SECONDS) == 130
    assert time.monotonic() - began < 5
    finish(process)
    assert bench.keys() == []


# -- run ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def job(bench) -> Path:
    """A request with a workspace and an output."""
    bench.put("ws.tar", tar({"main.sh": b"echo here\n"}))
    return job_request(bench)


def job_request(bench: Bench, **more: object) -> Path:
    artifacts = {"workspace": bench.artifact("ws.tar"), "out": bench.artifact("out.tar", mutable=True)}
    return bench.request(artifacts, **more)


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        (("true",), 0, "command exited with 0"),
        (("sh", "-c", "exit 42"), 42, "command exited with 42"),
        (("sh", "-c", "kill -9 $$"), 137, "warning: ended by signal 9"),
        (("sh", "-c", "kill -TERM $$"), 143, "warning: ended by signal 15"),
        (("./main.sh",), 126, "warning: ./main.sh cannot be executed: Permission denied"),
        (("no-such-program",), 127, "warning: no-such-program is not found"),
    ],
)
def test_run_exits_as_its_command(bench, job, command, code, said):
    """Its own code, 128+n for a signal, 126 and 127 as a shell has them; the summary tells both codes."""
    result = bench.run(job, *command, flags=("--json",))
    assert result.code == code
    assert (result.summary["exit"], result.summary["command_exit"]) == (code, code)
    assert result.said[0].startswith(said)
    assert [line["op"] for line in result.lines[:-1]] == ["fetch", "fetch", "upload"]


def test_run_uploads_what_a_failed_command_left(bench, job):
    """The results of a command that fails are stored before its code is passed on."""
    result = bench.run(job, "sh", "-c", "pwd; echo log > ../out/log; exit 3")
    assert result.code == 3
    assert str(bench.job / "workspace") in result.out.splitlines()
    with tarfile.open(fileobj=io.BytesIO(bench.read("out.tar"))) as archive:
        assert archive.getnames() == ["log"]


def test_run_with_json_keeps_standard_output_clean(bench, job):
    """With --json what the command prints goes to standard error, so that every line of ours can be read."""
    result = bench.run(job, "sh", "-c", "echo from the command", flags=("--json",))
    assert result.statuses == {"workspace": "done", "out": "empty"}
    assert "from the command" in result.said


def test_run_gives_the_command_little(bench):
    """Its environment: PATH, HOME, LANG, TMPDIR and config.env; %NAME% is one of those four, other names stay."""
    bench.put("ws.tar", tar({"main.sh": b""}))
    env = {"STEPS": "300", "PATH": "%PATH%:./bin", "LEAK": "%SECRET%-%HOME%", "ODD": "100%"}
    request = job_request(bench, config={"env": env})
    more = {"SECRET": "a-secret-of-the-runner", "AWS_PROFILE": "none", "PYTHONPATH": "/nonexistent"}
    script = "import json, os; print(json.dumps(dict(os.environ)))"
    result = bench.run(request, sys.executable, "-I", "-c", script, env=more)
    assert result.code == 0
    seen = json.loads(next(line for line in result.out.splitlines() if line.startswith("{")))
    seen.pop("LC_CTYPE", None)  # Python itself adds it
    ours = environment()
    assert seen == {
        "PATH": f"{ours['PATH']}:./bin",
        "HOME": ours["HOME"],
        "LANG": ours["LANG"],
        "TMPDIR": ours["TMPDIR"],
        "STEPS": "300",
        "LEAK": f"%SECRET%-{ours['HOME']}",
        "ODD": "100%",
    }


@pytest.mark.parametrize("env", [{"A=B": "x"}, {"A": "x\0y"}, {"": "x"}, {"A\0": "x"}])
def test_run_refuses_an_impossible_environment(bench, job, env):
    """A name or value that no process can have: the request is invalid, and nothing is staged for it."""
    result = bench.run(job_request(bench, config={"env": env}), "true")
    assert result.code == 2
    assert result.said == ["error: config.env: a name is empty or holds '=', or something holds a NUL"]
    assert labels(bench.job) == []


def test_run_stops_a_command_at_its_limit(bench, job):
    """max_duration: SIGTERM to the command and its children, what they leave is uploaded, 124."""
    script = "trap 'echo saved > ../out/log; exit 0' TERM; sleep 60 & wait"
    result = bench.run(job_request(bench, max_duration="1s"), "sh", "-c", script, flags=("--json",))
    assert (result.code, result.summary["command_exit"]) == (124, 124)
    assert result.said[0] == "warning: stopped after its 1 s"
    assert result.receipts["out"]["status"] == "done"
    with tarfile.open(fileobj=io.BytesIO(bench.read("out.tar"))) as archive:
        assert archive.getnames() == ["log"]


def test_run_does_not_begin_when_the_time_is_over(bench, job):
    """An experiment whose lifetime has ended is not started, nor staged: 125."""
    request = job_request(bench, config={"experimentLifetime": "1h"}, time_added=1_700_000_000)
    result = bench.run(request, "touch", str(bench.folder / "started"), flags=("--json",))
    assert (result.code, result.summary["command_exit"]) == (125, None)
    assert result.said == ["warning: the experiment's lifetime is over; the command was not started"]
    assert not (bench.folder / "started").exists()
    assert not bench.job.exists() or labels(bench.job) == []
    unreadable = bench.run(job_request(bench, max_duration="soon"), "true")
    assert unreadable.code == 2
    assert unreadable.said == ['error: experiment.max_duration: expected a duration such as "1h30m"']


def test_run_does_not_begin_when_staging_fails(bench):
    """As ``stage`` would: the code of the failure, and the command is not started."""
    result = bench.run(bench.request({"workspace": bench.artifact("none.tar")}), "touch", str(bench.folder / "started"))
    assert result.code == 4
    assert not (bench.folder / "started").exists()


def test_run_owes_what_it_could_not_upload(proxied):
    """The server breaks while the command runs: 123, the results stay; ``upload`` returns them once it is back."""
    bench, proxy = proxied
    bench.put("ws.tar", tar({"main.sh": b""}))
    request = job_request(bench)
    flag = bench.folder / "broken"
    process = start(
        *("run", request, "--into", bench.job, "--endpoint", bench.url, "--json", "--"),
        *("sh", "-c", f"echo log > ../out/log; touch {flag}.; while [ ! -e {flag} ]; do sleep 0.05; done; exit 5"),
    )
    ends = time.monotonic() + SECONDS
    while not flag.with_name("broken.").exists():
        assert time.monotonic() < ends
        assert process.poll() is None
        time.sleep(0.02)
    broken = proxy.add(Fault(times=1000, status=503))
    flag.touch()
    result = finish(process)
    assert (result.code, result.summary["command_exit"], result.summary["owed"]) == (123, 5, ["out"])
    assert result.receipts["out"]["status"] == "owed"
    assert result.error("out")["retryable"] is True
    assert tree(bench.job / "out") == {"log": b"log\n"}
    assert bench.keys() == ["ws.tar"]

    broken.times = 0
    assert bench.upload(request, "--json").statuses == {"out": "done"}
    with tarfile.open(fileobj=io.BytesIO(bench.read("out.tar"))) as archive:
        assert archive.getnames() == ["log"]


@pytest.mark.parametrize(
    ("number", "trap", "code"),
    [
        (signal.SIGTERM, "trap 'echo saved > ../out/log; exit 0' TERM; ", 143),
        (signal.SIGINT, "trap 'echo saved > ../out/log; exit 0' INT; ", 130),
        (signal.SIGTERM, "echo saved > ../out/log; ", 143),
    ],
    ids=["SIGTERM caught", "SIGINT caught", "SIGTERM not caught"],
)
def test_a_signal_goes_to_the_command(bench, job, number, trap, code):
    """The command gets it, what it leaves is uploaded, and the code is the signal's."""
    process = start(
        *("run", job, "--into", bench.job, "--endpoint", bench.url, "--"),
        *("sh", "-c", f"{trap}echo ready; while :; do sleep 0.05; done"),
    )
    assert process.stdout is not None
    while process.stdout.readline() != b"ready\n":
        assert process.poll() is None
    began = time.monotonic()
    process.send_signal(number)
    result = finish(process)
    assert time.monotonic() - began < 10
    assert result.code == code
    assert tree(bench.job / "out") == {"log": b"saved\n"}
    with tarfile.open(fileobj=io.BytesIO(bench.read("out.tar"))) as archive:
        assert archive.getnames() == ["log"]


def gone(pid: int) -> bool:
    """Has the process ended? A zombie that nobody has waited for yet has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_a_second_signal_ends_everything(bench, job):
    """A command that ignores the first is killed by the second, and nothing waits for anything any more."""
    process = start(
        *("run", job, "--into", bench.job, "--endpoint", bench.url, "--"),
        *("sh", "-c", "trap '' TERM; echo $$; while :; do sleep 0.05; done"),
    )
    assert process.stdout is not None
    while not (line := process.stdout.readline()).strip().isdigit():
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    assert process.poll() is None
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert finish(process).code == 143
    assert time.monotonic() - began < 5
    ends = time.monotonic() + 5
    while not gone(int(line)):
        assert time.monotonic() < ends
        time.sleep(0.02)
    assert bench.stage(job).code == 0


def test_a_signal_during_the_upload(proxied):
    """The command has ended, its upload hangs: the signal stops that in order, 123, nothing half-made on the server."""
    bench, proxy = proxied
    bench.put("ws.tar", tar({"main.sh": b""}))
    proxy.add(Fault(match="^(PUT|POST)", times=1000, delay_seconds=600))
    process = start(
        *("run", job_request(bench), "--into", bench.job, "--endpoint", bench.url, "--json", "--"),
        *("sh", "-c", "head -c 20000000 /dev/urandom > ../out/x"),
    )
    ends = time.monotonic() + SECONDS
    while not proxy.count("^(PUT|POST)"):
        assert time.monotonic() < ends
        assert process.poll() is None
        time.sleep(0.02)
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    result = finish(process)
    assert time.monotonic() - began < 5
    assert (result.code, result.summary["command_exit"], result.summary["owed"]) == (123, 0, ["out"])
    assert bench.keys() == ["ws.tar"]
    assert "Uploads" not in bench.client.list_multipart_uploads(Bucket=bench.bucket)
    direct = Bench(bench.server, bench.bucket, bench.folder)
    assert direct.run(job_request(direct), "true").code == 2  # another location: what is owed there is not overwritten
    assert (bench.job / "out" / "x").stat().st_size == 20_000_000


def test_nothing_the_command_started_outlives_it(bench, job):
    """A process that the command left behind is ended before its results are packed."""
    result = bench.run(job, "sh", "-c", "sleep 300 & echo $! > ../out/pid; exit 0")
    assert result.code == 0
    pid = int((bench.job / "out" / "pid").read_text())
    ends = time.monotonic() + 5
    while not gone(pid):
        assert time.monotonic() < ends
        time.sleep(0.02)


# -- get and put -------------------------------------------------------------------------------------------------


def test_get_and_put_a_file(bench, keys):
    """To a file, into a folder under the key's name, through standard input and output; the bytes are the same."""
    content = os.urandom(3_000_000)
    local = bench.folder / "local.bin"
    local.write_bytes(content)
    as_admin = ("--credentials", keys)
    put = run("put", local, bench.place("deep/k.bin"), *as_admin, "--json")
    assert (put.code, put.statuses, put.err) == (0, {"k.bin": "done"}, "")
    assert put.receipts["k.bin"]["sha256"] == hashlib.sha256(content).hexdigest()
    assert bench.read("deep/k.bin") == content

    got = run("get", bench.place("deep/k.bin"), bench.folder / "new" / "copy.bin", *as_admin, "--json")
    assert (got.code, got.receipts["k.bin"]["op"], got.summary["op"]) == (0, "get", "get")
    assert tuple(got.receipts["k.bin"]) == RECEIPT_KEYS
    (bench.folder / "folder").mkdir()
    assert run("get", bench.place("deep/k.bin"), bench.folder / "folder", *as_admin).code == 0
    streamed = run("get", bench.place("deep/k.bin"), "-", *as_admin)
    assert (streamed.code, streamed.err) == (0, "")
    copies = [(bench.folder / "new" / "copy.bin").read_bytes(), (bench.folder / "folder" / "k.bin").read_bytes()]
    assert [*copies, streamed.content] == [content] * 3
    assert [path.name for path in (bench.folder / "new").iterdir()] == ["copy.bin"]

    assert run("put", "-", bench.place("piped"), *as_admin, stdin=content).code == 0
    assert bench.read("piped") == content
    assert run("put", "-", bench.place("nothing"), *as_admin, stdin=b"").code == 0
    assert bench.read("nothing") == b""


def test_put_if_absent(bench, keys):
    """An object that is there is not replaced: 7."""
    local = fill(bench.folder, {"one": "1", "two": "2"})
    assert run("put", local / "one", bench.place("k"), "--if-absent", "--credentials", keys).code == 0
    again = run("put", local / "two", bench.place("k"), "--if-absent", "--credentials", keys)
    assert again.code == 7
    assert again.said[0].startswith(f"k: failed: write {bench.place('k')}: ")
    assert len(again.said) == 1
    assert bench.read("k") == b"1"
    assert run("put", local / "two", bench.place("k"), "--credentials", keys).code == 0
    assert bench.read("k") == b"2"


@pytest.mark.parametrize("key", ["k.tar", "k.tar.gz", "k.tar.zst", "k.tar.xz", "k.tar.bz2"])
def test_a_folder_there_and_back(bench, keys, key):
    """A folder is packed by the URL's extension, and comes back the same: contents, modes, times, links."""
    files = fill(bench.folder / "files", {"a": "1", "sub/b": "2" * 5000, "sub/deeper/c": "", "ü": "name"})
    (files / "a").chmod(0o640)
    (files / "link").symlink_to("sub/b")
    (files / "hollow").mkdir()
    assert run("put", files, bench.place(key), "--credentials", keys).code == 0
    magic = {"gz": b"\x1f\x8b", "zst": b"\x28\xb5\x2f\xfd", "xz": b"\xfd7zXZ", "bz2": b"BZh"}.get(
        key.rsplit(".")[-1], b"a\0"
    )
    assert bench.read(key).startswith(magic)
    copy = bench.folder / "copy"
    assert run("get", bench.place(key), copy, "--unpack", "--credentials", keys).code == 0
    assert tree(copy) == tree(files)
    assert meta(copy) == meta(files)
    assert (copy / "link").readlink() == Path("sub/b")
    taken = run("get", bench.place(key), copy, "--unpack", "--credentials", keys)
    assert taken.code == 2
    assert f"{copy} exists and is not an empty folder" in taken.err


def test_files_by_url(tmp_path):
    """``file:`` URLs are the caller's own files: no credential is asked for, none is spoken of."""
    source = fill(tmp_path / "source", {"a b/ü.txt": "1"})
    (tmp_path / "store").mkdir()
    put = run("put", source, f"file://{tmp_path}/store/k.tar.gz")
    assert (put.code, put.err) == (0, "")
    got = run("get", f"file://{tmp_path}/store/k.tar.gz", tmp_path / "copy", "--unpack")
    assert (got.code, got.err) == (0, "")
    assert tree(tmp_path / "copy") == {"a b/ü.txt": b"1"}
    missing = run("get", f"file://{tmp_path}/store/none", tmp_path / "x")
    assert missing.code == 4
    assert len(missing.said) == 1


def test_whose_credentials(bench, keys):
    """The caller's own setup is used by ``get`` and ``put`` alone, and said in one line; a file or nobody instead."""
    bench.put("k", b"1")
    place, copy = bench.place("k"), bench.folder / "copy"
    profile = fill(
        bench.folder,
        {
            "aws": f"[mine]\naws_access_key_id = {servers.ADMIN.access_key}\naws_secret_access_key = {servers.ADMIN.secret_key}\n"
        },
    )
    configured = {"AWS_SHARED_CREDENTIALS_FILE": str(profile / "aws")}

    own = run("get", place, copy, "--json", env=OWN)
    assert (own.code, own.said) == (0, [TOLD])
    assert own.receipts["k"]["credential"]["source"] == "ambient"
    named = run("put", copy, place, "--profile", "mine", "--json", env=configured)
    assert (named.code, named.said) == (0, ["credentials: your own AWS setup (profile mine)"])
    assert named.receipts["k"]["credential"]["source"] == "profile:mine"
    unknown = run("get", place, copy, "--profile", "nobody", env=configured)
    assert unknown.code == 5
    assert len(unknown.said) == 2
    assert run("get", place, copy, "-q", env=OWN) == Result(0, b"", "")

    given = run("get", place, copy, "--credentials", keys, "--json", env=OWN)
    assert (given.code, given.err) == (0, "")
    assert given.receipts["k"]["credential"]["source"] == "request"
    nobody = run("get", place, copy, "--anonymous", env=OWN)
    assert nobody.code == 5
    assert len(nobody.said) == 1
    nothing = run("get", place, copy)
    assert nothing.code == 5
    assert nothing.said[0] == TOLD
    assert "has no keys (hint: run 'aws configure', or give --credentials FILE)" in nothing.said[1]


def test_a_request_never_uses_the_callers_credentials(bench):
    """``stage`` and ``check`` with a request that has none: anonymous, whatever the environment holds."""
    bench.put("k.tar", tar({"a": b"1"}))
    request = bench.request({"a": bench.artifact("k.tar", credentials={})})
    staged = bench.stage(request, "--json", env=OWN)
    assert staged.code == 5
    assert staged.receipts["a"]["credential"]["kind"] == "anonymous"
    checked = run("check", request, "--endpoint", bench.url, "--json", env=OWN)
    assert checked.code == 5
    assert checked.lines[0]["credential"]["kind"] == "anonymous"
    refused = bench.stage(request, "--json", "--ambient", env=OWN)
    assert (refused.code, refused.error("a")["rule"]) == (3, "lending")
    assert refused.error("a")["hint"].startswith(f"add --lend-to {bench.host}, or write ambient = true into")
    lent = bench.stage(request, "--json", "--ambient", "--lend-to", bench.host, env=OWN)
    assert lent.code == 0
    assert lent.receipts["a"]["credential"]["source"] == "ambient"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ((), None),
        (("stage",), "error: Missing argument 'REQUEST'. (hint: artifacts stage --help)"),
        (("stage", "r.json"), "error: Missing option '--into'. (hint: artifacts stage --help)"),
        (("fetch",), "error: No such command 'fetch'. (hint: artifacts --help)"),
        (("stage", "r.json", "--into", "d", "--key", "x"), "error: No such option '--key'."),
        (
            ("stage", "r.json", "--into", "d", "--max-bytes", "lots"),
            "error: Invalid value for '--max-bytes': expected a size",
        ),
        (("run", "r.json", "--into", "d"), "error: Missing argument '-- CMD...'. (hint: artifacts run --help)"),
        (("push", "r.json"), "error: Missing option '-o' / '--output'. (hint: artifacts push --help)"),
        (("push", "r.json", "-o", "/nonexistent/full.json"), "error: -o /nonexistent/full.json: there is no folder"),
        (("push", "r.json", "-o", "."), "error: Invalid value for '-o' / '--output': File '.' is a directory."),
        (("push", "r.json", "-o", "-", "--json"), "error: -o - does not go with --json"),
        (("get", "s3://b/k"), "error: Missing argument 'PATH'. (hint: artifacts get --help)"),
        (("get", "k", "copy"), "error: 'k' is no location: it has no scheme (hint: write s3://bucket/key"),
        (("get", "s3://b/k", "-", "--json"), "error: standard output takes neither --unpack nor --json"),
        (("get", "s3://b/k", "-", "--unpack"), "error: standard output takes neither --unpack nor --json"),
        (
            ("get", "s3://b/k", "copy", "--anonymous", "--profile", "p"),
            "error: --credentials, --anonymous, --profile and --token-file",
        ),
        (("put", "r.json"), "error: Missing argument 'URL'. (hint: artifacts put --help)"),
        (("put", "none", "s3://b/k"), "error: Invalid value for 'PATH': Path 'none' does not exist."),
        (
            ("check", "r.json", "--endpoint", "host:9000"),
            "error: the endpoint 'host:9000' is no http:// or https:// URL",
        ),
        (("demo", "--endpoint-url", "http://x"), "error: --endpoint-url and --credentials go together"),
    ],
)
def test_wrong_usage(tmp_path, arguments, line):
    """Exit 2 and one line that says what to write instead; without any argument the help."""
    (tmp_path / "r.json").write_text('{"experiment": {"artifacts": {"a": {}}}}')
    result = run(*arguments, cwd=tmp_path)
    assert result.code == 2
    if line is None:
        assert result.err.startswith("Usage: artifacts [OPTIONS] COMMAND")
        return
    assert [said for said in result.said if said.startswith(line)] == result.said
    assert len(result.said) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]


def test_help_of_each_command():
    """Every command explains itself, on standard output, without an error; its first line fits the list of commands."""
    listed = run("--help")
    assert listed.code == 0
    commands = re.findall(r"^  ([a-z]+) {2,}(.+)$", listed.out.partition("Commands:")[2], re.MULTILINE)
    assert [
        name for name, _ in commands
    ] == "check config cp demo doctor gc get ls push put rm run stage stat upload".split()
    for name, summary in commands:
        assert not summary.endswith("...")
        for parts in [(name, part) for part in ("init", "check", "show")] if name == "config" else [(name,)]:
            shown = run(*parts, "-h")
            assert (shown.code, shown.err) == (0, "")
            assert shown.out.startswith(f"Usage: artifacts {' '.join(parts)} [OPTIONS]")
            assert "--traceback" in shown.out


def test_the_installed_script_is_the_command():
    """``artifacts`` beside this Python does what ``python -m artifacts.cli`` does."""
    script = Path(sys.executable).parent / "artifacts"
    shown = subprocess.run([script, "--version"], capture_output=True, check=True, env=environment())
    assert (
        shown.stdout
        == subprocess.run([*COMMAND, "--version"], capture_output=True, check=True, env=environment()).stdout
    )


def test_readers_that_go_away_and_full_outputs(bench):
    """A reader that ends early fails nothing that was asked for; an output that cannot take more is this machine's: 9."""
    bench.put("big", os.urandom(3_000_000))
    bench.put("ws.tar", tar({"a": b"1"}))
    early = run("get", bench.place("big"), "-", "-q", env=OWN, before=("sh", "-c", '"$@" | head -c 10', "sh"))
    assert (early.code, len(early.content), early.err) == (0, 10, "")
    full = run("get", bench.place("big"), "-", "-q", env=OWN, before=("sh", "-c", 'exec "$@" > /dev/full', "sh"))
    said = (
        "error: cannot use standard output: No space left on device (ENOSPC) (hint: free space or use another machine)"
    )
    assert (full.code, full.said) == (9, [said])

    request = bench.request({"a": bench.artifact("ws.tar"), "b": bench.artifact("ws.tar")})
    staged = bench.stage(request, "--json", before=("sh", "-c", 'exec "$@" > /dev/full', "sh"))
    assert (staged.code, staged.said) == (9, [said])
    assert labels(bench.job) == ["a", "b"]
    shutil.rmtree(bench.job)
    unread = bench.stage(request, before=("sh", "-c", 'exec 3>&1; ("$@"; echo $? >&3) | true', "sh"))
    assert (unread.out, unread.err) == (f"{128 + signal.SIGPIPE}\n", "")
    assert labels(bench.job) == ["a", "b"]
    unheard = bench.stage(request, "-v", "--fresh", before=("sh", "-c", 'exec "$@" 2> /dev/full', "sh"))
    assert unheard.code == 0
    unlogged = bench.stage(request, "--log-file", "/dev/full")
    assert unlogged.code == 0
    assert len(unlogged.said) == 1
    assert unlogged.said[0].startswith("warning: --log-file /dev/full cannot be written (")


def test_ctrl_c_before_the_command_is_there():
    """Ctrl-C while modules are being loaded ends the process by that signal, and prints no traceback."""
    code = """
import os, signal, sys
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == "artifacts.cli.main":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupt())
signal.signal(signal.SIGINT, signal.default_int_handler)  # as it is unless whoever started us ignores it
from artifacts.cli import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, env=environment())
    assert (done.returncode, done.stderr) == (-signal.SIGINT, b"")


def test_help_that_cannot_be_printed():
    """A full disk under the help is one line and exit 9, as for every command."""
    full = run("--help", before=("sh", "-c", 'exec "$@" > /dev/full', "sh"))
    assert (full.code, full.err) == (9, "error: cannot use standard output: No space left on device\n")


def test_streams_that_were_closed(bench):
    """Whoever starts the command may have closed its streams: what must be printed fails as on a full disk, no more."""
    bench.put("a", b"1")
    shut = run("ls", bench.place(""), env=OWN, before=("sh", "-c", 'exec "$@" >&-', "sh"))
    said = (
        "error: cannot use standard output: Bad file descriptor (EBADF) (hint: it was closed before the command began)"
    )
    assert (shut.code, shut.said[-1]) == (9, said)
    target = bench.folder / "a"
    quiet = run("get", bench.place("a"), target, "-q", env=OWN, before=("sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh"))
    assert (quiet.code, target.read_bytes()) == (0, b"1")


def test_one_run_has_one_name(bench, tmp_path):
    """Receipts, the summary and the record of decisions of one command name the same run, for objects and prefixes."""
    bench.put("p/a", b"1")
    for number, arguments in enumerate(
        (
            ("get", bench.place("p/a"), tmp_path / "a"),
            ("get", bench.place("p/"), tmp_path / "p"),
            ("cp", bench.place("p/a"), bench.place("b")),
            ("rm", bench.place("b")),
        )
    ):
        record = tmp_path / f"{number}.jsonl"
        done = run(*arguments, "--json", "--audit", record, env=OWN)
        decided = [json.loads(line) for line in record.read_text().splitlines()]
        assert len({line["run"] for line in (*done.lines, *decided)}) == 1
        assert (len(done.lines) >= 2, len(decided) >= 1) == (True, True)


@pytest.mark.parametrize("document", ["{}", '{"experiment": {}}', '{"awz": {"access_key": "A"}}', '{"aws": null}'])
def test_a_credentials_file_without_a_credential(tmp_path, document):
    """Another document in its place is invalid, exit 2: it is not gone on with as nobody."""
    (tmp_path / "c.json").write_text(document)
    result = run("get", "s3://127.0.0.1:1/b/k", "x", "--credentials", "c.json", cwd=tmp_path)
    assert (result.code, result.said) == (
        2,
        ["error: c.json: there is no credential in it (hint: it holds one of aws, plain and jwt)"],
    )


def test_a_profile_of_the_environment_that_is_not_there(tmp_path):
    """The profile is named, whoever named it."""
    env = {"AWS_PROFILE": "nope", "AWS_EC2_METADATA_DISABLED": "true"}
    result = run("get", "s3://127.0.0.1:1/b/k", tmp_path / "x", env=env)
    assert result.code == 5
    assert "the AWS setup has no profile 'nope'" in result.said[-1]


@pytest.mark.parametrize("command", [("ls", ""), ("stat", ""), ("get", "", "x"), ("rm", "")])
def test_an_empty_url(tmp_path, command):
    """What a variable of the shell that is not set leaves is told as such."""
    result = run(*command, "--anonymous", cwd=tmp_path)
    assert (result.code, result.said) == (2, ["error: the URL is empty"])


def test_many_warnings_of_a_kind(bench):
    """Of warnings that are alike the first five are told in words, and how many more there are; the receipt has all."""
    folder = fill(bench.folder / "links", {"a": "1"})
    for number in range(8):
        (folder / f"link{number}").symlink_to("/etc")
    sent = run("put", folder, bench.place("links.tar"), env=OWN)
    words = "is a link that leaves the folder: it is stored, and unpacking will refuse it"
    assert [line for line in sent.said if line.startswith("warning")] == [
        *(f"warning: link{number}: {words}" for number in range(5)),
        f"warning: 3 more: {words}",
    ]
    told = run("put", folder, bench.place("links.tar"), "--json", env=OWN)
    assert len(told.lines[0]["warnings"]) == 8


def on_terminal(*arguments: str | os.PathLike[str]) -> tuple[int, str]:
    """Run the command on a terminal of its own; its code, and what it wrote there."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*COMMAND, *map(os.fspath, arguments)],
        env=environment(TERM="xterm-256color", COLUMNS="100"),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    ) as process:
        os.close(theirs)
        shown = b""
        # Where nobody holds the other end of a terminal any more, reading is an error.
        with contextlib.suppress(OSError):
            while chunk := os.read(ours, 65536):
                shown += chunk
        os.close(ours)
        return process.wait(SECONDS), shown.decode().replace("\r\n", "\n")


def drawn(shown: str) -> str:
    """The lines, those that were drawn over too, without what a terminal obeys."""
    return re.sub(r"\x1b\[[?0-9;]*[a-zA-Z]|\r", "", shown.replace("\x1b[2K", "\n"))


def test_on_a_terminal(bench):
    """A table of results; live bars while bytes move, and none while the command has the terminal."""
    bench.put("ws.tar", tar({"a": b"1"}))
    artifacts = {"workspace": bench.artifact("ws.tar"), "out": bench.artifact("out.tar", mutable=True)}
    request = bench.request(artifacts)
    arguments = ("--into", bench.job, "--endpoint", bench.url, "--")
    code, shown = on_terminal(
        "run", request, *arguments, "sh", "-c", "echo BEGIN; sleep 0.5; echo x > ../out/x; echo END"
    )
    assert code == 0
    before, _, rest = shown.partition("BEGIN\n")
    during, _, after = rest.partition("END\n")
    assert "\x1b[?25l" in before  # the cursor is hidden while bars are drawn
    assert during == ""
    assert re.search(r"^label +status +size +members +seconds +location *$", drawn(before), re.MULTILINE)
    assert re.search(r"^workspace +done +10\.2 kB ", drawn(before), re.MULTILINE)
    assert "command exited with 0 after" in after
    assert re.search(r"^out +done +2\.0 kB ", drawn(after), re.MULTILINE)
    assert after.rindex("\x1b[?25h") > after.rfind("\x1b[?25l")  # and comes back

    code, shown = on_terminal("check", request, "--endpoint", bench.url)
    assert code == 0
    assert "…0001" in shown
    assert shown.count("…") == 2  # the masked keys alone: nothing else is cut


def test_traceback_on_demand(bench):
    """--traceback shows where an error came from; without it there is one line."""
    process = start("stage", bench.folder / "none.json", "--into", bench.job, "--traceback")
    _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 2
    assert b"Traceback (most recent call last)" in err
    assert b"FileNotFoundError" in err
