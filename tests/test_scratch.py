"""What is unfinished lies in a hidden folder, and goes with its process or after it."""

import contextlib
import os

import pytest

import artifacts
from artifacts.scratch import Scratch
from creds.errors import ObjectNotFound

DEAD = ".artifacts-partial-00112233445566aa"


@pytest.fixture
def folder(tmp_path):
    descriptor = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield tmp_path, descriptor
    os.close(descriptor)


def names(path):
    return sorted(entry.name for entry in path.iterdir())


def test_it_is_there_while_its_block_runs_and_its_owners_alone(folder):
    path, descriptor = folder
    with Scratch(descriptor) as scratch:
        assert names(path) == [scratch.name]
        assert (path / scratch.name).stat().st_mode & 0o777 == 0o700
        (path / scratch.name / "half").write_bytes(b"x")
    assert names(path) == []


def test_what_a_dead_process_left_goes_and_what_a_living_one_holds_stays(folder):
    path, descriptor = folder
    (path / DEAD).mkdir()
    (path / DEAD / "half").write_bytes(b"x")
    with Scratch(descriptor) as one, Scratch(descriptor) as other:
        assert names(path) == sorted([one.name, other.name])
    assert names(path) == []


@pytest.mark.parametrize("unpack", [False, True], ids=["file", "folder"])
def test_get_leaves_nothing_beside_its_target(tmp_path, unpack):
    """Neither what it made itself, where it fails too, nor what was left by one that was killed."""
    import io
    import tarfile

    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        member = tarfile.TarInfo("inside")
        member.size = 1
        tar.addfile(member, io.BytesIO(b"x"))
    into = tmp_path / "into"
    (into / DEAD).mkdir(parents=True)
    artifacts.get(f"file://{tmp_path}/a.tar", into / "got", unpack=unpack)
    assert names(into) == ["got"]
    with contextlib.suppress(ObjectNotFound):
        artifacts.get(f"file://{tmp_path}/missing.tar", into / "other", unpack=unpack)
    assert names(into) == ["got"]


def test_a_name_as_long_as_a_file_may_have_is_fetched(tmp_path):
    (tmp_path / "a").write_bytes(b"content")
    artifacts.get(f"file://{tmp_path}/a", tmp_path / ("n" * 255))
    assert (tmp_path / ("n" * 255)).read_bytes() == b"content"
