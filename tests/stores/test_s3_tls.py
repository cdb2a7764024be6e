"""S3 over TLS with a private authority, with a client's certificate, and through a proxy; every leg of it."""

from __future__ import annotations

import pytest
from s3stores import s3_store
from tlsfront import Authority, forward_proxy, tls_front

from creds.errors import StoreError, StoreUnavailable
from creds.store import Tls


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path)


def round_trip(store) -> None:
    """Every kind of leg: a PUT, a HEAD, a GET, a GET of an odd key, a listing, and a HEAD by the client."""
    for key in ("plain", "odd//key"):
        store.write(key, [b"content"])
        with store.open(key) as reading:
            assert b"".join(reading) == b"content"
    assert store.head("plain").size_bytes == 7
    assert [entry.key for entry in store.list("pl")] == ["plain"]


def test_a_private_authority_is_trusted_beside_the_systems(seaweed, bucket, authority):
    """With its certificate given every leg works; without it none does, at once, with a hint and without retries."""
    with tls_front(seaweed.address, authority) as front:
        url = f"https://localhost:{front.port}"
        store = s3_store(seaweed, bucket, endpoint_url=url, tls=Tls(ca_pem=authority.pem))
        round_trip(store)
        store.close()
        store = s3_store(seaweed, bucket, endpoint_url=url)
        for call in (
            lambda: store.open("plain").__enter__(),
            lambda: store.write("k", [b"x"]),
            lambda: store.head("k"),
        ):
            with pytest.raises(StoreError) as caught:
                call()
            assert not caught.value.retryable
            assert "certificate" in f"{caught.value} {caught.value.hint}"
        store.close()


def test_a_certificate_for_another_name_is_refused(seaweed, bucket, authority):
    """The name counts, not only the signature."""
    with tls_front(seaweed.address, authority) as front:
        store = s3_store(seaweed, bucket, endpoint_url=f"https://127.0.0.2:{front.port}", tls=Tls(ca_pem=authority.pem))
        with pytest.raises(StoreError):
            store.head("k")
        with pytest.raises(StoreError):
            store.open("k").__enter__()
        store.close()


def test_a_server_in_plaintext_is_said_to_be_one(seaweed, bucket):
    """Spoken to over TLS it is no outage: at once, with the flag, from every verb."""
    store = s3_store(seaweed, bucket, endpoint_url=seaweed.endpoint_url.replace("http:", "https:"))
    for call in (lambda: store.open("k").__enter__(), lambda: store.head("k")):
        with pytest.raises(StoreUnavailable, match="does not speak TLS here") as caught:
            call()
        assert not caught.value.retryable
        assert "--endpoint http://" in caught.value.hint
    store.close()


def test_a_client_certificate_is_shown_on_every_leg(seaweed, bucket, authority):
    """A server that asks for one gets it, from boto3 for reads too; without one nothing works."""
    with tls_front(seaweed.address, authority, client_cert=True) as front:
        url = f"https://localhost:{front.port}"
        tls = Tls(ca_pem=authority.pem, client_cert=authority.client_cert, client_key=authority.client_key)
        store = s3_store(seaweed, bucket, endpoint_url=url, tls=tls)
        round_trip(store)
        store.close()
        store = s3_store(seaweed, bucket, endpoint_url=url, tls=Tls(ca_pem=authority.pem))
        with pytest.raises(StoreUnavailable):
            store.head("plain")
        store.close()


@pytest.mark.parametrize("source", ["options", "environment"])
def test_a_proxy_is_used(seaweed, bucket, authority, monkeypatch, source):
    """Given by options or by the environment, for plaintext and TLS; what is excluded goes directly."""
    with forward_proxy() as proxy, tls_front(seaweed.address, authority) as front:
        url = f"http://127.0.0.1:{proxy.port}"
        if source == "environment":
            monkeypatch.setenv("HTTPS_PROXY", url)
            options = {}
        else:
            options = {"proxies": {"https": url, "http": url}}
        https = f"https://localhost:{front.port}"
        store = s3_store(seaweed, bucket, endpoint_url=https, tls=Tls(ca_pem=authority.pem), **options)
        round_trip(store)
        store.close()
        assert set(proxy.connects) == {f"localhost:{front.port}"}
        used = len(proxy.connects)
        assert used >= 1
        monkeypatch.setenv("HTTPS_PROXY", url)
        for direct in ({"proxies": {}}, {"proxies": {"https": url, "no": "localhost"}}):
            store = s3_store(seaweed, bucket, endpoint_url=https, tls=Tls(ca_pem=authority.pem), **direct)
            round_trip(store)
            store.close()
        assert len(proxy.connects) == used


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_no_proxy_is_none_for_names_and_addresses(seaweed, bucket, monkeypatch, host):
    """An empty mapping wins over the environment, whose proxy does not even exist."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    store = s3_store(seaweed, bucket, endpoint_url=f"http://{host}:{seaweed.address[1]}", proxies={})
    round_trip(store)
    store.close()


def test_no_proxy_names_networks(seaweed, bucket):
    """As in-cluster endpoints have them; the proxy does not even exist."""
    store = s3_store(seaweed, bucket, proxies={"http": "http://127.0.0.1:9", "no": "10.0.0.0/8,127.0.0.0/8"})
    round_trip(store)
    store.close()


def test_plaintext_through_a_proxy(seaweed, bucket):
    """An http endpoint is asked for by its whole URL."""
    with forward_proxy() as proxy:
        store = s3_store(seaweed, bucket, proxies={"http": f"http://127.0.0.1:{proxy.port}"})
        round_trip(store)
        store.close()
        assert all(target.startswith(seaweed.endpoint_url) for target in proxy.connects)
        assert len(proxy.connects) >= 4
