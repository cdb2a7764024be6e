"""One bucket on one server as one identity: connections of our own, and the boto3 client; made when first needed."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from creds import proxies, retry
from creds.errors import CredentialError, StoreError, Unauthenticated
from creds.secret import Secret
from creds.store import Cancel, StoreOptions, Window
from creds.stores.s3 import headers, signing
from creds.stores.s3.connections import Addresses, Connections
from creds.stores.s3.parts import Part
from creds.stores.url import Url, encoded
from creds.stores.wire import apart

if TYPE_CHECKING:
    from creds.keys import AwsKeys, CredentialProvider


_FIXED = {"user-agent": "artifact-creds", "accept-encoding": "identity"}
_NAME = re.compile(r"[A-Za-z0-9._-]{1,255}")
_ASKED = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+: [\x20-\x7e]*")
_VALUE = re.compile(r"[\x20-\x7e\xa0-\xff]*")


class Bucket:
    """What all verbs share; its arguments are those of :class:`creds.stores.s3.store.S3Store`.

    After a fork both are made again: the sockets are the parent's.
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
        addresses: Addresses | None,
        location: str,
    ) -> None:
        self.name = name
        self.options = options
        self.window = options.window or Window()
        self.throttle = options.sessions.shared(("throttle", endpoint_url or region), retry.Throttle)
        self.checksums = checksums
        self.location = location
        self.signs = provider is not None
        self.closing = Cancel()  # tells what is under way that the store was closed
        self._endpoint_url = endpoint_url
        self._region = region
        self._provider = provider
        self._virtual = virtual
        self._guard = guard
        self._addresses = addresses
        self._closed = False
        url = Url.parse(endpoint_url or _aws_endpoint(region))
        self._url = replace(url, host=f"{name}.{url.host}") if virtual else url
        self._root = "/" if virtual else f"/{encoded(name)}/"
        if url.path != "/":
            self._root = url.path.rstrip("/") + self._root
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.RLock()
        self._pid = os.getpid()
        self._client: Any = None
        self._connections: Connections | None = None

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

    def connections(self) -> Connections:
        """Connections of our own to the server."""
        self._ready()
        with self._lock:
            if self._connections is None:
                proxy = proxies.proxy_of(self._url.origin, self.options)
                self._connections = Connections(self._url, self.options, proxy, self._addresses)
            return self._connections

    def request(
        self,
        method: str,
        key: str | None,
        asked: Mapping[str, str],
        operation: str,
        keys: AwsKeys | None,
        *,
        query: Mapping[str, str] | None = None,
        body: Part | None = None,
    ) -> Secret:
        """The head of a request, signed with ``keys`` where there are some.

        Args:
            key: None is about the bucket itself.
            asked: its own headers, by lower-case name.
            operation: as S3's API reference calls it.

        Raises:
            ValueError: S3 allows no such name or header.
            CredentialError: the keys hold what no header may hold.
        """
        connections = self.connections()  # first: what it raises must not have the headers in a frame
        path = self._root + encoded(key) if key is not None else self._root.rstrip("/") or "/"
        terms = signing.query_of(query or {})
        sent = {"host": self._url.netloc, **asked}
        if key == "" or not _NAME.fullmatch(self.name):
            raise ValueError("no name")
        if not all(_ASKED.fullmatch(f"{name}: {value}") for name, value in asked.items()):
            raise ValueError("no header")
        for name, value in headers.of_operation(self.options.s3, operation).items():
            sent.setdefault(name.lower(), value)
        if body is not None:
            sent["content-length"] = str(body.size_bytes)
            if self.checksums and operation in ("PutObject", "UploadPart"):
                sent |= {"x-amz-sdk-checksum-algorithm": "CRC32", "x-amz-checksum-crc32": body.crc32()}
        if keys is not None:
            # TLS keeps the body whole; without it the signature does.
            sha256 = signing.EMPTY_SHA256
            if body is not None:
                sha256 = signing.UNSIGNED if self._url.scheme == "https" else body.sha256()
            sent = signing.signed(method, path, terms, sent, keys, self._region, sha256=sha256)
        lines = "\r\n".join(f"{name}: {value}" for name, value in {**_FIXED, **sent}.items())
        target = f"{connections.prefix}{path}?{terms}" if terms else f"{connections.prefix}{path}"
        head = Secret(f"{method} {target} HTTP/1.1\r\n{lines}\r\n{connections.headers}\r\n")
        whole = all(_VALUE.fullmatch(value) for value in sent.values())
        del sent, lines
        if not whole:
            raise CredentialError("the keys hold a character that no header may hold")
        return head

    def presigned(self, method: str, key: str, seconds: int) -> str:
        """A URL that is signed with the keys of this moment. A secret."""
        keys = self.keys(None)
        assert keys is not None
        path = self._root + encoded(key)
        query = dict([headers.PAYER]) if self.options.s3.requester_pays else {}
        signed = signing.presigned(method, self._url.netloc, path, query, keys, self._region, seconds)
        return f"{self._url.origin}{path}?{signed}"

    def _proxies(self) -> Mapping[str, str]:
        """The proxies by scheme, as boto3 wants them; none where this server is to be reached directly."""
        if proxies.proxy_of(self._url.origin, self.options) is None:
            return {}
        return {scheme: url for scheme, url in proxies.named(self.options).items() if scheme in ("http", "https")}

    def refresher(self, cancel: Cancel | None) -> retry.Refresh | None:
        """Answers, about keys that were refused, whether the provider now has others. ``cancel`` ends all waits."""
        return self.renewing(self.keys(cancel), cancel)

    def keys(self, cancel: Cancel | None) -> AwsKeys | None:
        """The keys of this moment; None is anonymous. ``cancel`` ends the wait for them."""
        from creds.keys import at_hand

        if self._provider is None:
            return None
        # A thread costs more than to ask a provider that has them.
        return at_hand(self._provider) or apart(self._provider, cancel)

    def renewing(self, used: AwsKeys | None, cancel: Cancel | None) -> retry.Refresh | None:
        """As :meth:`refresher`, about the keys ``used``."""
        from creds.keys import renewed

        provider = self._provider
        if provider is None or used is None:
            return None
        return lambda error: isinstance(error, Unauthenticated) and apart(lambda: renewed(provider, used), cancel)

    def close(self) -> None:
        """Close what is idle, and whatever is in use when it is over; a second call does nothing."""
        with self._lock:
            self._closed = True
            client, connections = self._client, self._connections
            self._client = self._connections = None
        self.closing.cancel("the store was closed")
        if connections is not None:
            connections.close()
        if client is not None:
            client.close()


def _aws_endpoint(region: str) -> str:
    """The endpoint that botocore would choose."""
    return f"https://s3.{region}.amazonaws.com" + (".cn" if region.startswith("cn-") else "")
