"""The place that archives are unpacked into, checked after every test."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from trees import Place, open_descriptors


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """The place, checked afterwards: nothing outside it changed, nothing was left open, no thread runs."""
    place = Place(tmp_path)
    before = open_descriptors()
    threads = threading.active_count()
    yield place
    place.assert_outside_untouched()
    assert open_descriptors() <= before
    assert threading.active_count() <= threads
