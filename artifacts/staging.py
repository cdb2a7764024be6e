"""A request's artifacts in a folder: each under its label, whole or not there at all; and what changed, back again.

``StagingDir(root)`` owns one folder. ``stage`` fetches every artifact side by side and skips what is in step already;
``upload`` returns the mutable ones that changed. Between the two, and between processes, ``artifacts.state`` remembers
what each label was. What is decided for a label when it is staged:

=====================  ===========================  ==================================================================
here                   there                        done
=====================  ===========================  ==================================================================
nothing                an object                    fetched
nothing                none, mutable                an empty folder; its first upload must still find none
nothing                none, immutable              ObjectNotFound
as it was staged       the same ETag                ``unchanged``: no bytes move
as it was staged       another ETag, or none        fetched, and replaced in one step
as it was staged       gone, mutable                ``kept``, and uploaded next time
changed, mutable       not looked at                ``kept``: never overwritten, unless ``fresh``
changed, immutable     an object                    fetched, and replaced: an input is what its location says
not staged by us       not looked at                mutable: ``kept``; immutable: FolderError
=====================  ===========================  ==================================================================

"As it was staged" is decided by the path, type, mode, size, inode, modification and change time of every entry; the
change time cannot be set back by the program that ran here, so an edit that keeps the size and the modification time
is seen too.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import threading
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from artifacts import transfer
from artifacts.archive import formats
from artifacts.archive.pack import Scan, scan, signature_of_file
from artifacts.cache import BlobCache
from artifacts.crew import Crew, Size
from artifacts.digests import Digest
from artifacts.errors import DiskError, FolderError, LimitExceeded, RequestError, StagingError, UnsupportedArchive
from artifacts.events import OnEvent, Receipt, Report, Started, Verified, error_facts, resolved_facts
from artifacts.journal import resumable, resuming
from artifacts.limits import FREE_SPACE, Budget, Limits, free_bytes
from artifacts.locks import HostSlots
from artifacts.request import Artifact, Request, parse_size
from artifacts.resuming import Part, fetch_file
from artifacts.state import FOLDER, PARTS, Record, State
from artifacts.turns import Turns
from creds.errors import AccessDenied, Cancelled, LocationError, ObjectNotFound, ToolkitError
from creds.location import Location
from creds.policy import Policy
from creds.resolve import Resolved, open_store, resolve
from creds.store import Cancel, Store, StoreOptions, Window


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One artifact of a request, with everything about it decided and nothing yet done.

    Attributes:
        resolved: where it lives and as whom it is reached; None when the artifact has no location, or an error.
        location: where, masked; empty when the artifact has none.
        store: equal for artifacts of one plan that one store serves.
        error: why nothing can be done about it: a bad location, a credential that cannot be used, the policy.
        expect: what the object's bytes must hash to.
        warnings: what was noticed while deciding.
    """

    label: str
    artifact: Artifact
    resolved: Resolved | None = None
    location: str = ""
    store: Hashable = None
    error: ToolkitError | None = None
    expect: Digest | None = None
    warnings: tuple[dict[str, str], ...] = ()

    @property
    def name(self) -> str:
        """The last segment of the key: the file's name where nothing is unpacked."""
        assert self.resolved is not None
        return self.resolved.key.rpartition("/")[2]


def plan(
    request: Request, *, policy: Policy | None = None, limits: Limits | None = None, options: StoreOptions | None = None
) -> list[Job]:
    """Decide everything about a request's artifacts that can be decided without a connection, in the request's order.

    Raises:
        RequestError: a label is no file name, two mutable artifacts have one location, or the size the experiment
            needs cannot be read.
        LimitExceeded: more artifacts than ``limits.max_artifacts``.
        DiskError: a decision of the policy cannot be put on record (``Policy.on_decision``).
    """
    limits = limits or Limits()
    artifacts = request.experiment.artifacts or {}
    if len(artifacts) > limits.max_artifacts:
        raise LimitExceeded(
            f"the request has {len(artifacts)} artifacts, {limits.max_artifacts} are allowed (max_artifacts)",
            limit="max_artifacts",
            allowed=limits.max_artifacts,
            seen=len(artifacts),
        )
    problems = [
        f"experiment.artifacts.{label!r}: {problem}"
        for label in artifacts
        if (problem := label_problem(label)) is not None
    ]
    if problems:
        raise RequestError(problems)
    needed_bytes(request)
    planning = _Planning(
        policy or Policy.for_requests(), replace(options or StoreOptions(), request_env=request.config.env or {})
    )
    jobs: list[Job] = []
    for label, artifact in artifacts.items():
        try:
            jobs.append(planning.job(label, artifact))
        except DiskError:
            raise  # a decision that cannot be put on record
        except ToolkitError as error:
            jobs.append(Job(label=label, artifact=artifact, error=error))
    _refuse_shared(jobs)
    return jobs


def needed_bytes(request: Request) -> int | None:
    """The disk the experiment asked for, in bytes; None when it did not say.

    Raises:
        RequestError: it is no size.
    """
    hdd = request.experiment.resources_needed.hdd
    if not hdd:
        return None
    try:
        return parse_size(hdd)
    except RequestError as error:
        raise RequestError(
            [f"experiment.resources_needed.hdd: {problem}" for problem in error.problems],
            hint='write a size such as "6gb" or "2GiB"',
        ) from error


_NOT_IN_LABELS = re.compile(r"[/\x00-\x1f\x7f]")


def label_problem(label: str) -> str | None:
    """Why ``label`` cannot be a folder's name, or None."""
    if not label:
        return "a label is a folder's name and cannot be empty"
    if label.startswith("."):
        return "a label cannot begin with a dot"
    if _NOT_IN_LABELS.search(label):
        return "a label cannot hold a slash or control characters"
    if len(label.encode("utf-8", "surrogatepass")) > 200:
        return "a label has at most 200 bytes"
    return None


class _Planning:
    """What is decided once for the artifacts of one place and one credential: there may be thousands."""

    def __init__(self, policy: Policy, options: StoreOptions) -> None:
        self._policy = policy
        self._options = options
        self._numbers: dict[Hashable, int] = {}
        self._resolved: dict[int, Resolved] = {}

    def job(self, label: str, artifact: Artifact) -> Job:
        location = Location.parse(artifact.qualified or artifact.url or "", artifact.bucket, artifact.key)
        if location is None:
            if artifact.mutable:
                return Job(label=label, artifact=artifact)
            raise LocationError("the artifact has no location, and is not mutable", hint="give it a qualified URL")
        number = self._numbers.setdefault((location.place, artifact.credentials), len(self._numbers))
        resolved = resolve(
            location,
            artifact.credentials,
            self._options,
            self._policy.concerning(label),
            beside=self._resolved.get(number),
        )
        self._resolved.setdefault(number, resolved)
        shown = str(location)
        if not resolved.key.rpartition("/")[2]:
            raise LocationError(f"{shown} names no object", location=shown, hint="the key must not end in '/'")
        if artifact.mutable and artifact.unpack and resolved.key.lower().endswith(".zip"):
            # Told before the work begins, not when its result cannot be stored.
            raise UnsupportedArchive(
                "a mutable artifact cannot be a zip: folders are packed as tar", hint="name it .tar"
            )
        expect = Digest.parse(artifact.hash) if artifact.hash else None
        return Job(
            label=label,
            artifact=artifact,
            resolved=resolved,
            location=shown,
            store=(number, resolved.verdict.root),
            expect=expect,
            warnings=({"code": "unverifiable-hash", "path": label},) if artifact.hash and expect is None else (),
        )


def _refuse_shared(jobs: Iterable[Job]) -> None:
    """Two mutable artifacts with one location would overwrite each other."""
    mutable = [job for job in jobs if job.artifact.mutable and job.resolved is not None]
    counts = Counter(job.location for job in mutable)
    if problems := [
        f"experiment.artifacts.{job.label}: another mutable artifact has the location {job.location}"
        for job in mutable
        if counts[job.location] > 1
    ]:
        raise RequestError(problems, hint="give each mutable artifact a key of its own")


class StagingDir:
    """One folder that a request's artifacts are staged into.

    Use it as a context manager to hold the folder over several calls; a call outside one holds it for itself.

    Args:
        root: the folder; made when missing.
        policy: who may be reached, and as whom; None is ``Policy.for_requests()``: AWS over TLS only.
        limits: what a request may cost.
        window: the process's budget of bytes in flight; None makes one.
        options: how stores talk; its ``window`` and ``request_env`` are set here.
        keep_free_bytes: free space to leave on the folder's file system.
        parallel: artifacts moved side by side; None is what the servers bear and this machine has use for.
        cache: objects of immutable artifacts are taken from it, and kept in it; None asks the stores for every byte.
        slots: how many transfers this machine may have at once, over all processes that share them; None is as many
            as are asked for.
        verify: hold what comes to the artifact's ``hash``, else to the checksum or ETag that its server has of it;
            what has neither is staged with the warning ``unverifiable``.
        open: opens a store, as :func:`creds.resolve.open_store` does.
        on_event: called with every event, from one thread at a time.
        cancel: stops everything within a second when it is cancelled.
        run: the run's name in receipts; None makes one.

    Raises (all methods):
        RequestError, LimitExceeded, FolderError, FolderInUse, DiskError: before anything moved.
        StagingError: artifacts failed; its ``receipts`` tell what became of each.
        Cancelled: ``cancel`` was used; finished labels stay, and the next call goes on from there.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        policy: Policy | None = None,
        limits: Limits | None = None,
        window: Window | None = None,
        options: StoreOptions | None = None,
        keep_free_bytes: int = 0,
        parallel: int | None = None,
        cache: BlobCache | None = None,
        slots: HostSlots | None = None,
        verify: bool = False,
        open: Callable[..., Store] = open_store,  # noqa: A002 - the word for it; nothing here opens files by it
        on_event: OnEvent | None = None,
        cancel: Cancel | None = None,
        run: str | None = None,
    ) -> None:
        self.root = Path(root)
        self._parts = self.root / FOLDER / PARTS
        self._below = str(self.root / "label").removesuffix("label")
        self.policy = policy or Policy.for_requests()
        self.limits = limits or Limits()
        self.options = replace(options or StoreOptions(), window=window or Window())
        self.keep_free_bytes = keep_free_bytes
        self.parallel = parallel
        self.cache = cache
        self.slots = slots
        self.verify = verify
        self.cancel = cancel or Cancel()
        self._report = Report(on_event, run=run)
        self._open = open
        self._state_lock = threading.Lock()
        self._state: State | None = None

    def __enter__(self) -> Self:
        self._state = State(self.root)
        self._state.__enter__()
        try:
            transfer.recover(self.root)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        state, self._state = self._state, None
        assert state is not None
        state.__exit__(kind, error, trace)

    def stage(self, request: Request, *, fresh: bool = False, start_empty: Iterable[str] = ()) -> tuple[Receipt, ...]:
        """Fetch every artifact of ``request`` to ``<root>/<label>/``; see the module's table for what is skipped.

        The first failure cancels the rest. What was finished stays.

        Args:
            fresh: fetch again whatever is here, and replace local changes.
            start_empty: labels that begin with an empty folder where the server will not say whether the object
                exists (403); they are uploaded on condition that it still does not.

        Returns:
            One receipt an artifact, sorted by label.
        """
        how = _Stage(fresh=fresh, start_empty=frozenset(start_empty))
        if unknown := how.start_empty - set(request.experiment.artifacts or ()):
            names = ", ".join(sorted(map(repr, unknown)))
            raise RequestError(f"start_empty: the request has no artifact {names}", hint="check the label")
        jobs = self._plan(request)
        if any(job.error for job in jobs):
            # Nothing is touched, not even the folder, when a part of the request cannot be.
            self._finish(
                "fetch",
                {job.label: job.error for job in jobs if job.error},
                [
                    self._failed("fetch", job, job.error) if job.error else self._passed("fetch", job, "skipped")
                    for job in jobs
                ],
            )
        with self._working(request) as work:
            how = replace(how, parts_left=self._forget_parts(jobs))
            budget = self._budget(request, jobs)
            return self._side_by_side("fetch", jobs, lambda job: self._stage(job, how, budget, work), work.cancel)

    def upload(self, request: Request) -> tuple[Receipt, ...]:
        """Pack and upload the mutable artifacts that changed since they were staged or last uploaded.

        An upload is conditional on the object being the one that was staged. A failure does not stop the others.

        Returns:
            One receipt a mutable artifact, sorted by label.
        """
        jobs = [job for job in self._plan(request) if job.artifact.mutable]
        with self._working(request) as work:
            return self._side_by_side("upload", jobs, lambda job: self._upload(job, work), work.cancel)

    def _plan(self, request: Request) -> list[Job]:
        self._report.experiment = request.experiment.key
        return plan(request, policy=self.policy, limits=self.limits, options=self.options)

    @contextlib.contextmanager
    def _working(self, request: Request) -> Iterator[_Work]:
        """Hold the folder and share stores, for one call."""
        if self._state is None:
            with self, self._working(request) as work:
                yield work
            return
        options = replace(self.options, request_env=request.config.env or {})
        with _Stores(self._open, options, self.policy) as stores, self.cancel.child() as cancel:
            yield _Work(stores=stores, cancel=cancel, turns=Turns(), few_large=transfer.FewLarge(self.parallel))

    def _side_by_side(
        self, op: str, jobs: list[Job], work: Callable[[Job], Receipt], cancel: Cancel
    ) -> tuple[Receipt, ...]:
        """Run the jobs in threads; on a fetch the first failure cancels the rest."""
        receipts: list[Receipt] = []
        failures: dict[str, ToolkitError] = {}

        def do(job: Job) -> None:
            try:
                receipts.append(_orderly(work, job, cancel if op == "fetch" else None))
            except Cancelled:
                receipts.append(self._passed(op, job, "owed" if op == "upload" else "skipped"))
            except ToolkitError as error:
                failures[job.label] = error
                receipts.append(self._failed(op, job, error))

        schemes = [job.resolved.location.scheme for job in jobs if job.resolved is not None]
        size = Size.of(schemes, self.parallel, at_most=None if self.slots is None else self.slots.count)
        Crew(do, size, stop=lambda: cancel.cancel("stopped"), name=f"artifacts-{op}").feed(jobs)
        self.cancel.check()
        return self._finish(op, failures, receipts)

    @staticmethod
    def _finish(op: str, failures: dict[str, ToolkitError], receipts: list[Receipt]) -> tuple[Receipt, ...]:
        """Return or raise what became of every artifact, sorted by label."""
        done = tuple(sorted(receipts, key=lambda receipt: receipt.label))
        if not failures:
            return done
        verb = "staged" if op == "fetch" else "uploaded"
        listed = "; ".join(f"{label}: {error}" for label, error in failures.items())
        raise StagingError(
            f"{len(failures)} of {len(done)} artifacts not {verb}: {listed}", failures=failures, receipts=done
        )

    # -- stage ---------------------------------------------------------------------------------------------------

    def _stage(self, job: Job, how: _Stage, budget: Budget, work: _Work) -> Receipt:
        work.cancel.check()
        if job.resolved is None:
            try:
                Path(self._label(job.label)).mkdir(exist_ok=True)
            except OSError as error:
                raise DiskError.of("make folder", self._label(job.label), error) from error
            return self._passed("fetch", job, "empty", warnings=({"code": "no-location", "path": job.label},))
        here = self._here(job.label)
        record = self._settle(job.label, here.signature)
        warnings = job.warnings
        if here.exists and not how.fresh:
            if record is None or record.signature != here.signature:
                if (kept := self._keep(job, here, record)) is not None:
                    return kept
                if record is not None:
                    warnings = (*warnings, {"code": "local-changes-replaced", "path": job.label})
            elif record.location == job.location:
                unchanged = self._unchanged(job, record, work)
                if unchanged is not None:
                    return unchanged
        if record is not None and budget.name != FREE_SPACE:
            budget.give_bytes(record.unpacked_bytes or 0)
        return self._fetch(job, how, record, budget, work, warnings)

    def _keep(self, job: Job, here: _Here, record: Record | None) -> Receipt | None:
        """What is here and is not what was staged: kept, refused, or (None) to be replaced."""
        if record is None and here.empty:
            return None
        if job.artifact.mutable:
            if record is not None and record.location != job.location:
                raise FolderError(
                    f"{self._label(job.label)} holds changes that were not uploaded to {record.location}",
                    hint="upload them with the request they belong to, or replace them with --fresh",
                )
            return self._passed("fetch", job, "kept", record)
        if record is None:
            raise FolderError(
                f"{self._label(job.label)} exists and was not staged by this tool",
                hint="move it away, or replace it with --fresh",
            )
        return None

    def _unchanged(self, job: Job, record: Record, work: _Work) -> Receipt | None:
        """Nothing changed here; what about there? None: it is to be fetched."""
        assert job.resolved is not None
        try:
            meta = work.stores.store(job).head(job.resolved.key, cancel=work.cancel)
        except ObjectNotFound:
            if not job.artifact.mutable:
                raise
            if record.empty:
                return self._passed("fetch", job, "empty", record)
            self._put(job.label, replace(record, etag=None, version=None, signature=None, empty=True))
            return self._passed("fetch", job, "kept", record, warnings=({"code": "object-gone", "path": job.label},))
        except AccessDenied:
            if not record.empty:
                raise
            return self._passed("fetch", job, "empty", record)
        if record.empty or meta.etag is None or meta.etag != record.etag:
            return None
        return self._passed("fetch", job, "unchanged", record)

    def _fetch(
        self,
        job: Job,
        how: _Stage,
        old: Record | None,
        budget: Budget,
        work: _Work,
        warnings: tuple[dict[str, str], ...],
    ) -> Receipt:
        resolved = job.resolved
        assert resolved is not None
        self._report.emit(Started(op="fetch", label=job.label, location=job.location))
        with _Filling(self.root, job.label, work.turns) as filling:
            try:
                with self._slot("fetch", job, work):
                    done = self._fetched(job, how, filling.folder, budget, work)
            except (ObjectNotFound, AccessDenied) as error:
                if not self._starts_empty(job, how, error):
                    raise
                done = None
            folder = filling.folder()
            if done is not None and done.format == transfer.FILE:
                signature = signature_of_file(folder, os.fsencode(job.name))
            else:
                signature = scan(folder).signature
            record = _record(job, done, signature)
            self._put(
                job.label, Record(location=job.location, next=record) if old is None else replace(old, next=record)
            )
            filling.publish(self._label(job.label))
            self._put(job.label, record)
        if done is None:
            return self._passed("fetch", job, "empty", record, warnings=warnings)
        if done.verified != "none":
            self._report.emit(Verified(op="fetch", label=job.label, by=done.verified))
        return self._receipt(
            "fetch", job, "done", **done.facts(), warnings=(*warnings, *_below(job.label, done.warnings))
        )

    def _fetched(
        self, job: Job, how: _Stage, into: Callable[[bool], int], budget: Budget, work: _Work
    ) -> transfer.Transferred:
        assert job.resolved is not None
        store, key, name = work.stores.store(job), job.resolved.key, job.name
        unpacking = job.artifact.unpack
        cache = None if job.artifact.mutable else self.cache
        asked = transfer.Asked(
            expect=job.expect,
            verify=self.verify,
            open=None if cache is None else cache.opener(job.resolved),
            cancel=work.cancel,
            on_bytes=self._report.on_bytes("fetch", job.label),
            on_retry=self._report.on_retry("fetch", job.label),
            few_large=None if unpacking else work.few_large,
        )
        if unpacking or cache is not None:
            # Even a small archive may hold a lot: it has its turn before it is asked for.
            with work.few_large.turn(None) if unpacking else contextlib.nullcontext():
                return transfer.fetch(store, key, into(False), asked, name=name, unpacking=unpacking, budget=budget)
        return fetch_file(store, key, into, self._part(job, left=how.parts_left), asked, name=name, budget=budget)

    def _part(self, job: Job, *, left: bool) -> Part:
        """Where what came of a file is kept when this process dies."""
        return Part(self._parts, (job.label, job.location), left)

    def _forget_parts(self, jobs: Iterable[Job]) -> bool:
        """Remove what earlier processes left of what is not asked for any more. Is there anything of what is?"""
        folder = self._parts
        try:
            left = list(folder.iterdir()) if folder.is_dir() else []
            if not left:
                return False
            wanted = {
                self._part(job, left=True).path.name
                for job in jobs
                if job.resolved is not None and not job.artifact.unpack
            }
            for path in left:
                if path.name.removesuffix(".journal") not in wanted:
                    path.unlink()
        except OSError as error:
            raise DiskError.of("clean up", str(folder), error) from error
        return True

    def _slot(self, op: str, job: Job, work: _Work) -> contextlib.AbstractContextManager[None]:
        """Wait until this machine may have one more transfer."""
        if self.slots is None:
            return contextlib.nullcontext()
        return self.slots.taken(work.cancel, self._report.on_wait(op, job.label))

    @staticmethod
    def _starts_empty(job: Job, how: _Stage, error: ObjectNotFound | AccessDenied) -> bool:
        """May this artifact begin with an empty folder? Absence is no failure for a mutable one; a 403 may be one."""
        if not job.artifact.mutable:
            return False
        if isinstance(error, ObjectNotFound) or job.label in how.start_empty:
            return True
        error.hint = (
            f"if {job.label} does not exist yet, add --start-empty {job.label}: "
            "S3 answers 403 for a missing key when the keys may not list the bucket"
        )
        return False

    def _budget(self, request: Request, jobs: list[Job]) -> Budget:
        """The smallest of what the request asks for, what the operator allows and what fits."""
        assert self._state is not None
        records = self._state.records
        already = sum(records[job.label].unpacked_bytes or 0 for job in jobs if job.label in records)
        free = free_bytes(self.root, self.keep_free_bytes)
        candidates = [(free, FREE_SPACE), (self.limits.max_bytes - already, "max_bytes")]
        needed = needed_bytes(request)
        if needed is not None:
            candidates.append((needed - already, "resources_needed.hdd"))
        max_bytes, name = min(candidates)
        return Budget(self.limits, max_bytes=max_bytes, name=name)

    # -- upload --------------------------------------------------------------------------------------------------

    def _upload(self, job: Job, work: _Work) -> Receipt:
        work.cancel.check()
        if job.error is not None:
            raise job.error
        if job.resolved is None:
            return self._passed("upload", job, "skipped", warnings=({"code": "no-location", "path": job.label},))
        path = self._label(job.label)
        with _folder(self.root, job.label) as descriptor:
            found = scan(descriptor)
            record = self._settle(job.label, found.signature)
            if record is None:
                raise FolderError(f"{path} was not staged by this tool", hint="stage the request first")
            if record.location != job.location:
                raise FolderError(
                    f"{path} was staged from {record.location}", hint="upload it with the request it belongs to"
                )
            if record.signature == found.signature or (record.empty and found.empty):
                return self._passed("upload", job, "empty" if record.empty else "unchanged", record)
            self._report.emit(Started(op="upload", label=job.label, location=job.location, total_bytes=None))
            done = self._send(job, descriptor, found, record, work)
        self._put(job.label, _record(job, done, found.signature))
        skipped = [{"code": "not-stored", "path": path} for path in found.skipped]
        return self._receipt(
            "upload", job, "done", **done.facts(), warnings=_below(job.label, [*skipped, *done.warnings])
        )

    def _send(self, job: Job, descriptor: int, found: Scan, record: Record, work: _Work) -> transfer.Transferred:
        assert job.resolved is not None
        store = work.stores.store(job)
        with contextlib.ExitStack() as opened:
            source = opened.enter_context(self._source(job, descriptor, found, record))
            opened.enter_context(work.few_large.turn(source.size_hint_bytes))
            opened.enter_context(self._slot("upload", job, work))
            if resumable(store, source):
                name = f"{job.label}\0{job.resolved.location}"
                folder = self.root / FOLDER / "uploads"
                store, source = opened.enter_context(resuming(store, source, folder, name, keeps=False))
            return transfer.upload(
                store,
                job.resolved.key,
                source,
                if_match=record.etag,
                if_none_match=record.empty,
                same_is_done=True,
                cancel=work.cancel,
                on_bytes=self._report.on_bytes("upload", job.label),
                on_retry=self._report.on_retry("upload", job.label),
            )

    @contextlib.contextmanager
    def _source(self, job: Job, descriptor: int, found: Scan, record: Record) -> Iterator[transfer.Source]:
        """What the label's folder is sent as: what it came as, where that still fits."""
        assert job.resolved is not None
        compression = None
        if job.artifact.unpack:
            if record.format not in formats.LEVELS or [entry.kind for entry in found.entries] != ["file"]:
                yield transfer.folder_source(found, job.resolved.key)
                return
            name = os.fsdecode(found.entries[0].path)
            compression = formats.compression_of_name(job.resolved.key)
        else:
            name = job.name
        try:
            file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=descriptor)
        except OSError as error:
            path = f"{self._label(job.label)}/{name}"
            if error.errno in (errno.ENOENT, errno.ELOOP):
                raise FolderError(
                    f"{path} is not there, or is a link", hint="with unpack set to false the artifact is that one file"
                ) from error
            raise DiskError.of("open", path, error) from error
        try:
            yield transfer.file_source(file, f"{self._label(job.label)}/{name}", compression=compression)
        finally:
            os.close(file)

    # -- the state, and what is here -----------------------------------------------------------------------------

    def _label(self, label: str) -> str:
        return self._below + label

    def _here(self, label: str) -> _Here:
        try:
            found = os.lstat(self._label(label))
        except FileNotFoundError:
            return _Here(exists=False, empty=True, signature=None)
        if not stat.S_ISDIR(found.st_mode):
            raise FolderError(f"{self._label(label)} is not a folder", hint="move it away")
        with _folder(self.root, label) as descriptor:
            seen = scan(descriptor)
        return _Here(exists=True, empty=seen.empty, signature=seen.signature)

    def _settle(self, label: str, signature: str | None) -> Record | None:
        assert self._state is not None
        with self._state_lock:
            return self._state.settle(label, signature)

    def _put(self, label: str, record: Record) -> None:
        assert self._state is not None
        with self._state_lock:
            self._state.put(label, record)

    # -- receipts ------------------------------------------------------------------------------------------------

    def _receipt(self, op: str, job: Job, status: str, **facts: Any) -> Receipt:
        common: dict[str, Any] = {"path": self._label(job.label), "mutable": job.artifact.mutable}
        if job.resolved is not None:
            common |= resolved_facts(job.resolved, job.location)
        elif job.error is not None:
            common |= {"location": getattr(job.error, "location", None), "rule": getattr(job.error, "rule", None)}
        return self._report.receipt(op, job.label, status, **(common | facts))

    def _passed(
        self,
        op: str,
        job: Job,
        status: str,
        record: Record | None = None,
        *,
        warnings: tuple[dict[str, str], ...] | None = None,
    ) -> Receipt:
        facts: dict[str, Any] = {}
        if record is not None:
            names = ("etag", "version", "object_bytes", "unpacked_bytes", "members", "sha256")
            facts = {name: getattr(record, name) for name in names}
        return self._receipt(op, job, status, warnings=job.warnings if warnings is None else warnings, **facts)

    def _failed(self, op: str, job: Job, error: ToolkitError) -> Receipt:
        status = "owed" if op == "upload" and error.retryable else "failed"
        return self._receipt(op, job, status, error=error_facts(error))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stage:
    fresh: bool
    start_empty: frozenset[str]
    parts_left: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """What one call shares among its artifacts."""

    stores: _Stores
    cancel: Cancel
    turns: Turns
    few_large: transfer.FewLarge


class _Filling:
    """A label's new content: its folder is made when there is something to put into it."""

    def __init__(self, root: Path, label: str, turns: Turns) -> None:
        self._root = root
        self._label = label
        self._turns = turns
        self._partial: transfer.PartialFolder | None = None

    def __enter__(self) -> Self:
        self._stack = contextlib.ExitStack()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def folder(self, at_hand: bool = False) -> int:
        """A descriptor of the folder.

        Args:
            at_hand: all that it will hold is, so until it is published nobody else need be at work.
        """
        if self._partial is None:
            if at_hand:
                self._stack.enter_context(self._turns.taken())
            self._partial = self._stack.enter_context(transfer.partial_folder(self._root, self._label))
        return self._partial.descriptor

    def publish(self, target: str) -> None:
        """Put the folder in its place."""
        assert self._partial is not None
        self._partial.publish(target)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Here:
    exists: bool
    empty: bool
    signature: str | None


class _Stores:
    """The stores of one call: artifacts of one bucket and one identity share theirs."""

    def __init__(self, opener: Callable[..., Store], options: StoreOptions, policy: Policy) -> None:
        self._opener = opener
        self._options = options
        self._policy = policy
        self._lock = threading.Lock()
        self._stores: dict[Hashable, Store] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for store in self._stores.values():
            store.close()

    def store(self, job: Job) -> Store:
        assert job.resolved is not None
        with self._lock:
            store = self._stores.get(job.store)
            if store is None:
                store = self._stores[job.store] = self._opener(
                    job.resolved.location, job.artifact.credentials, self._options, self._policy
                )
            return store


def _orderly(work: Callable[[Job], Receipt], job: Job, others: Cancel | None) -> Receipt:
    """Do one job. What it fails with is one of our errors, and stops ``others`` before this thread takes a next job.

    An operating system's refusal is this machine's failure, whichever call met it.
    """
    try:
        return work(job)
    except Cancelled:
        raise
    except BaseException as error:
        if others is not None:
            others.cancel("another artifact failed")
        if isinstance(error, OSError) and not isinstance(error, ToolkitError):
            raise DiskError.of("work in", str(error.filename or job.label), error) from error
        raise


@contextlib.contextmanager
def _folder(root: Path, label: str) -> Iterator[int]:
    """The label's folder, opened from its parent so that a link in its place is refused."""
    try:
        parent = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            descriptor = os.open(label, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        finally:
            os.close(parent)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FolderError(f"{root / label} is not there, or is no folder", hint="stage the request again") from error
    except OSError as error:
        raise DiskError.of("open", str(root / label), error) from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _record(job: Job, done: transfer.Transferred | None, signature: str | None) -> Record:
    common: dict[str, Any] = {"location": job.location, "mutable": job.artifact.mutable, "signature": signature}
    if done is None:
        return Record(**common, empty=True, unpacked_bytes=0, members=0)
    return Record(
        **common,
        etag=done.meta.etag,
        version=done.meta.version,
        sha256=done.sha256,
        format=done.format,
        object_bytes=done.object_bytes,
        unpacked_bytes=done.unpacked_bytes,
        members=done.members,
    )


def _below(label: str, warnings: Iterable[dict[str, str]]) -> tuple[dict[str, str], ...]:
    """Warnings about an artifact or its members, with paths as the staging folder shows them."""
    return tuple({**warning, "path": str(Path(label, warning["path"]))} for warning in warnings)
