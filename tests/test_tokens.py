"""Tokens: what is refused before any connection, where they come from, who vouches for them; and when values are renewed."""

import base64
import functools
import io
import json
import logging
import os
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from rich.traceback import Traceback

from creds.errors import CredentialError, MissingCredential, RefreshError, ToolkitError
from creds.keys import TokenCache
from creds.secret import Secret
from creds.store import Retries, StoreOptions
from creds.testing import FakeClock, OidcIssuer
from creds.tokens import MAX_CHARS, LiteralToken, TokenFile, TokenVariable, Verifier, read, taken

NOW = 1_800_000_000
QUICK = StoreOptions(retries=Retries(attempts=1), connect_timeout_seconds=2, read_timeout_seconds=2)


@pytest.fixture(scope="module")
def issuer():
    with OidcIssuer() as running:
        yield running


def token(header=None, **claims):
    """A token with any header and claims, signed by nobody who matters."""
    parts = ({"alg": "RS256", **(header or {"kid": "k"})}, {"iss": "https://i", "sub": "s", **claims})
    return ".".join([*(encoded(json.dumps(part).encode()) for part in parts), "c2ln"])


def encoded(content):
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


# Reading.


def test_claims_of_a_good_token(issuer):
    """Everything that a receipt and a policy need is read; times are in UTC, and the audience is a list always."""
    claims = read(issuer.mint(sub="job-7", nbf=NOW - 5, exp=NOW + 60.9), "it", clock=FakeClock(NOW))
    assert (claims.issuer, claims.subject, claims.audience) == (issuer.url, "job-7", ("artifacts-aud",))
    assert (claims.algorithm, claims.key_id, claims.id) == ("RS256", "k1", "sub:job-7")
    assert claims.expires_at == datetime(2027, 1, 15, 8, 1, tzinfo=UTC)
    assert claims.not_before == datetime(2027, 1, 15, 7, 59, 55, tzinfo=UTC)


def test_claims_that_need_not_be_there():
    """Neither kid, aud, exp nor nbf is insisted on: the receiver decides."""
    claims = read(token({"typ": "JWT"}), "it")
    assert (claims.key_id, claims.audience, claims.expires_at, claims.not_before) == (None, (), None, None)


@pytest.mark.parametrize(
    ("made", "kind", "said"),
    [
        ("", MissingCredential, "it is empty"),
        ("planted", CredentialError, "it is no JWT: it is not three parts"),
        ("planted.jwt", CredentialError, "it is no JWT: it is not three parts"),
        ("planted.jwt.token", CredentialError, "it is no JWT: its header or payload is no JSON object"),
        (f"Bearer {token()}", CredentialError, "it is no JWT: it is not three parts"),
        (f"{token()}\n", CredentialError, "it is no JWT: it is not three parts"),
        (f"{encoded(b'[]')}.{encoded(b'{}')}.c2ln", CredentialError, "its header or payload is no JSON object"),
        (f"{encoded(b'{}')}.{encoded(b'[1]')}.c2ln", CredentialError, "its header or payload is no JSON object"),
        (f"{encoded(b'[' * 9000)}.{encoded(b'{}')}.c2ln", CredentialError, "its header or payload is no JSON object"),
        ("a" * (MAX_CHARS + 1), CredentialError, "it is longer than 20000 characters"),
        (token({"alg": "none"}), CredentialError, "it is signed by nobody (alg: none)"),
        (token({"alg": "NoNe"}), CredentialError, "it is signed by nobody (alg: none)"),
        (token({"alg": None}), CredentialError, "it has a claim alg that is no text"),
        (token(sub=["planted"]), CredentialError, "it has a claim sub that is no text"),
        (token(aud=7), CredentialError, "it has an audience (aud) that is no text"),
        (token(aud=["a", None]), CredentialError, "it has an audience (aud) that is no text"),
        (token(exp="planted"), CredentialError, "it has a claim exp that is no time"),
        (token(exp=True), CredentialError, "it has a claim exp that is no time"),
        (token(exp=1e300), CredentialError, "it has a claim exp that is no time"),
        (token(exp=float("nan")), CredentialError, "it has a claim exp that is no time"),
        (token(nbf=-1), CredentialError, "it has a claim nbf that is no time"),
        (token(exp=NOW - 3600), RefreshError, "it ended at 2027-01-15T07:00:00Z (exp)"),
        (token(nbf=NOW + 3600), CredentialError, "it is not valid before 2027-01-15T09:00:00Z (nbf)"),
    ],
)
def test_what_nobody_could_accept(made, kind, said):
    """Each is refused with the claim, and the time, that is at fault; neither message nor traceback shows the token."""
    with pytest.raises(kind) as raised:
        read(Secret(made), "it", clock=FakeClock(NOW))
    assert said in str(raised.value)
    assert not raised.value.retryable
    out = Console(file=io.StringIO(), width=500)
    out.print(Traceback.from_exception(kind, raised.value, raised.tb.tb_next, show_locals=True, locals_max_string=None))
    shown = out.file.getvalue() + repr(raised.value)
    assert "in read" in shown
    assert all(part not in shown for part in made.split(".") if len(part) > 8)


def test_leeway_is_to_the_second():
    """The clocks may differ by less than a minute, in both directions."""
    clock = FakeClock(NOW)
    read(token(exp=NOW - 59), "it", clock=clock)
    read(token(nbf=NOW + 60), "it", clock=clock)
    with pytest.raises(RefreshError):
        read(token(exp=NOW - 60), "it", clock=clock)
    with pytest.raises(CredentialError):
        read(token(nbf=NOW + 61), "it", clock=clock)


def test_an_expired_literal_says_that_nothing_renews_it():
    """It ends with the request that carries it, and the error says when and what to do."""
    source = LiteralToken(Secret(token(exp=NOW)))
    with pytest.raises(RefreshError, match="a token that is written into a request cannot be renewed") as raised:
        read(source(), str(source), literal=True, clock=FakeClock(NOW + 3600))
    assert "credentials.jwt.token ended at 2027-01-15T08:00:00Z (exp)" in str(raised.value)
    assert raised.value.hint == "send the request again with a new token"


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.text(), st.lists(st.binary(max_size=40), max_size=4).map(lambda p: ".".join(map(encoded, p)))))
def test_any_text_is_read_or_refused(text):
    """Whatever a request holds, reading raises nothing but this toolkit's errors."""
    said = ""
    try:
        read(text, "it")
    except ToolkitError as error:
        said = str(error)
    assert said.isprintable()


def test_claims_are_shown_as_one_printable_line():
    """A subject cannot move the cursor of whoever reads a receipt."""
    claims = read(token(sub="job\x1b[2J\n\u202e" + "x" * 500), "it")
    assert claims.id.isprintable()
    assert len(claims.id) < 130


# Sources.


def test_a_file_is_read_anew_each_time(tmp_path):
    """As Kubernetes projects it: the path is a link, and what it leads to is replaced."""
    for name in ("first", "second"):
        (tmp_path / name).write_text(f"{name}\n")
    (tmp_path / "token").symlink_to(tmp_path / "first")
    source = TokenFile(tmp_path / "token")
    assert source().get_secret_value() == "first"
    (tmp_path / "next").symlink_to(tmp_path / "second")
    (tmp_path / "next").replace(tmp_path / "token")
    assert source().get_secret_value() == "second"


def test_a_file_that_is_none(tmp_path):
    """A missing file, a folder and a pipe that nobody writes are errors that name the path, at once."""
    os.mkfifo(tmp_path / "pipe")
    for name, said in (
        ("missing", "No such file"),
        (".", "no regular file|Is a directory"),
        ("pipe", "no regular file"),
    ):
        with pytest.raises(RefreshError, match=said) as raised:
            TokenFile(tmp_path / name)()
        assert repr(str(tmp_path / name)) in str(raised.value)


def test_a_file_that_is_too_long(tmp_path):
    """Of a huge file no more is read than shows that it is no token."""
    (tmp_path / "huge").write_bytes(b"a" * 1_000_000)
    source = TokenFile(tmp_path / "huge")
    assert len(source()) == MAX_CHARS + 2
    with pytest.raises(CredentialError, match="is longer than 20000 characters"):
        read(source(), str(source))


def test_a_variable(monkeypatch):
    """It is read at each call; one that is not set is a missing credential."""
    source = TokenVariable("JOB_TOKEN")
    monkeypatch.setenv("JOB_TOKEN", " first \n")
    assert source().get_secret_value() == "first"
    monkeypatch.setenv("JOB_TOKEN", "second")
    assert source().get_secret_value() == "second"
    monkeypatch.delenv("JOB_TOKEN")
    with pytest.raises(MissingCredential, match="the variable JOB_TOKEN is not set"):
        source()


def test_a_callable(issuer):
    """It may give text or a secret; what else it gives or raises is an error that shows nothing of it."""
    assert taken(lambda: "text").get_secret_value() == "text"
    assert taken(lambda: Secret("text")).get_secret_value() == "text"
    with pytest.raises(RefreshError, match="the operator's token cannot be had: its source gave no text but bytes"):
        taken(lambda: b"planted")
    with pytest.raises(
        RefreshError, match="the operator's token cannot be had: its source raised ValueError"
    ) as raised:
        taken(functools.partial(int, "planted"))
    assert "planted" not in str(raised.value)
    with pytest.raises(MissingCredential):
        taken(TokenVariable("JOB_TOKEN"))


# Verifying.


def verifier(issuer, **more):
    return Verifier(
        **{"keys": issuer.jwks_url, "issuer": issuer.url, "audience": "artifacts-aud", "options": QUICK, **more}
    )


def test_a_verified_token(issuer):
    """A good one passes, by URL and by a key set that is given; the keys are asked for once."""
    check = verifier(issuer)
    asked = issuer.requests.count("/jwks")
    read(issuer.mint(), "it", verify=check)
    read(issuer.mint(aud=["other", "artifacts-aud"]), "it", verify=check)
    assert issuer.requests.count("/jwks") == asked + 1
    read(issuer.mint(), "it", verify=verifier(issuer, keys=issuer.jwks()))
    assert issuer.requests.count("/jwks") == asked + 1


def test_a_token_that_does_not_hold(issuer):
    """Each lie is refused, and the error says which."""
    forger = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    check = verifier(issuer)
    with pytest.MonkeyPatch.context() as patch:
        # PyJWT itself does not sign with a public key; a forger would.
        patch.setattr("jwt.algorithms.HMACAlgorithm.prepare_key", lambda _self, key: key)
        confused = jwt.encode(
            {"iss": issuer.url, "sub": "s", "aud": "artifacts-aud"}, b"public" * 9, "HS256", {"kid": "k1"}
        )
    lies = {
        "its signature is not by the issuer's key": [issuer.mint(key=forger), confused],
        "its audience (aud) is not artifacts-aud": [issuer.mint(aud="other")],
        "its issuer (iss) is not": [issuer.mint(iss="https://elsewhere")],
        "its issuer publishes no such key (kid)": [issuer.mint(headers={"kid": "zz"}, key=forger)],
    }
    for said, tokens in lies.items():
        for lie in tokens:
            with pytest.raises(CredentialError) as raised:
                read(lie, "it", verify=check)
            assert said in str(raised.value)


def test_keys_that_change(caplog):
    """A new key is found at once; while the issuer is away the known ones serve; forged names do not flood it."""
    clock = FakeClock(time.time())
    with OidcIssuer() as issuer:
        check = verifier(issuer, clock=clock)
        read(issuer.mint(), "it", verify=check)
        old = issuer.mint()
        issuer.rotate("k2")
        for _ in range(3):
            with pytest.raises(CredentialError, match="no such key"):
                check(Secret(issuer.mint()))  # within the pause after the last look
        assert issuer.requests.count("/jwks") == 1
        clock.advance(11)
        check(Secret(issuer.mint()))
        with pytest.raises(CredentialError, match="no such key"):
            check(Secret(old))
        assert issuer.requests.count("/jwks") == 2
        last = issuer.mint()
    clock.advance(3600)
    with caplog.at_level(logging.WARNING, "creds"):
        check(Secret(last))
    assert "cannot be reached; the keys from before serve on" in caplog.text


def test_keys_that_were_never_there():
    """An issuer that cannot be reached, or answers with no key set, is an error of its own."""
    with OidcIssuer() as issuer:
        some = Secret(issuer.mint())
        with pytest.raises(RefreshError, match="answered 404") as raised:
            verifier(issuer, keys=f"{issuer.url}/missing")(some)
        assert not raised.value.retryable
        with pytest.raises(RefreshError, match="no JWKS with a key of use"):
            verifier(issuer, keys=f"{issuer.url}/.well-known/openid-configuration")(some)
        check = verifier(issuer)
    with pytest.raises(RefreshError, match="cannot be reached") as raised:
        check(some)
    assert raised.value.retryable


# Renewal.


@dataclass(frozen=True)
class Pass:
    number: int
    expires_at: datetime | None


class Office:
    """Gives out numbered values that live for ``life`` seconds, or fails."""

    def __init__(self, clock, life):
        self.clock, self.life, self.made, self.failing = clock, life, 0, False

    def __call__(self):
        self.made += 1
        if self.failing:
            raise RefreshError("the office is closed", retryable=True)
        ends = None if self.life is None else datetime.fromtimestamp(self.clock() + self.life, UTC)
        return Pass(self.made, ends)


def cache(life, **more):
    clock = FakeClock(NOW)
    office = Office(clock, life)
    return TokenCache(office, clock=clock, **more), office, clock


def test_asking_costs_nothing_until_the_window():
    """A value is made once, and again only when 15 minutes of its hour are left."""
    get, office, clock = cache(3600)
    assert get().number == get().number == 1
    clock.advance(2699)
    assert get().number == 1
    clock.advance(1)
    assert get().number == 2
    assert office.made == 2


def test_what_does_not_end_is_made_once():
    """A value without an end is kept."""
    get, office, clock = cache(None)
    get()
    clock.advance(1e9)
    assert (get().number, office.made) == (1, 1)


def test_an_early_failure_keeps_the_old_value(caplog):
    """In the advisory window a failure is logged, the old value serves, and the next try waits."""
    get, office, clock = cache(3600)
    get()
    office.failing = True
    clock.advance(2700)
    with caplog.at_level(logging.WARNING, "creds"):
        assert get().number == get().number == 1
    assert "could not be renewed early" in caplog.text
    assert office.made == 2
    clock.advance(59)
    assert (get().number, office.made) == (1, 2)
    clock.advance(1)
    assert (get().number, office.made) == (1, 3)
    office.failing = False
    clock.advance(60)
    assert (get().number, office.made) == (4, 4)


def test_a_late_failure_is_raised():
    """In the mandatory window a failure is raised; it is told again during the pause, and tried again after it."""
    get, office, clock = cache(3600)
    get()
    office.failing = True
    clock.advance(3541)
    for _ in range(3):
        with pytest.raises(RefreshError, match="the office is closed") as raised:
            get()
        assert raised.value.retryable
    assert office.made == 2
    office.failing = False
    clock.advance(1)
    assert get().number == 3


def test_short_lives_are_used_too():
    """Of four seconds the first two cost nothing; what ends at once is asked for once a second at the most."""
    get, office, clock = cache(4)
    get()
    clock.advance(1.9)
    assert (get().number, office.made) == (1, 1)
    clock.advance(0.2)
    assert (get().number, office.made) == (2, 2)
    get, office, clock = cache(0)
    assert [get().number for _ in range(50)] == [1] * 50
    clock.advance(1)
    assert (get().number, office.made) == (2, 2)


def test_a_clock_that_is_set_back_does_not_block():
    """After a step back of the clock the next due refresh is made."""
    get, office, clock = cache(0)
    get()
    clock.advance(-5000)
    get.refused(get())
    assert (get().number, office.made) == (2, 2)


def test_a_refused_value_is_made_again_once():
    """Those who were refused get another; a value that is not the current one changes nothing; a pause is kept."""
    get, office, clock = cache(3600)
    first = get()
    clock.advance(2)
    get.refused(first)
    assert get().number == 2
    for _ in range(20):
        get.refused(first)
        assert get().number == 2
    get.refused(get())
    assert (get().number, office.made) == (2, 2)  # made just now: the same refusal again would gain nothing
    clock.advance(1)
    assert (get().number, office.made) == (3, 3)


def run_together(count, work):
    """What ``work`` gave or raised in each of ``count`` threads that start together."""
    results, gate = [], threading.Barrier(count)

    def body():
        gate.wait()
        try:
            results.append(work())
        except ToolkitError as error:
            results.append(error)

    threads = [threading.Thread(target=body) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@pytest.mark.parametrize("seconds", [0, 3600], ids=["first", "ended"])
def test_twenty_threads_share_one_refresh(seconds):
    """All wait for one refresh and get its value."""
    get, office, clock = cache(3600)
    if seconds:
        get()
    clock.advance(seconds)
    made = office.made
    slow = threading.Event()

    def tardy(make=office.__call__):
        slow.wait(0.2)
        return make()

    get._make = tardy
    assert {value.number for value in run_together(20, get)} == {made + 1}
    assert office.made == made + 1


def test_twenty_threads_share_one_failure():
    """All hear of the one failure, each by an error of its own."""
    get, office, _ = cache(3600)
    office.failing = True
    errors = run_together(20, get)
    assert {str(error) for error in errors} == {"the office is closed"}
    assert len({id(error) for error in errors}) == 20
    assert office.made == 1


def test_early_one_thread_tries_and_nobody_waits():
    """In the advisory window the others go on with the old value while one asks."""
    get, office, clock = cache(3600)
    get()
    clock.advance(2800)
    asking, answer = threading.Event(), threading.Event()
    make = office.__call__

    def tardy():
        asking.set()
        assert answer.wait(10)
        return make()

    get._make = tardy
    one = threading.Thread(target=get)
    one.start()
    assert asking.wait(10)
    assert {value.number for value in run_together(19, get)} == {1}
    answer.set()
    one.join()
    assert (get().number, office.made) == (2, 2)
