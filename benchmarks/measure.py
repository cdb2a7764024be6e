"""Whole processes, measured: one pipeline at a time, and rounds in which contenders take turns."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.confine import Confinement

LAUNCH = Path(__file__).with_name("launch.py")


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """Processes of which each reads what the one before writes.

    Attributes:
        argvs: one command line a process.
        environ: beside ``base_environ``.
        stdout: where the last one writes.
        confinement: what memory they may use.
    """

    argvs: Sequence[Sequence[str]]
    environ: Mapping[str, str] = field(default_factory=dict)
    stdin: str = os.devnull
    stdout: str = os.devnull
    confinement: Confinement | None = None


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One way to do a work.

    Attributes:
        pipeline: makes the processes; given the folder that takes their output.
        missing: why it cannot run here, None when it can.
        digest: of what it left in the folder (or in the store); called once, outside the timing.
        note: what else there is to say of a run, asked after each.
        prepare, clean: before and after each run, outside the timing; given the folder.
    """

    pipeline: Callable[[Path], Pipeline]
    missing: str | None = None
    digest: Callable[[Path], str] | None = None
    note: Callable[[], str] | None = None
    prepare: Callable[[Path], None] | None = None
    clean: Callable[[Path], None] | None = None


@dataclass(frozen=True, kw_only=True)
class Run:
    """What one run took.

    Attributes:
        cpu_seconds: user and system, of all processes and those they waited for.
        peak_bytes: resident memory of the largest process. Each counts at least what the launcher has, some 10 MiB.
        sum_bytes: the processes' peaks together.
    """

    seconds: float
    cpu_seconds: float
    peak_bytes: int
    sum_bytes: int


@dataclass(kw_only=True)
class Outcome:
    """All runs of one contender.

    Attributes:
        why: it is not here, or it failed: then ``runs`` does not count. Empty when all is well.
        note: what else there is to say of its last run.
    """

    name: str
    runs: list[Run] = field(default_factory=list)
    why: str = ""
    missing: bool = False
    note: str = ""

    @property
    def ok(self) -> bool:
        return not self.why and bool(self.runs)

    def values(self, measure: str) -> list[float]:
        return [getattr(run, measure) for run in self.runs]

    def median(self, measure: str = "seconds") -> float:
        return statistics.median(self.values(measure))


class Failed(Exception):
    """A contender's processes failed, or left something else than they should."""


def base_environ(home: str) -> dict[str, str]:
    """What every contender sees: none of the caller's own setup."""
    return {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        "HOME": home,
        "LANG": "C.UTF-8",
        "NO_PROXY": "*",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
    }


def run(pipeline: Pipeline, *, timeout_seconds: float = 900.0) -> Run:
    """Run the pipeline once.

    Raises:
        Failed: a process failed, with the last lines they wrote; or it took longer than ``timeout_seconds``.
    """
    with tempfile.TemporaryDirectory(prefix="bench-home-") as home:
        errors = Path(home, "errors")
        environ = base_environ(home) | dict(pipeline.environ)
        job = {
            "argvs": pipeline.argvs,
            "environ": environ,
            "stdin": pipeline.stdin,
            "stdout": pipeline.stdout,
            "errors": str(errors),
            "folder": home,
            "timeout_seconds": timeout_seconds,
            "group": "",
            "data_bytes": 0,
        }
        if (confinement := pipeline.confinement) is not None:
            job["group"] = str(confinement.group or "")
            job["data_bytes"] = 0 if confinement.group else confinement.limit_bytes
        command = [sys.executable, "-I", "-S", str(LAUNCH)]
        # It finds programs by its own PATH, not by theirs.
        own = {"PATH": environ["PATH"]}
        told = subprocess.run(command, input=json.dumps(job).encode(), env=own, capture_output=True, check=False)
        if told.returncode:
            raise Failed(told.stderr.decode(errors="replace").strip().rpartition("\n")[2])
        result = json.loads(told.stdout)
        if result.pop("timed_out"):
            raise Failed(f"took more than {timeout_seconds:.0f} s")
        codes = result.pop("codes")
        if any(codes):
            said = errors.read_text(errors="replace").strip().splitlines()[-2:]
            raise Failed(f"exit {' | '.join(map(str, codes))}: {' / '.join(said)[-300:]}")
        return Run(**result)


def remove(folder: Path) -> None:
    """Remove what a run left, whatever it is."""
    if folder.is_dir():
        shutil.rmtree(folder)
    else:
        folder.unlink(missing_ok=True)


def _once(contender: Contender, folder: Path, timeout_seconds: float, *, expected: str | None) -> Run:
    remove(folder)
    folder.mkdir(parents=True)
    try:
        if contender.prepare is not None:
            contender.prepare(folder)
        done = run(contender.pipeline(folder), timeout_seconds=timeout_seconds)
        if expected is not None and contender.digest is not None:
            try:
                seen = contender.digest(folder)
            except OSError as error:
                raise Failed(f"left nothing that can be read: {error}") from error
            if seen != expected:
                raise Failed("what it left differs from what it should be")
        return done
    finally:
        if contender.clean is not None:
            contender.clean(folder)
        remove(folder)


def rounds(
    contenders: Mapping[str, Contender],
    folder: Path,
    *,
    runs: int,
    expected: str | None,
    warm_up: bool = True,
    timeout_seconds: float = 900.0,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Outcome]:
    """Let contenders take turns: a warm-up round, then ``runs`` that count. The first round's output is compared.

    The order rotates by one each round, so that none always follows the same. One that fails is out, and says why.

    Args:
        folder: made empty before, and removed after, each run.
        expected: the digest of what each must leave; None where there is nothing to compare.
    """
    outcomes = {name: Outcome(name=name) for name in contenders}
    for name, contender in contenders.items():
        if contender.missing is not None:
            outcomes[name].why, outcomes[name].missing = contender.missing, True
    names = list(contenders)
    for number in range(0 if warm_up else 1, runs + 1):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            outcome = outcomes[name]
            if outcome.why:
                continue
            say(f"{'warm-up' if not number else f'{number}/{runs}'}: {name}")
            try:
                first = number == (0 if warm_up else 1)
                done = _once(contenders[name], folder, timeout_seconds, expected=expected if first else None)
            except Failed as error:
                outcome.why = str(error)
                outcome.runs.clear()
                continue
            if number:
                outcome.runs.append(done)
            if (note := contenders[name].note) is not None:
                outcome.note = note()
    return outcomes


def ratio(ours: Outcome, other: Outcome, measure: str = "seconds") -> float:
    """The median over rounds of ours divided by the other's in the same round."""
    pairs = zip(ours.values(measure), other.values(measure), strict=True)
    return statistics.median(mine / theirs for mine, theirs in pairs)
