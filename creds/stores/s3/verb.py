"""One verb on one key: its requests, with retries, and its errors."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from creds import retry
from creds.errors import StoreError, bare
from creds.store import Cancel, ObjectMeta, OnRetry, Retries
from creds.stores.s3 import meta
from creds.stores.s3.bucket import Bucket
from creds.stores.s3.documents import Document, NotS3
from creds.stores.s3.errors import HINT_NOT_S3, failed
from creds.stores.s3.parts import Part
from creds.stores.wire import Wire, current, stoppable

if TYPE_CHECKING:
    from creds.keys import AwsKeys
    from creds.secret import Secret

_NO_PARTS = (400, 405, 416, 501)
"""What servers answer that cannot tell of single parts."""

E = TypeVar("E", bound=StoreError)
T = TypeVar("T")


class Reply(NamedTuple):
    """A successful answer: its headers by lower-case name, and its whole body."""

    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Verb:
    """What the caller asked for, as far as all verbs have it; ``op`` is its name in errors and retries."""

    bucket: Bucket
    op: str
    key: str
    cancel: Cancel | None = None
    on_retry: OnRetry | None = None

    @property
    def where(self) -> str:
        """The key's masked location, as one printable line."""
        shown = (
            c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode("ascii") for c in self.key
        )
        return f"{self.bucket.location}/{''.join(shown)}"

    def failed(self, kind: type[E], said: str, **more: Any) -> E:
        """An error of this verb."""
        return failed(kind, self.op, self.where, said, **more)

    def call(self, work: Callable[[], T], retries: Retries | None = None) -> T:
        """Do idempotent ``work``, which makes one request, in this thread."""
        return retry.run(work, self.schedule(retries), cancel=self.cancel, refresh=self.refresher())

    def ask(
        self,
        operation: str,
        method: str,
        *,
        query: Mapping[str, str] | None = None,
        asked: Mapping[str, str] | None = None,
        body: Part | None = None,
        whole_bucket: bool = False,
        unread: bool = False,
    ) -> Reply:
        """Send one request, and read its answer.

        Args:
            operation: as S3's API reference calls it.
            asked: headers, by lower-case name.
            whole_bucket: it is about the bucket, and not the key.
            unread: the answer's headers are enough.

        Raises:
            StoreError: it was refused, or there is no answer.
            CredsError: the server may not be reached, or there are no keys.
        """
        from creds.stores.s3.exchange import Exchange

        head = self.request(operation, method, query=query, asked=asked, body=body, whole_bucket=whole_bucket)
        exchange = Exchange(self, current() or Wire(), method, head, body)
        if unread:
            exchange.end()
        return Reply(exchange.headers, exchange.rest())

    def request(
        self,
        operation: str,
        method: str,
        *,
        keys: AwsKeys | None = None,
        query: Mapping[str, str] | None = None,
        asked: Mapping[str, str] | None = None,
        body: Part | None = None,
        whole_bucket: bool = False,
    ) -> Secret:
        """The head of one request; see :meth:`ask`.

        Args:
            keys: what signs it; None is what the bucket has now.
        """
        key = None if whole_bucket else self.key
        if keys is None:
            keys = self.bucket.keys(self.cancel)
        try:
            return self.bucket.request(method, key, asked or {}, operation, keys, query=query, body=body)
        except ValueError as error:
            raise self.failed(StoreError, "not a request that S3 allows") from bare(error)

    def document(self, known_by: tuple[str, ...], *arguments: Any, **options: Any) -> Document:
        """As :meth:`ask`; the document that it is answered with.

        Raises:
            StoreError: it has no child of those names.
        """
        reply = self.ask(*arguments, **options)
        try:
            return Document(reply.body, *known_by)
        except NotS3 as error:
            raise self.not_s3() from error

    def pages(self, ask: Callable[[Mapping[str, str]], Document], names: Mapping[str, str]) -> Iterator[Document]:
        """What a server lists in pages of its own kind.

        Args:
            ask: asks for the page at a marker, which is part of the query.
            names: what the next request calls each part of the marker, by what the answer calls it.

        Raises:
            StoreError: the pages do not end.
        """
        marker: dict[str, str] = {}
        while True:
            page = self.stoppable(functools.partial(self.call, functools.partial(ask, marker)))
            yield page
            if not page.truncated:
                return
            before, marker = marker, {asked: text for told, asked in names.items() if (text := page.text(told))}
            if not marker or marker == before:
                raise self.failed(StoreError, "the server's pages do not end")

    def stoppable(self, work: Callable[[], T]) -> T:
        """Do ``work`` so that ``cancel`` ends it at once, even inside a call that cannot be interrupted."""
        return stoppable(work, self.cancel)

    def refresher(self) -> retry.Refresh | None:
        """Answers, about keys that were refused, whether there are others now; ``cancel`` ends the wait for them."""
        return self.bucket.refresher(self.cancel)

    def schedule(self, retries: Retries | None = None) -> retry.Schedule:
        """When, and whether, this verb tries again."""
        return retry.Schedule(
            self.op,
            retries or self.bucket.options.retries,
            on_retry=self.on_retry,
            throttle=self.bucket.throttle,
        )

    def not_s3(self, why: str = "") -> StoreError:
        """The error about a success that S3 would tell otherwise: a page of something else."""
        return self.failed(StoreError, f"an answer that is not S3's{why}", hint=HINT_NOT_S3)

    def check_object(self, found: ObjectMeta) -> None:
        """Refuse a page that is taken for an object: S3 gives every object an ETag (GetObject and HeadObject)."""
        if found.etag is None:
            raise self.not_s3(": it has no ETag")

    def head(self, *, checksums: bool = False) -> ObjectMeta:
        """What the server says of the key, asked in this thread."""
        told = self.look(checksums=checksums)
        found = meta.of_headers(self.key, told)
        self.check_object(found)
        return meta.with_md5(found, told, self.bucket.name, self._part_bytes) if checksums else found

    def _part_bytes(self, number: int) -> tuple[int | None, int | None]:
        """The size of one part of an object that was stored in parts, and their count; None where nobody tells."""

        def head() -> tuple[int | None, int | None]:
            told = self.ask("HeadObject", "HEAD", query={"partNumber": str(number)}).headers
            return meta.number(told.get("content-length")), meta.number(told.get("x-amz-mp-parts-count"))

        try:
            return replace(self, op="head").call(head)
        except StoreError as error:
            if error.http_status not in _NO_PARTS:
                raise
            return None, None

    def look(self, *, checksums: bool = False) -> Mapping[str, str]:
        """The headers that the server has for the key, asked for in this thread."""
        verb = replace(self, op="head")
        asked = {"x-amz-checksum-mode": "ENABLED"} if checksums else {}

        def get(**ranged: str) -> Mapping[str, str]:
            return verb.call(lambda: verb.ask("GetObject", "GET", asked=asked | ranged, unread=True)).headers

        try:
            return verb.call(lambda: verb.ask("HeadObject", "HEAD", asked=asked)).headers
        except StoreError as error:
            if error.http_status is None or error.retryable:
                raise
        # The answer to a HEAD has no body, so it cannot tell a missing key from a missing bucket, or wrong keys from
        # a lacking permission; a GET of one byte can.
        try:
            return get(range="bytes=0-0")
        except StoreError as error:
            if error.http_status != 416:
                raise
        return get()  # empty: no range of it exists
