"""Digests that are held to what a server told, and those that are not to be had."""

import base64
import hashlib
import sys

import pytest

from artifacts.digests import Digest, computing
from artifacts.errors import IntegrityError
from creds.store import ObjectMeta

CHECK = b"123456789"


def told(**checksums: bytes) -> ObjectMeta:
    return ObjectMeta(key="k", checksums={name: base64.b64encode(value).decode() for name, value in checksums.items()})


@pytest.mark.parametrize(
    ("algorithm", "value"), [("crc32", "cbf43926"), ("crc32c", "e3069283"), ("crc64nvme", "ae8b14860a799888")]
)
def test_checks_have_the_values_that_their_catalogue_gives(algorithm, value):
    """The check values of the CRC catalogue (reveng), in pieces, of any kind of buffer."""
    if algorithm != "crc32":
        pytest.importorskip("awscrt", reason="the extra crc is not installed")
    digest = computing(algorithm)
    digest.update(memoryview(CHECK)[:4])
    digest.update(CHECK[4:])
    assert digest.hexdigest() == value


def test_the_strongest_that_can_be_computed_is_taken(monkeypatch):
    """A hash before a check, either before the ETag; what is unknown, malformed or not installed is passed over."""
    sha256, md5 = hashlib.sha256(CHECK).digest(), hashlib.md5(CHECK).digest()
    crc32 = bytes.fromhex("cbf43926")
    assert Digest.of(told(md5=md5, crc32=crc32, sha256=sha256)).algorithm == "sha256"
    assert Digest.of(told(md5=md5, crc32=crc32)) == Digest(algorithm="crc32", hexdigest="cbf43926", by="checksum")
    assert Digest.of(told(md5=md5, sha256=b"short", sha3=sha256)).verified == "etag"
    monkeypatch.setitem(sys.modules, "awscrt", None)
    assert Digest.of(told(md5=md5, crc64nvme=bytes(8), crc32c=bytes(4))).algorithm == "md5"
    assert Digest.of(told(crc64nvme=bytes(8))) is None
    assert Digest.of(ObjectMeta(key="k", checksums={"sha256": "no base64!"})) is None
    assert Digest.of(told()) is None


@pytest.mark.parametrize("name", ["md5/0", "md5/-1", "md5/x", "sha256/8", "sha512", ""])
def test_what_is_no_algorithm(name):
    """A server's word for it is passed over."""
    with pytest.raises(ValueError, match="no digest is called"):
        computing(name)
    assert Digest.of(told(**{name: bytes(16)})) is None


@pytest.mark.parametrize("size", [1, 4, 9, 10])
@pytest.mark.parametrize("step", [1, 2, 9])
def test_the_md5_of_parts(size, step):
    """However the bytes come; the last part may be shorter, and is there where they end with one."""
    digest = computing(f"md5/{size}")
    for start in range(0, len(CHECK), step):
        digest.update(CHECK[start : start + step])
    parts = [hashlib.md5(CHECK[start : start + size]).digest() for start in range(0, len(CHECK), size)]
    assert digest.hexdigest() == hashlib.md5(b"".join(parts)).hexdigest()


def test_a_difference_says_whose_word_it_was():
    """The request's promise, or what the server has."""
    promise = Digest.parse(hashlib.md5(CHECK).hexdigest().upper())
    assert promise.check(hashlib.md5(CHECK).hexdigest()) == "md5"
    with pytest.raises(IntegrityError, match="the object's md5 is 00, promised was 25f9e794"):
        promise.check("00")
    with pytest.raises(IntegrityError, match="the crc32 of what came is 00, the server's checksum says cbf43926"):
        Digest.of(told(crc32=bytes.fromhex("cbf43926"))).check("00")
