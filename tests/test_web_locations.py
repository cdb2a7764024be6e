"""Artifacts at http(s) locations, through the command: Basic, Bearer, anonymous, presigned, and where policy ends it."""

from __future__ import annotations

import json
import time
from pathlib import Path

import jwt as pyjwt
import pytest
import webservers
from commands import run, tar
from webservers import ScriptedServer, Seen

from artifacts import Request, StagingDir
from creds import Credentials, Location, PlainCredential, Policy, PolicyError, StoreOptions, Sts, open_store
from creds.tokens import TokenFile


def token(**claims: object) -> str:
    """A token that a server accepts by its text alone."""
    now = int(time.time())
    return pyjwt.encode(
        {"iss": "https://issuer", "sub": "job-7", "exp": now + 600, **claims}, "k" * 32, algorithm="HS256"
    )


def written(folder: Path, credentials: object, **urls: str) -> Path:
    artifacts = {
        label: {"qualified": url, "mutable": label == "model", "unpack": True, "credentials": credentials}
        for label, url in urls.items()
    }
    path = folder / "request.json"
    path.write_text(json.dumps({"experiment": {"key": "e", "artifacts": artifacts}}))
    return path


@pytest.mark.parametrize("server", ["wsgidav", "rclone_dav", "nginx"])
def test_staged_and_uploaded_over_webdav(server, tmp_path, request):
    """A user and password stage from WebDAV, and results are published there by a rename."""
    dav = request.getfixturevalue(server)
    dav = dav.basic if server == "nginx" else dav
    login = {"plain": {"user": webservers.USER, "password": webservers.PASSWORD}}
    (tmp_path / "keys.json").write_text(json.dumps(login))
    (tmp_path / "packed").write_bytes(tar({"x": b"1"}, "w:gz"))
    put = run("put", tmp_path / "packed", f"{dav.url}/data.tar.gz", "--credentials", tmp_path / "keys.json")
    assert put.code == 0, put.err
    document = written(tmp_path, login, data=f"{dav.url}/data.tar.gz", model=f"{dav.url}/out/{server}.tar")
    job = tmp_path / "job"
    done = run("stage", document, "--into", job, "--endpoint", dav.url)
    assert done.code == 0, done.err
    assert (job / "data" / "x").read_bytes() == b"1"
    (job / "model" / "weights").write_bytes(b"w" * 1000)
    done = run("upload", document, "--from", job, "--endpoint", dav.url, "--json")
    assert done.code == 0, done.err
    assert done.lines[0]["credential"]["kind"] == "plain"
    assert b"w" * 1000 in (dav.folder / "out" / f"{server}.tar").read_bytes()
    assert [path.name for path in (dav.folder / "out").iterdir() if "partial" in path.name] == []
    wrong = written(
        tmp_path, {"plain": {"user": webservers.USER, "password": "wrong-one"}}, data=f"{dav.url}/data.tar.gz"
    )
    assert run("stage", wrong, "--into", tmp_path / "other", "--endpoint", dav.url).code == 5


def test_a_client_certificate_stages(tmp_path, nginx):
    """A server that wants a certificate and nothing else gets it from --client-cert; without it the hint names it."""
    (tmp_path / "packed").write_bytes(tar({"x": b"1"}, "w:gz"))
    (tmp_path / "ca.pem").write_bytes(nginx.authority.pem)
    url = f"{nginx.mutual.url}/mutual/data.tar.gz"
    shown = ("--client-cert", nginx.authority.client_cert, "--client-key", nginx.authority.client_key)
    trust = ("--ca", tmp_path / "ca.pem")
    done = run("put", tmp_path / "packed", url, *trust, *shown)
    assert done.code == 0, done.err
    document = written(tmp_path, None, data=url)
    stage = ("stage", document, "--into", tmp_path / "job", "--endpoint", nginx.mutual.url, *trust)
    refused = run(*stage)
    assert refused.code == 2, refused.err
    assert "--client-cert" in refused.err
    done = run(*stage, *shown)
    assert done.code == 0, done.err
    assert (tmp_path / "job" / "data" / "x").read_bytes() == b"1"


def test_a_bearer_token_stages(tmp_path):
    """credentials.jwt is a Bearer token over http(s); one that ended is refused before any connection."""
    good = token()
    with webservers.wsgidav(tokens=[good]) as dav:
        (dav.folder / "data.tar.gz").write_bytes(tar({"x": b"1"}, "w:gz"))
        url = f"{dav.url}/data.tar.gz"
        document = written(tmp_path, {"jwt": {"token": good}}, data=url)
        done = run("stage", document, "--into", tmp_path / "job", "--endpoint", dav.url, "--json")
        assert done.code == 0, done.err
        assert done.lines[0]["credential"]["kind"] == "jwt"
        assert done.lines[0]["credential"]["id"] == "sub:job-7"
        ended = written(tmp_path, {"jwt": {"token": token(exp=int(time.time()) - 600)}}, data=url)
        done = run("stage", ended, "--into", tmp_path / "job2", "--endpoint", dav.url)
        assert done.code == 5
        assert "exp" in done.err


def test_the_operators_token_is_read_for_each_request(tmp_path):
    """A token file is read again when it changed; it goes only where the issuer table names."""
    from creds import Issuer

    first, second = token(jti="1"), token(jti="2")
    file = tmp_path / "token"
    file.write_text(first)
    with webservers.wsgidav(tokens=[first]) as dav:
        (dav.folder / "a").write_bytes(b"content")
        host = dav.url.partition("://")[2]
        location = Location.parse(f"{dav.url}/a")
        options = StoreOptions(sts=Sts(token=TokenFile(str(file))))
        with pytest.raises(PolicyError, match="may not be used"):
            open_store(location, None, options, Policy.for_requests([dav.url]))
        issuers = [Issuer(iss="https://issuer", endpoints=(host,))]
        store = open_store(location, None, options, Policy.for_requests([dav.url], issuers=issuers))
        assert store.head("a").size_bytes == 7
        dav.accept(second)
        file.write_text(second)
        assert store.head("a").size_bytes == 7
        store.close()


def test_the_callers_get_and_put(tmp_path, wsgidav):
    """get and put use the caller's authority: loopback in plaintext, --credentials for Basic."""
    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps({"plain": {"user": webservers.USER, "password": webservers.PASSWORD}}))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "f").write_bytes(b"1")
    url = f"{wsgidav.url}/made/here/folder.tar.zst"
    done = run("put", tmp_path / "folder", url, "--credentials", keys)
    assert done.code == 0, done.err
    assert run("get", "--unpack", url, tmp_path / "back", "--credentials", keys).code == 0
    assert (tmp_path / "back" / "f").read_bytes() == b"1"
    assert run("put", tmp_path / "keys.json", url, "--if-absent", "--credentials", keys).code == 7
    assert run("get", f"{wsgidav.url}/none", tmp_path / "x", "--credentials", keys).code == 4


def test_a_redirect_is_held_to_the_policy(tmp_path):
    """To an endpoint that is not named, to a metadata address, to plaintext: refused, and no credential travels."""
    seen: list[Seen] = []

    def answer(got: Seen) -> webservers.Answer:
        seen.append(got)
        target = {"/meta": "http://169.254.169.254/x", "/other": "https://other.example/x"}.get(got.target)
        if target is not None:
            return 302, {"Location": target}, b""
        return 200, {}, b"content"

    with ScriptedServer(answer) as server:
        policy = Policy.for_requests([server.url])
        login = Credentials(plain=PlainCredential(user="u", password="planted"))
        store = open_store(Location.parse(f"{server.url}/x"), login, None, policy)
        for key, rule in (("meta", "metadata-address"), ("other", "not-named")):
            with pytest.raises(PolicyError) as caught, store.open(key):
                pass
            assert caught.value.rule == rule
        with store.open("x") as reading:
            assert b"".join(reading) == b"content"
        store.close()
    assert all("authorization" in {name.lower() for name in got.headers} for got in seen)


def test_presigned_urls_are_locations_and_stay_masked(seaweed, bucket, tmp_path):
    """The query travels and is shown nowhere; a credential beside it is refused."""
    client = seaweed.client()
    client.put_object(Bucket=bucket, Key="k.tar.gz", Body=tar({"x": b"1"}, "w:gz"))
    url = client.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "k.tar.gz"})
    secret = url.partition("Signature=")[2].partition("&")[0]
    document = written(tmp_path, None, data=url)
    done = run("stage", document, "--into", tmp_path / "job", "--endpoint", seaweed.endpoint_url, "--json", "-vv")
    assert done.code == 0, done.err
    assert (tmp_path / "job" / "data" / "x").read_bytes() == b"1"
    state = (tmp_path / "job" / ".artifacts" / "state.json").read_text()
    assert secret not in done.out + done.err + state
    assert run("check", document, "--endpoint", seaweed.endpoint_url).code == 0
    both = written(tmp_path, {"plain": {"user": "u", "password": "p"}}, data=url)
    refused = run("stage", both, "--into", tmp_path / "job2", "--endpoint", seaweed.endpoint_url)
    assert refused.code == 5
    assert "presigned" in refused.err


def test_a_staging_dir_at_http_locations(tmp_path, wsgidav):
    """The library's own way, with two artifacts that share one store."""
    for name in ("a", "b"):
        (wsgidav.folder / f"{name}.tar.gz").write_bytes(tar({name: b"1"}, "w:gz"))
    login = {"plain": {"user": webservers.USER, "password": webservers.PASSWORD}}
    document = written(tmp_path, login, a=f"{wsgidav.url}/a.tar.gz", b=f"{wsgidav.url}/b.tar.gz")
    staging = StagingDir(tmp_path / "job", policy=Policy.for_requests([wsgidav.url]))
    receipts = staging.stage(Request.load(document))
    assert [(receipt.label, receipt.status) for receipt in receipts] == [("a", "done"), ("b", "done")]
    assert [receipt.status for receipt in staging.stage(Request.load(document))] == ["unchanged", "unchanged"]
