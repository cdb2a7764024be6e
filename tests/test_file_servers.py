"""Artifacts on servers of files, through the command: ftp, ftps and sftp, and what each refuses."""

from __future__ import annotations

import getpass
import json
from pathlib import Path

import ftpservers
import pytest
from commands import run, tar


def written(folder: Path, url: str, password: str = ftpservers.PASSWORD, user: str = ftpservers.USER) -> Path:
    login = {"plain": {"user": user, "password": password}}
    artifacts = {
        "data": {"qualified": f"{url}/data.tar.gz", "unpack": True, "credentials": login},
        "model": {"qualified": f"{url}/out/model.tar", "unpack": True, "mutable": True, "credentials": login},
    }
    path = folder / "request.json"
    path.write_text(json.dumps({"experiment": {"key": "e", "artifacts": artifacts}}))
    return path


def stage_and_upload(
    folder: Path,
    root: Path,
    url: str,
    *options: object,
    user: str = ftpservers.USER,
    password: str = ftpservers.PASSWORD,
) -> None:
    """The main job on one server: fetched and unpacked, changed, published by a rename."""
    (root / "data.tar.gz").write_bytes(tar({"x": b"1"}, "w:gz"))
    document = written(folder, url, password, user)
    job = folder / "job"
    done = run("stage", document, "--into", job, "--endpoint", url, *options)
    assert done.code == 0, done.err
    assert (job / "data" / "x").read_bytes() == b"1"
    assert list((job / "model").iterdir()) == []
    (job / "model" / "weights").write_bytes(b"w" * 1000)
    done = run("upload", document, "--from", job, "--endpoint", url, *options, "--json")
    assert done.code == 0, done.err
    assert done.lines[0]["credential"]["kind"] == "plain"
    assert b"w" * 1000 in (root / "out" / "model.tar").read_bytes()
    assert [path.name for path in (root / "out").iterdir()] == ["model.tar"]
    again = run("stage", document, "--into", job, "--endpoint", url, *options)
    assert again.code == 0, again.err
    assert again.out.count("unchanged") == 2
    if password:
        wrong = written(folder, url, "wrong", user)
        refused = run("stage", wrong, "--into", folder / "other", "--endpoint", url, *options)
        assert refused.code == 5, refused.err


def test_ftp(tmp_path):
    """Plaintext FTP, which only naming allows."""
    with ftpservers.pyftpd() as server:
        url = f"ftp://127.0.0.1:{server.port}"
        stage_and_upload(tmp_path, server.root, url)
        refused = run("stage", written(tmp_path, url), "--into", tmp_path / "no")
        assert refused.code == 3
        assert f"--endpoint {url}" in refused.err


@pytest.mark.parametrize(("scheme", "security"), [("ftps", "explicit"), ("ftps+implicit", "implicit")])
def test_ftps(tmp_path, scheme, security):
    """FTP over TLS with a private authority, on both channels; without the authority it is refused."""
    with ftpservers.certificates() as certificates, ftpservers.pyftpd(security, certificates) as server:
        url = f"{scheme}://127.0.0.1:{server.port}"
        ca = tmp_path / "ca.pem"
        ca.write_bytes(certificates.ca_pem)
        stage_and_upload(tmp_path, server.root, url, "--ca", ca)
        refused = run("stage", written(tmp_path, url), "--into", tmp_path / "no", "--endpoint", url)
        assert refused.code == 2
        assert "certificate" in refused.err


def test_sftp(tmp_path):
    """SFTP to a host whose key is known by its fingerprint; to one that is not, nothing is said."""
    with ftpservers.asyncssh_sftp() as server:
        url = f"sftp://127.0.0.1:{server.port}"
        stage_and_upload(tmp_path, server.root, url, "--host-key", server.fingerprint)
        refused = run("stage", written(tmp_path, url), "--into", tmp_path / "no", "--endpoint", url)
        assert refused.code == 2
        assert server.fingerprint in refused.err


def test_vsftpd(tmp_path):
    """A server that wants TLS, and the control connection's session for its data."""
    if ftpservers.vsftpd_path() is None:
        pytest.skip("vsftpd is not installed")
    with ftpservers.certificates() as certificates, ftpservers.vsftpd(certificates) as server:
        ca = tmp_path / "ca.pem"
        ca.write_bytes(certificates.ca_pem)
        url = f"ftps://127.0.0.1:{server.port}"
        stage_and_upload(tmp_path, server.root, url, "--ca", ca, user=ftpservers.VSFTPD_USER)


def test_sshd(sshd, tmp_path):
    """OpenSSH's own server, with a key and no password."""
    server, key = sshd
    url = f"sftp://127.0.0.1:{server.port}"
    options = ("--host-key", server.fingerprint, "--ssh-key", key)
    stage_and_upload(tmp_path, server.root, url, *options, user=getpass.getuser(), password="")
