"""The record of the policy's decisions: what is in it, who writes it, and that nothing goes on without it."""

from __future__ import annotations

import json
import resource
import signal
import stat
import subprocess
import sys

import pytest
import servers
from commands import Bench, credentials, fill, run, tar

from artifacts.audit import AuditFile
from artifacts.errors import DiskError
from artifacts.request import loads
from artifacts.staging import StagingDir
from creds.errors import PolicyError
from creds.location import Location
from creds.models import AWSCredential, Credentials, PlainCredential
from creds.policy import Decision, Policy
from creds.resolve import open_store, resolve
from creds.store import StoreOptions
from creds.testing import MemoryStore
from tests.test_policy import resolving_to

KEYS = (
    "v",
    "type",
    "time",
    "run",
    "op",
    "label",
    "step",
    "location",
    "allowed",
    "rule",
    "reason",
    "endpoint_url",
    "credential",
)


@pytest.fixture
def bench(seaweed, bucket, tmp_path) -> Bench:
    return Bench(seaweed, bucket, tmp_path)


def record(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_for_each_decision(bench):
    """Allowed and refused, with label, rule, URL and masked credential; the same run writes none twice; mode 0600."""
    bench.put("ws.tar", tar({"a": b"1"}))
    request = bench.request(
        {
            "a": bench.artifact("ws.tar"),
            "b": {"qualified": "s3://evil.example/x/k?planted", "credentials": credentials(servers.READER)},
            "c": {"qualified": "https://evil.example/k?X-Amz-Signature=planted", "credentials": {}},
            "d": {"qualified": "file:///etc/passwd", "credentials": {}},
        }
    )
    audit = bench.folder / "audit.jsonl"
    refused = run("stage", request, "--into", bench.job, "--endpoint", bench.url, "--audit", audit, "--json")
    assert refused.code == 3
    lines = record(audit)
    assert {tuple(line) for line in lines} == {KEYS}
    assert stat.S_IMODE(audit.stat().st_mode) == 0o600
    assert [(line["label"], line["allowed"], line["rule"]) for line in lines] == [
        ("a", True, f"endpoint.{bench.host}"),
        ("b", False, "not-named"),
        ("c", False, "not-named"),
        ("d", False, "file"),
    ]
    first = lines[0]
    assert (first["v"], first["type"], first["op"], first["step"]) == (1, "decision", "stage", "open")
    assert (first["run"], first["endpoint_url"]) == (refused.summary["run"], bench.url)
    assert first["location"] == bench.place("ws.tar")
    assert first["credential"] == {"kind": "aws", "id": "AKAD…0001", "source": "request", "expires_at": None}
    assert lines[1]["reason"] == "the endpoint evil.example is not named"
    assert lines[2]["location"] == "https://evil.example/k?X-Amz-Signature=***"
    assert [line["credential"] for line in lines[1:]] == [None, None, None]
    assert "planted" not in audit.read_text().replace("k%3Fplanted", "")


def test_every_command_writes_it(bench):
    """Those for requests and those for single objects append to the file's audit, each under its own name."""
    bench.put("ws.tar", tar({"a": b"1"}))
    fill(bench.folder, {"keys.json": json.dumps(credentials(servers.ADMIN)), "local/x": "1"})
    artifacts = {"a": bench.artifact("ws.tar", mutable=True)}
    request = bench.request(artifacts)
    config = fill(bench.folder, {"a.toml": 'version = 1\n[policy]\naudit = "audit.jsonl"\n'}) / "a.toml"
    audit = bench.folder / "audit.jsonl"
    env = {"ARTIFACTS_CONFIG": str(config), "ARTIFACTS_ENDPOINTS": bench.url}
    keys = ("--credentials", bench.folder / "keys.json")
    for command in (
        ("stage", request, "--into", bench.job),
        ("upload", request, "--from", bench.job),
        ("check", request),
        ("put", bench.folder / "keys.json", bench.place("copy"), *keys),
        ("cp", bench.place("copy"), bench.place("copy2"), *keys),
    ):
        done = run(*command, env=env)
        assert done.code == 0, (command, done.err)
    ops = [(line["op"], line["label"]) for line in record(audit)]
    assert ops == [*((op, "a") for op in ("stage", "upload", "check")), *((op, None) for op in ("put", "cp", "cp"))]


def test_a_push_is_on_record(bench):
    """Each pushed artifact by its label."""
    fill(bench.folder, {"local/x": "1"})
    request = bench.request({"a": {**bench.artifact("k.tar"), "local": "local"}})
    audit = bench.folder / "audit.jsonl"
    done = run("push", request, "-o", bench.folder / "out.json", "--endpoint", bench.url, "--audit", audit)
    assert done.code == 0, done.err
    assert [(line["op"], line["label"], line["allowed"]) for line in record(audit)] == [("push", "a", True)]


@pytest.mark.parametrize("name", ["missing/audit.jsonl", "", "/dev/full"])
def test_no_record_no_work(bench, name):
    """A file that cannot be opened or written stops everything before a byte moves: exit 9, and no folder is made."""
    bench.put("ws.tar", tar({"a": b"1"}))
    request = bench.request({"a": bench.artifact("ws.tar"), "b": bench.artifact("ws.tar")})
    audit = bench.folder / name if name else bench.folder
    done = run("stage", request, "--into", bench.job, "--endpoint", bench.url, "--audit", audit)
    assert done.code == (2 if name == "" else 9)
    assert len(done.said) == 1
    assert str(audit) in done.err
    assert not bench.job.exists()


def test_a_record_that_ends_half_way_stops_the_work(tmp_path):
    """A line that is not taken whole raises DiskError, and so does every later one."""
    write = AuditFile(tmp_path / "audit.jsonl", op="x")
    decision = Decision(step="open", location="s3://b/k", allowed=True, rule="aws", reason="r")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        write(decision)
        size = (tmp_path / "audit.jsonl").stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, hard))
        policy = Policy.for_requests(on_decision=write)
        for number in range(2):
            with pytest.raises(DiskError, match="audit file"):
                resolve(Location.parse(f"s3://b/{number}"), None, None, policy)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
        write.close()


def test_a_failing_record_stops_staging_from_python(tmp_path):
    """What on_decision raises leaves the planning as it is: no artifact is staged, not even those on record."""
    request = loads(
        json.dumps({"experiment": {"artifacts": {n: {"qualified": f"s3://b/{n}"} for n in ("one", "two")}}}).encode()
    )
    seen = []

    def failing(decision):
        seen.append(decision.about)
        if decision.about == "two":
            raise DiskError("full")

    staging = StagingDir(
        tmp_path / "job", policy=Policy.for_requests(on_decision=failing), open=lambda *_: MemoryStore({"one": b"1"})
    )
    with pytest.raises(DiskError, match="full"):
        staging.stage(request)
    assert seen == ["one", "two"]
    assert not (tmp_path / "job").exists()


def test_what_is_told_of_each_outcome(tmp_path):
    """Refused by the location, by a credential's rule, by an address; a credential that is wrong is no refusal."""
    told = []
    policy = Policy.for_requests(
        ["http://minio:9000"], resolver=resolving_to("169.254.169.254"), on_decision=told.append
    ).concerning("a")
    location = Location.parse("s3://minio:9000/b/k")
    resolve(location, Credentials(aws=AWSCredential()), None, policy)
    with pytest.raises(PolicyError):
        resolve(location, None, StoreOptions(ambient=True), policy)
    with pytest.raises(ValueError, match="missing"):
        resolve(location, Credentials(plain=PlainCredential(user="u")), None, policy)
    store = open_store(location, None, None, policy)
    with pytest.raises(PolicyError):
        store.head("k")
    store.close()
    assert [(d.step, d.allowed, d.rule, d.credential and d.credential["kind"]) for d in told] == [
        ("open", True, "endpoint.minio:9000", "anonymous"),
        ("open", False, "lending", None),
        ("open", True, "endpoint.minio:9000", None),
        ("open", True, "endpoint.minio:9000", "anonymous"),
        ("address", False, "metadata-address", None),
    ]
    assert {decision.about for decision in told} == {"a"}
    assert told[1].reason.startswith("the keys of this machine's AWS setup may not be used at")


def test_processes_share_a_file(tmp_path):
    """Lines of several writers do not mix, whatever their length."""
    path = tmp_path / "audit.jsonl"
    program = """
import sys
from artifacts.audit import AuditFile
from creds.policy import Decision
write = AuditFile(sys.argv[1], op=sys.argv[2])
for n in range(50):
    write(Decision(step="open", location=f"s3://b/{n}", allowed=True, rule="aws", reason="x" * (n * 300)))
"""
    writers = [subprocess.Popen([sys.executable, "-c", program, path, str(number)]) for number in range(3)]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    lines = record(path)
    assert len(lines) == 150
    assert {op: sum(line["op"] == op for line in lines) for op in "012"} == dict.fromkeys("012", 50)
