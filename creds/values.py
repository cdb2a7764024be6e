"""Frozen values, as ``dataclasses`` has them; their classes are made in a fifth of the time.

``dataclasses`` writes and compiles seven functions for each class, half a millisecond in all. This project has some
fifty of them, and a command waits for most before its first request. Here only ``__init__`` is compiled; the other
functions are closures that do the same. ``tests/test_values.py`` holds both to one behaviour.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from operator import attrgetter
from reprlib import recursive_repr
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
else:

    def dataclass(*, frozen: bool = False, slots: bool = False, kw_only: bool = False, **more: Any) -> Any:
        """``dataclasses.dataclass``; a frozen class with slots is made here, any other there."""
        if frozen and slots and not more:
            return lambda cls: _value(cls, kw_only=kw_only)
        return dataclasses.dataclass(frozen=frozen, slots=slots, kw_only=kw_only, **more)


def _value(cls: type, *, kw_only: bool) -> Any:
    written = {name for name, value in vars(cls).items() if value is not None}  # __eq__ alone makes __hash__ None
    cls.__doc__ = cls.__doc__ or cls.__name__  # else dataclasses writes one, from a signature that is slow to inspect
    made: Any = dataclasses.dataclass(init=False, repr=False, eq=False, slots=True, kw_only=kw_only)(cls)
    fields = dataclasses.fields(made)
    equal = _reader(field for field in fields if field.compare)
    hashed = _reader(field for field in fields if (field.compare if field.hash is None else field.hash))
    shown = [field.name for field in fields if field.repr]
    names = frozenset(field.name for field in fields)

    @recursive_repr()
    def as_text(self: Any) -> str:
        return f"{type(self).__qualname__}({', '.join([f'{name}={getattr(self, name)!r}' for name in shown])})"

    def is_equal(self: Any, other: object) -> bool:
        return equal(self) == equal(other) if type(other) is type(self) else NotImplemented

    def as_hash(self: Any) -> int:
        return hash(hashed(self))

    def assign(self: Any, name: str, value: object) -> None:
        if type(self) is made or name in names:
            raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")
        super(made, self).__setattr__(name, value)

    def delete(self: Any, name: str) -> None:
        if type(self) is made or name in names:
            raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")
        super(made, self).__delattr__(name)

    def state(self: Any) -> list[Any]:
        return [getattr(self, field.name) for field in fields]

    def restore(self: Any, state: list[Any]) -> None:
        for field, value in zip(fields, state, strict=True):
            object.__setattr__(self, field.name, value)

    for name, function in {
        "__repr__": as_text,
        "__eq__": is_equal,
        "__hash__": as_hash,
        "__setattr__": assign,
        "__delattr__": delete,
        "__getstate__": state,
        "__setstate__": restore,
    }.items():
        if name not in written:
            setattr(made, name, function)
    if "__init__" not in written:
        made.__init__ = _init(made, fields)
    return made


def _reader(fields: Iterable[dataclasses.Field[Any]]) -> Callable[[Any], Any]:
    """What reads these fields of an instance, to compare and hash them."""
    names = [field.name for field in fields]
    return attrgetter(*names) if names else lambda _: ()


def _init(cls: Any, fields: tuple[dataclasses.Field[Any], ...]) -> Callable[..., None]:
    """``__init__``, whose parameters are in the fields' order, but that those by name alone come last."""
    known: dict[str, Any] = {"__set__": object.__setattr__, "__made__": object()}
    positions: list[str] = []
    words: list[str] = []
    body: list[str] = []
    for field in fields:
        name, default = field.name, f"_default_{field.name}"
        parameter = value = name
        if field.default is not dataclasses.MISSING:
            known[default] = field.default
            parameter = f"{name}={default}"
            value = name if field.init else default
        elif field.default_factory is not dataclasses.MISSING:
            known[default] = field.default_factory
            parameter = f"{name}=__made__"
            value = f"{default}() if {name} is __made__ else {name}" if field.init else f"{default}()"
        elif not field.init:
            continue  # __post_init__ sets it
        if field.init:
            (words if field.kw_only else positions).append(parameter)
        body.append(f"__set__(self, {name!r}, {value})")
    if hasattr(cls, "__post_init__"):
        body.append("self.__post_init__()")
    parameters = ", ".join(["self", *positions, *(["*", *words] if words else [])])
    # All that is run are the names that a class in this project gives its fields, as dataclasses runs them.
    exec(f"def __init__({parameters}):\n " + "\n ".join(body or ["pass"]), known)  # noqa: S102 - see above
    init: Callable[..., None] = known["__init__"]
    init.__qualname__ = f"{cls.__qualname__}.__init__"
    return init
