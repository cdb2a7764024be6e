"""Real web servers on loopback, for tests: WebDAV by wsgidav, rclone and nginx, a scripted one, and a forward proxy.

Each is a context manager. wsgidav (on cheroot) and rclone come with the ``test`` extra, nginx is used where it is
installed; the scripted server and the proxy run in this process.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.server
import os
import secrets
import select
import shutil
import socket
import ssl
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import jwt as pyjwt
import servers
import tlsfront

USER, PASSWORD = "dav-user", "dav-pässword:with%signs"


@dataclass
class WebServer:
    """A running server, and the folder it serves."""

    url: str
    folder: Path
    tokens: Path | None = None

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.url.partition("://")[2].partition(":")
        return host, int(port)

    def accept(self, *tokens: str) -> None:
        """From now on accept these bearer tokens and no others."""
        assert self.tokens is not None
        fresh = self.tokens.with_suffix(".new")
        fresh.write_text("\n".join(tokens))
        fresh.rename(self.tokens)


def _bearer(app: Any, tokens: Path) -> Any:
    """A WSGI application behind the tokens that a file lists at the moment."""

    def guarded(environ: dict[str, Any], start: Any) -> Any:
        given = environ.pop("HTTP_AUTHORIZATION", "")
        if not (given.startswith("Bearer ") and given[7:] in tokens.read_text().split("\n")):
            start("401 Unauthorized", [("WWW-Authenticate", 'Bearer realm="dav"'), ("Content-Length", "0")])
            return [b""]
        return app(environ, start)

    return guarded


def _serve_wsgidav(port: int, folder: str, tokens: str) -> None:
    """Run wsgidav until the process is ended."""
    from cheroot import wsgi
    from wsgidav.wsgidav_app import WsgiDAVApp

    app: Any = WsgiDAVApp(
        {
            "provider_mapping": {"/": folder},
            "simple_dc": {"user_mapping": {"*": True if tokens else {USER: {"password": PASSWORD}}}},
            "http_authenticator": {"accept_basic": True, "accept_digest": False, "default_to_digest": False},
            "verbose": 0,
            "logging": {"enable_loggers": []},
            "lock_storage": True,
            "property_manager": None,
        }
    )
    wsgi.Server(("127.0.0.1", port), _bearer(app, Path(tokens)) if tokens else app, numthreads=10).start()


@contextlib.contextmanager
def wsgidav(*, tokens: Iterable[str] | None = None) -> Iterator[WebServer]:
    """wsgidav: Basic authentication as ``USER``, or one of ``tokens``. Compares conditions on writes.

    In a process of its own: it leaves files open when an upload breaks, and our tests must not.
    """
    port = servers.free_port()
    with tempfile.TemporaryDirectory(prefix="wsgidav-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        (folder / "served").mkdir()
        running = WebServer(f"http://127.0.0.1:{port}", folder / "served", folder / "tokens")
        running.accept(*(tokens or ()))
        listed = "" if tokens is None else str(folder / "tokens")
        command = [sys.executable, __file__, str(port), str(folder / "served"), listed]
        with servers._running(command, folder, {"PATH": os.defpath, "HOME": name}) as process:
            servers._wait_for_s3(port, process, folder / "output.log")  # any HTTP answer will do
            yield running


@contextlib.contextmanager
def rclone_webdav(*, tls: tuple[Path, Path] | None = None, anonymous: bool = False) -> Iterator[WebServer]:
    """``rclone serve webdav``: ignores conditions on PUT, and has Basic authentication only.

    Args:
        tls: the paths of a certificate chain and its key.
        anonymous: let everybody in.
    """
    rclone = servers.program("rclone")
    port = servers.free_port()
    with tempfile.TemporaryDirectory(prefix="rclone-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        (folder / "served").mkdir()
        command = [
            *(rclone, "serve", "webdav", str(folder / "served"), "--addr", f"127.0.0.1:{port}", "-q"),
            *("--etag-hash", "MD5", "--cache-dir", str(folder / "cache")),
        ]
        if not anonymous:
            command += ["--user", USER, "--pass", PASSWORD]
        if tls is not None:
            command += ["--cert", str(tls[0]), "--key", str(tls[1])]
        env = {"PATH": os.defpath, "HOME": name, "TMPDIR": name, "RCLONE_CONFIG": os.devnull}
        with servers._running(command, folder, env) as process:
            servers._wait_for_s3(port, process, folder / "output.log")
            yield WebServer(f"{'http' if tls is None else 'https'}://127.0.0.1:{port}", folder / "served")


def nginx_missing() -> str | None:
    """Why nginx's WebDAV cannot run here; None where it can."""
    if shutil.which("nginx") is None:
        return "nginx is not installed"
    if _dav_ext() is None:
        return "nginx has no dav-ext module here (libnginx-mod-http-dav-ext)"
    return None


def _dav_ext() -> Path | None:
    places = (Path("/usr/lib/nginx/modules"), Path("/usr/lib64/nginx/modules"))
    found = (place / "ngx_http_dav_ext_module.so" for place in places)
    return next((path for path in found if path.exists()), None)


@dataclass
class Nginx:
    """One nginx with one folder, and four ways to it.

    Attributes:
        basic: Basic authentication as ``USER``, in plaintext. ``tls`` is the same over TLS.
        bearer: over TLS, for who brings the token.
        mutual: over TLS, for who shows a certificate of the authority; no other credential is asked for.
        token: what ``bearer`` wants: a JWT, which nginx compares by its text.
        authority: signed all certificates.
    """

    basic: WebServer
    tls: WebServer
    bearer: WebServer
    mutual: WebServer
    token: str
    authority: tlsfront.Authority


@contextlib.contextmanager
def nginx_dav() -> Iterator[Nginx]:
    """nginx with its dav and dav-ext modules: ignores conditions on PUT, wants a slash after a folder's name.

    It answers a PUT into a folder that is not there with 500, and lists no name that begins with a dot.
    """
    ports = [servers.free_port() for _ in range(4)]
    now = int(time.time())
    claims = {"iss": "https://issuer", "sub": "job-7", "exp": now + 3600}
    token = pyjwt.encode(claims, secrets.token_hex(32), algorithm="HS256")
    with tempfile.TemporaryDirectory(prefix="nginx-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        (folder / "data").mkdir()
        authority = tlsfront.Authority(folder)
        authority.server.private_key_and_cert_chain_pem.write_to_path(str(folder / "server.pem"))
        (folder / "ca.pem").write_bytes(authority.pem)
        hashed = base64.b64encode(hashlib.sha1(PASSWORD.encode()).digest()).decode()
        (folder / "htpasswd").write_text(f"{USER}:{{SHA}}{hashed}\n")
        user = "user root;" if os.geteuid() == 0 else ""
        paths = "".join(
            f"{kind}_temp_path {name}/{kind}; " for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        basic = f"auth_basic dav; auth_basic_user_file {name}/htpasswd;"
        refused = """if ($known = 0) { add_header WWW-Authenticate 'Bearer realm="dav"' always; return 401; }"""
        ways = (
            ("", basic, ""),
            ("ssl", basic, ""),
            ("ssl", "", refused),
            ("ssl", f"ssl_client_certificate {name}/ca.pem; ssl_verify_client on;", ""),
        )
        (folder / "nginx.conf").write_text(
            f"""load_module {_dav_ext()};
            daemon off; master_process off; pid {name}/nginx.pid; error_log stderr warn; {user}
            events {{ worker_connections 128; }}
            http {{
              access_log off; client_max_body_size 0; {paths} map_hash_bucket_size 512;
              ssl_certificate {name}/server.pem; ssl_certificate_key {name}/server.pem;
              map $http_authorization $known {{ default 0; "Bearer {token}" 1; }}
              dav_methods PUT DELETE MKCOL COPY MOVE; dav_ext_methods PROPFIND OPTIONS;
              create_full_put_path off; min_delete_depth 1; root {name}/data;
              {
                "".join(
                    f"server {{ listen 127.0.0.1:{port} {tls}; {who} location / {{ {check} }} }}"
                    for port, (tls, who, check) in zip(ports, ways, strict=True)
                )
            }
            }}"""
        )
        command = ["nginx", "-p", name, "-c", str(folder / "nginx.conf")]
        with servers._running(command, folder, {"PATH": os.environ["PATH"]}) as process:
            servers._wait_for_s3(ports[0], process, folder / "output.log")
            found = [
                WebServer(f"http{'s' if tls else ''}://127.0.0.1:{port}", folder / "data")
                for port, (tls, *_) in zip(ports, ways, strict=True)
            ]
            yield Nginx(*found, token, authority)


@dataclass
class Seen:
    """One request as a scripted server got it."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    certificate: Any = None  # the client's, where it showed one


Answer = tuple[int, dict[str, str], bytes]


class ScriptedServer:
    """A small HTTP server whose answers a test writes, in a thread of its own; it speaks TLS where it has a context.

    Args:
        answer: called with each request, in the connection's thread.
        context: a server's TLS context, or None.
        version: of HTTP; ``HTTP/1.0`` closes after each answer.
    """

    def __init__(
        self, answer: Callable[[Seen], Answer], context: ssl.SSLContext | None = None, version: str = "HTTP/1.1"
    ) -> None:
        self.requests: list[Seen] = []
        self.names: list[str] = []  # the names that clients asked for by SNI
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = version
            timeout = 20

            def serve(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(length)
                while self.headers.get("Transfer-Encoding") == "chunked":
                    size = int(self.rfile.readline(), 16)
                    body += self.rfile.read(size)
                    self.rfile.readline()
                    if not size:
                        break
                headers = {name.lower(): value for name, value in self.headers.items()}
                shown = self.connection.getpeercert() if context is not None else None
                seen = Seen(self.command, self.path, headers, body, shown)
                outer.requests.append(seen)
                status, headers, content = answer(seen)
                self.send_response_only(status)
                if "Content-Length" not in headers and "Transfer-Encoding" not in headers and version != "HTTP/1.0":
                    headers = {**headers, "Content-Length": str(len(content))}
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            def __getattr__(self, name: str) -> Any:
                if name.startswith("do_"):
                    return self.serve
                raise AttributeError(name)

            def log_message(self, *args: Any) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def get_request(self) -> Any:
                connection, address = super().get_request()
                if context is None:
                    return connection, address
                connection.settimeout(20)
                return context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False), address

            def handle_error(self, request: Any, client_address: Any) -> None:
                # A client that goes away, or refuses the certificate, is what some tests are about. One that is refused
                # must hear why: a close with its request unread would take the alert back.
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(request, socket.SHUT_WR)
                    while socket.socket.recv(request, 1 << 16):
                        pass

        if context is not None:
            context.sni_callback = lambda _sock, name, _context: self.names.append(name or "")
        self._server = Server(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self.url = f"{'http' if context is None else 'https'}://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class ForwardProxy:
    """A forward proxy: CONNECT for TLS, absolute URLs for plaintext. It resolves every name to loopback.

    Args:
        user: ``user:password`` that it wants, or None.

    Attributes:
        lines: the request lines it got, in order.
    """

    def __init__(self, user: str | None = None) -> None:
        self.lines: list[str] = []
        self._wanted = None if user is None else "Basic " + base64.b64encode(user.encode()).decode()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._threads: list[threading.Thread] = []
        self._sockets: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(client,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, client: socket.socket) -> None:
        self._sockets.append(client)
        with client, contextlib.suppress(OSError, ValueError):
            head = b""
            while b"\r\n\r\n" not in head:
                if not (chunk := client.recv(65536)):
                    return
                head += chunk
            line, _, rest = head.partition(b"\r\n")
            self.lines.append(line.decode())
            headers = rest.partition(b"\r\n\r\n")[0].decode("latin-1").lower()
            if self._wanted is not None and f"proxy-authorization: {self._wanted}".lower() not in headers:
                client.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
                return
            method, target, version = line.decode().split(" ")
            if method == "CONNECT":
                port = int(target.rpartition(":")[2])
                with socket.create_connection(("127.0.0.1", port), timeout=10) as server:
                    client.sendall(b"HTTP/1.1 200 Connected\r\n\r\n")
                    self._pump(client, server)
                return
            authority, _, path = target.removeprefix("http://").partition("/")
            port = int(authority.rpartition(":")[2]) if ":" in authority else 80
            with socket.create_connection(("127.0.0.1", port), timeout=10) as server:
                # One request a connection is enough of a proxy.
                server.sendall(f"{method} /{path} {version}\r\nConnection: close\r\n".encode() + rest)
                self._pump(client, server)

    def _pump(self, client: socket.socket, server: socket.socket) -> None:
        self._sockets.append(server)
        while True:
            ready, _, _ = select.select([client, server], [], [], 20)
            for source in ready:
                chunk = source.recv(65536)
                if not chunk:
                    return
                (server if source is client else client).sendall(chunk)
            if not ready:
                return

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for one in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in (self._thread, *self._threads):
            thread.join()


if __name__ == "__main__":
    _serve_wsgidav(int(sys.argv[1]), sys.argv[2], sys.argv[3])
