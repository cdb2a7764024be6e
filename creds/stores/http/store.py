"""The verbs over http and https."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from creds.errors import LocationError, NotSupported, ObjectNotFound
from creds.store import Buffer, Cancel, ObjectMeta, OnRetry, StoreOptions, Tls
from creds.stores.http import reading, writing
from creds.stores.http.connections import Addresses
from creds.stores.http.dav import Entry
from creds.stores.http.errors import failed
from creds.stores.http.reading import HttpReading
from creds.stores.http.transport import Login, Transport, finish
from creds.stores.http.tree import PARTIAL, Tree
from creds.stores.url import Url


class HttpStore:
    """The files below one URL. Making one does no I/O.

    Every server can be read from. WebDAV servers can also be listed and written to: a write goes to a name beside its
    target, ``.name.partial-...``, and is moved over it when complete. A server that has PUT and no WebDAV, and a URL
    that is presigned for PUT, get one PUT, and are trusted to publish it whole. A content type travels; metadata has no
    place in WebDAV and is dropped.

    A reading is one stream, resumed at its byte; it is held to a strong ETag where the server has one, to the time of
    the last change otherwise. An upload larger than ``options.part_bytes`` is streamed, and cannot be sent again when
    it breaks.

    Args:
        base_url: ``http(s)://host[:port][/path]``; its path is percent-encoded, and ends with a slash or not. Keys are
            paths below it, decoded.
        authorization: gives the Authorization header's value, or None; asked before each request, and once more when
            the server refuses it. It is sent to ``base_url``'s scheme, host and port alone.
        query: of a presigned URL, verbatim; sent with each request for a key and never shown.
        options: timeouts, retries, TLS, proxies and ``part_bytes``.
        addresses: called with a host (IPv6 without brackets) and a port for each new connection, redirects' too; the
            connection is made to what it returns, in that order. What it raises is what the verb raises. None leaves
            resolving to the system. Through a proxy it is not asked: the proxy resolves.
        redirect: called with each URL that a GET or HEAD is redirected to, without its query; raises PolicyError to
            refuse.
        trusted: called with the origin of a server that is not ``base_url``'s, where a redirect leads; says what is
            trusted there. None trusts what ``options`` say everywhere.
        location: how errors name the base; made of ``base_url`` where it is empty.

    Raises:
        LocationError: ``base_url`` is no such URL.
    """

    def __init__(
        self,
        base_url: str,
        *,
        authorization: Callable[[], str | None] | None = None,
        query: str = "",
        options: StoreOptions,
        addresses: Addresses | None = None,
        redirect: Callable[[str], None] | None = None,
        trusted: Callable[[str], Tls] | None = None,
        location: str = "",
    ) -> None:
        try:
            base = Url.parse(base_url)
        except ValueError as error:
            raise LocationError(f"the base URL cannot be used: {error}") from None
        if base.query or "#" in base_url:
            raise LocationError("the base URL holds a query or a fragment", hint="give the query apart from it")
        base = replace(base, query=query)
        self._options = options
        self._transport = Transport(
            base,
            authorization=authorization,
            options=options,
            addresses=addresses,
            redirect=redirect,
            trusted=trusted,
            location=location or base.readable,
        )
        self._tree = Tree(self._transport, base, (location or base.readable).rstrip("/"))

    def __repr__(self) -> str:
        return f"<HttpStore {self._tree.location}>"

    @property
    def client(self) -> Any:
        """The live :class:`urllib3.PoolManager`: pinned, verified and proxied as the store is; no credential."""
        return self._transport.client

    @property
    def enforces_conditions(self) -> bool:
        """False: ``if_match`` is compared from here, and not every server's MOVE holds ``if_none_match`` in a race."""
        return False

    def close(self) -> None:
        self._transport.close()

    def open(
        self,
        key: str,
        *,
        start: int = 0,
        if_match: str | None = None,
        cancel: Cancel | None = None,
        on_retry: OnRetry | None = None,
    ) -> HttpReading:
        wanted = reading.Wanted(
            key=key,
            url=self._tree.url("open", key),
            where=self._tree.where(key),
            start=start,
            if_match=if_match,
            cancel=cancel,
            on_retry=on_retry,
        )
        return HttpReading(self._transport, wanted).begin()

    def write(
        self,
        key: str,
        buffers: Iterable[Buffer],
        *,
        size_hint_bytes: int | None = None,  # noqa: ARG002 - a stream tells its length when it ends
        if_match: str | None = None,
        if_none_match: bool = False,
        content_type: str | None = None,
        metadata: Mapping[str, str] | None = None,  # noqa: ARG002 - WebDAV has no place for it
        cancel: Cancel | None = None,
        on_retry: OnRetry | None = None,
    ) -> ObjectMeta:
        """Write all of ``buffers`` as ``key``; see :meth:`creds.store.Store.write`. Folders above it are made.

        ``if_none_match`` is the server's to hold, by MOVE with ``Overwrite: F``, at the end as at the beginning; some
        servers (wsgidav) look first and rename then, so of writers at the same moment two may win. ``if_match`` is
        compared before the first buffer and again just before the MOVE; another writer in between is not noticed.
        """
        self._tree.refuse_partial("write", key)
        wanted = writing.Wanted(
            key=key,
            if_match=if_match,
            if_none_match=if_none_match,
            content_type=content_type,
            on_retry=on_retry,
            cancel=cancel or Cancel(),
        )
        return writing.Upload(self._tree, wanted).run(buffers, self._options.part_bytes)

    def head(self, key: str, *, checksums: bool = False, cancel: Cancel | None = None) -> ObjectMeta:  # noqa: ARG002 - the protocol has none
        url, where = self._tree.url("head", key), self._tree.where(key)
        return self._transport.call(
            "head", lambda login: reading.head(self._transport, "head", key, url, where, login), cancel=cancel
        )

    def list(self, prefix: str = "", *, recursive: bool = True, cancel: Cancel | None = None) -> Iterator[ObjectMeta]:
        """Every file whose key starts with ``prefix``, sorted by the key's bytes, one folder's PROPFIND at a time.

        Raises:
            NotSupported: the server does not speak WebDAV.
            BucketNotFound: the base URL leads nowhere.
        """
        self._tree.refuse_query("list", prefix)
        pending: list[tuple[bytes, Entry | None]] = [(_bytes(prefix.rpartition("/")[0]), None)]
        wanted = _bytes(prefix)
        while pending:
            if cancel is not None:
                cancel.check()
            path, entry = pending.pop()
            if entry is not None and not entry.folder:
                yield _meta(path, entry)
                continue
            if not recursive and len(path) > len(wanted):
                yield ObjectMeta(key=path.decode("utf-8", "surrogateescape"))
                continue
            folder = path.rstrip(b"/")
            inside = self._inside(folder, cancel, top=entry is None)
            lead = folder + b"/" if folder else b""
            # A folder's key in the order of bytes is its name with the slash: "a-b" sorts before "a/b".
            found = sorted(
                ((lead + _bytes(name) + (b"/" if entry.folder else b""), entry) for name, entry in inside.items()),
                key=lambda item: item[0],
                reverse=True,
            )
            pending += [item for item in found if item[0].startswith(wanted) or wanted.startswith(item[0])]

    def _inside(self, folder: bytes, cancel: Cancel | None, *, top: bool) -> dict[str, Entry]:
        key = folder.decode("utf-8", "surrogateescape")

        def ask(login: Login) -> dict[str, Entry]:
            found = self._tree.children("list", key, login)
            if found is None and top:
                self._tree.check_root("list", login)
            return found or {}

        found = self._transport.call("list", ask, cancel=cancel)
        return {name: entry for name, entry in found.items() if entry.folder or not PARTIAL.fullmatch(name)}

    def delete(self, key: str, *, cancel: Cancel | None = None) -> None:
        """Remove the file ``key``. A folder is refused: DELETE would remove all that is in it."""
        self._tree.refuse_query("delete", key)
        self._transport.call("delete", lambda login: self._delete(key, login), cancel=cancel)

    def _delete(self, key: str, login: Login) -> None:
        where = self._tree.where(key)
        try:
            entry = self._tree.entry("delete", key, login)
        except NotSupported:
            pass  # no WebDAV, so no folders; it may have DELETE all the same
        else:
            if entry is None:
                return
            if entry.folder:
                raise failed(ObjectNotFound, "delete", where, "a folder, not a file")
        url = self._tree.url("delete", key)
        finish(self._transport.ask("delete", where, "DELETE", url, login, accepted=(200, 202, 204, 404, 410)))

    def sign(self, key: str, method: str = "GET", *, expires_seconds: int = 3600) -> str:  # noqa: ARG002 - refused
        """Always NotSupported: neither a password nor a token can be lent out by URL."""
        raise failed(NotSupported, "sign", self._tree.where(key), "an http server has no signed URL to give")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _meta(path: bytes, entry: Entry) -> ObjectMeta:
    return ObjectMeta(
        key=path.decode("utf-8", "surrogateescape"),
        size_bytes=entry.size_bytes,
        etag=entry.etag,
        modified=entry.modified,
    )
