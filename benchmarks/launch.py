"""Run one pipeline, and tell as JSON what it took. Read by nobody but ``measure``.

A process of its own, and a small one: on Linux a child's peak memory begins with its parent's, so a parent that holds
boto3 would make every ``curl`` look like 100 MB.
"""

import contextlib
import json
import os
import resource
import signal
import sys
import time


def main() -> None:
    job = json.load(sys.stdin)
    argvs, errors = job["argvs"], os.open(job["errors"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    reading = os.open(job["stdin"], os.O_RDONLY)
    os.chdir(job["folder"])
    # What it starts inherits both.
    if job["group"]:
        joining = os.open(job["group"] + "/cgroup.procs", os.O_WRONLY)
        os.write(joining, b"0")
        os.close(joining)
    if job["data_bytes"]:
        resource.setrlimit(resource.RLIMIT_DATA, (job["data_bytes"], job["data_bytes"]))
    pids: list[int] = []
    timed_out = False

    def stop(_signal: int, _frame: object) -> None:
        nonlocal timed_out
        timed_out = True
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, job["timeout_seconds"])
    began = time.perf_counter()
    for number, argv in enumerate(argvs):
        following, writing = -1, os.open(job["stdout"], os.O_WRONLY)
        if number < len(argvs) - 1:
            os.close(writing)
            following, writing = os.pipe()
        ends = [(os.POSIX_SPAWN_DUP2, fd, to) for to, fd in enumerate((reading, writing, errors))]
        pids.append(os.posix_spawnp(argv[0], argv, job["environ"], file_actions=ends, setpgroup=0))
        os.close(reading)
        os.close(writing)
        reading = following
    ended = [os.wait4(pid, 0) for pid in pids]
    seconds = time.perf_counter() - began
    signal.setitimer(signal.ITIMER_REAL, 0)
    peaks = [usage.ru_maxrss * 1024 for _, _, usage in ended]
    result = {
        "seconds": seconds,
        "cpu_seconds": sum(usage.ru_utime + usage.ru_stime for _, _, usage in ended),
        "peak_bytes": max(peaks),
        "sum_bytes": sum(peaks),
        "codes": [os.waitstatus_to_exitcode(status) for _, status, _ in ended],
        "timed_out": timed_out,
    }
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main()
