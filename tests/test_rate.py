"""A rate for all transfers of a process: no store goes around it, streams share it, and the clock here is a fake."""

import contextlib
import io
import pickle
import random
import threading

import pytest
from commands import run

from artifacts import objects
from creds.errors import Cancelled
from creds.location import Location
from creds.models import AWSCredential, Credentials, PlainCredential
from creds.pacing import PacedStore, _pieces, paced
from creds.policy import Policy
from creds.resolve import STORES, resolve
from creds.store import Cancel, Rate, Store, StoreOptions
from creds.testing import FakeClock, MemoryStore

MIB = 1 << 20


class Paced(FakeClock):
    """A clock that whoever waits moves on, and the rate that it belongs to."""

    def __init__(self, bytes_per_second):
        super().__init__(0.0)
        self.rate = Rate(bytes_per_second, clock=self, pause=lambda seconds, _: self.advance(seconds))


def test_what_is_taken_takes_its_time():
    """The first piece passes at once, all that follow when those before have had their time."""
    clock = Paced(1000)
    clock.rate.take(500)
    assert clock.now == 0.0
    clock.rate.take(500)
    assert clock.now == 0.25  # a quarter of a second was not used yet
    for _ in range(10):
        clock.rate.take(1000)
    assert clock.now == 9.75
    clock.advance(100)
    clock.rate.take(1000)
    clock.rate.take(1000)
    assert clock.now == 110.5  # an idle time gives a quarter of a second, and no more


def test_streams_share_alike():
    """A stream of large buffers and one of small ones get the same, piece by piece."""
    waits = []
    clock = FakeClock(0.0)
    rate = Rate(16_000, clock=clock, pause=lambda seconds, _: waits.append(seconds))
    streams = [_pieces([bytes(100_000)] * 50, rate, None), _pieces([bytes(1000)] * 5000, rate, None)]
    woken, passed = [0.0, 0.0], [0, 0]
    while clock.now < 20.0:
        stream = woken.index(min(woken))
        clock.now = woken[stream]
        passed[stream] += len(next(streams[stream]))
        woken[stream] = clock.now + (waits.pop() if waits else 0.0)
    assert abs(passed[0] - passed[1]) <= 10_000
    assert 300_000 < sum(passed) < 330_000


def test_a_wait_ends_when_the_work_is_stopped():
    """Whoever waits for hours is woken, by its own Cancel alone."""
    rate, cancel, raised = Rate(1), Cancel(), []
    rate.take(100_000)

    def wait():
        try:
            rate.take(1, cancel)
        except Cancelled as error:
            raised.append(str(error))

    thread = threading.Thread(target=wait)
    thread.start()
    cancel.cancel("enough")
    thread.join(20)
    assert raised == ["enough"]


@pytest.mark.parametrize("wrong", [0, -1])
def test_a_rate_that_moves_nothing(wrong):
    """It is no rate."""
    with pytest.raises(ValueError, match="moves nothing"):
        Rate(wrong)


def test_another_process_has_a_bucket_of_its_own():
    """Options with a rate are pickled, as others are."""
    assert pickle.loads(pickle.dumps(StoreOptions(rate=Rate(7)))).rate.bytes_per_second == 7


def test_no_verb_is_missing():
    """What a store has, a paced one has: verbs added to the protocol are added here too, and what writes beside them."""
    verbs = {name for name in vars(Store) if not name.startswith("_")} | {"resuming"}
    assert {name for name in vars(PacedStore) if not name.startswith("_")} == verbs


def test_what_some_stores_have_beside_the_verbs():
    """It is reached through a paced one too; what there is not, is not."""
    store = PacedStore(MemoryStore({"k": b"x"}), Rate(1))
    assert store.objects == {"k": b"x"}
    assert not hasattr(store, "unfinished")
    assert not hasattr(store, "resuming")
    assert not hasattr(store, "_objects")


@pytest.mark.parametrize("scheme", STORES)
def test_no_scheme_goes_around_it(scheme, tmp_path):
    """Whatever is opened with a rate is behind it."""
    url = f"file://{tmp_path}/k" if scheme == "file" else f"{scheme}://127.0.0.1:9/bucket/key"
    login = Credentials(plain=PlainCredential(user="user", password="password")) if scheme == "sftp" else None
    options = StoreOptions(rate=Rate(1))
    with contextlib.closing(resolve(Location.parse(url), login, options, Policy.for_caller()).open()) as store:
        assert isinstance(store, PacedStore)
    with contextlib.closing(resolve(Location.parse(url), login, None, Policy.for_caller()).open()) as store:
        assert not isinstance(store, PacedStore)


@pytest.mark.parametrize(
    ("rate", "part", "parallel"), [(10, 65_536, 2), (MIB, MIB, 2), (24 * MIB, 8 * MIB, 3), (1 << 40, 8 * MIB, 4)]
)
def test_what_is_read_ahead_is_about_a_second(rate, part, parallel):
    """Parts and their number follow the rate, up to what the options allow."""
    options = paced(StoreOptions(), Rate(rate))
    assert (options.part_bytes, options.parallel_parts) == (part, parallel)


def test_a_memory_store_behind_it():
    """Bytes, verbs, metadata and errors pass through."""
    clock = Paced(MIB)
    store = PacedStore(MemoryStore(), clock.rate)
    body = random.Random(1).randbytes(3 * MIB + 1)
    meta = store.write("k", [body[:MIB], memoryview(body)[MIB:]], if_none_match=True)
    assert clock.now == pytest.approx(2.75, abs=0.1)
    assert store.head("k") == meta
    assert [entry.key for entry in store.list()] == ["k"]
    with store.open("k", start=MIB) as reading:
        assert (reading.meta, reading.pinned) == (meta, "none")
        assert b"".join(reading) == body[MIB:]
    assert clock.now == pytest.approx(4.75, abs=0.1)
    store.delete("k")
    assert list(store.list()) == []
    assert (store.client, store.enforces_conditions) == (None, True)


def test_a_file_goes_there_and_back(seaweed, bucket, tmp_path):
    """20 MiB to SeaweedFS and back at 4 MiB/s take ten seconds of the one clock."""
    clock = Paced(4 * MIB)
    keys = AWSCredential(access_key=seaweed.admin.access_key, secret_access_key=seaweed.admin.secret_key)
    options = StoreOptions(rate=clock.rate)
    access = objects.Access(credentials=Credentials(aws=keys), options=options, policy=Policy.for_caller())
    url = f"s3+{seaweed.endpoint_url}/{bucket}/k"
    body = random.Random(2).randbytes(20 * MIB)
    objects.put(io.BytesIO(body), url, access=access)
    assert clock.now == pytest.approx(4.75, abs=0.1)
    objects.get(url, tmp_path / "k", access=access)
    assert clock.now == pytest.approx(9.75, abs=0.1)
    assert (tmp_path / "k").read_bytes() == body


def test_from_the_shell(tmp_path):
    """--max-rate takes a size, and what it moves is whole."""
    body = random.Random(3).randbytes(MIB)
    (tmp_path / "in").write_bytes(body)
    url = f"file://{tmp_path}/there"
    assert run("put", tmp_path / "in", url, "--anonymous", "--max-rate", "64MiB").code == 0
    assert run("get", url, tmp_path / "out", "--anonymous", "--max-rate", "64MiB").code == 0
    assert (tmp_path / "out").read_bytes() == body
    for wrong, said in (("0", "moves nothing"), ("fast", "expected a size")):
        refused = run("get", url, tmp_path / "out", "--anonymous", "--max-rate", wrong)
        assert refused.code == 2
        assert said in refused.err
