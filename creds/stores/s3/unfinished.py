"""Uploads in parts that were never finished: they cost storage, and no listing of objects shows them."""

from __future__ import annotations

import functools
from collections.abc import Iterator
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
    marker: dict[str, str] = {}
    while True:
        answer = verb.stoppable(functools.partial(verb.call, functools.partial(_page, verb, marker)))
        with verb.speaking():
            found = [
                Unfinished(key=entry["Key"], upload_id=entry["UploadId"], started=entry["Initiated"])
                for entry in answer.get("Uploads", ())
            ]
        yield from found
        if not answer.get("IsTruncated"):
            return
        before, marker = marker, _next(answer)
        if not marker or marker == before:
            raise verb.failed(StoreError, "the server's pages do not end")


def _page(verb: Verb, marker: dict[str, str], client: Any) -> Any:
    return client.list_multipart_uploads(Bucket=verb.bucket.name, Prefix=verb.key, **marker)


def _next(answer: Any) -> dict[str, str]:
    names = {"NextKeyMarker": "KeyMarker", "NextUploadIdMarker": "UploadIdMarker"}
    return {asked: answer[told] for told, asked in names.items() if answer.get(told)}


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
