"""No secret reaches what is printed, logged, kept or raised: planted ones are looked for everywhere."""

from __future__ import annotations

import base64
import json
import pickle
import subprocess
import sys
import traceback
from pathlib import Path
from urllib.parse import quote

import pytest

import artifacts
from artifacts import Request, StagingDir, dumps, loads
from creds import Cancel, Policy, StoreOptions, ToolkitError
from creds.testing import MemoryStore

PLANTED = {
    "password": "planted/Pass+word=1",
    "jwt": "eyJhbGciOiJSUzI1NiJ9.planted-payload.planted-signature",
    "secret": "planted/Secret+Key=2",
    "session": "planted/Session+Token=3",
    "env": "planted/Env+Secret=4",
    "api": "planted/Api+Key=5",
    "any": "planted/Any+Value=6",
}


def document(
    host: str = "minio.example:9000", secret: str = PLANTED["secret"], session: str | None = PLANTED["session"]
) -> bytes:
    aws = {"access_key": "AKPLANTED", "secret_access_key": secret}
    if session:
        aws["session_token"] = session
    place = {"bucket": "bucket", "mutable": True, "unpack": True}
    return json.dumps(
        {
            "config": {
                "cloud": {"token": PLANTED["any"]},
                "database": {"apiKey": PLANTED["api"], "credentials": {"jwt": {"token": PLANTED["jwt"]}}},
                "env": {"AWS_SECRET_ACCESS_KEY": PLANTED["env"], "AWS_ACCESS_KEY_ID": "AKENV"},
            },
            "experiment": {
                "key": "exp",
                "artifacts": {
                    "model": place
                    | {"key": "m.tar", "qualified": f"s3://{host}/bucket/m.tar", "credentials": {"aws": aws}},
                    "plain": place
                    | {
                        "key": "p.tar",
                        "qualified": f"s3://{host}/bucket/p.tar",
                        "credentials": {"plain": {"user": "u", "password": PLANTED["password"]}},
                    },
                    "token": place
                    | {
                        "key": "t.tar",
                        "qualified": f"s3://{host}/bucket/t.tar",
                        "credentials": {"jwt": {"token": PLANTED["jwt"]}},
                    },
                },
            },
        }
    ).encode()


def forms(secret: str) -> set[str]:
    """A secret as it is, URL-encoded, and in base64 at each alignment."""
    raw = secret.encode()
    encoded = {base64.b64encode(b"x" * shift + raw).decode()[4:-4] for shift in range(3)}
    return {secret, quote(secret, safe=""), quote(secret)} | encoded


def found_in(text: str, secrets: object = tuple(PLANTED.values())) -> list[str]:
    return [secret for secret in secrets for form in forms(secret) if form in text]


def test_the_search_finds_what_is_there():
    """The check itself works, in every form."""
    for secret in PLANTED.values():
        for text in (secret, quote(secret, safe=""), base64.b64encode(b"ab" + secret.encode()).decode()):
            assert found_in(text) == [secret] or secret in found_in(text)


@pytest.mark.parametrize(
    "show", [repr, str, "{!r}".format, lambda value: repr(vars(value)), lambda value: value.model_dump_json()]
)
def test_a_request_does_not_show_them(show):
    """repr, str, formatting, vars and pydantic's own dumps mask."""
    request = loads(document())
    for value in (request.experiment.artifacts["model"].credentials, request.experiment.artifacts["token"].credentials):
        assert found_in(show(value)) == []
    assert found_in(repr(request)) == found_in(str(request)) == []


def test_pickles_do_not_carry_them():
    """A pickled request holds no secret of its credentials."""
    request = loads(document())
    for artifact in request.experiment.artifacts.values():
        assert found_in(pickle.dumps(artifact.credentials).decode("latin-1")) == []


def test_only_dumps_reveals():
    """What is written back for a runner holds every one of them: nothing is lost."""
    written = dumps(loads(document())).decode()
    assert all(secret in written for secret in PLANTED.values())


@pytest.mark.parametrize(
    "broken",
    [
        lambda text: text.replace(b'"access_key": "AKPLANTED"', b'"access_key": 7'),
        lambda text: text.replace(b'"mutable": true', b'"mutable": "yes"'),
        lambda text: text[:-20],
        lambda text: text.replace(b'"secret_access_key": "', b'"secret_access_key": ["').replace(
            b'", "session_token"', b'"], "session_token"'
        ),
        lambda text: text.replace(b"secret_access_key", b"secret_key"),
    ],
)
def test_errors_about_a_document_do_not_show_them(broken):
    """Neither the message, nor the traceback with its causes, nor a warning."""
    problem: ToolkitError | None = None
    try:
        warnings = loads(broken(document())).warnings
    except ToolkitError as error:
        problem, warnings = error, ()
    assert problem is not None or warnings
    shown = "".join(traceback.format_exception(problem)) if problem else ""
    assert found_in(shown + repr(vars(problem) if problem else {}) + "".join(warnings)) == []


def test_options_and_policy_do_not_show_them():
    """What configures a run is safe to print."""
    request = loads(document())
    policy = Policy.for_requests(["http://minio.example:9000"])
    assert found_in(repr(StoreOptions(request_env=request.config.env)) + repr(policy)) == []


def test_staging_shows_none(tmp_path):
    """Events, receipts, errors and state files of a staging run hold none of them."""
    events: list[object] = []
    request = loads(document())
    store = MemoryStore()
    staging = StagingDir(
        tmp_path / "job",
        policy=Policy.for_requests(["http://minio.example:9000"]),
        open=lambda *_: store,
        on_event=events.append,
        cancel=Cancel(),
    )
    with pytest.raises(artifacts.StagingError) as caught:
        staging.stage(request)
    assert "jwt" in str(caught.value)
    assert found_in("".join(traceback.format_exception(caught.value)) + repr(vars(caught.value))) == []
    del request.experiment.artifacts["token"]
    staging.stage(request)
    (tmp_path / "job" / "model" / "x").write_text("1")
    staging.upload(request)
    assert (
        found_in(repr(events) + "".join(event.receipt.to_json() for event in events if hasattr(event, "receipt"))) == []
    )
    for path in (tmp_path / "job").rglob("*"):
        if path.is_file():
            assert found_in(path.read_text()) == []


COMMANDS = {
    "check": ["check", "request.json"],
    "check json": ["check", "request.json", "--json", "-vv"],
    "stage": ["stage", "request.json", "--into", "job", "-vv", "--traceback", "--log-file", "log"],
    "stage json": ["stage", "request.json", "--into", "job2", "-vv", "--json"],
    "audit": ["stage", "request.json", "--into", "job", "--audit", "audit.jsonl"],
    "show": ["config", "show", "--origin", "--json"],
    "upload": ["upload", "request.json", "--from", "job", "-vv", "--traceback"],
    "run": ["run", "request.json", "--into", "job", "-vv", "--", "true"],
    "get": ["get", "s3://{host}/bucket/m.tar", "out", "--credentials", "keys.json", "-vv", "--traceback"],
    "doctor": ["doctor", "request.json", "--write", "-vv", "--traceback", "--log-file", "log"],
    "doctor json": ["doctor", "s3://{host}/bucket/m.tar", "--credentials", "keys.json", "--json", "-vv"],
    "push to": [
        *("push", "--to", "s3://{host}/bucket/to", "w=keys.json", "-o", "made.json", "--embed", "none"),
        *("--credentials", "keys.json", "-vv", "--traceback"),
    ],
    "put": ["put", "request.json", "s3://{host}/bucket/m", "--credentials", "keys.json", "-vv", "--json"],
}


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("right", [True, False], ids=["right keys", "wrong keys"])
def test_no_command_prints_them(tmp_path, seaweed, name, right):
    """Every command, working and refused, at its most talkative: output, log and folders hold no secret."""
    host = seaweed.endpoint_url.removeprefix("http://")
    if "bucket" not in {found["Name"] for found in seaweed.client().list_buckets()["Buckets"]}:
        seaweed.make_bucket("bucket")
    secret = seaweed.admin.secret_key if right else PLANTED["secret"]
    text = json.loads(document(host, secret, None if right else PLANTED["session"]))
    del text["experiment"]["artifacts"]["token"]
    del text["experiment"]["artifacts"]["plain"]
    aws = text["experiment"]["artifacts"]["model"]["credentials"]
    if right:
        aws["aws"]["access_key"] = seaweed.admin.access_key
    (tmp_path / "request.json").write_text(json.dumps(text))
    (tmp_path / "keys.json").write_text(json.dumps(aws))
    before = {"request.json", "keys.json"}
    command = [argument.format(host=host) for argument in COMMANDS[name]]
    done = subprocess.run(
        [sys.executable, "-m", "artifacts.cli", *command],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "ARTIFACTS_ENDPOINTS": seaweed.endpoint_url},
    )
    assert done.returncode in ((0, 2, 4) if right or name == "show" else (2, 5)), done.stderr
    secrets = (*PLANTED.values(), seaweed.admin.secret_key)
    assert found_in(done.stdout + done.stderr, secrets) == []
    for path in tmp_path.rglob("*"):
        if path.is_file() and path.name not in before:
            assert found_in(path.read_text("latin-1"), secrets) == [], path


def test_the_request_file_stays_the_callers(tmp_path):
    """Loading a request reads it and nothing more."""
    path = tmp_path / "request.json"
    path.write_bytes(document())
    request = Request.load(path)
    assert request.experiment.artifacts["plain"].credentials.plain.password.get_secret_value() == PLANTED["password"]
    assert [entry.name for entry in Path(tmp_path).iterdir()] == ["request.json"]
