"""Uploads in parts that were begun and never finished: they cost storage, and no listing of objects shows them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from artifacts.objects import Access
from creds.errors import NotSupported

if TYPE_CHECKING:
    from creds.resolve import Resolved
    from creds.store import Cancel
    from creds.stores.s3.unfinished import Unfinished

OLD_SECONDS = 2 * 86_400.0
"""How old an upload is, at least, that is taken for abandoned: longer than any here may take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftover:
    """An unfinished upload, and what became of it.

    Attributes:
        key: of the object it would become.
        upload_id: the server's name for it.
        started: when it was begun, by the server's clock.
        age_seconds: by this machine's clock.
        status: ``aborted``; ``planned`` where it would be; ``kept`` where it is younger.
    """

    key: str
    upload_id: str
    started: datetime
    age_seconds: float
    status: str


def unfinished(url: str, *, access: Access | None = None, cancel: Cancel | None = None) -> Iterator[Unfinished]:
    """Every unfinished upload at ``url``, page by page; those that are under way right now are among them.

    Args:
        url: a bucket or a prefix, which ends with ``/``, for all below it; any other URL is one object.

    Raises:
        NotSupported: it is not on an S3 server, or the server lists none.
        CredsError, Cancelled.
    """
    resolved = (access or Access()).resolve(url, prefix=True)
    with contextlib.closing(resolved.open()) as store:
        yield from _found(store, resolved, cancel)


def gc(
    url: str,
    *,
    older_than_seconds: float = OLD_SECONDS,
    dry_run: bool = False,
    access: Access | None = None,
    cancel: Cancel | None = None,
) -> Iterator[Leftover]:
    """Abort the uploads at ``url`` that were begun long ago and never finished; objects are never touched.

    An upload that is still under way is aborted too when it was begun that long ago, and then fails.

    Args:
        url: as :func:`unfinished` has it.
        older_than_seconds: those that were begun at least that long ago.
        dry_run: say what would be aborted, and abort nothing.

    Yields:
        Every unfinished upload, when it is dealt with.

    Raises:
        ValueError: ``older_than_seconds`` is negative.
        NotSupported: it is not on an S3 server, or the server lists none.
        CredsError, Cancelled: what was yielded is done.
    """
    if older_than_seconds < 0:
        raise ValueError(f"older_than_seconds is {older_than_seconds}; an age is not negative")
    resolved = (access or Access()).resolve(url, prefix=True)
    with contextlib.closing(resolved.open()) as store:
        for upload in _found(store, resolved, cancel):
            age = (datetime.now(UTC) - upload.started).total_seconds()
            status = "kept" if age < older_than_seconds else "planned" if dry_run else "aborted"
            if status == "aborted":
                store.abort(upload, cancel=cancel)  # type: ignore[attr-defined]  # a store that lists them has it
            yield Leftover(
                key=upload.key, upload_id=upload.upload_id, started=upload.started, age_seconds=age, status=status
            )


def _found(store: Any, resolved: Resolved, cancel: Cancel | None) -> Iterator[Unfinished]:
    where, key = str(resolved.location), resolved.key
    find = getattr(store, "unfinished", None)
    if find is None:
        raise NotSupported(
            f"list uploads {where}: only S3 servers keep unfinished uploads",
            op="list uploads",
            location=where,
            hint="elsewhere an interrupted write may leave .NAME.partial-* beside the file",
        )
    for upload in find(key, cancel=cancel):
        if not key or key.endswith("/") or upload.key == key:
            yield upload
