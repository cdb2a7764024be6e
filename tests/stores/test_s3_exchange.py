"""A kept connection that the server closes at the wrong moment, and what is not S3's XML."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest

from creds.errors import StoreError, StoreUnavailable
from creds.keys import AwsKeys
from creds.store import Retries, StoreOptions
from creds.stores.s3 import S3Store
from creds.stores.s3.documents import Document, NotS3


@contextlib.contextmanager
def forgetful() -> Iterator[tuple[S3Store, list[str]]]:
    """A store, and the requests its server got: it answers the first on each connection and hangs up on the second."""
    asked: list[str] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(client: socket.socket) -> None:
        with client, client.makefile("rb") as lines:
            for number in range(2):
                head = list(iter(lines.readline, b"\r\n"))
                if not head or head[-1:] == [b""]:
                    return
                length = next((int(line.split(b":")[1]) for line in head if line.startswith(b"content-length")), 0)
                lines.read(length)
                asked.append(head[0].split()[0].decode())
                if number == 0:
                    client.sendall(b'HTTP/1.1 200 OK\r\nETag: "e"\r\nContent-Length: 0\r\n\r\n')

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    store = S3Store(
        "b",
        endpoint_url=f"http://127.0.0.1:{listener.getsockname()[1]}",
        region="us-east-1",
        provider=lambda: AwsKeys(access_key="a", secret_key="s"),
        options=StoreOptions(retries=Retries(attempts=1)),
        on_aws=True,
        addressing="path",
        checksums=False,
    )
    try:
        yield store, asked
    finally:
        store.close()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def test_what_only_looks_is_asked_again() -> None:
    """A HEAD on a connection that the server gave up is sent on another one, and nobody hears of it."""
    with forgetful() as (store, asked):
        for _ in range(2):
            assert store.head("k").etag == '"e"'
        assert asked == ["HEAD", "HEAD", "HEAD"]


def test_what_changes_something_is_not_sent_again_unasked() -> None:
    """A write may have been done although nobody said so: only the retry loop repeats it, which knows that."""
    with forgetful() as (store, asked):
        store.head("k")
        with pytest.raises(StoreUnavailable, match="the connection broke"):
            store.write("k", [b"x"])
        assert asked == ["HEAD", "PUT"]


def test_an_empty_name_is_never_asked_for() -> None:
    """PUT and DELETE of nothing would be of the bucket."""
    with forgetful() as (store, asked):
        for work in (lambda: store.write("", [b"x"]), lambda: store.delete(""), lambda: store.head("")):
            with pytest.raises(StoreError, match="not a request that S3 allows"):
                work()
        assert asked == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html><body>sign in</body>",
        b"<ListBucketResult/>",
        b'<!DOCTYPE x [<!ENTITY a "aaaa">]><ListBucketResult><Name>&a;</Name></ListBucketResult>',
        '<?xml version="1.0" encoding="utf-16"?><!DOCTYPE x><L><Name/></L>'.encode("utf-16"),
    ],
)
def test_what_is_no_document(body: bytes) -> None:
    """A page, a document of something else, and one that declares entities, in any encoding."""
    with pytest.raises(NotS3):
        Document(body, "Name", "IsTruncated")


def test_keys_are_decoded_where_the_server_says_so() -> None:
    """Only with EncodingType; S3 writes a space as a plus then."""
    entry = b"<Contents><Key>a%2Bb+c%0A</Key></Contents><Name>b</Name>"
    plain = Document(b"<L>" + entry + b"</L>", "Name").entries("Contents")
    decoded = Document(b"<L>" + entry + b"<EncodingType>url</EncodingType></L>", "Name").entries("Contents")
    assert [plain[0]["Key"], decoded[0]["Key"]] == ["a%2Bb+c%0A", "a+b c\n"]
