"""Reading by obstore: parts of the object side by side."""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
from collections import deque
from concurrent.futures import CancelledError
from typing import Any, NoReturn

from creds import retry
from creds.errors import ObjectNotFound, StoreError, StoreUnavailable, ToolkitError, Unauthenticated
from creds.store import Buffer, ObjectMeta
from creds.stores.s3 import meta
from creds.stores.s3.bucket import Reader
from creds.stores.s3.errors import cause_of, error_of, from_obstore, is_unranged
from creds.stores.s3.loop import Call, owed, wait
from creds.stores.s3.reading import S3Reading
from creds.stores.s3.verb import Verb
from creds.stores.wire import spawn

_SMALL_BYTES = 256 << 10  # an object this small is told of when it is here: waking its reader twice would cost more
_FARTHER = 4  # so many times the usual parts are ahead where the server is far away
_HIDDEN = 8  # a wait for headers this much shorter than the content's own time costs too little to do more about


class Unranged(StoreError):
    """The server answers a ranged GET in a way obstore refuses and one stream can still be read from."""


def is_plain(key: str) -> bool:
    """Can obstore be trusted with this key? It refuses or rewrites empty and dot segments and control characters."""
    return all(part not in {"", ".", ".."} for part in key.split("/")) and not any(c < " " or c == "\x7f" for c in key)


class Ranges(S3Reading):
    """Parts of the object, each a ranged GET with ``If-Match``, some ahead of the one that is wanted.

    :meth:`begin` raises :class:`Unranged` where a :class:`~creds.stores.s3.stream.Stream` may do better.
    """

    def __init__(self, verb: Verb, start: int, if_match: str | None) -> None:
        super().__init__(verb, start, if_match)
        self._part = self._share.part_bytes(verb.bucket.options.part_bytes)  # the first one's size
        self._next = start  # where the next part to ask for begins
        self._pending: deque[tuple[int, Call[Any]]] = deque()
        self._ahead = verb.bucket.options.parallel_parts
        self._latency = math.inf  # the shortest wait for headers: what is longer is load, here or there
        self._far = False  # the last part's content came too fast to hide a latency like that
        self._handed = 0  # bytes of the buffer handed out last: counted until the next one is asked for
        self._stack.callback(self._stop)

    @property
    def pinned(self) -> str:
        if self.meta.size_bytes is not None and self.meta.size_bytes - self._start <= self._part:
            return "etag" if self._if_match is not None and self.meta.strong else "none"
        return "etag" if self.meta.strong else "weak"

    def _begin(self) -> None:
        """Send the first GET and wait for its headers: they carry size and ETag, so no HEAD is needed."""
        if self._verb.cancel is not None:
            self._verb.cancel.check()
            self._stack.enter_context(self._verb.cancel.calling(self._stop))
        self._loop = self._verb.bucket.loop()
        known = threading.Lock()
        known.acquire()
        self._share.take(self._part)
        first = self._submit(self._part, self._verb.bucket.reader(self._verb.cancel), known)
        with contextlib.suppress(CancelledError):  # the store was closed, as the result will say
            wait(known, self._loop)
        if self._meta is None:
            self._result(first)
        count = max(0, min(self._part, self._size - self._next))
        self._share.give(self._part - count)
        self._pending[0] = (count, first)
        self._next += count

    def __next__(self) -> Buffer:
        # Here, because the provider may take its time and the event loop has none.
        reader = self._verb.bucket.reader(self._verb.cancel)
        with self._lock:
            self._check_open()
            self._share.give(self._handed)
            self._handed = 0
            self._fill(reader)
            if not self._pending:
                raise StopIteration
            count, call = self._pending[0]
            if self._far and not call.over:
                # The reader is faster than the parts come, and they would come faster side by side.
                self._ahead = min(self._ahead + 1, _FARTHER * self._verb.bucket.options.parallel_parts)
                self._fill(reader)
        content = self._result(call)
        with self._lock:
            self._check_open()
            self._pending.popleft()
            self._handed = count
            self._fill(reader)
        if not count:
            raise StopIteration
        return memoryview(content).cast("B")

    @property
    def _size(self) -> int:
        assert self.meta.size_bytes is not None  # obstore does not return without it
        return self.meta.size_bytes

    def _fill(self, reader: Reader) -> None:
        """Ask for as many parts ahead as may be; the one that is wanted next always may."""
        while self._next < self._size and len(self._pending) < self._ahead:
            most = self._share.part_bytes(self._verb.bucket.options.part_bytes)
            count = min(most, self._size - self._next)
            if not self._pending and not self._handed:
                self._share.take(count)
            elif not self._share.try_take(count):
                return
            self._submit(count, reader)
            self._next += count

    def _submit(self, count: int, reader: Reader, known: threading.Lock | None = None) -> Call[Any]:
        try:
            call = Call(self._get(self._next, count, reader, known), self._loop, known)
        except RuntimeError:
            # The store was closed meanwhile, and its loop with it.
            raise self._was_closed() from None
        self._pending.append((count, call))
        return call

    def _result(self, call: Call[Any]) -> Any:
        try:
            return call.result()
        except CancelledError:
            if self._verb.cancel is not None:
                self._verb.cancel.check()
            raise self._was_closed() from None

    def _stop(self) -> None:
        with self._lock:
            for _, call in self._pending:
                call.cancel()

    # On the event loop.

    async def _get(self, start: int, count: int, reader: Reader, known: threading.Lock | None) -> Any:
        """One part, whole. ``known`` is released when the first headers are here, unless the rest is soon."""

        async def refreshed(error: ToolkitError) -> bool:
            nonlocal reader
            if reader.refresh is None or not isinstance(error, Unauthenticated):
                return False
            refresh, bucket = reader.refresh, self._verb.bucket
            # A thread that nobody has to wait for: closing the store does not.
            renewing = spawn(lambda: bucket.reader() if refresh(error) else None, None)
            renewed = await asyncio.wrap_future(renewing)
            if renewed is not None:
                reader = renewed
            return renewed is not None

        from obstore.exceptions import BaseError

        async def attempt() -> Any:
            asked = time.monotonic()
            result = await self._request(reader.engine, start, count)
            if result is None:
                return b""
            begun = time.monotonic()
            if known is not None and self._size > _SMALL_BYTES and known.locked():
                known.release()
            try:
                content = await owed(result.bytes_async())
            except (BaseError, OSError) as error:
                self._explain(error)
            if len(content) != min(count, self._size - start):
                raise self._verb.failed(StoreUnavailable, "the answer was cut short")
            self._latency = min(self._latency, begun - asked)
            self._far = time.monotonic() - begun < _HIDDEN * self._latency
            return content

        return await retry.run_async(attempt, self._verb.schedule(), refresh=refreshed)

    async def _request(self, engine: Any, start: int, count: int) -> Any:
        """The response to one ranged GET, checked against the first one's; None when there is nothing to read."""
        first = self._meta is None
        try:
            result, now = await self._send(engine, range=(start, start + count))
        except StoreError as error:
            if error.http_status == 416 and first:
                return await self._empty(engine)
            if error.http_status == 416 or (not first and isinstance(error, ObjectNotFound)):
                raise self._changed() from error
            raise
        self._pin(now)
        return result

    async def _empty(self, engine: Any) -> None:
        """Nothing lies at ``start``: fine where that is the object's end. A plain GET of what may be empty tells."""
        _, now = await self._send(engine)
        size = now.size_bytes or 0
        if size < self._start:
            raise self._beyond(size)
        if size > self._start:
            # It grew between the two requests; the next try reads what is there now.
            raise self._verb.failed(StoreUnavailable, "the object is being replaced")
        self._pin(now)

    async def _send(self, engine: Any, **options: Any) -> tuple[Any, ObjectMeta]:
        import obstore
        from obstore.exceptions import BaseError

        condition = self._condition()
        if condition is not None:
            options["if_match"] = condition
        try:
            result = await owed(obstore.get_async(engine, self._verb.key, options=options))  # type: ignore[arg-type]  # a TypedDict made in steps
        except (BaseError, OSError) as error:
            self._explain(error)
        return result, meta.of_obstore(self._verb.key, result.meta)

    def _explain(self, error: Exception) -> NoReturn:
        """Raise what obstore raised as one of this toolkit's errors."""
        if self._meta is None and is_unranged(error):
            raise Unranged("not a ranged answer") from None
        answer = from_obstore(error, self._verb.key)
        raise error_of(answer, "open", self._verb.where) from cause_of(error, answer)
