"""Uploads in parts that were never finished: they cost storage, and no listing of objects shows them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from creds.errors import ObjectNotFound, StoreError
from creds.stores.s3.verb import Verb


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfinished:
    """One upload that was begun and neither completed nor aborted.

    Attributes:
        key: of the object it would become.
        upload_id: the server's name for it.
        started: when it was begun, timezone-aware.
    """

    key: str
    upload_id: str
    started: datetime


def unfinished(verb: Verb) -> Iterator[Unfinished]:
    """Every unfinished upload whose key starts with the verb's key, page by page."""
    names = {"NextKeyMarker": "KeyMarker", "NextUploadIdMarker": "UploadIdMarker"}
    for entry in pages(verb, functools.partial(_page, verb), "Uploads", names):
        with verb.speaking():
            found = Unfinished(key=entry["Key"], upload_id=entry["UploadId"], started=entry["Initiated"])
        yield found


def _page(verb: Verb, marker: Mapping[str, Any], client: Any) -> Any:
    return client.list_multipart_uploads(Bucket=verb.bucket.name, Prefix=verb.key, **marker)


def pages(
    verb: Verb, ask: Callable[[Mapping[str, Any], Any], Any], entries: str, names: Mapping[str, str]
) -> Iterator[Any]:
    """What a server lists in pages of its own kind.

    Args:
        ask: asks for the page at a marker; takes it and the client.
        entries: what the answer calls them.
        names: what the next request calls each part of the marker, by what the answer calls it.
    """
    marker: dict[str, Any] = {}
    while True:
        answer = verb.stoppable(functools.partial(verb.call, functools.partial(ask, marker)))
        yield from answer.get(entries, ())
        if not answer.get("IsTruncated"):
            return
        before, marker = marker, {asked: answer[told] for told, asked in names.items() if answer.get(told)}
        if not marker or marker == before:
            raise verb.failed(StoreError, "the server's pages do not end")


def abort(verb: Verb, upload: Unfinished) -> None:
    """Abort an upload; one that is gone meanwhile is no error."""
    try:
        verb.stoppable(
            lambda: verb.call(
                lambda client: client.abort_multipart_upload(
                    Bucket=verb.bucket.name, Key=upload.key, UploadId=upload.upload_id
                )
            )
        )
    except ObjectNotFound:
        return
