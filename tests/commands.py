"""The command as a user meets it, for its tests: a process of its own, a clean environment, what it said and left."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import servers

COMMAND = (sys.executable, "-m", "artifacts.cli")
SECONDS = 60.0
"""Longer than any command here takes on a busy machine: a hang fails, slowness does not."""

SECRETS = tuple(keys.secret_key for keys in (servers.ADMIN, servers.READER, servers.WRITER))
SESSION_TOKEN = "session-token-that-must-not-print"
WRONG_SECRET = "wrong-secret-that-must-not-print"

RECEIPT_KEYS = (
    *("v", "type", "time", "run", "experiment", "op", "label", "status", "location", "path", "mutable", "etag"),
    *("version", "object_bytes", "unpacked_bytes", "members", "sha256", "verified", "pinned", "conditional", "cache"),
    *("credential", "rule", "attempts", "seconds", "bytes_per_second", "warnings", "error"),
)
SUMMARY_KEYS = (
    *("v", "type", "time", "run", "op", "done", "unchanged", "empty", "failed", "owed", "bytes", "seconds"),
    *("command_exit", "exit"),
)
ERROR_KEYS = ("code", "message", "hint", "retryable", "http_status", "server_code", "server_request_id", "rule")


@dataclass(frozen=True, slots=True)
class Result:
    """How a command ended and what it printed."""

    code: int
    content: bytes
    err: str

    @property
    def out(self) -> str:
        return self.content.decode()

    @property
    def lines(self) -> list[dict[str, Any]]:
        """What ``--json`` printed."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def summary(self) -> dict[str, Any]:
        last = self.lines[-1]
        assert last["type"] == "summary"
        return last

    @property
    def receipts(self) -> dict[str, dict[str, Any]]:
        """The last receipt of each label."""
        return {line["label"]: line for line in self.lines if line["type"] == "receipt"}

    @property
    def said(self) -> list[str]:
        """What it told a person, line by line."""
        return self.err.splitlines()

    @property
    def statuses(self) -> dict[str, str]:
        return {label: receipt["status"] for label, receipt in self.receipts.items()}

    def error(self, label: str) -> dict[str, Any]:
        """The error in a label's receipt."""
        error = self.receipts[label]["error"]
        assert tuple(error) == ERROR_KEYS
        return error


def environment(**more: str) -> dict[str, str]:
    """What a command gets from its caller: nothing of this process but the home folder of the test."""
    home = os.environ["HOME"]
    return {"PATH": os.environ["PATH"], "HOME": home, "TMPDIR": home, "LANG": "C.UTF-8", **more}


def start(
    *arguments: str | os.PathLike[str],
    env: Mapping[str, str] | None = None,
    before: tuple[str, ...] = (),
    **options: Any,
) -> subprocess.Popen[bytes]:
    """Start the command; ``before`` is a command that runs it."""
    return subprocess.Popen(
        [*before, *COMMAND, *map(os.fspath, arguments)],
        env=environment(**(env or {})),
        stdin=options.pop("stdin", subprocess.DEVNULL),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,
    )


def finish(process: subprocess.Popen[bytes], stdin: bytes | None = None, *, secret: bool = False) -> Result:
    """Wait for the command; no secret is in what it printed (unless that was asked for), and no bug was met."""
    with process:
        try:
            out, err = process.communicate(stdin, timeout=SECONDS)
        except BaseException:
            process.kill()
            raise
    result = Result(process.returncode, out, err.decode())
    for value in (*SECRETS, SESSION_TOKEN, WRONG_SECRET):
        assert value not in result.err
        assert secret or value.encode() not in result.content
    assert "Traceback" not in result.err
    for path in Path(os.environ["HOME"]).glob("artifacts-traceback-*"):
        raise AssertionError(path.read_text())
    return result


def run(*arguments: str | os.PathLike[str], stdin: bytes | None = None, secret: bool = False, **options: Any) -> Result:
    """Run the command to its end; ``secret`` where its output is to hold one."""
    if stdin is not None:
        options["stdin"] = subprocess.PIPE
    return finish(start(*arguments, **options), stdin, secret=secret)


def inside(capsys: Any, *arguments: str | os.PathLike[str]) -> Result:
    """Run the command in this process, where nothing but its words and its code matter: ten times as fast."""
    from artifacts.cli.main import cli

    try:
        cli([os.fspath(argument) for argument in arguments], standalone_mode=False)
        code = 0
    except SystemExit as ended:
        code = int(ended.code or 0)
    shown = capsys.readouterr()
    return Result(code, shown.out.encode(), shown.err)


def kept_files(size: int, count: int = 3) -> dict[str, bytes]:
    """Files that do not compress, ``size`` bytes each."""
    return {f"file-{number}": os.urandom(size) for number in range(count)}


def tar(files: Mapping[str, bytes], mode: str = "w") -> bytes:
    """An archive of ``files``."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            member.mtime = 1_700_000_000
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below ``folder``, by its path there."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def labels(folder: Path) -> list[str]:
    """What a staging folder shows, partial folders and all but its state."""
    return sorted(path.name for path in folder.iterdir() if path.name != ".artifacts") if folder.exists() else []


def fill(folder: Path, files: Mapping[str, str | bytes]) -> Path:
    """Write ``files`` below ``folder``."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def credentials(keys: servers.Keys, **more: str) -> dict[str, Any]:
    """A request's ``credentials`` object."""
    return {"aws": {"access_key": keys.access_key, "secret_access_key": keys.secret_key, **more}}


class Bench:
    """A bucket on a server, a folder, and requests between the two.

    Args:
        server: what the objects are put on, behind the command's back.
        url: where the command is told to find it: the server itself, or a proxy before it.
    """

    def __init__(self, server: servers.S3Server, bucket: str, folder: Path, url: str | None = None) -> None:
        self.server = server
        self.bucket = bucket
        self.folder = folder
        self.url = url or server.endpoint_url
        self.host = self.url.removeprefix("http://")
        self.job = folder / "job"
        self.client = server.client()

    def through(self, url: str) -> Bench:
        """The same, by another way."""
        return Bench(self.server, self.bucket, self.folder, url)

    def put(self, key: str, content: bytes) -> None:
        self.client.put_object(Bucket=self.bucket, Key=key, Body=content)

    def read(self, key: str) -> bytes:
        return self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read()

    def keys(self) -> list[str]:
        return [entry["Key"] for entry in self.client.list_objects_v2(Bucket=self.bucket).get("Contents", [])]

    def place(self, key: str) -> str:
        return f"s3://{self.host}/{self.bucket}/{key}"

    def artifact(self, key: str, /, *, mutable: bool = False, unpack: bool = True, **more: Any) -> dict[str, Any]:
        """An artifact as the client writes it: host and port in ``qualified``, bucket, key, keys."""
        return {
            "bucket": self.bucket,
            "key": key,
            "qualified": self.place(key),
            "mutable": mutable,
            "unpack": unpack,
            "credentials": credentials(self.server.admin),
            **more,
        }

    def request(
        self,
        artifacts: Mapping[str, Any],
        *,
        config: Mapping[str, Any] | None = None,
        name: str = "request.json",
        **experiment: Any,
    ) -> Path:
        """Write a request."""
        path = self.folder / name
        document = {"config": config or {}, "experiment": {"key": "exp-1", "artifacts": artifacts, **experiment}}
        path.write_text(json.dumps(document))
        return path

    def stage(self, request: Path, *more: str, **options: Any) -> Result:
        return run("stage", request, "--into", self.job, "--endpoint", self.url, *more, **options)

    def upload(self, request: Path, *more: str, **options: Any) -> Result:
        return run("upload", request, "--from", self.job, "--endpoint", self.url, *more, **options)

    def run(self, request: Path, *command: str, flags: tuple[str, ...] = (), **options: Any) -> Result:
        return run("run", request, "--into", self.job, "--endpoint", self.url, *flags, "--", *command, **options)


@contextlib.contextmanager
def restartable(folder: Path) -> Iterator[Restartable]:
    """A real S3 server that may be killed and started again on the same port with the same objects."""
    server = Restartable(folder)
    try:
        server.start()
        yield server
    finally:
        server.kill()
        server.server.close()


class Restartable:
    """See :func:`restartable`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.keys = servers.ADMIN
        self.port = servers.free_port()
        self.server = servers.S3Server(f"http://127.0.0.1:{self.port}", self.keys)
        self._process: subprocess.Popen[bytes] | None = None
        (folder / "buckets").mkdir(parents=True)

    def start(self) -> None:
        command = [
            *(servers.program("rclone"), "serve", "s3", str(self.folder / "buckets")),
            *("--addr", f"127.0.0.1:{self.port}", "--auth-key", f"{self.keys.access_key},{self.keys.secret_key}", "-q"),
            *("--vfs-cache-mode", "writes", "--cache-dir", str(self.folder / "cache")),
        ]
        env = {"PATH": os.defpath, "HOME": str(self.folder), "RCLONE_CONFIG": os.devnull}
        log = self.folder / "server.log"
        with log.open("wb") as file:
            self._process = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
        servers._wait_for_s3(self.port, self._process, log)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
