"""The floor: pack a folder to tar or tar.gz and upload it. A proof of speed, not of safety.

usage: floor_upload.py BUCKET KEY FOLDER     (endpoint and keys from the environment)

Regular files and folders with names of up to 100 bytes only; no conditions, no checks, no digest.
"""

import os
import sys
from collections.abc import Iterable, Iterator
from operator import attrgetter

import obstore
from programs.stores import obstore_store

BLOCK_BYTES = 1 << 20


def header(name: str, size: int, mode: int, mtime: int, kind: bytes) -> bytes:
    head, encoded = bytearray(512), name.encode()
    head[: len(encoded)] = encoded
    head[100:124] = b"%07o\0%07o\0%07o\0" % (mode, 0, 0)
    head[124:148] = b"%011o\0%011o\0" % (size, mtime)
    head[148:157] = b" " * 8 + kind
    head[257:265] = b"ustar\x0000"
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head)


def pack(root: str) -> Iterator[bytes]:
    stack = [(root, "")]
    while stack:
        folder, relative = stack.pop()
        for entry in sorted(os.scandir(folder), key=attrgetter("name")):
            name = relative + entry.name
            if entry.is_dir(follow_symlinks=False):
                yield header(name + "/", 0, 0o755, 0, b"5")
                stack.append((entry.path, name + "/"))
                continue
            fd = os.open(entry.path, os.O_RDONLY | os.O_NOFOLLOW)
            found = os.fstat(fd)
            yield header(name, found.st_size, found.st_mode & 0o777, int(found.st_mtime), b"0")
            left = found.st_size
            while left:
                piece = os.read(fd, min(left, BLOCK_BYTES))
                left -= len(piece)
                yield piece
            os.close(fd)
            yield bytes(-found.st_size % 512)
    yield bytes(1024)


def blocks(pieces: Iterable[bytes]) -> Iterator[bytes]:
    held = bytearray()
    for piece in pieces:
        held += piece
        while len(held) >= BLOCK_BYTES:
            yield bytes(held[:BLOCK_BYTES])
            del held[:BLOCK_BYTES]
    if held:
        yield bytes(held)


def gzip(pieces: Iterable[bytes]) -> Iterator[bytes]:
    from isal import isal_zlib

    deflate = isal_zlib.compressobj(1, wbits=31)
    for piece in pieces:
        if out := deflate.compress(piece):
            yield out
    yield deflate.flush()


if __name__ == "__main__":
    bucket, key, root = sys.argv[1:]
    body = blocks(pack(root))
    if key.endswith("gz"):
        body = blocks(gzip(body))
    obstore.put(obstore_store(bucket), key, body, chunk_size=8 << 20, max_concurrency=4)
