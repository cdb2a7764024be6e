"""The place that archives are unpacked into, checked after every test."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from trees import Place


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """The place, checked afterwards: nothing outside it changed, nothing was left open, no thread runs."""
    place = Place(tmp_path)
    before = set(os.listdir("/proc/self/fd"))
    threads = threading.active_count()
    yield place
    place.assert_outside_untouched()
    assert set(os.listdir("/proc/self/fd")) <= before
    assert threading.active_count() <= threads
