"""JWTs through the command: in the request, in the operator's file, and where neither may go."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import servers
from commands import run, tar

from creds.testing import OidcIssuer


@pytest.fixture
def federated(federated):
    """SeaweedFS whose STS knows the issuer, with an archive."""
    federated.client().put_object(Bucket=servers.SHARED_BUCKET, Key="data.tar.gz", Body=tar({"x": b"1"}, "w:gz"))
    return federated


def config(folder: Path, issuer: OidcIssuer, server: servers.S3Server) -> Path:
    host = server.endpoint_url.removeprefix("http://")
    path = folder / "artifacts.toml"
    path.write_text(
        f'version = 1\n[endpoint."{host}"]\nurl = "{server.endpoint_url}"\n'
        f'[issuer."{issuer.url}"]\nendpoints = ["{host}"]\nrole_arn = "{servers.ROLE_RW}"\n'
    )
    return path


def request(folder: Path, server: servers.S3Server, credentials: object) -> Path:
    host = server.endpoint_url.removeprefix("http://")
    place = f"s3://{host}/{servers.SHARED_BUCKET}"
    artifacts = {
        "data": {"qualified": f"{place}/data.tar.gz", "unpack": True, "credentials": credentials},
        "out": {
            "qualified": f"{place}/out-{os.urandom(4).hex()}.tar",
            "unpack": True,
            "mutable": True,
            "credentials": credentials,
        },
    }
    path = folder / "request.json"
    path.write_text(json.dumps({"experiment": {"key": "e", "artifacts": artifacts}}))
    return path


@pytest.mark.parametrize("whose", ["request", "operator"])
def test_a_token_becomes_keys(tmp_path, issuer, federated, whose):
    """A token stages and uploads by STS, whether the request carries it or the operator's file holds it."""
    made = issuer.mint()
    (tmp_path / "token").write_text(made)
    credentials = {"jwt": {"token": made}} if whose == "request" else None
    options = ["--config", config(tmp_path, issuer, federated), "--json"]
    if whose == "operator":
        options += ["--token-file", tmp_path / "token"]
    document = request(tmp_path, federated, credentials)
    done = run("stage", document, "--into", tmp_path / "job", *options)
    assert done.code == 0, done.err
    assert done.lines[0]["credential"]["kind"] == "jwt"
    assert done.lines[0]["credential"]["source"] == ("request" if whose == "request" else "token")
    (tmp_path / "job" / "out" / "f").write_bytes(b"1")
    done = run("upload", document, "--from", tmp_path / "job", *options)
    assert done.code == 0, done.err
    assert done.lines[0]["status"] == "done"
    assert made not in done.out + done.err


def test_the_operators_token_goes_nowhere_unnamed(tmp_path, issuer, federated):
    """With neither --lend-to nor the issuer table the token is not sent: refused by policy, and the hint helps."""
    (tmp_path / "token").write_text(issuer.mint())
    host = federated.endpoint_url.removeprefix("http://")
    stage = (
        *("stage", request(tmp_path, federated, None), "--into", tmp_path / "job"),
        *("--endpoint", federated.endpoint_url, "--token-file", tmp_path / "token", "--role-arn", servers.ROLE_RW),
    )
    done = run(*stage)
    assert done.code == 3
    assert f"add --lend-to {host}, or name the issuer, and the endpoint, in the issuer table" in done.err
    lent = run(*stage, "--lend-to", host)
    assert lent.code == 0, lent.err


def test_get_with_a_token(tmp_path, issuer, federated):
    """The caller's own token, by the caller's own authority; it excludes other credentials."""
    (tmp_path / "token").write_text(issuer.mint())
    url = f"s3://{federated.endpoint_url.removeprefix('http://')}/{servers.SHARED_BUCKET}/data.tar.gz"
    options = ("--token-file", tmp_path / "token", "--role-arn", servers.ROLE_RW)
    done = run("get", "--unpack", url, tmp_path / "out", *options)
    assert done.code == 0, done.err
    assert (tmp_path / "out" / "x").read_bytes() == b"1"
    assert run("get", url, tmp_path / "y", "--anonymous", *options).code == 2


def test_an_ended_token_says_when(tmp_path, issuer, federated):
    """Refused before any connection, with the claim."""
    made = issuer.mint(ttl_seconds=-600)
    document = request(tmp_path, federated, {"jwt": {"token": made}})
    done = run("stage", document, "--into", tmp_path / "job", "--config", config(tmp_path, issuer, federated))
    assert done.code == 5
    assert "exp" in done.err
    assert made not in done.err
