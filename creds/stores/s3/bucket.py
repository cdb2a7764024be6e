"""One bucket on one server as one identity: both engines, made when first needed."""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies_environment, proxy_bypass_environment  # type: ignore[attr-defined]  # one is unknown to typeshed

from creds import retry
from creds.errors import StoreError, Unauthenticated
from creds.store import Cancel, StoreOptions, Window
from creds.stores.s3.loop import Loop
from creds.stores.wire import current, stoppable

if TYPE_CHECKING:
    from creds.keys import AwsKeys, CredentialProvider


T = TypeVar("T")


class Reader(NamedTuple):
    """obstore with the keys of one moment, and whom to ask when they are refused."""

    engine: Any
    refresh: retry.Refresh | None


class Bucket:
    """What all verbs share; its arguments are those of :class:`creds.stores.s3.store.S3Store`.

    After a fork the engines are made again: threads and sockets do not survive it.
    """

    def __init__(
        self,
        name: str,
        *,
        endpoint_url: str | None,
        region: str,
        provider: CredentialProvider | None,
        options: StoreOptions,
        virtual: bool,
        checksums: bool,
        guard: Callable[[], None] | None,
        location: str,
    ) -> None:
        self.name = name
        self.options = options
        self.window = options.window or Window()
        self.throttle = options.sessions.shared(("throttle", endpoint_url or region), retry.Throttle)
        self.checksums = checksums
        self.location = location
        self.signs = provider is not None
        self._endpoint_url = endpoint_url
        self._region = region
        self._provider = provider
        self._virtual = virtual
        self._guard = guard
        self._closed = False
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.RLock()
        self._pid = os.getpid()
        self._client: Any = None
        self._reader: tuple[AwsKeys | None, Any] | None = None
        self._loop: Loop | None = None
        self._stopper: weakref.finalize[Any, Any] | None = None

    def _ready(self) -> None:
        if self._closed:
            raise StoreError(f"{self.location}: the store was closed", location=self.location)
        if self._pid != os.getpid():
            self._reset()
        if self._guard is not None:
            with self._lock:
                if self._guard is not None:
                    self._guard()
                    self._guard = None

    @property
    def client(self) -> Any:
        """The live boto3 client."""
        self._ready()
        with self._lock:
            if self._client is None:
                from creds.stores.s3.client import make_client

                self._client = make_client(
                    self.options,
                    endpoint_url=self._endpoint_url,
                    region=self._region,
                    provider=self._provider,
                    virtual=self._virtual,
                    checksums=self.checksums,
                    proxies=self._proxies(),
                )
            return self._client

    def reader(self, cancel: Cancel | None = None) -> Reader:
        """The engine that reads, with the keys of this moment. ``cancel`` ends the wait for them."""
        keys = self._keys(cancel)
        with self._lock:
            if self._reader is None or not _alike(self._reader[0], keys):
                from creds.stores.s3.reader import make_reader

                engine = make_reader(
                    self.name,
                    self.options,
                    endpoint_url=self._endpoint_url,
                    region=self._region,
                    keys=keys,
                    virtual=self._virtual,
                    proxies=self._proxies(),
                )
                self._reader = keys, engine
            return Reader(self._reader[1], self._refresher(keys, None))

    def _proxies(self) -> Mapping[str, str]:
        """The proxy by scheme for this server, for both engines alike; none where it is to be reached directly."""
        host = urlsplit(self._endpoint_url or f"https://s3.{self._region}.amazonaws.com").netloc
        given = self.options.proxies
        proxies = dict(getproxies_environment() if given is None else given)
        if proxy_bypass_environment(host, proxies):
            return {}
        return {scheme: url for scheme, url in proxies.items() if scheme in ("http", "https")}

    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop that obstore's calls run on."""
        self._ready()
        with self._lock:
            if self._loop is None:
                self._loop = Loop()
                self._stopper = weakref.finalize(self, self._loop.stop)
            return self._loop.loop

    def refresher(self, cancel: Cancel | None) -> retry.Refresh | None:
        """Answers, about keys that were refused, whether the provider now has others. ``cancel`` ends all waits."""
        return self._refresher(self._keys(cancel), cancel)

    def _keys(self, cancel: Cancel | None) -> AwsKeys | None:
        from creds.keys import at_hand

        if self._provider is None:
            return None
        # A thread costs more than to ask a provider that has them; and one that is left with its verb needs no other.
        keys = at_hand(self._provider)
        return keys or _apart(self._provider, cancel)

    def _refresher(self, used: AwsKeys | None, cancel: Cancel | None) -> retry.Refresh | None:
        from creds.keys import renewed

        provider = self._provider
        if provider is None or used is None:
            return None
        return lambda error: isinstance(error, Unauthenticated) and _apart(lambda: renewed(provider, used), cancel)

    def close(self) -> None:
        """Close connections and threads; a second call does nothing."""
        with self._lock:
            self._closed = True
            client, stopper = self._client, self._stopper
            self._client = self._reader = self._loop = self._stopper = None
        if stopper is not None:
            stopper()
        if client is not None:
            client.close()


def _apart(work: Callable[[], T], cancel: Cancel | None) -> T:
    """Do ``work``, whose end may be far, so that ``cancel`` ends the wait. A thread that has a wire is left anyhow."""
    return work() if current() is not None else stoppable(work, cancel)


def _alike(some: AwsKeys | None, others: AwsKeys | None) -> bool:
    """Do both sign alike? When they end, and where they came from, makes no difference."""
    if some is None or others is None:
        return some is others
    return some.signs_like(others)
