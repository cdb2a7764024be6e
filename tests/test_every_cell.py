"""Each cell of the one table, scheme by credential, against a real server that looks at the credential."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import ftpservers
import pytest
import servers
import tlsfront
import webservers

from creds.errors import AccessDenied, ObjectNotFound, RefreshError, Unauthenticated
from creds.keys import kind_of
from creds.location import Location
from creds.models import AWSCredential, Credentials, JWTCredential, PlainCredential
from creds.policy import Issuer, Policy
from creds.resolve import STORES, resolve
from creds.store import Retries, Ssh, StoreOptions, Tls

WRONG = "wrong-secret"


@dataclass
class Cell:
    """One way to one server.

    Attributes:
        url: of a folder there.
        credentials: as a request carries them.
        options: as the caller has them.
        issuers: of the policy, which names the endpoint besides.
        wrong: the same credentials with a secret that the server does not know; None where there is no secret, or it
            is the machine's own.
        roots: of files.
        lent: may the machine's own keys serve there?
    """

    url: str
    credentials: Credentials | None = None
    options: StoreOptions = field(default_factory=lambda: StoreOptions(retries=Retries(attempts=1)))
    issuers: tuple[Issuer, ...] = ()
    wrong: Credentials | None = None
    roots: tuple[Path, ...] = ()
    lent: bool = False

    @property
    def policy(self) -> Policy:
        scheme, _, rest = self.url.partition("://")
        endpoint = f"{scheme.removeprefix('s3+')}://{rest.partition('/')[0]}"
        named = [] if scheme == "file" else [endpoint]
        return Policy.for_requests(
            named,
            file_roots=self.roots,
            issuers=self.issuers,
            lend_to=[endpoint.partition("://")[2]] if self.lent else (),
        )


Make = Callable[[pytest.FixtureRequest, contextlib.ExitStack], Cell]


def plain(user: str, password: str) -> Credentials:
    return Credentials(plain=PlainCredential(user=user, password=password))


def options(**more: object) -> StoreOptions:
    return StoreOptions(retries=Retries(attempts=1), **more)  # type: ignore[arg-type]  # tests say what they mean


# S3.


def _s3(server: servers.S3Server, bucket: str, **more: object) -> Cell:
    return Cell(f"s3+{server.endpoint_url}/{bucket}", **more)  # type: ignore[arg-type]  # as above


def s3_anonymous(request: pytest.FixtureRequest, _stack: contextlib.ExitStack) -> Cell:
    server = request.getfixturevalue("seaweed")
    with contextlib.suppress(server.client().exceptions.BucketAlreadyExists):
        server.make_bucket(servers.PUBLIC_BUCKET)
    return _s3(server, servers.PUBLIC_BUCKET)


def s3_plain(request: pytest.FixtureRequest, _stack: contextlib.ExitStack) -> Cell:
    keys = servers.WRITER
    return _s3(
        request.getfixturevalue("seaweed"),
        servers.SHARED_BUCKET,
        credentials=plain(keys.access_key, keys.secret_key),
        wrong=plain(keys.access_key, WRONG),
    )


def s3_aws(request: pytest.FixtureRequest, _stack: contextlib.ExitStack) -> Cell:
    keys = servers.WRITER

    def with_secret(secret: str) -> Credentials:
        return Credentials(aws=AWSCredential(access_key=keys.access_key, secret_access_key=secret))

    return _s3(
        request.getfixturevalue("seaweed"),
        servers.SHARED_BUCKET,
        credentials=with_secret(keys.secret_key),
        wrong=with_secret(WRONG),
    )


def s3_profile(request: pytest.FixtureRequest, _stack: contextlib.ExitStack) -> Cell:
    keys = servers.WRITER
    setup = request.getfixturevalue("home") / ".aws"
    setup.mkdir()
    (setup / "credentials").write_text(
        f"[ml]\naws_access_key_id = {keys.access_key}\naws_secret_access_key = {keys.secret_key}\n"
    )
    return _s3(request.getfixturevalue("seaweed"), servers.SHARED_BUCKET, options=options(profile="ml"), lent=True)


def s3_ambient(request: pytest.FixtureRequest, _stack: contextlib.ExitStack) -> Cell:
    patch = request.getfixturevalue("monkeypatch")
    patch.setenv("AWS_ACCESS_KEY_ID", servers.WRITER.access_key)
    patch.setenv("AWS_SECRET_ACCESS_KEY", servers.WRITER.secret_key)
    return _s3(request.getfixturevalue("seaweed"), servers.SHARED_BUCKET, options=options(ambient=True), lent=True)


def s3_jwt(request: pytest.FixtureRequest, _stack: contextlib.ExitStack) -> Cell:
    issuer, server = request.getfixturevalue("issuer"), request.getfixturevalue("federated")
    host = server.endpoint_url.removeprefix("http://")
    return _s3(
        server,
        servers.SHARED_BUCKET,
        credentials=Credentials(jwt=JWTCredential(token=issuer.mint())),
        wrong=Credentials(jwt=JWTCredential(token=issuer.mint(sub="somebody-else"))),
        issuers=(Issuer(iss=issuer.url, endpoints=(host,), role_arn=servers.ROLE_RW),),
    )


# Web servers.


def web(kind: str, *, tls: bool) -> Make:
    def make(request: pytest.FixtureRequest, stack: contextlib.ExitStack) -> Cell:
        if kind == "jwt":
            return _bearer(request, stack, tls=tls)
        authority = tlsfront.Authority(request.getfixturevalue("tmp_path"))
        pem = Path(authority.folder / "server.pem")
        authority.server.private_key_and_cert_chain_pem.write_to_path(str(pem))
        server = stack.enter_context(
            webservers.rclone_webdav(tls=(pem, pem) if tls else None, anonymous=kind == "anonymous")
        )
        cell = Cell(server.url, options=options(tls=Tls(ca_pem=authority.pem)))
        if kind == "plain":
            cell.credentials = plain(webservers.USER, webservers.PASSWORD)
            cell.wrong = plain(webservers.USER, WRONG)
        return cell

    return make


def _bearer(request: pytest.FixtureRequest, stack: contextlib.ExitStack, *, tls: bool) -> Cell:
    issuer = request.getfixturevalue("issuer")
    wrong = Credentials(jwt=JWTCredential(token=issuer.mint(jti="another")))
    if not tls:
        token = issuer.mint()
        server = stack.enter_context(webservers.wsgidav(tokens=[token]))
        return Cell(server.url, Credentials(jwt=JWTCredential(token=token)), wrong=wrong)
    nginx = request.getfixturevalue("nginx")
    return Cell(
        nginx.bearer.url,
        Credentials(jwt=JWTCredential(token=nginx.token)),
        options(tls=Tls(ca_pem=nginx.authority.pem)),
        wrong=wrong,
    )


# Servers of files.


def ftp(scheme: str, security: str, kind: str) -> Make:
    def make(_request: pytest.FixtureRequest, stack: contextlib.ExitStack) -> Cell:
        certificates = stack.enter_context(ftpservers.certificates())
        server = stack.enter_context(ftpservers.pyftpd(security, None if security == "none" else certificates))
        cell = Cell(f"{scheme}://127.0.0.1:{server.port}", options=options(tls=Tls(ca_pem=certificates.ca_pem)))
        if kind == "plain":
            cell.credentials = plain(ftpservers.USER, ftpservers.PASSWORD)
            cell.wrong = plain(ftpservers.USER, WRONG)
        return cell

    return make


def sftp_plain(_request: pytest.FixtureRequest, stack: contextlib.ExitStack) -> Cell:
    server = stack.enter_context(ftpservers.asyncssh_sftp())
    return Cell(
        f"sftp://127.0.0.1:{server.port}",
        plain(ftpservers.USER, ftpservers.PASSWORD),
        options(ssh=Ssh(fingerprints=(server.fingerprint,))),
        wrong=plain(ftpservers.USER, WRONG),
    )


def files(request: pytest.FixtureRequest, _stack: contextlib.ExitStack) -> Cell:
    folder = request.getfixturevalue("tmp_path")
    return Cell(f"file://{folder}", roots=(folder,))


CELLS: dict[tuple[str, str], Make] = {
    ("s3", "anonymous"): s3_anonymous,
    ("s3", "plain"): s3_plain,
    ("s3", "aws"): s3_aws,
    ("s3", "profile"): s3_profile,
    ("s3", "ambient"): s3_ambient,
    ("s3", "jwt"): s3_jwt,
    ("http", "anonymous"): web("anonymous", tls=False),
    ("http", "plain"): web("plain", tls=False),
    ("http", "jwt"): web("jwt", tls=False),
    ("https", "anonymous"): web("anonymous", tls=True),
    ("https", "plain"): web("plain", tls=True),
    ("https", "jwt"): web("jwt", tls=True),
    ("ftp", "anonymous"): ftp("ftp", "none", "anonymous"),
    ("ftp", "plain"): ftp("ftp", "none", "plain"),
    ("ftps", "anonymous"): ftp("ftps", "explicit", "anonymous"),
    ("ftps", "plain"): ftp("ftps", "explicit", "plain"),
    ("ftps+implicit", "anonymous"): ftp("ftps+implicit", "implicit", "anonymous"),
    ("ftps+implicit", "plain"): ftp("ftps+implicit", "implicit", "plain"),
    ("sftp", "plain"): sftp_plain,
    ("file", "anonymous"): files,
}
"""How each cell is reached. What has no server on loopback (SSO, AWS itself) is no cell of its own: it is ``profile``,
``ambient`` or ``jwt`` with another maker of keys before it, and those makers have tests of their own."""


def test_no_cell_is_without_a_server() -> None:
    """A new cell of the table needs a server here, and a cell that is gone leaves nothing behind."""
    assert set(CELLS) == {(scheme, kind) for scheme, kinds in STORES.items() for kind in kinds}


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as opened:
        yield opened


@pytest.mark.parametrize(("scheme", "kind"), CELLS, ids=map("-".join, CELLS))
def test_cell(request: pytest.FixtureRequest, stack: contextlib.ExitStack, scheme: str, kind: str) -> None:
    """Written, read, listed and deleted as the kind that it is; a wrong secret of the same kind is refused."""
    cell = CELLS[scheme, kind](request, stack)
    name = f"cell-{uuid.uuid4().hex}"
    location = Location.parse(f"{cell.url}/{name}")
    assert location is not None
    resolved = resolve(location, cell.credentials, cell.options, cell.policy)
    assert (resolved.location.scheme, resolved.identity.kind) == (scheme, kind)
    with contextlib.closing(resolved.open()) as store:
        written = store.write(resolved.key, [b"content"])
        assert store.head(resolved.key).etag == written.etag
        with store.open(resolved.key) as reading:
            assert b"".join(reading) == b"content"
        assert [entry.key for entry in store.list(resolved.key)] == [resolved.key]
        if cell.wrong is not None:
            assert kind_of(cell.wrong) == kind
            refused = (Unauthenticated, AccessDenied, RefreshError)
            with (
                contextlib.closing(resolve(location, cell.wrong, cell.options, cell.policy).open()) as other,
                pytest.raises(refused) as caught,
            ):
                other.head(resolved.key)
            assert caught.value.retryable is False
        store.delete(resolved.key)
        with pytest.raises(ObjectNotFound):
            store.head(resolved.key)
