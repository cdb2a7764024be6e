"""Text for people: sizes, and what comes from elsewhere made safe to show."""

from __future__ import annotations


def size_text(count: int) -> str:
    """A number of bytes in decimal units: ``999 B``, ``1.2 kB``, ``3.4 GB``."""
    if count < 1000:
        return f"{count} B"
    value = float(count)
    for unit in ("kB", "MB", "GB", "TB", "PB"):
        value /= 1000
        if value < 999.95 or unit == "PB":
            break
    return f"{value:.1f} {unit}"


def printable(text: str) -> str:
    """``text`` on one line and without what a terminal would obey: control and bidirectional characters escaped."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape", "replace").decode("ascii")
        for character in text
    )
