"""Draws a run's figures: bars of medians with their ranges, and the curves of growth with a line through each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl

from benchmarks import growth
from benchmarks.growth import CURVES, Curve, Line
from benchmarks.peers import FLOOR, OURS
from benchmarks.report import Measured, Results

mpl.use("svg")

MINE, BEFORE, OTHER = "#08519c", "#6baed6", "#9e9e9e"
"""This project, this project at another commit, and a peer that has no colour of its own."""

COLOURS = {
    FLOOR: "#cfcfcf",
    "curl": "#f2b35e",
    "s5cmd": "#8fce9b",
    "rclone": "#c9a5d8",
    "aws": "#e6988f",
    "boto3": "#cbbb4e",
    "minio": "#8fd0d6",
    "obstore": "#b98b6b",
    "s3fs": "#f3a6c8",
}
"""A peer has the same colour in every picture: the first whose name its own holds."""

PANELS: dict[str, list[str]] = {
    "fetch": ["fetch-large-tar", "fetch-large-gz", "fetch-small-tar", "fetch-small-gz"],
    "kinds": ["fetch-large-zst", "fetch-medium-xz", "fetch-medium-bz2", "fetch-empty-tar"],
    "objects": ["prefix", "objects", "object"],
    "far": ["far-fetch-large-tar", "far-prefix", "far-objects"],
    "upload": ["upload-large-tar", "upload-large-gz", "upload-small-tar", "upload-small-gz"],
    "deployed": ["deployed-fetch-large-tar", "deployed-fetch-small-tar", "deployed-object", "deployed-objects"],
    "cache": ["warm-cache-large", "warm-cache-small"],
}
NAMES = [*PANELS, *(f"growth-{kind}" for kind in CURVES)]
WIDE = 12
"""From so many times the shortest bar on, the axis is logarithmic."""


def draw(results: Results, folder: Path) -> list[Path]:
    """Write one picture for each group of works that were measured.

    Returns:
        The files.
    """
    import matplotlib.pyplot as plt

    # The same figures give the same file: a changed picture is a changed figure.
    plt.rcParams.update({"svg.hashsalt": "bench", "svg.fonttype": "none", "font.size": 9})
    folder.mkdir(parents=True, exist_ok=True)
    works = {work.name: work for work in results.works if any(outcome.ok for outcome in work.outcomes)}
    files = []
    for name, chosen in PANELS.items():
        if found := [works[one] for one in chosen if one in works]:
            heights = [1 + 0.25 * sum(outcome.ok for outcome in work.outcomes) for work in found]
            shape: dict[str, Any] = {"figsize": (8, sum(heights)), "height_ratios": heights, "squeeze": False}
            figure, panes = plt.subplots(len(found), 1, **shape)
            for pane, work in zip(panes[:, 0], found, strict=True):
                _bars(pane, work)
            files.append(_save(figure, folder / f"{name}.svg"))
    for kind in CURVES:
        if found_curves := growth.curves(results, kind):
            figure, panes = plt.subplots(1, 2, figsize=(8, 3.4))
            _curves(panes, found_curves)
            files.append(_save(figure, folder / f"growth-{kind}.svg"))
    return files


def colour(name: str) -> str:
    """Of a contender."""
    if name.startswith(OURS):
        return BEFORE if f"{OURS} at " in name else MINE
    return next((shade for peer, shade in COLOURS.items() if peer in name), OTHER)


def _save(figure: Any, path: Path) -> Path:
    import matplotlib.pyplot as plt

    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    return path


def _bars(pane: Any, work: Measured) -> None:
    """Medians, fastest on top, with a line from the minimum to the maximum and the figure beside it."""
    there = sorted((outcome for outcome in work.outcomes if outcome.ok), key=lambda outcome: -outcome.median())
    names = [outcome.name for outcome in there]
    medians = [outcome.median() for outcome in there]
    most = [max(outcome.values("seconds")) for outcome in there]
    below = [outcome.median() - min(outcome.values("seconds")) for outcome in there]
    above = [high - median for high, median in zip(most, medians, strict=True)]
    pane.barh(names, medians, xerr=[below, above], color=list(map(colour, names)), error_kw={"linewidth": 0.8})
    for row, (median, high) in enumerate(zip(medians, most, strict=True)):
        pane.annotate(f"{median:.3g}", (high, row), (4, 0), textcoords="offset points", va="center", fontsize=8)
    for label in pane.get_yticklabels():
        if label.get_text().startswith(OURS):
            label.set(weight="bold", color=MINE)
    wide = max(medians) > WIDE * min(medians)
    if wide:
        _logarithmic(pane, pane.xaxis)
    pane.margins(x=0.1)
    pane.set_title(f"{work.title}{f', {work.server}' if work.server else ''}", loc="left", fontsize=9)
    pane.set_xlabel(f"seconds, whole process{', logarithmic' if wide else ''}")
    pane.spines[["top", "right"]].set_visible(False)


def _curves(panes: Any, curves: list[Curve]) -> None:
    """Time with the line through it on two logarithmic axes, and memory."""
    for curve in curves:
        mine = curve.name.startswith(OURS)
        style: dict[str, Any] = {"color": colour(curve.name), "marker": "o", "markersize": 5 if mine else 3}
        line = Line.through(curve.seconds)
        least, most = curve.seconds[0][0], curve.seconds[-1][0]
        amounts = [least * (most / least) ** (step / 50) for step in range(51)]
        said = f"{curve.name}: {line.at_once:.2g} s + {line.per_unit:.2g} s per {curve.unit}"
        panes[0].plot(*zip(*curve.seconds, strict=True), linestyle="none", **style)
        panes[0].plot(
            amounts, list(map(line.at, amounts)), color=style["color"], label=said, linewidth=2 if mine else 1
        )
        panes[1].plot(*zip(*curve.peak_mib, strict=True), label=curve.name, **style)
    _logarithmic(panes[0], panes[0].yaxis)
    panes[1].set_ylim(bottom=0)
    for pane, title in zip(panes, ("seconds, and a straight line", "peak memory, MiB"), strict=True):
        _logarithmic(pane, pane.xaxis)
        pane.set_xlabel(f"{curves[0].unit}, logarithmic")
        pane.set_title(title, loc="left", fontsize=9)
        pane.spines[["top", "right"]].set_visible(False)
        pane.legend(frameon=False, fontsize=7)


def _logarithmic(pane: Any, axis: Any) -> None:
    """Decades, as plain numbers."""
    pane.set(**{f"{axis.axis_name}scale": "log"})
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter("")
