"""The loop that obstore's calls run on: every thread that waits for it hears of its end."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import CancelledError

import pytest

from creds.stores.s3.loop import Call, Loop


async def seven() -> int:
    return 7


async def fails() -> None:
    raise KeyError("seven")


async def forever() -> None:
    await asyncio.Event().wait()


def test_results_and_errors_reach_who_waits() -> None:
    # A result may be asked for again; the lock is free by then, whether or not the coroutine freed it.
    loop = Loop()
    known = threading.Lock()
    known.acquire()
    call = Call(seven(), loop.loop, known)
    assert (call.result(), call.result()) == (7, 7)
    assert call.over
    assert not known.locked()
    with pytest.raises(KeyError, match="seven"):
        Call(fails(), loop.loop).result()
    endless = Call(forever(), loop.loop)
    endless.cancel()
    with pytest.raises(CancelledError):
        endless.result()
    loop.stop()
    endless.cancel()  # of what is over: nothing


def test_a_loop_that_stops_ends_what_had_not_begun() -> None:
    # The call comes after the stop and before the end: it is cancelled like those that run.
    loop = Loop()
    gate = threading.Event()
    loop.loop.call_soon_threadsafe(gate.wait)
    loop.loop.call_soon_threadsafe(loop.loop.stop)
    late = Call(forever(), loop.loop)
    gate.set()
    with pytest.raises(CancelledError):
        late.result()
    loop._thread.join()
    with pytest.raises(RuntimeError, match="closed"):
        Call(seven(), loop.loop)


def test_a_loop_that_closed_before_it_looked() -> None:
    # Nobody will ever run the call: who waits looks now and then, and is told.
    loop = asyncio.new_event_loop()
    call = Call(seven(), loop)
    loop.close()
    with pytest.raises(CancelledError):
        call.result()
