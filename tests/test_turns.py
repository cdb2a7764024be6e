"""Turns of threads: one at a time while they are quick, none waits for another where they are not."""

import threading

import pytest

from artifacts.turns import Turns


class Clock:
    """Seconds that a test lets pass."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def take(turns, clock, seconds, times=1):
    for _ in range(times):
        with turns.taken():
            clock.now += seconds


def waits(turns):
    """Whether a second thread waits while this one has the turn."""
    entered = threading.Event()

    def other():
        with turns.taken():
            entered.set()

    thread = threading.Thread(target=other)
    with turns.taken():
        thread.start()
        waited = not entered.wait(0.1)
    thread.join()
    assert entered.is_set()
    return waited


def test_one_has_the_turn_while_turns_are_quick():
    clock = Clock()
    turns = Turns(clock)
    take(turns, clock, 0.001, times=100)
    assert waits(turns)


def test_slow_turns_end_them():
    """Eight turns of more than two milliseconds more than quick ones, and nobody waits any more."""
    clock = Clock()
    turns = Turns(clock)
    take(turns, clock, 0.003, times=7)
    assert waits(turns)  # two quick ones
    take(turns, clock, 0.003, times=3)
    assert not waits(turns)


def test_a_slow_one_now_and_then_is_forgiven():
    """A thread that had to wait for a processor says nothing of the file system."""
    clock = Clock()
    turns = Turns(clock)
    for _ in range(50):
        take(turns, clock, 1.0)
        take(turns, clock, 0.0)
    assert waits(turns)


def test_a_turn_that_fails_is_given_up():
    turns = Turns()
    with pytest.raises(KeyError, match="bug"), turns.taken():
        raise KeyError("bug")
    with turns.taken():
        pass
