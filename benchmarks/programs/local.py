"""Unpacks and packs without a network, by this project or by the standard library.

usage: local.py artifacts|tarfile unpack ARCHIVE FOLDER     FOLDER must exist and be empty
       local.py artifacts|tarfile pack FOLDER tar|gz        what is packed goes nowhere
"""

import gzip
import os
import sys
import tarfile
from contextlib import nullcontext
from pathlib import Path

BUFFER_BYTES = 8 << 20


def unpack(archive, folder):
    from artifacts.archive.unpack import unpack
    from artifacts.limits import Budget

    descriptor = os.open(folder, os.O_DIRECTORY)
    with Path(archive).open("rb", buffering=0) as file:
        buffers = iter(lambda: file.read(BUFFER_BYTES), b"")
        size = os.fstat(file.fileno()).st_size
        unpack(buffers, descriptor, name=Path(archive).name, budget=Budget(), object_bytes=size)
    os.close(descriptor)


def unpack_by_tarfile(archive, folder):
    with tarfile.open(archive, mode="r|*", bufsize=1 << 20) as tar:
        tar.extractall(folder, filter="data")


def pack(folder, kind):
    from artifacts.archive.formats import compress, in_thread
    from artifacts.archive.pack import pack, scan

    descriptor = os.open(folder, os.O_DIRECTORY)
    with in_thread(pack(scan(descriptor))) as plain:
        for _ in compress(plain, "gzip") if kind == "gz" else plain:
            pass
    os.close(descriptor)


def pack_by_tarfile(folder, kind):
    with (
        Path(os.devnull).open("wb") as out,
        gzip.GzipFile(fileobj=out, mode="wb", compresslevel=6) if kind == "gz" else nullcontext(out) as body,
        tarfile.open(fileobj=body, mode="w|", bufsize=1 << 20) as tar,
    ):
        tar.add(folder, arcname=".")


WORKS = {
    ("artifacts", "unpack"): unpack,
    ("tarfile", "unpack"): unpack_by_tarfile,
    ("artifacts", "pack"): pack,
    ("tarfile", "pack"): pack_by_tarfile,
}


if __name__ == "__main__":
    WORKS[sys.argv[1], sys.argv[2]](*sys.argv[3:])
