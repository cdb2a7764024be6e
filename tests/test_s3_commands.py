"""The command's options of S3: encryption with the server's key or the caller's, and who pays."""

import base64
import json
import os
from pathlib import Path

import pytest
from commands import Bench, credentials, fill, run, tar
from tlsfront import Authority, tls_front

CUSTOMERS = bytes(range(1, 33))
SHOWN = base64.b64encode(CUSTOMERS).decode()


@pytest.fixture
def tls(seaweed, bucket, tmp_path):
    """A bench over TLS, and the arguments that get there."""
    authority = Authority(tmp_path)
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    (tmp_path / "keys.json").write_text(json.dumps(credentials(seaweed.admin)))
    (tmp_path / "key").write_bytes(CUSTOMERS)
    (tmp_path / "key.b64").write_text(SHOWN + "\n")
    with tls_front(seaweed.address, authority) as front:
        bench = Bench(seaweed, bucket, tmp_path, f"https://localhost:{front.port}")
        bench.host = f"localhost:{front.port}"
        yield bench, ("--ca", tmp_path / "ca.pem", "--endpoint", bench.url), front


def test_an_object_under_the_callers_key(tls, tmp_path):
    """put and get with the key in either form; without it, or with another, the object cannot be read. It never prints."""
    bench, there, _ = tls
    own = (*there, "--credentials", tmp_path / "keys.json")
    place = bench.place("sub/secret.bin")
    (tmp_path / "in").write_bytes(b"content")
    told = [
        run(
            "put", tmp_path / "in", place, *own, "--sse-c-key", tmp_path / "key", "-vv", "--log-file", tmp_path / "log"
        ),
        run("get", place, tmp_path / "out", *own, "--sse-c-key", tmp_path / "key.b64", "--json"),
        run("stat", place, *own, "--sse-c-key", tmp_path / "key"),
    ]
    assert [result.code for result in told] == [0, 0, 0], told[0].err
    assert (tmp_path / "out").read_bytes() == b"content"
    (tmp_path / "other").write_bytes(os.urandom(32))
    without = run("get", place, tmp_path / "no", *own)
    assert (without.code, "--sse-c-key" in without.err) == (2, True)
    assert run("get", place, tmp_path / "no", *own, "--sse-c-key", tmp_path / "other").code == 5
    assert not (tmp_path / "no").exists()
    for result in told:
        assert SHOWN not in result.out + result.err + (tmp_path / "log").read_text()


def test_a_request_under_the_callers_key(tls, tmp_path):
    """stage and upload: the same key for what comes and what goes."""
    bench, there, _ = tls
    url = bench.place("in.tar")
    own = (*there, "--credentials", tmp_path / "keys.json", "--sse-c-key", tmp_path / "key")
    (tmp_path / "in.tar").write_bytes(tar({"file": b"input"}))
    assert run("put", tmp_path / "in.tar", url, *own).code == 0
    request = bench.request({"in": bench.artifact("in.tar"), "out": bench.artifact("out.tar", mutable=True)})
    key = ("--sse-c-key", tmp_path / "key", "--json")
    staged = run("stage", request, "--into", bench.job, *there, *key)
    assert staged.statuses == {"in": "done", "out": "empty"}, staged.err
    fill(bench.job / "out", {"result": b"made"})
    assert run("upload", request, "--from", bench.job, *there, *key).statuses == {"out": "done"}
    head = bench.client.head_object(
        Bucket=bench.bucket, Key="out.tar", SSECustomerAlgorithm="AES256", SSECustomerKey=CUSTOMERS
    )
    assert head["SSECustomerAlgorithm"] == "AES256"
    assert run("stage", request, "--into", bench.job, *there, *key).statuses == {"in": "unchanged", "out": "unchanged"}


def test_a_key_of_the_servers(tls, tmp_path):
    """--sse and --sse-kms-key-id reach what is written; --requester-pays every request."""
    bench, there, front = tls
    own = (*there, "--credentials", tmp_path / "keys.json", "--requester-pays")
    (tmp_path / "in").write_bytes(b"content")
    kms = ("--sse", "aws:kms", "--sse-kms-key-id", "11111111-2222-3333-4444-555555555555")
    assert run("put", tmp_path / "in", bench.place("kms"), *own, *kms).code == 0
    assert run("put", tmp_path / "in", bench.place("s3"), *own, "--sse", "AES256").code == 0
    heads = {key: bench.client.head_object(Bucket=bench.bucket, Key=key) for key in ("kms", "s3")}
    assert {key: head["ServerSideEncryption"] for key, head in heads.items()} == {"kms": "aws:kms", "s3": "AES256"}
    assert run("get", bench.place("kms"), tmp_path / "out", *own).code == 0
    assert {headers.get("x-amz-request-payer") for _, headers in front.requests()} == {"requester"}


def test_the_callers_key_over_plaintext(seaweed, bucket, tmp_path):
    """It is refused, although the endpoint was named with http://."""
    bench = Bench(seaweed, bucket, tmp_path)
    (tmp_path / "key").write_bytes(CUSTOMERS)
    request = bench.request({"in": bench.artifact("in.tar")})
    refused = bench.stage(request, "--sse-c-key", str(tmp_path / "key"))
    assert refused.code == 5
    assert "the customer's key goes over TLS alone" in refused.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--sse", "AES128"), "Invalid value for '--sse'"),
        (("--sse-kms-key-id", "k"), "goes with sse aws:kms"),
        (("--sse-c-key", "missing"), "--sse-c-key missing: No such file"),
        (("--sse-c-key", "short"), "has 3 bytes"),
        (("--sse-c-key", "none"), "holds neither 32 bytes nor base64"),
        (("--sse-c-key", "key", "--sse", "AES256"), "exclude each other"),
    ],
)
def test_options_that_make_no_sense(options, said, tmp_path):
    """They are usage errors, told before anything else, and show no part of a key."""
    fill(tmp_path, {"short": base64.b64encode(b"abc"), "none": "must-not-print!", "key": CUSTOMERS})
    refused = run(
        "get", f"file://{tmp_path}/key", "-", "--anonymous", *options, cwd=tmp_path, env={"PYTHONPATH": str(Path.cwd())}
    )
    assert (refused.code, said in refused.err) == (2, True), refused.err
    assert "must-not-print" not in refused.err
