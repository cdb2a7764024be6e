"""What a WebDAV server says of its files: PROPFIND, asked and read.

The answer is read as it comes, by expat, without a document type: no entity can be declared, so none can be expanded.
"""

from __future__ import annotations

import re
import xml.parsers.expat
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

PROPFIND = (
    b'<?xml version="1.0" encoding="utf-8"?><D:propfind xmlns:D="DAV:"><D:prop>'
    b"<D:resourcetype/><D:getcontentlength/><D:getetag/><D:getlastmodified/></D:prop></D:propfind>"
)
MAX_BYTES = 64 << 20
"""Of one folder's listing: some 100,000 files."""

_MAX_TEXT = 16_384
_ABSOLUTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/]*(/.*)?", re.DOTALL)
_OK = re.compile(r"\s*HTTP/\S+\s+200(?:\s|$)")


class NotDav(ValueError):
    """Raised when an answer is no multistatus document; the message repeats nothing of it."""


class CutShort(ValueError):
    """Raised when an answer ends in the middle: servers that fail while they list cannot take their status back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One file or folder.

    Attributes:
        path: decoded, without the server; folders without their last slash.
        folder: is it one?
    """

    path: bytes
    folder: bool
    size_bytes: int | None
    etag: str | None
    modified: datetime | None


def entries(chunks: Iterator[bytes]) -> list[Entry]:
    """Read a multistatus document.

    Raises:
        NotDav: it is none, or is larger than ``MAX_BYTES``.
        CutShort: it is one, as far as it goes.
    """
    document = _Document()
    total = 0
    try:
        for chunk in chunks:
            total += len(chunk)
            if total > MAX_BYTES:
                raise NotDav(f"a listing of more than {MAX_BYTES >> 20} MiB")
            document.parser.Parse(chunk, False)
    except xml.parsers.expat.ExpatError as error:
        raise NotDav("an answer that is not WebDAV's") from error
    if not document.is_multistatus:
        raise NotDav("an answer that is not WebDAV's")
    try:
        document.parser.Parse(b"", True)
    except xml.parsers.expat.ExpatError as error:
        raise CutShort("a listing that breaks off") from error
    return document.entries


class _Frame(NamedTuple):
    """The properties of one propstat, until its status says whether they are there."""

    texts: dict[str, str]
    folder: list[bool]


class _Document:
    """expat's callbacks."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.is_multistatus = False
        self._path: list[str] = []
        self._text = ""
        self._href = ""
        self._missing = False
        self._kept = _Frame({}, [])
        self._found = _Frame({}, [])
        self.parser = xml.parsers.expat.ParserCreate(namespace_separator=" ")
        self.parser.buffer_text = True
        self.parser.StartDoctypeDeclHandler = self._refuse
        self.parser.EntityDeclHandler = self._refuse
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._characters

    def _refuse(self, *_: object) -> None:
        raise NotDav("an answer with a document type, which is not read")

    def _start(self, name: str, _attributes: dict[str, str]) -> None:
        if not self._path and name == "DAV: multistatus":
            self.is_multistatus = True
        if len(self._path) > 64:
            raise NotDav("an answer nested deeper than WebDAV's")
        self._path.append(name)
        self._text = ""
        if name == "DAV: response":
            self._href, self._missing, self._kept = "", False, _Frame({}, [])
        elif name == "DAV: propstat":
            self._found = _Frame({}, [])
        elif name == "DAV: collection" and self._path[-2:-1] == ["DAV: resourcetype"]:
            self._found.folder.append(True)

    def _characters(self, text: str) -> None:
        self._text += text
        if len(self._text) > _MAX_TEXT:
            raise NotDav("an answer with a longer name than any file has")

    def _end(self, name: str) -> None:
        self._path.pop()
        above = self._path[-1] if self._path else ""
        if name == "DAV: href" and above == "DAV: response":
            self._href = self._text.strip()
        elif above == "DAV: prop":
            self._found.texts[name] = self._text.strip()
        elif name == "DAV: status" and above == "DAV: propstat" and _OK.match(self._text):
            self._kept = self._found
        elif name == "DAV: status" and above == "DAV: response":
            self._missing = not _OK.match(self._text)
        elif name == "DAV: response" and not self._missing:
            self.entries.append(self._entry())
        self._text = ""

    def _entry(self) -> Entry:
        absolute = _ABSOLUTE.fullmatch(self._href)
        path = (absolute[1] or "/") if absolute else self._href
        texts = self._kept.texts
        size = texts.get("DAV: getcontentlength", "")
        return Entry(
            path=unquote_to_bytes(path.encode("utf-8", "surrogatepass")).rstrip(b"/"),
            folder=bool(self._kept.folder),
            size_bytes=int(size) if size.isdecimal() and size.isascii() and len(size) < 20 else None,
            etag=quoted(texts.get("DAV: getetag")),
            modified=moment(texts.get("DAV: getlastmodified")),
        )


def quoted(etag: str | None) -> str | None:
    """An ETag as HTTP writes it: some servers leave out the quotes in a listing."""
    if not etag or etag.startswith(('"', "W/")):
        return etag or None
    return f'"{etag}"'


def moment(text: str | None) -> datetime | None:
    """An HTTP date; None where it is none."""
    try:
        return parsedate_to_datetime(text).astimezone(UTC) if text else None
    except (ValueError, OverflowError):
        return None
