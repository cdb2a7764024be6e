"""Stopping an engine that blocks: a call ends when its socket is shut down."""

from __future__ import annotations

import concurrent.futures
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from creds.store import Cancel

T = TypeVar("T")

STOP_SECONDS = 0.5  # how long a stopped verb waits for its threads: all of it must end within a second

_working = threading.local()


class Wire:
    """The connections that one verb uses right now; stopping it shuts them down: no thread waits on a server."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connections: set[Any] = set()
        self._stopped = False
        self._over: concurrent.futures.Future[None] = concurrent.futures.Future()

    def add(self, connection: Any) -> None:
        with self._lock:
            if self._stopped:
                raise ConnectionAbortedError("stopped")
            self._connections.add(connection)

    def discard(self, connection: Any) -> None:
        with self._lock:
            self._connections.discard(connection)

    def stop(self) -> None:
        with self._lock:
            if self._stopped:
                return
            self._stopped = True
            connections = list(self._connections)
        self._over.set_result(None)
        for connection in connections:
            _shut(connection.live)

    @property
    def stopped(self) -> bool:
        return self._stopped

    def do(self, work: Callable[[], T], cancel: Cancel) -> T:
        """Do ``work`` in a thread of its own, and leave it behind when ``cancel`` (which stops this wire) is set."""
        future = spawn(work, self)
        self.wait_for((future,), cancel)
        return future.result()

    def wait_for(self, futures: tuple[concurrent.futures.Future[Any], ...], cancel: Cancel) -> None:
        """Wait until one of ``futures`` is done; once ``cancel`` is set, give them a moment to end and raise."""
        concurrent.futures.wait((*futures, self._over), return_when=concurrent.futures.FIRST_COMPLETED)
        if cancel.cancelled:
            concurrent.futures.wait(futures, timeout=STOP_SECONDS)
            cancel.check()


def _shut(bare: Any) -> None:
    if isinstance(bare, socket.socket):
        # The plain socket's own method: a TLS one would first drop the state its reader is using. One that is closed
        # already is as wanted.
        with contextlib.suppress(OSError):
            socket.socket.shutdown(bare, socket.SHUT_RDWR)


def current() -> Wire | None:
    """The wire that this thread's connections count as part of."""
    return getattr(_working, "wire", None)


class Wired:
    """Mixed into a connection of urllib3's: it counts as part of the wire of whoever uses it."""

    live: Any = None
    """The socket, kept because a connection drops it while the body of its last response is still read from it."""
    _wire: Wire | None = None

    def bind(self) -> None:
        """Count as the wire's of this thread, and as no other's."""
        wire = current()
        if self._wire is not None and self._wire is not wire:
            self._wire.discard(self)
        self._wire = wire
        if wire is not None:
            wire.add(self)

    def connect(self) -> None:
        self.bind()
        super().connect()  # type: ignore[misc]  # from the connection class this is mixed into
        self.live = self.sock  # type: ignore[attr-defined]  # as above
        self.bind()  # stopped while it connected: there was no socket yet to shut down


@contextmanager
def on(wire: Wire | None) -> Iterator[None]:
    """Count the connections that this thread uses in the block as ``wire``'s."""
    before = current()
    _working.wire = wire
    try:
        yield
    finally:
        _working.wire = before


def stoppable(work: Callable[[], T], cancel: Cancel | None) -> T:
    """Do ``work`` so that ``cancel`` ends it at once, even inside a call that cannot be interrupted."""
    if cancel is None:
        return work()
    cancel.check()
    wire = Wire()
    with cancel.calling(wire.stop):
        try:
            return wire.do(work, cancel)
        except BaseException:
            wire.stop()
            raise


def apart(work: Callable[[], T], cancel: Cancel | None) -> T:
    """Do ``work``, whose end may be far, so that ``cancel`` ends the wait. A thread that has a wire is left anyhow."""
    return work() if current() is not None else stoppable(work, cancel)


def spawn(work: Callable[[], T], wire: Wire | None) -> concurrent.futures.Future[T]:
    """Run ``work`` in a thread of its own. A daemon: one that hangs in a connect must not hold up the interpreter."""
    future: concurrent.futures.Future[T] = concurrent.futures.Future()
    future.set_running_or_notify_cancel()  # who waits may leave; the work goes on and has its result

    def run() -> None:
        try:
            with on(wire):
                result = work()
        except BaseException as error:  # noqa: BLE001 - handed to whoever waits for the result
            future.set_exception(error)
        else:
            future.set_result(result)

    threading.Thread(target=run, name="creds-store", daemon=True).start()
    return future
