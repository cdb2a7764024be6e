"""The benchmarks' own machinery: whole processes are measured, failures never count, goals are judged, docs are filled."""

from __future__ import annotations

import json
import socket
import sys
import tarfile
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import servers

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks import content, docs, growth, plots, report
from benchmarks.__main__ import main
from benchmarks.confine import confined
from benchmarks.goals import GOALS, Goal, judge
from benchmarks.measure import Contender, Failed, Outcome, Pipeline, Run, ratio, rounds, run
from benchmarks.peers import Programs
from benchmarks.report import Measured, Results
from benchmarks.services import Server, delayed
from benchmarks.works import FULL, Place, works

TINY = FULL.scaled(1 / 2000)


def python(code: str, **more: object) -> Pipeline:
    return Pipeline(argvs=[[sys.executable, "-c", code]], **more)


def writing(text: str, *, name: str = "out") -> Contender:
    """A contender that writes ``text`` into a file of its folder."""
    return Contender(
        pipeline=lambda into: python(f"open({str(into / name)!r}, 'w').write({text!r})"),
        digest=content.tree_digest,
    )


def outcome(name: str, *seconds: float, peak_bytes: int = 0) -> Outcome:
    runs = [Run(seconds=value, cpu_seconds=0.0, peak_bytes=peak_bytes, sum_bytes=peak_bytes) for value in seconds]
    return Outcome(name=name, runs=runs)


def test_a_pipeline_passes_bytes_on_and_counts_every_process(tmp_path: Path) -> None:
    """Two processes, one of which has a child: the time of all, the memory of the largest and of all."""
    (tmp_path / "in").write_bytes(b"abc" * 1000)
    (tmp_path / "out").touch()
    hungry = "import sys; held = bytearray(50 << 20); sys.stdout.buffer.write(sys.stdin.buffer.read())"
    busy = (
        "import subprocess, sys; code = 'import time\\nwhile time.process_time() < 0.2: pass';"
        "subprocess.run([sys.executable, '-c', code]); sys.stdout.buffer.write(sys.stdin.buffer.read())"
    )
    argvs = [[sys.executable, "-c", hungry], [sys.executable, "-c", busy]]
    done = run(Pipeline(argvs=argvs, stdin=str(tmp_path / "in"), stdout=str(tmp_path / "out")))
    assert (tmp_path / "out").read_bytes() == b"abc" * 1000
    assert done.cpu_seconds >= 0.2
    assert done.seconds > 0
    assert 50 << 20 < done.peak_bytes < 100 << 20
    assert done.sum_bytes >= done.peak_bytes + (5 << 20)


def test_memory_of_the_caller_does_not_count(tmp_path: Path) -> None:
    """A child begins with its parent's peak: ours holds 200 MB, and a small program still looks small."""
    held = bytearray(200 << 20)
    assert run(Pipeline(argvs=[["true"]])).peak_bytes < 40 << 20
    assert len(held) == 200 << 20


def test_the_callers_setup_is_not_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither keys nor proxies of the machine reach a contender."""
    monkeypatch.setenv("AWS_PROFILE", "mine")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    run(python("import os; assert not {'AWS_PROFILE', 'http_proxy'} & set(os.environ), os.environ"))


@pytest.mark.parametrize(
    ("pipeline", "said"),
    [
        (python("raise SystemExit('broken on purpose')"), "exit 1: broken on purpose"),
        (Pipeline(argvs=[["false"], ["cat"]]), "exit 1 | 0"),
        (Pipeline(argvs=[["no-such-program"]]), "No such file or directory: 'no-such-program'"),
        (Pipeline(argvs=[["sleep", "60"], ["cat"]]), "took more than 0 s"),
    ],
)
def test_a_failure_says_why(pipeline: Pipeline, said: str) -> None:
    """A process that fails, also the first of two, one that is not there, one that does not end."""
    with pytest.raises(Failed) as caught:
        run(pipeline, timeout_seconds=0.3 if said.startswith("took") else 60)
    assert said in str(caught.value)


def test_contenders_take_turns_and_only_the_right_ones_count(tmp_path: Path) -> None:
    """One warm-up and two runs of those whose output is right; the others are out, each with its reason."""
    turns: list[str] = []
    contenders = {
        "right": writing("x"),
        "also right": writing("x"),
        "wrong": writing("y"),
        "broken": Contender(pipeline=lambda _: python("raise SystemExit(3)")),
        "nowhere": Contender(pipeline=lambda _: Pipeline(argvs=[["true"]]), missing="not here: nowhere"),
    }
    (tmp_path / "expected").mkdir()
    (tmp_path / "expected" / "out").write_text("x")
    expected = content.tree_digest(tmp_path / "expected")
    found = rounds(contenders, tmp_path / "into", runs=2, expected=expected, say=turns.append)
    assert {name: len(one.runs) for name, one in found.items()} == {
        "right": 2,
        "also right": 2,
        "wrong": 0,
        "broken": 0,
        "nowhere": 0,
    }
    assert found["wrong"].why == "what it left differs from what it should be"
    assert found["broken"].why.startswith("exit 3")
    assert (found["nowhere"].why, found["nowhere"].missing) == ("not here: nowhere", True)
    assert turns == [
        *("warm-up: right", "warm-up: also right", "warm-up: wrong", "warm-up: broken"),
        *("1/2: also right", "1/2: right", "2/2: right", "2/2: also right"),
    ]
    assert not (tmp_path / "into").exists()


def test_ratios_are_of_the_same_round() -> None:
    """A slow round slows both and does not change the ratio."""
    assert ratio(outcome("ours", 1.0, 10.0, 3.0), outcome("peer", 2.0, 20.0, 3.0)) == 0.5


GOAL = Goal(work="w", peers=("slow", "fast", "nowhere"), at_most=0.5)


@pytest.mark.parametrize(("ours", "met"), [(1.0, True), (1.01, False)])
def test_a_goal_is_held_against_the_fastest_peer(ours: float, met: bool) -> None:
    """At the goal is met, above it is not."""
    there = {one.name: one for one in (outcome("artifacts", ours), outcome("slow", 9.0), outcome("fast", 2.0))}
    verdict = judge(GOAL, there)
    assert (verdict.peer, verdict.measured, verdict.met) == ("fast", ours / 2, met)


def test_a_goal_without_figures_is_neither_met_nor_missed() -> None:
    """No peer ran, or ours failed: nothing was measured."""
    failed = Outcome(name="artifacts", why="exit 1")
    assert judge(GOAL, {"artifacts": outcome("artifacts", 1.0)}).met is None
    assert judge(GOAL, {"artifacts": failed, "fast": outcome("fast", 1.0)}).met is None


def test_a_goal_on_memory_is_a_difference() -> None:
    """So much more than the interpreter alone."""
    goal = Goal(work="w", peers=("python",), at_most=100, measure="peak_bytes", over=True)
    there = {"artifacts": outcome("artifacts", 1.0, peak_bytes=150), "python": outcome("python", 1.0, peak_bytes=60)}
    assert (judge(goal, there).measured, judge(goal, there).met) == (90, True)


def test_every_goal_has_its_work_and_names_what_takes_part(tmp_path: Path) -> None:
    """A goal that names no work, or a contender nobody makes, could never be missed."""
    by_name = {work.name: work for work in works(TINY)}
    shelf = content.Shelf(tmp_path / "shelf", lambda _: None)
    server = Server(kind="nginx", endpoint_url="http://127.0.0.1:1")
    programs = Programs(peers=tmp_path, against={})
    place = Place(shelf=shelf, programs=programs, server=server, scratch=tmp_path)
    for name in sorted({goal.work for goal in GOALS}):
        prepared = by_name[name].prepare(place)
        prepared.close()
        for goal in (goal for goal in GOALS if goal.work == name):
            assert {goal.ours, *goal.peers} <= set(prepared.contenders), goal


def measured() -> Results:
    work = Measured(
        name="fetch-large-tar",
        title="fetch",
        server="nginx",
        amount=None,
        outcomes=[
            outcome("artifacts", 1.0, 2.0, 3.0),
            outcome("curl | tar x", 4.0, 4.0, 4.0),
            Outcome(name="boto3 + tarfile", why="exit 1: no"),
            Outcome(name="s5cmd", why="not here: s5cmd is not installed", missing=True),
        ],
    )
    return Results(quick=True, runs=3, to="memory", works=[work])


def test_the_table_names_everyone_and_no_failure_has_figures() -> None:
    """Minimum, median, maximum and the ratio; reasons in place of figures."""
    lines = report.table(measured().works[0]).splitlines()
    assert "| artifacts | 1.000 | 2.000 | 3.000 | 0.00 | 0 | 0 |  |" in lines
    assert "| curl &#124; tar x | 4.000 | 4.000 | 4.000 | 0.00 | 0 | 0 | 0.50 |" in lines
    assert "| boto3 + tarfile | exit 1: no |  |  |  |  |  |  |" in lines
    assert "| s5cmd | not here: s5cmd is not installed |  |  |  |  |  |  |" in lines


def test_json_holds_every_run_and_comes_back(tmp_path: Path) -> None:
    """What is written is what was measured, goals included."""
    results = measured()
    results.save(tmp_path / "r.json")
    read = json.loads((tmp_path / "r.json").read_text())
    assert [one["seconds"] for one in read["works"][0]["outcomes"][0]["runs"]] == [1.0, 2.0, 3.0]
    assert [(goal["peer"], goal["measured"], goal["met"]) for goal in read["goals"]] == [
        ("curl | tar x", 0.5, False),
        (None, None, None),
    ]
    assert Results.load(tmp_path / "r.json") == results


def test_the_page_is_filled_between_its_markers(tmp_path: Path) -> None:
    """The block of what was measured changes; that of what was not, and the prose, stay."""
    page = tmp_path / "page.md"
    page.write_text(
        "prose\n<!-- bench:plot-fetch -->\n<!-- /bench -->\n<!-- bench:fetch-* -->\nold\n<!-- /bench -->\n<!-- bench:objects -->\nkept\n<!-- /bench -->\nend\n"
    )
    docs.write(measured(), plots.draw(measured(), tmp_path), page)
    text = page.read_text()
    assert text.startswith(
        "prose\n<!-- bench:plot-fetch -->\n\n![fetch](img/fetch.svg)\n<!-- /bench -->\n"
        "<!-- bench:fetch-* -->\n\nfetch-large-tar: fetch, nginx\n"
    )
    assert (tmp_path / "fetch.svg").read_text().startswith("<?xml")
    assert "old" not in text
    assert text.endswith("<!-- bench:objects -->\nkept\n<!-- /bench -->\nend\n")


def test_every_block_of_the_real_page_names_works() -> None:
    """A block whose name nothing matches would never be filled."""
    names = (
        {work.name for work in works(FULL)} | {"machine", "goals", "growth"} | {f"plot-{name}" for name in plots.NAMES}
    )
    blocks = [found[2] for found in docs.BLOCK.finditer(docs.PAGE.read_text())]
    assert "goals" in blocks
    for block in blocks:
        for pattern in block.split(","):
            assert any(docs.matches(name, pattern) for name in names), pattern


def test_an_archive_and_its_folder_have_one_digest(tmp_path: Path) -> None:
    """Uploads are checked by what is in the archive, whatever wrote it; a changed byte shows."""
    shelf = content.Shelf(tmp_path, lambda _: None)
    files = content.Files(20, 1000)
    key = shelf.archive(files, "gz")
    tree = shelf.tree(files)
    with (shelf.bucket / key).open("rb") as file:
        assert content.tar_digest(file) == content.tree_digest(tree) == shelf.archive_digest(files)
    (tree / "folder-0000" / "file-000019.bin").write_bytes(b"x" * 1000)
    assert content.tree_digest(tree) != shelf.archive_digest(files)


def test_what_is_far_away_is_whole_and_late() -> None:
    """Through the proxy every byte arrives, half a round trip later in each direction and once more to connect."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def echo() -> None:
            for _ in range(2):  # the first is the proxy's start, which only connects
                connection, _ = listening.accept()
                with connection:
                    while piece := connection.recv(1 << 16):
                        connection.sendall(piece)

        answering = threading.Thread(target=echo)
        answering.start()
        port = listening.getsockname()[1]
        with delayed(Server(kind="nginx", endpoint_url=f"http://127.0.0.1:{port}"), 0.05) as far:
            host, _, number = far.address.partition(":")
            began = time.monotonic()
            with socket.create_connection((host, int(number))) as client:
                sending = threading.Thread(target=lambda: (client.sendall(b"ab" * 500_000), client.shutdown(1)))
                sending.start()
                came = b"".join(iter(lambda: client.recv(1 << 16), b""))
                sending.join()
            taken = time.monotonic() - began
        answering.join()
    assert came == b"ab" * 500_000
    assert taken >= 0.1


def test_a_tiny_work_from_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command itself, without a server: table, goals, JSON and plots come out, and this project is among them."""
    given = ["--quick", "--only", "start", "--runs", "1", "--keep", str(tmp_path), "--json", str(tmp_path / "j")]
    assert main([*given, "--to", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "\n| artifacts --help | 0." in said
    assert "of 2 goals met" in said
    read = json.loads((tmp_path / "j").read_text())
    assert [work["name"] for work in read["works"]] == ["start"]
    assert {len(outcome["runs"]) for outcome in read["works"][0]["outcomes"]} == {1}


def test_an_unknown_work_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """A name that is no work's ends the command before anything runs."""
    assert main(["--only", "start,nonsense"]) == 2
    assert capsys.readouterr().err == "no such work: nonsense; see --list\n"


@pytest.mark.parametrize("name", ["upload-small-gz", "deployed-objects", "prefix"])
def test_contenders_do_their_work_on_a_real_server(seaweed: servers.S3Server, tmp_path: Path, name: str) -> None:
    """Each program of the test extra moves what it should, and all leave the same."""
    server = Server(kind="SeaweedFS", endpoint_url=seaweed.endpoint_url)
    shelf = content.Shelf(tmp_path / "shelf", lambda _: None)
    place = Place(shelf=shelf, programs=Programs(peers=tmp_path / "none", against={}), server=server, scratch=tmp_path)
    prepared = next(work for work in works(replace(TINY, objects=5)) if work.name == name).prepare(place)
    try:
        here = {who: one for who, one in prepared.contenders.items() if who.startswith("artifacts")}
        here |= {who: one for who, one in prepared.contenders.items() if "curl" in who or "rclone" in who}
        found = rounds(here, tmp_path / "into", runs=1, expected=prepared.expected)
    finally:
        prepared.close()
    assert {who: one.why for who, one in found.items()} == dict.fromkeys(here, "")
    assert {"artifacts", "rclone"} <= {word for who in found for word in who.split()}


def test_a_tar_of_zeros_takes_no_room_and_is_a_tar(tmp_path: Path) -> None:
    """Its members are there, of their size, and its digest is that of what it holds."""
    shelf = content.Shelf(tmp_path, lambda _: None)
    key, expected = shelf.sparse_archive(content.Files(3, 5 << 20))
    path = shelf.bucket / key
    with tarfile.open(path) as tar:
        assert [member.size for member in tar] == [5 << 20] * 3
    assert path.stat().st_blocks * 512 < 1 << 20
    with path.open("rb") as file:
        assert content.tar_digest(file) == expected


def test_a_contender_runs_once_in_little_memory() -> None:
    """Without a warm-up; in a cgroup where one may be made, else with a limit: more than the limit is refused."""
    with confined(64 << 20) as confinement:
        small = Contender(
            pipeline=lambda _: replace(python("held = b'x' * (20 << 20)"), confinement=confinement),
            note=confinement.said,
        )
        large = replace(small, pipeline=lambda _: replace(python("held = b'x' * (200 << 20)"), confinement=confinement))
        with tempfile.TemporaryDirectory() as name:
            into = Path(name, "into")
            found = rounds({"small": small, "large": large}, into, runs=1, expected=None, warm_up=False)
    assert len(found["small"].runs) == 1
    assert "64 MiB" in found["small"].note
    assert found["large"].why.startswith("exit ")
    assert confinement.group is None or not confinement.group.exists()


def test_a_curve_is_held_against_a_straight_line() -> None:
    """On the line nothing deviates; a point twice as high as it should be shows."""
    points = [(1.0, 3.0), (10.0, 21.0), (100.0, 201.0)]
    line = growth.Line.through(points)
    assert [round(value, 9) for value in (line.at_once, line.per_unit, line.deviation)] == [1.0, 2.0, 0.0]
    assert growth.Line.through([*points, (50.0, 202.0)]).deviation > 0.3


def test_growth_is_a_row_for_each_curve() -> None:
    """Seconds a unit and the least and most memory, of those measured at three points or more."""
    amounts = {"bytes-1m": 1 << 20, "bytes-512m": 512 << 20, "bytes-2048m": 2048 << 20}
    results = Results(quick=False, runs=1, to="memory")
    for name, amount in amounts.items():
        ours = outcome("artifacts", 0.5 + amount / (1 << 30), peak_bytes=100 << 20)
        work = Measured(name=name, title=name, server="nginx", amount=amount, outcomes=[ours])
        results.works.append(work)
    assert "| artifacts | 1 MiB to 2,048 MiB | 0.500 | 1.0000 | GiB | 0% | 100 to 100 |" in growth.table(results)
    assert growth.table(measured()) == ""


def test_a_peer_has_one_colour_and_ours_another() -> None:
    """In whatever work it is; this project at another commit is told apart."""
    assert plots.colour("curl | tar x") == plots.colour("curl --parallel") != plots.colour("s5cmd run")
    assert (
        len({plots.colour(name) for name in ("artifacts", "artifacts at HEAD~1", "floor (no checks)", "tarfile")}) == 4
    )
