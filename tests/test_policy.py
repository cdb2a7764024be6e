"""Policy: the documented table is the test's table; no name and no spelling leads where it must not."""

import pickle
import shlex
import socket

import pytest

from creds.errors import LocationError, PolicyError, StoreUnavailable
from creds.location import Location
from creds.policy import Endpoint, Policy
from tests.test_location import tables

EXAMPLES = [[cell.replace("`", "") for cell in row] for row in tables("policy.md")["Examples"]]
NAMED = (
    *("http://minio.ml.svc:9000", "https://s3.corp.example", "https://*.ml.example:9000"),
    Endpoint(url="https://some.example", buckets=("data-*", "results")),
)


def parse(text):
    return Location.parse(text)


def resolving_to(*addresses):
    """A resolver that knows one answer, in getaddrinfo's form, and what it was asked."""

    def resolve(host, port, **hints):
        resolve.asked.append((host, port))
        family = {True: socket.AF_INET6, False: socket.AF_INET}
        return [(family[":" in a], hints["type"], 6, "", (a, port)) for a in addresses]

    resolve.asked = []
    return resolve


@pytest.mark.parametrize("row", EXAMPLES, ids=[row[0] for row in EXAMPLES])
@pytest.mark.parametrize("who", ["requests", "caller"])
def test_each_documented_example(row, who):
    """A line of the page says which rule decides, and where the connection would go."""
    policy = Policy.for_requests(NAMED, file_roots=["/data"]) if who == "requests" else Policy.for_caller()
    said, url = row[1:3] if who == "requests" else row[3:5]
    verdict = policy.decide(parse(row[0]))
    assert verdict.allowed is not said.startswith("refused")
    assert verdict.rule == said.removeprefix("refused: ")
    assert verdict.endpoint_url == (url or None)
    assert verdict.reason


def test_every_rule_is_documented():
    """Each rule that an example names stands in one of the two tables, and each of those has an example."""
    page = tables("policy.md")
    documented = {row[0].strip("`") for name in ("Rules that allow", "Rules that refuse") for row in page[name]}
    seen = {cell.removeprefix("refused: ") for row in EXAMPLES for cell in (row[1], row[3])}
    kinds = {
        "endpoint.<host:port>" if r.startswith("endpoint.") else "file-root.<path>" if "/" in r else r for r in seen
    }
    assert kinds == documented - {"profile", "lending", "issuer"}  # about credentials, not locations


@pytest.mark.parametrize(
    ("qualified", "rule", "hint"),
    [
        ("s3://minio:9000/b/k", "not-named", "add --endpoint http://minio:9000 (https:// if it speaks TLS)"),
        ("s3+https://minio:9000/b/k", "not-named", "add --endpoint https://minio:9000"),
        ("s3+http://minio:9000/b/k", "plaintext", "add --endpoint http://minio:9000"),
        ("s3://minio.svc/b/k", "not-named", "add --endpoint https://minio.svc (http:// if it speaks no TLS)"),
        ("s3+http://minio.svc/b/k", "plaintext", "add --endpoint http://minio.svc"),
        ("s3://[::1]:9000/b/k", "not-named", "add --endpoint http://[::1]:9000 (https:// if it speaks TLS)"),
        ("file:///srv/sets/k", "file", "add --file-root /srv/sets"),
        ("file:///srv/my%20sets;x/k", "file", "add --file-root '/srv/my sets;x'"),
        ("s3+http://s3.us-west-2.amazonaws.com/b/k", "plaintext", "write it as s3://"),
    ],
)
def test_a_refusal_names_the_flag(qualified, rule, hint):
    """``check`` raises with the rule, the location and the flag, and that flag then allows it."""
    location = parse(qualified)
    with pytest.raises(PolicyError) as raised:
        Policy.for_requests().check(location)
    assert (raised.value.rule, raised.value.hint, raised.value.location) == (rule, hint, str(location))
    assert str(location) in str(raised.value)
    flag, _, value = hint.removeprefix("add ").partition(" ")
    if flag == "--endpoint":
        assert Policy.for_requests([value.split(" ")[0]]).check(location).rule.startswith("endpoint.")
    if flag == "--file-root":
        assert Policy.for_requests(file_roots=shlex.split(value)).check(location).rule.startswith("file-root./srv/")


def test_a_mismatch_says_how_the_endpoint_was_named():
    """TLS asked of an endpoint named without it, and the reverse, are refused with both sides told."""
    policy = Policy.for_requests(NAMED)
    with pytest.raises(PolicyError, match=r"over TLS, and the endpoint is named without: http://minio.ml.svc:9000"):
        policy.check(parse("s3+https://minio.ml.svc:9000/b/k"))
    with pytest.raises(PolicyError, match=r"in plaintext, and the endpoint is named with TLS: https://s3.corp.example"):
        policy.check(parse("s3+http://s3.corp.example:443/b/k"))


def test_a_default_port_is_the_same_endpoint():
    """With and without its scheme's own port an endpoint is one."""
    assert Endpoint.parse("https://Minio.x.") == Endpoint.parse("https://minio.x:443/")
    assert Endpoint.parse("http://minio.x:80").host == "minio.x:80"
    assert Endpoint.parse("http://minio.x:80").url == "http://minio.x"
    assert Policy.for_requests(["https://minio.x", "https://minio.x:443"]).endpoints.keys() == {"minio.x:443"}


def test_without_port_and_scheme_tls_comes_first():
    """``s3://host/b/k`` means the endpoint named on 443 before the one named on 80."""
    both = Policy.for_requests(["http://minio.x", "https://minio.x"])
    assert both.decide(parse("s3://minio.x/b/k")).endpoint_url == "https://minio.x"
    plain = Policy.for_requests(["http://minio.x"])
    assert plain.decide(parse("s3://minio.x/b/k")).endpoint_url == "http://minio.x"


def test_one_port_is_named_one_way():
    """http and https on one port, or two sets of settings, are a contradiction of the operator's."""
    with pytest.raises(
        LocationError, match="minio:9000 is named twice: as http://minio:9000 and as https://minio:9000"
    ):
        Policy.for_requests(["http://minio:9000", "https://minio:9000"])
    with pytest.raises(LocationError, match="named twice"):
        Policy.for_requests([Endpoint(url="http://minio:9000", region="a"), "http://minio:9000"])


def test_an_entry_carries_its_settings():
    """The verdict holds the operator's own entry; its words are checked when it is made."""
    entry = Endpoint(url="https://minio:9000", region="garage", addressing="virtual", checksums="always")
    assert Policy.for_requests([entry]).check(parse("s3://minio:9000/b/k")).endpoint is entry
    with pytest.raises(LocationError, match="addressing of an endpoint is 'subdomain'"):
        Endpoint(url="https://minio:9000", addressing="subdomain")
    with pytest.raises(LocationError, match="no http:// or https:// URL"):
        Endpoint.parse("minio:9000")


def test_a_file_is_bounded_by_its_root():
    """The innermost root wins; the key is relative to it; the caller's root is the file's own folder."""
    policy = Policy.for_requests(file_roots=["/data/", "/data/sets"])
    verdict = policy.check(parse("file:///data/sets//a/./k"))
    assert (verdict.rule, verdict.root, verdict.key) == ("file-root./data/sets", "/data/sets", "a/k")
    verdict = policy.check(parse("file:///data/other/"))
    assert (verdict.root, verdict.key) == ("/data", "other/")
    verdict = Policy.for_requests(file_roots=["/"]).check(parse("file:///etc/x"))
    assert (verdict.root, verdict.key) == ("/", "etc/x")
    verdict = Policy.for_caller().check(parse("file:///home/me/k"))
    assert (verdict.root, verdict.key) == ("/home/me", "k")
    verdict = Policy.for_caller().check(parse("file:///k"))
    assert (verdict.root, verdict.key) == ("/", "k")


def test_the_callers_endpoint_url_serves_what_names_none():
    """As in ``aws``: buckets go to it, in plaintext too; locations with an endpoint of their own do not."""
    policy = Policy.for_caller("http://minio.ml.svc:9000")
    verdict = policy.check(parse("s3://data/k"))
    assert (verdict.rule, verdict.endpoint_url) == ("caller", "http://minio.ml.svc:9000")
    assert policy.check(parse("s3://s3.us-west-2.amazonaws.com/data/k")).rule == "aws"
    assert policy.check(parse("s3://other:9000/data/k")).endpoint_url == "https://other:9000"
    assert policy.check(parse("s3+http://minio.ml.svc:9000/b/k")).rule == "endpoint.minio.ml.svc:9000"


def test_an_address_named_singly_is_reached():
    """Only the very address lifts the ban, on the very port, and its name does not."""
    policy = Policy.for_requests(["http://169.254.169.254"], resolver=resolving_to("169.254.169.254"))
    verdict = policy.check(parse("s3+http://169.254.169.254/b/k"))
    assert verdict.rule == "endpoint.169.254.169.254:80"
    policy.check_addresses(verdict)
    assert policy.decide(parse("s3+http://169.254.169.254:81/b/k")).rule == "metadata-address"
    assert policy.decide(parse("s3+http://169.254.170.2/b/k")).rule == "metadata-address"


@pytest.mark.parametrize(
    ("address", "rule"),
    [
        ("169.254.169.254", "metadata-address"),
        ("169.254.7.7", "link-local"),
        ("fe80::1%eth0", "link-local"),
        ("fd00:ec2::254", "metadata-address"),
        ("::ffff:169.254.169.254", "metadata-address"),
        ("64:ff9b::a9fe:a9fe", "metadata-address"),
        ("64:ff9b:1::a9fe:0001", "link-local"),
        ("2002:a9fe:a9fe::1", "metadata-address"),
        ("2001:0:5ef5:79fb:0:0:5601:5601", "metadata-address"),
    ],
)
@pytest.mark.parametrize("qualified", ["s3://minio.ml.svc:9000/b/k", "s3://data/k"])
def test_no_name_leads_to_metadata(address, rule, qualified):
    """A name that resolves there is refused, although the name was named or is AWS', if any answer is forbidden."""
    policy = Policy.for_requests(NAMED, resolver=resolving_to("10.0.0.7", address))
    verdict = policy.check(parse(qualified))
    with pytest.raises(PolicyError, match=r"leads to") as raised:
        policy.check_addresses(verdict)
    assert raised.value.rule == rule
    assert "only the address itself can be named" in raised.value.hint


def test_private_addresses_of_what_is_named_are_fine():
    """Naming allows the private address; AWS may be behind one too (a VPC endpoint); the port is asked for."""
    resolver = resolving_to("10.0.0.7", "fd12::1")
    policy = Policy.for_requests(NAMED, resolver=resolver)
    for text in ("s3://minio.ml.svc:9000/b/k", "s3://data/k"):
        policy.check_addresses(policy.check(parse(text)))
    assert resolver.asked == [("minio.ml.svc", 9000), ("s3.us-east-1.amazonaws.com", 443)]


def test_a_file_has_no_address():
    """Nothing is resolved for a file."""
    resolver = resolving_to("127.0.0.1")
    policy = Policy.for_caller(resolver=resolver)
    policy.check_addresses(policy.check(parse("file:///data/k")))
    assert resolver.asked == []


def test_the_machines_resolver_knows_loopback():
    """Without an injected resolver the system's is asked; a literal needs no network."""
    policy = Policy.for_caller()
    policy.check_addresses(policy.check(parse("s3://127.0.0.1:9000/b/k")))
    policy.check_addresses(policy.check(parse("s3://[::1]:9000/b/k")))


def test_a_name_that_does_not_resolve_is_unavailable():
    """Failure to resolve is no refusal: it may pass, and the error says which name."""

    def fail(host, port, **hints):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    policy = Policy.for_requests(NAMED, resolver=fail)
    with pytest.raises(StoreUnavailable, match=r"the name minio\.ml\.svc does not resolve: Name or service") as raised:
        policy.check_addresses(policy.check(parse("s3://minio.ml.svc:9000/b/k")))
    assert raised.value.retryable
    assert raised.value.location == "s3://minio.ml.svc:9000/b/k"


def test_a_policy_travels():
    """A policy is a value: it is sent to another process and decides the same there."""
    policy = pickle.loads(pickle.dumps(Policy.for_requests(NAMED, file_roots=["/data"])))
    assert policy.decide(parse("s3://minio.ml.svc:9000/b/k")).rule == "endpoint.minio.ml.svc:9000"
    assert policy.decide(parse("file:///data/k")).rule == "file-root./data"
