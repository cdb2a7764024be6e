"""Uploads of one file that another process goes on with, on a real server."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import threading
from dataclasses import replace

import pytest
from commands import Bench, credentials, finish, run, start

import artifacts
from artifacts import Access
from creds.errors import NotSupported, ObjectChanged, StoreUnavailable
from creds.models import AWSCredential, Credentials
from creds.store import Cancel, Rate, Retries, StoreOptions
from creds.testing import Fault, FaultProxy

PART = 8 << 20
PARTS = 6
BROKEN = 5
"""The part at which a first try ends: with four at once, one was remembered before it is sent."""
PUT_PART = r"PUT .*partNumber="


@pytest.fixture
def proxy(seaweed):
    with FaultProxy(seaweed.address) as proxy:
        yield proxy


@pytest.fixture
def bench(seaweed, bucket, tmp_path, proxy):
    (tmp_path / "keys.json").write_text(json.dumps(credentials(seaweed.admin)))
    return Bench(seaweed, bucket, tmp_path, proxy.url)


@pytest.fixture
def access(seaweed):
    keys = AWSCredential(access_key=seaweed.admin.access_key, secret_access_key=seaweed.admin.secret_key)
    options = StoreOptions(retries=Retries(attempts=1))
    return Access(credentials=Credentials(aws=keys), options=options)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "large.bin"
    path.write_bytes(os.urandom(PART * (PARTS - 1) + 12_345))
    return path


def unfinished(bench):
    return bench.client.list_multipart_uploads(Bucket=bench.bucket).get("Uploads", [])


def broken(bench, proxy, file, access, journals):
    """A try that fails at one part, which the server cannot take; returns how many parts it remembered."""
    proxy.add(Fault(match=rf"{PUT_PART}{BROKEN}\b", status=503))
    with pytest.raises(StoreUnavailable):
        artifacts.put(file, bench.place("large.bin"), resume=journals, access=access)
    return remembered(journals)


def remembered(journals):
    (journal,) = journals.glob("*.json")
    return len(journal.read_bytes().splitlines()) - 1


def again(bench, proxy, file, access, journals, **more):
    """The next try; returns its receipt, and how many parts it sent."""
    before = proxy.count(PUT_PART)
    receipt = artifacts.put(file, bench.place("large.bin"), resume=journals, access=access, **more)
    return receipt, proxy.count(PUT_PART) - before


def check_whole(bench, file, receipt, journals):
    """The object is the file, and nothing is left, there or here."""
    content = file.read_bytes()
    assert bench.read("large.bin") == content
    assert receipt.sha256 == hashlib.sha256(content).hexdigest()
    assert receipt.object_bytes == len(content)
    assert unfinished(bench) == []
    assert list(journals.iterdir()) == []


def test_a_killed_put_goes_on_in_the_next(bench, proxy, file, tmp_path):
    """SIGKILL in the middle: the second run sends only what the first had not, and nothing is left of either."""
    flags = ("--resume", "--credentials", tmp_path / "keys.json", "--endpoint", bench.url, "--json")
    reached, go_on = threading.Event(), threading.Event()
    proxy.add(Fault(match=rf"{PUT_PART}{BROKEN}\b", hook=lambda: (reached.set(), go_on.wait(60))))
    first = start("put", file, bench.place("large.bin"), *flags)
    assert reached.wait(60)
    first.kill()
    go_on.set()
    assert finish(first).code == -signal.SIGKILL
    journals = tmp_path.joinpath(os.environ["HOME"], ".local/state/artifacts/uploads")
    known = remembered(journals)
    assert 1 <= known < PARTS
    assert len(unfinished(bench)) == 1
    sent = proxy.count(PUT_PART)
    second = run("put", file, bench.place("large.bin"), *flags)
    assert (second.code, second.receipts["large.bin"]["status"]) == (0, "done"), second.err
    assert proxy.count(PUT_PART) - sent == PARTS - known
    assert second.receipts["large.bin"]["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert bench.read("large.bin") == file.read_bytes()
    assert unfinished(bench) == []
    assert list(journals.iterdir()) == []
    assert journals.stat().st_mode & 0o777 == 0o700


def test_an_artifact_of_one_file_goes_on_after_a_death(bench, proxy, tmp_path):
    """With nothing asked for: its journal is in the staging folder. A failure in order leaves nothing, as ever."""
    bench.put("model.bin", b"first")
    request = bench.request({"model": bench.artifact("model.bin", mutable=True, unpack=False)})
    assert bench.stage(request).code == 0
    content = os.urandom(PART * (PARTS - 1) + 12_345)
    (bench.job / "model" / "model.bin").write_bytes(content)
    proxy.add(Fault(match=rf"{PUT_PART}{BROKEN}\b", status=403, body=b"<Error><Code>AccessDenied</Code></Error>"))
    assert bench.upload(request).code == 5
    assert unfinished(bench) == []
    assert list(bench.job.joinpath(".artifacts", "uploads").iterdir()) == []
    reached, go_on = threading.Event(), threading.Event()
    proxy.add(Fault(match=rf"{PUT_PART}{BROKEN}\b", hook=lambda: (reached.set(), go_on.wait(60))))
    first = start("upload", request, "--from", bench.job, "--endpoint", bench.url)
    assert reached.wait(60)
    first.kill()
    go_on.set()
    assert finish(first).code == -signal.SIGKILL
    known = remembered(bench.job / ".artifacts" / "uploads")
    sent = proxy.count(PUT_PART)
    second = bench.upload(request, "--json")
    assert (second.code, second.statuses) == (0, {"model": "done"}), second.err
    assert proxy.count(PUT_PART) - sent == PARTS - known < PARTS
    assert second.receipts["model"]["sha256"] == hashlib.sha256(content).hexdigest()
    assert bench.read("model.bin") == content
    assert unfinished(bench) == []
    assert list(bench.job.joinpath(".artifacts", "uploads").iterdir()) == []


def test_a_failed_try_keeps_its_parts_and_only_with_a_journal(bench, proxy, file, access, tmp_path):
    """Without one the upload is aborted, as ever."""
    known = broken(bench, proxy, file, access, tmp_path / "journals")
    assert len(unfinished(bench)) == 1
    receipt, sent = again(bench, proxy, file, access, tmp_path / "journals")
    assert sent == PARTS - known
    check_whole(bench, file, receipt, tmp_path / "journals")
    proxy.add(Fault(match=rf"{PUT_PART}{BROKEN}\b", status=503))
    with pytest.raises(StoreUnavailable):
        artifacts.put(file, bench.place("large.bin"), access=access)
    assert unfinished(bench) == []


def test_a_cancelled_try_keeps_its_parts(bench, proxy, file, access, tmp_path):
    """Who stops it may go on later."""
    cancel = Cancel()
    proxy.add(Fault(match=rf"{PUT_PART}{BROKEN}\b", hook=lambda: cancel.cancel("stop"), delay_seconds=5))
    with pytest.raises(artifacts.ToolkitError, match="stop"):
        artifacts.put(file, bench.place("large.bin"), resume=tmp_path / "j", access=access, cancel=cancel)
    known = remembered(tmp_path / "j")
    receipt, sent = again(bench, proxy, file, access, tmp_path / "j")
    assert sent == PARTS - known < PARTS
    check_whole(bench, file, receipt, tmp_path / "j")


def test_a_changed_file_starts_over(bench, proxy, file, access, tmp_path):
    """No object is made of two files: all parts are sent, and the old upload is aborted."""
    broken(bench, proxy, file, access, tmp_path / "j")
    with file.open("r+b") as changed:
        changed.write(b"changed!")
    receipt, sent = again(bench, proxy, file, access, tmp_path / "j")
    assert sent == PARTS
    check_whole(bench, file, receipt, tmp_path / "j")


def test_an_upload_that_is_gone_starts_over(bench, proxy, file, access, tmp_path):
    broken(bench, proxy, file, access, tmp_path / "j")
    assert [upload.status for upload in artifacts.gc(bench.place(""), older_than_seconds=0, access=access)] == [
        "aborted"
    ]
    receipt, sent = again(bench, proxy, file, access, tmp_path / "j")
    assert sent == PARTS
    check_whole(bench, file, receipt, tmp_path / "j")


def test_a_part_that_the_server_has_otherwise_is_sent_again(bench, proxy, file, access, tmp_path):
    """The server's list counts, not the journal alone."""
    known = broken(bench, proxy, file, access, tmp_path / "j")
    (upload,) = unfinished(bench)
    (journal,) = (tmp_path / "j").glob("*.json")
    number = json.loads(journal.read_text().splitlines()[1])["PartNumber"]
    target = {"Bucket": bench.bucket, "Key": "large.bin", "UploadId": upload["UploadId"]}
    bench.client.upload_part(**target, PartNumber=number, Body=b"other" * 2_000_000)
    receipt, sent = again(bench, proxy, file, access, tmp_path / "j")
    assert sent == PARTS - known + 1
    check_whole(bench, file, receipt, tmp_path / "j")


@pytest.mark.parametrize("content", [b"", b"{}\n", b"no json\n", b'{"key":"large.bin"}\n[1]\n', b"\xff\n"])
def test_a_journal_that_is_none_counts_for_nothing(bench, proxy, file, access, tmp_path, content):
    broken(bench, proxy, file, access, tmp_path / "j")
    (journal,) = (tmp_path / "j").glob("*.json")
    journal.write_bytes(content)
    _, sent = again(bench, proxy, file, access, tmp_path / "j")
    assert sent == PARTS
    assert bench.read("large.bin") == file.read_bytes()


def test_a_last_line_that_was_cut_short_is_sent_again(bench, proxy, file, access, tmp_path):
    known = broken(bench, proxy, file, access, tmp_path / "j")
    (journal,) = (tmp_path / "j").glob("*.json")
    journal.write_bytes(journal.read_bytes()[:-9])
    receipt, sent = again(bench, proxy, file, access, tmp_path / "j")
    assert sent == PARTS - known + 1
    check_whole(bench, file, receipt, tmp_path / "j")


def test_the_condition_holds_for_what_goes_on(bench, proxy, file, access, tmp_path):
    """Another object came meanwhile: it stays, and the upload is given up."""
    proxy.add(Fault(match=rf"{PUT_PART}{BROKEN}\b", status=503))
    with pytest.raises(StoreUnavailable):
        artifacts.put(file, bench.place("large.bin"), resume=tmp_path / "j", if_absent=True, access=access)
    bench.put("large.bin", b"another's")
    with pytest.raises(ObjectChanged):
        again(bench, proxy, file, access, tmp_path / "j", if_absent=True)
    assert bench.read("large.bin") == b"another's"
    assert unfinished(bench) == []
    assert list((tmp_path / "j").iterdir()) == []


def test_a_file_that_changes_while_it_is_sent_is_not_published(bench, proxy, file, access, tmp_path):
    """No object is made of two files. One that nobody goes on with is sent as it is read, as ever."""
    broken(bench, proxy, file, access, tmp_path / "j")
    proxy.add(Fault(match="GET .*uploadId=", hook=lambda: os.utime(file)))
    with pytest.raises(artifacts.DiskError, match="was changed while it was sent") as caught:
        again(bench, proxy, file, access, tmp_path / "j")
    assert caught.value.retryable
    assert (bench.keys(), unfinished(bench)) == ([], [])
    proxy.add(Fault(match=rf"{PUT_PART}2\b", hook=lambda: os.utime(file)))
    receipt, sent = again(bench, proxy, file, access, tmp_path / "j")
    assert sent == PARTS
    check_whole(bench, file, receipt, tmp_path / "j")


def test_two_at_once_are_refused(bench, proxy, file, access, tmp_path):
    errors = []

    def second():
        try:
            again(bench, proxy, file, access, tmp_path / "j")
        except artifacts.ToolkitError as error:
            errors.append(type(error))

    proxy.add(Fault(match=rf"{PUT_PART}2\b", hook=second))
    receipt, _ = again(bench, proxy, file, access, tmp_path / "j")
    assert errors == [artifacts.FolderInUse]
    check_whole(bench, file, receipt, tmp_path / "j")


def test_a_paced_store_goes_on_as_any_other(bench, proxy, file, access, tmp_path):
    known = broken(bench, proxy, file, access, tmp_path / "j")
    paced = replace(access, options=replace(access.options, rate=Rate(10**10)))
    receipt, sent = again(bench, proxy, file, paced, tmp_path / "j")
    assert sent == PARTS - known
    check_whole(bench, file, receipt, tmp_path / "j")


def test_small_files_are_sent_at_once(bench, access, tmp_path):
    """They have no parts, and no journal."""
    (tmp_path / "small").write_bytes(b"small")
    assert artifacts.put(tmp_path / "small", bench.place("s"), resume=tmp_path / "j", access=access).status == "done"
    assert bench.read("s") == b"small"
    assert list((tmp_path / "j").iterdir()) == []


def test_what_cannot_be_resumed_is_told(bench, access, tmp_path):
    """A folder, a stream, and a server that is no S3."""
    (tmp_path / "small").write_bytes(b"small")
    with pytest.raises(NotSupported, match="only uploads to S3"):
        artifacts.put(tmp_path / "small", (tmp_path / "to").as_uri(), resume=tmp_path / "j")
    with pytest.raises(artifacts.RequestError, match="no folder and no stream"):
        artifacts.put(tmp_path, bench.place("x.tar"), resume=tmp_path / "j", access=access)
    with (
        (tmp_path / "small").open("rb") as stream,
        pytest.raises(artifacts.RequestError, match="no folder and no stream"),
    ):
        artifacts.put(stream, bench.place("x"), resume=tmp_path / "j", access=access)
    for path, url in ((".", bench.place("x.tar")), ("-", bench.place("x")), (tmp_path / "small", bench.place("x/"))):
        told = run("put", path, url, "--resume")
        assert (told.code, "--resume goes with one file" in told.err) == (2, True)
