"""Real FTP and SFTP servers on loopback: pyftpdlib and asyncssh in this process, rclone's and, where installed, vsftpd
and sshd.

Each is a context manager that starts one server on a free port over a folder and ends it. Those in this process can be
told to break: a data connection after so many bytes, a rename, a command.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import servers

USER = "u"
PASSWORD = "pass w0rd-PLANTED"


@dataclass
class Faults:
    """What a server in this process does wrong, as often as it says.

    Attributes:
        cut_down, cut_up: cut the next connection that has sent, or received, so many bytes; None leaves it alone.
        times: how many connections to cut.
        refuse: commands (or SFTP requests) by name that are refused, with the server's words.
        lose: do this command, and break the connection instead of answering it.
        stall: while it is clear, nothing is sent over data connections.
        seen: the commands so far.
        reused: for each TLS data connection, did it resume the session of its control connection?
    """

    cut_down: int | None = None
    cut_up: int | None = None
    times: int = 1
    refuse: dict[str, str] = field(default_factory=dict)
    lose: str | None = None
    stall: threading.Event | None = None
    seen: list[str] = field(default_factory=list)
    reused: list[bool] = field(default_factory=list)

    def take(self) -> bool:
        """May one more connection be cut?"""
        self.times -= 1
        return self.times >= 0


@dataclass(frozen=True)
class TreeServer:
    """A running server: where it listens, and the folder that it shows."""

    host: str
    port: int
    root: Path
    faults: Faults = field(default_factory=Faults)
    host_key: str = ""
    fingerprint: str = ""


def empty(server: TreeServer) -> TreeServer:
    """The same server with nothing in its folder, and nothing wrong with it."""
    for path in server.root.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    for name, value in vars(Faults()).items():
        setattr(server.faults, name, value)
    return server


@dataclass(frozen=True)
class Certificates:
    """A private authority and what it signed for loopback, as PEM files."""

    ca_pem: bytes
    other_ca_pem: bytes
    chain: Path
    key: Path


@contextlib.contextmanager
def certificates() -> Iterator[Certificates]:
    import trustme

    with tempfile.TemporaryDirectory(prefix="certificates-") as name:
        folder = Path(name)
        authority = trustme.CA()
        issued = authority.issue_cert("127.0.0.1", "localhost")
        (folder / "chain.pem").write_bytes(b"".join(part.bytes() for part in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(folder / "key.pem")
        yield Certificates(
            authority.cert_pem.bytes(), trustme.CA().cert_pem.bytes(), folder / "chain.pem", folder / "key.pem"
        )


@contextlib.contextmanager
def pyftpd(
    security: str = "none",
    certificate: Certificates | None = None,
    *,
    lacks: tuple[str, ...] = (),
    says_address: str | None = None,
) -> Iterator[TreeServer]:
    """pyftpdlib: ``none``, ``explicit`` (TLS required on both channels, its session too) or ``implicit``.

    Args:
        security: as in the store.
        certificate: what to show with TLS.
        lacks: commands that the server does not know.
        says_address: what it names as the address of its data connections.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it imports asyncore
        from OpenSSL import SSL
        from pyftpdlib.authorizers import DummyAuthorizer
        from pyftpdlib.handlers import DTPHandler, FTPHandler, TLS_DTPHandler, TLS_FTPHandler
        from pyftpdlib.ioloop import IOLoop
        from pyftpdlib.servers import ThreadedFTPServer

    logging.getLogger("pyftpdlib").setLevel(logging.CRITICAL)
    faults = Faults()
    tls = security != "none"

    class Data(TLS_DTPHandler if tls else DTPHandler):  # type: ignore[misc]  # the base depends on what is asked for
        def handle_read(self) -> None:
            super().handle_read()
            if faults.cut_up is not None and self.tot_bytes_received >= faults.cut_up and faults.take():
                self._break()

        handle_read_event = DTPHandler.handle_read_event if tls else handle_read

        def send(self, content: bytes) -> int:
            if faults.stall is not None:
                faults.stall.wait(30)
            if faults.cut_down is not None and self.tot_bytes_sent >= faults.cut_down and faults.take():
                self._break()
                return 0
            return int(super().send(content))

        def _break(self) -> None:
            self.cmd_channel.close()
            self.close()

        def close(self) -> None:
            if tls and not self._closed and hasattr(self.socket, "_ssl"):
                faults.reused.append(bool(SSL._lib.SSL_session_reused(self.socket._ssl)))
            super().close()

        def handle_ssl_established(self) -> None:
            super().handle_ssl_established()
            if not SSL._lib.SSL_session_reused(self.socket._ssl):
                self.cmd_channel.respond("522 SSL connection failed; session reuse required")
                self.close()

    class Control(TLS_FTPHandler if tls else FTPHandler):  # type: ignore[misc]  # as above
        dtp_handler = Data
        use_sendfile = False
        auth_failed_timeout = 0
        authorizer = DummyAuthorizer()
        banner = "ready"
        masquerade_address = says_address
        proto_cmds: ClassVar = {name: value for name, value in FTPHandler.proto_cmds.items() if name not in lacks}

        def pre_process_command(self, line: str, cmd: str, arg: str) -> None:
            faults.seen.append(f"{cmd} {arg}".strip())
            if cmd in faults.refuse:
                self.respond(faults.refuse[cmd])
                return
            self.losing = cmd == faults.lose and faults.take()
            super().pre_process_command(line, cmd, arg)

        losing = False

        def respond(self, resp: str, **more: Any) -> None:
            if self.losing:
                self.close()
            else:
                super().respond(resp, **more)

        def handle(self) -> None:
            if security == "implicit":
                self.secure_connection(self.ssl_context)
            else:
                super().handle()

        def handle_ssl_established(self) -> None:
            if security == "implicit":
                super().handle()  # the greeting, which would be lost in the midst of the handshake

    if tls:
        assert certificate is not None
        Control.proto_cmds = {
            **Control.proto_cmds,
            **{k: TLS_FTPHandler.proto_cmds[k] for k in ("AUTH", "PBSZ", "PROT")},
        }
        Control.certfile, Control.keyfile = str(certificate.chain), str(certificate.key)
        Control.tls_control_required = Control.tls_data_required = True
    with tempfile.TemporaryDirectory(prefix="pyftpd-") as name:
        root = Path(name)
        Control.authorizer.add_user(USER, PASSWORD, name, perm="elradfmwMT")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # that anonymous may write, as on an incoming folder
            Control.authorizer.add_anonymous(name, perm="elradfmwMT")

        class Server(ThreadedFTPServer):
            _exit = threading.Event()  # or the end of one server would be the end of all

        server = Server(("127.0.0.1", 0), Control, ioloop=IOLoop())
        if tls:
            Control.ssl_context = Control.get_ssl_context()
            Control.ssl_context.set_session_cache_mode(SSL.SESS_CACHE_SERVER)
            Control.ssl_context.set_session_id(b"tests")
        ending = threading.Event()

        def serve() -> None:
            try:
                server.serve_forever(timeout=0.05, handle_exit=False)
            except OSError:  # it may be waiting on what is just being closed
                if not ending.is_set():
                    raise

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield TreeServer("127.0.0.1", server.address[1], root, faults)
        finally:
            ending.set()
            server.close_all()
            thread.join()


@contextlib.contextmanager
def _rclone(kind: str, *arguments: str) -> Iterator[TreeServer]:
    rclone = servers.program("rclone")
    port = servers.free_port()
    with tempfile.TemporaryDirectory(prefix=f"rclone-{kind}-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        (folder / "root").mkdir()
        command = [
            *(rclone, "serve", kind, str(folder / "root"), "--addr", f"127.0.0.1:{port}", "-q"),
            *("--user", USER, "--pass", PASSWORD, "--cache-dir", str(folder / "cache"), *arguments),
        ]
        env = {"PATH": os.defpath, "HOME": name, "TMPDIR": name, "RCLONE_CONFIG": os.devnull}
        with servers._running(command, folder, env) as process:
            wait_for_port(port, process)
            yield TreeServer("127.0.0.1", port, folder / "root")


@contextlib.contextmanager
def rclone_ftp(certificate: Certificates | None = None) -> Iterator[TreeServer]:
    """``rclone serve ftp``; with a certificate TLS is implicit, and its data connections stay in the clear."""
    more = () if certificate is None else ("--cert", str(certificate.chain), "--key", str(certificate.key))
    low = servers.free_port()
    with _rclone("ftp", "--passive-port", f"{low}-{low + 200}", *more) as server:
        yield server


def vsftpd_path() -> str | None:
    """Where vsftpd is, if it is installed."""
    return shutil.which("vsftpd", path=f"{os.defpath}:/usr/sbin:/usr/local/sbin")


VSFTPD_USER = "anonymous"
"""vsftpd's own list of passwords serves this user alone; all others would need accounts of the machine."""


@contextlib.contextmanager
def vsftpd(certificate: Certificates | None = None) -> Iterator[TreeServer]:
    """vsftpd as the user who runs the tests; with a certificate TLS is required, and data that resume its session.

    ``VSFTPD_USER`` logs in with ``PASSWORD``, or as who has no account. There is no chroot: the folder is where the
    login leads, and no more.
    """
    program = vsftpd_path()
    assert program is not None
    port = servers.free_port()
    with tempfile.TemporaryDirectory(prefix="vsftpd-") as name:
        folder = Path(name)
        for below in ("root", "empty"):
            (folder / below).mkdir()
        (folder / "passwords").write_text(f"{PASSWORD}\nanonymous@\n")
        settings = f"""
            listen=YES listen_address=127.0.0.1 listen_port={port} background=NO
            run_as_launching_user=YES seccomp_sandbox=NO secure_chroot_dir={folder}/empty
            local_enable=NO anonymous_enable=YES anon_root={folder}/root anon_umask=022 anon_world_readable_only=NO
            secure_email_list_enable=YES email_password_file={folder}/passwords
            write_enable=YES anon_upload_enable=YES anon_mkdir_write_enable=YES anon_other_write_enable=YES"""
        if certificate is not None:
            settings += f"""
            ssl_enable=YES allow_anon_ssl=YES ssl_ciphers=HIGH require_ssl_reuse=YES
            force_anon_logins_ssl=YES force_anon_data_ssl=YES
            rsa_cert_file={certificate.chain} rsa_private_key_file={certificate.key}"""
        config = folder / "vsftpd.conf"
        config.write_text("\n".join(settings.split()) + "\n")
        with servers._running([program, str(config)], folder, {"PATH": os.defpath}) as process:
            wait_for_port(port, process)
            yield TreeServer("127.0.0.1", port, folder / "root")


@contextlib.contextmanager
def rclone_sftp() -> Iterator[TreeServer]:
    """``rclone serve sftp``, with a host key of its own."""
    key, public, fingerprint = host_key()
    with tempfile.TemporaryDirectory(prefix="hostkey-") as name:
        path = Path(name) / "hostkey"
        path.write_bytes(key)
        path.chmod(0o600)
        with _rclone("sftp", "--key", str(path)) as server:
            yield TreeServer(server.host, server.port, server.root, host_key=public, fingerprint=fingerprint)


def wait_for_port(port: int, process: subprocess.Popen[bytes]) -> None:
    ends = time.monotonic() + servers.READY_SECONDS
    while True:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with {process.returncode}")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if time.monotonic() > ends:
                raise
            time.sleep(0.02)
        else:
            return


def host_key() -> tuple[bytes, str, str]:
    """A new Ed25519 key: the private one for OpenSSH, the public one as in known_hosts, its fingerprint."""
    import asyncssh

    key = asyncssh.generate_private_key("ssh-ed25519")
    public = key.export_public_key().decode().strip()
    return key.export_private_key(), public, key.get_fingerprint()


@contextlib.contextmanager
def asyncssh_sftp(authorized_key: str = "") -> Iterator[TreeServer]:
    """asyncssh in this process: password and key, confined to its folder."""
    import asyncssh

    logging.getLogger("asyncssh").setLevel(logging.CRITICAL)
    faults = Faults()
    key, public, fingerprint = host_key()

    connected: set[Any] = set()

    class Auth(asyncssh.SSHServer):
        def connection_made(self, conn: Any) -> None:
            self.connection = conn
            connected.add(conn)

        def connection_lost(self, exc: Exception | None) -> None:
            connected.discard(self.connection)

        def begin_auth(self, username: str) -> bool:
            return True

        def password_auth_supported(self) -> bool:
            return True

        def validate_password(self, username: str, password: str) -> bool:
            faults.seen.append("password")
            return (username, password) == (USER, PASSWORD)

    class Files(asyncssh.SFTPServer):
        def __init__(self, chan: Any) -> None:
            self.count = 0
            super().__init__(chan, chroot=name.encode())

        def read(self, file_obj: Any, offset: int, size: int) -> bytes:
            self.count += size
            if faults.cut_down is not None and self.count > faults.cut_down and faults.take():
                self.connection.abort()
            return super().read(file_obj, offset, size)

        def write(self, file_obj: Any, offset: int, content: bytes) -> int:
            self.count += len(content)
            if faults.cut_up is not None and self.count > faults.cut_up and faults.take():
                self.connection.abort()
            if "write" in faults.refuse:
                raise asyncssh.SFTPFailure(faults.refuse["write"])
            return super().write(file_obj, offset, content)

        def open(self, path: bytes, pflags: int, attrs: Any) -> Any:
            if "open" in faults.refuse:
                raise asyncssh.SFTPPermissionDenied(faults.refuse["open"])
            return super().open(path, pflags, attrs)

        def posix_rename(self, oldpath: bytes, newpath: bytes) -> None:
            if "posix_rename" in faults.refuse:
                raise asyncssh.SFTPOpUnsupported(faults.refuse["posix_rename"])
            super().posix_rename(oldpath, newpath)

    with tempfile.TemporaryDirectory(prefix="asyncssh-") as name:
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, name="asyncssh", daemon=True)
        thread.start()

        async def start() -> Any:
            return await asyncssh.listen(
                "127.0.0.1",
                0,
                server_factory=Auth,
                server_host_keys=[asyncssh.import_private_key(key)],
                authorized_client_keys=asyncssh.import_authorized_keys(authorized_key) if authorized_key else None,
                allow_scp=False,
                encoding=None,
                sftp_factory=Files,
                gss_host=None,
            )

        async def stop(acceptor: Any) -> None:
            acceptor.close()
            await acceptor.wait_closed()
            for connection in list(connected):
                connection.abort()
            await asyncio.sleep(0.05)  # what was closed last is gone only after some turns of the loop
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        acceptor = asyncio.run_coroutine_threadsafe(start(), loop).result()
        try:
            yield TreeServer(
                "127.0.0.1", acceptor.get_port(), Path(name), faults, host_key=public, fingerprint=fingerprint
            )
        finally:
            asyncio.run_coroutine_threadsafe(stop(acceptor), loop).result()
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()


@contextlib.contextmanager
def sshd(program: str) -> Iterator[tuple[TreeServer, str]]:
    """OpenSSH's sshd with its own sftp server, for the user who runs the tests.

    Yields:
        The server, and the path of the private key that logs in: passwords would need PAM.
    """
    import asyncssh

    key, public, fingerprint = host_key()
    mine = asyncssh.generate_private_key("ssh-ed25519")
    port = servers.free_port()
    with tempfile.TemporaryDirectory(prefix="sshd-") as name:
        folder = Path(name)
        (folder / "root").mkdir()
        for file, content in (("hostkey", key), ("id", mine.export_private_key())):
            (folder / file).write_bytes(content)
            (folder / file).chmod(0o600)
        (folder / "authorized").write_bytes(mine.export_public_key())
        (folder / "config").write_text(
            f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/hostkey\nPidFile none\n"
            f"AuthorizedKeysFile {folder}/authorized\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
            f"UsePAM no\nStrictModes no\nSubsystem sftp internal-sftp\nForceCommand internal-sftp -d {folder}/root\n"
        )
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)  # it will not start without
        command = [program, "-D", "-e", "-f", str(folder / "config")]
        with servers._running(command, folder, {"PATH": os.defpath, "HOME": name}) as process:
            wait_for_port(port, process)
            server = TreeServer("127.0.0.1", port, folder / "root", host_key=public, fingerprint=fingerprint)
            yield server, str(folder / "id")


def sshd_path() -> str | None:
    """Where OpenSSH's server is, if it is installed; it must be started by its full path."""
    return shutil.which("sshd", path=f"{os.defpath}:/usr/sbin:/usr/local/sbin")


@contextlib.contextmanager
def silent() -> Iterator[int]:
    """A port that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield int(listener.getsockname()[1])
