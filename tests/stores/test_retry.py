"""The retry loop, with a clock and a die of the test's own."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from creds.errors import Cancelled, ObjectNotFound, StoreUnavailable, ToolkitError, Unauthenticated
from creds.retry import Schedule, Throttle, run
from creds.store import Cancel, Retries, Retry


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def failing(times: int, error: ToolkitError) -> Any:
    """Work that fails so often, then returns how often it was tried."""
    tries = 0

    def work() -> int:
        nonlocal tries
        tries += 1
        if tries <= times:
            raise error
        return tries

    return work


def quick(attempts: int = 6, **more: Any) -> Schedule:
    return Schedule("op", Retries(attempts=attempts, first_wait_seconds=0.0), **more)


def test_waits_double_up_to_the_bound() -> None:
    # The bound of each wait doubles from the first to the longest; jitter takes all of it, or none.
    retries = Retries(attempts=8, for_seconds=1000, first_wait_seconds=0.5, max_wait_seconds=6)
    error = StoreUnavailable("down")
    whole = Schedule("op", retries, clock=Clock(), random=lambda: 1.0)
    assert [whole.wait_seconds(error) for _ in range(7)] == [0.5, 1, 2, 4, 6, 6, 6]
    none = Schedule("op", retries, clock=Clock(), random=lambda: 0.0)
    assert [none.wait_seconds(error) for _ in range(7)] == [0.0] * 7


def test_attempts_are_capped() -> None:
    # The last error is raised as it is, after so many tries in all.
    error = StoreUnavailable("down")
    work = failing(99, error)
    with pytest.raises(StoreUnavailable) as caught:
        run(work, quick(attempts=3))
    assert caught.value is error
    with pytest.raises(StoreUnavailable):
        run(work, quick(attempts=1))
    assert run(failing(2, error), quick(attempts=3)) == 3


def test_time_is_capped() -> None:
    # No try starts later than for_seconds after the first, whatever is left of the attempts.
    clock = Clock()
    schedule = Schedule(
        "op",
        Retries(attempts=99, for_seconds=10, first_wait_seconds=4, max_wait_seconds=4),
        clock=clock,
        random=lambda: 1.0,
    )
    error = StoreUnavailable("down")
    for _ in range(2):
        clock.now += schedule.wait_seconds(error)
    with pytest.raises(StoreUnavailable):
        schedule.wait_seconds(error)


def test_retry_after_is_obeyed_up_to_the_bound() -> None:
    # A server's wish lengthens the wait, never shortens it, and never beyond the bound.
    retries = Retries(for_seconds=1000, first_wait_seconds=1, max_wait_seconds=8)
    for asked, expected in ((5.0, 5.0), (0.1, 1.0), (3600.0, 8.0)):
        error = StoreUnavailable("busy")
        error.retry_after_seconds = asked
        assert Schedule("op", retries, random=lambda: 1.0).wait_seconds(error) == expected


def test_throttling_holds_every_call_to_the_host() -> None:
    # A 503 or 429 to one call is waited out by all that share the throttle, each with a rest of its own; a server
    # that broke is not.
    clock = Clock()
    retries = Retries(for_seconds=1000, first_wait_seconds=4, max_wait_seconds=8)
    throttle = Throttle(clock, lambda: 0.5)
    one, other = (Schedule("op", retries, clock=clock, throttle=throttle, random=lambda: 0.0) for _ in range(2))
    assert one.wait_seconds(StoreUnavailable("broke", http_status=500)) == 0.0
    assert other.hold_seconds() == 0.0
    assert one.wait_seconds(StoreUnavailable("busy", http_status=503)) == 4.0  # half its bound at the least
    assert other.hold_seconds() == 5.0
    clock.now += 3
    assert other.hold_seconds() == 1.25
    assert other.wait_seconds(StoreUnavailable("busy", http_status=429)) == 2.0
    clock.now += 2
    assert (one.hold_seconds(), other.hold_seconds()) == (0.0, 0.0)
    assert Schedule("op", retries, clock=clock).hold_seconds() == 0.0


def test_a_held_call_waits_and_is_stopped() -> None:
    # Nothing is tried before the hold is over, and a hold ends when the work is stopped.
    throttle = Throttle()
    throttle.slow(0.05)
    began = time.monotonic()
    assert run(lambda: time.monotonic() - began >= 0.05, quick(throttle=throttle))
    throttle.slow(3600)
    cancel = Cancel()
    threading.Timer(0.05, cancel.cancel).start()
    with pytest.raises(Cancelled):
        run(lambda: pytest.fail("tried"), quick(throttle=throttle), cancel=cancel)


@pytest.mark.parametrize("error", [ObjectNotFound("no"), Cancelled("stop"), ValueError("a bug")])
def test_what_is_not_retried(error: Exception) -> None:
    # Answers that will not change, stopped work and what is no toolkit error end at the first try.
    tries = 0

    def work() -> None:
        nonlocal tries
        tries += 1
        raise error

    with pytest.raises(type(error)):
        run(work, quick())
    assert tries == 1


def test_on_retry_is_told_before_each_wait() -> None:
    # The callback has the operation, the number of the failed try, the wait and the reason.
    told: list[Retry] = []
    error = StoreUnavailable("down")
    schedule = Schedule("open", Retries(first_wait_seconds=0.002), on_retry=told.append, random=lambda: 0.5)
    assert run(failing(2, error), schedule) == 3
    assert [(r.op, r.attempt, r.wait_seconds, r.error) for r in told] == [
        ("open", 1, 0.001, error),
        ("open", 2, 0.002, error),
    ]


def test_cancel_ends_a_wait() -> None:
    # A wait of an hour ends when the work is stopped; stopped before, nothing is tried.
    cancel = Cancel()
    retries = Retries(for_seconds=9999, first_wait_seconds=3600, max_wait_seconds=3600)
    waiting = Schedule(
        "op", retries, on_retry=lambda _: threading.Timer(0.05, cancel.cancel).start(), random=lambda: 1.0
    )
    with pytest.raises(Cancelled):
        run(failing(99, StoreUnavailable("down")), waiting, cancel=cancel)
    tried: list[int] = []
    with pytest.raises(Cancelled):
        run(lambda: tried.append(1), quick(), cancel=cancel)
    assert tried == []


def test_refresh_is_asked_once() -> None:
    # Refused keys that were replaced give one more try at once, not counted; a second refusal stands.
    asked: list[ToolkitError] = []

    def refresh(error: ToolkitError) -> bool:
        asked.append(error)
        return True

    error = Unauthenticated("expired")
    assert run(failing(1, error), quick(attempts=1), refresh=refresh) == 2
    with pytest.raises(Unauthenticated):
        run(failing(2, error), quick(), refresh=refresh)
    assert asked == [error, error]
    with pytest.raises(Unauthenticated):
        run(failing(1, error), quick(), refresh=lambda _: False)
    asked.clear()
    assert run(failing(1, StoreUnavailable("down")), quick(), refresh=refresh) == 2
    assert asked == []
