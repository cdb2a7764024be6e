"""`artifacts push --to`: a request from paths alone, staged again as a runner would, on real servers."""

from __future__ import annotations

import hashlib
import json
import shlex
import stat
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
import servers
import webservers
from commands import SECRETS, Bench, credentials, fill, inside, run, tar, tree

from artifacts import Access, IntegrityError, Request, RequestError, Started, push_to
from creds import LocationError

OWN = {"AWS_ACCESS_KEY_ID": servers.ADMIN.access_key, "AWS_SECRET_ACCESS_KEY": servers.ADMIN.secret_key}
TOLD = "credentials: your own AWS setup (default chain)"


@pytest.fixture
def bench(seaweed, bucket, tmp_path) -> Bench:
    return Bench(seaweed, bucket, tmp_path)


@pytest.fixture
def paths(tmp_path) -> Path:
    """A folder, a table, an archive and a model, as a client has them."""
    fill(tmp_path / "ws", {"train.py": "print(1)\n", "lib/a": "2"})
    fill(tmp_path / "m", {"weights": "3"})
    (tmp_path / "points ?.csv").write_text("x,y\n")
    (tmp_path / "set.tar.gz").write_bytes(tar({"x": b"1"}, "w:gz"))
    return tmp_path


def artifacts_of(path: Path) -> dict[str, dict[str, object]]:
    return json.loads(path.read_text())["experiment"]["artifacts"]


def push(bench: Bench, *more: str | Path, out: str = "req.json", **options: object):
    return run(
        "push", "--to", bench.place("pre/fix"), "-o", bench.folder / out, *more, env=OWN, cwd=bench.folder, **options
    )


def test_embedded_keys_stage_as_they_are(bench, paths):
    """Static keys: content-named inputs, a mutable under the experiment's key, an empty one; staged with nothing else."""
    words = ("workspace=ws", "table=points ?.csv", "set=set.tar.gz", "model=m", "out=")
    pushed = push(bench, *words, "--mutable", "model,out", "--embed", "static")
    assert pushed.code == 0, pushed.err
    request = bench.folder / "req.json"
    assert stat.S_IMODE(request.stat().st_mode) == 0o600
    made = artifacts_of(request)
    key = Request.load(request).experiment.key
    digests = {
        label: hashlib.sha256(bench.read(str(made[label]["key"]))).hexdigest() for label in made if label != "out"
    }
    assert {label: (entry["key"], entry["mutable"], entry["unpack"]) for label, entry in made.items()} == {
        "workspace": (f"pre/fix/blobstore/{digests['workspace']}.tar", False, True),
        "table": (f"pre/fix/blobstore/{digests['table']}/points ?.csv", False, False),
        "set": (f"pre/fix/blobstore/{digests['set']}.tar.gz", False, True),
        "model": (f"pre/fix/experiments/{key}/model.tar", True, True),
        "out": (f"pre/fix/experiments/{key}/out.tar", True, True),
    }
    hashed = {label for label, entry in made.items() if entry.get("hash") == digests.get(label, "-")}
    assert hashed == {"workspace", "table", "set"}
    assert {entry["bucket"] for entry in made.values()} == {bench.bucket}
    assert made["set"]["credentials"] == {"plain": None, "jwt": None, **credentials(servers.ADMIN)}
    assert pushed.said == [
        TOLD,
        f"wrote {request}",
        "credentials in the request: AWS key AKAD…0001 (ambient), which does not end",
        f"warning: these do not end: whoever reads {request} has them for good; "
        "--embed sts:DURATION makes keys that end",
    ]

    staged = bench.stage(request, "--json")
    assert staged.code == 0, staged.err
    assert staged.statuses == dict.fromkeys(("workspace", "table", "set", "model"), "done") | {"out": "empty"}
    assert {label: staged.receipts[label]["verified"] for label in hashed} == dict.fromkeys(hashed, "sha256")
    assert tree(bench.job / "workspace") == tree(paths / "ws")
    assert tree(bench.job / "table") == {"points ?.csv": b"x,y\n"}
    assert tree(bench.job / "set") == {"x": b"1"}
    (bench.job / "out" / "result").write_text("4")
    assert bench.upload(request).code == 0
    assert bench.read(f"pre/fix/experiments/{key}/out.tar")

    again = push(bench, *words, "--mutable", "model", "--mutable", "out", "--json", out="again.json")
    assert again.statuses == {"workspace": "unchanged", "table": "unchanged", "set": "unchanged", "model": "done"}


def test_without_credentials_the_runner_brings_its_own(bench, paths):
    """The default embeds nothing and says so; the runner's own chain stages it, and nobody's does not."""
    pushed = push(bench, "workspace=ws", "--compress", "zst")
    assert pushed.code == 0, pushed.err
    request = bench.folder / "req.json"
    assert pushed.said[-1] == (
        f"credentials in the request: none; the runner needs its own for {bench.place('pre/fix')}: "
        "--ambient, --profile or --token-file of 'artifacts stage', with --lend-to"
    )
    text = request.read_text()
    assert [secret for secret in (*SECRETS, servers.ADMIN.access_key) if secret in text] == []
    (entry,) = artifacts_of(request).values()
    assert str(entry["key"]).endswith(".tar.zst")
    assert "hash" not in entry  # it would be of the plain tar, and the object is another
    assert bench.stage(request).code == 5
    staged = bench.stage(request, "--ambient", "--lend-to", bench.host, env=OWN)
    assert staged.code == 0, staged.err
    assert tree(bench.job / "workspace") == tree(paths / "ws")


def test_keys_of_a_role(federated, issuer, paths, tmp_path):
    """`sts:` embeds keys that end, by AssumeRole for keys and by AssumeRoleWithWebIdentity for a token."""
    bench = Bench(federated, servers.SHARED_BUCKET, tmp_path)
    (tmp_path / "token").write_text(issuer.mint())
    options = ("--token-file", tmp_path / "token", "--role-arn", servers.ROLE_RW)
    pushed = push(bench, "workspace=ws", "--embed", "sts:30m", *options)
    assert pushed.code == 0, pushed.err
    aws = artifacts_of(tmp_path / "req.json")["workspace"]["credentials"]["aws"]
    assert set(aws) == {"access_key", "secret_access_key", "session_token"}
    assert pushed.said[-1].startswith(f"credentials in the request: AWS key {aws['access_key'][:4]}…")
    assert "(in 0 h 29 min)" in pushed.said[-1] or "(in 0 h 30 min)" in pushed.said[-1]
    assert aws["secret_access_key"] not in pushed.err
    staged = bench.stage(tmp_path / "req.json")
    assert staged.code == 0, staged.err
    assert tree(bench.job / "workspace") == tree(paths / "ws")

    taken = push_to(
        bench.place("role"),
        {"w": None},
        mutable=["w"],
        embed="sts",
        access=Access(
            credentials=Request.load(bench.request({"w": bench.artifact("x")})).experiment.artifacts["w"].credentials,
            options=_taking(servers.ROLE_TAKEN, 1800),
        ),
    )
    assert taken.embedded.kind == "aws"
    assert 1700 < taken.embedded.expires_at.timestamp() - time.time() <= 1801
    assert taken.embedded.expires_at.tzinfo is UTC


def _taking(role: str, seconds: int):
    from creds import StoreOptions, Sts

    return StoreOptions(sts=Sts(role_arn=role, duration_seconds=seconds))


def test_a_token_is_embedded_as_it_is(federated, issuer, paths, tmp_path):
    """`static` with --token-file: the JWT goes in, with its end; a runner that knows the issuer stages it."""
    bench = Bench(federated, servers.SHARED_BUCKET, tmp_path)
    made = issuer.mint()
    (tmp_path / "token").write_text(made)
    options = ("--token-file", tmp_path / "token", "--role-arn", servers.ROLE_RW)
    pushed = push(bench, "workspace=ws", "--embed", "static", *options)
    assert pushed.code == 0, pushed.err
    assert artifacts_of(tmp_path / "req.json")["workspace"]["credentials"]["jwt"] == {"token": made}
    assert f"JWT sub:{servers.SUBJECT}, ends {datetime.now(UTC):%Y-}" in pushed.said[-1]
    assert made not in pushed.err + pushed.out
    (tmp_path / "artifacts.toml").write_text(
        f'version = 1\n[endpoint."{bench.host}"]\nurl = "{bench.url}"\n'
        f'[issuer."{issuer.url}"]\nendpoints = ["{bench.host}"]\nrole_arn = "{servers.ROLE_RW}"\n'
    )
    staged = run("stage", tmp_path / "req.json", "--into", bench.job, "--config", tmp_path / "artifacts.toml")
    assert staged.code == 0, staged.err


def test_session_of_the_keys_own_owner(moto_server, tmp_path, paths):
    """Without a role the STS is asked for a session (GetSessionToken); moto has it, SeaweedFS says that it has not."""
    bench = Bench(moto_server, moto_server.make_bucket(f"sessions-{time.time_ns()}"), tmp_path)
    pushed = push(bench, "workspace=ws", "--embed", "sts:15m")
    assert pushed.code == 0, pushed.err
    aws = artifacts_of(tmp_path / "req.json")["workspace"]["credentials"]["aws"]
    assert aws["session_token"]
    assert "(in 0 h 14 min)" in pushed.said[-1]
    assert bench.stage(tmp_path / "req.json").code == 0


def test_the_credential_of_the_endpoints_entry(bench, paths, tmp_path):
    """What the caller's configuration has for the server sends the objects, and is what static embeds."""
    (tmp_path / "keys.json").write_text(json.dumps(credentials(servers.ADMIN)))
    (tmp_path / "artifacts.toml").write_text(
        f'version = 1\n[endpoint."{bench.host}"]\nurl = "{bench.url}"\ncredentials = "{tmp_path}/keys.json"\n'
    )
    words = ("workspace=ws", "-o", "req.json", "--embed", "static", "--config", "artifacts.toml", "--audit", "audit")
    pushed = run("push", "--to", bench.place("pre"), *words, cwd=tmp_path)
    assert pushed.code == 0, pushed.err
    assert "credentials in the request: AWS key AKAD…0001 (endpoint), which does not end" in pushed.said
    aws = artifacts_of(tmp_path / "req.json")["workspace"]["credentials"]["aws"]
    assert aws == credentials(servers.ADMIN)["aws"]
    record = [json.loads(line) for line in (tmp_path / "audit").read_text().splitlines()]
    assert [line["about"] if "about" in line else line["label"] for line in record if line["step"] == "open"] == [
        "workspace"
    ]


def test_a_server_without_sts_says_so(bench, paths):
    """Nothing is sent and nothing written; the hint names --role-arn."""
    pushed = push(bench, "workspace=ws", "--embed", "sts:15m")
    assert pushed.code == 5
    assert "--role-arn" in pushed.said[-1]
    assert bench.keys() == []
    assert not (bench.folder / "req.json").exists()


def test_below_a_folder_of_another_kind(wsgidav, paths, tmp_path):
    """WebDAV takes it too, with the user and password embedded."""
    login = {"plain": {"user": webservers.USER, "password": webservers.PASSWORD}}
    (tmp_path / "keys.json").write_text(json.dumps(login))
    name = f"pushed-{time.time_ns()}"
    pushed = run(
        *("push", "--to", f"{wsgidav.url}/{name}", "workspace=ws", "-o", "req.json", "--embed", "static"),
        *("--credentials", "keys.json"),
        cwd=tmp_path,
    )
    assert pushed.code == 0, pushed.err
    assert webservers.PASSWORD not in pushed.err
    staged = run("stage", tmp_path / "req.json", "--into", tmp_path / "job", "--endpoint", wsgidav.url)
    assert staged.code == 0, staged.err
    assert tree(tmp_path / "job" / "workspace") == tree(paths / "ws")


def test_files_that_stay_files(tmp_path, paths):
    """A mutable file keeps its name; --no-unpack keeps an archive; below a folder of this machine as well."""
    place = f"file://{tmp_path}/share"
    words = ("model=m/weights", "set=set.tar.gz", "--mutable", "model", "--no-unpack")
    pushed = run("push", "--to", place, *words, "-o", "req.json", cwd=tmp_path)
    assert pushed.code == 0, pushed.err
    staged = run("stage", "req.json", "--into", "job", "--file-root", tmp_path / "share", cwd=tmp_path)
    assert staged.code == 0, staged.err
    assert tree(tmp_path / "job" / "model") == {"weights": b"3"}
    (kept,) = tree(tmp_path / "job" / "set").values()
    assert kept == (paths / "set.tar.gz").read_bytes()
    (tmp_path / "job" / "model" / "weights").write_text("4")
    assert run("upload", "req.json", "--from", "job", "--file-root", tmp_path / "share", cwd=tmp_path).code == 0
    (again,) = (tmp_path / "share" / "experiments").rglob("weights")
    assert again.read_text() == "4"


def test_what_changes_while_it_is_pushed_is_not_left_under_its_name(tmp_path):
    """The object is named by the content: another one is deleted again, and the push fails."""
    (tmp_path / "data.csv").write_text("before")

    def change(event: object) -> None:
        if isinstance(event, Started):
            (tmp_path / "data.csv").write_text("after!")

    with pytest.raises(IntegrityError, match="changed while it was pushed"):
        push_to(f"file://{tmp_path}/share", {"d": tmp_path / "data.csv"}, on_event=change)
    assert [path for path in (tmp_path / "share").rglob("*") if path.is_file()] == []


def test_the_page_about_requests(bench, tmp_path):
    """The commands of docs/request.md, run as they stand on a real server."""
    page = (Path(__file__).parent.parent / "docs" / "request.md").read_text()
    commands = page.partition("## Made from paths")[2].partition("```sh\n")[2].partition("```")[0]
    fill(tmp_path / "experiment" / "workspace", {"train.py": "open('../modeldir/m', 'w').write('1')\n"})
    place = f"{bench.host}/{bench.bucket}"
    text = commands.replace("127.0.0.1:9000/artifacts-demo", place).replace("127.0.0.1:9000", bench.host)
    for line in text.replace("\\\n", " ").splitlines():
        done = run(*shlex.split(line)[1:], env=OWN, cwd=tmp_path)
        assert done.code == 0, (line, done.err)
    assert tree(tmp_path / "job" / "modeldir") == {"m": b"1"}
    assert len(bench.keys()) == 2


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("w=ws", "w=m"), "the label 'w' is given twice"),
        (("ws",), "'ws' is no LABEL=PATH: give either REQUEST, or --to URL and LABEL=PATH..."),
        ((), "nothing to push: give either REQUEST, or --to URL"),
        ((".w=ws",), "'.w': a label cannot begin with a dot"),
        (("w=none",), "'w': none is no file or folder"),
        (("w=",), "'w': nothing to push, and the label is not mutable"),
        (("w=ws", "--mutable", "x"), "'x' is mutable, and is not among the labels"),
        (("w=ws", "--embed", "sts"), "--embed sts: write none, static or sts:DURATION"),
        (("w=ws", "--embed", "sts:soon"), "--embed sts:soon: write a duration"),
        (("w=ws", "--embed", "sts:1m"), "--embed sts:1m: an STS gives keys for 15m to 12h"),
        (("w=ws", "-o", "none/req.json"), "-o none/req.json: there is no folder"),
    ],
)
def test_wrong_usage(bench, paths, capsys, monkeypatch, words, line):
    """Told before anything is sent: exit 2."""
    monkeypatch.chdir(paths)
    pushed = inside(capsys, "push", "--to", bench.place("pre"), "-o", "req.json", *words)
    assert pushed.code == 2
    assert line in pushed.said[-1]
    assert bench.keys() == []


def test_the_two_forms_exclude_each_other(tmp_path, capsys, monkeypatch):
    """Options of --to without it, and more than one REQUEST."""
    (tmp_path / "r.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    for more in (("--mutable", "x"), ("--embed", "none"), ("--no-unpack",), ("--compress", "gz")):
        told = inside(capsys, "push", "r.json", "-o", "-", *more)
        assert (told.code, "go with --to" in told.err) == (2, True)
    assert "more than one REQUEST" in inside(capsys, "push", "r.json", "r.json", "-o", "-").err


def test_a_url_that_would_mean_two_things():
    """A dotted host alone may be a bucket or a server; a presigned URL is one object."""
    with pytest.raises(LocationError, match="may be a bucket at AWS, or a server without its bucket"):
        push_to("s3://minio.corp.example", {"w": None}, mutable=["w"])
    with pytest.raises(LocationError, match="objects cannot be put below that URL"):
        push_to("https://host/f?X-Amz-Signature=1", {"w": None}, mutable=["w"])
    with pytest.raises(RequestError, match="embed is 'all'"):
        push_to("s3://b", {"w": None}, mutable=["w"], embed="all")
