"""JWTs and roles become keys: on SeaweedFS with an OIDC issuer, sessions of an hour and of four seconds."""

import contextlib
import hashlib
import io
import json
import logging
import os
import pickle
import random
import socket
import threading
import time
import uuid
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import parse_qs

import pytest
import servers
from cryptography.hazmat.primitives.asymmetric import rsa
from rich.console import Console
from rich.traceback import Traceback

from artifacts.request import loads
from artifacts.staging import StagingDir
from creds.errors import (
    AccessDenied,
    Cancelled,
    CredentialError,
    LocationError,
    MissingCredential,
    PolicyError,
    RefreshError,
    ToolkitError,
    Unauthenticated,
)
from creds.keys import AwsKeys, ChainKeys, TokenCache, renewed, static
from creds.location import Location
from creds.models import AWSCredential, Credentials, JWTCredential
from creds.policy import Issuer, Policy
from creds.resolve import resolve
from creds.store import Cancel, Rate, Retries, Sessions, StoreOptions, Sts
from creds.sts import AssumeRole, WebIdentity, sts_url
from creds.testing import Fault, FaultProxy
from creds.tokens import TokenFile, TokenVariable, Verifier
from tests.test_tokens import run_together, token

MIB = 1 << 20
QUICK = Retries(attempts=3, first_wait_seconds=0.01)
FORGER = rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.fixture(scope="module")
def brief(issuer):
    """The same with sessions of four seconds."""
    with servers.seaweedfs(servers.federation(issuer.url, 4)) as server:
        yield server


def host_of(url):
    return url.partition("://")[2]


def policy_for(issuer, url, role=servers.ROLE_RW, **more):
    return Policy.for_requests(
        [url], issuers=[Issuer(iss=issuer.url, endpoints=(host_of(url),), role_arn=role, **more)]
    )


def resolved(url, policy, made=None, key="k", options=None):
    credentials = None if made is None else Credentials(jwt=JWTCredential(token=made))
    location = Location.parse(f"s3+{url}/{servers.SHARED_BUCKET}/{key}")
    return resolve(location, credentials, options or StoreOptions(retries=QUICK), policy)


@contextlib.contextmanager
def opened(*args, **more):
    with contextlib.closing(resolved(*args, **more).open()) as store:
        yield store


def content(store, key):
    with store.open(key) as reading:
        return b"".join(bytes(buffer) for buffer in reading)


# The exchange.


def test_a_good_token_reads_writes_and_lists(issuer, federated):
    """Both engines sign with the exchanged keys; the receipt names the subject and the token's own end."""
    made = issuer.mint(exp=(ends := int(time.time()) + 500))
    key = uuid.uuid4().hex
    found = resolved(federated.endpoint_url, policy_for(issuer, federated.endpoint_url), made)
    told = found.identity.to_dict()
    assert (told["kind"], told["id"], told["source"]) == ("jwt", f"sub:{servers.SUBJECT}", "request")
    assert found.identity.expires_at.timestamp() == ends
    with contextlib.closing(found.open()) as store:
        store.write(key, [b"hello"])
        assert content(store, key) == b"hello"
        assert [meta.key for meta in store.list(key)] == [key]
        assert store.client.head_object(Bucket=servers.SHARED_BUCKET, Key=key)["ContentLength"] == 5
        store.delete(key)
    keys = found.provider()
    assert keys.access_key.startswith("ASIA")
    assert 3500 < keys.expires_at.timestamp() - time.time() < 3700
    assert made not in repr(found) + repr(found.provider) + repr(keys)


@pytest.mark.parametrize(
    ("claims", "said", "hint"),
    [
        ({"aud": "other"}, "400 InvalidParameterValue", "audience and signature"),
        ({"sub": "repo:evil/app"}, "403 AccessDenied", "whom its trust policy lets in"),
        ({"key": FORGER}, "400 InvalidParameterValue", "audience and signature"),
        ({"headers": {"kid": "zz"}}, "403 AccessDenied", "whom its trust policy lets in"),
        ({"ttl_seconds": -30}, "400 ExpiredTokenException", "the token has ended by the server's clock"),
    ],
    ids=["audience", "subject", "signature", "kid", "expiry"],
)
def test_a_token_that_the_server_refuses(issuer, federated, claims, said, hint):
    """The error has the server's code, what to look at, and what the token says; it is not tried again."""
    made = issuer.mint(**claims)
    with FaultProxy(federated.address) as proxy, opened(proxy.url, policy_for(issuer, proxy.url), made) as store:
        with pytest.raises(RefreshError) as raised:
            store.head("k")
        assert proxy.requests == ["POST / HTTP/1.1"]
    assert str(raised.value) == f"STS {proxy.url} refused the token: {said}"
    assert hint in raised.value.hint
    assert f"the token says iss {issuer.url}, aud " in raised.value.hint
    assert not raised.value.retryable
    assert made not in f"{raised.value!r} {raised.value.hint}"


def test_a_token_that_has_ended_costs_no_connection(issuer, federated):
    """Expired, unsigned and malformed tokens are refused when resolving, with the location."""
    with FaultProxy(federated.address) as proxy:
        policy = policy_for(issuer, proxy.url)
        for made, kind, said in (
            (issuer.mint(exp=1_800_000), RefreshError, r"ended at 1970-01-21T20:00:00Z \(exp\)"),
            (issuer.mint(algorithm="none"), CredentialError, "signed by nobody"),
            ("planted", CredentialError, "is no JWT"),
            ("", MissingCredential, "credentials.jwt.token is empty"),
        ):
            with pytest.raises(kind, match=said) as raised:
                resolved(proxy.url, policy, made)
            assert raised.value.location == f"s3+{proxy.url}/data/k"
        assert proxy.requests == []


def test_a_role_that_denies_writes(issuer, federated):
    """Keys are good and the role is not enough: AccessDenied, and no second exchange."""
    federated.client().put_object(Bucket=servers.SHARED_BUCKET, Key="shared", Body=b"shared")
    with FaultProxy(federated.address) as proxy:
        policy = policy_for(issuer, proxy.url, servers.ROLE_RO)
        with opened(proxy.url, policy, issuer.mint(sub="anyone")) as store:
            assert content(store, "shared") == b"shared"
            with pytest.raises(AccessDenied):
                store.write("denied", [b"x"])
        assert proxy.count(r"^POST / ") == 1


def test_a_session_policy_narrows_the_role(issuer, federated):
    """What StoreOptions adds reaches the server: the role may write, the session may not."""
    narrow = '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["s3:GetObject"],"Resource":["arn:aws:s3:::data/*"]}]}'
    options = StoreOptions(retries=QUICK, sts=Sts(session_policy=narrow, session_name="job-7", duration_seconds=900))
    url = federated.endpoint_url
    found = resolved(url, policy_for(issuer, url), issuer.mint(), options=options)
    assert 800 < found.provider().expires_at.timestamp() - time.time() < 1000
    with contextlib.closing(found.open()) as store, pytest.raises(AccessDenied):
        store.write("denied", [b"x"])


def test_twenty_threads_share_one_exchange(issuer, federated):
    """However many stores of one token there are, and threads in them, the STS is asked once."""
    made = issuer.mint()
    options = StoreOptions(retries=QUICK)
    federated.client().put_object(Bucket=servers.SHARED_BUCKET, Key="shared", Body=b"shared")
    with FaultProxy(federated.address) as proxy, contextlib.ExitStack() as stack:
        proxy.add(Fault(match="^POST / ", delay_seconds=0.2))
        policy = policy_for(issuer, proxy.url)
        stores = [stack.enter_context(opened(proxy.url, policy, made, options=options)) for _ in range(4)]
        turns = iter(stores * 5)
        lock = threading.Lock()

        def work():
            with lock:
                store = next(turns)
            return content(store, "shared")

        assert run_together(20, work) == [b"shared"] * 20
        assert proxy.count("^POST / ") == 1
        with opened(proxy.url, policy, issuer.mint(), options=options) as other:
            content(other, "shared")
        assert proxy.count("^POST / ") == 2  # another token is another session


def test_a_server_that_stumbles_is_asked_again(issuer, federated):
    """503 and a broken connection are tried again; when tries run out the error is one to try later."""
    with FaultProxy(federated.address) as proxy:
        policy = policy_for(issuer, proxy.url)
        proxy.add(Fault(match="^POST / ", status=503))
        proxy.add(Fault(match="^POST / ", lose_answer=True))
        assert resolved(proxy.url, policy, issuer.mint()).provider().access_key
        assert proxy.count("^POST / ") == 3
        proxy.add(Fault(match="^POST / ", status=500, times=3))
        with pytest.raises(RefreshError, match="answered 500") as raised:
            resolved(proxy.url, policy, issuer.mint()).provider()
        assert raised.value.retryable
        assert proxy.count("^POST / ") == 6


def test_the_token_is_shown_nowhere(issuer, federated, caplog):
    """Not in logs at DEBUG, nor in a traceback with all locals, on success or when the connection breaks."""
    made = issuer.mint()
    with caplog.at_level(logging.DEBUG), FaultProxy(federated.address) as proxy:
        policy = policy_for(issuer, proxy.url)
        assert resolved(proxy.url, policy, made).provider().access_key
        proxy.add(Fault(match="^POST / ", lose_answer=True, times=9))
        with pytest.raises(RefreshError, match="cannot be reached") as raised:
            resolved(proxy.url, policy, made).provider()
        assert {line.split()[1] for line in proxy.requests} == {"/"}
    out = Console(file=io.StringIO(), width=500)
    trace = raised.tb.tb_next  # below this test, whose locals hold it
    out.print(Traceback.from_exception(RefreshError, raised.value, trace, show_locals=True, locals_max_string=None))
    assert "in _exchange" in out.file.getvalue()
    for part in made.split(".")[1:]:
        assert part not in out.file.getvalue() + caplog.text


def test_a_request_of_many_artifacts(issuer, federated, tmp_path):
    """A staged and uploaded request asks the STS once for all artifacts of one token; receipts say whose it was."""
    made = issuer.mint()
    federated.client().put_object(Bucket=servers.SHARED_BUCKET, Key="many/in", Body=b"input")
    with FaultProxy(federated.address) as proxy:

        def artifact(key, mutable):
            return {
                "bucket": servers.SHARED_BUCKET,
                "key": key,
                "qualified": f"s3+{proxy.url}/{servers.SHARED_BUCKET}/{key}",
                "mutable": mutable,
                "unpack": False,
                "credentials": {"jwt": {"token": made}},
            }

        artifacts = {f"in-{number}": artifact("many/in", False) for number in range(6)}
        artifacts["out"] = artifact("many/out", True)
        request = loads(json.dumps({"experiment": {"artifacts": artifacts}}).encode())
        policy, options = policy_for(issuer, proxy.url), StoreOptions(retries=QUICK)
        staging = StagingDir(tmp_path / "job", policy=policy, options=options)
        receipts = staging.stage(request)
        assert {receipt.label: receipt.status for receipt in receipts} == {
            **{f"in-{number}": "done" for number in range(6)},
            "out": "empty",
        }
        (tmp_path / "job" / "out" / "out").write_bytes(b"result")
        receipts += staging.upload(request)
        assert proxy.count("^POST / ") == 1
    told = {tuple(receipt.credential.items()) for receipt in receipts}
    assert len(told) == 1
    assert dict(told.pop()) | {"expires_at": None} == {
        "kind": "jwt",
        "id": f"sub:{servers.SUBJECT}",
        "source": "request",
        "expires_at": None,
    }


# Hostile answers.


class Answering(HTTPServer):
    """A server that gives every POST the same answer, and keeps what it was sent."""

    def __init__(self, status, body, headers=()):
        answering = self
        self.forms = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                form = self.rfile.read(int(self.headers["Content-Length"])).decode()
                answering.forms.append({name: values[0] for name, values in parse_qs(form).items()})
                answering.authorization = self.headers.get("Authorization")
                self.send_response(status)
                for name, value in (*headers, ("Content-Length", str(len(body)))):
                    self.send_header(name, value)
                self.end_headers()
                with contextlib.suppress(OSError):
                    self.wfile.write(body)

            def log_message(self, *_):
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.thread = threading.Thread(target=self.serve_forever, args=(0.02,))
        self.thread.start()

    def __exit__(self, *error):
        self.shutdown()
        self.thread.join()
        self.server_close()


def keys_xml(*, access="ASIAEXAMPLEEXAMPLE00", secret="s/+=", session="t", ends="2030-01-01T00:00:00Z", lead=""):
    return (
        f'{lead}<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">'
        f"<AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>{access}</AccessKeyId>"
        f"<SecretAccessKey>{secret}</SecretAccessKey><SessionToken>{session}</SessionToken>"
        f"<Expiration>{ends}</Expiration></Credentials></AssumeRoleWithWebIdentityResult>"
        "</AssumeRoleWithWebIdentityResponse>"
    ).encode()


def exchanged(url, made=None, role=None, **options):
    made = made or token()
    return WebIdentity(
        source=lambda: made, url=url, role_arn=role, options=StoreOptions(retries=QUICK, **options), issuer="https://i"
    )()


def test_no_role_is_a_form_without_one():
    """MinIO needs no role: the form has none, and everything else that was asked for."""
    with Answering(200, keys_xml()) as server:
        keys = exchanged(server.url, made := token())
        exchanged(server.url, role="arn:aws:iam::1:role/r", sts=Sts(duration_seconds=1000, session_name="me"))
    assert (keys.access_key, keys.secret_key, keys.token) == ("ASIAEXAMPLEEXAMPLE00", "s/+=", "t")
    assert keys.expires_at.isoformat() == "2030-01-01T00:00:00+00:00"
    first = {"Action": "AssumeRoleWithWebIdentity", "Version": "2011-06-15", "RoleSessionName": "artifact-creds"}
    assert server.forms[0] == {**first, "WebIdentityToken": made}
    assert server.forms[1]["RoleArn"] == "arn:aws:iam::1:role/r"
    assert (server.forms[1]["DurationSeconds"], server.forms[1]["RoleSessionName"]) == ("1000", "me")
    assert server.authorization is None


BOMB = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>'


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (200, keys_xml(lead=BOMB, secret="&b;"), "the answer holds no keys"),
        (200, keys_xml(lead='<!DOCTYPE x SYSTEM "file:///etc/passwd">'), "the answer holds no keys"),
        (200, keys_xml()[:-40], "the answer holds no keys"),
        (200, b"<html>welcome</html>", "the answer holds no keys"),
        (200, b"{}", "the answer holds no keys"),
        (200, b"", "the answer holds no keys"),
        (200, keys_xml(secret=""), "the answer holds no keys"),
        (200, keys_xml(session="a&#13;b"), "the answer holds no keys"),
        (200, keys_xml(ends="tomorrow"), "the answer does not say when its keys end"),
        (200, b" " * (MIB + 1), "the answer is longer than 1048576 bytes"),
        (
            400,
            b"<ErrorResponse><Error><Code>a b&lt;script&gt;</Code></Error></ErrorResponse>",
            "refused the token: 400",
        ),
        (403, b"planted", "refused the token: 403"),
        (404, b"", "refused the token: 404"),
    ],
)
def test_answers_that_are_none(status, body, said):
    """Whatever the server sends is keys, or an error that repeats nothing of it but a code."""
    with Answering(status, body) as server, pytest.raises(RefreshError) as raised:
        exchanged(server.url)
    assert str(raised.value).endswith(said)
    assert len(server.forms) == 1


def test_a_redirect_is_not_followed():
    """The token stays with the server that it was meant for."""
    with Answering(200, keys_xml()) as other, Answering(307, b"", [("Location", f"{other.url}/")]) as server:
        with pytest.raises(RefreshError, match="refused the token: 307"):
            exchanged(server.url)
        assert (len(server.forms), len(other.forms)) == (1, 0)


def test_a_code_that_means_later():
    """A 400 of the kind that passes is tried again, then one to try later."""
    body = b"<ErrorResponse><Error><Code>IDPCommunicationError</Code></Error></ErrorResponse>"
    with Answering(400, body) as server, pytest.raises(RefreshError, match="400 IDPCommunicationError") as raised:
        exchanged(server.url)
    assert raised.value.retryable
    assert len(server.forms) == 3
    assert "the server cannot reach the token's issuer" in raised.value.hint


@pytest.mark.parametrize("wrong", [{"session_name": "x"}, {"session_name": "a b"}, {"duration_seconds": 60}])
def test_sessions_that_no_server_gives(wrong):
    """What STS refuses anyhow is refused when it is written down."""
    with pytest.raises(CredentialError):
        Sts(**wrong)


# Who may get what.


def test_a_token_of_the_request_goes_to_its_endpoint_only(issuer, federated):
    """An issuer that nobody named lends no role: the form goes to the request's own endpoint, without one."""
    url = federated.endpoint_url
    found = resolved(url, Policy.for_requests([url]), issuer.mint())
    assert (found.provider._make.url, found.provider._make.role_arn) == (url, None)
    elsewhere = Issuer(iss=issuer.url, endpoints=("aws",), sts_endpoint="https://sts.corp", role_arn="arn:r")
    found = resolved(url, Policy.for_requests([url], issuers=[elsewhere]), issuer.mint())
    assert (found.provider._make.url, found.provider._make.role_arn) == (url, None)


def test_a_token_at_aws_needs_a_role(issuer):
    """AWS gives no keys without a role; with an entry for it the regional STS is asked for that role."""
    bucket = Location.parse("s3://bucket/key")
    credentials = Credentials(jwt=JWTCredential(token=issuer.mint()))
    with pytest.raises(MissingCredential, match="AWS gives keys for a JWT to a role alone"):
        resolve(bucket, credentials)
    entry = Issuer(iss=issuer.url, endpoints=("aws",), role_arn="arn:aws:iam::1:role/r")
    found = resolve(bucket, credentials, StoreOptions(region="eu-west-1"), Policy.for_requests(issuers=[entry]))
    assert (found.provider._make.url, found.provider._make.role_arn) == (
        "https://sts.eu-west-1.amazonaws.com",
        "arn:aws:iam::1:role/r",
    )
    assert sts_url("cn-north-1") == "https://sts.cn-north-1.amazonaws.com.cn"


@pytest.mark.parametrize("kind", ["file", "variable", "callable"])
def test_a_token_of_the_operator_goes_where_the_table_says(issuer, federated, kind, tmp_path, monkeypatch):
    """Each source works at an endpoint of the issuer table, is refused at others, and is the caller's to use anywhere."""
    made = issuer.mint()
    (tmp_path / "token").write_text(made)
    monkeypatch.setenv("JOB_TOKEN", made)
    sources = {"file": TokenFile(tmp_path / "token"), "variable": TokenVariable("JOB_TOKEN"), "callable": lambda: made}
    options = StoreOptions(retries=QUICK, sts=Sts(token=sources[kind]))
    url = federated.endpoint_url
    found = resolved(url, policy_for(issuer, url), options=options)
    assert (found.identity.kind, found.identity.source) == ("jwt", "token")
    assert found.provider().source == "token"
    other = Issuer(iss="https://other", endpoints=(host_of(url),))
    for issuers in ([], [other], [Issuer(iss=issuer.url, endpoints=("minio:9000",))]):
        with pytest.raises(PolicyError, match="a token of the operator's may not be used at") as raised:
            resolved(url, Policy.for_requests([url], issuers=issuers), options=options)
        assert raised.value.rule == "lending"
    mine = StoreOptions(retries=QUICK, sts=Sts(token=sources[kind], role_arn=servers.ROLE_RW))
    assert resolved(url, Policy.for_caller(), options=mine).provider().access_key


def test_a_credential_of_the_request_comes_before_the_operators_token(issuer, federated):
    """The operator's token serves where a request has no credential, as its profile does."""
    url = federated.endpoint_url
    options = StoreOptions(sts=Sts(token=lambda: pytest.fail("it was asked")), ambient=True)
    pair = {"AWS_ACCESS_KEY_ID": "ENVENVENVENV", "AWS_SECRET_ACCESS_KEY": "secret"}
    location = Location.parse(f"s3+{url}/data/k")
    anonymous = resolve(location, Credentials(aws=AWSCredential()), options, policy_for(issuer, url))
    assert anonymous.identity.kind == "anonymous"
    own = StoreOptions(sts=options.sts, ambient=True, request_env=pair)
    assert resolve(location, None, own, policy_for(issuer, url)).identity.source == "request.env"


def test_a_role_of_the_operator_goes_where_the_table_says(issuer, federated):
    """A role by StoreOptions is lent to no endpoint that the issuer table does not name, whatever the credential."""
    url = federated.endpoint_url
    options = StoreOptions(retries=QUICK, sts=Sts(role_arn=servers.ROLE_RW))
    keys = Credentials(aws=AWSCredential(access_key="AKIAEXAMPLEEXAMPLE00", secret_access_key="secret"))
    for credentials in (keys, Credentials(jwt=JWTCredential(token=issuer.mint()))):
        location = Location.parse(f"s3+{url}/data/k")
        with pytest.raises(PolicyError, match="the role arn:aws:iam::role/ArtifactRW may not be used at"):
            resolve(location, credentials, options, Policy.for_requests([url]))
        assert resolve(location, credentials, options, policy_for(issuer, url)).provider is not None


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("aws", ["https://s3.us-west-2.amazonaws.com", "https://s3-accelerate.amazonaws.com"], ["http://s3.us-west-2.amazonaws.com", "https://x.execute-api.us-west-2.amazonaws.com", "https://s3.amazonaws.com.evil"]),
        ("minio:9000", ["http://minio:9000", "https://minio:9000"], ["https://minio", "http://minio:9001", "http://x.minio:9000"]),
        ("minio.corp", ["https://minio.corp"], ["http://minio.corp", "https://minio.corp:9000"]),
        ("*.corp", ["https://a.corp", "https://a.b.corp"], ["https://corp", "https://acorp", "https://a.corp:444"]),
        ("*.corp:9000", ["http://a.corp:9000"], ["https://a.corp"]),
        ("[::1]:9000", ["http://[::1]:9000"], ["http://[::2]:9000"]),
    ],
)  # fmt: skip
def test_which_endpoints_an_issuer_serves(pattern, yes, no):
    """Host and port must both fit; a star stands for whole labels; ``aws`` is AWS itself over TLS."""
    entry = Issuer(iss="https://i", endpoints=(pattern,))
    assert [url for url in (*yes, *no) if entry.serves(url)] == yes


@pytest.mark.parametrize(
    "wrong", [{"endpoints": ("https://x",)}, {"endpoints": ("a*b",)}, {"sts_endpoint": "sts.corp"}]
)
def test_an_issuer_that_is_none(wrong):
    """An entry that could match nothing, or the wrong thing, is refused when it is written."""
    with pytest.raises(LocationError):
        Issuer(iss="https://i", **wrong)


def test_an_issuer_named_twice():
    """Two entries for one issuer would leave it to chance which serves."""
    with pytest.raises(ToolkitError, match="is named twice"):
        Policy.for_requests(issuers=[Issuer(iss="i", endpoints=("a",)), Issuer(iss="i", endpoints=("b",))])


def test_a_source_that_changes_its_issuer(issuer, federated):
    """What was decided for one issuer does not carry the tokens of another."""
    tokens = iter([issuer.mint(), issuer.mint(iss="https://elsewhere")])
    url = federated.endpoint_url
    options = StoreOptions(retries=QUICK, sts=Sts(token=lambda: next(tokens)))
    found = resolved(url, policy_for(issuer, url), options=options)
    with pytest.raises(PolicyError, match="the token is now by https://elsewhere"):
        found.provider()


def test_an_issuer_whose_tokens_are_verified(issuer, federated):
    """With ``verify`` a forged token costs the STS no connection."""
    with FaultProxy(federated.address) as proxy:
        check = Verifier(keys=issuer.jwks_url, issuer=issuer.url, audience=servers.AUDIENCE)
        policy = policy_for(issuer, proxy.url, verify=check)
        with pytest.raises(CredentialError, match="its signature is not by the issuer's key"):
            resolved(proxy.url, policy, issuer.mint(key=FORGER)).provider()
        assert proxy.requests == []
        assert resolved(proxy.url, policy, issuer.mint()).provider().access_key


def test_the_sts_is_looked_at_before_the_token_goes(issuer):
    """An endpoint whose name leads to a metadata address gets no token, though the STS is asked before the store."""
    url = "https://minio.corp"
    policy = Policy.for_requests(
        [url],
        issuers=[Issuer(iss=issuer.url, endpoints=("minio.corp",))],
        resolver=lambda *_, **__: [(0, 0, 0, "", ("169.254.169.254", 443))],
    )
    with pytest.raises(PolicyError, match="leads to 169.254.169.254"):
        resolved(url, policy, issuer.mint()).provider()


def test_sessions_are_shared_and_bounded():
    """Equal keys share what was made; options made of others share it too; a pickle does not carry it."""
    sessions = Sessions(most=2)
    first = sessions.shared("a", object)
    assert sessions.shared("a", object) is first
    sessions.shared("b", object)
    sessions.shared("a", object)
    sessions.shared("c", object)
    assert sessions.shared("a", object) is first  # b was asked for longest ago
    options = StoreOptions(sessions=sessions)
    assert replace(options, region="eu-west-1").sessions is sessions
    assert pickle.loads(pickle.dumps(options)).sessions.shared("a", object) is not first


def test_one_chain_for_all_stores(issuer, federated):
    """A machine's chain is found once for all objects of a run, and apart for each profile."""
    url = federated.endpoint_url
    options = StoreOptions(ambient=True)
    made = [resolved(url, policy_for(issuer, url), options=options).provider for _ in range(3)]
    assert made[0] is made[1] is made[2]
    assert resolved(url, policy_for(issuer, url), options=replace(options, profile="ml")).provider is not made[0]


# Roles by keys.


def test_keys_take_a_role(issuer, federated):
    """Static keys sign AssumeRole, and the store uses the role's keys: it may read, and not write."""
    url = federated.endpoint_url
    admin = Credentials(
        aws=AWSCredential(access_key=federated.admin.access_key, secret_access_key=federated.admin.secret_key)
    )
    federated.client().put_object(Bucket=servers.SHARED_BUCKET, Key="shared", Body=b"shared")
    options = StoreOptions(retries=QUICK, sts=Sts(role_arn=servers.ROLE_TAKEN))
    found = resolve(Location.parse(f"s3+{url}/data/k"), admin, options, policy_for(issuer, url))
    assert found.identity.to_dict()["kind"] == "aws"
    with contextlib.closing(found.open()) as store:
        assert content(store, "shared") == b"shared"
        with pytest.raises(AccessDenied):
            store.write("denied", [b"x"])


def test_keys_that_may_not_take_a_role(federated):
    """Wrong keys and an unknown role are told apart."""
    wrong = AwsKeys(access_key=federated.admin.access_key, secret_key="wrong")
    right = AwsKeys(access_key=federated.admin.access_key, secret_key=federated.admin.secret_key)

    def take(keys, role):
        maker = AssumeRole(
            provider=static(keys), url=federated.endpoint_url, role_arn=role, region="us-east-1", options=StoreOptions()
        )
        with pytest.raises(RefreshError, match="refused the keys: 403 ") as raised:
            maker()
        assert not raised.value.retryable
        return raised.value.hint

    assert take(wrong, servers.ROLE_TAKEN) == "check the keys that take the role"
    assert take(right, "arn:aws:iam::role/Unknown").startswith("check the role's name")


def test_the_external_id_is_sent_and_the_form_is_signed():
    """What the role's owner asks for is in the signed body."""
    with Answering(200, keys_xml()) as server:
        maker = AssumeRole(
            provider=static(AwsKeys(access_key="AKIAEXAMPLEEXAMPLE00", secret_key="secret", token="session")),
            url=server.url,
            role_arn="arn:aws:iam::1:role/r",
            region="eu-west-1",
            options=StoreOptions(sts=Sts(external_id="their-id")),
        )
        assert maker().token == "t"
    assert (server.forms[0]["Action"], server.forms[0]["ExternalId"]) == ("AssumeRole", "their-id")
    assert (
        "/eu-west-1/sts/aws4_request, SignedHeaders=content-type;host;x-amz-date;x-amz-security-token"
        in server.authorization
    )


# Sessions that end while they are used.


def seeded(size):
    return random.Random(size).randbytes(size)


def parts_of(seed):
    """256 MiB in 32 parts, each another."""
    block = bytearray(seeded(8 * MIB))
    for number in range(32):
        block[:8] = (seed + number).to_bytes(8, "big")
        yield bytes(block)


def digest(buffers):
    found = hashlib.sha256()
    for buffer in buffers:
        found.update(buffer)
    return found.hexdigest()


@contextlib.contextmanager
def slowly(issuer, brief):
    """A proxy and a store on it whose 256 MiB take longer than two sessions of 4 s, and that tries everything once."""
    with FaultProxy(brief.address) as proxy:
        options = StoreOptions(retries=Retries(attempts=1), rate=Rate(32 * MIB))
        with opened(proxy.url, policy_for(issuer, proxy.url), issuer.mint(), options=options) as store:
            yield proxy, store
        assert proxy.count("^POST / ") >= 3


def test_a_session_that_ends_during_a_fetch(issuer, brief):
    """The fetch goes on with new keys, and asks for no part twice."""
    key = uuid.uuid4().hex
    brief.client().put_object(Bucket=servers.SHARED_BUCKET, Key=key, Body=b"".join(parts_of(1)))
    with slowly(issuer, brief) as (proxy, store):
        with store.open(key) as reading:
            assert digest(reading) == digest(parts_of(1))
        assert proxy.count(f"^GET /data/{key}") == 32


def test_a_session_that_ends_during_an_upload(issuer, brief):
    """Each part is signed with the keys of its moment; the upload is begun once and completed once."""
    key = uuid.uuid4().hex
    with slowly(issuer, brief) as (proxy, store):
        store.write(key, parts_of(2))
        sent = [line for line in proxy.requests if "partNumber" in line]
        assert len(set(sent)) == len(sent) == 32
        assert (proxy.count(f"^POST /data/{key}.uploads= "), proxy.count(f"^POST /data/{key}.uploadId")) == (1, 1)
    stored = brief.client().get_object(Bucket=servers.SHARED_BUCKET, Key=key)["Body"]
    assert digest(iter(lambda: stored.read(MIB), b"")) == digest(parts_of(2))


# Keys that do not come.


@contextlib.contextmanager
def silent():
    """A server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def first(store, cancel):
    with store.open("k", cancel=cancel) as reading:
        next(iter(reading))


@pytest.mark.parametrize(
    "work",
    [
        first,
        lambda store, cancel: store.write("k", [b"x"], cancel=cancel),
        lambda store, cancel: store.head("k", cancel=cancel),
        lambda store, cancel: next(store.list(cancel=cancel)),
        lambda store, cancel: store.delete("k", cancel=cancel),
    ],
    ids=["open", "write", "head", "list", "delete"],
)
@pytest.mark.parametrize("taking", [False, True], ids=["token", "role"])
def test_a_sts_that_says_nothing_holds_nobody_up(issuer, work, taking):
    """A verb that waits for keys ends when it is stopped, long before the STS is given up; so does its store."""
    with silent() as url:
        admin = Credentials(aws=AWSCredential(access_key="AKIAEXAMPLEEXAMPLE00", secret_access_key="secret"))
        token = Credentials(jwt=JWTCredential(token=issuer.mint()))
        options = StoreOptions(read_timeout_seconds=3600, sts=Sts(role_arn=servers.ROLE_RW if taking else None))
        location = Location.parse(f"s3+{url}/{servers.SHARED_BUCKET}/k")
        store = resolve(location, admin if taking else token, options, policy_for(issuer, url)).open()
        cancel, raised = Cancel(), []

        def run():
            try:
                work(store, cancel)
            except Cancelled as error:
                raised.append(str(error))
            store.close()

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        time.sleep(0.1)
        cancel.cancel("enough")
        thread.join(30)
        assert raised == ["enough"]


def test_keys_that_are_renewed_in_silence_hold_nobody_up(seaweed):
    """The same in the middle of a fetch: keys that have to be made anew for the next part."""
    body = seeded(24 * MIB)
    seaweed.client().put_object(Bucket=servers.SHARED_BUCKET, Key="renewed", Body=body)
    cancel, asked, never = Cancel(), [], threading.Event()
    keys = AwsKeys(access_key=seaweed.admin.access_key, secret_key=seaweed.admin.secret_key)

    def provider():
        asked.append(1)
        if len(asked) > 2:
            cancel.cancel("enough")
            never.wait(60)
        return keys

    from creds.stores.s3 import S3Store

    store = S3Store(
        servers.SHARED_BUCKET,
        endpoint_url=seaweed.endpoint_url,
        region="us-east-1",
        provider=provider,
        options=StoreOptions(part_bytes=2 * MIB),
        on_aws=False,
        addressing="path",
        checksums=False,
    )
    with (
        contextlib.closing(store),
        pytest.raises(Cancelled, match="enough"),
        store.open("renewed", cancel=cancel) as reading,
    ):
        digest(reading)
    assert len(asked) == 3
    never.set()


def test_keys_that_rotate_while_they_are_used(federated):
    """New keys every second, the old ones deleted at the server: reads and writes all succeed."""
    import boto3

    iam = boto3.client(
        "iam",
        endpoint_url=federated.endpoint_url,
        region_name="us-east-1",
        aws_access_key_id=federated.admin.access_key,
        aws_secret_access_key=federated.admin.secret_key,
    )
    name = f"rotating-{uuid.uuid4().hex[:8]}"
    iam.create_user(UserName=name)
    iam.put_user_policy(
        UserName=name,
        PolicyName="data",
        PolicyDocument='{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["s3:*"],'
        '"Resource":["arn:aws:s3:::data","arn:aws:s3:::data/*"]}]}',
    )

    def issue():
        made = iam.create_access_key(UserName=name)["AccessKey"]
        return AwsKeys(access_key=made["AccessKeyId"], secret_key=made["SecretAccessKey"])

    current = [issue()]
    ended = threading.Event()

    def rotate():
        while not ended.wait(0.7):
            old = current[-1]
            current.append(issue())
            time.sleep(0.1)
            iam.delete_access_key(UserName=name, AccessKeyId=old.access_key)

    from creds.stores.s3 import S3Store

    thread = threading.Thread(target=rotate)
    thread.start()
    try:
        store = S3Store(
            servers.SHARED_BUCKET,
            endpoint_url=federated.endpoint_url,
            region="us-east-1",
            provider=lambda: current[-1],
            options=StoreOptions(retries=QUICK),
            on_aws=False,
            addressing="path",
            checksums=False,
            location=f"s3+{federated.endpoint_url}/data",
        )
        with contextlib.closing(store):
            body = seeded(MIB)
            begun = time.monotonic()
            number = 0
            while time.monotonic() - begun < 4 or len(current) < 4:
                store.write(f"rotating/{number % 5}", [body])
                assert content(store, f"rotating/{number % 5}") == body
                number += 1
    finally:
        ended.set()
        thread.join()
        iam.close()
    assert len(current) >= 4


def test_refused_keys_are_asked_for_once():
    """A provider that is told makes others; one that has no others leaves the refusal as it is."""
    made = iter(AwsKeys(access_key=f"AKIAEXAMPLE{number}", secret_key="s") for number in range(9))
    provider = TokenCache(lambda: next(made), pause_seconds=0.0)
    first = provider()
    assert renewed(provider, first)
    assert provider().access_key == "AKIAEXAMPLE1"
    assert renewed(provider, first)
    assert provider().access_key == "AKIAEXAMPLE1"
    assert not renewed(static(first), first)


def test_a_profile_that_was_changed_is_read_anew(tmp_path, monkeypatch):
    """New keys in ~/.aws serve as soon as the old ones are refused."""
    own = tmp_path / "own"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(own))
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    own.write_text("[ml]\naws_access_key_id=AKIAOLD\naws_secret_access_key=s\n")
    provider = ChainKeys("ml")
    old = provider()
    assert not renewed(provider, old)
    own.write_text("[ml]\naws_access_key_id=AKIANEW\naws_secret_access_key=s\n")
    assert provider().access_key == "AKIAOLD"
    assert renewed(provider, old)
    assert provider().access_key == "AKIANEW"


def test_a_session_that_was_revoked_is_renewed(issuer, federated):
    """Keys that look good and that the server no longer takes are exchanged anew once, and the work goes on."""
    url = federated.endpoint_url
    federated.client().put_object(Bucket=servers.SHARED_BUCKET, Key="shared", Body=b"shared")
    found = resolved(url, policy_for(issuer, url), issuer.mint())
    made = found.provider._make

    def first_is_bad(calls=[]):  # noqa: B006 - counts over calls
        calls.append(1)
        keys = made()
        return AwsKeys(access_key=keys.access_key, secret_key="revoked", token=keys.token) if len(calls) == 1 else keys

    found.provider._make = first_is_bad
    found.provider._pause_seconds = 0.0
    with contextlib.closing(found.open()) as store:
        assert content(store, "shared") == b"shared"
    found.provider._make = lambda: AwsKeys(access_key="AKIAEXAMPLEEXAMPLE00", secret_key="bad")
    found.provider.refused(found.provider())
    with contextlib.closing(found.open()) as store, pytest.raises(Unauthenticated):
        store.head("shared")
