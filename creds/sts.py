"""Keys from a security token service: for a JWT (AssumeRoleWithWebIdentity) or keys (AssumeRole, GetSessionToken).

Each is one form by POST, sent by :mod:`creds.web`, so that the same CA, proxies, timeouts and retries hold for this
leg as for the stores, and nothing is taken from the environment. boto3's STS client is not used: it cannot leave out
the role, which servers such as MinIO do not need, and would be a second client to isolate. The token travels in the
body alone, so no URL, and no log of one, holds it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple
from urllib.parse import urlencode
from xml.parsers import expat

from creds.errors import PolicyError, RefreshError
from creds.keys import AwsKeys, CredentialProvider, renewed
from creds.secret import Secret
from creds.store import StoreOptions, Sts
from creds.tokens import Claims, LiteralToken, TokenSource, name_of, read, shown, taken
from creds.web import Answer, ask

_VERSION = "2011-06-15"
_SESSION = "GetSessionToken"
_FORM = "application/x-www-form-urlencoded; charset=utf-8"
_KEY_TEXT = re.compile(r"[!-~]{1,8192}")
_CODE = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,63}")
_WANTED = ("AccessKeyId", "SecretAccessKey", "SessionToken", "Expiration", "Code")

# What AWS calls them in the reference of both actions ("Errors"); SeaweedFS says InvalidParameterValue of any token
# that it does not believe.
_TRANSIENT = frozenset(
    ("IDPCommunicationError", "InternalFailure", "InternalError", "ServiceUnavailable", "Throttling", "RequestTimeout")
)
_KEYS_REFUSED = frozenset(("InvalidClientTokenId", "ExpiredToken", "SignatureDoesNotMatch", "InvalidAccessKeyId"))
_HINTS: Mapping[str, str] = {
    "ExpiredTokenException": "the token has ended by the server's clock",
    "InvalidIdentityToken": "check the token's issuer, audience and signature against what the server trusts",
    "InvalidParameterValue": "check the token's issuer, audience and signature against what the server trusts",
    "IDPRejectedClaim": "the issuer itself refused the token",
    "IDPCommunicationError": "the server cannot reach the token's issuer",
    "AccessDenied": "check the role's name, and whom its trust policy lets in (subject, audience, issuer)",
    "NoSuchEntity": "check the role's name",
    "ValidationError": "check the role's ARN and the session's name",
    "MalformedPolicyDocument": "check the session policy",
    "PackedPolicyTooLarge": "shorten the session policy",
    "RegionDisabledException": "STS is not active in this region of the account",
    "InvalidClientTokenId": "check the keys that take the role",
    "SignatureDoesNotMatch": "check the keys that take the role",
    "ExpiredToken": "the keys that take the role have ended",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class WebIdentity:
    """Makes keys of a JWT: each call asks the source for the token of the moment, and the STS for keys.

    Attributes:
        source: of tokens.
        url: of the STS.
        role_arn: the role to take, or None.
        options: how to talk, and what of :class:`~creds.store.Sts` else to ask for.
        issuer: what ``iss`` must be, as it was when the policy decided.
        origin: the source of the keys, for receipts.
        verify: see :func:`creds.tokens.read`.
        guard: called before each exchange; raises if the STS may not be reached.
        clock: seconds since 1970.

    Raises:
        CredentialError, RefreshError: when called: the token is of no use, or the STS gave no keys.
        PolicyError: the source now gives tokens of another issuer.
    """

    source: TokenSource = field(repr=False)
    url: str
    role_arn: str | None
    options: StoreOptions = field(repr=False)
    issuer: str
    origin: str = "request"
    verify: Callable[[Secret], object] | None = field(default=None, repr=False)
    guard: Callable[[], None] | None = field(default=None, repr=False)
    clock: Callable[[], float] = field(default=time.time, repr=False)

    def __call__(self) -> AwsKeys:
        token, literal = taken(self.source), isinstance(self.source, LiteralToken)
        claims = read(token, name_of(self.source), literal=literal, clock=self.clock, verify=self.verify)
        if claims.issuer != self.issuer:
            raise PolicyError(
                f"the token is now by {shown(claims.issuer)}, and was by {shown(self.issuer)}", rule="issuer"
            )
        if self.guard is not None:
            self.guard()
        form = {"WebIdentityToken": token}
        return _exchange(self.url, "AssumeRoleWithWebIdentity", form, self.role_arn, self.options, self.origin, claims)


@dataclass(frozen=True, slots=True, kw_only=True)
class AssumeRole:
    """Makes keys of other keys: each call takes the role anew, with the keys that ``provider`` has at that moment.

    Attributes:
        provider: of the keys that sign.
        url, options, guard: as :class:`WebIdentity` has them.
        role_arn: the role to take; None makes a session of the keys' own owner (GetSessionToken), which AWS gives to
            long-lived keys alone, and which many servers do not have.
        region: that the call is signed for.

    Raises:
        CredentialError, RefreshError: when called: ``provider`` has no keys, or the STS gave none for them.
    """

    provider: CredentialProvider
    url: str
    role_arn: str | None
    region: str
    options: StoreOptions = field(repr=False)
    guard: Callable[[], None] | None = field(default=None, repr=False)

    def __call__(self) -> AwsKeys:
        if self.guard is not None:
            self.guard()
        keys = self.provider()
        try:
            return self._take(keys)
        except _Refused:
            if not renewed(self.provider, keys):
                raise
            return self._take(self.provider())

    def _take(self, keys: AwsKeys) -> AwsKeys:
        form: dict[str, Secret] = {}
        action = _SESSION if self.role_arn is None else "AssumeRole"
        if self.options.sts.external_id is not None and self.role_arn is not None:
            form["ExternalId"] = Secret(self.options.sts.external_id)
        signer = _Signer(keys, self.region)
        try:
            return _exchange(self.url, action, form, self.role_arn, self.options, keys.source, signer=signer)
        except RefreshError as error:
            if self.role_arn is None and not error.retryable and not isinstance(error, _Refused):
                # What a server without it answers is a refusal like any other.
                error.hint = (
                    "not every server has GetSessionToken, and AWS gives it to long-lived keys alone: "
                    "name a role to take (--role-arn)"
                )
            raise


class _Refused(RefreshError):
    """Raised when the keys that sign an exchange are not, or no longer, good."""


class _Signer(NamedTuple):
    keys: AwsKeys
    region: str

    def headers(self, url: str, body: Secret) -> dict[str, str]:
        """The headers that sign the form, by SigV4."""
        from botocore.auth import SigV4Auth
        from botocore.awsrequest import AWSRequest
        from botocore.credentials import ReadOnlyCredentials

        keys = ReadOnlyCredentials(self.keys.access_key, self.keys.secret_key, self.keys.token)
        request = AWSRequest("POST", url, headers={"Content-Type": _FORM}, data=body.get_secret_value().encode())
        SigV4Auth(keys, "sts", self.region).add_auth(request)
        return dict(request.headers.items())


def sts_url(region: str) -> str:
    """AWS' own STS for a region."""
    return f"https://sts.{region}.amazonaws.com{'.cn' if region.startswith('cn-') else ''}"


def _exchange(
    url: str,
    action: str,
    form: Mapping[str, Secret],
    role_arn: str | None,
    options: StoreOptions,
    source: str,
    claims: Claims | None = None,
    signer: _Signer | None = None,
) -> AwsKeys:
    fields = _fields(action, role_arn, options.sts)
    body = Secret(urlencode(fields | {name: value.get_secret_value() for name, value in form.items()}))
    address = f"{url.rstrip('/')}/"
    return ask(
        "POST",
        address,
        options,
        lambda answer: _keys(answer, url, source, claims),
        what=f"STS {url}",
        body=body,
        headers={"Content-Type": _FORM} if signer is None else signer.headers(address, body),
    )


def _fields(action: str, role_arn: str | None, sts: Sts) -> dict[str, str]:
    fields = {
        "Action": action,
        "Version": _VERSION,
        "DurationSeconds": None if sts.duration_seconds is None else str(sts.duration_seconds),
    }
    if action != _SESSION:
        fields |= {"RoleArn": role_arn, "RoleSessionName": sts.session_name, "Policy": sts.session_policy}
    return {name: value for name, value in fields.items() if value is not None}


def _keys(answer: Answer, url: str, source: str, claims: Claims | None) -> AwsKeys:
    """The keys of an answer, or the error that it is. No word of the server's is repeated but its code."""
    told = _leaves(answer.body)
    if answer.status != 200:
        code = told.get("Code", "")
        code = code if _CODE.fullmatch(code) else ""
        kind = _Refused if claims is None and code in _KEYS_REFUSED else RefreshError
        of_token = claims is None and code in ("InvalidIdentityToken", "InvalidParameterValue")
        hint = None if of_token else _HINTS.get(code)
        hint = hint or "check that the endpoint is an STS, and the role"
        raise kind(
            f"STS {url} refused the {'keys' if claims is None else 'token'}: {answer.status} {code}".rstrip(),
            hint=hint if claims is None else f"{hint}; the token says {claims}",
            retryable=code in _TRANSIENT,
        )
    names = ("AccessKeyId", "SecretAccessKey", "SessionToken")
    if not all(_KEY_TEXT.fullmatch(told.get(name, "")) for name in names):
        raise RefreshError(f"STS {url}: the answer holds no keys", hint="check that the endpoint is an STS")
    return AwsKeys(
        access_key=told["AccessKeyId"],
        secret_key=told["SecretAccessKey"],
        token=told["SessionToken"],
        expires_at=_moment(told.get("Expiration"), url),
        source=source,
    )


def _moment(text: str | None, url: str) -> datetime | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise RefreshError(f"STS {url}: the answer does not say when its keys end") from None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _leaves(body: bytes) -> dict[str, str]:
    """The texts of the elements that matter, by name, whatever stands around them; the first of each.

    A document type is refused, and with it every entity that could grow or point elsewhere.
    """
    found: dict[str, str] = {}
    texts: list[str] = []
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.buffer_text = True

    def start(_name: str, _attributes: object) -> None:
        texts.clear()

    def end(name: str) -> None:
        local = name.rpartition(" ")[2]
        if local in _WANTED:
            found.setdefault(local, "".join(texts))
        texts.clear()

    def forbidden(*_: object) -> None:
        raise expat.ExpatError("a document type")

    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = texts.append
    parser.StartDoctypeDeclHandler = forbidden
    try:
        parser.Parse(body, True)
    except expat.ExpatError:
        return {}
    return found
