"""Where one request goes: a URL taken apart once, whose query is never shown."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Self
from urllib.parse import quote, unquote, urljoin, urlsplit

_PORTS = {"http": 80, "https": 443}
_HOST = re.compile(r"[a-z0-9_](?:[a-z0-9._-]*[a-z0-9_])?|\[[0-9a-f:.]+\]")
# What is left as it is in a URL that somebody else wrote: all that RFC 3986 allows, escapes included.
_URL_CHARS = "%:/?#[]@!$&'()*+,;=~"


@dataclass(frozen=True, slots=True, kw_only=True)
class Url:
    """An http or https URL.

    Attributes:
        scheme: ``http`` or ``https``.
        host: lower case, IPv6 in brackets.
        port: always there.
        path: percent-encoded, begins with a slash.
        query: as written, without its question mark; empty when there is none.
    """

    scheme: str
    host: str
    port: int
    path: str
    query: str = field(default="", repr=False)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``text``.

        Raises:
            ValueError: it is no http(s) URL, or names a user; the message repeats nothing of it.
        """
        try:
            text = quote(text, safe=_URL_CHARS, encoding="utf-8", errors="surrogateescape")
            parts = urlsplit(text)
            host, port = (parts.hostname or "").rstrip("."), parts.port
        except ValueError:
            raise ValueError("no URL") from None
        scheme = parts.scheme.lower()
        if scheme not in _PORTS:
            raise ValueError("neither http nor https")
        if "@" in parts.netloc:
            raise ValueError("it names a user")
        if ":" in host:
            host = f"[{host}]"
        if not _HOST.fullmatch(host):
            raise ValueError("no host name")
        return cls(scheme=scheme, host=host, port=port or _PORTS[scheme], path=parts.path or "/", query=parts.query)

    def joined(self, location: str) -> Url:
        """Where a redirect from here leads; raises as :meth:`parse`."""
        # http.client reads headers as latin-1, whatever bytes they are.
        raw = quote(location.encode("latin-1", "replace"), safe=_URL_CHARS)
        try:
            joined = urljoin(f"{self.origin}{self.target}", raw)
        except ValueError:
            raise ValueError("no URL") from None
        return Url.parse(joined)

    def at(self, path: str, query: str = "") -> Url:
        """Another path on the same server."""
        return replace(self, path=path, query=query)

    @property
    def netloc(self) -> str:
        return self.host if self.port == _PORTS[self.scheme] else f"{self.host}:{self.port}"

    @property
    def origin(self) -> str:
        return f"{self.scheme}://{self.netloc}"

    @property
    def target(self) -> str:
        """What goes into the request line."""
        return f"{self.path}?{self.query}" if self.query else self.path

    @property
    def shown(self) -> str:
        """The URL without its query, which may be a secret: fit for logs, policies and people."""
        return f"{self.origin}{self.path}"

    @property
    def readable(self) -> str:
        """As ``shown``, its path decoded where that prints."""
        text = unquote(self.path, errors="replace")
        return f"{self.origin}{printable(text)}"


def printable(text: str) -> str:
    """``text`` as one line that moves no cursor."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode("ascii") for char in text
    )


def encoded(key: str) -> str:
    """A key as part of a URL's path; its slashes stay."""
    return quote(key.encode("utf-8", "surrogateescape"), safe="/-._~")
