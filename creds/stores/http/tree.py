"""The files below one URL: where a key is, what WebDAV says of it, and the folders above it."""

from __future__ import annotations

import http.client
import re
from collections.abc import Iterator
from urllib.parse import unquote_to_bytes

from urllib3.exceptions import HTTPError

from creds.errors import AccessDenied, BucketNotFound, NotSupported, StoreError, StoreUnavailable
from creds.stores.http import dav
from creds.stores.http.dav import CutShort, Entry, NotDav
from creds.stores.http.errors import failed, of_failure
from creds.stores.http.transport import Login, Transport, finish
from creds.stores.url import Url, encoded, printable

PARTIAL = re.compile(r"\..*\.partial-[0-9a-f]{16}", re.DOTALL)
"""Names that are kept for unfinished files."""

_CHUNK_BYTES = 64 << 10


class Tree:
    """Keys as URLs below ``base``, and WebDAV's account of them.

    Args:
        transport: sends the requests.
        base: the root; its query goes with every request for a key.
        location: how errors name the root.
    """

    def __init__(self, transport: Transport, base: Url, location: str) -> None:
        self.transport = transport
        self.base = base
        self.location = location
        self._root = base.path.rstrip("/")

    def where(self, key: str) -> str:
        """The masked location of one key, as one printable line."""
        return f"{self.location}/{printable(key)}"

    def url(self, op: str, key: str) -> Url:
        """Where ``key`` is.

        Raises:
            AccessDenied: the key would lead above the root.
        """
        if any(part in (".", "..") for part in key.split("/")):
            raise failed(AccessDenied, op, self.where(key), "not a path below the root")
        return self.base.at(f"{self._root}/{encoded(key)}", self.base.query)

    def folder(self, op: str, key: str) -> Url:
        """Where the folder ``key`` is, with the slash that some servers insist on; the root where it is empty."""
        url = self.url(op, key)
        return url.at(url.path.rstrip("/") + "/")

    def entry(self, op: str, key: str, login: Login) -> Entry | None:
        """What WebDAV says of ``key``; None where there is nothing.

        Raises:
            NotSupported: the server does not speak WebDAV.
        """
        found = self._propfind(op, key, self.url(op, key), "0", login)
        return found[0] if found else None

    def children(self, op: str, key: str, login: Login) -> dict[str, Entry] | None:
        """The files and folders right inside the folder ``key``, by name; None where there is no such folder."""
        url = self.folder(op, key)
        above = unquote_to_bytes(url.path)
        found = self._propfind(op, key, url, "1", login)
        if found is None:
            return None
        names: dict[str, Entry] = {}
        for entry in found:
            name = entry.path.removeprefix(above).decode("utf-8", "surrogateescape")
            # A server may name what it likes; only what is right inside the folder is.
            if entry.path.startswith(above) and name not in ("", ".", "..") and "/" not in name:
                names[name] = entry
        return names

    def _propfind(self, op: str, key: str, url: Url, depth: str, login: Login) -> list[Entry] | None:
        where = self.where(key)
        headers = {"Depth": depth, "Content-Type": "application/xml; charset=utf-8"}
        accepted = (207, 404, 409)
        try:
            answer = self.transport.ask(
                op, where, "PROPFIND", url.at(url.path), login, headers=headers, body=dav.PROPFIND, accepted=accepted
            )
        except NotSupported as error:
            error.hint = error.hint or "the server does not speak WebDAV: its objects can be read, not listed"
            raise
        if answer.status != 207:
            finish(answer)
            return None

        def chunks() -> Iterator[bytes]:
            while chunk := answer.read(_CHUNK_BYTES):
                yield chunk

        try:
            return dav.entries(chunks())
        except NotDav as error:
            raise failed(StoreError, op, where, str(error), hint="check that the server is a WebDAV server") from error
        except CutShort as error:
            raise failed(StoreUnavailable, op, where, str(error)) from error
        except (HTTPError, OSError, http.client.HTTPException) as error:
            raise of_failure(error, op, where) from error
        finally:
            finish(answer)

    def methods(self, op: str, key: str, login: Login) -> set[str]:
        """The methods that the server says it has for ``key``: none where it does not say."""
        answer = self.transport.ask(
            op, self.where(key), "OPTIONS", self.url(op, key), login, accepted=(200, 204, 404, 405, 501)
        )
        finish(answer)
        allowed = answer.headers.get("allow") or "" if answer.status in (200, 204) else ""
        return {name.strip().upper() for name in allowed.split(",")}

    def make_folders(self, op: str, key: str, login: Login) -> None:
        """Make the folders above ``key``, below the root, that are not there.

        Raises:
            BucketNotFound: the root itself is missing.
        """
        missing: list[str] = []
        above = key
        while "/" in above:
            above = above.rpartition("/")[0]
            entry = self.entry(op, above, login) if above else None
            if entry is not None and not entry.folder:
                raise failed(AccessDenied, op, self.where(key), f"{printable(above)!r} above it is a file")
            if entry is not None:
                break
            if above:
                missing.append(above)
        else:
            self.check_root(op, login)
        for name in reversed(missing):
            answer = self.transport.ask(
                # 405: somebody else made it meanwhile.
                *(op, self.where(key), "MKCOL", self.folder(op, name), login),
                accepted=(200, 201, 204, 405),
            )
            finish(answer)

    def check_root(self, op: str, login: Login) -> None:
        """Make sure that the root is there, as far as we may see it: else nothing below it would look absent.

        Raises:
            BucketNotFound: it is not.
        """
        try:
            found = self._propfind(op, "", self.folder(op, ""), "0", login)
        except AccessDenied:
            return
        if found is None:
            hint = "check the URL; the folder that it names is not made"
            raise failed(BucketNotFound, op, self.location, "no such folder", hint=hint)

    def refuse_partial(self, op: str, key: str) -> None:
        """Refuse a key whose name is kept for unfinished files, or that is a folder's."""
        name = key.rpartition("/")[2]
        if not name:
            raise failed(AccessDenied, op, self.where(key), "a folder's name, not a file's")
        if PARTIAL.fullmatch(name):
            raise failed(AccessDenied, op, self.where(key), "such names are kept for unfinished files")

    def refuse_query(self, op: str, key: str) -> None:
        """Refuse what a presigned URL cannot do: it is signed for one object and one method."""
        if self.base.query:
            said = "a presigned URL reads or writes its one object, and no more"
            raise failed(NotSupported, op, self.where(key), said)
