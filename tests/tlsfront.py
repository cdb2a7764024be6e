"""A TLS server before a plain one, and a forward proxy: what stands between a client and its server."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import trustme

_ANY_PORT = ("127.0.0.1", 0)


@dataclass
class Authority:
    """A private certificate authority, with a server's and a client's certificate as files.

    Attributes:
        names: what the server's certificate is for.
        pem: the authority's own certificate.
    """

    folder: Path
    authority: trustme.CA = field(default_factory=trustme.CA)
    names: tuple[str, ...] = ("localhost", "127.0.0.1")

    def __post_init__(self) -> None:
        self.pem = self.authority.cert_pem.bytes()
        self.server = self.authority.issue_cert(*self.names)
        client = self.authority.issue_cert("runner@example.com")
        self.client_cert, self.client_key = str(self.folder / "client.pem"), str(self.folder / "client.key")
        client.cert_chain_pems[0].write_to_path(self.client_cert)
        client.private_key_pem.write_to_path(self.client_key)


@dataclass
class Front:
    """A listening port that passes bytes on.

    Attributes:
        accepted: connections that were passed on.
        connects: what a proxy was asked to connect to.
        sent: what clients said through TLS, each connection's apart.
    """

    port: int
    accepted: int = 0
    connects: list[str] = field(default_factory=list)
    sent: list[bytearray] = field(default_factory=list)

    def requests(self) -> list[tuple[str, dict[str, str]]]:
        """Method and path, and headers in lower case, of every request; bodies must not look like one."""
        found = []
        methods = rb"(?:GET|HEAD|PUT|POST|DELETE|CONNECT)"  # right behind the body of the one before, too
        for head in re.finditer(
            rb"(" + methods + rb" \S+) HTTP/1.1\r\n(.*?)\r\n\r\n", b"\n".join(self.sent), re.DOTALL
        ):
            lines = [line.partition(":") for line in head[2].decode("latin-1").split("\r\n")]
            found.append((head[1].decode(), {name.lower(): value.strip() for name, _, value in lines}))
        return found


@contextlib.contextmanager
def tls_front(
    upstream: tuple[str, int],
    authority: Authority,
    *,
    client_cert: bool = False,
    address: tuple[str, int] = _ANY_PORT,
) -> Iterator[Front]:
    """TLS on a port of its own, passed on to ``upstream`` in plaintext; with ``client_cert`` only for who shows one."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.server.configure_cert(context)
    if client_cert:
        context.verify_mode = ssl.CERT_REQUIRED
        authority.authority.configure_trust(context)

    def serve(front: Front, plain: socket.socket) -> None:
        with contextlib.suppress(OSError), context.wrap_socket(plain, server_side=True) as client:
            front.accepted += 1
            with socket.create_connection(upstream) as server:
                front.sent.append(sent := bytearray())
                _pump(client, server, sent)

    with _listening(serve, address) as front:
        yield front


@contextlib.contextmanager
def plain_front(
    upstream: tuple[str, int], address: tuple[str, int] = _ANY_PORT, corrupt_at: int | None = None
) -> Iterator[Front]:
    """``upstream`` at another address; with ``corrupt_at`` the bits of that byte of what it says are flipped."""

    def serve(front: Front, client: socket.socket) -> None:
        with contextlib.suppress(OSError), client, socket.create_connection(upstream) as server:
            front.accepted += 1
            _pump(client, server, corrupt_at=corrupt_at)

    with _listening(serve, address) as front:
        yield front


@contextlib.contextmanager
def forward_proxy() -> Iterator[Front]:
    """An HTTP proxy on loopback: CONNECT for TLS, absolute URLs for plaintext."""

    def serve(front: Front, client: socket.socket) -> None:
        with contextlib.suppress(OSError), client:
            head = b""
            while b"\r\n\r\n" not in head:
                if not (more := client.recv(65536)):
                    return
                head += more
            method, target, _ = head.split(b" ", 2)
            front.connects.append(target.decode())
            if method == b"CONNECT":
                host, _, port = target.decode().rpartition(":")
                with socket.create_connection((host, int(port))) as server:
                    client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                    _pump(client, server)
                return
            authority, _, path = target.decode().removeprefix("http://").partition("/")
            host, _, port = authority.partition(":")
            with socket.create_connection((host, int(port or 80))) as server:
                server.sendall(
                    head.replace(target, b"/" + path.encode(), 1).replace(b"\r\n", b"\r\nConnection: close\r\n", 1)
                )
                _pump(client, server)

    with _listening(serve) as front:
        yield front


@contextlib.contextmanager
def _listening(serve: object, address: tuple[str, int] = _ANY_PORT) -> Iterator[Front]:
    listener = socket.create_server(address)
    front = Front(listener.getsockname()[1])

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(front, client), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield front
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


def _pump(
    one: socket.socket, other: socket.socket, sent: bytearray | None = None, *, corrupt_at: int | None = None
) -> None:
    """Pass bytes both ways until either side ends; keep in ``sent`` what ``one`` said."""

    def back() -> None:
        count = 0
        with contextlib.suppress(OSError):
            while data := bytearray(other.recv(65536)):
                if corrupt_at is not None and 0 <= corrupt_at - count < len(data):
                    data[corrupt_at - count] ^= 0xFF
                count += len(data)
                one.sendall(data)
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)

    thread = threading.Thread(target=back, daemon=True)
    thread.start()
    with contextlib.suppress(OSError):
        while data := one.recv(65536):
            if sent is not None:
                sent += data
            other.sendall(data)
    with contextlib.suppress(OSError):
        other.shutdown(socket.SHUT_WR)
    thread.join(5)
