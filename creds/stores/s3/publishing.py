"""Making an object appear, under its condition, also where the server does not hold it or an answer was lost."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import replace

from creds.errors import NotSupported, ObjectChanged, ObjectNotFound, StoreError
from creds.store import ObjectMeta
from creds.stores.s3 import meta
from creds.stores.s3.conditions import Conditions
from creds.stores.s3.verb import Verb

Send = Callable[[Mapping[str, str]], ObjectMeta]
"""Sends the request that publishes, with the condition's headers; gives what the answer tells of the object."""

_MARK = "artifact-write"


class Publisher:
    """The condition of one write.

    Attributes:
        mark: metadata that no other write has, to know the object by when an answer was lost. An ETag cannot tell: of
            an object that is encrypted with a KMS or a customer's key it is no MD5, and buckets do that by default.
    """

    def __init__(self, verb: Verb, conditions: Conditions, if_match: str | None, *, if_none_match: bool) -> None:
        self._verb = verb
        self._conditions = conditions
        self._if_match = if_match
        self._if_none_match = if_none_match
        self.conditional = if_match is not None or if_none_match
        self.mark = {_MARK: secrets.token_hex(16)}

    def compare_unless_enforced(self) -> None:
        """Hold the condition by looking, where that is all that can be done."""
        if self.conditional and not self._enforced():
            self._compare()

    def publish(self, send: Send, size: int, etag: Callable[[], str | None]) -> ObjectMeta:
        """Make the object appear, ``size`` bytes long.

        A response that was lost on the way makes the next try fail its condition (or find its upload gone) although the
        write succeeded. So after a first try that ended without an answer a refusal is believed only when the object
        that is there is not ours. Ours carries ``mark``; ``etag`` says what else, for servers that keep no metadata.
        """
        self.compare_unless_enforced()
        uncertain = False

        def attempt() -> ObjectMeta:
            nonlocal uncertain
            headers = self._headers()
            try:
                now = send(headers)
            except StoreError as error:
                if uncertain and isinstance(error, ObjectChanged | ObjectNotFound):
                    ours = self._ours(size, etag)
                    if ours is not None:
                        return ours
                if isinstance(error, ObjectChanged) and self._if_match is not None:
                    self._check_refusal(error)
                if uncertain or not headers or not isinstance(error, ObjectNotFound):
                    uncertain = uncertain or error.retryable
                    raise
                try:
                    now = self._send_unconditionally(send, error)
                except StoreError as second:
                    uncertain = second.retryable
                    raise
            return replace(now, size_bytes=size)

        return self._verb.call(attempt)

    def _ours(self, size: int, etag: Callable[[], str | None]) -> ObjectMeta | None:
        """The object that is there, if this write made it."""
        try:
            told = self._verb.look()
        except ObjectNotFound:
            return None
        now = meta.of_headers(self._verb.key, told)
        marked = told.get(f"x-amz-meta-{_MARK}")
        if marked is not None:
            return now if marked == self.mark[_MARK] and now.size_bytes == size else None
        expected = etag()
        return now if expected is not None and (now.etag, now.size_bytes) == (expected, size) else None

    def _send_unconditionally(self, send: Send, error: ObjectNotFound) -> ObjectMeta:
        """Some servers answer 404 to any condition on CompleteMultipartUpload: hold it by looking instead."""
        if self._if_match is not None and self._now() is None:
            raise self._conflict("the object is not the expected one") from error
        self._conditions.distrust()
        self._compare()
        return send({})

    def _headers(self) -> dict[str, str]:
        if not self.conditional or not self._enforced():
            return {}
        return {"if-none-match": "*"} if self._if_none_match else {"if-match": self._if_match or ""}

    def _enforced(self) -> bool:
        return self._conditions.enforced(self._verb)

    def _compare(self) -> None:
        now = self._now()
        if self._if_none_match and now is not None:
            raise self._conflict("the object exists already")
        if self._if_match is not None and (now is None or now.etag != self._if_match):
            raise self._conflict("the object is not the expected one")

    def _check_refusal(self, error: ObjectChanged) -> None:
        now = self._now()
        if now is not None and now.etag == self._if_match:
            raise self._verb.failed(
                NotSupported,
                "the server refuses If-Match although the ETag matches",
                http_status=error.http_status,
                server_code=error.server_code,
                hint="this server cannot replace an object conditionally",
            ) from error

    def _now(self) -> ObjectMeta | None:
        try:
            return self._verb.head()
        except ObjectNotFound:
            return None

    def _conflict(self, said: str) -> ObjectChanged:
        return self._verb.failed(ObjectChanged, said)
