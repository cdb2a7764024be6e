"""What a person sees, made from events and receipts alone.

On a terminal: live bars while work goes on, a table when it is over. Elsewhere: one plain line a result on standard
output, and everything else on standard error.
"""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import Self

import click

from artifacts.events import Event, Failed, Passed, Progress, Published, Receipt, Retried, Started, Waiting
from artifacts.text import printable, size_text

VERBS = {
    "fetch": "fetching",
    "upload": "uploading",
    "get": "fetching",
    "put": "uploading",
    "checkpoint": "uploading",
    "delete": "deleting",
}

WARNINGS = {
    "changed": "changed while it was packed; it is stored as it was read",
    "changed-while-packing": "changed while it was packed; the next upload sends it again",
    "data-after-end": "the archive has bytes after its end, which were not read",
    "link-leaves": "is a link that leaves the folder: it is stored, and unpacking will refuse it",
    "local-changes-replaced": "was changed here, and replaced: it is not mutable",
    "no-file": "is no file, and is not stored",
    "no-location": "has no location: nothing is fetched or uploaded",
    "not-stored": "is no file, folder or link, and is not stored",
    "object-gone": "its object is gone; what is here is kept, and uploaded next time",
    "not-cached": "cannot be written, or has no room: an object was not kept in the cache",
    "unverifiable": "neither the request nor the server has a digest of it, and it was not verified",
    "unverifiable-hash": "its hash is neither sha256 nor md5, and was not checked",
    "vanished": "was gone before it was packed, and is not stored",
}
_ALIKE = 5
"""Warnings of one kind that are told of one artifact: a folder may have thousands. The receipt has them all."""


class Display:
    """Tells a person what happens, from events.

    Args:
        verbosity: -1 tells only failures and warnings, 0 results and retries too, 1 beginnings too.
        results: print a line a result on standard output, where that is no terminal.
    """

    def __init__(self, verbosity: int = 0, *, results: bool = True) -> None:
        self.verbosity = verbosity
        self.results = results and verbosity >= 0 and not sys.stdout.isatty()
        self._live = _Live() if verbosity >= 0 and sys.stderr.isatty() else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, event: Event) -> None:
        if self._live is not None:
            self._live.show(event)
        match event:
            case Started() if self.verbosity >= 1:
                self._say(f"{event.label}: {VERBS[event.op]} {event.location}")
            case Retried() if self.verbosity >= 0:
                again = f"again in {event.wait_seconds:.1f} s"
                self._say(f"{event.label}: attempt {event.attempt} failed ({event.error}); {again}")
            case Waiting() if self.verbosity >= 0:
                self._say(f"{event.label}: waits for one of this machine's transfers to end ([host] transfers)")
            case Failed():
                error = event.receipt.error or {}
                hint = f" (hint: {error['hint']})" if error.get("hint") else ""
                self._say(f"{event.label}: {event.receipt.status}: {error.get('message')}{hint}")
            case Published() | Passed():
                for line in warning_lines(event.receipt.warnings):
                    self._say(f"warning: {line}")
                if self.results:
                    sys.stdout.write(printable(receipt_line(event.receipt)) + "\n")
                    sys.stdout.flush()
            case _:
                pass

    def _say(self, text: str) -> None:
        line = printable(text)
        if self._live is not None:
            self._live.say(line)
        else:
            with contextlib.suppress(OSError):  # there is no other place to tell of it
                sys.stderr.write(line + "\n")
                sys.stderr.flush()


class _Live:
    """Bars on a terminal, one an artifact at work; with none at work the terminal is left alone."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            TextColumn,
            TransferSpeedColumn,
        )
        from rich.progress import (
            Progress as Bars,
        )

        self._bars = Bars(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._tasks: dict[str, object] = {}

    def stop(self) -> None:
        self._bars.stop()

    def say(self, line: str) -> None:
        self._bars.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def show(self, event: Event) -> None:
        match event:
            case Started():
                if not self._tasks:
                    self._bars.start()
                self._tasks[event.label] = self._bars.add_task(printable(event.label), total=event.total_bytes)
            case Progress() if event.label in self._tasks:
                self._bars.update(self._tasks[event.label], completed=event.done_bytes, total=event.total_bytes)  # type: ignore[arg-type]  # rich's TaskID is an int
            case Published() | Failed() | Passed() if event.label in self._tasks:
                self._bars.remove_task(self._tasks.pop(event.label))  # type: ignore[arg-type]  # rich's TaskID is an int
                if not self._tasks:
                    self._bars.stop()
            case _:
                pass


def warning_lines(warnings: Iterable[Mapping[str, str]]) -> Iterator[str]:
    """A line a warning; of many that are alike the first ones, and how many more there are."""
    seen: Counter[str] = Counter()
    for warning in warnings:
        code = warning["code"]
        seen[code] += 1
        if seen[code] <= _ALIKE:
            yield ": ".join(filter(None, (warning["path"], WARNINGS.get(code, code))))
    for code, count in seen.items():
        if count > _ALIKE:
            yield f"{count - _ALIKE} more: {WARNINGS.get(code, code)}"


def receipt_line(receipt: Receipt) -> str:
    """A receipt as one line for a person."""
    parts = [f"{receipt.label}: {receipt.status}"]
    if receipt.status in ("done", "planned"):
        if receipt.object_bytes is not None:
            parts.append(size_text(receipt.object_bytes))
        if receipt.members is not None and receipt.members != 1:
            parts.append(f"{receipt.members} members")
        if receipt.attempts:
            parts.append(f"{receipt.seconds:.2f} s")
    if receipt.location is not None:
        parts.append(receipt.location)
    return ", ".join(parts)


def usage_line(error: click.ClickException) -> str:
    """What was wrong with the command line, in one line."""
    context = getattr(error, "ctx", None)
    hint = "" if context is None else f" (hint: {context.command_path} --help)"
    return f"error: {error.format_message()}{hint}"


def table(receipts: Iterable[Receipt]) -> None:
    """Print receipts on standard output: a table on a terminal, tab-separated lines elsewhere."""
    rows = [
        (
            receipt.label,
            receipt.status,
            "" if receipt.object_bytes is None else size_text(receipt.object_bytes),
            "" if receipt.members is None else str(receipt.members),
            f"{receipt.seconds:.2f}" if receipt.seconds else "",
            receipt.location or "",
        )
        for receipt in receipts
    ]
    print_rows(("label", "status", "size", "members", "seconds", "location"), rows)


def print_rows(names: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    """Print rows on standard output: a table on a terminal, tab-separated lines elsewhere."""
    if not sys.stdout.isatty():
        for row in rows:
            sys.stdout.write("\t".join(printable(cell) for cell in row) + "\n")
        sys.stdout.flush()
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, pad_edge=False)
    for name in names:
        drawn.add_column(name, overflow="fold")
    for row in rows:
        drawn.add_row(*(Text(printable(cell)) for cell in row))
    Console().print(drawn)
