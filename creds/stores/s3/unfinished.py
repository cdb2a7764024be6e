"""Uploads in parts that were never finished: they cost storage, and no listing of objects shows them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from creds.stores.s3.documents import Document
from creds.stores.s3.meta import moment
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
    markers = {"NextKeyMarker": "key-marker", "NextUploadIdMarker": "upload-id-marker"}

    def ask(marker: Mapping[str, str]) -> Document:
        query = {"uploads": "", "prefix": verb.key, **marker}
        known_by = ("Bucket", "IsTruncated")
        return verb.document(known_by, "ListMultipartUploads", "GET", query=query, whole_bucket=True)

    for entry in (entry for page in verb.pages(ask, markers) for entry in page.entries("Upload")):
        started = moment(entry.get("Initiated"))
        if started is None or not entry.keys() >= {"Key", "UploadId"}:
            raise verb.not_s3()
        yield Unfinished(key=entry["Key"], upload_id=entry["UploadId"], started=started)


def abort(verb: Verb, upload_id: str) -> None:
    """Abort the upload of the verb's key, in one request."""
    verb.ask("AbortMultipartUpload", "DELETE", query={"uploadId": upload_id})
