"""Threads that share the pieces of one job: few while the processor is busy, more while they only wait.

What a small object costs near its server is work, which more threads only get in the way of; far from it, it is a wait,
and waits pass side by side. So every piece that was done quickly while the processor was idle brings one more thread:
their number doubles with every round trip until there is enough to do. Large pieces never do; they keep connections of
their own busy.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, Self, TypeVar

from artifacts.processors import processors
from creds.errors import ToolkitError

T = TypeVar("T")

_FEW = {"s3": 8, "http": 8, "https": 8}
_FEW_OTHERS = 4
"""Threads for pieces of any kind, by the scheme of what serves them: what such servers bear."""
_MANY = {"s3": 64}
"""Threads at the most: one interpreter serves no more."""
_FIRST = 4
_AHEAD = 2048  # pieces that are found ahead of those at work: about two pages of S3's lists
_QUICK_SECONDS = 0.5
_LOOK_SECONDS = 0.02  # between two looks at the processor
_IDLE = 0.75  # of the processor's time


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How many threads a crew has: the first ones at once, a few for pieces of any kind, the most for quick ones."""

    first: int
    few: int
    most: int

    @classmethod
    def of(cls, schemes: Iterable[str], asked: int | None = None, *, at_most: int | None = None) -> Self:
        """What the servers of these schemes bear, and at most so many; or just as many as somebody asked for."""
        if asked is not None:
            asked = max(1, asked)
            return cls(first=asked, few=asked, most=asked)
        known = set(schemes) or {"s3"}
        few = min(_FEW.get(scheme, _FEW_OTHERS) for scheme in known)
        most = min(_MANY.get(scheme, few) for scheme in known)
        if at_most is not None:
            few, most = min(few, at_most), min(most, at_most)
        return cls(first=min(few, _FIRST), few=few, most=most)


class Crew(Generic[T]):
    """Threads that do one job's pieces.

    Args:
        work: does a piece. What it raises is a bug: it ends the job.
        size: how many threads.
        stop: makes the work of all threads end soon, and the finding of pieces.
        name: of the threads.
        clock, used: seconds that only go forward, and the processor's seconds that this process used.
        granted: processors that it may use.
    """

    def __init__(
        self,
        work: Callable[[T], None],
        size: Size,
        *,
        stop: Callable[[], None],
        name: str,
        clock: Callable[[], float] = time.monotonic,
        used: Callable[[], float] = time.process_time,
        granted: Callable[[], float] = processors,
    ) -> None:
        self._work = work
        self._size = size
        self._stop = stop
        self._name = name
        self._clock = clock
        self._used = used
        self._waiting: queue.Queue[T | None] = queue.Queue(_AHEAD)
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._begun = 0  # threads
        self._bugs: list[BaseException] = []
        self._looked = clock(), used()
        self._idle = False
        # Python computes in one thread at a time: what there is beyond one processor is of no use to it.
        self._busy = _IDLE * min(1.0, granted())

    def feed(self, pieces: Iterable[T]) -> None:
        """Have every piece done, in about their order; none of them is None.

        When finding them fails with an error of this toolkit, those that were found are done before it is raised.
        """
        try:
            for piece in pieces:
                self._waiting.put(piece)
                if self._begun < self._size.first:
                    with self._lock:
                        self._begin()
        except ToolkitError:
            raise
        except BaseException:
            self._stop()
            raise
        finally:
            self._waiting.put(None)
            self._end()
        if self._bugs:
            raise self._bugs[0]

    def _begin(self) -> None:
        thread = threading.Thread(target=self._run, name=self._name)
        self._begun += 1
        thread.start()
        self._threads.append(thread)

    def _end(self) -> None:
        """Wait for all threads, and see meanwhile whether a few more would help."""
        try:
            while self._threads:
                thread = self._threads[-1]
                thread.join(_LOOK_SECONDS if self._may_grow(self._size.few) else None)
                if thread.is_alive():
                    self._grow(self._size.few)
                else:
                    self._threads.remove(thread)
        except BaseException:
            self._stop()
            for thread in self._threads:
                thread.join()
            raise

    def _run(self) -> None:
        while (piece := self._waiting.get()) is not None:
            began = self._clock()
            try:
                self._work(piece)
            except BaseException as error:  # noqa: BLE001 - raised in the thread that called
                self._bugs.append(error)
                self._stop()
            if self._clock() - began < _QUICK_SECONDS:
                self._grow(self._size.most)
        self._waiting.put(None)  # for the next thread

    def _grow(self, most: int) -> None:
        """Begin one more thread if there is something for it to do, and nothing else to do for the processor."""
        if self._may_grow(most):
            with self._lock, contextlib.suppress(RuntimeError):  # the system may have no more threads to give
                if self._may_grow(most) and self._is_idle():
                    self._begin()

    def _may_grow(self, most: int) -> bool:
        return self._begun < most and self._waiting.qsize() > 1

    def _is_idle(self) -> bool:
        """Was most of the time since the last look spent waiting?"""
        now, used = self._clock(), self._used()
        seconds = now - self._looked[0]
        if seconds >= _LOOK_SECONDS:
            self._idle = used - self._looked[1] < self._busy * seconds
            self._looked = now, used
        return self._idle
