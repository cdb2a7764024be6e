"""The cache, the host's transfers and verification as a user meets them: whole commands against a real server."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import commands
import pytest
import servers
from commands import Bench, finish, run, start, tar

from artifacts import Access, How, IntegrityError, PrefixError, get, get_prefix
from artifacts.objects import get_stream
from creds import AWSCredential, Credentials
from creds.testing import Fault, FaultProxy

CONTENT = tar({"a": os.urandom(1 << 20), "b": b"x"})


@pytest.fixture
def bench(seaweed: servers.S3Server, bucket: str, tmp_path: Path) -> Bench:
    return Bench(seaweed, bucket, tmp_path)


@pytest.fixture
def proxy(seaweed: servers.S3Server) -> Iterator[FaultProxy]:
    with FaultProxy(seaweed.address) as proxy:
        yield proxy


@pytest.fixture
def through(bench: Bench, proxy: FaultProxy) -> Bench:
    """The same bucket, by a proxy that counts."""
    return bench.through(proxy.url)


@pytest.fixture
def keys(tmp_path: Path) -> tuple[str | Path, ...]:
    """The options of commands on single objects: whose keys."""
    path = tmp_path / "keys.json"
    path.write_text(json.dumps(commands.credentials(servers.ADMIN)))
    return "--credentials", path


def configured(bench: Bench, text: str) -> tuple[str, str]:
    path = bench.folder / "artifacts.toml"
    path.write_text(f"version = 1\n{text}")
    return "--config", str(path)


def damage(cache: Path) -> None:
    (held,) = cache.glob("objects/*/*.object")
    content = bytearray(held.read_bytes())
    content[len(content) // 2] ^= 1
    held.write_bytes(content)


# The cache.


def test_a_second_folder_is_staged_without_a_get(through, proxy):
    """The first fetch is a miss and not verified, the second a hit, held to the digest that the first one took."""
    through.put("in.tar", CONTENT)
    request = through.request({"data": through.artifact("in.tar")})
    cache = ("--cache", str(through.folder / "cache"), "--json")
    first = through.stage(request, *cache).receipts["data"]
    gets = proxy.count("^GET")
    other = Bench(through.server, through.bucket, through.folder / "other", through.url)
    second = other.stage(request, *cache).receipts["data"]
    assert proxy.count("^GET") == gets == 1
    digest = hashlib.sha256(CONTENT).hexdigest()
    told = ("status", "cache", "verified", "sha256")
    assert [first[key] for key in told] == ["done", "miss", "none", digest]
    assert [second[key] for key in told] == ["done", "hit", "sha256", digest]
    assert commands.tree(other.job / "data") == commands.tree(through.job / "data")


def test_six_processes_fetch_each_object_once(through, proxy):
    """They start together, in folders of their own, and there is one GET an object."""
    labels = [f"in{number}" for number in range(3)]
    for label in labels:
        through.put(f"{label}.tar", CONTENT + label.encode() * 512)
    request = through.request({label: through.artifact(f"{label}.tar") for label in labels})
    proxy.add(Fault(match="^GET", times=3, delay_seconds=1.0))
    common = ("--cache", str(through.folder / "cache"), "--endpoint", through.url, "--json")
    staging = [start("stage", request, "--into", through.folder / f"job{number}", *common) for number in range(6)]
    results = [finish(process) for process in staging]
    assert [result.code for result in results] == [0] * 6
    for label in labels:
        assert proxy.count(f"^GET .*/{label}.tar") == 1
        assert sorted(result.receipts[label]["cache"] for result in results) == ["hit"] * 5 + ["miss"]


def test_what_is_mutable_is_not_kept(through):
    """It is about to change; the receipt says off."""
    through.put("in.tar", CONTENT)
    request = through.request({"data": through.artifact("in.tar", mutable=True)})
    result = through.stage(request, "--cache", str(through.folder / "cache"), "--json")
    assert result.receipts["data"]["cache"] == "off"
    assert list((through.folder / "cache/objects").iterdir()) == []


def test_a_damaged_copy_is_a_reason_to_run_again(bench):
    """Exit 75, nothing staged, and the next run fetches it anew; also where it is the archive that cannot be read."""
    request = bench.request({"data": bench.artifact("in.tar.gz")})
    bench.put("in.tar.gz", tar({"a": os.urandom(1 << 20)}, "w:gz"))
    cache = ("--cache", str(bench.folder / "cache"), "--json")
    assert bench.stage(request, *cache).code == 0
    damage(bench.folder / "cache")
    other = Bench(bench.server, bench.bucket, bench.folder / "other")
    result = other.stage(request, *cache)
    assert (result.code, commands.labels(other.job)) == (75, [])
    assert "the cache's copy of in.tar.gz was damaged, and is removed" in result.error("data")["message"]
    assert other.stage(request, *cache).receipts["data"]["cache"] == "miss"


def test_the_file_says_where_and_how_much(bench):
    """[cache] dir is relative to the file; --no-cache comes before it; without room a warning says so."""
    bench.put("in.tar", CONTENT)
    request = bench.request({"data": bench.artifact("in.tar")})
    file = configured(bench, '[cache]\ndir = "kept"\n')
    assert bench.stage(request, *file, "--json", "--no-cache").receipts["data"]["cache"] == "off"
    assert bench.stage(request, *file, "--json", "--fresh").receipts["data"]["cache"] == "miss"
    assert bench.stage(request, *file, "--json", "--fresh").receipts["data"]["cache"] == "hit"
    assert len(list((bench.folder / "kept/objects").iterdir())) == 1
    full = configured(bench, '[cache]\ndir = "other"\nkeep_free = "900000TB"\n')
    receipt = bench.stage(request, *full, "--json", "--fresh").receipts["data"]
    assert (receipt["status"], receipt["cache"]) == ("done", "miss")
    assert receipt["warnings"] == [{"code": "not-cached", "path": str(bench.folder / "other")}]


def test_what_the_settings_are(bench):
    """`config show` has the cache, the host and who said them."""
    file = configured(
        bench, '[cache]\ndir = "kept"\n[host]\ntransfers = 3\n[network]\nmax_rate = "7MB"\ndeadline = "2m"\n'
    )
    rows = [
        line.split("\t") for line in run("config", "show", "--origin", *file, "--cache-max", "1GiB").out.splitlines()
    ]
    found = {name: (value, origin) for name, value, origin in rows}
    assert found["cache.dir"] == (str(bench.folder / "kept"), "file, line 3")
    assert found["cache.max_bytes"] == (str(1 << 30), "command line")
    assert found["cache.keep_free"] == ("0", "default")
    assert found["host.transfers"] == ("3", "file, line 5")
    assert found["network.max_rate"] == ("7000000", "file, line 7")
    assert found["network.deadline"] == ("120", "file, line 8")
    assert found["network.connections"] == ("4", "default")


def test_check_tells_rate_and_deadline(bench):
    """`check --json` prints them among the settings."""
    request = bench.request({})
    file = configured(bench, "[network]\nmax_rate = 5000\ndeadline = 60\n")
    (settings,) = [
        line["settings"] for line in run("check", request, *file, "--json").lines if line["type"] == "settings"
    ]
    assert (settings["network.max_rate"], settings["network.deadline"]) == (5000, 60.0)


def test_a_deadline_of_the_file_ends_the_work(through, proxy):
    """As --deadline does: exit 8, and nothing is there."""
    through.put("in.tar", CONTENT)
    proxy.add(Fault(match="^GET", times=100, delay_seconds=30))
    request = through.request({"data": through.artifact("in.tar")})
    result = through.stage(request, *configured(through, '[network]\ndeadline = "1s"\n'))
    assert (result.code, result.said) == (8, ["error: the deadline of 1 s is over"])
    assert commands.labels(through.job) == []


def test_objects_and_prefixes_use_it_too(through, proxy, keys, tmp_path):
    """`get` of a file, an archive, standard output and a prefix take from the cache what another put there."""
    for name in ("in.tar", "below"):
        through.put(f"p/{name}", CONTENT)
    common = ("--cache", tmp_path / "cache", "--endpoint", through.url, *keys)
    assert run("get", through.place("p/"), tmp_path / "all", *common, "--json").summary["done"] == 2
    assert proxy.count("^GET .*/p/in.tar") == proxy.count("^GET .*/p/below") == 1
    file = run("get", through.place("p/below"), tmp_path / "file", *common, "--json").receipts["below"]
    folder = run("get", through.place("p/in.tar"), tmp_path / "out", "--unpack", *common, "--json").receipts["in.tar"]
    assert (file["cache"], folder["cache"]) == ("hit", "hit")
    assert run("get", through.place("p/below"), "-", *common).content == CONTENT
    again = run("get", through.place("p/"), tmp_path / "again", *common, "--json").receipts
    assert [receipt["cache"] for receipt in again.values()] == ["hit", "hit"]
    assert (tmp_path / "again/below").read_bytes() == (tmp_path / "file").read_bytes() == CONTENT
    assert proxy.count("^GET .*/p/in.tar") == proxy.count("^GET .*/p/below") == 1


def test_a_signed_url_is_the_object_whoever_signed_it(through, proxy, tmp_path):
    """Two signatures of one object are one object in the cache; nothing of a URL is in its files' names."""
    through.put("k", CONTENT)
    client = through.server.client()
    # Signed for the proxy's address, as its clients say it.
    import boto3
    from botocore.config import Config

    client = boto3.client(
        "s3",
        aws_access_key_id=servers.ADMIN.access_key,
        aws_secret_access_key=servers.ADMIN.secret_key,
        region_name="us-east-1",
        endpoint_url=proxy.url,
        config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
    )
    found = []
    for seconds in (600, 700):
        url = client.generate_presigned_url("get_object", {"Bucket": through.bucket, "Key": "k"}, ExpiresIn=seconds)
        common = ("--cache", tmp_path / "cache", "--endpoint", proxy.url, "--json")
        result = run("get", url, tmp_path / f"file{seconds}", *common)
        found += [receipt["cache"] for receipt in result.receipts.values()]
    client.close()
    assert found == ["miss", "hit"]


@pytest.mark.parametrize(
    "flags", [("--no-cache", "--cache", "x"), ("--cache-max", "1GB"), ("--no-cache", "--cache-max", "1GB")]
)
def test_flags_that_do_not_go_together(bench, flags):
    """Exit 2, before anything is made."""
    result = bench.stage(bench.request({}), *flags)
    assert result.code == 2
    assert not (bench.folder / "x").exists()


# As many transfers as the host may have.


def test_the_host_has_one_transfer_at_a_time(through, proxy, keys):
    """A second process waits, says so, and goes on when the first one's transfer has ended."""
    through.put("slow.tar", CONTENT)
    through.put("quick.tar", CONTENT)
    file = configured(through, "[host]\ntransfers = 1\n")
    environment = {"XDG_CACHE_HOME": str(through.folder / "xdg")}
    began = []
    proxy.add(Fault(match="^GET .*/slow.tar", delay_seconds=3.5, hook=lambda: began.append(True)))
    common = ("--endpoint", through.url, *file, "--json")
    request = through.request({"slow": through.artifact("slow.tar")})
    first = start("stage", request, "--into", through.job, *common, env=environment)
    while not began:
        time.sleep(0.01)
    second = run("get", through.place("quick.tar"), through.folder / "quick", *keys, *common, env=environment)
    assert (finish(first).code, second.code) == (0, 0)
    assert [line for line in second.said if not line.startswith("credentials:")] == [
        "quick.tar: waits for one of this machine's transfers to end ([host] transfers)"
    ]
    order = [line.split()[1].rpartition("/")[2] for line in proxy.requests if line.startswith("GET")]
    assert order == ["slow.tar", "quick.tar"]


def test_connections_and_transfers(through, proxy, keys, tmp_path):
    """Both are numbers of one or more; --transfers is a prefix's."""
    through.put("p/k", CONTENT)
    for flags in (("--connections", "0"), ("--connections", "65"), ("--transfers", "0")):
        assert run("get", through.place("p/"), tmp_path / "x", *keys, *flags).code == 2
    assert run("get", through.place("p/k"), tmp_path / "x", *keys, "--transfers", "2").code == 2
    flags = ("--connections", "1", "--transfers", "1", "--endpoint", through.url)
    assert run("get", through.place("p/"), tmp_path / "x", *keys, *flags).code == 0
    assert (tmp_path / "x/k").read_bytes() == CONTENT


# Verified.


def flipped(proxy: FaultProxy, times: int = 1) -> None:
    """A byte in the middle of the next objects is flipped on its way."""
    proxy.add(Fault(match=r"^GET /[^/? ]+/[^? ]", times=times, down_corrupt_at=700_000))


def test_a_flipped_byte_is_seen_by_those_who_look(through, proxy):
    """Nobody sees it unasked. With --verify it is exit 6, nothing is staged, and nothing enters the cache."""
    through.put("k", CONTENT)
    request = through.request({"data": through.artifact("k", unpack=False)})
    flipped(proxy)
    assert through.stage(request, "--json").receipts["data"]["verified"] == "none"
    assert (through.job / "data/k").read_bytes() != CONTENT
    cache = through.folder / "cache"
    for more in ((), ("--cache", str(cache))):
        flipped(proxy)
        result = through.stage(request, "--fresh", "--verify", *more, "--json")
        assert (result.code, result.statuses) == (6, {"data": "failed"})
        assert result.error("data")["message"].startswith("the md5 of what came is ")
    assert list(cache.glob("objects/*/*.*")) == []
    receipt = through.stage(request, "--fresh", "--verify", "--cache", str(cache), "--json").receipts["data"]
    assert (receipt["verified"], receipt["cache"]) == ("etag", "miss")
    assert (through.job / "data/k").read_bytes() == CONTENT


@pytest.mark.parametrize("algorithm", ["SHA256", "SHA1", "CRC32"])
def test_the_servers_checksum_is_asked_for_and_held(through, proxy, algorithm):
    """It comes before the ETag; an archive, a file, a prefix and a stream are held to it."""
    through.client.put_object(Bucket=through.bucket, Key="p/in.tar", Body=CONTENT, ChecksumAlgorithm=algorithm)
    here = through.folder / "here"
    place = through.place("p/in.tar").replace("s3://", "s3+http://")
    credentials = Credentials(aws=AWSCredential(**commands.credentials(servers.ADMIN)["aws"]))
    options = {"how": How(verify=True), "access": Access(credentials=credentials)}
    ways = {
        "archive": lambda: get(place, here / "archive", unpack=True, **options),
        "file": lambda: get(place, here / "file", **options),
        "prefix": lambda: get_prefix(place.removesuffix("in.tar"), here / "prefix", **options)[0],
        "stream": lambda: get_stream(place, io.BytesIO(), **options),
    }
    for name, way in ways.items():
        flipped(proxy)
        with pytest.raises((IntegrityError, PrefixError)) as caught:
            way()
        error = caught.value if name != "prefix" else caught.value.failures["in.tar"]
        assert str(error).startswith(f"the {algorithm.lower()} of what came is ")
        assert not (here / name).exists() or commands.tree(here / name) == {}
        receipt = way()
        assert (receipt.verified, receipt.warnings) == ("checksum", ())


def test_the_requests_hash_comes_first(through, proxy):
    """No question is asked of the server where the request says it."""
    through.put("in.tar", CONTENT)
    digest = hashlib.sha256(CONTENT).hexdigest()
    request = through.request({"data": through.artifact("in.tar", hash=digest)})
    receipt = through.stage(request, "--verify", "--json").receipts["data"]
    assert (receipt["verified"], receipt["sha256"]) == ("sha256", digest)
    assert proxy.count("^HEAD") == 0


def put_parts(bench: Bench, key: str, *sizes: int) -> None:
    created = bench.client.create_multipart_upload(Bucket=bench.bucket, Key=key)
    named = {"Bucket": bench.bucket, "Key": key, "UploadId": created["UploadId"]}
    parts = []
    for number, size in enumerate(sizes, 1):
        etag = bench.client.upload_part(**named, PartNumber=number, Body=os.urandom(size))["ETag"]
        parts.append({"PartNumber": number, "ETag": etag})
    bench.client.complete_multipart_upload(**named, MultipartUpload={"Parts": parts})


def test_what_nobody_can_verify_is_staged_with_a_warning(through, proxy):
    """The ETag of parts of one size can be; that of parts of any size cannot, and neither is a false alarm."""
    put_parts(through, "even", 5 << 20, 5 << 20, 3)
    put_parts(through, "odd", 5 << 20, 6 << 20, 3)
    request = through.request({label: through.artifact(label, unpack=False) for label in ("even", "odd")})
    result = through.stage(request, "--verify", "--json")
    even, odd = result.receipts["even"], result.receipts["odd"]
    assert (even["verified"], even["warnings"]) == ("etag", [])
    assert (odd["verified"], odd["warnings"]) == ("none", [{"code": "unverifiable", "path": "odd"}])
    assert result.said == [
        "warning: odd: neither the request nor the server has a digest of it, and it was not verified"
    ]
    flipped(proxy)
    request = through.request({"even": through.artifact("even", unpack=False)})
    assert through.stage(request, "--verify", "--fresh").code == 6


# Going on after death.


def test_a_file_goes_on_where_a_killed_process_stopped(through, proxy):
    """Of 100 MiB the second process moves only what was not on disk; the request's hash covers all of it."""
    content = os.urandom(1 << 20) * 100
    through.put("big", content)
    artifact = through.artifact("big", unpack=False, hash=hashlib.sha256(content).hexdigest())
    request = through.request({"data": artifact})
    fault = proxy.add(Fault(match="^GET", times=100, down_bytes_per_second=10_000_000))
    process = start("stage", request, "--into", through.job, "--endpoint", through.url)
    parts = through.job / ".artifacts/parts"
    while not list(parts.glob("*.journal")):
        time.sleep(0.02)
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.communicate()
    settled(proxy)
    (journal,) = parts.glob("*.journal")
    offset = json.loads(journal.read_bytes())["offset"]
    assert 64 << 20 <= offset < len(content)
    fault.times, proxy.answered_bytes = 0, 0
    receipt = through.stage(request, "--json").receipts["data"]
    assert (receipt["status"], receipt["verified"], receipt["object_bytes"]) == ("done", "sha256", len(content))
    assert proxy.answered_bytes == len(content) - offset
    assert (through.job / "data/big").read_bytes() == content
    assert (through.job / "data/big").stat().st_mode & 0o777 == 0o666 & ~umask()
    assert list(parts.iterdir()) == []


def settled(proxy: FaultProxy) -> None:
    """Wait until what the dead process asked for is over: its last bytes would count as the next one's."""
    until = time.monotonic() + 20
    while proxy.open_connections:
        assert time.monotonic() < until
        time.sleep(0.01)


def umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def leave_part(through: Bench, proxy: FaultProxy, request: Path) -> Path:
    """Have a fetch of 70 MiB broken at its last part: what came stays."""
    proxy.add(Fault(match="^GET", times=1000, status=503))
    proxy._faults.insert(0, Fault(match="^GET", times=5))
    result = through.stage(request, "--connections", "1", "--retries", "0")
    assert result.code == 75
    proxy._faults.clear()
    (part,) = (path for path in (through.job / ".artifacts/parts").iterdir() if path.suffix != ".journal")
    return part


def test_a_part_of_what_was_replaced_counts_for_nothing(through, proxy):
    """It starts over, and is the new object; a part that nobody asks for any more is removed."""
    through.put("big", os.urandom(1 << 20) * 70)
    request = through.request({"data": through.artifact("big", unpack=False)})
    assert leave_part(through, proxy, request).stat().st_size > 0
    new = os.urandom(1 << 20) * 70
    through.put("big", new)
    assert through.stage(request).code == 0
    assert (through.job / "data/big").read_bytes() == new
    through.put("big", os.urandom(1 << 20) * 70)
    part = leave_part(through, proxy, request)
    other = through.request({"data": through.artifact("other", unpack=False)}, name="other.json")
    through.put("other", b"small")
    assert through.stage(other).code == 0
    assert not part.exists()
