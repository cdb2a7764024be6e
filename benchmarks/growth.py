"""How time and memory grow: a line through each curve's points, and how far they are from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from benchmarks.report import Measured, Results, row

MIB = 1 << 20
CURVES = {"bytes": ("GiB", 1 << 30), "members": ("1,000 members", 1000)}
"""By what the names of their works begin with: the unit, and how much of the amount is one."""


@dataclass(frozen=True)
class Line:
    """``at_once + per_unit * amount``, with the least squares of the relative distances: each point counts the same.

    Attributes:
        deviation: of the point furthest from it, relative to the line there.
    """

    at_once: float
    per_unit: float
    deviation: float

    @classmethod
    def through(cls, points: Sequence[tuple[float, float]]) -> Self:
        weighted = [(1 / value**2, amount, value) for amount, value in points]
        total = sum(weight for weight, _, _ in weighted)
        x = sum(weight * amount for weight, amount, _ in weighted) / total
        y = sum(weight * value for weight, _, value in weighted) / total
        across = sum(weight * (amount - x) * (value - y) for weight, amount, value in weighted)
        along = sum(weight * (amount - x) ** 2 for weight, amount, _ in weighted)
        per_unit = across / along
        line = cls(y - per_unit * x, per_unit, 0.0)
        deviations = [abs(value / line.at(amount) - 1) for amount, value in points]
        return cls(line.at_once, line.per_unit, max(deviations))

    def at(self, amount: float) -> float:
        return self.at_once + self.per_unit * amount


@dataclass(frozen=True)
class Curve:
    """One contender's points.

    Attributes:
        unit: of the amounts, in words.
        least, most: the ends, in words.
        seconds, peak_mib: by amount, in order.
    """

    name: str
    unit: str
    least: str
    most: str
    seconds: Sequence[tuple[float, float]]
    peak_mib: Sequence[tuple[float, float]]


def curves(results: Results, kind: str) -> list[Curve]:
    """The curves of one kind of ``CURVES``, of those who have three points or more."""
    unit, one = CURVES[kind]
    works = sorted((work for work in results.works if work.name.startswith(f"{kind}-")), key=_amount)
    names = dict.fromkeys(outcome.name for work in works for outcome in work.outcomes)
    found = []
    for name in names:
        there = [(work, it) for work in works if (it := work.by_name.get(name)) is not None and it.ok]
        if len(there) >= 3:
            seconds = [(_amount(work) / one, it.median()) for work, it in there]
            peaks = [(_amount(work) / one, it.median("peak_bytes") / MIB) for work, it in there]
            ends = [_said(kind, there[at][0]) for at in (0, -1)]
            found.append(Curve(name, unit, *ends, seconds, peaks))
    return found


def _amount(work: Measured) -> int:
    return work.amount or 0


def _said(kind: str, work: Measured) -> str:
    amount = _amount(work)
    return f"{amount / MIB:,.4g} MiB" if kind == "bytes" else f"{amount:,}"


def table(results: Results) -> str:
    """Each curve's line and memory in Markdown; empty when no curve was measured."""
    found = [curve for kind in CURVES for curve in curves(results, kind)]
    if not found:
        return ""
    heads = ("", "points", "at once s", "s a unit", "unit", "furthest from the line", "peak MiB, least to most")
    lines = ["\ngrowth: a straight line through the medians\n", row(*heads), row("---", *["---:"] * 6)]
    for curve in found:
        line = Line.through(curve.seconds)
        peaks = [peak for _, peak in curve.peak_mib]
        lines.append(
            row(
                curve.name,
                f"{curve.least} to {curve.most}",
                f"{line.at_once:.3f}",
                f"{line.per_unit:.4f}",
                curve.unit,
                f"{line.deviation:.0%}",
                f"{min(peaks):.0f} to {max(peaks):.0f}",
            )
        )
    return "\n".join(lines)
