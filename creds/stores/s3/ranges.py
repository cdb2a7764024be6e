"""Reading: parts of the object side by side, each by ranged GETs that are held to one generation."""

from __future__ import annotations

import functools
import math
import re
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from creds import retry
from creds.errors import NotSupported, ObjectNotFound, StoreError, StoreUnavailable, ToolkitError
from creds.store import Buffer, ObjectMeta
from creds.stores.reading import OpenReading
from creds.stores.s3 import meta
from creds.stores.s3.exchange import Exchange
from creds.stores.s3.verb import Verb
from creds.stores.wire import Wire, spawn

if TYPE_CHECKING:
    from creds.keys import AwsKeys

E = TypeVar("E", bound=StoreError)
T = TypeVar("T")

_PIECE_BYTES = 512 << 10  # handed on while the processor's cache still has it
_FARTHER = 4  # so many times the usual parts are ahead where the server is far away
_HIDDEN = 8  # a wait for headers this much shorter than the content's own time costs too little to do more about
_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19})")


class Rooms:
    """Where pieces are read into, again and again: fresh memory would cost as much as the copy into it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lent: deque[bytearray] = deque()

    def take(self) -> bytearray:
        """Room for a piece, which nobody else looks at."""
        with self._lock:
            room = self._lent.popleft() if self._lent else None
        if room is not None:
            if _is_free(room):
                return room
            self._lent.append(room)
        return bytearray(_PIECE_BYTES)

    def lend(self, room: bytearray, count: int) -> memoryview:
        """Its first bytes, for whoever reads; it is taken again when they are dropped."""
        view = memoryview(room)[:count]
        self._lent.append(room)
        return view


def _is_free(room: bytearray) -> bool:
    """Does nobody hold a view of it? Python itself refuses to resize what is looked at."""
    try:
        room.append(0)
    except BufferError:
        return False
    room.pop()
    return True


class Part:
    """The bytes from ``position`` up to ``end``, by one GET, and by more of them where it breaks.

    Attributes:
        end: None is the object's end, where that is not known.
        held: the bytes of the window that it accounts for.
        begun: somebody reads it.
        mine: whoever iterates reads it; ``busy`` while it does.
        pieces, over, error: what a thread that reads ahead has of it, whether that is all, and why not.
        latency_seconds, content_seconds: how long its last answer's head took, and the rest.
    """

    def __init__(self, reading: Ranges, position: int, end: int | None, held: int) -> None:
        self.position = position
        self.end = end
        self.held = held
        self.begun = self.mine = self.busy = self.over = False
        self.pieces: deque[Buffer] = deque()
        self.error: BaseException | None = None
        self.keys: AwsKeys | None = None
        self.latency_seconds = self.content_seconds = math.inf
        self._reading = reading
        self._exchange: Exchange | None = None
        self._answered = 0.0

    def ask(self) -> None:
        """Send the first request, and wait for the head of its answer."""
        self._tried(self._ask)

    def read(self) -> Buffer:
        """The next bytes; none at the end. What breaks goes on where it broke."""
        at_end = self.position == self.end and self._exchange is None
        return b"" if at_end else self._tried(self._read)

    def _tried(self, work: Callable[[], T]) -> T:
        verb = self._reading.verb
        return retry.run(work, verb.schedule(), cancel=verb.cancel, refresh=self._renewed)

    def _renewed(self, error: ToolkitError) -> bool:
        verb = self._reading.verb
        refresh = verb.bucket.renewing(self.keys, verb.cancel)
        return refresh is not None and refresh(error)

    def _ask(self) -> None:
        asked = time.monotonic()
        self._exchange = self._reading.request(self)
        self._answered = time.monotonic()
        self.latency_seconds = self._answered - asked

    def _read(self) -> Buffer:
        if self._exchange is None and self.position != self.end:
            self._ask()
        if self.position == self.end or self._exchange is None:
            self.finish()
            return b""
        left = None if self.end is None else self.end - self.position
        try:
            if left is not None and left < _PIECE_BYTES:
                piece = self._exchange.read(left)
            else:
                room = self._reading.rooms.take()
                piece = self._reading.rooms.lend(room, self._exchange.read_into(room))
        except StoreError:
            self._exchange = None
            raise
        self.position += len(piece)
        if not len(piece):
            self.finish()
            if self.end is not None:
                raise self._reading.verb.failed(StoreUnavailable, "the answer was cut short", retryable=True)
            self.end = self.position
        elif self.position == self.end:
            self.content_seconds = time.monotonic() - self._answered
            self.finish()
        return piece

    def finish(self) -> None:
        """Leave the connection to others, if it can serve them."""
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.end()

    def drop(self) -> None:
        """Close the connection."""
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.drop()


class Ranges(OpenReading):
    """One object; some of its parts are ahead of the one that is wanted, each in a thread.

    Whoever iterates reads the first part, and any other that no thread has begun: a small object is one request, and
    no thread. It has a share of the window as long as it is open.
    """

    def __init__(self, verb: Verb, start: int, if_match: str | None) -> None:
        super().__init__(start, if_match, verb.cancel)
        self.verb = verb
        self.rooms = Rooms()
        self._share = self._stack.enter_context(verb.bucket.window.stream())
        self._wire = Wire()
        self._news = threading.Condition(self._lock)
        self._pending: deque[Part] = deque()  # in order, the one that is wanted first
        self._next: int | None = None  # where the next part to ask for begins; None where the first one has all
        self._ahead = verb.bucket.options.parallel_parts
        self._responses = 0
        self._latency = math.inf  # the shortest wait for headers: what is longer is load, here or there
        self._far = False  # the last part's content came too fast to hide a latency like that
        self._stack.callback(self._end)

    def __del__(self) -> None:
        for part in self._pending:
            part.drop()  # of a reading that nobody closed

    @property
    def pinned(self) -> str:
        if self._next is None and self._responses == 1:
            return "etag" if self._if_match is not None and self.meta.strong else "none"
        return "etag" if self.meta.strong else "weak"

    @property
    def _where(self) -> str:
        return self.verb.where

    def _failed(self, kind: type[E], said: str) -> E:
        return self.verb.failed(kind, said)

    def _begin(self) -> None:
        """Send the first GET and wait for its headers: they carry size and ETag, so no HEAD is needed."""
        if self.verb.cancel is not None:
            self.verb.cancel.check()
            self._stack.enter_context(self.verb.cancel.calling(self._stop))
        self._stack.enter_context(self.verb.bucket.closing.calling(self._stop))
        count = self._share.part_bytes(self.verb.bucket.options.part_bytes)
        self._share.take(count)
        first = Part(self, self._start, self._start + count, count)
        first.begun = first.mine = True
        self._pending.append(first)
        first.ask()
        if first.end is None:
            return
        assert self.meta.size_bytes is not None
        if first.end < self.meta.size_bytes:
            self._next = first.end
        first.held = min(count, first.end - self._start)
        self._share.give(count - first.held)

    def __next__(self) -> Buffer:
        while True:
            with self._lock:
                self._check_reading()
                self._fill()
                if not self._pending:
                    raise StopIteration
                part = self._pending[0]
                if not part.begun:
                    part.begun = part.mine = True
                part.busy = part.mine
            try:
                piece = part.read() if part.mine else self._handed(part)
            finally:
                part.busy = False
            if len(piece):
                return piece
            with self._lock:
                self._check_reading()
                self._pending.popleft()
                self._share.give(part.held)

    def _check_reading(self) -> None:
        self._check_open()
        if self._wire.stopped:
            raise self._was_closed()

    def _fill(self) -> None:
        """Ask for as many parts ahead as may be; the one that is wanted next always may."""
        size = self.meta.size_bytes
        while self._next is not None and size is not None and self._next < size and len(self._pending) < self._ahead:
            count = min(self._share.part_bytes(self.verb.bucket.options.part_bytes), size - self._next)
            if not self._pending:
                self._share.take(count)
            elif not self._share.try_take(count):
                return
            part = Part(self, self._next, self._next + count, count)
            self._next += count
            self._pending.append(part)
            if len(self._pending) > 1:
                spawn(functools.partial(self._read_ahead, part), self._wire)

    def _handed(self, part: Part) -> Buffer:
        """The next piece of what a thread reads."""
        with self._lock:
            if self._far and not part.over:
                # The reader is faster than the parts come, and they would come faster side by side.
                self._ahead = min(self._ahead + 1, _FARTHER * self.verb.bucket.options.parallel_parts)
                self._fill()
            while not part.pieces and not part.over:
                self._check_reading()
                self._news.wait()
            if part.pieces:
                return part.pieces.popleft()
        if part.error is not None:
            raise part.error
        return b""

    def _read_ahead(self, part: Part) -> None:
        with self._lock:
            if part.begun:
                return
            part.begun = True
        try:
            while len(piece := part.read()):
                with self._lock:
                    part.pieces.append(piece)
                    self._news.notify()
        except BaseException as error:  # noqa: BLE001 - raised where the part is wanted
            part.error = error
            part.drop()
        with self._lock:
            part.over = True
            self._latency = min(self._latency, part.latency_seconds)
            self._far = part.content_seconds < _HIDDEN * self._latency
            self._news.notify()

    def _stop(self) -> None:
        """End what waits for the server, or for a part."""
        self._wire.stop()
        with self._lock:
            self._news.notify_all()

    def _end(self) -> None:
        if self._pending:
            self._stop()
        for part in self._pending:
            if part.mine and not part.busy:
                part.drop()

    def request(self, part: Part) -> Exchange:
        """The answer to a GET of what is left of ``part``, checked against the first one's."""
        first = self._meta is None
        asked = {}
        if part.end is not None:
            asked["range"] = f"bytes={part.position}-{part.end - 1}"
        elif part.position:
            asked["range"] = f"bytes={part.position}-"
        try:
            exchange = self._get(part, asked)
        except StoreError as error:
            if error.http_status == 416 and first:
                return self._empty(part)
            if error.http_status == 416 or (not first and isinstance(error, ObjectNotFound)):
                raise self._changed() from error
            raise
        try:
            size = self._size(part, exchange)
            self._pin(meta.of_headers(self.verb.key, exchange.headers))
        except BaseException:
            exchange.drop()
            raise
        if part.end is None or (size is not None and size < part.end):
            part.end = size
        return exchange

    def _condition(self) -> str | None:
        """The ETag that the next request insists on: that of the first answer, where it names the bytes."""
        if self._meta is not None and self._meta.strong:
            return self._meta.etag
        return self._if_match

    def _pin(self, now: ObjectMeta) -> None:
        if self._meta is None:
            self.verb.check_object(now)
        super()._pin(now)

    def _get(self, part: Part, asked: dict[str, str]) -> Exchange:
        condition = self._condition()
        if condition is not None:
            asked["if-match"] = condition
        self._responses += 1
        part.keys = self.verb.bucket.keys(self.verb.cancel)
        head = self.verb.request("GetObject", "GET", keys=part.keys, asked=asked)
        return Exchange(self.verb, self._wire, "GET", head)

    def _size(self, part: Part, exchange: Exchange) -> int | None:
        """The whole object's size, from an answer that begins where ``part`` stands."""
        told, length = exchange.headers.get("content-range"), exchange.headers.get("content-length")
        # By the header, not the status: some servers send the right bytes as a 200.
        if told is None:
            if part.position:
                raise self.verb.failed(NotSupported, "the server does not answer ranges")
            part.end = None  # all of it comes
            return None if length is None else int(length)
        found = _RANGE.fullmatch(told)
        if found is None:
            raise self.verb.not_s3(": its range cannot be read")
        begins, last, size = map(int, found.groups())
        within = begins == part.position <= last < size and (part.end is None or last < part.end)
        if not within or (length is not None and int(length) != last + 1 - begins):
            raise self.verb.not_s3(": it is not the range that was asked for")
        return size

    def _empty(self, part: Part) -> Exchange:
        """Nothing lies where ``part`` begins: fine where that is the object's end. A plain GET of it tells."""
        exchange = self._get(part, {})
        size = int(exchange.headers.get("content-length", "0"))
        if size:
            exchange.drop()
        if size < part.position:
            raise self._beyond(size)
        if size > part.position:
            # It grew between the two requests; the next try reads what is there now.
            raise self.verb.failed(StoreUnavailable, "the object is being replaced", retryable=True)
        self._pin(meta.of_headers(self.verb.key, exchange.headers))
        part.end = part.position
        return exchange
