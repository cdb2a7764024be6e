"""S3's XML: what it answers in, and the one document that is sent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING
from urllib.parse import unquote_plus

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

Entry = Mapping[str, str]
"""An element's children by name, each with its text; of a repeated one the last."""


class NotS3(ValueError):
    """A document that S3 would not send."""


class Document:
    """An answer's document.

    Args:
        body: it.
        known_by: children of which it has one at least. (The root has other names on some servers.)

    Raises:
        NotS3: it is no XML, declares entities, or is another document.
    """

    def __init__(self, body: bytes, *known_by: str) -> None:
        self._root = _root(body)
        if all(self.text(name) is None for name in known_by):
            raise NotS3(f"none of {known_by}")
        self._decodes = self.text("EncodingType") == "url"

    def text(self, name: str) -> str | None:
        """The text of one child of the root; None where there is none."""
        return next((child.text or "" for child in self._root if _name(child) == name), None)

    @property
    def truncated(self) -> bool:
        """Is there another page?"""
        return self.text("IsTruncated") == "true"

    def entries(self, name: str) -> list[Entry]:
        """Every child of the root that is called ``name``."""
        found: list[Entry] = []
        for child in self._root:
            if _name(child) == name:
                entry = {_name(each): each.text or "" for each in child}
                for encoded in ("Key", "Prefix"):
                    if self._decodes and encoded in entry:
                        entry[encoded] = unquote_plus(entry[encoded])
                found.append(entry)
        return found


def _root(body: bytes) -> Element:
    import xml.etree.ElementTree as ET

    # Entities could make it grow without bound. An encoding in which this is not seen has zero bytes.
    if b"<!DOCTYPE" in body or b"\0" in body:
        raise NotS3("a document with declarations")
    try:
        return ET.fromstring(body)  # noqa: S314 - without declarations there is nothing to expand
    except ET.ParseError:
        raise NotS3("no XML") from None


def _name(element: Element) -> str:
    return element.tag.rpartition("}")[2]


def is_error(body: bytes) -> bool:
    """Is this an error in the body of a success, as S3 answers where it began to answer before it was done?

    Source: the S3 API reference, CompleteMultipartUpload.
    """
    try:
        return _name(_root(body)) == "Error"
    except NotS3:
        return False


def completing(parts: Iterable[Mapping[str, object]]) -> bytes:
    """The document that names the parts of an upload, which are in order."""
    from xml.sax.saxutils import escape

    listed = "".join(
        "<Part>" + "".join(f"<{name}>{escape(str(value))}</{name}>" for name, value in part.items()) + "</Part>"
        for part in parts
    )
    space = "http://s3.amazonaws.com/doc/2006-03-01/"
    return f'<CompleteMultipartUpload xmlns="{space}">{listed}</CompleteMultipartUpload>'.encode()
