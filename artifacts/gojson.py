"""The wire form: byte for byte what Go's ``encoding/json`` accepts, refuses and writes for a tree of structs.

The structs are pydantic models: a :class:`Codec` reads names, types, order and zero values from them once. A document
is then read in one of two ways. The fast way takes what a compiled JSON parser made of an ordinary document, and gives
up (:class:`_GiveUp`) on whatever it cannot prove to be ordinary: duplicate names, near misses, anything refused. The
exact way decides all the rest: it keeps duplicates and the text of numbers, merges as Go does, and gathers what is
wrong. Both build the same models; a property test holds them to that.

What Go does (v1 semantics, as its 2025 implementation has them), and this module with it:

- A name matches a field exactly, else by Unicode simple folding; so U+017F is an ``s`` and U+212A a ``k``.
- A field that comes twice is read twice into the same value: structs and maps gather, slices overwrite their old
  elements (a null element leaves the old one), pointers keep what they point to, untyped values are replaced. Members
  of a map start from zero each time.
- null empties maps, slices, pointers and untyped values, and leaves everything else as it is.
- Invalid UTF-8 is one U+FFFD a byte, and so is half a surrogate pair; both only inside strings.
- Untyped numbers are float64. Integers take no fraction and no exponent. Overflow is an error, underflow is zero.
- At most 10,000 levels deep. Shadowed and unread values must be valid all the same.
- Written: fields in order, map keys sorted by bytes, ``<``, ``>``, ``&``, U+2028 and U+2029 escaped, floats in their
  shortest form, with an exponent below 1e-6 and from 1e21.
"""

from __future__ import annotations

import codecs
import difflib
import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from functools import lru_cache
from itertools import repeat
from json.decoder import JSONDecodeError, scanstring
from json.encoder import encode_basestring
from types import NoneType, UnionType
from typing import Any, Final, Generic, TypeVar, Union, get_args, get_origin

from annotated_types import Ge, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import from_json

from artifacts.errors import RequestError
from creds.models import Secret

MAX_DEPTH: Final = 10_000


class OmitEmpty:
    """Marks, in ``Annotated``, a string field that is not written when empty: Go's ``omitempty``."""


OMIT_EMPTY: Final = OmitEmpty()

Model = TypeVar("Model", bound=BaseModel)
Reader = Callable[[Any, "_Fast"], Any]


# --- text ---------------------------------------------------------------------------------------------------------


def _one_mark_a_byte(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return "\ufffd" * (error.end - error.start), error.end


def _one_escape_a_half(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    return "\\ufffd" * (error.end - error.start), error.end


codecs.register_error("gojson.read", _one_mark_a_byte)
codecs.register_error("gojson.write", _one_escape_a_half)

_HALVES: Final = re.compile("[\ud800-\udfff]")
_FOLDS: Final = str.maketrans({"\u017f": "s", "\u212a": "k"})


def fold(name: str) -> str:
    """Bring ``name`` to the form in which Go compares it with a field's name, all of which are ASCII."""
    return "".join(char.lower() if char < "\x80" else char for char in name.translate(_FOLDS))


def quote(text: str) -> str:
    """A JSON string but for what :func:`_finish` escapes. Raises TypeError if ``text`` is no string."""
    return encode_basestring(text)


def _finish(text: str) -> bytes:
    """Encode a whole document: what is escaped here can only stand inside strings."""
    return (
        text.encode("utf-8", "gojson.write")
        .replace(b"<", b"\\u003c")
        .replace(b">", b"\\u003e")
        .replace(b"&", b"\\u0026")
        .replace(b"\xe2\x80\xa8", b"\\u2028")
        .replace(b"\xe2\x80\xa9", b"\\u2029")
    )


class Number(str):
    """A number as it stands in the document."""

    __slots__ = ()

    def float64(self) -> float:
        """Raises OverflowError."""
        value = float(self)
        if math.isinf(value):
            raise OverflowError
        return value


def number_text(value: float) -> str:
    """``value`` as Go writes a float64. Raises ValueError if it is not finite, OverflowError if it is too large."""
    value = float(value)
    text = repr(value)
    if text.endswith(".0"):
        return text[:-2]
    if "e" in text:
        if 1e-6 <= abs(value) < 1e21:
            return f"{Decimal(text):f}"
        return text.replace("e-0", "e-")
    if text[-1] in "fn":
        raise ValueError("a number that is not finite")
    return text


# --- untyped values -----------------------------------------------------------------------------------------------


class Members(list[tuple[str, Any]]):
    """A JSON object with every member it had, in order."""

    __slots__ = ()


_END: Final = object()


def any_text(value: Any) -> str:
    """Write an untyped value; without recursion, so that depth is limited only as Go limits it.

    Raises:
        TypeError, ValueError, OverflowError: something in it has no JSON form; says what kind of thing.
    """
    out: list[str] = []
    frames: list[tuple[Iterator[Any], str]] = []
    while True:
        if value is None:
            out.append("null")
        elif value is True or value is False:
            out.append("true" if value else "false")
        elif isinstance(value, Number):
            out.append(value)
        elif isinstance(value, str):
            out.append(quote(value))
        elif isinstance(value, (int, float)):
            out.append(number_text(value))
        elif isinstance(value, (Mapping, list, tuple)):
            if len(frames) == MAX_DEPTH:
                raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
            if isinstance(value, Mapping):
                out.append("{")
                frames.append((iter(sorted(value.items(), key=operator.itemgetter(0))), "}"))
            else:
                out.append("[")
                frames.append((iter(value), "]"))
        else:
            raise TypeError(f"a {type(value).__name__} has no JSON form")
        while frames:
            items, closer = frames[-1]
            value = next(items, _END)
            if value is _END:
                frames.pop()
                out.append(closer)
                continue
            if out[-1] not in ("{", "["):  # a written string has its quotes
                out.append(",")
            if closer == "}":
                name, value = value
                out.append(quote(name) + ":")
            break
        else:
            return "".join(out)


def _plain(node: Any, number: Callable[[Number], Any]) -> Any:
    """Turn what the exact parser made into dicts, lists and scalars. ``number`` may raise; shadowed numbers count."""
    root = [node]
    todo: list[tuple[Any, Any]] = [(root, 0)]
    while todo:
        box, place = todo.pop()
        value = box[place]
        if type(value) is Members:
            box[place] = inner = dict(value)
            todo.extend(zip(repeat(inner), inner))
            if len(inner) != len(value):
                shadowed = [shadow for _, shadow in value]
                todo.extend(zip(repeat(shadowed), range(len(shadowed))))
        elif type(value) is list:
            box[place] = inner = value.copy()
            todo.extend(zip(repeat(inner), range(len(inner))))
        elif type(value) is Number:
            box[place] = number(value)
    return root[0]


# --- the exact parser ---------------------------------------------------------------------------------------------

_SPACE: Final = re.compile(r"[ \t\n\r]*")
_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_LITERAL: Final = re.compile(r"null|true|false")
_LITERALS: Final = {"null": None, "true": True, "false": False}


class _Syntax:
    """One document's text, and what stands where in it."""

    def __init__(self, text: str) -> None:
        self.text = text

    def wrong(self, at: int, what: str) -> RequestError:
        line = self.text.count("\n", 0, at) + 1
        column = at - self.text.rfind("\n", 0, at)
        found = "the end of the document" if at >= len(self.text) else "something else"
        return RequestError(f"line {line}, column {column}: expected {what}, found {found}")

    def skip(self, at: int) -> int:
        return _SPACE.match(self.text, at).end()  # type: ignore[union-attr]  # it matches the empty string too

    def string(self, at: int) -> tuple[str, int]:
        try:
            value, end = scanstring(self.text, at + 1, True)
        except JSONDecodeError as error:
            raise self.wrong(error.pos, "the rest of a string without control characters or bad escapes") from None
        return _HALVES.sub("\ufffd", value), end

    def name(self, at: int) -> tuple[str, int]:
        """A member's name and its colon; returns where its value begins."""
        if self.text[at : at + 1] != '"':
            raise self.wrong(at, "a member's name in quotes")
        name, at = self.string(at)
        at = self.skip(at)
        if self.text[at : at + 1] != ":":
            raise self.wrong(at, "a colon")
        return name, self.skip(at + 1)

    def scalar(self, at: int) -> tuple[Any, int]:
        if self.text[at : at + 1] == '"':
            return self.string(at)
        if match := _LITERAL.match(self.text, at):
            return _LITERALS[match[0]], match.end()
        if match := _NUMBER.match(self.text, at):
            return Number(match[0]), match.end()
        raise self.wrong(at, "a value")

    def document(self) -> Any:
        """The whole text as Members, lists, strings, Numbers, booleans and None; without recursion."""
        text = self.text
        open_: list[tuple[Any, str | None]] = []  # each container under way, with the name of the member to come
        at = self.skip(0)
        while True:
            opening = text[at : at + 1]
            value: Any
            if opening in ("{", "["):  # never empty: that is "in" nothing here
                if len(open_) == MAX_DEPTH:
                    raise self.wrong(at, f"at most {MAX_DEPTH} levels")
                value = Members() if opening == "{" else []
                inside = self.skip(at + 1)
                if text[inside : inside + 1] != ("}" if opening == "{" else "]"):
                    name, at = self.name(inside) if opening == "{" else (None, inside)
                    open_.append((value, name))
                    continue
                at = inside + 1
            else:
                value, at = self.scalar(at)
            while True:
                at = self.skip(at)
                if not open_:
                    if at < len(text):
                        raise self.wrong(at, "nothing after the document")
                    return value
                container, name = open_[-1]
                container.append(value if name is None else (name, value))
                following = text[at : at + 1]
                if following == ",":
                    at = self.skip(at + 1)
                    if name is not None:
                        name, at = self.name(at)
                        open_[-1] = container, name
                    break
                closer = "]" if name is None else "}"
                if following != closer:
                    raise self.wrong(at, f"a comma or {closer}")
                open_.pop()
                value, at = container, at + 1


_JSON_TYPES: Final = {
    NoneType: "null",
    bool: "bool",
    str: "string",
    Number: "number",
    list: "array",
    Members: "object",
}


class _Exact:
    """One document read the exact way: what was found wrong, and what looks like a slip."""

    def __init__(self, *, keep_unknown: bool) -> None:
        self.keep_unknown = keep_unknown
        self.problems: list[str] = []
        self.warnings: list[str] = []

    def wrong(self, path: str, expected: str, node: Any, why: str = "") -> None:
        self.problems.append(f"{path or 'document'}: expected {expected}, got {_JSON_TYPES[type(node)]}{why}")


def _step(path: str, name: str) -> str:
    """``path`` and one more name; names come from the document, so nothing unprintable gets through."""
    shown = name if name.isprintable() else ascii(name)[1:-1]
    return f"{path}.{shown}" if path else shown


# --- the fast parser ----------------------------------------------------------------------------------------------


class _GiveUp(Exception):
    """Raised when a document is not provably ordinary."""


class _Fast:
    """One document read the fast way: how many names were met."""

    __slots__ = ("names",)

    def __init__(self) -> None:
        self.names = 0


def _untyped(value: Any, fast: _Fast) -> Any:
    """Numbers become float64, names are counted. The compiled parser has limited the depth."""
    kind = type(value)
    if kind is dict:
        fast.names += len(value)
        return {name: _untyped(inner, fast) for name, inner in value.items()}
    if kind is list:
        return [_untyped(inner, fast) for inner in value]
    return _finite(value, fast) if kind is float or kind is int else value


def _finite(value: float, _: _Fast) -> float:
    value = float(value)
    if math.isinf(value):
        raise _GiveUp
    return value


def _secret(value: str, _: _Fast) -> Secret:
    return Secret(value)


def _strings(value: list[Any], _: _Fast) -> list[str]:
    kinds = set(map(type, value))
    if kinds <= _STRING:
        return value
    if kinds <= _STRING_OR_NULL:
        return [item or "" for item in value]
    raise _GiveUp


def _string_map(value: dict[str, Any], fast: _Fast) -> dict[str, str]:
    fast.names += len(value)
    kinds = set(map(type, value.values()))
    if kinds <= _STRING:
        return value
    if kinds <= _STRING_OR_NULL:
        return {name: item or "" for name, item in value.items()}
    raise _GiveUp


_STRING: Final = {str}
_STRING_OR_NULL: Final = {str, NoneType}


# --- kinds: what a field of a Go struct may be -------------------------------------------------------------------


class _Kind:
    """How one Go type is read and written.

    ``merge`` reads a node the exact way into a draft, given the draft that is there already (None: Go's zero value);
    ``finish`` makes the value of a draft. ``readers`` gives, by the type the compiled parser made, what the fast way
    does with a value (None: nothing, it is right as it is); null never gets there. ``write`` gives JSON text and
    raises TypeError, ValueError or OverflowError for a value it has no text for.
    """

    readers: Mapping[type, Reader | None]
    write: Callable[[Any], str]

    def merge(self, node: Any, draft: Any, path: str, exact: _Exact) -> Any:
        raise NotImplementedError

    def finish(self, draft: Any) -> Any:
        return draft


class _Scalar(_Kind):
    """A string or bool: taken as it is; null changes nothing."""

    def __init__(self, go: str, python: type, zero: Any, write: Callable[[Any], str]) -> None:
        self.go = go
        self.python = python
        self.zero = zero
        self.write = write
        self.readers = {python: None}

    def merge(self, node: Any, draft: Any, path: str, exact: _Exact) -> Any:
        if type(node) is self.python:
            return node
        if node is not None:
            exact.wrong(path, self.go, node)
        return draft

    def finish(self, draft: Any) -> Any:
        return self.zero if draft is None else draft


def _bool_text(value: Any) -> str:
    if value is True:
        return "true"
    if value is False:
        return "false"
    raise TypeError("not a bool")


def _secret_text(value: Any) -> str:
    if not isinstance(value, Secret):
        raise TypeError("not a Secret")
    return quote(value.get_secret_value())


class _SecretString(_Scalar):
    """A string whose value is a :class:`~creds.models.Secret`."""

    def __init__(self) -> None:
        super().__init__("string", str, "", _secret_text)
        self.readers = {str: _secret}

    def finish(self, draft: Any) -> Any:
        return Secret(draft or "")


class _Integer(_Kind):
    """An int64 or uint64: digits only, within bounds."""

    def __init__(self, low: int, high: int) -> None:
        self.go = "int64" if low < 0 else "uint64"
        self.low = low
        self.high = high
        self.readers = {int: self._bounded}

    def _bounded(self, value: int, _: _Fast) -> int:
        if self.low <= value < self.high:
            return value
        raise _GiveUp

    def merge(self, node: Any, draft: Any, path: str, exact: _Exact) -> Any:
        if node is None:
            return draft
        if type(node) is not Number:
            exact.wrong(path, self.go, node)
        elif not node.removeprefix("-").isdigit() or (node[0] == "-" and self.low == 0):
            exact.wrong(path, self.go, node, " with a sign, fraction or exponent")
        elif len(node) > 20 or not self.low <= int(node) < self.high:
            exact.wrong(path, self.go, node, " out of range")
        else:
            return int(node)
        return draft

    def finish(self, draft: Any) -> Any:
        return draft or 0

    def write(self, value: Any) -> str:
        if type(value) is not int:
            raise TypeError("not an integer")
        if not self.low <= value < self.high:
            raise ValueError(f"out of range for {self.go}")
        return str(value)


class _Float(_Kind):
    readers: Mapping[type, Reader | None] = {float: _finite, int: _finite}

    def merge(self, node: Any, draft: Any, path: str, exact: _Exact) -> Any:
        if node is None:
            return draft
        if type(node) is not Number:
            exact.wrong(path, "float64", node)
            return draft
        try:
            return node.float64()
        except OverflowError:
            exact.wrong(path, "float64", node, " out of range")
            return draft

    def finish(self, draft: Any) -> Any:
        return 0.0 if draft is None else draft

    def write(self, value: Any) -> str:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError("not a number")
        return number_text(value)


class _Untyped(_Kind):
    readers: Mapping[type, Reader | None] = {
        str: None,
        bool: None,
        float: _finite,
        int: _finite,
        dict: _untyped,
        list: _untyped,
    }
    write = staticmethod(any_text)

    def merge(self, node: Any, draft: Any, path: str, exact: _Exact) -> Any:
        try:
            return _plain(node, Number.float64)
        except OverflowError:
            exact.problems.append(f"{path}: expected numbers within float64, got one out of range")
            return None


class _Optional(_Kind):
    """A scalar beyond the reference: None until it comes; null takes it back."""

    def __init__(self, inner: _Kind) -> None:
        self.inner = inner
        self.readers = inner.readers
        self.write = inner.write

    def merge(self, node: Any, draft: Any, path: str, exact: _Exact) -> Any:
        return None if node is None else self.inner.merge(node, draft, path, exact)

    def finish(self, draft: Any) -> Any:
        return None if draft is None else self.inner.finish(draft)


class _Strings(_Kind):
    """A []string. The draft is its length and its backing array, whose old elements shine through null."""

    readers: Mapping[type, Reader | None] = {list: _strings}

    def merge(self, node: Any, draft: Any, path: str, exact: _Exact) -> Any:
        if node is None:
            return None
        if type(node) is not list:
            exact.wrong(path, "array", node)
            return draft
        backing: list[str] = draft[1] if draft and node else []
        backing += [""] * (len(node) - len(backing))
        for index, item in enumerate(node):
            if type(item) is str:
                backing[index] = item
            elif item is not None:
                exact.wrong(f"{path}.{index}", "string", item)
        return len(node), backing

    def finish(self, draft: Any) -> Any:
        return None if draft is None else draft[1][: draft[0]]

    def write(self, value: Any) -> str:
        if value is None:
            return "null"
        if not isinstance(value, (list, tuple)):
            raise TypeError("not a list of strings")
        return f"[{','.join(map(quote, value))}]"


class _StringMap(_Kind):
    """A map[string]string."""

    readers: Mapping[type, Reader | None] = {dict: _string_map}

    def merge(self, node: Any, draft: Any, path: str, exact: _Exact) -> Any:
        if node is None:
            return None
        if type(node) is not Members:
            exact.wrong(path, "object", node)
            return draft
        strings: dict[str, str] = draft or {}
        for name, item in node:
            if item is not None and type(item) is not str:
                exact.wrong(_step(path, name), "string", item)
            strings[name] = item if type(item) is str else ""
        return strings

    def write(self, value: Any) -> str:
        if value is None:
            return "null"
        if not isinstance(value, Mapping):
            raise TypeError("not a dict of strings")
        return f"{{{','.join([f'{quote(name)}:{quote(value[name])}' for name in sorted(value)])}}}"


class _Struct(_Kind):
    """A Go struct as a field's value: always there."""

    def __init__(self, struct: Struct) -> None:
        self.struct = struct
        self.readers = {dict: struct.read}
        self.write = struct.write

    def merge(self, node: Any, draft: Any, path: str, exact: _Exact) -> Any:
        return self.struct.merge(node, draft, path, exact)

    def finish(self, draft: Any) -> Any:
        return self.struct.zero() if draft is None else self.struct.finish(draft)


class _Pointer(_Struct):
    """A pointer to a struct: None when nil."""

    def __init__(self, struct: Struct) -> None:
        super().__init__(struct)
        self.write = lambda value: "null" if value is None else struct.write(value)

    def merge(self, node: Any, draft: Any, path: str, exact: _Exact) -> Any:
        return None if node is None else self.struct.merge(node, draft, path, exact)

    def finish(self, draft: Any) -> Any:
        return None if draft is None else self.struct.finish(draft)


class _StructMap(_Kind):
    """A map[string] of a struct."""

    def __init__(self, struct: Struct) -> None:
        self.struct = struct
        self.readers = {dict: self._read}

    def _read(self, value: dict[str, Any], fast: _Fast) -> dict[str, Any]:
        fast.names += len(value)
        if not set(map(type, value.values())) <= {dict}:
            raise _GiveUp
        read = self.struct.read
        return {name: read(item, fast) for name, item in value.items()}

    def merge(self, node: Any, draft: Any, path: str, exact: _Exact) -> Any:
        if node is None:
            return None
        if type(node) is not Members:
            exact.wrong(path, "object", node)
            return draft
        structs: dict[str, Any] = draft or {}
        for name, item in node:
            structs[name] = self.struct.merge(item, None, _step(path, name), exact)
        return structs

    def finish(self, draft: Any) -> Any:
        if draft is None:
            return None
        struct = self.struct
        return {name: struct.zero() if item is None else struct.finish(item) for name, item in draft.items()}

    def write(self, value: Any) -> str:
        if value is None:
            return "null"
        if not isinstance(value, Mapping):
            raise TypeError("not a dict of " + self.struct.model.__name__)
        write = self.struct.write
        return f"{{{','.join([f'{quote(name)}:{write(value[name])}' for name in sorted(value)])}}}"


# --- structs ------------------------------------------------------------------------------------------------------

# How pydantic keeps an instance: its values, which of them were given, what else came, and private attributes. Filling
# these directly is how pydantic's own model_construct works, without its cost a field.
_new: Final = object.__new__
_set: Final = object.__setattr__


class _Field:
    """One field of a struct."""

    def __init__(self, attr: str, info: FieldInfo, structs: dict[type, Struct]) -> None:
        self.attr = attr
        self.wire = info.alias or attr
        self.kind = _kind_of(info, structs)
        optional = isinstance(self.kind, _Optional)
        self.omitted = (None,) if optional else ("",) if OMIT_EMPTY in info.metadata else ()
        self.info = info

    def write(self, value: Any) -> str:
        """The field's text; where the field may be left out, with its name and a comma before it."""
        if not self.omitted:
            return self.kind.write(value)
        return "" if value in self.omitted else f",{quote(self.wire)}:{self.kind.write(value)}"


class _Plan:
    """What to do with a parsed object of one shape: names and types in order."""

    __slots__ = ("drop", "fresh", "given", "reset", "steps", "unread")

    def __init__(self) -> None:
        self.drop: list[str] = []  # names that are no attribute
        self.unread: list[str] = []  # no field's names, with containers whose names count all the same
        self.reset: list[tuple[str, Any]] = []  # fields whose value is to be the zero value, which can be shared
        self.fresh: list[tuple[str, Callable[[], Any]]] = []  # fields whose zero value cannot
        self.steps: list[tuple[str, str, Reader | None]] = []  # attr, name, how to read it
        self.given: set[str] = set()


_MAX_PLANS: Final = 2_000


class _Draft:
    """A struct being read the exact way."""

    __slots__ = ("given", "unknown", "values")

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}  # drafts by attribute
        self.given: set[str] = set()
        self.unknown: dict[str, str] = {}  # names to JSON text


def _bare(name: str) -> str:
    """``name`` without what people vary: case, dashes, underscores."""
    return name.casefold().replace("_", "").replace("-", "")


def _kind_of(info: FieldInfo, structs: dict[type, Struct]) -> _Kind:
    """The Go type that a model's field stands for."""
    annotation = info.annotation
    optional = get_origin(annotation) in (Union, UnionType)
    if optional:
        (annotation,) = [arg for arg in get_args(annotation) if arg is not NoneType]
    if annotation is Any:
        return _Untyped()
    if annotation == list[str]:
        return _Strings()
    if annotation == dict[str, str]:
        return _StringMap()
    if get_origin(annotation) is dict:
        return _StructMap(_struct(get_args(annotation)[1], structs))
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return (_Pointer if optional else _Struct)(_struct(annotation, structs))
    scalars: dict[Any, Callable[[], _Kind]] = {
        str: lambda: _Scalar("string", str, "", quote),
        bool: lambda: _Scalar("bool", bool, False, _bool_text),
        float: _Float,
        int: lambda: _Integer(*_bounds(info)),
        Secret: _SecretString,
    }
    return _Optional(scalars[annotation]()) if optional else scalars[annotation]()


class Struct:
    """One Go struct, by its model."""

    def __init__(self, model: type[BaseModel], structs: dict[type, Struct]) -> None:
        structs[model] = self
        self.model = model
        self.fields = tuple(_Field(attr, info, structs) for attr, info in model.model_fields.items())
        self.by_name = {field.wire: field for field in self.fields}
        self.by_fold = {fold(field.wire): field for field in self.fields}
        self.private = {name: attr.get_default() for name, attr in model.__private_attributes__.items()} or None
        self.meant: Mapping[str, str] = {}
        self.hint = lru_cache(256)(self._hint)
        self._frozen = bool(model.model_config.get("frozen"))
        self._shared_zero = model() if self._frozen else None
        # Zero values by attribute, in order; what is mutable is made anew for every instance, see _Plan.fresh.
        self._zeros = {field.attr: field.info.get_default(call_default_factory=True) for field in self.fields}
        self._plans: dict[tuple[Any, ...], _Plan] = {}
        pieces = [f"{quote(field.wire)}:%s" if not field.omitted else "%s" for field in self.fields]
        self._template = "{" + re.sub(",%s", "%s", ",".join(pieces)) + "%s}"
        attrs = [field.attr for field in self.fields]
        many = operator.itemgetter(*attrs) if len(attrs) > 1 else None
        one = attrs[0] if attrs else None
        self._values: Callable[[dict[str, Any]], tuple[Any, ...]] = many or (
            lambda values: () if one is None else (values[one],)
        )
        self._writers = [field.write if field.omitted else field.kind.write for field in self.fields]

    def zero(self) -> BaseModel:
        """Go's zero value; shared where it cannot change."""
        return self._shared_zero or self.model()

    def find(self, name: str) -> _Field | None:
        return self.by_name.get(name) or self.by_fold.get(fold(name))

    def _hint(self, name: str) -> str | None:
        """The field that the unread ``name`` probably means."""
        if len(name) > 64:
            return None
        said = _bare(name)
        if said in self.meant:
            return self.meant[said]
        known = {_bare(wire): wire for wire in self.by_name}
        if len(said) < 3:
            return known.get(said)
        close = difflib.get_close_matches(said, known, n=1, cutoff=0.85)
        return known[close[0]] if close else None

    # the exact way

    def merge(self, node: Any, draft: _Draft | None, path: str, exact: _Exact) -> _Draft | None:
        if node is None:
            return draft
        if type(node) is not Members:
            exact.wrong(path, "object", node)
            return draft
        draft = draft or _Draft()
        for name, item in node:
            field = self.find(name)
            if field is not None:
                old = draft.values.get(field.attr)
                draft.values[field.attr] = field.kind.merge(item, old, _step(path, field.wire), exact)
                if item is not None:
                    draft.given.add(field.attr)
                continue
            meant = self.hint(name)
            if meant is not None:
                exact.warnings.append(f"{_step(path, name)} is not read; did you mean {meant}?")
            if exact.keep_unknown:
                draft.unknown[name] = any_text(_plain(item, lambda number: number))
        return draft

    def finish(self, draft: _Draft) -> BaseModel:
        values = {field.attr: field.kind.finish(draft.values.get(field.attr)) for field in self.fields}
        return self._build(values, draft.given, draft.unknown or None)

    def _build(self, values: dict[str, Any], given: set[str], unknown: dict[str, str] | None) -> BaseModel:
        instance: BaseModel = _new(self.model)
        _set(instance, "__dict__", values)
        _set(instance, "__pydantic_fields_set__", given)
        _set(instance, "__pydantic_extra__", unknown)
        _set(instance, "__pydantic_private__", self.private and self.private.copy())
        return instance

    # the fast way

    def read(self, parsed: dict[str, Any], fast: _Fast) -> BaseModel:
        fast.names += len(parsed)
        shape = (*parsed, *map(type, parsed.values()))
        plan = self._plans.get(shape) or self._plan(parsed, shape)
        values = self._zeros.copy()
        values.update(parsed)
        for name in plan.drop:
            del values[name]
        for attr, zero in plan.reset:
            values[attr] = zero
        for attr, make in plan.fresh:
            values[attr] = make()
        for attr, name, read in plan.steps:
            values[attr] = parsed[name] if read is None else read(parsed[name], fast)
        for name in plan.unread:
            _untyped(parsed[name], fast)
        return self._build(values, plan.given.copy(), None)

    def _plan(self, parsed: dict[str, Any], shape: tuple[Any, ...]) -> _Plan:
        plan = _Plan()
        for name, value in parsed.items():
            field = self.find(name)
            kind = type(value)
            if name not in self._zeros:
                plan.drop.append(name)
            elif field is None or field.attr != name or kind is NoneType:
                plan.reset.append((name, self._zeros[name]))
            if field is None:
                if self.hint(name) is not None:
                    raise _GiveUp  # a warning needs the path
                if kind is dict or kind is list:
                    plan.unread.append(name)
                continue
            if kind is NoneType:
                continue
            if field.attr in plan.given or kind not in field.kind.readers:
                raise _GiveUp
            plan.given.add(field.attr)
            reader = field.kind.readers[kind]
            if reader is not None or field.attr != name:
                plan.steps.append((field.attr, name, reader))
        plan.fresh = [
            (field.attr, field.kind.struct.zero)
            for field in self.fields
            if type(field.kind) is _Struct and field.attr not in plan.given and not field.kind.struct._frozen
        ]
        if len(self._plans) >= _MAX_PLANS:
            self._plans.clear()
        if len(parsed) <= 64 and sum(map(len, parsed)) <= 2_048:
            self._plans[shape] = plan
        return plan

    # writing

    def write(self, instance: Any) -> str:
        if not isinstance(instance, self.model):
            raise TypeError(f"not a {self.model.__name__}")
        values = self._values(instance.__dict__)
        unknown = instance.__pydantic_extra__
        rest = "" if unknown is None else self._unknown(unknown)
        return self._template % (*map(operator.call, self._writers, values), rest)

    def _unknown(self, unknown: Mapping[str, str]) -> str:
        text = ",".join([f"{quote(name)}:{value}" for name, value in unknown.items()])
        return f",{text}" if self.fields and text else text

    def problems(self, instance: Any, path: str) -> Iterator[str]:
        """Every field of ``instance`` that cannot be written, and why."""
        if not isinstance(instance, self.model):
            yield f"{path or 'document'}: not a {self.model.__name__}"
            return
        for field in self.fields:
            where = _step(path, field.wire)
            value = instance.__dict__.get(field.attr)
            kind = field.kind
            if isinstance(kind, _Struct) and isinstance(value, BaseModel):
                yield from kind.struct.problems(value, where)
            elif isinstance(kind, _StructMap) and isinstance(value, Mapping) and all(isinstance(n, str) for n in value):
                for name, item in value.items():
                    yield from kind.struct.problems(item, _step(where, name))
            else:
                try:
                    field.write(value)
                except (TypeError, ValueError, OverflowError) as error:
                    yield f"{where}: {error}"


def _struct(model: type[BaseModel], structs: dict[type, Struct]) -> Struct:
    return structs.get(model) or Struct(model, structs)


def _bounds(info: FieldInfo) -> tuple[int, int]:
    low = next(mark.ge for mark in info.metadata if isinstance(mark, Ge))
    high = next(mark.lt for mark in info.metadata if isinstance(mark, Lt))
    return int(low), int(high)  # type: ignore[call-overload]  # the marks are typed for whatever can be compared


# A name is followed by a colon. Unless space comes between, `":` is counted for every name of a document, and for
# some strings besides; so a parser that met as many different names as that met no name twice.
_SPACED: Final = (b" :", b"\n:", b"\r:", b"\t:")
_NEGATIVE_ZERO: Final = re.compile(rb"-0[\s,\]}]")  # the compiled parser loses the sign of an integer


class Codec(Generic[Model]):
    """Reads and writes the documents of one root model.

    Args:
        model: the root struct. Annotations are Go's types: ``str``, ``bool``, ``float``, ``int`` with ge and lt,
            ``Secret``, ``Any``, ``list[str] | None``, ``dict[str, str] | None``, ``dict[str, Struct] | None``, a struct,
            ``Struct | None`` for a pointer; an optional scalar is written only when it is set.
        meant: for hints, by struct: wrong names (lower case, no ``-`` or ``_``) to the wire name that was meant.
    """

    def __init__(self, model: type[Model], *, meant: Mapping[type, Mapping[str, str]] | None = None) -> None:
        self._structs: dict[type, Struct] = {}
        self._root = Struct(model, self._structs)
        for struct, names in (meant or {}).items():
            self._structs[struct].meant = names

    def decode(self, data: bytes | str, *, keep_unknown: bool = False) -> tuple[Model, tuple[str, ...]]:
        """Read a document; also returns a line for each unread name that looks like a known one.

        Raises:
            RequestError: not JSON, or not of the structs' types; names every place, never a value.
        """
        if not isinstance(data, (bytes, str, bytearray, memoryview)):
            raise TypeError(f"a document is bytes or str, not {type(data).__name__}")
        if not keep_unknown:
            try:
                return self.fast(data.encode() if isinstance(data, str) else bytes(data)), ()
            except (_GiveUp, UnicodeEncodeError):
                pass
        return self.exact(data, keep_unknown=keep_unknown)

    def fast(self, document: bytes) -> Model:
        """Read an ordinary document, or raise an error that means: ask :meth:`exact`."""
        if any(mark in document for mark in _SPACED) or (b"-0" in document and _NEGATIVE_ZERO.search(document)):
            raise _GiveUp
        try:
            # Only names are interned: the parser's cache outlives the document, and values may be secrets.
            parsed = from_json(document, allow_inf_nan=False, cache_strings="keys")
        except ValueError:
            raise _GiveUp from None
        if type(parsed) is not dict:
            raise _GiveUp
        fast = _Fast()
        instance = self._root.read(parsed, fast)
        if fast.names != document.count(b'":'):
            raise _GiveUp
        return instance  # type: ignore[return-value]  # the root struct builds the root model

    def exact(self, data: bytes | str, *, keep_unknown: bool = False) -> tuple[Model, tuple[str, ...]]:
        """Read any document, as :meth:`decode`, without the fast way."""
        text = _HALVES.sub("\ufffd", data) if isinstance(data, str) else bytes(data).decode("utf-8", "gojson.read")
        exact = _Exact(keep_unknown=keep_unknown)
        draft = self._root.merge(_Syntax(text).document(), None, "", exact)
        if exact.problems:
            raise RequestError(exact.problems)
        instance = self._root.zero() if draft is None else self._root.finish(draft)
        return instance, tuple(exact.warnings)  # type: ignore[return-value]  # as in fast

    def encode(self, instance: Model) -> bytes:
        """Write a document.

        Raises:
            RequestError: an attribute was set to what the wire cannot hold; names every place.
        """
        try:
            return _finish(self._root.write(instance))
        except (TypeError, ValueError, OverflowError, KeyError) as error:
            problems = tuple(self._root.problems(instance, "")) or (f"document: {error}",)
        raise RequestError(problems)
