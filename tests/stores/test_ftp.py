"""The store of FTP servers: the conformance suite on several servers, TLS, and what breaks."""

from __future__ import annotations

import ftplib
import os
import socket
import ssl
import threading
import traceback
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import ftpservers
import pytest
import servers
from conformance import KEYS, Conformance
from ftpservers import PASSWORD, USER, Certificates, TreeServer

from creds.errors import (
    AccessDenied,
    Cancelled,
    CredentialError,
    LocationError,
    NotSupported,
    ObjectChanged,
    ObjectNotFound,
    PolicyError,
    StoreError,
    StoreTimeout,
    StoreUnavailable,
    Unauthenticated,
)
from creds.store import Cancel, Retries, Retry, StoreOptions, Tls
from creds.stores.ftp import FtpStore, _facts, _parsed
from creds.stores.tree import Entry, Failure

# A line break ends a command, so there is no such key on FTP.
FTP_KEYS = tuple(key for key in KEYS if "\n" not in key)

OPTIONS = StoreOptions(
    connect_timeout_seconds=30,
    read_timeout_seconds=30,
    retries=Retries(attempts=4, first_wait_seconds=0.01, max_wait_seconds=0.05),
)
ONCE = replace(OPTIONS, retries=Retries(attempts=1))
MANY = os.urandom(4 << 20)


def store_of(server: TreeServer, security: str = "none", ca_pem: bytes | None = None, **more) -> FtpStore:
    options = more.pop("options", OPTIONS)
    if ca_pem is not None:
        options = replace(options, tls=Tls(ca_pem=ca_pem))
    more = {"user": USER, "password": PASSWORD, "options": options, **more}
    return FtpStore(server.host, server.port, security=security, **more)


@pytest.fixture(scope="module")
def certificates() -> Iterator[Certificates]:
    with ftpservers.certificates() as made:
        yield made


@pytest.fixture(scope="module")
def plain_server() -> Iterator[TreeServer]:
    with ftpservers.pyftpd() as server:
        yield server


@pytest.fixture(scope="module")
def old_server() -> Iterator[TreeServer]:
    with ftpservers.pyftpd(lacks=("MLST", "MLSD")) as server:
        yield server


@pytest.fixture(scope="module")
def explicit_server(certificates) -> Iterator[TreeServer]:
    with ftpservers.pyftpd("explicit", certificates) as server:
        yield server


@pytest.fixture(scope="module")
def implicit_server(certificates) -> Iterator[TreeServer]:
    with ftpservers.pyftpd("implicit", certificates) as server:
        yield server


@pytest.fixture(scope="module")
def rclone_server() -> Iterator[TreeServer]:
    with ftpservers.rclone_ftp() as server:
        yield server


@pytest.fixture(scope="module")
def vsftpd_server() -> Iterator[TreeServer]:
    if ftpservers.vsftpd_path() is None:
        pytest.skip("vsftpd is not installed")
    with ftpservers.vsftpd() as server:
        yield server


@pytest.fixture(scope="module")
def vsftpd_tls_server(certificates) -> Iterator[TreeServer]:
    if ftpservers.vsftpd_path() is None:
        pytest.skip("vsftpd is not installed")
    with ftpservers.vsftpd(certificates) as server:
        yield server


class FtpConformance(Conformance):
    enforces = False  # FTP has no conditions: looking and renaming are two commands
    pins_etag = False  # size and time only
    signs = False  # no signed URLs
    keys = FTP_KEYS


class TestPlain(FtpConformance):
    @pytest.fixture
    def store(self, plain_server) -> Iterator[FtpStore]:
        store = store_of(ftpservers.empty(plain_server))
        yield store
        store.close()


class TestWithoutMlsd(FtpConformance):
    @pytest.fixture
    def store(self, old_server) -> Iterator[FtpStore]:
        store = store_of(ftpservers.empty(old_server))
        yield store
        store.close()


class TestExplicit(FtpConformance):
    @pytest.fixture
    def store(self, explicit_server, certificates) -> Iterator[FtpStore]:
        store = store_of(ftpservers.empty(explicit_server), "explicit", certificates.ca_pem)
        yield store
        store.close()


class TestImplicit(FtpConformance):
    @pytest.fixture
    def store(self, implicit_server, certificates) -> Iterator[FtpStore]:
        store = store_of(ftpservers.empty(implicit_server), "implicit", certificates.ca_pem)
        yield store
        store.close()


class TestVsftpd(FtpConformance):
    @pytest.fixture
    def store(self, vsftpd_server) -> Iterator[FtpStore]:
        store = store_of(ftpservers.empty(vsftpd_server), user=ftpservers.VSFTPD_USER)
        yield store
        store.close()


class TestVsftpdTls(FtpConformance):
    @pytest.fixture
    def store(self, vsftpd_tls_server, certificates) -> Iterator[FtpStore]:
        server = ftpservers.empty(vsftpd_tls_server)
        store = store_of(server, "explicit", certificates.ca_pem, user=ftpservers.VSFTPD_USER)
        yield store
        store.close()


def test_vsftpd_wants_the_session_of_its_control_connection(vsftpd_tls_server, certificates) -> None:
    # A client that begins a TLS session of its own for data is refused: what the suite above shows is not for nothing.
    server = ftpservers.empty(vsftpd_tls_server)
    (server.root / "k").write_bytes(b"content")
    context = ssl.create_default_context(cadata=certificates.ca_pem.decode())
    with ftplib.FTP_TLS(context=context, timeout=10) as client:
        client.connect(server.host, server.port)
        client.login(ftpservers.VSFTPD_USER, PASSWORD)
        client.prot_p()
        with pytest.raises((ftplib.Error, OSError)):
            client.retrbinary("RETR k", lambda _: None)
    store = store_of(server, "explicit", certificates.ca_pem, user=ftpservers.VSFTPD_USER)
    with store.open("k") as reading:
        assert b"".join(reading) == b"content"
    store.close()


@pytest.mark.parametrize("password", [PASSWORD + "x", "anonymous@x"])
def test_vsftpd_refuses_other_passwords(vsftpd_server, password) -> None:
    # Its own list decides, and a refusal is final.
    store = store_of(vsftpd_server, user=ftpservers.VSFTPD_USER, password=password, options=ONCE)
    with pytest.raises(Unauthenticated) as caught:
        store.head("k")
    assert caught.value.retryable is False
    store.close()


class TestRclone(FtpConformance):
    @pytest.fixture
    def store(self, rclone_server) -> Iterator[FtpStore]:
        store = store_of(rclone_server)
        for entry in store.list():  # by FTP: rclone remembers what its folders held
            store.delete(entry.key)
        yield store
        store.close()


@pytest.fixture
def plain(plain_server) -> TreeServer:
    return ftpservers.empty(plain_server)


@pytest.fixture
def plain_store(plain) -> Iterator[FtpStore]:
    store = store_of(plain)
    yield store
    store.close()


def names(server: TreeServer) -> list[str]:
    return sorted(str(path.relative_to(server.root)) for path in server.root.rglob("*"))


# What breaks.


def test_a_read_that_is_cut_goes_on(plain, plain_store) -> None:
    # Twice the data connection and its control connection break; the reading resumes by REST at the byte.
    (plain.root / "k").write_bytes(MANY)
    plain.faults.cut_down, plain.faults.times = 700_000, 2
    told: list[Retry] = []
    with plain_store.open("k", on_retry=told.append) as reading:
        assert reading.pinned == "weak"
        assert b"".join(reading) == MANY
    assert [(retry.op, retry.attempt) for retry in told] == [("open", 1), ("open", 1)]
    rests = [int(line.split()[1]) for line in plain.faults.seen if line.startswith("REST")]
    assert len(rests) == 2
    assert 0 < rests[0] < rests[1] < len(MANY)


def test_a_read_that_is_cut_too_often_ends(plain, plain_store) -> None:
    # Where nothing more comes, the tries end with the error; no short content is ever the end.
    (plain.root / "k").write_bytes(MANY)
    plain.faults.cut_down, plain.faults.times = 0, 100
    with plain_store.open("k") as reading, pytest.raises(StoreUnavailable):
        list(reading)


def test_a_replaced_file_is_noticed(plain, plain_store) -> None:
    # A file replaced while it is read, or between two connections, is ObjectChanged and not a mixture.
    (plain.root / "k").write_bytes(MANY)
    with plain_store.open("k") as reading:
        next(iter(reading))
        (plain.root / "k").write_bytes(b"another")
        with pytest.raises(ObjectChanged, match="changed while it was read"):
            list(reading)
    (plain.root / "k").write_bytes(MANY)
    plain.faults.cut_down, plain.faults.times = 700_000, 1
    with plain_store.open("k") as reading:
        next(iter(reading))
        (plain.root / "k").rename(plain.root / "old")
        (plain.root / "k").write_bytes(b"x" + MANY)
        with pytest.raises(ObjectChanged, match="changed while it was read"):
            list(reading)


def test_a_write_that_is_cut_leaves_nothing(plain, plain_store) -> None:
    # The old file stays, and the part that arrived is removed. The source cannot be read again, so there is no retry.
    plain_store.write("d/k", [b"old"])
    plain.faults.cut_up, plain.faults.times = 300_000, 1
    with pytest.raises(StoreUnavailable) as caught:
        plain_store.write("d/k", [MANY[start : start + 100_000] for start in range(0, len(MANY), 100_000)])
    assert caught.value.retryable
    assert names(plain) == ["d", "d/k"]
    assert (plain.root / "d/k").read_bytes() == b"old"


def test_an_answer_that_is_lost(plain, plain_store) -> None:
    # The rename was done and the connection broke before the answer: looked up, and not done twice.
    plain.faults.lose, plain.faults.times = "RNTO", 1
    told: list[Retry] = []
    written = plain_store.write("k", [b"content"], on_retry=told.append)
    assert [type(retry.error) for retry in told] == [StoreUnavailable]
    assert plain_store.head("k") == written
    assert names(plain) == ["k"]


def test_a_server_that_does_not_rename_onto_files(plain, plain_store) -> None:
    # It is NotSupported: the old file is not deleted first.
    plain_store.write("k", [b"old"])
    plain.faults.refuse["RNTO"] = "550 File exists."
    with pytest.raises(NotSupported, match="does not rename onto what exists"):
        plain_store.write("k", [b"new"])
    assert names(plain) == ["k"]
    assert (plain.root / "k").read_bytes() == b"old"
    with pytest.raises(AccessDenied, match="550 File exists"):
        plain_store.write("other", [b"new"])
    assert names(plain) == ["k"]


def test_a_full_server(plain, plain_store) -> None:
    # 552 is neither access nor a breakdown, and is not repeated.
    plain.faults.refuse["STOR"] = "552 Quota exceeded."
    with pytest.raises(StoreError, match="552 Quota exceeded") as caught:
        plain_store.write("k", [b"x"])
    assert (caught.value.retryable, caught.value.server_code) == (False, "552")
    assert caught.value.hint == "the server has no room for it"


def test_a_busy_server_is_tried_again(plain, plain_store) -> None:
    # 421 and 450 about a file that is there are repeated as often as the options say, then they stand.
    (plain.root / "k").write_bytes(b"x")
    for words in ("421 Too many users.", "450 File busy."):
        plain.faults.refuse["MLST"] = words
        with pytest.raises(StoreUnavailable, match=words[:3]):
            plain_store.head("k")
        assert sum(line.startswith("MLST") for line in plain.faults.seen) == 4
        plain.faults.seen.clear()


def test_forbidden_is_not_absent(plain, plain_store) -> None:
    # The server says 550 about a file that its listing has: no permission. One that the listing lacks is absent.
    (plain.root / "k").write_bytes(b"x")
    plain.faults.refuse["RETR"] = plain.faults.refuse["DELE"] = "550 No."
    with pytest.raises(AccessDenied, match="550 No"):
        plain_store.open("k")
    with pytest.raises(AccessDenied, match="550 No"):
        plain_store.delete("k")
    plain.faults.refuse["MLSD"] = "550 No."
    with pytest.raises(AccessDenied, match="550 No"):
        plain_store.head("missing")
    with pytest.raises(AccessDenied, match="550 No"):
        list(plain_store.list())


def test_a_folder_is_no_object(plain, plain_store, rclone_server) -> None:
    # A folder is ObjectNotFound, is not deleted, and deleting it is no error; on rclone too, which has a SIZE for it.
    other = store_of(rclone_server)
    for store in (plain_store, other):
        store.write("folder/k", [b"x"])
        with pytest.raises(ObjectNotFound, match="a folder, not a file"):
            store.head("folder")
        with pytest.raises(ObjectNotFound, match="a folder, not a file"):
            store.open("folder")
        store.delete("folder")
        assert store.head("folder/k").size_bytes == 1
    other.close()


# TLS.


def test_data_connections_resume_the_session(explicit_server, certificates) -> None:
    # Servers may require it; each data connection resumed the TLS session of its control connection.
    server = ftpservers.empty(explicit_server)
    store = store_of(server, "explicit", certificates.ca_pem)
    store.write("k", [b"x"])
    assert [entry.key for entry in store.list()] == ["k"]
    store.close()
    assert len(server.faults.reused) >= 2
    assert set(server.faults.reused) == {True}
    assert server.faults.seen.index("PROT P") < server.faults.seen.index(f"USER {USER}")


@pytest.mark.parametrize("security", ["explicit", "implicit"])
def test_another_authority(request, certificates, security) -> None:
    # A certificate that nobody vouches for is refused before the login, once, with a hint.
    server = ftpservers.empty(request.getfixturevalue(f"{security}_server"))
    for ca_pem in (None, certificates.other_ca_pem):
        with pytest.raises(StoreError, match="certificate is not trusted") as caught:
            store_of(server, security, ca_pem).head("k")
        assert caught.value.retryable is False
        assert caught.value.hint == "check the endpoint's name, and give a private authority's certificate by --ca"
    assert [line for line in server.faults.seen if line.startswith(("USER", "PASS"))] == []


def test_another_name(explicit_server, certificates) -> None:
    # The certificate must be for the host that was named, not for the address that was connected to.
    asked: list[tuple[str, int]] = []

    def addresses(host: str, port: int) -> list[str]:
        asked.append((host, port))
        return ["127.0.0.1"]

    options = replace(OPTIONS, tls=Tls(ca_pem=certificates.ca_pem))
    for host, fine in (("localhost", True), ("files.example", False)):
        store = FtpStore(
            host,
            explicit_server.port,
            security="explicit",
            user=USER,
            password=PASSWORD,
            options=options,
            addresses=addresses,
        )
        with pytest.raises(ObjectNotFound if fine else StoreError, match="no such file" if fine else "not trusted"):
            store.head("missing")
        store.close()
    assert asked[0] == ("localhost", explicit_server.port)
    assert asked[-1] == ("files.example", explicit_server.port)


@pytest.mark.parametrize("security", ["explicit", "implicit"])
def test_a_server_without_tls(plain, certificates, security) -> None:
    # Where TLS was asked for, nothing is said in the clear: no user, no password.
    with pytest.raises(StoreError, match="does not agree on TLS") as caught:
        store_of(plain, security, certificates.ca_pem).head("k")
    assert caught.value.retryable is False
    assert "ftps+implicit://" in caught.value.hint
    assert [line for line in plain.faults.seen if line.startswith(("USER", "PASS"))] == []


def test_a_server_that_wants_tls(explicit_server) -> None:
    # In plaintext it refuses the user, and the hint says what to write; the password was not sent.
    server = ftpservers.empty(explicit_server)
    with pytest.raises(AccessDenied, match="wants TLS before the login") as caught:
        store_of(server).head("k")
    assert caught.value.hint == "write the location as ftps://"
    assert [line for line in server.faults.seen if line.startswith("PASS")] == []


def test_data_in_the_clear_is_refused(certificates) -> None:
    # rclone's implicit TLS leaves data connections in the clear: nothing is read or written over them.
    with ftpservers.rclone_ftp(certificates) as server:
        (server.root / "k").write_bytes(b"x")
        options = replace(ONCE, read_timeout_seconds=0.5)
        store = store_of(server, "implicit", certificates.ca_pem, options=options)
        assert store.head("k").size_bytes == 1
        with pytest.raises(StoreUnavailable, match="TLS handshake"):
            store.open("k")
        with pytest.raises(StoreUnavailable, match="TLS handshake"):
            store.write("new", [b"x"])
        store.close()
        assert (server.root / "k").read_bytes() == b"x"
        assert not (server.root / "new").exists()


def test_certificates_that_cannot_be_read(plain) -> None:
    # A CA that is no PEM is an error, not an unchecked connection.
    with pytest.raises(LocationError, match=r"the certificate authority \(ca\) cannot be read"):
        store_of(plain, "explicit", b"no certificate").head("k")


# Logins, hosts, timeouts.


def test_a_wrong_password(plain) -> None:
    # Unauthenticated at once, and neither password is shown.
    wrong = "PLANTED"[::-1]
    with pytest.raises(Unauthenticated, match=r"the login was refused \(530\)") as caught:
        store_of(plain, password=wrong).head("k")
    assert wrong not in "".join(traceback.format_exception(caught.value))
    assert sum(line.startswith("PASS") for line in plain.faults.seen) == 1


def test_what_is_no_login(plain) -> None:
    # A line break in a user or password would be a command of its own.
    for more in ({"user": "u\r\nDELE k"}, {"password": "PLANTED\nDELE k"}):
        with pytest.raises(CredentialError, match="line break") as caught:
            store_of(plain, **more)
        assert "PLANTED" not in str(caught.value)
    with pytest.raises(ValueError, match="security is 'tls'"):
        store_of(plain, "tls")


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/",
        ".",
        "..",
        "../k",
        "a/../k",
        "a//k",
        "a/",
        "./k",
        "k\r\nDELE k",
        "k\n",
        "k\r",
        "k\0",
        "k\udcff",
        "\ud800k",
    ],
)
def test_keys_that_are_no_paths(plain, plain_store, key) -> None:
    # No verb takes a key that leads elsewhere or holds a command; nothing reaches the server.
    for verb in (plain_store.open, plain_store.head, plain_store.delete, lambda k: plain_store.write(k, [b"x"])):
        with pytest.raises(NotSupported) as caught:
            verb(key)
        assert str(caught.value).isprintable()
    assert plain.faults.seen == []


def test_unfinished_files_stay_hidden(plain, plain_store) -> None:
    # While a write runs its file lies beside the target under a name that is no key.
    seen: list[str] = []

    def buffers() -> Iterator[bytes]:
        yield b"x"
        seen.extend(entry.key for entry in plain_store.list())
        seen.extend(path.name for path in (plain.root / "d").iterdir())

    plain_store.write("d/k", buffers())
    (unfinished,) = seen
    assert unfinished.startswith(".k.partial-")
    with pytest.raises(AccessDenied, match="unfinished files"):
        plain_store.write("d/" + unfinished, [b"x"])
    assert names(plain) == ["d", "d/k"]


def test_the_address_that_the_server_names_is_not_used() -> None:
    # Data connections go where the control connection went, whatever the server says.
    with ftpservers.pyftpd(says_address="192.0.2.1") as server:
        store = store_of(server)
        store.write("k", [b"content"])
        with store.open("k") as reading:
            assert b"".join(reading) == b"content"
        store.close()


def test_addresses_that_are_refused(plain) -> None:
    # What the policy raises about an address passes through, and nothing is connected to.
    def addresses(host: str, port: int) -> list[str]:
        raise PolicyError("no", rule="link-local")

    with pytest.raises(PolicyError):
        store_of(plain, addresses=addresses).head("k")
    with pytest.raises(StoreUnavailable, match="has no address"):
        store_of(plain, addresses=lambda host, port: [], options=ONCE).head("k")
    assert plain.faults.seen == []


def test_nobody_there(plain) -> None:
    # A port where nothing listens is StoreUnavailable with a hint.
    server = replace(plain, port=servers.free_port())
    with pytest.raises(StoreUnavailable, match="nothing listens there") as caught:
        store_of(server, options=ONCE).head("k")
    assert caught.value.hint == "check the host and the port, and that the server runs"


@pytest.mark.parametrize("security", ["none", "explicit", "implicit"])
def test_a_silent_server(certificates, security) -> None:
    # The read timeout holds from the first byte on.
    with ftpservers.silent() as port:
        server = TreeServer("127.0.0.1", port, Path("/nowhere"))
        options = replace(ONCE, read_timeout_seconds=0.2)
        with pytest.raises(StoreTimeout, match="took too long"):
            store_of(server, security, certificates.ca_pem, options=options).head("k")


@pytest.mark.parametrize("security", ["none", "implicit"])
def test_cancelled_while_waiting(certificates, security) -> None:
    # A switch set while the server is silent ends the wait: the timeouts are minutes.
    with ftpservers.silent() as port:
        server = TreeServer("127.0.0.1", port, Path("/nowhere"))
        options = replace(ONCE, connect_timeout_seconds=600, read_timeout_seconds=600)
        cancel = Cancel()
        timer = threading.Timer(0.1, cancel.cancel, ["enough"])
        timer.start()
        with pytest.raises(Cancelled, match="enough"):
            store_of(server, security, certificates.ca_pem, options=options).head("k", cancel=cancel)
        timer.join()


def test_cancelled_while_data_stalls(plain) -> None:
    # A switch set while a data connection is silent ends the reading.
    (plain.root / "k").write_bytes(MANY)
    plain.faults.stall = threading.Event()
    store = store_of(plain, options=replace(ONCE, read_timeout_seconds=600))
    cancel = Cancel()
    with store.open("k", cancel=cancel) as reading:
        timer = threading.Timer(0.1, cancel.cancel, ["enough"])
        timer.start()
        with pytest.raises(Cancelled, match="enough"):
            list(reading)
        timer.join()
    plain.faults.stall.set()
    store.close()


def test_a_store_that_is_closed(plain, plain_store) -> None:
    # Closing ends readings that are under way and refuses new work; the client goes with it.
    (plain.root / "k").write_bytes(MANY)
    client = plain_store.client
    assert client is plain_store.client
    assert client.nlst() == ["k"]
    with plain_store.open("k") as reading:
        next(iter(reading))
        plain_store.close()
        with pytest.raises(StoreError, match="the store is closed"):
            list(reading)
    with pytest.raises(StoreError, match="the store is closed"):
        plain_store.head("k")
    assert client.sock is None


def test_connections_are_kept(plain, plain_store) -> None:
    # Work in a row shares one login; one that the server closed meanwhile is replaced without a retry.
    told: list[Retry] = []
    plain_store.write("k", [b"x"], on_retry=told.append)
    with plain_store.open("k", on_retry=told.append) as reading:
        assert list(reading) == [b"x"]
    assert sum(line.startswith("USER") for line in plain.faults.seen) == 1
    plain_store._idle[0].client.sock.shutdown(socket.SHUT_RD)
    with plain_store.open("k", on_retry=told.append) as reading:
        assert list(reading) == [b"x"]
    assert sum(line.startswith("USER") for line in plain.faults.seen) == 2
    assert told == []


# Listings.


def test_a_listing_that_never_ends(plain, plain_store) -> None:
    # A link that leads upwards, and that the server shows as a folder, is descended to a depth and no further.
    plain_store.write("k", [b"x"])
    plain_store._idle[0].names = lambda folder: [Entry(name="again", folder=True)]
    with pytest.raises(StoreError, match="more than 100 folders deep"):
        list(plain_store.list())


def test_facts() -> None:
    # MLSD's facts come in any case and order, with fractions of seconds or without, and may be missing.
    entry = _facts("Type=file;Size=12;Modify=20260102030405.678;UNIX.mode=0644;", "a b")
    assert entry == Entry(name="a b", size_bytes=12, modified=datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC))
    assert _facts("type=DIR;", "d") == Entry(name="d", folder=True)
    assert _facts("type=file;size=-1;modify=20261301000000;", "f") == Entry(name="f")
    assert _facts("type=file;size=²;modify=soon;", "f") == Entry(name="f")


def test_listings_for_people() -> None:
    # Both common forms are read, links and devices passed over, names kept to the byte; anything else is refused.
    lines = [
        "total 12",
        "drwxr-xr-x   2 ftp      ftp          4096 Nov 24 11:42 a folder",
        "-rw-r--r--   1 1000     1000           12 Jan  2  2025  leading and trailing ",
        "-rw-r--r--+  1 u        domain-users   12 Nov 24 11:42 -> x",
        "lrwxrwxrwx   1 ftp      ftp             4 Nov 24 11:42 link -> away",
        "crw-rw-rw-   1 ftp      ftp             4 Nov 24 11:42 device",
        "11-24-26  11:42AM       <DIR>          Program Files",
        "11-24-2026  23:42                 1234 a.txt",
    ]
    assert _parsed(lines) == [
        Entry(name="a folder", folder=True),
        Entry(name=" leading and trailing ", size_bytes=12),
        Entry(name="-> x", size_bytes=12),
        Entry(name="Program Files", folder=True),
        Entry(name="a.txt", size_bytes=1234),
    ]
    with pytest.raises(Failure, match=r"a listing in an unknown form: \+i8388621\.48594,m825718503"):
        _parsed(["+i8388621.48594,m825718503,r,s280,\tdjb.html"])


def test_names_that_lead_elsewhere(plain, plain_store) -> None:
    # A server that lists a name with a slash is an error: it is no name.
    plain_store.write("k", [b"x"])
    session = plain_store._idle[0]
    session.names = lambda folder: [Entry(name="../k", size_bytes=1)]
    with pytest.raises(StoreError, match=r"names an entry '\.\./k'"):
        list(plain_store.list())
