"""The command's network options: a private authority, a client's certificate, retries and timeouts."""

from __future__ import annotations

import pytest
from commands import Bench, run
from tlsfront import Authority, tls_front


@pytest.fixture
def bench(seaweed, bucket, tmp_path) -> Bench:
    return Bench(seaweed, bucket, tmp_path)


def test_a_request_over_tls_with_a_private_authority(bench, tmp_path):
    """--ca adds an authority; --client-cert is shown; without either it is refused, with the flag to add."""
    bench.put("data.bin", b"content")
    authority = Authority(tmp_path)
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    with tls_front(bench.server.address, authority, client_cert=True) as front:
        host = f"localhost:{front.port}"
        artifact = bench.artifact("data.bin", unpack=False) | {"qualified": f"s3://{host}/{bench.bucket}/data.bin"}
        request = bench.request({"data": artifact})
        stage = ("stage", request, "--into", bench.job, "--endpoint", f"https://{host}")
        for options, said, flag in (
            ((), "the server's certificate is not trusted", "--ca"),
            (("--ca", tmp_path / "ca.pem"), "the server ended the TLS handshake", "--client-cert"),
        ):
            refused = run(*stage, *options)
            assert refused.code == 2
            assert said in refused.err
            assert flag in refused.err
        cert = ("--client-cert", authority.client_cert, "--client-key", authority.client_key)
        done = run(*stage, "--ca", tmp_path / "ca.pem", *cert)
        assert done.code == 0, done.err
        assert (bench.job / "data" / "data.bin").read_bytes() == b"content"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--client-key", "k"), "--client-key goes with --client-cert"),
        (("--ca", "missing.pem"), "--ca missing.pem: No such file"),
        (("--retries", "-1"), "--retries"),
        (("--read-timeout", "0"), "--read-timeout"),
    ],
)
def test_options_that_make_no_sense(bench, options, said):
    """They are usage errors, told before anything else."""
    refused = run("check", bench.request({}), *options)
    assert refused.code == 2
    assert said in refused.err


def test_no_certificate_in_the_file(bench, tmp_path):
    """A file that holds no certificate is named."""
    (tmp_path / "ca.pem").write_text("not one")
    refused = run("check", bench.request({}), "--ca", tmp_path / "ca.pem")
    assert refused.code == 2
    assert "holds no certificate" in refused.err


def test_retries_are_counted(bench):
    """--retries 0 tries once; the receipt and the retries told say so."""
    request = bench.request({"data": bench.artifact("k") | {"qualified": f"s3://127.0.0.1:9/{bench.bucket}/k"}})
    stage = ("stage", request, "--into", bench.job, "--endpoint", "http://127.0.0.1:9")
    assert "attempt" not in run(*stage, "--retries", "0").err
    once = run(*stage, "--retries", "1")
    assert once.code == 75
    assert once.err.count("attempt 1 failed") == 1
    assert "attempt 2" not in once.err
