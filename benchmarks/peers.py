"""The contenders' command lines: this project, its copy at another commit, and the peers, for each kind of work."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.measure import Contender, Pipeline
from benchmarks.services import NGINX, ROOT, Server

OURS = "artifacts"
FLOOR = "floor (no checks)"
HERE = Path(__file__).parent
UNTAR = {"tar": (), "gz": ("--gzip",), "zst": ("--zstd",), "xz": ("--xz",), "bz2": ("--bzip2",)}
LIBRARIES = ("boto3", "minio", "obstore", "s3fs")


@dataclass(frozen=True, kw_only=True)
class Programs:
    """Where everything is.

    Attributes:
        peers: the virtual environment of the peers that pin other versions of botocore than this project uses.
        against: another commit of this project, by the name shown.
    """

    peers: Path
    against: Mapping[str, Path]

    @property
    def copies(self) -> dict[str, Path]:
        """Where this project is, and where it is at other commits, by what is put behind a contender's name."""
        return {"": ROOT} | {f" {name}": root for name, root in self.against.items()}

    def ours(
        self, name: str, *arguments: str | Callable[[Path], str], environ: Mapping[str, str] | None = None
    ) -> dict[str, Contender]:
        """``python ARGUMENTS`` with this project on its path, and the same at other commits.

        Args:
            arguments: one that is callable is given the folder that takes the output.
        """

        def make(root: Path) -> Callable[[Path], Pipeline]:
            def pipeline(into: Path) -> Pipeline:
                given = [one(into) if callable(one) else one for one in arguments]
                return Pipeline(argvs=[[sys.executable, *given]], environ={**(environ or {}), "PYTHONPATH": str(root)})

            return pipeline

        return {name + copy: Contender(pipeline=make(root)) for copy, root in self.copies.items()}

    def missing(self, name: str) -> str | None:
        """Why a program cannot run, None when it can."""
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
        if name == "aws":
            return None if (self.peers / "bin" / "aws").exists() else "not here: awscli is not installed"
        return None if shutil.which(name, path=path) else f"not here: {name} is not installed"

    def missing_library(self, name: str) -> str | None:
        if name == "s3fs":
            found = any((self.peers / "lib").glob("python*/site-packages/s3fs"))
        else:
            found = importlib.util.find_spec(name) is not None
        return None if found else f"not here: {name} is not installed"

    def python(self, library: str) -> str:
        return str(self.peers / "bin" / "python") if library == "s3fs" else sys.executable


@dataclass(frozen=True, kw_only=True)
class Peers:
    """Makes contenders for one server.

    Attributes:
        bucket: in which everything is.
    """

    programs: Programs
    server: Server
    bucket: str = "data"

    def contender(self, make: Callable[[Path], Pipeline], *needs: str) -> Contender:
        missing = next((why for name in needs if (why := self.programs.missing(name))), None)
        return Contender(pipeline=make, missing=missing)

    def pipe(self, *argvs: Sequence[str]) -> Pipeline:
        return Pipeline(argvs=argvs, environ=self.server.environ)

    def ours(self, *arguments: str | Callable[[Path], str], name: str = OURS) -> dict[str, Contender]:
        """This project's command, and the same at other commits; a callable argument is given the folder."""
        return self.programs.ours(name, "-m", "artifacts.cli", *arguments, environ=self.server.environ)

    def library(self, name: str, work: str, key: str, target: Callable[[Path], str]) -> Contender:
        def pipeline(into: Path) -> Pipeline:
            program = [self.programs.python(name), str(HERE / "programs" / "peer.py")]
            return self.pipe([*program, name, work, self.bucket, key, target(into)])

        return Contender(pipeline=pipeline, missing=self.programs.missing_library(name))

    def floor(self, program: str, key: str, target: Callable[[Path], str]) -> Contender:
        return Contender(
            pipeline=lambda into: self.pipe([sys.executable, str(HERE / program), self.bucket, key, target(into)])
        )

    def reading(self, key: str) -> dict[str, tuple[str, list[str]]]:
        """The programs that write an object to their output: what is needed, and the command line."""
        s3 = f"s3://{self.bucket}/{key}"
        return {
            "curl": ("curl", [*self.curl(), self.http(key)]),
            "s5cmd cat": ("s5cmd", [*self.s5cmd(), "cat", s3]),
            "rclone cat": ("rclone", [*self.rclone(), "cat", self.rclone_name(key)]),
            "aws s3 cp -": ("aws", [*self.aws(), "s3", "cp", s3, "-"]),
        }

    def http(self, key: str) -> str:
        return f"{self.server.endpoint_url}/{self.bucket}/{key}"

    def curl(self) -> list[str]:
        command = ["curl", "--silent", "--show-error", "--fail"]
        if self.server.kind == NGINX:
            return command
        keys = self.server.environ
        user = f"{keys['AWS_ACCESS_KEY_ID']}:{keys['AWS_SECRET_ACCESS_KEY']}"
        return [*command, "--aws-sigv4", "aws:amz:us-east-1:s3", "--user", user]

    def s5cmd(self) -> list[str]:
        return ["s5cmd", "--endpoint-url", self.server.endpoint_url, "--log", "error"]

    def rclone(self) -> list[str]:
        """rclone lists a folder before it reads from S3, which nginx cannot: there it uses its http remote."""
        base = ["rclone", "--config", os.devnull, "--log-level", "ERROR"]
        if self.server.kind == NGINX:
            return [*base, "--http-url", self.server.endpoint_url]
        s3 = ["--s3-provider", "Other", "--s3-env-auth", "--s3-endpoint", self.server.endpoint_url]
        return [*base, *s3, "--s3-no-check-bucket"]

    def rclone_name(self, key: str) -> str:
        return f"{':http:' if self.server.kind == NGINX else ':s3:'}{self.bucket}/{key}"

    def aws(self) -> list[str]:
        program = str(self.programs.peers / "bin" / "aws")
        return [program, "--endpoint-url", self.server.endpoint_url]

    def unpacking(self, key: str, kind: str) -> dict[str, Contender]:
        """Everything that fetches the archive ``key`` and unpacks it into the folder ``out``."""
        found = self.ours("get", "--quiet", "--unpack", self.server.url(key, self.bucket), out)
        if kind in ("tar", "gz"):
            found[FLOOR] = self.floor("floor_fetch.py", key, out)
        for name, (needs, command) in self.reading(key).items():
            tar = ["tar", "-x", *UNTAR[kind], "-f", "-", "-C"]
            found[f"{name} | tar x"] = replace(
                self.contender(lambda into, command=command, tar=tar: self.pipe(command, [*tar, out(into)]), needs),
                prepare=lambda into: (into / "out").mkdir(),
            )
        for name in LIBRARIES:
            found[f"{name} + tarfile"] = self.library(name, "unpack", key, out)
        return found

    def one_file(self, key: str) -> dict[str, Contender]:
        """Everything that fetches one object into the file ``out``."""
        found = self.ours("get", "--quiet", self.server.url(key, self.bucket), out)
        s3 = f"s3://{self.bucket}/{key}"
        for name, needs, command in (
            ("curl", "curl", lambda into: [*self.curl(), "--output", out(into), self.http(key)]),
            ("s5cmd cp", "s5cmd", lambda into: [*self.s5cmd(), "cp", s3, out(into)]),
            ("rclone copyto", "rclone", lambda into: [*self.rclone(), "copyto", self.rclone_name(key), out(into)]),
            ("aws s3 cp", "aws", lambda into: [*self.aws(), "s3", "cp", "--quiet", s3, out(into)]),
        ):
            found[name] = self.contender(lambda into, command=command: self.pipe(command(into)), needs)
        for name in LIBRARIES:
            found[name] = self.library(name, "file", key, out)
        return found

    def many_objects(self, keys: Sequence[str], lists: Path, request: Path) -> dict[str, Contender]:
        """Everything that fetches many small objects, which are known by name, into one folder.

        Args:
            lists: a folder for the lists of keys that the programs take.
            request: a document that names the same objects as artifacts.
        """
        lists.mkdir(parents=True, exist_ok=True)
        (lists / "keys").write_text("\n".join(keys))
        endpoint = ("--endpoint", self.server.endpoint_url)
        found = self.ours("stage", "--quiet", *endpoint, "--into", out, str(request))
        found["curl --parallel"] = self._curl_parallel(keys, lists)

        def s5cmd(into: Path) -> Pipeline:
            lines = [f"cp s3://{self.bucket}/{key} {into / _name(key)}\n" for key in keys]
            (lists / "s5cmd").write_text("".join(lines))
            return self.pipe([*self.s5cmd(), "run", str(lists / "s5cmd")])

        def rclone(into: Path) -> Pipeline:
            chosen = ["--files-from-raw", str(lists / "keys"), "--no-traverse"]
            return self.pipe([*self.rclone(), "copy", *chosen, self.rclone_name(""), str(into)])

        found["s5cmd run"] = self.contender(s5cmd, "s5cmd")
        found["rclone copy"] = self.contender(rclone, "rclone")
        return found | self._libraries_in_threads("objects", str(lists / "keys"))

    def under_prefix(self, keys: Sequence[str], lists: Path) -> dict[str, Contender]:
        """Everything that lists a prefix and fetches what is there into one folder; curl is given the names."""
        prefix = keys[0].rpartition("/")[0]
        lists.mkdir(parents=True, exist_ok=True)
        s3 = f"s3://{self.bucket}/{prefix}/"
        found = self.ours("get", "--quiet", self.server.url(f"{prefix}/", self.bucket), lambda into: f"{out(into)}/")
        found["curl --parallel"] = self._curl_parallel(keys, lists)
        for name, needs, command in (
            ("s5cmd cp", "s5cmd", [*self.s5cmd(), "cp", f"{s3}*"]),
            ("rclone copy", "rclone", [*self.rclone(), "copy", self.rclone_name(prefix)]),
            ("aws s3 cp --recursive", "aws", [*self.aws(), "s3", "cp", "--quiet", "--recursive", s3]),
        ):
            found[name] = self.contender(lambda into, command=command: self.pipe([*command, f"{into}/"]), needs)
        return found | self._libraries_in_threads("prefix", f"{prefix}/")

    def _curl_parallel(self, keys: Sequence[str], lists: Path) -> Contender:
        def pipeline(into: Path) -> Pipeline:
            lines = [f'url = "{self.http(key)}"\noutput = "{into / _name(key)}"\n' for key in keys]
            (lists / "curl").write_text("".join(lines))
            return self.pipe([*self.curl(), "--parallel", "--config", str(lists / "curl")])

        return self.contender(pipeline, "curl")

    def _libraries_in_threads(self, work: str, key: str) -> dict[str, Contender]:
        return {
            f"{name}, 8 threads" if name != "s3fs" else name: self.library(name, work, key, str) for name in LIBRARIES
        }

    def uploading(self, key: str, tree: Path) -> dict[str, Contender]:
        """Everything that packs the folder ``tree`` and uploads it to ``key``."""
        compress = ("--gzip",) if key.endswith("gz") else ()
        tar = ["tar", "-c", *compress, "-f", "-", "-C", str(tree), "."]
        s3 = f"s3://{self.bucket}/{key}"
        found = self.ours("put", "--quiet", str(tree), self.server.url(key, self.bucket))
        found[FLOOR] = self.floor("floor_upload.py", key, lambda _: str(tree))
        name = "tar cz" if compress else "tar c"
        for peer, needs, command in (
            ("s5cmd pipe", "s5cmd", [*self.s5cmd(), "pipe", s3]),
            ("rclone rcat", "rclone", [*self.rclone(), "rcat", self.rclone_name(key)]),
            ("aws s3 cp -", "aws", [*self.aws(), "s3", "cp", "-", s3]),
        ):
            found[f"{name} | {peer}"] = self.contender(lambda _, command=command: self.pipe(tar, command), "tar", needs)
        for library in LIBRARIES:
            found[f"tarfile + {library}"] = self.library(library, "put", key, lambda _: str(tree))
        return found


def out(into: Path) -> str:
    return str(into / "out")


def _name(key: str) -> str:
    return key.rpartition("/")[2]
