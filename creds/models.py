"""What a request carries to prove who it is: plain, JWT and AWS credentials, as frozen values.

Whatever prints, logs, pickles or dumps one of these models shows a mask for its secrets. Attribute names are the
wire's names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from creds.secret import Secret


class _Credential(BaseModel):  # noqa: PLW1641  pydantic makes the hash of a frozen model
    """Frozen, refuses names it does not know, and keeps values out of validation errors."""

    # Reading a request builds none of pydantic's validators, and so does not wait for them.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, defer_build=True)

    def __eq__(self, other: object) -> bool:
        # As pydantic has it, but that no unknown fields and none at all are the same.
        if not isinstance(other, BaseModel) or type(self) is not type(other):
            return NotImplemented
        return self.__dict__ == other.__dict__ and (self.__pydantic_extra__ or {}) == (other.__pydantic_extra__ or {})

    def __repr_args__(self) -> list[tuple[str | None, Any]]:
        return [(name, self.__dict__.get(name)) for name in type(self).model_fields]


class PlainCredential(_Credential):
    """A user and a password."""

    user: str = ""
    password: Secret = Secret("")

    if TYPE_CHECKING:  # a plain string is taken for a secret

        def __init__(self, *, user: str = ..., password: str | Secret = ...) -> None: ...


class JWTCredential(_Credential):
    """A signed token that some issuer gave out."""

    token: Secret = Secret("")

    if TYPE_CHECKING:

        def __init__(self, *, token: str | Secret = ...) -> None: ...


class AWSCredential(_Credential):
    """A pair of AWS keys, or the name of a profile that holds one.

    Attributes:
        access_key, secret_access_key: the pair; both empty ask for anonymous access.
        session_token: belongs to temporary keys; None when the request has none.
        region: where the bucket is; None when the request does not say.
        profile: a profile of the machine's own AWS configuration; used only where the operator allows it.
    """

    access_key: str = ""
    secret_access_key: Secret = Secret("")
    session_token: Secret | None = None
    region: str | None = None
    profile: str | None = None

    if TYPE_CHECKING:

        def __init__(
            self,
            *,
            access_key: str = ...,
            secret_access_key: str | Secret = ...,
            session_token: str | Secret | None = ...,
            region: str | None = ...,
            profile: str | None = ...,
        ) -> None: ...


class Credentials(_Credential):
    """At most one kind of credential. The wire may hold several; resolving refuses that, parsing does not."""

    plain: PlainCredential | None = None
    jwt: JWTCredential | None = None
    aws: AWSCredential | None = None
