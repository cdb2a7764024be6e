"""``artifacts check``: where each artifact is, as whom it is reached, and whether it answers. Nothing moves."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from artifacts.cli import exits
from artifacts.cli.configuring import Setting, shown
from artifacts.cli.display import print_rows
from artifacts.cli.session import Session, print_json
from artifacts.events import error_facts, resolved_facts, utc
from artifacts.limits import Limits
from artifacts.request import Request
from artifacts.staging import Job, plan
from artifacts.text import size_text
from creds.errors import ObjectNotFound, ToolkitError
from creds.policy import Policy
from creds.store import Cancel, ObjectMeta, StoreOptions

COLUMNS = ("label", "status", "endpoint", "bucket", "key", "rule", "credential", "size", "etag")


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What is known of one artifact without moving it.

    Attributes:
        status: ``found``, ``missing`` (a mutable one that starts empty), ``none`` (no location) or ``failed``.
    """

    label: str
    status: str
    job: Job | None = None
    meta: ObjectMeta | None = None
    error: ToolkitError | None = None


def check_request(
    session: Session,
    request: Request,
    policy: Policy,
    options: StoreOptions,
    *,
    limits: Limits | None = None,
    settings: Sequence[Setting] = (),
) -> int:
    """Print a row (or with ``--json`` an object) for each artifact; return the exit code that staging would meet.

    Args:
        settings: the values that hold: told with ``-v``, and one more object with ``--json``.
    """
    jobs = plan(request, policy=policy, limits=limits, options=options)
    ordered = [_probe(job, session.cancel) for job in jobs]
    if session.as_json:
        for probe in ordered:
            print_json(json.dumps(_facts(probe, session.run, request), separators=(",", ":"), ensure_ascii=False))
        values = {setting.name: setting.value for setting in settings}
        told = {"v": 1, "type": "settings", "time": utc(datetime.now(UTC)), "run": session.run, "settings": values}
        print_json(json.dumps(told, separators=(",", ":"), ensure_ascii=False))
    elif session.verbosity >= 0:
        for setting in settings if session.verbosity >= 1 else ():
            session.say(f"{setting.name}: {shown(setting.value)} ({setting.origin})")
        print_rows(COLUMNS, [_row(probe) for probe in ordered])
    return exits.worst([session.tell(probe.error, probe.label) for probe in ordered if probe.error is not None])


def _probe(job: Job, cancel: Cancel) -> Probe:
    if job.error is not None:
        return Probe(label=job.label, status="failed", job=job, error=job.error)
    if job.resolved is None:
        return Probe(label=job.label, status="none", job=job)
    try:
        with contextlib.closing(job.resolved.open()) as store:
            meta = store.head(job.resolved.key, cancel=cancel)
    except ObjectNotFound as error:
        if job.artifact.mutable:
            return Probe(label=job.label, status="missing", job=job)
        return Probe(label=job.label, status="failed", job=job, error=error)
    except ToolkitError as error:
        return Probe(label=job.label, status="failed", job=job, error=error)
    return Probe(label=job.label, status="found", job=job, meta=meta)


def _row(probe: Probe) -> tuple[str, ...]:
    facts = _facts(probe, "", None)
    credential = facts["credential"] or {}
    named = " ".join(str(value) for value in (credential.get("kind"), credential.get("id")) if value)
    size = "" if facts["object_bytes"] is None else size_text(facts["object_bytes"])
    texts = (facts[name] or "" for name in ("label", "status", "endpoint", "bucket", "key", "rule"))
    return (*texts, named, size, facts["etag"] or "")


def _facts(probe: Probe, run: str, request: Request | None) -> dict[str, Any]:
    resolved = probe.job.resolved if probe.job is not None else None
    known = {"location": None, "rule": getattr(probe.error, "rule", None) or None, "credential": None}
    if resolved is not None:
        known = resolved_facts(resolved)
    return {
        "v": 1,
        "type": "check",
        "time": utc(datetime.now(UTC)),
        "run": run,
        "experiment": request.experiment.key if request else "",
        "label": probe.label,
        "status": probe.status,
        **known,
        "endpoint": resolved.verdict.endpoint_url if resolved else None,
        "bucket": resolved.location.bucket if resolved else None,
        "key": resolved.location.key if resolved else None,
        "object_bytes": probe.meta.size_bytes if probe.meta else None,
        "etag": probe.meta.etag if probe.meta else None,
        "error": error_facts(probe.error) if probe.error else None,
    }
