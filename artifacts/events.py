"""What happened, for programs: events while it happens, one receipt an artifact when it is over."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from creds.errors import ToolkitError
from creds.store import OnRetry

if TYPE_CHECKING:
    from creds.resolve import Resolved


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """Work on an artifact begins. ``total_bytes`` is the object's size, None until it is known."""

    op: str
    label: str
    location: str
    total_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """``done_bytes`` of the object have passed the network so far; ``total_bytes`` as far as known."""

    op: str
    label: str
    done_bytes: int
    total_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Retried:
    """An attempt failed and is repeated after ``wait_seconds``; ``error`` says why."""

    op: str
    label: str
    attempt: int
    wait_seconds: float
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """As many transfers as this machine may have are under way; this one's turn has not come for a while."""

    op: str
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What came is what was promised; ``by`` says how it is known, as in :class:`Receipt`."""

    op: str
    label: str
    by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """The artifact is in its place, whole: the folder after a fetch, the object after an upload."""

    op: str
    label: str
    receipt: Receipt


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The artifact failed; nothing half-made is left."""

    op: str
    label: str
    receipt: Receipt


@dataclass(frozen=True, slots=True, kw_only=True)
class Passed:
    """Nothing was to be done: ``receipt.status`` says why (unchanged, kept, empty, skipped, planned, owed)."""

    op: str
    label: str
    receipt: Receipt


Event = Started | Progress | Retried | Waiting | Verified | Published | Failed | Passed
OnEvent = Callable[[Event], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What became of one artifact. Every field is always written; see ``docs/receipts.md``.

    Attributes:
        op: fetch, upload, checkpoint, get, put or delete.
        status: done, unchanged, kept, empty, skipped, planned, owed or failed.
        object_bytes, unpacked_bytes: as stored, and as files.
        verified: sha256, md5, checksum, etag or none.
        pinned: etag, version, weak or none: what held a fetch's parts to one generation of the object.
        conditional: enforced, ignored or None: what became of an upload's condition.
        cache: hit, miss or off.
        rule: the policy's rule that allowed (or refused) the location.
    """

    op: str
    label: str
    status: str
    location: str | None = None
    path: str | None = None
    mutable: bool | None = None
    etag: str | None = None
    version: str | None = None
    object_bytes: int | None = None
    unpacked_bytes: int | None = None
    members: int | None = None
    sha256: str | None = None
    verified: str = "none"
    pinned: str = "none"
    conditional: str | None = None
    cache: str = "off"
    credential: dict[str, Any] | None = None
    rule: str | None = None
    attempts: int = 0
    seconds: float = 0.0
    bytes_per_second: int | None = None
    warnings: tuple[dict[str, str], ...] = ()
    error: dict[str, Any] | None = None
    run: str = ""
    experiment: str = ""
    time: datetime = field(default_factory=lambda: datetime.now(UTC))

    def to_json(self) -> str:
        """The receipt as one line of JSON, keys in the documented order."""
        import json  # not before somebody asks for it

        values = {field.name: getattr(self, field.name) for field in fields(self)}
        line = {"v": 1, "type": "receipt", "time": utc(self.time), "run": self.run, "experiment": self.experiment}
        line.update((name, values[name]) for name in values if name not in line)
        return json.dumps(line, separators=(",", ":"), ensure_ascii=False)


def utc(moment: datetime) -> str:
    """A time as the receipts write it: UTC, milliseconds, ``Z``."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Report:
    """Makes the events and receipts of one run, and hands them on from one thread at a time.

    Args:
        on_event: called with every event.
        experiment: the request's key, for the receipts.
        run: the run's name; None makes one.
    """

    def __init__(self, on_event: OnEvent | None = None, *, experiment: str = "", run: str | None = None) -> None:
        self.run = run or run_id()
        self.experiment = experiment
        self._on_event = on_event
        self._lock = threading.Lock()

    def emit(self, event: Event) -> None:
        """Hand on one event."""
        if self._on_event is not None:
            with self._lock:
                self._on_event(event)

    def on_bytes(self, op: str, label: str) -> Callable[[int, int | None], None] | None:
        """What a transfer calls with its bytes so far and in all; None where nobody listens."""
        if self._on_event is None:
            return None
        return lambda done, total: self.emit(Progress(op=op, label=label, done_bytes=done, total_bytes=total))

    def on_retry(self, op: str, label: str) -> OnRetry | None:
        """What a store calls before it waits; None where nobody listens."""
        if self._on_event is None:
            return None
        return lambda retry: self.emit(
            Retried(op=op, label=label, attempt=retry.attempt, wait_seconds=retry.wait_seconds, error=str(retry.error))
        )

    def on_wait(self, op: str, label: str) -> Callable[[], None]:
        """What is called when a transfer waits long for its turn."""
        return lambda: self.emit(Waiting(op=op, label=label))

    def receipt(self, op: str, label: str, status: str, **facts: Any) -> Receipt:
        """Write the receipt of an artifact that is over, and emit the event that carries it."""
        receipt = Receipt(op=op, label=label, status=status, run=self.run, experiment=self.experiment, **facts)
        if self._on_event is None:
            return receipt
        if status == "done":
            self.emit(Published(op=op, label=label, receipt=receipt))
        elif receipt.error is not None:
            self.emit(Failed(op=op, label=label, receipt=receipt))
        else:
            self.emit(Passed(op=op, label=label, receipt=receipt))
        return receipt


def error_facts(error: ToolkitError) -> dict[str, Any]:
    """An error as a receipt writes it."""
    names = ("http_status", "server_code", "server_request_id", "rule")
    return {"code": error.code, "message": str(error), "hint": error.hint, "retryable": error.retryable} | {
        name: getattr(error, name, None) for name in names
    }


def resolved_facts(resolved: Resolved, location: str | None = None) -> dict[str, Any]:
    """What a receipt says of where and as whom.

    Args:
        location: as it is shown, where the caller has it; None makes it.
    """
    return {
        "location": location or str(resolved.location),
        "rule": resolved.verdict.rule,
        "credential": resolved.identity.to_dict(),
    }


_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def run_id() -> str:
    """A new name for a run: a ULID, which sorts by time."""
    number = int(time.time() * 1000) << 80 | int.from_bytes(os.urandom(10))
    return "".join(_CROCKFORD[number >> shift & 31] for shift in range(125, -1, -5))
