"""What is measured: each work's contenders, on which server, and what must come out."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks import content
from benchmarks.confine import confined
from benchmarks.content import BUCKET, MIB, Files, Shelf
from benchmarks.measure import Contender, Pipeline
from benchmarks.peers import HERE, OURS, UNTAR, Peers, Programs, out
from benchmarks.services import NGINX, SEAWEEDFS, Server

FAR_SECONDS = 0.020
PROGRAMS = HERE / "programs"
UPLOADS = "uploads"
"""The bucket that takes uploads. It is made before each run and removed after it, with what SeaweedFS keeps for it."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is moved.

    Attributes:
        upload_bytes, upload_small_files: of uploads, and of what is measured in many variants.
        huge_bytes: of what is staged in little memory.
        growth: the curves' points are so many times those of ``GROWTH``.
    """

    large_bytes: int
    upload_bytes: int
    small_files: int
    upload_small_files: int
    empty_files: int
    object_bytes: int
    objects: int
    parse_rounds: int
    huge_bytes: int
    growth: float

    def scaled(self, factor: float) -> Sizes:
        """So many times these sizes."""
        fields = {name: factor * value for name, value in asdict(self).items()}
        return Sizes(**{name: value if name == "growth" else max(1, round(value)) for name, value in fields.items()})


FULL = Sizes(
    large_bytes=1600 * MIB,
    upload_bytes=520 * MIB,
    small_files=60_000,
    upload_small_files=20_000,
    empty_files=100_000,
    object_bytes=4096 * MIB,
    objects=2000,
    parse_rounds=200,
    huge_bytes=50 * 1024 * MIB,
    growth=1.0,
)
QUICK = replace(FULL.scaled(1 / 15), object_bytes=384 * MIB, objects=240, upload_bytes=40 * MIB, large_bytes=120 * MIB)
"""What 16 works, of four contenders and six rounds each, can move in less than three minutes."""

GROWTH = {"bytes": (1, 8, 64, 512, 2048, 8192), "members": (10, 100, 1_000, 10_000, 50_000, 200_000)}
"""The points of the curves: MiB in files of up to 32 MiB, and files of 4 KiB."""

LITTLE_BYTES = 512 * MIB
"""What memory the huge work has."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """What a work is given.

    Attributes:
        server: None for works that need none.
        scratch: a folder for lists and requests.
    """

    shelf: Shelf
    programs: Programs
    server: Server | None
    scratch: Path

    @property
    def peers(self) -> Peers:
        assert self.server is not None
        return Peers(programs=self.programs, server=self.server)


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What takes turns.

    Attributes:
        expected: the digest that each contender must leave, None where nothing is left.
        close: called when all is done.
    """

    contenders: Mapping[str, Contender]
    expected: str | None = None
    close: Callable[[], None] = lambda: None


@dataclass(frozen=True, kw_only=True)
class Work:
    """One row of the tables.

    Attributes:
        amount: what it moves, in bytes or members, for works that are points of a curve.
        round_trip_seconds: of the server, beside what loopback takes.
        disk_bytes: it writes so much that only a real disk takes it, and runs once, with no warm-up.
    """

    name: str
    title: str
    prepare: Callable[[Place], Prepared]
    server: str | None = None
    round_trip_seconds: float = 0.0
    amount: int | None = None
    disk_bytes: int = 0


def works(sizes: Sizes) -> list[Work]:
    """Every work at these sizes."""
    large, medium = content.large(sizes.large_bytes), content.large(sizes.upload_bytes)
    small, fewer = content.small(sizes.small_files), content.small(sizes.upload_small_files)
    found = [_start(), _parsing(sizes.parse_rounds)]
    archives = [(name, files, kind) for name, files in (("large", large), ("small", small)) for kind in ("tar", "gz")]
    more = [("medium", medium, kind) for kind in UNTAR] + [("fewer", fewer, kind) for kind in ("tar", "gz")]
    more += [("large", large, "zst"), ("empty", Files(sizes.empty_files, 0), "tar")]
    found += [_fetch(f"fetch-{name}-{kind}", files, kind, NGINX) for name, files, kind in archives + more]
    found += [_fetch(f"deployed-fetch-{name}-{kind}", files, kind, SEAWEEDFS) for name, files, kind in archives]
    for prefix, server in (("", NGINX), ("deployed-", SEAWEEDFS)):
        found.append(_object(f"{prefix}object", sizes.object_bytes, server))
        found.append(_objects(f"{prefix}objects", sizes.objects, server))
    found.append(_prefix("prefix", sizes.objects))
    both = [(name, files, kind) for name, files in (("large", medium), ("small", fewer)) for kind in ("tar", "gz")]
    found += [_upload(f"upload-{name}-{kind}", files, kind) for name, files, kind in both]
    found.append(_fetch("far-fetch-large-tar", large, "tar", NGINX, round_trip_seconds=FAR_SECONDS))
    found.append(_objects("far-objects", sizes.objects, NGINX, round_trip_seconds=FAR_SECONDS))
    found.append(_prefix("far-prefix", sizes.objects, round_trip_seconds=FAR_SECONDS))
    found += [_cache(f"warm-cache-{name}", files) for name, files, kind in both if kind == "tar"]
    found += [_unpack(f"unpack-{name}-{kind}", files, kind) for name, files, kind in both]
    found += [_pack(f"pack-{name}-{kind}", files, kind) for name, files, kind in both]
    found.append(_eight(medium))
    for mib in GROWTH["bytes"]:
        total = max(1, round(mib * MIB * sizes.growth))
        found.append(_curve(f"bytes-{mib}m", content.large(total, 32 * MIB), total, sparse=True))
    for members in GROWTH["members"]:
        count = max(1, round(members * sizes.growth))
        found.append(_curve(f"members-{members}", content.small(count), count, sparse=False))
    found.append(_huge(content.large(sizes.huge_bytes, 1024 * MIB)))
    return found


def _amount(count: int) -> str:
    return f"{count / (1 << 30):.1f} GiB" if count >= 1 << 29 else f"{count / MIB:.0f} MiB"


def _described(files: Files, kind: str) -> str:
    if files.size_bytes >= MIB:
        return f"{_amount(files.total_bytes)} in {files.count} files, {kind}"
    size = f"{files.size_bytes // 1024} KiB" if files.size_bytes else "0 bytes"
    return f"{files.count:,} files of {size}, {kind}"


def _far(title: str, round_trip_seconds: float) -> str:
    return f"{title}, {1000 * round_trip_seconds:.0f} ms away" if round_trip_seconds else title


def _stock(place: Place, keys: list[str]) -> None:
    """Have the objects in the server's bucket; nginx serves them where they lie."""
    assert place.server is not None
    if place.server.kind == NGINX:
        return
    with contextlib.closing(place.server.s3()) as server:
        client = server.client()
        there = {
            found["Key"]
            for page in client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
            for found in page.get("Contents", [])
        }
        with ThreadPoolExecutor(8) as pool:
            upload = lambda key: client.upload_file(str(place.shelf.bucket / key), BUCKET, key)
            for _ in pool.map(upload, [key for key in keys if key not in there]):
                pass


def _tree(into: Path) -> str:
    return content.tree_digest(into / "out")


def _checked(
    contenders: Mapping[str, Contender], digest: Callable[[Path], str] | None, **more: Any
) -> dict[str, Contender]:
    return {name: replace(contender, digest=digest, **more) for name, contender in contenders.items()}


def _fetch(name: str, files: Files, kind: str, server: str, *, round_trip_seconds: float = 0.0) -> Work:
    def prepare(place: Place) -> Prepared:
        key = place.shelf.archive(files, kind)
        _stock(place, [key])
        expected = place.shelf.archive_digest(files)
        return Prepared(contenders=_checked(place.peers.unpacking(key, kind), _tree), expected=expected)

    title = _far(f"fetch and unpack {_described(files, kind)}", round_trip_seconds)
    return Work(name=name, title=title, prepare=prepare, server=server, round_trip_seconds=round_trip_seconds)


def _object(name: str, size: int, server: str) -> Work:
    def prepare(place: Place) -> Prepared:
        key = place.shelf.object(size)
        _stock(place, [key])
        contenders = _checked(place.peers.one_file(key), lambda into: content.file_digest(into / "out"))
        return Prepared(contenders=contenders, expected=place.shelf.file_digest(key))

    return Work(name=name, title=f"fetch one object of {_amount(size)}", prepare=prepare, server=server)


def _objects(name: str, count: int, server: str, *, round_trip_seconds: float = 0.0) -> Work:
    def contenders(place: Place, keys: list[str]) -> dict[str, Contender]:
        request = _request(place, {f"o{number:05}": key for number, key in enumerate(keys)}, unpack=False)
        return place.peers.many_objects(keys, place.scratch / "lists", request)

    title = _far(f"fetch {count:,} objects of 64 KiB that a request names", round_trip_seconds)
    prepare = _small_objects(count, contenders)
    return Work(name=name, title=title, prepare=prepare, server=server, round_trip_seconds=round_trip_seconds)


def _prefix(name: str, count: int, *, round_trip_seconds: float = 0.0) -> Work:
    prepare = _small_objects(count, lambda place, keys: place.peers.under_prefix(keys, place.scratch / "lists"))
    title = _far(f"list a prefix and fetch its {count:,} objects of 64 KiB", round_trip_seconds)
    return Work(name=name, title=title, prepare=prepare, server=SEAWEEDFS, round_trip_seconds=round_trip_seconds)


def _small_objects(
    count: int, contenders: Callable[[Place, list[str]], dict[str, Contender]]
) -> Callable[[Place], Prepared]:
    def prepare(place: Place) -> Prepared:
        keys = place.shelf.objects(count, 64 << 10)
        _stock(place, keys)
        folder = place.shelf.bucket / keys[0].rpartition("/")[0]
        expected = place.shelf.digest(folder.name, lambda: content.tree_digest(folder, flat=".bin"))
        digest = lambda into: content.tree_digest(into, flat=".bin")
        return Prepared(contenders=_checked(contenders(place, keys), digest), expected=expected)

    return prepare


def _request(place: Place, keys: Mapping[str, str], *, unpack: bool) -> Path:
    """A document that names the objects as artifacts."""
    assert place.server is not None
    environ = place.server.environ
    aws = {"access_key": environ["AWS_ACCESS_KEY_ID"], "secret_access_key": environ["AWS_SECRET_ACCESS_KEY"]}
    artifacts = {
        label: {
            "bucket": BUCKET,
            "key": key,
            "mutable": False,
            "unpack": unpack,
            "qualified": f"s3://{place.server.address}/{BUCKET}/{key}",
            "credentials": {"aws": aws},
        }
        for label, key in keys.items()
    }
    path = place.scratch / "request.json"
    path.write_text(json.dumps({"experiment": {"key": "bench", "artifacts": artifacts}}))
    return path


def _upload(name: str, files: Files, kind: str) -> Work:
    def prepare(place: Place) -> Prepared:
        assert place.server is not None
        tree, key = place.shelf.tree(files), f"packed.tar{'.gz' if kind == 'gz' else ''}"
        peers = replace(place.peers, bucket=UPLOADS)
        store = place.server.s3()
        client = store.client()

        def make(_: Path) -> None:
            client.create_bucket(Bucket=UPLOADS)
            client.put_object(Bucket=UPLOADS, Key="first", Body=b"so that volumes are there")

        def clean(_: Path) -> None:
            for found in client.list_objects_v2(Bucket=UPLOADS).get("Contents", []):
                client.delete_object(Bucket=UPLOADS, Key=found["Key"])
            client.delete_bucket(Bucket=UPLOADS)

        def digest(_: Path) -> str:
            try:
                return content.tar_digest(client.get_object(Bucket=UPLOADS, Key=key)["Body"])
            except client.exceptions.NoSuchKey:
                return "no object"

        contenders = _checked(peers.uploading(key, tree), digest, prepare=make, clean=clean)
        expected = place.shelf.archive_digest(files)
        return Prepared(contenders=contenders, expected=expected, close=store.close)

    return Work(name=name, title=f"pack and upload {_described(files, kind)}", prepare=prepare, server=SEAWEEDFS)


def _eight(files: Files) -> Work:
    def prepare(place: Place) -> Prepared:
        keys = [place.shelf.archive(files, kind) for kind in ("tar", "gz")]
        ours = _staging(place, {f"label{number}": keys[number % 2] for number in range(8)}, "label7")
        return Prepared(contenders={**ours, **_python("pass")}, expected=place.shelf.archive_digest(files))

    title = f"stage 8 artifacts of {_described(files, 'tar and gz')}"
    return Work(name="eight-at-once", title=title, prepare=prepare, server=NGINX)


def _cache(name: str, files: Files) -> Work:
    """The first run, which does not count, fills the warm one; the cold one is in the folder that is emptied."""

    def prepare(place: Place) -> Prepared:
        keys = {"label": place.shelf.archive(files, "tar")}
        caches: dict[str, tuple[str | Callable[[Path], str], ...]] = {
            f"{OURS}, warm cache": ("--cache", str(place.scratch / name)),
            f"{OURS}, cold cache": ("--cache", lambda into: str(into / "cache")),
            f"{OURS}, no cache": (),
        }
        contenders: dict[str, Contender] = {}
        for title, cache in caches.items():
            contenders |= _staging(place, keys, "label", *cache, name=title)
        return Prepared(contenders=contenders, expected=place.shelf.archive_digest(files))

    return Work(name=name, title=f"stage {_described(files, 'tar')}, again", prepare=prepare, server=NGINX)


def _huge(files: Files) -> Work:
    def prepare(place: Place) -> Prepared:
        key, expected = place.shelf.sparse_archive(files)
        stack = contextlib.ExitStack()
        confinement = stack.enter_context(confined(LITTLE_BYTES))

        def confine(contender: Contender) -> Contender:
            pipeline = lambda into: replace(contender.pipeline(into), confinement=confinement)
            return replace(contender, pipeline=pipeline, note=confinement.said)

        ours = {name: confine(one) for name, one in _staging(place, {"label": key}, "label").items()}
        return Prepared(contenders=ours, expected=expected, close=stack.close)

    title = f"stage {_described(files, 'tar')}, in {_amount(LITTLE_BYTES)} of memory"
    return Work(name="fifty-gib", title=title, prepare=prepare, server=NGINX, disk_bytes=files.total_bytes)


def _staging(
    place: Place, keys: Mapping[str, str], compared: str, *more: str | Callable[[Path], str], name: str = OURS
) -> dict[str, Contender]:
    """Stages archives as artifacts; the folder of the one that is ``compared`` is looked at."""
    assert place.server is not None
    request = str(_request(place, keys, unpack=True))
    common = ("stage", "--quiet", "--endpoint", place.server.endpoint_url, "--into", out, request)
    digest = lambda into: content.tree_digest(into / "out" / compared)
    return _checked(place.peers.ours(*common, *more, name=name), digest)


def _curve(name: str, files: Files, amount: int, *, sparse: bool) -> Work:
    """A point of a curve: this project, and curl and tar for comparison."""

    def prepare(place: Place) -> Prepared:
        if sparse:
            key, expected = place.shelf.sparse_archive(files)
        else:
            key, expected = place.shelf.archive(files, "tar"), place.shelf.archive_digest(files)
        contenders = _checked(place.peers.unpacking(key, "tar"), _tree)
        kept = {name: found for name, found in contenders.items() if name.startswith((OURS, "curl"))}
        return Prepared(contenders=kept, expected=expected)

    title = f"fetch and unpack {_described(files, 'tar')}"
    return Work(name=name, title=title, prepare=prepare, server=NGINX, amount=amount)


def _python(code: str, name: str = "python") -> dict[str, Contender]:
    """An interpreter that has nothing of this project."""
    return {name: Contender(pipeline=lambda _: Pipeline(argvs=[[sys.executable, "-c", code]]))}


def _start() -> Work:
    def prepare(place: Place) -> Prepared:
        ours = place.programs.ours
        model = "import pydantic\nclass M(pydantic.BaseModel):\n    a: int = 0"
        contenders = {
            **ours(f"{OURS} --help", "-m", "artifacts.cli", "--help"),
            **ours(f"{OURS}, import", "-c", "import artifacts"),
            **ours(f"{OURS}, import and loads", "-c", "import artifacts; artifacts.loads(b'{}')"),
            **_python("pass"),
            **_python(model, "pydantic, one model"),
        }
        return Prepared(contenders=contenders)

    return Work(name="start", title="start the interpreter, import, and show help", prepare=prepare)


def _parsing(rounds: int) -> Work:
    def prepare(place: Place) -> Prepared:
        program, contenders = str(PROGRAMS / "parse.py"), {}
        for work in ("loads", "dumps"):
            contenders |= place.programs.ours(f"{OURS}, {work}", program, work, str(rounds))
        argv = [sys.executable, program, "pydantic", str(rounds)]
        contenders["pydantic, strict"] = Contender(pipeline=lambda _: Pipeline(argvs=[argv]))
        return Prepared(contenders=contenders)

    return Work(name="request-parsing", title=f"read the recorded requests {rounds} times over", prepare=prepare)


def _local(place: Place, *arguments: str | Callable[[Path], str]) -> dict[str, Contender]:
    """This project and its copies, and the standard library, without a network."""
    program = str(PROGRAMS / "local.py")

    def tarfile(into: Path) -> Pipeline:
        given = [one(into) if callable(one) else one for one in arguments]
        return Pipeline(argvs=[[sys.executable, program, "tarfile", *given]])

    return place.programs.ours(OURS, program, OURS, *arguments) | {"tarfile": Contender(pipeline=tarfile)}


def _unpack(name: str, files: Files, kind: str) -> Work:
    def prepare(place: Place) -> Prepared:
        key = place.shelf.archive(files, kind)
        archive = str(place.shelf.bucket / key)
        contenders = _local(place, "unpack", archive, out)
        command = ["tar", "-x", *UNTAR[kind], "-f", archive, "-C"]
        contenders["tar x"] = Contender(pipeline=lambda into: Pipeline(argvs=[[*command, out(into)]]))
        make = lambda into: (into / "out").mkdir()
        expected = place.shelf.archive_digest(files)
        return Prepared(contenders=_checked(contenders, _tree, prepare=make), expected=expected)

    return Work(name=name, title=f"unpack {_described(files, kind)}, no network", prepare=prepare)


def _pack(name: str, files: Files, kind: str) -> Work:
    def prepare(place: Place) -> Prepared:
        tree = str(place.shelf.tree(files))
        contenders = _local(place, "pack", tree, kind)
        # Through a pipe: tar does not read the files when it sees that /dev/null is written.
        command = ["tar", "-c", *UNTAR[kind], "-f", "-", "-C", tree, "."]
        contenders["tar c"] = Contender(pipeline=lambda _: Pipeline(argvs=[command, ["cat"]]))
        return Prepared(contenders=contenders)

    return Work(name=name, title=f"pack {_described(files, kind)}, no network", prepare=prepare)
