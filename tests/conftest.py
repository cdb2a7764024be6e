"""Fixtures for all tests: a clean environment, and real servers that start when a test first asks for one."""

from __future__ import annotations

import getpass
import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.register_assert_rewrite("conformance")
import ftpservers  # noqa: E402 - the line above must come before what it is about
import servers  # noqa: E402 - as above
import webservers  # noqa: E402 - as above

from creds.errors import Unauthenticated  # noqa: E402 - as above
from creds.store import Retries, Ssh, StoreOptions  # noqa: E402 - as above
from creds.stores.sftp import SftpStore  # noqa: E402 - as above
from creds.testing import OidcIssuer  # noqa: E402 - as above

_AMBIENT = ("AWS_", "BOTO", "ARTIFACTS_")
_PROXIES = {"http_proxy", "https_proxy", "no_proxy", "all_proxy", "ftp_proxy"}


@pytest.fixture(scope="session", autouse=True)
def _clean_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test, and no server that the tests start, sees the developer's AWS setup, proxies or home."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(_AMBIENT) or name.lower() in _PROXIES:
                patch.delenv(name)
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home folder of the test's own; what a test puts into the environment ends with it."""
    folder = tmp_path_factory.mktemp("home")
    for name in list(os.environ):
        if name.startswith(_AMBIENT) or name.lower() in _PROXIES:
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(folder))
    return folder


@pytest.fixture(scope="session")
def seaweed() -> Iterator[servers.S3Server]:
    """SeaweedFS: the server most tests use."""
    with servers.seaweedfs() as server:
        yield server


@pytest.fixture(scope="session")
def issuer() -> Iterator[OidcIssuer]:
    """An issuer of tokens."""
    with OidcIssuer() as running:
        yield running


@pytest.fixture(scope="session")
def federated(issuer: OidcIssuer) -> Iterator[servers.S3Server]:
    """SeaweedFS whose STS knows the issuer; sessions live for an hour."""
    with servers.seaweedfs(servers.federation(issuer.url, 3600)) as server:
        yield server


@pytest.fixture(scope="session")
def rclone_s3() -> Iterator[servers.S3Server]:
    """rclone's S3: a weak server, which ignores conditions."""
    with servers.rclone_s3() as server:
        yield server


@pytest.fixture(scope="session")
def moto_server() -> Iterator[servers.S3Server]:
    """moto's S3, in this process."""
    with servers.moto_s3() as server:
        yield server


@pytest.fixture
def bucket(seaweed: servers.S3Server) -> str:
    """The name of a fresh bucket on SeaweedFS."""
    return seaweed.make_bucket(f"b-{uuid.uuid4().hex[:12]}")


@pytest.fixture(scope="session")
def wsgidav() -> Iterator[webservers.WebServer]:
    """wsgidav with Basic authentication."""
    with webservers.wsgidav() as server:
        yield server


@pytest.fixture(scope="session")
def rclone_dav() -> Iterator[webservers.WebServer]:
    """rclone's WebDAV with Basic authentication."""
    with webservers.rclone_webdav() as server:
        yield server


@pytest.fixture(scope="session")
def nginx() -> Iterator[webservers.Nginx]:
    """nginx's WebDAV, where nginx is installed: by password, by token, over TLS, by a client's certificate."""
    if (why := webservers.nginx_missing()) is not None:
        pytest.skip(why)
    with webservers.nginx_dav() as server:
        yield server


@pytest.fixture(scope="session")
def sshd() -> Iterator[tuple[ftpservers.TreeServer, str]]:
    """OpenSSH's sshd, where it is installed and lets in who runs the tests; and the private key that logs in."""
    program = ftpservers.sshd_path()
    if program is None:
        pytest.skip("OpenSSH's sshd is not installed")
    with ftpservers.sshd(program) as (server, key):
        options = StoreOptions(ssh=Ssh(fingerprints=(server.fingerprint,), key=key), retries=Retries(attempts=1))
        store = SftpStore(server.host, server.port, user=getpass.getuser(), password=None, options=options)
        try:
            assert list(store.list()) == []
        except Unauthenticated:
            log = (Path(key).parent / "output.log").read_text()
            if (why := re.search("User .* not allowed because .*", log)) is None:
                raise
            pytest.skip(f"sshd lets nobody in here: {why[0]}")
        finally:
            store.close()
        yield server, key
