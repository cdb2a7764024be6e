"""What can go wrong, as one tree.

::

    ToolkitError
      Cancelled                          the caller (or a sibling's failure) stopped the work
        DeadlineExceeded (TimeoutError)    the time that the whole work was given is over
      CredsError                         location (masked)
        LocationError (ValueError)         URL unusable, bucket or key missing or contradictory, scheme unknown
        CredentialError (ValueError)
          MissingCredential                no credential, or half of one
          AmbiguousCredential              more than one kind at once
          UnsupportedCredential            a kind that this scheme cannot use
        PolicyError (PermissionError)      asked for what the policy does not allow; names the rule and the flag
        RefreshError                       a credential could not be renewed
        MissingDependency (ImportError)    names the pip extra
        StoreError                         op, location, http_status, server_code, server_request_id
          ObjectNotFound (FileNotFoundError)
          BucketNotFound (FileNotFoundError)
          AccessDenied (PermissionError)     known to the server, and not allowed
          Unauthenticated (PermissionError)  keys unknown, wrong or expired
          StoreTimeout (TimeoutError)
          StoreUnavailable (ConnectionError) refused, broken, throttled, 5xx
          ObjectChanged                      not the object that was pinned or expected
          NotSupported                       this store cannot do that

``artifacts.errors`` continues the tree under the same root, so one clause catches everything::

    try:
        staging.stage(request)
    except ToolkitError as error:
        log.error("%s (%s)", error, error.hint)
        raise SystemExit(75 if error.retryable else 1)

Every error carries ``code`` (a stable word for programs), ``retryable`` (would the same call, unchanged, be worth
repeating later?) and ``hint`` (what a person can do, or None). Messages never hold a secret: locations are masked
before they come here.
"""

from __future__ import annotations

from typing import Any, ClassVar, TypeVar

E = TypeVar("E", bound=BaseException)


class ToolkitError(Exception):
    """The root of every error this toolkit raises on purpose.

    Args:
        message: one line, safe to print.
        hint: one line that says what to do about it, or None.
        retryable: overrides the class's own answer.
    """

    code: ClassVar[str] = "error"
    retryable: bool = False

    def __init__(self, message: str, *, hint: str | None = None, retryable: bool | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if retryable is not None:
            self.retryable = retryable

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, dict(self.__dict__))


def bare(error: E) -> E:
    """``error`` without the frames it came through and what it was made of: their locals hold what was sent."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


def _rebuild(cls: type[ToolkitError], message: str, state: dict[str, Any]) -> ToolkitError:
    error = cls(message)
    for name, value in state.items():
        setattr(error, name, value)
    return error


class Cancelled(ToolkitError):
    """The work was stopped on purpose before it was done; nothing half-made is left."""

    code = "cancelled"
    retryable = True


class DeadlineExceeded(Cancelled, TimeoutError):
    """Raised when the time that the whole work was given is over; nothing half-made is left."""

    code = "deadline-exceeded"


class CredsError(ToolkitError):
    """The root of what ``creds`` raises.

    Args:
        location: where, masked; None when no location was known yet.
    """

    code = "creds"

    def __init__(
        self,
        message: str,
        *,
        location: str | None = None,
        hint: str | None = None,
        retryable: bool | None = None,
    ) -> None:
        super().__init__(message, hint=hint, retryable=retryable)
        self.location = location


class LocationError(CredsError, ValueError):
    """Raised when a URL, bucket and key do not add up to one place."""

    code = "location"


class CredentialError(CredsError, ValueError):
    """Raised when the credential given cannot be used as it stands."""

    code = "credential"


class MissingCredential(CredentialError):
    """Raised when a credential is absent where one is needed, or is only half there."""

    code = "missing-credential"


class AmbiguousCredential(CredentialError):
    """Raised when several kinds of credential are given for one location."""

    code = "ambiguous-credential"


class UnsupportedCredential(CredentialError):
    """Raised when the scheme has no use for this kind of credential."""

    code = "unsupported-credential"


class PolicyError(CredsError, PermissionError):
    """Raised when a location asks for what the policy does not allow.

    Args:
        rule: the name of the rule that refused, as ``check`` prints it.
    """

    code = "policy"

    def __init__(self, message: str, *, rule: str = "", location: str | None = None, hint: str | None = None) -> None:
        super().__init__(message, location=location, hint=hint)
        self.rule = rule


class RefreshError(CredsError):
    """Raised when a credential has ended and could not be renewed."""

    code = "refresh"


class MissingDependency(CredsError, ImportError):
    """Raised when an optional package is needed and not installed; the hint is the pip command."""

    code = "missing-dependency"


class StoreError(CredsError):
    """Raised when a store answered, or failed to answer, in a way that ends the operation.

    Args:
        op: what was asked of the store: ``open``, ``write``, ``head``, ``list``, ``delete``, ``sign``.
        http_status: the server's status, when it speaks HTTP and answered.
        server_code: the server's own word, such as S3's ``NoSuchKey``.
        server_request_id: the server's name for the request, for its operator.
    """

    code = "store"
    retry_after_seconds: float | None = None
    """How long the server asked to be left alone (Retry-After); set by the engine that read it."""

    def __init__(
        self,
        message: str,
        *,
        op: str = "",
        location: str | None = None,
        http_status: int | None = None,
        server_code: str | None = None,
        server_request_id: str | None = None,
        hint: str | None = None,
        retryable: bool | None = None,
    ) -> None:
        super().__init__(message, location=location, hint=hint, retryable=retryable)
        self.op = op
        self.http_status = http_status
        self.server_code = server_code
        self.server_request_id = server_request_id


class ObjectNotFound(StoreError, FileNotFoundError):
    """Raised when the bucket answers and holds no such key."""

    code = "object-not-found"


class BucketNotFound(StoreError, FileNotFoundError):
    """Raised when the bucket itself (or the root folder) does not exist."""

    code = "bucket-not-found"


class AccessDenied(StoreError, PermissionError):
    """Raised when the server knows the caller and refuses; on S3 also when a missing key may not be told apart."""

    code = "access-denied"


class Unauthenticated(StoreError, PermissionError):
    """Raised when the keys, signature, token or password are unknown, wrong or expired."""

    code = "unauthenticated"


class StoreTimeout(StoreError, TimeoutError):
    """Raised when the server took longer than the timeouts allow, retries included."""

    code = "timeout"
    retryable = True


class StoreUnavailable(StoreError, ConnectionError):
    """Raised when the server cannot be reached, breaks the connection, throttles or fails, retries included."""

    code = "unavailable"
    retryable = True


class ObjectChanged(StoreError):
    """Raised when the object is not the one that was pinned, or a write's condition did not hold."""

    code = "object-changed"


class NotSupported(StoreError):
    """Raised when this store cannot do what was asked."""

    code = "not-supported"
