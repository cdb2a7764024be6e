"""Puts the figures of a run into ``docs/performance.md``, between the markers that say which."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from benchmarks import growth, report
from benchmarks.report import Results
from benchmarks.services import ROOT

PAGE = ROOT / "docs" / "performance.md"
IMAGES = ROOT / "docs" / "img"
BLOCK = re.compile(r"(<!-- bench:([a-z0-9*,-]+) -->\n)(.*?)(<!-- /bench -->)", re.DOTALL)


def write(results: Results, pictures: Sequence[Path] = (), page: Path = PAGE) -> None:
    """Fill the page's blocks.

    A block is ``machine``, ``goals``, ``growth``, ``plot-`` and a picture's name, or the names of works with commas
    between them, where ``fetch-*`` stands for all that begin so. One whose works were not measured stays as it is.

    Args:
        pictures: of :func:`benchmarks.plots.draw`, in ``IMAGES``.
    """

    def filled(found: re.Match[str]) -> str:
        return found[1] + (_filled(found[2], results, pictures) or found[3]) + found[4]

    page.write_text(BLOCK.sub(filled, page.read_text()))


def _filled(name: str, results: Results, pictures: Sequence[Path]) -> str:
    if name.startswith("plot-"):
        plot = name.removeprefix("plot-")
        return "".join(f"\n![{plot}](img/{path.name})\n" for path in pictures if path.stem == plot)
    if name == "machine":
        return _machine(results)
    if name == "goals":
        return report.goals(results) + "\n"
    if name == "growth":
        return lines + "\n" if (lines := growth.table(results)) else ""
    chosen = [work for pattern in name.split(",") for work in results.works if matches(work.name, pattern)]
    return "".join(report.table(work) + "\n" for work in chosen)


def matches(name: str, pattern: str) -> bool:
    return name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern


def _machine(results: Results) -> str:
    known = results.machine
    size = "the quick run's smaller sizes" if results.quick else "full sizes"
    return (
        f"\nThese figures: {known['cores']} cores, {known['memory_gib']} GiB of memory, {known['system']}, Python "
        f"{known['python']}, servers on the same machine over loopback, output to {results.to}, {results.runs} runs "
        f"after a warm-up, {size}.\n"
    )
