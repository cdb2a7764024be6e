"""``artifacts doctor``: what stands between a location and its object, a line a step, and the setting to change."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import click

from artifacts.cli import exits, options
from artifacts.cli.session import Session, print_json
from artifacts.events import error_facts, utc
from artifacts.request import Artifact
from artifacts.staging import Job, plan
from artifacts.text import printable
from creds.doctor import Step, diagnose
from creds.errors import LocationError, ToolkitError
from creds.location import Location
from creds.policy import Policy
from creds.store import StoreOptions

SHOWN_CHARS = 400
"""Of each text: a server may say much."""

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red", "skip": "bright_black"}


def examine_url(
    session: Session,
    url: str,
    *,
    write: bool,
    ambient: bool,
    file_roots: tuple[str, ...],
    lend_to: tuple[str, ...],
    **rest: Any,
) -> int:
    """Diagnose one URL, with the caller's own authority; return the exit code that ``get`` would meet."""
    if file_roots or lend_to:
        raise click.UsageError("--file-root and --lend-to are for a request; a URL has the caller's own authority")
    if ambient and rest["profile"] is not None:
        raise click.UsageError("--ambient and --profile exclude each other")
    access = options.access(session, url, **rest)
    location, folder = _place(url)
    steps = diagnose(
        location,
        access.credentials,
        access.options,
        access.policy,
        folder=folder,
        write=write,
        cancel=session.cancel,
    )
    return _show(session, "", str(location) if not folder else url, steps)


def _place(url: str) -> tuple[Location, bool]:
    """The location of a URL, which may end at a bucket or a folder; is it one?"""
    try:
        location = Location.parse(url)
    except LocationError:
        if not url.lower().startswith("s3"):
            raise
        location = Location.parse(f"{url.rstrip('/')}/x")
        folder = True
    else:
        folder = location is not None and location.key.endswith("/")
        if folder:
            location = Location.parse(f"{url}x")
    assert location is not None
    return location, folder


def examine_request(
    session: Session,
    name: str,
    *,
    write: bool,
    endpoint_url: str | None,
    anonymous: bool,
    credentials: str | None,
    **rest: Any,
) -> int:
    """Diagnose each artifact of a request, as the policy has it; return the exit code that ``check`` would meet."""
    if endpoint_url is not None or anonymous or credentials is not None:
        raise click.UsageError("--endpoint-url, --anonymous and --credentials are for a URL; a request has its own")
    request = options.load(session, name)
    policy, store_options = options.operator(session, **rest)
    # Each decision goes on record when its artifact is looked at.
    jobs = plan(request, policy=replace(policy, on_decision=None), options=store_options)
    store_options = replace(store_options, request_env=request.config.env or {})
    codes = []
    for number, job in enumerate(jobs):
        if number and not session.as_json and session.verbosity >= 0:
            sys.stdout.write("\n")
        steps = _of_artifact(session, job, policy.concerning(job.label), store_options, write=write)
        codes.append(_show(session, job.label, _where(job), steps, request.experiment.key))
    return exits.worst(codes)


def _where(job: Job) -> str:
    return job.location if job.resolved is not None else str(getattr(job.error, "location", None) or "no location")


def _of_artifact(
    session: Session, job: Job, policy: Policy, store_options: StoreOptions, *, write: bool
) -> Iterator[Step]:
    try:
        location = _location(job.artifact)
    except LocationError as error:
        yield Step(name="location", status="fail", detail=str(error), hint=error.hint, error=error)
        return
    if location is None and job.error is None:
        yield Step(name="location", status="ok", detail="none: the artifact is mutable and stays here")
        return
    told: ToolkitError | None = None
    if location is not None:
        for step in diagnose(
            location,
            job.artifact.credentials,
            store_options,
            policy,
            may_be_missing=job.artifact.mutable,
            write=write and job.artifact.mutable,
            cancel=session.cancel,
        ):
            told = told or step.error
            yield step
    if job.error is not None and told is None:
        # What is wrong with the artifact itself, not with its place.
        yield Step(name="artifact", status="fail", detail=str(job.error), hint=job.error.hint, error=job.error)


def _location(artifact: Artifact) -> Location | None:
    return Location.parse(artifact.qualified or artifact.url or "", artifact.bucket, artifact.key)


def _show(session: Session, label: str, where: str, steps: Iterable[Step], experiment: str = "") -> int:
    """Print each step when it is done; return the exit code for those that failed."""
    if not session.as_json and session.verbosity >= 0:
        sys.stdout.write(_cut(f"{label}: {where}" if label else where) + "\n")
    codes = []
    for step in steps:
        if step.status == "fail" and step.error is not None:
            codes.append(exits.exit_code(step.error))
        if session.as_json:
            facts = _facts(session, label, experiment, step)
            print_json(json.dumps(facts, separators=(",", ":"), ensure_ascii=False))
        elif session.verbosity >= 0 or step.status in ("warn", "fail"):
            _print(step)
    return exits.worst(codes)


def _print(step: Step) -> None:
    hint = f" -> {step.hint}" if step.hint and step.status != "ok" else ""
    status = click.style(f"{step.status:<4}", fg=_COLOURS[step.status]) if sys.stdout.isatty() else f"{step.status:<4}"
    sys.stdout.write(f"{status}  {step.name:<10}  {_cut(step.detail)}{_cut(hint)}\n")
    sys.stdout.flush()


def _cut(text: str) -> str:
    line = printable(text)
    return line if len(line) <= SHOWN_CHARS else f"{line[: SHOWN_CHARS - 1]}…"


def _facts(session: Session, label: str, experiment: str, step: Step) -> dict[str, Any]:
    return {
        "v": 1,
        "type": "step",
        "time": utc(datetime.now(UTC)),
        "run": session.run,
        "experiment": experiment,
        "label": label,
        "step": step.name,
        "status": step.status,
        "detail": _cut(step.detail),
        "hint": None if step.hint is None else _cut(step.hint),
        "error": None if step.error is None else error_facts(step.error),
    }
