"""The servers: nginx for what only a client limits, SeaweedFS as it is deployed, and a proxy that adds latency."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import servers  # noqa: E402 - the line above says where it is

NGINX, SEAWEEDFS = "nginx", "SeaweedFS"
READY_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True)
class Server:
    """Where contenders send their requests.

    Attributes:
        kind: ``NGINX``, which serves files, knows no signatures and lists nothing; or ``SEAWEEDFS``.
    """

    kind: str
    endpoint_url: str

    @property
    def address(self) -> str:
        return self.endpoint_url.removeprefix("http://")

    @property
    def environ(self) -> Mapping[str, str]:
        """The keys as every S3 client reads them, and the endpoint for programs of this folder."""
        return {
            "AWS_ACCESS_KEY_ID": servers.ADMIN.access_key,
            "AWS_SECRET_ACCESS_KEY": servers.ADMIN.secret_key,
            "BENCH_ENDPOINT": self.endpoint_url,
        }

    def url(self, key: str, bucket: str = "data") -> str:
        return f"s3+{self.endpoint_url}/{bucket}/{key}"

    def s3(self) -> servers.S3Server:
        """It, to look behind the contenders' backs."""
        return servers.S3Server(self.endpoint_url, servers.ADMIN)


def nginx_program() -> str | None:
    """Where nginx is; Debian keeps it where only root looks."""
    return shutil.which("nginx", path=os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin"]))


_NGINX = """\
{user} daemon off; worker_processes 1; pid {folder}/pid; error_log stderr warn;
events {{ worker_connections 4096; }}
http {{
    access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000; types {{}}
    default_type application/octet-stream; open_file_cache max=100000; open_file_cache_valid 1h;
    client_body_temp_path {folder}/t; proxy_temp_path {folder}/t; fastcgi_temp_path {folder}/t;
    uwsgi_temp_path {folder}/t; scgi_temp_path {folder}/t;
    server {{ listen 127.0.0.1:{port}; root {root}; }}
}}
"""


@contextlib.contextmanager
def nginx(root: Path) -> Iterator[Server]:
    """nginx with one worker, which serves ``root``: a bucket is a folder in it, a key a file.

    Raises:
        FileNotFoundError: nginx is not installed.
    """
    program = nginx_program()
    if program is None:
        raise FileNotFoundError("nginx is not installed")
    with tempfile.TemporaryDirectory(prefix="bench-nginx-") as name, contextlib.ExitStack() as stack:
        folder, port = Path(name), servers.free_port()
        # Its worker would otherwise be nobody, who cannot read everything that root can.
        user = "user root;" if os.geteuid() == 0 else ""
        (folder / "conf").write_text(_NGINX.format(user=user, folder=folder, port=port, root=root))
        stack.enter_context(_process([program, "-p", name, "-c", str(folder / "conf")], folder / "log"))
        _wait_for(port, folder / "log")
        yield Server(kind=NGINX, endpoint_url=f"http://127.0.0.1:{port}")


@contextlib.contextmanager
def seaweedfs() -> Iterator[Server]:
    with servers.seaweedfs() as server:
        yield Server(kind=SEAWEEDFS, endpoint_url=server.endpoint_url)


@contextlib.contextmanager
def delayed(server: Server, round_trip_seconds: float) -> Iterator[Server]:
    """The same server, further away."""
    with tempfile.TemporaryDirectory(prefix="bench-far-") as name:
        port = servers.free_port()
        command = [sys.executable, str(Path(__file__).with_name("far.py")), str(port), server.address]
        with _process([*command, str(round_trip_seconds)], Path(name, "log")):
            _wait_for(port, Path(name, "log"))
            yield replace(server, endpoint_url=f"http://127.0.0.1:{port}")


@contextlib.contextmanager
def _process(command: list[str], log: Path) -> Iterator[None]:
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(port: int, log: Path) -> None:
    ends = time.monotonic() + READY_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if time.monotonic() > ends:
                raise TimeoutError(f"a server did not start: {log.read_text(errors='replace')[-500:]}") from None
            time.sleep(0.02)
        else:
            return
