"""The verbs of S3."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, Self

from creds.errors import CredentialError, NotSupported, ObjectNotFound, StoreError
from creds.store import Buffer, Cancel, ObjectMeta, OnRetry, Reading, StoreOptions
from creds.stores.s3 import headers, meta
from creds.stores.s3.bucket import Bucket
from creds.stores.s3.conditions import Conditions
from creds.stores.s3.connections import Addresses
from creds.stores.s3.documents import Document
from creds.stores.s3.publishing import Publisher
from creds.stores.s3.ranges import Ranges
from creds.stores.s3.resuming import Journal, Resuming
from creds.stores.s3.unfinished import Unfinished, abort, unfinished
from creds.stores.s3.verb import Verb
from creds.stores.s3.writing import Upload

if TYPE_CHECKING:
    from creds.keys import CredentialProvider


class S3Store:
    """One bucket on one S3 server, as one identity. Making one does no I/O.

    Args:
        bucket: its name.
        endpoint_url: the server, or None for AWS in ``region``.
        region: signed into every request.
        provider: called for a snapshot of keys whenever some are needed; None signs nothing (anonymous).
        options: timeouts, retries, the window and the size of parts.
        on_aws: the server is AWS itself, which holds conditions on writes (documented since 2024-11).
        addressing: ``path`` puts the bucket into the path, ``virtual`` into the host's name.
        checksums: send a CRC32 of what is written, as AWS' own clients do; many other servers refuse it.
        guard: called once, before the first connection; what it raises is what the verb raises.
        addresses: gives the addresses that a name may be reached at, for reading; None takes what the system resolves.
        location: the masked ``s3://host/bucket`` that errors name.

    Raises:
        CredentialError: the customer's key (``options.s3``) would travel in plaintext.
    """

    def __init__(
        self,
        bucket: str,
        *,
        endpoint_url: str | None,
        region: str,
        provider: CredentialProvider | None,
        options: StoreOptions,
        on_aws: bool,
        addressing: Literal["path", "virtual"],
        checksums: bool,
        guard: Callable[[], None] | None = None,
        addresses: Addresses | None = None,
        location: str = "",
    ) -> None:
        if options.s3.sse_c_key is not None and (endpoint_url or "").startswith("http://"):
            raise CredentialError(
                f"{location}: the customer's key goes over TLS alone",
                location=location,
                hint="use an https:// endpoint, or another encryption",
            )
        self._bucket = Bucket(
            bucket,
            endpoint_url=endpoint_url,
            region=region,
            provider=provider,
            options=options,
            virtual=addressing == "virtual",
            checksums=checksums,
            guard=guard,
            addresses=addresses,
            location=location or f"s3://{bucket}",
        )
        self._conditions = Conditions(enforced=True if on_aws else None)
        self._journal: Journal | None = None
        self.window = self._bucket.window

    def __repr__(self) -> str:
        return f"<S3Store {self._bucket.location}>"

    @property
    def client(self) -> Any:
        """The live boto3 client: it signs with this store's provider."""
        return self._bucket.client

    @property
    def enforces_conditions(self) -> bool:
        return self._conditions.enforced(Verb(self._bucket, "write", ""))

    def close(self) -> None:
        self._bucket.close()

    def open(
        self,
        key: str,
        *,
        start: int = 0,
        if_match: str | None = None,
        cancel: Cancel | None = None,
        on_retry: OnRetry | None = None,
    ) -> Reading:
        return Ranges(Verb(self._bucket, "open", key, cancel, on_retry), start, if_match).begin()

    def write(
        self,
        key: str,
        buffers: Iterable[Buffer],
        *,
        size_hint_bytes: int | None = None,
        if_match: str | None = None,
        if_none_match: bool = False,
        content_type: str | None = None,
        metadata: Mapping[str, str] | None = None,
        cancel: Cancel | None = None,
        on_retry: OnRetry | None = None,
    ) -> ObjectMeta:
        """Write all of ``buffers`` as ``key``; see :meth:`creds.store.Store.write`.

        Where the server does not enforce conditions (:attr:`enforces_conditions`), they are compared with a HEAD
        before the first byte and again just before the object is published. Another writer between that HEAD and the
        publishing is not noticed: that race is the server's, and cannot be closed from here.
        """
        described = headers.metadata(metadata or {})
        if content_type is not None:
            described["content-type"] = content_type
        verb = Verb(self._bucket, "write", key, cancel, on_retry)
        publisher = Publisher(verb, self._conditions, if_match, if_none_match=if_none_match)
        resuming = None if self._journal is None else Resuming(verb, self._journal, described)
        return Upload(verb, publisher, described, resuming).run(buffers, size_hint_bytes)

    def resuming(self, journal: Journal) -> Self:
        """This store, but a write in parts is remembered in ``journal``, and goes on with one that is there.

        The same bytes must be given again, all of them: parts that the server has are not sent. With the journal's
        ``keeps`` a write that fails leaves its parts there for the next one, unless what failed is about the object or
        its bytes.
        """
        other = copy.copy(self)
        other._journal = journal  # noqa: SLF001 - of the same class
        return other

    def head(self, key: str, *, checksums: bool = False, cancel: Cancel | None = None) -> ObjectMeta:
        verb = Verb(self._bucket, "head", key, cancel)
        return verb.stoppable(lambda: verb.head(checksums=checksums))

    def list(self, prefix: str = "", *, recursive: bool = True, cancel: Cancel | None = None) -> Iterator[ObjectMeta]:
        verb = Verb(self._bucket, "list", prefix, cancel)
        query = {"list-type": "2", "encoding-type": "url", "prefix": prefix}
        if not recursive:
            query["delimiter"] = "/"
        names = {"NextContinuationToken": "continuation-token"}

        def ask(marker: Mapping[str, str]) -> Document:
            asked = {**query, **marker}
            known_by = ("Name", "IsTruncated")
            return verb.document(known_by, "ListObjectsV2", "GET", query=asked, whole_bucket=True)

        for page in verb.pages(ask, names):
            try:
                found = [meta.of_entry(entry) for entry in page.entries("Contents")]
                found += [ObjectMeta(key=entry["Prefix"]) for entry in page.entries("CommonPrefixes")]
            except KeyError as error:
                raise verb.not_s3() from error
            if not recursive:
                found.sort(key=lambda entry: entry.key.encode("utf-8", "surrogatepass"))
            yield from found

    def delete(self, key: str, *, cancel: Cancel | None = None) -> None:
        verb = Verb(self._bucket, "delete", key, cancel)
        try:
            verb.stoppable(lambda: verb.call(lambda: verb.ask("DeleteObject", "DELETE")))
        except ObjectNotFound as error:
            # Some servers do tell; it is gone either way. A 404 that names nothing may be about the bucket.
            if error.server_code is None:
                self._check_gone(verb)

    @staticmethod
    def _check_gone(verb: Verb) -> None:
        try:
            verb.stoppable(verb.head)
        except ObjectNotFound:
            return
        raise verb.failed(StoreError, "404, and the object is still there")

    def unfinished(self, prefix: str = "", *, cancel: Cancel | None = None) -> Iterator[Unfinished]:
        """Every upload in parts that was never finished and whose key starts with ``prefix``, page by page."""
        return unfinished(Verb(self._bucket, "list uploads", prefix, cancel))

    def abort(self, upload: Unfinished, *, cancel: Cancel | None = None) -> None:
        """Abort an upload that :meth:`unfinished` found; one that is gone meanwhile is no error."""
        verb = Verb(self._bucket, "abort upload", upload.key, cancel)
        with contextlib.suppress(ObjectNotFound):
            verb.stoppable(lambda: verb.call(lambda: abort(verb, upload.upload_id)))

    def sign(self, key: str, method: str = "GET", *, expires_seconds: int = 3600) -> str:
        """A presigned URL for GET or PUT. Its life is the shorter of ``expires_seconds`` and the keys' own.

        Raises:
            NotSupported: another method; an anonymous store; or options whose headers the URL's holder would have to
                send (a customer's key, ``sse`` on PUT).
            ValueError: ``expires_seconds`` is not within 1 second and 7 days, which is S3's limit.
        """
        verb = Verb(self._bucket, "sign", key)
        if method not in ("GET", "PUT"):
            raise verb.failed(NotSupported, "only GET and PUT can be signed")
        if not self._bucket.signs:
            raise verb.failed(NotSupported, "an anonymous store has no keys to sign with")
        if not 1 <= expires_seconds <= 7 * 24 * 3600:
            raise ValueError(f"expires_seconds is {expires_seconds}; S3 signs for 1 second to 7 days")
        s3 = self._bucket.options.s3
        if s3.sse_c_key is not None or (s3.sse is not None and method == "PUT"):
            raise verb.failed(NotSupported, "a URL cannot say how the object is encrypted")
        return self._bucket.presigned(method, key, expires_seconds)
