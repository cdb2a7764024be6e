"""One verb on one key: its requests by boto3, with retries, and its errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from creds import retry
from creds.errors import StoreError, ToolkitError
from creds.store import Cancel, ObjectMeta, OnRetry, Retries
from creds.stores.s3 import meta
from creds.stores.s3.bucket import Bucket
from creds.stores.s3.errors import HINT_NOT_S3, EngineError, cause_of, error_of, failed, from_boto
from creds.stores.wire import stoppable

_NO_PARTS = (400, 405, 416, 501)
"""What servers answer that cannot tell of single parts."""

E = TypeVar("E", bound=StoreError)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Verb:
    """What the caller asked for, as far as all verbs have it; ``op`` is its name in errors and retries."""

    bucket: Bucket
    op: str
    key: str
    cancel: Cancel | None = None
    on_retry: OnRetry | None = None

    @property
    def target(self) -> dict[str, str]:
        """The key, as boto3 is told."""
        return {"Bucket": self.bucket.name, "Key": self.key}

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

    @contextmanager
    def speaking(self) -> Iterator[None]:
        """Turn what boto3 raises in the block into this toolkit's errors."""
        from botocore.exceptions import BotoCoreError, ClientError
        from botocore.parsers import ResponseParserError
        from urllib3.exceptions import HTTPError

        try:
            yield
        except ToolkitError:
            raise
        except (BotoCoreError, ClientError, HTTPError, OSError) as error:
            if self.cancel is not None:
                self.cancel.check()
            answer = from_boto(error)
            raise error_of(answer, self.op, self.where) from cause_of(error, answer)
        except (ResponseParserError, KeyError, ValueError) as error:
            # botocore reads an answer of any shape: what is missing or unreadable in it is met here.
            cause = EngineError(type(error).__qualname__)
            raise self.failed(StoreError, "an answer that is not S3's", hint="check the endpoint") from cause

    def call(self, work: Callable[[Any], T], retries: Retries | None = None) -> T:
        """Do one idempotent request, which ``work`` makes of the client, in this thread."""

        def attempt() -> T:
            client = self.bucket.client
            with self.speaking():
                return work(client)

        return retry.run(attempt, self.schedule(retries), cancel=self.cancel, refresh=self.refresher())

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
        response = self.look(checksums=checksums)
        found = meta.of_response(self.key, response)
        self.check_object(found)
        return meta.with_md5(found, response, self.bucket.name, self._part_bytes) if checksums else found

    def _part_bytes(self, number: int) -> tuple[int | None, int | None]:
        """The size of one part of an object that was stored in parts, and their count; None where nobody tells."""

        def head(client: Any) -> tuple[int | None, int | None]:
            response = client.head_object(**self.target, PartNumber=number)
            return response.get("ContentLength"), response.get("PartsCount")

        try:
            return replace(self, op="head").call(head)
        except StoreError as error:
            if error.http_status not in _NO_PARTS:
                raise
            return None, None

    def look(self, *, checksums: bool = False) -> Mapping[str, Any]:
        """The whole of what the server says of the key, as boto3 gives it, asked in this thread."""
        call = replace(self, op="head").call
        asked = {**self.target, **({"ChecksumMode": "ENABLED"} if checksums else {})}

        def get(client: Any, **ranged: str) -> Mapping[str, Any]:
            response: Mapping[str, Any] = client.get_object(**asked, **ranged)
            response["Body"].close()
            return response

        def head(client: Any) -> Mapping[str, Any]:
            response: Mapping[str, Any] = client.head_object(**asked)
            return response

        try:
            return call(head)
        except StoreError as error:
            if error.http_status is None or error.retryable:
                raise
        # The answer to a HEAD has no body, so it cannot tell a missing key from a missing bucket, or wrong keys from
        # a lacking permission; a GET of one byte can.
        try:
            return call(lambda client: get(client, Range="bytes=0-0"))
        except StoreError as error:
            if error.http_status != 416:
                raise
        return call(get)  # empty: no range of it exists
