"""A profile of IAM Identity Center (SSO): the portal is a server on loopback, the object store is SeaweedFS.

By the command, in a process of its own: botocore finds the folder of cached tokens when it is loaded.
"""

import contextlib
import hashlib
import json
import threading
import time
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from commands import Bench, run

START_URL = "https://corp.awsapps.com/start"
TOKEN = "sso-token-that-must-not-print"


class Portal(ThreadingHTTPServer):
    """GetRoleCredentials as the portal answers it, for one role and one token; and CreateToken, for one more token.

    Attributes:
        asked: the paths, in order.
        life_seconds: of the keys that it gives.
    """

    def __init__(self, keys):
        portal = self
        self.asked = []
        self.token = TOKEN
        self.life_seconds = 3600

        class Answers(BaseHTTPRequestHandler):
            def do_GET(self):
                url = urlsplit(self.path)
                query = parse_qs(url.query)
                portal.asked.append(url.path)
                if self.headers.get("x-amz-sso_bearer_token") != portal.token:
                    self._answer(401, {"message": "Session token not found or invalid"}, "UnauthorizedException")
                elif query != {"role_name": ["Reader"], "account_id": ["111122223333"]}:
                    self._answer(403, {"message": "No access"}, "ForbiddenException")
                else:
                    found = {
                        "accessKeyId": keys.access_key,
                        "secretAccessKey": keys.secret_key,
                        "sessionToken": "",
                        "expiration": int((time.time() + portal.life_seconds) * 1000),
                    }
                    self._answer(200, {"roleCredentials": found})

            def do_POST(self):
                portal.asked.append(self.path)
                sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if sent["refreshToken"] != "refresh-token-that-must-not-print":
                    self._answer(400, {"error": "invalid_grant"}, "InvalidGrantException")
                    return
                portal.token = "another-token-that-must-not-print"
                self._answer(200, {"accessToken": portal.token, "expiresIn": 3600, "tokenType": "Bearer"})

            def _answer(self, status, document, kind=None):
                body = json.dumps(document).encode()
                self.send_response(status)
                if kind is not None:
                    self.send_header("x-amzn-ErrorType", kind)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        super().__init__(("127.0.0.1", 0), Answers)
        self.url = f"http://127.0.0.1:{self.server_port}"


@pytest.fixture
def portal(seaweed):
    with contextlib.closing(Portal(seaweed.admin)) as server:
        server.close = server.server_close
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def bench(seaweed, bucket, tmp_path):
    made = Bench(seaweed, bucket, tmp_path)
    made.put("data.bin", b"content")
    return made


def sign_in(home, cached_for, *, ends=3600, **more):
    """Leave what ``aws sso login`` leaves."""
    folder = Path(home) / ".aws" / "sso" / "cache"
    folder.mkdir(parents=True, exist_ok=True)
    moment = (datetime.now(UTC) + timedelta(seconds=ends)).strftime("%Y-%m-%dT%H:%M:%SZ")
    document = {"startUrl": START_URL, "region": "eu-west-1", "accessToken": TOKEN, "expiresAt": moment, **more}
    (folder / f"{hashlib.sha1(cached_for.encode()).hexdigest()}.json").write_text(json.dumps(document))


SESSION = (
    "[profile ml]\nsso_session = corp\nsso_account_id = 111122223333\nsso_role_name = {role}\nservices = here\n"
    "[sso-session corp]\nsso_start_url = " + START_URL + "\nsso_region = eu-west-1\n"
    "[services here]\nsso =\n  endpoint_url = {url}\nsso_oidc =\n  endpoint_url = {url}\n"
)
LEGACY = (
    "[profile ml]\nsso_start_url = " + START_URL + "\nsso_region = eu-west-1\nsso_account_id = 111122223333\n"
    "sso_role_name = {role}\nservices = here\n[services here]\nsso =\n  endpoint_url = {url}\n"
)
FORMS = [pytest.param(SESSION, "corp", id="sso_session"), pytest.param(LEGACY, START_URL, id="legacy")]


def configure(home, form, portal, role="Reader"):
    folder = Path(home) / ".aws"
    folder.mkdir(exist_ok=True)
    (folder / "config").write_text(form.format(url=portal.url, role=role))


@pytest.mark.parametrize(("form", "cached_for"), FORMS)
def test_a_profile_that_signed_in(home, bench, portal, form, cached_for):
    """Its keys fetch, by --profile; the portal is asked once."""
    configure(home, form, portal)
    sign_in(home, cached_for)
    got = bench.folder / "got"
    done = run("get", bench.place("data.bin"), got, "--endpoint", bench.url, "--profile", "ml", "--json")
    assert done.code == 0, done.err
    assert got.read_bytes() == b"content"
    (receipt,) = done.receipts.values()
    assert receipt["credential"] | {"expires_at": None} == {
        "kind": "profile",
        "id": None,
        "source": "profile:ml",
        "expires_at": None,
    }
    assert portal.asked == ["/federation/credentials"]
    assert TOKEN not in done.out + done.err


def test_a_machine_that_signed_in(home, bench, portal):
    """--ambient takes the profile that AWS_PROFILE names, and asks the portal once for all artifacts."""
    configure(home, SESSION, portal)
    sign_in(home, "corp")
    artifacts = {f"in-{number}": bench.artifact("data.bin", unpack=False, credentials=None) for number in range(4)}
    request = bench.request(artifacts)
    ambient = bench.stage(request, "--ambient", "--lend-to", bench.host, "--json", env={"AWS_PROFILE": "ml"})
    assert (ambient.code, set(ambient.statuses.values())) == (0, {"done"}), ambient.err
    assert portal.asked == ["/federation/credentials"]
    assert TOKEN not in ambient.out + ambient.err


def test_nothing_is_used_unasked(home, bench, portal):
    """A request that names neither gets nothing of the sign-in."""
    configure(home, SESSION, portal)
    sign_in(home, "corp")
    request = bench.request({"data": bench.artifact("data.bin", unpack=False, credentials=None)})
    assert bench.stage(request, env={"AWS_PROFILE": "ml"}).code == 5
    assert portal.asked == []


@pytest.mark.parametrize(
    ("how", "form", "cached_for"),
    [
        ("expired", SESSION, "corp"),
        ("expired", LEGACY, START_URL),
        ("never", LEGACY, START_URL),
        ("revoked", SESSION, "corp"),
    ],
)
def test_a_sign_in_that_is_over(home, bench, portal, how, form, cached_for):
    """One line says what to run; it is no transient failure, and no token or traceback is told."""
    configure(home, form, portal)
    if how != "never":
        sign_in(home, cached_for, ends=-60 if how == "expired" else 3600)
    portal.token = "revoked"
    result = run("get", bench.place("data.bin"), bench.folder / "got", "--endpoint", bench.url, "--profile", "ml", "-q")
    assert result.code == 5
    assert result.said == [
        "data.bin: failed: the AWS setup (profile:ml) gave no keys: its SSO session has ended, or was never begun "
        "(hint: run 'aws sso login --profile ml')"
    ]
    if how == "never":
        request = bench.request({"data": bench.artifact("data.bin", unpack=False, credentials=None)})
        ambient = bench.stage(request, "--ambient", "--lend-to", bench.host, env={"AWS_PROFILE": "ml"})
        assert (ambient.code, "aws sso login --profile ml" in ambient.err) == (5, True)


def test_a_sign_in_that_renews_itself(home, bench, portal):
    """A cached refresh token gets another token from the portal, as the AWS CLI does."""
    configure(home, SESSION, portal)
    sign_in(
        home,
        "corp",
        ends=-60,
        clientId="id",
        clientSecret="client-secret-that-must-not-print",
        refreshToken="refresh-token-that-must-not-print",
        registrationExpiresAt="2099-01-01T00:00:00Z",
    )
    result = run("get", bench.place("data.bin"), bench.folder / "got", "--endpoint", bench.url, "--profile", "ml")
    assert result.code == 0, result.err
    assert portal.asked == ["/token", "/federation/credentials"]
    assert "must-not-print" not in result.out + result.err


def test_a_role_that_is_not_given(home, bench, portal):
    """The portal's refusal is told with its code, and does not ask for another sign-in."""
    configure(home, SESSION, portal, role="Owner")
    sign_in(home, "corp")
    result = run("get", bench.place("data.bin"), bench.folder / "got", "--endpoint", bench.url, "--profile", "ml", "-q")
    assert result.code == 5
    assert "ForbiddenException" in result.err
    assert "check sso_account_id and sso_role_name" in result.err


def test_a_profile_that_is_half_written(home, bench, portal):
    """What is missing is named."""
    configure(home, SESSION.replace("sso_account_id = 111122223333\n", ""), portal)
    result = run("get", bench.place("data.bin"), bench.folder / "got", "--endpoint", bench.url, "--profile", "ml", "-q")
    assert result.code == 5
    assert "sso_account_id" in result.err
