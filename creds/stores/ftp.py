"""``ftp:`` and ``ftps:`` locations: a server's files over FTP, in the clear, with explicit or with implicit TLS.

Over TLS the certificate is checked, and the data connections are protected as the control connection is and resume its
TLS session, which some servers require. Data connections are passive and go to the address of the control connection,
whatever address the server names. Commands are those of RFC 959, RFC 2389 (FEAT), RFC 2428 (EPSV), RFC 3659 (MLST,
MLSD, SIZE, MDTM, REST) and RFC 4217 (AUTH TLS, PBSZ, PROT).

A server refuses a missing file and a forbidden one with the same numbers (550 on most, 450, 551 or 553 on some). A file
is therefore absent only if the listing of its folder lacks it.
"""

from __future__ import annotations

import contextlib
import ftplib
import re
import select
import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from creds.errors import (
    AccessDenied,
    CredentialError,
    NotSupported,
    ObjectNotFound,
    StoreError,
    StoreUnavailable,
    Unauthenticated,
)
from creds.store import StoreOptions
from creds.stores.tree import Addresses, Entry, Failure, TreeStore, dial, printable, shut

CHUNK_BYTES = 256 << 10

MAX_LISTING_BYTES = 128 << 20
"""A longer listing of one folder is refused."""

_REFUSED = ("450", "501", "550", "551", "553")
"""What servers answer about a file that is absent or forbidden."""

_SECURITY = ("none", "explicit", "implicit")
_TIME = re.compile(r"(\d{14})(?:\.(\d{1,6})\d*)?")
_UNIX = re.compile(
    r"(?P<kind>[-dlbcps])[-rwxsStTlL]{9}[.+@]?\s+\d+\s+\S+\s+\S+\s+(?P<size>\d+)\s+"
    r"[A-Za-z]{3}\s+\d{1,2}\s+(?:\d{4}|\d{1,2}:\d{2}) (?P<name>.+)"
)
_DOS = re.compile(r"\d{2}-\d{2}-\d{2,4}\s+\d{2}:\d{2}(?:[AP]M)?\s+(?:(?P<folder><DIR>)|(?P<size>\d+))\s+(?P<name>.+)")


class FtpStore(TreeStore):
    """The files below the folder that an FTP login leads to.

    Args:
        host: a name or address, IPv6 with or without brackets; with TLS the certificate must be for it.
        port: of the control connection.
        security: ``none``; ``explicit`` (AUTH TLS before the login); ``implicit`` (TLS from the first byte).
        user, password: of the login.
        options: timeouts, retries and ``tls``.
        addresses: gives the addresses that may be connected to; None resolves the name.
        location: how errors name the server.

    Raises:
        CredentialError: the user or password cannot be sent: it holds a line break.
    """

    _barred = "\0\r\n\udcff"  # FTP is lines of text over Telnet, where the byte 255 is a command

    def __init__(
        self,
        host: str,
        port: int,
        *,
        security: str,
        user: str,
        password: str,
        options: StoreOptions,
        addresses: Addresses | None = None,
        location: str = "",
    ) -> None:
        if security not in _SECURITY:
            raise ValueError(f"security is {security!r}, not one of {', '.join(_SECURITY)}")
        scheme = {"none": "ftp", "explicit": "ftps", "implicit": "ftps+implicit"}[security]
        super().__init__(options, location or f"{scheme}://{host}:{port}")
        for name, text in (("user", user), ("password", password)):
            if any(char in text for char in "\r\n\0"):
                raise CredentialError(f"the FTP {name} holds a line break or NUL", location=self._location)
        self._host = host.strip("[]")
        self._port = port
        self._security = security
        self._user = user
        self._password = password
        self._addresses = addresses
        self._context: ssl.SSLContext | None = None

    def _session(self) -> _Session:
        if self._security != "none" and self._context is None:
            self._context = self._options.tls.context(shown=True)
        return _Session(
            self._host,
            self._port,
            implicit=self._security == "implicit",
            context=self._context,
            user=self._user,
            password=self._password,
            options=self._options,
            addresses=self._addresses,
        )


class _Wire:
    """The sockets of a session, which another thread may break."""

    def __init__(self) -> None:
        self.aborted = False
        self._lock = threading.Lock()
        self._control: socket.socket | None = None
        self._data: socket.socket | None = None

    def control(self, sock: socket.socket) -> None:
        self._hold("_control", sock)

    def data(self, sock: socket.socket | None) -> None:
        self._hold("_data", sock)

    def _hold(self, name: str, sock: socket.socket | None) -> None:
        with self._lock:
            setattr(self, name, sock)
            if self.aborted:
                raise ConnectionAbortedError("stopped")

    def abort(self) -> None:
        """Break the data connection, or where there is none the control connection.

        One of the two is enough to end what is going on; the other may then serve to clean up.
        """
        with self._lock:
            self.aborted = True
            shut(self._data or self._control)

    def close(self) -> None:
        """Close the data connection, if there is one; ftplib closes the other."""
        with self._lock:
            if self._data is not None:
                self._data.close()
                self._data = None


class _Unprotected(ssl.SSLError):
    """A data connection that did not get through its TLS handshake; the cause says why."""


class _Client(ftplib.FTP):
    """ftplib with the sockets in our hands: dialled, watched, and wrapped in TLS before they are used."""

    def __init__(self, wire: _Wire, options: StoreOptions, context: ssl.SSLContext | None) -> None:
        super().__init__(timeout=options.read_timeout_seconds, encoding="utf-8")
        self.wire = wire
        self.options = options
        self.context = context
        self.secured = False
        self.spoilt = False

    def begin(self, host: str, port: int, addresses: Addresses | None, *, implicit: bool) -> None:
        """Connect and read the greeting."""
        self.host, self.port = host, port
        self._adopt(dial(host, port, addresses, self.options.connect_timeout_seconds, self.wire.control))
        if implicit:
            self.secure()
        self.welcome = self.getresp()

    def _adopt(self, sock: socket.socket) -> None:
        sock.settimeout(self.options.read_timeout_seconds)
        self.sock = sock
        self.af = sock.family
        self.file = sock.makefile("r", encoding="utf-8", errors="surrogateescape")

    def secure(self) -> None:
        """Go over to TLS on the control connection."""
        bare = self.sock
        assert bare is not None
        assert self.file is not None
        self.file.close()
        self._adopt(self.wrapped(bare, self.wire.control, None))
        self.secured = True

    def wrapped(self, sock: socket.socket, track: Any, session: ssl.SSLSession | None) -> ssl.SSLSocket:
        """``sock`` after the TLS handshake, with the server's certificate checked."""
        assert self.context is not None
        over = self.context.wrap_socket(sock, server_hostname=self.host, do_handshake_on_connect=False, session=session)
        try:
            track(over)
            over.do_handshake()
        except BaseException:
            over.close()
            raise
        return over

    def _protected(self, conn: socket.socket) -> ssl.SSLSocket:
        """A data connection over TLS, in the TLS session of the control connection."""
        assert isinstance(self.sock, ssl.SSLSocket)
        try:
            return self.wrapped(conn, self.wire.data, self.sock.session)
        except OSError as error:
            raise _Unprotected(str(error)) from error

    def putline(self, line: str) -> None:
        if "\r" in line or "\n" in line:
            raise ValueError("a line break in a command")
        assert self.sock is not None
        self.sock.sendall(f"{line}\r\n".encode("utf-8", "surrogateescape"))

    def ntransfercmd(self, cmd: str, rest: int | str | None = None) -> tuple[socket.socket, int | None]:
        """As in ftplib, on a connection of ours. Passive always."""
        assert self.sock is not None
        _, port = self.makepasv()
        # The address is the control connection's: the one that a server names may be another machine.
        peer = str(self.sock.getpeername()[0])
        conn = dial(peer, port, lambda host, _: [host], self.options.connect_timeout_seconds, self.wire.data)
        try:
            conn.settimeout(self.options.read_timeout_seconds)
            if rest is not None:
                self.sendcmd(f"REST {rest}")
            answer = self.sendcmd(cmd)
            if answer[0] == "2":  # some servers say 200 before the 150
                answer = self.getresp()
            _expect(answer, "1")
            if self.secured:
                conn = self._protected(conn)
        except BaseException:
            # The close of a data connection that was not wanted makes some servers speak of a complete transfer, at a
            # moment of their own: what is read from now on may answer anything.
            self.spoilt = True
            conn.close()
            with contextlib.suppress(ConnectionAbortedError):
                self.wire.data(None)
            raise
        return conn, None


class _Session:
    """One control connection, logged in, in binary mode."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        implicit: bool,
        context: ssl.SSLContext | None,
        user: str,
        password: str,
        options: StoreOptions,
        addresses: Addresses | None,
    ) -> None:
        self._host = host
        self._port = port
        self._implicit = implicit
        self._user = user
        self._password = password
        self._addresses = addresses
        self._options = options
        self._wire = _Wire()
        self._home = ""
        self._features: set[str] = set()
        self._hidden = True
        self.client = _Client(self._wire, options, context)

    @property
    def aborted(self) -> bool:
        return self._wire.aborted

    def abort(self) -> None:
        self._wire.abort()

    def close(self) -> None:
        self._wire.close()
        self.client.close()

    def fresh(self) -> bool:
        sock = self.client.sock
        if self.client.spoilt or sock is None or (isinstance(sock, ssl.SSLSocket) and sock.pending()):
            return False
        # Nothing is owed to us, so what there is to read is a goodbye (or a late TLS ticket: rather too careful).
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        return not poll.poll(0)

    # Connecting.

    def connect(self) -> None:
        client = self.client
        with self._speaking(), self._greeting():
            client.begin(self._host, self._port, self._addresses, implicit=self._implicit)
        if client.context is not None:
            self._protect()
        self._log_in()
        with self._speaking():
            self._features = self._feat()
            if "UTF8" in self._features:
                with contextlib.suppress(ftplib.error_perm, ftplib.error_temp):
                    client.sendcmd("OPTS UTF8 ON")
            client.voidcmd("TYPE I")
            self._home = client.pwd().rstrip("/")

    @contextmanager
    def _greeting(self) -> Iterator[None]:
        try:
            yield
        except ssl.SSLCertVerificationError as error:
            raise _untrusted(error) from error
        except ssl.SSLEOFError:
            raise
        except ssl.SSLError as error:
            raise _no_tls(str(error.reason)) from error
        except UnicodeDecodeError as error:
            raise Failure(StoreError, "the server does not speak FTP") from error
        except ftplib.error_proto as error:
            hint = "a server that begins with TLS wants ftps+implicit://" if self.client.context is None else None
            raise Failure(StoreError, "the server does not speak FTP", hint=hint) from error

    def _renew(self) -> None:
        """Go on over another connection."""
        self.close()
        self.client = _Client(self._wire, self._options, self.client.context)
        self.connect()

    def _protect(self) -> None:
        client = self.client
        if not self._implicit:
            try:
                with self._speaking():
                    client.voidcmd("AUTH TLS")
            except Failure as error:
                if error.retryable or error.kind is StoreUnavailable:
                    raise
                raise _no_tls(error.said) from error
            with self._speaking(), self._greeting():
                client.secure()
        try:
            with self._speaking():
                client.voidcmd("PBSZ 0")
                client.voidcmd("PROT P")
        except Failure as error:
            # Before RFC 4217 servers with implicit TLS had no PROT. The data goes over TLS in any case, or not at all.
            if not self._implicit or error.kind is StoreUnavailable:
                raise Failure(
                    StoreError,
                    f"the server does not protect data connections: {error.said}",
                    server_code=error.server_code,
                ) from error

    def _log_in(self) -> None:
        try:
            self.client.login(self._user, self._password)
        except (ftplib.error_perm, ftplib.error_reply) as error:
            # The server's words are left out: some repeat what was sent.
            code = str(error)[:3]
            plain = self.client.context is None
            hint = "check the user and password"
            if plain and code in {"421", "522", "534", "550"}:
                wants = "the server wants TLS before the login"
                raise Failure(AccessDenied, wants, server_code=code, hint="write the location as ftps://") from None
            if plain:
                hint += "; a server that wants TLS first is ftps://"
            raise Failure(Unauthenticated, f"the login was refused ({code})", hint=hint, server_code=code) from None
        except ftplib.Error as error:
            raise self._failure(error) from None

    def _feat(self) -> set[str]:
        try:
            answer = self.client.sendcmd("FEAT")
        except (ftplib.error_perm, ftplib.error_temp):
            return set()
        return {line.split()[0].upper() for line in answer.splitlines()[1:-1] if line.strip()}

    # What went wrong.

    @contextmanager
    def _speaking(self) -> Iterator[None]:
        try:
            yield
        except ftplib.Error as error:
            raise self._failure(error) from error

    def _failure(self, error: ftplib.Error) -> Failure:
        text = str(error)
        code = text[:3]
        said = f"the server said {printable(text, self._password)}"
        kind: type[StoreError] = StoreError
        hint = None
        if not code.isdigit():
            return Failure(StoreUnavailable, f"the server's answer is none: {printable(text, self._password)}")
        if code in {"430", "530", "532"}:
            kind = Unauthenticated
        elif code in {"452", "552"}:
            hint = "the server has no room for it"
        elif code in {"550", "551", "553"}:
            kind = AccessDenied
        elif code in {"500", "502", "504"}:
            kind = NotSupported
        elif code in {"521", "522", "534", "536"}:
            hint = "the server has other wishes about TLS: ftp://, ftps:// and ftps+implicit:// differ in that"
        elif code.startswith("4") or code == "500":
            kind = StoreUnavailable
        return Failure(kind, said, hint=hint, server_code=code)

    def _refusal(self, key: str, error: ftplib.Error) -> Failure:
        """Absent, a folder, or not allowed? The listing of the folder tells."""
        if str(error)[:3] not in _REFUSED:
            return self._failure(error)
        entry = self._find(key)
        if entry is None:
            return Failure(ObjectNotFound, "no such file", server_code=str(error)[:3])
        if entry.folder:
            return Failure(ObjectNotFound, "a folder, not a file", server_code=str(error)[:3])
        failure = self._failure(error)
        # It is there: a 450 is what it says, busy; the rest is no permission.
        if not str(error).startswith("4"):
            failure.kind = AccessDenied
        return failure

    def _find(self, key: str) -> Entry | None:
        """The entry of ``key`` in the listing of its folder, None where it has none."""
        if key in {"", "/"}:
            return Entry(name=key, folder=True)
        if self.client.spoilt:
            self._renew()
        above, slash, name = key.rpartition("/")
        folder = above or slash
        try:
            entries = self._listing(folder)
        except (ftplib.error_perm, ftplib.error_temp) as error:
            if str(error)[:3] not in _REFUSED:
                raise self._failure(error) from error
            parent = self._find(folder)
            if parent is None or not parent.folder:
                return None
            raise self._failure(error) from error
        return next((entry for entry in entries if entry.name == name), None)

    def _path(self, key: str) -> str:
        """A key as the server's absolute path, so that no name is taken for an option or loses its first space."""
        return key if key.startswith("/") else f"{self._home}/{key}"

    # The verbs.

    def head(self, key: str) -> Entry:
        path = self._path(key)
        name = key.rpartition("/")[2]
        try:
            told = "MLST" in self._features
            entry = _facts(self._mlst(path), name) if told else self._size_and_time(path, name)
        except (ftplib.error_perm, ftplib.error_temp) as error:
            raise self._refusal(key, error) from error
        except ftplib.Error as error:
            raise self._failure(error) from error
        if entry.folder:
            raise Failure(ObjectNotFound, "a folder, not a file")
        return entry

    def _mlst(self, path: str) -> str:
        lines = self.client.sendcmd(f"MLST {path}").split("\n")
        # The one line of facts begins with a space; servers indent it, or say it in the first line.
        found = [line.lstrip() for line in lines[1:-1]] or [lines[0][4:]]
        return found[0].partition(" ")[0]

    def _size_and_time(self, path: str, name: str) -> Entry:
        size = self.client.sendcmd(f"SIZE {path}")[4:].strip()
        modified = None
        with contextlib.suppress(ftplib.error_perm):
            modified = _when(self.client.sendcmd(f"MDTM {path}")[4:].strip())
        return Entry(name=name, size_bytes=int(size) if size.isdigit() else None, modified=modified)

    def names(self, folder: str) -> list[Entry]:
        try:
            entries = self._listing(folder)
        except (ftplib.error_perm, ftplib.error_temp) as error:
            if str(error)[:3] not in _REFUSED:
                raise self._failure(error) from error
            entry = self._find(folder)
            if entry is None or not entry.folder:
                raise Failure(ObjectNotFound, "no such folder", server_code=str(error)[:3]) from error
            raise self._failure(error) from error
        except ftplib.Error as error:
            raise self._failure(error) from error
        if [entry.name for entry in entries] == [folder.rpartition("/")[2]] and not entries[0].folder:
            # Asked for the listing of a file, some servers list the file.
            itself = self._find(folder)
            if itself is None or not itself.folder:
                raise Failure(ObjectNotFound, "a file, not a folder")
        return entries

    def _listing(self, folder: str) -> list[Entry]:
        """A folder's entries. Raises what ftplib raises where the server refuses."""
        path = self._path(folder) or "/"
        if "MLST" in self._features:
            found = []
            for line in self._lines(f"MLSD {path}"):
                facts, _, name = line.lstrip(" ").partition(" ")
                if not re.search(r"(?i)(?:^|;)type=(?:cdir|pdir);", facts):
                    found.append(_facts(facts, name))
            return [entry for entry in found if entry.name not in {".", ".."}]
        self.client.voidcmd(f"CWD {path}")
        if self._hidden:
            # Names that begin with a dot are shown on request by some servers. The "." proves that it was understood.
            with contextlib.suppress(ftplib.error_perm, ftplib.error_temp):
                entries = _parsed(self._lines("LIST -a"))
                if any(entry.name == "." for entry in entries):
                    return [entry for entry in entries if entry.name not in {".", ".."}]
            self._hidden = False
        return [entry for entry in _parsed(self._lines("LIST")) if entry.name not in {".", ".."}]

    def _lines(self, command: str) -> list[str]:
        data = b"".join(self._received(self.client.transfercmd(command), MAX_LISTING_BYTES))
        text = data.decode("utf-8", "surrogateescape")
        return [line.removesuffix("\r") for line in text.split("\n") if line.strip()]

    def read(self, key: str, start: int, end: int) -> Iterator[bytes]:  # noqa: ARG002 - FTP sends to the file's end
        try:
            conn = self.client.transfercmd(f"RETR {self._path(key)}", start or None)
        except (ftplib.error_perm, ftplib.error_temp) as error:
            raise self._refusal(key, error) from error
        except ftplib.Error as error:
            raise self._failure(error) from error
        except _Unprotected as error:
            raise self._unprotected(error) from error
        return self._received(conn, None)

    def _received(self, conn: socket.socket, limit: int | None) -> Iterator[bytes]:
        """All that comes over a data connection, and then the server's word that it was all."""
        count = 0
        try:
            while chunk := conn.recv(CHUNK_BYTES):
                count += len(chunk)
                if limit is not None and count > limit:
                    raise Failure(StoreError, f"the listing is longer than {limit} bytes")
                yield chunk
        finally:
            conn.close()
        self._wire.data(None)
        with self._speaking():
            self.client.voidresp()

    def create(self, key: str) -> _Upload:
        try:
            with self._speaking():
                return _Upload(self, self.client.transfercmd(f"STOR {self._path(key)}"))
        except _Unprotected as error:
            raise self._unprotected(error) from error

    def _unprotected(self, error: _Unprotected) -> Failure:
        if isinstance(error.__cause__, ssl.SSLCertVerificationError):
            return _untrusted(error.__cause__)
        said = "the data connection did not get through its TLS handshake"
        reason = None if self.aborted else self.last_word()
        if reason is not None:
            said += f": {reason.said}"
        hint = "the server may keep data in the clear, or want what it offers on the control connection only"
        return Failure(StoreUnavailable, said, hint=hint, server_code=reason.server_code if reason else None)

    def last_word(self, seconds: float = 1.0) -> Failure | None:
        """What the server says on the control connection about a data connection that broke, if it says so soon."""
        sock = self.client.sock
        if sock is None:
            return None
        try:
            sock.settimeout(min(seconds, self._options.read_timeout_seconds))
            self.client.voidresp()
            sock.settimeout(self._options.read_timeout_seconds)
        except ftplib.Error as error:
            return self._failure(error)
        except (OSError, EOFError, UnicodeDecodeError):
            return None
        return None

    def rename(self, old: str, new: str, *, replace: bool) -> None:  # noqa: ARG002 - FTP has one kind of rename
        try:
            answer = self.client.sendcmd(f"RNFR {self._path(old)}")
            _expect(answer, "3")
        except (ftplib.error_perm, ftplib.error_temp) as error:
            raise self._refusal(old, error) from error
        except ftplib.Error as error:
            raise self._failure(error) from error
        try:
            self.client.voidcmd(f"RNTO {self._path(new)}")
        except ftplib.error_perm as error:
            failure = self._failure(error)
            if failure.kind is AccessDenied and self._find(new) is not None:
                raise Failure(
                    NotSupported,
                    f"the server does not rename onto what exists: {failure.said}",
                    server_code=failure.server_code,
                    hint="delete the old file first, or let the server allow it",
                ) from error
            raise failure from error
        except ftplib.Error as error:
            raise self._failure(error) from error

    def make_folder(self, folder: str) -> None:
        with contextlib.suppress(ftplib.error_perm, ftplib.error_temp), self._unanswered():
            self.client.voidcmd(f"MKD {self._path(folder)}")

    @contextmanager
    def _unanswered(self) -> Iterator[None]:
        """Let refusals through as ftplib has them, and speak of the rest; a goodbye (421) is no refusal."""
        try:
            yield
        except (ftplib.error_perm, ftplib.error_temp) as error:
            if str(error).startswith("421"):
                raise self._failure(error) from error
            raise
        except ftplib.Error as error:
            raise self._failure(error) from error

    def remove(self, key: str) -> None:
        try:
            with self._unanswered():
                self.client.voidcmd(f"DELE {self._path(key)}")
        except (ftplib.error_perm, ftplib.error_temp) as error:
            failure = self._refusal(key, error)
            if failure.kind is not ObjectNotFound:
                raise failure from error


class _Upload:
    """A STOR under way."""

    def __init__(self, session: _Session, conn: socket.socket) -> None:
        self._session = session
        self._conn: socket.socket | None = conn

    def write(self, view: memoryview) -> None:
        assert self._conn is not None
        try:
            while len(view):
                view = view[self._conn.send(view[:CHUNK_BYTES]) :]
        except TimeoutError:
            raise
        except OSError as error:
            reason = None if self._session.aborted else self._session.last_word()
            if reason is None:
                raise
            raise reason from error

    def finish(self) -> None:
        conn, self._conn = self._conn, None
        assert conn is not None
        try:
            if isinstance(conn, ssl.SSLSocket):
                # Tells the server that nothing was cut off. Many do not answer it in kind.
                with contextlib.suppress(ssl.SSLError, ConnectionError):
                    conn.unwrap()
        finally:
            conn.close()
        self._session._wire.data(None)  # noqa: SLF001 - one class in two halves
        with self._session._speaking():  # noqa: SLF001 - as above
            self._session.client.voidresp()

    def drop(self) -> bool:
        conn, self._conn = self._conn, None
        sock = self._session.client.sock
        if conn is None or sock is None:
            return False
        # A reset, for an orderly end would say that the file is complete.
        with contextlib.suppress(OSError):
            conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        conn.close()
        sock.settimeout(0.4)
        with contextlib.suppress(ftplib.Error):
            self._session.client.voidresp()
        return True


def _untrusted(error: ssl.SSLCertVerificationError) -> Failure:
    return Failure(
        StoreError,
        f"the server's certificate is not trusted: {printable(str(error.verify_message))}",
        hint="check the endpoint's name, and give a private authority's certificate by --ca",
    )


def _expect(answer: str, first: str) -> None:
    if not answer.startswith(first):
        raise ftplib.error_reply(answer)  # noqa: S321 - the protocol is what this module is for; plaintext is the policy's


def _no_tls(said: str) -> Failure:
    return Failure(
        StoreError,
        f"the server does not agree on TLS: {printable(said)}",
        hint="ftps:// begins in the clear and asks for TLS, ftps+implicit:// begins with TLS; ftp:// has none",
    )


def _when(text: str) -> datetime | None:
    """A time as RFC 3659 writes it, always in UTC; None where it is none."""
    match = _TIME.fullmatch(text)
    if match is None:
        return None
    try:
        plain = datetime.strptime(match[1], "%Y%m%d%H%M%S").replace(tzinfo=UTC)
    except ValueError:
        return None
    return plain.replace(microsecond=int((match[2] or "0").ljust(6, "0")))


def _facts(facts: str, name: str) -> Entry:
    """One entry, from ``type=file;size=3;modify=20260102030405;`` and its name."""
    told = {}
    for fact in facts.split(";"):
        key, _, value = fact.partition("=")
        told[key.lower()] = value
    size = told.get("size", "")
    return Entry(
        name=name,
        folder=told.get("type", "file").lower() in {"dir", "cdir", "pdir"},
        size_bytes=int(size) if size.isascii() and size.isdigit() else None,
        modified=_when(told.get("modify", "")),
    )


def _parsed(lines: list[str]) -> list[Entry]:
    """The entries of a listing made for people, in the two forms that servers agree on.

    Its times are in an unknown zone and mostly without a year, so they are not read. Links and devices are left out:
    the listing does not say what a link leads to.
    """
    found = []
    for line in lines:
        unix = _UNIX.fullmatch(line)
        dos = None if unix else _DOS.fullmatch(line)
        if unix is not None and unix["kind"] in "-d":
            folder = unix["kind"] == "d"
            found.append(Entry(name=unix["name"], folder=folder, size_bytes=None if folder else int(unix["size"])))
        elif dos is not None:
            folder = dos["folder"] is not None
            found.append(Entry(name=dos["name"], folder=folder, size_bytes=None if folder else int(dos["size"])))
        elif unix is None and not re.fullmatch(r"total \d+", line):
            raise Failure(NotSupported, f"a listing in an unknown form: {printable(line)[:80]}")
    return found
