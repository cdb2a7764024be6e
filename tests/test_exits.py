"""The exit codes: every error's, that of several at once, and that the page which documents them says the same."""

from __future__ import annotations

import errno
import re
from pathlib import Path

import pytest

import artifacts.errors
import creds.errors
from artifacts.cli import exits
from artifacts.cli.config import ConfigError
from artifacts.cli.demo import DemoError
from artifacts.errors import (
    ArchiveError,
    ArtifactsError,
    CorruptArchive,
    DiskError,
    FolderError,
    FolderInUse,
    IntegrityError,
    LimitExceeded,
    PrefixError,
    RequestError,
    StagingError,
    UnsafeKey,
    UnsafeMember,
    UnsupportedArchive,
)
from artifacts.limits import FREE_SPACE
from creds.errors import (
    AccessDenied,
    AmbiguousCredential,
    BucketNotFound,
    Cancelled,
    CredentialError,
    CredsError,
    DeadlineExceeded,
    LocationError,
    MissingCredential,
    MissingDependency,
    NotSupported,
    ObjectChanged,
    ObjectNotFound,
    PolicyError,
    RefreshError,
    StoreError,
    StoreTimeout,
    StoreUnavailable,
    ToolkitError,
    Unauthenticated,
    UnsupportedCredential,
)

PAGE = Path(__file__).parent.parent / "docs" / "exit-codes.md"

CODES = [
    (ToolkitError("x"), 1),
    (CredsError("x"), 1),
    (ArtifactsError("x"), 1),
    (DemoError("x"), 1),
    (RequestError("x"), 2),
    (ConfigError("x"), 2),
    (LocationError("x"), 2),
    (FolderError("x"), 2),
    (MissingDependency("x"), 2),
    (NotSupported("x"), 2),
    (StoreError("x"), 2),
    (PolicyError("x"), 3),
    (ObjectNotFound("x"), 4),
    (BucketNotFound("x"), 4),
    (CredentialError("x"), 5),
    (MissingCredential("x"), 5),
    (AmbiguousCredential("x"), 5),
    (UnsupportedCredential("x"), 5),
    (RefreshError("x"), 5),
    (AccessDenied("x"), 5),
    (Unauthenticated("x"), 5),
    (ArchiveError("x"), 6),
    (UnsafeMember("x"), 6),
    (UnsupportedArchive("x"), 6),
    (CorruptArchive("x"), 6),
    (IntegrityError("x"), 6),
    (UnsafeKey("x"), 6),
    (ObjectChanged("x"), 7),
    (LimitExceeded("x", limit="max_bytes"), 8),
    (LimitExceeded("x", limit="resources_needed.hdd"), 8),
    (LimitExceeded("x", limit=FREE_SPACE), 9),
    (DiskError("x", errno=errno.ENOSPC), 9),
    (FolderInUse("x"), 75),
    (StoreTimeout("x"), 75),
    (StoreUnavailable("x"), 75),
    # What says of itself that a retry is worth it is transient, whatever its class.
    (DiskError("x", retryable=True), 75),
    (RefreshError("x", retryable=True), 75),
    # And one that says it is not, such as a certificate that does not fit, is not.
    (StoreUnavailable("x", retryable=False), 2),
    (StoreTimeout("x", retryable=False), 2),
    (Cancelled("x"), 130),
    (DeadlineExceeded("x"), 8),
]


@pytest.mark.parametrize(("error", "code"), CODES, ids=[f"{type(error).__name__}-{code}" for error, code in CODES])
def test_each_error_has_its_code(error, code):
    """The table, error by error."""
    assert exits.exit_code(error) == code


def test_no_error_is_left_out():
    """Every class of both trees is in the table above; StagingError and PrefixError stand for what they hold."""
    defined = {
        cls
        for module in (creds.errors, artifacts.errors)
        for cls in vars(module).values()
        if isinstance(cls, type) and issubclass(cls, ToolkitError)
    }
    assert defined - {type(error) for error, _ in CODES} == {StagingError, PrefixError}


@pytest.mark.parametrize(
    ("failures", "code"),
    [
        ([StoreUnavailable("x"), StoreTimeout("x")], 75),
        ([StoreUnavailable("x"), DiskError("x")], 9),
        ([DiskError("x"), LimitExceeded("x")], 8),
        ([LimitExceeded("x"), ObjectChanged("x")], 7),
        ([ObjectChanged("x"), CorruptArchive("x")], 6),
        ([CorruptArchive("x"), ObjectNotFound("x")], 4),
        ([ObjectNotFound("x"), AccessDenied("x")], 5),
        ([AccessDenied("x"), PolicyError("x")], 3),
        ([PolicyError("x"), LocationError("x")], 2),
        ([LocationError("x"), ToolkitError("x")], 1),
        ([StoreUnavailable("x"), ObjectNotFound("x"), Unauthenticated("x"), StoreTimeout("x")], 5),
    ],
)
def test_several_failures(failures, code):
    """75 only where all are transient; else the first present of 2, 3, 5, 4, 6, 7, 8, 9, in whatever order they came."""
    for ordered in (failures, failures[::-1]):
        error = StagingError("x", failures={str(number): failure for number, failure in enumerate(ordered)})
        assert exits.exit_code(error) == code


def test_worst_of_nothing_is_done():
    """No outcome at all is no failure."""
    assert exits.worst([]) == exits.DONE == 0
    assert exits.worst([0, 0]) == 0
    assert exits.worst([0, 75]) == 75


def page_rows() -> dict[str, str]:
    rows = re.findall(r"^\| ([0-9n+, ]+) \| ([^|]+) \|", PAGE.read_text(), re.MULTILINE)
    return {code: meaning.strip() for codes, meaning in rows for code in codes.split(", ")}


@pytest.mark.parametrize(
    ("constant", "words"),
    [
        ("DONE", "done"),
        ("BUG", "bug"),
        ("INVALID", "invalid"),
        ("REFUSED", "policy"),
        ("NOT_FOUND", "not found"),
        ("CREDENTIAL", "credential"),
        ("ARCHIVE", "archive"),
        ("CHANGED", "changed"),
        ("LIMIT", "limit"),
        ("NODE", "machine"),
        ("TRANSIENT", "transient"),
        ("OWED", "owed"),
        ("STOPPED_AT_LIMIT", "stopped at"),
        ("NEVER_STARTED", "never started"),
        ("NOT_EXECUTABLE", "not executable"),
        ("COMMAND_NOT_FOUND", "not found"),
    ],
)
def test_the_page_says_the_same(constant, words):
    """docs/exit-codes.md has a row for each constant, and means the same by it."""
    assert words in page_rows()[str(getattr(exits, constant))]


def test_the_page_says_nothing_else():
    """Every code of the page is a constant; 128+n is the shell's; the precedence is written as the code has it."""
    constants = {value for name, value in vars(exits).items() if name.isupper() and isinstance(value, int)}
    assert {int(code) for code in page_rows() if code != "128+n"} == constants - {exits.INTERRUPTED}
    assert exits.INTERRUPTED == 130
    order = ", ".join(str(code) for code in exits.PRECEDENCE if code not in (exits.BUG, exits.TRANSIENT))
    assert f"else the first present of {order}." in PAGE.read_text()
