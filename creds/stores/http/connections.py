"""Connections: to the addresses that were checked, over TLS that is always verified, through the proxy that is set.

This is the only place that knows urllib3's connection classes. Each connection takes its real request target from
:func:`asking`, so that what urllib3 logs and raises holds the URL without its query.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError
from urllib3.util.connection import create_connection

from creds.errors import StoreError
from creds.proxies import Proxies, Proxy
from creds.store import StoreOptions, Tls
from creds.stores.url import Url
from creds.stores.wire import Wired

Addresses = Callable[[str, int], list[str]]

_KEPT = 32  # idle connections to one server
_asking = threading.local()


@contextmanager
def asking(target: str) -> Iterator[None]:
    """Let this thread's next requests go to ``target``, whatever URL urllib3 is told."""
    before = getattr(_asking, "target", None)
    _asking.target = target
    try:
        yield
    finally:
        _asking.target = before


class _Known(Wired):
    """A connection of one store: pinned, and patient with a slow reader."""

    addresses: Addresses | None = None
    silence_seconds: float = 60.0

    def connect(self) -> None:
        super().connect()
        self.live.settimeout(self.silence_seconds)

    def _new_conn(self) -> Any:
        # The one private name used: nothing public lets a connection go to an address of our choice while its Host,
        # its SNI and the certificate's name stay the host's. Through a proxy the proxy resolves.
        if self.addresses is None or self.proxy is not None:  # type: ignore[attr-defined]  # as above
            return super()._new_conn()  # type: ignore[misc]  # as above
        host, port = self.host, self.port  # type: ignore[attr-defined]  # as above
        failure: OSError | None = None
        for address in self.addresses(host, port):
            try:
                return create_connection(
                    (address, port),
                    self.timeout,  # type: ignore[attr-defined]  # as above
                    socket_options=self.socket_options,  # type: ignore[attr-defined]  # as above
                )
            except OSError as error:
                failure = error
        if isinstance(failure, TimeoutError):
            raise ConnectTimeoutError(self, f"Connection to {host} timed out") from failure
        raise NewConnectionError(self, "no address answers") from failure  # type: ignore[arg-type]  # as above

    def putrequest(self, method: str, url: str, *args: Any, **kwargs: Any) -> None:
        self.bind()
        if self.sock is not None:  # type: ignore[attr-defined]  # as above
            # Sending may be as slow as reading; urllib3 would allow it no longer than a connect.
            self.sock.settimeout(self.silence_seconds)  # type: ignore[attr-defined]  # as above
        super().putrequest(method, getattr(_asking, "target", None) or url, *args, **kwargs)  # type: ignore[misc]


def _pools(addresses: Addresses | None, silence: float) -> dict[str, type[HTTPConnectionPool]]:
    """urllib3's pools, with connections of one store."""
    own = {"addresses": staticmethod(addresses) if addresses is not None else None, "silence_seconds": silence}
    plain = type("_Connection", (_Known, HTTPConnection), dict(own))
    tls = type("_TLSConnection", (_Known, HTTPSConnection), dict(own))
    return {
        "http": type("_Pool", (HTTPConnectionPool,), {"ConnectionCls": plain}),
        "https": type("_TLSPool", (HTTPSConnectionPool,), {"ConnectionCls": tls}),
    }


def forget(connection: Any) -> None:
    """Count ``connection`` as nobody's: its exchange is over, and whoever stops must not break the next one."""
    wire = getattr(connection, "_wire", None)
    if wire is not None:
        wire.discard(connection)


class Connections:
    """The pools of one store, made when first needed; after a fork they are made again.

    Args:
        base: the store's own server: only there the client certificate is shown.
        options: timeouts, TLS and proxies.
        addresses: see :class:`creds.stores.http.store.HttpStore`.
        location: how errors name the store.
        trusted: called with the origin of another server; None trusts there what ``options`` say.
    """

    def __init__(
        self,
        base: Url,
        options: StoreOptions,
        addresses: Addresses | None,
        location: str,
        trusted: Callable[[str], Tls] | None = None,
    ) -> None:
        self._base = base
        self._options = options
        self._addresses = addresses
        self._location = location
        self._trusted = trusted
        self._lock = threading.Lock()
        self._closed = False
        self._pid = os.getpid()
        self._managers: dict[tuple[Proxy | None, bool, Tls | None], urllib3.PoolManager] = {}
        self._proxies: Proxies | None = None

    def to(self, url: Url) -> urllib3.PoolManager:
        """The manager for requests to ``url``.

        Raises:
            CredentialError: the client certificate cannot be used.
            LocationError: the authority or the proxy's URL cannot be used.
            StoreError: the store was closed.
        """
        if self._pid != os.getpid():
            # The lock may have been held, and the sockets are the parent's.
            self._lock, self._managers, self._pid = threading.Lock(), {}, os.getpid()
        with self._lock:
            if self._closed:
                raise StoreError(f"{self._location}: the store was closed", location=self._location)
            if self._proxies is None:
                self._proxies = Proxies(self._options)
            proxy = self._proxies.to(url.scheme, url.host, url.port)
            own, tls = url.origin == self._base.origin, None
            if url.scheme == "https":
                tls = self._options.tls if own or self._trusted is None else self._trusted(url.origin)
            if (proxy, own, tls) not in self._managers:
                self._managers[proxy, own, tls] = self._make(proxy, own=own, tls=tls)
            return self._managers[proxy, own, tls]

    def _make(self, proxy: Proxy | None, *, own: bool, tls: Tls | None) -> urllib3.PoolManager:
        options = self._options
        settings: dict[str, Any] = {
            "maxsize": _KEPT,
            "ssl_context": tls.context(shown=own) if tls is not None else None,
            "timeout": urllib3.Timeout(connect=options.connect_timeout_seconds, read=options.read_timeout_seconds),
            "retries": False,
        }
        if proxy is None:
            manager = urllib3.PoolManager(**settings)
        else:
            trust = options.tls.context(shown=False) if proxy.url.startswith("https:") else None
            manager = urllib3.ProxyManager(
                proxy.url, proxy_headers=dict(proxy.headers), proxy_ssl_context=trust, **settings
            )
        manager.pool_classes_by_scheme = _pools(self._addresses, options.read_timeout_seconds)
        return manager

    def close(self) -> None:
        """Close all connections; a second call does nothing."""
        with self._lock:
            self._closed = True
            managers, self._managers = self._managers, {}
        for manager in managers.values():
            manager.clear()
