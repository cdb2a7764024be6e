"""The first hour of a new user with a server of their own, by the README alone: its commands, word by word."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
README = (HERE.parent / "README.md").read_text()
SECTION = README.partition("## From your own S3 server\n")[2].partition("\n## ")[0]
TOKEN_FILE = "/var/run/secrets/tokens/storage"


def _missing() -> str | None:
    """Why there can be no network of our own here; None where there can."""
    for name in ("unshare", "ip"):
        if shutil.which(name) is None:
            return f"{name} is not installed"
    done = subprocess.run(["unshare", "-rn", "ip", "link", "set", "lo", "up"], capture_output=True, check=False)
    return None if done.returncode == 0 else "this machine lets nobody make a network namespace"


def commands() -> list[str]:
    block = SECTION.partition("```sh\n")[2].partition("```")[0]
    return block.replace("\\\n", "").replace(TOKEN_FILE, "token").splitlines()


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """The commands' folder, and how each of them ended."""
    if (why := _missing()) is not None:
        pytest.skip(why)
    folder = tmp_path_factory.mktemp("new-user")
    asked = commands()
    asked.append("artifacts get s3://10.0.0.5:9000/data/model.tar.gz unnamed")
    asked.append("artifacts get s3+http://10.0.0.5:9000/data/model.tar.gz unnamed")
    asked.append("artifacts get s3://10.0.0.5:9443/data/model.tar.gz untrusted")
    asked.append("artifacts stage request.json --into refused --ca our-ca.pem")
    ended = subprocess.run(
        ["unshare", "-rn", sys.executable, str(HERE / "private_network.py")],
        input=json.dumps({"folder": str(folder), "commands": asked}),
        capture_output=True,
        text=True,
        timeout=120,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONPATH": str(HERE), "HOME": str(folder)},
    )
    assert ended.returncode == 0, ended.stderr
    return folder, json.loads(ended.stdout)


def test_the_commands_work(done: tuple[Path, list[dict[str, Any]]]) -> None:
    """Plaintext on a private address, a private authority, a projected token, a request: each brings the file."""
    folder, results = done
    assert len(commands()) == 4
    for command, result in zip(commands(), results, strict=False):
        assert result["code"] == 0, (command, result)
    for name in ("plain", "private", "pod", "job/model"):
        assert (folder / name / "weights").read_bytes() == b"w" * 1000


def test_without_its_flag_each_says_which(done: tuple[Path, list[dict[str, Any]]]) -> None:
    """What a new user leaves out first is named by the error, flag and all."""
    folder, results = done
    unnamed, plaintext, untrusted, request = results[4:]
    assert (unnamed["code"], plaintext["code"], untrusted["code"], request["code"]) == (2, 3, 2, 3)
    assert "does not speak TLS here" in unnamed["err"]
    assert "--endpoint http://HOST:PORT" in unnamed["err"]
    assert "--endpoint http://10.0.0.5:9000" in plaintext["err"]
    assert "--ca" in untrusted["err"]
    assert "--endpoint http://10.0.0.5:9443 (https:// if it speaks TLS)" in request["err"]
    assert not (folder / "unnamed").exists()
    assert not (folder / "untrusted").exists()
