"""What the doctor says of real servers that are well, and of each thing that can be wrong; and what it leaves behind."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import ftpservers
import pytest
import servers
from commands import WRONG_SECRET, Bench, credentials, inside, run
from tlsfront import Authority, forward_proxy, tls_front
from webservers import ForwardProxy, ScriptedServer

from artifacts import loads
from artifacts.cli.checking import check_request
from artifacts.cli.exits import exit_code, worst
from artifacts.cli.session import Session
from creds import (
    AWSCredential,
    Cancel,
    Cancelled,
    Credentials,
    JWTCredential,
    Location,
    PlainCredential,
    Policy,
    Retries,
    Ssh,
    Step,
    StoreOptions,
    Sts,
    Tls,
    diagnose,
)
from creds.testing import Fault, FaultProxy

DOCS = Path(__file__).parent.parent / "docs" / "doctor.md"


def seen(
    url: str, credential: Credentials | None = None, policy: Policy | None = None, **more: object
) -> dict[str, Step]:
    """The steps by name."""
    options = more.pop("options", None)
    steps = list(diagnose(Location.parse(url), credential, options, policy or Policy.for_caller(), **more))
    assert [step for step in steps if step.status == "fail" and step.error is None] == []
    return {step.name: step for step in steps}


def statuses(steps: Mapping[str, Step]) -> str:
    return " ".join(f"{name}:{step.status}" for name, step in steps.items())


def keys(of: servers.Keys, **more: str) -> Credentials:
    return Credentials(aws=AWSCredential(access_key=of.access_key, secret_access_key=of.secret_key, **more))


def login(user: str, password: str) -> Credentials:
    return Credentials(plain=PlainCredential(user=user, password=password))


@pytest.fixture
def bench(seaweed, bucket, tmp_path) -> Bench:
    bench = Bench(seaweed, bucket, tmp_path)
    bench.put("pre/k.tar", b"content")
    return bench


WELL = (
    "credential:ok who:ok expires:ok policy:ok dns:ok tcp:ok tls:skip clock:ok region:ok sts:skip "
    "list:ok head:ok get:ok put:ok"
)


# S3.


def test_all_is_well(bench):
    """Every step is ok, or need not be; what was written is gone; no secret is in any text."""
    steps = seen(bench.place("pre/k.tar"), keys(servers.ADMIN), write=True)
    assert statuses(steps) == WELL
    assert steps["who"].detail == "AKAD…0001"
    assert steps["region"].detail == f"us-east-1 (default), path-style, {bench.url}"
    assert steps["head"].detail.startswith("7 bytes, etag")
    assert bench.keys() == ["pre/k.tar"]
    assert servers.ADMIN.secret_key not in repr(steps)


@pytest.mark.parametrize(
    ("wrong", "code", "hint"),
    [
        (replace(servers.ADMIN, secret_key=WRONG_SECRET), "SignatureDoesNotMatch", "correct secret_access_key"),
        (replace(servers.ADMIN, access_key="AKNOBODY000000000000"), "InvalidAccessKeyId", "correct access_key"),
    ],
)
def test_wrong_keys(bench, wrong, code, hint):
    """Each verb fails with the server's own word, and with the half of the pair that must change."""
    steps = seen(bench.place("pre/k.tar"), keys(wrong), write=True)
    for name in ("list", "head", "get", "put"):
        assert (steps[name].status, steps[name].detail) == ("fail", f"403 {code}")
        assert hint in steps[name].hint


def test_a_missing_bucket_and_a_missing_object(bench):
    """Both are named; a mutable artifact may be missing; after it nothing is read."""
    steps = seen(f"s3://{bench.host}/no-such-bucket/k", keys(servers.ADMIN))
    assert steps["head"].detail == "404 NoSuchBucket"
    assert "bucket's name" in steps["head"].hint
    steps = seen(bench.place("pre/none"), keys(servers.ADMIN))
    assert (steps["list"].status, steps["head"].detail, steps["get"].status) == ("ok", "404 NoSuchKey", "skip")
    steps = seen(bench.place("pre/none"), keys(servers.ADMIN), may_be_missing=True)
    assert (steps["head"].status, steps["get"].detail) == ("ok", "there is no object")


def test_what_is_forbidden(seaweed, bench):
    """A reader may not write; nobody in particular may do nothing, and is told to bring a credential."""
    client = seaweed.client()
    client.put_object(Bucket=servers.SHARED_BUCKET, Key="doctor/k", Body=b"1")
    url = f"s3://{bench.host}/{servers.SHARED_BUCKET}/doctor/k"
    steps = seen(url, keys(servers.READER), write=True)
    assert statuses(steps) == WELL.replace("put:ok", "put:fail")
    assert steps["put"].hint == "allow writing here (on S3: s3:PutObject)"
    steps = seen(url, Credentials(aws=AWSCredential()))
    assert (steps["who"].detail, steps["list"].status, steps["head"].status) == ("nobody", "warn", "fail")
    assert "give a credential" in steps["head"].hint


def test_nothing_listens():
    """Connection refused: the store is not asked; what needs no connection is told all the same."""
    port = servers.free_port()
    steps = seen(f"s3://127.0.0.1:{port}/b/k", keys(servers.ADMIN), write=True)
    assert statuses(steps) == (
        "credential:ok who:ok expires:ok policy:ok dns:ok tcp:fail tls:skip clock:skip region:ok sts:skip "
        "list:skip head:skip get:skip put:skip"
    )
    assert steps["tcp"].detail == f"127.0.0.1:{port} refuses the connection: nothing listens there"
    assert steps["get"].detail == "not asked: tcp failed"


def test_the_policy_refuses(bench):
    """A request may reach nothing that is not named: nothing is connected to, and the flag is named."""
    steps = seen(bench.place("pre/k.tar"), keys(servers.ADMIN), Policy.for_requests())
    assert steps["policy"].detail == f"not-named: the endpoint {bench.host} is not named"
    assert steps["policy"].hint.startswith(f"add --endpoint http://{bench.host}")
    assert (steps["who"].detail, steps["dns"].status, steps["tcp"].status) == ("AKAD…0001", "skip", "skip")
    named = Policy.for_requests([bench.url])
    assert statuses(seen(bench.place("pre/k.tar"), keys(servers.ADMIN), named)) == WELL.removesuffix(" put:ok")


def test_a_name_that_leads_to_a_metadata_address():
    """The addresses of a name are shown to the policy before anything is connected to."""

    def resolver(*_: object, **__: object) -> list[tuple[object, ...]]:
        return [(2, 1, 6, "", ("169.254.169.254", 443))]

    policy = Policy.for_requests(["https://minio.example"], resolver=resolver)
    steps = seen("s3://minio.example/b/k", keys(servers.ADMIN), policy)
    assert (steps["dns"].status, steps["dns"].error.rule) == ("fail", "metadata-address")
    assert steps["tcp"].detail == "there is no address to connect to"


def test_a_name_that_does_not_resolve():
    """The name is at fault, not the connection."""
    steps = seen("s3+https://nowhere.invalid/b/k", keys(servers.ADMIN))
    assert "nowhere.invalid does not resolve" in steps["dns"].detail
    assert steps["dns"].error.retryable


def test_keys_that_are_not_there(bench):
    """An empty AWS setup; half a pair."""
    steps = seen(bench.place("pre/k.tar"), options=StoreOptions(ambient=True))
    assert (steps["who"].status, steps["tcp"].status, steps["get"].detail) == ("fail", "ok", "not asked: who failed")
    steps = seen(bench.place("pre/k.tar"), Credentials(aws=AWSCredential(access_key="AKHALF")))
    assert "secret_access_key is missing" in steps["credential"].detail
    assert (steps["who"].status, steps["tcp"].status, steps["get"].status) == ("skip", "ok", "skip")
    both = Credentials(aws=AWSCredential(access_key="a"), plain=PlainCredential(user="u"))
    steps = seen(bench.place("pre/k.tar"), both, Policy.for_requests())
    assert "several kinds" in steps["credential"].detail


@pytest.mark.parametrize(("status", "code"), [(301, "PermanentRedirect"), (400, "AuthorizationHeaderMalformed")])
def test_another_region(status, code):
    """The server says where the bucket is, as AWS does: shown beside what is used, with the setting to change."""

    def answer(_: object) -> tuple[int, dict[str, str], bytes]:
        return status, {"x-amz-bucket-region": "eu-west-\x9b1"}, f"<Error><Code>{code}</Code></Error>".encode()

    with ScriptedServer(answer) as server:
        steps = seen(f"s3://127.0.0.1:{server.port}/b/k", keys(servers.ADMIN))
    assert (steps["region"].status, steps["head"].status) == ("warn", "fail")
    assert steps["region"].detail.endswith("the server says eu-west-?1")
    assert steps["region"].hint.startswith("set the region eu-west-?1")
    assert (steps["get"].status, steps["get"].hint) == ("fail", steps["region"].hint)


def test_the_region_of_a_request_signs(bench):
    """What the credential names is used, and named."""
    steps = seen(bench.place("pre/k.tar"), keys(servers.ADMIN, region="eu-west-1"))
    assert steps["region"].detail == f"eu-west-1 (credential), path-style, {bench.url}"
    steps = seen(bench.place("pre/k.tar"), keys(servers.ADMIN, region="no region!"))
    assert (steps["region"].status, steps["tcp"].status, steps["get"].status) == ("fail", "ok", "skip")


@pytest.mark.parametrize(("off", "told"), [(2, "behind"), (-3, "ahead of")])
def test_a_clock_that_is_wrong(off, told):
    """The server's Date against this machine's clock."""

    def answer(_: object) -> tuple[int, dict[str, str], bytes]:
        return 403, {"Date": format_datetime(datetime.now(UTC) + timedelta(hours=off))}, b""

    with ScriptedServer(answer) as server:
        steps = seen(f"s3://127.0.0.1:{server.port}/b/k", keys(servers.ADMIN))
    assert steps["clock"].status == "warn"
    assert re.fullmatch(
        rf"this machine is ({abs(off)} h( \d+ s)?|{abs(off) - 1} h 59 min) {told} the server", steps["clock"].detail
    )
    assert "NTP" in steps["clock"].hint


@pytest.mark.parametrize("date", [None, "yesterday", "Tue, 99 Foo 99999 99:99:99 GMT", "\x1b[2J"])
def test_a_clock_that_is_not_told(date):
    """No time, or none that can be read, is no failure."""
    with ScriptedServer(lambda _: (403, {} if date is None else {"Date": date}, b"")) as server:
        steps = seen(f"s3://127.0.0.1:{server.port}/b/k", keys(servers.ADMIN))
    assert (steps["clock"].status, steps["clock"].detail) == ("skip", "the server does not tell its time")


# Tokens and STS.


@pytest.fixture(scope="module")
def federated(federated):
    """The one that all tests share, with an object to look at."""
    federated.client().put_object(Bucket=servers.SHARED_BUCKET, Key="k", Body=b"1")
    return federated


def token(value: str) -> Credentials:
    return Credentials(jwt=JWTCredential(token=value))


def test_tokens_at_an_sts(issuer, federated):
    """A good one becomes keys; an ended one stops before the STS; a wrong audience, and a wrong role, at it."""
    url = f"s3://{federated.endpoint_url.removeprefix('http://')}/{servers.SHARED_BUCKET}/k"
    options = StoreOptions(sts=Sts(role_arn=servers.ROLE_RW))
    steps = seen(url, token(issuer.mint()), options=options)
    assert statuses(steps) == WELL.removesuffix(" put:ok").replace("sts:skip", "sts:ok")
    assert steps["who"].detail == f"iss {issuer.url}, aud {servers.AUDIENCE}, sub {servers.SUBJECT}"
    assert re.fullmatch(r"keys .{4}….{4}, until 20\S+Z", steps["sts"].detail)

    ended = issuer.mint(ttl_seconds=-600)
    steps = seen(url, token(ended), options=options)
    assert (steps["who"].status, steps["expires"].status, steps["sts"].status) == ("ok", "fail", "skip")
    assert "ended at" in steps["expires"].detail
    assert (steps["tcp"].status, steps["clock"].status) == ("ok", "ok")
    assert ended not in repr(steps)

    steps = seen(url, token(issuer.mint(aud="somebody-else")), options=options)
    assert (steps["sts"].status, steps["get"].detail) == ("fail", "not asked: sts failed")
    assert "aud somebody-else" in steps["sts"].hint
    steps = seen(url, token(issuer.mint()), options=StoreOptions(sts=Sts(role_arn="arn:aws:iam::role/None")))
    assert steps["sts"].status == "fail"


def test_a_token_of_the_operators_that_may_not_go_there(issuer, federated):
    """Lending is a rule of the policy; the connection is looked at, the token is not sent."""
    url = f"s3://{federated.endpoint_url.removeprefix('http://')}/{servers.SHARED_BUCKET}/k"
    before = len(issuer.requests)
    options = StoreOptions(sts=Sts(role_arn=servers.ROLE_RW, token=issuer.mint))
    steps = seen(url, policy=Policy.for_requests([federated.endpoint_url]), options=options)
    assert steps["policy"].detail.startswith("lending: a token of the operator's may not be used")
    assert (steps["tcp"].status, steps["sts"].status) == ("ok", "skip")
    assert len(issuer.requests) == before


def test_what_is_no_token(bench):
    """It is not repeated."""
    steps = seen(bench.place("pre/k.tar"), token("Bearer abc"))
    assert "is no JWT" in steps["credential"].detail
    assert "abc" not in repr(steps)


# TLS.


@pytest.fixture(scope="module")
def authority(tmp_path_factory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def context(authority: Authority, *names: str, ends: datetime | None = None) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.authority.issue_cert(*names, not_after=ends).configure_cert(made)
    return made


def test_a_private_authority(bench, authority):
    """Unknown: fail, with who signed it and --ca; known: all is well."""
    with tls_front(bench.server.address, authority) as front:
        url = f"s3+https://127.0.0.1:{front.port}/{bench.bucket}/pre/k.tar"
        steps = seen(url, keys(servers.ADMIN))
        assert (steps["tls"].status, steps["clock"].status, steps["get"].status) == ("fail", "skip", "skip")
        assert "its authority is unknown; it is for localhost, 127.0.0.1, by 'Testing CA" in steps["tls"].detail
        assert steps["tls"].hint.startswith("--ca FILE with the certificate of 'Testing CA")
        steps = seen(url, keys(servers.ADMIN), options=StoreOptions(tls=Tls(ca_pem=authority.pem)))
        assert statuses(steps) == WELL.replace("tls:skip", "tls:ok").removesuffix(" put:ok")
        assert steps["tls"].detail.startswith("TLSv1.3, for localhost, 127.0.0.1, by 'Testing CA")


def test_certificates_that_are_refused(authority):
    """For another name; expired; about to expire is a warning."""
    options = StoreOptions(tls=Tls(ca_pem=authority.pem))
    served = lambda _: (200, {"Content-Length": "0"}, b"")
    now = datetime.now(UTC)
    with ScriptedServer(served, context(authority, "other.example")) as server:
        step = seen(f"https://127.0.0.1:{server.port}/k", options=options)["tls"]
        assert "it is for another name; it is for other.example" in step.detail
        assert "write the location with a name" in step.hint
    with ScriptedServer(served, context(authority, "127.0.0.1", ends=now - timedelta(hours=1))) as server:
        step = seen(f"https://127.0.0.1:{server.port}/k", options=options)["tls"]
        assert "it has expired" in step.detail
        assert "operator must renew it" in step.hint
    with ScriptedServer(served, context(authority, "127.0.0.1", ends=now + timedelta(days=2))) as server:
        step = seen(f"https://127.0.0.1:{server.port}/k", options=options)["tls"]
        assert (step.status, step.hint) == ("warn", "the server's certificate must be renewed")


def test_a_server_that_wants_a_certificate(bench, authority):
    """Without one it fails and --client-cert is named; with it all is well."""
    with tls_front(bench.server.address, authority, client_cert=True) as front:
        url = f"s3+https://127.0.0.1:{front.port}/{bench.bucket}/pre/k.tar"
        step = seen(url, keys(servers.ADMIN), options=StoreOptions(tls=Tls(ca_pem=authority.pem)))["tls"]
        assert (step.status, "--client-cert" in step.hint) == ("fail", True)
        tls = Tls(ca_pem=authority.pem, client_cert=authority.client_cert, client_key=authority.client_key)
        assert seen(url, keys(servers.ADMIN), options=StoreOptions(tls=tls))["get"].status == "ok"


def test_a_server_without_tls(bench):
    """The handshake meets plaintext."""
    step = seen(f"s3+https://{bench.host}/{bench.bucket}/k", keys(servers.ADMIN))["tls"]
    assert step.detail == "the server speaks no TLS here"
    assert "--endpoint http://" in step.hint


def test_through_a_proxy(bench, authority):
    """By CONNECT and in plaintext; one that wants a password is told of, without ours."""
    tls = Tls(ca_pem=authority.pem)
    with tls_front(bench.server.address, authority) as front, forward_proxy() as proxy:
        proxies = {"https": f"http://127.0.0.1:{proxy.port}", "http": f"http://127.0.0.1:{proxy.port}"}
        options = StoreOptions(tls=tls, proxies=proxies)
        place = f"{bench.bucket}/pre/k.tar"
        steps = seen(f"s3+https://127.0.0.1:{front.port}/{place}", keys(servers.ADMIN), options=options)
        assert statuses(steps) == WELL.replace("tls:skip", "tls:ok").removesuffix(" put:ok")
        assert f"the proxy 127.0.0.1:{proxy.port}" in steps["tcp"].detail
        steps = seen(f"s3://{bench.host}/{place}", keys(servers.ADMIN), options=options)
        assert (steps["clock"].status, steps["get"].status) == ("ok", "ok")
    with ForwardProxy(user="me:right-one") as proxy:
        proxies = {"https": proxy.url.replace("//", "//me:planted-proxy-pw@")}
        steps = seen("s3+https://127.0.0.1:1/b/k", keys(servers.ADMIN), options=StoreOptions(proxies=proxies))
    assert "the proxy answers 407" in steps["tcp"].detail
    assert "planted-proxy-pw" not in repr(steps)


# Other servers.


def test_presigned(bench):
    """Who signed, until when; an ended one is told, and the server is asked all the same."""
    sign = lambda seconds: bench.client.generate_presigned_url(
        "get_object", Params={"Bucket": bench.bucket, "Key": "pre/k.tar"}, ExpiresIn=seconds
    )
    steps = seen(sign(3600))
    assert (steps["credential"].detail, steps["who"].detail) == ("the URL is presigned", "signed by AKAD…0001")
    assert (steps["expires"].status, steps["list"].status, steps["get"].status) == ("ok", "skip", "ok")
    query = (
        "X-Amz-Credential=AKPRESIGNED00001/2020&X-Amz-Date=20200101T000000Z&X-Amz-Expires=60&X-Amz-Signature=planted"
    )
    with ScriptedServer(lambda _: (403, {}, b"")) as server:
        steps = seen(f"http://127.0.0.1:{server.port}/k?{query}")
    assert steps["expires"].detail.startswith("the URL's signature ended at 2020-01-01T00:01:00Z, ")
    assert (steps["expires"].status, steps["get"].status) == ("fail", "fail")
    assert "planted" not in repr(steps)


def test_webdav(wsgidav):
    """Basic: right, wrong, and nothing left in folders that are not there."""
    import webservers

    (wsgidav.folder / "here").mkdir(exist_ok=True)
    (wsgidav.folder / "here" / "x").write_bytes(b"1")
    right = login(webservers.USER, webservers.PASSWORD)
    steps = seen(f"{wsgidav.url}/here/x", right, write=True)
    assert [steps[name].status for name in ("list", "head", "get", "put")] == ["ok"] * 4
    before = sorted(wsgidav.folder.rglob("*"))
    steps = seen(f"{wsgidav.url}/no/such/x", right, write=True, may_be_missing=True)
    assert [steps[name].status for name in ("head", "put")] == ["ok", "ok"]
    assert sorted(wsgidav.folder.rglob("*")) == before
    steps = seen(f"{wsgidav.url}/here/x", login(webservers.USER, "planted-wrong"))
    assert "Basic" in steps["get"].hint
    assert "planted-wrong" not in repr(steps)


def test_ftp(tmp_path):
    """Over TLS with a private authority; a wrong password; a folder that is not there is not made."""
    right = login(ftpservers.USER, ftpservers.PASSWORD)
    with ftpservers.certificates() as made, ftpservers.pyftpd("explicit", made) as server:
        (server.root / "sub").mkdir()
        (server.root / "sub" / "x").write_bytes(b"123")
        url = f"ftps://{server.host}:{server.port}/sub/x"
        steps = seen(url, right, options=StoreOptions(tls=Tls(ca_pem=made.ca_pem)), write=True)
        assert statuses(steps) == (
            "credential:ok who:ok expires:ok policy:ok dns:ok tcp:ok tls:ok list:ok head:ok get:ok put:ok"
        )
        steps = seen(url, right)
        assert "its authority is unknown" in steps["tls"].detail
        wrong = login(ftpservers.USER, "planted-wrong")
        steps = seen(url, wrong, options=StoreOptions(tls=Tls(ca_pem=made.ca_pem)))
        assert (steps["tls"].status, steps["get"].detail) == ("ok", "the login was refused (530)")
        assert "planted-wrong" not in repr(steps)
        url = f"ftps://{server.host}:{server.port}/not/there/x"
        steps = seen(url, right, options=StoreOptions(tls=Tls(ca_pem=made.ca_pem)), write=True)
        assert (steps["head"].status, steps["put"].status) == ("fail", "ok")
        assert sorted(path.name for path in server.root.rglob("*")) == ["sub", "x"]
        with ftpservers.pyftpd("implicit", made) as implicit:
            (implicit.root / "x").write_bytes(b"1")
            url = f"ftps+implicit://{implicit.host}:{implicit.port}/x"
            steps = seen(url, right, options=StoreOptions(tls=Tls(ca_pem=made.ca_pem)))
            assert (steps["tls"].status, steps["get"].status) == ("ok", "ok")
    with ftpservers.pyftpd() as plain:
        step = seen(f"ftps://{plain.host}:{plain.port}/x", right)["tls"]
        assert step.detail == "no TLS: the server does not offer TLS (AUTH TLS)"
        assert "ftps+implicit://" in step.hint


def test_sftp():
    """The host key that the server shows, with the flag to add; then the login."""
    with ftpservers.asyncssh_sftp() as server:
        (server.root / "x").write_bytes(b"1")
        url = f"sftp://{server.host}:{server.port}/x"
        steps = seen(url, login(ftpservers.USER, ftpservers.PASSWORD), write=True)
        assert (steps["host-key"].status, steps["get"].detail) == ("fail", "not asked: host-key failed")
        assert server.fingerprint in steps["host-key"].detail
        assert steps["host-key"].hint == (
            f"if the server's operator confirms this key by another way: --host-key {server.fingerprint}"
        )
        options = StoreOptions(ssh=Ssh(fingerprints=(server.fingerprint,)))
        steps = seen(url, login(ftpservers.USER, ftpservers.PASSWORD), options=options, write=True)
        assert [steps[name].status for name in ("host-key", "list", "head", "get", "put")] == ["ok"] * 5
        assert [path.name for path in server.root.iterdir()] == ["x"]
        steps = seen(url, login(ftpservers.USER, "planted-wrong"), options=options)
        assert steps["get"].hint == "check the user and the password or key"
    with ScriptedServer(lambda _: (200, {}, b"")) as web:
        steps = seen(f"sftp://127.0.0.1:{web.port}/x", login("u", "p"), options=StoreOptions(connect_timeout_seconds=1))
    assert (steps["host-key"].status, steps["host-key"].hint) == (
        "fail",
        "is it an SSH server that listens on this port?",
    )


def test_files(tmp_path):
    """A file needs no connection; nothing is left beside it."""
    (tmp_path / "x").write_bytes(b"1")
    steps = seen(f"file://{tmp_path}/x", write=True)
    assert statuses(steps) == "credential:ok who:ok expires:ok policy:ok list:ok head:ok get:ok put:ok"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert seen(f"file://{tmp_path}/x", policy=Policy.for_requests())["policy"].hint == f"add --file-root {tmp_path}"


# Stopping, and what is left.


def until_get(steps: Iterator[Step]) -> None:
    """Take the steps as far as the one before the write."""
    for step in steps:
        if step.name == "get":
            return


def test_an_answer_that_is_lost_leaves_nothing(bench):
    """The server has the object and its answer is lost: the object is deleted all the same."""
    with FaultProxy(bench.server.address) as proxy:
        place = Location.parse(f"s3://127.0.0.1:{proxy.port}/{bench.bucket}/pre/k.tar")
        steps = diagnose(place, keys(servers.ADMIN), None, Policy.for_caller(), write=True)
        with contextlib.closing(steps):
            until_get(steps)
            proxy.add(Fault(match="^PUT", lose_answer=True))
            last = next(steps)
        assert (last.name, last.status, last.error.code) == ("put", "fail", "unavailable")
        assert bench.keys() == ["pre/k.tar"]
        assert proxy.count("^DELETE .*artifacts-doctor-") == 1


def test_what_cannot_be_deleted_is_named(bench):
    """A server that lets one write and not delete: a warning with the object's name."""
    with FaultProxy(bench.server.address) as proxy:
        place = Location.parse(f"s3://127.0.0.1:{proxy.port}/{bench.bucket}/pre/k.tar")
        proxy.add(Fault(match="^DELETE", status=403, body=b"<Error><Code>AccessDenied</Code></Error>"))
        done, left = list(diagnose(place, keys(servers.ADMIN), None, Policy.for_caller(), write=True))[-2:]
    assert (done.status, left.status) == ("ok", "warn")
    (key,) = set(bench.keys()) - {"pre/k.tar"}
    assert f"delete '{key}'" in left.hint


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_stopped_it_leaves_nothing(bench, when):
    """A stop before the write, or while the server works at it: Cancelled, and nothing is there."""
    cancel = Cancel()
    with FaultProxy(bench.server.address) as proxy:
        place = Location.parse(f"s3://127.0.0.1:{proxy.port}/{bench.bucket}/pre/k.tar")
        steps = diagnose(place, keys(servers.ADMIN), None, Policy.for_caller(), write=True, cancel=cancel)
        with contextlib.closing(steps):
            until_get(steps)
            if when == "before":
                cancel.cancel()
            else:
                proxy.add(Fault(match="^PUT", hook=cancel.cancel))
            with pytest.raises(Cancelled):
                next(steps)
        assert bench.keys() == ["pre/k.tar"]


@pytest.mark.parametrize("url", ["s3://HOST/b/k", "s3+https://HOST/b/k", "ftps://HOST/x", "sftp://HOST/x"])
def test_a_silent_server_can_be_left(url):
    """A stop ends a wait for a server that accepts and says nothing."""
    # A hang fails; slowness does not.
    options = StoreOptions(connect_timeout_seconds=600, read_timeout_seconds=600)
    cancel, ended = Cancel(), []
    with ftpservers.silent() as port:
        place = Location.parse(url.replace("HOST", f"127.0.0.1:{port}"))
        steps = diagnose(place, login("user", "password"), options, Policy.for_caller(), cancel=cancel)

        def look() -> None:
            try:
                list(steps)
            except Cancelled as error:
                ended.append(error)

        looking = threading.Thread(target=look, daemon=True)
        looking.start()
        time.sleep(0.2)
        cancel.cancel()
        looking.join(30)
        assert len(ended) == 1


def test_a_server_that_drips_is_given_up():
    """A server that says something all the time and never ends is left when its time is over."""
    listener = socket.create_server(("127.0.0.1", 0))
    stop = threading.Event()

    def drip() -> None:
        peer, _ = listener.accept()
        with peer:
            try:
                while not stop.wait(0.05):
                    peer.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            except OSError:
                return

    thread = threading.Thread(target=drip, daemon=True)
    thread.start()
    options = StoreOptions(connect_timeout_seconds=0.3, read_timeout_seconds=0.3)
    steps = diagnose(
        Location.parse(f"http://127.0.0.1:{listener.getsockname()[1]}/k"), None, options, Policy.for_caller()
    )
    found = next(step for step in steps if step.name == "clock")
    stop.set()
    steps.close()
    listener.close()
    thread.join(5)
    assert (found.status, found.detail) == ("warn", "the server does not answer over HTTP")


# The command.


def artifacts_of(bench: Bench) -> dict[str, object]:
    wrong = {"aws": credentials(servers.ADMIN)["aws"] | {"secret_access_key": WRONG_SECRET}}
    return {
        "good": bench.artifact("pre/k.tar"),
        "new": bench.artifact("out/new.tar", mutable=True),
        "here": {"mutable": True},
        "wrong": bench.artifact("pre/k.tar", credentials=wrong),
    }


def test_a_request(bench, capsys):
    """A heading and its steps for each artifact; written only what a runner writes; the exit code of check."""
    request = bench.request(artifacts_of(bench))
    done = run("doctor", request, "--endpoint", bench.url, "--write")
    assert done.code == run("check", request, "--endpoint", bench.url).code == 5
    blocks = [block.splitlines() for block in done.out.split("\n\n")]
    assert [block[0] for block in blocks] == [
        f"good: {bench.place('pre/k.tar')}",
        f"new: {bench.place('out/new.tar')}",
        "here: no location",
        f"wrong: {bench.place('pre/k.tar')}",
    ]
    assert [line.split()[1] for line in blocks[0][1:]] == WELL.replace(":ok", "").replace(":skip", "").split()[:-1]
    assert [line.split()[:2] for line in blocks[1][1:]][-1] == ["ok", "put"]
    assert blocks[2][1:] == ["ok    location    none: the artifact is mutable and stays here"]
    assert blocks[3][-1] == (
        "fail  get         403 SignatureDoesNotMatch -> the secret does not belong to the access key: "
        "correct secret_access_key"
    )
    assert bench.keys() == ["pre/k.tar"]
    quiet = inside(capsys, "doctor", request, "--endpoint", bench.url, "-q")
    assert {line.split()[0] for line in quiet.out.splitlines()} == {"fail"}


def test_json(bench, capsys):
    """One object a step with every key, then the summary with the exit code."""
    done = inside(capsys, "doctor", bench.request(artifacts_of(bench)), "--endpoint", bench.url, "--json")
    *steps, summary = done.lines
    names = ("v", "type", "time", "run", "experiment", "label", "step", "status", "detail", "hint", "error")
    assert {tuple(step) for step in steps} == {names}
    assert {step["label"] for step in steps} == {"good", "new", "here", "wrong"}
    failed = [step for step in steps if step["status"] == "fail"]
    assert {(step["label"], step["error"]["server_code"]) for step in failed} == {("wrong", "SignatureDoesNotMatch")}
    assert (summary["op"], summary["exit"]) == ("doctor", 5)


def test_what_the_configuration_says_of_the_endpoint(bench, authority, capsys):
    """Its authority and credential are used and named; each artifact is one line of the record."""
    folder = bench.folder
    (folder / "ca.pem").write_bytes(authority.pem)
    (folder / "keys.json").write_text(json.dumps(credentials(servers.ADMIN)))
    with tls_front(bench.server.address, authority) as front:
        host = f"127.0.0.1:{front.port}"
        (folder / "artifacts.toml").write_text(
            f'version = 1\n[endpoint."{host}"]\nca = "{folder}/ca.pem"\ncredentials = "{folder}/keys.json"\n'
        )
        artifact = {"qualified": f"s3://{host}/{bench.bucket}/pre/k.tar"}
        options = ("--config", folder / "artifacts.toml", "--audit", folder / "audit.jsonl")
        request = bench.request({"a": artifact, "b": artifact})
        done = inside(capsys, "doctor", request, *options)
        assert done.code == 0, done.out
        assert "ok    credential  AWS keys, of the endpoint's entry in the configuration" in done.out.splitlines()
        assert "ok    who         AKAD…0001" in done.out.splitlines()
        opened = [json.loads(line) for line in (folder / "audit.jsonl").read_text().splitlines()]
        assert [line["step"] for line in opened if line["step"] == "open"] == ["open", "open"]
        done = inside(capsys, "doctor", artifact["qualified"], *options)
        assert (done.code, "of the endpoint's entry" in done.out) == (0, True)


def test_a_token_of_the_endpoints_entry_that_has_ended(bench, issuer, capsys):
    """What its file holds is read and judged, though no request carries it."""
    (bench.folder / "token").write_text(issuer.mint(ttl_seconds=-600))
    (bench.folder / "artifacts.toml").write_text(
        f'version = 1\n[endpoint."{bench.host}"]\nurl = "{bench.url}"\njwt_file = "{bench.folder}/token"\n'
    )
    request = bench.request({"a": {"qualified": bench.place("pre/k.tar")}})
    done = inside(capsys, "doctor", request, "--config", bench.folder / "artifacts.toml")
    assert done.code == 5
    steps = {line.split()[1]: line for line in done.out.splitlines()[1:]}
    assert steps["credential"].startswith("ok    credential  a JWT, the operator's own token")
    assert f"iss {issuer.url}" in steps["who"]
    assert "ended at" in steps["expires"]
    assert steps["region"].startswith("ok")


def test_it_exits_as_check(bench, authority):
    """For each fault the code that check has for it."""
    closed = f"127.0.0.1:{servers.free_port()}"
    with tls_front(bench.server.address, authority) as front:
        private = f"127.0.0.1:{front.port}"
        named = Policy.for_requests([bench.url, f"http://{closed}", f"https://{private}"])
        faults: dict[str, tuple[str, object, int]] = {
            "refused": (f"{closed}/b/k", credentials(servers.ADMIN), 75),
            "not named": ("127.0.0.1:1/b/k", credentials(servers.ADMIN), 3),
            "no bucket": (f"{bench.host}/no-such-bucket/k", credentials(servers.ADMIN), 4),
            "missing": (f"{bench.host}/{bench.bucket}/none", credentials(servers.ADMIN), 4),
            "unknown authority": (f"{private}/b/k", credentials(servers.ADMIN), 2),
            "half a pair": (f"{bench.host}/{bench.bucket}/k", {"aws": {"access_key": "AKHALF"}}, 5),
            "nobody": (f"{bench.host}/{bench.bucket}/k", None, 5),
        }
        for fault, (place, credential, code) in faults.items():
            document = {"experiment": {"artifacts": {"a": {"qualified": f"s3://{place}", "credentials": credential}}}}
            request = loads(json.dumps(document))
            once = StoreOptions(retries=Retries(attempts=1))
            assert check_request(Session(op="check", verbosity=-1), request, named, once) == code, fault
            given = request.experiment.artifacts["a"].credentials
            failed = [step.error for step in seen(f"s3://{place}", given, named).values() if step.status == "fail"]
            assert worst(exit_code(error) for error in failed) == code, fault


def test_a_url_of_a_bucket_or_folder(bench, capsys):
    """It may end there: then listing, and with --write writing, is what is looked at."""
    (bench.folder / "keys.json").write_text(json.dumps(credentials(servers.ADMIN)))
    for url in (f"s3://{bench.host}/{bench.bucket}", bench.place("pre/")):
        done = inside(capsys, "doctor", url, "--credentials", bench.folder / "keys.json", "--write")
        assert done.code == 0, done.out
        assert done.out.splitlines()[0] == url
        assert [line.split()[1] for line in done.out.splitlines()[-3:]] == ["sts", "list", "put"]
    assert bench.keys() == ["pre/k.tar"]


def test_wrong_usage(bench, capsys):
    """Options of one form with the other."""
    request = bench.request({})
    assert inside(capsys, "doctor", request, "--anonymous").code == 2
    assert inside(capsys, "doctor", "s3://b/k", "--file-root", "d").code == 2
    assert inside(capsys, "doctor", "none.json").code == 2
    assert inside(capsys, "doctor", "gopher://x/y").code == 2


def test_hostile_words_of_a_server(bench):
    """A code, region and date that would move a cursor or fill the screen: escaped and cut."""
    long = "A" * 5000

    def answer(_: object) -> tuple[int, dict[str, str], bytes]:
        body = f"<Error><Code>\x1b[31m{long}</Code><Message>{long}</Message></Error>".encode()
        return 403, {"x-amz-bucket-region": f"\x9b31m{long}", "Date": long}, body

    (bench.folder / "keys.json").write_text(json.dumps(credentials(servers.ADMIN)))
    with ScriptedServer(answer) as server:
        done = run("doctor", f"s3://127.0.0.1:{server.port}/b/k", "--credentials", bench.folder / "keys.json")
    assert done.code == 5
    assert all(line.isprintable() for line in done.out.splitlines())
    assert max(len(line) for line in done.out.splitlines()) < 850
