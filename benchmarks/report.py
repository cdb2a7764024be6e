"""Figures as tables and as JSON, and the goals beside what was measured."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from benchmarks.goals import GOALS, Verdict, judge
from benchmarks.measure import Outcome, Run, ratio
from benchmarks.peers import OURS
from benchmarks.works import Work

MIB = 1 << 20


def machine() -> dict[str, Any]:
    """The machine, in general terms."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(pages / (1 << 30)),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


@dataclass(kw_only=True)
class Measured:
    """One work's figures.

    Attributes:
        why: it could not be done at all; empty when it could.
    """

    name: str
    title: str
    server: str | None
    amount: int | None
    outcomes: list[Outcome]
    why: str = ""

    @classmethod
    def of(cls, work: Work, outcomes: Mapping[str, Outcome], why: str = "") -> Self:
        return cls(
            name=work.name,
            title=work.title,
            server=work.server,
            amount=work.amount,
            outcomes=list(outcomes.values()),
            why=why,
        )

    @property
    def by_name(self) -> dict[str, Outcome]:
        return {outcome.name: outcome for outcome in self.outcomes}

    @property
    def ours(self) -> Outcome | None:
        """What the others are compared with: the first of this project's that ran."""
        return next((one for one in self.outcomes if one.name.startswith(OURS) and one.ok), None)


@dataclass(kw_only=True)
class Results:
    """One run of the whole.

    Attributes:
        quick: at sizes smaller than the goals are meant for.
        to: where contenders wrote, in words.
        seconds: what it took in all, making contents and comparing them included.
    """

    quick: bool
    runs: int
    to: str
    seconds: float = 0.0
    machine: dict[str, Any] = field(default_factory=machine)
    works: list[Measured] = field(default_factory=list)

    def verdicts(self) -> list[Verdict]:
        """The goals of the works that were measured."""
        works = {work.name: work for work in self.works}
        return [judge(goal, works[goal.work].by_name) for goal in GOALS if goal.work in works]

    def save(self, path: Path) -> None:
        """Write everything, the goals too, as JSON."""
        goals = [
            {**asdict(verdict.goal), "peer": verdict.peer, "measured": verdict.measured, "met": verdict.met}
            for verdict in self.verdicts()
        ]
        path.write_text(json.dumps({"v": 1, **asdict(self), "goals": goals}, indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> Self:
        """What :meth:`save` wrote; the goals are judged again."""
        read = json.loads(path.read_text())
        works = [
            Measured(
                **{
                    **work,
                    "outcomes": [
                        Outcome(**{**outcome, "runs": [Run(**run) for run in outcome["runs"]]})
                        for outcome in work["outcomes"]
                    ],
                }
            )
            for work in read["works"]
        ]
        return cls(**{key: read[key] for key in ("quick", "runs", "to", "seconds", "machine")}, works=works)


def row(*cells: str) -> str:
    """One row of a table in Markdown."""
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"


def table(work: Measured) -> str:
    """One work's table in Markdown. The last column divides our time by the contender's, round by round."""
    server = f", {work.server}" if work.server else ""
    lines = [f"\n{work.name}: {work.title}{server}\n"]
    if work.why:
        return "\n".join([*lines, work.why])
    heads = ("", "min s", "median s", "max s", "CPU s", "peak MiB", "in all MiB", f"{OURS} / it")
    lines += [row(*heads), row("---", *["---:"] * 7)]
    ours = work.ours
    for outcome in work.outcomes:
        if not outcome.ok:
            lines.append(row(outcome.name, outcome.why or "no runs", *[""] * 6))
            continue
        seconds = outcome.values("seconds")
        compared = "" if ours is None or ours is outcome else f"{ratio(ours, outcome):.2f}"
        lines.append(
            row(
                outcome.name,
                *(f"{value:.3f}" for value in (min(seconds), outcome.median(), max(seconds))),
                f"{outcome.median('cpu_seconds'):.2f}",
                f"{outcome.median('peak_bytes') / MIB:.0f}",
                f"{outcome.median('sum_bytes') / MIB:.0f}",
                compared,
            )
        )
    lines += [f"\n{outcome.name}: {outcome.note}." for outcome in work.outcomes if outcome.ok and outcome.note]
    return "\n".join(lines)


def _shown(verdict: Verdict, value: float | None) -> str:
    if value is None:
        return "not measured"
    if not verdict.goal.over:
        return f"{value:.2f}"
    return f"{value / MIB:.0f} MiB more" if verdict.goal.measure.endswith("bytes") else f"{1000 * value:.0f} ms more"


def goals(results: Results) -> str:
    """The goals' table in Markdown."""
    verdicts = results.verdicts()
    title = "\ngoals, as the median of ratios in the same round"
    if results.quick:
        title += "; sizes are smaller than the goals are meant for, so start times weigh more"
    lines = [
        title + "\n",
        row("work", "against", "at most", "measured", ""),
        row("---", "---", "---:", "---:", "---"),
    ]
    titles = {work.name: work.title for work in results.works}
    for verdict in verdicts:
        goal = verdict.goal
        against = verdict.peer or " / ".join(goal.peers)
        what = f"{titles[goal.work]} ({goal.work})" + ("" if goal.ours == OURS else f": {goal.ours}")
        met = {True: "met", False: "not met", None: ""}[verdict.met]
        lines.append(row(what, against, _shown(verdict, goal.at_most), _shown(verdict, verdict.measured), met))
    met = sum(verdict.met is True for verdict in verdicts)
    return "\n".join([*lines, f"\n{met} of {len(verdicts)} goals met"])
