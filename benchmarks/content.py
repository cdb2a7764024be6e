"""What is moved: files, archives and objects, the same everywhere, made once and kept."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import random
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO

MIB = 1 << 20
BUCKET = "data"
"""The bucket, which is a folder where the server is nginx."""

COMPRESS = {
    "tar": None,
    "gz": ["gzip", "-6", "-n"],
    "zst": ["zstd", "-3", "-T0", "-q"],
    "xz": ["xz", "-1", "-T0"],
    "bz2": ["bzip2"],
}
"""What packs each kind of archive, at the program's usual level; xz at its fastest, to be done today."""


DIFFERENT = 16
"""So many files of a folder differ, the others repeat them."""


def half_compressible(size: int, seed: int) -> bytes:
    """Half random, half text: compresses to about two thirds, as checkpoints and sources together do."""
    draw = random.Random(seed)
    words = [draw.randbytes(draw.randint(2, 8)).hex().encode() for _ in range(500)]
    text = b" ".join(draw.choices(words, k=max(1, size // 22)))
    return (draw.randbytes(size // 2) + text * (1 + size // (2 * max(1, len(text)))))[:size]


@dataclass(frozen=True)
class Files:
    """A folder of files.

    Attributes:
        count, size_bytes: how many, and of what size each.
    """

    count: int
    size_bytes: int

    @property
    def name(self) -> str:
        return f"{self.count}x{self.size_bytes}"

    @property
    def total_bytes(self) -> int:
        return self.count * self.size_bytes


def large(total_bytes: int, size_bytes: int = 40 * MIB) -> Files:
    """Files of 40 MiB, as checkpoints and datasets are."""
    size = min(total_bytes, size_bytes)
    return Files(max(1, total_bytes // size), size)


def small(count: int) -> Files:
    """Files of 4 KiB, as sources and images are."""
    return Files(count, 4096)


class Shelf:
    """The folder where everything made is kept.

    Attributes:
        root: ``www/data`` in it is what nginx serves as the bucket.
    """

    def __init__(self, root: Path, say: Callable[[str], None]) -> None:
        self.root = root
        self.bucket = root / "www" / BUCKET
        self.bucket.mkdir(parents=True, exist_ok=True)
        self._say = say

    def tree(self, files: Files) -> Path:
        """The folder itself, kept."""
        path = self.root / "trees" / files.name
        if not path.exists():
            partial = path.with_name(path.name + ".partial")
            shutil.rmtree(partial, ignore_errors=True)
            self._make_tree(files, partial, shutil.copyfile)
            partial.rename(path)
        return path

    def _make_tree(self, files: Files, path: Path, again: Callable[[Path, Path], object]) -> None:
        """Write a few different files, then the others ``again`` from those."""
        self._say(f"making {files.count} files of {files.size_bytes} bytes")
        path.mkdir(parents=True)
        names = [path / name for name in _names(files)]
        for number, name in enumerate(names):
            name.parent.mkdir(exist_ok=True)
            if number < DIFFERENT:
                name.write_bytes(half_compressible(files.size_bytes, number))
            else:
                again(names[number % DIFFERENT], name)

    def archive(self, files: Files, kind: str) -> str:
        """The key of the folder's archive. The folder is not kept, and its files are links: it may be a large one."""
        key = f"{files.name}.tar" if kind == "tar" else f"{files.name}.tar.{kind}"
        if not (self.bucket / key).exists():
            with tempfile.TemporaryDirectory(dir=self.root) as name:
                tree = Path(name, "tree")
                self._make_tree(files, tree, os.link)
                self.archive_digest(files, lambda: tree_digest(tree))
                self._say(f"making {key}")
                command = ["tar", "-c", "--sort=name", "--owner=0", "--group=0", "--mtime=@1700000000"]
                self._publish(key, [*command, "--hard-dereference", "-C", str(tree), "."], COMPRESS[kind])
        return key

    def sparse_archive(self, files: Files) -> tuple[str, str]:
        """The key of a tar of files of zeros, which takes no room on a disk that knows holes, and what is in it.

        Returns:
            The key, and the digest of what it unpacks to.
        """
        key = f"zeros-{files.name}.tar"
        path, partial = self.bucket / key, self.bucket / f"{key}.partial"
        if not path.exists():
            self._say(f"making {key}")
            with partial.open("wb") as out:
                for name in _names(files):
                    member = tarfile.TarInfo(name)
                    member.size = files.size_bytes
                    out.write(member.tobuf(tarfile.USTAR_FORMAT))
                    out.seek(files.size_bytes + -files.size_bytes % tarfile.BLOCKSIZE, os.SEEK_CUR)
                out.truncate(out.tell() + 2 * tarfile.BLOCKSIZE)
            partial.rename(path)
        return key, self.digest(key, lambda: _of_all((name, _of_zeros(files.size_bytes)) for name in _names(files)))

    def archive_digest(self, files: Files, compute: Callable[[], str] | None = None) -> str:
        """Of what is in the folder's archives, of every kind."""
        return self.digest(f"{files.name}.tar", compute or (lambda: tree_digest(self.tree(files))))

    def _publish(self, key: str, command: list[str], compressing: list[str] | None) -> None:
        partial = self.bucket / f"{key}.partial"
        with partial.open("wb") as out:
            if compressing is None:
                subprocess.run(command, stdout=out, check=True)
            else:
                with subprocess.Popen(command, stdout=subprocess.PIPE) as first:
                    subprocess.run(compressing, stdin=first.stdout, stdout=out, check=True)
                if first.returncode:
                    raise subprocess.CalledProcessError(first.returncode, command)
        partial.rename(self.bucket / key)

    def object(self, size: int) -> str:
        """The key of one object of ``size`` bytes."""
        key = f"object-{size}.bin"
        path = self.bucket / key
        if not path.exists():
            self._say(f"making {key}")
            piece, partial = half_compressible(min(size, 64 * MIB), 0), self.bucket / f"{key}.partial"
            with partial.open("wb") as out:
                left = size
                while left:
                    left -= out.write(piece[:left])
            partial.rename(path)
        return key

    def objects(self, count: int, size: int) -> list[str]:
        """The keys of small objects, under one prefix."""
        prefix = f"objects-{count}x{size}"
        folder = self.bucket / prefix
        if not folder.exists():
            self._say(f"making {count} objects of {size} bytes")
            partial = self.bucket / f"{prefix}.partial"
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            for number in range(count):
                (partial / f"o{number:05}.bin").write_bytes(half_compressible(size, number))
            partial.rename(folder)
        return [f"{prefix}/o{number:05}.bin" for number in range(count)]

    def digest(self, name: str, compute: Callable[[], str]) -> str:
        """What was computed once for ``name``, and what it is of never changes."""
        path = self.root / "digests.json"
        known = json.loads(path.read_text()) if path.exists() else {}
        if name not in known:
            known[name] = compute()
            path.write_text(json.dumps(known, indent=1, sort_keys=True))
        return str(known[name])

    def file_digest(self, key: str) -> str:
        return self.digest(key, lambda: file_digest(self.bucket / key))


def _names(files: Files) -> list[str]:
    return [f"folder-{number // 500:04}/file-{number:06}.bin" for number in range(files.count)]


@functools.cache
def _of_zeros(size: int) -> str:
    digest, piece = hashlib.sha256(), bytes(MIB)
    for _ in range(size // MIB):
        digest.update(piece)
    digest.update(piece[: size % MIB])
    return digest.hexdigest()


def file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _of_all(digests: Iterable[tuple[str, str]]) -> str:
    return hashlib.sha256("\n".join(f"{name}\0{digest}" for name, digest in sorted(digests)).encode()).hexdigest()


def _files(root: Path) -> Iterator[tuple[Path, str]]:
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            yield path, path.relative_to(root).as_posix()


def tree_digest(root: Path, *, flat: str = "") -> str:
    """One digest of all files' names and contents, whatever made them.

    Args:
        flat: look only at files with this suffix, and not at the folders they are in.
    """
    files = [(path, path.name if flat else name) for path, name in _files(root) if not flat or name.endswith(flat)]
    with ThreadPoolExecutor(2) as pool:
        digests = pool.map(lambda file: file_digest(file[0]), files)
        return _of_all((name, digest) for (_, name), digest in zip(files, digests, strict=True))


def tar_digest(stream: IO[bytes]) -> str:
    """The :func:`tree_digest` of what is in an archive, which may be compressed with gzip."""
    digests = []
    with tarfile.open(fileobj=stream, mode="r|*") as tar:
        for member in tar:
            if member.isfile() and (file := tar.extractfile(member)) is not None:
                name = member.name.removeprefix("./")
                digest = hashlib.sha256()
                while piece := file.read(MIB):
                    digest.update(piece)
                digests.append((name, digest.hexdigest()))
    return _of_all(digests)
