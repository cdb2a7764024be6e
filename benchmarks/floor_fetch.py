"""The floor: fetch and unpack a tar or tar.gz from S3 with as little as possible. A proof of speed, not of safety.

usage: floor_fetch.py BUCKET KEY FOLDER     (FOLDER must not exist; endpoint and keys from the environment)

Trusts the archive, knows short names only, checks nothing: what the real code takes more is what its checks cost.
"""

import collections
import concurrent.futures
import contextlib
import os
import queue
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import obstore
from programs.stores import obstore_store

PART_BYTES, AHEAD = 8 << 20, 4
Next = Callable[[], memoryview]
"""Gives the next buffer, an empty one at the end."""


class Reader:
    """Takes buffers apart: ``take`` gives at most so many bytes without a copy, ``exact`` exactly so many."""

    def __init__(self, following: Next) -> None:
        self.following, self.current = following, memoryview(b"")

    def take(self, count: int) -> memoryview:
        if not len(self.current):
            self.current = self.following()
        piece, self.current = self.current[:count], self.current[count:]
        return piece

    def exact(self, count: int) -> bytes:
        pieces = []
        while count and len(piece := self.take(count)):
            pieces.append(piece)
            count -= len(piece)
        return bytes(pieces[0]) if len(pieces) == 1 else b"".join(pieces)


def ranges(bucket: str, key: str) -> Next:
    """Four ranges ahead, in order."""
    store = obstore_store(bucket)
    size = obstore.head(store, key)["size"]
    pool, ahead = concurrent.futures.ThreadPoolExecutor(AHEAD), collections.deque()
    starts = iter(range(0, size, PART_BYTES))

    def ask() -> None:
        if (start := next(starts, None)) is not None:
            length = min(PART_BYTES, size - start)
            ahead.append(pool.submit(obstore.get_range, store, key, start=start, length=length))

    def following() -> memoryview:
        if not ahead:
            return memoryview(b"")
        ready = memoryview(ahead.popleft().result())
        ask()
        return ready

    for _ in range(AHEAD):
        ask()
    return following


def gunzip(source: Reader) -> Next:
    """Inflates in a thread of its own."""
    from isal import isal_zlib

    ready: queue.Queue[memoryview] = queue.Queue(4)

    def run() -> None:
        inflate = isal_zlib.decompressobj(31)
        while len(piece := source.take(1 << 20)):
            if out := inflate.decompress(piece):
                ready.put(memoryview(out))
        ready.put(memoryview(b""))

    threading.Thread(target=run, daemon=True).start()
    return ready.get


def untar(source: Reader, into: str) -> None:
    Path(into).mkdir()
    folders = {"": os.open(into, os.O_DIRECTORY | os.O_RDONLY)}
    folders["."] = folders[""]

    def folder(path: str) -> int:
        if (fd := folders.get(path)) is None:
            parent, _, name = path.rpartition("/")
            at = folder(parent)
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o755, dir_fd=at)
            fd = folders[path] = os.open(name, os.O_DIRECTORY | os.O_RDONLY | os.O_NOFOLLOW, dir_fd=at)
        return fd

    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    while (head := source.exact(512)) and head[0]:
        name = head[:100].rstrip(b"\0").decode().removeprefix("./")
        size, mode, mtime = int(head[124:135], 8), int(head[100:107], 8), int(head[136:147], 8)
        if head[156:157] == b"5":
            folder(name.rstrip("/"))
            continue
        parent, _, base = name.rpartition("/")
        fd, left = os.open(base, flags, mode & 0o777, dir_fd=folder(parent)), size
        while left:
            left -= os.write(fd, source.take(left))
        os.utime(fd, (mtime, mtime))
        os.close(fd)
        source.exact(-size % 512)
    while len(source.take(1 << 20)):
        pass


if __name__ == "__main__":
    bucket, key, into = sys.argv[1:]
    source = Reader(ranges(bucket, key))
    untar(Reader(gunzip(source)) if key.endswith("gz") else source, into)
