"""The one retry loop and the one back-off. No engine retries by itself.

Only an error whose ``retryable`` is set is worth another try, and only idempotent work is handed to these functions.
Waits double with full jitter (each is uniform between nothing and the doubled bound, so clients that failed together
do not come back together), a server's Retry-After is obeyed, and both the number of tries and their time are capped.
A server that says it has too much to do slows down every call to it, not only the one it said it to.
"""

from __future__ import annotations

import random as random_module
import time
from collections.abc import Callable
from typing import TypeVar

from creds.errors import Cancelled, StoreError, ToolkitError
from creds.store import Cancel, OnRetry, Retries, Retry

T = TypeVar("T")

Refresh = Callable[[ToolkitError], bool]


_THROTTLING = (429, 503)  # Too Many Requests; Service Unavailable, which S3 says as SlowDown


class Throttle:
    """How long one server wants to be left alone; shared by all calls to it, from any thread.

    Args:
        clock: seconds that only go forward.
        random: a number from 0 up to 1.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, random: Callable[[], float] = random_module.random
    ) -> None:
        self._clock = clock
        self._random = random
        self._until = clock()

    def slow(self, seconds: float) -> None:
        """The server refused a call because of its load: nobody calls for so long."""
        self._until = max(self._until, self._clock() + seconds)

    def hold_seconds(self) -> float:
        """How long a call that is ready must wait: 0, or what is left and up to half as much again.

        The extra is each call's own, or all would come back in the same moment.
        """
        left = self._until - self._clock()
        return left * (1 + self._random() / 2) if left > 0 else 0.0


class Schedule:
    """When, and whether, failed work is tried again.

    Args:
        op: the operation's name, for ``on_retry``.
        retries: the caps.
        on_retry: told before each wait, in the thread that runs the work.
        throttle: of the server that is called; None holds nothing back.
        clock: seconds that only go forward.
        random: a number from 0 up to 1.
    """

    def __init__(
        self,
        op: str,
        retries: Retries,
        *,
        on_retry: OnRetry | None = None,
        throttle: Throttle | None = None,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = random_module.random,
    ) -> None:
        self.op = op
        self.attempt = 0
        self._retries = retries
        self._on_retry = on_retry
        self._throttle = throttle
        self._clock = clock
        self._random = random
        self._begun = clock()

    def hold_seconds(self) -> float:
        """How long the next try waits because the server has refused others."""
        return 0.0 if self._throttle is None else self._throttle.hold_seconds()

    def wait_seconds(self, error: ToolkitError) -> float:
        """The wait before the next try after ``error``; raises ``error`` itself when there is to be none."""
        self.attempt += 1
        if isinstance(error, Cancelled) or not error.retryable or self.attempt >= self._retries.attempts:
            raise error
        # The exponent is bounded because a float overflows long before a patient caller's attempts do.
        bound = self._retries.first_wait_seconds * 2.0 ** min(self.attempt - 1, 64)
        bound = min(self._retries.max_wait_seconds, bound)
        throttled = isinstance(error, StoreError) and error.http_status in _THROTTLING
        # A server with too much to do is not helped by a wait of nearly nothing.
        wait = bound * (1 + self._random()) / 2 if throttled else bound * self._random()
        asked = error.retry_after_seconds if isinstance(error, StoreError) else None
        if asked is not None:
            wait = max(wait, min(asked, self._retries.max_wait_seconds))
        if self._clock() + wait - self._begun > self._retries.for_seconds:
            raise error
        if throttled and self._throttle is not None:
            self._throttle.slow(wait)
        if self._on_retry is not None:
            self._on_retry(Retry(op=self.op, attempt=self.attempt, wait_seconds=wait, error=error))
        return wait


def run(
    work: Callable[[], T],
    schedule: Schedule,
    *,
    cancel: Cancel | None = None,
    refresh: Refresh | None = None,
) -> T:
    """Do idempotent ``work``, again and again as ``schedule`` says, until it succeeds.

    Args:
        work: raises a ToolkitError when it fails; anything else passes through.
        schedule: made for this piece of work alone.
        cancel: stops the waits too.
        refresh: asked once, about the first error that is not retryable: True when the work may now succeed at once,
            because the keys that were refused have been replaced.

    Raises:
        ToolkitError: the last error, when it is not retryable or the caps are reached.
        Cancelled: ``cancel`` was set.
    """
    while True:
        if cancel is not None:
            cancel.check()
        if (held := schedule.hold_seconds()) > 0:
            (cancel or Cancel()).wait(held)
        try:
            return work()
        except ToolkitError as error:
            if refresh is not None and not error.retryable and refresh(error):
                refresh = None
                continue
            wait = schedule.wait_seconds(error)
        (cancel or Cancel()).wait(wait)
