"""Where obstore's calls run: an event loop in a thread of its own, which ends without aborting the process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Awaitable, Coroutine
from concurrent.futures import CancelledError
from typing import Any, Generic, TypeVar

T = TypeVar("T")

_NAME = "creds-store-loop"
_JOIN_SECONDS = 10.0
_OWED_SECONDS = 2.0
_LOOK_SECONDS = 1.0  # how often who waits looks whether the loop still runs


class _Owed(asyncio.Future[Any]):
    """A future of obstore's; see :class:`_EventLoop`."""

    def __init__(self, loop: _EventLoop) -> None:
        super().__init__(loop=loop)
        self.owing = loop.owing

    def cancelled(self) -> bool:
        gone = super().cancelled()
        # Asked from its own thread, obstore looks whether anybody still wants the result: a yes ends its part.
        if gone and threading.current_thread().name != _NAME:
            self.owing.discard(self)
        return gone


class _EventLoop(asyncio.SelectorEventLoop):
    """An event loop that knows which results obstore's threads have still to hand over.

    Such a thread needs the interpreter once more after it woke us. If the interpreter is shutting down by then, the
    whole process aborts (seen in one of three programs that fetched one object and ended). So whoever stops the loop
    waits until nothing is owed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.owing: set[_Owed] = set()

    def create_future(self) -> asyncio.Future[Any]:
        return _Owed(self)

    def call_soon_threadsafe(  # type: ignore[override]  # passes on whatever it is given
        self, callback: Any, *args: Any, context: Any = None
    ) -> asyncio.Handle:
        try:
            return super().call_soon_threadsafe(callback, *args, context=context)
        finally:
            if args and isinstance(args[0], _Owed):
                self.owing.discard(args[0])


async def owed(result: Awaitable[T]) -> T:
    """Await what obstore returned, and remember meanwhile that it is owed."""
    if isinstance(result, _Owed):
        result.owing.add(result)
    return await result


class Call(Generic[T]):
    """A coroutine on the loop, for a thread that waits for it: what costs least for the many small ones.

    Args:
        coroutine: what is to be done.
        known: a lock that is held; released at the latest when the coroutine has ended.

    Raises:
        RuntimeError: the loop is closed.
    """

    def __init__(
        self, coroutine: Coroutine[Any, Any, T], loop: asyncio.AbstractEventLoop, known: threading.Lock | None = None
    ) -> None:
        self._coroutine = coroutine
        self._loop = loop
        self._known = known
        self._task: asyncio.Task[T] | None = None
        self._over = threading.Lock()
        self._over.acquire()
        try:
            loop.call_soon_threadsafe(self._start)
        except RuntimeError:
            coroutine.close()
            raise

    def result(self) -> T:
        """What the coroutine returns or raises; CancelledError if it was cancelled, or the loop closed."""
        try:
            wait(self._over, self._loop)
        except CancelledError:
            self._coroutine.close()  # it never began
            raise
        self._over.release()
        if self._task is None or self._task.cancelled():
            raise CancelledError
        return self._task.result()

    @property
    def over(self) -> bool:
        """Has the coroutine ended?"""
        return not self._over.locked()

    def cancel(self) -> None:
        """End the coroutine where it is; from any thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: it has ended
            self._loop.call_soon_threadsafe(self._cancel)

    # On the loop.

    def _start(self) -> None:
        self._task = self._loop.create_task(self._coroutine)
        self._task.add_done_callback(self._end)

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _end(self, task: asyncio.Task[T]) -> None:
        if not task.cancelled():
            task.exception()  # asked for, or asyncio would tell of it where nobody asks for the result
        if self._known is not None and self._known.locked():
            self._known.release()
        self._over.release()


def wait(lock: threading.Lock, loop: asyncio.AbstractEventLoop) -> None:
    """Take a lock that is released on the loop.

    Raises:
        CancelledError: the loop is closed, and nothing of it will come.
    """
    while not lock.acquire(timeout=_LOOK_SECONDS):
        if loop.is_closed():
            raise CancelledError


class Loop:
    """An event loop in a thread of its own: obstore's calls run here, and cancelling one closes its socket at once."""

    def __init__(self) -> None:
        self.loop = _EventLoop()
        self._pid = os.getpid()
        self._thread = threading.Thread(target=self._run, name=_NAME, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self.loop.run_forever()
        self.loop.run_until_complete(self._end())
        self.loop.close()

    async def _end(self) -> None:
        while tasks := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        ends = self.loop.time() + _OWED_SECONDS
        # Polled, because the last thing an obstore thread does is not an event that anybody could be told of.
        while self.loop.owing and self.loop.time() < ends:  # noqa: ASYNC110 - see above
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.002)  # the last of them leaves the interpreter

    def stop(self) -> None:
        """End the thread, and with it every call; returns when nothing of it is left."""
        if self._pid != os.getpid():
            return  # the thread is the parent's
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.loop.stop)
        if self._thread is not threading.current_thread():
            self._thread.join(_JOIN_SECONDS)
