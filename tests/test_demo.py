"""`artifacts demo`, on the embedded server and on a real one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ARTIFACTS = [sys.executable, "-m", "artifacts.cli"]


def test_the_demo_on_the_embedded_server(tmp_path):
    """It tells its steps, ends well, and leaves with --keep what it says it does."""
    done = subprocess.run([*ARTIFACTS, "demo", "--keep", tmp_path], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    for step in ("-- push", "-- stage, run and upload", "-- stage again", "-- fetch modeldir back and compare"):
        assert step in done.stderr
    model = json.loads((tmp_path / "results" / "modeldir" / "model.json").read_text())
    assert (model["steps"], round(model["slope"], 1), round(model["intercept"], 1)) == (300, 2.0, 1.0)
    assert (tmp_path / "request.json").stat().st_mode & 0o777 == 0o600


def test_the_demo_on_seaweedfs(tmp_path, seaweed):
    """The same against a real server, by --endpoint-url and --credentials; nothing stays without --keep."""
    keys = tmp_path / "keys.json"
    keys.write_text(
        json.dumps({"aws": {"access_key": seaweed.admin.access_key, "secret_access_key": seaweed.admin.secret_key}})
    )
    done = subprocess.run(
        [*ARTIFACTS, "demo", "--json", "--endpoint-url", seaweed.endpoint_url, "--credentials", keys],
        capture_output=True,
        text=True,
        timeout=120,
        env={"PATH": "/usr/bin:/bin", "TMPDIR": str(tmp_path), "HOME": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines[-1]["type"] == "summary"
    assert lines[-1]["exit"] == 0
    assert {line["status"] for line in lines[:-1]} == {"done", "empty", "unchanged"}
    assert list(tmp_path.glob("artifacts-demo-*")) == []


@pytest.mark.parametrize("option", ["--endpoint-url", "--credentials"])
def test_half_a_server_is_a_usage_error(option):
    """The two options go together."""
    done = subprocess.run([*ARTIFACTS, "demo", option, "x"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "go together" in done.stderr


def test_experiment_is_in_the_package():
    """The demonstration works from an installed wheel: its files are package data."""
    from importlib import resources

    folder = resources.files("artifacts.cli") / "experiment"
    assert (folder / "workspace" / "train.py").is_file()
    assert Path(str(folder / "dataset" / "points.csv")).is_file()
