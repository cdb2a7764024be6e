"""For the tests of those who use this toolkit: a store in memory, a proxy that breaks things, an issuer, a clock.

Nothing here is patched into place. A :class:`MemoryStore` is passed where a store is wanted; a :class:`FaultProxy`
stands before a real server, and its address is given as the endpoint::

    with FaultProxy(("127.0.0.1", 9000)) as proxy:
        proxy.add(Fault(match="^GET", down_cut_bytes=700_000))
        store = open_store(Location.parse(f"s3+{proxy.url}/bucket/key"), ...)
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import re
import select
import socket
import struct
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from creds.errors import NotSupported, ObjectChanged, ObjectNotFound
from creds.store import Buffer, Cancel, ObjectMeta, OnRetry


class FakeClock:
    """Seconds since 1970 that stand still until they are moved: for whatever takes a ``clock``.

    Args:
        now: what it shows at first.
    """

    def __init__(self, now: float = 1_000_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Move it."""
        self.now += seconds


class OidcIssuer:
    """An issuer of tokens on loopback, as CI systems and clusters have them: discovery, published keys, ``POST /mint``.

    Needs ``pyjwt[crypto]``, which this toolkit depends on. Each key has a name (``kid``), which some servers insist on.

    Args:
        port: where it listens; 0 takes a free one.

    Attributes:
        url: the ``iss`` of its tokens.
        requests: the paths that were asked for, in order.
        key: the private key that signs.
    """

    def __init__(self, port: int = 0) -> None:
        self.requests: list[str] = []
        self.rotate("k1")
        issuer = self

        class Answers(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.requests.append(self.path)
                documents = {"/.well-known/openid-configuration": issuer.configuration, "/jwks": issuer.jwks}
                document = documents.get(self.path)
                if document is None:
                    self.send_error(404)
                else:
                    self._answer(document())

            def do_POST(self) -> None:
                issuer.requests.append(self.path)
                claims = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
                self._answer({"token": issuer.mint(**claims)})

            def _answer(self, document: object) -> None:
                body = json.dumps(document).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Say nothing: a test's output is its own."""

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Answers)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.02,), name="oidc-issuer", daemon=True
        )
        self._thread.start()

    @property
    def jwks_url(self) -> str:
        """Where its keys are published."""
        return f"{self.url}/jwks"

    def rotate(self, kid: str) -> None:
        """Sign with a new key of this name, and publish it instead of the old one."""
        from cryptography.hazmat.primitives.asymmetric import rsa

        self.kid = kid
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)

    def configuration(self) -> dict[str, object]:
        """The discovery document."""
        return {
            "issuer": self.url,
            "jwks_uri": self.jwks_url,
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
        }

    def jwks(self) -> dict[str, object]:
        """The published keys."""
        from jwt.algorithms import RSAAlgorithm

        key = json.loads(RSAAlgorithm.to_jwk(self.key.public_key()))
        return {"keys": [{**key, "kid": self.kid, "use": "sig", "alg": "RS256"}]}

    def mint(
        self,
        sub: str = "repo:acme/app:ref:main",
        aud: str | list[str] = "artifacts-aud",
        *,
        ttl_seconds: float = 600,
        key: Any = None,
        algorithm: str = "RS256",
        headers: Mapping[str, object] | None = None,
        **claims: object,
    ) -> str:
        """A signed token.

        Args:
            sub, aud: whom it speaks for, and to whom.
            ttl_seconds: until it ends, from now; negative makes one that has ended.
            key: signs instead of the issuer's own.
            algorithm: ``none`` leaves the signature out.
            headers: more of the header; ``kid`` is the issuer's otherwise.
            claims: more claims, or others.
        """
        import jwt

        now = int(time.time())
        content = {
            "iss": self.url,
            "sub": sub,
            "aud": aud,
            "iat": now,
            "exp": now + ttl_seconds,
            "jti": uuid.uuid4().hex,
        }
        signer: Any = "" if algorithm == "none" else key or self.key
        return jwt.encode({**content, **claims}, signer, algorithm, {"kid": self.kid, **(headers or {})})

    def close(self) -> None:
        """Stop listening; a second call does nothing."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


SLOW_DOWN = (
    b'<?xml version="1.0" encoding="UTF-8"?>\n'
    b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message><RequestId>1</RequestId></Error>"
)


@dataclass(frozen=True, slots=True)
class _Object:
    content: bytes
    meta: ObjectMeta


class MemoryStore:
    """A whole store in this process's memory: conditions, ETags, errors and order as S3 has them.

    Args:
        objects: what it holds at first, key to content.
        part_bytes: the size of the buffers a reading yields.
        enforces_conditions: False makes it a weak server: conditions are looked at before a write's first buffer, and
            another writer after that is not noticed.
        before: called with the verb and the key at the start of each verb, and with ``read`` before each buffer of a
            reading. What it raises is raised; it may also change the store, sleep or count.
        location: how errors name it.
    """

    def __init__(
        self,
        objects: Mapping[str, bytes] | None = None,
        *,
        part_bytes: int = 8 << 20,
        enforces_conditions: bool = True,
        before: Callable[[str, str], None] | None = None,
        location: str = "memory://store",
    ) -> None:
        self.enforces_conditions = enforces_conditions
        self._part_bytes = part_bytes
        self._before = before or (lambda _verb, _key: None)
        self._location = location
        self._lock = threading.Lock()
        self._objects: dict[str, _Object] = {}
        for key, content in (objects or {}).items():
            self._put(key, content, None, if_none_match=False)

    @property
    def client(self) -> Any:
        """None: there is no SDK behind it."""
        return None

    @property
    def objects(self) -> dict[str, bytes]:
        """A copy of what it holds, key to content."""
        with self._lock:
            return {key: held.content for key, held in self._objects.items()}

    def open(
        self,
        key: str,
        *,
        start: int = 0,
        if_match: str | None = None,
        cancel: Cancel | None = None,
        on_retry: OnRetry | None = None,  # noqa: ARG002 - nothing is repeated
    ) -> _MemoryReading:
        held = self._held("open", key, cancel)
        if if_match is not None and held.meta.etag != if_match:
            raise self._changed("open", key, "not the expected object")
        if start > len(held.content):
            raise self._changed("open", key, f"cannot start at byte {start} of {len(held.content)}")
        return _MemoryReading(self, key, held, start, self._part_bytes, cancel)

    def write(
        self,
        key: str,
        buffers: Iterable[Buffer],
        *,
        size_hint_bytes: int | None = None,  # noqa: ARG002 - bytes grow as they come
        if_match: str | None = None,
        if_none_match: bool = False,
        content_type: str | None = None,  # noqa: ARG002 - nothing here reads it back
        metadata: Mapping[str, str] | None = None,  # noqa: ARG002 - as above
        cancel: Cancel | None = None,
        on_retry: OnRetry | None = None,  # noqa: ARG002 - nothing is repeated
    ) -> ObjectMeta:
        self._begin("write", key, cancel)
        if not self.enforces_conditions:
            with self._lock:
                self._compare(key, if_match, if_none_match=if_none_match)
        content = bytearray()
        for buffer in buffers:
            if cancel is not None:
                cancel.check()
            content += buffer
        if cancel is not None:
            cancel.check()
        if not self.enforces_conditions:
            if_match, if_none_match = None, False
        return self._put(key, bytes(content), if_match, if_none_match=if_none_match)

    def head(self, key: str, *, checksums: bool = False, cancel: Cancel | None = None) -> ObjectMeta:
        held = self._held("head", key, cancel)
        if not checksums:
            return held.meta
        md5 = hashlib.md5(held.content, usedforsecurity=False).digest()
        return replace(held.meta, checksums={"md5": base64.b64encode(md5).decode()})

    def list(self, prefix: str = "", *, recursive: bool = True, cancel: Cancel | None = None) -> Iterator[ObjectMeta]:
        self._begin("list", prefix, cancel)
        with self._lock:
            found = [held.meta for key, held in self._objects.items() if key.startswith(prefix)]
        if not recursive:
            found = list({meta.key: meta for meta in (_level(meta, len(prefix)) for meta in found)}.values())
        yield from sorted(found, key=lambda meta: meta.key.encode("utf-8", "surrogatepass"))

    def delete(self, key: str, *, cancel: Cancel | None = None) -> None:
        self._begin("delete", key, cancel)
        with self._lock:
            self._objects.pop(key, None)

    def sign(self, key: str, method: str = "GET", *, expires_seconds: int = 3600) -> str:  # noqa: ARG002 - refused
        """Always NotSupported: nothing serves memory by URL."""
        where = f"{self._location}/{key}"
        raise NotSupported(f"sign {where}: memory has no signed URL", op="sign", location=where)

    def close(self) -> None:
        """Nothing to close; what it holds stays, so that a test can look."""

    def current(self, key: str) -> ObjectMeta | None:
        """What ``key`` is at this moment, without calling ``before``; None when it is absent."""
        with self._lock:
            held = self._objects.get(key)
        return held.meta if held is not None else None

    def reading(self, key: str) -> None:
        """Tell ``before`` that a buffer of ``key`` is about to be read."""
        self._before("read", key)

    def _begin(self, verb: str, key: str, cancel: Cancel | None) -> None:
        if cancel is not None:
            cancel.check()
        self._before(verb, key)

    def _held(self, verb: str, key: str, cancel: Cancel | None) -> _Object:
        self._begin(verb, key, cancel)
        with self._lock:
            held = self._objects.get(key)
        if held is None:
            where = f"{self._location}/{key}"
            raise ObjectNotFound(f"{verb} {where}: no such key", op=verb, location=where)
        return held

    def _put(self, key: str, content: bytes, if_match: str | None, *, if_none_match: bool) -> ObjectMeta:
        etag = f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'
        meta = ObjectMeta(key=key, size_bytes=len(content), etag=etag, modified=datetime.now(UTC))
        with self._lock:
            self._compare(key, if_match, if_none_match=if_none_match)
            self._objects[key] = _Object(content, meta)
        return meta

    def _compare(self, key: str, if_match: str | None, *, if_none_match: bool) -> None:
        held = self._objects.get(key)
        if if_none_match and held is not None:
            raise self._changed("write", key, "the object exists already")
        if if_match is not None and (held is None or held.meta.etag != if_match):
            raise self._changed("write", key, "not the expected object")

    def _changed(self, op: str, key: str, said: str) -> ObjectChanged:
        where = f"{self._location}/{key}"
        return ObjectChanged(f"{op} {where}: {said}", op=op, location=where)


def _level(meta: ObjectMeta, start: int) -> ObjectMeta:
    """An object as a listing of one level tells it: itself, or the folder that it lies in."""
    end = meta.key.find("/", start)
    return meta if end < 0 else ObjectMeta(key=meta.key[: end + 1])


class _MemoryReading:
    """Parts of one generation of an object; a newer one is noticed before each part."""

    def __init__(
        self, store: MemoryStore, key: str, held: _Object, start: int, part_bytes: int, cancel: Cancel | None
    ) -> None:
        self.meta = held.meta
        self.pinned = "etag" if len(held.content) - start > part_bytes else "none"
        self._store = store
        self._key = key
        self._rest = memoryview(held.content)[start:]
        self._part_bytes = part_bytes
        self._cancel = cancel
        self._first = True

    def __iter__(self) -> Iterator[Buffer]:
        return self

    def __next__(self) -> Buffer:
        if self._cancel is not None:
            self._cancel.check()
        if not len(self._rest):
            raise StopIteration
        self._store.reading(self._key)
        # As with a real store, the first part came with the answer that gave ``meta``.
        if not self._first and self._store.current(self._key) != self.meta:
            message = f"open {self._key}: the object changed while it was read"
            raise ObjectChanged(message, op="open", location=self._key)
        self._first = False
        part, self._rest = self._rest[: self._part_bytes], self._rest[self._part_bytes :]
        return part

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._rest = memoryview(b"")


@dataclass(slots=True, kw_only=True)
class Fault:
    """What a :class:`FaultProxy` does to the requests that match, as many times as it says.

    Attributes:
        match: a regular expression searched in the request line (``GET /bucket/key HTTP/1.1``).
        times: how many requests it is applied to.
        status: answer with this status without asking the server.
        body: the body of that answer.
        headers: more header lines of that answer, name to value.
        delay_seconds: wait before the request is passed on.
        up_cut_bytes: break the connection when this much of the request's body was passed on.
        down_cut_bytes: break it when this much of the answer's body was.
        lose_answer: let the server do it, and break the connection instead of passing on the answer.
        down_corrupt_at: flip the bits of the answer's byte at this offset.
        down_bytes_per_second: pass the answer on no faster.
        hook: called when the request begins, on another thread.
        mid_hook: an offset and what is called there, on another thread, before more of the answer is passed on.
    """

    match: str = ""
    times: int = 1
    status: int | None = None
    body: bytes = SLOW_DOWN
    headers: Mapping[str, str] | None = None
    delay_seconds: float = 0.0
    up_cut_bytes: int | None = None
    down_cut_bytes: int | None = None
    lose_answer: bool = False
    down_corrupt_at: int | None = None
    down_bytes_per_second: int | None = None
    hook: Callable[[], object] | None = None
    mid_hook: tuple[int, Callable[[], object]] | None = None


_NO_FAULT = Fault(times=0)


class FaultProxy:
    """A proxy on loopback, in a thread of its own, that passes requests on and breaks those that faults match.

    Each request gets a connection of its own, so that a fault is about one request. The Host header is passed on as it
    came, so that signatures stay valid. Every offset counts after the HTTP head.

    Args:
        upstream: host and port of the real server.

    Attributes:
        requests: the request lines so far, in order.
        answered_bytes: of the answers' bodies that were passed on so far.
    """

    def __init__(self, upstream: tuple[str, int]) -> None:
        self._upstream = upstream
        self._faults: list[Fault] = []
        self._open: set[asyncio.Task[None]] = set()
        self.requests: list[str] = []
        self.answered_bytes = 0
        self._loop = asyncio.new_event_loop()
        started: threading.Event = threading.Event()

        def run() -> None:
            self._server = self._loop.run_until_complete(asyncio.start_server(self._accepted, "127.0.0.1", 0))
            started.set()
            self._loop.run_forever()
            self._loop.run_until_complete(self._end())
            self._loop.close()

        self._thread = threading.Thread(target=run, name="fault-proxy", daemon=True)
        self._thread.start()
        started.wait()
        self.port: int = self._server.sockets[0].getsockname()[1]

    @property
    def url(self) -> str:
        """Where it listens, as an endpoint."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def open_connections(self) -> int:
        """How many clients are connected at this moment."""
        return len(self._open)

    def add(self, fault: Fault) -> Fault:
        """Apply ``fault`` to the next requests that match. Of several that match the first added goes first."""
        self._faults.append(fault)
        return fault

    def count(self, pattern: str) -> int:
        """How many requests so far match the regular expression."""
        return sum(1 for line in self.requests if re.search(pattern, line))

    def close(self) -> None:
        """Break what is open and stop listening."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def _end(self) -> None:
        self._server.close()
        # Again and again: what was accepted just before becomes a task just after.
        while tasks := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.01)  # what was closed last is gone only after a turn of the loop
        await self._loop.shutdown_default_executor()

    def _count(self, count: int) -> None:
        self.answered_bytes += count

    def _pick(self, line: str) -> Fault:
        for fault in self._faults:
            if fault.times > 0 and re.search(fault.match, line):
                fault.times -= 1
                return fault
        return _NO_FAULT

    def _accepted(self, client: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        task = self._loop.create_task(self._serve(client, back))
        self._open.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            self._open.discard(task)
            back.close()  # a task that is cancelled before its first step closes nothing itself

        task.add_done_callback(ended)

    async def _serve(self, client: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        writers = [back]
        try:
            await self._pass(client, back, writers)
        except (OSError, EOFError, TimeoutError, asyncio.CancelledError, asyncio.LimitOverrunError):
            pass  # either side went away, or the proxy is closed: broken connections are its business
        finally:
            # All are closed before anything is waited for: the wait may be cancelled.
            for writer in writers:
                writer.close()
            for writer in writers:
                with contextlib.suppress(OSError):
                    await writer.wait_closed()

    async def _pass(
        self, client: asyncio.StreamReader, back: asyncio.StreamWriter, writers: list[asyncio.StreamWriter]
    ) -> None:
        head = await client.readuntil(b"\r\n\r\n")
        line = head.split(b"\r\n", 1)[0].decode("latin-1")
        fault = self._pick(line)
        self.requests.append(line)
        if fault.hook is not None:
            await asyncio.to_thread(fault.hook)
        await _delay(fault.delay_seconds, back)
        if fault.status is not None:
            await _answer(fault, line, client, back)
            return
        connecting = asyncio.ensure_future(asyncio.open_connection(*self._upstream))
        try:
            server, on = await asyncio.shield(connecting)
        except asyncio.CancelledError:
            connecting.add_done_callback(_close_unwanted)  # or nobody would close it
            raise
        writers.append(on)
        on.write(re.sub(rb"\r\n(?i:connection):[^\r]*", b"", head)[:-2] + b"Connection: close\r\n\r\n")
        up = asyncio.create_task(_pump(client, on, _Flow(cut=fault.up_cut_bytes, ends=writers)))
        down = _Flow(
            cut=fault.down_cut_bytes,
            corrupt=fault.down_corrupt_at,
            rate=fault.down_bytes_per_second,
            mid=fault.mid_hook,
            passed=self._count,
            ends=writers,
        )
        answer = asyncio.create_task(_pump_answer(server, back, down, lose=fault.lose_answer))
        try:
            # The answer ends the exchange. A client that goes away ends it too, also while the answer is slow.
            await asyncio.wait((answer, up), return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                await answer
        finally:
            for task in (up, answer):
                task.cancel()
            await asyncio.gather(up, answer, return_exceptions=True)


@dataclass(slots=True, kw_only=True)
class _Flow:
    """What happens to one direction of an exchange."""

    ends: list[asyncio.StreamWriter]
    cut: int | None = None
    corrupt: int | None = None
    rate: int | None = None
    mid: tuple[int, Callable[[], object]] | None = None
    passed: Callable[[int], None] = lambda _: None


def _close_unwanted(connecting: asyncio.Future[tuple[asyncio.StreamReader, asyncio.StreamWriter]]) -> None:
    if not connecting.cancelled() and connecting.exception() is None:
        connecting.result()[1].close()


async def _delay(seconds: float, back: asyncio.StreamWriter) -> None:
    """Wait, but not for a client that went away meanwhile, also where bytes of it are still unread."""
    looks = select.poll()
    looks.register(back.get_extra_info("socket"), getattr(select, "POLLRDHUP", 0))
    ends = asyncio.get_running_loop().time() + seconds
    while (left := ends - asyncio.get_running_loop().time()) > 0:
        await asyncio.sleep(min(left, 0.05))
        if looks.poll(0):
            raise ConnectionAbortedError


async def _answer(fault: Fault, line: str, client: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
    body = b"" if line.startswith("HEAD") else fault.body
    more = "".join(f"{name}: {value}\r\n" for name, value in (fault.headers or {}).items())
    back.write(
        f"HTTP/1.1 {fault.status} Fault\r\nContent-Type: application/xml\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n{more}\r\n".encode()
        + body
    )
    await back.drain()
    back.write_eof()
    # What the client still sends is read away: closing on it would reset the connection and lose the answer.
    async with asyncio.timeout(2):
        while await client.read(1 << 20):
            pass


async def _pump_answer(server: asyncio.StreamReader, back: asyncio.StreamWriter, flow: _Flow, *, lose: bool) -> None:
    while True:
        head = await server.readuntil(b"\r\n\r\n")
        final = not head.startswith(b"HTTP/1.1 1")
        if final and lose:
            _reset(flow.ends)
            raise ConnectionAbortedError
        back.write(head)
        if final:
            break
    await _pump(server, back, flow)
    if back.can_write_eof():
        back.write_eof()


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter, flow: _Flow) -> None:
    passed = 0
    while chunk := await source.read(65536):
        end = passed + len(chunk)
        if flow.corrupt is not None and passed <= flow.corrupt < end:
            changed = bytearray(chunk)
            changed[flow.corrupt - passed] ^= 0xFF
            chunk = bytes(changed)
        if flow.cut is not None and end >= flow.cut:
            sink.write(chunk[: flow.cut - passed])
            await sink.drain()
            await asyncio.sleep(0.05)  # let it arrive: a reset throws away what is still on its way
            _reset(flow.ends)
            raise ConnectionAbortedError
        sink.write(chunk)
        await sink.drain()
        passed = end
        flow.passed(len(chunk))
        if flow.mid is not None and passed >= flow.mid[0]:
            hook, flow.mid = flow.mid[1], None
            await asyncio.to_thread(hook)
        if flow.rate is not None:
            await asyncio.sleep(len(chunk) / flow.rate)


def _reset(writers: Iterable[asyncio.StreamWriter]) -> None:
    """Break the connections as a crash would: with a reset, not an orderly end."""
    for writer in writers:
        bare = writer.get_extra_info("socket")
        with contextlib.suppress(OSError):
            bare.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
