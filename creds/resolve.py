"""From a location and a credential to a live store.

:func:`resolve` decides everything and does no I/O; :meth:`Resolved.open` builds the store, whose first request is the
first connection. ``STORES`` is the one table of which credential opens which scheme; ``docs/authentication.md`` shows
it. Engines are imported when a store is opened.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from creds.errors import (
    AmbiguousCredential,
    CredsError,
    LocationError,
    MissingCredential,
    PolicyError,
    RefreshError,
    UnsupportedCredential,
)
from creds.keys import (
    AwsKeys,
    ChainKeys,
    CredentialProvider,
    Identity,
    Region,
    TokenCache,
    checked_region,
    identify,
    kind_of,
    masked_id,
    resolve_region,
)
from creds.location import Location, address_of, aws_host, aws_url, quoted, split_server, split_url
from creds.policy import Decision, Endpoint, Policy, Verdict
from creds.secret import Secret
from creds.store import Store, StoreOptions, Tls

if TYPE_CHECKING:
    from creds.models import Credentials, PlainCredential
    from creds.sts import AssumeRole
    from creds.tokens import TokenSource

_ADDRESSING = ("auto", "path", "virtual")
_CHECKSUMS = ("auto", "always", "never")
_NOBODY = Identity(kind="anonymous")
# AWS' certificate covers one label before its host, so a dotted bucket goes into the path.
_HOST_BUCKET = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """Everything that is decided about a location before it is touched.

    Attributes:
        location: where.
        verdict: why it may be reached; of S3 at AWS its ``endpoint_url`` is that of ``region``.
        identity: as whom, for receipts.
        region: what signs; empty but for s3.
        region_source: who named it: options, credential, endpoint, request.env, default, or the caller's own setup.
        provider: what makes the keys; None is anonymous. Where these take a role, the store's own are that role's.
        options: how the store talks: as the caller said, with what the operator's entry for the endpoint adds.
        given: how the caller said that stores talk, wherever they are.
        own: the credential is that of the endpoint's entry, or the caller's default: nobody else's to lend.
        carried: the credential that opens it, as the location has it, or the endpoint's entry; None is neither.
        policy: what decided; it looks at resolved addresses before the first connection.
        on_aws: is the server AWS itself?
        addressing: ``path`` or ``virtual``.
        checksums: is a CRC32 sent with what is written?
        authorization: makes the header of http(s), for each request anew; None is anonymous.
        login: of ftp and sftp; None is anonymous.
    """

    location: Location
    verdict: Verdict
    identity: Identity
    region: str = ""
    region_source: str = ""
    provider: CredentialProvider | None = field(default=None, repr=False)
    options: StoreOptions = field(default_factory=StoreOptions, repr=False)
    given: StoreOptions = field(default_factory=StoreOptions, repr=False)
    own: bool = False
    carried: Credentials | None = field(default=None, repr=False)
    policy: Policy = field(repr=False)
    on_aws: bool = False
    addressing: str = "path"
    checksums: bool = False
    authorization: Callable[[], str] | None = field(default=None, repr=False)
    login: PlainCredential | None = field(default=None, repr=False)

    @property
    def key(self) -> str:
        """The object's key in the opened store; for a file its path below the store's root."""
        return self.verdict.key

    def open(self) -> Store:
        """The store. Connects to nothing yet; reads the caller's AWS setup where its region is wanted.

        Raises:
            CredentialError, RefreshError: the caller's AWS setup cannot be read.
        """
        opened = STORES[self.location.scheme][self.identity.kind]
        rate = self.options.rate
        if rate is None:
            return opened(self)
        from creds.pacing import PacedStore, paced

        return PacedStore(opened(replace(self, options=paced(self.options, rate))), rate)

    @property
    def server_url(self) -> str | None:
        """The server that is connected to: of S3 that of the bucket where its name goes into the host's."""
        url = self.verdict.endpoint_url
        if url is None or self.addressing != "virtual":
            return url
        scheme, _, rest = url.partition("://")
        return f"{scheme}://{self.location.bucket}.{rest}"

    def placed(self) -> Resolved:
        """The same, with the region of the caller's own AWS setup where that alone names one. Reads the setup.

        Raises:
            CredentialError, RefreshError: the setup cannot be read.
            LocationError: what it names is no region.
        """
        if isinstance(self.provider, ChainKeys) and self.region_source == "default":
            own = self.provider.region()
            if own:
                name = checked_region(own, "the AWS setup's region", on_aws=self.location.on_aws)
                return _at(self, Region(name, self.provider.source))
        return self

    def keys(self) -> AwsKeys | None:
        """The keys that sign at this moment, those of the role where one is to be taken; None is anonymous.

        Raises:
            CredentialError, RefreshError: there are none; an STS, or the caller's AWS setup, may have been asked.
        """
        provider = _role(self)
        return None if provider is None else provider()

    def session_keys(self) -> AwsKeys:
        """Keys that end, made now by an STS: for the JWT, the role of ``options.sts``, or the keys themselves.

        They live for ``options.sts.duration_seconds``, as far as the STS agrees.

        Raises:
            UnsupportedCredential: there are no keys or tokens that an STS could make others of.
            RefreshError: the STS gave none, or is none.
        """
        if self.location.scheme != "s3" or self.provider is None:
            raise UnsupportedCredential(
                f"an STS makes no keys of {self.identity.kind} credentials for {self.location.scheme}",
                hint="give AWS keys or a JWT for an S3 location",
            )
        if self.identity.kind == "jwt" or self.options.sts.role_arn is not None:
            keys = self.keys()
            assert keys is not None
            return keys
        return _taker(self, None)()


def open_store(
    location: Location,
    credentials: Credentials | None = None,
    options: StoreOptions | None = None,
    policy: Policy | None = None,
) -> Store:
    """The live store that holds ``location``; :func:`resolve` says how, and what it raises.

    For a file the key in the store is not the location's: use :func:`resolve`, and its ``key``.
    """
    return resolve(location, credentials, options, policy).open()


def resolve(
    location: Location,
    credentials: Credentials | None = None,
    options: StoreOptions | None = None,
    policy: Policy | None = None,
    *,
    beside: Resolved | None = None,
) -> Resolved:
    """Decide how ``location`` is opened, and whether it may be. No I/O, but that a token of the caller's own is read.

    Args:
        location: where.
        credentials: what the request carries for it.
        options: how to talk, and what of the caller's own may be used; None is the defaults.
        policy: what may be reached; None is :meth:`Policy.for_requests` with nothing named.
        beside: what was resolved of another key of the same place, with the same credential, options and policy: as
            whom, and at which server, is taken from there. Whether it may be reached is decided anew.

    Raises:
        PolicyError: refused; names the rule and the flag.
        CredentialError: the credential is missing, half there, ambiguous, unreadable, or of no use to the scheme.
        RefreshError: a JWT has ended; says when.
        LocationError: a region or setting is none.
    """
    options = options or StoreOptions()
    policy = policy or Policy.for_requests()
    verdict = policy.decide(location)
    try:
        terms = verdict.checked().terms
        if beside is not None:
            if verdict.endpoint_url != beside.verdict.endpoint_url:
                # That of AWS is the region's, which the policy does not know.
                verdict = replace(verdict, endpoint_url=beside.verdict.endpoint_url)
            resolved = replace(beside, location=location, verdict=verdict, policy=policy)
        else:
            resolved = _identified(
                Resolved(
                    location=location,
                    verdict=verdict,
                    identity=_NOBODY,
                    options=terms.applied(options) if terms is not None else options,
                    given=options,
                    policy=policy,
                ),
                credentials,
            )
    except CredsError as error:
        error.location = error.location or str(location)
        if isinstance(error, PolicyError):
            reason = verdict.reason if error.rule == verdict.rule else str(error)
            _record(policy, verdict, allowed=False, rule=error.rule, reason=reason)
        else:
            _record(policy, verdict)
        raise
    _record(policy, resolved.verdict, identity=resolved.identity)
    return resolved


def _record(
    policy: Policy, verdict: Verdict, *, identity: Identity | None = None, step: str = "open", **other: Any
) -> None:
    """Tell the policy's record of a verdict, with what is ``other``."""
    if policy.on_decision is None:
        return
    facts: dict[str, Any] = {"allowed": verdict.allowed, "rule": verdict.rule, "reason": verdict.reason}
    policy.tell(
        Decision(
            step=step,
            location=str(verdict.location),
            endpoint_url=verdict.endpoint_url,
            credential=None if identity is None else identity.to_dict(),
            **(facts | other),
        )
    )


def _identified(resolved: Resolved, credentials: Credentials | None) -> Resolved:
    """``resolved`` with whose credential opens it."""
    resolved, chosen = _with_own(resolved, credentials)
    resolved = replace(resolved, carried=chosen)
    scheme = resolved.location.scheme
    if scheme == "s3":
        resolved = _s3(resolved, chosen)
    elif scheme in ("http", "https"):
        resolved = _web(resolved, chosen)
    elif scheme != "file":
        resolved = _login(resolved, chosen)
    else:
        _check_unused(scheme, chosen)
    if chosen is not None and chosen is not credentials:
        resolved = replace(resolved, identity=replace(resolved.identity, source="endpoint"))
    return resolved


def _with_own(resolved: Resolved, credentials: Credentials | None) -> tuple[Resolved, Credentials | None]:
    """The operator's own credential for the endpoint, where the location has none and the caller's does not serve.

    The first that applies decides: the request's own credential; the caller's (``StoreOptions``), where it is lent to
    the endpoint; that of the endpoint's entry; the caller's default (``Policy.lent``).
    """
    terms, policy, given = resolved.verdict.terms, resolved.policy, resolved.given
    lent = terms.lent if terms is not None and terms.lent is not None else policy.lent
    if lent is None or resolved.location.scheme == "file" or resolved.location.query:
        return resolved, credentials
    aws = credentials.aws if credentials is not None else None
    wanted = aws.profile if aws is not None and not (aws.access_key or aws.secret_access_key) else None
    if wanted and wanted != given.profile and wanted == lent.profile:
        # The request names the profile that the entry names, so it has it as if it had named none.
        credentials = None
    if kind_of(credentials) is not None or _has_pair(resolved):
        return resolved, credentials
    serves = policy.lends(_server(resolved))
    on_s3 = resolved.location.scheme == "s3"
    if (
        (given.sts.token is not None and serves)
        or (on_s3 and given.profile is not None and (serves or given.profile == lent.profile))
        or (on_s3 and given.ambient and (serves or lent.ambient))
    ):
        return resolved, credentials
    kind = kind_of(lent.credentials)
    if kind is not None and kind not in STORES[resolved.location.scheme]:
        return resolved, credentials  # it is for another scheme of the same server
    sts = replace(lent.sts, token=lent.token)
    if given.sts.role_arn is not None and serves:
        sts = replace(given.sts, token=lent.token)
    if given.sts.duration_seconds is not None:
        sts = replace(sts, duration_seconds=given.sts.duration_seconds)
    options = replace(resolved.options, ambient=lent.ambient, profile=lent.profile, sts=sts)
    return replace(resolved, options=options, own=True), lent.credentials or credentials


def _has_pair(resolved: Resolved) -> bool:
    """Does the request's own environment hold keys for S3, or half of them?"""
    env = resolved.given.request_env
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    return resolved.location.scheme == "s3" and any(env.get(name) for name in names)


def _check_unused(scheme: str, credentials: Credentials | None) -> None:
    """Refuse a credential that the scheme has no use for."""
    kind = kind_of(credentials)
    if kind == "aws":
        kind = identify(credentials, request_env={})[0].kind
    if (kind or "anonymous") not in STORES[scheme]:
        raise UnsupportedCredential(
            f"{scheme} locations have no use for credentials.{kind}", hint="make the credentials null"
        )


def _s3(resolved: Resolved, credentials: Credentials | None) -> Resolved:
    """``resolved`` with region and server first, since a JWT becomes keys at the STS of one server, and then whose."""
    options = resolved.options
    region = resolve_region(credentials, resolved.location, options.request_env, resolved.verdict.terms, options)
    resolved = _at(resolved, region)
    identity, provider = identify(
        credentials,
        request_env=options.request_env,
        ambient=options.ambient,
        profile=options.profile,
        token=options.sts.token,
        exchange=functools.partial(_web_identity, resolved),
    )
    if isinstance(provider, ChainKeys):
        _check_chain(resolved, provider)
        provider = options.sessions.shared(("chain", provider.profile), functools.partial(_same, provider))
    if options.sts.role_arn is not None and provider is not None and not resolved.own:
        resolved.policy.check_lent(f"the role {options.sts.role_arn}", _server(resolved))
    return replace(resolved, identity=identity, provider=provider)


def _check_chain(resolved: Resolved, keys: ChainKeys) -> None:
    """Refuse to lend keys of this machine's AWS setup where nobody said that they may serve."""
    terms = resolved.verdict.terms
    lent = terms.lent if terms is not None else None
    named = lent is not None and (lent.ambient if keys.profile is None else lent.profile == keys.profile)
    if not (resolved.own or named):
        what = "the keys of this machine's AWS setup"
        if keys.profile is not None:
            what = f"the keys of the profile {keys.profile!r}"
        import json

        key = "ambient = true" if keys.profile is None else f"profile = {json.dumps(keys.profile)}"
        resolved.policy.check_lent(what, _server(resolved), key=key)


def _web(resolved: Resolved, credentials: Credentials | None) -> Resolved:
    """``resolved`` with the header that says who speaks to an http(s) server."""
    kind = kind_of(credentials)
    token = resolved.options.sts.token
    source: TokenSource | None = None
    if kind == "jwt":
        assert credentials is not None
        assert credentials.jwt is not None
        from creds.tokens import LiteralToken

        source = LiteralToken(credentials.jwt.token)
    elif kind is None and token is not None:
        source = token
    elif kind != "plain":
        _check_unused(resolved.location.scheme, credentials)
        return resolved
    if resolved.location.query:
        raise AmbiguousCredential(
            "the location is presigned, and there is a credential beside it", hint="make the credentials null"
        )
    if source is not None:
        return _bearer(resolved, source)
    assert credentials is not None
    assert credentials.plain is not None
    from creds.stores.http import basic

    header = Secret(basic(credentials.plain.user, credentials.plain.password.get_secret_value()))
    identity = Identity(kind="plain", id=masked_id(credentials.plain.user), source="request")
    return replace(resolved, identity=identity, authorization=header.get_secret_value)


def _login(resolved: Resolved, credentials: Credentials | None) -> Resolved:
    """``resolved`` with who logs in to a server of files."""
    scheme, kind = resolved.location.scheme, kind_of(credentials)
    if scheme == "sftp" and kind is None:
        raise MissingCredential(
            "sftp locations need a user", hint="give credentials.plain: a user, and a password or a key of the caller's"
        )
    if kind != "plain":
        _check_unused(scheme, credentials)
        return resolved
    assert credentials is not None
    assert credentials.plain is not None
    plain = credentials.plain
    if not plain.user:
        raise MissingCredential("credentials.plain has no user", hint="give both user and password")
    identity = Identity(kind="plain", id=masked_id(plain.user), source="request")
    return replace(resolved, identity=identity, login=plain)


def _bearer(resolved: Resolved, source: TokenSource) -> Resolved:
    """``resolved`` with a token that is read, and looked at, anew for each request. Reads it now."""
    from creds.tokens import LiteralToken, name_of, read, taken

    server, what, literal = _server(resolved), name_of(source), isinstance(source, LiteralToken)
    claims = read(taken(source), what, literal=literal)
    if not (literal or resolved.own):
        resolved.policy.check_lent("a token of the operator's", server, claims.issuer)
    entry = resolved.policy.issuer(claims.issuer, server)

    def authorization() -> str:
        token = taken(source)
        now = read(token, what, literal=literal, verify=entry.verify if entry else None)
        if now.issuer != claims.issuer:
            raise RefreshError(f"{what} is of another issuer than it was", hint="open the location anew")
        return f"Bearer {token.get_secret_value().strip()}"

    identity = Identity(
        kind="jwt", id=claims.id, source="request" if literal else "token", expires_at=claims.expires_at
    )
    return replace(resolved, identity=identity, authorization=authorization)


def _same(provider: CredentialProvider) -> CredentialProvider:
    return provider


def _server(resolved: Resolved) -> str:
    """The S3 server's URL, without the bucket."""
    assert resolved.verdict.endpoint_url is not None
    return resolved.verdict.endpoint_url


def _web_identity(resolved: Resolved, source: TokenSource) -> tuple[Identity, CredentialProvider]:
    """Who the token of ``source`` speaks for, and keys for it, if it may be sent at all. Reads the token now."""
    from creds.sts import WebIdentity
    from creds.tokens import LiteralToken, name_of, read, shown, taken

    policy, sts, server = resolved.policy, resolved.options.sts, _server(resolved)
    literal = isinstance(source, LiteralToken)
    claims = read(taken(source), name_of(source), literal=literal)
    if not (literal or resolved.own):
        policy.check_lent("a token of the operator's", server, claims.issuer)
    entry = policy.issuer(claims.issuer, server)
    role_arn = sts.role_arn or (entry.role_arn if entry else None)
    own = sts.endpoint_url or (entry.sts_endpoint if entry else None)
    if role_arn is None and own is None and resolved.on_aws:
        raise MissingCredential(
            f"AWS gives keys for a JWT to a role alone, and none is named for the issuer {shown(claims.issuer)}",
            hint="name the issuer, the endpoint aws and the role in the issuer table",
        )
    url, options, guard = _sts(resolved, own)
    origin = "request" if literal else "token"
    maker = WebIdentity(
        source=source,
        url=url,
        role_arn=role_arn,
        options=options,
        issuer=claims.issuer,
        origin=origin,
        verify=entry.verify if entry else None,
        guard=guard,
    )
    # Callables may not be hashable; each is kept alive by what is made with it.
    owner = source if isinstance(source, LiteralToken) else id(source)
    key = (owner, url, role_arn, claims.issuer, sts, id(maker.verify))
    provider = resolved.options.sessions.shared(key, lambda: TokenCache(maker))
    return Identity(kind="jwt", id=claims.id, source=origin, expires_at=claims.expires_at), provider


def _sts(resolved: Resolved, own: str | None) -> tuple[str, StoreOptions, Callable[[], None]]:
    """The URL of the STS, how it is talked to, and what looks at the addresses behind its name.

    Args:
        own: as the operator names it; None is AWS' regional one at AWS, and the S3 server itself elsewhere.
    """
    verdict = resolved.verdict
    if own is not None:
        endpoint = Endpoint.parse(own)
        verdict = replace(verdict, endpoint_url=endpoint.url, endpoint=endpoint)
    elif resolved.on_aws:
        from creds.sts import sts_url

        verdict = replace(verdict, endpoint_url=sts_url(resolved.region), endpoint=None)
    assert verdict.endpoint_url is not None
    options = replace(resolved.options, tls=_trusted(resolved, verdict.endpoint_url))
    return verdict.endpoint_url, options, functools.partial(resolved.policy.check_addresses, verdict)


def _trusted(resolved: Resolved, url: str) -> Tls:
    """What is trusted, and shown, at a server that need not be the location's: its own entry says so."""
    _, host, port = split_server(url)
    entry = resolved.policy.entry(host, port)
    return resolved.given.tls if entry is None else entry.applied(resolved.given).tls


def _role(resolved: Resolved) -> CredentialProvider | None:
    """What makes the keys that sign: those of the credential, or of the role that they shall take."""
    sts, keys = resolved.options.sts, resolved.provider
    if sts.role_arn is None or keys is None or resolved.identity.kind == "jwt":
        return keys
    maker = _taker(resolved, sts.role_arn)
    # A chain is shared itself; other keys do not change.
    owner = keys if isinstance(keys, ChainKeys) else keys()
    return resolved.options.sessions.shared((owner, maker.url, resolved.region, sts), lambda: TokenCache(maker))


def _taker(resolved: Resolved, role_arn: str | None) -> AssumeRole:
    """What makes keys of the credential's own: the role's, or without one a session's."""
    from creds.sts import AssumeRole

    assert resolved.provider is not None
    url, options, guard = _sts(resolved, resolved.options.sts.endpoint_url)
    return AssumeRole(
        provider=resolved.provider,
        url=url,
        role_arn=role_arn,
        region=resolved.region,
        options=options,
        guard=guard,
    )


def _at(resolved: Resolved, region: Region) -> Resolved:
    """``resolved`` with all that follows from the region of an S3 location."""
    location, options, endpoint = resolved.location, resolved.options, resolved.verdict.endpoint
    url = resolved.verdict.endpoint_url
    if url is None or (location.on_aws and endpoint is None):
        url = aws_url(location.aws_host, region.name)
    host = split_url(url)[1]
    on_aws = aws_host(host) is not None
    addressing = _setting("addressing", _ADDRESSING, options.addressing, endpoint.addressing if endpoint else "auto")
    if address_of(host) is not None:
        addressing = "path"
    elif addressing == "auto":
        addressing = "virtual" if on_aws and _HOST_BUCKET.fullmatch(location.bucket) else "path"
    checksums = _setting("checksums", _CHECKSUMS, options.checksums, endpoint.checksums if endpoint else "auto")
    return replace(
        resolved,
        verdict=replace(resolved.verdict, endpoint_url=url),
        region=region.name,
        region_source=region.source,
        on_aws=on_aws,
        addressing=addressing,
        checksums=on_aws if checksums == "auto" else checksums == "always",
    )


def _setting(name: str, words: tuple[str, ...], given: str, entry: str) -> str:
    """A setting: the caller's unless it is ``auto``, then that of the operator's entry."""
    if given not in words:
        raise LocationError(f"{name} is {given!r}", hint=f"one of {', '.join(words)}")
    return entry if given == "auto" else given


def _open_s3(resolved: Resolved) -> Store:
    from creds.stores.s3 import S3Store

    resolved = resolved.placed()
    looked_at = replace(resolved.verdict, endpoint_url=resolved.server_url)
    bucket = str(replace(resolved.location, key=""))

    def addresses(host: str, port: int) -> list[str]:
        # The guard has judged what is itself an address.
        return [host] if address_of(host) is not None else resolved.policy.addresses(host, port, bucket)

    return S3Store(
        resolved.location.bucket,
        endpoint_url=resolved.verdict.endpoint_url,
        region=resolved.region,
        provider=_role(resolved),
        options=resolved.options,
        on_aws=resolved.on_aws,
        addressing="virtual" if resolved.addressing == "virtual" else "path",
        checksums=resolved.checksums,
        guard=functools.partial(resolved.policy.check_addresses, looked_at),
        addresses=addresses,
        location=bucket,
    )


def _open_web(resolved: Resolved) -> Store:
    from creds.stores.http import HttpStore

    policy, location = resolved.policy, resolved.location
    base = str(replace(location, key="", query=""))

    def redirect(url: str) -> None:
        scheme, _, rest = url.partition("://")
        server, _, path = rest.partition("/")
        target = Location.parse(f"{scheme}://{server}/{path or 'redirected'}")
        assert target is not None
        verdict = policy.decide(target)
        _record(policy, verdict, step="redirect")
        verdict.checked()

    return HttpStore(
        _server(resolved),
        authorization=resolved.authorization,
        query=location.query,
        options=resolved.options,
        addresses=lambda host, port: policy.addresses(host, port, base),
        redirect=redirect,
        trusted=functools.partial(_trusted, resolved),
        location=base,
    )


def _open_ftp(resolved: Resolved) -> Store:
    from creds.stores.ftp import FtpStore

    security = {"ftp": "none", "ftps": "explicit", "ftps+implicit": "implicit"}[resolved.location.scheme]
    login = resolved.login
    host, port, location = _file_server(resolved)
    return FtpStore(
        host,
        port,
        security=security,
        # RFC 1635: who has no account is anonymous, with an address of mail for a password.
        user=login.user if login else "anonymous",
        password=login.password.get_secret_value() if login else "anonymous@",
        options=resolved.options,
        addresses=lambda name, number: resolved.policy.addresses(name, number, location),
        location=location,
    )


def _open_sftp(resolved: Resolved) -> Store:
    from creds.stores.sftp import SftpStore

    login = resolved.login
    assert login is not None
    host, port, location = _file_server(resolved)
    return SftpStore(
        host,
        port,
        user=login.user,
        password=login.password.get_secret_value() or None,
        options=resolved.options,
        addresses=lambda name, number: resolved.policy.addresses(name, number, location),
        location=location,
    )


def _file_server(resolved: Resolved) -> tuple[str, int, str]:
    """Host, port and the text that errors name the server by."""
    url = _server(resolved)
    _, host, port = split_server(url)
    return host.strip("[]"), port, url


def _open_files(resolved: Resolved) -> Store:
    from creds.stores.files import FilesStore

    root = resolved.verdict.root or "/"
    if resolved.policy.caller:
        # The caller may come through symlinks of their own; what is below the folder is confined all the same.
        root = os.path.realpath(root)
    return FilesStore(root, location=f"file://{quoted(root)}")


STORES: Mapping[str, Mapping[str, Callable[[Resolved], Store]]] = {
    "s3": {
        "anonymous": _open_s3,
        "plain": _open_s3,
        "aws": _open_s3,
        "profile": _open_s3,
        "ambient": _open_s3,
        "jwt": _open_s3,
    },
    "http": {
        "anonymous": _open_web,
        "plain": _open_web,
        "jwt": _open_web,
    },
    "https": {
        "anonymous": _open_web,
        "plain": _open_web,
        "jwt": _open_web,
    },
    "ftp": {
        "anonymous": _open_ftp,
        "plain": _open_ftp,
    },
    "ftps": {
        "anonymous": _open_ftp,
        "plain": _open_ftp,
    },
    "ftps+implicit": {
        "anonymous": _open_ftp,
        "plain": _open_ftp,
    },
    "sftp": {
        "plain": _open_sftp,
    },
    "file": {
        "anonymous": _open_files,
    },
}
"""The one table: scheme, kind of credential, what opens the store."""
