"""Draws a run's figures: bars of medians with their ranges, and the curves of growth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl

from benchmarks.peers import FLOOR, OURS
from benchmarks.report import Measured, Results

mpl.use("svg")

MINE, BASE, OTHERS = "#1b6ca8", "#c9c9c9", "#e0a458"
PANELS: dict[str, list[str]] = {
    "fetch": ["fetch-large-tar", "fetch-large-gz", "fetch-small-tar", "fetch-small-gz"],
    "objects": ["objects", "object", "far-objects", "far-fetch-large-tar"],
    "upload": ["upload-large-tar", "upload-large-gz", "upload-small-tar", "upload-small-gz"],
    "deployed": ["deployed-fetch-large-tar", "deployed-fetch-small-tar", "deployed-object", "deployed-objects"],
}
NAMES = [*PANELS, "growth-bytes", "growth-members"]


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
    for name, unit in (("bytes", "MiB"), ("members", "members")):
        points = sorted((work for work in works.values() if work.name.startswith(f"{name}-")), key=_amount)
        if len(points) > 1:
            figure, panes = plt.subplots(1, 2, figsize=(8, 3))
            _curves(panes, points, 1 << 20 if unit == "MiB" else 1, unit)
            files.append(_save(figure, folder / f"growth-{name}.svg"))
    return files


def _amount(work: Measured) -> int:
    return work.amount or 0


def _save(figure: Any, path: Path) -> Path:
    import matplotlib.pyplot as plt

    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    return path


def _bars(pane: Any, work: Measured) -> None:
    """Medians, fastest on top, with a line from the minimum to the maximum."""
    there = sorted((outcome for outcome in work.outcomes if outcome.ok), key=lambda outcome: -outcome.median())
    names = [outcome.name for outcome in there]
    medians = [outcome.median() for outcome in there]
    below = [outcome.median() - min(outcome.values("seconds")) for outcome in there]
    above = [max(outcome.values("seconds")) - outcome.median() for outcome in there]
    colours = [MINE if name.startswith(OURS) else BASE if name == FLOOR else OTHERS for name in names]
    pane.barh(names, medians, xerr=[below, above], color=colours, error_kw={"linewidth": 0.8})
    pane.set_title(f"{work.title}{f', {work.server}' if work.server else ''}", loc="left", fontsize=9)
    pane.set_xlabel("seconds, whole process")
    pane.spines[["top", "right"]].set_visible(False)


def _curves(panes: Any, points: list[Measured], per: int, unit: str) -> None:
    names = [outcome.name for outcome in points[0].outcomes]
    for pane, measure, title, scale in (
        (panes[0], "seconds", "seconds", 1.0),
        (panes[1], "peak_bytes", "peak memory, MiB", float(1 << 20)),
    ):
        for name in names:
            there = [(_amount(work) / per, work.by_name[name]) for work in points]
            drawn = [(amount, outcome.median(measure) / scale) for amount, outcome in there if outcome.ok]
            pane.plot(*zip(*drawn, strict=True), marker="o", label=name)
        pane.set_xscale("log")
        if measure == "seconds":
            pane.set_yscale("log")
        else:
            pane.set_ylim(bottom=0)
        pane.set_xlabel(unit)
        pane.set_title(title, loc="left", fontsize=9)
        pane.spines[["top", "right"]].set_visible(False)
    panes[0].legend(frameon=False)
