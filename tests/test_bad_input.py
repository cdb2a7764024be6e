"""What bad input gets, through the command and against a real server.

Each case asserts the exit code, the error in the receipt, the one line with its hint that a person reads, and that
nothing is left behind: no folder of the label, no partial one, no object.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import servers
from commands import (
    SESSION_TOKEN,
    WRONG_SECRET,
    Bench,
    Result,
    credentials,
    fill,
    finish,
    kept_files,
    labels,
    run,
    start,
    tar,
    tree,
)

from creds.testing import Fault, FaultProxy


@pytest.fixture
def bench(seaweed, bucket, tmp_path) -> Bench:
    return Bench(seaweed, bucket, tmp_path)


def flipped(content: bytes, *places: int) -> bytes:
    broken = bytearray(content)
    for place in places:
        broken[place] ^= 0xFF
    return bytes(broken)


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


FILES = kept_files(100_000)
TAR, TGZ, TBZ, ZIP = tar(FILES), tar(FILES, "w:gz"), tar(FILES, "w:bz2"), zipped(FILES)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One artifact that cannot be staged.

    Attributes:
        code: the exit code.
        error: the error's code.
        message, hint: parts of what it says; ``{place}`` is the artifact's location, ``{host}`` the server.
        artifact: makes it.
        content: the object behind it, None for none.
        facts: more of the receipt's error.
        touched: the staging folder is made before the failure is seen.
    """

    code: int
    error: str
    message: str
    hint: str | None = None
    content: bytes | None = None
    key: str = "object"
    artifact: Callable[[Bench, str], dict[str, Any]] = lambda bench, key: bench.artifact(key)
    flags: tuple[str, ...] = ()
    experiment: tuple[tuple[str, Any], ...] = ()
    facts: tuple[tuple[str, Any], ...] = ()
    touched: bool = True


def elsewhere(qualified: str, **more: Any) -> Callable[[Bench, str], dict[str, Any]]:
    """An artifact at another place, with no credential."""
    return lambda bench, _key: {"qualified": qualified.format(host=bench.host), "unpack": True, **more}


def signed(given: dict[str, Any], **more: Any) -> Callable[[Bench, str], dict[str, Any]]:
    """An artifact with another credential."""
    return lambda bench, key: bench.artifact(key, credentials=given, **more)


def hashed(digest: str) -> Callable[[Bench, str], dict[str, Any]]:
    return lambda bench, key: bench.artifact(key, hash=digest)


NOT_ITS_KEYS = "check the access key, the secret and the session token"

CASES = {
    # The server's answers.
    "missing bucket": Case(
        code=4,
        error="bucket-not-found",
        message="open s3://{host}/no-such-bucket/k.tar: 404 NoSuchBucket",
        hint="check the bucket's name",
        artifact=lambda bench, _key: bench.artifact(
            "k.tar", bucket="no-such-bucket", qualified=f"s3://{bench.host}/no-such-bucket/k.tar"
        ),
        facts=(("http_status", 404), ("server_code", "NoSuchBucket"), ("retryable", False)),
    ),
    "missing bucket of a mutable one": Case(
        code=4,
        error="bucket-not-found",
        message="404 NoSuchBucket",
        hint="check the bucket's name",
        artifact=lambda bench, _key: bench.artifact(
            "k.tar", mutable=True, bucket="no-such-bucket", qualified=f"s3://{bench.host}/no-such-bucket/k.tar"
        ),
    ),
    "missing key": Case(
        code=4,
        error="object-not-found",
        message="open {place}: 404 NoSuchKey",
        facts=(("http_status", 404), ("server_code", "NoSuchKey"), ("retryable", False)),
    ),
    "wrong secret": Case(
        code=5,
        error="unauthenticated",
        message="open {place}: 403 SignatureDoesNotMatch",
        hint=NOT_ITS_KEYS,
        content=TAR,
        artifact=signed({"aws": {"access_key": servers.ADMIN.access_key, "secret_access_key": WRONG_SECRET}}),
        facts=(("http_status", 403), ("server_code", "SignatureDoesNotMatch")),
    ),
    "unknown key": Case(
        code=5,
        error="unauthenticated",
        message="open {place}: 403 InvalidAccessKeyId",
        hint=NOT_ITS_KEYS,
        content=TAR,
        artifact=signed({"aws": {"access_key": "AKNOBODY", "secret_access_key": WRONG_SECRET}}),
    ),
    "expired session": Case(
        code=5,
        error="unauthenticated",
        message="open {place}: 403 InvalidAccessKeyId",
        hint="temporary keys end",
        content=TAR,
        artifact=signed(credentials(servers.ADMIN, session_token=SESSION_TOKEN)),
        facts=(("http_status", 403), ("server_code", "InvalidAccessKeyId"), ("retryable", False)),
    ),
    "access denied": Case(
        code=5,
        error="access-denied",
        message="open {place}: 403 AccessDenied",
        content=TAR,
        artifact=signed(credentials(servers.READER)),
    ),
    "access denied to a mutable one": Case(
        code=5,
        error="access-denied",
        message="open {place}: 403 AccessDenied",
        hint="if a does not exist yet, add --start-empty a",
        artifact=signed(credentials(servers.READER), mutable=True),
    ),
    # Archives.
    "gzip cut short": Case(code=6, error="corrupt-archive", message="cut short", content=TGZ[:150_000]),
    "gzip corrupt": Case(code=6, error="corrupt-archive", message="gzip", content=flipped(TGZ, 200_000)),
    "bzip2 corrupt": Case(code=6, error="corrupt-archive", message="bz", content=flipped(TBZ, 150_000)),
    "tar cut short": Case(code=6, error="corrupt-archive", message="cut short", content=TAR[:150_000]),
    "tar without its end": Case(code=6, error="corrupt-archive", message="end marker", content=TAR[:101_376]),
    "tar corrupt": Case(code=6, error="corrupt-archive", message="checksum", content=flipped(TAR, 100_864 + 10)),
    "zip cut short": Case(code=6, error="corrupt-archive", message="zip", content=ZIP[:150_000]),
    "zip corrupt": Case(code=6, error="corrupt-archive", message="file-0", content=flipped(ZIP, 500)),
    "no archive": Case(
        code=6,
        error="unsupported-archive",
        message="'object' is no archive",
        hint="with unpack set to false",
        content=b"just a text, and no archive\n" * 100,
    ),
    "member outside": Case(code=6, error="unsafe-member", message="'..'", content=tar({"good": b"1", "../evil": b"2"})),
    "member absolute": Case(code=6, error="unsafe-member", message="/evil", content=tar({"good": b"1", "/evil": b"2"})),
    "sha256 differs": Case(
        code=6,
        error="integrity",
        message="promised was " + "0" * 64,
        hint="the promise is of something else",
        content=TAR,
        artifact=hashed("0" * 64),
    ),
    "md5 differs": Case(
        code=6, error="integrity", message="the object's md5 is", content=TAR, artifact=hashed("0" * 32)
    ),
    "mutable zip": Case(
        code=6,
        error="unsupported-archive",
        message="a mutable artifact cannot be a zip",
        hint="name it .tar",
        key="k.zip",
        artifact=lambda bench, key: bench.artifact(key, mutable=True),
        touched=False,
    ),
    # Limits.
    "bomb": Case(
        code=8,
        error="limit-exceeded",
        message="the artifacts unpack to more than 10000000 bytes (max_bytes)",
        content=gzip.compress(bytes(30_000_000)),
        key="zeros.gz",
        flags=("--max-bytes", "10MB"),
    ),
    "bomb of a bomb": Case(
        code=8,
        error="limit-exceeded",
        message="max_bytes",
        content=bz2.compress(tar({"zeros": bytes(30_000_000)})),
        flags=("--max-bytes", "10MB"),
    ),
    "more than the request's hdd": Case(
        code=8,
        error="limit-exceeded",
        message="the artifacts unpack to more than 10000000 bytes (resources_needed.hdd)",
        content=gzip.compress(tar({"zeros": bytes(30_000_000)})),
        experiment=(("resources_needed", {"hdd": "10MB"}),),
    ),
    "far more than its size": Case(
        code=8,
        error="limit-exceeded",
        message="max_ratio",
        content=bz2.compress(bytes(100_000_000)),
        key="zeros.bz2",
    ),
    # Places and credentials that cannot be, told before anything is touched.
    "no location": Case(
        code=2,
        error="location",
        message="the artifact has no location, and is not mutable",
        hint="give it a qualified URL",
        artifact=lambda _bench, _key: {"mutable": False},
        touched=False,
    ),
    "unknown scheme": Case(
        code=2,
        error="location",
        message="the scheme 'gopher' is unknown",
        hint="schemes: s3,",
        artifact=elsewhere("gopher://host/k.tar"),
        touched=False,
    ),
    "web server not named": Case(
        code=3,
        error="policy",
        message="the endpoint host is not named",
        hint="add --endpoint https://host",
        artifact=elsewhere("https://host/k.tar"),
        facts=(("rule", "not-named"),),
        touched=False,
    ),
    "file server not named": Case(
        code=3,
        error="policy",
        message="the endpoint host:2222 is not named",
        hint="add --endpoint sftp://host:2222",
        artifact=lambda bench, key: (
            elsewhere("sftp://host:2222/k.tar")(bench, key) | {"credentials": {"plain": {"user": "u", "password": "p"}}}
        ),
        facts=(("rule", "not-named"),),
        touched=False,
    ),
    "contradiction": Case(
        code=2,
        error="location",
        message="the bucket field says 'other'",
        hint="make both say the same",
        artifact=lambda bench, key: bench.artifact(key, bucket="other"),
        touched=False,
    ),
    "key is a folder": Case(
        code=2,
        error="location",
        message="names no object",
        hint="the key must not end in '/'",
        key="folder/",
        touched=False,
    ),
    "half a pair": Case(
        code=5,
        error="missing-credential",
        message="credentials.aws.secret_access_key is missing",
        hint="give the whole pair",
        artifact=signed({"aws": {"access_key": "AKHALF"}}),
        touched=False,
    ),
    "several kinds": Case(
        code=5,
        error="ambiguous-credential",
        message="the credentials hold several kinds: plain, aws",
        hint="leave one",
        artifact=signed(credentials(servers.ADMIN) | {"plain": {"user": "u", "password": WRONG_SECRET}}),
        touched=False,
    ),
    "jwt": Case(
        code=5,
        error="credential",
        message="credentials.jwt.token is no JWT",
        hint="look for a space, a line break or a 'Bearer' before it",
        artifact=signed({"jwt": {"token": SESSION_TOKEN}}),
        touched=False,
    ),
    # The policy.
    "endpoint not named": Case(
        code=3,
        error="policy",
        message="s3://minio.ml.svc:9000/b/k.tar: the endpoint minio.ml.svc:9000 is not named",
        hint="add --endpoint http://minio.ml.svc:9000",
        artifact=elsewhere("s3://minio.ml.svc:9000/b/k.tar"),
        facts=(("rule", "not-named"), ("retryable", False)),
        touched=False,
    ),
    "file without a root": Case(
        code=3,
        error="policy",
        message="file:///etc/passwd: a file outside every file root",
        hint="add --file-root /etc",
        artifact=elsewhere("file:///etc/passwd"),
        facts=(("rule", "file"),),
        touched=False,
    ),
    "file outside the root": Case(
        code=3,
        error="policy",
        message="a file outside every file root",
        hint="add --file-root /etc",
        artifact=elsewhere("file:///etc/passwd"),
        flags=("--file-root", "/usr/share"),
        touched=False,
    ),
    "file that climbs out of the root": Case(
        code=2,
        error="location",
        message="goes up by '..'",
        hint="write the path without it",
        artifact=elsewhere("file:///usr/share/../../etc/passwd"),
        flags=("--file-root", "/usr/share"),
        touched=False,
    ),
    "metadata address": Case(
        code=3,
        error="policy",
        message="169.254.169.254 is a cloud's metadata address",
        artifact=elsewhere("s3+http://169.254.169.254/latest/meta-data"),
        facts=(("rule", "metadata-address"),),
        touched=False,
    ),
    "aws in plaintext": Case(
        code=3,
        error="policy",
        message="",
        artifact=elsewhere("s3+http://s3.us-east-1.amazonaws.com/b/k.tar"),
        facts=(("rule", "plaintext"),),
        touched=False,
    ),
    "a profile of this machine": Case(
        code=3,
        error="policy",
        message="profile",
        hint="--profile",
        artifact=signed({"aws": {"profile": "admin"}}),
        facts=(("rule", "profile"),),
        touched=False,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_an_artifact_that_cannot_be_staged(bench, name):
    """The table: exit code, receipt, one line with its hint, and nothing left."""
    case = CASES[name]
    artifact = case.artifact(bench, case.key)
    if case.content is not None:
        bench.put(case.key, case.content)
    request = bench.request({"a": artifact}, **dict(case.experiment))
    result = bench.stage(request, "--json", *case.flags)

    assert result.code == case.code
    assert result.summary["exit"] == case.code
    assert (result.summary["failed"], result.summary["done"]) == (1, 0)
    error = result.error("a")
    assert error["code"] == case.error
    assert case.message.format(host=bench.host, place=bench.place(case.key)) in error["message"]
    assert (case.hint or "") in (error["hint"] or "")
    for fact, value in case.facts:
        assert error[fact] == value
    hint = f" (hint: {error['hint']})" if error["hint"] else ""
    assert result.said == [
        f"a: failed: {error['message']}{hint}",
        f"error: 1 of 1 artifacts failed; exit {case.code}",
    ]
    assert bench.job.exists() == case.touched
    assert labels(bench.job) == []
    assert bench.keys() == ([case.key] if case.content is not None else [])


def test_transient_failures(bench):
    """A refused connection and a server that only throttles: retried, each retry told, then 75 and retryable."""
    bench.put("k.tar", TAR)
    with FaultProxy(bench.server.address) as proxy:
        proxy.add(Fault(times=1000, status=503))
        begun = {}
        for name, url in (("refused", f"http://127.0.0.1:{servers.free_port()}"), ("throttled", proxy.url)):
            through = Bench(bench.server, bench.bucket, bench.folder / name, url)
            through.folder.mkdir()
            request = through.request({"a": through.artifact("k.tar")})
            arguments = ("stage", request, "--into", through.job, "--endpoint", url, "--json")
            begun[name] = through, start(*arguments)
        ended = {name: finish(process) for name, (_, process) in begun.items()}

    for name, result in ended.items():
        error = result.error("a")
        assert (result.code, result.summary["exit"]) == (75, 75)
        assert (error["code"], error["retryable"]) == ("unavailable", True)
        *retries, failed, closing = result.said
        assert len(retries) > 1
        assert all(re.match(r"a: attempt \d failed \(open s3://.*\); again in [\d.]+ s$", line) for line in retries)
        hint = f" (hint: {error['hint']})" if error["hint"] else ""
        assert failed == f"a: failed: {error['message']}{hint}"
        assert closing == "error: 1 of 1 artifacts failed; exit 75"
        assert labels(begun[name][0].job) == []
    refused, throttled = ended["refused"].error("a"), ended["throttled"].error("a")
    assert refused["message"] == f"open {begun['refused'][0].place('k.tar')}: cannot connect"
    assert refused["hint"] == "check that the endpoint, or the proxy before it, is up and reachable"
    assert (throttled["http_status"], throttled["server_code"]) == (503, "SlowDown")


@pytest.mark.parametrize(
    ("label", "problem"),
    [
        ("", "cannot be empty"),
        (".", "cannot begin with a dot"),
        ("..", "cannot begin with a dot"),
        ("../x", "cannot begin with a dot"),
        (".hidden", "cannot begin with a dot"),
        ("a/b", "cannot hold a slash"),
        ("/a", "cannot hold a slash"),
        ("a\0b", "control characters"),
        ("a\nb", "control characters"),
        ("a\x1b[31m", "control characters"),
        ("x" * 201, "at most 200 bytes"),
    ],
)
def test_bad_labels(bench, label, problem):
    """A label that is no plain folder name: the request is invalid, the folder is not made, nothing is printed raw."""
    result = bench.stage(bench.request({label: bench.artifact("k.tar"), "good": bench.artifact("k.tar")}), "--json")
    assert result.code == 2
    (line,) = result.said
    assert line.startswith("error: experiment.artifacts.")
    assert problem in line
    assert "\x1b" not in line
    assert result.lines == [result.summary]
    assert result.summary["exit"] == 2
    assert not bench.job.exists()
    assert sorted(path.name for path in bench.folder.iterdir()) == ["request.json"]


@pytest.mark.parametrize("op", ["stage", "upload", "check"])
def test_two_mutable_artifacts_with_one_location(bench, op):
    """They would overwrite each other, also where one spells the key otherwise: the request is invalid."""
    second = bench.artifact("k.tar", mutable=True, key="", qualified=f"s3://{bench.host}/{bench.bucket}/%6B.tar")
    request = bench.request({"a": bench.artifact("k.tar", mutable=True), "b": second})
    place = {"stage": ("--into", bench.job), "upload": ("--from", bench.job), "check": ()}[op]
    result = run(op, request, *place, "--endpoint", bench.url)
    assert result.code == 2
    where = f"another mutable artifact has the location {bench.place('k.tar')}"
    assert result.said == [
        f"error: experiment.artifacts.a: {where}; experiment.artifacts.b: {where} "
        "(hint: give each mutable artifact a key of its own)"
    ]
    assert not bench.job.exists()


@pytest.mark.parametrize("document", [b"{}", b'{"experiment": {}}', b'{"experiment": {"artifacts": {}}}'])
def test_a_request_without_artifacts(bench, document):
    """Nothing to do is done, and a person is asked whether that was meant: 0, an empty summary."""
    result = run("stage", "-", "--into", bench.job, "--json", stdin=document)
    asked = "warning: there are no artifacts in it: is it a request?\n"
    assert (result.code, result.err) == (0, asked)
    assert result.lines == [result.summary]
    assert (result.summary["done"], result.summary["failed"], result.summary["owed"]) == (0, 0, [])
    assert run("check", "-", stdin=document) == Result(0, b"", asked)
    assert labels(bench.job) == []


@pytest.mark.parametrize(
    ("document", "line"),
    [
        (b"", "error: standard input: line 1, column 1: "),
        (b"not json", "error: standard input: line 1, column 1: "),
        (b'{"experiment": {"artifacts": {"a": {"mutable": true}}}', "error: standard input: line 1, column 55: "),
        (b'{} {"more": 1}', "error: standard input: line 1, column 4: "),
        (b"[]", "error: "),
        (
            b'{"experiment": {"artifacts": {"a": {"mutable": "yes", "key": 7}}}}',
            "error: experiment.artifacts.a.mutable: expected bool, got string; experiment.artifacts.a.key: ",
        ),
    ],
)
def test_bad_json(bench, document, line):
    """One line that says where, exit 2, nothing made."""
    result = run("stage", "-", "--into", bench.job, stdin=document)
    assert (result.code, result.out) == (2, "")
    assert len(result.said) == 1
    assert result.err.startswith(line)
    assert not bench.job.exists()


def test_a_request_that_is_not_there(bench):
    """A missing file and a folder are named, exit 2."""
    missing = bench.stage(bench.folder / "none.json")
    assert (missing.code, missing.said) == (2, [f"error: {bench.folder / 'none.json'}: No such file or directory"])
    folder = bench.stage(bench.folder)
    assert folder.code == 2
    assert "is a directory" in folder.err
    assert len(folder.said) == 1


def test_a_near_miss_is_told(bench):
    """A name that nothing reads gets a hint, without the value behind it."""
    given = {"aws": {"access_key": servers.ADMIN.access_key, "secret_key": WRONG_SECRET}}
    result = bench.stage(bench.request({"a": bench.artifact("k.tar", credentials=given)}))
    assert result.code == 5
    assert result.said[0] == (
        "warning: experiment.artifacts.a.credentials.aws.secret_key is not read; did you mean secret_access_key?"
    )


# -- this machine ------------------------------------------------------------------------------------------------


def namespaces() -> bool:
    """May this user mount a tmpfs in a namespace of its own?"""
    script = "mount -t tmpfs -o size=1m none /mnt"
    return (
        shutil.which("unshare") is not None
        and subprocess.run(["unshare", "-rm", "sh", "-c", script], capture_output=True, check=False).returncode == 0
    )


@dataclass(frozen=True)
class Small:
    """A staging folder on a file system of its own, which ends with the command; what it left there is in ``left``."""

    mount: Path
    left: Path
    options: str

    @property
    def before(self) -> tuple[str, ...]:
        script = (
            f'mount -t tmpfs -o {self.options} none "$1" || exit 99; mount=$1 left=$2; shift 2; "$@"; code=$?; '
            'find "$mount" -mindepth 2 -not -path "*/.artifacts*" > "$left"; exit $code'
        )
        return ("unshare", "-rm", "sh", "-c", script, "sh", str(self.mount), str(self.left))


@pytest.mark.parametrize(
    ("options", "files", "error"),
    [
        pytest.param("size=3m", {"big": os.urandom(5_000_000)}, "limit-exceeded", id="bytes"),
        # The bytes would fit; their blocks do not.
        pytest.param("size=3m", {f"small-{number}": b"x" for number in range(2000)}, "disk", id="blocks"),
        pytest.param("size=3m,nr_inodes=40", {f"small-{number}": b"x" for number in range(100)}, "disk", id="inodes"),
    ],
)
def test_a_full_disk(bench, options, files, error):
    """A file system without room for the bytes, the blocks or the inodes: 9, and nothing is left on it."""
    if not namespaces():
        pytest.skip("this user may not mount a tmpfs in a namespace of its own")
    small = Small(bench.folder / "mount", bench.folder / "left", options)
    small.mount.mkdir()
    bench.put("k.tar", tar(files))
    request = bench.request({"a": bench.artifact("k.tar")})
    result = run(
        "stage", request, "--into", small.mount / "job", "--endpoint", bench.url, "--json", before=small.before
    )
    assert (result.code, result.summary["exit"]) == (9, 9)
    assert result.error("a")["code"] == error
    if error == "disk":
        assert "No space left on device (ENOSPC)" in result.error("a")["message"]
        assert result.error("a")["hint"] == "free space or use another machine"
    else:
        assert "(free space)" in result.error("a")["message"]
    assert len(result.said) == 2
    assert small.left.read_text() == ""


def test_a_limit_on_the_size_of_files(bench):
    """A file that outgrows RLIMIT_FSIZE: 9, and nothing is left."""
    bench.put("k.bin", bytes(1_000_000))
    bench.put("k.tar", tar({"big": bytes(1_000_000)}))
    limited = ("sh", "-c", 'ulimit -f 200; exec "$@"', "sh")
    for key, unpack in (("k.bin", False), ("k.tar", True)):
        request = bench.request({"a": bench.artifact(key, unpack=unpack)})
        result = bench.stage(request, "--json", before=limited)
        assert result.code == 9
        assert result.error("a")["code"] == "disk"
        assert "File too large (EFBIG)" in result.error("a")["message"]
        assert "ulimit -f" in result.error("a")["hint"]
        assert labels(bench.job) == []
    got = run(
        "get", f"file://{fill(bench.folder, {'big': bytes(1_000_000)}) / 'big'}", bench.folder / "copy", before=limited
    )
    assert got.code == 9
    assert "File too large (EFBIG)" in got.err
    assert sorted(path.name for path in bench.folder.iterdir()) == ["big", "job", "request.json"]


UNPRIVILEGED = (
    sys.executable,
    "-c",
    # Root without CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH is held to permissions like anybody else.
    "import ctypes, os, sys; [ctypes.CDLL(None).prctl(24, capability, 0, 0, 0) for capability in (1, 2)]; "
    "os.execv(sys.argv[1], sys.argv[1:])",
)


def test_an_unwritable_folder(bench):
    """A folder that this user may not write to: 9 naming the folder and what to do, and nothing is made there."""
    bench.put("k.tar", TAR)
    bench.job.mkdir()
    bench.job.chmod(0o555)
    try:
        result = bench.stage(bench.request({"a": bench.artifact("k.tar")}), before=UNPRIVILEGED)
        below = run("get", f"file://{bench.folder / 'request.json'}", bench.job / "sub" / "copy", before=UNPRIVILEGED)
    finally:
        bench.job.chmod(0o755)
    assert result.code == 9
    assert result.said == [
        f"error: cannot use the folder {bench.job}: Permission denied (EACCES) "
        "(hint: give this user access to the folder, or use another one)"
    ]
    assert below.code == 9
    assert "Permission denied (EACCES)" in below.err
    assert list(bench.job.iterdir()) == []


def test_a_folder_that_is_not_ours(bench):
    """A folder with somebody's files in it: 2, and they are untouched."""
    bench.put("k.tar", TAR)
    fill(bench.job, {"thesis.txt": "years of work"})
    result = bench.stage(bench.request({"a": bench.artifact("k.tar")}))
    assert result.code == 2
    assert result.said == [
        f"error: {bench.job} is not empty and was not staged by this tool (hint: give a new or empty folder)"
    ]
    assert tree(bench.job) == {"thesis.txt": b"years of work"}
    assert bench.upload(bench.request({"a": bench.artifact("k.tar", mutable=True)})).code == 2


def test_a_folder_in_use(bench):
    """A second process in one folder: 75 naming the pid of the first, which is not disturbed."""
    bench.put("k.tar", TAR)
    request = bench.request({"workspace": bench.artifact("k.tar")})
    first = start(
        *("run", request, "--into", bench.job, "--endpoint", bench.url, "--"),
        *("sh", "-c", "echo ready; read line; echo $line"),
        stdin=subprocess.PIPE,
    )
    assert first.stdout is not None
    while first.stdout.readline() != b"ready\n":
        assert first.poll() is None
    for result in (bench.stage(request), bench.upload(request), bench.run(request, "true")):
        assert result.code == 75
        assert result.said == [
            f"error: {bench.job} is in use by process {first.pid} (hint: wait until it has ended, then run again)"
        ]
    ended = finish(first, b"undisturbed\n")
    assert (ended.code, ended.out) == (0, "undisturbed\n")
    assert bench.stage(request).code == 0


# -- uploads, and single objects ---------------------------------------------------------------------------------


def test_uploads_that_are_refused(bench):
    """Keys that may only read, an object that changed there, a folder never staged: 5, 7, 2; no object is touched."""
    shared = Bench(bench.server, servers.SHARED_BUCKET, bench.folder)
    key = f"{bench.bucket}/out.tar"
    request = shared.request({"out": shared.artifact(key, mutable=True, credentials=credentials(servers.READER))})
    assert shared.stage(request).code == 0
    fill(bench.job / "out", {"log": "1"})
    denied = shared.upload(request, "--json")
    assert (denied.code, denied.error("out")["code"]) == (5, "access-denied")
    assert "out.tar: 403 AccessDenied" in denied.said[0]
    assert shared.client.list_objects_v2(Bucket=shared.bucket, Prefix=key)["KeyCount"] == 0

    shutil.rmtree(bench.job)
    request = bench.request({"out": bench.artifact("out.tar", mutable=True)})
    assert bench.stage(request).code == 0
    fill(bench.job / "out", {"log": "mine"})
    bench.put("out.tar", b"somebody else's")
    changed = bench.upload(request, "--json")
    assert (changed.code, changed.error("out")["code"]) == (7, "object-changed")
    assert changed.error("out")["retryable"] is False
    assert bench.read("out.tar") == b"somebody else's"
    assert tree(bench.job / "out") == {"log": b"mine"}

    new = run("upload", request, "--from", bench.folder / "new", "--endpoint", bench.url, "--json")
    assert (new.code, new.error("out")["code"]) == (2, "folder")


@pytest.mark.parametrize(
    ("content", "flags", "code"),
    [
        (None, (), 4),
        (TGZ[:150_000], ("--unpack",), 6),
        (tar({"../evil": b""}), ("--unpack",), 6),
        (b"text", ("--unpack",), 6),
    ],
    ids=["missing", "cut short", "unsafe", "no archive"],
)
def test_an_object_that_cannot_be_fetched(bench, content, flags, code):
    """``get`` leaves neither file nor folder, and tells it in one line."""
    if content is not None:
        bench.put("k.tar.gz", content)
    keys = bench.folder / "keys.json"
    keys.write_text(json.dumps(credentials(servers.ADMIN)))
    result = run("get", bench.place("k.tar.gz"), bench.folder / "copy", *flags, "--credentials", keys)
    assert result.code == code
    assert len(result.said) == 1
    assert result.said[0].startswith("k.tar.gz: failed: ")
    assert [path.name for path in bench.folder.iterdir()] == ["keys.json"]
