"""The processors that a process may use: the least of what it is bound to and what its control groups grant."""

import os

import pytest

from artifacts.processors import processors

BOUND = len(os.sched_getaffinity(0))


def machine(root, groups, files):
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("groups", "files", "granted"),
    [
        ("0::/\n", {"cpu.max": "50000 100000\n"}, 0.5),
        ("0::/\n", {"cpu.max": "max 100000\n"}, BOUND),
        ("0::/\n", {}, BOUND),
        ("0::/a/b\n", {"a/cpu.max": "25000 100000\n", "a/b/cpu.max": "max 100000\n"}, 0.25),
        ("0::/a/b\n", {"a/cpu.max": "90000 100000\n", "a/b/cpu.max": "10000 100000\n"}, 0.1),
        ("0::/a\n", {"cpu.max": "nonsense\n", "a/cpu.max": "1 0\n"}, BOUND),
        (
            "3:memory:/m\n2:cpu,cpuacct:/k\n",
            {"cpu,cpuacct/k/cpu.cfs_quota_us": "20000\n", "cpu,cpuacct/k/cpu.cfs_period_us": "100000\n"},
            0.2,
        ),
        (
            "2:cpu:/gone\n",  # in a container that sees its own group as the root
            {"cpu/cpu.cfs_quota_us": "30000\n", "cpu/cpu.cfs_period_us": "100000\n"},
            0.3,
        ),
        ("2:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, BOUND),
        ("2:cpuset:/\n", {"cpuset/cpu.cfs_quota_us": "1\n", "cpuset/cpu.cfs_period_us": "100000\n"}, BOUND),
    ],
)
def test_the_least_counts(tmp_path, groups, files, granted):
    assert processors(machine(tmp_path, groups, files)) == pytest.approx(granted)


def test_no_more_than_it_is_bound_to(tmp_path):
    assert processors(machine(tmp_path, "0::/\n", {"cpu.max": "6400000 100000\n"})) == BOUND


def test_a_system_without_groups(tmp_path):
    assert processors(tmp_path) == BOUND


def test_here():
    assert 0 < processors() <= BOUND
