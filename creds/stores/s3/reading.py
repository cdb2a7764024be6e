"""What every way of reading one object shares: who reads, how it stops, and that it stays one generation."""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from creds.errors import Cancelled, ObjectChanged
from creds.store import Buffer, ObjectMeta
from creds.stores.s3.verb import Verb


class S3Reading(Iterator[Buffer]):
    """One object being read; see :class:`creds.store.Reading`."""

    def __init__(self, verb: Verb, start: int, if_match: str | None) -> None:
        self._verb = verb
        self._start = start
        self._if_match = if_match
        self._meta: ObjectMeta | None = None
        self._lock = threading.RLock()  # another thread may close what this one reads
        self._closed = False
        self._stack = ExitStack()
        self._share = self._stack.enter_context(verb.bucket.window.stream())

    @property
    def meta(self) -> ObjectMeta:
        assert self._meta is not None
        return self._meta

    @property
    @abstractmethod
    def pinned(self) -> str: ...

    def begin(self) -> Self:
        """Ask for the object and wait until its ``meta`` is known."""
        try:
            self._begin()
        except BaseException:
            self.close()
            raise
        return self

    @abstractmethod
    def _begin(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop: whoever reads in another thread gets Cancelled."""
        with self._lock:
            self._closed = True
            self._stack.close()

    def _check_open(self) -> None:
        if self._verb.cancel is not None:
            self._verb.cancel.check()
        if self._closed:
            raise self._was_closed()

    def _was_closed(self) -> Cancelled:
        return Cancelled(f"open {self._verb.where}: closed while it was read")

    def _condition(self) -> str | None:
        """The ETag that the next request insists on: that of the first answer, where it names the bytes."""
        if self._meta is not None and self._meta.strong:
            return self._meta.etag
        return self._if_match

    def _pin(self, now: ObjectMeta) -> None:
        """Keep the first answer, and refuse a later one about another generation: not every server holds If-Match."""
        first = self._meta
        if first is None:
            self._verb.check_object(now)
            if self._if_match is not None and now.etag != self._if_match:
                raise self._verb.failed(ObjectChanged, "not the expected object")
            self._meta = now
        elif first.replaced_by(now):
            raise self._changed()

    def _changed(self) -> ObjectChanged:
        return self._verb.failed(ObjectChanged, "the object changed while it was read")

    def _beyond(self, size: int | None) -> ObjectChanged:
        return self._verb.failed(ObjectChanged, f"cannot start at byte {self._start} of {size}")
