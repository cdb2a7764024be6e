"""One small exchange over HTTP, for keys and tokens: by the same CA, proxies, timeouts and retries as the stores.

The stores have engines of their own. This is for what stands beside them: a security token service, an issuer's
published keys. A redirect is never followed, since what is sent may be a token.
"""

from __future__ import annotations

import logging
import ssl
import urllib.request
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from creds import retry
from creds.errors import RefreshError
from creds.location import split_url
from creds.store import Retry, StoreOptions, Tls

if TYPE_CHECKING:
    import urllib3

LIMIT_BYTES = 1 << 20
"""An answer that is longer is none that was asked for."""

_LOG = logging.getLogger("creds")


class Answer(NamedTuple):
    """A server's answer with a status below 500, other than 429."""

    status: int
    body: bytes


def ask(
    method: str,
    url: str,
    options: StoreOptions,
    *,
    what: str,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """Make one idempotent request, with retries. Blocks; connects to nothing but ``url``'s server or its proxy.

    Args:
        method, url, body, headers: the request. Nothing of it is logged or part of an error but the URL's origin.
        options: its CA, client certificate, proxies, timeouts and retries.
        what: who is asked, for messages.

    Raises:
        RefreshError: no answer, or none of use; retryable unless the server's certificate is not trusted.
    """

    def attempt() -> Answer:
        return _once(method, url, options, what, body, headers or {})

    def tell(again: Retry) -> None:
        _LOG.info("%s; trying again in %.1f s", again.error, again.wait_seconds)

    return retry.run(attempt, retry.Schedule("refresh", options.retries, on_retry=tell))


def context(tls: Tls) -> ssl.SSLContext:
    """How certificates are checked: the system's authorities and ``tls.ca_pem``; shows ``tls.client_cert``.

    Raises:
        RefreshError: a certificate cannot be read.
    """
    try:
        made = ssl.create_default_context()
        if tls.ca_pem is not None:
            made.load_verify_locations(cadata=tls.ca_pem.decode("ascii"))
        if tls.client_cert is not None:
            made.load_cert_chain(tls.client_cert, tls.client_key)
    except (OSError, ValueError) as error:
        raise RefreshError(f"a certificate cannot be read: {error}", hint="it is written as PEM") from error
    return made


def _once(
    method: str, url: str, options: StoreOptions, what: str, body: bytes | None, headers: Mapping[str, str]
) -> Answer:
    import urllib3
    from urllib3.exceptions import HTTPError, SSLError, TimeoutError as Silence

    try:
        with _pool(url, options) as pool:
            response = pool.request(
                method,
                url,
                body=body,
                headers={"Accept-Encoding": "identity", "User-Agent": "artifact-creds", **headers},
                redirect=False,
                retries=False,
                preload_content=False,
                timeout=urllib3.Timeout(connect=options.connect_timeout_seconds, read=options.read_timeout_seconds),
            )
            content = response.read(LIMIT_BYTES + 1, decode_content=False)
            response.close()
    except SSLError as error:
        raise RefreshError(
            f"{what}: the server's certificate is not trusted",
            hint="check the endpoint's name and the certificate authority",
        ) from error
    except Silence as error:
        raise RefreshError(f"{what}: no answer in time", retryable=True) from error
    except (HTTPError, OSError) as error:
        raise RefreshError(
            f"{what}: cannot be reached", hint="check that the endpoint is up and reachable", retryable=True
        ) from error
    if response.status >= 500 or response.status == 429:
        raise RefreshError(f"{what}: answered {response.status}", retryable=True)
    if len(content) > LIMIT_BYTES:
        raise RefreshError(f"{what}: the answer is longer than {LIMIT_BYTES} bytes")
    return Answer(response.status, content)


def _pool(url: str, options: StoreOptions) -> urllib3.PoolManager:
    """Connections for one exchange: keys are renewed so seldom that a kept connection would be closed by then."""
    import urllib3

    origin = url.partition("://")[0] + "://" + url.partition("://")[2].partition("/")[0]
    tls, host, port = split_url(origin)
    trust = context(options.tls) if tls else None
    proxies = urllib.request.getproxies_environment() if options.proxies is None else dict(options.proxies)
    proxy = proxies.get("https" if tls else "http")
    bypassed = urllib.request.proxy_bypass_environment(f"{host}:{port}", proxies)  # type: ignore[attr-defined]  # unknown to typeshed
    if not proxy or bypassed:
        return urllib3.PoolManager(ssl_context=trust)
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    user = urllib3.util.parse_url(proxy).auth
    return urllib3.ProxyManager(
        proxy,
        proxy_headers=urllib3.make_headers(proxy_basic_auth=user) if user else None,
        proxy_ssl_context=context(options.tls) if proxy.startswith("https:") else None,
        ssl_context=trust,
    )
