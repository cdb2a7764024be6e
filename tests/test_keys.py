"""Keys and regions: both documented orders are tables here, and nothing of the machine's own leaks in."""

import copy
import os
import pickle
import re
from datetime import UTC, datetime, timedelta, timezone

import pytest

from creds import keys
from creds.errors import (
    AmbiguousCredential,
    CredentialError,
    LocationError,
    MissingCredential,
    PolicyError,
    RefreshError,
    UnsupportedCredential,
)
from creds.keys import AwsKeys, ChainKeys, Identity, identify, resolve_keys, resolve_region, static
from creds.location import Location
from creds.models import AWSCredential, Credentials, JWTCredential, PlainCredential
from creds.policy import Endpoint
from creds.store import StoreOptions
from creds.tokens import TokenVariable
from tests.test_location import tables

ID, SECRET, TOKEN = "AKIAIOSFODNN7EXAMPLE", "planted+secret/1", "planted-token"
PAIR = {"AWS_ACCESS_KEY_ID": "ENVENVENVENV", "AWS_SECRET_ACCESS_KEY": "planted-env-secret"}
NOTHING = Credentials()
PAGE = tables("authentication.md")


def aws(**fields):
    return Credentials(aws=AWSCredential(**fields))


def exchange(source):
    """Keys for a token, as an STS would give them; what really does is tested with one."""
    origin = "token" if isinstance(source, TokenVariable) else "request"
    made = AwsKeys(access_key=ID, secret_key=SECRET, token=TOKEN, source=origin)
    return Identity(kind="jwt", id=f"sub:{source}", source=origin), static(made)


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """The machine's own AWS setup: a default profile, another, and a hostile environment beside them."""
    credentials = tmp_path / "credentials"
    credentials.write_text(
        "[default]\naws_access_key_id=DEFAULTKEYID\naws_secret_access_key=planted-default\n"
        "[ml]\naws_access_key_id=MLPROFILEKEY\naws_secret_access_key=planted-ml\naws_session_token=planted-ml-token\n"
        "[half]\naws_access_key_id=HALFHALFHALF\n"
        "[nothing]\n"
    )
    config = tmp_path / "config"
    config.write_text(
        "[default]\nregion=eu-west-3\n[profile ml]\nregion=eu-north-1\n[profile half]\n[profile nothing]\n"
        "[profile broken]\ncredential_process=/nonexistent-credential-process\n"
    )
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(credentials))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return tmp_path


# Each line of the documented order: credentials, config.env, what the caller gave; then the identity and keys, or error.
LINES = [
    ("1", Credentials(plain=PlainCredential(), aws=AWSCredential()), {}, {}, AmbiguousCredential, "plain, aws"),
    ("1", Credentials(jwt=JWTCredential(token=TOKEN), aws=AWSCredential()), PAIR, {}, AmbiguousCredential, "jwt, aws"),
    ("2", Credentials(jwt=JWTCredential(token=TOKEN)), PAIR, {"exchange": exchange}, ("jwt", "sub:credentials.jwt.token"), (ID, SECRET, TOKEN)),
    ("3", Credentials(plain=PlainCredential(user="alice", password=SECRET)), PAIR, {}, ("plain", "al…"), ("alice", SECRET, None)),
    ("4", Credentials(plain=PlainCredential(user="alice")), PAIR, {}, MissingCredential, "credentials.plain.password is missing"),
    ("4", Credentials(plain=PlainCredential(password=SECRET)), {}, {}, MissingCredential, "credentials.plain.user is missing"),
    ("4", Credentials(plain=PlainCredential()), {}, {"ambient": True}, MissingCredential, "user and credentials.plain.password are missing"),
    ("5", aws(access_key=ID, secret_access_key=SECRET), {**PAIR, "AWS_SESSION_TOKEN": "no"}, {"ambient": True}, ("aws", "AKIA…MPLE"), (ID, SECRET, None)),
    ("5", aws(access_key=ID, secret_access_key=SECRET, session_token=TOKEN), {}, {}, ("aws", "AKIA…MPLE"), (ID, SECRET, TOKEN)),
    ("5", aws(access_key=ID, secret_access_key=SECRET, profile="ml"), {}, {"profile": "ml"}, ("aws", "AKIA…MPLE"), (ID, SECRET, None)),
    ("6", aws(access_key=ID), PAIR, {"ambient": True}, MissingCredential, "credentials.aws.secret_access_key is missing"),
    ("6", aws(secret_access_key=SECRET), PAIR, {}, MissingCredential, "credentials.aws.access_key is missing"),
    ("6", aws(session_token=TOKEN), PAIR, {}, MissingCredential, "credentials.aws.access_key and"),
    ("7", aws(profile="ml"), PAIR, {"profile": "ml"}, ("profile", None), ("MLPROFILEKEY", "planted-ml", "planted-ml-token")),
    ("7", aws(profile="ml"), PAIR, {}, PolicyError, "the profile 'ml' of this machine"),
    ("7", aws(profile="ml"), {}, {"ambient": True}, PolicyError, "the profile 'ml' of this machine"),
    ("7", aws(profile="ml"), {}, {"profile": "default"}, PolicyError, "the profile 'ml' of this machine"),
    ("8", aws(), PAIR, {"ambient": True, "profile": "ml"}, ("anonymous", None), None),
    ("9", NOTHING, PAIR, {"ambient": True}, ("aws", "ENVE…VENV"), ("ENVENVENVENV", "planted-env-secret", None)),
    ("9", None, {**PAIR, "AWS_SESSION_TOKEN": TOKEN}, {"profile": "ml"}, ("aws", "ENVE…VENV"), ("ENVENVENVENV", "planted-env-secret", TOKEN)),
    ("10", NOTHING, {"AWS_ACCESS_KEY_ID": ID}, {"ambient": True}, MissingCredential, "config.env.AWS_SECRET_ACCESS_KEY is missing"),
    ("10", None, {"AWS_SECRET_ACCESS_KEY": SECRET, "AWS_ACCESS_KEY_ID": ""}, {}, MissingCredential, "config.env.AWS_ACCESS_KEY_ID is missing"),
    ("11", NOTHING, {}, {"token": TokenVariable("T"), "exchange": exchange, "profile": "ml", "ambient": True}, ("jwt", "sub:the variable T"), (ID, SECRET, TOKEN)),
    ("12", NOTHING, {}, {"profile": "ml", "ambient": True}, ("profile", None), ("MLPROFILEKEY", "planted-ml", "planted-ml-token")),
    ("13", None, {"AWS_PROFILE": "ml"}, {"ambient": True}, ("ambient", None), ("DEFAULTKEYID", "planted-default", None)),
    ("14", None, {}, {}, ("anonymous", None), None),
    ("14", NOTHING, {"AWS_PROFILE": "ml", "AWS_SESSION_TOKEN": TOKEN}, {}, ("anonymous", None), None),
]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "credentials", "env", "given", "expected", "detail"), LINES, ids=[f"line-{row[0]}" for row in LINES]
)
def test_the_order_of_keys(machine, line, credentials, env, given, expected, detail):
    """Each documented line gives the kind, source and keys it says, or its error; no value is in a message."""
    documented = next(row for row in PAGE["Keys for S3"] if row[0] == line)
    if isinstance(expected, type):
        with pytest.raises(expected, match=re.escape(detail)) as raised:
            identify(credentials, request_env=env, **given)
        assert expected.__name__ in documented[2]
        assert "planted" not in f"{raised.value!r} {raised.value.hint}"
        return
    identity, provider = identify(credentials, request_env=env, **given)
    assert (identity.kind, identity.id) == expected
    assert identity.kind == documented[3]
    assert identity.source == documented[4].replace("NAME", "ml")
    if detail is None:
        assert provider is None
        return
    made = provider()
    assert (made.access_key, made.secret_key, made.token) == detail
    assert (made.source, made.expires_at) == (identity.source, None)


def test_every_line_of_both_orders_is_tried():
    """The tables here have a row for each line of the page, and the docstrings have the page's words."""
    assert {row[0] for row in LINES} == {row[0] for row in PAGE["Keys for S3"]}
    assert {row[0] for row in REGIONS} == {row[0] for row in PAGE["Region"]}
    for doc, rows in ((identify.__doc__, PAGE["Keys for S3"]), (resolve_region.__doc__, PAGE["Region"])):
        text = re.sub(r"\s+", " ", doc.replace("``", "`"))
        for row in rows:
            assert f"{row[0]} {row[1]}" in text


def test_a_jwt_needs_an_sts():
    """Where no endpoint is known nobody can turn a token into keys; it is never taken for anonymous."""
    for given in ({}, {"token": TokenVariable("T")}):
        credentials = None if given else Credentials(jwt=JWTCredential(token=TOKEN))
        with pytest.raises(UnsupportedCredential, match="at the STS of one endpoint"):
            identify(credentials, request_env={}, **given)


def test_resolve_keys_is_the_provider(machine):
    """The short form returns the same provider, and None for anonymous."""
    assert resolve_keys(None, request_env={}) is None
    assert resolve_keys(aws(access_key=ID, secret_access_key=SECRET), request_env={})().secret_key == SECRET
    assert resolve_keys(None, request_env={}, profile="ml")().access_key == "MLPROFILEKEY"


def test_nothing_of_the_machine_is_read_unless_named(machine, monkeypatch):
    """With keys in every place the machine has, a request without a credential is anonymous."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_PROFILE"):
        monkeypatch.setenv(name, "hostile")
    assert identify(None, request_env={}) == (Identity(kind="anonymous"), None)
    assert resolve_keys(None, request_env={}, profile="ml")().access_key == "MLPROFILEKEY"
    location = Location.parse("s3://data/k")
    assert resolve_region(None, location, {}, None, StoreOptions()) == ("us-east-1", "default")
    made = identify(aws(access_key=ID, secret_access_key=SECRET), request_env={})[1]()
    assert made == AwsKeys(access_key=ID, secret_key=SECRET, token=None, source="request")


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"access_key": ID + "\n", "secret_access_key": SECRET}, "credentials.aws.access_key"),
        ({"access_key": "A B", "secret_access_key": SECRET}, "credentials.aws.access_key"),
        ({"access_key": ID, "secret_access_key": SECRET, "session_token": "planted\r\nX: y"}, "aws.session_token"),
    ],
)
def test_keys_cannot_break_a_header(fields, name):
    """A line break or space in what becomes a header is refused, by its field's name."""
    with pytest.raises(CredentialError, match=name) as raised:
        identify(aws(**fields), request_env={})
    assert "planted" not in str(raised.value)


def test_the_profiles_hint_is_a_flag_and_no_command():
    """A plain name is offered as a flag; one that a shell would read otherwise is not repeated in the hint."""
    with pytest.raises(PolicyError) as raised:
        identify(aws(profile="ml"), request_env={})
    assert (raised.value.rule, raised.value.hint) == ("profile", "add --profile ml")
    with pytest.raises(PolicyError) as raised:
        identify(aws(profile="x; reboot"), request_env={})
    assert raised.value.hint is None


@pytest.mark.parametrize(
    ("profile", "kind", "message"),
    [
        ("absent", MissingCredential, "no profile 'absent'"),
        ("half", MissingCredential, "half a pair"),
        ("nothing", MissingCredential, "(profile:nothing) has no keys"),
        ("broken", RefreshError, "(profile:broken) gave no keys"),
    ],
)
def test_a_setup_without_keys_says_so(machine, monkeypatch, profile, kind, message):
    """What the caller's setup lacks is told when keys are first asked for, not before."""
    provider = identify(None, request_env={}, profile=profile)[1]
    with pytest.raises(kind, match=re.escape(message)):
        provider()


def test_a_setup_that_cannot_be_read(machine):
    """A broken configuration file is an error of its own, with the file's name."""
    (machine / "config").write_text("no section\n")
    with pytest.raises(CredentialError, match="cannot be read"):
        ChainKeys()()
    with pytest.raises(CredentialError, match="cannot be read"):
        ChainKeys().region()


def test_the_chain_is_read_once_and_asked_each_time(machine):
    """botocore's own credentials renew themselves; a provider asks them at every call, and gives their end in UTC."""
    expires = datetime(2031, 5, 1, 12, tzinfo=timezone(timedelta(hours=2)))

    class Renewing:
        _expiry_time = expires
        asked = 0

        def get_frozen_credentials(self):
            self.asked += 1
            from botocore.credentials import ReadOnlyCredentials

            return ReadOnlyCredentials(f"KEY{self.asked}", SECRET, TOKEN)

    provider = ChainKeys()
    provider._credentials = Renewing()
    assert [provider().access_key for _ in range(3)] == ["KEY1", "KEY2", "KEY3"]
    ends = provider().expires_at
    assert ends == datetime(2031, 5, 1, 10, tzinfo=UTC)
    assert ends.tzinfo is UTC


def test_the_chains_region(machine):
    """The setup's own region, by profile; None where it names none."""
    assert ChainKeys().region() == "eu-west-3"
    assert ChainKeys("ml").region() == "eu-north-1"
    assert ChainKeys("nothing").region() is None


REGIONS = [
    ("1", "s3://s3.us-west-1.amazonaws.com/b/k", "eu-west-1", "us-west-2", ("us-west-2", "options")),
    ("2", "s3://s3.us-west-1.amazonaws.com/b/k", "eu-west-1", None, ("eu-west-1", "credential")),
    ("3", "s3://s3.us-west-1.amazonaws.com/b/k", None, None, ("us-west-1", "endpoint")),
    ("3", "s3://b.s3-us-west-1.amazonaws.com/k", None, None, ("us-west-1", "endpoint")),
    ("3", "url:https://s3.us-west-1.amazonaws.com", None, None, ("us-west-1", "endpoint")),
    ("4", "s3://h:9000/b/k", None, None, ("garage", "endpoint")),
    ("5", "s3://b/k", None, None, ("eu-west-2", "request.env")),
    ("6", "s3://b/k", None, None, ("ap-south-1", "request.env")),
    ("7", "s3://b/k", None, None, ("us-east-1", "default")),
]


@pytest.mark.parametrize(("line", "where", "own", "flag", "expected"), REGIONS)
def test_the_order_of_regions(line, where, own, flag, expected):
    """Each documented line wins over all that come after it."""
    lower = {
        "5": {"AWS_REGION": "eu-west-2", "AWS_DEFAULT_REGION": "ap-south-1"},
        "6": {"AWS_DEFAULT_REGION": "ap-south-1"},
    }
    env = {} if line == "7" else lower.get(line, lower["5"])
    entry = Endpoint(url="https://h:9000", region="garage") if line == "4" else None
    if where.startswith("url:"):
        entry, where = Endpoint(url=where[4:], region="garage"), "s3://b/k"
    credentials = aws(region=own) if own else None
    region = resolve_region(credentials, Location.parse(where), env, entry, StoreOptions(region=flag))
    assert region == expected
    assert region.source == next(row[2] for row in PAGE["Region"] if row[0] == line)


@pytest.mark.parametrize(
    "name", ["evil.example/#", "us-west-2.evil", "x" * 70, "us west", "é", "garage", "us-west-2\n"]
)
def test_a_region_cannot_change_the_host(name):
    """On AWS the region becomes part of the host's name: only AWS' own form is taken."""
    with pytest.raises(LocationError, match=r"credentials\.aws\.region is .* which is no region"):
        resolve_region(aws(region=name), Location.parse("s3://b/k"), {}, None, StoreOptions())


def test_other_servers_have_other_regions():
    """Elsewhere the region is part of the signature alone, and its form is wider."""
    location = Location.parse("s3://h:9000/b/k")
    for name in ("garage", "RegionOne", "default", "us-west-2", "eu_1.x"):
        assert resolve_region(aws(region=name), location, {}, None, StoreOptions()).name == name
    for name in ("a/b", "a\nb", "-", "a b"):
        with pytest.raises(LocationError, match="no region"):
            resolve_region(None, location, {"AWS_REGION": name}, None, StoreOptions())


def test_keys_show_no_secret():
    """repr, str and format show a shortened id; a pickle or deep copy is refused outright."""
    made = AwsKeys(access_key=ID, secret_key=SECRET, token=TOKEN, expires_at=datetime(2030, 1, 1, tzinfo=UTC))
    assert repr(made) == "AwsKeys(AKIA…MPLE, source='request', expires_at=2030-01-01T00:00:00+00:00)"
    shown = f"{made} {made!r} {keys.static(made)!r} {ChainKeys('ml')!r} {StoreOptions(request_env=PAIR)!r}"
    assert "planted" not in shown
    assert ID not in shown
    for copier in (pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError, match="keys are not pickled"):
            copier(made)


@pytest.mark.parametrize(
    ("text", "masked"),
    [(ID, "AKIA…MPLE"), ("alice", "al…"), ("bob", "…"), ("", "…"), ("twelve\x1bchars", "twel…hars"), ("a\nbcd", "a?…")],
)
def test_an_id_is_shortened(text, masked):
    """Its owner knows it again; control characters do not get through."""
    assert keys.masked_id(text) == masked


def test_an_identity_as_receipts_have_it():
    """Four keys, always there, the time in UTC."""
    ends = datetime(2026, 11, 5, 5, tzinfo=timezone(timedelta(hours=1)))
    assert Identity(kind="aws", id="AKIA…MPLE", expires_at=ends).to_dict() == {
        "kind": "aws",
        "id": "AKIA…MPLE",
        "source": "request",
        "expires_at": "2026-11-05T04:00:00Z",
    }
    assert Identity(kind="anonymous").to_dict() == {
        "kind": "anonymous",
        "id": None,
        "source": "request",
        "expires_at": None,
    }


@pytest.mark.parametrize(
    ("more", "plain"),
    [
        ({}, True),
        ({"AWS_SESSION_TOKEN": "planted-token"}, True),
        ({"AWS_SESSION_TOKEN": ""}, True),
        ({"AWS_DEFAULT_REGION": "eu-west-1"}, True),
        ({"AWS_REGION": "eu-west-1"}, True),
        ({"AWS_CONFIG_FILE": "CONFIG"}, True),
        ({"AWS_SECURITY_TOKEN": "planted-older-token"}, False),
    ],
)
def test_keys_that_lie_open_are_those_that_botocore_finds(tmp_path, monkeypatch, more, plain):
    """Found without it, where it says so; the region too."""
    from botocore.session import Session

    (tmp_path / "config").write_text("[default]\nregion = ap-south-1\n")
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, value in {"AWS_ACCESS_KEY_ID": ID, "AWS_SECRET_ACCESS_KEY": SECRET, **more}.items():
        monkeypatch.setenv(name, value.replace("CONFIG", str(tmp_path / "config")))
    theirs = Session().get_credentials().get_frozen_credentials()
    chain = ChainKeys()
    ours = chain()
    assert (ours.access_key, ours.secret_key) == (theirs.access_key, theirs.secret_key)
    assert (ours.token or None) == (theirs.token or None)
    assert chain.region() == Session().get_config_variable("region")
    assert (chain._credentials is None) is plain
