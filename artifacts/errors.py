"""What can go wrong with a request and its artifacts; continues the tree of ``creds.errors`` under the same root.

::

    ToolkitError
      ArtifactsError
        RequestError (ValueError)      field path of every problem, gathered
        ArchiveError (ValueError)
          UnsafeMember                   a member that would leave the folder, or is no file, folder or link
          UnsupportedArchive             not an archive this toolkit reads
          CorruptArchive                 broken or cut short
        LimitExceeded                  which limit, allowed, seen
        IntegrityError                 size or digest differs from what was promised
        FolderError (ValueError)       the staging folder is not one of ours, or is not what was staged
        FolderInUse (BlockingIOError)  another process works in the staging folder; names its pid
        DiskError (OSError)            this machine cannot hold it: disk full, quota, read-only, permission
        UnsafeKey (ValueError)         a key that would leave the folder, or cannot be a file in it
        StagingError                   failures: label -> error; receipts; retryable only if all are
          PrefixError                    the same of the objects below a prefix
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from errno import errorcode
from os import strerror
from typing import TYPE_CHECKING, Any, Self

from creds.errors import ToolkitError

if TYPE_CHECKING:
    from artifacts.events import Receipt


class ArtifactsError(ToolkitError):
    """The root of what ``artifacts`` raises."""

    code = "artifacts"


class RequestError(ArtifactsError, ValueError):
    """Raised when a request document, or one field of it, is not what it must be.

    Args:
        problems: one ``field.path: what is wrong`` a problem; never a value that may be a secret.
    """

    code = "request"

    def __init__(self, problems: str | Iterable[str], *, hint: str | None = None) -> None:
        self.problems = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("; ".join(self.problems), hint=hint)


class ArchiveError(ArtifactsError, ValueError):
    """The root of what is wrong with an archive."""

    code = "archive"


class UnsafeMember(ArchiveError):
    """Raised when a member would leave the folder, or is no file, folder or link."""

    code = "unsafe-member"


class UnsupportedArchive(ArchiveError):
    """Raised when the bytes are no archive this toolkit reads, or use a feature it refuses."""

    code = "unsupported-archive"


class CorruptArchive(ArchiveError):
    """Raised when an archive is broken or cut short."""

    code = "corrupt-archive"


class LimitExceeded(ArtifactsError):
    """Raised when a limit is passed; nothing is ever cut to fit.

    Args:
        limit: its name as the user sets it, such as ``max_bytes`` or ``resources_needed.hdd``.
        allowed, seen: in the limit's unit; ``seen`` is the least amount that was found to pass it.
    """

    code = "limit-exceeded"

    def __init__(
        self, message: str, *, limit: str = "", allowed: int = 0, seen: int = 0, hint: str | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.limit = limit
        self.allowed = allowed
        self.seen = seen


class IntegrityError(ArtifactsError):
    """Raised when the size or digest of what came differs from what was promised."""

    code = "integrity"


class UnsafeKey(ArtifactsError, ValueError):
    """Raised when a key would leave the folder, cannot be a file's name, or meets something else in its place."""

    code = "unsafe-key"


class FolderError(ArtifactsError, ValueError):
    """Raised when the staging folder is not one of ours and not empty, or a label's folder is not what was staged."""

    code = "folder"


class FolderInUse(ArtifactsError, BlockingIOError):
    """Raised when another process works in the staging folder; the message names its pid."""

    code = "folder-in-use"
    retryable = True


class DiskError(ArtifactsError, OSError):
    """Raised when this machine cannot hold the files: disk full, quota, read-only, permission.

    Args:
        errno: the system's number for it, such as ``errno.ENOSPC``.
    """

    code = "disk"

    def __init__(
        self, message: str, *, errno: int | None = None, hint: str | None = None, retryable: bool | None = None
    ) -> None:
        super().__init__(message, hint=hint, retryable=retryable)
        self.errno = errno

    def __reduce__(self) -> tuple[Any, ...]:
        # OSError keeps its number beside the attributes that the root's own way carries.
        rebuild, (cls, message, state) = super().__reduce__()
        return rebuild, (cls, message, {**state, "errno": self.errno})

    @classmethod
    def of(cls, operation: str, path: str, error: OSError) -> Self:
        """The error for an operation on a path that the system refused; the caller chains ``error``."""
        number = error.errno or 0
        name = errorcode.get(number, str(number))
        hint = _DISK_HINTS.get(name, "look at the disk and its permissions, or use another machine")
        return cls(f"cannot {operation} {path}: {strerror(number)} ({name})", errno=number, hint=hint)


_DISK_HINTS = {
    "ENOSPC": "free space or use another machine",
    "EDQUOT": "free space, raise the quota or use another machine",
    "ENOENT": "check the path",
    "ENOTDIR": "check the path: a part of it is no folder",
    "EEXIST": "check the path: a part of it is a file, where a folder must be",
    "ENAMETOOLONG": "give a shorter name",
    "EBADF": "it was closed before the command began",
    "EISDIR": "check the path: it is a folder",
    "EFBIG": "raise the limit of a file's size (ulimit -f) or use another machine",
    "EROFS": "use a folder that can be written to, or another machine",
    "EACCES": "give this user access to the folder, or use another one",
    "EPERM": "give this user access to the folder, or use another one",
    "EMFILE": "raise the limit of open files (ulimit -n)",
    "ENFILE": "close files on this machine or use another one",
}


class StagingError(ArtifactsError):
    """Raised when artifacts of a request failed; the others are done, or named as skipped in the receipts.

    Args:
        failures: label to its error.
        receipts: one for every artifact, failed and skipped ones too.
    """

    code = "staging"

    def __init__(
        self, message: str, *, failures: Mapping[str, ToolkitError] | None = None, receipts: Iterable[Receipt] = ()
    ) -> None:
        self.failures = dict(failures or {})
        hint = next((error.hint for error in self.failures.values() if error.hint), None)
        retryable = bool(self.failures) and all(error.retryable for error in self.failures.values())
        super().__init__(message, hint=hint, retryable=retryable)
        self.receipts = tuple(receipts)


class PrefixError(StagingError):
    """Raised when objects below a prefix failed; ``failures`` names them by their keys below it."""

    code = "prefix"
