"""Who writes small files when many threads have some: one at a time, for as long as that is quick.

Threads that make many short system calls side by side hand the interpreter's lock on at each of them, which takes
several times as long as the calls. Where a call is a wait, as on a file system over the network, none waits for
another.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

_QUICK_SECONDS = 0.002
_SLOW_TURNS = 8
"""So many turns that took longer, less those that did not, end the taking of turns."""


class Turns:
    """The turns of threads that write to one file system.

    Args:
        clock: seconds that only go forward.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._slow = 0

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        """Have the turn while the ``with`` block runs, unless turns take long here. Nothing else may be waited for."""
        if self._slow >= _SLOW_TURNS:
            yield
            return
        with self._lock:
            began = self._clock()
            yield
            if self._clock() - began > _QUICK_SECONDS:
                self._slow += 1
            elif self._slow:
                self._slow -= 1
