"""One work done by one Python library, as a careful user of it would.

usage: peer.py LIBRARY unpack BUCKET KEY FOLDER     stream the archive through the standard library's tarfile
       peer.py LIBRARY file BUCKET KEY FILE         fetch one object
       peer.py LIBRARY objects BUCKET LIST FOLDER   fetch the keys in the file LIST, eight at a time
       peer.py LIBRARY prefix BUCKET PREFIX FOLDER  list what is under PREFIX, and fetch it likewise
       peer.py LIBRARY put BUCKET KEY FOLDER        pack through tarfile, and upload while packing

LIBRARY is boto3, minio, obstore or s3fs. Endpoint and keys come from the environment.
"""

import gzip
import os
import sys
import tarfile
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from programs import stores

PART_BYTES = 8 << 20


def each(work, keys):
    with ThreadPoolExecutor(stores.THREADS) as pool:
        for _ in pool.map(work, keys):
            pass


class Boto3:
    def __init__(self, bucket):
        self.bucket, self.client = bucket, stores.boto3_client()

    def stream(self, key):
        return self.client.get_object(Bucket=self.bucket, Key=key)["Body"]

    def file(self, key, path):
        self.client.download_file(self.bucket, key, path)

    def objects(self, keys, folder):
        def one(key):
            body = self.client.get_object(Bucket=self.bucket, Key=key)["Body"]
            Path(folder, key.rpartition("/")[2]).write_bytes(body.read())

        each(one, keys)

    def listed(self, prefix):
        for page in self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix):
            yield from (found["Key"] for found in page["Contents"])

    def put(self, key, stream):
        self.client.upload_fileobj(stream, self.bucket, key)


class Minio:
    def __init__(self, bucket):
        self.bucket, self.client = bucket, stores.minio_client()

    def stream(self, key):
        return self.client.get_object(self.bucket, key)

    def file(self, key, path):
        self.client.fget_object(self.bucket, key, path)

    def objects(self, keys, folder):
        each(lambda key: self.client.fget_object(self.bucket, key, str(Path(folder, key.rpartition("/")[2]))), keys)

    def listed(self, prefix):
        return (found.object_name for found in self.client.list_objects(self.bucket, prefix, recursive=True))

    def put(self, key, stream):
        self.client.put_object(self.bucket, key, stream, length=-1, part_size=PART_BYTES)


class OnlyBytes:
    """obstore reads into a type of its own, in which tarfile cannot look for magic."""

    def __init__(self, file):
        self.file = file

    def read(self, count):
        return bytes(self.file.read(count))


class Obstore:
    def __init__(self, bucket):
        import obstore

        self.obstore, self.store = obstore, stores.obstore_store(bucket)

    def stream(self, key):
        return OnlyBytes(self.obstore.open_reader(self.store, key, buffer_size=PART_BYTES))

    def file(self, key, path):
        size = self.obstore.head(self.store, key)["size"]
        fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)

        def part(start):
            piece = memoryview(
                self.obstore.get_range(self.store, key, start=start, length=min(PART_BYTES, size - start))
            )
            while piece:
                written = os.pwrite(fd, piece, start)
                piece, start = piece[written:], start + written

        with ThreadPoolExecutor(4) as pool:
            for _ in pool.map(part, range(0, size, PART_BYTES)):
                pass
        os.close(fd)

    def objects(self, keys, folder):
        def one(key):
            Path(folder, key.rpartition("/")[2]).write_bytes(self.obstore.get(self.store, key).bytes())

        each(one, keys)

    def listed(self, prefix):
        for page in self.obstore.list(self.store, prefix):
            yield from (found["path"] for found in page)

    def put(self, key, stream):
        self.obstore.put(self.store, key, iter(lambda: stream.read(1 << 20), b""), chunk_size=PART_BYTES)


class S3fs:
    def __init__(self, bucket):
        self.bucket, self.system = bucket, stores.s3fs_system()

    def stream(self, key):
        return self.system.open(f"{self.bucket}/{key}", block_size=PART_BYTES, cache_type="readahead")

    def file(self, key, path):
        self.system.get_file(f"{self.bucket}/{key}", path)

    def objects(self, keys, folder):
        names = [str(Path(folder, key.rpartition("/")[2])) for key in keys]
        self.system.get([f"{self.bucket}/{key}" for key in keys], names)

    def listed(self, prefix):
        return [name.removeprefix(f"{self.bucket}/") for name in self.system.find(f"{self.bucket}/{prefix}")]

    def put(self, key, stream):
        with self.system.open(f"{self.bucket}/{key}", "wb", block_size=PART_BYTES) as out:
            while piece := stream.read(1 << 20):
                out.write(piece)


LIBRARIES = {"boto3": Boto3, "minio": Minio, "obstore": Obstore, "s3fs": S3fs}


def unpack(stream, key, folder):
    if key.endswith(".zst"):
        import zstandard

        stream = zstandard.ZstdDecompressor().stream_reader(stream, read_across_frames=True)
    with tarfile.open(fileobj=stream, mode="r|" if key.endswith(".zst") else "r|*", bufsize=1 << 20) as tar:
        tar.extractall(folder, filter="data")


def pack_into(library, key, folder):
    """tarfile writes into a pipe, the library reads from it."""
    reading, writing = os.pipe()

    def pack():
        with (
            os.fdopen(writing, "wb") as out,
            # tarfile's own gzip streams at level 9 only; 6 is what the gzip program uses.
            gzip.GzipFile(fileobj=out, mode="wb", compresslevel=6) if key.endswith("gz") else nullcontext(out) as body,
            tarfile.open(fileobj=body, mode="w|", bufsize=1 << 20) as tar,
        ):
            tar.add(folder, arcname=".")

    packing = threading.Thread(target=pack)
    packing.start()
    with os.fdopen(reading, "rb", 1 << 20) as stream:
        library.put(key, stream)
    packing.join()


def main():
    name, work, bucket, key, target = sys.argv[1:]
    library = LIBRARIES[name](bucket)
    if work == "unpack":
        unpack(library.stream(key), key, target)
    elif work == "file":
        library.file(key, target)
    elif work == "objects":
        library.objects(Path(key).read_text().split(), target)
    elif work == "prefix":
        library.objects(library.listed(key), target)
    else:
        pack_into(library, key, target)


if __name__ == "__main__":
    main()
