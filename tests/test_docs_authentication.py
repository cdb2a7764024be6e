"""The commands and snippets of docs/authentication.md, run as they stand on real servers."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import ftpservers
import pytest
import servers
import tlsfront
import webservers

from creds.testing import OidcIssuer

PAGE = (Path(__file__).parent.parent / "docs" / "authentication.md").read_text()
HEADED = re.split(r"^#{2,3} (.*)$", PAGE, flags=re.MULTILINE)
BLOCKS = {
    heading: re.findall(r"^```(\w+)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    for heading, text in zip(HEADED[1::2], HEADED[2::2], strict=True)
}
SHELL = [heading for heading, blocks in BLOCKS.items() if any(language == "sh" for language, _ in blocks)]
CONTENT = os.urandom(100_000)


@dataclass(frozen=True)
class Place:
    """A folder with what the page's commands find there.

    Attributes:
        words: what the page writes, and what is meant by it here.
    """

    folder: Path
    words: dict[str, str]
    env: dict[str, str]

    def here(self, text: str) -> str:
        for word, meant in self.words.items():
            text = text.replace(word, meant)
        return text

    def run(self, *command: str) -> str:
        done = subprocess.run(command, cwd=self.folder, env=self.env, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        return done.stdout


@pytest.fixture(scope="module")
def place(issuer: OidcIssuer, federated: servers.S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Every server that the page speaks of."""
    import asyncssh
    import boto3
    from botocore import UNSIGNED
    from botocore.config import Config

    folder = tmp_path_factory.mktemp("authentication")
    authority = tlsfront.Authority(folder)
    (folder / "ca.pem").write_bytes(authority.pem)
    pem = folder / "server.pem"
    authority.server.private_key_and_cert_chain_pem.write_to_path(str(pem))
    mine = asyncssh.generate_private_key("ssh-ed25519")
    (folder / "id_ed25519").write_bytes(mine.export_private_key())
    token = issuer.mint()
    (folder / "token").write_text(token)
    (folder / "model.bin").write_bytes(CONTENT)
    host = federated.endpoint_url.removeprefix("http://")
    bare = {"qualified": f"s3://{host}/data/model.bin", "unpack": False}
    (folder / "bare.json").write_text(json.dumps({"experiment": {"key": "e", "artifacts": {"model": bare}}}))
    keys = federated.admin
    (folder / ".aws").mkdir()
    (folder / ".aws" / "credentials").write_text(
        f"[ml]\naws_access_key_id = {keys.access_key}\naws_secret_access_key = {keys.secret_key}\n"
    )
    client = federated.client()
    client.create_bucket(Bucket=servers.PUBLIC_BUCKET)
    for bucket in (servers.SHARED_BUCKET, servers.PUBLIC_BUCKET):
        client.put_object(Bucket=bucket, Key="model.bin", Body=CONTENT)
    session = boto3.session.Session().client(
        "sts",
        region_name="us-east-1",
        endpoint_url=federated.endpoint_url,
        config=Config(signature_version=UNSIGNED),
    )
    with contextlib.closing(session):
        lent = session.assume_role_with_web_identity(
            RoleArn=servers.ROLE_RW, RoleSessionName="page", WebIdentityToken=token
        )["Credentials"]
    with contextlib.ExitStack() as stack:
        basic = stack.enter_context(webservers.wsgidav())
        bearer = stack.enter_context(webservers.wsgidav(tokens=[token]))
        (bearer.folder / "model.bin").write_bytes(CONTENT)
        ftp = stack.enter_context(ftpservers.pyftpd())
        certificates = ftpservers.Certificates(authority.pem, b"", pem, pem)
        ftps = stack.enter_context(ftpservers.pyftpd("explicit", certificates))
        for server in (ftp, ftps):
            (server.root / "model.bin").write_bytes(CONTENT)
        sftp = stack.enter_context(ftpservers.asyncssh_sftp(mine.export_public_key().decode()))
        (folder / "known_hosts").write_text(f"[127.0.0.1]:{sftp.port} {sftp.host_key}\n")
        front = stack.enter_context(tlsfront.tls_front(federated.address, authority, client_cert=True))
        words = {
            "127.0.0.1:9000": host,
            "http://127.0.0.1:8000": issuer.url,
            "127.0.0.1:8080": basic.url.removeprefix("http://"),
            "127.0.0.1:8081": bearer.url.removeprefix("http://"),
            "127.0.0.1:2121": f"127.0.0.1:{ftp.port}",
            "127.0.0.1:2990": f"127.0.0.1:{ftps.port}",
            "127.0.0.1:2222": f"127.0.0.1:{sftp.port}",
            "localhost:9443": f"localhost:{front.port}",
            "TEMPORARY-KEY": lent["AccessKeyId"],
            "TEMPORARY-SECRET": lent["SecretAccessKey"],
            "SESSION-TOKEN": lent["SessionToken"],
            "ACCESS-KEY": keys.access_key,
            "SECRET-KEY": keys.secret_key,
            "WEB-USER": webservers.USER,
            "WEB-PASSWORD": webservers.PASSWORD,
            "USER": ftpservers.USER,
            "PASSWORD": ftpservers.PASSWORD,
            "SHA256:FINGERPRINT": sftp.fingerprint,
        }
        env = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(folder),
            "AWS_ACCESS_KEY_ID": keys.access_key,
            "AWS_SECRET_ACCESS_KEY": keys.secret_key,
            "CI_JOB_JWT": token,
        }
        yield Place(folder, words, env)


def test_the_page_shows_commands() -> None:
    """The sections whose blocks the tests below run; another section with a block is another row here."""
    assert SHELL == [
        "Keys of your own: static, session, profile, ambient, a role",
        "User and password",
        "A JWT",
        "No credential, and presigned URLs",
        "SSH",
        "A certificate",
    ]


@pytest.mark.parametrize("heading", SHELL)
def test_commands(place: Place, heading: str) -> None:
    """Each block ends well, line by line, and what it fetched is the object."""
    names = {"toml": "artifacts.toml", "python": "presign.py"}
    for language, text in BLOCKS[heading]:
        if language != "sh":
            (place.folder / names[language]).write_text(place.here(text))
    (place.folder / "login.json").write_text(place.here('{"plain": {"user": "USER", "password": "PASSWORD"}}'))
    before = set(place.folder.rglob("*.bin"))
    fetched = 0
    for language, text in BLOCKS[heading]:
        if language == "sh":
            place.run("sh", "-ec", place.here(text))
            fetched += len(re.findall(r"^artifacts (?:get|stage) ", text, re.MULTILINE))
    made = [path for path in place.folder.rglob("*.bin") if path not in before]
    assert len(made) == fetched
    for path in made:
        assert path.read_bytes() == CONTENT
        path.unlink()


def test_python(place: Place) -> None:
    """The snippet reads the object with a token from a variable and with one from a callable."""
    ((_, text),) = BLOCKS["A token from a variable, or a callable"]
    assert place.run(sys.executable, "-c", place.here(text)).split() == [str(len(CONTENT))] * 2
