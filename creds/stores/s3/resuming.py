"""Going on with an upload in parts that another process began and did not finish."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from creds.errors import Cancelled, CredsError, ObjectChanged, ObjectNotFound, StoreError
from creds.stores.s3.documents import Document
from creds.stores.s3.unfinished import abort
from creds.stores.s3.verb import Verb

Entry = Mapping[str, Any]
"""What a journal keeps: an object of JSON."""


class Journal(Protocol):
    """Where one upload remembers what it sent; whoever makes it sees to it that nobody else uses it.

    Attributes:
        about: says what bytes are sent, in any words; others stand for other bytes.
        keeps: a failure leaves the parts on the server for the next try; else only the death of the process does.
    """

    about: str
    keeps: bool

    def load(self) -> Sequence[Entry]:
        """What an earlier try left: what it began first, then its parts; nothing where there is none."""

    def begin(self, upload: Entry) -> None:
        """Forget all that was, and remember a new upload."""

    def add(self, part: Entry) -> None:
        """Remember a part that the server has."""

    def forget(self) -> None:
        """Forget all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """An upload that was begun.

    Attributes:
        upload_id: the server's name for it.
        part_bytes: the size of its first part, from which those of the others follow.
        mark: metadata that it was begun with, to know the object by.
        parts: those that the journal and the server agree on, by number: as CompleteMultipartUpload wants them.
        sizes: their sizes in bytes.
    """

    upload_id: str
    part_bytes: int
    mark: Mapping[str, str]
    parts: Mapping[int, Entry]
    sizes: Mapping[int, int]


class Resuming:
    """One write that goes on where an earlier one ended, if it can.

    Args:
        described: what the object is told to be: another object is another upload.
    """

    def __init__(self, verb: Verb, journal: Journal, described: Mapping[str, Any]) -> None:
        self._verb = verb
        self._journal = journal
        said = [verb.where, verb.key, verb.bucket.checksums, journal.about, described, repr(verb.bucket.options.s3)]
        self._about = hashlib.sha256(json.dumps(said).encode()).hexdigest()

    def begun(self) -> Begun | None:
        """What an earlier try of this very write left; an upload of other bytes is aborted, one that is gone forgotten.

        Raises:
            StoreError: the server does not say what it has.
        """
        entries = self._journal.load()
        if not entries:
            return None
        try:
            return self._agreed(*entries)
        except (KeyError, TypeError, ValueError):
            self._journal.forget()  # it is no journal of ours
            return None

    def _agreed(self, upload: Entry, *parts: Entry) -> Begun | None:
        if upload.get("key") != self._verb.key or upload.get("bucket") != self._verb.bucket.location:
            return None
        if upload.get("about") != self._about:
            self._abort(str(upload["upload_id"]))
            self._journal.forget()
            return None
        try:
            there = self._there(str(upload["upload_id"]))
        except ObjectNotFound:
            self._journal.forget()
            return None
        same = {
            int(part["PartNumber"]): part
            for part in parts
            if there.get(int(part["PartNumber"])) == (part["ETag"], part["Size"])
        }
        return Begun(
            upload_id=str(upload["upload_id"]),
            part_bytes=int(upload["part_bytes"]),
            mark=upload["mark"],
            parts={
                number: {name: value for name, value in part.items() if name != "Size"} for number, part in same.items()
            },
            sizes={number: int(part["Size"]) for number, part in same.items()},
        )

    def begin(self, upload_id: str, part_bytes: int, mark: Mapping[str, str]) -> None:
        """Remember an upload that was just begun."""
        self._journal.begin(
            {
                "key": self._verb.key,
                "bucket": self._verb.bucket.location,
                "about": self._about,
                "upload_id": upload_id,
                "part_bytes": part_bytes,
                "mark": dict(mark),
            }
        )

    def add(self, part: Entry, size: int) -> None:
        """Remember a part that the server has."""
        self._journal.add({**part, "Size": size})

    def may_go_on(self, error: BaseException) -> bool:
        """Are the parts kept for a later try? Not where it failed over the object or its bytes: it would again."""
        if not self._journal.keeps or isinstance(error, ObjectChanged):
            return False
        return isinstance(error, CredsError | Cancelled) or not isinstance(error, Exception)

    def forget(self) -> None:
        """The upload is over."""
        self._journal.forget()

    def _there(self, upload_id: str) -> dict[int, tuple[str, int]]:
        """ETag and size of each part that the server has, by number; nothing of one that it has twice, as some may."""
        verb = replace(self._verb, op="list parts")
        names = {"NextPartNumberMarker": "part-number-marker"}

        def ask(marker: Mapping[str, str]) -> Document:
            return verb.document(
                ("UploadId", "IsTruncated"), "ListParts", "GET", query={"uploadId": upload_id, **marker}
            )

        found: dict[int, set[tuple[str, int]]] = {}
        for entry in (entry for page in verb.pages(ask, names) for entry in page.entries("Part")):
            found.setdefault(int(entry["PartNumber"]), set()).add((entry["ETag"], int(entry["Size"])))
        return {number: same.pop() for number, same in found.items() if len(same) == 1}

    def _abort(self, upload_id: str) -> None:
        """As well as can be done: `artifacts gc` finds what is left."""
        with contextlib.suppress(StoreError):
            self._verb.call(lambda: abort(self._verb, upload_id))
