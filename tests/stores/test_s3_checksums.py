"""What an S3 server tells of an object's digest, and when its ETag is none."""

from __future__ import annotations

import hashlib
import os

import pytest
import servers
from s3stores import s3_store

from creds.errors import AccessDenied, StoreUnavailable
from creds.store import ObjectMeta
from creds.stores.s3.meta import with_md5
from creds.testing import Fault, FaultProxy

MIB = 1 << 20


def etag(*parts: bytes) -> str:
    digests = b"".join(hashlib.md5(part).digest() for part in parts)
    return f'"{hashlib.md5(digests).hexdigest()}-{len(parts)}"' if len(parts) > 1 else f'"{digests.hex()}"'


def told(parts: list[bytes], bucket: str = "plain", **encrypted: str) -> dict[str, str]:
    """What is made of the answer about an object of these parts."""
    found = ObjectMeta(key="k", size_bytes=sum(map(len, parts)), etag=etag(*parts))
    headers = {f"x-amz-server-side-encryption{name}": value for name, value in encrypted.items()}
    return dict(with_md5(found, headers, bucket, lambda number: (len(parts[number - 1]), len(parts))).checksums)


def test_an_etag_that_is_an_md5() -> None:
    """Unless the bytes are encrypted with a key of KMS or of the customer, or the bucket makes ETags of its own."""
    assert set(told([b"x"])) == set(told([b"x"], **{"": "AES256"})) == {"md5"}
    assert told([b"x"], **{"": "aws:kms"}) == told([b"x"], **{"": "aws:kms:dsse"}) == {}
    assert told([b"x"], **{"-customer-algorithm": "AES256"}) == {}
    assert told([b"x"], bucket="express--use1-az4--x-s3") == {}


@pytest.mark.parametrize(
    ("sizes", "names"),
    [
        ((5, 5, 5), {"md5/5"}),
        ((5, 5, 1), {"md5/5"}),
        ((5, 6, 1), set()),
        ((5, 4, 6), set()),
        ((6, 5, 4), set()),
        ((5, 2), {"md5/5"}),
        ((2, 5), set()),
    ],
)
def test_an_etag_of_parts(sizes, names) -> None:
    """Of parts of one size, whose last may be shorter."""
    assert set(told([bytes(size) for size in sizes])) == names


def test_encrypted_by_kms(moto_server) -> None:
    """A real server's answer says so, and no MD5 is told."""
    bucket = moto_server.make_bucket("kms-and-plain")
    moto_server.client().put_object(Bucket=bucket, Key="kms", Body=b"x", ServerSideEncryption="aws:kms")
    moto_server.client().put_object(Bucket=bucket, Key="plain", Body=b"x")
    store = s3_store(moto_server, bucket)
    assert "md5" not in store.head("kms", checksums=True).checksums
    assert "md5" in store.head("plain", checksums=True).checksums
    assert store.head("plain").checksums == {}
    store.close()


def test_a_server_that_cannot_tell_of_parts(seaweed: servers.S3Server, bucket: str) -> None:
    """It says that it cannot: nothing is told. It fails: so does the question."""
    with FaultProxy(seaweed.address) as proxy:
        store = s3_store(seaweed, bucket, endpoint_url=proxy.url)
        store.write("k", [os.urandom(MIB)] * 17)
        assert set(store.head("k", checksums=True).checksums) == {f"md5/{8 * MIB}"}
        proxy.add(Fault(match="partNumber", status=501, times=9))
        assert store.head("k", checksums=True).checksums == {}
        for status, error in ((403, AccessDenied), (503, StoreUnavailable)):
            proxy._faults.clear()
            proxy.add(Fault(match="partNumber", status=status, times=9, body=b""))
            with pytest.raises(error):
                store.head("k", checksums=True)
        store.close()
