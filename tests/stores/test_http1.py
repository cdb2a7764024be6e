"""Our HTTP/1.1: what is read of every framing, and what is refused of a server that is not to be trusted."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from creds.stores import http1
from creds.stores.http1 import Answer, BadAnswer, Connection, Ended

GET = b"GET / HTTP/1.1\r\nhost: h\r\n\r\n"


@contextlib.contextmanager
def talking(*sent: bytes, ends: bool = True) -> Iterator[Connection]:
    """A connection whose server sends these pieces, and then closes it."""
    ours, theirs = socket.socketpair()
    connection = Connection(ours)
    connection.bound(5)

    def serve() -> None:
        with contextlib.suppress(OSError):
            for piece in sent:
                theirs.sendall(piece)
            if ends:
                theirs.shutdown(socket.SHUT_WR)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield connection
    finally:
        connection.close()
        thread.join()
        theirs.close()


def body(connection: Connection, most: int = 7) -> bytes:
    return b"".join(bytes(piece) for piece in iter(lambda: connection.read(most), b""))


@pytest.mark.parametrize(
    ("sent", "content", "lasts"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nhello world", b"hello world", True),
        (b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", b"", True),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nContent-Length: 2\r\n\r\nhi", b"hi", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi", b"hi", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi", b"hi", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nhi", b"hi", True),
        (b"HTTP/1.1 200 OK\r\n\r\nuntil the end", b"until the end", False),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b"", True),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", b"", True),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", b"hi", True),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", b"hello", True),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n3;x=y\r\nhel\r\nA\r\nlo chunked\r\n00\r\nt: v\r\n\r\n",
         b"hello chunked", True),
    ],
)  # fmt: skip
def test_framings(sent: bytes, content: bytes, lasts: bool) -> None:
    """The body ends where RFC 9112 says, and the connection is kept where it may be."""
    with talking(sent, ends=not lasts) as connection:
        connection.ask(GET)
        assert body(connection) == content
        assert connection.finish() is lasts


def test_headers_are_joined() -> None:
    """Names in lower case; of a repeated one the values by commas."""
    with talking(b'HTTP/1.1 206 Partial\r\nETag:  "x" \r\nA: 1\r\na: 2\r\nContent-Length: 0\r\n\r\n') as connection:
        assert connection.ask(GET) == Answer(206, {"etag": '"x"', "a": "1, 2", "content-length": "0"})


@pytest.mark.parametrize(
    "sent",
    [
        b"SSH-2.0-OpenSSH_9\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nhi!",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0x2\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: 1\r\n folded\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA : 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno header\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 9,
        b"HTTP/1.1 200 OK\r\nA: " + b"x" * (100 << 10),
    ],
)
def test_what_is_refused(sent: bytes) -> None:
    """No HTTP/1.1, a body of two lengths, a folded header, interim answers or a head without end."""
    with talking(sent) as connection, pytest.raises(BadAnswer):
        connection.ask(GET)
    assert connection.finish() is False


@pytest.mark.parametrize("chunks", [b"5\r\nhello world\r\n", b"x\r\n", b"-1\r\n", b"5\r\nhello0\r\n", b"1" * 9999])
def test_bad_chunks(chunks: bytes) -> None:
    """A chunk of another size than it says, or of none."""
    with talking(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks) as connection:
        connection.ask(GET)
        with pytest.raises(BadAnswer):
            body(connection)


@pytest.mark.parametrize(
    "sent",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhell",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    ],
)
def test_a_body_that_ends_early(sent: bytes) -> None:
    """Is an error, by either way of reading."""
    with talking(sent) as connection:
        connection.ask(GET)
        with pytest.raises(ConnectionResetError):
            body(connection)
        assert connection.finish() is False
    with talking(sent) as connection:
        connection.ask(GET)
        room = memoryview(bytearray(9))
        with pytest.raises(ConnectionResetError):
            list(iter(lambda: connection.read_into(room), 0))


def test_closed_before_it_answered() -> None:
    """Is told apart: nothing was done, or a kept connection had been idle for too long."""
    with talking() as connection, pytest.raises(Ended):
        connection.ask(GET)
    with talking(b"HTTP/1.1 200") as connection, pytest.raises(ConnectionResetError) as cut:
        connection.ask(GET)
    assert not isinstance(cut.value, Ended)


def test_a_silence_ends() -> None:
    """After the seconds that it may last."""
    with talking(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe", ends=False) as connection:
        connection.bound(0.1)
        connection.ask(GET)
        assert connection.read(5) == b"he"
        with pytest.raises(TimeoutError):
            connection.read(5)


def test_what_drips(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that never says nothing cannot hold on to us for ever: neither by a head nor by a body."""
    clock = iter(range(0, 10_000, 3))
    with talking(*[b"HTTP/1.1 200 OK\r\nA: "] + [b"x"] * 50) as connection:
        monkeypatch.setattr(http1.time, "monotonic", lambda: float(next(clock)))
        monkeypatch.setattr(http1, "_READ_BYTES", 1)
        with pytest.raises(TimeoutError, match="a head that drips"):
            connection.ask(GET)
    monkeypatch.setattr(http1, "_READ_BYTES", 16 << 10)
    with talking(b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n", b"x" * 900) as connection:
        connection.ask(GET)
        with pytest.raises(TimeoutError, match="an answer that drips"):
            body(connection, 1)


def test_what_was_not_asked_for() -> None:
    """Bytes after the body would be the next answer: the connection is not kept, nor is one that talks while idle."""
    with talking(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhiHTTP/1.1 200 OK\r\n\r\n") as connection:
        connection.ask(GET)
        assert body(connection) == b"hi"
        assert connection.finish() is False
    with talking(b"unasked") as connection:
        select.select([connection.live], [], [], 5)
        assert connection.idle() is False
    with talking(ends=False) as connection:
        assert connection.idle() is True


def test_a_refusal_in_the_middle_of_a_body() -> None:
    """A server that answers and closes before it has read everything is heard."""
    ours, theirs = socket.socketpair()
    connection = Connection(ours)
    connection.bound(5)
    theirs.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
    theirs.shutdown(socket.SHUT_RDWR)
    assert connection.ask(GET, [bytes(8 << 20)]).status == 403
    connection.close()
    theirs.close()


@settings(deadline=None)
@given(
    content=st.binary(max_size=3000),
    sizes=st.lists(st.integers(1, 700), min_size=1, max_size=20),
    cuts=st.lists(st.integers(1, 500), min_size=1, max_size=20),
    most=st.integers(1, 4000),
)
def test_chunks_of_any_size(content: bytes, sizes: list[int], cuts: list[int], most: int) -> None:
    """Whatever the chunks, the packets they come in and the pieces asked for: the same bytes."""
    chunked, at = [], 0
    for size in sizes * (len(content) // sum(sizes) + 1):
        if piece := content[at : at + size]:
            chunked.append(b"%x\r\n%s\r\n" % (len(piece), piece))
        at += size
    sent = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"".join(chunked) + b"0\r\n\r\n"
    pieces, at = [], 0
    for cut in cuts * (len(sent) // sum(cuts) + 1):
        pieces.append(sent[at : at + cut])
        at += cut
    with talking(*pieces, ends=False) as connection:
        connection.ask(GET)
        assert body(connection, most) == content
        assert connection.finish() is True


def test_into_a_room() -> None:
    """A large body fills the room it is given, its end what is left of it."""
    content = os.urandom(100_000)
    with talking(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", content) as connection:
        connection.ask(GET)
        room = bytearray(64 << 10)
        got = b""
        while count := connection.read_into(memoryview(room)):
            got += room[:count]
        assert got == content
