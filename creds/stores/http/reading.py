"""Reading: one GET, resumed at its byte when it breaks, and held to one generation of the object."""

from __future__ import annotations

import http.client
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from urllib3.exceptions import HTTPError
from urllib3.response import BaseHTTPResponse

from creds import retry
from creds.errors import NotSupported, ObjectNotFound, StoreError
from creds.store import Buffer, Cancel, ObjectMeta, OnRetry
from creds.stores.http.connections import forget
from creds.stores.http.dav import moment
from creds.stores.http.errors import failed, of_failure
from creds.stores.http.transport import Login, Transport, finish
from creds.stores.reading import OpenReading
from creds.stores.url import Url
from creds.stores.wire import Wire, on, stoppable

E = TypeVar("E", bound=StoreError)

READ_BYTES = 1 << 20

_STRONG = re.compile(r'"[\x21\x23-\x7e\x80-\xff]*"')
_RANGE = re.compile(r"bytes (?:(\d{1,19})-(\d{1,19})|\*)/(\d{1,19}|\*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What :meth:`creds.store.Store.open` was asked for."""

    key: str
    url: Url
    where: str
    start: int
    if_match: str | None
    cancel: Cancel | None
    on_retry: OnRetry | None


def is_strong(etag: str | None) -> bool:
    """Does this ETag name one sequence of bytes, and can it be sent back (RFC 9110, 8.8.3)?"""
    return etag is not None and _STRONG.fullmatch(etag) is not None


def first_byte(headers: Mapping[str, str]) -> int | None:
    """Where the range that was sent begins; None where it is no range."""
    match = _RANGE.fullmatch((headers.get("content-range") or "").strip())
    return int(match[1]) if match is not None and match[1] else None


def total_bytes(headers: Mapping[str, str]) -> int | None:
    """The whole object's length as a Content-Range tells it, also that of a 416."""
    match = _RANGE.fullmatch((headers.get("content-range") or "").strip())
    return int(match[3]) if match is not None and match[3] != "*" else None


def meta_of(key: str, answer: BaseHTTPResponse) -> ObjectMeta:
    """What the answer to a HEAD or GET tells of an object."""
    headers = answer.headers
    size = total_bytes(headers)
    if answer.status == 200:
        length = headers.get("content-length") or ""
        size = int(length) if length.isdecimal() and length.isascii() and len(length) < 20 else None
    return ObjectMeta(
        key=key, size_bytes=size, etag=headers.get("etag") or None, modified=moment(headers.get("last-modified"))
    )


def refuse_encoded(answer: BaseHTTPResponse, op: str, where: str) -> None:
    """Refuse content that was compressed for the journey: its length and bytes are not the object's."""
    if (answer.headers.get("content-encoding") or "identity").strip().lower() != "identity":
        finish(answer)
        said = "the server sends the content encoded, although asked not to"
        raise failed(NotSupported, op, where, said, hint="turn its compression off, or store the object without one")


def head(transport: Transport, op: str, key: str, url: Url, where: str, login: Login) -> ObjectMeta:
    """What the server says of an object: by HEAD, or by a GET of one byte where HEAD is refused.

    A presigned URL is signed for one method, so a HEAD of one that is for GET is refused.
    """
    if not url.query:
        try:
            answer = transport.ask(op, where, "HEAD", url, login)
        except StoreError as error:
            if error.http_status not in (403, 405, 501):
                raise
        else:
            refuse_encoded(answer, op, where)
            finish(answer)
            return meta_of(key, answer)
    one = {"Range": "bytes=0-0"}
    answer = transport.ask(op, where, "GET", url, login, headers=one, accepted=(200, 206, 416))
    if answer.status == 416:  # empty: no range of it exists
        finish(answer)
        answer = transport.ask(op, where, "GET", url, login)
    refuse_encoded(answer, op, where)
    finish(answer)
    return meta_of(key, answer)


class HttpReading(OpenReading):
    """One object being read over http(s)."""

    def __init__(self, transport: Transport, wanted: Wanted) -> None:
        super().__init__(wanted.start, wanted.if_match, wanted.cancel)
        self._transport = transport
        self._wanted = wanted
        self._position = wanted.start
        self._body: BaseHTTPResponse | None = None
        self._connection: object = None
        self._ended = False
        self._wire = Wire()
        self._stack.callback(self._drop)
        self._stack.callback(self._wire.stop)

    @property
    def pinned(self) -> str:
        if is_strong(self.meta.etag):
            return "etag"
        return "weak" if self.meta.etag or self.meta.modified else "none"

    @property
    def _where(self) -> str:
        return self._wanted.where

    def _begin(self) -> None:
        wanted = self._wanted
        if wanted.cancel is not None:
            wanted.cancel.check()
            self._stack.enter_context(wanted.cancel.calling(self._wire.stop))
        self._transport.call("open", self._reopen, cancel=wanted.cancel, on_retry=wanted.on_retry)

    def __next__(self) -> Buffer:
        self._check_open()
        if self._ended:
            raise StopIteration
        wanted, login = self._wanted, self._transport.login()
        if self.pinned == "none" and self._position > wanted.start:
            chunk = self._read(login)  # nothing would tell whether the rest is of the same generation
        else:
            schedule = retry.Schedule(
                "open",
                self._transport.options.retries,
                on_retry=wanted.on_retry,
                throttle=self._transport.throttle,
            )
            chunk = retry.run(lambda: self._read(login), schedule, cancel=wanted.cancel, refresh=login.renewed)
        if not chunk:
            self._ended = True
            raise StopIteration
        return chunk

    def _read(self, login: Login) -> bytes:
        self._check_open()
        if self._body is None and not self._ended:
            stoppable(lambda: self._reopen(login), self._wanted.cancel)
        chunk = self._some(READ_BYTES)
        self._check_open()  # a connection that was shut down looks like a body that ended
        size = self.meta.size_bytes
        self._position += len(chunk)
        if size is not None and self._position > size:
            raise self._failed(StoreError, f"more than the {size} bytes that were announced")
        if not chunk or self._position == size:
            forget(self._connection)
        return chunk

    def _some(self, count: int) -> bytes:
        """The next bytes of the body, which end only where the object does."""
        body = self._body
        if body is None:
            return b""
        size = self.meta.size_bytes
        try:
            with on(self._wire):
                chunk = body.read(count)
            if not chunk and size is not None and self._position < size:
                raise ConnectionResetError("the body ended early")
        except (HTTPError, OSError, http.client.HTTPException) as error:
            self._drop()
            self._check_open()
            raise of_failure(error, "open", self._wanted.where) from error
        return chunk

    def _reopen(self, login: Login) -> None:
        """Ask for the object from where the reading stands, in its first generation."""
        wanted = self._wanted
        headers = {"Range": f"bytes={self._position}-"} if self._position else {}
        condition = wanted.if_match if self._meta is None else self._meta.etag
        if condition is not None and is_strong(condition):
            headers["If-Match"] = condition
        accepted = (200, 206, 416) if self._position else (200,)
        try:
            with on(self._wire):
                answer = self._transport.ask(
                    "open", wanted.where, "GET", wanted.url, login, headers=headers, accepted=accepted
                )
        except ObjectNotFound as error:
            if self._meta is None:
                raise
            raise self._changed() from error
        try:
            self._started(answer, login)
        except BaseException:
            answer.close()
            raise

    def _started(self, answer: BaseHTTPResponse, login: Login) -> None:
        if answer.status == 416:
            self._unsatisfied(answer, login)
            return
        refuse_encoded(answer, "open", self._wanted.where)
        if answer.length_remaining is None and not answer.chunked:
            said = "the server does not say how long the content is, so its end could not be told from a broken one"
            raise self._failed(NotSupported, said)
        if answer.status == 206 and first_byte(answer.headers) != self._position:
            raise self._failed(NotSupported, "the server sends another range than was asked for")
        self._pin(meta_of(self._wanted.key, answer))
        with self._lock:
            self._check_open()
            self._body, self._connection = answer, answer.connection
        if answer.status == 200 and self._position:
            self._skip()

    def _unsatisfied(self, answer: BaseHTTPResponse, login: Login) -> None:
        """There is nothing at or after the byte: fine at the very end, and only there."""
        finish(answer)
        wanted = self._wanted
        if self._meta is not None:
            raise self._changed()
        now = head(self._transport, "open", wanted.key, wanted.url, wanted.where, login)
        if now.size_bytes != self._position:
            raise self._beyond(now.size_bytes)
        self._pin(now)
        self._ended = True

    def _skip(self) -> None:
        """Read away what was read before: the server does not answer ranges."""
        size = self.meta.size_bytes
        if size is not None and size < self._position:
            raise self._beyond(size)
        left = self._position
        while left:
            chunk = self._some(min(left, READ_BYTES))
            if not chunk:
                raise self._beyond(self._position - left)
            left -= len(chunk)

    def _drop(self) -> None:
        body, self._body = self._body, None
        if body is not None:
            forget(self._connection)
            body.close()

    def _failed(self, kind: type[E], said: str) -> E:
        return failed(kind, "open", self._wanted.where, said)
