"""Reading by boto3: one response, for the keys that obstore alters or refuses."""

from __future__ import annotations

import io
from typing import Any

from creds import retry
from creds.errors import NotSupported, ObjectNotFound, StoreError
from creds.store import Buffer, Retries
from creds.stores.s3 import meta
from creds.stores.s3.reading import S3Reading
from creds.stores.s3.verb import Verb
from creds.stores.wire import Wire, on

_READ_BYTES = 1 << 20


class Stream(S3Reading):
    """One GET, resumed at its byte when it breaks."""

    def __init__(self, verb: Verb, start: int, if_match: str | None) -> None:
        super().__init__(verb, start, if_match)
        self._position = start
        self._body: Any = None
        self._wire = Wire()
        self._share.take(_READ_BYTES)
        self._stack.callback(self._drop)
        self._stack.callback(self._wire.stop)

    @property
    def pinned(self) -> str:
        return "etag" if self.meta.strong else "weak"

    def _begin(self) -> None:
        if self._verb.cancel is not None:
            self._stack.enter_context(self._verb.cancel.calling(self._wire.stop))
        self._verb.stoppable(self._reopen)

    def __next__(self) -> Buffer:
        chunk = retry.run(self._read, self._verb.schedule(), cancel=self._verb.cancel, refresh=self._verb.refresher())
        if not chunk:
            raise StopIteration
        return chunk

    def _read(self) -> bytes:
        self._check_open()
        if self._body is None:
            self._verb.stoppable(self._reopen)
        size = self.meta.size_bytes
        try:
            with self._verb.speaking(), on(self._wire):
                chunk: bytes = self._body.read(_READ_BYTES)
                if not chunk and size is not None and self._position < size:
                    raise ConnectionResetError("the body ended early")
        except StoreError:
            self._check_open()
            self._drop()
            raise
        self._position += len(chunk)
        return chunk

    def _reopen(self) -> None:
        """Ask for the object from where the reading stands, in its first generation."""
        first = self._meta is None
        asked: dict[str, str] = {}
        if self._position:
            asked["Range"] = f"bytes={self._position}-"
        condition = self._condition()
        if condition is not None:
            asked["IfMatch"] = condition

        def get(client: Any) -> Any:
            return client.get_object(**self._verb.target, **asked)

        try:
            with on(self._wire):
                # A reading under way is repeated by its own loop.
                response = self._verb.call(get, None if first else Retries(attempts=1))
        except StoreError as error:
            if not first and (error.http_status == 416 or isinstance(error, ObjectNotFound)):
                raise self._changed() from error
            if error.http_status != 416:
                raise
            now = self._verb.head()
            if now.size_bytes != self._position:
                raise self._beyond(now.size_bytes) from error
            self._pin(now)
            self._body = io.BytesIO()
            return
        self._body = response["Body"]
        self._pin(meta.of_response(self._verb.key, response))
        # By the header, not the status: rclone sends the right bytes as a 200.
        ranged = str(response.get("ContentRange", ""))
        if self._position and not ranged.startswith(f"bytes {self._position}-"):
            raise self._verb.failed(NotSupported, "the server does not answer ranges")

    def _drop(self) -> None:
        body, self._body = self._body, None
        if body is not None:
            body.close()
