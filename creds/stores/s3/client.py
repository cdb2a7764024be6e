"""The live boto3 client, for what a store has no verb for: it takes nothing from the environment either."""

from __future__ import annotations

import functools
import os
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3.session
import botocore
from botocore.awsrequest import AWSHTTPSConnection, AWSHTTPSConnectionPool
from botocore.config import Config
from botocore.configprovider import ConstantProvider
from botocore.credentials import CredentialResolver, Credentials, ReadOnlyCredentials
from botocore.loaders import Loader
from botocore.session import Session

from creds.store import S3, StoreOptions, Tls
from creds.stores.s3 import headers, logs

if TYPE_CHECKING:
    from creds.keys import CredentialProvider

_NAME = "artifact-creds"


class _Live(Credentials):  # type: ignore[misc]  # botocore ships no types
    """Keys that are asked for at every signature."""

    def __init__(self, provider: CredentialProvider) -> None:
        super().__init__("", "", method=_NAME)
        self._provider = provider

    def get_frozen_credentials(self) -> Any:
        keys = self._provider()
        return ReadOnlyCredentials(keys.access_key, keys.secret_key, keys.token)


class _Source:
    """The one place that botocore looks for keys in."""

    METHOD = CANONICAL_NAME = _NAME

    def __init__(self, provider: CredentialProvider | None) -> None:
        self._provider = provider

    def load(self) -> Any:
        return None if self._provider is None else _Live(self._provider)


class _Models(Loader):  # type: ignore[misc]  # as above
    @property
    def search_paths(self) -> list[str]:
        # A copy: every boto3 session appends its folder, and this loader serves all of them.
        return list(self._search_paths)

    def list_available_services(self, type_name: str) -> list[str]:
        # It would look into the folders of all four hundred of AWS' services to see whether this one is among them.
        del type_name
        return ["s3"]


@functools.cache
def _models() -> Any:
    """The SDK's own service models, parsed once a process; never those of ``AWS_DATA_PATH`` or ``~/.aws/models``."""
    own = str(Path(boto3.__file__).parent / "data")
    return _Models(extra_search_paths=[Loader.BUILTIN_DATA_PATH, own], include_default_search_paths=False)


def make_client(
    options: StoreOptions,
    *,
    endpoint_url: str | None,
    region: str,
    provider: CredentialProvider | None,
    virtual: bool,
    checksums: bool,
    proxies: Mapping[str, str],
) -> Any:
    """A boto3 client that takes nothing from the environment and asks ``provider`` for keys at every signature.

    Raises:
        CredentialError: the client's certificate cannot be used.
    """
    # botocore would find out at the first request, and ask on the terminal for an encrypted key's passphrase.
    options.tls.show(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    logs.mask()
    core = Session(
        # Every setting loses its environment variable and its name in ~/.aws/config, and keeps its default.
        session_vars={
            name: (None, None, default, convert) for name, (_, _, default, convert) in Session.SESSION_VARIABLES.items()
        }
        | {
            "profile": (None, None, None, None),
            "config_file": (None, None, os.devnull, None),
            "credentials_file": (None, None, os.devnull, None),
        }
    )
    core.get_component("config_store").set_config_provider("s3", ConstantProvider({}))
    core.register_component("credential_provider", CredentialResolver([_Source(provider)]))
    core.register_component("data_loader", _models())
    client = boto3.session.Session(botocore_session=core).client(
        "s3",
        region_name=region,
        endpoint_url=endpoint_url,
        verify=True,  # said, because REQUESTS_CA_BUNDLE would answer otherwise
        config=Config(
            signature_version=botocore.UNSIGNED if provider is None else "s3v4",
            s3={
                "addressing_style": "virtual" if virtual else "path",
                "us_east_1_regional_endpoint": "regional",
                "use_accelerate_endpoint": False,
                "use_dualstack_endpoint": False,
                "use_arn_region": False,
            },
            connect_timeout=options.connect_timeout_seconds,
            read_timeout=options.read_timeout_seconds,
            retries={"total_max_attempts": 1, "mode": "standard"},
            max_pool_connections=max(10, 2 * options.parallel_parts),
            ignore_configured_endpoint_urls=True,
            request_checksum_calculation="when_supported" if checksums else "when_required",
            # A ranged GET is answered by some servers with the whole object's checksum, which then fails to match.
            response_checksum_validation="when_required",
            use_fips_endpoint=False,
            use_dualstack_endpoint=False,
            user_agent=_NAME,
            proxies=proxies,
            client_cert=_client_cert(options.tls),
        ),
    )
    client.meta.events.register("before-call.s3.HeadBucket", _ask_once)
    client.meta.events.register("before-sign.s3", functools.partial(_add_headers, options.s3))
    if options.tls.ca_pem is not None:
        # The one private name used: botocore trusts its own bundle or another, and nothing public trusts both.
        pools = client._endpoint.http_session._pool_classes_by_scheme  # noqa: SLF001 - see above
        pools["https"] = _trusting(options.tls.ca_pem)
    return client


def _ask_once(context: dict[str, Any], **_: Any) -> None:
    """Keep botocore's question for the bucket's region from being redirected itself, which it would ask about again."""
    context.setdefault("s3_redirect", {})["redirected"] = True


def _add_headers(s3: S3, request: Any, operation_name: str, signature_version: Any, **_: Any) -> None:
    """Say with a request what the options say of all of them; what the caller said with this one goes before it."""
    if str(signature_version).endswith("-query"):
        # A presigned URL: whoever holds it sends no headers of ours.
        if s3.requester_pays:
            request.params.setdefault(*headers.PAYER)
        return
    for name, value in headers.of_operation(s3, operation_name).items():
        if name not in request.headers:
            request.headers[name] = value


def _trusting(ca_pem: bytes) -> type[AWSHTTPSConnectionPool]:
    """A pool of connections that trust ``ca_pem`` beside whatever botocore does."""

    class Connection(AWSHTTPSConnection):  # type: ignore[misc]  # botocore ships no types
        def connect(self) -> None:
            self.ca_cert_data = ca_pem.decode("ascii")
            super().connect()

    class Pool(AWSHTTPSConnectionPool):  # type: ignore[misc]  # as above
        ConnectionCls = Connection

    return Pool


def _client_cert(tls: Tls) -> str | tuple[str, str] | None:
    if tls.client_cert is None or tls.client_key is None:
        return tls.client_cert
    return tls.client_cert, tls.client_key
