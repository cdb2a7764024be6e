"""Locations: the documented table is the test's table, and nothing hostile gets through or is printed."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from creds.errors import LocationError
from creds.location import Location, aws_host, aws_url, quoted, split_url

DOCS = Path(__file__).parent.parent / "docs"


def tables(page: str) -> dict[str, list[list[str]]]:
    """Every table of a page by the heading above it; cells without their backquotes."""
    found: dict[str, list[list[str]]] = {}
    heading = ""
    for line in (DOCS / page).read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ")
        elif line.startswith("| ") and not line.startswith("| ---"):
            found.setdefault(heading, []).append([cell.strip() for cell in line.strip("|").split("|")])
    return {name: rows[1:] for name, rows in found.items()}


EXAMPLES = [[cell.replace("`", "") for cell in row] for row in tables("locations.md")["Examples"]]


@pytest.mark.parametrize(
    ("rule", "qualified", "bucket", "key", "at", "found_bucket", "found_key", "prints"),
    EXAMPLES,
    ids=[f"{row[0]}-{row[1]}-{row[2]}-{row[3]}" for row in EXAMPLES],
)
def test_each_documented_example(rule, qualified, bucket, key, at, found_bucket, found_key, prints):
    """A line of the page says what the fields mean, or that they are refused."""
    if at == "refused":
        with pytest.raises(LocationError):
            Location.parse(qualified, bucket, key)
        return
    location = Location.parse(qualified, bucket, key)
    assert (location.bucket, location.key, str(location)) == (found_bucket, found_key, prints)
    if at.startswith("AWS"):
        assert location.on_aws
        assert (location.endpoint, location.tls) == (None, True)
        assert location.region == (at.removeprefix("AWS").strip() or None)
    else:
        assert location.endpoint == (at or None)
        assert not location.on_aws


def test_every_rule_has_an_example():
    """No rule of the table is without a line that tries it."""
    rules = {row[0] for row in tables("locations.md")["S3: the first rule that matches wins"]}
    assert rules == {"1", "2", "3", "4", "5"}
    assert rules < {row[0] for row in EXAMPLES}


def test_the_docstring_has_the_pages_table():
    """The rules in ``Location.parse`` and on the page are word for word the same."""
    text = re.sub(r"\s+", " ", Location.parse.__doc__.replace("``", "`"))
    for rule, written, means in tables("locations.md")["S3: the first rule that matches wins"]:
        for cell in (f"{rule} {written}", *re.split(r"(?<=and) ", means)):
            assert cell in text


def test_all_empty_is_no_location():
    """Three empty fields are no location, and no error."""
    assert Location.parse("") is None


def test_an_empty_qualified_needs_a_default_endpoint():
    """Bucket and key alone do not say which server; a default endpoint does."""
    with pytest.raises(LocationError, match="bucket 'b' and key 'k' do not say which server") as raised:
        Location.parse("", "b", "k")
    assert raised.value.hint == "write the location as s3://bucket/key or s3://host:port/bucket/key"
    location = Location.parse("", "b", "k%20", default_endpoint="http://MinIO:9000/")
    assert location == Location(scheme="s3", endpoint="minio:9000", tls=False, bucket="b", key="k%20")
    assert Location.parse("", "b", "k", default_endpoint="https://h:443").endpoint == "h"


@pytest.mark.parametrize(
    ("bucket", "key", "message"),
    [("", "k", "the bucket is missing"), ("b", "", "the key is missing")],
)
def test_half_a_place_is_refused(bucket, key, message):
    """Bucket or key alone is no place, default endpoint or not."""
    with pytest.raises(LocationError, match=message):
        Location.parse("", bucket, key, default_endpoint="http://h")


@pytest.mark.parametrize(
    ("qualified", "message"),
    [
        ("data/k", "it has no scheme"),
        ("/data/k", "it has no scheme"),
        ("gs://b/k", "the scheme 'gs' is unknown"),
        ("minio:9000/b/k", "the scheme 'minio' is unknown"),
        ("s3:/b/k", "lacks its slashes"),
        ("s3://", "bucket is missing"),
        ("s3:///k", "bucket is missing"),
        ("s3://b", "the key is missing"),
        ("s3://b/", "the key is missing"),
        ("s3://h:9000", "the bucket is missing"),
        ("s3://h:9000//k", "the bucket is missing"),
        ("s3://h:9000/b", "the key is missing"),
        ("s3+http:///b/k", "no host"),
        ("s3://h:0/b/k", "port from 1 to 65535"),
        ("s3://h:65536/b/k", "port from 1 to 65535"),
        ("s3://h:/b/k", "port from 1 to 65535"),
        ("s3://h:\uff19000/b/k", "port from 1 to 65535"),
        ("s3://::1/b/k", "port from 1 to 65535"),
        ("s3://[::1/b/k", "port from 1 to 65535"),
        ("s3://[fe80::1%25eth0]:1/b/k", "no IPv6 address"),
        ("s3://[v1.x]:1/b/k", "no IPv6 address"),
        ("s3://0x7f.1/b/k", "a number that is no plain address"),
        ("s3://127.1/b/k", "a number that is no plain address"),
        ("s3://010.0.0.1:9000/b/k", "a number that is no plain address"),
        ("s3://2130706433:9000/b/k", "a number that is no plain address"),
        ("s3://0x7f000001:9000/b/k", "a number that is no plain address"),
        ("s3://127.0.0.1.5/b/k", "a number that is no plain address"),
        ("s3+https://2852039166/b/k", "a number that is no plain address"),
        ("s3://\uff11\uff16\uff19.254.169.254:80/b/k", "not in ASCII"),
        ("s3://minio\u3002svc:80/b/k", "not in ASCII"),
        ("s3+https://bücher.example/b/k", "not in ASCII"),
        ("s3://a..b:9000/b/k", "no host name"),
        ("s3://h..:9000/b/k", "no host name"),
        ("s3://-h:9000/b/k", "no host name"),
        ("s3://h%2e:9000/b/k", "no host name"),
        ("s3://h\\evil:9000/b/k", "no host name"),
        ("s3://h\t:9000/b/k", "no host name"),
        (" s3://h:9000/b/k", "it has no scheme"),
        (f"s3://{'a' * 64}.x:9000/b/k", "no host name"),
        (f"s3://{'a.' * 127}a:9000/b/k", "no host name"),
        ("s3://h:9000/../k", "no bucket name"),
        ("s3://h:9000/./k", "no bucket name"),
        ("s3://h:9000/a%2Fb/k", "no bucket name"),
        ("s3://h:9000/a%00b/k", "no bucket name"),
        ("s3://h:9000/a:b/k", "no bucket name"),
        (f"s3://h:9000/{'b' * 256}/k", "no bucket name"),
        ("s3://b?x/k", "no bucket name"),
        ("s3://execute-api.us-east-1.amazonaws.com/b/k", "no S3 endpoint of AWS"),
        ("s3://s3.us-west-2.amazonaws.com.cn/b/k", "no S3 endpoint of AWS"),
        ("s3://s3-website-us-east-1.amazonaws.com/b/k", "no S3 endpoint of AWS"),
        ("file:data/k", "not absolute"),
        ("file://data/k", "names the host 'data'"),
        ("file:///", "names no file"),
        ("file:///a/%2e%2e/b", "goes up"),
        ("file:///a%00", "NUL"),
        ("https://h/k#frag", "holds a fragment"),
        ("https://h/", "the key is missing"),
        ("s3://b/" + "k" * 20_000, "20007 characters"),
        ("s3://b/\ud800", "not Unicode"),
    ],
)
def test_what_is_no_location(qualified, message):
    """Every unusable URL is refused with its reason, as a LocationError."""
    with pytest.raises(LocationError, match=re.escape(message)):
        Location.parse(qualified)


@pytest.mark.parametrize(
    "qualified",
    [
        "s3://AKIAPLANTED:s3cr3tPLANTED@h:9000/b/k",
        "s3://AKIAPLANTED:s3cr3t/PLANTED@h/b/k",
        "s3://AKIAPLANTED:12/PLANTED@h/b/k",
        "s3+https://PLANTED@h/b/k",
        "https://u:PLANTED@h/k",
        "sftp://u:PLANTED@h/k",
        "ftp://u:PLANTED@h/k",
        "file://u:PLANTED@h/k",
        "//u:PLANTED@h/b/k",
        "u:PLANTED@h/b/k",
        "s3://b/k?X-Amz-Signature=PLANTED",
        "s3://b?X-Amz-Signature=PLANTED",
        "s3://b/k?x=1&AWSAccessKeyId=PLANTED&Signature=PLANTED",
    ],
)
def test_what_may_be_a_password_is_never_said(qualified):
    """A URL with a user, password or signature is refused, and neither message nor hint repeats it."""
    with pytest.raises(LocationError) as raised:
        Location.parse(qualified, "bucket", "key")
    assert "PLANTED" not in f"{raised.value!r} {raised.value} {raised.value.hint} {raised.value.location}".upper()


def test_a_contradiction_shows_both_sides():
    """Who must mend a request sees what the two fields say."""
    with pytest.raises(LocationError, match="says key 'a/b', the key field says 'a/c'"):
        Location.parse("s3://data/a/b", key="a/c")
    with pytest.raises(LocationError, match=r"neither host 'minio\.ml\.svc' nor bucket 'data'"):
        Location.parse("s3://minio.ml.svc/data/k", bucket="other")
    with pytest.raises(LocationError, match="says bucket 'data', the bucket field says 'other'"):
        Location.parse("s3://data.s3.amazonaws.com/k", bucket="other")
    with pytest.raises(LocationError, match="says key '/data/x', the key field says 'y'"):
        Location.parse("file:///data/x", key="y")


def test_printing_moves_no_cursor():
    """Control characters, escapes and marks that turn writing around are shown as their bytes."""
    location = Location.parse("s3://data/a%1B[2J%0D%0A\u202e%E2%80%AEb")
    assert location.key == "a\x1b[2J\r\n\u202e\u202eb"
    assert str(location) == "s3://data/a%1B[2J%0D%0A%E2%80%AE%E2%80%AEb"


def test_file_names_that_are_no_utf8():
    """A file URL reaches names that are only bytes, as Python spells them."""
    location = Location.parse("file:///data/%FF%C3%A9")
    assert location.key == "/data/\udcffé"
    assert str(location) == "file:///data/%FFé"


def test_a_query_is_kept_and_never_shown():
    """The query of an http location travels, and neither repr nor str shows a value."""
    location = Location.parse("https://h/k?X-Amz-Signature=planted&plain")
    assert location.query == "X-Amz-Signature=planted&plain"
    assert "planted" not in f"{location} {location!r}"
    assert str(location) == "https://h/k?X-Amz-Signature=***&plain=***"


@given(st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1))
def test_every_key_survives_printing_and_parsing(key):
    """What a location prints is parsed to the same location, whatever the key."""
    location = Location(scheme="s3", endpoint="minio:9000", bucket="data", key=key)
    assert Location.parse(str(location)) == location
    assert all(char.isprintable() and char != " " for char in str(location))


@given(st.text(), st.text(), st.text())
def test_parsing_ends_in_a_place_or_a_location_error(qualified, bucket, key):
    """No text makes parsing fail in any other way."""
    for start in ("", "s3://", "s3+http://h", "file:///", "https://h", "s3://h:9000/b/"):
        said, location = "", None
        try:
            location = Location.parse(start + qualified, bucket, key)
        except LocationError as error:
            said = f"{error} {error.hint}"
        assert said.isprintable()
        assert location is None or (location.key and str(location).isprintable())


@pytest.mark.parametrize(
    ("host", "found"),
    [
        ("s3.us-west-2.amazonaws.com", ("s3.us-west-2.amazonaws.com", "us-west-2", None)),
        ("a.s3-eu-west-1.amazonaws.com", ("s3.eu-west-1.amazonaws.com", "eu-west-1", "a")),
        ("s3.s3.amazonaws.com", ("s3.amazonaws.com", None, "s3")),
        ("a.s3-accelerate.dualstack.amazonaws.com", ("s3-accelerate.dualstack.amazonaws.com", None, "a")),
        ("s3-fips.dualstack.us-east-1.amazonaws.com", ("s3-fips.dualstack.us-east-1.amazonaws.com", "us-east-1", None)),
        ("a.s3.cn-north-1.amazonaws.com.cn", ("s3.cn-north-1.amazonaws.com.cn", "cn-north-1", "a")),
        ("s3.amazonaws.com.cn", None),
        ("s3.amazonaws.com.evil.example", None),
        ("evils3.amazonaws.com", None),
        ("s3.us-west-2.amazonaws.comx", None),
        ("name-1.s3-accesspoint.us-west-2.amazonaws.com", None),
        ("bucket.vpce-1a-2b.s3.us-east-1.vpce.amazonaws.com", None),
        ("sts.us-west-2.amazonaws.com", None),
    ],
)
def test_which_hosts_are_aws(host, found):
    """Only S3's own names are AWS; what anyone can rent under its domain is not."""
    assert aws_host(host) == found


def test_the_url_of_a_region():
    """Regional by default, China under its own domain, a named variant kept."""
    assert aws_url(None, "us-west-2") == "https://s3.us-west-2.amazonaws.com"
    assert aws_url("s3.amazonaws.com", "eu-west-1") == "https://s3.eu-west-1.amazonaws.com"
    assert aws_url(None, "cn-north-1") == "https://s3.cn-north-1.amazonaws.com.cn"
    assert aws_url("s3-accelerate.amazonaws.com", "us-west-2") == "https://s3-accelerate.amazonaws.com"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("minio:9000", "no http:// or https:// URL"),
        ("s3://minio", "no http:// or https:// URL"),
        ("http:minio", "no http:// or https:// URL"),
        ("http://u:PLANTED@minio", "holds a user or password"),
        ("http://minio/path", "more than a host and a port"),
        ("http://minio?x=1", "more than a host and a port"),
        ("http://", "no host"),
        ("http://0177.1", "a number that is no plain address"),
    ],
)
def test_what_is_no_endpoint(url, message):
    """An endpoint is a scheme, a host and a port, and nothing else; no password is repeated."""
    with pytest.raises(LocationError, match=re.escape(message)) as raised:
        split_url(url)
    assert raised.value.hint
    assert "PLANTED" not in str(raised.value)


def test_an_endpoints_port_is_always_there():
    """The scheme's own port is made explicit, and the host has one spelling."""
    assert split_url("https://MinIO.x./") == (True, "minio.x", 443)
    assert split_url("http://[0::1]:09000") == (False, "[::1]", 9000)


@pytest.mark.parametrize(
    ("qualified", "endpoint", "bucket", "key"),
    [
        ("s3://127.0.0.1:9000/data", "127.0.0.1:9000", "data", ""),
        ("s3://127.0.0.1:9000/data/", "127.0.0.1:9000", "data", ""),
        ("s3://data", None, "data", ""),
        ("s3+https://minio.example/data/", "minio.example", "data", ""),
        ("s3://s3.eu-west-1.amazonaws.com/data/", None, "data", ""),
        ("https://host", "host", "", ""),
        ("sftp://host/", "host", "", ""),
        ("file:///", None, "", "/"),
    ],
)
def test_prefixes_may_have_no_key(qualified, endpoint, bucket, key):
    """Where many objects are meant the key may be empty, and nowhere else."""
    location = Location.parse(qualified, prefix=True)
    assert location is not None
    assert (location.endpoint, location.bucket, location.key) == (endpoint, bucket, key)
    with pytest.raises(LocationError):
        Location.parse(qualified)


def test_quoting_leaves_plain_text_as_it_is_and_each_other_character_not():
    """Every character of ASCII, alone: what is unprintable or has a meaning is escaped, all else stays."""
    for number in range(128):
        char = chr(number)
        stays = 33 <= number < 127 and char not in "%?#"
        assert quoted(f"a{char}b") == (f"a{char}b" if stays else f"a%{number:02X}b")
