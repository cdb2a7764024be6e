"""A store that moves no faster than a :class:`~creds.store.Rate` lets it, whatever engine it has.

Bytes are counted where every store hands them over: between a reading and its reader, and between what is written and
the writer. So what an engine reads ahead arrives before it is counted; :func:`paced` keeps that to about a second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from creds.store import Buffer, Cancel, ObjectMeta, OnRetry, Rate, Reading, Store, StoreOptions

_LEAST_PART_BYTES = 64 << 10


def paced(options: StoreOptions, rate: Rate) -> StoreOptions:
    """``options`` for a store behind ``rate``: what is read ahead of it is bounded by what it lets through."""
    part = min(options.part_bytes, max(_LEAST_PART_BYTES, rate.bytes_per_second))
    # Two, so that an upload's next part is gathered while one is sent.
    parallel = max(2, rate.bytes_per_second // part)
    return replace(options, part_bytes=part, parallel_parts=min(options.parallel_parts, parallel))


class PacedStore:
    """``store``, no faster than ``rate``.

    Args:
        store: does all the work.
        rate: shared by all that count together.
    """

    def __init__(self, store: Store, rate: Rate) -> None:
        self._store = store
        self._rate = rate

    def __repr__(self) -> str:
        return f"<{self._store!r} at {self._rate!r}>"

    def __getattr__(self, name: str) -> Any:
        """What some stores have beside the verbs, such as S3's unfinished uploads: it moves no content."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._store, name)

    @property
    def client(self) -> Any:
        """The live client; what it moves by itself is not counted."""
        return self._store.client

    @property
    def enforces_conditions(self) -> bool:
        return self._store.enforces_conditions

    def open(
        self,
        key: str,
        *,
        start: int = 0,
        if_match: str | None = None,
        cancel: Cancel | None = None,
        on_retry: OnRetry | None = None,
    ) -> Reading:
        reading = self._store.open(key, start=start, if_match=if_match, cancel=cancel, on_retry=on_retry)
        return _PacedReading(reading, self._rate, cancel)

    def write(
        self,
        key: str,
        buffers: Iterable[Buffer],
        *,
        size_hint_bytes: int | None = None,
        if_match: str | None = None,
        if_none_match: bool = False,
        content_type: str | None = None,
        metadata: Mapping[str, str] | None = None,
        cancel: Cancel | None = None,
        on_retry: OnRetry | None = None,
    ) -> ObjectMeta:
        return self._store.write(
            key,
            _pieces(buffers, self._rate, cancel),
            size_hint_bytes=size_hint_bytes,
            if_match=if_match,
            if_none_match=if_none_match,
            content_type=content_type,
            metadata=metadata,
            cancel=cancel,
            on_retry=on_retry,
        )

    @property
    def resuming(self) -> Callable[[Any], PacedStore]:
        """What the store has of that name, if it has, at the same rate."""
        resuming = self._store.resuming  # type: ignore[attr-defined]  # of S3's
        return lambda journal: PacedStore(resuming(journal), self._rate)

    def head(self, key: str, *, checksums: bool = False, cancel: Cancel | None = None) -> ObjectMeta:
        return self._store.head(key, checksums=checksums, cancel=cancel)

    def list(self, prefix: str = "", *, recursive: bool = True, cancel: Cancel | None = None) -> Iterator[ObjectMeta]:
        return self._store.list(prefix, recursive=recursive, cancel=cancel)

    def delete(self, key: str, *, cancel: Cancel | None = None) -> None:
        self._store.delete(key, cancel=cancel)

    def sign(self, key: str, method: str = "GET", *, expires_seconds: int = 3600) -> str:
        return self._store.sign(key, method, expires_seconds=expires_seconds)

    def close(self) -> None:
        self._store.close()


class _PacedReading:
    """A reading whose buffers come in pieces, each in its time."""

    def __init__(self, reading: Reading, rate: Rate, cancel: Cancel | None) -> None:
        self._reading = reading
        self._pieces = _pieces(reading, rate, cancel)

    @property
    def meta(self) -> ObjectMeta:
        return self._reading.meta

    @property
    def pinned(self) -> str:
        return self._reading.pinned

    def __iter__(self) -> Iterator[Buffer]:
        return self._pieces

    def __enter__(self) -> Self:
        self._reading.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reading.__exit__(kind, error, trace)


def _pieces(buffers: Iterable[Buffer], rate: Rate, cancel: Cancel | None) -> Iterator[Buffer]:
    for buffer in buffers:
        whole = memoryview(buffer).cast("B")
        for start in range(0, len(whole), rate.piece_bytes):
            piece = whole[start : start + rate.piece_bytes]
            rate.take(len(piece), cancel)
            yield piece
