"""Memory stays flat whatever is moved: 4 GiB that a server makes up as they are asked for, in processes of their own."""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

MIB = 1 << 20
_ZEROS = memoryview(bytes(8 * MIB))
_RANGE = re.compile(rb"\r\n[Rr]ange: bytes=(\d+)-(\d+)\r\n")

# Reads its objects side by side and prints how much memory that took at its peak, beyond what was there before, in
# bytes. The first object, a small one, loads the engine.
READ = """
import os, resource, sys, threading
from artifacts.objects import Access, get_stream
from creds.store import StoreOptions, Window

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10

url, *keys = sys.argv[1:]
access = Access(options=StoreOptions(window=Window()))
out = open(os.devnull, "wb")
get_stream(url + "/1", out, access=access)
before, counts = peak(), []
def read(key):
    counts.append(get_stream(url + "/" + key, out, access=access).object_bytes)
threads = [threading.Thread(target=read, args=(key,)) for key in keys]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(sum(counts), peak() - before)
"""


def _answer(connection: socket.socket) -> None:
    """Serve ``/bucket/SIZE``, an object of so many zeros, by range."""
    with connection, contextlib.suppress(ConnectionError):
        head = b""
        while received := connection.recv(65536):
            head += received
            if not head.endswith(b"\r\n\r\n"):
                continue
            size = int(head.split(b" ", 2)[1].rpartition(b"/")[2])
            found = _RANGE.search(head)
            assert found is not None
            start, end = int(found[1]), min(int(found[2]) + 1, size)
            head = b""
            connection.sendall(
                b"HTTP/1.1 206 Partial Content\r\nContent-Length: %d\r\nContent-Range: bytes %d-%d/%d\r\n"
                b'ETag: "%d"\r\nLast-Modified: Tue, 14 Nov 2023 22:13:20 GMT\r\n\r\n'
                % (end - start, start, end - 1, size, size)
            )
            while start < end:
                start += connection.send(_ZEROS[: end - start])


@pytest.fixture(scope="module")
def zeros() -> Iterator[str]:
    """The URL of a bucket whose objects are named by their size."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listening:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection = listening.accept()[0]
                    threading.Thread(target=_answer, args=(connection,), daemon=True).start()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield f"s3+http://127.0.0.1:{listening.getsockname()[1]}/bucket"
        listening.shutdown(socket.SHUT_RDWR)
    thread.join()


@pytest.mark.parametrize("sizes", [[4096], [256] * 8], ids=["one of 4 GiB", "eight of 256 MiB"])
def test_reading_stays_flat(zeros: str, sizes: list[int]) -> None:
    # The window of 96 MiB, a part in each reader's hands, and what the allocators keep: never what the objects hold.
    keys = [str(size * MIB) for size in sizes]
    done = subprocess.run([sys.executable, "-c", READ, zeros, *keys], capture_output=True, text=True, check=True)
    count, grown = map(int, done.stdout.split())
    assert count == sum(sizes) * MIB
    assert grown <= 256 * MIB
