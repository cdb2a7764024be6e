"""Which forward proxy leads to a server, and who we say we are to it."""

import base64
import traceback

import pytest

from creds.errors import LocationError
from creds.proxies import proxy_of
from creds.store import StoreOptions

PROXY = "http://proxy.corp:3128"


def found(origin, **proxies):
    return proxy_of(origin, StoreOptions(proxies=proxies))


def test_each_scheme_has_its_own():
    both = {"http": PROXY, "https": "https://tls.corp"}
    assert found("http://a.test", **both).url == PROXY
    assert found("https://a.test:9000", **both).url == "https://tls.corp:443"
    assert found("https://a.test", http=PROXY) is None
    assert found("http://a.test") is None
    assert found("http://a.test", http="proxy.corp:3128/").url == PROXY
    assert found("http://a.test", http="http://[::1]:3128").url == "http://[::1]:3128"


@pytest.mark.parametrize(
    ("origin", "exceptions", "direct"),
    [
        ("http://a.corp", "*", True),
        ("http://a.corp", "a.corp", True),
        ("http://a.corp", "corp", True),
        ("http://a.corp", ".corp, b.test", True),
        ("http://a.corp", "*.CORP", True),
        ("http://a.corp", "orp", False),
        ("http://a.corp", "a.corp:80", True),
        ("http://a.corp", "a.corp:81", False),
        ("http://10.1.2.3:9000", "10.0.0.0/8", True),
        ("http://10.1.2.3:9000", "10.1.2.3:9000", True),
        ("http://10.1.2.3:9000", "10.1.2.3:9001", False),
        ("http://10.1.2.3:9000", "11.0.0.0/8,nonsense/x", False),
        ("http://10.1.2.3:9000", "2.3", False),
        ("http://[fd00::1]:9000", "fd00::/8", True),
        ("http://[fd00::1]:9000", "[fd00::1]:9000", True),
        ("http://a.corp", "", False),
    ],
)
def test_who_is_reached_without(origin, exceptions, direct):
    assert (found(origin, http=PROXY, no=exceptions) is None) is direct


def test_a_login_is_decoded_and_not_shown():
    """A password with a colon and an at sign is written percent-encoded in a URL."""
    proxy = found("http://a.test", http="http://us%40er:p%3Aw%40rd@proxy.corp:3128")
    assert proxy.url == PROXY
    ((name, value),) = proxy.headers
    assert name == "proxy-authorization"
    assert base64.b64decode(value.removeprefix("Basic ")) == b"us@er:p:w@rd"
    assert repr(proxy) == f"Proxy({PROXY!r})"


@pytest.mark.parametrize("text", ["socks5://u:planted@proxy.corp", "http://u:planted@", "http://u:planted@host:port"])
def test_what_is_no_proxy_is_told_without_its_password(text):
    with pytest.raises(LocationError, match="the proxy's URL cannot be used") as raised:
        found("http://a.test", http=text)
    assert "planted" not in "".join(traceback.format_exception(raised.value))


def test_the_environment_where_nothing_is_said(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", PROXY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.0/8")
    options = StoreOptions()
    assert proxy_of("http://a.test", options).url == PROXY
    assert proxy_of("http://127.0.0.1:9000", options) is None
    assert proxy_of("http://a.test", StoreOptions(proxies={})) is None
