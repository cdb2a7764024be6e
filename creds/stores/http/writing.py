"""Writing one object: to a name beside it, then a MOVE; or one PUT where the server, or a signature, allows no more."""

from __future__ import annotations

import concurrent.futures
import secrets
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import IO, TypeVar

from creds.errors import (
    AccessDenied,
    NotSupported,
    ObjectChanged,
    ObjectNotFound,
    StoreError,
    StoreUnavailable,
)
from creds.store import Buffer, Cancel, ObjectMeta, OnRetry, Retries
from creds.stores.http.errors import failed
from creds.stores.http.reading import head, is_strong, meta_of
from creds.stores.http.transport import Login, finish
from creds.stores.http.tree import Tree
from creds.stores.url import Url
from creds.stores.wire import STOP_SECONDS, Wire, on, spawn

T = TypeVar("T")

_STORED = (200, 201, 202, 204)
_ONCE = Retries(attempts=1)
_CLEANING = Retries(attempts=8, for_seconds=10.0)  # a server may hold the file for a while
_CLEANING_SECONDS = 10.0
_SETTLING_SECONDS = (0.1, 0.4, 1.5)  # a server may make the file only after it was told to remove it


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What :meth:`creds.store.Store.write` was asked for."""

    key: str
    if_match: str | None
    if_none_match: bool
    content_type: str | None
    on_retry: OnRetry | None
    cancel: Cancel = field(default_factory=Cancel)

    @property
    def conditional(self) -> bool:
        return self.if_match is not None or self.if_none_match


class _Source:
    """The caller's buffers: the first of them in memory, all of them as a request's body."""

    def __init__(self, buffers: Iterable[Buffer], check: Callable[[], None]) -> None:
        self._iterator = iter(buffers)
        self._stopped = check
        self._held: list[Buffer] = []
        self.size_bytes = 0
        self.ended = False
        self._failure: BaseException | None = None

    def _next(self) -> Buffer | None:
        self._stopped()
        for buffer in self._iterator:
            view = memoryview(buffer).cast("B")
            self.size_bytes += len(view)
            return view
        self._stopped()
        self.ended = True
        return None

    def hold(self, count: int) -> None:
        """Take buffers until there are more than ``count`` bytes, or no more buffers."""
        while self.size_bytes <= count and (buffer := self._next()) is not None:
            self._held.append(buffer)

    def whole(self) -> Buffer:
        """All the content, once it has ended."""
        return self._held[0] if len(self._held) == 1 else b"".join(self._held)

    def __iter__(self) -> Iterator[Buffer]:
        """All buffers, up to the first failure, which :meth:`check` raises.

        Not raised here: urllib3 could take it for its own. And a body that ends in order, though too early, is an
        unfinished file that is there when it is to be removed.
        """
        yield from self._held
        self._held.clear()
        try:
            while not self.ended and (buffer := self._next()) is not None:
                yield buffer
        except GeneratorExit:
            raise
        except BaseException as error:  # noqa: BLE001 - raised by check(), outside of urllib3
            self._failure = error

    def check(self) -> None:
        """Raise what the buffers raised while they were sent."""
        if self._failure is not None:
            raise self._failure


class Upload:
    """One write: published only when complete, and nothing of it stays otherwise."""

    def __init__(self, tree: Tree, wanted: Wanted) -> None:
        self._tree = tree
        self._transport = tree.transport
        self._wanted = wanted
        self._cancel = wanted.cancel
        self._key = wanted.key
        self._where = tree.where(wanted.key)
        self._url = tree.url("write", wanted.key)
        folder, slash, name = wanted.key.rpartition("/")
        self._scratch = f"{folder}{slash}.{_shortened(name)}.partial-{secrets.token_hex(8)}"
        self._described = {} if wanted.content_type is None else {"Content-Type": wanted.content_type}
        if not (wanted.content_type or "").isprintable() or not (wanted.content_type or "").isascii():
            raise self._failed(StoreError, "the content type holds a character that no header may hold")
        self._cut = False
        self._moves = 0
        self._overwrite = not wanted.if_none_match

    def run(self, buffers: Iterable[Buffer], held_bytes: int) -> ObjectMeta:
        """Write ``buffers``; an object of up to ``held_bytes`` is sent again when sending it fails."""
        self._cancel.check()
        source = _Source(buffers, self._cancel.check)
        if self._wanted.conditional:
            self._compare()
        source.hold(held_bytes)
        if self._tree.base.query or not self._call(self._prepared):
            return self._put_once(source)
        try:
            self._put(source)
            if self._wanted.if_match is not None:
                self._compare()
            self._call(lambda login: self._move(login, source.size_bytes))
        except BaseException as error:
            self._clean(quick=self._cancel.cancelled or not isinstance(error, Exception))
            raise
        return self._meta(source.size_bytes)

    def _call(self, work: Callable[[Login], T], retries: Retries | None = None) -> T:
        return self._transport.call("write", work, cancel=self._cancel, on_retry=self._wanted.on_retry, retries=retries)

    def _head(self, login: Login) -> ObjectMeta:
        return head(self._transport, "write", self._key, self._url, self._where, login)

    def _failed(self, kind: type[StoreError], said: str, hint: str | None = None) -> StoreError:
        return failed(kind, "write", self._where, said, hint=hint)

    def _prepared(self, login: Login) -> bool:
        """Make the folders above. False where the server speaks no WebDAV, but has PUT."""
        try:
            entry = self._tree.entry("write", self._key, login)
        except NotSupported:
            if "PUT" in self._tree.methods("write", self._key, login):
                return False
            hint = "uploads need WebDAV, or a URL that is presigned for PUT"
            raise self._failed(NotSupported, "the server takes no uploads", hint) from None
        if entry is None:
            self._tree.make_folders("write", self._key, login)
            self._overwrite = False
        elif entry.folder:
            # A MOVE would put the file in place of the folder and all that is in it.
            raise self._failed(AccessDenied, "a folder has this name")
        return True

    def _compare(self) -> None:
        """Hold the conditions as well as can be done from here."""
        if self._tree.base.query:
            return  # signed for PUT alone: only the server can tell
        wanted = self._wanted
        try:
            etag = self._call(
                lambda login: head(self._transport, "write", self._key, self._url, self._where, login)
            ).etag
        except ObjectNotFound:
            if wanted.if_match is not None:
                raise self._failed(ObjectChanged, "the object is gone") from None
            return
        if wanted.if_none_match:
            raise self._failed(ObjectChanged, "the object exists already")
        if etag != wanted.if_match:
            raise self._failed(ObjectChanged, "not the expected object")

    # WebDAV: beside the target, then over it.

    def _put(self, source: _Source) -> None:
        url = self._tree.url("write", self._scratch)
        self._cut = True
        if source.ended:
            content = source.whole()
            self._call(lambda login: self._sent(url, content, {}, login))
            self._cut = False
            return
        self._stream(source, url)
        # Some servers store nothing of a body that comes in chunks, and call it created.
        size = self._call(lambda login: head(self._transport, "write", self._key, url, self._where, login)).size_bytes
        if size != source.size_bytes:
            raise self._failed(StoreError, f"the server stored {size} of {source.size_bytes} bytes")

    def _sent(self, url: Url, body: Buffer | Iterable[Buffer], headers: dict[str, str], login: Login) -> ObjectMeta:
        answer = self._transport.ask(
            *("write", self._where, "PUT", url, login),
            headers={**self._described, **headers},
            body=body,
            accepted=_STORED,
        )
        finish(answer)
        return meta_of(self._key, answer)

    def _stream(self, source: _Source, url: Url) -> None:
        """Send what cannot be sent twice, in this thread: the buffers are the caller's."""
        wire = Wire()
        try:
            with self._cancel.calling(wire.stop), on(wire):
                self._sent(url, source, {}, self._transport.login())
        except StoreError:
            source.check()
            self._cancel.check()
            raise
        self._cut = False
        source.check()
        if not source.ended:
            raise self._failed(StoreUnavailable, "the server answered before it had everything")

    def _move(self, login: Login, size: int) -> None:
        self._moves += 1
        headers = {
            "Destination": f"{self._url.origin}{self._url.path}",
            # What was not there is not overwritten: a server that misreads the name would overwrite something else.
            "Overwrite": "T" if self._overwrite else "F",
        }
        scratch = self._tree.url("write", self._scratch)
        try:
            answer = self._transport.ask(
                *("write", self._where, "MOVE", scratch, login), headers=headers, accepted=(200, 201, 204)
            )
        except (ObjectNotFound, ObjectChanged) as error:
            if self._moves > 1 and self._moved(login, size):
                return  # the answer to an earlier try was lost
            if self._overwrite or isinstance(error, ObjectNotFound):
                raise
            if self._wanted.if_none_match:
                raise self._failed(ObjectChanged, "the object exists already") from error
            if self._tree.entry("write", self._key, login) is None:
                raise self._misread() from error
            self._overwrite = True  # somebody else wrote it meanwhile
            self._move(login, size)
        else:
            finish(answer)

    def _misread(self) -> StoreError:
        return self._failed(
            StoreError, "the server reads another name than was meant", "it cannot move to names with such characters"
        )

    def _moved(self, login: Login, size: int) -> bool:
        if self._tree.entry("write", self._scratch, login) is not None:
            return False
        entry = self._tree.entry("write", self._key, login)
        return entry is not None and entry.size_bytes == size

    def _meta(self, size: int) -> ObjectMeta:
        """What was published: its ETag, unless another object is there already."""
        try:
            found = self._call(self._head)
        except ObjectNotFound as error:
            raise self._misread() from error
        except StoreError:
            return ObjectMeta(key=self._key, size_bytes=size)  # the object is there whatever this request says
        return found if found.size_bytes == size else ObjectMeta(key=self._key, size_bytes=size)

    def _clean(self, *, quick: bool) -> None:
        """Remove the unfinished file, as well as can be done: the failure that led here is what the caller hears of."""
        future = spawn(self._remove, None)
        concurrent.futures.wait((future,), timeout=STOP_SECONDS if quick else _CLEANING_SECONDS)

    def _remove(self) -> None:
        url = self._tree.url("write", self._scratch)
        accepted = (200, 202, 204, 404, 410)

        def remove(login: Login) -> bool:
            answer = self._transport.ask("write", self._where, "DELETE", url, login, accepted=accepted)
            finish(answer)
            return answer.status not in (404, 410)

        for wait in (0.0, *(_SETTLING_SECONDS if self._cut else ())):
            time.sleep(wait)
            if self._transport.call("write", remove, retries=_CLEANING):
                return

    # One PUT.

    def _put_once(self, source: _Source) -> ObjectMeta:
        """PUT the object under its own name, with its length, as presigned URLs want it.

        What is larger than memory should hold is gathered in a temporary file first, so that a source which fails has
        sent nothing, and a broken request can be sent again.
        """
        headers = {}
        if self._wanted.if_none_match:
            headers["If-None-Match"] = "*"
        if self._wanted.if_match is not None:
            if not is_strong(self._wanted.if_match):
                raise self._failed(ObjectChanged, "not the expected object")  # no server may find it to match
            headers["If-Match"] = self._wanted.if_match
        # With a condition the answer to a second try would be about the first.
        retries = _ONCE if headers else None
        if source.ended:
            content = source.whole()
            found = self._call(lambda login: self._sent(self._url, content, headers, login), retries)
        else:
            with tempfile.TemporaryFile(prefix="artifact-") as spool:
                self._gather(source, spool)
                headers["Content-Length"] = str(source.size_bytes)

                def send(login: Login) -> ObjectMeta:
                    spool.seek(0)
                    return self._sent(self._url, iter(lambda: spool.read(1 << 20), b""), headers, login)

                found = self._call(send, retries)
        if found.etag is None and not self._tree.base.query:
            return self._meta(source.size_bytes)
        return ObjectMeta(key=self._key, size_bytes=source.size_bytes, etag=found.etag)

    def _gather(self, source: _Source, spool: IO[bytes]) -> None:
        for buffer in source:
            try:
                spool.write(buffer)
            except OSError as error:
                hint = "set TMPDIR to a folder with room for the whole object"
                raise self._failed(StoreError, f"the temporary file: {error.strerror}", hint) from error
        source.check()


def _shortened(name: str) -> str:
    """A name short enough to get more around it: file systems hold 255 bytes."""
    return name.encode("utf-8", "surrogateescape")[:200].decode("utf-8", "ignore")
