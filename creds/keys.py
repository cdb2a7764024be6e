"""Whose keys sign: from a request's credential, its own environment, or the caller's AWS setup where asked by name.

Keys travel as snapshots. A provider is any callable that returns one; whoever signs asks it each time, so that keys
which are renewed while they are in use need no further word.
"""

from __future__ import annotations

import copy
import math
import os
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, TypeVar

from creds.endpoint import AWS, Endpoint
from creds.errors import (
    AmbiguousCredential,
    CredentialError,
    LocationError,
    MissingCredential,
    PolicyError,
    RefreshError,
    ToolkitError,
    UnsupportedCredential,
)
from creds.location import DEFAULT_REGION, Location, aws_host, is_aws_region, split_url
from creds.secret import Secret
from creds.store import StoreOptions

if TYPE_CHECKING:
    from creds.models import AWSCredential, Credentials, PlainCredential
    from creds.tokens import TokenSource

_HEADER_TEXT = re.compile(r"[!-~]+")
_PROFILE = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_ANY_REGION = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,62}[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True, kw_only=True)
class AwsKeys:
    """What signs a request, at one moment.

    Attributes:
        access_key: the key's id; shown shortened.
        secret_key: never shown.
        token: the session token of temporary keys, or None; never shown.
        expires_at: timezone-aware, in UTC; None where the keys do not end or nobody tells.
        source: where they came from, as :class:`Identity` has it.
    """

    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    token: str | None = field(default=None, repr=False)
    expires_at: datetime | None = None
    source: str = "request"

    def __repr__(self) -> str:
        ends = "" if self.expires_at is None else f", expires_at={self.expires_at.isoformat()}"
        return f"AwsKeys({masked_id(self.access_key)}, source={self.source!r}{ends})"

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("keys are not pickled: send the credential, or a provider that can be made there")

    def signs_like(self, other: AwsKeys) -> bool:
        """Do both sign alike? When they end, and where they came from, makes no difference."""
        mine, theirs = (self.access_key, self.secret_key, self.token), (other.access_key, other.secret_key, other.token)
        return mine == theirs


CredentialProvider = Callable[[], AwsKeys]


def renewed(provider: CredentialProvider, refused: AwsKeys) -> bool:
    """Tell ``provider`` that a server refused its keys, and ask whether it has others now.

    A provider learns of it by a method ``refused``, if it has one: :class:`TokenCache` and :class:`ChainKeys` do.

    Raises:
        CredentialError, RefreshError: other keys cannot be had.
    """
    tell = getattr(provider, "refused", None)
    if tell is not None:
        tell(refused)
    return not provider().signs_like(refused)


def at_hand(provider: CredentialProvider) -> AwsKeys | None:
    """The keys that ``provider`` has without any wait; None where it may have to make them.

    A provider tells by a method ``at_hand``, if it has one: those of this module do.
    """
    tell = getattr(provider, "at_hand", None)
    return None if tell is None else tell()


class Lasting(Protocol):
    """What may end. It is not changed after it was made."""

    @property
    def expires_at(self) -> datetime | None: ...


L = TypeVar("L", bound=Lasting)


class TokenCache(Generic[L]):
    """One value that ends, made again before it does, for any number of threads.

    In the advisory window one thread tries early, and a failure keeps the old value. In the mandatory window all wait
    for one refresh, and its failure is raised to each of them. Before both, asking costs a comparison. A window is
    never more than its share of the value's life (a half, a quarter), so that short lives are used too.

    Args:
        make: makes a value; raises a ToolkitError when it cannot.
        clock: seconds since 1970.
        advisory_seconds, mandatory_seconds: the windows before the end.
        pause_seconds: the least time between two refreshes. Until it is over, a value that was just made is handed out
            even if it has ended, for the server to judge, and a failure is told again.
    """

    def __init__(
        self,
        make: Callable[[], L],
        *,
        clock: Callable[[], float] = time.time,
        advisory_seconds: float = 900.0,
        mandatory_seconds: float = 60.0,
        pause_seconds: float = 1.0,
    ) -> None:
        self._make = make
        self._clock = clock
        self._windows = advisory_seconds, mandatory_seconds
        self._pause_seconds = pause_seconds
        self._held: _Held[L] | None = None
        self._tried = -math.inf
        self._failure: ToolkitError | None = None
        self._reset()

    def __repr__(self) -> str:
        return f"TokenCache({self._make!r})"

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._pid = os.getpid()

    def _locking(self) -> threading.Lock:
        """The lock; another one after a fork, since the old may be held by a thread that is not there."""
        if self._pid != os.getpid():
            self._reset()
        return self._lock

    def __call__(self) -> L:
        """The value of this moment.

        Raises:
            ToolkitError: as ``make`` raises, where there is no value that could still be used.
        """
        held, now = self._held, self._clock()
        if held is not None and now < held.early_at:
            return held.value
        lock = self._locking()
        if held is None or now >= held.late_at:
            with lock:
                return self._must()
        if lock.acquire(blocking=False):
            try:
                self._may()
            finally:
                lock.release()
        return held.value if self._held is None else self._held.value

    def at_hand(self) -> L | None:
        """The value of this moment, if there is one that need not be made again yet."""
        held = self._held
        return held.value if held is not None and self._clock() < held.early_at else None

    def refused(self, value: L) -> None:
        """Make a new value at the next call, if ``value`` is the one of this moment: its receiver refused it."""
        with self._locking():
            if self._held is not None and self._held.value == value:
                self._held = replace(self._held, early_at=-math.inf, late_at=-math.inf)

    def _must(self) -> L:
        """The value, made again unless another thread just did. Called with the lock."""
        now = self._clock()
        if self._held is None or now >= self._held.late_at:
            if not 0 <= now - self._tried < self._pause_seconds:
                self._renew()
            elif self._failure is not None:
                # One exception raised by many threads would gather all their tracebacks.
                raise copy.copy(self._failure) from self._failure
        assert self._held is not None
        return self._held.value

    def _may(self) -> None:
        """Try to make the value again, if nobody just did. Called with the lock."""
        now, held = self._clock(), self._held
        assert held is not None
        # After an early try that failed, the next ones are spread over the window.
        pause = max(self._pause_seconds, min(60.0, (held.late_at - held.early_at) / 10))
        if now < held.early_at or 0 <= now - self._tried < pause:
            return
        try:
            self._renew()
        except ToolkitError as error:
            import logging

            logging.getLogger("creds").warning(
                "a credential could not be renewed early, and is used until it ends: %s", error
            )

    def _renew(self) -> None:
        begun = self._clock()
        try:
            value = self._make()
        except ToolkitError as error:
            self._failure, self._tried = error, self._clock()
            raise
        self._failure, self._tried = None, self._clock()
        ends = math.inf if value.expires_at is None else value.expires_at.timestamp()
        life = max(0.0, ends - begun)
        advisory, mandatory = self._windows
        self._held = _Held(value, ends - min(advisory, life / 2), ends - min(mandatory, life / 4))


@dataclass(frozen=True, slots=True)
class _Held(Generic[L]):
    """A value, and when it is time to make another: early if possible, late at all costs."""

    value: L
    early_at: float
    late_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What a receipt says of a credential.

    Attributes:
        kind: aws, plain, jwt, anonymous, ambient or profile.
        id: the access key or user, shortened; None where there is none, or it is known only once it is used.
        source: ``request``, ``request.env``, ``token`` (the caller's own JWT), ``ambient``, ``profile:NAME``, or
            ``endpoint`` (in the operator's entry for the endpoint).
        expires_at: when it ends, if that is known.
    """

    kind: str
    id: str | None = None
    source: str = "request"
    expires_at: datetime | None = None

    def to_dict(self) -> dict[str, str | None]:
        """The identity as receipts write it; the time in UTC, to the second."""
        ends = self.expires_at
        return {
            "kind": self.kind,
            "id": self.id,
            "source": self.source,
            "expires_at": None if ends is None else ends.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }


Exchange = Callable[["TokenSource"], tuple[Identity, CredentialProvider]]
"""Turns the tokens of a source into keys for one endpoint."""


class Region(NamedTuple):
    """A region's name, and which source told it: options, credential, endpoint, request.env or default."""

    name: str
    source: str


_BOTOCORES_OWN = ("AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_SECURITY_TOKEN", "AWS_CREDENTIAL_EXPIRATION")


class ChainKeys:
    """Keys of the caller's own AWS setup, as botocore finds and renews them. Nothing is read until they are asked for.

    Args:
        profile: a profile of the setup; None is the whole chain: environment, default profile, role of the machine.

    Calling it raises MissingCredential where the setup has no keys or no such profile, and RefreshError where keys
    cannot be had or renewed.
    """

    def __init__(self, profile: str | None = None) -> None:
        self.profile = profile
        self.source = "ambient" if profile is None else f"profile:{profile}"
        self._lock = threading.Lock()
        self._session: Any = None
        self._credentials: Any = None
        self._given: AwsKeys | None = None

    def __repr__(self) -> str:
        return f"ChainKeys(source={self.source!r})"

    def __call__(self) -> AwsKeys:
        if (plain := self._plain()) is not None:
            self._given = plain
            return plain
        from botocore.exceptions import BotoCoreError, ClientError

        # OSError and ValueError come from a credential_process: it cannot be run, or what it prints is no JSON.
        try:
            with self._lock:
                if self._credentials is None:
                    self._credentials = self._open().get_credentials()
            frozen = None if self._credentials is None else self._credentials.get_frozen_credentials()
        except (BotoCoreError, ClientError, OSError, ValueError) as error:
            raise self._explained(error) from error
        if frozen is None:
            raise MissingCredential(
                f"the AWS setup ({self.source}) has no keys", hint="run 'aws configure', or give --credentials FILE"
            )
        # botocore has no public word for when keys end; static keys lack the attribute.
        ends = getattr(self._credentials, "_expiry_time", None)
        self._given = AwsKeys(
            access_key=frozen.access_key,
            secret_key=frozen.secret_key,
            token=frozen.token,
            expires_at=None if ends is None else ends.astimezone(UTC),
            source=self.source,
        )
        return self._given

    def at_hand(self) -> AwsKeys | None:
        """The keys that it gave last, if they do not end: until they are refused there is nothing to renew."""
        given = self._given
        return given if given is not None and given.expires_at is None else None

    def refused(self, keys: AwsKeys) -> None:
        """Read the setup anew at the next call, if ``keys`` are what it gave last: its files may have changed."""
        with self._lock:
            if self._given is not None and self._given.signs_like(keys):
                self._session = self._credentials = self._given = None

    def _plain(self) -> AwsKeys | None:
        """Keys that lie open in the environment, where botocore would look first and find the very same.

        Loading botocore takes longer than fetching a small object. What it alone can judge stays with it: a profile,
        half a pair, keys that end, the older name of the token.
        """
        pair = os.environ.get("AWS_ACCESS_KEY_ID"), os.environ.get("AWS_SECRET_ACCESS_KEY")
        if self.profile is not None or not all(pair) or any(name in os.environ for name in _BOTOCORES_OWN):
            return None
        access_key, secret_key = pair
        token = os.environ.get("AWS_SESSION_TOKEN") or None
        return AwsKeys(access_key=access_key or "", secret_key=secret_key or "", token=token, source=self.source)

    def region(self) -> str | None:
        """The region that the setup names, or None. Reads its files; raises as a call does."""
        if self._plain() is not None:
            name = os.environ.get("AWS_DEFAULT_REGION")
            if name or not Path(os.environ.get("AWS_CONFIG_FILE", "~/.aws/config")).expanduser().exists():
                return name or None
        from botocore.exceptions import BotoCoreError

        try:
            with self._lock:
                found: str | None = self._open().get_config_variable("region")
        except BotoCoreError as error:
            raise self._explained(error) from error
        return found

    def _open(self) -> Any:
        if self._session is None:
            from botocore.session import Session

            self._session = Session(profile=self.profile)
        return self._session

    def _explained(self, error: Exception) -> CredentialError | RefreshError:
        from botocore.exceptions import (
            ClientError,
            ConfigParseError,
            ConnectionError,  # noqa: A004 - botocore's own name
            HTTPClientError,
            InvalidConfigError,
            PartialCredentialsError,
            ProfileNotFound,
            SSOError,
            TokenRetrievalError,
        )

        if isinstance(error, ProfileNotFound):
            return MissingCredential(
                f"the AWS setup has no profile {str(error.kwargs['profile'])!r}", hint="see 'aws configure list'"
            )
        if isinstance(error, PartialCredentialsError):
            return MissingCredential(f"the AWS setup ({self.source}) has half a pair of keys: {error}")
        if isinstance(error, ConfigParseError):
            return CredentialError(f"the AWS setup cannot be read: {error}")
        if isinstance(error, InvalidConfigError):
            return CredentialError(f"the AWS setup ({self.source}) cannot be used: {error}")
        gave_none = f"the AWS setup ({self.source}) gave no keys"
        if isinstance(error, SSOError | TokenRetrievalError):
            return RefreshError(
                f"{gave_none}: its SSO session has ended, or was never begun", hint=f"run '{self._signing_in()}'"
            )
        hint = "check the setup with 'aws sts get-caller-identity'"
        if isinstance(error, ClientError) and error.operation_name == "GetRoleCredentials":
            hint = "check sso_account_id and sso_role_name, and who is given the role"
        return RefreshError(
            f"{gave_none}: {error}", hint=hint, retryable=isinstance(error, ConnectionError | HTTPClientError)
        )

    def _signing_in(self) -> str:
        """The command that begins an SSO session for this setup."""
        profile = self.profile or self._open().get_config_variable("profile")
        return "aws sso login" + (f" --profile {profile}" if profile and _PROFILE.fullmatch(profile) else "")


def static(keys: AwsKeys) -> CredentialProvider:
    """A provider of keys that do not change."""
    return _Static(keys)


@dataclass(frozen=True, slots=True)
class _Static:
    keys: AwsKeys

    def __call__(self) -> AwsKeys:
        return self.keys

    at_hand = __call__


def masked_id(text: str) -> str:
    """A key's id or a user's name, shortened so that its owner knows it again and nobody else learns it."""
    shown = text if text.isprintable() else "".join(char if char.isprintable() else "?" for char in text)
    if len(shown) >= 12:
        return f"{shown[:4]}…{shown[-4:]}"
    return f"{shown[:2]}…" if len(shown) >= 4 else "…"


def kind_of(credentials: Credentials | None) -> str | None:
    """The one kind of credential that is given: ``plain``, ``jwt`` or ``aws``; None where none is.

    Raises:
        AmbiguousCredential: there are several; none is preferred, since each may mean another owner.
    """
    given = [kind for kind in ("plain", "jwt", "aws") if getattr(credentials, kind, None) is not None]
    if len(given) > 1:
        raise AmbiguousCredential(
            f"the credentials hold several kinds: {', '.join(given)}", hint="leave one, and make the others null"
        )
    return given[0] if given else None


def resolve_keys(
    credentials: Credentials | None,
    *,
    request_env: Mapping[str, str],
    ambient: bool = False,
    profile: str | None = None,
) -> CredentialProvider | None:
    """The keys for S3; the provider of :func:`identify`, which has the order."""
    return identify(credentials, request_env=request_env, ambient=ambient, profile=profile)[1]


def identify(
    credentials: Credentials | None,
    *,
    request_env: Mapping[str, str],
    ambient: bool = False,
    profile: str | None = None,
    token: TokenSource | None = None,
    exchange: Exchange | None = None,
) -> tuple[Identity, CredentialProvider | None]:
    """Who speaks to S3, and with which keys. Nothing of the machine's own is read here, but a token by ``exchange``.

    The first line that applies decides; no later one is looked at:

    ==== ========================================= =========================================== ===========
    line the request has                           then                                        source
    ==== ========================================= =========================================== ===========
    1    several kinds of credential               AmbiguousCredential
    2    ``jwt``                                   MissingCredential where it is empty, else   request
                                                   keys by STS
    3    ``plain``, user and password              the user is the access key                  request
    4    ``plain``, one of them or none            MissingCredential
    5    ``aws``, both keys                        these, with its own session token           request
    6    ``aws``, one key, or a token alone        MissingCredential
    7    ``aws``, no keys, a profile               that profile, if ``profile`` names it too;  profile:NAME
                                                   else PolicyError
    8    ``aws``, no keys                          anonymous                                   request
    9    ``AWS_*`` pair in ``config.env``          that pair, with the token found there       request.env
    10   one of the two in ``config.env``          MissingCredential
    11   nothing, and the caller gave a token      keys by STS                                 token
    12   nothing, and the caller gave ``profile``  that profile                                profile:NAME
    13   nothing, and the caller gave ``ambient``  the caller's own chain                      ambient
    14   nothing                                   anonymous                                   request
    ==== ========================================= =========================================== ===========

    So a request's own credential always comes before the caller's. Keys in ``aws`` come before a profile beside them,
    which means something on the machine that wrote the request alone.

    Args:
        credentials: the request's.
        request_env: the request's ``config.env``.
        ambient: the caller allows their own chain where the credential is absent.
        profile: the caller allows this profile of theirs where the credential is absent or names it.
        token: makes the caller's own JWT where the credential is absent.
        exchange: turns a JWT into an identity and keys for the endpoint; None has no STS to ask.

    Returns:
        What to say of the credential, and the provider; None is anonymous.

    Raises:
        CredentialError: as in the table; no message holds a value.
        PolicyError: line 7; and as ``exchange`` raises.
        RefreshError: the token of line 2 or 11 has ended.
    """
    kind_of(credentials)
    if credentials is not None and credentials.jwt is not None:
        from creds.tokens import LiteralToken

        return _exchanged(LiteralToken(credentials.jwt.token), exchange)
    if credentials is not None and credentials.plain is not None:
        return _plain(credentials.plain)
    if credentials is not None and credentials.aws is not None:
        return _aws(credentials.aws, profile)
    access = request_env.get("AWS_ACCESS_KEY_ID", "")
    secret = request_env.get("AWS_SECRET_ACCESS_KEY", "")
    if access or secret:
        names = ("config.env.AWS_ACCESS_KEY_ID", "config.env.AWS_SECRET_ACCESS_KEY", "config.env.AWS_SESSION_TOKEN")
        return _pair("aws", names, access, secret, request_env.get("AWS_SESSION_TOKEN", ""), "request.env")
    if token is not None:
        return _exchanged(token, exchange)
    if profile is not None:
        return _chain(profile)
    if ambient:
        return _chain(None)
    return Identity(kind="anonymous"), None


def _exchanged(source: TokenSource, exchange: Exchange | None) -> tuple[Identity, CredentialProvider | None]:
    if exchange is None:
        raise UnsupportedCredential(
            "a JWT becomes keys at the STS of one endpoint", hint="use creds.resolve, which knows the endpoint"
        )
    return exchange(source)


def _plain(plain: PlainCredential) -> tuple[Identity, CredentialProvider | None]:
    names = ("credentials.plain.user", "credentials.plain.password", "")
    return _pair("plain", names, plain.user, _text(plain.password), "", "request")


def _aws(aws: AWSCredential, profile: str | None) -> tuple[Identity, CredentialProvider | None]:
    access, secret, token = _text(aws.access_key), _text(aws.secret_access_key), _text(aws.session_token)
    if access or secret or token:
        names = ("credentials.aws.access_key", "credentials.aws.secret_access_key", "credentials.aws.session_token")
        return _pair("aws", names, access, secret, token, "request")
    wanted = _text(aws.profile)
    if not wanted:
        return Identity(kind="anonymous"), None
    if wanted != profile:
        raise PolicyError(
            f"credentials.aws.profile asks for the profile {wanted[:64]!r} of this machine's own AWS setup",
            rule="profile",
            hint=f"add --profile {wanted}" if _PROFILE.fullmatch(wanted) else None,
        )
    return _chain(wanted)


def _chain(profile: str | None) -> tuple[Identity, CredentialProvider | None]:
    keys = ChainKeys(profile)
    return Identity(kind="ambient" if profile is None else "profile", source=keys.source), keys


def _pair(
    kind: str, names: tuple[str, str, str], access: str, secret: str, token: str, source: str
) -> tuple[Identity, CredentialProvider | None]:
    """Keys from their two halves and the token; ``names`` are the fields they came from."""
    if not access or not secret:
        lacking = [name for name, value in zip(names, (access, secret), strict=False) if not value]
        raise MissingCredential(
            f"{' and '.join(lacking)} {'is' if len(lacking) == 1 else 'are'} missing",
            hint="give the whole pair; for anonymous access give credentials.aws with both keys empty",
        )
    for name, value in ((names[0], access), (names[2], token)):
        if value and not _HEADER_TEXT.fullmatch(value):
            raise CredentialError(
                f"{name} holds a character that no key has", hint="look for a space or line break at its end"
            )
    keys = AwsKeys(access_key=access, secret_key=secret, token=token or None, source=source)
    return Identity(kind=kind, id=masked_id(access), source=source), static(keys)


def resolve_region(
    credentials: Credentials | None,
    location: Location,
    request_env: Mapping[str, str],
    endpoint: Endpoint | None,
    options: StoreOptions,
) -> Region:
    """The region that signs, and that chooses AWS' own host. The first source that names one wins:

    ==== ============================================================ ===========
    line named by                                                     source
    ==== ============================================================ ===========
    1    ``StoreOptions.region`` (``--region``)                       options
    2    ``credentials.aws.region``                                   credential
    3    the AWS host's name, in the location or ``--endpoint-url``   endpoint
    4    the operator's entry for the endpoint                        endpoint
    5    ``AWS_REGION`` in ``config.env``                             request.env
    6    ``AWS_DEFAULT_REGION`` in ``config.env``                     request.env
    7    nothing: ``us-east-1``                                       default
    ==== ============================================================ ===========

    Where the keys are the caller's own (``ambient``, ``profile``), the region of that setup comes before line 7; it
    is read when the store is opened.

    Raises:
        LocationError: what was named is no region, and so would change the host or break the signature.
    """
    aws = None if credentials is None else credentials.aws
    entry_region = None
    if endpoint is not None:
        named = None if endpoint.url == AWS else aws_host(split_url(endpoint.url)[1])
        entry_region = (named.region if named else None) or endpoint.region
    for name, source, what in (
        (options.region, "options", "--region"),
        (_text(aws.region) if aws is not None else None, "credential", "credentials.aws.region"),
        (location.region, "endpoint", "the endpoint's name"),
        (entry_region, "endpoint", "the endpoint's entry"),
        (request_env.get("AWS_REGION"), "request.env", "config.env.AWS_REGION"),
        (request_env.get("AWS_DEFAULT_REGION"), "request.env", "config.env.AWS_DEFAULT_REGION"),
    ):
        if name:
            return Region(
                checked_region(name, what, on_aws=location.on_aws and (endpoint is None or endpoint.url == AWS)), source
            )
    return Region(DEFAULT_REGION, "default")


def checked_region(name: str, what: str, *, on_aws: bool) -> str:
    """``name``, if it is a region's; ``what`` names its source in the error.

    Raises:
        LocationError: on AWS the region is part of the host, so only AWS' own form will do there.
    """
    if is_aws_region(name) or (not on_aws and _ANY_REGION.fullmatch(name)):
        return name
    shown = repr(name if len(name) <= 40 else name[:37] + "...")
    raise LocationError(f"{what} is {shown}, which is no region", hint="a region is written like us-west-2")


def _text(value: Secret | str | None) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else value.get_secret_value()
