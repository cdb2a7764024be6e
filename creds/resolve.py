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

from creds.errors import CredsError, LocationError, NotSupported, UnsupportedCredential
from creds.keys import (
    ChainKeys,
    CredentialProvider,
    Identity,
    Region,
    checked_region,
    identify,
    kind_of,
    resolve_region,
)
from creds.location import Location, address_of, aws_host, aws_url, quoted, split_url
from creds.models import Credentials
from creds.policy import Policy, Verdict
from creds.store import Store, StoreOptions

_ADDRESSING = ("auto", "path", "virtual")
_CHECKSUMS = ("auto", "always", "never")
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
        provider: what makes the keys; None is anonymous.
        options: how the store talks.
        policy: what decided; it looks at resolved addresses before the first connection.
        on_aws: is the server AWS itself?
        addressing: ``path`` or ``virtual``.
        checksums: are boto3's default checksums sent?
    """

    location: Location
    verdict: Verdict
    identity: Identity
    region: str = ""
    region_source: str = ""
    provider: CredentialProvider | None = field(default=None, repr=False)
    options: StoreOptions = field(default_factory=StoreOptions, repr=False)
    policy: Policy = field(repr=False)
    on_aws: bool = False
    addressing: str = "path"
    checksums: bool = False

    @property
    def key(self) -> str:
        """The object's key in the opened store; for a file its path below the store's root."""
        return self.verdict.key

    def open(self) -> Store:
        """The store. Connects to nothing yet; reads the caller's AWS setup where its region is wanted.

        Raises:
            CredentialError, RefreshError: the caller's AWS setup cannot be read.
        """
        return STORES[self.location.scheme][self.identity.kind](self)


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
) -> Resolved:
    """Decide how ``location`` is opened, and whether it may be. No I/O.

    Args:
        location: where.
        credentials: what the request carries for it.
        options: how to talk, and what of the caller's own may be used; None is the defaults.
        policy: what may be reached; None is :meth:`Policy.for_requests` with nothing named.

    Raises:
        NotSupported: there is no store for the scheme.
        PolicyError: refused; names the rule and the flag.
        CredentialError: the credential is missing, half there, ambiguous, or of no use to the scheme.
        LocationError: a region or setting is none.
    """
    options = options or StoreOptions()
    policy = policy or Policy.for_requests()
    try:
        if location.scheme not in STORES:
            raise NotSupported(
                f"{location}: there is no store for {location.scheme} locations yet", hint="stores: s3, file"
            )
        verdict = policy.check(location)
        identity, provider = _identify(location.scheme, credentials, options)
        resolved = Resolved(
            location=location, verdict=verdict, identity=identity, provider=provider, options=options, policy=policy
        )
        if location.scheme == "s3":
            region = resolve_region(credentials, location, options.request_env, verdict.endpoint, options)
            return _at(resolved, region)
    except CredsError as error:
        error.location = error.location or str(location)
        raise
    return resolved


def _identify(
    scheme: str, credentials: Credentials | None, options: StoreOptions
) -> tuple[Identity, CredentialProvider | None]:
    """Who speaks, if the scheme has a use for it."""
    kind = kind_of(credentials)
    if scheme == "s3":
        return identify(credentials, request_env=options.request_env, ambient=options.ambient, profile=options.profile)
    if kind == "aws":
        kind = identify(credentials, request_env={})[0].kind
    if (kind or "anonymous") not in STORES[scheme]:
        raise UnsupportedCredential(
            f"{scheme} locations have no use for credentials.{kind}", hint="make the credentials null"
        )
    return Identity(kind="anonymous"), None


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

    if isinstance(resolved.provider, ChainKeys) and resolved.region_source == "default":
        own = resolved.provider.region()
        if own:
            name = checked_region(own, "the AWS setup's region", on_aws=resolved.location.on_aws)
            resolved = _at(resolved, Region(name, resolved.provider.source))
    looked_at = resolved.verdict
    if resolved.addressing == "virtual":
        scheme, _, rest = (looked_at.endpoint_url or "").partition("://")
        looked_at = replace(looked_at, endpoint_url=f"{scheme}://{resolved.location.bucket}.{rest}")
    return S3Store(
        resolved.location.bucket,
        endpoint_url=resolved.verdict.endpoint_url,
        region=resolved.region,
        provider=resolved.provider,
        options=resolved.options,
        on_aws=resolved.on_aws,
        addressing="virtual" if resolved.addressing == "virtual" else "path",
        checksums=resolved.checksums,
        guard=functools.partial(resolved.policy.check_addresses, looked_at),
        location=str(replace(resolved.location, key="")),
    )


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
    },
    "file": {
        "anonymous": _open_files,
    },
}
"""The one table: scheme, kind of credential, what opens the store."""
