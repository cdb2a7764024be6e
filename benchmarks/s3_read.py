"""S3Store beside its engines used bare, against one SeaweedFS: large reads, small reads, uploads.

usage: python benchmarks/s3_read.py [MIB]      (MIB of the large object, 512 unless said)

Every run is a process of its own, imports included; the fastest of three is shown with its CPU seconds.
"""

from __future__ import annotations

import concurrent.futures
import os
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import servers

SMALL, SMALL_BYTES, UPLOAD_MIB, RUNS = 2000, 65536, 256, 3
PART = 8 << 20
WORK = ("read", "read small", "write")
ENGINES = ("S3Store", "obstore", "boto3")


def store(url: str):
    from creds.keys import AwsKeys
    from creds.store import StoreOptions
    from creds.stores.s3 import S3Store

    keys = AwsKeys(access_key=servers.ADMIN.access_key, secret_key=servers.ADMIN.secret_key)
    return S3Store(
        "data",
        endpoint_url=url,
        region="us-east-1",
        provider=lambda: keys,
        options=StoreOptions(),
        on_aws=False,
        addressing="path",
        checksums=False,
    )


def ours(work: str, url: str, size: int) -> None:
    s3 = store(url)

    def length(key: str) -> int:
        with s3.open(key) as reading:
            return sum(map(len, reading))

    if work == "read":
        assert length("large") == size
    elif work == "read small":
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(length, small_keys())) == SMALL * SMALL_BYTES
    else:
        s3.write("upload", upload())
    s3.close()


def obstore(work: str, url: str, size: int) -> None:
    import obstore
    from obstore.store import S3Store

    s3 = S3Store(
        "data",
        endpoint=url,
        region="us-east-1",
        access_key_id=servers.ADMIN.access_key,
        secret_access_key=servers.ADMIN.secret_key,
        client_options={"allow_http": True},
    )

    def part(start: int) -> int:
        return len(obstore.get_range(s3, "large", start=start, length=min(PART, size - start)))

    if work == "read":
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            assert sum(pool.map(part, range(0, size, PART))) == size
    elif work == "read small":
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            lengths = pool.map(lambda key: len(obstore.get(s3, key).bytes()), small_keys())
            assert sum(lengths) == SMALL * SMALL_BYTES
    else:
        obstore.put(s3, "upload", upload(), chunk_size=PART, max_concurrency=4)


def boto3(work: str, url: str, size: int) -> None:
    client = servers.S3Server(url, servers.ADMIN).client()

    def length(key: str) -> int:
        body = client.get_object(Bucket="data", Key=key)["Body"]
        return sum(map(len, iter(lambda: body.read(1 << 20), b"")))

    if work == "read":
        assert length("large") == size
    elif work == "read small":
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(length, small_keys())) == SMALL * SMALL_BYTES
    else:
        from boto3.s3.transfer import TransferConfig

        class Source:
            """A file made of the buffers."""

            def __init__(self) -> None:
                self.buffers, self.rest = upload(), b""

            def read(self, count: int) -> bytes:
                while len(self.rest) < count and (more := next(self.buffers, b"")):
                    self.rest += more
                taken, self.rest = self.rest[:count], self.rest[count:]
                return taken

        config = TransferConfig(multipart_chunksize=PART, max_concurrency=4)
        client.upload_fileobj(Source(), "data", "upload", Config=config)


def small_keys() -> list[str]:
    return [f"small/{number:04d}" for number in range(SMALL)]


def upload():
    buffer = os.urandom(1 << 20)
    return (buffer for _ in range(UPLOAD_MIB))


def main() -> None:
    if len(sys.argv) == 5:
        engine, work, url, size = sys.argv[1:]
        {"S3Store": ours, "obstore": obstore, "boto3": boto3}[engine](work, url, int(size))
        return
    mib = int(sys.argv[1]) if len(sys.argv) > 1 else 512
    with servers.seaweedfs() as server:
        s3 = store(server.endpoint_url)
        buffer = os.urandom(1 << 20)
        s3.write("large", (buffer for _ in range(mib)))
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda key: s3.write(key, [buffer[:SMALL_BYTES]]), small_keys()))
        s3.close()
        print(f"read: {mib} MiB; read small: {SMALL} x {SMALL_BYTES} bytes, 8 threads; write: {UPLOAD_MIB} MiB")
        print("| work |" + "".join(f" {engine} |" for engine in ENGINES))
        print("| --- |" + " --- |" * len(ENGINES))
        for work in WORK:
            best: dict[str, tuple[float, float]] = {}
            for _ in range(RUNS):
                for engine in ENGINES:
                    before, begun = os.times(), time.perf_counter()
                    command = [sys.executable, __file__, engine, work, server.endpoint_url, str(mib << 20)]
                    subprocess.run(command, check=True)
                    after = os.times()
                    cpu = after.children_user + after.children_system - before.children_user - before.children_system
                    best[engine] = min(best.get(engine, (1e9, 0.0)), (time.perf_counter() - begun, cpu))
            cells = "".join(f" {wall:.2f} s ({cpu:.2f}) |" for wall, cpu in (best[engine] for engine in ENGINES))
            print(f"| {work} |{cells}")


if __name__ == "__main__":
    main()
