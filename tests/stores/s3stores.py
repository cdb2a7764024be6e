"""S3 stores as the tests want them."""

from __future__ import annotations

from typing import Any

import servers

from creds.keys import AwsKeys
from creds.store import Retries, StoreOptions
from creds.stores.s3 import S3Store

QUICK = Retries(attempts=4, for_seconds=20.0, first_wait_seconds=0.01, max_wait_seconds=0.05)


def s3_store(
    server: servers.S3Server,
    bucket: str,
    *,
    keys: servers.Keys | None = None,
    endpoint_url: str | None = None,
    provider: Any = None,
    anonymous: bool = False,
    on_aws: bool = False,
    checksums: bool = False,
    guard: Any = None,
    **options: Any,
) -> S3Store:
    """A store on ``server``, or on ``endpoint_url`` before it, with waits too short to notice."""
    keys = keys or server.admin
    snapshot = AwsKeys(access_key=keys.access_key, secret_key=keys.secret_key)
    options.setdefault("retries", QUICK)
    return S3Store(
        bucket,
        endpoint_url=endpoint_url or server.endpoint_url,
        region="us-east-1",
        provider=None if anonymous else provider or (lambda: snapshot),
        options=StoreOptions(**options),
        on_aws=on_aws,
        addressing="path",
        checksums=checksums,
        guard=guard,
        location=f"s3://{server.address[0]}:{server.address[1]}/{bucket}",
    )
