"""How long the interpreter needs before there is anything to do: `import artifacts`, and `artifacts --help`.

    python benchmarks/start_times.py [RUNS]

Whole processes, alternating, medians. The import is compared with importing pydantic and making one model, which
reading a request needs anyway; the goals are at most 80 ms over that, and 150 ms for --help.
"""

import statistics
import subprocess
import sys
import time

COMMANDS = {
    "bare interpreter": [sys.executable, "-c", "pass"],
    "pydantic, one model": [sys.executable, "-c", "import pydantic\nclass M(pydantic.BaseModel):\n    a: int = 0"],
    "import artifacts": [sys.executable, "-c", "import artifacts"],
    "artifacts.loads": [sys.executable, "-c", "import artifacts; artifacts.loads(b'{}')"],
    "artifacts --help": [sys.executable, "-m", "artifacts.cli", "--help"],
}


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for number in range(runs + 1):
        for name, command in COMMANDS.items():
            began = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            if number:
                seconds[name].append(time.perf_counter() - began)
    print(f"{'':22}{'min':>8}{'median':>8}{'max':>8}   ms, {runs} runs after one that is not counted")
    for name, values in seconds.items():
        figures = (min(values), statistics.median(values), max(values))
        print(f"{name:22}" + "".join(f"{1000 * value:8.0f}" for value in figures))
    median = {name: statistics.median(values) for name, values in seconds.items()}
    over = 1000 * (median["artifacts.loads"] - median["pydantic, one model"])
    print(f"reading a first request costs {over:.0f} ms over pydantic with one model (goal: import within 80)")


if __name__ == "__main__":
    main()
