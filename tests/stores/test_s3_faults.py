"""The S3 store when the network, the server or the keys let it down: faults put before a real SeaweedFS."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import servers
from s3stores import QUICK, s3_store
from webservers import ScriptedServer

from creds.errors import (
    AccessDenied,
    BucketNotFound,
    Cancelled,
    NotSupported,
    ObjectChanged,
    ObjectNotFound,
    StoreError,
    StoreTimeout,
    StoreUnavailable,
    Unauthenticated,
)
from creds.keys import AwsKeys
from creds.store import Cancel, Retries, Retry, Sessions, Window
from creds.stores.s3 import S3Store
from creds.testing import Fault, FaultProxy

MIB = 1 << 20
BIG = os.urandom(MIB) * 20
ODD = "odd//key"  # one that boto3 reads


@pytest.fixture
def proxy(seaweed: servers.S3Server) -> Iterator[FaultProxy]:
    with FaultProxy(seaweed.address) as proxy:
        yield proxy


@pytest.fixture
def make(seaweed: servers.S3Server, bucket: str, proxy: FaultProxy) -> Iterator[Callable[..., S3Store]]:
    """Makes stores that reach SeaweedFS through the proxy."""
    made: list[S3Store] = []

    def make(**options: Any) -> S3Store:
        options.setdefault("endpoint_url", proxy.url)
        options.setdefault("part_bytes", MIB)
        made.append(s3_store(seaweed, options.pop("bucket", bucket), **options))
        return made[-1]

    yield make
    for store in made:
        store.close()


@pytest.fixture
def direct(seaweed: servers.S3Server, bucket: str) -> Iterator[S3Store]:
    """The same bucket without the proxy."""
    store = s3_store(seaweed, bucket)
    yield store
    store.close()


def uploads(seaweed: servers.S3Server, bucket: str) -> list[str]:
    """The unfinished uploads that the server holds."""
    return [each["Key"] for each in seaweed.client().list_multipart_uploads(Bucket=bucket).get("Uploads", ())]


def wait_until(met: Callable[[], bool]) -> None:
    """Wait for what happens on another thread or host, with a deadline far beyond what it needs."""
    ends = time.monotonic() + 10
    while not met():
        assert time.monotonic() < ends
        time.sleep(0.01)


# Reading.


def test_small_object_is_one_get(make: Callable[..., S3Store], direct: S3Store, proxy: FaultProxy) -> None:
    # No HEAD, no second request; an empty object takes two: a range of it does not exist.
    direct.write("k", [b"small"])
    direct.write("empty", [])
    store = make()
    with store.open("k") as reading:
        assert b"".join(reading) == b"small"
    assert len(proxy.requests) == 1
    with store.open("empty") as reading:
        assert list(reading) == []
    assert proxy.count("^GET") == len(proxy.requests) == 3


@pytest.mark.parametrize("part", ["first", "later"])
def test_cut_part_is_fetched_again(make: Callable[..., S3Store], direct: S3Store, proxy: FaultProxy, part: str) -> None:
    # A part cut in its middle is asked for again, alone: no byte comes twice or never.
    direct.write("k", [BIG])
    retried: list[Retry] = []
    if part == "first":
        proxy.add(Fault(match="^GET", down_cut_bytes=700_000))
    with make().open("k", on_retry=retried.append) as reading:
        if part == "later":
            proxy.add(Fault(match="^GET", down_cut_bytes=700_000))
        content = b"".join(reading)
    assert hashlib.sha256(content).digest() == hashlib.sha256(BIG).digest()
    assert [(r.op, r.attempt, type(r.error)) for r in retried] == [("open", 1, StoreUnavailable)]
    assert len(proxy.requests) == 20 + 1


def test_cut_stream_resumes_at_its_byte(make: Callable[..., S3Store], direct: S3Store, proxy: FaultProxy) -> None:
    # What is read in one response resumes by Range where it broke, twice in a row if need be.
    direct.write(ODD, [BIG])
    proxy.add(Fault(match="^GET", down_cut_bytes=3_300_000, times=2))
    retried: list[Retry] = []
    with make(part_bytes=64 << 20).open(ODD, on_retry=retried.append) as reading:
        assert reading.pinned == "none"  # one response is of one generation
        assert hashlib.sha256(b"".join(reading)).digest() == hashlib.sha256(BIG).digest()
        assert reading.pinned == "etag"
    assert [r.attempt for r in retried] == [1, 1]
    assert proxy.count("^GET") == 3


@pytest.mark.parametrize("key", ["plain", ODD])
@pytest.mark.parametrize("gone", [False, True])
def test_changed_while_read(
    make: Callable[..., S3Store], direct: S3Store, proxy: FaultProxy, key: str, gone: bool
) -> None:
    # An object replaced (or removed) between two requests is ObjectChanged: never a mixture, never a short content.
    direct.write(key, [BIG])
    proxy.add(Fault(match="^GET", down_cut_bytes=500_000) if key == ODD else Fault(times=0))
    with make(parallel_parts=1).open(key) as reading:
        iterator = iter(reading)
        if key == "plain":
            next(iterator)
        if gone:
            direct.delete(key)
        else:
            direct.write(key, [BIG[1:] + b"!"])
        with pytest.raises(ObjectChanged, match="changed while it was read|412 PreconditionFailed"):
            list(iterator)


def test_slow_down(make: Callable[..., S3Store], direct: S3Store, proxy: FaultProxy) -> None:
    # Throttling is waited out, and each wait is told of; the server's Retry-After counts.
    direct.write("k", [b"content"])
    retried: list[Retry] = []
    proxy.add(Fault(match="^GET", status=503, times=2))
    with make().open("k", on_retry=retried.append) as reading:
        assert b"".join(reading) == b"content"
    assert [(r.attempt, r.error.http_status, r.error.server_code) for r in retried] == [
        (1, 503, "SlowDown"),
        (2, 503, "SlowDown"),
    ]
    retried.clear()
    proxy.add(Fault(match="^PUT", status=503, headers={"Retry-After": "1"}))
    make(retries=Retries(first_wait_seconds=0.0, max_wait_seconds=0.07)).write("k", [b"x"], on_retry=retried.append)
    assert [r.wait_seconds for r in retried] == [0.07]


@pytest.mark.parametrize("asked", ["open", "write"])
def test_slow_down_slows_all(make: Callable[..., S3Store], direct: S3Store, proxy: FaultProxy, asked: str) -> None:
    # What one call was told holds all others to that host back, of other stores with the same sessions too.
    direct.write("k", [b"content"])
    sessions, waits = Sessions(), Retries(first_wait_seconds=0.2, max_wait_seconds=0.4)
    told: list[tuple[float, float]] = []
    other_ended: list[float] = []
    refused, other = make(sessions=sessions, retries=waits), make(sessions=sessions, retries=waits)

    def ask_other() -> None:
        other.head("k")
        other_ended.append(time.monotonic())

    thread = threading.Thread(target=ask_other)

    def on_retry(retry: Retry) -> None:
        told.append((time.monotonic(), retry.wait_seconds))
        thread.start()

    proxy.add(Fault(match="^(GET|PUT)", status=503))
    if asked == "open":
        refused.open("k", on_retry=on_retry).__exit__(None, None, None)
    else:
        refused.write("k", [b"x"], on_retry=on_retry)
    thread.join()
    [(at, wait)] = told
    assert 0.1 <= wait <= 0.4
    assert other_ended[0] >= at + wait - 0.02  # between the throttle's clock and the test's


@pytest.mark.parametrize("verb", ["open", "odd", "head", "write", "delete", "list"])
def test_throttled_to_the_end(make: Callable[..., S3Store], proxy: FaultProxy, verb: str) -> None:
    # Retries are capped: then it is StoreUnavailable, worth trying later, with the server's words.
    proxy.add(Fault(status=503, times=100))
    store = make()
    verbs: dict[str, Callable[[], Any]] = {
        "open": lambda: store.open("k"),
        "odd": lambda: store.open(ODD),
        "head": lambda: store.head("k"),
        "write": lambda: store.write("k", [b"x"]),
        "delete": lambda: store.delete("k"),
        "list": lambda: list(store.list("k")),
    }
    with pytest.raises(StoreUnavailable) as caught:
        verbs[verb]()
    assert (caught.value.http_status, caught.value.retryable) == (503, True)
    assert len(proxy.requests) == QUICK.attempts


def test_silence(make: Callable[..., S3Store], direct: S3Store, proxy: FaultProxy) -> None:
    # A server that says nothing for the read timeout is StoreTimeout.
    direct.write("k", [b"x"])
    proxy.add(Fault(delay_seconds=30, times=9))
    store = make(read_timeout_seconds=0.2, retries=Retries(attempts=1))
    for verb in (store.open, store.head):
        with pytest.raises(StoreTimeout, match="no answer in time") as caught:
            verb("k")
        assert isinstance(caught.value, TimeoutError)
        assert caught.value.retryable is True


def test_slow_is_not_silent(make: Callable[..., S3Store], direct: S3Store, proxy: FaultProxy) -> None:
    # A link that needs far longer than the read timeout for one part, but goes on delivering, is not broken off.
    direct.write("k", [BIG[:MIB]])
    proxy.add(Fault(match="^GET", down_bytes_per_second=1_000_000))
    with make(read_timeout_seconds=0.4, retries=Retries(attempts=1)).open("k") as reading:
        assert b"".join(reading) == BIG[:MIB]


def test_refused(make: Callable[..., S3Store]) -> None:
    # Nobody listens: StoreUnavailable.
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        store = make(endpoint_url=f"http://127.0.0.1:{reserved.getsockname()[1]}")
        for verb in (store.open, store.head):
            with pytest.raises(StoreUnavailable, match="cannot connect") as caught:
                verb("k")
            assert isinstance(caught.value, ConnectionError)
            assert "up and reachable" in str(caught.value.hint)


def test_a_page_that_is_not_s3s(make: Callable[..., S3Store]) -> None:
    # A server of something else answers all with 200 and a page: that is no object (S3 gives each an ETag), no listing is
    # empty by it, and nothing was stored.
    with ScriptedServer(lambda _seen: (200, {"Content-Type": "text/html"}, b"<html>log in</html>")) as server:
        store = make(endpoint_url=server.url)
        verbs = (
            lambda: list(store.list("p/")),
            lambda: store.write("k", [b"x"]),
            lambda: store.head("k"),
            lambda: store.open("k"),
        )
        for verb in verbs:
            with pytest.raises(StoreError, match="an answer that is not S3's") as caught:
                verb()
            assert caught.value.retryable is False
            assert caught.value.hint == "check that the endpoint is an S3 server"


def test_a_redirect_is_not_followed(make: Callable[..., S3Store]) -> None:
    # It is told, and not tried again.
    with ScriptedServer(lambda seen: (302, {"Location": seen.target}, b"")) as server:
        with pytest.raises(StoreError, match="k: 302$") as caught:
            make(endpoint_url=server.url).open("k")
        assert caught.value.retryable is False


def test_unknown_host(make: Callable[..., S3Store]) -> None:
    # A name that does not resolve says so.
    store = make(endpoint_url="http://no-such-host.invalid:9000", retries=Retries(attempts=1))
    for verb in (store.open, store.head):
        with pytest.raises(StoreUnavailable, match="the server's name is not known"):
            verb("k")


# Who we are.


def test_wrong_keys(make: Callable[..., S3Store], direct: S3Store) -> None:
    # Wrong secret or unknown key: Unauthenticated from every verb, not retried, catchable as PermissionError.
    direct.write("k", [b"x"])
    cases = {
        "SignatureDoesNotMatch": servers.Keys(servers.ADMIN.access_key, "wrong-secret-4f1c"),
        "InvalidAccessKeyId": servers.Keys("AKNOBODY0000000000009", "wrong-secret-4f1c"),
    }
    for code, keys in cases.items():
        store = make(keys=keys)
        for verb in (
            store.open,
            store.head,
            store.delete,
            lambda k, s=store: s.write(k, [b"y"]),
            lambda k, s=store: s.open(ODD),
        ):
            with pytest.raises(Unauthenticated) as caught:
                verb("k")
            assert isinstance(caught.value, PermissionError)
            assert caught.value.server_code == code
            assert caught.value.retryable is False
            assert (
                "wrong-secret" not in f"{caught.value}{caught.value.hint}{caught.value.__cause__}{vars(caught.value)}"
            )


def test_denied(seaweed: servers.S3Server, bucket: str) -> None:
    # Known and not allowed: AccessDenied, and the hint tells that a missing key may hide behind it.
    store = s3_store(seaweed, bucket, keys=servers.READER)
    for verb in (store.open, store.head, lambda k: store.write(k, [b"x"]), lambda k: list(store.list(k))):
        with pytest.raises(AccessDenied, match="403 AccessDenied") as caught:
            verb("k")
        assert "ListBucket" in str(caught.value.hint)
        assert caught.value.server_request_id
    store.close()


def test_unknown_bucket(make: Callable[..., S3Store]) -> None:
    # Every verb that reads tells a missing bucket from a missing key. (SeaweedFS makes the bucket that is written to.)
    store = make(bucket="no-such-bucket-here")
    verbs: dict[str, Callable[[], Any]] = {
        "open": lambda: store.open("k"),
        "odd": lambda: store.open(ODD),
        "head": lambda: store.head("k"),
        "list": lambda: list(store.list("k")),
    }
    told = {}
    for name, verb in verbs.items():
        with contextlib.suppress(BucketNotFound):
            told[name] = verb()
    assert told == {}


def test_refreshed_once(
    make: Callable[..., S3Store], direct: S3Store, proxy: FaultProxy, seaweed: servers.S3Server
) -> None:
    # Keys the server no longer knows are asked for again, once; where the provider has others the work goes on.
    direct.write("k", [b"content"])
    direct.write(ODD, [b"odd"])
    ended = AwsKeys(access_key="AKENDED00000000000001", secret_key="ended-secret")
    fresh = AwsKeys(access_key=seaweed.admin.access_key, secret_key=seaweed.admin.secret_key)
    refused = threading.Event()
    verbs: list[Callable[[S3Store], bool]] = [
        lambda store: b"".join(store.open("k")) == b"content",
        lambda store: b"".join(store.open(ODD)) == b"odd",
        lambda store: store.head("k").size_bytes == 7,
        lambda store: store.write("new", [b"x"]).size_bytes == 1,
    ]
    for verb in verbs:
        refused.clear()
        proxy.add(Fault(hook=refused.set))  # the session ends, and is renewed, when the first request is under way
        assert verb(make(provider=lambda: fresh if refused.is_set() else ended))


def test_not_refreshed_for_ever(make: Callable[..., S3Store], proxy: FaultProxy) -> None:
    # A provider that hands out new keys each time, all refused, is asked again once and no more.
    asked = 0

    def provider() -> AwsKeys:
        nonlocal asked
        asked += 1
        return AwsKeys(access_key=f"AKNEW{asked:016d}", secret_key="secret")

    for verb in ("open", "head"):
        proxy.requests.clear()
        with pytest.raises(Unauthenticated, match="InvalidAccessKeyId"):
            getattr(make(provider=provider), verb)("k")
        assert len(proxy.requests) <= 4  # a HEAD is followed by a GET that tells why, each once more


def test_expired_token_on_aws(make: Callable[..., S3Store], proxy: FaultProxy) -> None:
    # AWS answers 400 ExpiredToken: Unauthenticated.
    body = b"<Error><Code>ExpiredToken</Code><Message>expired</Message><RequestId>R1</RequestId></Error>"
    proxy.add(Fault(status=400, body=body, times=9))
    store = make()
    for verb in (store.open, store.head):
        with pytest.raises(Unauthenticated, match="400 ExpiredToken"):
            verb("k")


ANSWERS = [
    (301, "PermanentRedirect", StoreError, "--region", False),
    (400, "AuthorizationHeaderMalformed", StoreError, "--region", False),
    (403, "RequestTimeTooSkewed", Unauthenticated, "clock", False),
    (401, "Unauthorized", Unauthenticated, "access key", False),
    (501, "NotImplemented", NotSupported, None, False),
    (500, "InternalError", StoreUnavailable, None, True),
    (502, "", StoreUnavailable, None, True),
    (429, "TooManyRequests", StoreUnavailable, None, True),
    (409, "ConditionalRequestConflict", StoreUnavailable, None, True),
    (404, "NoSuchKey", ObjectNotFound, None, False),
    (412, "PreconditionFailed", ObjectChanged, None, False),
    (400, "Sm<thing", StoreError, None, False),
]


@pytest.mark.parametrize(("status", "code", "kind", "hint", "retryable"), ANSWERS)
@pytest.mark.parametrize("key", ["plain", ODD])
def test_answers(
    make: Callable[..., S3Store],
    proxy: FaultProxy,
    key: str,
    status: int,
    code: str,
    kind: type,
    hint: str | None,
    retryable: bool,
) -> None:
    # Each answer is one error, the same for every verb; the server's message is never repeated.
    body = f"<Error><Code>{code}</Code><Message>see /?X-Amz-Signature=abc</Message><RequestId>R-1</RequestId></Error>"
    proxy.add(Fault(status=status, body=body.encode(), times=9))
    with pytest.raises(kind) as caught:
        make(retries=Retries(attempts=1)).open(key)
    error = caught.value
    assert type(error) is kind
    assert error.retryable is retryable
    assert hint is None or hint in str(error.hint)
    assert error.op == "open"
    assert "X-Amz" not in str(error)
    assert str(error).startswith(f"open s3://127.0.0.1:{proxy._upstream[1]}/")
    if status != 301 or key == ODD:
        assert error.http_status == status


# Writing.


@pytest.mark.parametrize("size", [1000, len(BIG)])
@pytest.mark.parametrize("condition", [{}, {"if_none_match": True}])
def test_lost_answer(
    make: Callable[..., S3Store], proxy: FaultProxy, direct: S3Store, size: int, condition: dict[str, bool]
) -> None:
    # The write succeeded and its answer was lost: the retry's 412 (or 404) is seen through, and it is a success.
    store = make()
    assert store.enforces_conditions is True
    publishing = "^POST .*uploadId=" if size > 8 * MIB else "^PUT .*/k[ ?]"
    proxy.add(Fault(match=publishing, lose_answer=True))
    retried: list[Retry] = []
    meta = store.write("k", [BIG[:size]], on_retry=retried.append, **condition)
    assert len(retried) == 1
    assert meta.etag == direct.head("k").etag
    assert meta.size_bytes == size
    with direct.open("k") as reading:
        assert b"".join(reading) == BIG[:size]


@pytest.mark.parametrize("size", [1000, len(BIG)])
def test_lost_answer_is_not_claimed(
    make: Callable[..., S3Store], proxy: FaultProxy, direct: S3Store, size: int
) -> None:
    # Another writer's object is not taken for ours, also after an answer was lost.
    store = make()
    assert store.enforces_conditions is True
    publishing = "^POST .*uploadId=" if size > 8 * MIB else "^PUT .*/k[ ?]"
    proxy.add(Fault(match=publishing, status=500, hook=lambda: direct.write("k", [b"theirs"])))
    with pytest.raises(ObjectChanged):
        store.write("k", [BIG[:size]], if_none_match=True)
    with direct.open("k") as reading:
        assert b"".join(reading) == b"theirs"


@pytest.mark.parametrize("size", [1000, len(BIG)])
def test_conflict_at_the_end(
    make: Callable[..., S3Store], direct: S3Store, seaweed: servers.S3Server, bucket: str, size: int
) -> None:
    # A condition that fails only when the object is published: ObjectChanged, the other's object and no parts stay.
    store = make()

    def buffers() -> Iterator[bytes]:
        yield BIG[:size]
        direct.write("k", [b"theirs"])

    with pytest.raises(ObjectChanged):
        store.write("k", buffers(), if_none_match=True)
    assert direct.head("k").size_bytes == 6
    assert uploads(seaweed, bucket) == []


@pytest.mark.parametrize("size", [2 * MIB, len(BIG)])
def test_cut_upload_goes_on(make: Callable[..., S3Store], proxy: FaultProxy, direct: S3Store, size: int) -> None:
    # A request body cut on its way is sent again.
    proxy.add(Fault(match="^PUT", up_cut_bytes=500_000, times=2))
    retried: list[Retry] = []
    make().write("k", [BIG[:size]], on_retry=retried.append)
    assert len(retried) == 2
    with direct.open("k") as reading:
        assert b"".join(reading) == BIG[:size]


@pytest.mark.parametrize("size", [2 * MIB, len(BIG)])
def test_cut_upload_for_good(
    make: Callable[..., S3Store], proxy: FaultProxy, direct: S3Store, seaweed: servers.S3Server, bucket: str, size: int
) -> None:
    # When the retries are used up there is no object, no part of one, and no upload left behind.
    proxy.add(Fault(match="^PUT", up_cut_bytes=500_000, times=100))
    with pytest.raises(StoreUnavailable, match="the connection broke") as caught:
        make().write("k", [BIG[:size]])
    assert caught.value.op == "write"
    assert list(direct.list()) == []
    assert uploads(seaweed, bucket) == []


def test_failed_source_aborts(
    make: Callable[..., S3Store], direct: S3Store, seaweed: servers.S3Server, bucket: str
) -> None:
    # A source that breaks after several parts, or an interrupt, leaves no upload behind.
    for error in (ValueError("the source broke"), KeyboardInterrupt()):

        def buffers(error: BaseException = error) -> Iterator[bytes]:
            yield BIG
            raise error

        with pytest.raises(type(error)):
            make().write("k", buffers())
        assert list(direct.list()) == []
        wait_until(lambda: uploads(seaweed, bucket) == [])


# Stopping.


def own_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("creds-store")]


@pytest.mark.parametrize("key", ["plain", ODD])
@pytest.mark.parametrize("how", ["cancel", "leave"])
def test_stop_reading(make: Callable[..., S3Store], direct: S3Store, proxy: FaultProxy, key: str, how: str) -> None:
    # In the middle of a slow transfer: everything ends at once, and every connection is closed.
    direct.write(key, [BIG])
    proxy.add(Fault(match="^GET", down_bytes_per_second=150_000, times=100))
    store = make(window=Window(), part_bytes=4 * MIB)
    cancel = Cancel()
    reading = store.open(key, cancel=cancel)
    threading.Timer(
        0.3, (lambda: cancel.cancel("enough")) if how == "cancel" else (lambda: reading.__exit__(None, None, None))
    ).start()
    begun = time.monotonic()
    with pytest.raises(Cancelled, match="enough" if how == "cancel" else "closed while it was read"), reading:
        list(reading)
    assert time.monotonic() - begun < 5  # the transfer alone would take two minutes
    wait_until(lambda: proxy.open_connections == 0)
    assert store.window.used_bytes == 0


@pytest.mark.parametrize("verb", ["open", "odd", "head", "list", "delete", "put", "parts"])
def test_cancel_while_the_server_is_silent(
    make: Callable[..., S3Store], proxy: FaultProxy, seaweed: servers.S3Server, bucket: str, verb: str
) -> None:
    # A verb that waits for an answer that does not come ends when it is cancelled, with its threads and connections.
    silent = Fault(match="partNumber" if verb == "parts" else "", delay_seconds=60, times=100)
    proxy.add(silent)
    store = make(window=Window())
    cancel = Cancel()
    verbs: dict[str, Callable[[], Any]] = {
        "open": lambda: store.open("k", cancel=cancel),
        "odd": lambda: store.open(ODD, cancel=cancel),
        "head": lambda: store.head("k", cancel=cancel),
        "list": lambda: list(store.list(cancel=cancel)),
        "delete": lambda: store.delete("k", cancel=cancel),
        "put": lambda: store.write("k", [b"x"], cancel=cancel),
        "parts": lambda: store.write("k", [BIG], cancel=cancel),
    }
    threading.Timer(0.3, lambda: cancel.cancel("enough")).start()
    begun = time.monotonic()
    with pytest.raises(Cancelled, match="enough"):
        verbs[verb]()
    assert time.monotonic() - begun < 5
    silent.times = 0
    wait_until(lambda: proxy.open_connections == 0)
    wait_until(lambda: uploads(seaweed, bucket) == [])
    store.close()
    wait_until(lambda: own_threads() == [])
    assert store.window.used_bytes == 0


def test_cancel_while_nobody_reads(make: Callable[..., S3Store], seaweed: servers.S3Server) -> None:
    # A peer that takes the connection and nothing more cannot hold a cancelled write up.
    with socket.create_server(("127.0.0.1", 0)) as listener:
        store = make(endpoint_url=f"http://127.0.0.1:{listener.getsockname()[1]}")
        cancel = Cancel()
        threading.Timer(0.3, lambda: cancel.cancel("enough")).start()
        begun = time.monotonic()
        with pytest.raises(Cancelled, match="enough"):
            store.write("k", [BIG[: 7 * MIB]], cancel=cancel)
        assert time.monotonic() - begun < 5
        wait_until(lambda: own_threads() == [])


class Watched(Window):
    """A window that remembers the most bytes it has held."""

    most = 0

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "used_bytes":
            super().__setattr__("most", max(self.most, value))
        super().__setattr__(name, value)


def test_window_is_held(make: Callable[..., S3Store], direct: S3Store) -> None:
    # Reads ahead and parts stay within the window, and give all of it back.
    window = Watched(3 * MIB)
    store = make(window=window, parallel_parts=8)
    direct.write("k", [BIG])
    with store.open("k") as reading:
        assert sum(map(len, reading)) == len(BIG)
    assert 2 * MIB <= window.most <= 4 * MIB
    assert (window.used_bytes, window.streams) == (0, 0)
    window.most = 0
    window.max_bytes = 20 * MIB
    store.write("w", [BIG, BIG, BIG])
    assert 16 * MIB <= window.most <= 28 * MIB
    assert (window.used_bytes, window.streams) == (0, 0)


def test_far_server_is_asked_for_more_at_once(make: Callable[..., S3Store], direct: S3Store, proxy: FaultProxy) -> None:
    # Latency is hidden by more parts in flight, up to four times as many, beside the one in the reader's hands.
    direct.write("k", [BIG])
    proxy.add(Fault(match="^GET", delay_seconds=0.1, times=100))
    window = Watched()
    with make(window=window, parallel_parts=2).open("k") as reading:
        assert b"".join(reading) == BIG
    assert 4 * MIB <= window.most <= 9 * MIB


def test_small_never_waits_for_big(make: Callable[..., S3Store], direct: S3Store) -> None:
    # While one reading holds the whole window and nobody takes from it, others read and write, small and large.
    direct.write("big", [BIG])
    direct.write("small", [b"small"])
    window = Window(4 * MIB)
    store = make(window=window, parallel_parts=4)
    with store.open("big") as big:
        next(iter(big))
        assert window.used_bytes == 4 * MIB
        with store.open("small") as small:
            assert b"".join(small) == b"small"
        with store.open("big") as second:
            assert b"".join(second) == BIG
        assert store.write("one", [b"part"]).size_bytes == 4
        assert store.write("parts", [BIG]).size_bytes == len(BIG)
        assert window.used_bytes == 4 * MIB
    assert (window.used_bytes, window.streams) == (0, 0)
