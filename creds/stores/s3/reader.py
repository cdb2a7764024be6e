"""The obstore store: it takes nothing from the environment, and its keys are those of one moment."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from obstore.store import S3Store

from creds.store import StoreOptions

if TYPE_CHECKING:
    from obstore.store import ClientConfig

    from creds.keys import AwsKeys


def make_reader(
    bucket: str,
    options: StoreOptions,
    *,
    endpoint_url: str | None,
    region: str,
    keys: AwsKeys | None,
    virtual: bool,
    proxies: Mapping[str, str],
) -> S3Store:
    """An obstore store that takes nothing from the environment. Its keys are one snapshot, never renewed."""
    endpoint = endpoint_url or _aws_endpoint(region)
    if virtual:
        parts = urlsplit(endpoint)
        endpoint = parts._replace(netloc=f"{bucket}.{parts.netloc}").geturl()

    def credential() -> Any:
        return {
            "access_key_id": keys.access_key if keys else "",
            "secret_access_key": keys.secret_key if keys else "",
            "token": keys.token if keys else None,
            "expires_at": None,
        }

    # Says nothing on a GET, which is all that is sent from here.
    encryption: dict[str, Any] = {"server_side_encryption": "AES256"}
    if options.s3.sse_c_key is not None:
        encryption = {
            "server_side_encryption": "sse-c",
            "sse_customer_key_base64": base64.b64encode(options.s3.sse_c_key).decode("ascii"),
        }
    network: ClientConfig = {}
    if options.tls.ca_pem is not None:
        network["root_certificate"] = options.tls.ca_pem
    if (proxy := proxies.get(urlsplit(endpoint).scheme)) is not None:
        network["proxy_url"] = proxy
    else:
        # Unsaid, the environment would say it: a proxy that is used for no name and no address is none.
        network["proxy_url"], network["proxy_excludes"] = "http://127.0.0.1:9", "*,0.0.0.0/0,::/0"
    return S3Store(
        bucket,
        endpoint=endpoint,
        aws_endpoint_url_s3=endpoint,
        region=region,
        default_region=region,
        virtual_hosted_style_request=virtual,
        credential_provider=credential,
        skip_signature=keys is None,
        # What follows says the default aloud: unsaid, an AWS_* variable would say it.
        s3_express=False,
        unsigned_payload=False,
        request_payer=options.s3.requester_pays,
        imdsv1_fallback=False,
        checksum_algorithm="SHA256",
        conditional_put="etag",
        copy_if_not_exists="multipart",
        disable_tagging=False,
        disable_bulk_delete=False,
        sse_bucket_key_enabled=False,
        **encryption,
        client_options={
            "allow_http": endpoint.startswith("http://"),
            "allow_invalid_certificates": False,
            "connect_timeout": f"{round(options.connect_timeout_seconds * 1000)}ms",
            # Silence is what ends a read, as with boto3. ``timeout`` counts the whole response and would kill a slow
            # link that still delivers; it is only the last resort against a server that sends a byte now and then.
            "read_timeout": f"{round(options.read_timeout_seconds * 1000)}ms",
            "timeout": f"{round(options.read_timeout_seconds * 60_000)}ms",
            "user_agent": "artifact-creds",
            **network,
        },
        retry_config={"max_retries": 0},
    )


def _aws_endpoint(region: str) -> str:
    """The endpoint that botocore would choose, for the engine that must be told one."""
    return f"https://s3.{region}.amazonaws.com" + (".cn" if region.startswith("cn-") else "")
