"""The client's side: pack and upload what a request names on this machine, and complete the request."""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

from artifacts import transfer
from artifacts.errors import RequestError
from artifacts.events import OnEvent, Receipt, Report, Started, error_facts, resolved_facts
from artifacts.objects import local_source
from artifacts.request import Artifact, Request
from creds.errors import AccessDenied, LocationError, ObjectNotFound, ToolkitError
from creds.location import Location
from creds.policy import Endpoint, Policy
from creds.resolve import resolve
from creds.store import Cancel, Store, StoreOptions


def push(
    request: Request,
    *,
    base: Path,
    policy: Policy | None = None,
    options: StoreOptions | None = None,
    endpoint: Endpoint | None = None,
    on_event: OnEvent | None = None,
    cancel: Cancel | None = None,
) -> tuple[Request, tuple[Receipt, ...]]:
    """Upload each artifact's ``local`` path and return the request completed with keys and locations.

    An artifact without ``local`` is left as it is. An empty key becomes ``blobstore/<sha256 of the plain tar>.tar``,
    and an object of that name is not uploaded again: its name says what it holds. For a mutable artifact, whose object
    will change, it becomes ``experiments/<experiment key>/<label>.tar`` where the experiment has a key.

    Args:
        base: the folder that relative ``local`` paths start from.
        policy: None is the caller's own authority.
        endpoint: where an artifact goes that has a ``bucket`` and no ``qualified``; None is AWS.

    Raises:
        RequestError: an artifact to push names no bucket, or a path where nothing is.
        CredsError, DiskError, ArchiveError, Cancelled: the first failure ends the push; objects already sent stay.
    """
    completed = request.model_copy(deep=True)
    policy = policy or Policy.for_caller()
    options = replace(options or StoreOptions(), request_env=request.config.env or {})
    report = Report(on_event, experiment=request.experiment.key)
    receipts = []
    for label, artifact in (completed.experiment.artifacts or {}).items():
        if artifact.local:
            path = base / artifact.local
            if not path.exists():
                raise RequestError(f"experiment.artifacts.{label}.local: {path} is no file or folder")
            named_by_content = _complete(label, artifact, path, request.experiment.key, endpoint)
            sending = _Push(label, artifact, path, named_by_content)
            receipts.append(_push(sending, policy.concerning(label), options, report, cancel))
    return completed, tuple(receipts)


@dataclass(frozen=True, slots=True)
class _Push:
    label: str
    artifact: Artifact
    path: Path
    named_by_content: bool


def _complete(label: str, artifact: Artifact, path: Path, experiment: str, endpoint: Endpoint | None) -> bool:
    """Fill in the key and the location; True when the key was made from the content."""
    named_by_content = False
    if not artifact.key and not _has_key(artifact):
        if artifact.mutable and experiment:
            artifact.key = f"experiments/{experiment}/{label}.tar"
        else:
            artifact.key = f"blobstore/{_plain_sha256(path)}.tar"
            named_by_content = True
    if not artifact.qualified and not artifact.url:
        if not artifact.bucket:
            raise RequestError(f"experiment.artifacts.{label}: has no bucket to push to")
        host = f"{endpoint.host}/" if endpoint is not None else ""
        artifact.qualified = f"s3://{host}{artifact.bucket}/{quote(artifact.key)}"
        return named_by_content
    location = _location(artifact)
    artifact.bucket = artifact.bucket or location.bucket
    if artifact.key and not _has_key(artifact):
        artifact.qualified = f"{artifact.qualified.rstrip('/')}/{quote(artifact.key)}"
    artifact.key = artifact.key or location.key
    return named_by_content


def _location(artifact: Artifact) -> Location:
    location = Location.parse(artifact.qualified or artifact.url or "", artifact.bucket, artifact.key)
    assert location is not None
    return location


def _has_key(artifact: Artifact) -> bool:
    """Does the URL itself name a key?"""
    try:
        location = Location.parse(artifact.qualified or artifact.url or "", artifact.bucket)
    except LocationError:
        # A URL that ends at the bucket is no place yet; what else is wrong with it is told when it is complete.
        return False
    return location is not None


def _plain_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with local_source(path, "x.tar") as source:
        for buffer in source.buffers:
            digest.update(buffer)
    return digest.hexdigest()


def _push(sending: _Push, policy: Policy, options: StoreOptions, report: Report, cancel: Cancel | None) -> Receipt:
    label, artifact = sending.label, sending.artifact
    resolved = resolve(_location(artifact), artifact.credentials, options, policy)
    facts = {"path": str(sending.path), "mutable": artifact.mutable, **resolved_facts(resolved)}
    report.emit(Started(op="put", label=label, location=str(resolved.location)))
    try:
        with contextlib.closing(resolved.open()) as store:
            if sending.named_by_content and _exists(store, resolved.key, cancel):
                return report.receipt("put", label, "unchanged", **facts)
            with local_source(sending.path, resolved.key) as source:
                moved = transfer.upload(
                    store,
                    resolved.key,
                    source,
                    cancel=cancel,
                    on_bytes=report.on_bytes("put", label),
                    on_retry=report.on_retry("put", label),
                )
    except ToolkitError as error:
        report.receipt("put", label, "failed", error=error_facts(error), **facts)
        raise
    return report.receipt("put", label, "done", **facts, **moved.facts(), warnings=moved.warnings)


def _exists(store: Store, key: str, cancel: Cancel | None) -> bool:
    """Is there an object? Where the server will not say, sending it again is right: the same name, the same bytes."""
    try:
        store.head(key, cancel=cancel)
    except (ObjectNotFound, AccessDenied):
        return False
    return True
