"""Unpacking and packing alone, from memory to a RAM disk and back, beside GNU tar and the standard library.

usage: python benchmarks/archives.py [--folder /dev/shm] [--large 40] [--small 60000] [--rounds 3]

Every contender gets the same archive and an empty folder; the best of the rounds counts, contenders take turns. "floor"
is a loop that trusts the archive and checks nothing: what the security checks cost is the difference.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import io
import os
import queue
import random
import shutil
import subprocess
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from isal import isal_zlib

from artifacts.archive.formats import compress, in_thread
from artifacts.archive.pack import pack, scan
from artifacts.archive.unpack import unpack
from artifacts.limits import Budget

BUFFER_BYTES = 8 << 20


def buffers(archive: bytes) -> Iterator[memoryview]:
    view = memoryview(archive)
    for start in range(0, len(view), BUFFER_BYTES):
        yield view[start : start + BUFFER_BYTES]


def content(size: int, seed: int) -> bytes:
    """Half random, half text: compresses to about two thirds, as checkpoints and sources together do."""
    draw = random.Random(seed)
    words = [draw.randbytes(draw.randint(2, 8)).hex().encode() for _ in range(500)]
    text = b" ".join(draw.choices(words, k=max(1, size // 22)))
    return (draw.randbytes(size // 2) + text * (1 + size // (2 * max(1, len(text)))))[:size]


def make(root: Path, files: int, size: int, per_folder: int) -> None:
    pool = [content(size, seed) for seed in range(min(files, 16))]
    for number in range(files):
        folder = root / f"folder-{number // per_folder:04}"
        folder.mkdir(exist_ok=True)
        (folder / f"file-{number:06}.bin").write_bytes(pool[number % len(pool)])


class Floor:
    """The loop that trusts the archive."""

    def __init__(self, source: Iterator[memoryview]) -> None:
        self.source, self.current = source, memoryview(b"")

    def take(self, count: int) -> memoryview:
        if not len(self.current):
            self.current = next(self.source, memoryview(b""))
        chunk, self.current = self.current[:count], self.current[count:]
        return chunk

    def exact(self, count: int) -> bytes:
        parts = []
        while count and len(chunk := self.take(count)):
            parts.append(chunk)
            count -= len(chunk)
        return bytes(parts[0]) if len(parts) == 1 else b"".join(parts)

    def untar(self, into: Path) -> None:
        folders = {"": os.open(into, os.O_DIRECTORY | os.O_RDONLY)}

        def folder(path: str) -> int:
            if (fd := folders.get(path)) is None:
                parent, _, name = path.rpartition("/")
                at = folder(parent)
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, 0o755, dir_fd=at)
                fd = folders[path] = os.open(name, os.O_DIRECTORY | os.O_RDONLY | os.O_NOFOLLOW, dir_fd=at)
            return fd

        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        while (h := self.exact(512)) and h[0]:
            name = h[:100].rstrip(b"\0").decode().removeprefix("./")
            size, mode, mtime = int(h[124:135], 8), int(h[100:107], 8), int(h[136:147], 8)
            if h[156:157] == b"5":
                folder(name.rstrip("/"))
                continue
            parent, _, base = name.rpartition("/")
            fd, left = os.open(base, flags, mode & 0o777, dir_fd=folder(parent)), size
            while left:
                left -= os.write(fd, self.take(left))
            os.utime(fd, (mtime, mtime))
            os.close(fd)
            self.exact(-size % 512)
        while len(self.take(1 << 20)):
            pass
        for fd in folders.values():
            os.close(fd)


def inflated(source: Iterator[memoryview]) -> Iterator[memoryview]:
    ready: queue.Queue[memoryview | None] = queue.Queue(4)

    def run() -> None:
        inflate = isal_zlib.decompressobj(31)
        for buffer in source:
            for start in range(0, len(buffer), 1 << 20):
                ready.put(memoryview(inflate.decompress(buffer[start : start + (1 << 20)])))
        ready.put(None)

    threading.Thread(target=run, daemon=True).start()
    while (item := ready.get()) is not None:
        if len(item):
            yield item


def ours(archive: bytes, into: Path) -> None:
    descriptor = os.open(into, os.O_DIRECTORY)
    try:
        unpack(buffers(archive), descriptor, name="a", budget=Budget(), object_bytes=len(archive))
    finally:
        os.close(descriptor)


def floor(archive: bytes, into: Path) -> None:
    source = buffers(archive)
    Floor(inflated(source) if archive[:2] == b"\x1f\x8b" else source).untar(into)


def gnu_tar(archive: bytes, into: Path) -> None:
    command = ["tar", "xzf" if archive[:2] == b"\x1f\x8b" else "xf", "-", "-C", str(into)]
    subprocess.run(command, input=archive, check=True)


def extractall(archive: bytes, into: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(into, filter="data")


def drain(stream: Iterator[object]) -> int:
    return sum(len(piece) for piece in stream)  # type: ignore[arg-type]


def pack_ours(root: Path, packed: str | None) -> None:
    descriptor = os.open(root, os.O_DIRECTORY)
    try:
        with in_thread(pack(scan(descriptor))) as plain:
            drain(compress(plain, "gzip") if packed else plain)
    finally:
        os.close(descriptor)


def pack_ours_unthreaded(root: Path, packed: str | None) -> None:
    descriptor = os.open(root, os.O_DIRECTORY)
    try:
        plain = pack(scan(descriptor))
        drain(compress(plain, "gzip") if packed else plain)
    finally:
        os.close(descriptor)


def floor_header(name: str, size: int, mode: int, mtime: int, kind: bytes) -> bytes:
    h = bytearray(512)
    n = name.encode()
    h[: len(n)] = n
    h[100:124] = b"%07o\0%07o\0%07o\0" % (mode, 0, 0)
    h[124:148] = b"%011o\0%011o\0" % (size, mtime)
    h[148:157] = b" " * 8 + kind
    h[257:265] = b"ustar\x0000"
    h[148:156] = b"%06o\0 " % sum(h)
    return bytes(h)


def floor_pack(root: Path) -> Iterator[bytes]:
    stack = [(str(root), "")]
    while stack:
        folder, relative = stack.pop()
        for e in sorted(os.scandir(folder), key=lambda e: e.name):
            name = relative + e.name
            if e.is_dir(follow_symlinks=False):
                yield floor_header(name + "/", 0, 0o755, 0, b"5")
                stack.append((e.path, name + "/"))
                continue
            fd = os.open(e.path, os.O_RDONLY | os.O_NOFOLLOW)
            s = os.fstat(fd)
            yield floor_header(name, s.st_size, s.st_mode & 0o777, int(s.st_mtime), b"0")
            left = s.st_size
            while left:
                piece = os.read(fd, min(left, 1 << 20))
                left -= len(piece)
                yield piece
            os.close(fd)
            yield bytes(-s.st_size % 512)
    yield bytes(1024)


def floor_blocks(pieces: Iterator[bytes], size: int) -> Iterator[bytes]:
    held = bytearray()
    for piece in pieces:
        held += piece
        while len(held) >= size:
            yield bytes(held[:size])
            del held[:size]
    if held:
        yield bytes(held)


def pack_floor(root: Path, packed: str | None) -> None:
    body = floor_blocks(floor_pack(root), 1 << 20)
    if packed:
        deflate = isal_zlib.compressobj(1, wbits=31)
        for piece in body:
            deflate.compress(piece)
        deflate.flush()
    else:
        drain(body)


def pack_gnu_tar(root: Path, packed: str | None) -> None:
    # Through a pipe: tar does not read the files when it sees that /dev/null is written.
    line = 'tar c -C "$0" . | gzip -1 | cat >/dev/null' if packed else 'tar c -C "$0" . | cat >/dev/null'
    subprocess.run(["sh", "-c", line, str(root)], check=True)


def pack_tarfile(root: Path, packed: str | None) -> None:
    class Count(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, piece: object) -> int:
            return len(piece)  # type: ignore[arg-type]

    sink = io.BufferedWriter(Count(), 1 << 20)
    if packed:
        with (
            gzip.GzipFile(fileobj=sink, mode="wb", compresslevel=1) as file,
            tarfile.open(fileobj=file, mode="w") as tar,
        ):
            tar.add(root, arcname=".")
    else:
        with tarfile.open(fileobj=sink, mode="w|") as tar:
            tar.add(root, arcname=".")


def timed(work: Callable[..., None], *given: object) -> float:
    start = time.perf_counter()
    work(*given)
    return time.perf_counter() - start


def table(title: str, rows: dict[str, dict[str, float]], floor_name: str) -> None:
    names = list(next(iter(rows.values())))
    print(f"\n| {title} | " + " | ".join(names) + f" | ours / {floor_name} |")
    print("| --- |" + " --- |" * (len(names) + 1))
    for row, times in rows.items():
        cells = " | ".join(f"{seconds:.2f} s" for seconds in times.values())
        print(f"| {row} | {cells} | {times['ours'] / times[floor_name]:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", default="/dev/shm")
    parser.add_argument("--large", type=int, default=40, help="files of 40 MiB")
    parser.add_argument("--small", type=int, default=60_000, help="files of 4 KiB")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    unpacked: dict[str, dict[str, float]] = {}
    packed: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(dir=options.folder) as work:
        for kind, files, size in (("large files", options.large, 40 << 20), ("many files", options.small, 4 << 10)):
            root = Path(work, "source")
            root.mkdir()
            make(root, files, size, 500)
            for suffix in ("tar", "gzip"):
                descriptor = os.open(root, os.O_DIRECTORY)
                plain = pack(scan(descriptor))
                archive = b"".join(compress(plain, "gzip") if suffix == "gzip" else plain)
                os.close(descriptor)
                contenders = {"ours": ours, "floor": floor, "tar x": gnu_tar, "extractall": extractall}
                best = unpacked[f"{kind}, {suffix}"] = dict.fromkeys(contenders, float("inf"))
                for _ in range(options.rounds):
                    for name, contender in contenders.items():
                        into = Path(work, "into")
                        into.mkdir()
                        best[name] = min(best[name], timed(contender, archive, into))
                        shutil.rmtree(into)
                del archive
                packers = {
                    "ours": pack_ours_unthreaded,
                    "ours, in a thread": pack_ours,
                    "floor": pack_floor,
                    "tar c": pack_gnu_tar,
                    "tarfile": pack_tarfile,
                }
                best = packed[f"{kind}, {suffix}"] = dict.fromkeys(packers, float("inf"))
                for _ in range(options.rounds):
                    for name, packer in packers.items():
                        ask = "gzip" if suffix == "gzip" else None
                        best[name] = min(best[name], timed(packer, root, ask))
            shutil.rmtree(root)
    table("unpack", unpacked, "floor")
    table("pack", packed, "floor")


if __name__ == "__main__":
    main()
