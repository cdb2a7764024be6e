"""What every reading of a stream over the network shares: how it stops, and that it stays one generation."""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack
from types import TracebackType
from typing import Self, TypeVar

from creds.errors import Cancelled, ObjectChanged, StoreError
from creds.store import Buffer, Cancel, ObjectMeta

E = TypeVar("E", bound=StoreError)


class OpenReading(Iterator[Buffer]):
    """One object being read; see :class:`creds.store.Reading`.

    Args:
        start: the byte that it begins at.
        if_match: the ETag that the object must have, or None.
        cancel: stops it.
    """

    def __init__(self, start: int, if_match: str | None, cancel: Cancel | None) -> None:
        self._start = start
        self._if_match = if_match
        self._cancel = cancel
        self._meta: ObjectMeta | None = None
        self._lock = threading.RLock()  # another thread may close what this one reads
        self._closed = False
        self._stack = ExitStack()

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

    @property
    @abstractmethod
    def _where(self) -> str:
        """The object's masked location; asked for when something is told of it."""

    @abstractmethod
    def _failed(self, kind: type[E], said: str) -> E:
        """An error of this reading."""

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
        if self._cancel is not None:
            self._cancel.check()
        if self._closed:
            raise self._was_closed()

    def _was_closed(self) -> Cancelled:
        return Cancelled(f"open {self._where}: closed while it was read")

    def _pin(self, now: ObjectMeta) -> None:
        """Keep the first answer, and refuse a later one about another generation: not every server holds If-Match."""
        first = self._meta
        if first is None:
            if self._if_match is not None and now.etag != self._if_match:
                raise self._failed(ObjectChanged, "not the expected object")
            self._meta = now
        elif first.replaced_by(now):
            raise self._changed()

    def _changed(self) -> ObjectChanged:
        return self._failed(ObjectChanged, "the object changed while it was read")

    def _beyond(self, size: int | None) -> ObjectChanged:
        return self._failed(ObjectChanged, f"cannot start at byte {self._start} of {size}")
