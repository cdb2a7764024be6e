"""How much of this machine's processors the process may use: a container's quota, not the cores of the host."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/")


def processors(root: Path = _ROOT) -> float:
    """The processors that this process is bound to, or the part of them that its control groups grant it.

    Source: Linux, "Control Group v2" (``cpu.max``) and "CFS Bandwidth Control" (``cpu.cfs_quota_us``). A quota holds
    for whatever is below it, so that of every group above counts; inside a container those above cannot be seen.

    Args:
        root: of the file system; for tests.
    """
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min([float(bound), *_quotas(root)])


def _quotas(root: Path) -> Iterator[float]:
    for folder in _groups(root):
        with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
            quota, period = (folder / "cpu.max").read_text().split()
            if quota != "max":
                yield int(quota) / int(period)
        with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
            microseconds = int((folder / "cpu.cfs_quota_us").read_text())
            if microseconds > 0:
                yield microseconds / int((folder / "cpu.cfs_period_us").read_text())


def _groups(root: Path) -> Iterator[Path]:
    """The folders of this process's groups that may limit it, in either version's file system."""
    with contextlib.suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and "cpu" not in controllers.split(","):
                continue
            mounted = root / "sys/fs/cgroup" / controllers
            group = mounted / path.strip("/")
            yield group
            yield from (above for above in group.parents if above == mounted or mounted in above.parents)
