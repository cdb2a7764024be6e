"""No secret reaches what is printed, logged, kept or raised: planted ones are looked for everywhere."""

from __future__ import annotations

import base64
import json
import pickle
import traceback
from pathlib import Path
from urllib.parse import quote

import planted
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


def found_in(text: str) -> list[str]:
    return planted.found_in(text, PLANTED.values())


def test_the_search_finds_what_is_there():
    """The check itself works, in every form."""
    for secret in PLANTED.values():
        for text in (secret, quote(secret, safe=""), base64.b64encode(b"ab" + secret.encode()).decode()):
            assert found_in(text) == [secret]


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


def test_the_request_file_stays_the_callers(tmp_path):
    """Loading a request reads it and nothing more."""
    path = tmp_path / "request.json"
    path.write_bytes(document())
    request = Request.load(path)
    assert request.experiment.artifacts["plain"].credentials.plain.password.get_secret_value() == PLANTED["password"]
    assert [entry.name for entry in Path(tmp_path).iterdir()] == ["request.json"]
