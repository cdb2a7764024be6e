"""Frozen values are what ``dataclasses`` makes: each test runs on a class of either."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
from collections.abc import Callable
from dataclasses import field
from typing import Any, ClassVar

import pytest

from creds import values


def classes(dataclass: Callable[..., Any]) -> tuple[Any, Any, Any]:
    @dataclass(frozen=True, slots=True, kw_only=True)
    class Named:
        """By name alone."""

        first: int
        text: str = "x"
        many: list[int] = field(default_factory=list, compare=False)
        hidden: str = field(default="secret", repr=False)
        unhashed: Any = field(default=None, hash=False)
        shared: ClassVar[int] = 7
        twice: int = field(init=False)
        fixed: int = field(default=3, init=False)
        new: list[int] = field(default_factory=list, init=False, compare=False)

        def __post_init__(self) -> None:
            object.__setattr__(self, "twice", 2 * self.first)

    @dataclass(frozen=True, slots=True)
    class Placed:
        """By position, with a function of its own."""

        left: int
        right: int = 2
        last: int = field(default=5, kw_only=True)

        def __repr__(self) -> str:
            return f"<{self.left}>"

    @dataclass(frozen=True, slots=True)
    class Empty:
        """Nothing."""

    return Named, Placed, Empty


@pytest.fixture(params=[dataclasses.dataclass, values.dataclass], ids=["dataclasses", "values"])
def made(request):
    return classes(request.param)


def test_values_are_given_by_name_or_place(made):
    """Parameters, their order and defaults; those that are missing, unknown or by name alone are refused."""
    named, placed, empty = made
    value = named(first=1)
    assert (value.first, value.text, value.many, value.twice, value.fixed, value.new) == (1, "x", [], 2, 3, [])
    assert value.many is not named(first=1).many
    assert value.new is not named(first=1).new
    assert named.shared == 7
    assert [(p.name, p.kind.name) for p in inspect.signature(placed).parameters.values()] == [
        ("left", "POSITIONAL_OR_KEYWORD"),
        ("right", "POSITIONAL_OR_KEYWORD"),
        ("last", "KEYWORD_ONLY"),
    ]
    assert (placed(1).right, placed(1, 4).right, placed(1, last=6).last) == (2, 4, 6)
    for wrong in (lambda: named(1), named, lambda: named(first=1, other=2), lambda: named(first=1, twice=2)):
        with pytest.raises(TypeError):
            wrong()
    assert empty() == empty()


def test_values_compare_and_hash_by_their_fields(made):
    """Equality and hashes look at the fields that say so, and only at the same class."""
    named, placed, empty = made
    assert named(first=1, many=[1]) == named(first=1, many=[2])
    assert named(first=1) != named(first=2)
    assert named(first=1, unhashed=1) != named(first=1, unhashed=2)
    assert hash(named(first=1, unhashed=[])) == hash(named(first=1, unhashed=None))
    assert len({placed(1), placed(1), placed(2), empty(), empty()}) == 3
    assert placed(1) != (1, 2, 5)


def test_values_cannot_be_changed(made):
    """Fields and other attributes are neither assigned nor deleted."""
    value = made[0](first=1)
    for change in (lambda: setattr(value, "first", 2), lambda: delattr(value, "text")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            change()
    with pytest.raises((dataclasses.FrozenInstanceError, TypeError)):  # dataclasses has the wrong error with slots
        value.other = 1
    assert value.first == 1
    assert not hasattr(value, "__dict__")


def test_values_are_shown_without_what_is_hidden(made):
    """A repr has the fields in order, but for those that are not to be shown; a class may have its own."""
    named, placed, empty = made
    assert repr(named(first=1)).partition(".<locals>.")[2] == (
        "Named(first=1, text='x', many=[], unhashed=None, twice=2, fixed=3, new=[])"
    )
    assert repr(placed(1)) == "<1>"
    assert repr(empty()).endswith("Empty()")
    around: list[Any] = []
    around.append(named(first=1, many=around))
    assert "..." in repr(around[0])


def test_values_are_copied_and_replaced(made):
    """Copies, deep ones too, are equal; ``replace``, ``fields``, ``asdict`` and patterns work."""
    named, placed, _ = made
    value = named(first=1, many=[1])
    assert copy.copy(value) == value == copy.deepcopy(value)
    assert copy.deepcopy(value).many is not value.many
    assert dataclasses.replace(value, first=4).twice == 8
    assert [f.name for f in dataclasses.fields(placed)] == ["left", "right", "last"]
    assert dataclasses.asdict(placed(1)) == {"left": 1, "right": 2, "last": 5}
    match placed(1, 2):
        case made_of if made_of.__match_args__ == ("left", "right"):
            pass
        case other:
            pytest.fail(f"{other.__match_args__}")


@values.dataclass(frozen=True, slots=True)
class Kept:
    """A value that a pickle carries."""

    name: str
    size: int = 1


def test_a_value_is_pickled():
    """A pickle carries the fields."""
    assert pickle.loads(pickle.dumps(Kept("a", 2))) == Kept("a", 2)


def test_a_value_of_another_kind_is_made_by_dataclasses():
    """What is not frozen is a class of ``dataclasses``."""

    @values.dataclass(slots=True, kw_only=True)
    class Open:
        left: int

    value = Open(left=1)
    value.left = 2
    assert value == Open(left=2)
