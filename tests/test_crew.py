"""Threads that share a job's pieces: their number follows what there is to wait for, and nothing is left undone."""

import threading
import time

import pytest

from artifacts.crew import Crew, Size
from artifacts.errors import ToolkitError


class Crowd:
    """Counts who is at work at once, on pieces that take ``seconds`` by a clock of the test's own."""

    def __init__(self, seconds=0.0, used=0.0):
        self.seconds = seconds
        self.share = used
        self.lock = threading.Lock()
        self.now = 0.0
        self.at_once = self.most = 0
        self.done = []

    def clock(self):
        return self.now

    def used(self):
        return self.now * self.share

    def __call__(self, piece):
        with self.lock:
            self.at_once += 1
            self.most = max(self.most, self.at_once)
        time.sleep(0.002)
        with self.lock:
            self.now += self.seconds
            self.at_once -= 1
            self.done.append(piece)


def fed(crowd, size, count=600, granted=2.0):
    watched = {"clock": crowd.clock, "used": crowd.used, "granted": lambda: granted}
    Crew(crowd, size, stop=lambda: None, name="crew", **watched).feed(range(count))
    assert sorted(crowd.done) == list(range(count))
    return crowd.most


def test_quick_pieces_that_wait_bring_many():
    assert fed(Crowd(seconds=0.021), Size(first=4, few=8, most=40)) > 8


def test_pieces_that_compute_bring_nobody():
    assert fed(Crowd(seconds=0.021, used=1.0), Size(first=4, few=8, most=40)) == 4


def test_half_a_processor_is_busy_sooner():
    """In a container with a quota of half a core the process never uses more, however much there is to do."""
    assert fed(Crowd(seconds=0.021, used=0.5), Size(first=4, few=8, most=40), granted=0.5) == 4
    assert fed(Crowd(seconds=0.021, used=0.5), Size(first=4, few=8, most=40), granted=64) > 8


def test_pieces_that_take_long_bring_a_few():
    assert 4 <= fed(Crowd(seconds=0.6), Size(first=4, few=8, most=40), count=300) <= 8


def test_as_many_as_were_asked_for():
    assert fed(Crowd(seconds=0.021), Size.of(["s3"], 3)) == 3
    assert fed(Crowd(seconds=0.6, used=1.0), Size.of(["s3"], 20)) == 20


@pytest.mark.parametrize(
    ("schemes", "few", "most"),
    [
        (["s3", "s3"], 8, 64),
        (["https"], 8, 8),
        (["s3", "http"], 8, 8),
        (["s3", "sftp"], 4, 4),
        (["file"], 4, 4),
        ([], 8, 64),
    ],
)
def test_no_more_than_every_server_bears(schemes, few, most):
    size = Size.of(schemes)
    assert (size.few, size.most) == (few, most)
    assert size.first <= size.few


def test_no_more_than_the_machine_may_have():
    assert Size.of(["s3"], at_most=3) == Size(first=3, few=3, most=3)
    assert Size.of(["s3"], at_most=20) == Size(first=4, few=8, most=20)


def test_at_least_one():
    assert fed(Crowd(), Size.of(["s3"], 0), count=3) == 1


def test_no_pieces_no_threads():
    before = threading.active_count()
    Crew(lambda _: None, Size.of(["s3"]), stop=pytest.fail, name="crew").feed([])
    assert threading.active_count() == before


def test_what_was_found_is_done_when_finding_fails():
    def found():
        yield from range(10)
        raise ToolkitError("the list breaks off")

    crowd = Crowd()
    with pytest.raises(ToolkitError, match="breaks off"):
        Crew(crowd, Size.of(["s3"]), stop=pytest.fail, name="crew").feed(found())
    assert sorted(crowd.done) == list(range(10))


@pytest.mark.parametrize("where", ["work", "finding"])
def test_a_bug_stops_the_rest_and_is_raised_where_the_job_was_begun(where):
    stopped = threading.Event()

    def found():
        yield 1
        if where == "finding":
            raise KeyboardInterrupt
        yield 2

    def work(piece):
        if where == "work" and piece == 1:
            raise KeyError("a bug")

    before = threading.active_count()
    with pytest.raises(KeyError if where == "work" else KeyboardInterrupt):
        Crew(work, Size.of(["s3"]), stop=stopped.set, name="crew").feed(found())
    assert stopped.is_set()
    assert threading.active_count() == before
