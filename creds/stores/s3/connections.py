"""Connections to one S3 server: to addresses that were checked, over TLS that is always verified, kept while idle."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from creds.store import Cancel, StoreOptions
from creds.stores.http1 import BadAnswer, Connection
from creds.stores.url import Url
from creds.stores.wire import Wire, apart

if TYPE_CHECKING:
    from creds.proxies import Proxy

Addresses = Callable[[str, int], list[str]]

_KEPT = 64  # idle connections


class Unreached(ConnectionError):
    """There is no connection: nothing was asked."""


class UnknownHost(ConnectionError):
    """The server's name, or the proxy's, leads nowhere."""


class Connections:
    """Idle connections to one server, and how new ones are made.

    Args:
        url: the server.
        options: timeouts and TLS.
        proxy: what leads there, or None.
        addresses: gives the addresses behind a name, or raises where one of them may not be reached; None takes what
            the system resolves. Through a proxy the proxy resolves.

    Attributes:
        prefix: what goes before the path in a request's first line: a proxy wants the whole URL of a plaintext server.
        headers: what goes with every request, as bytes of the head; secret.
    """

    def __init__(self, url: Url, options: StoreOptions, proxy: Proxy | None, addresses: Addresses | None) -> None:
        self._url = url
        self._options = options
        self._proxy = proxy
        self._addresses = addresses
        self._lock = threading.Lock()
        self._idle: list[Connection] = []
        self._trust: ssl.SSLContext | None = None
        self._closed = False
        if proxy is not None:
            self._proxy_url = Url.parse(proxy.url)
        forwarded = proxy is not None and url.scheme == "http"
        self.prefix = url.origin if forwarded else ""
        self.headers = _lines(proxy) if forwarded and proxy is not None else ""

    def __del__(self) -> None:
        self.close()  # of a store that nobody closed

    def take(self) -> Connection | None:
        """An idle connection, the one that was used last; None where there is none."""
        while True:
            with self._lock:
                if not self._idle:
                    return None
                connection = self._idle.pop()
            if connection.idle():
                return connection
            connection.close()

    def keep(self, connection: Connection) -> None:
        """Let ``connection``, whose exchange is over, serve another one."""
        if connection.finish():
            with self._lock:
                if not self._closed and len(self._idle) < _KEPT:
                    self._idle.append(connection)
                    return
        connection.close()

    def close(self) -> None:
        """Close the idle ones, and whatever is kept afterwards."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def open(self, wire: Wire, cancel: Cancel | None) -> Connection:
        """A new connection, ``wire``'s from its first moment. Blocks for as long as the options allow.

        Raises:
            Unreached, TimeoutError, UnknownHost, ssl.SSLError: there is none.
            CredentialError: the client's certificate cannot be used.
            PolicyError, StoreError: the server's address may not be reached, or is not known.
            Cancelled.
        """
        if self._url.scheme == "https":
            self._trusted()  # what is wrong with a certificate of ours is told before anything is sent
        hosts, port = apart(self._resolved, cancel)
        failure: OSError | None = None
        for host in hosts:
            try:
                return self._connected(host, port, wire)
            except TimeoutError as error:
                failure = error
            except ssl.SSLError:
                raise
            except OSError as error:
                failure = error if isinstance(error, Unreached) else Unreached(str(error))
        raise failure or Unreached("no address")

    def _resolved(self) -> tuple[list[str], int]:
        """The addresses of the server, or of the proxy before it, and the port there."""
        url = self._url if self._proxy is None else self._proxy_url
        host = url.host.strip("[]")
        if self._addresses is not None and self._proxy is None:
            return self._addresses(host, url.port), url.port
        try:
            found = socket.getaddrinfo(host, url.port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise UnknownHost(str(error)) from error
        return [str(entry[4][0]) for entry in found], url.port

    def _connected(self, host: str, port: int, wire: Wire) -> Connection:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        connection = Connection(socket.socket(family, kind, protocol))
        try:
            wire.add(connection)
            connection.live.settimeout(self._options.connect_timeout_seconds)
            connection.live.connect(address)
            connection.live.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._proxy is not None and self._proxy_url.scheme == "https":
                self._secure(connection, self._proxy_url, self._options.tls.context(shown=False))
            if self._url.scheme == "https":
                if self._proxy is not None:
                    self._tunnel(connection)
                self._secure(connection, self._url, self._trusted())
            connection.bound(self._options.read_timeout_seconds)
        except BaseException:
            wire.discard(connection)
            connection.close()
            raise
        return connection

    def _trusted(self) -> ssl.SSLContext:
        with self._lock:
            if self._trust is None:
                self._trust = self._options.tls.context(shown=True)
            return self._trust

    def _secure(self, connection: Connection, url: Url, trust: ssl.SSLContext) -> None:
        host = url.host.strip("[]")
        if isinstance(connection.live, ssl.SSLSocket):
            from urllib3.util.ssltransport import SSLTransport

            connection.over(connection.live, SSLTransport(connection.live, trust, server_hostname=host))
            return
        live = trust.wrap_socket(connection.live, server_hostname=host, do_handshake_on_connect=False)
        connection.over(live, live)  # before the handshake, so that it can be stopped
        live.do_handshake()

    def _tunnel(self, connection: Connection) -> None:
        """Have the proxy connect it to the server (RFC 9110, 9.3.6)."""
        assert self._proxy is not None
        to = f"{self._url.host}:{self._url.port}"
        head = f"CONNECT {to} HTTP/1.1\r\nhost: {to}\r\n{_lines(self._proxy)}\r\n"
        try:
            answer = connection.ask(head.encode("latin-1"), bodiless=True)
        except TimeoutError:
            raise
        except (OSError, BadAnswer) as error:
            raise Unreached("the proxy does not answer") from error
        if not 200 <= answer.status < 300:
            raise Unreached(f"the proxy answers {answer.status}")
        connection.used = False  # by the server, that is


def _lines(proxy: Proxy) -> str:
    return "".join(f"{name}: {value}\r\n" for name, value in proxy.headers)
