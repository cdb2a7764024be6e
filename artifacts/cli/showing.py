"""How objects are shown: a line each for a person, one JSON object a line with ``--json``."""

from __future__ import annotations

import json
from dataclasses import asdict

from artifacts.cli.display import print_rows
from artifacts.cli.session import Session, print_json
from artifacts.events import utc
from creds.store import ObjectMeta

COLUMNS = ("size", "modified", "etag", "version", "key")


def show_meta(session: Session, meta: ObjectMeta) -> None:
    """Print what a store says of one object."""
    modified = None if meta.modified is None else utc(meta.modified)
    if session.as_json:
        facts = {"v": 1, "type": "object", **asdict(meta), "modified": modified, "checksums": dict(meta.checksums)}
        print_json(json.dumps(facts, separators=(",", ":"), ensure_ascii=False))
        return
    size = "" if meta.size_bytes is None else str(meta.size_bytes)
    print_rows(COLUMNS, [(size, modified or "", meta.etag or "", meta.version or "", meta.key)])
