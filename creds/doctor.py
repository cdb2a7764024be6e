"""Why a location can or cannot be used, step by step, on the real server.

:func:`diagnose` looks at everything that stands between a request and an object, in the order in which it matters: the
credential, the policy, the name, the connection, the certificate, the clock, the region, the STS, and then the verbs
themselves. A step that fails does not stop those that do not need it. Each step is tried once.
"""

from __future__ import annotations

import contextlib
import http.client
import math
import secrets
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qsl

from creds.contact import Answer, Certificate, Contact, NoTunnel
from creds.endpoint import Lent
from creds.errors import (
    AccessDenied,
    BucketNotFound,
    Cancelled,
    CredentialError,
    CredsError,
    LocationError,
    NotSupported,
    ObjectNotFound,
    PolicyError,
    RefreshError,
    StoreError,
    StoreTimeout,
    StoreUnavailable,
    ToolkitError,
    Unauthenticated,
)
from creds.keys import AwsKeys, kind_of, masked_id
from creds.location import Location, address_of, quoted, split_server
from creds.models import AWSCredential, Credentials
from creds.policy import Policy, Verdict
from creds.resolve import Resolved, resolve
from creds.store import Cancel, ObjectMeta, Store, StoreOptions, Sts
from creds.tokens import Claims, LiteralToken, read, shown, taken

NAMES = (
    *("credential", "who", "expires", "policy", "dns", "tcp", "tls", "host-key", "clock", "region", "sts"),
    *("list", "head", "get", "put"),
)
"""The steps, in their order; which of them there are depends on the scheme."""

SKEW_SECONDS = 60.0
"""Clocks that are further apart are told of: what JWTs are given. S3 refuses a signature that is 900 s off."""

SOON = timedelta(minutes=5)
_CERTIFICATE_SOON = timedelta(days=14)
_WEB = ("http", "https")

_KINDS: Mapping[str, str] = {
    "aws": "AWS keys",
    "plain": "a user and password",
    "jwt": "a JWT",
    "anonymous": "none: anonymous",
    "ambient": "the machine's own AWS setup",
    "profile": "a profile of the AWS setup",
}
_SOURCES: Mapping[str, str] = {
    "request": "given with the location",
    "request.env": "from config.env of the request",
    "token": "the operator's own token",
    "endpoint": "of the endpoint's entry in the configuration",
}
# What a server's word means where the error's own hint is about several.
_CODES: Mapping[str, str] = {
    "SignatureDoesNotMatch": "the secret does not belong to the access key: correct secret_access_key",
    "InvalidAccessKeyId": "this server does not know the access key: correct access_key, or the server's name; "
    "temporary keys need their session_token, and end",
    "RequestTimeTooSkewed": "set this machine's clock",
    "NoSuchBucket": "correct the bucket's name, or the server's",
}
# Of OpenSSL's X509_V_ERR_*.
_NOT_YET, _EXPIRED = (9,), (10,)
_OTHER_NAME = (62, 63, 64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One thing that was looked at.

    Attributes:
        name: one of ``NAMES``.
        status: ``ok``; ``warn``, worth knowing; ``fail``, nothing works until it is changed; ``skip``, could not be
            looked at, or need not be.
        detail: what was seen, in words; safe to print but for unprintable characters.
        hint: the setting to change, or None.
        error: what a use of the location raises for it; always there where the status is ``fail``.
    """

    name: str
    status: str
    detail: str
    hint: str | None = None
    error: ToolkitError | None = None


def diagnose(
    location: Location,
    credentials: Credentials | None = None,
    options: StoreOptions | None = None,
    policy: Policy | None = None,
    *,
    folder: bool = False,
    may_be_missing: bool = False,
    write: bool = False,
    cancel: Cancel | None = None,
) -> Iterator[Step]:
    """Look at ``location`` step by step, each step as it is done. Raises Cancelled, and what ``on_decision`` raises.

    Nothing is sent that the policy does not allow, and nothing is changed, but that ``write`` puts a small object
    beside the location's and deletes it again, even if the caller stops in between.

    Args:
        location, credentials, options, policy: as :func:`creds.resolve.resolve` has them.
        folder: the last part of the key stands for no object: only what it is in is looked at.
        may_be_missing: no object there is no failure.
        write: try to write.
        cancel: stops it.
    """
    options = options or StoreOptions()
    options = replace(
        options, retries=replace(options.retries, attempts=1), part_bytes=min(options.part_bytes, 1 << 16)
    )
    looked = _Diagnosis(location, credentials, options, policy or Policy.for_requests(), cancel or Cancel())
    yield from looked.identity()
    yield looked.rule()
    if location.scheme != "file":
        yield from looked.connection()
    if location.scheme == "s3":
        yield looked.region()
        yield looked.sts()
    yield from looked.verbs(folder=folder, may_be_missing=may_be_missing, write=write)


class _Diagnosis:
    """What is known so far.

    Attributes:
        blocked: why nothing can be asked of the store, or None.
        resolved, refused: one of them: how the location is opened, or why not.
        place: where it is, also where the credential is of no use; None where even that was not decided.
        answer, asked: what the server said to an unsigned question, and when, by this machine's clock.
        elsewhere: the setting to change where the server names another region.
    """

    def __init__(
        self,
        location: Location,
        credentials: Credentials | None,
        options: StoreOptions,
        policy: Policy,
        cancel: Cancel,
    ) -> None:
        self.location = location
        self.credentials = credentials
        self.options = options
        self.policy = policy
        self.cancel = cancel
        self.blocked: str | None = None
        self.verdict: Verdict = policy.decide(location)
        self.resolved: Resolved | None = None
        self.refused: CredsError | None = None
        self.answer: Answer | None = None
        self.asked: float = 0.0
        self.elsewhere: str | None = None
        try:
            self.resolved = resolve(location, credentials, options, policy)
        except CredsError as error:
            self.refused = error
        self.place = self.resolved or self._unsigned()

    @property
    def _talks(self) -> StoreOptions:
        """How this server is talked to: the operator's entry for it adds to what was given."""
        terms = self.verdict.terms
        return self.options if terms is None else terms.applied(self.options)

    def _unsigned(self) -> Resolved | None:
        """Where the location is, whoever asks: what can be looked at where the credential is of no use."""
        if self.location.scheme != "s3":
            return None
        aws = self.credentials.aws if self.credentials is not None else None
        nobody = Credentials(aws=AWSCredential(region=None if aws is None else aws.region))
        with contextlib.suppress(CredsError):
            quiet = replace(self.policy, on_decision=None)  # it was told with the first
            return resolve(self.location, nobody, replace(self.options, sts=Sts()), quiet)
        return None

    def _fail(self, name: str, error: ToolkitError, detail: str | None = None, hint: str | None = None) -> Step:
        """A failed step, after which the store cannot be asked."""
        self.blocked = self.blocked or f"not asked: {name} failed"
        return Step(name=name, status="fail", detail=detail or _said(error), hint=hint or error.hint, error=error)

    # -- who ---------------------------------------------------------------------------------------------------------

    def identity(self) -> Iterator[Step]:
        """Of what kind the credential is, whose, and until when."""
        if isinstance(self.refused, CredentialError):
            yield from self._useless(self.refused)
            return
        presigned = dict(parse_qsl(self.location.query)) if self.location.query else {}
        try:
            kind = self.resolved.identity.kind if self.resolved is not None else self._kind()
        except CredentialError as error:
            yield from self._useless(error)
            return
        if _signed_by(presigned) is not None:
            yield Step(name="credential", status="ok", detail="the URL is presigned")
            yield Step(name="who", status="ok", detail=f"signed by {masked_id(_signed_by(presigned) or '')}")
            yield self._expires(_presigned_end(presigned), "the URL's signature")
            self.blocked = None  # by this machine's clock; the server has its own
            return
        source = "token" if kind == "jwt" and (self.credentials is None or self.credentials.jwt is None) else "request"
        source = self.resolved.identity.source if self.resolved is not None else source
        detail = _KINDS[kind]
        if kind not in ("anonymous", "ambient"):
            detail += f", {_SOURCES.get(source, source)}"
        yield Step(name="credential", status="ok", detail=detail)
        if kind == "jwt":
            yield from self._token()
        else:
            yield from self._keys(kind)

    def _useless(self, error: CredentialError) -> Iterator[Step]:
        yield self._fail("credential", error)
        yield Step(name="who", status="skip", detail="the credential is of no use")
        yield Step(name="expires", status="skip", detail="the credential is of no use")

    def _kind(self) -> str:
        """The kind, where resolving did not come to it."""
        lent, on_s3 = self._lent, self.location.scheme == "s3"
        kind = kind_of(self.credentials)
        if kind is None and self.options.sts.token is not None and self.location.scheme in ("s3", *_WEB):
            return "jwt"
        if kind is None and on_s3 and self.options.profile is not None:
            return "profile"
        if kind is None and on_s3 and self.options.ambient:
            return "ambient"
        if kind is None and lent.token is not None:
            return "jwt"
        if kind is None and on_s3 and (lent.profile is not None or lent.ambient):
            return "ambient" if lent.profile is None else "profile"
        return kind or kind_of(lent.credentials) or "anonymous"

    @property
    def _lent(self) -> Lent:
        """What the operator's entry for the endpoint, or the caller's default, lends."""
        terms = self.verdict.terms
        return (terms.lent if terms is not None and terms.lent is not None else self.policy.lent) or Lent()

    def _token(self) -> Iterator[Step]:
        claims = self._claims()
        if isinstance(claims, ToolkitError):
            yield self._fail("who", claims)
            yield Step(name="expires", status="skip", detail="the token cannot be read")
            return
        yield Step(name="who", status="ok", detail=str(claims).rpartition(", exp")[0])
        if isinstance(self.refused, RefreshError):
            yield self._fail("expires", self.refused)
        else:
            yield self._expires(claims.expires_at, "the token")

    def _claims(self) -> Claims | ToolkitError:
        """What the token says, whether it has ended or not."""
        resolved = self.resolved
        carried = self.credentials or self._lent.credentials if resolved is None else resolved.carried
        source = (self.options if resolved is None else resolved.options).sts.token or self._lent.token
        if carried is not None and carried.jwt is not None:
            source = LiteralToken(carried.jwt.token)
        assert source is not None
        try:
            return read(taken(source), leeway_seconds=math.inf)
        except ToolkitError as error:
            return error

    def _keys(self, kind: str) -> Iterator[Step]:
        if isinstance(self.refused, RefreshError):
            yield Step(name="who", status="skip", detail="it was not decided")
            yield self._fail("expires", self.refused)
            return
        keys = None
        provider = self.resolved.provider if self.resolved is not None else None
        if provider is not None:
            try:
                keys = provider()
            except ToolkitError as error:
                yield self._fail("who", error)
                yield Step(name="expires", status="skip", detail="there are no keys")
                return
        yield Step(name="who", status="ok", detail=self._named(kind, keys))
        if keys is not None and (keys.expires_at is not None or keys.token is not None):
            yield self._expires(keys.expires_at, "the keys")
        elif kind == "anonymous":
            yield Step(name="expires", status="ok", detail="nothing that could end")
        else:
            yield Step(name="expires", status="ok", detail="never, by itself")

    def _named(self, kind: str, keys: AwsKeys | None) -> str:
        credentials = (self.credentials if self.resolved is None else self.resolved.carried) or Credentials()
        name = None
        if keys is not None:
            name = masked_id(keys.access_key)
        elif credentials.plain is not None:
            name = masked_id(credentials.plain.user)
        elif credentials.aws is not None and credentials.aws.access_key:
            name = masked_id(credentials.aws.access_key)
        if name is None:
            return "nobody" if kind == "anonymous" else "not known before it is used"
        role = None if self.resolved is None else self.resolved.options.sts.role_arn
        return f"{name}, which takes the role {shown(role)}" if role is not None and keys is not None else name

    def _expires(self, ends: datetime | None, what: str) -> Step:
        if ends is None:
            return Step(name="expires", status="ok", detail=f"{what} may end; nothing tells when")
        left = ends - datetime.now(UTC)
        detail = f"{what} {'ends' if left > timedelta() else 'ended'} at {_time(ends)}, {_span(left)}"
        if left > SOON:
            return Step(name="expires", status="ok", detail=detail)
        hint = "have a new one made"
        if left > timedelta():
            return Step(name="expires", status="warn", detail=detail, hint=hint)
        return self._fail("expires", RefreshError(detail, hint=hint))

    # -- where -------------------------------------------------------------------------------------------------------

    def rule(self) -> Step:
        """What the policy says."""
        rule = f"{self.verdict.rule}: {self.verdict.reason}"
        if not self.verdict.allowed or isinstance(self.refused, PolicyError):
            error = self.refused
            assert isinstance(error, PolicyError)
            detail = f"{error.rule}: {_said(error)}" if self.verdict.allowed else rule
            return self._fail("policy", error, detail)
        return Step(name="policy", status="ok", detail=rule)

    def connection(self) -> Iterator[Step]:
        """The name, the connection, who is at its other end, and the server's clock."""
        url = self._url()
        scheme = split_server(url)[0] if url is not None else ""
        last = ("host-key",) if self.location.scheme == "sftp" else ("tls",)
        names = ("tcp", *last, *(("clock",) if self.location.scheme in ("s3", *_WEB) else ()))
        if url is None or not self.verdict.allowed:
            for name in ("dns", *names):
                yield Step(name=name, status="skip", detail="the policy lets nothing be connected to")
            return
        try:
            addresses = self._addresses(url)
        except CredsError as error:
            yield self._fail("dns", error)
            for name in names:
                yield Step(name=name, status="skip", detail="there is no address to connect to")
            return
        yield self._resolved_name(url, addresses)
        with Contact(url, addresses, self._talks, self.cancel) as contact:
            connected = self._connect(contact, url)
            yield connected
            if connected.status != "ok":
                for name in names[1:]:
                    yield Step(name=name, status="skip", detail="there is no connection")
                return
            if scheme == "sftp":
                yield self._host_key(contact)
                return
            secured = self._secure(contact, scheme)
            yield secured
            if "clock" in names:
                yield self._clock(failed=secured.status == "fail")

    def _url(self) -> str | None:
        if self.place is None:
            return self.verdict.endpoint_url
        with contextlib.suppress(ToolkitError):  # what is wrong with the setup was told with its keys
            self.place = self.place.placed()
        return self.place.server_url

    def _addresses(self, url: str) -> list[str]:
        _, host, port = split_server(url)
        return self.policy.addresses(host.strip("[]"), port, str(self.location))

    def _resolved_name(self, url: str, addresses: list[str]) -> Step:
        host = split_server(url)[1]
        if address_of(host) is not None:
            return Step(name="dns", status="ok", detail=f"{host} is an address")
        found = ", ".join(dict.fromkeys(addresses))
        return Step(name="dns", status="ok", detail=f"{host} is {found}; the policy lets them be used")

    def _connect(self, contact: Contact, url: str) -> Step:
        began = time.monotonic()
        seconds = self.options.connect_timeout_seconds
        _, host, port = split_server(url)
        where = f"{host}:{port}" if contact.proxy is None else contact.proxy.url
        try:
            to = contact.connect()
        except NoTunnel as error:
            problem = StoreUnavailable(f"{where}: {error}", retryable=False)
            return self._fail("tcp", problem, hint="change HTTPS_PROXY, or name the host in NO_PROXY")
        except ConnectionRefusedError:
            problem = StoreUnavailable(f"{where} refuses the connection: nothing listens there")
            return self._fail(
                "tcp",
                problem,
                hint="start the server, or correct the host and port of the location"
                if contact.proxy is None
                else "it is the proxy: correct HTTP_PROXY and HTTPS_PROXY, or name the host in NO_PROXY",
            )
        except TimeoutError:
            late = StoreTimeout(f"{where} does not answer within {seconds:g} s")
            return self._fail("tcp", late, hint="look for a firewall between; a slow server needs --connect-timeout")
        except (OSError, ToolkitError) as error:
            if isinstance(error, Cancelled):
                raise
            said = getattr(error, "strerror", None) or str(error)
            problem = StoreUnavailable(f"{where} cannot be reached: {shown(said)}")
            return self._fail("tcp", problem, hint="check the host, the port and this machine's network")
        return Step(name="tcp", status="ok", detail=f"connected to {to} in {(time.monotonic() - began) * 1000:.0f} ms")

    def _host_key(self, contact: Contact) -> Step:
        try:
            offered = contact.host_key()
        except OSError as error:
            problem = StoreUnavailable(shown(str(error)), retryable=False)
            return self._fail("host-key", problem, hint="is it an SSH server that listens on this port?")
        except CredsError as error:
            return self._fail("host-key", error)
        if offered.refused is None:
            return Step(name="host-key", status="ok", detail=f"{offered.kind} {offered.fingerprint}, which is known")
        hint = f"if the server's operator confirms this key by another way: --host-key {offered.fingerprint}"
        return self._fail("host-key", StoreError(offered.refused), hint=hint)

    def _secure(self, contact: Contact, scheme: str) -> Step:
        """The TLS handshake, and over HTTP the first answer: a server asks for a client's certificate only then."""
        if scheme in ("http", "ftp"):
            if scheme == "http":
                with contextlib.suppress(OSError, http.client.HTTPException):
                    self._head(contact)
            rule = self.verdict.endpoint.rule if self.verdict.endpoint is not None else self.verdict.rule
            return Step(name="tls", status="skip", detail=f"plaintext, as {rule} allows")
        try:
            version, certificate = contact.secure()
        except ssl.SSLCertVerificationError as error:
            return self._untrusted(contact, error)
        except ssl.SSLError as error:
            return self._no_tls(error)
        except CredsError as error:
            return self._fail("tls", error, hint="correct --ca, --client-cert or --client-key")
        except OSError as error:
            late = isinstance(error, TimeoutError)
            problem = StoreUnavailable(f"no TLS: {shown(error.strerror or str(error))}", retryable=late)
            hint = "check the port and the scheme of the location"
            if scheme == "ftps":
                hint += ": TLS from the first byte, on port 990 as a rule, is ftps+implicit://"
            return self._fail("tls", problem, hint=hint)
        if scheme == "https":
            try:
                self._head(contact)
            except ssl.SSLError as error:
                return self._no_tls(error)
            except (OSError, http.client.HTTPException):
                pass  # told with the clock
        detail = f"{version}, {_about(certificate)}"
        if certificate.ends_at - datetime.now(UTC) < _CERTIFICATE_SOON:
            return Step(name="tls", status="warn", detail=detail, hint="the server's certificate must be renewed")
        return Step(name="tls", status="ok", detail=detail)

    def _head(self, contact: Contact) -> None:
        path = "/"
        if self.place is not None and self.place.addressing == "path" and self.location.scheme == "s3":
            path = f"/{self.location.bucket}"
        began = time.time()
        self.answer = contact.head(path)
        self.asked = (began + time.time()) / 2

    def _untrusted(self, contact: Contact, error: ssl.SSLCertVerificationError) -> Step:
        try:
            seen = contact.shown()
            about = f"; it is {_about(seen)}"
            issuer = f"'{shown(seen.issuer)}'"
        except OSError:
            about, issuer = "", "the authority that signed it"
        code = error.verify_code
        why, hint = "its authority is unknown", f"--ca FILE with the certificate of {issuer}, if you trust it"
        if code in _OTHER_NAME:
            why, hint = "it is for another name", "write the location with a name that the certificate has"
        elif code in _EXPIRED:
            why, hint = "it has expired", "the server's operator must renew it; or this machine's clock is wrong"
        elif code in _NOT_YET:
            why, hint = "it is not valid yet", "set this machine's clock"
        problem = StoreUnavailable(f"the certificate is refused: {why}", retryable=False)
        return self._fail("tls", problem, f"{problem}{about}", hint)

    def _no_tls(self, error: ssl.SSLError) -> Step:
        reason = error.reason or ""
        said, hint = f"the TLS handshake failed: {shown(reason) or 'no reason'}", "check the port and the scheme"
        if "CERTIFICATE_REQUIRED" in reason or "HANDSHAKE_FAILURE" in reason:
            said, hint = "the server wants a client's certificate", "show one by --client-cert and --client-key"
        elif "ALERT" in reason and ("CERTIFICATE" in reason or "UNKNOWN_CA" in reason):
            said, hint = "the server refuses the client's certificate", "show another by --client-cert"
        elif isinstance(error, ssl.SSLEOFError):
            # A server that wants a certificate may be gone before its alert is read.
            said, hint = (
                "the server ended the TLS connection",
                "if it asks for a certificate, show one by --client-cert",
            )
        elif reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST"):
            said, hint = (
                "the server speaks no TLS here",
                "correct the port; or name its plaintext, --endpoint http://...",
            )
        kind = Unauthenticated if "client's" in said and self.location.scheme in _WEB else StoreUnavailable
        return self._fail("tls", kind(said, retryable=False), hint=hint)

    def _clock(self, *, failed: bool) -> Step:
        if failed:
            return Step(name="clock", status="skip", detail="there is no connection")
        if self.answer is None:
            hint = "is it an HTTP server that listens on this port?"
            return Step(name="clock", status="warn", detail="the server does not answer over HTTP", hint=hint)
        theirs = self.answer.date
        if theirs is None:
            return Step(name="clock", status="skip", detail="the server does not tell its time")
        apart = self.asked - theirs.timestamp()
        if abs(apart) <= SKEW_SECONDS:
            return Step(name="clock", status="ok", detail=f"as the server's, within {max(1, math.ceil(abs(apart)))} s")
        side = "ahead of" if apart > 0 else "behind"
        detail = f"this machine is {_span(timedelta(seconds=abs(apart))).removeprefix('in ')} {side} the server"
        return Step(name="clock", status="warn", detail=detail, hint="set this machine's clock (NTP), or the server's")

    def region(self) -> Step:
        """What signs, and how the bucket is addressed; what the server says of its region."""
        resolved = self.place
        if resolved is None:
            if isinstance(self.refused, LocationError):
                return self._fail("region", self.refused)
            return Step(name="region", status="skip", detail="it was not decided")
        detail = f"{resolved.region} ({resolved.region_source}), {resolved.addressing}-style, {resolved.server_url}"
        told = self.answer.headers.get("x-amz-bucket-region") if self.answer is not None else None
        if told is None:
            return Step(name="region", status="ok", detail=detail)
        if told == resolved.region:
            return Step(name="region", status="ok", detail=f"{detail}; the server says the same")
        self.elsewhere = (
            f"set the region {shown(told)}: region of the credential, or of the endpoint's entry in artifacts.toml"
        )
        detail = f"{detail}; the server says {shown(told)}"
        return Step(name="region", status="warn", detail=detail, hint=self.elsewhere)

    def sts(self) -> Step:
        """Keys from an STS, where they come from one."""
        resolved = self.resolved
        if resolved is None or self.blocked is not None:
            return Step(name="sts", status="skip", detail=self.blocked or "it was not decided")
        role = resolved.options.sts.role_arn
        if resolved.identity.kind != "jwt" and (role is None or resolved.provider is None):
            return Step(name="sts", status="skip", detail="none is asked: nothing is exchanged for keys")
        try:
            keys = resolved.keys()
        except ToolkitError as error:
            return self._fail("sts", error)
        assert keys is not None
        ends = "no end told" if keys.expires_at is None else f"until {_time(keys.expires_at)}"
        return Step(name="sts", status="ok", detail=f"keys {masked_id(keys.access_key)}, {ends}")

    # -- what can be done --------------------------------------------------------------------------------------------

    def verbs(self, *, folder: bool, may_be_missing: bool, write: bool) -> Iterator[Step]:
        """List, head, get and put, on the store itself."""
        names = ["list", *([] if folder else ["head", "get"]), *(["put"] if write else [])]
        if self.resolved is None and self.blocked is None:
            assert self.refused is not None
            yield self._fail(names.pop(0), self.refused)
        if self.blocked is not None or self.resolved is None:
            for name in names:
                yield Step(name=name, status="skip", detail=self.blocked or "")
            return
        try:
            store = self.resolved.open()
        except CredsError as error:
            yield self._fail("list", error)
            for name in names[1:]:
                yield Step(name=name, status="skip", detail="there is no store")
            return
        with contextlib.closing(store):
            verbs = _Verbs(store, self.resolved, self.cancel, may_be_missing=may_be_missing, elsewhere=self.elsewhere)
            yield from verbs.steps(names)


class _Verbs:
    """The verbs of one store."""

    def __init__(
        self, store: Store, resolved: Resolved, cancel: Cancel, *, may_be_missing: bool, elsewhere: str | None
    ) -> None:
        self.store = store
        self.elsewhere = elsewhere
        self.key = resolved.key
        self.prefix = resolved.key[: resolved.key.rfind("/") + 1]
        self.flat = resolved.location.scheme == "s3"
        self.presigned = bool(resolved.location.query)
        self.anonymous = (
            resolved.identity.kind == "anonymous" and resolved.location.scheme != "file" and not self.presigned
        )
        self.cancel = cancel
        self.may_be_missing = may_be_missing
        self.listed: ObjectMeta | None = None
        self.lists = False
        self.missing = False

    def steps(self, names: list[str]) -> Iterator[Step]:
        todo: Mapping[str, Callable[[], Step]] = {"list": self._list, "head": self._head, "get": self._get}
        for name in names:
            if name == "put":
                yield from self._put()
            else:
                yield todo[name]()

    def _list(self) -> Step:
        if self.presigned:
            return Step(name="list", status="skip", detail="a URL with a query is one object")
        where = f"'{quoted(self.prefix)}'"
        try:
            self.listed = next(iter(self.store.list(self.prefix, cancel=self.cancel)), None)
        except Cancelled:
            raise
        except NotSupported as error:
            return Step(name="list", status="skip", detail=f"the server lists nothing: {_said(error)}")
        except ToolkitError as error:
            if isinstance(error, Unauthenticated | BucketNotFound) or error.retryable:
                return self._failed("list", error)
            hint = "a fetch needs no listing; without it a missing object may look like a forbidden one"
            return Step(name="list", status="warn", detail=_said(error), hint=hint, error=error)
        self.lists = True
        found = "nothing there" if self.listed is None else f"'{quoted(self.listed.key)}' first"
        return Step(name="list", status="ok", detail=f"{found}, below {where}" if self.prefix else found)

    def _head(self) -> Step:
        try:
            meta = self.store.head(self.key, cancel=self.cancel)
        except Cancelled:
            raise
        except ObjectNotFound as error:
            self.missing = True
            if self.may_be_missing:
                return Step(name="head", status="ok", detail="no object yet; the artifact is mutable and starts empty")
            return self._failed("head", error, "correct the key, or push the object")
        except AccessDenied as error:
            return self._failed("head", error, self._why_denied())
        except ToolkitError as error:
            return self._failed("head", error)
        facts = [
            "size not told" if meta.size_bytes is None else f"{meta.size_bytes} bytes",
            *([] if meta.etag is None else [f"etag {shown(meta.etag)}"]),
            *([] if meta.modified is None else [f"of {_time(meta.modified)}"]),
        ]
        return Step(name="head", status="ok", detail=", ".join(facts))

    def _why_denied(self) -> str | None:
        """Where listing is allowed, what is there can be told from what is not."""
        if self.anonymous:
            return "the server does not let just anybody: give a credential"
        if not (self.flat and self.lists):
            return None
        try:
            first = next(iter(self.store.list(self.key, cancel=self.cancel)), None)
        except StoreError:
            return None
        if first is not None and first.key == self.key:
            return "the object is there: allow reading it (s3:GetObject on this key, and its KMS key if it has one)"
        return "no object of this key is listed: correct the key, or push the object"

    def _get(self) -> Step:
        if self.missing:
            return Step(name="get", status="skip", detail="there is no object")
        try:
            with self.store.open(self.key, cancel=self.cancel) as reading:
                first = next(iter(reading), b"")
        except Cancelled:
            raise
        except AccessDenied as error:
            return self._failed("get", error, self._why_denied())
        except ToolkitError as error:
            return self._failed("get", error)
        return Step(name="get", status="ok", detail="the first byte came" if first else "it came, and is empty")

    def _put(self) -> Iterator[Step]:
        if self.presigned:
            yield Step(name="put", status="skip", detail="a URL with a query is one object")
            return
        key = f"{self._existing()}artifacts-doctor-{secrets.token_hex(8)}"
        self.cancel.check()
        try:
            step = self._write(key)
        finally:
            # Also where the server's answer was lost.
            left = not self._removed(key)
        self.cancel.check()
        yield step
        if left and (step.status == "ok" or (step.error is not None and step.error.retryable)):
            hint = f"delete '{quoted(key)}'; allow deleting (s3:DeleteObject), or do without --write"
            yield Step(name="put", status="warn", detail="what was written cannot be deleted again", hint=hint)

    def _write(self, key: str) -> Step:
        try:
            # Not to be stopped: a write that is broken off may arrive after it was cleaned up.
            self.store.write(key, [b"artifacts doctor"], size_hint_bytes=16)
        except AccessDenied as error:
            return self._failed("put", error, "allow writing here (on S3: s3:PutObject)")
        except ToolkitError as error:
            return self._failed("put", error)
        return Step(name="put", status="ok", detail=f"'{quoted(key)}' was written, and deleted again")

    def _removed(self, key: str) -> bool:
        try:
            self.store.delete(key)
        except ToolkitError:
            return False
        return True

    def _existing(self) -> str:
        """The folder to write into: where a server has real folders, one that is there, so that none is made."""
        prefix = self.prefix
        if self.flat or not self.lists:
            return prefix
        with contextlib.suppress(StoreError):
            while prefix and next(iter(self.store.list(prefix, cancel=self.cancel)), None) is None:
                prefix = prefix[: prefix.rstrip("/").rfind("/") + 1]
        return prefix

    def _failed(self, name: str, error: ToolkitError, hint: str | None = None) -> Step:
        code = getattr(error, "server_code", None) or ""
        if "another region" in (error.hint or ""):
            hint = hint or self.elsewhere
        return Step(
            name=name, status="fail", detail=_said(error), hint=hint or _CODES.get(code) or error.hint, error=error
        )


def _said(error: ToolkitError) -> str:
    """The error's message without the location, which is told once for all steps."""
    where = getattr(error, "location", None)
    op = getattr(error, "op", "")
    text = str(error)
    for lead in (f"{op} {where}: ", f"{where}: "):
        text = text.removeprefix(lead)
    return text


def _about(certificate: Certificate) -> str:
    names = ", ".join(shown(name) for name in certificate.names[:4]) or shown(certificate.subject)
    more = f" and {len(certificate.names) - 4} more" if len(certificate.names) > 4 else ""
    return f"for {names}{more}, by '{shown(certificate.issuer)}', until {_time(certificate.ends_at)}"


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _span(left: timedelta) -> str:
    """``in 2 h 5 min``, or ``3 d 4 h ago``."""
    seconds = int(abs(left.total_seconds()))
    parts = ((seconds // 86_400, "d"), (seconds // 3600 % 24, "h"), (seconds // 60 % 60, "min"), (seconds % 60, "s"))
    told = [f"{count} {unit}" for count, unit in parts if count][:2] or ["0 s"]
    return f"in {' '.join(told)}" if left >= timedelta() else f"{' '.join(told)} ago"


def _signed_by(query: Mapping[str, str]) -> str | None:
    """The key that signed a presigned URL (AWS' two ways, Google's); None where it is no presigned URL."""
    lower = {name.lower(): value for name, value in query.items()}
    for name in ("x-amz-credential", "x-goog-credential"):
        if name in lower:
            return lower[name].partition("/")[0]
    return lower.get("awsaccesskeyid")


def _presigned_end(query: Mapping[str, str]) -> datetime | None:
    lower = {name.lower(): value for name, value in query.items()}
    try:
        if "expires" in lower:
            return datetime.fromtimestamp(int(lower["expires"]), UTC)
        for vendor in ("amz", "goog"):
            if f"x-{vendor}-date" in lower:
                began = datetime.strptime(lower[f"x-{vendor}-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
                return began + timedelta(seconds=int(lower[f"x-{vendor}-expires"]))
    except (ValueError, OverflowError, OSError, KeyError):
        return None
    return None
