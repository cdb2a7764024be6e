"""One connection made by hand, so that each part of it can be told apart: TCP, TLS, what a server says of itself.

The stores' engines connect by themselves and tell less; this is for :mod:`creds.doctor`. It obeys the same addresses,
CA, client certificate, proxies and timeouts, and sends no credential, no key of an object and no query.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from creds.location import split_server
from creds.proxies import proxy_of
from creds.store import Cancel, StoreOptions
from creds.stores.tree import dial, shut

if TYPE_CHECKING:
    from cryptography import x509

_LINE_BYTES = 4096
_LINES = 100


class NoTunnel(OSError):
    """Raised when the proxy is reached and does not lead on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """What a server's certificate says. Nothing of it is proven unless the handshake was accepted.

    Attributes:
        subject, issuer: the most telling part of each.
        names: what it is for.
        begins_at, ends_at: in UTC.
    """

    subject: str
    issuer: str
    names: tuple[str, ...]
    begins_at: datetime
    ends_at: datetime


class Answer(NamedTuple):
    """The beginning of an HTTP answer; ``headers`` in lower case."""

    status: int
    headers: Mapping[str, str]

    @property
    def date(self) -> datetime | None:
        """The server's clock; None where it does not tell."""
        try:
            moment = parsedate_to_datetime(self.headers.get("date", ""))
        except (ValueError, OverflowError):
            return None
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


class Contact:
    """A connection to ``url``'s server, not made yet.

    Args:
        url: ``scheme://host[:port]``; ``http``, ``https`` and the schemes of servers of files.
        addresses: those that may be connected to.
        options: the CA, client certificate, proxies and timeouts.
        cancel: breaks the connection.

    All methods raise OSError for what goes wrong, and Cancelled when ``cancel`` was used.
    """

    def __init__(self, url: str, addresses: Sequence[str], options: StoreOptions, cancel: Cancel | None = None) -> None:
        self._scheme, host, self._port = split_server(url)
        self._host = host
        self._url = url
        self._addresses = list(addresses)
        self._options = options
        self._cancel = cancel or Cancel()
        self._sock: socket.socket | None = None
        self.proxy = proxy_of(url, options) if self._scheme in ("http", "https") else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection. It may be made anew."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    @contextmanager
    def _bounded(self) -> Iterator[None]:
        """A part of the work that ends: when it is stopped, and when a server that drips has had its time."""
        late = False

        def stop() -> None:
            shut(self._sock)

        def expire() -> None:
            nonlocal late
            late = True
            stop()

        timer = threading.Timer(self._options.connect_timeout_seconds + self._options.read_timeout_seconds, expire)
        timer.daemon = True
        timer.start()
        try:
            with self._cancel.calling(stop):
                yield
        except (OSError, http.client.HTTPException) as error:
            self._cancel.check()
            if late:
                raise TimeoutError("not ready in time") from error
            raise
        finally:
            timer.cancel()
            timer.join()

    def _track(self, sock: socket.socket) -> None:
        self._sock = sock

    def connect(self) -> str:
        """Connect to the first address that answers, or to the proxy; says to which.

        Raises:
            NoTunnel: the proxy refused to lead on.
        """
        with self._bounded():
            if self.proxy is None:
                addresses = self._addresses
                self._sock = dial(
                    self._host, self._port, lambda *_: addresses, self._options.connect_timeout_seconds, self._track
                )
                address, port = self._sock.getpeername()[:2]
                return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
            _, host, port = split_server(self.proxy.url, ("http", "https"))
            self._sock = dial(host.strip("[]"), port, None, self._options.connect_timeout_seconds, self._track)
            if self._scheme == "https":
                self._tunnel()
            return f"the proxy {host}:{port}"

    def _tunnel(self) -> None:
        assert self.proxy is not None
        target = f"{self._host}:{self._port}"
        lines = [
            f"CONNECT {target} HTTP/1.1",
            f"Host: {target}",
            *(f"{name}: {value}" for name, value in self.proxy.headers),
        ]
        self._send("\r\n".join([*lines, "", ""]))
        status = self._line()
        for _ in range(_LINES):
            if not self._line():
                break
        if status.split(" ")[1:2] != ["200"]:
            raise NoTunnel(f"the proxy answers {' '.join(status.split(' ')[1:2]) or 'nothing of use'}")

    def _send(self, text: str) -> None:
        assert self._sock is not None
        self._sock.settimeout(self._options.read_timeout_seconds)
        self._sock.sendall(text.encode("latin-1"))

    def _line(self) -> str:
        """One line of the server's. Byte by byte: what follows may be TLS."""
        assert self._sock is not None
        line = bytearray()
        while len(line) < _LINE_BYTES:
            byte = self._sock.recv(1)
            if not byte:
                raise ConnectionResetError("the server closed the connection")
            if byte == b"\n":
                return line.decode("latin-1").rstrip("\r")
            line += byte
        raise ConnectionAbortedError("a line without an end")

    def secure(self) -> tuple[str, Certificate]:
        """The TLS handshake, over FTP after AUTH TLS: the version, and the certificate that was accepted.

        Raises:
            ssl.SSLError: it was not, or there was no handshake.
            CredentialError, LocationError: a certificate of ours cannot be used.
        """
        secured = self._wrap(self._options.tls.context(shown=True))
        raw = secured.getpeercert(binary_form=True)
        return secured.version() or "TLS", _certificate(raw or b"")

    def shown(self) -> Certificate:
        """The certificate that the server shows, whoever signed it, on a new connection that nothing is sent over."""
        self.close()
        self.connect()
        looking = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        looking.check_hostname = False
        looking.verify_mode = ssl.CERT_NONE  # only to say why it was refused before
        raw = self._wrap(looking).getpeercert(binary_form=True)
        self.close()
        return _certificate(raw or b"")

    def _wrap(self, trust: ssl.SSLContext) -> ssl.SSLSocket:
        assert self._sock is not None
        with self._bounded():
            self._sock.settimeout(self._options.connect_timeout_seconds)
            if self._scheme == "ftps":
                self._ask_for_tls()
            secured = trust.wrap_socket(
                self._sock, server_hostname=self._host.strip("[]"), do_handshake_on_connect=False
            )
            self._sock = secured  # before the handshake, which somebody may want to break off
            secured.do_handshake()
        return secured

    def _ask_for_tls(self) -> None:
        for say in ("", "AUTH TLS\r\n"):
            if say:
                self._send(say)
            for _ in range(_LINES):
                line = self._line()
                if line[3:4] == " ":
                    break
            if line[:1] != "2":
                raise ConnectionRefusedError("the server does not offer TLS (AUTH TLS)")

    def head(self, path: str) -> Answer:
        """What the server answers to HEAD, unsigned.

        Raises:
            http.client.HTTPException: it is no HTTP.
        """
        assert self._sock is not None
        self._sock.settimeout(self._options.read_timeout_seconds)
        connection = http.client.HTTPConnection(self._host, self._port)
        connection.sock = self._sock
        headers = {"User-Agent": "artifact-creds", "Connection": "close"}
        target = path
        if self.proxy is not None and self._scheme == "http":
            target = f"{self._url}{path}"
            headers |= dict(self.proxy.headers)
        with self._bounded():
            connection.request("HEAD", target, headers=headers)
            answer = connection.getresponse()
            with contextlib.closing(answer):
                return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()})

    def host_key(self) -> Any:
        """The SSH host key that the server shows, and what is wrong with it; ends the connection.

        Returns:
            An :class:`~creds.stores.sftp.Offered`.

        Raises:
            MissingDependency: paramiko is not installed.
        """
        from creds.stores.sftp import offered

        assert self._sock is not None
        try:
            with self._bounded():
                return offered(self._sock, self._host.strip("[]"), self._port, self._options)
        finally:
            self.close()


def _certificate(raw: bytes) -> Certificate:
    from cryptography import x509

    try:
        read = x509.load_der_x509_certificate(raw)
        return Certificate(
            subject=_name(read.subject),
            issuer=_name(read.issuer),
            names=_names(read),
            begins_at=read.not_valid_before_utc,
            ends_at=read.not_valid_after_utc,
        )
    except (ValueError, x509.UnsupportedGeneralNameType) as error:
        raise ssl.SSLError("the certificate cannot be read") from error


def _name(name: x509.Name) -> str:
    from cryptography.x509.oid import NameOID

    for wanted in (NameOID.COMMON_NAME, NameOID.ORGANIZATIONAL_UNIT_NAME, NameOID.ORGANIZATION_NAME):
        for found in name.get_attributes_for_oid(wanted):
            return str(found.value)
    return name.rfc4514_string() or "nobody"


def _names(read: x509.Certificate) -> tuple[str, ...]:
    from cryptography import x509

    try:
        found = read.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return (
        *found.get_values_for_type(x509.DNSName),
        *(str(address) for address in found.get_values_for_type(x509.IPAddress)),
    )
