"""Locks and slots that processes share."""

import subprocess
import sys
import threading
import time

import pytest

from artifacts.errors import DiskError
from artifacts.locks import FileLock, HostSlots
from creds.errors import Cancelled
from creds.store import Cancel

HOLD = """
import sys
from pathlib import Path
from artifacts.locks import FileLock
lock = FileLock(Path(sys.argv[1]))
print(lock.try_acquire(), flush=True)
sys.stdin.read()
"""


def test_what_another_process_holds_is_free_when_it_dies(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path / "lock"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout.readline() == "True\n"
        mine = FileLock(tmp_path / "lock")
        assert not mine.try_acquire()
        holder.kill()
        mine.acquire(Cancel())
        mine.close()
        mine.close()


def test_no_more_hold_a_slot_at_once_than_there_are(tmp_path):
    slots = [HostSlots(tmp_path / "slots", 3) for _ in range(2)]
    counting, held, most = threading.Lock(), [0], [0]
    meet = threading.Barrier(3)

    def work(number):
        with slots[number % 2].taken(Cancel()):
            with counting:
                held[0] += 1
                most[0] = max(most[0], held[0])
            meet.wait(20)
            with counting:
                held[0] -= 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [3]


def test_who_waits_for_a_slot_can_be_stopped(tmp_path):
    slots, cancel = HostSlots(tmp_path, 1), Cancel()
    with slots.taken(Cancel()):
        threading.Timer(0.2, cancel.cancel).start()
        with pytest.raises(Cancelled), slots.taken(cancel):
            pytest.fail("there was one slot only")


def test_a_link_in_a_locks_place_is_not_followed(tmp_path):
    (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DiskError):
        FileLock(tmp_path / "lock")
    assert not (tmp_path / "elsewhere").exists()


def test_a_long_wait_is_told_once(tmp_path, monkeypatch):
    monkeypatch.setattr("artifacts.locks.LONG_SECONDS", 0.0)
    slots, told, held = HostSlots(tmp_path, 1), [], threading.Event()

    def hold():
        with slots.taken(Cancel()):
            held.set()
            while not told:
                time.sleep(0.01)
            time.sleep(0.3)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(20)
    with slots.taken(Cancel(), lambda: told.append("waits")):
        assert told == ["waits"]
    holder.join()


def test_a_lock_that_was_removed_is_no_lock(tmp_path):
    lock = FileLock(tmp_path / "lock")
    lock.acquire(Cancel())
    assert lock.is_current()
    (tmp_path / "lock").unlink()
    assert not lock.is_current()
    other = FileLock(tmp_path / "lock")
    assert not lock.is_current()
    assert other.try_acquire()
    other.close()
    lock.close()
