"""JWTs: where they come from, and what they say. Whoever receives one decides whether it is true, unless we can too.

A token is read before it is sent anywhere, so that one that cannot be accepted costs no connection and its owner learns
which claim is at fault, and since when. Reading trusts nothing: a claim chooses among what the operator has set up, and
the receiver checks the signature. With a :class:`Verifier` it is checked here as well. No token is ever shown.
"""

from __future__ import annotations

import math
import os
import re
import stat
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from creds.errors import CredentialError, CredsError, MissingCredential, RefreshError, ToolkitError
from creds.secret import Secret
from creds.store import StoreOptions
from creds.web import Answer, ask

LEEWAY_SECONDS = 60.0
"""How far this machine's clock and the issuer's may be apart."""

MAX_CHARS = 20_000
"""The longest token that AWS' STS takes (``WebIdentityToken``)."""

FRESH_SECONDS = 300.0
"""How long an issuer's published keys are used before they are asked for again."""

_PARTS = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*")
_ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")

TokenSource = Callable[[], Secret | str]
"""Makes the token of this moment; asked again at each refresh."""


@dataclass(frozen=True, slots=True)
class LiteralToken:
    """A token that a request carries. It is what it is: once it has ended, nothing renews it."""

    token: Secret

    def __call__(self) -> Secret:
        return self.token

    def __str__(self) -> str:
        return "credentials.jwt.token"


@dataclass(frozen=True, slots=True)
class TokenFile:
    """A file that holds a token and is written anew before the token ends, as Kubernetes projects them.

    Args:
        path: read at each call.

    Raises:
        RefreshError: when called, if the file cannot be read or is no regular file with at most ``MAX_CHARS``.
    """

    path: str | os.PathLike[str]

    def __call__(self) -> Secret:
        try:
            # A pipe would otherwise be waited for.
            with os.fdopen(os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise RefreshError(f"{self} is no regular file")
                content = file.read(MAX_CHARS + 2)
        except OSError as error:
            raise RefreshError(
                f"{self} cannot be read: {error.strerror}", hint="check the path, and who may read it"
            ) from error
        return Secret(content.decode("latin-1").strip())

    def __str__(self) -> str:
        return f"the token file {os.fspath(self.path)!r}"


@dataclass(frozen=True, slots=True)
class TokenVariable:
    """An environment variable that holds a token. Read at each call; MissingCredential where it is not set."""

    name: str

    def __call__(self) -> Secret:
        text = os.environ.get(self.name, "").strip()
        if not text:
            raise MissingCredential(f"{self} is not set or empty")
        return Secret(text)

    def __str__(self) -> str:
        return f"the variable {self.name}"


def taken(source: TokenSource) -> Secret:
    """The token that ``source`` gives at this moment.

    Raises:
        MissingCredential, RefreshError: the source's own, and RefreshError for whatever else a callable raises.
    """
    try:
        given: object = source()
    except ToolkitError:
        raise
    except Exception as error:  # a caller's own function: what it may raise is theirs to say
        raise RefreshError(f"{name_of(source)} cannot be had: its source raised {type(error).__name__}") from error
    if isinstance(given, Secret):
        return given
    if isinstance(given, str):
        return Secret(given)
    raise RefreshError(f"{name_of(source)} cannot be had: its source gave no text but {type(given).__name__}")


def name_of(source: TokenSource) -> str:
    """What messages call a token. Of a callable nothing is said: its repr may hold what it was made with."""
    known = isinstance(source, LiteralToken | TokenFile | TokenVariable)
    return str(source) if known else "the operator's token"


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """What a token says of itself. Nothing here is proven, unless a :class:`Verifier` was asked.

    Attributes:
        issuer, subject: ``iss`` and ``sub``; empty where the token has none.
        audience: ``aud``, one or several.
        expires_at, not_before: ``exp`` and ``nbf``, in UTC; None where the token has none.
        algorithm, key_id: of the header; ``key_id`` is None where the header has no ``kid``.
    """

    issuer: str = ""
    subject: str = ""
    audience: tuple[str, ...] = ()
    expires_at: datetime | None = None
    not_before: datetime | None = None
    algorithm: str = ""
    key_id: str | None = None

    @property
    def id(self) -> str:
        """Whom a receipt names: ``sub:...``, in one printable line."""
        return f"sub:{shown(self.subject)}"

    def __str__(self) -> str:
        """Issuer, audience, subject and end for people; none of them is a secret."""
        audience = ", ".join(shown(name) for name in self.audience) or "none"
        ends = "none" if self.expires_at is None else _time(self.expires_at)
        return f"iss {shown(self.issuer) or 'none'}, aud {audience}, sub {shown(self.subject) or 'none'}, exp {ends}"


def read(
    token: Secret | str,
    what: str = "the token",
    *,
    literal: bool = False,
    clock: Callable[[], float] = time.time,
    leeway_seconds: float = LEEWAY_SECONDS,
    verify: Callable[[Secret], object] | None = None,
) -> Claims:
    """Read a token's claims, and refuse one that nobody could accept. No I/O but that of ``verify``.

    Args:
        token: as its source gave it.
        what: the source's name, for messages.
        literal: nothing renews it.
        clock: seconds since 1970.
        leeway_seconds: how far the clocks may be apart for ``exp`` and ``nbf``.
        verify: called with the token once its claims hold; raises if the signature does not.

    Raises:
        MissingCredential: it is empty.
        CredentialError: it is no JWT, is signed by nobody (``alg: none``), or ``nbf`` is in the future.
        RefreshError: it has ended; says when.
    """
    token = token if isinstance(token, Secret) else Secret(token)
    if not token:
        raise MissingCredential(f"{what} is empty")
    header, payload = _decoded(token, what)
    claims = _claims(header, payload, what)
    if claims.algorithm.lower() in ("", "none"):
        raise CredentialError(f"{what} is signed by nobody (alg: none)", hint="ask the issuer for a signed token")
    now = clock()
    if claims.expires_at is not None and claims.expires_at.timestamp() + leeway_seconds <= now:
        raise RefreshError(
            f"{what} ended at {_time(claims.expires_at)} (exp)"
            + ("; a token that is written into a request cannot be renewed" if literal else ""),
            hint="send the request again with a new token" if literal else "see why its issuer has not renewed it",
        )
    if claims.not_before is not None and claims.not_before.timestamp() - leeway_seconds > now:
        raise CredentialError(
            f"{what} is not valid before {_time(claims.not_before)} (nbf)", hint="check this machine's clock"
        )
    if verify is not None:
        verify(token)
    return claims


def shown(text: str) -> str:
    """A claim for people: printable, and of a bearable length."""
    text = "".join(char if char.isprintable() else "?" for char in text)
    return text if len(text) <= 120 else f"{text[:117]}..."


def _time(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _decoded(token: Secret, what: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Header and payload as PyJWT reads them; every error is made where no frame holds the token."""
    import jwt

    if len(token) > MAX_CHARS:
        raise CredentialError(f"{what} is longer than {MAX_CHARS} characters, which is no token")
    if not _PARTS.fullmatch(token.get_secret_value()):
        raise CredentialError(
            f"{what} is no JWT: it is not three parts of base64url with dots between",
            hint="look for a space, a line break or a 'Bearer' before it",
        )
    whole: Mapping[str, Any] | None
    try:
        whole = jwt.decode_complete(token.get_secret_value(), options={"verify_signature": False})
    except (jwt.PyJWTError, ValueError, RecursionError):
        whole = None
    if whole is None:
        raise CredentialError(f"{what} is no JWT: its header or payload is no JSON object")
    return whole["header"], whole["payload"]


def _claims(header: Mapping[str, Any], payload: Mapping[str, Any], what: str) -> Claims:
    audience = payload.get("aud", [])
    audience = [audience] if isinstance(audience, str) else audience
    if not isinstance(audience, list) or not all(isinstance(name, str) for name in audience):
        raise CredentialError(f"{what} has an audience (aud) that is no text")
    return Claims(
        issuer=_word(payload, "iss", what),
        subject=_word(payload, "sub", what),
        audience=tuple(audience),
        expires_at=_moment(payload, "exp", what),
        not_before=_moment(payload, "nbf", what),
        algorithm=_word(header, "alg", what),
        key_id=_word(header, "kid", what) or None,
    )


def _word(fields: Mapping[str, Any], name: str, what: str) -> str:
    value = fields.get(name, "")
    if not isinstance(value, str):
        raise CredentialError(f"{what} has a claim {name} that is no text")
    return value


def _moment(payload: Mapping[str, Any], name: str, what: str) -> datetime | None:
    value = payload.get(name)
    if value is None:
        return None
    # The upper bound is the last year that datetime has.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 253_402_300_800:
        raise CredentialError(f"{what} has a claim {name} that is no time", hint="it is seconds since 1970")
    return datetime.fromtimestamp(math.floor(value), UTC)


@dataclass(slots=True, kw_only=True, eq=False)
class Verifier:
    """Checks a token's signature, issuer and audience against keys that the operator names.

    Published keys are kept for ``FRESH_SECONDS`` and asked for again when a token names one that is not among them, so
    that issuers may change keys; while they cannot be had, the old ones serve on.

    Args:
        keys: the URL of a JWKS, or the JWKS itself.
        issuer: what ``iss`` must be.
        audience: what ``aud`` must be or hold; None does not look at it.
        options: the CA, proxies, timeouts and retries of the way to the URL.
        clock: seconds since 1970.
        pause_seconds: between two looks for an unknown key, so that forged tokens cannot flood the issuer.

    Calling it with a token raises CredentialError if the token does not hold, and RefreshError (retryable) where the
    keys were never got and cannot be.
    """

    keys: str | Mapping[str, Any]
    issuer: str
    audience: str | None = None
    options: StoreOptions = field(default_factory=StoreOptions, repr=False)
    clock: Callable[[], float] = time.time
    pause_seconds: float = 10.0
    _known: dict[str | None, Any] | None = field(default=None, init=False, repr=False)
    _asked: float = field(default=-math.inf, init=False, repr=False)
    _lock: Any = field(default_factory=threading.Lock, init=False, repr=False)

    def __call__(self, token: Secret) -> None:
        import jwt

        header, _ = _decoded(token, "the token")
        key = self._key(header.get("kid"))
        problem = None
        try:
            jwt.decode(
                token.get_secret_value(),
                key,
                algorithms=list(_ALGORITHMS),
                issuer=self.issuer,
                audience=self.audience,
                # The times were read before, by the caller's clock.
                options={
                    "verify_aud": self.audience is not None,
                    "verify_exp": False,
                    "verify_nbf": False,
                    "verify_iat": False,
                },
            )
        except jwt.InvalidIssuerError:
            problem = f"its issuer (iss) is not {self.issuer}"
        except (jwt.InvalidAudienceError, jwt.MissingRequiredClaimError):
            problem = f"its audience (aud) is not {self.audience}, or its issuer (iss) is missing"
        except jwt.PyJWTError:
            problem = "its signature is not by the issuer's key"
        if problem is not None:
            raise CredentialError(f"the token is refused: {problem}")

    def _key(self, key_id: str | None) -> Any:
        with self._lock:
            known = self._current()
            if key_id not in known and self.clock() - self._asked >= self.pause_seconds:
                known = self._ask(keep=True)
        # A token without a kid is by the only key, if there is only one.
        key = next(iter(known.values())) if key_id is None and len(known) == 1 else known.get(key_id)
        if key is None:
            raise CredentialError(
                "the token is refused: its issuer publishes no such key (kid)", hint="it may be of another issuer"
            )
        return key

    def _current(self) -> dict[str | None, Any]:
        if isinstance(self.keys, str):
            if self._known is None or self.clock() - self._asked >= FRESH_SECONDS:
                return self._ask(keep=self._known is not None)
        elif self._known is None:
            import json

            self._known = _key_set(json.dumps(dict(self.keys)).encode(), "the key set")
        return self._known

    def _ask(self, *, keep: bool) -> dict[str | None, Any]:
        """The keys as they are published now; the old ones while these cannot be had and ``keep`` is set."""
        self._asked = self.clock()
        what = f"the keys of {self.issuer}"
        try:
            self._known = ask("GET", str(self.keys), self.options, lambda answer: _published(answer, what), what=what)
        except CredsError as error:
            if not keep or self._known is None:
                raise
            import logging

            logging.getLogger("creds").warning("%s; the keys from before serve on", error)
        return self._known


def _published(answer: Answer, what: str) -> dict[str | None, Any]:
    if answer.status != 200:
        raise RefreshError(f"{what}: answered {answer.status}", hint="check the URL of the JWKS")
    return _key_set(answer.body, what)


def _key_set(content: bytes, what: str) -> dict[str | None, Any]:
    """The keys of a JWKS by their names. Those of kinds that PyJWT does not know are left out."""
    import jwt

    try:
        keys = jwt.PyJWKSet.from_json(content.decode("utf-8")).keys
    except (jwt.PyJWTError, ValueError, RecursionError, AttributeError, TypeError) as error:
        raise RefreshError(f"{what}: the answer is no JWKS with a key of use") from error
    return {key.key_id: key for key in keys}
