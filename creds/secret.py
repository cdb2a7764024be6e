"""A string that never shows itself. It knows pydantic and does not load it: whoever has no credential need not wait."""

from __future__ import annotations

from typing import Any, Self

from creds.errors import CredentialError

_MASK = "**********"


class Secret:
    """A string that shows itself only through :meth:`get_secret_value`.

    Equal and hashed by value; copies, deep ones too, keep the value, since it cannot change. A pickle does not carry
    it: what comes out of one is masked for good, equal to nothing but itself.
    """

    __slots__ = ("_secret_value",)

    def __init__(self, secret_value: str) -> None:
        self._secret_value: str | None = secret_value

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _made: Any) -> Any:
        """How a field of this type is read by pydantic: from text or another secret; JSON shows the mask."""
        from pydantic_core import core_schema

        text = core_schema.str_schema()
        return core_schema.json_or_python_schema(
            json_schema=core_schema.no_info_after_validator_function(cls, text),
            python_schema=core_schema.no_info_wrap_validator_function(
                lambda value, read: value if isinstance(value, cls) else cls(read(value)), text
            ),
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda secret, how: str(secret) if how.mode == "json" else secret, info_arg=True
            ),
        )

    def get_secret_value(self) -> str:
        """The value itself.

        Raises:
            CredentialError: this object came out of a pickle, which does not carry secrets.
        """
        if self._secret_value is None:
            raise CredentialError(
                "this secret was masked when it was pickled",
                hint="send the request document instead of a pickle of it",
            )
        return self._secret_value

    def __bool__(self) -> bool:
        return self._secret_value is None or bool(self._secret_value)

    def __len__(self) -> int:
        return len(self.get_secret_value())

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Secret) or self._secret_value is None or other._secret_value is None:
            return False
        return self._secret_value == other._secret_value

    def __hash__(self) -> int:
        return id(self) if self._secret_value is None else hash(self._secret_value)

    def __str__(self) -> str:
        return _MASK if self else ""

    def __repr__(self) -> str:
        return f"Secret({str(self)!r})"

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return (_masked, ()) if self else (Secret, ("",))  # an empty one has nothing to hide


def _masked() -> Secret:
    secret = Secret("")
    secret._secret_value = None  # noqa: SLF001  None marks what a pickle dropped
    return secret
