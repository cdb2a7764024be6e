"""A deadline for the whole of a command: what is over is stopped, nothing half made stays, and exit codes say so."""

import json
import os
import threading

import pytest
from commands import Bench, credentials, fill, finish, labels, run, start, tar

from artifacts.cli.exits import exit_code
from creds.errors import Cancelled, DeadlineExceeded
from creds.store import Cancel
from creds.testing import Fault, FaultProxy

SLOW = 20_000
"""Bytes per second: whatever is moved outlives every deadline here."""


@pytest.fixture
def slow(seaweed, bucket, tmp_path):
    """A server whose answers with content come slowly."""
    with FaultProxy(seaweed.address) as proxy:
        bench = Bench(seaweed, bucket, tmp_path).through(proxy.url)
        bench.put("in.tar", tar({"file": os.urandom(2_000_000)}))
        proxy.add(Fault(match=r"^GET .*in\.tar", down_bytes_per_second=SLOW, times=99))
        yield bench


def test_a_block_that_takes_too_long():
    """The work is stopped, with an error that is a TimeoutError too and fits no interrupt; children hear of it."""
    cancel = Cancel()
    with cancel.child() as child, cancel.within(0.01), pytest.raises(DeadlineExceeded) as raised:
        child.wait(60)
    assert str(raised.value) == "the deadline of 0.01 s is over"
    assert isinstance(raised.value, TimeoutError)
    assert isinstance(raised.value, Cancelled)
    assert exit_code(raised.value) == 8


def test_a_block_that_ends_in_time():
    """Nothing is stopped afterwards, and no thread is left."""
    cancel, before = Cancel(), threading.active_count()
    with cancel.within(3600):
        assert threading.active_count() == before + 1
    cancel.check()
    assert not any(
        isinstance(thread, threading.Timer) and thread.is_alive() and not thread.finished.is_set()
        for thread in threading.enumerate()
    )


def test_a_stop_before_the_deadline_stays_what_it_is():
    """Who stopped first is told."""
    cancel = Cancel()
    cancel.cancel("stopped by SIGINT")
    with cancel.within(0.001), pytest.raises(Cancelled) as raised:
        cancel.wait(60)
    assert type(raised.value) is Cancelled


def test_staging(slow):
    """The label is skipped and not there; exit 8."""
    request = slow.request({"data": slow.artifact("in.tar")})
    result = slow.stage(request, "--deadline", "1", "--json")
    assert (result.code, result.statuses) == (8, {"data": "skipped"})
    assert result.said == ["error: the deadline of 1 s is over"]
    assert labels(slow.job) == []
    assert result.summary["exit"] == 8


def test_getting_and_putting(slow, tmp_path):
    """No file, no partial one, no object and no parts of one stay."""
    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps(credentials(slow.server.admin)))
    into = tmp_path / "into"
    into.mkdir()
    result = run("get", slow.place("in.tar"), into, "--credentials", keys, "--endpoint", slow.url, "--deadline", "1s")
    assert (result.code, list(into.iterdir())) == (8, [])
    large = tmp_path / "large"
    large.write_bytes(bytes(20 << 20))
    arguments = ("--credentials", keys, "--endpoint", slow.url, "--deadline", "3", "--max-rate", "3MiB")
    result = run("put", large, slow.place("out"), *arguments)
    assert result.code == 8, result.err
    assert slow.keys() == ["in.tar"]
    assert slow.client.list_multipart_uploads(Bucket=slow.bucket).get("Uploads", []) == []


def test_waiting_for_input(slow, tmp_path):
    """A put that waits for its standard input is stopped too."""
    process = start("put", "-", f"file://{tmp_path}/out", "--anonymous", "--deadline", "1", stdin=-1)
    process.wait(30)
    assert finish(process).code == 8
    assert not (tmp_path / "out").exists()


def test_a_command_is_ended_and_its_results_are_uploaded(seaweed, bucket, tmp_path):
    """run: 124, and what the command had made by then is stored."""
    bench = Bench(seaweed, bucket, tmp_path)
    bench.put("in.tar", tar({"file": b"input"}))
    request = bench.request({"workspace": bench.artifact("in.tar"), "out": bench.artifact("out.tar", mutable=True)})
    result = bench.run(
        request, "sh", "-c", "echo made > ../out/result; exec sleep 60", flags=("--deadline", "2", "--json")
    )
    assert (result.code, result.summary["command_exit"]) == (124, 124)
    assert result.receipts["out"]["op"] == "upload"
    assert b"made" in bench.read("out.tar")


def test_a_command_is_not_begun_when_the_deadline_is_over(slow):
    """run: the deadline of a staging that is too slow is that of stage: 8, and no command."""
    request = slow.request({"data": slow.artifact("in.tar")})
    result = slow.run(request, "sh", "-c", "touch began", flags=("--deadline", "1", "--json"))
    assert (result.code, result.summary["command_exit"], labels(slow.job)) == (8, None, [])


def test_an_upload_that_takes_too_long(slow):
    """upload: what was not sent is owed, and the next one sends it."""
    request = slow.request({"out": slow.artifact("out.bin", mutable=True, unpack=False)})
    assert slow.stage(request).code == 0
    fill(slow.job / "out", {"out.bin": bytes(20 << 20)})
    result = slow.upload(request, "--deadline", "2", "--max-rate", "3MiB", "--json")
    assert (result.code, result.statuses) == (8, {"out": "owed"})
    assert slow.keys() == ["in.tar"]
    assert slow.upload(request).code == 0
    assert slow.keys() == ["in.tar", "out.bin"]


@pytest.mark.parametrize("wrong", ["0", "-1", "soon", "1x", "nan", "99999999999999h", ""])
def test_deadlines_that_are_none(wrong, tmp_path):
    """They are usage errors."""
    refused = run("get", f"file://{tmp_path}/k", tmp_path, "--anonymous", "--deadline", wrong)
    assert (refused.code, "expected seconds, or a duration" in refused.err) == (2, True)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90.0), ("90s", 90.0), ("1.5", 1.5), ("10m", 600.0), ("1h30m", 5400.0)]
)
def test_how_deadlines_are_written(text, seconds):
    """Seconds, or Go's form."""
    from artifacts.cli.options import _Duration

    assert _Duration().convert(text, None, None) == seconds
