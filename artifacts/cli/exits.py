"""The command's exit codes, as a runner reads them: what to do next, in one number. See ``docs/exit-codes.md``."""

from __future__ import annotations

from collections.abc import Iterable

from artifacts.errors import (
    ArchiveError,
    DiskError,
    FolderError,
    IntegrityError,
    LimitExceeded,
    RequestError,
    StagingError,
    UnsafeKey,
)
from artifacts.limits import FREE_SPACE
from creds.errors import (
    AccessDenied,
    BucketNotFound,
    Cancelled,
    CredentialError,
    DeadlineExceeded,
    LocationError,
    MissingDependency,
    NotSupported,
    ObjectChanged,
    ObjectNotFound,
    PolicyError,
    RefreshError,
    StoreError,
    ToolkitError,
    Unauthenticated,
)

DONE = 0
BUG = 1
INVALID = 2
REFUSED = 3
NOT_FOUND = 4
CREDENTIAL = 5
ARCHIVE = 6
CHANGED = 7
LIMIT = 8
NODE = 9
TRANSIENT = 75
OWED = 123
STOPPED_AT_LIMIT = 124
NEVER_STARTED = 125
NOT_EXECUTABLE = 126
COMMAND_NOT_FOUND = 127
INTERRUPTED = 130

# The first class that fits wins; an error that says of itself that a retry is worth it is TRANSIENT before that.
TABLE: tuple[tuple[type[ToolkitError], int], ...] = (
    (DeadlineExceeded, LIMIT),
    (Cancelled, INTERRUPTED),
    (PolicyError, REFUSED),
    (ObjectNotFound, NOT_FOUND),
    (BucketNotFound, NOT_FOUND),
    (AccessDenied, CREDENTIAL),
    (Unauthenticated, CREDENTIAL),
    (CredentialError, CREDENTIAL),
    (RefreshError, CREDENTIAL),
    (ArchiveError, ARCHIVE),
    (UnsafeKey, ARCHIVE),
    (IntegrityError, ARCHIVE),
    (ObjectChanged, CHANGED),
    (LimitExceeded, LIMIT),
    (DiskError, NODE),
    (RequestError, INVALID),
    (LocationError, INVALID),
    (FolderError, INVALID),
    (MissingDependency, INVALID),
    (NotSupported, INVALID),
    (StoreError, INVALID),
)

# Of several failures the first present here names the exit: what a person must change before a retry can help.
PRECEDENCE = (BUG, INVALID, REFUSED, CREDENTIAL, NOT_FOUND, ARCHIVE, CHANGED, LIMIT, NODE, TRANSIENT)


def exit_code(error: ToolkitError) -> int:
    """The exit code for an error; for several at once, 75 only when all are transient."""
    if isinstance(error, StagingError):
        return worst(exit_code(failure) for failure in error.failures.values())
    if isinstance(error, LimitExceeded) and error.limit == FREE_SPACE:
        return NODE
    if error.retryable and not isinstance(error, Cancelled):
        return TRANSIENT
    return next((code for cls, code in TABLE if isinstance(error, cls)), BUG)


def worst(codes: Iterable[int]) -> int:
    """The exit code for several outcomes."""
    present = set(codes)
    return next((code for code in PRECEDENCE if code in present), max(present, default=DONE))
