"""How objects are shown: a line each for a person, one JSON object a line with ``--json``."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

from artifacts.cli import exits
from artifacts.cli.display import print_rows
from artifacts.cli.session import Session, print_json
from artifacts.errors import PrefixError
from artifacts.events import Event, OnEvent, Passed, Receipt, utc
from artifacts.text import printable, size_text
from creds.errors import Cancelled, LocationError, ToolkitError
from creds.location import Location
from creds.store import ObjectMeta

if TYPE_CHECKING:
    from artifacts.leftovers import Leftover

COLUMNS = ("size", "modified", "etag", "version", "key")
_PAGE = 1000


def show_meta(session: Session, url: str, meta: ObjectMeta) -> None:
    """Print what a store says of one object."""
    if session.as_json:
        print_json(_line(Location.parse(url), meta))
        return
    size = "" if meta.size_bytes is None else str(meta.size_bytes)
    print_rows(COLUMNS, [(size, _time(meta), meta.etag or "", meta.version or "", meta.key)])


def show_listing(session: Session, url: str, found: Iterable[ObjectMeta], *, long: bool) -> None:
    """Print a listing, a page at a time: whoever reads it need not wait for its end.

    Args:
        long: with the ETag, and the whole URL instead of the key.
    """
    location = Location.parse(url, prefix=True)
    if location is None:
        raise LocationError("the URL is empty")
    shape = "{:>14}  {:24}  {}\n" if sys.stdout.isatty() else "{}\t{}\t{}\n"
    for count, meta in enumerate(found, 1):
        if session.as_json:
            sys.stdout.write(_line(location, meta) + "\n")
        else:
            size = "" if meta.size_bytes is None else str(meta.size_bytes)
            name = meta.key
            if long:
                name = f"{meta.etag or '-'}  {replace(location, key=meta.key)}"
            sys.stdout.write(shape.format(size, _time(meta), printable(name)))
        if count % _PAGE == 0:
            sys.stdout.flush()
    sys.stdout.flush()


def _time(meta: ObjectMeta) -> str:
    return "" if meta.modified is None else utc(meta.modified)


def _line(location: Location | None, meta: ObjectMeta) -> str:
    """One object as docs/objects.md describes it. ASCII, so that no key of any server is beyond the output."""
    assert location is not None
    facts = {
        "v": 1,
        "type": "folder" if meta.key.endswith("/") and meta.size_bytes is None else "object",
        "location": str(replace(location, key=meta.key)),
        "key": meta.key,
        "size_bytes": meta.size_bytes,
        "modified": None if meta.modified is None else utc(meta.modified),
        "etag": meta.etag,
        "version": meta.version,
        "checksums": dict(meta.checksums),
    }
    return json.dumps(facts, separators=(",", ":"))


_BECAME = {"aborted": "aborted", "planned": "would be aborted", "kept": "kept: younger"}


def show_leftovers(session: Session, url: str, found: Iterable[Leftover]) -> None:
    """Print unfinished uploads as they are dealt with, and count them; a person sees younger ones only with ``-v``."""
    location = Location.parse(url, prefix=True)
    assert location is not None
    counts: Counter[str] = Counter()
    for upload in found:
        counts[upload.status] += 1
        if session.as_json:
            facts = {
                "v": 1,
                "type": "upload",
                "location": str(replace(location, key=upload.key)),
                "key": upload.key,
                "upload_id": upload.upload_id,
                "started": utc(upload.started),
                "age_seconds": round(upload.age_seconds),
                "status": upload.status,
            }
            sys.stdout.write(json.dumps(facts, separators=(",", ":")) + "\n")
        elif upload.status != "kept" or session.verbosity > 0:
            age = timedelta(seconds=round(upload.age_seconds))
            sys.stdout.write(f"{utc(upload.started)}\t{age}\t{printable(upload.key)}\t{_BECAME[upload.status]}\n")
        sys.stdout.flush()
    parts = [f"{counts[status]} {said}" for status, said in _BECAME.items() if counts[status]]
    session.say(f"{counts.total()} unfinished uploads{': ' if parts else ''}{', '.join(parts)}")


def each(session: Session, urls: Iterable[str], work: Callable[[str], object]) -> int:
    """Do ``work`` for one URL after the other; a failure is told and does not keep the others. Returns the exit code.

    Raises:
        Cancelled.
    """
    codes = []
    for url in urls:
        try:
            work(url)
        except Cancelled:
            raise
        except ToolkitError as error:
            codes.append(session.tell(error))
    return exits.worst(codes)


def many(session: Session, work: Callable[[OnEvent], Iterable[Receipt]]) -> None:
    """Do ``work`` on the objects below a prefix, and tell in one line what became of them.

    Only with ``-v`` or ``--json`` a person is told of each object that is the same here and there.
    """
    quiet = session.verbosity < 1 and not session.as_json

    def on_event(event: Event) -> None:
        if quiet and isinstance(event, Passed) and event.receipt.status == "unchanged":
            session.receipts.append(event.receipt)
        else:
            session.on_event(event)

    try:
        receipts = tuple(work(on_event))
    except PrefixError as error:
        _summarize(session, error.receipts)
        raise
    session.results([receipt for receipt in receipts if receipt.status not in ("done", "unchanged")])
    _summarize(session, receipts)


def _summarize(session: Session, receipts: Iterable[Receipt]) -> None:
    receipts = tuple(receipts)
    counts = Counter(receipt.status for receipt in receipts)
    moved = sum(receipt.object_bytes or 0 for receipt in receipts if receipt.status in ("done", "planned"))
    parts = [f"{count} {status}" for status, count in sorted(counts.items())]
    noun = "object" if len(receipts) == 1 else "objects"
    session.say(f"{len(receipts)} {noun}: {', '.join((*parts, size_text(moved)))}")
