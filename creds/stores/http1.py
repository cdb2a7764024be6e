"""One connection that speaks HTTP/1.1 (RFC 9112), for what must cost least: many small bodies, and large ones.

A general client spends several times more on an answer than the kernel does on its 64 KiB. This one knows what a store
needs of the protocol and refuses the rest: an answer is hostile input, and one that can be read in two ways is none.
"""

from __future__ import annotations

import contextlib
import math
import re
import select
import socket
import ssl
import struct
import time
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from creds.store import Buffer

_HEAD_BYTES = 64 << 10  # the longest head of an answer
_READ_BYTES = 16 << 10  # what is read to find the head: the rest of it is the body's
_DRAINED_BYTES = 64 << 10  # a body up to this is read away to keep its connection
_LASTING = 60  # how many silences' time an answer may take
_INTERIM = 8  # answers with a status of 1xx before the one that counts
_CHUNK_LINE_BYTES = 4 << 10
_STATUS = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: [^\r\n]*)?")
_DIGITS = re.compile(r"[0-9]{1,19}")
_CHUNK_SIZE = re.compile(rb"([0-9a-fA-F]{1,15})[ \t]*(?:;[^\r\n]*)?")


class BadAnswer(Exception):
    """What came is no HTTP/1.1, or can be read in two ways."""


class Ended(ConnectionResetError):
    """The server closed a connection before it answered: it may have been idle for too long."""


class Answer(NamedTuple):
    """The head of an answer.

    Attributes:
        headers: by lower-case name; of a repeated one the values are joined by commas.
    """

    status: int
    headers: Mapping[str, str]


class Connection:
    """One exchange after another on a socket, from one thread at a time.

    Args:
        live: the socket.

    Attributes:
        live: as above; whoever stops the exchange from another thread shuts it down.
        used: it has carried an exchange before.
    """

    def __init__(self, live: socket.socket) -> None:
        self.used = False
        self._seconds = self._ends = math.inf
        self._ahead = b""
        self._left: int | None = 0
        self._chunked = False
        self._chunks_begun = False
        self._lasts = True
        self.over(live, live)

    def over(self, live: socket.socket, speaks: Any) -> None:
        """Speak from now on through ``speaks``, which is TLS over ``live`` or that itself."""
        self.live = live
        self._socket = speaks
        # A plaintext socket fills the whole buffer in one call; TLS gives a record at a time.
        self._records = speaks is not live or isinstance(live, ssl.SSLSocket)

    def bound(self, seconds: float) -> None:
        """End every silence that is longer, and every head; an answer as a whole has sixty times as long.

        The socket itself ends a silence: with Python's own timeout each call would be two.
        """
        self._seconds = seconds
        self.live.settimeout(None)
        moment = struct.pack("ll", int(seconds), int(seconds % 1 * 1_000_000))
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            self.live.setsockopt(socket.SOL_SOCKET, option, moment)

    def ask(self, head: bytes, body: Iterable[Buffer] = (), *, bodiless: bool = False) -> Answer:
        """Send a request and read the head of its answer.

        Args:
            bodiless: the answer has no body whatever its head says: it is one to HEAD.

        Raises:
            Ended: the connection was closed before any of the answer came.
            BadAnswer, OSError, TimeoutError.
        """
        self._left, self._ahead, self._lasts = None, b"", False  # unless all goes well this was its last exchange
        self._ends = time.monotonic() + _LASTING * self._seconds
        try:
            self._send(head)
            for piece in body:
                self._send(piece)
        except (BrokenPipeError, ConnectionResetError) as error:
            # It may have answered before it closed: that is worth more than the pipe's end.
            with contextlib.suppress(OSError, BadAnswer):
                return self._answer(bodiless)
            raise Ended("closed while it was asked") from error
        return self._answer(bodiless)

    def _send(self, piece: Buffer) -> None:
        try:
            self._socket.sendall(piece)
        except (BlockingIOError, ssl.SSLWantWriteError):
            raise TimeoutError("the server takes nothing") from None

    def _answer(self, bodiless: bool) -> Answer:
        for _ in range(_INTERIM):
            head = self._head()
            lines = head.split(b"\r\n")
            found = _STATUS.fullmatch(lines[0])
            if found is None:
                raise BadAnswer("no HTTP/1.1")
            status = int(found[2])
            if status >= 200:
                headers = _headers(lines[1:])
                self._frame(status, headers, old=found[1] == b"0", bodiless=bodiless)
                self.used = True
                return Answer(status, headers)
        raise BadAnswer("interim answers without end")

    def _head(self) -> bytes:
        """The bytes up to the empty line; what came after them is the body's first."""
        got = self._ahead
        ends = time.monotonic() + self._seconds
        while (end := got.find(b"\r\n\r\n")) < 0:
            if len(got) > _HEAD_BYTES:
                raise BadAnswer("a head without end")
            if time.monotonic() > ends:
                raise TimeoutError("a head that drips")
            try:
                more = self._recv(_READ_BYTES)
            except ConnectionResetError as error:
                if got:
                    raise
                raise Ended("closed before it answered") from error
            if not more:
                raise ConnectionResetError("the head ended early") if got else Ended("closed before it answered")
            got = got + more if got else more
        self._ahead = got[end + 4 :]
        return got[:end]

    def _frame(self, status: int, headers: Mapping[str, str], *, old: bool, bodiless: bool) -> None:
        """Where the body ends (RFC 9112, 6.3)."""
        coding, length = headers.get("transfer-encoding"), headers.get("content-length")
        if coding is not None and (length is not None or coding.lower() != "chunked" or old):
            raise BadAnswer("a body of two lengths")
        self._chunked = coding is not None
        if length is not None and not _DIGITS.fullmatch(length):
            raise BadAnswer("a length that is none")
        self._left = None if length is None else int(length)
        if bodiless or status in (204, 304):
            self._left, self._chunked = 0, False
        elif self._chunked:
            self._left = 0  # of the chunk before the first
        said = headers.get("connection", "").lower()
        self._lasts = ("keep-alive" in said if old else "close" not in said) and self._left is not None

    def read(self, most: int) -> Buffer:
        """The next bytes of the body, as many as asked for where they come soon; none at its end.

        Raises:
            BadAnswer, OSError, TimeoutError: it did not come to its end.
        """
        self._check_lasting()
        if self._left == 0 and not (self._chunked and self._next_chunk()):
            return b""
        count = most if self._left is None else min(most, self._left)
        piece: Buffer
        if self._ahead:
            piece, self._ahead = self._ahead[:count], self._ahead[count:]
        elif self._records and count > _READ_BYTES:
            piece = self._records_of(count)
        else:
            piece = self._recv(count, whole=True)
        if self._left is not None:
            if not len(piece):
                raise ConnectionResetError("the body ended early")
            self._left -= len(piece)
        return piece

    def read_into(self, room: memoryview) -> int:
        """As :meth:`read`, into ``room``, whose bytes stay warm in the processor's cache from one call to the next."""
        if self._chunked or self._left is None:
            piece = self.read(len(room))
            room[: len(piece)] = piece
            return len(piece)
        self._check_lasting()
        room = room[: self._left]
        count = min(len(room), len(self._ahead))
        room[:count], self._ahead = self._ahead[:count], self._ahead[count:]
        if count < len(room):
            count += self._receive(room[count:])
        if len(room) and not count:
            raise ConnectionResetError("the body ended early")
        self._left -= count
        return count

    def _check_lasting(self) -> None:
        """End an answer that never says nothing, and next to nothing."""
        if time.monotonic() > self._ends:
            raise TimeoutError("an answer that drips")

    def _next_chunk(self) -> bool:
        """Begin the next chunk; False where it is the last one, which is empty."""
        if self._chunks_begun and self._line() != b"":
            raise BadAnswer("a chunk longer than it said")
        self._chunks_begun = True
        found = _CHUNK_SIZE.fullmatch(self._line())
        if found is None:
            raise BadAnswer("no chunk")
        self._left = int(found[1], 16)
        if self._left:
            return True
        while self._line():  # trailers
            pass
        self._chunked = self._chunks_begun = False
        return False

    def _line(self) -> bytes:
        while (end := self._ahead.find(b"\r\n")) < 0:
            if len(self._ahead) > _CHUNK_LINE_BYTES:
                raise BadAnswer("a line without end")
            more = self._recv(_READ_BYTES)
            if not more:
                raise ConnectionResetError("the body ended early")
            self._ahead += more
        line, self._ahead = self._ahead[:end], self._ahead[end + 2 :]
        return line

    def _recv(self, count: int, *, whole: bool = False) -> bytes:
        try:
            got: bytes = self._socket.recv(count, socket.MSG_WAITALL if whole and not self._records else 0)
        except (BlockingIOError, ssl.SSLWantReadError):
            raise TimeoutError("silence") from None
        except ssl.SSLEOFError:
            return b""  # without TLS' farewell: the framing tells whether something is missing
        return got

    def _receive(self, room: memoryview) -> int:
        try:
            if not self._records:
                count: int = self._socket.recv_into(room, 0, socket.MSG_WAITALL)
                return count
            return self._fill(room)
        except (BlockingIOError, ssl.SSLWantReadError):
            raise TimeoutError("silence") from None

    def _records_of(self, count: int) -> memoryview:
        """``count`` bytes of records, or fewer at the connection's end: each by itself would cost a turn of all."""
        room = memoryview(bytearray(count))
        return room[: self._receive(room)]

    def _fill(self, room: memoryview) -> int:
        done = 0
        while done < len(room):
            try:
                count = self._socket.recv_into(room[done:])
            except ssl.SSLEOFError:
                break
            except ssl.SSLWantReadError:
                if done:
                    break
                raise
            if not count:
                break
            done += count
        return done

    def finish(self) -> bool:
        """Read away what little is left of the body; can the connection carry another exchange?"""
        if not self._lasts or (self._left is not None and self._left > _DRAINED_BYTES):
            return False
        drained = 0
        try:
            while drained <= _DRAINED_BYTES and (piece := self.read(_DRAINED_BYTES)):
                drained += len(piece)
        except (OSError, BadAnswer):
            return False
        # Bytes that nobody asked for would be taken for the next answer.
        return drained <= _DRAINED_BYTES and not self._ahead

    def idle(self) -> bool:
        """Is it still open, and nothing said on it?"""
        looks = select.poll()
        looks.register(self.live, select.POLLIN)
        return not looks.poll(0)

    def close(self) -> None:
        self.live.close()

    def abort(self) -> None:
        """Close it in the middle of an exchange: what was not sent yet is not sent any more."""
        with contextlib.suppress(OSError):
            self.live.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.live.close()


def _headers(lines: Iterable[bytes]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.decode("latin-1").partition(":")
        if not colon or not name or name[0] in " \t" or name[-1] in " \t":
            raise BadAnswer("a header that is none")
        name, value = name.lower(), value.strip(" \t")
        if name in headers:
            if name == "content-length" and headers[name] == value:
                continue
            value = f"{headers[name]}, {value}"
        headers[name] = value
    return headers
