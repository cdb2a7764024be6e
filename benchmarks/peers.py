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

    def pipe(self, *argvs: Sequence[str], stdout: str = os.devnull, more: Mapping[str, str] | None = None) -> Pipeline:
        return Pipeline(argvs=argvs, environ={**self.server.environ, **(more or {})}, stdout=stdout)

    def ours(self, *arguments: str | Callable[[Path], str]) -> dict[str, Contender]:
        """This project's command, and the same at other commits; a callable argument is given the folder."""

        def make(root: Path) -> Callable[[Path], Pipeline]:
            def pipeline(into: Path) -> Pipeline:
                given = [one(into) if callable(one) else one for one in arguments]
                return self.pipe([sys.executable, "-m", "artifacts.cli", *given], more={"PYTHONPATH": str(root)})

            return pipeline

        copies = {OURS: ROOT} | {f"{OURS} {name}": root for name, root in self.programs.against.items()}
        return {name: Contender(pipeline=make(root)) for name, root in copies.items()}

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
        found = self.ours("get", "--quiet", "--unpack", self.server.url(key, self.bucket), _out)
        if kind in ("tar", "gz"):
            found[FLOOR] = self.floor("floor_fetch.py", key, _out)
        for name, (needs, command) in self.reading(key).items():
            tar = ["tar", "-x", *UNTAR[kind], "-f", "-", "-C"]
            found[f"{name} | tar x"] = replace(
                self.contender(lambda into, command=command, tar=tar: self.pipe(command, [*tar, _out(into)]), needs),
                prepare=lambda into: (into / "out").mkdir(),
            )
        for name in LIBRARIES:
            found[f"{name} + tarfile"] = self.library(name, "unpack", key, _out)
        return found

    def one_file(self, key: str) -> dict[str, Contender]:
        """Everything that fetches one object into the file ``out``."""
        found = self.ours("get", "--quiet", self.server.url(key, self.bucket), _out)
        s3 = f"s3://{self.bucket}/{key}"
        for name, needs, command in (
            ("curl", "curl", lambda into: [*self.curl(), "--output", _out(into), self.http(key)]),
            ("s5cmd cp", "s5cmd", lambda into: [*self.s5cmd(), "cp", s3, _out(into)]),
            ("rclone copyto", "rclone", lambda into: [*self.rclone(), "copyto", self.rclone_name(key), _out(into)]),
            ("aws s3 cp", "aws", lambda into: [*self.aws(), "s3", "cp", "--quiet", s3, _out(into)]),
        ):
            found[name] = self.contender(lambda into, command=command: self.pipe(command(into)), needs)
        for name in LIBRARIES:
            found[name] = self.library(name, "file", key, _out)
        return found

    def many_objects(self, keys: Sequence[str], lists: Path, request: Path) -> dict[str, Contender]:
        """Everything that fetches many small objects into one folder.

        Args:
            lists: a folder for the lists of keys that the programs take.
            request: a document that names the same objects as artifacts.
        """
        prefix = keys[0].rpartition("/")[0]
        lists.mkdir(parents=True, exist_ok=True)
        (lists / "keys").write_text("\n".join(keys))
        found = {
            f"{name}, request": contender
            for name, contender in self.ours(
                "stage", "--quiet", "--endpoint", self.server.endpoint_url, "--into", _out, str(request)
            ).items()
        }
        if self.server.kind != NGINX:
            url = self.server.url(f"{prefix}/", self.bucket)
            found |= {
                f"{name}, prefix": contender
                for name, contender in self.ours("get", "--quiet", url, lambda into: f"{_out(into)}/").items()
            }

        def curl(into: Path) -> Pipeline:
            lines = [f'url = "{self.http(key)}"\noutput = "{into / _name(key)}"\n' for key in keys]
            (lists / "curl").write_text("".join(lines))
            return self.pipe([*self.curl(), "--parallel", "--config", str(lists / "curl")])

        def s5cmd(into: Path) -> Pipeline:
            lines = [f"cp s3://{self.bucket}/{key} {into / _name(key)}\n" for key in keys]
            (lists / "s5cmd").write_text("".join(lines))
            return self.pipe([*self.s5cmd(), "run", str(lists / "s5cmd")])

        def rclone(into: Path) -> Pipeline:
            chosen = ["--files-from-raw", str(lists / "keys"), "--no-traverse"]
            source = ":http:" if self.server.kind == NGINX else ":s3:"
            return self.pipe([*self.rclone(), "copy", *chosen, f"{source}{self.bucket}", str(into)])

        found["curl --parallel"] = self.contender(curl, "curl")
        found["s5cmd run"] = self.contender(s5cmd, "s5cmd")
        found["rclone copy"] = self.contender(rclone, "rclone")
        if self.server.kind != NGINX:
            copy = ["s3", "cp", "--quiet", "--recursive", f"s3://{self.bucket}/{prefix}/"]
            found["aws s3 cp --recursive"] = self.contender(
                lambda into: self.pipe([*self.aws(), *copy, str(into)]), "aws"
            )
        for name in LIBRARIES:
            found[f"{name}, 8 threads" if name != "s3fs" else name] = self.library(
                name, "objects", str(lists / "keys"), str
            )
        return found

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


def _out(into: Path) -> str:
    return str(into / "out")


def _name(key: str) -> str:
    return key.rpartition("/")[2]
