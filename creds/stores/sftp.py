"""``sftp:`` locations: a server's files over SSH, by paramiko (the extra ``sftp``).

The server's host key must be known before anything is said to it: by a ``known_hosts`` file or by its fingerprint, and
an unknown one is never accepted. We log in with the key or password that was given and nothing else: no agent, no key
out of the user's home, no ssh configuration.

Reads and writes keep a fixed number of requests of 32 KiB under way (the size that every server takes), so a stream
holds some 2 MiB at the most. paramiko's own prefetching is not used: its thread outlives a read that is left early.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import errno
import fnmatch
import functools
import hashlib
import hmac
import logging
import socket
import stat
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from creds.errors import (
    AccessDenied,
    CredentialError,
    MissingCredential,
    MissingDependency,
    NotSupported,
    ObjectChanged,
    ObjectNotFound,
    StoreError,
    StoreUnavailable,
    Unauthenticated,
)
from creds.store import Ssh, StoreOptions
from creds.stores.tree import Addresses, Entry, Failure, TreeStore, dial, printable, shut

REQUEST_BYTES = 32 << 10
REQUESTS_AHEAD = 64
BUFFER_BYTES = 256 << 10

_CHANNEL_WINDOW_BYTES = 4 << 20

# Statuses of draft-ietf-secsh-filexfer-02.
_END_OF_FILE = 1
_NO_SUCH_FILE = 2
_PERMISSION_DENIED = 3
_CONNECTION_ENDS = (6, 7)
_UNSUPPORTED = 8

_LOG = "creds.stores.sftp.paramiko"


class SftpStore(TreeStore):
    """The files below the folder that an SSH login leads to.

    Args:
        host: a name or address, IPv6 with or without brackets; it is looked up in ``known_hosts``.
        port: of the SSH server.
        user: of the login.
        password: None where ``options.ssh.key`` alone logs in; with both the key goes first.
        options: timeouts, retries and ``ssh``.
        addresses: gives the addresses that may be connected to; None resolves the name.
        location: how errors name the server.

    Raises:
        MissingDependency: paramiko is not installed.
        MissingCredential: there is neither a password nor a key.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        user: str,
        password: str | None,
        options: StoreOptions,
        addresses: Addresses | None = None,
        location: str = "",
    ) -> None:
        super().__init__(options, location or f"sftp://{host}:{port}")
        _paramiko()
        if password is None and options.ssh.key is None:
            raise MissingCredential(
                f"{self._location}: neither a password nor a private key to log in with",
                location=self._location,
                hint="give the password in credentials.plain, or a private key by --ssh-key",
            )
        self._host = host.strip("[]")
        self._port = port
        self._user = user
        self._password = password
        self._addresses = addresses
        self._key: Any = None

    def _session(self) -> _Session:
        ssh = self._options.ssh
        if ssh.key is not None and self._key is None:
            self._key = _private_key(ssh.key, ssh.key_passphrase, self._location)
        return _Session(
            self._host,
            self._port,
            user=self._user,
            password=self._password,
            key=self._key,
            options=self._options,
            addresses=self._addresses,
        )


def _paramiko() -> Any:
    try:
        import paramiko
    except ImportError as error:
        hint = "pip install paramiko"
        raise MissingDependency("sftp locations need paramiko, which is not installed", hint=hint) from error
    # Python prints warnings of loggers that nobody listens to; what they say is in our errors.
    logger = logging.getLogger(_LOG)
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
    return paramiko


def _private_key(path: str, passphrase: str | None, location: str) -> Any:
    paramiko = _paramiko()
    failed = "it cannot be read"
    try:
        return paramiko.PKey.from_path(path, None if passphrase is None else passphrase.encode())
    except OSError as error:
        failed = str(error.strerror or failed)
    except (paramiko.PasswordRequiredException, TypeError):
        failed = "it is locked, and no passphrase is given"
    except (paramiko.SSHException, paramiko.UnknownKeyType, ValueError):
        failed = "it is no private key, or not one of this passphrase"
    # What the libraries say is left out: it may quote the file.
    raise CredentialError(
        f"{location}: the private key {printable(path)}: {failed}",
        location=location,
        hint="name the private half of a key pair, and its passphrase if it has one",
    )


# Host keys.


class KnownKey(NamedTuple):
    """One line of a ``known_hosts`` file that is about a host."""

    kind: str
    blob: bytes
    revoked: bool


def known_keys(text: str, host: str, port: int) -> list[KnownKey]:
    """The keys that a ``known_hosts`` file has for a host, as sshd(8) describes the format.

    Args:
        text: the file. Lines that are none are passed over, as are certificate authorities: no certificate is accepted.
        host: without brackets.
        port: other ports than 22 are written ``[host]:port``.
    """
    name = host if port == 22 else f"[{host}]:{port}"
    found = []
    for line in text.splitlines():
        fields = line.split()
        if not fields or fields[0].startswith("#"):
            continue
        marker = fields.pop(0) if fields[0].startswith("@") else ""
        if len(fields) < 3 or marker not in {"", "@revoked"} or not _is_for(fields[0], name.lower()):
            continue
        with contextlib.suppress(binascii.Error, ValueError):
            found.append(KnownKey(fields[1], base64.b64decode(fields[2], validate=True), bool(marker)))
    return found


def _is_for(patterns: str, name: str) -> bool:
    if patterns.startswith("|1|"):
        try:
            salt, digest = (base64.b64decode(part, validate=True) for part in patterns[3:].split("|"))
        except (binascii.Error, ValueError):
            return False
        return hmac.compare_digest(hmac.new(salt, name.encode(), hashlib.sha1).digest(), digest)
    named = False
    for pattern in patterns.lower().split(","):
        # Brackets are the port's, not a set of characters.
        if fnmatch.fnmatchcase(name, pattern.removeprefix("!").replace("[", "[[]")):
            if pattern.startswith("!"):
                return False
            named = True
    return named


def fingerprint(blob: bytes) -> str:
    """A public key's fingerprint as ``ssh-keygen -l`` prints it."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def _known(ssh: Ssh, host: str, port: int) -> list[KnownKey]:
    if ssh.known_hosts is None:
        return []
    try:
        text = Path(ssh.known_hosts).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        said = f"the known_hosts file {printable(ssh.known_hosts)}: {error.strerror}"
        raise Failure(StoreError, said, hint="name a file that can be read") from error
    return known_keys(text, host, port)


def _check_host_key(kind: str, blob: bytes, ssh: Ssh, known: list[KnownKey]) -> None:
    """Is this the server? Anything but a clear yes is a refusal."""
    seen = fingerprint(blob)
    shown = f"{kind} {seen}"
    if any(key.revoked and key.blob == blob for key in known):
        raise Failure(StoreError, f"the server's host key {shown} is marked as revoked in known_hosts")
    trusted = {pin.rstrip("=") for pin in ssh.fingerprints}
    if seen in trusted or any(not key.revoked and key.blob == blob for key in known):
        return
    if trusted or any(not key.revoked for key in known):
        said = f"the server's host key {shown} is not the one that is known"
        hint = "another machine answers, or the server has new keys: ask its operator, then change what is known"
    else:
        said = f"the server's host key {shown} is unknown"
        hint = (
            f"if the server's operator confirms this key by another way: --host-key {seen}, or a file for --known-hosts"
        )
    raise Failure(StoreError, said, hint=hint)


def _prefer(transport: Any, known: list[KnownKey]) -> None:
    """Ask for the cheapest cipher, and for the kind of host key that is known: a server shows one of several."""
    kinds = {key.kind for key in known if not key.revoked}
    if "ssh-rsa" in kinds:
        kinds |= {"rsa-sha2-512", "rsa-sha2-256"}
    security = transport.get_security_options()
    # paramiko has these last. They need no second pass over each packet to see whether it was changed.
    security.ciphers = sorted(security.ciphers, key=lambda name: "gcm" not in name)
    if kinds:
        security.key_types = sorted(security.key_types, key=lambda kind: kind not in kinds)


class Offered(NamedTuple):
    """A host key that a server shows, and why it is not accepted, or None."""

    kind: str
    fingerprint: str
    refused: str | None


def offered(sock: socket.socket, host: str, port: int, options: StoreOptions) -> Offered:
    """What host key the server at the other end of ``sock`` shows. Nobody logs in; ``sock`` is closed.

    Raises:
        OSError: there is no SSH, or it broke.
        MissingDependency: paramiko is not installed.
    """
    paramiko = _paramiko()
    try:
        known = _known(options.ssh, host, port)
        transport = paramiko.Transport(sock)
        try:
            transport.set_log_channel(_LOG)
            transport.banner_timeout = transport.handshake_timeout = options.connect_timeout_seconds
            _prefer(transport, known)
            transport.start_client(timeout=options.connect_timeout_seconds)
            key = transport.get_remote_server_key()
        finally:
            transport.close()
    except (paramiko.SSHException, EOFError) as error:
        raise ConnectionAbortedError(f"no SSH connection: {printable(str(error))}") from error
    except Failure as error:
        raise ConnectionAbortedError(error.said) from error
    finally:
        sock.close()
    refused = None
    try:
        _check_host_key(key.get_name(), key.asbytes(), options.ssh, known)
    except Failure as error:
        refused = error.said
    return Offered(key.get_name(), fingerprint(key.asbytes()), refused)


# One connection.


class _Status(OSError):
    """An answer of the server that is not "done", by its number in the protocol."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__({_NO_SUCH_FILE: errno.ENOENT, _PERMISSION_DENIED: errno.EACCES}.get(code), text)
        self.code = code
        self.text = text


@functools.cache
def _client_class() -> Any:
    base = _paramiko().SFTPClient

    class Client(base):  # type: ignore[misc,valid-type]  # paramiko has no types
        """paramiko's client, which keeps the number of what the server answers, and reads all that is there at once.

        Each read of a channel moves what it leaves behind in the channel's buffer: taken in the pieces that packets are
        made of, megabytes that are already here cost more than all the rest.
        """

        _held = b""
        _taken = 0

        def _read_all(self, n: int) -> bytes:
            while (end := self._taken + n) > len(self._held):
                more = self.sock.recv(_CHANNEL_WINDOW_BYTES)
                if not more:
                    raise EOFError
                self._held, self._taken = self._held[self._taken :] + more, 0
            found, self._taken = self._held[self._taken : end], end
            return found

        def _convert_status(self, msg: Any) -> None:
            code, text = msg.get_int(), msg.get_text()
            if code == _END_OF_FILE:
                raise EOFError(text)
            if code != 0:
                raise _Status(code, text)

    return Client


class _Session:
    """One SSH connection with one SFTP channel, logged in."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        user: str,
        password: str | None,
        key: Any,
        options: StoreOptions,
        addresses: Addresses | None,
    ) -> None:
        self._host = host
        self._port = port
        self._user = user
        self._password = password
        self._key = key
        self._options = options
        self._addresses = addresses
        self._lock = threading.Lock()
        self._sock: socket.socket | None = None
        self._transport: Any = None
        self._late = False
        self.aborted = False
        self.client: Any = None

    def _hold(self, sock: socket.socket) -> None:
        with self._lock:
            self._sock = sock
            if self.aborted:
                raise ConnectionAbortedError("stopped")

    def abort(self) -> None:
        with self._lock:
            self.aborted = True
            shut(self._sock)

    def close(self) -> None:
        with self._lock:
            self.aborted = True
        self._hang_up()

    def _hang_up(self) -> None:
        with self._lock:
            transport, self._transport = self._transport, None
            sock, self._sock = self._sock, None
            # paramiko would wait for its thread to look up from the socket: this makes it look.
            shut(sock)
        if transport is not None:
            transport.close()
            transport.join(1.0)
        if sock is not None:
            sock.close()

    def fresh(self) -> bool:
        return self._transport is not None and bool(self._transport.is_active())

    def _expire(self) -> None:
        self._late = True
        self.abort()

    def connect(self) -> None:
        if self._key is not None and self._password is not None:
            try:
                self._connect(self._key)
            except Failure as error:
                if error.kind is not Unauthenticated:
                    raise
            else:
                return
            # paramiko asks for the login anew for each attempt, which some servers take only once a connection.
            self._hang_up()
            self._connect(None)
        else:
            self._connect(self._key)

    def _connect(self, key: Any) -> None:
        options = self._options
        known = _known(options.ssh, self._host, self._port)
        sock = dial(self._host, self._port, self._addresses, options.connect_timeout_seconds, self._hold)
        # Parts of paramiko's beginning wait without an end, so there is one for all of it.
        timer = threading.Timer(options.connect_timeout_seconds + options.read_timeout_seconds, self._expire)
        timer.daemon = True
        timer.start()
        try:
            with self._speaking():
                self._greeted(sock, known, key)
        except (Failure, OSError, EOFError) as error:
            if self._late:
                raise TimeoutError("the SSH connection was not ready in time") from error
            raise
        finally:
            timer.cancel()
            timer.join()

    def _greeted(self, sock: socket.socket, known: list[KnownKey], key: Any) -> None:
        try:
            self._begin(sock, known, key)
        except UnicodeDecodeError as error:
            raise Failure(StoreUnavailable, "the server does not speak SSH, or not in order") from error

    def _begin(self, sock: socket.socket, known: list[KnownKey], key: Any) -> None:
        options = self._options
        transport = _paramiko().Transport(sock, default_window_size=_CHANNEL_WINDOW_BYTES)
        with self._lock:
            self._transport = transport
        transport.set_log_channel(_LOG)
        transport.banner_timeout = transport.handshake_timeout = options.connect_timeout_seconds
        transport.auth_timeout = transport.channel_timeout = options.read_timeout_seconds
        transport.clear_to_send_timeout = options.read_timeout_seconds
        _prefer(transport, known)
        transport.start_client(timeout=options.connect_timeout_seconds)
        host_key = transport.get_remote_server_key()
        _check_host_key(host_key.get_name(), host_key.asbytes(), options.ssh, known)
        self._log_in(transport, key)
        channel = transport.open_session(timeout=options.read_timeout_seconds)
        channel.settimeout(options.read_timeout_seconds)
        channel.invoke_subsystem("sftp")
        self.client = _client_class()(channel)

    def _log_in(self, transport: Any, key: Any) -> None:
        paramiko = _paramiko()
        said, hint = "the login was refused", "check the user and the password or key"
        more = []
        try:
            if key is not None:
                more = transport.auth_publickey(self._user, key)
            if self._password is not None and (key is None or more):
                more = transport.auth_password(self._user, self._password)
        except paramiko.BadAuthenticationType as error:
            said = "the server takes no such login"
            hint = f"it takes: {', '.join(printable(kind) for kind in error.allowed_types)}"
        except paramiko.AuthenticationException:
            if not transport.is_active() and transport.get_exception() is not None:
                raise EOFError from None
        else:
            if not more:
                return
            said = "the server wants more than this login"
            hint = f"it wants besides: {', '.join(printable(kind) for kind in more)}"
        raise Failure(Unauthenticated, said, hint=hint)

    @contextmanager
    def _speaking(self) -> Iterator[None]:
        """Turn what paramiko says into failures; the system's own errors pass through."""
        from cryptography.exceptions import InvalidTag

        paramiko = _paramiko()
        try:
            yield
        except paramiko.IncompatiblePeer as error:
            hint = "the server offers only algorithms that are no longer taken"
            raise Failure(StoreError, f"no common algorithm: {printable(str(error))}", hint=hint) from error
        except (paramiko.SSHException, paramiko.SFTPError) as error:
            said = f"the SSH connection failed: {printable(str(error), self._password)}"
            raise Failure(StoreUnavailable, said, hint="check that an SSH server listens on this port") from error
        except InvalidTag as error:
            raise Failure(StoreUnavailable, "the SSH connection failed: a packet was changed on its way") from error
        except UnicodeDecodeError as error:
            raise Failure(StoreError, "the server names a file that is no UTF-8") from error
        except _Status as error:
            raise self._failure(error) from error

    def _failure(self, status: _Status) -> Failure:
        code = str(status.code)
        said = f"the server said {printable(status.text, self._password) or code}"
        if status.code == _NO_SUCH_FILE:
            return Failure(ObjectNotFound, "no such file", server_code=code)
        if status.code == _PERMISSION_DENIED:
            return Failure(AccessDenied, "the server does not allow it", server_code=code)
        if status.code == _UNSUPPORTED:
            return Failure(NotSupported, said, server_code=code)
        if status.code in _CONNECTION_ENDS:
            return Failure(StoreUnavailable, said, server_code=code)
        return Failure(StoreError, said, server_code=code)

    @staticmethod
    def _path(key: str) -> bytes:
        return (key or ".").encode("utf-8", "surrogateescape")

    # The verbs.

    def head(self, key: str) -> Entry:
        with self._speaking():
            status = self.client.stat(self._path(key))
        entry = _entry(key.rpartition("/")[2], status)
        if entry is None:
            raise Failure(AccessDenied, "not a regular file")
        if entry.folder:
            raise Failure(ObjectNotFound, "a folder, not a file")
        return entry

    def names(self, folder: str) -> list[Entry]:
        try:
            with self._speaking():
                listed = self.client.listdir_attr(self._path(folder))
        except Failure as error:
            if error.kind is StoreError and not self._is_folder(folder):
                raise Failure(ObjectNotFound, "a file, not a folder") from error
            raise
        found = []
        for status in listed:
            entry = _entry(status.filename, status)
            if entry is None and stat.S_ISLNK(status.st_mode):
                entry = self._linked(folder, status.filename)
            if entry is not None:
                found.append(entry)
        return found

    def _is_folder(self, folder: str) -> bool:
        with self._speaking():
            return stat.S_ISDIR(self.client.stat(self._path(folder)).st_mode or 0)

    def _linked(self, folder: str, name: str) -> Entry | None:
        """The file that a link leads to. One that leads to a folder is not descended: it may lead upwards."""
        try:
            return self.head(f"{folder.rstrip('/')}/{name}" if folder else name)
        except Failure as error:
            if error.kind in {ObjectNotFound, AccessDenied}:
                return None
            raise

    def read(self, key: str, start: int, end: int) -> Iterator[bytes]:
        with self._speaking():
            file = self.client.open(self._path(key), "rb")
        return self._received(file, start, end)

    def _received(self, file: Any, position: int, end: int) -> Iterator[bytes]:
        """The bytes in order, with requests for those behind them under way."""
        pipe = _Pipe(self.client)
        ahead: deque[tuple[int, int]] = deque()
        asked, whole = position, False
        gathered: list[bytes] = []
        size = 0
        with self._speaking():
            while True:
                while len(ahead) < REQUESTS_AHEAD and not whole and (end < 0 or asked < end):
                    count = REQUEST_BYTES if end < 0 else min(REQUEST_BYTES, end - asked)
                    ahead.append((pipe.ask_read(file.handle, asked, count), count))
                    asked += count
                if not ahead:
                    break
                number, count = ahead.popleft()
                content = pipe.answer(number)
                # A short answer is allowed anywhere, and the rest is asked for at once: it is next in order.
                while content is not None and len(content) < count:
                    rest = pipe.answer(pipe.ask_read(file.handle, position + size + len(content), count - len(content)))
                    if not rest:
                        content, whole = content or None, True
                        break
                    content += rest
                if content is None or whole:
                    whole = True
                if content is not None:
                    gathered.append(content)
                    size += len(content)
                if whole:
                    pipe.forget(ahead)
                if gathered and (size >= BUFFER_BYTES or whole or not ahead):
                    yield gathered[0] if len(gathered) == 1 else b"".join(gathered)
                    position += size
                    gathered, size = [], 0
            file.close()

    def create(self, key: str) -> _Upload:
        with self._speaking():
            return _Upload(self, self.client.open(self._path(key), "wx"))

    def rename(self, old: str, new: str, *, replace: bool) -> None:
        if not replace:
            self._rename_new(old, new)
            return
        try:
            with self._speaking():
                self.client.posix_rename(self._path(old), self._path(new))
        except Failure as error:
            if error.kind is not NotSupported:
                raise
            if self._exists(new):
                raise Failure(
                    NotSupported,
                    "the server does not rename onto what exists: it lacks posix-rename@openssh.com",
                    hint="delete the old file first",
                ) from error
            self._rename_new(old, new)

    def _rename_new(self, old: str, new: str) -> None:
        # The protocol's own rename refuses an existing target; servers that overwrite it are why nothing is claimed.
        try:
            with self._speaking():
                self.client.rename(self._path(old), self._path(new))
        except Failure as error:
            if error.kind is StoreError and self._exists(new):
                raise Failure(ObjectChanged, "the file exists already") from error
            raise

    def _exists(self, key: str) -> bool:
        try:
            with self._speaking():
                self.client.lstat(self._path(key))
        except Failure as error:
            if error.kind is ObjectNotFound:
                return False
            raise
        return True

    def make_folder(self, folder: str) -> None:
        try:
            with self._speaking():
                self.client.mkdir(self._path(folder))
        except Failure as error:
            if error.kind is StoreUnavailable:
                raise

    def remove(self, key: str) -> None:
        try:
            with self._speaking():
                self.client.remove(self._path(key))
        except Failure as error:
            if error.kind is ObjectNotFound:
                return
            if error.kind is StoreError and self._gone(key):
                return
            raise

    def _gone(self, key: str) -> bool:
        """Is there no file of this name? Servers that cannot remove a folder say nothing but "Failure"."""
        try:
            self.head(key)
        except Failure as error:
            if error.kind is ObjectNotFound:
                return True
            raise
        return False


class _Pipe:
    """Requests of one file under way, and their answers as they come.

    paramiko gives each answer to the object that its request was made with; this is that object.
    """

    def __init__(self, client: Any) -> None:
        import paramiko.sftp

        self._client = client
        self._sftp = paramiko.sftp
        self._answers: dict[int, bytes | Exception | None] = {}
        self._dropped: set[int] = set()

    def ask_read(self, handle: bytes, offset: int, count: int) -> int:
        """Ask for bytes. Returns the request's number."""
        kind = self._sftp.CMD_READ
        return int(self._client._async_request(self, kind, handle, self._sftp.int64(offset), count))  # noqa: SLF001 - the only way to have several requests under way without a thread

    def ask_write(self, handle: bytes, offset: int, content: bytes) -> int:
        """Send bytes. Returns the request's number."""
        kind = self._sftp.CMD_WRITE
        return int(self._client._async_request(self, kind, handle, self._sftp.int64(offset), content))  # noqa: SLF001 - as above

    def _async_response(self, kind: int, message: Any, number: int) -> None:
        """Called by paramiko with an answer."""
        answer: bytes | Exception | None = None
        if kind == self._sftp.CMD_DATA:
            answer = message.get_string()
        elif kind == self._sftp.CMD_STATUS:
            try:
                self._client._convert_status(message)  # noqa: SLF001 - paramiko's meaning of its statuses
            except (EOFError, OSError) as error:
                answer = error
        else:
            answer = self._sftp.SFTPError(f"an answer of kind {kind}")
        if number in self._dropped:
            self._dropped.discard(number)
        else:
            self._answers[number] = answer

    def answer(self, number: int) -> bytes | None:
        """The answer to a request: bytes, or None at the file's end or where there is nothing to say."""
        while number not in self._answers:
            self._client._read_response()  # noqa: SLF001 - hands one answer to _async_response
        answer = self._answers.pop(number)
        if isinstance(answer, EOFError):
            return None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def forget(self, ahead: deque[tuple[int, int]]) -> None:
        """Do without the answers to these."""
        for number, _ in ahead:
            if self._answers.pop(number, self) is self:
                self._dropped.add(number)
        ahead.clear()


class _Upload:
    """A file being written, with some requests under way."""

    def __init__(self, session: _Session, file: Any) -> None:
        self._session = session
        self._file = file
        self._pipe = _Pipe(session.client)
        self._ahead: deque[int] = deque()
        self._offset = 0

    def write(self, view: memoryview) -> None:
        with self._session._speaking():  # noqa: SLF001 - one class in two halves
            for start in range(0, len(view), REQUEST_BYTES):
                content = bytes(view[start : start + REQUEST_BYTES])
                while len(self._ahead) >= REQUESTS_AHEAD:
                    self._pipe.answer(self._ahead.popleft())
                self._ahead.append(self._pipe.ask_write(self._file.handle, self._offset, content))
                self._offset += len(content)

    def finish(self) -> None:
        with self._session._speaking():  # noqa: SLF001 - one class in two halves
            while self._ahead:
                self._pipe.answer(self._ahead.popleft())
            self._file.close()

    def drop(self) -> bool:
        if self._session.aborted or not self._session.fresh():
            return False
        self._session.client.get_channel().settimeout(0.4)
        with self._session._speaking():  # noqa: SLF001 - one class in two halves
            self._file.close()
        return True


def _entry(name: str, status: Any) -> Entry | None:
    """A file or folder by its attributes; None where it is neither. Attributes may be missing."""
    mode = status.st_mode
    folder = mode is not None and stat.S_ISDIR(mode)
    if mode is not None and stat.S_IFMT(mode) and not folder and not stat.S_ISREG(mode):
        return None
    modified = None if status.st_mtime is None else datetime.fromtimestamp(status.st_mtime, UTC)
    return Entry(name=name, folder=folder, size_bytes=None if folder else status.st_size, modified=modified)
