"""The cache: asked with the caller's own credential each time, whole or nothing, shared by processes."""

import hashlib
import itertools
import json
import os
import shutil
import threading

import pytest

from artifacts.cache import BlobCache, CachedReading
from artifacts.errors import CorruptArchive, FolderError, IntegrityError
from artifacts.partial import SYNC_BYTES, PartialFile
from creds.errors import AccessDenied, Cancelled, StoreUnavailable
from creds.location import Location
from creds.policy import Policy
from creds.resolve import resolve
from creds.store import Cancel, StoreOptions
from creds.testing import MemoryStore

PLACE = "http://127.0.0.1/bucket/key"


def content(size=2_000_000):
    return hashlib.shake_256(b"content").digest(size)


class Counting(MemoryStore):
    """A memory store that tells which verbs were asked of it, and from which byte objects were read."""

    def __init__(self, objects, **rest):
        self.verbs = []
        self.starts = []
        super().__init__(objects, part_bytes=64 << 10, **rest)

    def open(self, key, *, start=0, **rest):
        self.verbs.append("open")
        self.starts.append(start)
        return super().open(key, start=start, **rest)

    def head(self, key, **rest):
        self.verbs.append("head")
        return super().head(key, **rest)


def read(cache, store, key="key", location=PLACE, cancel=None):
    with cache.open(store, key, location=location, cancel=cancel) as reading:
        got = b"".join(reading)
    return getattr(reading, "cache", "off"), got, reading


def files(cache):
    return sorted(path.suffix for path in cache.folder.glob("objects/*/*") if path.name != "lock")


def test_the_second_reader_asks_once_and_reads_no_byte_from_the_store(tmp_path):
    cache, store = BlobCache(tmp_path / "cache"), Counting({"key": content()})
    assert read(cache, store)[:2] == ("miss", content())
    assert store.verbs == ["open"]
    assert read(cache, store)[:2] == ("hit", content())
    assert store.verbs == ["open", "head"]
    assert files(cache) == [".json", ".object"]


def test_the_folder_is_its_owners_alone(tmp_path):
    cache = BlobCache(tmp_path / "cache")
    read(cache, Counting({"key": content()}))
    for path in (cache.folder / "objects", *cache.folder.glob("objects/*")):
        assert path.stat().st_mode & 0o777 == 0o700
    for path in cache.folder.glob("objects/*/*"):
        assert path.stat().st_mode & 0o777 == 0o600


def test_a_folder_that_others_may_write_to_is_refused(tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(0o777)
    with pytest.raises(FolderError, match="others may write to it"):
        BlobCache(tmp_path / "cache")


def test_an_object_that_was_replaced_is_fetched_again_and_the_old_one_goes(tmp_path):
    cache, store = BlobCache(tmp_path / "cache"), Counting({"key": content()})
    read(cache, store)
    store.write("key", [b"new"])
    assert read(cache, store)[:2] == ("miss", b"new")
    assert files(cache) == [".json", ".object"]


def test_who_may_not_read_the_object_does_not_get_it_from_the_cache(tmp_path):
    def refuse(verb, key):
        raise AccessDenied(f"{verb} {key}")

    cache = BlobCache(tmp_path / "cache")
    read(cache, Counting({"key": content()}))
    with pytest.raises(AccessDenied):
        read(cache, Counting({"key": content()}, before=refuse))


def test_a_damaged_copy_is_an_error_that_says_so_and_is_gone_next_time(tmp_path):
    cache, store = BlobCache(tmp_path / "cache"), Counting({"key": content()})
    read(cache, store)
    (held,) = cache.folder.glob("objects/*/*.object")
    damaged = bytearray(content())
    damaged[1000] ^= 1
    held.write_bytes(damaged)
    with pytest.raises(IntegrityError, match="damaged") as caught:
        read(cache, store)
    assert caught.value.retryable
    assert read(cache, store)[:2] == ("miss", content())


def test_a_copy_that_was_cut_short_is_not_used(tmp_path):
    cache, store = BlobCache(tmp_path / "cache"), Counting({"key": content()})
    read(cache, store)
    (held,) = cache.folder.glob("objects/*/*.object")
    os.truncate(held, 1000)
    assert read(cache, store)[:2] == ("miss", content())


def test_what_a_dead_process_left_is_read_from_here_and_the_rest_from_the_store(tmp_path):
    cache, store = BlobCache(tmp_path / "cache"), Counting({"key": content()})
    with cache.open(store, "key", location=PLACE) as reading:
        next(iter(reading))
    (journal,) = cache.folder.glob("objects/*/*.journal")
    offset = json.loads(journal.read_bytes())["offset"]
    assert 0 < offset < len(content())
    assert read(cache, store)[:2] == ("miss", content())
    assert store.starts == [0, offset]
    assert read(cache, store)[0] == "hit"


def test_a_part_of_another_generation_is_forgotten(tmp_path):
    cache, store = BlobCache(tmp_path / "cache"), Counting({"key": content()})
    with cache.open(store, "key", location=PLACE) as reading:
        next(iter(reading))
    store.write("key", [content()[::-1]])
    assert read(cache, store)[:2] == ("miss", content()[::-1])
    assert store.starts == [0, 0]
    assert files(cache) == [".json", ".object"]


def test_a_store_that_breaks_leaves_what_came_for_the_next_one(tmp_path):
    calls = []

    def breaking(verb, _key):
        calls.append(verb)
        if calls.count("read") == 3:
            raise StoreUnavailable("gone")

    cache = BlobCache(tmp_path / "cache")
    with pytest.raises(StoreUnavailable):
        read(cache, Counting({"key": content()}, before=breaking))
    store = Counting({"key": content()})
    assert read(cache, store)[1] == content()
    assert store.starts == [128 << 10]


def test_objects_without_a_strong_etag_or_too_large_pass_by(tmp_path):
    store = Counting({"key": content()})
    cache = BlobCache(tmp_path / "cache", max_bytes=1000)
    assert read(cache, store)[:2] == ("off", content())
    assert files(cache) == []


def test_what_was_used_longest_ago_goes_first(tmp_path):
    cache = BlobCache(tmp_path / "cache", max_bytes=250_000)
    store = Counting({name: content(100_000) + name.encode() for name in "abc"})
    for name in "ab":
        read(cache, store, name, name)
    for path in cache.folder.glob("objects/*/*.object"):
        os.utime(path, (1, 1))
    assert read(cache, store, "a", "a")[0] == "hit"
    read(cache, store, "c", "c")
    assert [read(cache, store, name, name)[0] for name in "ac"] == ["hit", "hit"]
    assert read(cache, store, "b", "b")[0] == "miss"


def test_one_download_serves_readers_that_come_meanwhile(tmp_path):
    cache = BlobCache(tmp_path / "cache")
    store = Counting({"key": content()})
    found = []
    with cache.open(store, "key", location=PLACE) as reading:
        others = [threading.Thread(target=lambda: found.append(read(cache, store)[:2])) for _ in range(4)]
        for other in others:
            other.start()
        assert b"".join(reading) == content()
        assert found == []
    for other in others:
        other.join()
    assert found == [("hit", content())] * 4
    assert store.verbs.count("open") == 1


def test_who_waits_for_another_download_can_be_stopped(tmp_path):
    cache, store, cancel = BlobCache(tmp_path / "cache"), Counting({"key": content()}), Cancel()
    with cache.open(store, "key", location=PLACE):
        threading.Timer(0.2, cancel.cancel).start()
        with pytest.raises(Cancelled):
            read(cache, store, cancel=cancel)


def test_a_cache_that_cannot_be_written_costs_a_warning_and_no_byte(tmp_path, monkeypatch):
    def full(_descriptor, _buffer):
        raise OSError(28, "No space left on device")

    cache, store = BlobCache(tmp_path / "cache"), Counting({"key": content()})
    monkeypatch.setattr("artifacts.partial.write_all", full)
    status, got, reading = read(cache, store)
    assert (status, got) == ("miss", content())
    assert [warning["code"] for warning in reading.warnings] == ["not-cached"]
    assert files(cache) == []


def test_a_part_counts_as_far_as_its_journal_says(tmp_path):
    path = tmp_path / "part"
    part = PartialFile(path, etag='"1"', size_bytes=3 * SYNC_BYTES)
    part.write(bytes(SYNC_BYTES))
    part.write(b"not flushed")
    part.close()
    again = PartialFile(path, etag='"1"', size_bytes=3 * SYNC_BYTES)
    assert again.resumed_bytes == SYNC_BYTES
    assert path.stat().st_size == SYNC_BYTES
    again.close()
    other = PartialFile(path, etag='"2"', size_bytes=3 * SYNC_BYTES)
    assert other.resumed_bytes == 0
    other.close()


@pytest.mark.parametrize("journal", [b"", b"[]", b"{", b'{"offset": -1}', b'{"etag": "x", "offset": "1"}', b"\xff"])
def test_a_journal_that_makes_no_sense_counts_for_nothing(tmp_path, journal):
    (tmp_path / "part").write_bytes(b"x" * 100)
    (tmp_path / "part.journal").write_bytes(journal)
    part = PartialFile(tmp_path / "part", etag='"1"', size_bytes=100)
    assert part.resumed_bytes == 0
    part.close()


def test_a_hit_is_a_cached_reading(tmp_path):
    cache, store = BlobCache(tmp_path / "cache"), Counting({"key": content()})
    read(cache, store)
    with cache.open(store, "key", location=PLACE) as reading:
        assert isinstance(reading, CachedReading)
        assert (reading.meta.size_bytes, reading.pinned) == (len(content()), "etag")


def test_what_dead_processes_left_counts_and_goes(tmp_path):
    """A part that nobody fills is removed as the oldest object would be, its journal and its folder too."""
    cache, store = BlobCache(tmp_path / "cache", max_bytes=3_000_000), Counting({"a": content(), "b": content()})
    with cache.open(store, "a", location="a") as reading:
        next(iter(reading))
    assert files(cache) == [".journal", ".partial"]
    (partial,) = cache.folder.glob("objects/*/*.partial")
    os.truncate(partial, 1_500_000)
    read(cache, store, "b", "b")
    assert files(cache) == [".json", ".object"]
    assert len(list((cache.folder / "objects").iterdir())) == 1


def test_a_part_that_is_being_filled_stays(tmp_path):
    """However little room there is: the other object is the one that is not kept."""
    cache, store = BlobCache(tmp_path / "cache", max_bytes=3_000_000), Counting({"a": content(), "b": content()})
    with cache.open(store, "a", location="a") as reading:
        buffers = iter(reading)
        got = [next(buffers) for _ in range(20)]
        status, _, other = read(cache, store, "b", "b")
        assert (status, [warning["code"] for warning in other.warnings]) == ("miss", ["not-cached"])
        got += buffers
    assert b"".join(got) == content()
    assert read(cache, store, "a", "a")[0] == "hit"


def test_what_failed_to_unpack_or_verify_is_not_kept(tmp_path):
    """It may be the wire's doing, and would stay so for ever."""
    cache, store = BlobCache(tmp_path / "cache"), Counting({"key": content()})

    def unpack(count):
        with cache.open(store, "key", location=PLACE) as reading:
            list(itertools.islice(reading, count))
            raise CorruptArchive("as if")

    for count in (1, None):
        with pytest.raises(CorruptArchive):
            unpack(count)
        assert files(cache) == []


def test_a_folder_that_was_removed_while_it_was_waited_for_is_made_anew(tmp_path):
    """Whoever cleans up and whoever comes meet in any order, and every reader gets the object."""
    cache = BlobCache(tmp_path / "cache", max_bytes=2_500_000)
    store = Counting({"a": content(), "b": content()[::-1]})
    failures = []

    def work(key):
        wanted = content() if key == "a" else content()[::-1]
        failures.extend(key for _ in range(12) if read(cache, store, key, key)[1] != wanted)

    threads = [threading.Thread(target=work, args=(key,)) for key in "abab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_cache_whose_folder_is_gone_costs_the_download_nothing(tmp_path):
    cache, store = BlobCache(tmp_path / "cache"), Counting({"key": content()})
    shutil.rmtree(cache.folder)
    (tmp_path / "cache").write_bytes(b"")
    status, got, reading = read(cache, store)
    assert (status, got) == ("miss", content())
    assert reading.warnings == ({"code": "not-cached", "path": str(tmp_path / "cache")},)


def located(url):
    location = Location.parse(url)
    policy = Policy.for_caller(endpoints=["http://127.0.0.1:1"])
    return resolve(location, None, StoreOptions(), policy)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("s3+http://127.0.0.1:1/b/k", "s3+http://127.0.0.1:1/b/k", True),
        ("s3+http://127.0.0.1:1/b/k", "s3+http://127.0.0.1:1/c/k", False),
        ("s3+http://127.0.0.1:1/b/k", "s3+http://127.0.0.1:2/b/k", False),
        ("s3+http://127.0.0.1:1/b/k/l", "s3+http://127.0.0.1:1/b/k", False),
        ("https://h/k?X-Amz-Signature=1&x-amz-date=2", "https://h/k?X-Amz-Signature=3", True),
        ("https://h/k?sig=1&sv=2", "https://h/k", True),
        ("https://h/k?id=1&sig=1", "https://h/k?id=2&sig=1", False),
        ("https://127.0.0.1/k?id=1", "http://127.0.0.1/k?id=1", False),
    ],
)
def test_what_names_an_object(tmp_path, one, other, same):
    """Its server, bucket and key; of a query what chooses the object, and not what signs it."""
    cache = BlobCache(tmp_path / "cache")
    names = {cache.opener(located(url)).keywords["location"] for url in (one, other)}
    assert (len(names) == 1) is same
