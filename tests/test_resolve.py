"""From location and credential to store: the documented table, what each decision leads to, and a real server."""

import os
import pickle
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from creds.errors import (
    AmbiguousCredential,
    CredentialError,
    LocationError,
    MissingCredential,
    ObjectNotFound,
    PolicyError,
    StoreError,
    ToolkitError,
    UnsupportedCredential,
)
from creds.keys import ChainKeys
from creds.location import Location
from creds.models import AWSCredential, Credentials, JWTCredential, PlainCredential
from creds.policy import Endpoint, Policy
from creds.resolve import STORES, open_store, resolve
from creds.store import StoreOptions
from tests.test_location import DOCS, tables
from tests.test_policy import resolving_to
from tests.test_tokens import token

KEYS = Credentials(aws=AWSCredential(access_key="AKIAIOSFODNN7EXAMPLE", secret_access_key="planted-secret"))
PLAIN = Credentials(plain=PlainCredential(user="alice", password="planted-secret"))
JWT = Credentials(jwt=JWTCredential(token=token(sub="job-7")))
OPEN = Credentials(aws=AWSCredential())
PAGE = tables("authentication.md")
NAMED = Policy.for_requests(
    [
        "http://minio:9000",
        "http://host",
        "https://host",
        "sftp://host",
        "ftp://host",
        "ftps://tls.host",
        "ftps+implicit://host",
    ],
    file_roots=["/data"],
    lend_to=["minio:9000"],
)


def at(text):
    return Location.parse(text)


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """The machine's own AWS setup: keys and regions by profile, nothing in the environment."""
    pair = "aws_access_key_id=AKIAMACHINE\naws_secret_access_key=machine-secret\n"
    (tmp_path / "own").write_text(f"[default]\n{pair}[ml]\n{pair}")
    config = tmp_path / "config"
    config.write_text("[default]\nregion=eu-west-3\n[profile ml]\nregion=eu-north-1\n[profile odd]\nregion=x/y\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "own"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN", "REGION", "DEFAULT_REGION", "PROFILE"):
        monkeypatch.delenv(f"AWS_{name}", raising=False)


# One credential (and what the caller gave) of each kind.
KINDS = {
    "anonymous": (OPEN, StoreOptions()),
    "plain": (PLAIN, StoreOptions()),
    "aws": (KEYS, StoreOptions()),
    "profile": (Credentials(aws=AWSCredential(profile="ml")), StoreOptions(profile="ml")),
    "ambient": (None, StoreOptions(ambient=True)),
    "jwt": (JWT, StoreOptions()),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scheme", ["s3", "file", "http", "https", "ftp", "ftps", "ftps+implicit", "sftp"])
def test_the_table_of_stores(machine, scheme, kind):
    """Code, page and behaviour agree on every cell: a store, or the error that says there is none."""
    columns = ["scheme", "anonymous", "plain", "aws", "profile", "ambient", "jwt"]
    row = next(row for row in PAGE["Stores"] if f"`{scheme}`" in row[0])
    said = row[columns.index(kind)]
    assert (said == "yes") is (kind in STORES.get(scheme, {}))
    credentials, options = KINDS[kind]
    location = at(
        {"s3": "s3://minio:9000/b/k", "file": "file:///data/k"}.get(
            scheme, f"{scheme}://{'tls.' if scheme == 'ftps' else ''}host/k"
        )
    )
    if said == "yes":
        resolved = resolve(location, credentials, options, NAMED)
        assert resolved.identity.kind == kind
        resolved.open().close()
    elif scheme not in ("s3", "sftp") and kind == "ambient":
        # Nothing of the caller's own AWS setup is looked at but for S3.
        assert resolve(location, credentials, options, NAMED).identity.kind == "anonymous"
    else:
        with pytest.raises((UnsupportedCredential, MissingCredential, PolicyError)):
            resolve(location, credentials, options, NAMED)


@pytest.mark.parametrize("page", ["locations.md", "policy.md", "authentication.md"])
def test_the_pages_snippets_run(page):
    """The last Python block of each page runs, and what it asserts holds."""
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)
    # The others of one page talk to servers: test_docs_authentication.py runs them.
    assert len(blocks) == (3 if page == "authentication.md" else 1)
    exec(compile(blocks[-1], page, "exec"), {})


def test_resolving_imports_no_engine_and_opens_no_socket():
    """Deciding is pure; opening loads one engine's module; boto3 waits until it is asked for."""
    program = """
import sys, socket
def forbidden(*args, **kwargs): raise AssertionError("a socket was made")
socket.socket = socket.getaddrinfo = forbidden
from creds.location import Location
from creds.policy import Policy
from creds.resolve import resolve
from creds.store import StoreOptions
policy = Policy.for_requests(["http://minio:9000"], lend_to=["minio:9000"])
for options in (StoreOptions(), StoreOptions(ambient=True)):
    resolved = resolve(Location.parse("s3://minio:9000/b/k"), None, options, policy)
heavy = {"boto3", "botocore"} & set(sys.modules)
assert not heavy, heavy
assert not any(name.startswith("creds.stores.") for name in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_hostile_environment_changes_nothing(monkeypatch):
    """With every AWS_* set, a request's keys, region and endpoint are its own."""
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN", "REGION", "DEFAULT_REGION", "PROFILE"):
        monkeypatch.setenv(f"AWS_{name}", "hostile")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://169.254.169.254")
    resolved = resolve(at("s3://data/k"), KEYS)
    assert resolved.provider().token is None
    assert resolved.provider().access_key == "AKIAIOSFODNN7EXAMPLE"
    assert (resolved.region, resolved.region_source) == ("us-east-1", "default")
    assert resolved.verdict.endpoint_url == "https://s3.us-east-1.amazonaws.com"
    assert resolve(at("s3://data/k")).provider is None


@pytest.mark.parametrize(
    ("qualified", "region", "endpoint_url", "on_aws", "addressing", "checksums"),
    [
        ("s3://data/k", None, "https://s3.us-east-1.amazonaws.com", True, "virtual", True),
        ("s3://data/k", "eu-west-1", "https://s3.eu-west-1.amazonaws.com", True, "virtual", True),
        ("s3://data/k", "cn-north-1", "https://s3.cn-north-1.amazonaws.com.cn", True, "virtual", True),
        ("s3://my.data/k", None, "https://s3.us-east-1.amazonaws.com", True, "path", True),
        ("s3://My_Data/k", None, "https://s3.us-east-1.amazonaws.com", True, "path", True),
        ("s3://s3.amazonaws.com/data/k", "eu-west-1", "https://s3.eu-west-1.amazonaws.com", True, "virtual", True),
        ("s3://s3.dualstack.us-west-2.amazonaws.com/data/k", None, "https://s3.dualstack.us-west-2.amazonaws.com", True, "virtual", True),
        ("s3://data.s3-accelerate.amazonaws.com/k", "us-west-2", "https://s3-accelerate.amazonaws.com", True, "virtual", True),
        ("s3://minio:9000/data/k", "us-west-2", "http://minio:9000", False, "path", False),
    ],
)  # fmt: skip
def test_what_follows_from_the_place(qualified, region, endpoint_url, on_aws, addressing, checksums):
    """URL, addressing and checksums by where the bucket is."""
    resolved = resolve(at(qualified), KEYS, StoreOptions(region=region), NAMED)
    assert resolved.verdict.endpoint_url == endpoint_url
    assert (resolved.on_aws, resolved.addressing, resolved.checksums) == (on_aws, addressing, checksums)
    assert resolved.key == "k"


def test_the_callers_option_comes_before_the_operators_entry():
    """addressing and checksums: option, then entry, then by place; an address is never part of a longer name."""
    entry = Endpoint(url="https://minio:9000", addressing="virtual", checksums="always", region="garage")
    policy = Policy.for_requests([entry, Endpoint(url="http://127.0.0.1:9000", addressing="virtual")])
    resolved = resolve(at("s3://minio:9000/data/k"), KEYS, None, policy)
    assert (resolved.addressing, resolved.checksums) == ("virtual", True)
    assert (resolved.region, resolved.region_source) == ("garage", "endpoint")
    resolved = resolve(at("s3://minio:9000/data/k"), KEYS, StoreOptions(addressing="path", checksums="never"), policy)
    assert (resolved.addressing, resolved.checksums) == ("path", False)
    assert resolve(at("s3://127.0.0.1:9000/data/k"), KEYS, None, policy).addressing == "path"
    with pytest.raises(LocationError, match="addressing is 'sub'"):
        resolve(at("s3://minio:9000/data/k"), KEYS, StoreOptions(addressing="sub"), policy)


def test_an_endpoint_url_at_aws_is_aws():
    """The caller's --endpoint-url may be an AWS host: its name tells the region, and AWS' ways apply."""
    policy = Policy.for_caller("https://s3.eu-west-1.amazonaws.com")
    resolved = resolve(at("s3://data/k"), KEYS, None, policy)
    assert (resolved.region, resolved.on_aws, resolved.addressing) == ("eu-west-1", True, "virtual")
    resolved = resolve(at("s3://data/k"), KEYS, None, Policy.for_caller("http://minio.ml.svc:9000"))
    assert (resolved.verdict.endpoint_url, resolved.on_aws) == ("http://minio.ml.svc:9000", False)


def test_the_default_policy_is_a_requests():
    """Without a policy only AWS is reached."""
    with pytest.raises(PolicyError, match="the endpoint minio:9000 is not named") as raised:
        open_store(at("s3://minio:9000/b/k"), KEYS)
    assert raised.value.hint == "add --endpoint http://minio:9000 (https:// if it speaks TLS)"
    with pytest.raises(PolicyError, match="outside every file root"):
        open_store(at("file:///etc/passwd"))


@pytest.mark.parametrize(
    ("qualified", "credentials", "env", "error"),
    [
        ("s3://data/k", Credentials(aws=AWSCredential(access_key="AKIA")), {}, MissingCredential),
        ("s3://data/k", Credentials(aws=AWSCredential(), plain=PlainCredential()), {}, AmbiguousCredential),
        ("s3://data/k", JWT, {}, MissingCredential),
        ("s3://data/k", Credentials(jwt=JWTCredential(token="planted.jwt.token")), {}, CredentialError),
        ("s3://data/k", None, {"AWS_ACCESS_KEY_ID": "AKIA"}, MissingCredential),
        ("s3://data/k", Credentials(aws=AWSCredential(profile="ml")), {}, PolicyError),
        ("s3://data/k", Credentials(aws=AWSCredential(region="x/y")), {}, LocationError),
        ("file:///data/k", KEYS, {}, UnsupportedCredential),
        ("file:///data/k", JWT, {}, UnsupportedCredential),
        ("https://other.host/k?X-Amz-Signature=planted", None, {}, PolicyError),
        ("s3://other:9000/b/k", KEYS, {}, PolicyError),
    ],
)
def test_every_refusal_names_its_location(qualified, credentials, env, error):
    """Whatever refuses, the error carries the masked location and no secret."""
    location = at(qualified)
    with pytest.raises(error) as raised:
        resolve(location, credentials, StoreOptions(request_env=env), NAMED)
    assert isinstance(raised.value, ToolkitError)
    assert raised.value.location == str(location)
    assert "planted" not in f"{raised.value!r} {raised.value} {raised.value.hint}"


def test_a_resolved_location_shows_no_secret():
    """Its repr may be logged."""
    env = {"AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE", "AWS_SECRET_ACCESS_KEY": "planted-secret"}
    resolved = resolve(at("s3://minio:9000/b/k"), None, StoreOptions(request_env=env), NAMED)
    assert resolved.identity.source == "request.env"
    assert "planted" not in repr(resolved)
    with pytest.raises(TypeError, match="keys are not pickled"):
        pickle.dumps(resolved)


def test_the_guard_looks_at_the_host_that_is_connected_to():
    """A store's first use resolves the name, the bucket's own where it is part of it, and refuses metadata."""
    resolver = resolving_to("169.254.169.254")
    entry = Endpoint(url="http://minio.svc:9000", addressing="virtual")
    policy = Policy.for_requests([entry, "http://plain.svc:9000"], resolver=resolver)
    for qualified in ("s3://minio.svc:9000/data/k", "s3://plain.svc:9000/data/k", "s3://data/k"):
        store = open_store(at(qualified), KEYS, None, policy)
        with pytest.raises(PolicyError, match=r"leads to 169\.254\.169\.254") as raised:
            store.head("k")
        assert raised.value.rule == "metadata-address"
        store.close()
    assert resolver.asked == [
        ("data.minio.svc", 9000),
        ("plain.svc", 9000),
        ("data.s3.us-east-1.amazonaws.com", 443),
    ]


def test_the_callers_own_region_comes_last_but_one(machine):
    """With the caller's keys, and no region named, that of their setup is read when the store is opened."""
    resolver = resolving_to("169.254.169.254")
    policy = Policy.for_caller(resolver=resolver)
    for options in (
        StoreOptions(ambient=True),
        StoreOptions(profile="ml"),
        StoreOptions(profile="ml", region="us-west-2"),
    ):
        resolved = resolve(at("s3://data/k"), None, options, policy)
        assert isinstance(resolved.provider, ChainKeys)
        store = resolved.open()
        with pytest.raises(PolicyError):
            store.head("k")
        store.close()
    assert [host for host, _ in resolver.asked] == [
        "data.s3.eu-west-3.amazonaws.com",
        "data.s3.eu-north-1.amazonaws.com",
        "data.s3.us-west-2.amazonaws.com",
    ]
    with pytest.raises(LocationError, match="the AWS setup's region is 'x/y'"):
        resolve(at("s3://data/k"), None, StoreOptions(profile="odd"), policy).open()


def test_files_of_a_request_stay_below_their_root(tmp_path):
    """The store is the named root, the key is relative to it, and a link out of it leads nowhere."""
    root = tmp_path / "root"
    (root / "sets").mkdir(parents=True)
    (root / "sets" / "k").write_bytes(b"inside")
    (tmp_path / "secret").write_bytes(b"outside")
    (root / "link").symlink_to(tmp_path)
    policy = Policy.for_requests(file_roots=[root])
    resolved = resolve(at(f"file://{root}/sets/k"), None, None, policy)
    assert (resolved.verdict.root, resolved.key, resolved.region) == (str(root), "sets/k", "")
    store = resolved.open()
    with store.open(resolved.key) as reading:
        assert b"".join(bytes(part) for part in reading) == b"inside"
    store.close()
    resolved = resolve(at(f"file://{root}/link/secret"), OPEN, None, policy)
    store = resolved.open()
    with pytest.raises(ToolkitError):
        store.open(resolved.key)
    store.close()


def test_the_callers_file_may_lie_behind_links(tmp_path):
    """The caller's own path is followed to its folder; the file below is the key."""
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "k").write_bytes(b"mine")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    resolved = resolve(at(f"file://{tmp_path}/link/k"), None, StoreOptions(ambient=True), Policy.for_caller())
    store = resolved.open()
    with store.open(resolved.key) as reading:
        assert b"".join(bytes(part) for part in reading) == b"mine"
    assert resolved.verdict.rule == "caller"
    store.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """rclone's S3 on loopback with one pair of keys; buckets are its folders."""
    program = shutil.which("rclone", path=str(Path(sys.executable).parent)) or shutil.which("rclone")
    if program is None:
        pytest.fail("rclone is missing; it comes with the test extra (pip install 'artifact-creds[test]')")
    folder = tmp_path_factory.mktemp("rclone")
    (folder / "root" / "data").mkdir(parents=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [program, "serve", "s3", str(folder / "root"), "--addr", f"127.0.0.1:{port}", "--auth-key", "AKIAREAL,real-secret",
         "--vfs-cache-mode", "writes", "--cache-dir", str(folder / "cache"), "-q"],
        env={"PATH": os.environ["PATH"], "HOME": str(folder), "RCLONE_CONFIG": str(folder / "none")},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    pytest.fail("rclone serve s3 did not start")
                time.sleep(0.05)
        yield port
    finally:
        process.kill()
        process.wait()


def test_a_request_reaches_a_named_server(server):
    """As StudioML writes it, plaintext on a private address, under the one flag that allows it: written and read."""
    location = Location.parse(f"s3://127.0.0.1:{server}/data/sets/a b+c.tar", bucket="data", key="sets/a b+c.tar")
    credentials = Credentials(aws=AWSCredential(access_key="AKIAREAL", secret_access_key="real-secret"))
    policy = Policy.for_requests([f"http://127.0.0.1:{server}"])
    with pytest.raises(PolicyError, match="is not named"):
        open_store(location, credentials)
    store = open_store(location, credentials, None, policy)
    assert store.write(location.key, [b"con", b"tent"]).size_bytes == 7
    with store.open(location.key) as reading:
        assert b"".join(bytes(part) for part in reading) == b"content"
    with pytest.raises(ObjectNotFound):
        store.open("sets/a%20b+c.tar")
    store.close()


@pytest.mark.parametrize(
    ("credentials", "env"),
    [
        (Credentials(plain=PlainCredential(user="AKIAREAL", password="real-secret")), {}),
        (None, {"AWS_ACCESS_KEY_ID": "AKIAREAL", "AWS_SECRET_ACCESS_KEY": "real-secret"}),
    ],
    ids=["plain", "request.env"],
)
def test_other_sources_of_the_pair_sign_too(server, credentials, env):
    """A user and password, or the request's own environment, are keys to the server."""
    location = Location.parse(f"s3://127.0.0.1:{server}/data/by-{len(env)}")
    store = open_store(location, credentials, StoreOptions(request_env=env), Policy.for_caller())
    store.write(location.key, [b"x"])
    assert store.head(location.key).size_bytes == 1
    store.close()


def test_the_callers_chain_signs_when_asked_by_name(server, machine, tmp_path, monkeypatch):
    """--ambient and --profile use the machine's setup; without them the same call is anonymous and refused."""
    (tmp_path / "credentials").write_text("[ml]\naws_access_key_id=AKIAREAL\naws_secret_access_key=real-secret\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAREAL")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "real-secret")
    location = Location.parse(f"s3://127.0.0.1:{server}/data/own")
    for options in (StoreOptions(ambient=True), StoreOptions(profile="ml")):
        store = open_store(location, None, options, Policy.for_caller())
        store.write("own", [b"mine"])
        assert store.head("own").size_bytes == 4
        store.close()
    store = open_store(location, None, None, Policy.for_caller())
    # rclone answers an unsigned request with 400 and no word for it.
    with pytest.raises(StoreError) as raised:
        store.open("own")
    assert raised.value.http_status == 400
    store.close()


@pytest.mark.parametrize(
    ("first", "second", "credentials"),
    [
        ("s3://minio:9000/b/one", "s3://minio:9000/b/two", KEYS),
        ("s3://s3.eu-west-1.amazonaws.com/b/one", "s3://s3.eu-west-1.amazonaws.com/b/two", PLAIN),
        ("s3://b/one", "s3://b/two", Credentials(aws=AWSCredential(region="eu-west-1"))),
        ("http://host/one", "http://host/deep/two", PLAIN),
        ("sftp://host/one", "sftp://host/two", PLAIN),
        ("file:///data/one", "file:///data/sub/two", None),
    ],
)
def test_beside_another_key_all_but_the_decision_is_shared(first, second, credentials):
    """What is taken over is what would have been decided alone, the region's endpoint too."""
    one = resolve(at(first), credentials, policy=NAMED)
    beside = resolve(at(second), credentials, policy=NAMED, beside=one)
    alone = resolve(at(second), credentials, policy=NAMED)
    names = ("location", "verdict", "identity", "region", "region_source", "on_aws", "addressing", "checksums", "key")
    assert {name: getattr(beside, name) for name in names} == {name: getattr(alone, name) for name in names}
    assert beside.server_url == alone.server_url


def test_beside_another_key_the_policy_decides_anew():
    """A file outside the root is refused although its neighbour was allowed, and both decisions are on record."""
    told = []
    policy = Policy.for_requests(file_roots=["/data"], on_decision=told.append)
    one = resolve(at("file:///data/one"), None, policy=policy)
    with pytest.raises(PolicyError, match="outside every file root"):
        resolve(at("file:///etc/two"), None, policy=policy, beside=one)
    assert [(decision.location, decision.allowed) for decision in told] == [
        ("file:///data/one", True),
        ("file:///etc/two", False),
    ]
