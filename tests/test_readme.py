"""The README's commands and snippet, run as they stand on a real server."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)


@pytest.fixture
def place(tmp_path, seaweed, monkeypatch):
    """A folder like a clone, with the README's server address replaced by the real one's."""
    (tmp_path / "examples").mkdir()
    host = seaweed.endpoint_url.removeprefix("http://")
    text = (ROOT / "examples" / "request.json").read_text().replace("127.0.0.1:9000", host)
    (tmp_path / "examples" / "request.json").write_text(text)
    shutil.copytree(ROOT / "artifacts" / "cli" / "experiment", tmp_path / "artifacts" / "cli" / "experiment")
    if "artifacts-demo" not in {found["Name"] for found in seaweed.client().list_buckets()["Buckets"]}:
        seaweed.make_bucket("artifacts-demo")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", seaweed.admin.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", seaweed.admin.secret_key)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    return host


def test_there_is_nothing_untested_in_the_readme():
    """Two shell blocks and one Python block are what the tests below run; the last one is test_private_network.py's."""
    assert [language for language, _ in BLOCKS] == ["sh", "python", "sh", "sh"]


def test_scripts_exist():
    """The first block's commands are executable files of the repository (and are run by `scripts/test` and CI)."""
    commands = [line.split()[0] for line in BLOCKS[0][1].splitlines()]
    assert commands == ["scripts/demo", "scripts/test", "scripts/bench"]
    assert all(os.access(ROOT / command, os.X_OK) for command in commands)


def test_shell_and_python(place):
    """The shell block runs line by line; then the Python snippet stages the request that it pushed."""
    for line in BLOCKS[2][1].replace("127.0.0.1:9000", place).splitlines():
        done = subprocess.run(["sh", "-ec", line], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, (line, done.stdout, done.stderr)
    assert (Path("results") / "model.json").read_bytes() == (Path("job") / "modeldir" / "model.json").read_bytes()
    assert (Path("job") / "workspace" / "train.py").read_bytes() == (
        ROOT / "artifacts" / "cli" / "experiment" / "workspace" / "train.py"
    ).read_bytes()
    snippet = BLOCKS[1][1].replace("127.0.0.1:9000", place)
    assert len(snippet.splitlines()) < 20
    done = subprocess.run([sys.executable, "-c", snippet], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "workspace unchanged" in done.stdout


def test_the_example_script(place):
    """examples/stage.py stages a request and prints receipts."""
    subprocess.run(
        ["artifacts", "push", "examples/request.json", "-o", "request.json", "--endpoint", f"http://{place}"],
        check=True,
        capture_output=True,
    )
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "stage.py", "request.json", "staged", f"http://{place}"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert '"label":"dataset","status":"done"' in done.stdout
    assert (Path("staged") / "dataset" / "points.csv").exists()


def test_links_lead_somewhere():
    """Every link of the README and the docs to a file of the repository exists."""
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+?)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), (page.name, target)
