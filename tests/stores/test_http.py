"""The store of http and https: the conformance suite on real WebDAV servers, and what a web server may do to it."""

from __future__ import annotations

import base64
import logging
import os
import socket
import ssl
import threading
import time
import traceback
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import servers
import trustme
import urllib3
import webservers
from conformance import CONTENT, KEYS, Conformance
from webservers import PASSWORD, USER, ForwardProxy, Nginx, ScriptedServer, Seen, WebServer

from creds.errors import (
    AccessDenied,
    BucketNotFound,
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
    ToolkitError,
    Unauthenticated,
)
from creds.store import Cancel, Retries, Retry, StoreOptions, Tls
from creds.stores.http import HttpStore, basic
from creds.testing import Fault, FaultProxy

QUICK = Retries(attempts=4, for_seconds=20.0, first_wait_seconds=0.01, max_wait_seconds=0.05)
TOKEN = "planted-token-0123456789"
MODIFIED = "Tue, 03 Nov 2026 10:00:00 GMT"


def options(**more: Any) -> StoreOptions:
    """Waits too short to notice, and no proxy."""
    more.setdefault("retries", QUICK)
    more.setdefault("proxies", {})
    return StoreOptions(**more)


def http_store(url: str, **more: Any) -> HttpStore:
    settings = {name: more.pop(name) for name in list(more) if name in StoreOptions.__dataclass_fields__}
    return HttpStore(url, options=options(**settings), **more)


def dav_store(server: WebServer, url: str | None = None, **more: Any) -> HttpStore:
    """A store on a fresh folder of ``server``, or of the proxy ``url`` before it, as its user."""
    folder = uuid.uuid4().hex[:12]
    # Through the server, as rclone does not look at its disk again for a while.
    who = {"Authorization": basic(USER, PASSWORD)}
    if urllib3.request("MKCOL", f"{server.url}/{folder}/", headers=who).status != 201:
        (server.folder / folder).mkdir()  # it wants a token
    more.setdefault("authorization", lambda: basic(USER, PASSWORD))
    return http_store(f"{url or server.url}/{folder}", **more)


def folder_of(server: WebServer, store: HttpStore) -> Path:
    """Where the server keeps what the store holds."""
    return server.folder / repr(store).rstrip(">").rpartition("/")[2]


class _Dav(Conformance):
    enforces = False  # if_match is compared from here, just before the MOVE
    signs = False  # a password cannot be lent out by URL


class TestWsgidav(_Dav):
    # It decodes the name that a MOVE leads to before it takes the URL apart, and so reads another name.
    keys = tuple(key for key in KEYS if not set(key) & set("?#\t\n"))

    @pytest.fixture
    def store(self, wsgidav: WebServer) -> Iterator[HttpStore]:
        store = dav_store(wsgidav)
        yield store
        store.close()


class TestRclone(_Dav):
    keys = tuple(key for key in KEYS if not set(key) & set("\t\n"))  # refused: 403

    @pytest.fixture
    def store(self, rclone_dav: WebServer) -> Iterator[HttpStore]:
        store = dav_store(rclone_dav)
        yield store
        store.close()


class _Nginx(_Dav):
    lists_etags = False  # its PROPFIND knows none
    keys = tuple(key for key in KEYS if not key.startswith("."))  # its PROPFIND leaves such names out of a folder


class TestNginx(_Nginx):
    @pytest.fixture
    def store(self, nginx: Nginx) -> Iterator[HttpStore]:
        store = dav_store(nginx.basic)
        yield store
        store.close()


class TestNginxTls(_Nginx):
    @pytest.fixture
    def store(self, nginx: Nginx) -> Iterator[HttpStore]:
        store = dav_store(nginx.basic, nginx.tls.url, tls=Tls(ca_pem=nginx.authority.pem))
        yield store
        store.close()


class TestNginxBearer(_Nginx):
    @pytest.fixture
    def store(self, nginx: Nginx) -> Iterator[HttpStore]:
        tls = Tls(ca_pem=nginx.authority.pem)
        store = dav_store(nginx.basic, nginx.bearer.url, tls=tls, authorization=lambda: f"Bearer {nginx.token}")
        yield store
        store.close()


class TestNginxMutualTls(_Nginx):
    @pytest.fixture
    def store(self, nginx: Nginx) -> Iterator[HttpStore]:
        mine = nginx.authority
        tls = Tls(ca_pem=mine.pem, client_cert=mine.client_cert, client_key=mine.client_key)
        store = dav_store(nginx.basic, nginx.mutual.url, tls=tls, authorization=None)
        yield store
        store.close()


def test_nginx_wants_the_credential(nginx: Nginx) -> None:
    # A wrong token is Unauthenticated. No client certificate is answered with 400 inside TLS: the hint speaks of it.
    tls = Tls(ca_pem=nginx.authority.pem)
    wrong = http_store(nginx.bearer.url, tls=tls, authorization=lambda: "Bearer wrong")
    with pytest.raises(Unauthenticated) as caught:
        wrong.head("k")
    assert caught.value.http_status == 401
    wrong.close()
    without = http_store(nginx.mutual.url, tls=tls)
    with pytest.raises(StoreError) as refused:
        without.head("k")
    assert (refused.value.http_status, refused.value.retryable) == (400, False)
    assert "--client-cert" in refused.value.hint
    without.close()


@pytest.fixture(params=["wsgidav", "rclone_dav", "nginx"])
def dav(request: pytest.FixtureRequest) -> WebServer:
    """Each WebDAV server in turn."""
    server = request.getfixturevalue(request.param)
    return server.basic if isinstance(server, Nginx) else server


# Writing by WebDAV.


def test_streamed_upload(dav: WebServer) -> None:
    # What is larger than a part is streamed, arrives whole, and nothing is left beside it.
    store = dav_store(dav, part_bytes=64 << 10)
    store.write("a/b/c/large", [CONTENT[:300_000], CONTENT[300_000:]])
    folder = folder_of(dav, store)
    assert (folder / "a/b/c/large").read_bytes() == CONTENT
    assert [path.name for path in (folder / "a/b/c").iterdir()] == ["large"]
    assert store.write("a/b/c/large", iter([CONTENT])).size_bytes == len(CONTENT)
    store.close()


@pytest.mark.parametrize("part_bytes", [1 << 10, 8 << 20])
def test_failed_source_leaves_nothing(dav: WebServer, part_bytes: int) -> None:
    # The unfinished file is removed from the server's disk, also where the source broke in the middle of the stream
    # with an error that urllib3 would swallow.
    store = dav_store(dav, part_bytes=part_bytes)
    folder = folder_of(dav, store)

    def buffers() -> Iterator[bytes]:
        for start in range(0, 200_000, 50_000):
            yield CONTENT[start : start + 50_000]
        raise BrokenPipeError("the source broke")

    with pytest.raises(BrokenPipeError, match="the source broke"):
        store.write("k", buffers())
    _until(lambda: list(folder.iterdir()) == [])
    store.close()


def _until(holds: Any) -> None:
    """Wait for what happens on another thread."""
    for _ in range(500):
        if holds():
            return
        time.sleep(0.02)
    assert holds()


def test_names_of_unfinished_files(wsgidav: WebServer) -> None:
    # While a write runs, its file lies beside the target under a name that is no key; such names cannot be written.
    store = dav_store(wsgidav, part_bytes=10)
    folder = folder_of(wsgidav, store)
    seen: list[str] = []

    def buffers() -> Iterator[bytes]:
        yield CONTENT[:100_000]
        yield CONTENT[100_000:200_000]
        _until(lambda: list((folder / "d").iterdir()))
        seen.extend(path.name for path in (folder / "d").iterdir())
        seen.extend(entry.key for entry in store.list())
        yield b"end"

    store.write("d/k", buffers())
    (unfinished,) = seen
    assert unfinished.startswith(".k.partial-")
    with pytest.raises(AccessDenied, match="unfinished files"):
        store.write("d/" + unfinished, [b"x"])
    assert [entry.key for entry in store.list()] == ["d/k"]
    store.close()


def test_long_names(dav: WebServer) -> None:
    # A name as long as the file system allows can be written.
    store = dav_store(dav)
    name = "n" * 250
    store.write(name, [b"x"])
    assert [entry.key for entry in store.list()] == [name]
    store.close()


def test_folders_are_no_files(dav: WebServer) -> None:
    # A folder is neither replaced by a write nor removed by a delete, which would take all that is in it.
    store = dav_store(dav)
    store.write("folder/file", [b"kept"])
    with pytest.raises(AccessDenied, match="a folder has this name"):
        store.write("folder", [b"x"])
    with pytest.raises(ObjectNotFound, match="a folder, not a file"):
        store.delete("folder")
    with pytest.raises(AccessDenied, match="a folder's name"):
        store.write("folder/", [b"x"])
    with pytest.raises(AccessDenied, match="'folder/file' above it is a file"):
        store.write("folder/file/below", [b"x"])
    assert (folder_of(dav, store) / "folder/file").read_bytes() == b"kept"
    store.close()


def test_missing_root(dav: WebServer) -> None:
    # The base URL's own folder is not made; without it there is nothing to list and nowhere to write.
    store = http_store(f"{dav.url}/no-such-root", authorization=lambda: basic(USER, PASSWORD))
    with pytest.raises(BucketNotFound, match="no such folder"):
        store.write("a/k", [b"x"])
    for prefix in ("", "a/"):
        with pytest.raises(BucketNotFound, match="no such folder"):
            list(store.list(prefix))
    with pytest.raises(ObjectNotFound):
        store.head("k")
    store.close()


@pytest.mark.parametrize("key", ["../k", "a/../../k", "..", ".", "a/./k"])
def test_keys_that_lead_out(dav: WebServer, key: str) -> None:
    # No key with dots for a folder is taken, by any verb: a server would resolve them.
    store = dav_store(dav)
    for verb in (store.open, store.head, store.delete, lambda k: store.write(k, [b"x"])):
        with pytest.raises(AccessDenied, match="not a path below the root"):
            verb(key)
    store.close()


def test_a_move_that_is_misread(wsgidav: WebServer) -> None:
    # Where the server reads another name in a MOVE, that other file is not overwritten, and the write says so.
    store = dav_store(wsgidav)
    store.write("q", [b"another"])
    with pytest.raises(StoreError, match="reads another name than was meant"):
        store.write("q?u", [b"mine"])
    folder = folder_of(wsgidav, store)
    assert (folder / "q").read_bytes() == b"another"
    assert [path.name for path in folder.iterdir()] == ["q"]
    with pytest.raises(StoreError, match="reads another name than was meant"):
        store.write("r?u", [b"mine"])
    store.close()


def test_written_meanwhile(dav: WebServer) -> None:
    # Another writer that comes first is overwritten without a condition, and wins with one.
    store = dav_store(dav, part_bytes=10)

    def buffers() -> Iterator[bytes]:
        yield CONTENT
        store.write("k", [b"theirs"])
        yield b"mine"

    store.write("k", buffers())
    folder = folder_of(dav, store)
    assert (folder / "k").read_bytes() == CONTENT + b"mine"
    store.delete("k")
    with pytest.raises(ObjectChanged, match="exists already"):
        store.write("k", buffers(), if_none_match=True)
    assert (folder / "k").read_bytes() == b"theirs"
    assert [path.name for path in folder.iterdir()] == ["k"]
    store.close()


def test_if_match_holds_at_the_end(dav: WebServer) -> None:
    # The expected object is compared once more when all is sent.
    store = dav_store(dav)
    first = store.write("k", [b"first"])

    def buffers() -> Iterator[bytes]:
        yield b"mine"
        store.write("k", [b"theirs, longer"])

    with pytest.raises(ObjectChanged, match="not the expected object"):
        store.write("k", buffers(), if_match=first.etag)
    with store.open("k") as reading:
        assert b"".join(reading) == b"theirs, longer"
    store.close()


# Credentials.


def _answer_ok(_seen: Seen) -> webservers.Answer:
    return 200, {"ETag": '"e"', "Last-Modified": MODIFIED}, b"content"


def test_bearer() -> None:
    # A token serves every verb; one that ends is asked for anew, once, and the work goes on.
    with webservers.wsgidav(tokens={TOKEN}) as server:
        given = [TOKEN]
        store = dav_store(server, authorization=lambda: f"Bearer {given[-1]}", part_bytes=1000)
        store.write("d/k", [CONTENT])
        server.accept("second")
        asked: list[str] = []

        def authorization() -> str:
            asked.append(given[-1])
            if len(asked) == 1:
                given.append("second")
                return f"Bearer {TOKEN}"
            return f"Bearer {given[-1]}"

        renewing = HttpStore(
            f"{server.url}/{folder_of(server, store).name}", authorization=authorization, options=options()
        )
        with renewing.open("d/k") as reading:
            assert b"".join(reading) == CONTENT
        assert [entry.key for entry in renewing.list()] == ["d/k"]
        given.append("third")
        for verb in (renewing.open, renewing.head, renewing.delete, lambda k: renewing.write(k, [b"x"])):
            with pytest.raises(Unauthenticated, match="401") as caught:
                verb("d/k")
            assert caught.value.hint.startswith("the server asks for Bearer; ")
            assert "third" not in str(caught.value)
        store.close()
        renewing.close()


def test_token_ends_while_reading() -> None:
    # A stream that breaks after its token ended goes on with the next one, from its byte.
    with webservers.wsgidav(tokens={"one"}) as server, FaultProxy(server.address) as proxy:
        now = ["one"]
        store = dav_store(server, proxy.url, authorization=lambda: f"Bearer {now[0]}")
        store.write("k", [CONTENT])
        proxy.add(Fault(match="^GET", down_cut_bytes=700_000, mid_hook=(100_000, lambda: server.accept("two"))))
        proxy.add(Fault(match="^GET", hook=lambda: now.__setitem__(0, "two")))
        with store.open("k") as reading:
            assert b"".join(reading) == CONTENT
        assert proxy.count("^GET") == 3  # cut, refused, answered
        store.close()


def test_wrong_password(dav: WebServer) -> None:
    # A wrong password is Unauthenticated, with what the server asks for, and is not shown.
    store = dav_store(dav, authorization=lambda: basic(USER, "planted-wrong"))
    with pytest.raises(Unauthenticated) as caught:
        store.write("k", [b"x"])
    assert caught.value.hint.startswith("the server asks for Basic; ")
    assert "planted" not in f"{caught.value!r} {caught.value.hint} {store!r}"
    store.close()


def test_asked_for_each_request() -> None:
    # The credential is asked for before each request.
    asked = []

    def authorization() -> str:
        asked.append(len(asked))
        return f"Bearer {len(asked)}"

    with ScriptedServer(_answer_ok) as server:
        store = http_store(server.url, authorization=authorization)
        store.head("a")
        store.head("b")
        assert [seen.headers["authorization"] for seen in server.requests] == ["Bearer 1", "Bearer 2"]
        store.close()


@pytest.mark.parametrize("value", ["Bearer planted\nX: y", "Bearer planted\r", "Bearer planted\0", "Bearer planted☃"])
def test_credentials_no_header_can_hold(value: str) -> None:
    # A token with a line end, as from a file read carelessly, is refused before any connection, and not shown.
    with ScriptedServer(_answer_ok) as server:
        store = http_store(server.url, authorization=lambda: value)
        with pytest.raises(CredentialError, match="no header may hold") as caught:
            store.head("k")
        assert "planted" not in str(caught.value)
        assert server.requests == []
        store.close()


def test_basic() -> None:
    # RFC 7617: UTF-8, and no colon in the user.
    assert basic("u", "p:ä") == "Basic " + base64.b64encode("u:p:ä".encode()).decode()
    with pytest.raises(CredentialError, match="holds a ':'"):
        basic("u:v", "p")


# Redirects.


def redirecting(to: str, status: int = 302) -> Any:
    def answer(seen: Seen) -> webservers.Answer:
        if seen.target.startswith("/there"):
            return _answer_ok(seen)
        return status, {"Location": to}, b"moved"

    return answer


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirect_on_the_same_server(status: int) -> None:
    # Followed for GET and HEAD, with the credential, and shown to the policy without its query.
    told: list[str] = []
    with ScriptedServer(redirecting("/there?sig=planted", status)) as server:
        store = http_store(server.url, authorization=lambda: "Bearer t", redirect=told.append)
        with store.open("k") as reading:
            assert b"".join(reading) == b"content"
        assert store.head("k").size_bytes == 7
        assert [(seen.method, seen.target) for seen in server.requests] == [
            ("GET", "/k"),
            ("GET", "/there?sig=planted"),
            ("HEAD", "/k"),
            ("HEAD", "/there?sig=planted"),
        ]
        assert {seen.headers["authorization"] for seen in server.requests} == {"Bearer t"}
        assert told == [f"{server.url}/there"] * 2
        store.close()


def test_redirect_to_another_server() -> None:
    # The credential stays behind.
    with ScriptedServer(_answer_ok) as other, ScriptedServer(redirecting(f"{other.url}/there")) as server:
        store = http_store(server.url, authorization=lambda: "Bearer t")
        with store.open("k") as reading:
            assert b"".join(reading) == b"content"
        assert server.requests[0].headers["authorization"] == "Bearer t"
        assert [("authorization" in seen.headers, seen.target) for seen in other.requests] == [(False, "/there")]
        store.close()


def test_redirect_refused() -> None:
    # What the policy says of a hop is what the verb raises; the hop is not reached.
    def refuse(url: str) -> None:
        raise PolicyError(f"{url}: not named", rule="not-named")

    with ScriptedServer(_answer_ok) as other, ScriptedServer(redirecting(f"{other.url}/there")) as server:
        store = http_store(server.url, redirect=refuse)
        with pytest.raises(PolicyError) as caught:
            store.open("k")
        assert caught.value.rule == "not-named"
        assert other.requests == []
        assert len(server.requests) == 1
        store.close()


def test_redirect_loop() -> None:
    # Five redirects are followed, not six.
    with ScriptedServer(redirecting("/k")) as server:
        store = http_store(server.url)
        with pytest.raises(StoreError, match="redirected more than 5 times"):
            store.head("k")
        assert len(server.requests) == 6
        store.close()


@pytest.mark.parametrize(
    ("to", "said"),
    [
        ("ftp://127.0.0.1/k", "neither http nor https"),
        ("file:///etc/passwd", "neither http nor https"),
        ("http://user:planted@127.0.0.1/k", "it names a user"),
        ("http://:80/k", "no host name"),
        ("http://[::1/k", "no URL"),
        ("http://127.0.0.1:99999/k", "no URL"),
        ("http://exa mple/k", "no host name"),
    ],
)
def test_redirect_to_no_url(to: str, said: str) -> None:
    # A Location that is no plain http(s) URL is an error that repeats nothing of it.
    with ScriptedServer(redirecting(to)) as server:
        store = http_store(server.url)
        with pytest.raises(StoreError, match=f"no usable URL: {said}") as caught:
            store.open("k")
        assert "planted" not in str(caught.value)
        store.close()


def test_writes_follow_no_redirect() -> None:
    # Neither PROPFIND nor PUT is redirected.
    with ScriptedServer(redirecting("/there")) as server:
        store = http_store(server.url)
        for verb in (lambda: store.write("k", [b"x"]), lambda: store.delete("k"), lambda: list(store.list())):
            with pytest.raises(StoreError, match="302") as caught:
                verb()
            assert "only GET and HEAD follow one" in caught.value.hint
        assert {seen.method for seen in server.requests} == {"PROPFIND"}
        store.close()


# Addresses.


def test_connected_to_as_checked() -> None:
    # The connection goes to the addresses that were checked, in order; the Host stays the name's.
    asked: list[tuple[str, int]] = []

    def addresses(host: str, port: int) -> list[str]:
        asked.append((host, port))
        return ["127.0.0.9", "127.0.0.1"]  # nobody listens on the first

    with ScriptedServer(_answer_ok) as server:
        store = http_store(f"http://store.test:{server.port}", addresses=addresses)
        assert store.head("k").size_bytes == 7
        assert server.requests[0].headers["host"] == f"store.test:{server.port}"
        assert asked == [("store.test", server.port)]
        store.close()


def test_address_refused() -> None:
    # What the check of a resolved address raises is what the verb raises, without a retry; on a redirect too.
    asked: list[str] = []

    def addresses(host: str, port: int) -> list[str]:
        asked.append(host)
        if host == "metadata.test":
            raise PolicyError("a metadata address", rule="metadata-address")
        return ["127.0.0.1"]

    with ScriptedServer(redirecting("http://metadata.test/there")) as server:
        store = http_store(f"http://store.test:{server.port}", addresses=addresses)
        with pytest.raises(PolicyError, match="a metadata address"):
            store.open("k")
        assert asked == ["store.test", "metadata.test"]
        store.close()


def test_no_address_answers() -> None:
    # Where no address answers, that is said; an unknown name too.
    port = servers.free_port()
    store = http_store(f"http://store.test:{port}", addresses=lambda *_: ["127.0.0.1"])
    with pytest.raises(StoreUnavailable, match="cannot connect"):
        store.head("k")
    store.close()
    unknown = http_store("http://no-such-host.invalid")
    with pytest.raises(StoreUnavailable, match="the server's name is not known") as caught:
        unknown.head("k")
    assert caught.value.retryable is True
    unknown.close()


# TLS.


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def server_context(authority: trustme.CA, *names: str, clients: ssl.VerifyMode = ssl.CERT_NONE) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    context.verify_mode = clients
    authority.configure_trust(context)
    return context


def tls_of(authority: trustme.CA, **more: Any) -> Tls:
    return Tls(ca_pem=authority.cert_pem.bytes(), **more)


def test_private_authority(authority: trustme.CA) -> None:
    # With its authority a server is trusted, by the name in its certificate, although the address is pinned.
    with ScriptedServer(_answer_ok, server_context(authority, "store.test")) as server:
        url = f"https://store.test:{server.port}"
        store = http_store(url, tls=tls_of(authority), addresses=lambda *_: ["127.0.0.1"])
        with store.open("k") as reading:
            assert b"".join(reading) == b"content"
        assert server.names == ["store.test"]
        store.close()


def test_unknown_authority(authority: trustme.CA) -> None:
    # Without it the server is refused at once, no request is sent, and the hint names the setting.
    with ScriptedServer(_answer_ok, server_context(authority, "127.0.0.1")) as server:
        store = http_store(server.url, authorization=lambda: "Bearer t")
        with pytest.raises(StoreUnavailable, match="certificate is refused") as caught:
            store.open("k")
        assert caught.value.retryable is False
        assert "--ca" in caught.value.hint
        assert server.requests == []
        store.close()


def test_certificate_of_another_name(authority: trustme.CA) -> None:
    # A trusted certificate for another name is refused.
    with ScriptedServer(_answer_ok, server_context(authority, "other.test")) as server:
        store = http_store(server.url, tls=tls_of(authority))
        with pytest.raises(StoreUnavailable, match="certificate is refused") as caught:
            store.open("k")
        assert "for another name" in caught.value.hint
        assert server.requests == []
        store.close()


def test_no_tls_on_the_port() -> None:
    # A plaintext server on an https URL is said to be one.
    with ScriptedServer(_answer_ok) as server:
        store = http_store(server.url.replace("http:", "https:"))
        with pytest.raises(StoreUnavailable, match="does not speak TLS here") as caught:
            store.head("k")
        assert caught.value.retryable is False
        store.close()


def test_client_certificate(authority: trustme.CA, tmp_path: Path) -> None:
    # Shown to a server that wants one; without it, or with one it does not trust, the hint names the setting.
    authority.issue_cert("me@client.test").private_key_and_cert_chain_pem.write_to_path(tmp_path / "me.pem")
    stranger = trustme.CA().issue_cert("me@client.test")
    stranger.private_key_and_cert_chain_pem.write_to_path(tmp_path / "stranger.pem")
    context = server_context(authority, "127.0.0.1", clients=ssl.CERT_REQUIRED)
    with ScriptedServer(_answer_ok, context) as server:
        store = http_store(server.url, tls=tls_of(authority, client_cert=str(tmp_path / "me.pem")))
        assert store.head("k").size_bytes == 7
        assert ("email", "me@client.test") in server.requests[0].certificate["subjectAltName"]
        store.close()
        without = http_store(server.url, tls=tls_of(authority))
        with pytest.raises(Unauthenticated, match="wants a client certificate") as caught:
            without.head("k")
        assert "--client-cert" in caught.value.hint
        without.close()
        wrong = http_store(server.url, tls=tls_of(authority, client_cert=str(tmp_path / "stranger.pem")))
        with pytest.raises(Unauthenticated, match="refuses the client certificate"):
            wrong.head("k")
        wrong.close()
        assert len(server.requests) == 1


def test_client_certificate_stays_behind(authority: trustme.CA, tmp_path: Path) -> None:
    # A server that is redirected to does not see it, even if it asks.
    authority.issue_cert("me@client.test").private_key_and_cert_chain_pem.write_to_path(tmp_path / "me.pem")

    def context() -> ssl.SSLContext:
        return server_context(authority, "127.0.0.1", clients=ssl.CERT_OPTIONAL)

    with (
        ScriptedServer(_answer_ok, context()) as other,
        ScriptedServer(redirecting(f"{other.url}/there"), context()) as server,
    ):
        store = http_store(server.url, tls=tls_of(authority, client_cert=str(tmp_path / "me.pem")))
        assert store.head("k").size_bytes == 7
        assert server.requests[0].certificate
        assert not other.requests[0].certificate
        store.close()


def test_unusable_certificates(authority: trustme.CA, tmp_path: Path) -> None:
    # Certificates that cannot be read are the caller's setting, said before any connection.
    with pytest.raises(LocationError, match=r"the certificate authority \(ca\) cannot be read"):
        http_store("https://127.0.0.1:1", tls=Tls(ca_pem=b"no PEM")).head("k")
    (tmp_path / "bad.pem").write_text("no PEM")
    for name in ("bad.pem", "missing.pem"):
        with pytest.raises(CredentialError, match=rf"the client certificate \(.*{name}\) cannot be used"):
            http_store("https://127.0.0.1:1", tls=Tls(client_cert=str(tmp_path / name))).head("k")


def test_redirect_to_plaintext(authority: trustme.CA) -> None:
    # From https to http no redirect is followed, whatever the policy's callback would say.
    told: list[str] = []
    with (
        ScriptedServer(_answer_ok) as plain,
        ScriptedServer(redirecting(f"{plain.url}/there"), server_context(authority, "127.0.0.1")) as server,
    ):
        store = http_store(server.url, tls=tls_of(authority), redirect=told.append)
        with pytest.raises(PolicyError, match="from TLS to plaintext") as caught:
            store.open("k")
        assert caught.value.rule == "redirect-plaintext"
        assert (plain.requests, told) == ([], [])
        store.close()


def test_webdav_over_tls(authority: trustme.CA, tmp_path: Path) -> None:
    # A real WebDAV server with a private authority and a pinned address: written, moved, listed, read, deleted.
    issued = authority.issue_cert("dav.test")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    (tmp_path / "chain.pem").write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
    with webservers.rclone_webdav(tls=(tmp_path / "chain.pem", tmp_path / "key.pem")) as server:
        store = http_store(
            f"https://dav.test:{server.address[1]}",
            authorization=lambda: basic(USER, PASSWORD),
            tls=tls_of(authority),
            addresses=lambda *_: ["127.0.0.1"],
            part_bytes=1000,
        )
        meta = store.write("d/k", [CONTENT[:5000], CONTENT[5000:]])
        with store.open("d/k", if_match=meta.etag) as reading:
            assert b"".join(reading) == CONTENT
        assert [entry.key for entry in store.list()] == ["d/k"]
        store.delete("d/k")
        assert list(store.list()) == []
        store.close()


# Proxies.


def test_forward_proxy() -> None:
    # Plaintext goes through the proxy by its absolute URL, query and credential included; the proxy resolves.
    with ScriptedServer(_answer_ok) as server, ForwardProxy() as proxy:
        store = http_store(
            f"http://store.test:{server.port}",
            proxies={"http": proxy.url},
            query="sig=a%2Fb",
            addresses=lambda *_: pytest.fail("resolved here"),
        )
        with store.open("a k") as reading:
            assert b"".join(reading) == b"content"
        assert proxy.lines == [f"GET http://store.test:{server.port}/a%20k?sig=a%2Fb HTTP/1.1"]
        assert server.requests[0].target == "/a%20k?sig=a%2Fb"
        assert server.requests[0].headers["host"] == f"store.test:{server.port}"
        store.close()


def test_tunnel(authority: trustme.CA) -> None:
    # TLS goes through the proxy by CONNECT, checked end to end; the proxy sees neither path nor credential.
    with ScriptedServer(_answer_ok, server_context(authority, "store.test")) as server, ForwardProxy("u:p@ss") as proxy:
        proxies = {"https": proxy.url.replace("//", "//u:p%40ss@")}
        store = http_store(
            f"https://store.test:{server.port}",
            proxies=proxies,
            tls=tls_of(authority),
            authorization=lambda: "Bearer t",
        )
        with store.open("k") as reading:
            assert b"".join(reading) == b"content"
        assert proxy.lines == [f"CONNECT store.test:{server.port} HTTP/1.0"]
        assert server.requests[0].target == "/k"
        assert "proxy-authorization" not in server.requests[0].headers
        store.close()


def test_proxy_refuses(authority: trustme.CA) -> None:
    # A proxy that wants a password says so, and the hint where to write it; one that is not there too.
    with ForwardProxy("u:p") as proxy:
        store = http_store("https://store.test", proxies={"https": proxy.url})
        with pytest.raises(StoreUnavailable, match="the proxy answers 407") as caught:
            store.head("k")
        assert caught.value.retryable is False
        assert "into its URL" in caught.value.hint
        store.close()
    gone = http_store(
        "https://store.test", proxies={"https": f"http://planted:planted@127.0.0.1:{servers.free_port()}"}
    )
    with pytest.raises(StoreUnavailable, match="cannot connect to the proxy") as caught:
        gone.head("k")
    assert "planted" not in f"{caught.value!r} {caught.value.__cause__!r}"
    gone.close()


@pytest.mark.parametrize(
    ("exceptions", "direct"),
    [
        ("", False),
        ("*", True),
        ("store.test", True),
        ("other.test, .test", True),
        ("*.test", True),
        ("ore.test", False),
        ("store.test:1", False),
        ("127.0.0.1", False),
    ],
)
def test_no_proxy_for(exceptions: str, direct: bool) -> None:
    # NO_PROXY names hosts, domains and ports.
    with ScriptedServer(_answer_ok) as server, ForwardProxy() as proxy:
        proxies = {"http": proxy.url, "no": exceptions}
        url = f"http://store.test:{server.port}"
        store = http_store(url, proxies=proxies, addresses=lambda *_: ["127.0.0.1"])
        store.head("k")
        assert (proxy.lines == []) is direct
        store.close()


def test_no_proxy_for_networks() -> None:
    # ... and networks.
    with ScriptedServer(_answer_ok) as server, ForwardProxy() as proxy:
        for exceptions, count in (("127.0.0.0/8", 0), (f"127.0.0.1:{server.port}", 0), ("10.0.0.0/8,nonsense/x", 1)):
            store = http_store(server.url, proxies={"http": proxy.url, "no": exceptions})
            store.head("k")
            assert len(proxy.lines) == count
            store.close()


def test_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    # Where the caller sets none, HTTP_PROXY and NO_PROXY are read, once.
    with ScriptedServer(_answer_ok) as server, ForwardProxy() as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        store = http_store(server.url, proxies=None)
        store.head("k")
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
        store.head("k")
        assert len(proxy.lines) == 2
        store.close()
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        direct = http_store(server.url, proxies=None)
        direct.head("k")
        assert len(proxy.lines) == 2
        direct.close()


# Faults.


def test_a_cut_download_is_resumed(dav: WebServer) -> None:
    # A stream that breaks goes on at its byte, under the ETag it began with.
    with FaultProxy(dav.address) as proxy:
        store = dav_store(dav, proxy.url)
        store.write("k", [CONTENT * 4])
        proxy.add(Fault(match="^GET", down_cut_bytes=1_500_000, times=2))
        told: list[Retry] = []
        with store.open("k", on_retry=told.append) as reading:
            assert b"".join(reading) == CONTENT * 4
            assert reading.pinned == "etag"
        assert proxy.count("^GET") == 3
        assert [(retry.op, type(retry.error)) for retry in told] == [("open", StoreUnavailable)] * 2
        store.close()


def test_busy_servers(dav: WebServer) -> None:
    # 503 and 429 are waited for, as long as the server asks, and repeated for every verb.
    with FaultProxy(dav.address) as proxy:
        store = dav_store(dav, proxy.url)
        proxy.add(Fault(match="^(PUT|MOVE|HEAD|GET|PROPFIND|DELETE)", status=503, headers={"Retry-After": "0"}))
        proxy.add(Fault(match="^PUT", status=429))
        store.write("k", [b"content"])
        proxy.add(Fault(match="^GET", status=503))
        with store.open("k") as reading:
            assert b"".join(reading) == b"content"
        proxy.add(Fault(match="^PROPFIND", status=502))
        assert [entry.key for entry in store.list()] == ["k"]
        proxy.add(Fault(match="^DELETE", status=504))
        store.delete("k")
        proxy.add(Fault(match="^HEAD", status=503, times=9, headers={"Retry-After": "7"}))
        with pytest.raises(StoreUnavailable, match="503") as caught:
            store.head("k")
        assert caught.value.retry_after_seconds == 7.0
        assert proxy.count("^HEAD") >= 4
        store.close()


def test_retry_after_a_date() -> None:
    # Retry-After may be a date; nonsense is no wait.
    waits = ["Wed, 01 Jan 2200 00:00:00 GMT", "soon", "Wed, 01 Jan 2020 00:00:00 GMT"]
    found = []
    for text in waits:
        with ScriptedServer(lambda _seen, text=text: (503, {"Retry-After": text}, b"")) as server:
            store = http_store(server.url, retries=Retries(attempts=1))
            with pytest.raises(StoreUnavailable) as caught:
                store.head("k")
            found.append(caught.value.retry_after_seconds)
            store.close()
    assert found[0] is not None
    assert found[0] > 1e9
    assert found[1:] == [None, 0.0]


def test_a_cut_upload(dav: WebServer) -> None:
    # A small object is sent again; a streamed one is an error that may be retried, and leaves nothing behind.
    with FaultProxy(dav.address) as proxy:
        store = dav_store(dav, proxy.url)
        proxy.add(Fault(match="^PUT", up_cut_bytes=500_000))
        store.write("small", [CONTENT])
        assert (folder_of(dav, store) / "small").read_bytes() == CONTENT
        sent = proxy.count("^PUT")
        assert sent >= 2  # rclone answers 423 until it has noticed that the first one broke
        store.close()
        streaming = dav_store(dav, proxy.url, part_bytes=1000)
        proxy.add(Fault(match="^PUT", up_cut_bytes=500_000))
        with pytest.raises(StoreUnavailable) as caught:
            streaming.write("large", [CONTENT] * 8)
        assert caught.value.retryable is True
        assert proxy.count("^PUT") == sent + 1
        _until(lambda: list(folder_of(dav, streaming).iterdir()) == [])
        streaming.close()


@pytest.mark.parametrize("create", [True, False])
def test_a_lost_answer_to_the_move(dav: WebServer, create: bool) -> None:
    # The server moved and its answer was lost: the write has succeeded, and a condition is not taken for broken.
    with FaultProxy(dav.address) as proxy:
        store = dav_store(dav, proxy.url)
        proxy.add(Fault(match="^MOVE", lose_answer=True))
        meta = store.write("k", [b"content"], if_none_match=create)
        assert meta.etag == store.head("k").etag
        assert proxy.count("^MOVE") == 2
        assert [path.name for path in folder_of(dav, store).iterdir()] == ["k"]
        store.close()


def test_a_slow_server() -> None:
    # A server that accepts and says nothing is a timeout.
    with socket.create_server(("127.0.0.1", 0)) as listener:
        retries = Retries(attempts=2, first_wait_seconds=0.01)
        store = http_store(f"http://127.0.0.1:{listener.getsockname()[1]}", read_timeout_seconds=0.1, retries=retries)
        with pytest.raises(StoreTimeout, match="no answer in time"):
            store.head("k")
        store.close()


def test_cancelled_while_waiting() -> None:
    # A verb that waits for its answer ends as soon as it is stopped: the server answers only after that.
    release, reached = threading.Event(), threading.Event()

    def answer(seen: Seen) -> webservers.Answer:
        reached.set()
        release.wait(30)
        return _answer_ok(seen)

    with ScriptedServer(answer) as server:
        store = http_store(server.url)
        for verb in (
            lambda cancel: store.open("k", cancel=cancel),
            lambda cancel: store.head("k", cancel=cancel),
            lambda cancel: list(store.list(cancel=cancel)),
            lambda cancel: store.delete("k", cancel=cancel),
            lambda cancel: store.write("k", [b"x"], cancel=cancel),
        ):
            cancel = Cancel()
            reached.clear()
            thread = threading.Thread(target=lambda cancel=cancel: (reached.wait(30), cancel.cancel("stop")))
            thread.start()
            with pytest.raises(Cancelled, match="stop"):
                verb(cancel)
            thread.join()
        assert not release.is_set()
        release.set()
        store.close()


def test_cancelled_while_connecting() -> None:
    # A verb that waits for a name to resolve ends as soon as it is stopped: the resolver answers only after that.
    release, reached = threading.Event(), threading.Event()

    def addresses(_host: str, _port: int) -> list[str]:
        reached.set()
        release.wait(30)
        return ["127.0.0.1"]

    store = http_store("http://store.test:1", addresses=addresses)
    cancel = Cancel()
    thread = threading.Thread(target=lambda: (reached.wait(30), cancel.cancel("stop")))
    thread.start()
    with pytest.raises(Cancelled, match="stop"):
        store.write("k", [b"x"], cancel=cancel)
    assert not release.is_set()
    release.set()
    thread.join()
    store.close()


def test_cancelled_while_reading() -> None:
    # A reading that waits for more bytes ends as soon as it is stopped.
    release = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            client, _ = listener.accept()
            with client:
                client.recv(65536)
                client.sendall(b'HTTP/1.1 200 OK\r\nETag: "e"\r\nContent-Length: 4000000\r\n\r\n' + b"x" * 1_100_000)
                release.wait(30)

        thread = threading.Thread(target=serve)
        thread.start()
        cancel = Cancel()
        store = http_store(f"http://127.0.0.1:{listener.getsockname()[1]}")
        with store.open("k", cancel=cancel) as reading:
            assert len(next(reading)) == 1 << 20
            stopper = threading.Timer(0.1, cancel.cancel, ("stop",))
            stopper.start()
            with pytest.raises(Cancelled, match="stop"):
                next(reading)
            stopper.join()
        release.set()
        thread.join()
        store.close()


def test_cancelled_while_sending(dav: WebServer) -> None:
    # An upload that the server does not take in ends as soon as it is stopped, and nothing of it stays.
    with FaultProxy(dav.address) as proxy:
        store = dav_store(dav, proxy.url, part_bytes=1000)
        cancel = Cancel()

        def buffers() -> Iterator[bytes]:
            for number in range(1000):
                if number == 20:
                    cancel.cancel("stop")
                yield CONTENT

        with pytest.raises(Cancelled, match="stop"):
            store.write("k", buffers(), cancel=cancel)
        _until(lambda: list(folder_of(dav, store).iterdir()) == [])
        store.close()


def test_closed_while_read() -> None:
    # A reading closed by another thread is Cancelled; a closed store says that it is closed.
    with ScriptedServer(lambda _seen: (200, {"ETag": '"e"'}, CONTENT * 4)) as server:
        store = http_store(server.url)
        with store.open("k") as reading:
            next(reading)
            reading.close()
            with pytest.raises(Cancelled, match="closed while it was read"):
                next(reading)
        store.close()
        with pytest.raises(StoreError, match="the store was closed"):
            store.head("k")


def test_nothing_stays_open(dav: WebServer) -> None:
    # After all verbs, a reading left early among them, closing leaves no connection and no file.
    with FaultProxy(dav.address) as proxy:
        before = len(list(Path("/proc/self/fd").iterdir()))
        store = dav_store(dav, proxy.url)
        store.write("k", [CONTENT])
        with store.open("k", cancel=Cancel()) as reading:
            next(iter(reading))
        store.head("k", cancel=Cancel())
        list(store.list())
        with pytest.raises(ObjectNotFound):
            store.open("missing")
        store.delete("k")
        store.close()
        _until(lambda: proxy.open_connections == 0)
        _until(lambda: len(list(Path("/proc/self/fd").iterdir())) <= before)
    assert not [thread for thread in threading.enumerate() if thread.name == "creds-store"]


def test_connections_are_kept() -> None:
    # Verbs one after the other use one connection, with a switch to stop them or without.
    ports: set[Any] = set()

    with ScriptedServer(_answer_ok) as server:
        store = http_store(server.url)
        original = server._server.process_request

        def process_request(request: Any, address: Any) -> None:
            ports.add(address)
            original(request, address)

        server._server.process_request = process_request  # type: ignore[method-assign]
        for cancel in (None, Cancel(), Cancel()):
            store.head("k", cancel=cancel)
            with store.open("k", cancel=cancel) as reading:
                assert b"".join(reading) == b"content"
        assert len(server.requests) == 6
        assert len(ports) == 1
        store.close()


# What servers answer.


@pytest.mark.parametrize(
    ("status", "kind", "retryable"),
    [
        (400, StoreError, False),
        (401, Unauthenticated, False),
        (402, StoreError, False),
        (403, AccessDenied, False),
        (404, ObjectNotFound, False),
        (407, StoreError, False),
        (408, StoreUnavailable, True),
        (410, ObjectNotFound, False),
        (412, ObjectChanged, False),
        (423, StoreUnavailable, True),
        (429, StoreUnavailable, True),
        (500, StoreUnavailable, True),
        (503, StoreUnavailable, True),
        (507, StoreError, False),
        (599, StoreUnavailable, True),
    ],
)
def test_statuses(status: int, kind: type[StoreError], retryable: bool) -> None:
    # Each status is its error; of the server's words only the request's id is repeated.
    headers = {"X-Request-Id": "id-1", "Server": "planted"}
    with ScriptedServer(lambda _seen: (status, headers, b"planted body")) as server:
        store = http_store(server.url, retries=Retries(attempts=1), location="https://shown")
        with pytest.raises(kind) as caught:
            store.open("k\n")
        error = caught.value
        assert type(error) is kind
        assert str(error) == f"open https://shown/k\\n: {status}"
        assert (error.http_status, error.retryable, error.server_request_id) == (status, retryable, "id-1")
        assert (error.op, error.location) == ("open", "https://shown/k\\n")
        store.close()


def test_encoded_content() -> None:
    # Compression is asked not to happen; content that comes compressed all the same is refused, not passed on.
    with ScriptedServer(lambda _seen: (200, {"Content-Encoding": "gzip"}, b"...")) as server:
        store = http_store(server.url)
        for verb in (store.open, store.head):
            with pytest.raises(NotSupported, match="sends the content encoded"):
                verb("k")
        assert {seen.headers["accept-encoding"] for seen in server.requests} == {"identity"}
        store.close()


def test_content_without_an_end() -> None:
    # Content that ends with the connection cannot be told from a broken one, and is refused.
    with ScriptedServer(lambda _seen: (200, {}, b"content"), version="HTTP/1.0") as server:
        store = http_store(server.url)
        with pytest.raises(NotSupported, match="does not say how long the content is"):
            store.open("k")
        store.close()


def test_chunked_content() -> None:
    # Content in chunks has an end and no size; one cut short is an error that says nothing was changed.
    body = b"7\r\ncontent\r\n0\r\n\r\n"
    answers = [body, body[:-9]]
    with ScriptedServer(
        lambda _seen: (200, {"Transfer-Encoding": "chunked", "Connection": "close"}, answers.pop(0))
    ) as server:
        store = http_store(server.url)
        with store.open("k") as reading:
            assert reading.meta.size_bytes is None
            assert b"".join(reading) == b"content"
            assert reading.pinned == "none"
        answers.extend([body[:-9]] * 3)
        with store.open("k") as reading, pytest.raises(StoreUnavailable, match="the connection broke"):
            list(reading)
        store.close()


def ranged(content: bytes, headers: dict[str, str], cut: int | None = None) -> Any:
    """A server that answers ranges; its first answer breaks off after ``cut`` bytes."""
    state = {"cut": cut}

    def answer(seen: Seen) -> webservers.Answer:
        asked = seen.headers.get("range")
        start = int(asked.removeprefix("bytes=").split("-")[0]) if asked else 0
        body, told = content[start:], dict(headers)
        if asked and start >= len(content):
            return 416, {"Content-Range": f"bytes */{len(content)}", **told}, b""
        if asked:
            told["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        told["Content-Length"] = str(len(body))
        if state["cut"] is not None and seen.method == "GET":
            body, state["cut"] = body[: state["cut"]], None
            told["Connection"] = "close"
        return (206 if asked else 200), told, body

    return answer


@pytest.mark.parametrize(
    ("headers", "pinned"),
    [({"ETag": '"e"'}, "etag"), ({"ETag": 'W/"e"'}, "weak"), ({"Last-Modified": MODIFIED}, "weak"), ({}, "none")],
)
def test_a_short_body(headers: dict[str, str], pinned: str) -> None:
    # A body shorter than announced is never the content: it is resumed where something tells the generation, else an
    # error.
    content = CONTENT * 2
    with ScriptedServer(ranged(content, headers, cut=1_500_000)) as server:
        store = http_store(server.url)
        with store.open("k") as reading:
            assert reading.pinned == pinned
            if pinned == "none":
                with pytest.raises(StoreUnavailable) as caught:
                    list(reading)
                assert caught.value.retryable is True
                assert len(server.requests) == 1
            else:
                assert b"".join(reading) == content
                assert server.requests[1].headers["range"] == "bytes=1500000-"
                assert server.requests[1].headers.get("if-match") == ('"e"' if pinned == "etag" else None)
        store.close()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"ETag": '"e"'}, {"ETag": '"f"'}),
        ({"ETag": 'W/"e"', "Last-Modified": MODIFIED}, {"ETag": 'W/"e"'}),
        ({"Last-Modified": MODIFIED}, {"Last-Modified": "Tue, 03 Nov 2026 10:00:01 GMT"}),
    ],
)
def test_changed_while_read(before: dict[str, str], after: dict[str, str]) -> None:
    # A resumed reading whose object is another by then is ObjectChanged, although the server ignores If-Match.
    answers = [ranged(CONTENT * 2, before, cut=1_500_000), ranged(CONTENT * 2, after)]

    def answer(seen: Seen) -> webservers.Answer:
        return answers.pop(0)(seen)

    with ScriptedServer(answer) as server:
        store = http_store(server.url)
        with store.open("k") as reading, pytest.raises(ObjectChanged, match="changed while it was read"):
            list(reading)
        store.close()


def test_gone_while_read() -> None:
    # ... and so is one that is gone, or shorter than what was read of it.
    for status, headers in ((404, {}), (416, {"Content-Range": "bytes */5"}), (412, {})):
        first = ranged(CONTENT * 2, {"ETag": '"e"'}, cut=1_500_000)
        with ScriptedServer(
            lambda seen, first=first, status=status, headers=headers: (
                first(seen) if len(server.requests) == 1 else (status, headers, b"")
            )
        ) as server:
            store = http_store(server.url)
            with store.open("k") as reading, pytest.raises(ObjectChanged):
                list(reading)
            store.close()


def test_servers_without_ranges() -> None:
    # Where ranges are ignored the beginning is read away, also to resume; a shorter object is not the one that was meant.
    def answer(seen: Seen) -> webservers.Answer:
        body = CONTENT
        headers = {"ETag": '"e"', "Content-Length": str(len(body))}
        if seen.target == "/cut" and len(server.requests) == 1:
            return 200, {**headers, "Connection": "close"}, body[:1_048_600]
        return 200, headers, body

    with ScriptedServer(answer) as server:
        store = http_store(server.url)
        with store.open("cut") as reading:
            assert b"".join(reading) == CONTENT
        assert len(server.requests) == 2
        with store.open("k", start=1_000_000) as reading:
            assert b"".join(reading) == CONTENT[1_000_000:]
        with store.open("k", start=len(CONTENT)) as reading:
            assert list(reading) == []
        with pytest.raises(ObjectChanged, match=f"cannot start at byte {len(CONTENT) + 1} of {len(CONTENT)}"):
            store.open("k", start=len(CONTENT) + 1)
        store.close()


@pytest.mark.parametrize("told", ["bytes 5-9/10", "bytes 0-9/10", "bytes */10", "nonsense", "bytes 3-x/10"])
def test_another_range_than_asked(told: str) -> None:
    # A partial answer must begin where it was asked to.
    with ScriptedServer(lambda _seen: (206, {"Content-Range": told, "ETag": '"e"'}, b"x")) as server:
        store = http_store(server.url)
        with pytest.raises(NotSupported, match="another range than was asked for"):
            store.open("k", start=3)
        store.close()


def test_more_than_announced() -> None:
    # More bytes than the object has are an error, not content.
    answer = (206, {"Content-Range": "bytes 3-9/10", "ETag": '"e"'}, b"x" * 50)
    with ScriptedServer(lambda _seen: answer) as server:
        store = http_store(server.url)
        with store.open("k", start=3) as reading, pytest.raises(StoreError, match="more than the 10 bytes"):
            list(reading)
        store.close()


@pytest.mark.parametrize("refusal", [403, 405, 501])
def test_head_refused(refusal: int) -> None:
    # Where HEAD is refused a GET of one byte tells the same; of an empty object a plain GET.
    for content in (b"content", b""):
        ranging = ranged(content, {"ETag": '"e"', "Last-Modified": MODIFIED})
        with ScriptedServer(
            lambda seen, ranging=ranging: (refusal, {}, b"") if seen.method == "HEAD" else ranging(seen)
        ) as server:
            store = http_store(server.url)
            meta = store.head("k")
            assert (meta.size_bytes, meta.etag) == (len(content), '"e"')
            assert meta.modified is not None
            assert meta.modified.isoformat() == "2026-11-03T10:00:00+00:00"
            assert [seen.headers.get("range") for seen in server.requests[1:]] == ["bytes=0-0", None][
                : 2 - bool(content)
            ]
            store.close()


def test_if_match_ignored() -> None:
    # A server that ignores If-Match is caught by the ETag of its answer; a weak one is never sent.
    with ScriptedServer(_answer_ok) as server:
        store = http_store(server.url)
        with pytest.raises(ObjectChanged, match="not the expected object"):
            store.open("k", if_match='"other"')
        for unsendable in ('W/"e"', '"a\nb"', '"☃"', "e"):
            with pytest.raises(ObjectChanged):
                store.open("k", if_match=unsendable)
        assert [seen.headers.get("if-match") for seen in server.requests] == ['"other"', *[None] * 4]
        store.close()


# Servers without WebDAV.


def test_read_only_server() -> None:
    # A plain web server is read from; listing, writing and deleting are NotSupported.
    def answer(seen: Seen) -> webservers.Answer:
        return _answer_ok(seen) if seen.method in ("GET", "HEAD") else (501, {}, b"")

    with ScriptedServer(answer) as server:
        store = http_store(server.url)
        with store.open("k") as reading:
            assert b"".join(reading) == b"content"
        with pytest.raises(NotSupported, match="takes no uploads") as caught:
            store.write("k", [b"x"])
        assert "presigned for PUT" in caught.value.hint
        for verb in (lambda: store.delete("k"), lambda: list(store.list())):
            with pytest.raises(NotSupported, match="501"):
                verb()
        assert "PUT" not in {seen.method for seen in server.requests}
        store.close()


@pytest.mark.parametrize("part_bytes", [10, 8 << 20])
def test_put_without_webdav(part_bytes: int) -> None:
    # A server that says it has PUT gets one, under the final name, with its length and the conditions.
    stored: dict[str, bytes] = {}

    def answer(seen: Seen) -> webservers.Answer:
        if seen.method == "OPTIONS":
            return 204, {"Allow": "GET, HEAD, PUT"}, b""
        if seen.method == "PUT":
            stored[seen.target] = seen.body
            return 201, {}, b""
        if seen.method in ("GET", "HEAD"):
            return (200, {"ETag": '"e"'}, stored[seen.target]) if seen.target in stored else (404, {}, b"")
        return 405, {}, b""

    with ScriptedServer(answer) as server:
        store = http_store(server.url, part_bytes=part_bytes)
        meta = store.write("d/k", [b"some ", b"content"] * 3, content_type="text/plain", if_none_match=True)
        assert (meta.size_bytes, meta.etag) == (36, '"e"')
        assert stored == {"/d/k": b"some content" * 3}
        (put,) = (seen for seen in server.requests if seen.method == "PUT")
        assert put.headers["content-length"] == "36"
        assert put.headers["content-type"] == "text/plain"
        assert put.headers["if-none-match"] == "*"
        with pytest.raises(ObjectChanged, match="exists already"):
            store.write("d/k", [b"x"], if_none_match=True)
        store.close()


# Listings by hostile servers.


def multistatus(*responses: str) -> bytes:
    return ('<?xml version="1.0"?><D:multistatus xmlns:D="DAV:">' + "".join(responses) + "</D:multistatus>").encode()


def response(href: str, props: str = "<D:getcontentlength>3</D:getcontentlength>", status: str = "200 OK") -> str:
    return (
        f"<D:response><D:href>{href}</D:href><D:propstat><D:prop>{props}</D:prop>"
        f"<D:status>HTTP/1.1 {status}</D:status></D:propstat></D:response>"
    )


def listing(body: bytes) -> list[Any]:
    with ScriptedServer(lambda _seen: (207, {}, body)) as server:
        store = http_store(f"{server.url}/root/")
        try:
            return list(store.list())
        finally:
            store.close()


def test_listing_stays_inside() -> None:
    # Names that are not right below the folder are not listed; hrefs may be URLs, escaped or not.
    body = multistatus(
        response("/root/"),
        response("/root/a%20b"),
        response("http://elsewhere/root/c+d"),
        response("/root/é"),
        response("/root/below/too-deep"),
        response("/root/../up"),
        response("/root/.."),
        response("/root/%2e%2e"),
        response("/other/file"),
        response("/rootless"),
        response("//root/x"),
        response(""),
        response("/root/.k.partial-0123456789abcdef"),
        response("/root/a%2Fb"),
        "<D:response><D:href>/root/gone</D:href><D:status>HTTP/1.1 404 Not Found</D:status></D:response>",
    )
    assert [entry.key for entry in listing(body)] == ["a b", "c+d", "é"]


def test_listing_properties() -> None:
    # A property counts where its status is 200; nonsense is none; ETags get their quotes.
    props = (
        "<D:getcontentlength>12</D:getcontentlength><D:getetag>abc</D:getetag>"
        f"<D:getlastmodified>{MODIFIED}</D:getlastmodified>"
    )
    body = multistatus(
        response("/root/a", props),
        response("/root/b", props, "404 Not Found"),
        response("/root/c", "<D:getcontentlength>-1</D:getcontentlength><D:getlastmodified>?</D:getlastmodified>"),
    )
    first, second, third = listing(body)
    assert (first.size_bytes, first.etag) == (12, '"abc"')
    assert first.modified.isoformat() == "2026-11-03T10:00:00+00:00"
    assert (second.size_bytes, second.etag, second.modified) == (None, None, None)
    assert (third.size_bytes, third.modified) == (None, None)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "not WebDAV's"),
        (b"<html><body>hello</body></html>", "not WebDAV's"),
        (b"planted", "not WebDAV's"),
        (multistatus(response("/root/a"))[:-5], "a listing that breaks off"),
        (b'<!DOCTYPE a [<!ENTITY b "planted">]>' + multistatus(), "document type"),
        (b'<!DOCTYPE a SYSTEM "file:///etc/passwd">' + multistatus(), "document type"),
        (multistatus("<x>" * 100 + "</x>" * 100), "nested deeper"),
        (multistatus(response("/root/" + "x" * 20_000)), "a longer name"),
    ],
)
def test_listing_of_nonsense(body: bytes, said: str) -> None:
    # What is no listing is an error, never an empty one; no entity is declared, no file read.
    with pytest.raises(StoreError, match=said) as caught:
        listing(body)
    assert "planted" not in str(caught.value)
    assert caught.value.retryable is ("breaks off" in said)


def test_listing_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    # A listing that does not end is given up.
    from creds.stores.http import dav

    monkeypatch.setattr(dav, "MAX_BYTES", 2 << 20)
    with pytest.raises(StoreError, match="a listing of more than 2 MiB"):
        listing(multistatus(*[response(f"/root/{n}") for n in range(20_000)]))


# Presigned URLs.


def presigned_url(server: servers.S3Server, bucket: str, key: str, method: str) -> tuple[str, str]:
    """The server's URL and the query that lets whoever has it GET or PUT the key, as AWS makes them (Signature V4)."""
    import boto3
    from botocore.config import Config

    client = boto3.session.Session(server.admin.access_key, server.admin.secret_key, region_name="us-east-1").client(
        "s3", endpoint_url=server.endpoint_url, config=Config(signature_version="s3v4", s3={"addressing_style": "path"})
    )
    operation = {"GET": "get_object", "PUT": "put_object"}[method]
    base, _, query = client.generate_presigned_url(operation, {"Bucket": bucket, "Key": key}, ExpiresIn=300).partition(
        "?"
    )
    assert "X-Amz-Signature=" in query
    client.close()
    return base.removesuffix(f"/{bucket}/{key}"), query


def presigned(server: servers.S3Server, bucket: str, key: str, method: str, **more: Any) -> HttpStore:
    url, query = presigned_url(server, bucket, key, method)
    return http_store(url, query=query, **more)


def test_presigned_get(seaweed: servers.S3Server, bucket: str) -> None:
    # A presigned GET reads and tells what it reads, from any byte, without a HEAD; it does nothing else.
    seaweed.client().put_object(Bucket=bucket, Key="d/k", Body=CONTENT)
    store = presigned(seaweed, bucket, "d/k", "GET")
    meta = store.head(f"{bucket}/d/k")
    assert meta.size_bytes == len(CONTENT)
    with store.open(f"{bucket}/d/k", start=1_000_000, if_match=meta.etag) as reading:
        assert b"".join(reading) == CONTENT[1_000_000:]
        assert reading.pinned == "etag"
    with pytest.raises(NotSupported, match="its one object, and no more"):
        list(store.list())
    with pytest.raises(NotSupported, match="its one object, and no more"):
        store.delete(f"{bucket}/d/k")
    with pytest.raises(AccessDenied) as caught:
        store.write(f"{bucket}/d/k", [b"x"])
    assert "Signature" not in f"{caught.value} {caught.value.location} {store!r}"
    store.close()


@pytest.mark.parametrize("part_bytes", [1000, 8 << 20])
def test_presigned_put(seaweed: servers.S3Server, bucket: str, part_bytes: int) -> None:
    # A presigned PUT stores what any source gives, whatever its size; a source that fails stores nothing.
    store = presigned(seaweed, bucket, "k", "PUT", part_bytes=part_bytes)

    def broken() -> Iterator[bytes]:
        yield CONTENT
        raise OSError("the source broke")

    with pytest.raises(OSError, match="the source broke"):
        store.write(f"{bucket}/k", broken())
    assert seaweed.client().list_objects_v2(Bucket=bucket)["KeyCount"] == 0
    meta = store.write(f"{bucket}/k", [CONTENT[:1000], CONTENT[1000:]])
    assert meta.size_bytes == len(CONTENT)
    answer = seaweed.client().get_object(Bucket=bucket, Key="k")
    assert answer["Body"].read() == CONTENT
    assert answer["ETag"] == meta.etag
    with pytest.raises(ObjectChanged):
        store.write(f"{bucket}/k", [b"x"], if_none_match=True)
    with pytest.raises(ObjectChanged):
        store.write(f"{bucket}/k", [b"x"], if_match='W/"weak"')
    with pytest.raises(StoreError, match="the content type holds a character"):
        store.write(f"{bucket}/k", [b"x"], content_type="text/plain\nX: y")
    store.close()


def test_presigned_put_sent_again(seaweed: servers.S3Server, bucket: str) -> None:
    # One that breaks on the way is sent again, from memory or from the temporary file.
    with FaultProxy(seaweed.address) as proxy:
        for part_bytes in (1000, 8 << 20):
            proxy.add(Fault(match="^PUT", up_cut_bytes=500_000))
            # As a forward proxy it passes the absolute URL on, and the signature holds.
            store = presigned(
                seaweed, bucket, f"k{part_bytes}", "PUT", part_bytes=part_bytes, proxies={"http": proxy.url}
            )
            store.write(f"{bucket}/k{part_bytes}", [CONTENT[:1000], CONTENT[1000:]])
            body = seaweed.client().get_object(Bucket=bucket, Key=f"k{part_bytes}")["Body"]
            assert body.read() == CONTENT
            store.close()
        assert proxy.count("^PUT") == 4


def test_a_presigned_url_that_ended(seaweed: servers.S3Server, bucket: str) -> None:
    # Refused by the server, as one is that was altered, with a hint that such a URL ends.
    seaweed.client().put_object(Bucket=bucket, Key="k", Body=b"x")
    url, query = presigned_url(seaweed, bucket, "k", "GET")
    store = http_store(url, query=query.replace("X-Amz-Expires=300", "X-Amz-Expires=299"))
    with pytest.raises(AccessDenied) as caught:
        store.open(f"{bucket}/k")
    assert caught.value.hint.startswith("a presigned URL ends")
    store.close()


def test_query_goes_verbatim() -> None:
    # Byte for byte as it was signed, and in no log, error or repr; the credential neither.
    query = "X-Amz-Signature=planted%2Fsig%2b&a=1;b&empty=&X-Amz-Credential=planted~%7E"
    records: list[str] = []

    class Catch(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record.getMessage())

    answer = ranged(b"content", {"ETag": '"e"'})
    catch, log = Catch(), logging.getLogger("urllib3")
    level = log.level
    log.addHandler(catch)
    log.setLevel(logging.DEBUG)
    try:
        with ScriptedServer(
            lambda seen: (*answer(seen)[:1], {**answer(seen)[1], "Bad Header": "x"}, answer(seen)[2])
        ) as server:
            store = http_store(server.url, query=query, authorization=lambda: "Bearer planted")
            assert store.head("d/a b").size_bytes == 7
            with store.open("d/a b") as reading:
                assert b"".join(reading) == b"content"
            with pytest.raises(StoreError) as caught:
                store.open("d/a b", start=9)
            assert {seen.target for seen in server.requests} == {f"/d/a%20b?{query}"}
            assert records
            texts = [*records, repr(store), repr(store._transport), str(caught.value), repr(caught.value.__cause__)]
            assert not [text for text in texts if "planted" in text]
            store.close()
    finally:
        log.removeHandler(catch)
        log.setLevel(level)


# Secrets.

PLANTED_PROXY = "http://planted:planted@127.0.0.1:1"


def _planted() -> str:
    return "Bearer planted"


def _planted_and_wrong() -> str:
    return "Bearer planted\n"


def _refuse(_url: str) -> None:
    raise PolicyError("refused", rule="not-named")


def _refuse_address(_host: str, _port: int) -> list[str]:
    raise PolicyError("refused", rule="metadata-address")


def _broken() -> Iterator[bytes]:
    yield CONTENT
    raise OSError("the source broke")


@pytest.mark.parametrize(
    ("settings", "status"),
    [
        ({"authorization": _planted}, 401),
        ({"authorization": _planted}, 0),
        ({"authorization": _planted_and_wrong}, 200),
        ({"authorization": _planted, "addresses": _refuse_address}, 200),
        ({"query": "X-Amz-Signature=planted"}, 403),
        ({"query": "X-Amz-Signature=planted"}, 0),
        ({"proxies": {"http": PLANTED_PROXY}, "authorization": _planted}, 200),
        ({"proxies": {"http": PLANTED_PROXY + "/:"}, "tls": Tls(ca_pem=b"no PEM")}, 200),
        ({"proxies": {"http": "socks5://planted:planted@host"}}, 200),
        ({"redirect": _refuse}, 302),
        ({}, 307),
    ],
)
def test_tracebacks_hold_no_secret(settings: dict[str, Any], status: int) -> None:
    # A traceback with all locals of all frames shows neither credential, nor signature, nor the proxy's password.
    def answer(seen: Seen) -> webservers.Answer:
        if not status:
            raise ConnectionAbortedError
        return status, {"Location": "http://[planted" if status == 307 else "/there?sig=planted"}, b"planted"

    with ScriptedServer(answer) as server:
        store = http_store(server.url, retries=Retries(attempts=1), **settings)
        for verb in (store.open, store.head, lambda key: store.write(key, [b"x"])):
            with pytest.raises(ToolkitError) as caught:
                verb("k")
            frames = caught.value.__traceback__.tb_next  # not this test's own
            trace = traceback.TracebackException(type(caught.value), caught.value, frames, capture_locals=True)
            assert "planted" not in "".join(trace.format()), "".join(trace.format())
        store.close()


def test_a_failing_source_shows_no_secret(wsgidav: WebServer) -> None:
    # ... nor does what the caller's buffers raised while they were sent.
    store = dav_store(wsgidav, part_bytes=10)
    with pytest.raises(OSError, match="the source broke") as caught:
        store.write("k", _broken())
    trace = traceback.TracebackException(
        type(caught.value), caught.value, caught.value.__traceback__.tb_next, capture_locals=True
    )
    assert basic(USER, PASSWORD) not in "".join(trace.format())
    store.close()


# The rest.


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("ftp://host/", "neither http nor https"),
        ("http://user:planted@host/", "it names a user"),
        ("http:///path", "no host name"),
        ("http://host/?q", "a query or a fragment"),
        ("http://host/#f", "a query or a fragment"),
        ("http://host:0x50/", "no URL"),
    ],
)
def test_base_urls(url: str, said: str) -> None:
    # A base URL is a scheme, a host, a port and a path.
    with pytest.raises(LocationError, match=said) as caught:
        http_store(url)
    assert "planted" not in str(caught.value)


def test_other_verbs(dav: WebServer) -> None:
    # The client is urllib3's; nothing signs.
    store = dav_store(dav)
    assert store.client.request("GET", dav.url, redirect=False).status == 401
    with pytest.raises(NotSupported, match="no signed URL"):
        store.sign("k")
    assert store.enforces_conditions is False
    store.close()


def test_names_that_are_not_utf8(rclone_dav: WebServer) -> None:
    # A name that is no UTF-8 is read back by the key the listing gave.
    store = dav_store(rclone_dav)
    (folder_of(rclone_dav, store) / os.fsdecode(b"caf\xe9")).write_bytes(b"latin")
    (entry,) = store.list()
    with store.open(entry.key) as reading:
        assert b"".join(reading) == b"latin"
    store.close()


def test_after_a_fork() -> None:
    # A forked process makes connections of its own.
    with ScriptedServer(_answer_ok) as server:
        store = http_store(server.url)
        store.head("k")
        child = os.fork()
        if child == 0:
            os._exit(0 if store.head("k").size_bytes == 7 else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert store.head("k").size_bytes == 7
        store.close()
