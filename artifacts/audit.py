"""The record of what a policy decided: one JSON object a line, appended to a file; see ``docs/policy.md``."""

from __future__ import annotations

import json
import os
import threading
from datetime import UTC, datetime
from typing import Any

from artifacts.errors import DiskError
from artifacts.events import run_id, utc
from creds.policy import Decision

_REMEMBERED = 100_000


class AuditFile:
    """Appends each decision to a file; give it to a policy as ``on_decision``.

    Each line is one write to a file that is open for appending, so several processes may share it. A decision that was
    written in this run already, such as when a store is opened that was planned before, is not written again.

    Args:
        path: made with mode 0600 when missing.
        op: what is being done, such as ``stage``.
        run: the run's name; None makes one.

    Raises (calling it, too):
        DiskError: the file cannot be opened or written. Nothing goes on that is not on record.
    """

    def __init__(self, path: str | os.PathLike[str], *, op: str, run: str | None = None) -> None:
        self._path = os.fspath(path)
        self._run = {"run": run or run_id(), "op": op}
        self._lock = threading.Lock()
        self._written: set[int] = set()
        # A pipe that nobody reads is an error, and not waited for.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
        try:
            self._file = os.open(path, flags, 0o600)
        except OSError as error:
            raise DiskError.of("open the audit file", self._path, error) from error

    def __call__(self, decision: Decision) -> None:
        facts: dict[str, Any] = {
            "step": decision.step,
            "location": decision.location,
            "allowed": decision.allowed,
            "rule": decision.rule,
            "reason": decision.reason,
            "endpoint_url": decision.endpoint_url,
            "credential": None if decision.credential is None else dict(decision.credential),
        }
        text = json.dumps(facts, sort_keys=True)
        known = {hash(text), hash((decision.about, text))}
        with self._lock:
            if (hash(text) if decision.about is None else hash((decision.about, text))) in self._written:
                return
            self._append(
                {
                    "v": 1,
                    "type": "decision",
                    "time": utc(datetime.now(UTC)),
                    **self._run,
                    "label": decision.about,
                    **facts,
                }
            )
            if len(self._written) > _REMEMBERED:
                self._written.clear()
            self._written |= known

    def _append(self, facts: dict[str, Any]) -> None:
        line = (json.dumps(facts, separators=(",", ":"), ensure_ascii=True) + "\n").encode()
        try:
            written = os.write(self._file, line)
        except OSError as error:
            raise DiskError.of("write the audit file", self._path, error) from error
        if written != len(line):
            raise DiskError(f"cannot write the audit file {self._path}: {written} of {len(line)} bytes were taken")

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)
