"""What is the operator's goes only where somebody said so: tokens, roles, profiles and the machine's own keys."""

from __future__ import annotations

import pytest

from creds.endpoint import AWS, Endpoint, Issuer, Lent, matches
from creds.errors import LocationError, PolicyError
from creds.keys import ChainKeys
from creds.location import Location
from creds.models import AWSCredential, Credentials, JWTCredential, PlainCredential
from creds.policy import Policy
from creds.resolve import resolve
from creds.store import Ssh, StoreOptions, Sts, Tls
from tests.test_tokens import token

HOST = "minio.corp:9000"
HOST_KEYS = [f"SHA256:{letter * 43}" for letter in "ab"]
URL = f"http://{HOST}"
ISS = "https://issuer.corp"
ROLE = "arn:aws:iam::1:role/r"
KEYS = Credentials(aws=AWSCredential(access_key="AKIAIOSFODNN7EXAMPLE", secret_access_key="planted-secret"))
PLAIN = Credentials(plain=PlainCredential(user="operator", password="planted-password"))


def made():
    return token(iss=ISS, sub="job-7")


GIVEN = {
    "token": StoreOptions(sts=Sts(token=made)),
    "role": StoreOptions(sts=Sts(role_arn=ROLE)),
    "ambient": StoreOptions(ambient=True),
    "profile": StoreOptions(profile="ml"),
}


def opened(options, policy, qualified=f"s3://{HOST}/b/k", credentials=None):
    return resolve(Location.parse(qualified), credentials, options, policy)


def named(**more):
    return Policy.for_requests([URL], **more)


def entry(lent):
    return Policy.for_requests([Endpoint(url=URL, lent=lent)])


# Each line of the table in docs/policy.md: what is given, the policy, and whether it may serve.
TABLE = [
    *((what, named(), False) for what in GIVEN),
    *((what, named(lend_to=[HOST]), True) for what in GIVEN),
    *((what, named(lend_to=["*.corp:9000"]), True) for what in GIVEN),
    *((what, named(lend_to=["minio.corp", "aws", "other.corp:9000"]), False) for what in GIVEN),
    *((what, named(issuers=[Issuer(iss=ISS, endpoints=(HOST,))]), True) for what in GIVEN),
    *((what, named(issuers=[Issuer(iss="other", endpoints=(HOST,))]), what != "token") for what in GIVEN),
    *((what, named(issuers=[Issuer(iss=ISS, endpoints=("aws",))]), False) for what in GIVEN),
    *((what, Policy.for_caller(endpoints=[URL]), True) for what in GIVEN),
    ("ambient", entry(Lent(ambient=True)), True),
    ("profile", entry(Lent(profile="ml")), True),
]


@pytest.mark.parametrize(("what", "policy", "may"), TABLE)
def test_who_lends_what(what, policy, may):
    """Lent by name, by the issuer table or by the entry, or the caller's own; else refused with the option to add."""
    credentials = KEYS if what == "role" else None
    if may:
        resolved = opened(GIVEN[what], policy, credentials=credentials)
        assert resolved.identity.kind == {"token": "jwt", "role": "aws"}.get(what, what)
        return
    with pytest.raises(PolicyError, match=f"may not be used at {URL}") as raised:
        opened(GIVEN[what], policy, credentials=credentials)
    assert raised.value.rule == "lending"
    assert raised.value.hint.startswith(f"add --lend-to {HOST}")
    # The hint helps.
    helped = Policy.for_requests([URL], lend_to=[raised.value.hint.split()[2].rstrip(",")])
    assert opened(GIVEN[what], helped, credentials=credentials).verdict.allowed


def test_the_hint_of_keys_names_the_line_for_the_file():
    """The option, or the key of the endpoint's entry that lends the same."""
    for what, line in (("ambient", "ambient = true"), ("profile", 'profile = "ml"')):
        with pytest.raises(PolicyError) as raised:
            opened(GIVEN[what], named())
        assert raised.value.hint == f'add --lend-to {HOST}, or write {line} into [endpoint."{HOST}"] of artifacts.toml'
    with pytest.raises(PolicyError) as raised:
        opened(GIVEN["ambient"], Policy.for_requests(), "s3://bucket/key")
    assert raised.value.hint == "add --lend-to aws, or write ambient = true into [endpoint.aws] of artifacts.toml"
    with pytest.raises(PolicyError) as raised:
        opened(GIVEN["profile"], Policy.for_requests(["https://minio.corp"]), "s3://minio.corp/b/k")
    assert raised.value.hint.startswith("add --lend-to minio.corp, or")


def test_keys_at_aws():
    """The word aws lends at AWS itself over TLS, and nowhere else; its entry's own source serves without a word."""
    lent = Policy.for_requests([URL], lend_to=[AWS])
    assert opened(GIVEN["ambient"], lent, "s3://bucket/key").identity.kind == "ambient"
    with pytest.raises(PolicyError, match="may not be used at"):
        opened(GIVEN["ambient"], lent)
    own = Policy.for_requests([Endpoint(url=AWS, lent=Lent(profile="ml"), region="eu-west-1")])
    found = opened(StoreOptions(), own, "s3://bucket/key")
    assert (found.identity.kind, found.identity.source, found.verdict.rule) == ("profile", "profile:ml", "aws")
    assert isinstance(found.provider, ChainKeys)
    assert (found.region, found.verdict.endpoint_url) == ("eu-west-1", "https://s3.eu-west-1.amazonaws.com")
    with pytest.raises(LocationError, match="which is no region"):
        opened(StoreOptions(), Policy.for_requests([Endpoint(url=AWS, region="evil.example/")]), "s3://bucket/key")


def test_a_profile_that_the_request_names():
    """Refused unless the caller or the entry names it; where the caller does, it must be lent there as well."""
    asks = Credentials(aws=AWSCredential(profile="ml"))
    with pytest.raises(PolicyError) as raised:
        opened(StoreOptions(), named(), credentials=asks)
    assert raised.value.rule == "profile"
    with pytest.raises(PolicyError) as raised:
        opened(GIVEN["profile"], named(), credentials=asks)
    assert raised.value.rule == "lending"
    assert opened(GIVEN["profile"], named(lend_to=[HOST]), credentials=asks).identity.source == "profile:ml"
    assert opened(StoreOptions(), entry(Lent(profile="ml")), credentials=asks).identity.source == "profile:ml"
    with pytest.raises(PolicyError):
        opened(StoreOptions(), entry(Lent(profile="other")), credentials=asks)
    with pytest.raises(PolicyError):
        opened(StoreOptions(), entry(Lent(ambient=True)), credentials=asks)


@pytest.mark.parametrize(
    ("lent", "kind", "source"),
    [
        (Lent(token=made), "jwt", "token"),
        (Lent(profile="ml"), "profile", "profile:ml"),
        (Lent(ambient=True), "ambient", "ambient"),
        (Lent(credentials=KEYS), "aws", "endpoint"),
        (Lent(credentials=PLAIN), "plain", "endpoint"),
        (Lent(), "anonymous", "request"),
    ],
)
def test_the_entrys_own_credential(lent, kind, source):
    """It serves where the location has none, with its role; the request's own comes first; nothing of it prints."""
    found = opened(StoreOptions(), entry(lent))
    assert (found.identity.kind, found.identity.source, found.own) == (kind, source, True)
    assert "planted" not in repr(found) + repr(lent)
    for credentials in (KEYS, Credentials(jwt=JWTCredential(token=made()))):
        assert opened(StoreOptions(), entry(lent), credentials=credentials).identity.source == "request"
    assert (
        opened(StoreOptions(), entry(lent), credentials=Credentials(aws=AWSCredential())).identity.kind == "anonymous"
    )
    env = {"AWS_ACCESS_KEY_ID": "ENVENVENVENV", "AWS_SECRET_ACCESS_KEY": "secret"}
    assert opened(StoreOptions(request_env=env), entry(lent)).identity.source == "request.env"


def test_a_role_of_an_entry_is_taken_with_its_own_credential_alone():
    """A request's own keys take no role that the entry has for its own."""
    policy = entry(Lent(credentials=KEYS, sts=Sts(role_arn=ROLE, external_id="x")))
    assert opened(StoreOptions(), policy).options.sts.role_arn == ROLE
    assert opened(StoreOptions(), policy, credentials=PLAIN).options.sts.role_arn is None


@pytest.mark.parametrize("what", ["token", "ambient", "profile"])
def test_the_command_line_comes_before_the_entry_where_it_is_lent(what):
    """Lent to the endpoint it serves; elsewhere the entry's own does, and nothing is refused."""
    kind = {"token": "jwt"}.get(what, what)
    endpoint = Endpoint(url=URL, lent=Lent(credentials=PLAIN))
    assert opened(GIVEN[what], Policy.for_requests([endpoint], lend_to=[HOST])).identity.kind == kind
    assert opened(GIVEN[what], Policy.for_requests([endpoint], lend_to=[AWS])).identity.kind == "plain"
    assert opened(GIVEN[what], Policy.for_caller(endpoints=[endpoint])).identity.kind == kind


def test_the_callers_default_comes_last():
    """The caller's chain serves where nobody has another credential; the entry's own comes before it."""
    policy = Policy.for_caller(endpoints=[Endpoint(url=URL, lent=Lent(credentials=PLAIN))], lent=Lent(ambient=True))
    assert opened(StoreOptions(), policy).identity.kind == "plain"
    assert opened(StoreOptions(), policy, "s3://bucket/key").identity.kind == "ambient"
    assert opened(StoreOptions(), policy, "https://host/k").identity.kind == "anonymous"
    assert opened(StoreOptions(), policy, "file:///tmp/k").identity.kind == "anonymous"


def test_other_schemes_use_the_entrys_own_too():
    """A login, a Basic and a Bearer header; a presigned URL is its own credential; ambient keys have no use there."""
    for url, lent, kind in (
        ("sftp://files.corp", Lent(credentials=PLAIN), "plain"),
        ("ftps://files.corp", Lent(credentials=PLAIN), "plain"),
        ("https://dav.corp", Lent(credentials=PLAIN), "plain"),
        ("https://dav.corp", Lent(token=made), "jwt"),
        ("https://dav.corp", Lent(ambient=True), "anonymous"),
        ("https://dav.corp", Lent(credentials=KEYS), "anonymous"),
    ):
        policy = Policy.for_requests([Endpoint(url=url, lent=lent)])
        assert opened(StoreOptions(ambient=True), policy, f"{url}/k").identity.kind == kind
    presigned = opened(StoreOptions(), policy, "https://dav.corp/k?X-Amz-Signature=planted")
    assert presigned.identity.kind == "anonymous"


def test_what_an_entry_adds_to_the_options():
    """Authorities and host keys add up; a certificate, a key and known hosts of the caller's come first, whole."""
    given = StoreOptions(tls=Tls(ca_pem=b"A"), ssh=Ssh(fingerprints=(HOST_KEYS[0],), known_hosts="mine"))
    own = Endpoint(
        url=URL,
        certificates=Tls(ca_pem=b"B", client_cert="own.pem", client_key="own.key"),
        ssh=Ssh(known_hosts="theirs", fingerprints=(HOST_KEYS[1],), key="id", key_passphrase="p"),
    )
    applied = own.applied(given)
    assert applied.tls == Tls(ca_pem=b"A\nB", client_cert="own.pem", client_key="own.key")
    assert applied.ssh == Ssh(
        known_hosts="mine", fingerprints=(HOST_KEYS[0], HOST_KEYS[1]), key="id", key_passphrase="p"
    )
    mine = own.applied(StoreOptions(tls=Tls(client_cert="mine.pem"), ssh=Ssh(key="mine")))
    assert (mine.tls.client_cert, mine.tls.client_key, mine.tls.ca_pem) == ("mine.pem", None, b"B")
    assert (mine.ssh.key, mine.ssh.key_passphrase) == ("mine", None)
    assert opened(given, Policy.for_requests([own])).options.tls.ca_pem == b"A\nB"
    assert opened(given, Policy.for_requests([own]), "s3://bucket/key").options.tls.ca_pem == b"A"


def test_the_sts_has_its_own_entry():
    """Where the STS is another server, the endpoint's authority is not trusted there, and that server's own is."""
    endpoint = Endpoint(
        url=URL, certificates=Tls(ca_pem=b"B"), lent=Lent(token=made, sts=Sts(endpoint_url="https://sts.corp"))
    )
    sts = Endpoint(url="https://sts.corp", certificates=Tls(ca_pem=b"S"))
    for entries, ca in (([endpoint], b"A"), ([endpoint, sts], b"A\nS")):
        found = opened(StoreOptions(tls=Tls(ca_pem=b"A")), Policy.for_requests(entries))
        maker = found.provider._make
        assert (maker.url, maker.options.tls.ca_pem) == ("https://sts.corp", ca)
    same = Endpoint(url=URL, certificates=Tls(ca_pem=b"B"), lent=Lent(token=made))
    found = opened(StoreOptions(), Policy.for_requests([same]))
    assert (found.provider._make.url, found.provider._make.options.tls.ca_pem) == (URL, b"B")


@pytest.mark.parametrize("wrong", ["https://x", "a*b", "a b", "", "*.", "x:y"])
def test_what_cannot_be_lent_to(wrong):
    """A pattern that could match nothing, or the wrong thing, is refused when the policy is made."""
    with pytest.raises(LocationError):
        Policy.for_requests(lend_to=[wrong])


def test_patterns_of_endpoints():
    """The longest pattern wins, a host's own entry before it; forbidden names are never below one; the URL is the host's."""
    policy = Policy.for_requests(
        [
            Endpoint(url="https://*.corp:9000", region="wide"),
            Endpoint(url="https://*.s3.corp:9000", region="narrow"),
            Endpoint(url="https://x.s3.corp:9000", region="own"),
            "http://*.internal",
        ]
    )
    for host, region in (("a.corp", "wide"), ("a.s3.corp", "narrow"), ("s3.corp", "wide"), ("x.s3.corp", "own")):
        verdict = policy.check(Location.parse(f"s3://{host}:9000/b/k"))
        assert (verdict.endpoint.region, verdict.endpoint_url) == (region, f"https://{host}:9000")
        assert verdict.endpoint.url == verdict.endpoint_url
    assert policy.check(Location.parse("s3+http://a.internal/b/k")).rule == "endpoint.*.internal:80"
    assert policy.decide(Location.parse("s3+http://metadata.google.internal/b/k")).rule == "metadata-address"
    assert not policy.decide(Location.parse("s3://corp:9000/b/k")).allowed
    for several in ("aws", "https://*.corp"):
        with pytest.raises(LocationError, match="is no single server"):
            Policy.for_caller(several)
    for wrong in ("https://*", "https://*.", "https://a.*.corp", "https://*corp", "https://*.127.0.0.1"):
        with pytest.raises(LocationError):
            Endpoint.parse(wrong)


def test_buckets_bind_requests_at_aws_too():
    """A bucket that fits no pattern is refused with the key to add; the caller is not bound; none is an empty list."""
    some = Endpoint(url=AWS, buckets=("data-*",))
    location = Location.parse("s3://other/key")
    verdict = Policy.for_requests([some]).decide(location)
    assert (verdict.allowed, verdict.rule) == (False, "bucket")
    assert verdict.hint == 'add "other" to buckets of [endpoint."aws"] in artifacts.toml'
    assert Policy.for_requests([some]).decide(Location.parse("s3://data-1/key")).allowed
    assert Policy.for_caller(endpoints=[some]).decide(location).allowed
    assert not Policy.for_requests([Endpoint(url=AWS, buckets=())]).decide(location).allowed


def test_matching_a_url():
    """Servers of files are named by host and port too."""
    assert matches(("files.corp:22",), "sftp://files.corp")
    assert not matches(("files.corp",), "sftp://files.corp")
