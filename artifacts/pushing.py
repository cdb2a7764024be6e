"""The client's side: pack and upload what is on this machine, and write the request that names it.

:func:`push` completes a request whose artifacts have ``local`` paths; :func:`push_to` makes one from paths alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from artifacts import transfer
from artifacts.archive.formats import is_tar_name, without_suffix
from artifacts.errors import DiskError, IntegrityError, RequestError
from artifacts.events import OnEvent, Receipt, Report, Started, error_facts, resolved_facts, run_id
from artifacts.objects import Access, local_source
from artifacts.request import Artifact, Experiment, Request
from artifacts.staging import label_problem
from creds.errors import AccessDenied, LocationError, MissingCredential, ObjectNotFound, ToolkitError
from creds.keys import AwsKeys, Identity, masked_id
from creds.location import Location
from creds.models import AWSCredential, Credentials, JWTCredential
from creds.policy import Endpoint, Policy
from creds.resolve import Resolved, resolve
from creds.store import Cancel, Store, StoreOptions
from creds.tokens import taken

EMBED = ("none", "static", "sts")
COMPRESS = {"none": "", "gz": ".gz", "zst": ".zst"}


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
        RequestError: an artifact to push names no bucket, or a path where nothing is; nothing was sent.
        CredsError, DiskError, ArchiveError, IntegrityError, Cancelled: the first failure ends the push; objects already
            sent stay.
    """
    completed = request.model_copy(deep=True)
    policy = policy or Policy.for_caller()
    options = replace(options or StoreOptions(), request_env=request.config.env or {})
    pushes = []
    for label, artifact in (completed.experiment.artifacts or {}).items():
        if artifact.local:
            path = base / artifact.local
            if not path.exists():
                raise RequestError(f"experiment.artifacts.{label}.local: {path} is no file or folder")
            content = _complete(label, artifact, path, request.experiment.key, endpoint)
            resolved = resolve(_location(artifact), artifact.credentials, options, policy.concerning(label))
            pushes.append(_Push(label, artifact, path, resolved, content))
    report = Report(on_event, experiment=request.experiment.key)
    return completed, _send(pushes, report, cancel)


class Pushed(NamedTuple):
    """What :func:`push_to` made.

    Attributes:
        request: the document; it holds the embedded secrets.
        receipts: one for each path that was sent.
        embedded: whose credentials are in the request; None where none are.
    """

    request: Request
    receipts: tuple[Receipt, ...]
    embedded: Identity | None


def push_to(
    url: str,
    paths: Mapping[str, str | os.PathLike[str] | None],
    *,
    mutable: Collection[str] = (),
    unpack: bool | None = None,
    compress: str = "none",
    embed: str = "none",
    access: Access | None = None,
    experiment: str | None = None,
    on_event: OnEvent | None = None,
    cancel: Cancel | None = None,
) -> Pushed:
    """Upload paths below ``url`` and make the request that names them.

    What will not change is named by its content, ``blobstore/<sha256>.tar`` for a folder, and is not sent where it is
    already; a mutable artifact becomes ``experiments/<experiment key>/<label>.tar``. A file that is no archive keeps
    its own name: ``blobstore/<sha256>/data.csv``.

    Args:
        url: where objects go: a bucket with or without a prefix, or a folder of any other kind of server.
        paths: label to file or folder; None, for a mutable label alone, is one that has nothing yet.
        mutable: labels that are uploaded again when they changed.
        unpack: are the objects unpacked when they are staged? None unpacks folders, tars and zips.
        compress: ``none``, ``gz`` or ``zst``, for folders.
        embed: whose credentials go into the request: ``none``; ``static``, those that ``access`` has, as they are; or
            ``sts``, keys that an STS makes of them, for ``access.options.sts.duration_seconds``.
        access: as whom the paths are sent; None is nobody in particular.
        experiment: its key; None makes one.

    Raises:
        RequestError: a label, path or choice is none; nothing was sent.
        LocationError, CredentialError, PolicyError, RefreshError: of ``url`` and ``access``, or of what is to be
            embedded; nothing was sent.
        CredsError, DiskError, ArchiveError, IntegrityError, Cancelled: as :func:`push`.
    """
    access = access or Access()
    found = {label: None if path is None else Path(path) for label, path in paths.items()}
    _check_paths(found, mutable, embed, compress)
    base = _checked_base(url)
    policy = access.policy or Policy.for_caller()
    # What is decided about the base goes on record with each object.
    there = replace(access, policy=replace(policy, on_decision=None)).resolve(f"{base}/x")
    if there.verdict.endpoint is not None and there.location.on_aws:
        raise LocationError(f"{base} names no server", hint="the request must: write s3://host:port/bucket/prefix")
    credentials, embedded = Credentials(), None
    if embed != "none":
        credentials, embedded = _embedded(embed, there)
    key = experiment or run_id()
    artifacts: dict[str, Artifact] = {}
    pushes = []
    for label, path in found.items():
        unpacked = _is_archive(path, changes=label in mutable) if unpack is None else unpack
        name, content = _name(label, path, key if label in mutable else None, unpacked, COMPRESS[compress])
        resolved = replace(access, policy=policy.concerning(label)).resolve(f"{base}/{quote(name)}")
        artifacts[label] = artifact = Artifact(
            bucket=resolved.location.bucket,
            key=resolved.location.key,
            hash=_whole(path, content, compress),
            mutable=label in mutable,
            unpack=unpacked,
            qualified=f"{base}/{quote(name)}",
            credentials=credentials,
        )
        if path is not None:
            pushes.append(_Push(label, artifact, path, resolved, content))
            if resolved.location.scheme == "file":
                # A store of files begins at the object's own folder.
                _make_folder(Path(resolved.location.key).parent)
    receipts = _send(pushes, Report(on_event, experiment=key), cancel)
    document = Request(experiment=Experiment(key=key, artifacts=artifacts, time_added=time.time()))
    return Pushed(document, receipts, embedded)


def _check_paths(paths: Mapping[str, Path | None], mutable: Collection[str], embed: str, compress: str) -> None:
    problems = [f"{label!r}: {problem}" for label in paths if (problem := label_problem(label)) is not None]
    problems += [f"{label!r} is mutable, and is not among the labels" for label in mutable if label not in paths]
    for label, path in paths.items():
        if path is None and label not in mutable:
            problems.append(f"{label!r}: nothing to push, and the label is not mutable")
        elif path is not None and not path.exists():
            problems.append(f"{label!r}: {path} is no file or folder")
    if not paths:
        problems.append("there is nothing to push")
    if embed not in EMBED:
        problems.append(f"embed is {embed!r}, and must be one of {', '.join(EMBED)}")
    if compress not in COMPRESS:
        problems.append(f"compress is {compress!r}, and must be one of {', '.join(COMPRESS)}")
    if problems:
        raise RequestError(problems)


def _checked_base(url: str) -> str:
    """``url`` without a slash at its end, if a key may be put behind it without changing what it names."""
    base = url.rstrip("/")
    short, long = Location.parse(f"{base}/x"), Location.parse(f"{base}/x/x")
    if short is None or long is None or short.query:
        raise LocationError("objects cannot be put below that URL", hint="write s3://host/bucket/prefix")
    if (short.endpoint, short.bucket) != (long.endpoint, long.bucket):
        raise LocationError(
            f"{base} may be a bucket at AWS, or a server without its bucket",
            hint="write s3+https://host/bucket, or s3://s3.REGION.amazonaws.com/bucket",
        )
    return base


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DiskError.of("make folder", str(path), error) from error


def _is_archive(path: Path | None, *, changes: bool) -> bool:
    """Is it unpacked, if nobody says? A zip that is mutable is not: folders are packed as tar."""
    if path is None or path.is_dir() or is_tar_name(path.name):
        return True
    return path.name.lower().endswith(".zip") and not changes


def _name(label: str, path: Path | None, experiment: str | None, unpacked: bool, suffix: str) -> tuple[str, str | None]:
    """The object's name below the base, and the sha256 that it is made of; None where it will change."""
    content = None if experiment is not None or path is None else _plain_sha256(path)
    stem = f"blobstore/{content}" if experiment is None else f"experiments/{experiment}/{label}"
    if path is None or path.is_dir():
        return f"{stem}.tar{suffix}", content
    if not unpacked or not _is_archive(path, changes=False):
        return f"{stem}/{path.name}", content
    inner = without_suffix(path.name).rpartition(".")[0]
    return f"{stem}{path.name[len(inner) :]}", content


def _whole(path: Path | None, content: str | None, compress: str) -> str:
    """The digest of the object, where it is known before it is sent: not of what is compressed on its way."""
    if path is None or content is None or (path.is_dir() and compress != "none"):
        return ""
    return content


def _embedded(embed: str, resolved: Resolved) -> tuple[Credentials, Identity]:
    """The credentials that go into a request, and what to say of them."""
    options = resolved.options
    if embed == "sts":
        return _aws(resolved, resolved.session_keys())
    if resolved.identity.kind == "anonymous":
        raise MissingCredential("there is no credential to embed", hint="give one, or embed none")
    if resolved.carried is not None:
        return resolved.carried, resolved.identity
    if resolved.identity.kind == "jwt":
        assert options.sts.token is not None
        return Credentials(jwt=JWTCredential(token=taken(options.sts.token))), resolved.identity
    keys = resolved.keys()
    assert keys is not None
    return _aws(resolved, keys)


def _aws(resolved: Resolved, keys: AwsKeys) -> tuple[Credentials, Identity]:
    placed = resolved.placed()
    aws = AWSCredential(
        access_key=keys.access_key,
        secret_access_key=keys.secret_key,
        session_token=keys.token,
        # What nobody named is for the runner's operator to say.
        region=None if placed.region_source == "default" else placed.region,
    )
    identity = Identity(
        kind="aws", id=masked_id(keys.access_key), source=resolved.identity.source, expires_at=keys.expires_at
    )
    return Credentials(aws=aws), identity


@dataclass(frozen=True, slots=True)
class _Push:
    """One path on its way.

    Attributes:
        content: the sha256 of what is sent, before it is compressed, where the object is named by it.
    """

    label: str
    artifact: Artifact
    path: Path
    resolved: Resolved
    content: str | None


def _complete(label: str, artifact: Artifact, path: Path, experiment: str, endpoint: Endpoint | None) -> str | None:
    """Fill in the key and the location; the content's sha256 where the key was made of it."""
    content = None
    if not artifact.key and not _has_key(artifact):
        if artifact.mutable and experiment:
            artifact.key = f"experiments/{experiment}/{label}.tar"
        else:
            content = _plain_sha256(path)
            artifact.key = f"blobstore/{content}.tar"
            artifact.hash = artifact.hash or content
    if not artifact.qualified and not artifact.url:
        if not artifact.bucket:
            raise RequestError(f"experiment.artifacts.{label}: has no bucket to push to")
        host = f"{endpoint.host}/" if endpoint is not None else ""
        artifact.qualified = f"s3://{host}{artifact.bucket}/{quote(artifact.key)}"
        return content
    location = _location(artifact)
    artifact.bucket = artifact.bucket or location.bucket
    if artifact.key and not _has_key(artifact):
        artifact.qualified = f"{artifact.qualified.rstrip('/')}/{quote(artifact.key)}"
    artifact.key = artifact.key or location.key
    return content


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


def _send(pushes: Iterable[_Push], report: Report, cancel: Cancel | None) -> tuple[Receipt, ...]:
    return tuple(_push(sending, report, cancel) for sending in pushes)


def _push(sending: _Push, report: Report, cancel: Cancel | None) -> Receipt:
    label, resolved = sending.label, sending.resolved
    facts = {"path": str(sending.path), "mutable": sending.artifact.mutable, **resolved_facts(resolved)}
    report.emit(Started(op="put", label=label, location=str(resolved.location)))
    try:
        with contextlib.closing(resolved.open()) as store:
            if sending.content is not None and _exists(store, resolved.key, cancel):
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
            if sending.content is not None and source.compression is None and moved.sha256 != sending.content:
                # Under this name nobody must find anything else.
                store.delete(resolved.key)
                raise IntegrityError(f"{sending.path} changed while it was pushed", hint="push it again")
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
