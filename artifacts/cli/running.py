"""Running the experiment's command between stage and upload: its environment, its time, its signals, its exit code."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from artifacts.cli import exits
from artifacts.cli.session import Session
from artifacts.errors import RequestError
from artifacts.request import Request
from artifacts.staging import StagingDir
from creds.errors import Cancelled, ToolkitError

KEPT = ("PATH", "HOME", "LANG", "TMPDIR")
GRACE_SECONDS = 10.0
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_TERM = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)")


def environment(env: Mapping[str, str] | None, environ: Mapping[str, str]) -> dict[str, str]:
    """The command's whole environment: PATH, HOME, LANG and TMPDIR of ours, then the request's.

    ``%NAME%`` in a value of the request stands for one of those four, as StudioML's ``%PATH%:./bin`` means it; any
    other name is left as it is written, since a request must not read the runner's environment.

    Raises:
        RequestError: what no process can have in its environment.
    """
    kept = {name: environ[name] for name in KEPT if name in environ}
    if any(not name or "=" in name or "\0" in name + value for name, value in (env or {}).items()):
        raise RequestError("config.env: a name is empty or holds '=', or something holds a NUL")

    def expand(value: str) -> str:
        return re.sub(r"%(\w+)%", lambda match: kept.get(match[1], match[0]), value)

    return kept | {name: expand(value) for name, value in (env or {}).items()}


def duration_seconds(text: str, field: str) -> float | None:
    """A duration as Go's ``time.ParseDuration`` reads it (``1h30m``, ``75s``), in seconds; None when empty.

    Raises:
        RequestError: it is no duration, or is negative.
    """
    if not text:
        return None
    if text == "0":
        return 0.0
    body = text.removeprefix("+")
    terms = list(_TERM.finditer(body))
    if not terms or "".join(term[0] for term in terms) != body:
        raise RequestError(f'{field}: expected a duration such as "1h30m"')
    return sum(float(term[1]) * _UNITS[term[2]] for term in terms)


def allowed_seconds(request: Request, now: float) -> float | None:
    """How long the command may run: ``max_duration``, and what ``experimentLifetime`` leaves since ``time_added``.

    Args:
        now: the time, in seconds since the epoch.

    Returns:
        Seconds, zero or less when the lifetime is over; None for no limit.

    Raises:
        RequestError: one of them is no duration.
    """
    limits = []
    longest = duration_seconds(request.experiment.max_duration, "experiment.max_duration")
    if longest:
        limits.append(longest)
    lifetime = duration_seconds(request.config.experiment_lifetime, "config.experimentLifetime")
    if lifetime:
        added = request.experiment.time_added
        limits.append(lifetime + added - now if added > 0 else lifetime)
    return min(limits, default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a command ended.

    Attributes:
        exit_code: as a shell would give it: its own, 128+n for signal n, 126 not executable, 127 not found,
            124 stopped at its limit, 125 never started.
        reason: why, when it is not its own doing.
    """

    exit_code: int
    reason: str | None = None


def run(
    command: list[str],
    folder: Path,
    env: Mapping[str, str],
    *,
    seconds: float | None,
    forwarding: Callable[[Callable[[int], None]], None],
    stdout: IO[str] | None = None,
) -> Ended:
    """Run ``command`` in ``folder`` in a session of its own and wait for it.

    Args:
        seconds: after this long it and its children get SIGTERM, and SIGKILL ten seconds later.
        forwarding: called with the function that passes a signal number on to the command and its children.
        stdout: where its standard output goes; None shares ours.
    """
    process: subprocess.Popen[bytes] | None = None
    early: list[int] = []

    def pass_on(number: int) -> None:
        if process is None:
            early.append(number)
            return
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return

    # From here on signals are the command's; one that comes while it is being started waits for it.
    forwarding(pass_on)
    try:
        process = subprocess.Popen(command, cwd=folder, env=dict(env), stdout=stdout, start_new_session=True)  # noqa: S603 - running the caller's command is the purpose
    except FileNotFoundError:
        if not folder.is_dir():
            return Ended(exit_code=exits.NEVER_STARTED, reason=f"{folder} is no folder")
        return Ended(exit_code=exits.COMMAND_NOT_FOUND, reason=f"{command[0]} is not found")
    except OSError as error:
        return Ended(exit_code=exits.NOT_EXECUTABLE, reason=f"{command[0]} cannot be executed: {error.strerror}")
    for number in early:
        pass_on(number)
    deadline = None if seconds is None else time.monotonic() + seconds
    try:
        code = process.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        pass_on(signal.SIGTERM)
        try:
            process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            pass_on(signal.SIGKILL)
            process.wait()
        return Ended(exit_code=exits.STOPPED_AT_LIMIT, reason=f"stopped after its {seconds:.6g} s")
    finally:
        # What it left behind in its session must not write while its results are packed.
        pass_on(signal.SIGKILL)
    if code < 0:
        return Ended(exit_code=128 - code, reason=f"ended by signal {-code}")
    return Ended(exit_code=code)


def run_request(
    session: Session,
    staging: StagingDir,
    request: Request,
    command: list[str],
    *,
    fresh: bool,
    start_empty: Iterable[str],
    environ: Mapping[str, str],
) -> int:
    """Stage, run, upload. Returns the exit code; what the command left is uploaded however it ended.

    Raises:
        ToolkitError: the command was not started.
    """
    seconds = allowed_seconds(request, time.time())
    if seconds is not None and seconds <= 0:
        session.warn("the experiment's lifetime is over; the command was not started")
        return exits.NEVER_STARTED
    env = environment(request.config.env, environ)
    session.results(staging.stage(request, fresh=fresh, start_empty=start_empty))
    # The deadline ends the staging or the command; what the command made is uploaded all the same.
    seconds = min((limit for limit in (seconds, session.take_deadline()) if limit is not None), default=None)
    workspace = staging.root / "workspace"
    began = time.monotonic()
    ended = run(
        command,
        workspace if workspace.is_dir() else staging.root,
        env,
        seconds=seconds,
        forwarding=session.forwarding,
        # Lines of JSON and the command's own would mix.
        stdout=sys.stderr if session.as_json else None,
    )
    session.forwarding(None)
    session.command_exit = ended.exit_code
    if ended.reason is not None:
        session.warn(ended.reason)
    else:
        session.say(f"command exited with {ended.exit_code} after {time.monotonic() - began:.1f} s")
    try:
        session.results(staging.upload(request))
    except Cancelled:
        return exits.OWED
    except ToolkitError as error:
        session.tell(error)
        return exits.OWED
    return ended.exit_code
