"""StagingDir on a store in memory: every row of the module's table, failures, and what a crash leaves."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from artifacts import Artifact, Config, Experiment, Request, Resource, StagingDir
from artifacts.errors import (
    DiskError,
    FolderError,
    FolderInUse,
    IntegrityError,
    LimitExceeded,
    RequestError,
    StagingError,
    UnsupportedArchive,
)
from artifacts.events import Failed, Passed, Progress, Published, Started, Verified
from artifacts.limits import Limits
from artifacts.state import Record, State
from creds import AWSCredential, Cancel, Credentials
from creds.errors import (
    AccessDenied,
    Cancelled,
    LocationError,
    ObjectChanged,
    ObjectNotFound,
    PolicyError,
    StoreUnavailable,
)
from creds.testing import MemoryStore

KEYS = Credentials(aws=AWSCredential(access_key="AKTEST", secret_access_key="planted-secret"))


def tar(files: dict[str, bytes], mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            member.mtime = 1_700_000_000
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def artifact(key: str, *, mutable: bool = False, unpack: bool = True, **values: object) -> Artifact:
    return Artifact(
        bucket="b", key=key, qualified=f"s3://b/{key}", mutable=mutable, unpack=unpack, credentials=KEYS, **values
    )


def request(_hdd: str = "", **artifacts: Artifact) -> Request:
    return Request(
        config=Config(env={}),
        experiment=Experiment(key="exp", artifacts=artifacts, resources_needed=Resource(hdd=_hdd)),
    )


class Stage:
    """A staging folder on a store in memory, with the events it emitted."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.store = MemoryStore()
        self.events: list[object] = []

    def dir(self, **options: object) -> StagingDir:
        return StagingDir(
            self.root,
            open=lambda *_: self.store,
            on_event=self.events.append,
            **options,
        )

    def put(self, key: str, content: bytes) -> None:
        self.store.write(key, [content])

    def get(self, key: str) -> bytes:
        with self.store.open(key) as reading:
            return b"".join(reading)

    def labels(self) -> list[str]:
        return sorted(path.name for path in self.root.iterdir())


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path / "job")


def statuses(receipts: object) -> dict[str, str]:
    return {receipt.label: receipt.status for receipt in receipts}


def test_labels_become_folders(stage):
    """Archives are unpacked, plain objects keep their key's last segment, a missing mutable one is empty."""
    stage.put("ws.tar.gz", tar({"train.py": b"print()", "sub/x": b"1"}, "w:gz"))
    stage.put("deep/data.bin", b"\0\1\2")
    receipts = stage.dir().stage(
        request(
            workspace=artifact("ws.tar.gz"),
            data=artifact("deep/data.bin", unpack=False),
            output=artifact("out.tar", mutable=True),
        )
    )
    assert statuses(receipts) == {"workspace": "done", "data": "done", "output": "empty"}
    assert tree(stage.root / "workspace") == {"train.py": b"print()", "sub/x": b"1"}
    assert tree(stage.root / "data") == {"data.bin": b"\0\1\2"}
    assert list((stage.root / "output").iterdir()) == []
    assert stage.labels() == [".artifacts", "data", "output", "workspace"]


def test_state_is_private_and_holds_no_secret(stage):
    """state.json is readable by its owner only, and no file of the folder holds the secret key."""
    stage.put("ws.tar", tar({"a": b"1"}))
    stage.dir().stage(request(workspace=artifact("ws.tar")))
    path = stage.root / ".artifacts" / "state.json"
    assert path.stat().st_mode & 0o777 == 0o600
    state = json.loads(path.read_bytes())
    assert state["labels"]["workspace"]["location"] == "s3://b/ws.tar"
    for file in (stage.root / ".artifacts").iterdir():
        assert b"planted-secret" not in file.read_bytes()


def test_staged_again_nothing_moves(stage):
    """What is unchanged here and there is not fetched again, in another process's StagingDir too."""
    stage.put("ws.tar", tar({"a": b"1"}))
    wanted = request(workspace=artifact("ws.tar"), out=artifact("out.tar", mutable=True))
    stage.dir().stage(wanted)
    inode = (stage.root / "workspace" / "a").stat().st_ino
    stage.events.clear()
    assert statuses(stage.dir().stage(wanted)) == {"workspace": "unchanged", "out": "empty"}
    assert (stage.root / "workspace" / "a").stat().st_ino == inode
    assert not [event for event in stage.events if isinstance(event, Started)]


def test_replaced_object_replaces_the_folder(stage):
    """An unchanged folder whose object changed is fetched again, immutable and mutable alike."""
    for key in ("ws.tar", "m.tar"):
        stage.put(key, tar({"a": b"1", "gone": b"x"}))
    wanted = request(workspace=artifact("ws.tar"), model=artifact("m.tar", mutable=True))
    stage.dir().stage(wanted)
    for key in ("ws.tar", "m.tar"):
        stage.put(key, tar({"a": b"2"}))
    assert statuses(stage.dir().stage(wanted)) == {"workspace": "done", "model": "done"}
    assert tree(stage.root / "workspace") == tree(stage.root / "model") == {"a": b"2"}


def test_changed_mutable_is_kept_until_fresh(stage):
    """Local work is never overwritten; --fresh replaces it."""
    stage.put("m.tar", tar({"a": b"1"}))
    wanted = request(model=artifact("m.tar", mutable=True))
    stage.dir().stage(wanted)
    (stage.root / "model" / "a").write_bytes(b"work")
    stage.put("m.tar", tar({"a": b"2"}))
    assert statuses(stage.dir().stage(wanted)) == {"model": "kept"}
    assert tree(stage.root / "model") == {"a": b"work"}
    assert statuses(stage.dir().stage(wanted, fresh=True)) == {"model": "done"}
    assert tree(stage.root / "model") == {"a": b"2"}


def test_edit_of_same_size_and_time_is_seen(stage):
    """An edit in place that keeps size and modification time is uploaded all the same."""
    stage.put("m.tar", tar({"a": b"1"}))
    wanted = request(model=artifact("m.tar", mutable=True))
    stage.dir().stage(wanted)
    path = stage.root / "model" / "a"
    before = path.stat()
    path.write_bytes(b"2")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert statuses(stage.dir().upload(wanted)) == {"model": "done"}


def test_changed_immutable_is_restored(stage):
    """An input is what its location says: local changes are replaced, with a warning."""
    stage.put("ws.tar", tar({"a": b"1"}))
    wanted = request(workspace=artifact("ws.tar"))
    stage.dir().stage(wanted)
    (stage.root / "workspace" / "a").write_bytes(b"tampered")
    (receipt,) = stage.dir().stage(wanted)
    assert receipt.status == "done"
    assert receipt.warnings == ({"code": "local-changes-replaced", "path": "workspace"},)
    assert tree(stage.root / "workspace") == {"a": b"1"}


def test_missing_immutable_fails_and_leaves_nothing(stage):
    """A missing input is ObjectNotFound; a later call skips what was finished."""
    stage.put("ws.tar", tar({"a": b"1"}))
    wanted = request(workspace=artifact("ws.tar"), data=artifact("none.tar"))
    with pytest.raises(StagingError) as caught:
        stage.dir(parallel=1).stage(wanted)
    assert isinstance(caught.value.failures["data"], ObjectNotFound)
    assert not caught.value.retryable
    assert stage.labels() == [".artifacts", "workspace"]
    stage.put("none.tar", tar({"d": b""}))
    assert statuses(stage.dir().stage(wanted)) == {"workspace": "unchanged", "data": "done"}


def test_first_failure_cancels_the_rest(stage):
    """What had not begun when another artifact failed is skipped, and says so in its receipt."""
    stage.put("b.tar", tar({"x": b""}))
    with pytest.raises(StagingError) as caught:
        stage.dir(parallel=1).stage(request(a=artifact("none.tar"), b=artifact("b.tar")))
    assert statuses(caught.value.receipts) == {"a": "failed", "b": "skipped"}
    assert stage.labels() == [".artifacts"]


class Denying(MemoryStore):
    """S3 without ListBucket: a missing key is 403."""

    def open(self, key, **options):
        try:
            return super().open(key, **options)
        except ObjectNotFound as error:
            raise AccessDenied(f"open {key}: 403", op="open", http_status=403) from error


def test_403_on_a_mutable_artifact_names_start_empty(stage):
    """Where a 403 may hide a missing key the error says so; --start-empty begins empty and uploads on condition."""
    stage.store = Denying()
    wanted = request(model=artifact("m.tar", mutable=True))
    with pytest.raises(StagingError) as caught:
        stage.dir().stage(wanted)
    assert "--start-empty model" in caught.value.failures["model"].hint
    assert statuses(stage.dir().stage(wanted, start_empty=["model"])) == {"model": "empty"}
    (stage.root / "model" / "a").write_bytes(b"mine")
    stage.put("m.tar", tar({"a": b"somebody else's"}))
    with pytest.raises(StagingError) as caught:
        stage.dir().upload(wanted)
    assert isinstance(caught.value.failures["model"], ObjectChanged)


def test_403_on_an_immutable_artifact_stands(stage):
    """start_empty does not make an input empty."""
    stage.store = Denying()
    with pytest.raises(StagingError) as caught:
        stage.dir().stage(request(data=artifact("m.tar")), start_empty=["data"])
    assert isinstance(caught.value.failures["data"], AccessDenied)


def test_upload_sends_what_changed(stage):
    """Only changed mutable artifacts are sent; what was sent is unchanged afterwards, here and there."""
    stage.put("m.tar.gz", tar({"a": b"1"}, "w:gz"))
    stage.put("s.tar", tar({"a": b"1"}))
    stage.put("ws.tar", tar({"a": b"1"}))
    wanted = request(
        model=artifact("m.tar.gz", mutable=True),
        same=artifact("s.tar", mutable=True),
        workspace=artifact("ws.tar"),
        output=artifact("o.tar", mutable=True),
        idle=artifact("i.tar", mutable=True),
    )
    stage.dir().stage(wanted)
    (stage.root / "model" / "b").write_bytes(b"new")
    (stage.root / "workspace" / "b").write_bytes(b"not returned")
    (stage.root / "output" / "log").write_bytes(b"line\n")
    receipts = stage.dir().upload(wanted)
    assert statuses(receipts) == {"idle": "empty", "model": "done", "output": "done", "same": "unchanged"}
    with tarfile.open(fileobj=io.BytesIO(stage.get("m.tar.gz")), mode="r:gz") as archive:
        assert archive.getnames() == ["a", "b"]
    with tarfile.open(fileobj=io.BytesIO(stage.get("o.tar")), mode="r:") as archive:
        assert archive.getnames() == ["log"]
    done = {receipt.label: receipt for receipt in receipts}["model"]
    assert len(done.sha256) == 64
    assert done.conditional == "enforced"
    assert statuses(stage.dir().upload(wanted)) == {
        "idle": "empty",
        "model": "unchanged",
        "output": "unchanged",
        "same": "unchanged",
    }
    assert statuses(stage.dir().stage(wanted))["model"] == "unchanged"


def test_upload_does_not_replace_what_somebody_else_wrote(stage):
    """The object that was staged is the one that is replaced, or it is ObjectChanged."""
    stage.put("m.tar", tar({"a": b"1"}))
    wanted = request(model=artifact("m.tar", mutable=True))
    stage.dir().stage(wanted)
    (stage.root / "model" / "a").write_bytes(b"mine")
    stage.put("m.tar", tar({"a": b"theirs"}))
    with pytest.raises(StagingError) as caught:
        stage.dir().upload(wanted)
    assert isinstance(caught.value.failures["model"], ObjectChanged)
    assert tree(stage.root / "model") == {"a": b"mine"}
    assert b"theirs" in stage.get("m.tar")


def test_a_death_between_upload_and_state_is_no_conflict(stage, monkeypatch):
    """When the object there is what would be sent, byte for byte, the upload is done: it was ours."""
    stage.put("m.tar.gz", tar({"a": b"1"}, "w:gz"))
    wanted = request(m=artifact("m.tar.gz", mutable=True), o=artifact("o.tar", mutable=True))
    stage.dir().stage(wanted)
    for label in ("m", "o"):
        (stage.root / label / "a").write_bytes(b"work")
    with monkeypatch.context() as patched:
        patched.setattr(State, "put", lambda *_: None)
        stage.dir().upload(wanted)
    receipts = stage.dir().upload(wanted)
    assert statuses(receipts) == {"m": "done", "o": "done"}
    assert statuses(stage.dir().upload(wanted)) == {"m": "unchanged", "o": "unchanged"}


def test_single_files_go_back_as_they_came(stage):
    """A plain object is sent as it is, a compressed single file is compressed again, not packed."""
    stage.put("plain.bin", b"one")
    stage.put("table.csv.gz", subprocess.run(["gzip", "-c"], input=b"x,y\n", capture_output=True, check=True).stdout)
    wanted = request(
        plain=artifact("plain.bin", mutable=True, unpack=False), table=artifact("table.csv.gz", mutable=True)
    )
    stage.dir().stage(wanted)
    assert tree(stage.root / "table") == {"table.csv": b"x,y\n"}
    (stage.root / "plain" / "plain.bin").write_bytes(b"two")
    (stage.root / "table" / "table.csv").write_bytes(b"x,y\n1,2\n")
    assert statuses(stage.dir().upload(wanted)) == {"plain": "done", "table": "done"}
    assert stage.get("plain.bin") == b"two"
    unzipped = subprocess.run(["gzip", "-dc"], input=stage.get("table.csv.gz"), capture_output=True, check=True)
    assert unzipped.stdout == b"x,y\n1,2\n"


def test_a_vanished_single_file_is_no_upload(stage):
    """A job that removed the one file of its artifact is told; the object stays."""
    stage.put("plain.bin", b"one")
    wanted = request(plain=artifact("plain.bin", mutable=True, unpack=False))
    stage.dir().stage(wanted)
    (stage.root / "plain" / "plain.bin").unlink()
    with pytest.raises(StagingError) as caught:
        stage.dir().upload(wanted)
    assert isinstance(caught.value.failures["plain"], FolderError)
    assert stage.get("plain.bin") == b"one"


def test_links_are_stored_and_fifos_named(stage):
    """A link is stored as a link, also one to a secret outside; a FIFO is skipped and named in the receipt."""
    wanted = request(out=artifact("o.tar", mutable=True))
    stage.dir().stage(wanted)
    (stage.root / "out" / "link").symlink_to("/etc/hostname")
    os.mkfifo(stage.root / "out" / "pipe")
    (receipt,) = stage.dir().upload(wanted)
    assert {"code": "not-stored", "path": "out/pipe"} in receipt.warnings
    with tarfile.open(fileobj=io.BytesIO(stage.get("o.tar"))) as archive:
        (member,) = archive.getmembers()
    assert (member.name, member.type, member.linkname) == ("link", tarfile.SYMTYPE, "/etc/hostname")


def test_a_label_that_became_a_link_is_refused(stage, tmp_path):
    """A job cannot have another folder uploaded by leaving a link in the place of its own."""
    wanted = request(out=artifact("o.tar", mutable=True))
    stage.dir().stage(wanted)
    (stage.root / "out").rmdir()
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key").write_text("x")
    (stage.root / "out").symlink_to(secret)
    with pytest.raises(StagingError) as caught:
        stage.dir().upload(wanted)
    assert isinstance(caught.value.failures["out"], FolderError)
    with pytest.raises(ObjectNotFound):
        stage.get("o.tar")


@pytest.mark.parametrize("label", ["", ".", "..", "../x", "a/b", ".hidden", "a\0b", "a\nb", "x" * 201])
def test_bad_labels_are_refused_before_anything(stage, label):
    """Each label that is no plain folder name is a RequestError, and the folder is not even made."""
    wanted = request()
    wanted.experiment.artifacts = {label: artifact("k.tar")}
    with pytest.raises(RequestError, match="experiment.artifacts."):
        stage.dir().stage(wanted)
    assert not stage.root.exists()


def test_no_location(stage):
    """A mutable artifact without a location is an empty folder; an immutable one is an error."""
    assert statuses(stage.dir().stage(request(out=Artifact(mutable=True)))) == {"out": "empty"}
    assert statuses(stage.dir().upload(request(out=Artifact(mutable=True)))) == {"out": "skipped"}
    with pytest.raises(StagingError) as caught:
        stage.dir().stage(request(data=Artifact()))
    assert isinstance(caught.value.failures["data"], LocationError)


def test_a_request_without_artifacts(stage):
    """Nothing to do is no error."""
    assert stage.dir().stage(request()) == ()
    assert stage.dir().upload(Request()) == ()


def test_two_mutable_artifacts_with_one_location(stage):
    """They would overwrite each other; two inputs with one location are fine."""
    stage.put("k.tar", tar({"a": b"1"}))
    with pytest.raises(RequestError, match="another mutable artifact has the location s3://b/k.tar"):
        stage.dir().stage(request(a=artifact("k.tar", mutable=True), b=artifact("k.tar", mutable=True)))
    assert statuses(stage.dir().stage(request(a=artifact("k.tar"), b=artifact("k.tar")))) == {"a": "done", "b": "done"}


def test_policy_refuses_before_anything_moves(stage):
    """An endpoint nobody named is refused, names the flag, and nothing of the request is fetched."""
    stage.put("k.tar", tar({"a": b"1"}))
    bad = Artifact(qualified="s3://minio.ml.svc:9000/b/k.tar", credentials=KEYS)
    with pytest.raises(StagingError) as caught:
        stage.dir().stage(request(good=artifact("k.tar"), bad=bad))
    assert isinstance(caught.value.failures["bad"], PolicyError)
    assert "--endpoint" in caught.value.failures["bad"].hint
    assert statuses(caught.value.receipts) == {"bad": "failed", "good": "skipped"}
    assert not stage.root.exists()


def test_hash_is_enforced(stage):
    """A sha256 or md5 in the request is what the object must be; anything else is a warning."""
    content = tar({"a": b"1"})
    stage.put("k.tar", content)
    import hashlib

    good = hashlib.sha256(content).hexdigest()
    (receipt,) = stage.dir().stage(request(a=artifact("k.tar", hash=good)))
    assert (receipt.verified, receipt.sha256) == ("sha256", good)
    assert Verified(op="fetch", label="a", by="sha256") in stage.events
    (receipt,) = stage.dir().stage(request(b=artifact("k.tar", hash="v1:abc")))
    assert receipt.warnings == ({"code": "unverifiable-hash", "path": "b"},)
    with pytest.raises(StagingError) as caught:
        stage.dir().stage(request(c=artifact("k.tar", hash="0" * 32)))
    assert isinstance(caught.value.failures["c"], IntegrityError)
    assert stage.labels() == [".artifacts", "a", "b"]


def test_hdd_is_a_budget_of_all_artifacts(stage):
    """resources_needed.hdd bounds the unpacked bytes of all artifacts together; nothing is cut to fit."""
    stage.put("a.tar", tar({"x": bytes(600)}))
    stage.put("b.tar", tar({"x": bytes(600)}))
    both = {"a": artifact("a.tar"), "b": artifact("b.tar")}
    with pytest.raises(StagingError) as caught:
        stage.dir(parallel=1).stage(request(_hdd="1kb", **both))
    error = caught.value.failures["b"]
    assert isinstance(error, LimitExceeded)
    assert (error.limit, error.allowed) == ("resources_needed.hdd", 1000)
    assert stage.labels() == [".artifacts", "a"]
    assert statuses(stage.dir().stage(request(_hdd="2kb", **both))) == {"a": "unchanged", "b": "done"}


def test_max_artifacts(stage):
    """More artifacts than allowed are refused."""
    with pytest.raises(LimitExceeded, match="max_artifacts"):
        stage.dir(limits=Limits(max_artifacts=1)).stage(request(a=artifact("a"), b=artifact("b")))


def test_no_archive_is_said(stage):
    """unpack on what is no archive names what it is."""
    stage.put("k.tar", b"hello world, this is no archive at all" * 20)
    with pytest.raises(StagingError) as caught:
        stage.dir().stage(request(a=artifact("k.tar")))
    assert isinstance(caught.value.failures["a"], UnsupportedArchive)
    assert stage.labels() == [".artifacts"]


def test_mutable_zip_is_refused_at_once(stage):
    """What could not be stored at the end is refused at the beginning."""
    with pytest.raises(StagingError) as caught:
        stage.dir().stage(request(a=artifact("k.zip", mutable=True)))
    assert isinstance(caught.value.failures["a"], UnsupportedArchive)


def test_foreign_folder_is_refused(stage):
    """A folder with somebody else's files is not touched."""
    stage.root.mkdir()
    (stage.root / "thesis.txt").write_text("mine")
    with pytest.raises(FolderError, match="not empty"):
        stage.dir().stage(request(a=artifact("k")))
    assert stage.labels() == ["thesis.txt"]


def test_foreign_label(stage):
    """A label's folder that is not ours: kept when mutable, refused when not, replaced when fresh."""
    stage.put("k.tar", tar({"a": b"1"}))
    stage.dir().stage(request())
    for label in ("m", "i"):
        (stage.root / label).mkdir()
        (stage.root / label / "f").write_bytes(b"mine")
    assert statuses(stage.dir().stage(request(m=artifact("k.tar", mutable=True)))) == {"m": "kept"}
    with pytest.raises(StagingError) as caught:
        stage.dir().stage(request(i=artifact("k.tar")))
    assert isinstance(caught.value.failures["i"], FolderError)
    assert statuses(stage.dir().stage(request(i=artifact("k.tar")), fresh=True)) == {"i": "done"}


def test_changes_for_another_location_are_not_lost(stage):
    """Work that belongs to another request's location is neither overwritten nor uploaded to this one's."""
    stage.put("one.tar", tar({"a": b"1"}))
    stage.put("two.tar", tar({"a": b"2"}))
    stage.dir().stage(request(m=artifact("one.tar", mutable=True)))
    (stage.root / "m" / "a").write_bytes(b"work")
    other = request(m=artifact("two.tar", mutable=True))
    for call in (stage.dir().stage, stage.dir().upload):
        with pytest.raises(StagingError) as caught:
            call(other)
        assert "s3://b/one.tar" in str(caught.value.failures["m"])
    assert tree(stage.root / "m") == {"a": b"work"}


def test_an_object_that_is_gone_is_sent_again(stage):
    """A mutable object deleted meanwhile does not empty the folder: what is here is kept, and uploaded next time."""
    stage.put("m.tar", tar({"a": b"1"}))
    wanted = request(m=artifact("m.tar", mutable=True))
    stage.dir().stage(wanted)
    stage.store.delete("m.tar")
    (receipt,) = stage.dir().stage(wanted)
    assert (receipt.status, receipt.warnings) == ("kept", ({"code": "object-gone", "path": "m"},))
    assert statuses(stage.dir().upload(wanted)) == {"m": "done"}
    assert b"1" in stage.get("m.tar")


def test_a_folder_in_use_names_the_pid(stage):
    """Another process at work in the folder is FolderInUse, with its pid."""
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from pathlib import Path; from artifacts.state import State\n"
            "with State(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()",
            str(stage.root),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(FolderInUse, match=f"in use by process {holder.pid}") as caught:
            stage.dir().stage(request())
        assert caught.value.retryable
    finally:
        holder.communicate()
    assert holder.returncode == 0
    assert stage.dir().stage(request()) == ()


def test_held_over_several_calls(stage):
    """As a context manager the folder is held from stage to upload."""
    with stage.dir() as staging:
        staging.stage(request())
        with pytest.raises(FolderInUse):
            State(stage.root).__enter__()
        staging.upload(request())


class Dies(Exception):
    """Stands for the process's death."""


@pytest.mark.parametrize("nth", range(1, 5))
def test_a_crash_at_any_journal_line_or_rename_is_survived(stage, monkeypatch, nth):
    """Whatever step is the last one before death, the next stage makes the folder right."""
    stage.put("k.tar", tar({"a": b"1"}))
    wanted = request(a=artifact("k.tar"), m=artifact("k.tar", mutable=True))
    stage.dir(parallel=1).stage(wanted)
    stage.put("k.tar", tar({"a": b"2"}))
    count = 0

    def deadly(real):
        def step(*args, **kwargs):
            nonlocal count
            count += 1
            if count == nth:
                raise Dies
            return real(*args, **kwargs)

        return step

    with monkeypatch.context() as patched:
        patched.setattr(State, "put", deadly(State.put))
        patched.setattr(Path, "rename", deadly(Path.rename))
        # Death saves nothing: the snapshot stays as it was.
        patched.setattr(State, "_save", lambda self: None)
        with pytest.raises(Dies):
            stage.dir(parallel=1).stage(wanted)
    statuses(stage.dir().stage(wanted))
    assert tree(stage.root / "a") == tree(stage.root / "m") == {"a": b"2"}
    assert stage.labels() == [".artifacts", "a", "m"]
    assert statuses(stage.dir().stage(wanted)) == {"a": "unchanged", "m": "unchanged"}


def test_a_torn_journal_line_never_happened(stage):
    """What was being written when the power failed is ignored; what stands before it counts."""
    stage.put("k.tar", tar({"a": b"1"}))
    wanted = request(a=artifact("k.tar"))
    stage.dir().stage(wanted)
    with (stage.root / ".artifacts" / "journal.jsonl").open("ab") as journal:
        journal.write(b'{"label": "a", "rec')
    assert statuses(stage.dir().stage(wanted)) == {"a": "unchanged"}
    assert (stage.root / ".artifacts" / "journal.jsonl").read_bytes() == b""


def test_damaged_or_later_state_is_refused(stage):
    """A state this version cannot read is an error, not an empty folder."""
    stage.dir().stage(request())
    path = stage.root / ".artifacts" / "state.json"
    for content, message in ((b"{", "is damaged"), (b'{"version": 9, "labels": {}}', "has version 9")):
        path.write_bytes(content)
        with pytest.raises(FolderError, match=message):
            stage.dir().stage(request())


class Unreachable(MemoryStore):
    def open(self, key, **options):
        raise StoreUnavailable("open: connection refused", op="open")

    def write(self, key, buffers, **options):
        raise StoreUnavailable("write: connection refused", op="write")


def test_transient_failures_are_retryable(stage):
    """When every failure is transient so is the whole; an upload is owed."""
    wanted = request(m=artifact("m.tar", mutable=True))
    stage.dir().stage(wanted)
    (stage.root / "m" / "a").write_bytes(b"x")
    stage.store = Unreachable()
    with pytest.raises(StagingError) as caught:
        stage.dir().upload(wanted)
    assert caught.value.retryable
    assert statuses(caught.value.receipts) == {"m": "owed"}
    with pytest.raises(StagingError) as caught:
        stage.dir().stage(request(other=artifact("k.tar")))
    assert caught.value.retryable


def test_one_failed_upload_does_not_stop_the_others(stage):
    """Work that can be stored is stored."""
    stage.put("a.tar", tar({"x": b"1"}))
    wanted = request(a=artifact("a.tar", mutable=True), b=artifact("b.tar", mutable=True))
    stage.dir().stage(wanted)
    for label in ("a", "b"):
        (stage.root / label / "x").write_bytes(b"mine")
    stage.put("a.tar", tar({"x": b"theirs"}))
    with pytest.raises(StagingError) as caught:
        stage.dir(parallel=1).upload(wanted)
    assert statuses(caught.value.receipts) == {"a": "failed", "b": "done"}


class Waiting(MemoryStore):
    """An object whose second half never comes."""

    def __init__(self, started: threading.Event) -> None:
        super().__init__()
        self.started = started

    def open(self, key, *, cancel=None, **options):
        reading = super().open(key, cancel=cancel, **options)
        started = self.started

        class Slow:
            meta, pinned = reading.meta, reading.pinned

            def __enter__(self):
                return self

            def __exit__(self, *_):
                pass

            def __iter__(self):
                yield bytes(512)
                started.set()
                cancel.wait(30)

        return Slow()


def test_cancel_leaves_nothing_half_made(stage):
    """Cancelling ends the work; no partial folder stays, and the receipt says skipped."""
    started = threading.Event()
    stage.store = Waiting(started)
    stage.store.write("k.bin", [bytes(1024)])
    cancel = Cancel()
    threading.Thread(target=lambda: (started.wait(10), cancel.cancel())).start()
    with pytest.raises(Cancelled):
        stage.dir(cancel=cancel).stage(request(a=artifact("k.bin", unpack=False)))
    assert stage.labels() == [".artifacts"]
    assert [event.receipt.status for event in stage.events if isinstance(event, Passed)] == ["skipped"]


def test_an_unwritable_folder_is_this_machines_failure(tmp_path):
    """A root that cannot be made is DiskError with the system's number."""
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskError) as caught:
        Stage(tmp_path / "file" / "job").dir().stage(request())
    assert caught.value.errno == 20


def test_events_tell_the_story(stage):
    """Started, Progress to the last byte, Published with the receipt that is returned."""
    stage.put("k.tar", tar({"a": b"1"}))
    (receipt,) = stage.dir().stage(request(a=artifact("k.tar")))
    kinds = [type(event) for event in stage.events]
    assert kinds[0] is Started
    assert kinds[-1] is Published
    last = [event for event in stage.events if isinstance(event, Progress)][-1]
    assert last.done_bytes == last.total_bytes == receipt.object_bytes
    assert not [event for event in stage.events if isinstance(event, Failed)]


def test_a_receipt_has_every_key(stage):
    """Receipts are one JSON object with the documented keys in the documented order."""
    stage.put("k.tar", tar({"a": b"1"}))
    (receipt,) = stage.dir().stage(request(a=artifact("k.tar")))
    line = json.loads(receipt.to_json())
    assert (
        list(line)
        == (
            "v type time run experiment op label status location path mutable etag version object_bytes unpacked_bytes "
            "members sha256 verified pinned conditional cache credential rule attempts seconds bytes_per_second warnings error"
        ).split()
    )
    assert line["credential"]["kind"] == "aws"
    assert line["rule"] == "aws"
    assert "planted-secret" not in receipt.to_json()


class Liar(MemoryStore):
    """A store whose answers tell a size of ten bytes, whatever comes then."""

    def open(self, key: str, **asked: object):
        reading = super().open(key, **asked)
        reading.meta = replace(reading.meta, size_bytes=10)
        return reading


@pytest.mark.parametrize("size", [9, 11, 3 << 20])
def test_a_small_object_that_has_another_size_than_was_told(stage, size):
    """It fails, and neither the label nor anything unfinished is left."""
    stage.store = Liar({"k": bytes(size)}, part_bytes=4 << 20)
    with pytest.raises(StagingError, match="the object has 10 bytes and") as caught:
        stage.dir().stage(request(small=artifact("k", unpack=False)))
    assert isinstance(caught.value.failures["small"], IntegrityError)
    assert stage.labels() == [".artifacts"]


def test_many_small_artifacts_of_one_place_share_one_store(stage):
    """300 files of one bucket and two credentials: two stores are opened, and each file is whole, under its label."""
    contents = {f"p/{number}": b"%d" % number * 100 for number in range(300)}
    other = Credentials(aws=AWSCredential(access_key="AKOTHER", secret_access_key="planted-secret"))
    for key, content in contents.items():
        stage.put(key, content)
    artifacts = {
        f"a{number}": artifact(f"p/{number}", unpack=False).model_copy(
            update={"credentials": other if number % 3 == 0 else KEYS}
        )
        for number in range(300)
    }
    opened = []

    def opener(location, credentials, *_rest):
        opened.append(credentials.aws.access_key)
        return stage.store

    receipts = StagingDir(stage.root, open=opener).stage(request(**artifacts))
    assert sorted(opened) == ["AKOTHER", "AKTEST"]
    assert {receipt.status for receipt in receipts} == {"done"}
    assert [receipt.label for receipt in receipts] == sorted(artifacts)
    assert {receipt.credential["id"] for receipt in receipts if receipt.label in ("a0", "a3")} == {"AK…"}
    assert {f"{number}": (stage.root / f"a{number}" / f"{number}").read_bytes() for number in range(300)} == {
        key.removeprefix("p/"): content for key, content in contents.items()
    }


def test_an_error_of_the_listener_is_raised_where_stage_was_called(stage):
    """It is a bug of the caller's: no artifact's failure, and not lost in a thread."""

    def listen(event: object) -> None:
        raise ZeroDivisionError("of the listener")

    stage.put("k", b"x")
    staging = StagingDir(stage.root, open=lambda *_: stage.store, on_event=listen)
    with pytest.raises(ZeroDivisionError, match="of the listener"):
        staging.stage(request(one=artifact("k", unpack=False), two=artifact("k", unpack=False)))
    assert stage.labels() == [".artifacts"]


def test_a_record_is_written_without_what_is_usual_and_read_back_whole():
    record = Record(location="s3://b/k", etag='"e"', unpacked_bytes=0, mutable=True)
    told = replace(record, next=Record(location="s3://b/k"))
    assert record.written() == {"location": "s3://b/k", "etag": '"e"', "unpacked_bytes": 0, "mutable": True}
    assert Record.read(told.written()) == told
