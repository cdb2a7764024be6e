"""Stage the artifacts of a StudioML experiment request, and return its results.

``StagingDir`` does the main job; ``loads`` and ``dumps`` read and write the documents; ``get``, ``put`` and ``push``
move single objects and a client's own folders with the caller's authority. Every error is a ``ToolkitError``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from artifacts.audit import AuditFile as AuditFile
    from artifacts.cache import BlobCache as BlobCache
    from artifacts.errors import (
        ArchiveError as ArchiveError,
    )
    from artifacts.errors import (
        ArtifactsError as ArtifactsError,
    )
    from artifacts.errors import (
        CorruptArchive as CorruptArchive,
    )
    from artifacts.errors import (
        DiskError as DiskError,
    )
    from artifacts.errors import (
        FolderError as FolderError,
    )
    from artifacts.errors import (
        FolderInUse as FolderInUse,
    )
    from artifacts.errors import (
        IntegrityError as IntegrityError,
    )
    from artifacts.errors import (
        LimitExceeded as LimitExceeded,
    )
    from artifacts.errors import (
        PrefixError as PrefixError,
    )
    from artifacts.errors import (
        RequestError as RequestError,
    )
    from artifacts.errors import (
        StagingError as StagingError,
    )
    from artifacts.errors import (
        UnsafeKey as UnsafeKey,
    )
    from artifacts.errors import (
        UnsafeMember as UnsafeMember,
    )
    from artifacts.errors import (
        UnsupportedArchive as UnsupportedArchive,
    )
    from artifacts.events import (
        Failed as Failed,
    )
    from artifacts.events import (
        Passed as Passed,
    )
    from artifacts.events import (
        Progress as Progress,
    )
    from artifacts.events import (
        Published as Published,
    )
    from artifacts.events import (
        Receipt as Receipt,
    )
    from artifacts.events import (
        Retried as Retried,
    )
    from artifacts.events import (
        Started as Started,
    )
    from artifacts.events import (
        Verified as Verified,
    )
    from artifacts.events import (
        Waiting as Waiting,
    )
    from artifacts.leftovers import Leftover as Leftover
    from artifacts.leftovers import gc as gc
    from artifacts.leftovers import unfinished as unfinished
    from artifacts.limits import Limits as Limits
    from artifacts.locks import HostSlots as HostSlots
    from artifacts.objects import Access as Access
    from artifacts.objects import How as How
    from artifacts.objects import ObjectFile as ObjectFile
    from artifacts.objects import copy as copy
    from artifacts.objects import get as get
    from artifacts.objects import ls as ls
    from artifacts.objects import open as open  # noqa: A004 - artifacts.open, as gzip.open
    from artifacts.objects import put as put
    from artifacts.objects import remove as remove
    from artifacts.objects import stat as stat
    from artifacts.prefixes import copy_prefix as copy_prefix
    from artifacts.prefixes import get_prefix as get_prefix
    from artifacts.prefixes import put_prefix as put_prefix
    from artifacts.prefixes import remove_prefix as remove_prefix
    from artifacts.pushing import Pushed as Pushed
    from artifacts.pushing import push as push
    from artifacts.pushing import push_to as push_to
    from artifacts.request import (
        Artifact as Artifact,
    )
    from artifacts.request import (
        Config as Config,
    )
    from artifacts.request import (
        Database as Database,
    )
    from artifacts.request import (
        Experiment as Experiment,
    )
    from artifacts.request import (
        Info as Info,
    )
    from artifacts.request import (
        Request as Request,
    )
    from artifacts.request import (
        Resource as Resource,
    )
    from artifacts.request import (
        RunnerCustom as RunnerCustom,
    )
    from artifacts.request import (
        dumps as dumps,
    )
    from artifacts.request import (
        loads as loads,
    )
    from artifacts.staging import StagingDir as StagingDir
    from creds.errors import ToolkitError as ToolkitError

_HOMES = {
    "Access": "artifacts.objects",
    "ArchiveError": "artifacts.errors",
    "Artifact": "artifacts.request",
    "BlobCache": "artifacts.cache",
    "ArtifactsError": "artifacts.errors",
    "Config": "artifacts.request",
    "AuditFile": "artifacts.audit",
    "CorruptArchive": "artifacts.errors",
    "Database": "artifacts.request",
    "DiskError": "artifacts.errors",
    "Experiment": "artifacts.request",
    "Failed": "artifacts.events",
    "FolderError": "artifacts.errors",
    "FolderInUse": "artifacts.errors",
    "HostSlots": "artifacts.locks",
    "How": "artifacts.objects",
    "Info": "artifacts.request",
    "IntegrityError": "artifacts.errors",
    "Leftover": "artifacts.leftovers",
    "LimitExceeded": "artifacts.errors",
    "Limits": "artifacts.limits",
    "ObjectFile": "artifacts.objects",
    "Passed": "artifacts.events",
    "PrefixError": "artifacts.errors",
    "Progress": "artifacts.events",
    "Published": "artifacts.events",
    "Pushed": "artifacts.pushing",
    "Receipt": "artifacts.events",
    "Request": "artifacts.request",
    "RequestError": "artifacts.errors",
    "Resource": "artifacts.request",
    "Retried": "artifacts.events",
    "RunnerCustom": "artifacts.request",
    "StagingDir": "artifacts.staging",
    "StagingError": "artifacts.errors",
    "Started": "artifacts.events",
    "ToolkitError": "creds.errors",
    "UnsafeKey": "artifacts.errors",
    "UnsafeMember": "artifacts.errors",
    "UnsupportedArchive": "artifacts.errors",
    "Verified": "artifacts.events",
    "Waiting": "artifacts.events",
    "copy": "artifacts.objects",
    "copy_prefix": "artifacts.prefixes",
    "dumps": "artifacts.request",
    "gc": "artifacts.leftovers",
    "get": "artifacts.objects",
    "get_prefix": "artifacts.prefixes",
    "loads": "artifacts.request",
    "ls": "artifacts.objects",
    "open": "artifacts.objects",
    "push": "artifacts.pushing",
    "push_to": "artifacts.pushing",
    "put": "artifacts.objects",
    "put_prefix": "artifacts.prefixes",
    "remove": "artifacts.objects",
    "remove_prefix": "artifacts.prefixes",
    "stat": "artifacts.objects",
    "unfinished": "artifacts.leftovers",
}

__all__ = sorted(_HOMES)  # noqa: PLE0605 - one list of the names, not two


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: nobody waits for pydantic or an SDK they do not need."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
