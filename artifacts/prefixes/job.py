"""What the commands on prefixes share: who works on what side by side, and what is told of it."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, Self

from artifacts import transfer
from artifacts.crew import Crew, Size
from artifacts.errors import DiskError, PrefixError
from artifacts.events import OnEvent, Progress, Receipt, Report, Started, error_facts, resolved_facts
from artifacts.objects import Access, How
from artifacts.text import printable
from creds.errors import (
    Cancelled,
    LocationError,
    ObjectNotFound,
    RefreshError,
    StoreError,
    ToolkitError,
    Unauthenticated,
)
from creds.location import quoted
from creds.resolve import Resolved
from creds.store import Cancel, ObjectMeta, Store

_ENOUGH_FAILURES = 4
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE}

Piece = tuple[str, Callable[[], Receipt]]
"""An object's label, and what is to be done with it."""


class Job:
    """One command on one prefix: its store, who works on what side by side, and what is told of it."""

    def __init__(
        self,
        op: str,
        url: str,
        access: Access | None,
        on_event: OnEvent | None,
        cancel: Cancel | None,
        *,
        dry_run: bool,
        parallel: int | None,
        how: How | None = None,
    ) -> None:
        if not url.endswith("/"):
            raise LocationError("the URL is no prefix: it does not end with '/'", hint="end it with '/'")
        self.op = op
        self._how = how or How()
        self.resolved: Resolved = (access or Access()).resolve(url, prefix=True)
        self.report = Report(on_event)
        self.dry_run = dry_run
        self.progress: _Progress | None = None
        self._outer = cancel or Cancel()
        self.few_large = transfer.FewLarge(parallel)
        self._parallel = parallel
        self._facts = resolved_facts(self.resolved)
        where: str = self._facts.pop("location")
        self._where = where if where.endswith("/") else f"{where}/"  # a whole bucket is shown without
        if on_event is not None and not dry_run:
            self.progress = _Progress(op, self._where, self.report)

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self.cancel = stack.enter_context(self._outer.child())
            stack.enter_context(self._how.taken(self.report, self.op, self._where, self.cancel))
            self.store: Store = stack.enter_context(contextlib.closing(self.resolved.open()))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def listed(self, *, empty_is_missing: bool = False) -> Iterator[tuple[str, ObjectMeta]]:
        """What lies below the prefix, each with its label: its key as it goes on after the prefix.

        Raises:
            ObjectNotFound: nothing does, and ``empty_is_missing``.
        """
        prefix, found = self.resolved.key, False
        for meta in self.store.list(prefix, cancel=self.cancel):
            if not meta.key.startswith(prefix):
                raise StoreError(f"list {self._where}: the server names a key outside of it", location=self._where)
            found = True
            yield meta.key[len(prefix) :], meta
        if empty_is_missing and not found:
            raise ObjectNotFound(
                f"nothing lies below {self._where}", op="list", location=self._where, hint="check the prefix"
            )

    def receipt(self, label: str, status: str, meta: ObjectMeta | None = None, **facts: Any) -> Receipt:
        """The receipt of one object that is over."""
        if meta is not None:
            facts |= {"etag": meta.etag, "version": meta.version}
        # Names of files that are no Unicode text would not print.
        shown = label if label.isascii() else label.encode("utf-8", "backslashreplace").decode()
        return self.report.receipt(self.op, shown, status, location=self._where + quoted(label), **self._facts, **facts)

    def asked(self, label: str) -> transfer.Asked:
        """How one object is fetched."""
        cache = self._how.cache
        return transfer.Asked(
            verify=self._how.verify,
            open=None if cache is None else cache.opener(self.resolved, label),
            cancel=self.cancel,
            on_retry=self.report.on_retry(self.op, label),
        )

    def sent(self, label: str, source: transfer.Source, path: str | None = None) -> Receipt:
        """Store one object, and its receipt."""
        done = transfer.upload(
            self.store,
            self.resolved.key + label,
            source,
            cancel=self.cancel,
            on_bytes=None if self.progress is None else self.progress.of_one(),
            on_retry=self.report.on_retry(self.op, label),
        )
        return self.receipt(label, "done", path=path, **done.facts())

    def run(self, pieces: Iterable[Piece], *others: Job) -> tuple[Receipt, ...]:
        """Do all pieces of work side by side, while they are still being found.

        Args:
            others: jobs whose stores take part.

        Raises:
            PrefixError: some failed.
            Cancelled: the work was stopped. What is done is done.
            ToolkitError: the finding failed before anything was found.
        """
        if self.progress is not None:
            self.progress.begin()
        schemes = [job.resolved.location.scheme for job in (self, *others)]
        crowd = _Crowd(self)
        crew = Crew(crowd.do, Size.of(schemes, self._parallel), stop=self._stop, name=f"artifacts-{self.op}")
        broken_off: ToolkitError | None = None
        try:
            crew.feed(pieces)
        except Cancelled:
            pass  # by the caller, who is told; or for a failure, which is
        except ToolkitError as error:
            broken_off = error
        self._outer.check()
        if broken_off is not None:
            if not crowd.receipts:
                raise broken_off
            crowd.failures[self._where] = broken_off
        receipts = tuple(sorted(crowd.receipts, key=lambda receipt: receipt.label))
        if crowd.failures:
            said = f"{sum(receipt.status == 'failed' for receipt in receipts)} of {len(receipts)} objects failed"
            if broken_off is not None:
                said += f", and finding them broke off: {broken_off}"
            raise PrefixError(said, failures=crowd.failures, receipts=receipts)
        return receipts

    def _stop(self) -> None:
        self.cancel.cancel("stopped")


class _Crowd:
    """What became of the pieces of one job, done by many threads."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._succeeded = 0.0  # when, by the monotonic clock, a piece last did
        self._failed_since = 0  # pieces that failed since then
        self.receipts: list[Receipt] = []
        self.failures: dict[str, ToolkitError] = {}

    def do(self, piece: Piece) -> None:
        label, work = piece
        began = time.monotonic()
        try:
            self._job.cancel.check()
            receipt = work()
            self._succeeded, self._failed_since = time.monotonic(), 0
        except Cancelled:
            receipt = self._job.receipt(label, "skipped")
        except ToolkitError as error:
            receipt = self._failed(label, error, began)
        except OSError as error:
            receipt = self._failed(label, DiskError.of("use", _named(error, label), error), began)
        self.receipts.append(receipt)

    def _failed(self, label: str, error: ToolkitError, began: float) -> Receipt:
        self.failures[label] = error
        self._failed_since += 1
        everywhere = isinstance(error, Unauthenticated | RefreshError) or (
            isinstance(error, DiskError) and error.errno in _FULL
        )
        # A few objects may be out of order for long; where no other was served meanwhile, it is the server.
        gone = error.retryable and self._succeeded < began and self._failed_since >= _ENOUGH_FAILURES
        if everywhere or gone:
            self._job.cancel.cancel("an object failed as every other would")
        return self._job.receipt(label, "failed", error=error_facts(error))


def _named(error: OSError, label: str) -> str:
    name = error.filename
    return printable(os.fsdecode(name)) if isinstance(name, str | bytes) else label


class _Progress:
    """The bytes of all objects together, told about ten times a second."""

    def __init__(self, op: str, label: str, report: Report) -> None:
        self._op = op
        self._label = label
        self._report = report
        self._lock = threading.Lock()
        self._bytes = 0
        self._due = 0.0

    def begin(self) -> None:
        self._report.emit(Started(op=self._op, label=self._label, location=self._label))

    def add(self, count: int) -> None:
        with self._lock:
            self._bytes += count
            now = time.monotonic()
            if now < self._due:
                return
            self._due = now + transfer.PROGRESS_SECONDS
            done = self._bytes
        self._report.emit(Progress(op=self._op, label=self._label, done_bytes=done))

    def of_one(self) -> transfer.OnBytes:
        """What one transfer tells its own bytes so far."""
        before = 0

        def on_bytes(done: int, _total: int | None) -> None:
            nonlocal before
            self.add(done - before)
            before = done

        return on_bytes
