"""The S3 store on real servers: the conformance suite, and what is S3's own."""

from __future__ import annotations

import concurrent.futures
import gc
import io
import itertools
import os
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import servers
from conformance import KEYS, Conformance
from s3stores import QUICK, s3_store
from webservers import ForwardProxy

from creds.errors import (
    AccessDenied,
    BucketNotFound,
    Cancelled,
    NotSupported,
    ObjectChanged,
    PolicyError,
    StoreError,
)
from creds.keys import AwsKeys
from creds.store import StoreOptions, Window
from creds.stores.s3 import S3Store
from creds.stores.s3.parts import first_part_bytes, part_bytes_at
from creds.testing import Fault, FaultProxy


class TestSeaweed(Conformance):
    keys = tuple(key for key in KEYS if "\\" not in key)  # it takes a backslash for a slash
    sorted_listing = False  # it lists folder by folder: "a/1" before "a-b"

    @pytest.fixture
    def store(self, seaweed: servers.S3Server, bucket: str) -> Iterator[S3Store]:
        store = s3_store(seaweed, bucket)
        yield store
        store.close()


class TestRclone(Conformance):
    enforces = False  # it accepts conditions and ignores them

    @pytest.fixture
    def store(self, rclone_s3: servers.S3Server) -> Iterator[S3Store]:
        store = s3_store(rclone_s3, rclone_s3.make_bucket(f"b-{uuid.uuid4().hex[:12]}"))
        yield store
        store.close()


class TestMoto(Conformance):
    keys = tuple(key for key in KEYS if "\n" not in key)  # its web framework finds no route for a line break

    @pytest.fixture
    def store(self, moto_server: servers.S3Server) -> Iterator[S3Store]:
        store = s3_store(moto_server, moto_server.make_bucket(f"b-{uuid.uuid4().hex[:12]}"))
        yield store
        store.close()


# What is S3's own.


@pytest.fixture
def store(seaweed: servers.S3Server, bucket: str) -> Iterator[S3Store]:
    store = s3_store(seaweed, bucket)
    yield store
    store.close()


AWS_NAMES = """
    ACCESS_KEY_ID SECRET_ACCESS_KEY SESSION_TOKEN TOKEN SECURITY_TOKEN BUCKET BUCKET_NAME ENDPOINT ENDPOINT_URL
    ENDPOINT_URL_S3 ENDPOINT_URL_STS REGION DEFAULT_REGION PROFILE DEFAULT_PROFILE CONFIG_FILE SHARED_CREDENTIALS_FILE
    CA_BUNDLE DATA_PATH SKIP_SIGNATURE ALLOW_HTTP ALLOW_INVALID_CERTIFICATES S3_EXPRESS UNSIGNED_PAYLOAD
    REQUEST_PAYER REQUESTER_PAYS CHECKSUM_ALGORITHM CONDITIONAL_PUT COPY_IF_NOT_EXISTS DISABLE_TAGGING
    DISABLE_BULK_DELETE IMDSV1_FALLBACK METADATA_ENDPOINT ROLE_ARN ROLE_SESSION_NAME WEB_IDENTITY_TOKEN_FILE
    STS_ENDPOINT SERVER_SIDE_ENCRYPTION SSE_KMS_KEY_ID SSE_CUSTOMER_KEY_BASE64 SSE_BUCKET_KEY_ENABLED
    VIRTUAL_HOSTED_STYLE_REQUEST CONTAINER_CREDENTIALS_RELATIVE_URI CONTAINER_CREDENTIALS_FULL_URI
    CONTAINER_AUTHORIZATION_TOKEN CONTAINER_AUTHORIZATION_TOKEN_FILE EC2_METADATA_SERVICE_ENDPOINT
    EC2_METADATA_DISABLED CONNECT_TIMEOUT TIMEOUT READ_TIMEOUT DEFAULT_CONTENT_TYPE DEFAULT_HEADERS HTTP1_ONLY
    HTTP2_ONLY POOL_IDLE_TIMEOUT POOL_MAX_IDLE_PER_HOST PROXY_URL PROXY_CA_CERTIFICATE PROXY_EXCLUDES ROOT_CERTIFICATE
    RANDOMIZE_ADDRESSES USER_AGENT USE_FIPS_ENDPOINT USE_DUALSTACK_ENDPOINT IGNORE_CONFIGURED_ENDPOINT_URLS
    REQUEST_CHECKSUM_CALCULATION RESPONSE_CHECKSUM_VALIDATION MAX_ATTEMPTS RETRY_MODE STS_REGIONAL_ENDPOINTS
    SIGV4A_SIGNING_REGION_SET S3_DISABLE_EXPRESS_SESSION_AUTH S3_US_EAST_1_REGIONAL_ENDPOINT S3_USE_ARN_REGION
    S3_DISABLE_MULTIREGION_ACCESS_POINTS SDK_UA_APP_ID ACCOUNT_ID ACCOUNT_ID_ENDPOINT_MODE DEFAULTS_MODE
    AUTH_SCHEME_PREFERENCE DISABLE_REQUEST_COMPRESSION REQUEST_MIN_COMPRESSION_SIZE_BYTES DISABLE_HOST_PREFIX_INJECTION
    CSM_ENABLED CSM_HOST ENDPOINT_DISCOVERY_ENABLED EXECUTION_ENV LOGIN_CACHE_DIRECTORY
""".split()


def test_virtual_hosted_buckets(seaweed: servers.S3Server, bucket: str) -> None:
    # Both engines put the bucket into the host's name, and the server finds it there: it checks the signature of it.
    keys = AwsKeys(access_key=seaweed.admin.access_key, secret_key=seaweed.admin.secret_key)
    large = os.urandom(9 << 20)
    with ForwardProxy() as proxy:
        store = S3Store(
            bucket,
            endpoint_url=f"http://{servers.VIRTUAL_HOSTS}:{seaweed.address[1]}",
            region="us-east-1",
            provider=lambda: keys,
            options=StoreOptions(retries=QUICK, proxies={"http": proxy.url}),
            on_aws=False,
            addressing="virtual",
            checksums=False,
        )
        store.write("folder/small", [b"content"])
        store.write("large", [large])
        with store.open("large") as reading:
            assert b"".join(map(bytes, reading)) == large
        assert store.head("folder/small").size_bytes == 7
        assert [found.key for found in store.list()] == ["folder/small", "large"]
        store.delete("large")
        assert f"//{bucket}.{servers.VIRTUAL_HOSTS}:" in store.sign("folder/small")
        store.close()
        assert {line.split()[0] for line in proxy.lines} == {"PUT", "POST", "GET", "HEAD", "DELETE"}
        assert all(f"//{bucket}.{servers.VIRTUAL_HOSTS}:" in line for line in proxy.lines)
    path_style = s3_store(seaweed, bucket)
    assert [found.key for found in path_style.list()] == ["folder/small"]
    path_style.close()


HOSTILE_CONFIG = """
[default]
region = hostile-1
endpoint_url = {trap}
aws_access_key_id = AKHOSTILE
aws_secret_access_key = hostile
aws_session_token = hostile
ca_bundle = /hostile
request_checksum_calculation = when_supported
s3 =
    endpoint_url = {trap}
    addressing_style = virtual
    use_accelerate_endpoint = true
    payload_signing_enabled = false
services = evil
[services evil]
s3 =
    endpoint_url = {trap}
"""


@pytest.mark.parametrize("value", ["true", "hostile", "{trap}", "7s", "sse-c", "/hostile/file"])
@pytest.mark.parametrize("anonymous", [False, True])
def test_nothing_leaks_in(
    seaweed: servers.S3Server, bucket: str, home: Path, monkeypatch: pytest.MonkeyPatch, value: str, anonymous: bool
) -> None:
    # With every AWS_* variable and ~/.aws hostile, a store does what it was made for, as whom it was made for.
    with socket.create_server(("127.0.0.1", 0)) as trap, FaultProxy(seaweed.address) as proxy:
        trap.setblocking(False)
        trap_url = f"http://127.0.0.1:{trap.getsockname()[1]}"
        for name in AWS_NAMES:
            monkeypatch.setenv(f"AWS_{name}", value.format(trap=trap_url))
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/hostile")
        (home / ".aws").mkdir()
        for name in ("config", "credentials"):
            (home / ".aws" / name).write_text(HOSTILE_CONFIG.format(trap=trap_url))
        store = s3_store(seaweed, bucket, endpoint_url=proxy.url, anonymous=anonymous)
        try:
            if anonymous:
                for verb in (store.open, store.head, lambda key: store.write(key, [b"x"])):
                    with pytest.raises(AccessDenied):
                        verb("k")
                with pytest.raises(NotSupported, match="no keys to sign with"):
                    store.sign("k")
            else:
                big = bytes(9 << 20)
                for key in ("k", "odd//key"):
                    store.write(key, [b"content"])
                    with store.open(key) as reading:
                        assert b"".join(reading) == b"content"
                store.write("big", [big], if_none_match=True)
                assert store.head("big").size_bytes == len(big)
                assert [entry.key for entry in store.list("k")] == ["k"]
                url = store.sign("k")
                assert url.startswith(f"{proxy.url}/{bucket}/k?")
                assert seaweed.admin.access_key in url
                assert "Security-Token" not in url
                store.delete("k")
            assert {line.split("/")[1].split("?")[0] for line in proxy.requests} == {bucket}
        finally:
            store.close()
        with pytest.raises(BlockingIOError):
            trap.accept()


def test_making_one_does_nothing() -> None:
    # Making a store loads neither engine and asks no provider; reading does not load boto3.
    code = """
import sys
from creds.store import StoreOptions
from creds.stores.s3 import S3Store
def asked(): raise SystemExit("the provider was asked")
store = S3Store("b", endpoint_url="http://127.0.0.1:1", region="us-east-1", provider=asked, options=StoreOptions(),
                on_aws=False, addressing="path", checksums=False, guard=asked)
store.close()
loaded = {"boto3", "botocore", "urllib3"} & set(sys.modules)
assert not loaded, loaded
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_reading_needs_no_boto(seaweed: servers.S3Server) -> None:
    # A store that only reads never loads boto3, which takes longer than many a fetch.
    seaweed.client().put_object(Bucket="data", Key="light", Body=b"light")
    code = f"""
import sys
from creds.keys import AwsKeys
from creds.store import StoreOptions
from creds.stores.s3 import S3Store
keys = AwsKeys(access_key={servers.READER.access_key!r}, secret_key={servers.READER.secret_key!r})
store = S3Store("data", endpoint_url={seaweed.endpoint_url!r}, region="us-east-1", provider=lambda: keys,
                options=StoreOptions(), on_aws=False, addressing="path", checksums=False)
with store.open("light") as reading:
    assert b"".join(reading) == b"light"
store.close()
assert "botocore" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("ending", ["store.close()", "pass", "reading = store.open('light'); next(iter(reading))"])
def test_a_program_that_ends_at_once(seaweed: servers.S3Server, ending: str) -> None:
    # Threads that still read must not find the interpreter gone.
    seaweed.client().put_object(Bucket="data", Key="light", Body=bytes(3 << 20))
    code = f"""
from creds.keys import AwsKeys
from creds.store import StoreOptions
from creds.stores.s3 import S3Store
keys = AwsKeys(access_key={servers.READER.access_key!r}, secret_key={servers.READER.secret_key!r})
store = S3Store("data", endpoint_url={seaweed.endpoint_url!r}, region="us-east-1", provider=lambda: keys,
                options=StoreOptions(part_bytes=1 << 20), on_aws=False, addressing="path", checksums=False)
with store.open("light") as reading:
    next(iter(reading))
{ending}
"""
    ended = [subprocess.run([sys.executable, "-c", code], capture_output=True) for _ in range(6)]
    assert [(each.returncode, each.stderr) for each in ended] == [(0, b"")] * 6


def test_guard(seaweed: servers.S3Server, bucket: str) -> None:
    # The guard is called once, before the first connection; what it raises is raised, each time until it passes.
    calls = 0
    refuse = True

    def guard() -> None:
        nonlocal calls
        calls += 1
        if refuse:
            raise PolicyError("refused", rule="addresses")

    with FaultProxy(seaweed.address) as proxy:
        store = s3_store(seaweed, bucket, endpoint_url=proxy.url, guard=guard)
        for verb in (
            store.open,
            store.head,
            lambda key: store.open("odd//" + key),
            lambda key: store.write(key, [b"x"]),
        ):
            with pytest.raises(PolicyError, match="refused"):
                verb("k")
        with pytest.raises(PolicyError):
            _ = store.client
        assert proxy.requests == []
        refuse, before = False, calls
        store.write("k", [b"x"])
        with store.open("k") as reading:
            assert b"".join(reading) == b"x"
        assert calls == before + 1
        store.close()


def test_client_is_live(seaweed: servers.S3Server, bucket: str) -> None:
    # The boto3 client signs with the keys of the moment, not those of when it was made.
    good = AwsKeys(access_key=seaweed.admin.access_key, secret_key=seaweed.admin.secret_key)
    current = AwsKeys(access_key="AKNOBODY0000000000009", secret_key="wrong")
    store = s3_store(seaweed, bucket, provider=lambda: current)
    client = store.client
    with pytest.raises(client.exceptions.ClientError, match="InvalidAccessKeyId"):
        client.list_objects_v2(Bucket=bucket)
    current = good
    assert client.list_objects_v2(Bucket=bucket)["KeyCount"] == 0
    client.upload_fileobj(io.BytesIO(b"by boto3"), bucket, "k")
    assert store.client is client
    assert store.head("k").size_bytes == 8
    store.close()


def test_session_token_is_sent(seaweed: servers.S3Server, bucket: str) -> None:
    # Temporary keys sign with their token, by the store and its client; SeaweedFS knows no such token and says so.
    temporary = AwsKeys(access_key="AKTEMPORARY0000000001", secret_key="secret", token="a-session-token")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        heads: list[bytes] = []

        def serve() -> None:
            for _ in range(2):
                connection, _ = listener.accept()
                with connection:
                    heads.append(connection.recv(65536))
                    connection.sendall(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        store = s3_store(seaweed, bucket, endpoint_url=url, provider=lambda: temporary)
        for key in ("plain", "odd//key"):
            with pytest.raises(AccessDenied) as caught:
                store.open(key)
            assert "a-session-token" not in str(caught.value)
        thread.join()
        store.close()
    assert all(b"\r\nx-amz-security-token: a-session-token\r\n" in head.lower() for head in heads)
    assert len(heads) == 2


def test_secrets_do_not_print(seaweed: servers.S3Server, bucket: str) -> None:
    # Neither the store nor its parts show a key in repr, str or vars.
    store = s3_store(seaweed, bucket)
    store.write("k", [b"x"])
    with store.open("k") as reading:
        shown = f"{store!r} {store} {reading!r} {store.client!r} {store.client.meta.config!r}"
    assert seaweed.admin.secret_key not in shown
    assert repr(store) == f"<S3Store s3://127.0.0.1:{seaweed.address[1]}/{bucket}>"
    store.close()


@pytest.mark.parametrize("key", KEYS)
def test_keys_are_those_of_boto3(store: S3Store, seaweed: servers.S3Server, bucket: str, key: str) -> None:
    # A key names the same object as it does for boto3 alone, written and read either way.
    client = seaweed.client()
    client.put_object(Bucket=bucket, Key=key, Body=b"by boto3")
    with store.open(key) as reading:
        assert b"".join(reading) == b"by boto3"
    store.write(key, [b"by store"])
    assert client.get_object(Bucket=bucket, Key=key)["Body"].read() == b"by store"


ODD_KEYS = (
    "/lead",
    "//two",
    "a//b",
    "trail/",
    "a/../b",
    "./x",
    "a/./b",
    "..",
    "new\nline",
    "bell\x07",
    "del\x7f",
    "tab\t",
)


@pytest.mark.parametrize("key", ODD_KEYS)
def test_odd_keys_are_those_of_boto3(moto_server: servers.S3Server, key: str) -> None:
    # Keys that other clients refuse or rewrite are read and written byte for byte as they are.
    if "\n" in key:
        pytest.skip("moto's web framework finds no route for a line break; SeaweedFS's conformance run has one")
    bucket = moto_server.make_bucket(f"b-{uuid.uuid4().hex[:12]}")
    store = s3_store(moto_server, bucket)
    client = moto_server.client()
    try:
        client.put_object(Bucket=bucket, Key=key, Body=b"by boto3")
    except client.exceptions.ClientError:
        with pytest.raises(StoreError):
            store.write(key, [b"x"])
        return
    with store.open(key) as reading:
        assert b"".join(reading) == b"by boto3"
    assert [entry.key for entry in store.list()] == [key]
    store.write(key, [b"by store"])
    assert client.get_object(Bucket=bucket, Key=key)["Body"].read() == b"by store"
    store.delete(key)
    assert list(store.list()) == []
    store.close()


def test_missing_bucket(moto_server: servers.S3Server) -> None:
    # Writing to, or deleting from, a bucket that does not exist is BucketNotFound.
    store = s3_store(moto_server, "no-such-bucket")
    big = bytes(9 << 20)
    for verb in (
        lambda: store.write("k", [b"x"]),
        lambda: store.write("k", [big]),
        lambda: store.write("k", [b"x"], if_none_match=True),
        lambda: store.delete("k"),
        lambda: store.enforces_conditions,
    ):
        with pytest.raises(BucketNotFound, match="404 NoSuchBucket"):
            verb()
    store.close()


def test_versions(moto_server: servers.S3Server) -> None:
    # Where the bucket keeps versions, write, head and open tell which one it is.
    bucket = moto_server.make_bucket(f"b-{uuid.uuid4().hex[:12]}")
    moto_server.client().put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    store = s3_store(moto_server, bucket)
    first, second = store.write("k", [b"1"]), store.write("k", [bytes(9 << 20)])
    assert first.version
    assert second.version
    assert first.version != second.version
    assert store.head("k").version == second.version
    with store.open("k") as reading:
        assert reading.meta.version == second.version
    store.close()


def test_described(store: S3Store, seaweed: servers.S3Server, bucket: str) -> None:
    # Content type and metadata reach the object, small or in parts.
    for key, content in (("small", b"x"), ("large", bytes(9 << 20))):
        store.write(key, [content], content_type="application/x-tar", metadata={"digest": "abc"})
        head = seaweed.client().head_object(Bucket=bucket, Key=key)
        metadata = head["Metadata"]
        metadata.pop("artifact-write", None)  # ours, where a lost answer would leave open who wrote it
        assert (head["ContentType"], metadata) == ("application/x-tar", {"digest": "abc"})


@pytest.mark.parametrize("size", [100, 20 << 20])
def test_checksums_when_asked(seaweed: servers.S3Server, bucket: str, size: int) -> None:
    # A CRC32 is sent where they are wanted, and only there.
    content = os.urandom(size)
    client = seaweed.client()
    for wanted in (False, True):
        store = s3_store(seaweed, bucket, checksums=wanted)
        meta = store.write("k", [content])
        told = client.head_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")
        assert ("ChecksumCRC32" in told) is wanted
        with store.open("k") as reading:
            assert b"".join(reading) == content
        if wanted and size == 100:
            assert meta.checksums == {"crc32": told["ChecksumCRC32"]}
        store.close()


def test_buffers_of_every_kind(store: S3Store) -> None:
    # Buffers of any size, type and shape are gathered into parts in order.
    content = os.urandom(21 << 20)
    edges = sorted({0, 1, 2, 8 << 20, (8 << 20) + 1, 16 << 20, *(n * 1_000_003 for n in range(21)), len(content)})
    pieces: list[Any] = [content[a:b] for a, b in itertools.pairwise(edges)]
    pieces[3] = memoryview(pieces[3])
    pieces[4] = memoryview(pieces[4]).cast("B")
    meta = store.write("k", iter(pieces))
    assert meta.size_bytes == len(content)
    assert str(meta.etag).endswith('-3"')
    with store.open("k") as reading:
        assert b"".join(reading) == content
    exact = store.write("exact", [content[: 8 << 20]])
    assert str(exact.etag).endswith('-1"')


def test_many_objects_are_listed_by_pages(store: S3Store, seaweed: servers.S3Server, bucket: str) -> None:
    # More than one page of a listing comes back whole.
    client = seaweed.client()
    keys = [f"p/{number:04d} +%" for number in range(1005)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: client.put_object(Bucket=bucket, Key=key, Body=b""), keys))
    assert [entry.key for entry in store.list("p/")] == keys


def test_conditional_complete_refused(rclone_s3: servers.S3Server) -> None:
    # A server that answers 404 to any condition on CompleteMultipartUpload: the condition is held by looking, instead.
    bucket = rclone_s3.make_bucket(f"b-{uuid.uuid4().hex[:12]}")
    body = b"<Error><Code>NoSuchUpload</Code><Message>no</Message></Error>"
    with FaultProxy(rclone_s3.address) as proxy:
        store = s3_store(rclone_s3, bucket, endpoint_url=proxy.url, on_aws=True)
        proxy.add(Fault(match="^POST .*uploadId=", status=404, body=body))
        store.write("k", [bytes(9 << 20)], if_none_match=True)
        assert store.enforces_conditions is False
        assert store.head("k").size_bytes == 9 << 20
        store.close()
        store = s3_store(rclone_s3, bucket, endpoint_url=proxy.url, on_aws=True)
        proxy.add(Fault(match="^POST .*uploadId=", status=404, body=body))
        with pytest.raises(ObjectChanged, match="exists already"):
            store.write("k", [bytes(10 << 20)], if_none_match=True)
        assert store.head("k").size_bytes == 9 << 20
        store.close()


def test_server_that_refuses_the_right_etag(seaweed: servers.S3Server, bucket: str) -> None:
    # A 412 although the ETag matches is the server's inability, not a change.
    body = b"<Error><Code>PreconditionFailed</Code><Message>no</Message></Error>"
    with FaultProxy(seaweed.address) as proxy:
        store = s3_store(seaweed, bucket, endpoint_url=proxy.url, on_aws=True)
        meta = store.write("k", [b"x"])
        proxy.add(Fault(match="^PUT", status=412, body=body))
        with pytest.raises(NotSupported, match="refuses If-Match although"):
            store.write("k", [b"y"], if_match=meta.etag)
        store.close()


def test_unproven_conditions_are_looked_at_again(rclone_s3: servers.S3Server) -> None:
    # On a weak server an object that appears while the write is gathered is still noticed before publishing.
    bucket = rclone_s3.make_bucket(f"b-{uuid.uuid4().hex[:12]}")
    store = s3_store(rclone_s3, bucket)

    def buffers() -> Iterator[bytes]:
        yield b"mine"
        rclone_s3.client().put_object(Bucket=bucket, Key="k", Body=b"theirs")

    with pytest.raises(ObjectChanged, match="exists already"):
        store.write("k", buffers(), if_none_match=True)
    with store.open("k") as reading:
        assert b"".join(reading) == b"theirs"
    store.close()


def test_parts_of_any_size() -> None:
    # Ten thousand parts hold 5 TiB, known or not, in parts S3 takes; small uploads use little memory.
    tib, mib = 1 << 40, 1 << 20
    for hint in (0, 1, 8 * mib, 72_000 * mib, 100 << 30, tib, 5 * tib):
        first = first_part_bytes(hint, 8 * mib)
        assert first % mib == 0
        assert first >= 8 * mib
        assert -(-hint // first) <= 9000
    assert first_part_bytes(72_000 * mib, 8 * mib) == 8 * mib
    assert first_part_bytes(72_000 * mib + 1, 8 * mib) == 9 * mib
    assert first_part_bytes(None, 1 * mib) == 8 * mib
    assert first_part_bytes(None, 32 * mib) == 32 * mib
    unknown = [part_bytes_at(number, 8 * mib, hinted=False) for number in range(1, 10_001)]
    assert unknown[:800] == [8 * mib] * 800
    assert unknown[800] == 16 * mib
    assert max(unknown) == 1 << 30
    assert sum(unknown) >= 5 * tib
    assert unknown == sorted(unknown)
    hinted = [part_bytes_at(number, 8 * mib, hinted=True) for number in range(1, 10_001)]
    assert hinted[:9100] == [8 * mib] * 9100
    assert hinted[-1] == 1 << 30


def test_sign_limits(store: S3Store) -> None:
    # S3 signs for one second to seven days.
    for seconds in (0, -1, 7 * 24 * 3600 + 1):
        with pytest.raises(ValueError, match="7 days"):
            store.sign("k", expires_seconds=seconds)
    assert "X-Amz-Expires=604800" in store.sign("k", expires_seconds=7 * 24 * 3600)


def test_bad_names(seaweed: servers.S3Server, store: S3Store) -> None:
    # What S3 cannot take at all is an error of the store, not of the SDK.
    with pytest.raises(StoreError, match="not a request that S3 allows"):
        store.write("", [b"x"])
    with pytest.raises(StoreError, match="not a request that S3 allows"):
        store.write("k", [b"x"], metadata={"name": "ünï"})
    broken = s3_store(seaweed, "Not A Bucket!")
    with pytest.raises(StoreError):
        broken.head("k")
    broken.close()


def test_closed(store: S3Store) -> None:
    # A closed store says so, and its thread is gone; a reading under way ends as closed.
    store.write("k", [b"x"])
    with store.open("k") as reading:
        assert b"".join(reading) == b"x"
        reading.close()
        with pytest.raises(Cancelled, match="closed while it was read"):
            next(iter(reading))
    store.close()
    for verb in (store.open, store.head, lambda key: store.write(key, [b"x"])):
        with pytest.raises(StoreError, match="the store was closed"):
            verb("k")
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("creds-store")]


def test_dropped_without_close(seaweed: servers.S3Server, bucket: str) -> None:
    # A store that nobody closed takes its thread with it.
    store = s3_store(seaweed, bucket)
    store.write("k", [b"x"])
    with store.open("k") as reading:
        assert b"".join(reading) == b"x"
    del reading
    store.client.close()
    del store
    gc.collect()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("creds-store")]


def test_after_a_fork(seaweed: servers.S3Server) -> None:
    # A child process goes on with engines of its own; so does the parent.
    code = f"""
import os, sys
from creds.keys import AwsKeys
from creds.store import StoreOptions
from creds.stores.s3 import S3Store
keys = AwsKeys(access_key={servers.ADMIN.access_key!r}, secret_key={servers.ADMIN.secret_key!r})
store = S3Store("data", endpoint_url={seaweed.endpoint_url!r}, region="us-east-1", provider=lambda: keys,
                options=StoreOptions(), on_aws=False, addressing="path", checksums=False)
def use(name):
    store.write("odd//" + name, [b"x"])
    with store.open("odd//" + name) as reading:
        assert b"".join(reading) == b"x"
use("before")
if (child := os.fork()) == 0:
    try:
        use("child")
    except BaseException:
        import traceback
        traceback.print_exc()
        os._exit(1)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
use("parent")
store.close()
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_reading_on_after_close_is_cancelled(seaweed, bucket):
    """A reading whose store was closed ends with Cancelled, not with an error of the event loop."""
    store = s3_store(seaweed, bucket, window=Window(1 << 20), part_bytes=1 << 20)
    store.write("k", [bytes(3 << 20)])
    with store.open("k") as reading:
        next(iter(reading))
        store.close()
        with pytest.raises(Cancelled):
            list(reading)


def test_an_answer_that_is_not_s3s(seaweed, bucket):
    """A server that answers 200 with something else is a StoreError, whatever it leaves out."""
    with FaultProxy(seaweed.address) as proxy:
        proxy.add(Fault(match="^(POST|GET)", status=200, body=b"<Answer><Contents/></Answer>", times=9))
        store = s3_store(seaweed, bucket, endpoint_url=proxy.url, part_bytes=8 << 20)
        with pytest.raises(StoreError, match="an answer that is not S3's"):
            store.write("k", [bytes(8 << 20), b"x"])
        with pytest.raises(StoreError, match="an answer that is not S3's"):
            list(store.list())
        store.close()
