"""Our signatures are botocore's, byte for byte, in headers and in a query."""

from __future__ import annotations

import datetime as dt
from unittest import mock
from urllib.parse import quote, urlsplit

import botocore.auth
import pytest
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from creds.keys import AwsKeys
from creds.stores.s3 import signing
from creds.stores.url import encoded

NOW = 1_790_000_000
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
VALUES = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=20)
NAMES = st.sampled_from(
    ["range", "if-match", "content-type", "x-amz-meta-one", "x-amz-meta-two", "x-amz-checksum-mode"]
)


def botocores(method, url, headers, token, sha256, *, query=False, seconds=60):
    """The Authorization header, or the signed URL, that botocore makes."""
    credentials = Credentials("AKIAEXAMPLE", "secret/+key", token)
    signer = (
        botocore.auth.S3SigV4QueryAuth(credentials, "s3", "eu-west-1", expires=seconds)
        if query
        else botocore.auth.S3SigV4Auth(credentials, "s3", "eu-west-1")
    )
    request = AWSRequest(method, url, headers=dict(headers))
    request.context["payload_signing_enabled"] = False
    moment = dt.datetime.fromtimestamp(NOW, dt.UTC)
    with (
        mock.patch.object(botocore.auth, "get_current_datetime", return_value=moment),
        mock.patch.object(signer, "payload", return_value=sha256),
    ):
        signer.add_auth(request)
    return request.url if query else request.headers["Authorization"]


@given(
    method=st.sampled_from(["GET", "PUT", "HEAD", "POST", "DELETE"]),
    key=TEXT.filter(bool),
    query=st.dictionaries(st.sampled_from(["prefix", "uploads", "partNumber", "list-type"]), TEXT),
    headers=st.dictionaries(NAMES, VALUES),
    token=st.sampled_from([None, "FwoGZXIvYXdzE+token/=="]),
)
def test_headers(method, key, query, headers, token):
    """Every method, odd keys, queries, headers with runs of spaces, and session tokens."""
    keys = AwsKeys(access_key="AKIAEXAMPLE", secret_key="secret/+key", token=token)
    path, terms = f"/bucket/{encoded(key)}", signing.query_of(query)
    sent = {"host": "localhost:9000", **headers}
    ours = signing.signed(method, path, terms, sent, keys, "eu-west-1", now=NOW)
    url = f"http://localhost:9000{path}" + (f"?{terms}" if terms else "")
    assert ours["authorization"] == botocores(method, url, sent, token, signing.EMPTY_SHA256)
    assert ours["x-amz-date"] == "20260921T141320Z"
    assert ours.get("x-amz-security-token") == token


@given(key=TEXT.filter(bool), token=st.sampled_from([None, "a+b/c=="]), seconds=st.integers(1, 604_800))
def test_queries(key, token, seconds):
    """A signed URL."""
    keys = AwsKeys(access_key="AKIAEXAMPLE", secret_key="secret/+key", token=token)
    path = f"/bucket/{encoded(key)}"
    more = {"x-amz-request-payer": "requester"}
    ours = signing.presigned("GET", "localhost:9000", path, more, keys, "eu-west-1", seconds, now=NOW)
    url = f"http://localhost:9000{path}?x-amz-request-payer=requester"
    theirs = botocores("GET", url, {"host": "localhost:9000"}, token, signing.UNSIGNED, query=True, seconds=seconds)
    assert sorted(ours.split("&")) == sorted(urlsplit(theirs).query.split("&"))


def test_an_unsigned_body():
    """What is signed for a body that TLS keeps."""
    keys = AwsKeys(access_key="AKIAEXAMPLE", secret_key="secret/+key")
    sent = {"host": "h", "content-length": "3"}
    ours = signing.signed("PUT", "/b/k", "", sent, keys, "eu-west-1", sha256=signing.UNSIGNED, now=NOW)
    assert ours["x-amz-content-sha256"] == "UNSIGNED-PAYLOAD"
    assert ours["authorization"] == botocores("PUT", "http://h/b/k", sent, None, signing.UNSIGNED)


@pytest.mark.parametrize("text", ["a b", "ü/%", "a+b=c&d", "~-._"])
def test_a_query_is_encoded(text):
    """As RFC 3986 has it, nothing left but the unreserved."""
    assert signing.query_of({"b": text, "a": ""}) == f"a=&b={quote(text, safe='-._~')}"
