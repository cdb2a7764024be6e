"""The store of SFTP servers: the conformance suite on several servers, host keys, logins, and what breaks."""

from __future__ import annotations

import base64
import contextlib
import getpass
import hashlib
import hmac
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import ftpservers
import pytest
import servers
import tlsfront
from conformance import Conformance
from ftpservers import PASSWORD, USER, TreeServer

from creds.errors import (
    AccessDenied,
    Cancelled,
    CredentialError,
    MissingCredential,
    MissingDependency,
    NotSupported,
    ObjectChanged,
    ObjectNotFound,
    PolicyError,
    StoreError,
    StoreTimeout,
    StoreUnavailable,
    Unauthenticated,
)
from creds.store import Cancel, Retries, Retry, Ssh, StoreOptions
from creds.stores.sftp import SftpStore, fingerprint, known_keys

OPTIONS = StoreOptions(
    connect_timeout_seconds=30,
    read_timeout_seconds=30,
    retries=Retries(attempts=4, first_wait_seconds=0.01, max_wait_seconds=0.05),
)
ONCE = replace(OPTIONS, retries=Retries(attempts=1))
MANY = os.urandom(4 << 20)


def store_of(server: TreeServer, **more) -> SftpStore:
    ssh = more.pop("ssh", Ssh(fingerprints=(server.fingerprint,)))
    options = replace(more.pop("options", OPTIONS), ssh=ssh)
    more = {"user": USER, "password": PASSWORD, "options": options, **more}
    return SftpStore(server.host, server.port, **more)


@pytest.fixture(scope="module")
def asyncssh_server() -> Iterator[TreeServer]:
    with ftpservers.asyncssh_sftp() as server:
        yield server


@pytest.fixture(scope="module")
def rclone_server() -> Iterator[TreeServer]:
    with ftpservers.rclone_sftp() as server:
        yield server


class SftpConformance(Conformance):
    enforces = False  # SFTP has no conditions: looking and renaming are two requests
    pins_etag = False  # size and time only
    signs = False  # no signed URLs


class TestAsyncssh(SftpConformance):
    @pytest.fixture
    def store(self, asyncssh_server) -> Iterator[SftpStore]:
        ftpservers.empty(asyncssh_server)
        store = store_of(asyncssh_server)
        yield store
        store.close()


class TestRclone(SftpConformance):
    @pytest.fixture
    def store(self, rclone_server) -> Iterator[SftpStore]:
        store = store_of(rclone_server)
        for entry in store.list():  # by SFTP: rclone remembers what its folders held
            store.delete(entry.key)
        yield store
        store.close()


class TestSshd(SftpConformance):
    @pytest.fixture
    def store(self, sshd) -> Iterator[SftpStore]:
        started, key = sshd
        ftpservers.empty(started)
        ssh = Ssh(fingerprints=(started.fingerprint,), key=key)
        store = store_of(started, user=getpass.getuser(), password=None, ssh=ssh)
        yield store
        store.close()


def test_sshd_takes_keys_only(sshd) -> None:
    # A password where a server takes none is Unauthenticated, and the hint says what it takes; so is another key.
    started, _ = sshd
    ssh = Ssh(fingerprints=(started.fingerprint,))
    store = store_of(started, user=getpass.getuser(), password="wrong", ssh=ssh, options=ONCE)
    with pytest.raises(Unauthenticated, match="takes no such login") as caught:
        store.head("k")
    assert "publickey" in caught.value.hint
    store.close()


def test_sshd_refuses_another_key(sshd, tmp_path) -> None:
    # The login is refused, once, and nothing is tried beside the key that was given.
    started, _ = sshd
    (tmp_path / "other").write_bytes(ftpservers.host_key()[0])
    ssh = Ssh(fingerprints=(started.fingerprint,), key=str(tmp_path / "other"))
    store = store_of(started, user=getpass.getuser(), password=None, ssh=ssh, options=ONCE)
    with pytest.raises(Unauthenticated, match="the login was refused"):
        store.head("k")
    store.close()


@pytest.mark.parametrize("at", [5, 300, 600, 1300, 1500, 2600, 20_000, 90_000])
def test_a_byte_that_changed_on_its_way(server, at) -> None:
    # From the greeting to the content: it is an error of the connection, tried again where that may help; never content.
    content = os.urandom(100_000)
    (server.root / "k").write_bytes(content)
    with tlsfront.plain_front((server.host, server.port), corrupt_at=at) as front:
        ssh = Ssh(fingerprints=(server.fingerprint,))
        store = SftpStore(
            "127.0.0.1",
            front.port,
            user=USER,
            password=PASSWORD,
            options=replace(ONCE, ssh=ssh, read_timeout_seconds=5),
        )
        with pytest.raises((StoreUnavailable, StoreTimeout)):
            b"".join(store.open("k"))
        store.close()


@pytest.fixture
def server(asyncssh_server) -> TreeServer:
    return ftpservers.empty(asyncssh_server)


@pytest.fixture
def store(server) -> Iterator[SftpStore]:
    store = store_of(server)
    yield store
    store.close()


def names(server: TreeServer) -> list[str]:
    return sorted(str(path.relative_to(server.root)) for path in server.root.rglob("*"))


# Host keys.


def test_an_unknown_host_key(server) -> None:
    # Without anything to know the server by it is refused, before the login, with the fingerprint and the setting.
    with pytest.raises(StoreError, match="is unknown") as caught:
        store_of(server, ssh=Ssh()).head("k")
    assert caught.value.retryable is False
    assert server.fingerprint in str(caught.value)
    assert caught.value.hint == (
        f"if the server's operator confirms this key by another way: --host-key {server.fingerprint}, "
        "or a file for --known-hosts"
    )
    assert server.faults.seen == []


def test_another_host_key(server, tmp_path) -> None:
    # Another key than the known one is refused in other words, and nothing is retried or sent.
    _, other_key, other = ftpservers.host_key()
    (tmp_path / "known").write_text(f"[127.0.0.1]:{server.port} {other_key}\n")
    for ssh in (Ssh(fingerprints=(other,)), Ssh(known_hosts=str(tmp_path / "known"))):
        with pytest.raises(StoreError, match="is not the one that is known") as caught:
            store_of(server, ssh=ssh).head("k")
        assert server.fingerprint in str(caught.value)
        assert caught.value.retryable is False
    assert server.faults.seen == []


@pytest.mark.parametrize(
    ("line", "fine"),
    [
        ("[127.0.0.1]:{port} {key} comment", True),
        ("other,[127.0.0.1]:{port} {key}", True),
        ("[127.0.*]:* {key}", True),
        ("{hashed} {key}", True),
        ("127.0.0.1 {key}", False),
        ("[127.0.*]:*,![127.0.0.1]:{port} {key}", False),
        ("# [127.0.0.1]:{port} {key}", False),
        ("@cert-authority [127.0.0.1]:{port} {key}", False),
        ("[127.0.0.1]:{port} {key}\n@revoked * {key}", False),
        ("[127.0.0.1]:{port}", False),
        ("[127.0.0.1]:{port} ssh-ed25519 not-base64!", False),
        ("|1|nonsense {key}", False),
    ],
)
def test_known_hosts(server, tmp_path, line, fine) -> None:
    # Each form of sshd(8): plain, lists, patterns, hashed, with a port, negated, revoked.
    salt = os.urandom(20)
    digest = hmac.new(salt, f"[127.0.0.1]:{server.port}".encode(), hashlib.sha1).digest()
    hashed = f"|1|{base64.b64encode(salt).decode()}|{base64.b64encode(digest).decode()}"
    (tmp_path / "known").write_text(line.format(port=server.port, key=server.host_key, hashed=hashed) + "\n")
    (server.root / "k").write_bytes(b"x")
    store = store_of(server, ssh=Ssh(known_hosts=str(tmp_path / "known")))
    if fine:
        assert store.head("k").size_bytes == 1
    else:
        with pytest.raises(StoreError, match="host key"):
            store.head("k")
    store.close()


def test_the_port_22_has_no_brackets() -> None:
    # A host at the usual port is written alone, in any case.
    key = ftpservers.host_key()[1]
    assert [known.kind for known in known_keys(f"Files.Example {key}", "files.example", 22)] == ["ssh-ed25519"]
    assert known_keys(f"Files.Example {key}", "files.example", 2222) == []


def test_fingerprints_are_those_of_openssh(server) -> None:
    # SHA-256 in base64 without its padding, as another implementation prints it.
    blob = base64.b64decode(server.host_key.split()[1])
    assert fingerprint(blob) == server.fingerprint


def test_a_known_hosts_file_that_is_not_there(server) -> None:
    # It is an error, not an empty file.
    with pytest.raises(StoreError, match="known_hosts file /nowhere: No such file"):
        store_of(server, ssh=Ssh(known_hosts="/nowhere")).head("k")


# Logins.


def test_a_wrong_password(server) -> None:
    # Unauthenticated at once, and the password is not shown.
    wrong = "PLANTED"[::-1]
    with pytest.raises(Unauthenticated, match="the login was refused") as caught:
        store_of(server, password=wrong).head("k")
    assert wrong not in "".join(traceback.format_exception(caught.value))
    assert caught.value.hint == "check the user and the password or key"
    assert server.faults.seen == ["password"]


def test_login_by_key(tmp_path) -> None:
    # A private key, with a passphrase or without, logs in; a wrong passphrase is told apart and not shown.
    import asyncssh

    key = asyncssh.generate_private_key("ssh-ed25519")
    (tmp_path / "id").write_bytes(key.export_private_key())
    (tmp_path / "locked").write_bytes(key.export_private_key(passphrase="open-PLANTED", rounds=50))
    (tmp_path / "public").write_bytes(key.export_public_key())
    (tmp_path / "other").write_bytes(asyncssh.generate_private_key("ssh-ed25519").export_private_key())
    with ftpservers.asyncssh_sftp(key.export_public_key().decode()) as server:
        (server.root / "k").write_bytes(b"x")

        def head(name: str, passphrase: str | None = None, password: str | None = None) -> int | None:
            ssh = Ssh(fingerprints=(server.fingerprint,), key=str(tmp_path / name), key_passphrase=passphrase)
            store = store_of(server, ssh=ssh, password=password)
            try:
                return store.head("k").size_bytes
            finally:
                store.close()

        assert head("id") == 1
        assert head("locked", "open-PLANTED") == 1
        assert head("other", password=PASSWORD) == 1  # the password after the key
        with pytest.raises(Unauthenticated):
            head("other")
        for name, passphrase, message in (
            ("locked", None, "is locked, and no passphrase is given"),
            ("locked", "wrong-PLANTED", "not one of this passphrase"),
            ("public", None, "is no private key"),
            ("missing", None, "No such file"),
        ):
            with pytest.raises(CredentialError, match=message) as caught:
                head(name, passphrase)
            assert "PLANTED" not in f"{caught.value} {caught.value.hint}"


def test_nothing_to_log_in_with(server) -> None:
    # Neither a password nor a key: known before any connection.
    with pytest.raises(MissingCredential, match="neither a password nor a private key"):
        store_of(server, password=None)


def test_without_paramiko(server, monkeypatch) -> None:
    # The error names the extra.
    monkeypatch.setitem(sys.modules, "paramiko", None)
    with pytest.raises(MissingDependency) as caught:
        store_of(server)
    assert caught.value.hint == "pip install paramiko"


def test_logs_hold_no_secret(server, caplog) -> None:
    # Neither our logs nor paramiko's, at their most talkative, show a password, right or wrong.
    caplog.set_level(logging.DEBUG)
    store = store_of(server)
    store.write("k", [b"x"])
    store.close()
    wrong = PASSWORD + "-wrong"
    with pytest.raises(Unauthenticated):
        store_of(server, password=wrong).head("k")
    assert "userauth is OK" in caplog.text
    assert PASSWORD not in caplog.text
    assert PASSWORD not in f"{store!r} {vars(OPTIONS.ssh.__class__)}"


# What breaks.


def test_a_read_that_is_cut_goes_on(server, store) -> None:
    # Twice the connection breaks; the reading resumes at the byte.
    (server.root / "k").write_bytes(MANY)
    server.faults.cut_down, server.faults.times = 3_000_000, 2
    told: list[Retry] = []
    with store.open("k", on_retry=told.append) as reading:
        assert reading.pinned == "weak"
        assert b"".join(reading) == MANY
    assert [(retry.op, retry.attempt) for retry in told] in ([("open", 1)] * count for count in (1, 2))


def test_a_read_that_is_cut_too_often_ends(server, store) -> None:
    # Where nothing more comes, the tries end with the error; no short content is ever the end.
    (server.root / "k").write_bytes(MANY)
    server.faults.cut_down, server.faults.times = 0, 100_000
    with pytest.raises(StoreUnavailable), store.open("k") as reading:
        list(reading)


def test_a_replaced_file_is_noticed(server, store) -> None:
    # A file that another replaced while it was read is ObjectChanged at the end.
    (server.root / "k").write_bytes(MANY)
    with store.open("k") as reading:
        next(iter(reading))
        (server.root / "k").rename(server.root / "old")
        (server.root / "k").write_bytes(b"x" + MANY)
        with pytest.raises(ObjectChanged, match="changed while it was read"):
            list(reading)


def test_a_shortened_file_is_noticed(server, store) -> None:
    # A file cut short while it is read is ObjectChanged, never a short content.
    (server.root / "k").write_bytes(MANY * 2)
    with store.open("k") as reading:
        next(iter(reading))
        os.truncate(server.root / "k", 100)
        with pytest.raises(ObjectChanged, match="changed while it was read"):
            list(reading)


def test_a_write_that_is_cut_leaves_nothing(server, store) -> None:
    # The old file stays, and the part that arrived is removed over another connection.
    store.write("d/k", [b"old"])
    server.faults.cut_up, server.faults.times = 1_000_000, 1
    with pytest.raises(StoreUnavailable) as caught:
        store.write("d/k", [MANY])
    assert caught.value.retryable
    assert names(server) == ["d", "d/k"]
    assert (server.root / "d/k").read_bytes() == b"old"


def test_a_write_that_the_server_refuses(server, store) -> None:
    # A refused request in the stream of requests fails the write, with the server's words; nothing is left.
    server.faults.refuse["write"] = "disk quota exceeded"
    with pytest.raises(StoreError, match="disk quota exceeded") as caught:
        store.write("k", [MANY])
    assert caught.value.retryable is False
    with pytest.raises(StoreError, match="disk quota exceeded"):
        store.write("k", [b"the last request of all"])
    assert names(server) == []


def test_a_server_without_posix_rename(server, store) -> None:
    # A new file is renamed plainly, which cannot overwrite; onto an existing one it is NotSupported.
    server.faults.refuse["posix_rename"] = "no"
    store.write("k", [b"old"])
    with pytest.raises(NotSupported, match="lacks posix-rename"):
        store.write("k", [b"new"])
    assert names(server) == ["k"]
    assert (server.root / "k").read_bytes() == b"old"


def test_created_meanwhile(server, store) -> None:
    # Where the server's rename does not overwrite, if_none_match holds at the moment of publishing.
    def buffers() -> Iterator[bytes]:
        yield b"mine"
        (server.root / "k").write_bytes(b"theirs")

    with pytest.raises(ObjectChanged, match="exists already"):
        store.write("k", buffers(), if_none_match=True)
    assert names(server) == ["k"]
    assert (server.root / "k").read_bytes() == b"theirs"


def test_forbidden_is_not_absent(server, store) -> None:
    # What the server does not allow is AccessDenied.
    (server.root / "k").write_bytes(b"x")
    server.faults.refuse["open"] = "no"
    with pytest.raises(AccessDenied, match="does not allow it"):
        store.open("k")
    with pytest.raises(AccessDenied, match="does not allow it"):
        store.write("k", [b"new"])


def test_folders_and_links(server, store) -> None:
    # A folder is no object; a link is what it leads to, but a linked folder is not descended: it may lead upwards.
    store.write("folder/k", [b"12"])
    (server.root / "link").symlink_to("folder/k")
    (server.root / "up").symlink_to(".")
    (server.root / "dangling").symlink_to("nowhere")
    with pytest.raises(ObjectNotFound, match="a folder, not a file"):
        store.open("folder")
    store.delete("folder")
    assert [(entry.key, entry.size_bytes) for entry in store.list()] == [("folder/k", 2), ("link", 2)]
    with pytest.raises(ObjectNotFound):
        store.head("dangling")


@pytest.mark.parametrize("key", ["", "/", ".", "..", "../k", "a/../k", "a//k", "a/", "k\0", "k\ud800"])
def test_keys_that_are_no_paths(server, store, key) -> None:
    # No verb takes a key that leads elsewhere; nothing is connected to.
    for verb in (store.open, store.head, store.delete, lambda k: store.write(k, [b"x"])):
        with pytest.raises(NotSupported):
            verb(key)
    assert server.faults.seen == []


def test_nobody_there(server) -> None:
    # A port where nothing listens, or not SSH, is StoreUnavailable.
    with pytest.raises(StoreUnavailable, match="nothing listens there"):
        store_of(replace(server, port=servers.free_port()), options=ONCE).head("k")
    with ftpservers.pyftpd() as other, pytest.raises(StoreUnavailable):
        store_of(replace(server, port=other.port), options=ONCE).head("k")


def test_addresses(server) -> None:
    # Connections go to the addresses that were checked, and a refusal passes through.
    (server.root / "k").write_bytes(b"x")
    asked: list[tuple[str, int]] = []

    def addresses(host: str, port: int) -> list[str]:
        asked.append((host, port))
        return ["127.0.0.1"]

    options = replace(OPTIONS, ssh=Ssh(fingerprints=(server.fingerprint,)))
    more = {"user": USER, "password": PASSWORD, "options": options}
    store = SftpStore("files.example", server.port, addresses=addresses, **more)
    assert store.head("k").size_bytes == 1
    store.close()
    assert asked == [("files.example", server.port)]

    def refuse(host: str, port: int) -> list[str]:
        raise PolicyError("no", rule="link-local")

    with pytest.raises(PolicyError):
        SftpStore("files.example", server.port, addresses=refuse, **more).head("k")


def test_a_silent_server(server) -> None:
    # The timeouts hold from the first byte on.
    with ftpservers.silent() as port:
        options = replace(ONCE, connect_timeout_seconds=0.2, read_timeout_seconds=0.2)
        with pytest.raises((StoreTimeout, StoreUnavailable)):
            store_of(replace(server, port=port), options=options).head("k")


def test_cancelled_while_waiting(server) -> None:
    # A switch set while the server is silent ends the wait: the timeouts are minutes.
    with ftpservers.silent() as port:
        options = replace(ONCE, connect_timeout_seconds=600, read_timeout_seconds=600)
        cancel = Cancel()
        timer = threading.Timer(0.1, cancel.cancel, ["enough"])
        timer.start()
        with pytest.raises(Cancelled, match="enough"):
            store_of(replace(server, port=port), options=options).head("k", cancel=cancel)
        timer.join()


def test_cancelled_while_reading_and_writing(server, store) -> None:
    # A switch set in the midst of either ends it; what was written is removed.
    (server.root / "k").write_bytes(MANY)
    cancel = Cancel()
    with store.open("k", cancel=cancel) as reading:
        next(iter(reading))
        cancel.cancel("enough")
        with pytest.raises(Cancelled, match="enough"):
            list(reading)
    cancel = Cancel()

    def buffers() -> Iterator[bytes]:
        yield MANY
        cancel.cancel("enough")
        yield MANY

    with pytest.raises(Cancelled, match="enough"):
        store.write("new", buffers(), cancel=cancel)
    assert names(server) == ["k"]


def test_nothing_is_left_behind(server) -> None:
    # Threads and sockets end with the store, also those of a reading that was left and of the client.
    (server.root / "k").write_bytes(MANY)
    threads = set(threading.enumerate())
    sockets = open_sockets()
    store = store_of(server)
    client = store.client
    assert client is store.client
    assert client.listdir() == ["k"]
    store.head("k")
    with store.open("k") as reading:
        next(iter(reading))
    left = store.open("k")
    store.close()
    with pytest.raises(StoreError, match="the store is closed"):
        list(left)
    with pytest.raises(StoreError, match="the store is closed"):
        store.head("k")
    assert {thread for thread in threading.enumerate() if "asyncssh" not in thread.name} <= threads
    ends = time.monotonic() + 5  # the server's ends close a moment later
    while not open_sockets() <= sockets and time.monotonic() < ends:
        time.sleep(0.01)
    assert open_sockets() <= sockets


def open_sockets() -> set[str]:
    """The sockets of this process, by their numbers in the system."""
    links = []
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the folder itself, read a moment ago
            links.append(str(path.readlink()))
    return {name for name in links if name.startswith("socket:")}
