"""Clients of the Python peers, by the endpoint and keys in the environment."""

import os

ENDPOINT = os.environ.get("BENCH_ENDPOINT", "")
KEYS = (os.environ.get("AWS_ACCESS_KEY_ID", ""), os.environ.get("AWS_SECRET_ACCESS_KEY", ""))
THREADS = 8


def obstore_store(bucket):
    from obstore.store import S3Store

    return S3Store(
        bucket,
        endpoint=ENDPOINT,
        region="us-east-1",
        virtual_hosted_style_request=False,
        access_key_id=KEYS[0],
        secret_access_key=KEYS[1],
        client_options={"allow_http": True},
    )


def boto3_client():
    import boto3
    from botocore.config import Config

    config = Config(
        s3={"addressing_style": "path"},
        max_pool_connections=2 * THREADS,
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    return boto3.client("s3", endpoint_url=ENDPOINT, config=config)


def minio_client():
    import minio

    return minio.Minio(
        ENDPOINT.removeprefix("http://"), access_key=KEYS[0], secret_key=KEYS[1], secure=False, region="us-east-1"
    )


def s3fs_system():
    import s3fs

    return s3fs.S3FileSystem(
        key=KEYS[0], secret=KEYS[1], endpoint_url=ENDPOINT, client_kwargs={"region_name": "us-east-1"}
    )
