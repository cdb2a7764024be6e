"""Forward proxies: which one leads to a server, and who we are to it.

They are named as everywhere: ``HTTP_PROXY``, ``HTTPS_PROXY`` and ``NO_PROXY``, or the same by option.
"""

from __future__ import annotations

import base64
import ipaddress
import os
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from creds.errors import LocationError
from creds.location import split_server
from creds.store import StoreOptions

_SCHEMES = ("http", "https")


class Proxy(NamedTuple):
    """A forward proxy: its URL without a user, and the headers that say who we are to it, which are secrets."""

    url: str
    headers: tuple[tuple[str, str], ...]

    def __repr__(self) -> str:
        return f"Proxy({self.url!r})"


class Proxies:
    """The proxies of ``options``, else of the environment as it is now.

    Raises:
        LocationError: one of them is no URL; says nothing of it, since it may hold a password.
    """

    def __init__(self, options: StoreOptions) -> None:
        texts = named(options)
        self._direct = texts.get("no", "")
        made = {scheme: _proxy(texts[scheme]) for scheme in _SCHEMES if texts.get(scheme)}
        del texts  # passwords are in no frame of an error
        if None in made.values():
            hint = "write it as http://host:port or http://user:password@host:port"
            raise LocationError("the proxy's URL cannot be used", hint=hint)
        self._made = {scheme: proxy for scheme, proxy in made.items() if proxy is not None}

    def to(self, scheme: str, host: str, port: int) -> Proxy | None:
        """What leads to this server; None where it is reached directly."""
        found = self._made.get(scheme)
        return None if found is None or _bypassed(host.strip("[]"), port, self._direct) else found


def proxy_of(origin: str, options: StoreOptions) -> Proxy | None:
    """The proxy that leads to the server ``scheme://host[:port]``, or None. Raises as :class:`Proxies`."""
    return Proxies(options).to(*split_server(origin, _SCHEMES))


def named(options: StoreOptions) -> Mapping[str, str]:
    """The proxies' URLs by scheme, secrets included, and ``no``: who is reached without."""
    if options.proxies is not None:
        return options.proxies
    if not any(name.lower().endswith("_proxy") for name in os.environ):
        return {}
    from urllib.request import getproxies_environment  # slow to load, and most often there is no proxy

    return getproxies_environment()


def _proxy(text: str) -> Proxy | None:
    """Read a proxy's URL; None where it is none."""
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        scheme, host, port = split_server(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}", _SCHEMES)
        headers: tuple[tuple[str, str], ...] = ()
        if "@" in parts.netloc:
            user = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}".encode("latin-1")
            headers = (("proxy-authorization", f"Basic {base64.b64encode(user).decode('ascii')}"),)
    except ValueError:
        return None
    return Proxy(f"{scheme}://{host}:{port}", headers)


def _bypassed(host: str, port: int, exceptions: str) -> bool:
    """Does ``NO_PROXY`` name the host: by ``*``, a name, a domain, ``host:port`` or a network?"""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        address = None
    for text in exceptions.lower().split(","):
        entry = text.strip()
        name, colon, number = entry.rpartition(":")
        if colon and number.isdecimal() and (":" not in name or name.endswith("]")):  # else it is part of an IPv6
            if int(number) != port:
                continue
            entry = name
        entry = entry.strip("[]").removeprefix("*.").lstrip(".")
        if entry in ("*", host) or (entry and address is None and host.endswith(f".{entry}")):
            return True
        if address is not None and "/" in entry:
            try:
                if address in ipaddress.ip_network(entry, strict=False):
                    return True
            except ValueError:
                continue
    return False
