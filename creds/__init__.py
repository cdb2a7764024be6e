"""Credentials of a request become live storage clients.

``open_store`` turns a ``Location`` and its ``Credentials`` into a ``Store``, if the ``Policy`` lets it. This package
knows nothing of ``artifacts``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from creds.doctor import Step as Step
    from creds.doctor import diagnose as diagnose
    from creds.endpoint import Endpoint as Endpoint
    from creds.endpoint import Issuer as Issuer
    from creds.endpoint import Lent as Lent
    from creds.errors import AccessDenied as AccessDenied
    from creds.errors import AmbiguousCredential as AmbiguousCredential
    from creds.errors import BucketNotFound as BucketNotFound
    from creds.errors import Cancelled as Cancelled
    from creds.errors import CredentialError as CredentialError
    from creds.errors import CredsError as CredsError
    from creds.errors import DeadlineExceeded as DeadlineExceeded
    from creds.errors import LocationError as LocationError
    from creds.errors import MissingCredential as MissingCredential
    from creds.errors import MissingDependency as MissingDependency
    from creds.errors import NotSupported as NotSupported
    from creds.errors import ObjectChanged as ObjectChanged
    from creds.errors import ObjectNotFound as ObjectNotFound
    from creds.errors import PolicyError as PolicyError
    from creds.errors import RefreshError as RefreshError
    from creds.errors import StoreError as StoreError
    from creds.errors import StoreTimeout as StoreTimeout
    from creds.errors import StoreUnavailable as StoreUnavailable
    from creds.errors import ToolkitError as ToolkitError
    from creds.errors import Unauthenticated as Unauthenticated
    from creds.errors import UnsupportedCredential as UnsupportedCredential
    from creds.keys import AwsKeys as AwsKeys
    from creds.keys import CredentialProvider as CredentialProvider
    from creds.location import Location as Location
    from creds.models import AWSCredential as AWSCredential
    from creds.models import Credentials as Credentials
    from creds.models import JWTCredential as JWTCredential
    from creds.models import PlainCredential as PlainCredential
    from creds.policy import Decision as Decision
    from creds.policy import Policy as Policy
    from creds.policy import Verdict as Verdict
    from creds.resolve import Resolved as Resolved
    from creds.resolve import open_store as open_store
    from creds.secret import Secret as Secret
    from creds.store import S3 as S3
    from creds.store import Cancel as Cancel
    from creds.store import ObjectMeta as ObjectMeta
    from creds.store import Rate as Rate
    from creds.store import Reading as Reading
    from creds.store import Retries as Retries
    from creds.store import Retry as Retry
    from creds.store import Ssh as Ssh
    from creds.store import Store as Store
    from creds.store import StoreOptions as StoreOptions
    from creds.store import Sts as Sts
    from creds.store import Tls as Tls
    from creds.store import Window as Window
    from creds.tokens import LiteralToken as LiteralToken
    from creds.tokens import TokenFile as TokenFile
    from creds.tokens import TokenVariable as TokenVariable
    from creds.tokens import Verifier as Verifier

_HOMES = {
    "AWSCredential": "creds.models",
    "AccessDenied": "creds.errors",
    "AmbiguousCredential": "creds.errors",
    "AwsKeys": "creds.keys",
    "BucketNotFound": "creds.errors",
    "Cancel": "creds.store",
    "Cancelled": "creds.errors",
    "CredentialError": "creds.errors",
    "CredentialProvider": "creds.keys",
    "Credentials": "creds.models",
    "CredsError": "creds.errors",
    "DeadlineExceeded": "creds.errors",
    "Decision": "creds.policy",
    "Endpoint": "creds.endpoint",
    "Issuer": "creds.endpoint",
    "JWTCredential": "creds.models",
    "Lent": "creds.endpoint",
    "LiteralToken": "creds.tokens",
    "Location": "creds.location",
    "LocationError": "creds.errors",
    "MissingCredential": "creds.errors",
    "MissingDependency": "creds.errors",
    "NotSupported": "creds.errors",
    "ObjectChanged": "creds.errors",
    "ObjectMeta": "creds.store",
    "ObjectNotFound": "creds.errors",
    "PlainCredential": "creds.models",
    "Policy": "creds.policy",
    "PolicyError": "creds.errors",
    "Rate": "creds.store",
    "Reading": "creds.store",
    "RefreshError": "creds.errors",
    "Resolved": "creds.resolve",
    "Retries": "creds.store",
    "Retry": "creds.store",
    "S3": "creds.store",
    "Secret": "creds.secret",
    "Ssh": "creds.store",
    "Step": "creds.doctor",
    "Store": "creds.store",
    "StoreError": "creds.errors",
    "StoreOptions": "creds.store",
    "StoreTimeout": "creds.errors",
    "StoreUnavailable": "creds.errors",
    "Sts": "creds.store",
    "Tls": "creds.store",
    "TokenFile": "creds.tokens",
    "TokenVariable": "creds.tokens",
    "ToolkitError": "creds.errors",
    "Unauthenticated": "creds.errors",
    "UnsupportedCredential": "creds.errors",
    "Verdict": "creds.policy",
    "Verifier": "creds.tokens",
    "Window": "creds.store",
    "diagnose": "creds.doctor",
    "open_store": "creds.resolve",
}

__all__ = sorted(_HOMES)  # noqa: PLE0605 - one list of the names, not two


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: nobody waits for pydantic or an SDK they do not need."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
