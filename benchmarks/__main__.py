"""The command line of ``scripts/bench``."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks import docs, growth, report, services
from benchmarks.content import Shelf
from benchmarks.goals import GOALS, Goal
from benchmarks.measure import Outcome, rounds
from benchmarks.peers import FLOOR, OURS, Programs
from benchmarks.report import Measured, Results
from benchmarks.works import FULL, QUICK, Place, Work, works


def arguments(given: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench", description="This project against its peers, side by side.")
    parser.add_argument(
        "--quick", action="store_true", help="only what has a goal, smaller, in 3 minutes beside making environments"
    )
    parser.add_argument("--scale", type=float, default=1.0, metavar="F", help="move so many times what is usual [1]")
    parser.add_argument("--only", metavar="NAME,...", help="these works only, fetch-* is all that begin so; see --list")
    parser.add_argument(
        "--peers", metavar="TEXT,...", help="this project, and only peers whose name holds one of these"
    )
    parser.add_argument("--list", action="store_true", help="print the names of the works, and what they are")
    parser.add_argument("--runs", type=int, default=5, metavar="N", help="runs that count, after one warm-up [5]")
    parser.add_argument("--against", action="append", default=[], metavar="REV", help="also this project at REV")
    parser.add_argument("--to", metavar="DIR", help="where contenders write [memory: /dev/shm]; a real file system")
    parser.add_argument("--keep", metavar="DIR", default=".bench", help="where what is moved is kept [.bench]")
    parser.add_argument("--json", metavar="FILE", help="write every run's figures")
    parser.add_argument(
        "--from",
        dest="source",
        metavar="FILE",
        help="figures of an earlier run: show them; with --only, measure those works anew",
    )
    parser.add_argument("--plots", metavar="DIR", help="draw the plots")
    parser.add_argument("--write-docs", action="store_true", help="put tables and plots into docs/performance.md")
    return parser.parse_args(given)


def say(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
    else:
        print(text, file=sys.stderr)


@contextlib.contextmanager
def copies(revisions: Sequence[str], keep: Path) -> Iterator[dict[str, Path]]:
    """This project at other commits, each in a worktree of its own that is removed at the end.

    Raises:
        subprocess.CalledProcessError: git knows no such commit.
    """
    with contextlib.ExitStack() as stack:
        found: dict[str, Path] = {}
        for revision in revisions:
            folder = keep / f"against-{os.getpid()}-{len(found)}"
            git = ["git", "-C", str(services.ROOT), "worktree"]
            subprocess.run([*git, "add", "--quiet", "--detach", str(folder), revision], check=True)
            stack.callback(subprocess.run, [*git, "remove", "--force", str(folder)], check=True)
            found[f"at {revision}"] = folder
        yield found


class Servers:
    """Starts each server when a work first asks for it."""

    def __init__(self, stack: contextlib.ExitStack, shelf: Shelf) -> None:
        self._stack, self._shelf = stack, shelf
        self._running: dict[tuple[str, float], services.Server] = {}

    def get(self, work: Work) -> services.Server | None:
        if work.server is None:
            return None
        asked = (work.server, work.round_trip_seconds)
        if asked not in self._running:
            near = self._running.get((work.server, 0.0)) or self._start(work.server)
            self._running[work.server, 0.0] = near
            if work.round_trip_seconds:
                near = self._stack.enter_context(services.delayed(near, work.round_trip_seconds))
            self._running[asked] = near
        return self._running[asked]

    def _start(self, kind: str) -> services.Server:
        if kind == services.NGINX:
            return self._stack.enter_context(services.nginx(self._shelf.bucket.parent))
        return self._stack.enter_context(services.seaweedfs())


def wanted(name: str, goals: Sequence[Goal], options: argparse.Namespace) -> bool:
    """Is this contender asked for? This project always is, the floor but for the quick run."""
    if name.startswith(OURS) or (name == FLOOR and not options.quick):
        return True
    if options.peers is not None:
        return any(part in name for part in options.peers.split(","))
    return not options.quick or not goals or any(name in goal.peers for goal in goals)


def measure(work: Work, place: Place, folder: Path, options: argparse.Namespace) -> dict[str, Outcome]:
    """Prepare one work, let its contenders take turns, and put everything away."""
    goals = [goal for goal in GOALS if goal.work == work.name]
    prepared = work.prepare(place)
    how = {"runs": 1, "warm_up": False, "timeout_seconds": 3600.0} if work.disk_bytes else {"runs": options.runs}
    try:
        contenders = {name: it for name, it in prepared.contenders.items() if wanted(name, goals, options)}
        tell = lambda text: say(f"{work.name}: {text}")
        return rounds(contenders, folder, expected=prepared.expected, say=tell, **how)
    finally:
        prepared.close()


def run(options: argparse.Namespace, chosen: Sequence[Work], results: Results) -> None:
    """Measure the works, in order; each one's table is printed when it is done."""
    keep = Path(options.keep).absolute()
    shelf = Shelf(keep, say)
    to = options.to or ("/dev/shm" if os.access("/dev/shm", os.W_OK) else tempfile.gettempdir())
    with contextlib.ExitStack() as stack:
        folder, on_disk, scratch = (
            Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-", dir=where)))
            for where in (to, keep, None)
        )
        against = stack.enter_context(copies(options.against, keep))
        programs = Programs(peers=services.ROOT / ".bench" / "peers", against=against)
        running = Servers(stack, shelf)
        for work in chosen:
            try:
                server = running.get(work)
            except FileNotFoundError as error:
                results.works.append(Measured.of(work, {}, why=f"not here: {error}"))
                continue
            if work.disk_bytes > (free := shutil.disk_usage(keep).free):
                why = f"not here: {work.disk_bytes >> 20:,} MiB of disk are needed, {free >> 20:,} are free"
                results.works.append(Measured.of(work, {}, why=why))
                continue
            place = Place(shelf=shelf, programs=programs, server=server, scratch=scratch)
            into = (on_disk if work.disk_bytes else folder) / "into"
            measured = Measured.of(work, measure(work, place, into, options))
            results.works.append(measured)
            say("")
            print(report.table(measured), flush=True)


def main(given: Sequence[str] | None = None) -> int:
    """Measure, print, write. 1 when a contender failed; one that is not here is no failure."""
    options = arguments(sys.argv[1:] if given is None else given)
    began = time.monotonic()
    every = works((QUICK if options.quick else FULL).scaled(options.scale))
    if options.list:
        print("\n".join(f"{work.name:28} {work.title}" for work in every))
        return 0
    with_goal = {goal.work for goal in GOALS}
    chosen = [work for work in every if not options.quick or work.name in with_goal]
    if options.only:
        patterns = options.only.split(",")
        unknown = [one for one in patterns if not any(docs.matches(work.name, one) for work in every)]
        if unknown:
            print(f"no such work: {', '.join(unknown)}; see --list", file=sys.stderr)
            return 2
        chosen = [work for work in every if any(docs.matches(work.name, one) for one in patterns)]
    results = Results(
        quick=options.quick or options.scale < 1, runs=options.runs, to="a disk" if options.to else "memory (tmpfs)"
    )
    if options.source:
        results = Results.load(Path(options.source))
        anew = {work.name for work in chosen} if options.only else set()
        results.works = [work for work in results.works if work.name not in anew]
        print("\n".join(report.table(work) for work in results.works))
    if options.only or not options.source:
        run(options, chosen, results)
        results.seconds += time.monotonic() - began
    order = [work.name for work in every]
    results.works.sort(key=lambda work: order.index(work.name))
    print(growth.table(results))
    print(report.goals(results))
    print(f"\n{results.seconds:.0f} s in all")
    if options.json:
        results.save(Path(options.json))
    if options.plots or options.write_docs:
        from benchmarks import plots

        if options.plots:
            plots.draw(results, Path(options.plots))
        if options.write_docs:
            docs.write(results, plots.draw(results, docs.IMAGES))
    return 1 if any(outcome.why and not outcome.missing for work in results.works for outcome in work.outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
