"""One request by a connection of our own, and its answer: bound to whoever may stop it, its failure translated."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, NoReturn

from creds.errors import Cancelled, bare
from creds.secret import Secret
from creds.store import Buffer
from creds.stores import http1
from creds.stores.http1 import BadAnswer, Connection, Ended
from creds.stores.s3.errors import error_of, of_answer, of_failure
from creds.stores.wire import Wire

if TYPE_CHECKING:
    from creds.stores.s3.parts import Part
    from creds.stores.s3.verb import Verb

_SAID_BYTES = 64 << 10  # what is read of an answer that says why not
_DOCUMENT_BYTES = 32 << 20  # S3's own pages of 1,000 keys have at most 4 MiB


class Exchange:
    """A successful answer, whose body is still to be read.

    Args:
        method: the request's, as in ``head``.
        head: the request's, as :meth:`creds.stores.s3.bucket.Bucket.request` makes it.
        body: what follows it.
        wire: whoever stops it ends what waits for the server.

    Attributes:
        headers: of the answer, by lower-case name.

    Raises:
        StoreError: there is no answer, or not a successful one.
        CredsError: the server may not be reached, or there are no keys.
    """

    def __init__(self, verb: Verb, wire: Wire, method: str, head: Secret, body: Part | None = None) -> None:
        self._verb = verb
        self._wire = wire
        self._connections = verb.bucket.connections()
        self._connection: Connection | None = None
        try:
            answer = self._ask(method, head, body)
        except (OSError, BadAnswer) as error:
            self._explain(error)
        self.headers: Mapping[str, str] = answer.headers
        if not 200 <= answer.status < 300:
            self._refused(answer)

    def _ask(self, method: str, head: Secret, body: Part | None) -> http1.Answer:
        while True:
            self._connection = connection = self._connections.take()
            if connection is not None:
                self._wire.add(connection)
            else:
                self._connection = connection = self._connections.open(self._wire, self._verb.cancel)
            try:
                pieces = () if body is None else body.pieces
                return connection.ask(head.get_secret_value().encode("latin-1"), pieces, bodiless=method == "HEAD")
            except Ended:
                # What may have been done already is not sent again here: whoever repeats it must know that it may.
                if not connection.used or method not in ("GET", "HEAD"):
                    raise
                self.drop()  # it was closed in the moment it was taken: another one

    def read(self, most: int) -> Buffer:
        """The next bytes of the body, at most so many; none at its end.

        Raises:
            StoreError: it broke off.
            Cancelled.
        """
        if self._connection is None:
            return b""
        try:
            return self._connection.read(most)
        except (OSError, BadAnswer) as error:
            self._explain(error)

    def read_into(self, room: bytearray) -> int:
        """As :meth:`read`, into ``room``; how many bytes they are."""
        if self._connection is None:
            return 0
        try:
            return self._connection.read_into(memoryview(room))
        except (OSError, BadAnswer) as error:
            self._explain(error)

    def rest(self) -> bytes:
        """All of the body; the exchange is over then.

        Raises:
            StoreError: it broke off, or is longer than any document of S3's.
        """
        pieces = []
        left = _DOCUMENT_BYTES
        while piece := self.read(left):
            pieces.append(piece)
            left -= len(piece)
            if left <= 0:
                self.drop()
                raise self._verb.not_s3(": it does not end")
        self.end()
        return b"".join(pieces)

    def end(self) -> None:
        """The body was read as far as it is wanted."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._wire.discard(connection)
            self._connections.keep(connection)

    def drop(self) -> None:
        """Be done with it at once; its connection serves nobody any more."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._wire.discard(connection)
            connection.abort()

    def _refused(self, answer: http1.Answer) -> NoReturn:
        said = bytearray()
        with contextlib.suppress(OSError, BadAnswer):  # the status says enough
            while self._connection and len(said) < _SAID_BYTES and (piece := self._connection.read(_SAID_BYTES)):
                said += piece
        self.end()
        raise error_of(of_answer(answer.status, answer.headers, bytes(said)), self._verb.op, self._verb.where)

    def _explain(self, error: Exception) -> NoReturn:
        self.drop()
        if self._verb.cancel is not None:
            self._verb.cancel.check()
        if self._wire.stopped:
            raise Cancelled(f"{self._verb.op} {self._verb.where}: closed while it was read") from None
        told = of_failure(error)
        raise error_of(told, self._verb.op, self._verb.where) from bare(error)
