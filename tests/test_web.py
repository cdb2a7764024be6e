"""The small exchange: trust, proxies and limits, on servers of the standard library."""

import contextlib
import datetime as dt
import ipaddress
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from creds.errors import CredentialError, LocationError, RefreshError
from creds.location import Location
from creds.models import AWSCredential, Credentials
from creds.policy import Policy
from creds.resolve import open_store
from creds.store import Retries, StoreOptions, Tls
from creds.testing import FaultProxy
from creds.web import ask

ONCE = Retries(attempts=1)


def certificate(name, issuer=None, address=None):
    """A certificate and its key, signed by ``issuer`` (such a pair) or by itself as an authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    signer, by = (issuer[1], issuer[0].subject) if issuer else (key, subject)
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(by)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
    if address:
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
        made = made.add_extension(names, critical=False)
    return made.sign(signer, hashes.SHA256()), key


def pem(pair):
    key = pair[1].private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return pair[0].public_bytes(serialization.Encoding.PEM) + key


@contextlib.contextmanager
def served(answer, *, tls=None):
    """A server that gives each request to ``answer``; yields its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            with contextlib.suppress(OSError):
                answer(self)

        def log_message(self, *_):
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_):
            """A client that does not trust the certificate goes away."""

    server = Server(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http{'s' if tls else ''}://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def greet(handler):
    handler.send_response(200)
    handler.send_header("Content-Length", "2")
    handler.end_headers()
    handler.wfile.write(b"hi")


def body(url, **options):
    return ask("GET", f"{url}/x", StoreOptions(**{"retries": ONCE, **options}), lambda answer: answer.body, what="it")


def test_a_private_authority(tmp_path):
    """A server of a private CA is trusted with that CA alone; one that wants a client certificate gets it."""
    authority, other = certificate("ca"), certificate("other")
    (tmp_path / "server.pem").write_bytes(pem(certificate("server", authority, "127.0.0.1")))
    (tmp_path / "client.pem").write_bytes(pem(certificate("client", authority)))
    ca, wrong = (pair[0].public_bytes(serialization.Encoding.PEM) for pair in (authority, other))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem")
    with served(greet, tls=context) as url:
        assert body(url, tls=Tls(ca_pem=ca)) == b"hi"
        for tls in (Tls(), Tls(ca_pem=wrong)):
            with pytest.raises(RefreshError, match="the server's certificate is not trusted") as raised:
                body(url, tls=tls)
            assert not raised.value.retryable
        with pytest.raises(RefreshError, match="certificate is not trusted"):
            body(url.replace("127.0.0.1", "localhost"), tls=Tls(ca_pem=ca))
    context.load_verify_locations(cadata=ca.decode())
    context.verify_mode = ssl.CERT_REQUIRED
    with served(greet, tls=context) as url:
        assert body(url, tls=Tls(ca_pem=ca, client_cert=str(tmp_path / "client.pem"))) == b"hi"
        with pytest.raises(RefreshError, match="cannot be reached"):
            body(url, tls=Tls(ca_pem=ca))


@pytest.mark.parametrize(
    ("tls", "error", "said"),
    [
        (Tls(ca_pem=b"planted"), LocationError, r"the certificate authority \(ca\) cannot be read"),
        (Tls(ca_pem=b"\xff"), LocationError, r"the certificate authority \(ca\) cannot be read"),
        (Tls(client_cert="/nonexistent/c.pem"), CredentialError, "the client certificate .* cannot be used$"),
    ],
)
def test_a_certificate_that_is_none(tls, error, said):
    """What cannot be read is said before any connection."""
    with pytest.raises(error, match=said):
        body("https://127.0.0.1:1", tls=tls)


@pytest.mark.parametrize("form", ["PKCS8", "TraditionalOpenSSL"])
@pytest.mark.parametrize("apart", [True, False])
def test_a_locked_client_key(tmp_path, form, apart):
    """Nobody is asked for the passphrase on a terminal, by no engine: the error says that the key is encrypted."""
    made, key = certificate("client")
    locked = key.private_bytes(
        serialization.Encoding.PEM,
        getattr(serialization.PrivateFormat, form),
        serialization.BestAvailableEncryption(b"passphrase"),
    )
    shown = made.public_bytes(serialization.Encoding.PEM)
    (tmp_path / "c.pem").write_bytes(shown if apart else shown + locked)
    (tmp_path / "c.key").write_bytes(locked)
    tls = Tls(client_cert=str(tmp_path / "c.pem"), client_key=str(tmp_path / "c.key") if apart else None)
    options = StoreOptions(tls=tls, retries=ONCE)
    keys = Credentials(aws=AWSCredential(access_key="AKIAEXAMPLEEXAMPLE00", secret_access_key="secret"))
    with pytest.raises(CredentialError, match="its key is encrypted, and nobody is asked for the passphrase"):
        body("https://127.0.0.1:1", tls=tls)
    for url, credentials in (
        ("s3+https://127.0.0.1:1/b/k", keys),
        ("https://127.0.0.1:1/k", None),
        ("ftps://127.0.0.1:1/k", None),
    ):
        with (
            contextlib.closing(open_store(Location.parse(url), credentials, options, Policy.for_caller())) as store,
            pytest.raises(CredentialError, match="its key is encrypted"),
        ):
            store.head("k")


def test_proxies(monkeypatch):
    """A forward proxy is used as the options or the environment name it, and passed by where it is to be."""
    with served(greet) as url, FaultProxy(("127.0.0.1", int(url.rpartition(":")[2]))) as proxy:
        assert body(url, proxies={"http": proxy.url}) == b"hi"
        assert proxy.requests == [f"GET {url}/x HTTP/1.1"]
        assert body(url, proxies={"http": proxy.url, "no": "example.com,127.0.0.1"}) == b"hi"
        assert body(url, proxies={"https": proxy.url}) == b"hi"
        assert len(proxy.requests) == 1
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        assert body(url, proxies={}) == b"hi"
        assert len(proxy.requests) == 1
        assert body(url) == b"hi"
        assert len(proxy.requests) == 2
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        assert body(url) == b"hi"
        assert len(proxy.requests) == 2


def test_servers_that_do_not_come_to_an_end():
    """One that is silent, and one that drips for ever, are given up in time; too much is an error."""
    ended = threading.Event()

    def silent(_handler):
        ended.wait(10)

    def dripping(handler):
        handler.send_response(200)
        handler.end_headers()
        while not ended.wait(0.05):
            handler.wfile.write(b"x")

    try:
        with served(silent) as url, pytest.raises(RefreshError, match="no answer in time") as raised:
            body(url, read_timeout_seconds=0.2)
        assert raised.value.retryable
        ended.clear()
        with served(dripping) as url, pytest.raises(RefreshError, match="no answer in time"):
            body(url, retries=Retries(attempts=1, for_seconds=0.3))
    finally:
        ended.set()


def test_later_is_later():
    """429 and 5xx are tried again; the last one is an error to try later."""
    answers = [429, 503, 200]

    def stumbling(handler):
        handler.send_response(answers.pop(0))
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    with served(stumbling) as url:
        assert body(url, retries=Retries(attempts=3, first_wait_seconds=0.01)) == b""
        answers[:] = [500]
        with pytest.raises(RefreshError, match="it: answered 500") as raised:
            body(url)
        assert raised.value.retryable
