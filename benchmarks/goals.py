"""What this project wants to reach, as code: each row is held against the figures of the same run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.measure import Outcome, ratio
from benchmarks.peers import OURS


@dataclass(frozen=True, kw_only=True)
class Goal:
    """One row.

    Attributes:
        work: its name.
        peers: against the fastest of these.
        at_most: the median ratio of ours to the peer's; or, with ``over``, how much more ours may take.
        ours: which of this project's contenders.
        measure: of :class:`benchmarks.measure.Run`.
        over: compare the difference of medians, in the measure's unit, not the ratio.
    """

    work: str
    peers: tuple[str, ...]
    at_most: float
    ours: str = OURS
    measure: str = "seconds"
    over: bool = False


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A goal beside what was measured.

    Attributes:
        peer: the fastest of the goal's, None when none of them ran.
        measured: None when ours or every peer is not here or failed.
    """

    goal: Goal
    peer: str | None
    measured: float | None

    @property
    def met(self) -> bool | None:
        return None if self.measured is None else self.measured <= self.goal.at_most


def _against(work: str, *rows: tuple[float, tuple[str, ...]]) -> list[Goal]:
    return [Goal(work=work, peers=peers, at_most=at_most) for at_most, peers in rows]


_CURL, _BOTO3 = ("curl | tar x",), ("boto3 + tarfile",)
_EIGHT, _PARALLEL = ("boto3, 8 threads",), ("curl --parallel",)
GOALS = [
    *_against("fetch-large-tar", (0.45, _CURL), (0.25, _BOTO3)),
    *_against("fetch-large-gz", (0.15, _CURL), (0.30, _BOTO3)),
    *_against("fetch-small-tar", (1.0, _CURL), (0.08, _BOTO3)),
    *_against("fetch-small-gz", (0.35, _CURL), (0.10, _BOTO3)),
    *_against("prefix", (0.12, _EIGHT), (0.4, ("s5cmd cp",)), (2.0, _PARALLEL)),
    *_against("objects", (0.12, _EIGHT), (0.4, ("s5cmd run",)), (2.0, _PARALLEL)),
    *_against("object", (0.9, ("curl", "s5cmd cp", "rclone copyto", "boto3"))),
    *_against("upload-large-tar", (0.8, ("tar c | s5cmd pipe", "tar c | rclone rcat"))),
    *_against("upload-large-gz", (0.17, ("tar cz | s5cmd pipe",)), (0.2, ("tarfile + boto3",))),
    *_against("upload-small-tar", (0.9, ("tar c | s5cmd pipe",)), (0.3, ("tarfile + boto3",))),
    *_against("far-fetch-large-tar", (0.8, ("s5cmd cat | tar x",))),
    *_against("far-objects", (0.8, ("s5cmd run",))),
    *_against("far-prefix", (0.8, ("s5cmd cp",))),
    Goal(work="eight-at-once", peers=("python",), at_most=256 << 20, measure="peak_bytes", over=True),
    Goal(work="start", ours=f"{OURS}, import and loads", peers=("pydantic, one model",), at_most=0.08, over=True),
    Goal(work="start", ours=f"{OURS} --help", peers=("python",), at_most=0.15, over=True),
]


def judge(goal: Goal, outcomes: Mapping[str, Outcome]) -> Verdict:
    """Hold one goal against its work's outcomes."""
    ours = outcomes.get(goal.ours)
    there = [outcomes[name] for name in goal.peers if name in outcomes and outcomes[name].ok]
    if not there:
        return Verdict(goal=goal, peer=None, measured=None)
    best = min(there, key=lambda outcome: outcome.median(goal.measure))
    if ours is None or not ours.ok:
        return Verdict(goal=goal, peer=best.name, measured=None)
    more = ours.median(goal.measure) - best.median(goal.measure)
    return Verdict(goal=goal, peer=best.name, measured=more if goal.over else ratio(ours, best, goal.measure))
