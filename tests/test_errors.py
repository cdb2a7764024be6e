"""The error tree: one root, the nearest builtin, and errors that survive a process boundary."""

from __future__ import annotations

import pickle

import pytest

import artifacts.errors
import creds.errors
from artifacts.errors import DiskError, LimitExceeded, RequestError, StagingError
from creds.errors import ObjectNotFound, PolicyError, StoreUnavailable, ToolkitError

BUILTINS = {
    "LocationError": ValueError,
    "CredentialError": ValueError,
    "PolicyError": PermissionError,
    "MissingDependency": ImportError,
    "ObjectNotFound": FileNotFoundError,
    "BucketNotFound": FileNotFoundError,
    "AccessDenied": PermissionError,
    "Unauthenticated": PermissionError,
    "StoreTimeout": TimeoutError,
    "StoreUnavailable": ConnectionError,
    "RequestError": ValueError,
    "ArchiveError": ValueError,
    "FolderError": ValueError,
    "FolderInUse": BlockingIOError,
    "DiskError": OSError,
}
CLASSES = sorted(
    {
        value
        for module in (creds.errors, artifacts.errors)
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, ToolkitError)
    },
    key=lambda cls: cls.__name__,
)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_each_error(cls):
    """Every error has the root, its own code, its builtin, a docstring, and prints its message alone."""
    error = cls("what happened")
    assert str(error) == "what happened"
    assert isinstance(error, BUILTINS.get(cls.__name__, Exception))
    assert cls.__doc__
    assert (error.hint, error.retryable) == (None, cls.retryable)


def test_codes_are_unique():
    """A program can tell errors apart by their code."""
    codes = [cls.__dict__["code"] for cls in CLASSES if "code" in cls.__dict__]
    assert len(codes) == len(set(codes)) == len(CLASSES)


def test_trees_in_the_docstrings_are_true():
    """Each class stands in its module's drawing, beneath its base."""
    for module in (creds.errors, artifacts.errors):
        lines = [line for line in module.__doc__.splitlines() if line.startswith("      ")]
        drawn = {line.split()[0]: len(line) - len(line.lstrip()) for line in lines}
        for name, value in vars(module).items():
            if isinstance(value, type) and issubclass(value, ToolkitError) and value.__module__ == module.__name__:
                assert name in drawn or value is ToolkitError, name


@pytest.mark.parametrize(
    "error",
    [
        ObjectNotFound("gone", op="open", http_status=404, server_code="NoSuchKey", location="s3://b/k", hint="look"),
        PolicyError("no", rule="not-named", hint="--endpoint"),
        LimitExceeded("too much", limit="max_bytes", allowed=1, seen=2),
        RequestError(["a: x", "b: y"]),
        DiskError("full", errno=28),
        StagingError("one of two", failures={"a": StoreUnavailable("down")}),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_cross_process_boundaries(error):
    """Pickling keeps class, message and every attribute."""
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert getattr(copy, "errno", None) == getattr(error, "errno", None)
    assert {name: str(value) for name, value in vars(copy).items()} == {
        name: str(value) for name, value in vars(error).items()
    }


def test_a_staging_error_is_retryable_only_if_all_are():
    """One failure that a retry cannot help makes the whole final."""
    assert StagingError("", failures={"a": StoreUnavailable("x")}).retryable
    assert not StagingError("", failures={"a": StoreUnavailable("x"), "b": ObjectNotFound("y")}).retryable
    assert not StagingError("").retryable
