"""Who pays, and how objects are encrypted: on SeaweedFS over TLS, which has SSE-S3, SSE-C and a KMS of its own.

No server here makes anybody pay: of requester pays the headers are looked at, as AWS documents them.
"""

from __future__ import annotations

import base64
import hashlib
import io
import pickle
import random
import re
import uuid
from collections.abc import Callable, Iterator
from urllib.parse import parse_qs, urlsplit

import pytest
import servers
from rich.console import Console
from rich.traceback import Traceback
from s3stores import s3_store
from tlsfront import Authority, Front, tls_front

from creds.errors import (
    AccessDenied,
    BucketNotFound,
    CredentialError,
    NotSupported,
    ObjectChanged,
    StoreError,
    StoreUnavailable,
    Unauthenticated,
)
from creds.keys import AwsKeys
from creds.store import S3, Retries, Retry, Ssh, StoreOptions, Tls
from creds.stores.s3 import S3Store
from creds.testing import Fault, FaultProxy

MIB = 1 << 20
BIG = random.Random(7).randbytes(9 * MIB + 5)
KMS_KEY = "11111111-2222-3333-4444-555555555555"
CUSTOMERS = bytes(range(32))
HEADER = "x-amz-server-side-encryption"

Make = Callable[..., S3Store]


@pytest.fixture
def front(seaweed: servers.S3Server, tmp_path) -> Iterator[tuple[Front, Authority]]:
    authority = Authority(tmp_path)
    with tls_front(seaweed.address, authority) as running:
        yield running, authority


@pytest.fixture
def make(seaweed: servers.S3Server, bucket: str, front: tuple[Front, Authority]) -> Iterator[Make]:
    """Stores over TLS."""
    made: list[S3Store] = []

    def one(s3: S3) -> S3Store:
        url = f"https://localhost:{front[0].port}"
        made.append(s3_store(seaweed, bucket, endpoint_url=url, tls=Tls(ca_pem=front[1].pem), s3=s3))
        return made[-1]

    yield one
    for store in made:
        store.close()


def content(store: S3Store, key: str, start: int = 0) -> bytes:
    with store.open(key, start=start) as reading:
        return b"".join(bytes(buffer) for buffer in reading)


def round_trip(store: S3Store) -> None:
    """Every verb: small and large, plain keys and one with an empty segment."""
    for key, body in (("small", b"content"), ("odd//key", b"content"), ("large", BIG)):
        assert store.write(key, [body]).size_bytes == len(body)
        assert content(store, key) == body
        assert content(store, key, 3) == body[3:]
        assert store.head(key).size_bytes == len(body)
    assert store.write("absent", [b"x"], if_none_match=True).size_bytes == 1
    with pytest.raises(ObjectChanged):
        store.write("absent", [b"y"], if_none_match=True)
    assert [meta.key for meta in store.list("s")] == ["small"]
    store.delete("absent")


@pytest.mark.parametrize(
    ("s3", "told"),
    [
        (S3(sse="AES256"), {"ServerSideEncryption": "AES256"}),
        (S3(sse="aws:kms", sse_kms_key_id=KMS_KEY), {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": KMS_KEY}),
    ],
)
def test_the_server_has_the_key(make: Make, seaweed: servers.S3Server, bucket: str, s3: S3, told: dict[str, str]):
    """SSE-S3 and SSE-KMS: what is written is encrypted as asked, single or in parts, and anybody reads it."""
    store = make(s3)
    round_trip(store)
    for key in ("small", "large"):
        head = store.client.head_object(Bucket=bucket, Key=key)
        assert {name: head.get(name) for name in told} == told
    other = s3_store(seaweed, bucket)
    assert content(other, "large") == BIG
    other.close()


def test_the_customer_has_the_key(make: Make, seaweed: servers.S3Server, bucket: str):
    """SSE-C: with the key everything works; with another key, or none, nothing is read."""
    store = make(S3(sse_c_key=CUSTOMERS))
    round_trip(store)
    assert store.client.head_object(Bucket=bucket, Key="large")["SSECustomerAlgorithm"] == "AES256"
    store.client.copy_object(Bucket=bucket, Key="copy", CopySource={"Bucket": bucket, "Key": "small"})
    assert content(store, "copy") == b"content"
    wrong = make(S3(sse_c_key=bytes(32)))
    for call in (content, lambda store, key: store.head(key)):
        with pytest.raises(AccessDenied):
            call(wrong, "small")
    without = s3_store(seaweed, bucket)
    for key in ("small", "odd//key"):
        with pytest.raises(StoreError, match="400 InvalidArgument"):
            content(without, key)
    without.close()


def test_which_request_says_what(make: Make, front: tuple[Front, Authority]):
    """Each operation has the headers that AWS documents for it, and no other."""
    round_trip(make(S3(sse="aws:kms", sse_kms_key_id=KMS_KEY, sse_kms_context={"job": "7"})))
    for line, headers in front[0].requests():
        asked = {name: value for name, value in headers.items() if name.startswith(HEADER)}
        starts = line.endswith("?uploads=") or (line.startswith("PUT") and "partNumber" not in line)
        context = base64.b64encode(b'{"job": "7"}').decode()
        expected = {HEADER: "aws:kms", f"{HEADER}-aws-kms-key-id": KMS_KEY, f"{HEADER}-context": context}
        assert asked == (expected if starts else {}), line
    front[0].sent.clear()
    round_trip(make(S3(sse_c_key=CUSTOMERS, requester_pays=True)))
    for line, headers in front[0].requests():
        customer = f"{HEADER}-customer-"
        asked = {name.removeprefix(customer): value for name, value in headers.items() if name.startswith(HEADER)}
        listing_or_delete = line.startswith("DELETE") or "list-type" in line
        digest = base64.b64encode(hashlib.md5(CUSTOMERS).digest()).decode()
        expected = {"algorithm": "AES256", "key": base64.b64encode(CUSTOMERS).decode(), "key-md5": digest}
        assert asked == ({} if listing_or_delete else expected), line
        assert headers["x-amz-request-payer"] == "requester", line
    assert {line.split()[0] for line, _ in front[0].requests()} == {"GET", "PUT", "POST", "HEAD", "DELETE"}


def test_nothing_is_said_unasked(make: Make, front: tuple[Front, Authority]):
    """Without the options no request has any of their headers."""
    round_trip(make(S3()))
    said = {name for _, headers in front[0].requests() for name in headers}
    assert not {name for name in said if name.startswith(HEADER) or name == "x-amz-request-payer"}


def test_the_environment_says_nothing(make: Make, front: tuple[Front, Authority], monkeypatch: pytest.MonkeyPatch):
    """With AWS_* variables of another encryption and payer, what the options say is said, and nothing else."""
    for name, value in {
        "SERVER_SIDE_ENCRYPTION": "aws:kms",
        "SSE_KMS_KEY_ID": "hostile",
        "SSE_CUSTOMER_KEY_BASE64": base64.b64encode(bytes(32)).decode(),
        "SSE_BUCKET_KEY_ENABLED": "true",
        "REQUEST_PAYER": "requester",
    }.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    for s3 in (S3(sse_c_key=CUSTOMERS), S3(), S3(sse="AES256")):
        store = make(s3)
        store.write("k", [b"content"])
        assert content(store, "k") == b"content"
    assert "x-amz-request-payer" not in {name for _, headers in front[0].requests() for name in headers}


def test_what_the_client_says_itself_goes_first(make: Make, front: tuple[Front, Authority], bucket: str):
    """The live client adds the options to its calls, and leaves what its user chose."""
    client = make(S3(sse="aws:kms", sse_kms_key_id=KMS_KEY)).client
    client.put_object(Bucket=bucket, Key="k", Body=b"x", ServerSideEncryption="AES256")
    (_, headers), *_ = front[0].requests()
    assert headers[HEADER] == "AES256"


def test_signed_urls(make: Make):
    """A URL says who pays in its query; one whose holder would need our headers is not made."""
    query = parse_qs(urlsplit(make(S3(requester_pays=True)).sign("k")).query)
    assert query["x-amz-request-payer"] == ["requester"]
    assert query["X-Amz-SignedHeaders"] == ["host"]
    assert HEADER not in make(S3(sse="AES256")).sign("k")
    for s3, method in ((S3(sse="AES256"), "PUT"), (S3(sse_c_key=CUSTOMERS), "GET")):
        with pytest.raises(NotSupported, match="how the object is encrypted"):
            make(s3).sign("k", method)


def test_a_customers_key_never_goes_in_plaintext(seaweed: servers.S3Server, bucket: str):
    """A store without TLS is not even made, and the error does not hold the key."""
    with pytest.raises(CredentialError, match="the customer's key goes over TLS alone") as caught:
        s3_store(seaweed, bucket, s3=S3(sse_c_key=CUSTOMERS))
    told = f"{caught.value!r} {caught.value.hint}"
    assert base64.b64encode(CUSTOMERS).decode() not in told


@pytest.mark.parametrize("key", ["k", "odd//key"])
def test_a_redirect_to_plaintext_gets_no_key(seaweed: servers.S3Server, bucket: str, tmp_path, key: str):
    """Neither engine follows a server that leads away from TLS."""
    authority = Authority(tmp_path)
    with (
        FaultProxy(seaweed.address) as trap,
        FaultProxy(seaweed.address) as proxy,
        tls_front(("127.0.0.1", proxy.port), authority) as front,
    ):
        store = s3_store(
            seaweed,
            bucket,
            endpoint_url=f"https://localhost:{front.port}",
            tls=Tls(ca_pem=authority.pem),
            s3=S3(sse_c_key=CUSTOMERS),
            retries=Retries(attempts=1),
        )
        proxy.add(
            Fault(match="^(GET|HEAD|PUT)", status=307, headers={"Location": f"{trap.url}/{bucket}/{key}"}, times=9)
        )
        for work in (lambda: store.open(key), lambda: store.head(key), lambda: store.write(key, [b"x"])):
            with pytest.raises(StoreError):
                work()
        store.close()
        assert 3 <= len(proxy.requests) <= 9
        assert trap.requests == []


def test_a_passphrase_is_not_pickled():
    """As no keys are; what names a key's file is."""
    with pytest.raises(TypeError, match="is not pickled"):
        pickle.dumps(StoreOptions(ssh=Ssh(key="id", key_passphrase="planted")))
    assert pickle.loads(pickle.dumps(StoreOptions(ssh=Ssh(key="id")))).ssh == Ssh(key="id")


def test_a_customers_key_is_not_pickled():
    """As no keys are; options without one are."""
    with pytest.raises(TypeError, match="is not pickled"):
        pickle.dumps(StoreOptions(s3=S3(sse_c_key=CUSTOMERS)))
    s3 = S3(sse="aws:kms", sse_kms_context={"a": "b"}, requester_pays=True)
    assert pickle.loads(pickle.dumps(StoreOptions(s3=s3))).s3 == s3


def test_a_customers_key_does_not_print():
    """Neither alone nor within the options."""
    shown = f"{S3(sse_c_key=CUSTOMERS)!r} {StoreOptions(s3=S3(sse_c_key=CUSTOMERS))!r}"
    assert "sse_c_key" not in shown
    assert repr(CUSTOMERS)[2:-1] not in shown


@pytest.mark.parametrize("verb", ["open", "odd", "head", "write", "delete", "list"])
@pytest.mark.parametrize("answering", [True, False])
def test_tracebacks_with_locals_show_no_secret(
    seaweed: servers.S3Server, bucket: str, tmp_path, verb: str, answering: bool
):
    """Neither a customer's key nor a session token stands in any frame of an error, answered or not."""
    keys = AwsKeys(access_key="AKIAEXAMPLEEXAMPLE00", secret_key="planted-secret", token="planted-token")
    authority = Authority(tmp_path)
    with tls_front(seaweed.address if answering else ("127.0.0.1", 9), authority) as front:
        store = s3_store(
            seaweed,
            bucket,
            endpoint_url=f"https://localhost:{front.port}",
            provider=lambda: keys,
            tls=Tls(ca_pem=authority.pem),
            s3=S3(sse_c_key=CUSTOMERS),
            retries=Retries(attempts=1),
        )
        work = {
            "open": lambda: store.open("k"),
            "odd": lambda: store.open("odd//key"),
            "head": lambda: store.head("k"),
            "write": lambda: store.write("k", [b"x"]),
            "delete": lambda: store.delete("k"),
            "list": lambda: next(store.list()),
        }
        with pytest.raises(Unauthenticated if answering else StoreUnavailable) as raised:
            work[verb]()
        store.close()
    out = Console(file=io.StringIO(), width=500)
    # Below this test, whose locals hold them; the provider is the caller's own.
    trace = raised.tb.tb_next.tb_next
    told = Traceback.from_exception(
        type(raised.value), raised.value, trace, show_locals=True, locals_max_string=None, locals_max_length=None
    )
    out.print(told)
    shown = out.file.getvalue()
    assert "creds/stores/s3" in shown
    for secret in ("planted-secret", "planted-token", base64.b64encode(CUSTOMERS).decode(), repr(CUSTOMERS)[2:-1]):
        assert secret not in shown


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"sse": "AES128"}, "sse is 'AES128'"),
        ({"sse_c_key": b"short"}, "has 5 bytes"),
        ({"sse": "AES256", "sse_kms_key_id": "k"}, "goes with sse aws:kms"),
        ({"sse_kms_context": {"a": "b"}}, "goes with sse aws:kms"),
        ({"sse": "AES256", "sse_c_key": CUSTOMERS}, "exclude each other"),
    ],
)
def test_options_that_do_not_go_together(wrong, said):
    """They are refused when they are written down."""
    with pytest.raises(CredentialError, match=said):
        S3(**wrong)


# An ETag that is no MD5.


@pytest.fixture
def untold(seaweed: servers.S3Server, bucket: str, monkeypatch) -> Iterator[tuple[FaultProxy, S3Store]]:
    """A store whose own guess of an ETag never fits, as with a bucket that encrypts by a KMS key."""
    monkeypatch.setattr("creds.stores.s3.writing.etag_of", lambda _: None)
    monkeypatch.setattr("creds.stores.s3.writing.Part.md5", lambda _: hashlib.sha256(b"another").hexdigest())
    with FaultProxy(seaweed.address) as proxy:
        store = s3_store(seaweed, bucket, endpoint_url=proxy.url, on_aws=True)
        yield proxy, store
        store.close()


@pytest.mark.parametrize("size", [1000, len(BIG)])
def test_a_lost_answer_is_seen_through_without_the_etag(
    untold: tuple[FaultProxy, S3Store], seaweed: servers.S3Server, bucket: str, size: int
):
    """The write is known again by its own metadata; user metadata stays beside it."""
    proxy, store = untold
    proxy.add(Fault(match="^POST .*uploadId=" if size > 8 * MIB else "^PUT .*/k[ ?]", lose_answer=True))
    retried: list[Retry] = []
    meta = store.write("k", [BIG[:size]], if_none_match=True, metadata={"who": "me"}, on_retry=retried.append)
    assert (meta.size_bytes, len(retried)) == (size, 1)
    stored = seaweed.client().head_object(Bucket=bucket, Key="k")["Metadata"]
    assert stored["who"] == "me"
    assert re.fullmatch("[0-9a-f]{32}", stored["artifact-write"])


def test_anothers_same_bytes_are_not_ours(untold: tuple[FaultProxy, S3Store], seaweed: servers.S3Server, bucket: str):
    """Whoever wrote the very same bytes first has the object: the condition did not hold."""
    proxy, store = untold
    other = s3_store(seaweed, bucket, on_aws=True)

    def theirs() -> None:
        other.write("k", [b"same"], if_none_match=True)

    proxy.add(Fault(match="^PUT .*/k[ ?]", status=500, hook=theirs))
    with pytest.raises(ObjectChanged):
        store.write("k", [b"same"], if_none_match=True)
    other.close()


# Deleting.


def test_deleting_in_a_bucket_that_is_missing(seaweed: servers.S3Server):
    """A bucket that is not there is told, also by a server whose 404 names nothing; an absent key is gone."""
    missing = f"b-{uuid.uuid4().hex}"
    store = s3_store(seaweed, missing)
    with pytest.raises(BucketNotFound):
        store.delete("k")
    store.close()
    with FaultProxy(seaweed.address) as proxy:
        for bucket, error in ((missing, BucketNotFound), (servers.SHARED_BUCKET, None)):
            store = s3_store(seaweed, bucket, endpoint_url=proxy.url)
            proxy.add(Fault(match="^DELETE", status=404, body=b""))
            if error is None:
                store.delete("absent")
            else:
                with pytest.raises(error):
                    store.delete("k")
            store.close()


def test_a_404_about_an_object_that_is_there(seaweed: servers.S3Server, bucket: str):
    """What still answers was not deleted."""
    with FaultProxy(seaweed.address) as proxy:
        store = s3_store(seaweed, bucket, endpoint_url=proxy.url)
        store.write("k", [b"x"])
        proxy.add(Fault(match="^DELETE", status=404, body=b""))
        with pytest.raises(StoreError, match="404, and the object is still there"):
            store.delete("k")
        store.close()
