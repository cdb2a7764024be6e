"""Every command with every kind of secret, where it works and where it fails, at its most talkative.

``ROWS`` says how each command of the tool is run, ``KINDS`` which secret goes with it to which server, ``PATHS`` what
goes wrong. What the command printed and logged, what the engines log at DEBUG, and each file that is left, are searched
for the secret in all its forms. A new command without a row fails the first test.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import commands
import ftpservers
import planted
import pytest
import servers
import tlsfront
import webservers

from artifacts.cli.main import cli

WRONG = "planted/Wrong+Secret=9 %"
WRONG_WORD = "planted-wrong-secret-0987654321"  # where neither space nor slash may be
ENV = "planted/Env+Secret=4"
API = "planted/Api+Key=5"
ARCHIVE = commands.tar({"weights": b"w" * 1000}, "w:gz")


@dataclass(frozen=True)
class Way:
    """One secret, and where it serves.

    Attributes:
        base: the URL of a folder.
        secrets: what must not be seen.
        credentials: as a request carries them.
        flags: of every command.
        lent: of the commands that serve a request, where the secret is the operator's own.
        lending: must these be told where it may serve?
        own: of the others, where it is the caller's.
        env: of every command.
        one: the only object that may be read, where it is presigned.
    """

    base: str
    secrets: tuple[str, ...]
    credentials: object = None
    flags: tuple[str, ...] = ()
    lent: tuple[str, ...] = ()
    lending: bool = False
    own: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    one: str = ""

    @property
    def endpoint(self) -> str:
        scheme, _, rest = self.base.partition("://")
        return f"{scheme.removeprefix('s3+')}://{rest.partition('/')[0]}"

    def url(self, name: str) -> str:
        return self.one or f"{self.base}/{name}"

    def at(self, host: str) -> Way:
        """The same at another server."""
        here = self.endpoint.partition("://")[2]
        return replace(self, base=self.base.replace(here, host, 1), one=self.one.replace(here, host, 1))


# How each command is run.

Row = Callable[[Way], tuple[str, ...]]


def of_request(*words: str, name: str = "request.json", after: tuple[str, ...] = ()) -> Row:
    def row(way: Way) -> tuple[str, ...]:
        lending = ("--lend-to", way.endpoint.partition("://")[2]) if way.lending and words[0] != "push" else ()
        return (words[0], name, *words[1:], *way.lent, *lending, *after)

    return row


def of_url(*words: str) -> Row:
    def row(way: Way) -> tuple[str, ...]:
        given = way.own if way.credentials is None else ("--credentials", "keys.json")
        return (*(way.url(word[1:]) if word.startswith("@") else word for word in words), *given)

    return row


ROWS: dict[str, Row] = {
    "put": of_url("put", "content.tar.gz", "@a.tar.gz"),
    "stat": of_url("stat", "@a.tar.gz"),
    "ls": of_url("ls", "@"),
    "get": of_url("get", "@a.tar.gz", "got.tar.gz"),
    "cp": of_url("cp", "@a.tar.gz", "@b.tar.gz"),
    "config show": lambda way: ("config show", "--origin", *way.lent),
    "check": of_request("check", "--audit", "audit.jsonl"),
    "stage": of_request("stage", "--into", "job", "--audit", "audit.jsonl"),
    "upload": of_request("upload", "--from", "job"),
    "run": of_request("run", "--into", "job", after=("--", "true")),
    "push": of_request("push", "-o", "pushed.json", name="local.json"),
    "doctor": of_url("doctor", "@a.tar.gz", "--write"),
    "gc": of_url("gc", "@"),
    "rm": of_url("rm", "@a.tar.gz"),
}
"""In this order, by the name of the command; a word with ``@`` is an object's URL."""

NO_ROW = {
    "demo": "its server and its keys are made for it",
    "config init": "writes a file that holds nothing of its caller's",
    "config check": "reads a file that names secrets and holds none",
}

REQUEST_COMMANDS = ("check", "stage", "upload", "run")


# Which secret, and where it serves.

Kind = Callable[[pytest.FixtureRequest, contextlib.ExitStack, Path, bool], Way]


def s3_url(server: servers.S3Server) -> str:
    return f"s3+{server.endpoint_url}/{servers.SHARED_BUCKET}"


def aws(request: pytest.FixtureRequest, _stack: contextlib.ExitStack, _folder: Path, right: bool) -> Way:
    secret = servers.WRITER.secret_key if right else WRONG
    keys = {"aws": {"access_key": servers.WRITER.access_key, "secret_access_key": secret}}
    return Way(s3_url(request.getfixturevalue("seaweed")), (secret,), keys)


def session(request: pytest.FixtureRequest, _stack: contextlib.ExitStack, _folder: Path, right: bool) -> Way:
    lent = request.getfixturevalue("lent")
    token = lent["SessionToken"] if right else WRONG_WORD
    secret = lent["SecretAccessKey"]
    keys = {"access_key": lent["AccessKeyId"], "secret_access_key": secret, "session_token": token}
    return Way(s3_url(request.getfixturevalue("federated")), (secret, token), {"aws": keys})


def s3_password(request: pytest.FixtureRequest, _stack: contextlib.ExitStack, _folder: Path, right: bool) -> Way:
    secret = servers.WRITER.secret_key if right else WRONG
    login = {"plain": {"user": servers.WRITER.access_key, "password": secret}}
    return Way(s3_url(request.getfixturevalue("seaweed")), (secret,), login)


def ambient(request: pytest.FixtureRequest, _stack: contextlib.ExitStack, _folder: Path, right: bool) -> Way:
    secret = servers.WRITER.secret_key if right else WRONG
    env = {"AWS_ACCESS_KEY_ID": servers.WRITER.access_key, "AWS_SECRET_ACCESS_KEY": secret}
    return Way(s3_url(request.getfixturevalue("seaweed")), (secret,), lent=("--ambient",), lending=True, env=env)


def profile(request: pytest.FixtureRequest, _stack: contextlib.ExitStack, folder: Path, right: bool) -> Way:
    secret = servers.WRITER.secret_key if right else WRONG
    (folder / ".aws").mkdir()
    (folder / ".aws" / "credentials").write_text(
        f"[ml]\naws_access_key_id = {servers.WRITER.access_key}\naws_secret_access_key = {secret}\n"
    )
    flags = ("--profile", "ml")
    return Way(s3_url(request.getfixturevalue("seaweed")), (secret,), lent=flags, lending=True, own=flags)


def _federation(request: pytest.FixtureRequest, folder: Path, right: bool) -> tuple[Way, str]:
    issuer, server = request.getfixturevalue("issuer"), request.getfixturevalue("federated")
    token = issuer.mint() if right else issuer.mint(sub="somebody-else")
    config = folder / "artifacts.toml"
    config.write_text(
        f'version = 1\n[issuer."{issuer.url}"]\nrole_arn = "{servers.ROLE_RW}"\n'
        f'endpoints = ["{server.endpoint_url.removeprefix("http://")}"]\n'
    )
    return Way(s3_url(server), (token, token.rpartition(".")[2]), flags=("--config", str(config))), token


def jwt(request: pytest.FixtureRequest, _stack: contextlib.ExitStack, folder: Path, right: bool) -> Way:
    way, token = _federation(request, folder, right)
    return replace(way, credentials={"jwt": {"token": token}})


def token_file(request: pytest.FixtureRequest, _stack: contextlib.ExitStack, folder: Path, right: bool) -> Way:
    way, token = _federation(request, folder, right)
    (folder / "token").write_text(token)
    flags = ("--token-file", str(folder / "token"))
    return replace(way, lent=flags, own=flags)


def basic(request: pytest.FixtureRequest, _stack: contextlib.ExitStack, _folder: Path, right: bool) -> Way:
    password = webservers.PASSWORD if right else WRONG
    login = {"plain": {"user": webservers.USER, "password": password}}
    return Way(request.getfixturevalue("wsgidav").url, (password, f"{webservers.USER}:{password}"), login)


def bearer(request: pytest.FixtureRequest, stack: contextlib.ExitStack, _folder: Path, right: bool) -> Way:
    issuer = request.getfixturevalue("issuer")
    token = issuer.mint()
    server = stack.enter_context(webservers.wsgidav(tokens=[token if right else "another"]))
    return Way(server.url, (token, token.rpartition(".")[2]), {"jwt": {"token": token}})


def presigned(request: pytest.FixtureRequest, _stack: contextlib.ExitStack, _folder: Path, right: bool) -> Way:
    server = request.getfixturevalue("seaweed")
    client = server.client()
    client.put_object(Bucket=servers.SHARED_BUCKET, Key="signed.tar.gz", Body=ARCHIVE)
    place = {"Bucket": servers.SHARED_BUCKET, "Key": "signed.tar.gz"}
    url = client.generate_presigned_url("get_object", Params=place, ExpiresIn=600)
    signature = url.rpartition("Signature=")[2].partition("&")[0]
    if not right:
        url = url.replace(signature, signature[::-1])
        signature = signature[::-1]
    base = f"{server.endpoint_url}/{servers.SHARED_BUCKET}"
    return Way(base, (signature,), own=("--anonymous",), one=url)


def ftps(_request: pytest.FixtureRequest, stack: contextlib.ExitStack, folder: Path, right: bool) -> Way:
    certificates = stack.enter_context(ftpservers.certificates())
    server = stack.enter_context(ftpservers.pyftpd("explicit", certificates))
    (folder / "ca.pem").write_bytes(certificates.ca_pem)
    password = ftpservers.PASSWORD if right else WRONG
    login = {"plain": {"user": ftpservers.USER, "password": password}}
    return Way(f"ftps://127.0.0.1:{server.port}", (password,), login, flags=("--ca", "ca.pem"))


def sftp(_request: pytest.FixtureRequest, stack: contextlib.ExitStack, _folder: Path, right: bool) -> Way:
    server = stack.enter_context(ftpservers.asyncssh_sftp())
    password = ftpservers.PASSWORD if right else WRONG
    login = {"plain": {"user": ftpservers.USER, "password": password}}
    return Way(f"sftp://127.0.0.1:{server.port}", (password,), login, flags=("--host-key", server.fingerprint))


def ssh_key(_request: pytest.FixtureRequest, stack: contextlib.ExitStack, folder: Path, right: bool) -> Way:
    import asyncssh

    mine, other = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
    known = mine if right else other
    server = stack.enter_context(ftpservers.asyncssh_sftp(known.export_public_key().decode()))
    (folder / "id").write_bytes(mine.export_private_key())
    return Way(
        f"sftp://127.0.0.1:{server.port}",
        _lines_of(folder / "id"),
        {"plain": {"user": ftpservers.USER, "password": ""}},
        flags=("--host-key", server.fingerprint, "--ssh-key", str(folder / "id")),
    )


def client_key(request: pytest.FixtureRequest, stack: contextlib.ExitStack, folder: Path, right: bool) -> Way:
    (folder / "tls").mkdir()
    authority, stranger = tlsfront.Authority(folder), tlsfront.Authority(folder / "tls")
    (folder / "ca.pem").write_bytes(authority.pem)
    server = request.getfixturevalue("seaweed")
    front = stack.enter_context(tlsfront.tls_front(server.address, authority, client_cert=True))
    shown = authority if right else stranger
    way = aws(request, stack, folder, True)
    return replace(
        way,
        base=f"s3+https://localhost:{front.port}/{servers.SHARED_BUCKET}",
        secrets=(*way.secrets, *_lines_of(Path(shown.client_key))),
        flags=("--ca", "ca.pem", "--client-cert", shown.client_cert, "--client-key", shown.client_key),
    )


def _lines_of(path: Path) -> tuple[str, ...]:
    """The lines of a PEM file that hold the key itself."""
    return tuple(line for line in path.read_text().splitlines() if not line.startswith("-") and len(line) > 20)


def proxy(request: pytest.FixtureRequest, stack: contextlib.ExitStack, folder: Path, right: bool) -> Way:
    password = "planted-proxy-password"
    front = stack.enter_context(webservers.ForwardProxy(f"proxy-user:{password}"))
    given = password if right else WRONG_WORD
    way = aws(request, stack, folder, True)
    env = {"HTTP_PROXY": f"http://proxy-user:{given}@127.0.0.1:{front.port}"}
    return replace(way, secrets=(*way.secrets, given, f"proxy-user:{given}"), env=env)


def web_proxy(request: pytest.FixtureRequest, stack: contextlib.ExitStack, folder: Path, right: bool) -> Way:
    through = proxy(request, stack, folder, right)
    way = basic(request, stack, folder, True)
    return replace(way, secrets=(*way.secrets, *through.secrets[1:]), env=through.env)


KINDS: dict[str, Kind] = {
    "aws": aws,
    "session": session,
    "s3-password": s3_password,
    "ambient": ambient,
    "profile": profile,
    "jwt": jwt,
    "token-file": token_file,
    "basic": basic,
    "bearer": bearer,
    "presigned": presigned,
    "ftps": ftps,
    "sftp": sftp,
    "ssh-key": ssh_key,
    "client-key": client_key,
    "proxy": proxy,
    "web-proxy": web_proxy,
}


# What goes wrong.


def echo(seen: webservers.Seen) -> webservers.Answer:
    """A server that refuses, and repeats everything it was told wherever an answer has room."""
    told = " ".join((seen.target, *seen.headers.values()))
    # Half of the answers can be read.
    body = f"{'<' if seen.method == 'PUT' else ''}<Error><Code>AccessDenied</Code><Message>{told}</Message><RequestId>{told}</RequestId></Error>".encode()
    headers = {"ETag": f'"{told}"', "x-amz-request-id": told, "WWW-Authenticate": f"Basic realm={told}"}
    return (403 if seen.method in ("GET", "PUT") else 401, headers, body)


PATHS = ("works", "wrong secret", "no server", "policy", "repeats it")


@pytest.fixture(scope="module")
def lent(issuer, federated) -> dict[str, str]:
    """Keys of a session, by STS."""
    import boto3
    from botocore import UNSIGNED
    from botocore.config import Config

    client = boto3.session.Session().client(
        "sts",
        region_name="us-east-1",
        endpoint_url=federated.endpoint_url,
        config=Config(signature_version=UNSIGNED),
    )
    with contextlib.closing(client):
        answer = client.assume_role_with_web_identity(
            RoleArn=servers.ROLE_RW, RoleSessionName="planted", WebIdentityToken=issuer.mint()
        )
    return answer["Credentials"]


def test_every_command_has_a_row() -> None:
    """Add one to ROWS, or to NO_ROW with its reason."""
    found = set()
    for name, command in cli.commands.items():
        below = getattr(command, "commands", None)
        found |= {name} if below is None else {f"{name} {sub}" for sub in below}
    assert set(ROWS) | set(NO_ROW) == found


@pytest.fixture
def talk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> Iterator[Callable[..., tuple[int, str]]]:
    """Run a command in this process; returns its exit code and all that it, and the engines' logs, said."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    log = logging.getLogger("artifacts")
    before = log.level, log.propagate

    def run(*words: str) -> tuple[int, str]:
        caplog.clear()
        with caplog.at_level(logging.DEBUG), pytest.raises(SystemExit) as ended:
            cli(words, prog_name="artifacts", standalone_mode=False)
        said = capfd.readouterr()
        return int(ended.value.code or 0), said.out + said.err + caplog.text

    yield run
    log.setLevel(before[0])
    log.propagate = before[1]


def write_inputs(way: Way, folder: Path) -> set[Path]:
    """The files that a user has before; they hold the secret."""
    model = {"qualified": way.url("a.tar.gz"), "unpack": True, "credentials": way.credentials}
    out = model | {"qualified": way.url("out.tar"), "mutable": True}
    config = {"env": {"UNUSED_SECRET": ENV}, "database": {"apiKey": API}}
    for name, artifacts in (
        ("request.json", {"model": model, "out": out}),
        ("local.json", {"out": out | {"local": "content.tar.gz", "unpack": False}}),
    ):
        (folder / name).write_text(json.dumps({"config": config, "experiment": {"key": "e", "artifacts": artifacts}}))
    (folder / "keys.json").write_text(json.dumps(way.credentials))
    (folder / "content.tar.gz").write_bytes(ARCHIVE)
    return {path for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", KINDS)
def test_no_command_shows_it(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    talk: Callable[..., tuple[int, str]],
    kind: str,
    path: str,
) -> None:
    """Its output, logs and files hold no secret in any form, and it ends as it should."""
    with contextlib.ExitStack() as stack:
        way = KINDS[kind](request, stack, tmp_path, path != "wrong secret")
        named = ("--endpoint", way.endpoint)
        if path == "no server":
            way = way.at(f"127.0.0.1:{servers.free_port()}")
            named = ("--endpoint", way.endpoint)
        elif path == "repeats it":
            if not way.endpoint.startswith("http"):
                pytest.skip("what does not speak HTTP has no room to repeat it in")
            if kind == "client-key":
                pytest.skip("the key signs, and is not sent")
            server = stack.enter_context(webservers.ScriptedServer(echo))
            way = way.at(server.url.removeprefix("http://"))
            named = ("--endpoint", way.endpoint)
        elif path == "policy":
            named = ()
        mine = write_inputs(way, tmp_path)
        for name, value in way.env.items():
            monkeypatch.setenv(name, value)
        secrets = (*way.secrets, ENV, API)
        codes = {}
        for number, (name, row) in enumerate(ROWS.items()):
            target = way.at("169.254.169.254") if path == "policy" and name not in REQUEST_COMMANDS else way
            words = row(target)
            if name == "upload" and (tmp_path / "job" / "out").exists():
                (tmp_path / "job" / "out" / "weights").write_bytes(os.urandom(10))
            talkative = ("-vv", "--traceback", "--log-file", "log", "--retries", "0", *(("--json",) * (number % 2)))
            codes[name], said = talk(*words[0].split(), *talkative, *named, *way.flags, *words[1:])
            assert planted.found_in(said, secrets) == [], name
            assert codes[name] != 1, said
        if not way.url("").startswith("s3"):
            assert codes.pop("gc") in (2, 3)  # only S3 has what it looks for
        assert all(code == 0 for code in codes.values()) or path != "works" or kind == "presigned", codes
        if path != "works":
            assert all(codes[name] for name in ("get", "stat", "check", "stage")), codes
    if (tmp_path / "pushed.json").exists():
        assert (tmp_path / "pushed.json").stat().st_mode & 0o777 == 0o600  # it holds the credentials
        mine.add(tmp_path / "pushed.json")
    for left in tmp_path.rglob("*"):
        if left.is_file() and left not in mine:
            assert planted.found_in(left.read_text("latin-1"), secrets) == [], left
