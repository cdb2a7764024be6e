"""What both ways of reading one object from S3 share."""

from __future__ import annotations

from typing import TypeVar

from creds.errors import StoreError
from creds.store import ObjectMeta
from creds.stores.reading import OpenReading
from creds.stores.s3.verb import Verb

E = TypeVar("E", bound=StoreError)


class S3Reading(OpenReading):
    """One object being read; it has a share of the window as long as it is open."""

    def __init__(self, verb: Verb, start: int, if_match: str | None) -> None:
        super().__init__(start, if_match, verb.cancel)
        self.verb = verb
        self._share = self._stack.enter_context(verb.bucket.window.stream())

    @property
    def _where(self) -> str:
        return self.verb.where

    def _failed(self, kind: type[E], said: str) -> E:
        return self.verb.failed(kind, said)

    def _condition(self) -> str | None:
        """The ETag that the next request insists on: that of the first answer, where it names the bytes."""
        if self._meta is not None and self._meta.strong:
            return self._meta.etag
        return self._if_match

    def _pin(self, now: ObjectMeta) -> None:
        if self._meta is None:
            self.verb.check_object(now)
        super()._pin(now)
