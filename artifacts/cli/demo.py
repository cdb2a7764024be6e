"""``artifacts demo``: a small but real experiment, from push to compared results, on an embedded S3 server."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

from artifacts import objects
from artifacts.archive.pack import pack, scan
from artifacts.cli import exits
from artifacts.cli.running import run_request
from artifacts.cli.session import Session
from artifacts.errors import ArtifactsError
from artifacts.pushing import push
from artifacts.request import Artifact, Config, Experiment, Request, Resource, dumps
from artifacts.staging import StagingDir
from artifacts.state import write_private
from creds.errors import MissingDependency
from creds.location import Location
from creds.models import AWSCredential, Credentials
from creds.policy import Endpoint, Policy
from creds.resolve import resolve

BUCKET = "artifacts-demo"
EMBEDDED = Credentials(aws=AWSCredential(access_key="demo", secret_access_key="demo-secret"))  # noqa: S106 - the embedded server takes any keys


class DemoError(ArtifactsError):
    """Raised when what came back is not what was sent: the demonstration failed."""

    code = "demo"


def demonstrate(
    session: Session, *, keep: str | None, endpoint_url: str | None, credentials: Credentials | None
) -> None:
    """Push an experiment, stage it, run it, upload, fetch the results back and compare; tell each step and its time.

    Args:
        keep: work in this folder and leave it; None works in a temporary one.
        endpoint_url, credentials: an S3 server to use; None starts moto's in this process.

    Raises:
        MissingDependency: the ``demo`` extra is not installed.
        DemoError: the results differ.
    """
    with _folder(keep) as folder, contextlib.ExitStack() as server:
        began = time.monotonic()
        url = endpoint_url or server.enter_context(_embedded())
        demo = _Demo(session, folder, Endpoint.parse(url), credentials or EMBEDDED)
        demo.push()
        demo.run()
        demo.compare()
        session.say(f"the whole took {time.monotonic() - began:.2f} s")
        if keep is not None:
            session.say(f"everything is in {folder}")


class _Demo:
    """The steps, each told with its time."""

    def __init__(self, session: Session, folder: Path, endpoint: Endpoint, credentials: Credentials) -> None:
        self.session = session
        self.folder = folder
        self.endpoint = endpoint
        self.credentials = credentials
        self.job = folder / "job"
        self.policy = Policy.for_requests([endpoint])

    def push(self) -> None:
        """The client's side: pack and upload the workspace and the dataset, write the request."""
        local = self.folder / "local"
        with resources.as_file(resources.files("artifacts.cli") / "experiment") as experiment:
            shutil.copytree(experiment, local, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
        self._bucket()
        with self._step(f"push {local} to {self.endpoint.url}/{BUCKET}"):
            self.request, _ = push(
                self._request(),
                base=local,
                policy=Policy.for_caller(endpoints=[self.endpoint]),
                on_event=self.session.on_event,
                cancel=self.session.cancel,
            )
        write_private(self.folder / "request.json", dumps(self.request))

    def run(self) -> None:
        """The runner's side: stage, run, upload."""
        with self._step(f"stage, run and upload in {self.job}"), self._staging() as staging:
            code = run_request(
                self.session,
                staging,
                self.request,
                [sys.executable, "train.py"],
                fresh=False,
                start_empty=(),
                environ=os.environ,
            )
        if code != exits.DONE:
            raise DemoError(f"the experiment ended with exit code {code}")
        with self._step("stage again: nothing moves"):
            self._staging().stage(self.request)

    def compare(self) -> None:
        """Fetch the results back and compare them with what the experiment left."""
        for label in ("modeldir", "output"):
            artifact = (self.request.experiment.artifacts or {})[label]
            with self._step(f"fetch {label} back and compare"):
                target = self.folder / "results" / label
                shutil.rmtree(target, ignore_errors=True)
                objects.get(
                    artifact.qualified,
                    target,
                    unpack=True,
                    access=objects.Access(
                        credentials=self.credentials, policy=Policy.for_caller(endpoints=[self.endpoint])
                    ),
                    on_event=self.session.on_event,
                    cancel=self.session.cancel,
                )
                if _packed(target) != _packed(self.job / label):
                    raise DemoError(f"{target} differs from {self.job / label}")
        self.session.say((self.folder / "results" / "modeldir" / "model.json").read_text().strip())

    def _request(self) -> Request:
        def artifact(*, mutable: bool = False, local: str = "", key: str = "") -> Artifact:
            place = f"s3://{self.endpoint.host}/{BUCKET}"
            return Artifact(
                bucket=BUCKET,
                key=key,
                qualified=f"{place}/{key}" if key else place,
                local=local,
                mutable=mutable,
                unpack=True,
                credentials=self.credentials,
            )

        return Request(
            config=Config(env={"STEPS": "300"}, experiment_lifetime="1h"),
            experiment=Experiment(
                key="demo",
                filename="train.py",
                max_duration="10m",
                resources_needed=Resource(cpus=1, hdd="1GB", ram="1GB"),
                artifacts={
                    "workspace": artifact(local="workspace"),
                    "dataset": artifact(local="dataset", key="datasets/points.tar.gz"),
                    "modeldir": artifact(mutable=True, key="experiments/demo/modeldir.tar.gz"),
                    "output": artifact(mutable=True, key="experiments/demo/output.tar"),
                },
            ),
        )

    def _bucket(self) -> None:
        location = Location.parse(f"s3://{self.endpoint.host}/{BUCKET}/x")
        assert location is not None
        with contextlib.closing(resolve(location, self.credentials, None, self.policy).open()) as store:
            client = store.client
            if BUCKET not in {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}:
                client.create_bucket(Bucket=BUCKET)
            for label in ("modeldir.tar.gz", "output.tar"):
                # Each demonstration begins with a model of its own.
                store.delete(f"experiments/demo/{label}")

    def _staging(self) -> StagingDir:
        return StagingDir(
            self.job,
            policy=self.policy,
            on_event=self.session.on_event,
            cancel=self.session.cancel,
            run=self.session.run,
        )

    @contextlib.contextmanager
    def _step(self, what: str) -> Iterator[None]:
        self.session.say(f"-- {what}")
        began = time.monotonic()
        yield
        self.session.say(f"   {time.monotonic() - began:.2f} s")


def _packed(folder: Path) -> bytes:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return b"".join(pack(scan(descriptor)))
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _folder(keep: str | None) -> Iterator[Path]:
    if keep is not None:
        Path(keep).mkdir(parents=True, exist_ok=True)
        yield Path(keep).resolve()
        return
    with tempfile.TemporaryDirectory(prefix="artifacts-demo-") as folder:
        yield Path(folder).resolve()


@contextlib.contextmanager
def _embedded() -> Iterator[str]:
    """Moto's S3 server in this process, on loopback."""
    try:
        from moto.server import ThreadedMotoServer
    except ImportError as error:
        raise MissingDependency(
            "the embedded S3 server is not installed", hint="pip install 'moto[server,s3]'"
        ) from error
    log = logging.getLogger("werkzeug")
    level = log.level
    log.setLevel(logging.ERROR)  # it would tell of every request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()
        log.setLevel(level)
