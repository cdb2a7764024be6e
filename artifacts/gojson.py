"""The wire form: byte for byte what Go's ``encoding/json`` accepts, refuses and writes for a tree of structs.

The structs are pydantic models: a :class:`Codec` reads names, types, order and zero values from them once. A document
is then read in one of two ways. The fast way lets pydantic's compiled parser build the models, and gives up
(:class:`_GiveUp`) on whatever it cannot prove to be ordinary: duplicate names, near misses, anything refused. The
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
from functools import lru_cache
from itertools import repeat
from json.decoder import JSONDecodeError, scanstring  # type: ignore[attr-defined]  # only the stubs lack it
from json.encoder import encode_basestring
from types import NoneType, UnionType
from typing import Any, Final, Generic, NoReturn, TypeVar, Union, get_args, get_origin

from annotated_types import Ge, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import SchemaValidator, ValidationError, core_schema

from artifacts.errors import RequestError
from creds.secret import Secret

MAX_DEPTH: Final = 10_000


class OmitEmpty:
    """Marks, in ``Annotated``, a string field that is not written when empty: Go's ``omitempty``."""


OMIT_EMPTY: Final = OmitEmpty()

Model = TypeVar("Model", bound=BaseModel)


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


quote: Final = encode_basestring  # all of a JSON string but for what _finish escapes; TypeError if it is no string


def _finish(text: str) -> bytes:
    """Encode a whole document: what is escaped here can only stand inside strings."""
    if "\u2028" in text or "\u2029" in text:
        text = text.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    document = text.encode("utf-8", "gojson.write")
    return document.replace(b"<", b"\\u003c").replace(b">", b"\\u003e").replace(b"&", b"\\u0026")


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
    """``value`` as Go writes a float64. Raises ValueError if it is not finite."""
    text = repr(value)
    if text[-2:] == ".0":
        return text[:-2]
    if "e" in text:
        if not 1e-6 <= abs(value) < 1e21:
            return text.replace("e-0", "e-")
        digits, _, exponent = text.partition("e")
        whole, _, fraction = digits.partition(".")
        if exponent[0] == "+":
            return whole + fraction.ljust(int(exponent), "0")
        return f"{'-' * (value < 0)}0.{whole.lstrip('-').zfill(-int(exponent))}{fraction}"
    if text[-1] in "fn":
        raise ValueError("a number that is not finite")
    return text


# --- untyped values -----------------------------------------------------------------------------------------------


class Members(list[tuple[str, Any]]):
    """A JSON object with every member it had, in order."""

    __slots__ = ()


def any_text(value: Any) -> str:
    """Write an untyped value; without recursion, so that depth is limited only as Go limits it.

    Raises:
        TypeError, ValueError, OverflowError: something in it has no JSON form; says what kind of thing.
    """
    out: list[str] = []
    frames: list[tuple[Iterator[Any], str]] = []
    while True:
        write = _SCALARS.get(type(value))
        if write is not None:
            out.append(write(value))
        elif isinstance(value, dict):
            out.append("{")
            frames.append((iter(sorted(value.items(), key=_NAME)), "}"))
        elif isinstance(value, (list, tuple)):
            out.append("[")
            frames.append((iter(value), "]"))
        else:
            raise TypeError(f"a {type(value).__name__} has no JSON form")
        if len(frames) > MAX_DEPTH:
            raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
        while frames:
            items, closer = frames[-1]
            value = next(items, _END)
            if value is _END:
                frames.pop()
                out.append(closer)
                continue
            if out[-1] != "{" and out[-1] != "[":  # a written string has its quotes
                out.append(",")
            if closer == "}":
                name, value = value
                out.append(quote(name) + ":")
            break
        else:
            return "".join(out)


_END: Final = object()
_NAME: Final = operator.itemgetter(0)
_SCALARS: Final[Mapping[type, Callable[[Any], str]]] = {
    NoneType: {None: "null"}.__getitem__,
    bool: {True: "true", False: "false"}.__getitem__,
    str: quote,
    float: number_text,
    int: lambda value: number_text(float(value)),
    Number: str,
}


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
            box[place] = items = value.copy()
            todo.extend(zip(repeat(items), range(len(items))))
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


def _settle_untyped(box: Any, place: Any, value: Any) -> int:
    """Make the numbers in ``box[place]``, which is ``value``, float64. Depth is limited by the compiled parser.

    Returns:
        How many names are in it.
    """
    kind = type(value)
    if kind is dict:
        names = len(value)
        for name, inner in value.items():
            if type(inner) not in _SETTLED:
                names += _settle_untyped(value, name, inner)
        return names
    if kind is list:
        names = 0
        for index, inner in enumerate(value):
            if type(inner) not in _SETTLED:
                names += _settle_untyped(value, index, inner)
        return names
    if kind is float:
        if value - value:  # not finite: the compiled parser takes NaN, Infinity and overflow
            raise _GiveUp
    elif kind is int:
        try:
            box[place] = float(value)
        except OverflowError:
            raise _GiveUp from None
    return 0


_SETTLED: Final = frozenset((str, bool, NoneType))


# --- kinds: what a field of a Go struct may be -------------------------------------------------------------------


class _Kind:
    """How one Go type is read and written.

    ``merge`` reads a node the exact way into a draft, given the draft that is there already (None: Go's zero value);
    ``finish`` makes the value of a draft. ``schema`` is what the compiled parser reads it by, ``settle`` what is left
    to do to that parser's value; it returns how many names are in it. ``write`` gives JSON text and raises TypeError,
    ValueError, OverflowError or KeyError for a value it has no text for.
    """

    settle: Callable[[Any], int] | None = None
    write: Callable[[Any], str]
    nil = False  # None is a value, written as null; write never gets it

    def merge(self, node: Any, draft: Any, path: str, exact: _Exact) -> Any:
        raise NotImplementedError

    def finish(self, draft: Any) -> Any:
        return draft

    def schema(self) -> core_schema.CoreSchema:
        raise NotImplementedError

    def nullable(self) -> core_schema.CoreSchema:
        """The schema, with null for None or for the zero value."""
        if self.nil:
            return core_schema.nullable_schema(self.schema())
        # A look-up is no call of Python; what is not null raises KeyError or TypeError.
        null = core_schema.no_info_plain_validator_function({None: self.finish(None)}.__getitem__)
        return core_schema.union_schema([self.schema(), null], mode="left_to_right")

    def zero(self) -> dict[str, Any]:
        """The zero value as a default, or its default_factory."""
        return {"default": self.finish(None)}

    def code(self, value: str, write: str) -> str:
        """A Python expression for the text of the expression ``value``; ``write`` is what :meth:`write` is called."""
        return f"{write}({value})"


class _Scalar(_Kind):
    """A string or bool: taken as it is; null changes nothing."""

    def __init__(self, go: str, python: type, zero_value: Any, write: Callable[[Any], str]) -> None:
        self.go = go
        self.python = python
        self.zero_value = zero_value
        self.write = write

    def schema(self) -> core_schema.CoreSchema:
        return core_schema.str_schema(strict=True) if self.python is str else core_schema.bool_schema(strict=True)

    def merge(self, node: Any, draft: Any, path: str, exact: _Exact) -> Any:
        if type(node) is self.python:
            return node
        if node is not None:
            exact.wrong(path, self.go, node)
        return draft

    def finish(self, draft: Any) -> Any:
        return self.zero_value if draft is None else draft


def _untyped_text(value: Any, depth: int = 0) -> str:
    """As :func:`any_text`, by recursion for as many levels as documents have.

    No deeper: at the interpreter's own limit whatever else runs just then, such as a finalizer, fails too. Loops, since
    a comprehension is a call of its own before Python 3.12.
    """
    kind = type(value)
    if write := _SCALARS.get(kind):
        return write(value)
    if depth < _SHALLOW:
        depth += 1
        if kind is dict:
            texts = []
            for name in sorted(value):
                item = value[name]
                texts.append(f"{quote(name)}:{quote(item) if type(item) is str else _untyped_text(item, depth)}")
            return f"{{{','.join(texts)}}}"
        if kind is list:
            texts = []
            for item in value:
                texts.append(quote(item) if type(item) is str else _untyped_text(item, depth))
            return f"[{','.join(texts)}]"
    return any_text(value)


_SHALLOW: Final = 20


def _secret_text(value: Any) -> str:
    if not isinstance(value, Secret):
        raise TypeError("not a Secret")
    return quote(value.get_secret_value())


class _SecretString(_Scalar):
    """A string whose value is a :class:`~creds.models.Secret`."""

    def __init__(self) -> None:
        super().__init__("string", str, "", _secret_text)

    def code(self, value: str, write: str) -> str:
        return f"(quote(v._secret_value) if (v := {value}).__class__ is Secret else {write}(v))"

    def finish(self, draft: Any) -> Any:
        return Secret(draft or "")


class _Integer(_Kind):
    """An int64 or uint64: digits only, within bounds."""

    def __init__(self, low: int, high: int) -> None:
        self.go = "int64" if low < 0 else "uint64"
        self.low = low
        self.high = high

    def schema(self) -> core_schema.CoreSchema:
        return core_schema.int_schema(strict=True, ge=self.low, lt=self.high)

    def code(self, value: str, write: str) -> str:
        small = f"(v := {value}).__class__ is int and 0 <= v <= {2**31}"
        return f"(v if {small} else {write}(v))"

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
    """A float64."""

    def schema(self) -> core_schema.CoreSchema:
        return core_schema.float_schema(strict=True, allow_inf_nan=False)

    def code(self, value: str, write: str) -> str:
        return f"(number_text(v) if (v := {value}).__class__ is float else {write}(v))"

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
        return number_text(float(value))


class _Untyped(_Kind):
    """An interface{}."""

    nil = True
    write = staticmethod(_untyped_text)

    def code(self, value: str, write: str) -> str:
        return f"(quote({value}) if {value}.__class__ is str else {write}({value}))"

    def schema(self) -> core_schema.CoreSchema:
        return core_schema.any_schema()

    def merge(self, node: Any, draft: Any, path: str, exact: _Exact) -> Any:  # noqa: ARG002  always replaced
        try:
            return _plain(node, Number.float64)
        except OverflowError:
            exact.problems.append(f"{path}: expected numbers within float64, got one out of range")
            return None


class _Optional(_Kind):
    """A scalar beyond the reference: None until it comes; null takes it back."""

    nil = True

    def __init__(self, inner: _Kind) -> None:
        self.inner = inner
        self.schema = inner.schema  # type: ignore[method-assign]  # the very same
        self.write = inner.write

    def merge(self, node: Any, draft: Any, path: str, exact: _Exact) -> Any:
        return None if node is None else self.inner.merge(node, draft, path, exact)

    def finish(self, draft: Any) -> Any:
        return None if draft is None else self.inner.finish(draft)


class _Strings(_Kind):
    """A []string. The draft is its length and its backing array, whose old elements shine through null."""

    nil = True

    def schema(self) -> core_schema.CoreSchema:
        return core_schema.list_schema(_Scalar("string", str, "", quote).nullable())

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
        if not isinstance(value, (list, tuple)):
            raise TypeError("not a list of strings")
        return f"[{','.join(map(quote, value))}]"

    def code(self, value: str, write: str) -> str:
        return f"""('[' + ','.join(map(quote, v)) + ']' if {value}.__class__ is list else {write}(v))"""


class _StringMap(_Kind):
    """A map[string]string."""

    nil = True

    def schema(self) -> core_schema.CoreSchema:
        return core_schema.dict_schema(core_schema.str_schema(), _Scalar("string", str, "", quote).nullable())

    def settle(self, value: dict[str, str]) -> int:
        return len(value)

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
        if not isinstance(value, (dict, Mapping)):  # Mapping alone is slow to ask
            raise TypeError("not a dict of strings")
        return f"{{{','.join([f'{quote(name)}:{quote(value[name])}' for name in sorted(value)])}}}"


class _Struct(_Kind):
    """A Go struct as a field's value: always there."""

    def __init__(self, struct: Struct) -> None:
        self.struct = struct
        self.schema = struct.schema  # type: ignore[method-assign]  # the very same
        self.settle = struct.settle
        self.write = struct.write

    def merge(self, node: Any, draft: Any, path: str, exact: _Exact) -> Any:
        return self.struct.merge(node, draft, path, exact)

    def finish(self, draft: Any) -> Any:
        return self.struct.zero() if draft is None else self.struct.finish(draft)

    def nullable(self) -> core_schema.CoreSchema:
        return core_schema.nullable_schema(self.schema())  # settling a struct replaces None

    def zero(self) -> dict[str, Any]:
        return {"default": self.struct.shared}  # likewise


class _Pointer(_Struct):
    """A pointer to a struct."""

    nil = True

    def merge(self, node: Any, draft: Any, path: str, exact: _Exact) -> Any:
        return None if node is None else self.struct.merge(node, draft, path, exact)

    def finish(self, draft: Any) -> Any:
        return None if draft is None else self.struct.finish(draft)

    def zero(self) -> dict[str, Any]:
        return {"default": None}


class _StructMap(_Kind):
    """A map[string] of a struct."""

    nil = True

    def __init__(self, struct: Struct) -> None:
        self.struct = struct

    def schema(self) -> core_schema.CoreSchema:
        return core_schema.dict_schema(core_schema.str_schema(), _Struct(self.struct).nullable())

    def settle(self, value: dict[str, Any]) -> int:
        names = len(value)
        for name, item in value.items():
            if item is None:
                value[name] = self.struct.zero()
            else:
                names += self.struct.settle(item)
        return names

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
        if not isinstance(value, (dict, Mapping)):
            raise TypeError("not a dict of " + self.struct.model.__name__)
        write = self.struct.write
        return f"{{{','.join([f'{quote(name)}:{write(value[name])}' for name in sorted(value)])}}}"


# --- structs ------------------------------------------------------------------------------------------------------

# How pydantic keeps an instance: its values, which of them were given, what else came, and private attributes. Filling
# these directly is how pydantic's own model_construct works, without its cost a field.
_new: Final = object.__new__
_set_values, _set_given, _set_extra, _set_private = (
    vars(BaseModel)[slot].__set__
    for slot in ("__dict__", "__pydantic_fields_set__", "__pydantic_extra__", "__pydantic_private__")
)


class _Field:
    """One field of a struct."""

    def __init__(self, attr: str, info: FieldInfo, structs: dict[type[BaseModel], Struct]) -> None:
        self.attr = attr
        self.wire = info.alias or attr
        self.kind = _kind_of(info, structs)
        self.info = info
        # The value for which the field is not written, if there is one.
        self.absent = "None" if isinstance(self.kind, _Optional) else "''" if OMIT_EMPTY in info.metadata else None


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


def _kind_of(info: FieldInfo, structs: dict[type[BaseModel], Struct]) -> _Kind:
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
        bool: lambda: _Scalar("bool", bool, False, {True: "true", False: "false"}.__getitem__),
        float: _Float,
        int: lambda: _Integer(*_bounds(info)),
        Secret: _SecretString,
    }
    return _Optional(scalars[annotation]()) if optional else scalars[annotation]()


class Struct:
    """One Go struct, by its model."""

    def __init__(self, model: type[BaseModel], structs: dict[type[BaseModel], Struct]) -> None:
        structs[model] = self
        self.shared: BaseModel | None = None
        self.model = model
        self.fields = tuple(_Field(attr, info, structs) for attr, info in model.model_fields.items())
        self.by_name = {field.wire: field for field in self.fields}
        self.by_fold = {fold(field.wire): field for field in self.fields}
        self.private = {name: attr.get_default() for name, attr in model.__private_attributes__.items()} or None
        self.meant: Mapping[str, str] = {}
        self.hint = lru_cache(256)(self._hint)
        # Zero values by attribute, in order. What is mutable is made anew for every instance.
        self._fresh = {
            field.attr: field.kind.struct.zero
            for field in self.fields
            if type(field.kind) is _Struct and not field.kind.struct.shared
        }
        self._zeros = {
            field.attr: None if field.attr in self._fresh else field.info.get_default(call_default_factory=True)
            for field in self.fields
        }
        self.shared = self.zero() if model.model_config.get("frozen") else None
        self._unread: set[str] = set()
        self.write = _writer(self)
        self.settle = _settler(self)

    def zero(self) -> BaseModel:
        """Go's zero value; shared where it cannot change."""
        if self.shared:
            return self.shared
        values = self._zeros.copy()
        for attr, make in self._fresh.items():
            values[attr] = make()
        return self._build(values, set(), None)

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
        _set_values(instance, values)
        _set_given(instance, given)
        _set_extra(instance, unknown)
        _set_private(instance, self.private and self.private.copy())
        return instance

    # the fast way

    def schema(self) -> core_schema.CoreSchema:
        """What the compiled parser reads the struct by: every name stays, known or not, so that it can be counted."""
        fields = {}
        for field in self.fields:
            # Only the usual ways to write a name: with any other the document is not ordinary.
            names = dict.fromkeys((field.wire, field.wire.lower(), field.wire.upper(), field.wire.capitalize()))
            paths: list[list[str | int]] = [[name] for name in names]
            schema = core_schema.with_default_schema(field.kind.nullable(), **field.kind.zero())
            fields[field.attr] = core_schema.model_field(schema, validation_alias=paths)
        return core_schema.model_schema(self.model, core_schema.model_fields_schema(fields, extra_behavior="allow"))

    def settle_unknown(self, instance: BaseModel) -> int:
        """Drop the names that no field has; give up where one is a field's after all, or needs a warning.

        Returns:
            How many names are in their values.
        """
        names = 0
        extra: dict[str, Any] = instance.__pydantic_extra__ or {}
        given = instance.__pydantic_fields_set__
        for name, value in extra.items():
            given.remove(name)
            if name not in self._unread:
                if self.find(name) is not None or self.hint(name) is not None:
                    raise _GiveUp
                if len(name) <= 64 and len(self._unread) < 1_000:
                    self._unread.add(name)
            if type(value) not in _SETTLED:
                names += _settle_untyped(extra, name, value)
        _set_extra(instance, None)
        return names

    # writing

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
            elif value is not None or not (kind.nil or field.absent == "None"):
                try:
                    kind.write(value)
                except KeyError:
                    yield f"{where}: not a bool"
                except (TypeError, ValueError, OverflowError) as error:
                    yield f"{where}: {error}"


def _settler(struct: Struct) -> Callable[[Any], int]:
    """Compile the function that mends what the compiled parser made of ``struct`` and counts the names it met."""
    scope: dict[str, Any] = {"untyped": _settle_untyped, "settled": _SETTLED, "new": _new, "Secret": Secret}
    lines: list[str] = []

    def visit(struct: Struct, this: str) -> None:
        """Write the lines for the struct in the variable ``this``; structs that are always there come inline."""
        scope[f"unknown_{this}"] = struct.settle_unknown
        lines.append(f"names += len({this}.__pydantic_fields_set__)")
        lines.append(f"if {this}.__pydantic_extra__: names += unknown_{this}({this})")
        if struct.fields:
            lines.append(f"{this}_values = {this}.__dict__")
        for field in struct.fields:
            value = f'{this}_values["{field.attr}"]'
            inner = f"{this}_{field.attr}"
            if type(field.kind) is _Struct:
                scope[f"zero_{inner}"] = field.kind.struct.zero
                lines.append(f"if ({inner} := {value}) is None: {inner} = {value} = zero_{inner}()")
                visit(field.kind.struct, inner)
            elif isinstance(getattr(field.kind, "inner", field.kind), _SecretString):
                lines.append(f"if (v := {value}).__class__ is str: s = {value} = new(Secret); s._secret_value = v")
            elif isinstance(field.kind, _Untyped):
                lines.append(f"if (v := {value}).__class__ not in settled:")
                lines.append(f' names += untyped({this}_values, "{field.attr}", v)')
            elif field.kind.settle:
                scope[f"settle_{inner}"] = field.kind.settle
                lines.append(f"if (v := {value}) is not None: names += settle_{inner}(v)")

    visit(struct, "it")
    body = "\n ".join(lines)
    return _compiled(f"def settle(it):\n names = 0\n {body}\n return names\n", scope, "settle")


def _writer(struct: Struct) -> Callable[[Any], str]:
    """Compile the function that writes ``struct``: one f-string of its fields' names and kinds."""
    scope: dict[str, Any] = {
        "is_no": _is_no,
        "and_unknown": _and_unknown,
        "number_text": number_text,
        "quote": quote,
        "Secret": Secret,
        "model": struct.model,
    }
    pieces = ""
    for field in struct.fields:
        value, name, write = f'values["{field.attr}"]', f'"{field.wire}":', f"write_{field.attr}"
        scope[write] = field.kind.write
        if field.absent is not None:
            pieces += f"{{'' if (v := {value}) == {field.absent} else ',{name}' + {write}(v)}}"
        elif field.kind.nil:
            pieces += f",{name}{{'null' if (v := {value}) is None else {field.kind.code('v', write)}}}"
        else:
            pieces += f",{name}{{{field.kind.code(value, write)}}}"
    source = f"""def write(it):
    if not isinstance(it, model): is_no(model)
    values = it.__dict__
    text = f'''{{{{{pieces.removeprefix(",")}}}}}'''
    return and_unknown(text, it) if it.__pydantic_extra__ else text
"""
    return _compiled(source, scope, "write")


def _compiled(source: str, scope: dict[str, Any], name: str) -> Callable[[Any], Any]:
    exec(source, scope)  # noqa: S102  built from nothing but the names of the models' fields
    function: Callable[[Any], Any] = scope[name]
    return function


def _is_no(model: type) -> NoReturn:
    raise TypeError(f"not a {model.__name__}")


def _and_unknown(text: str, instance: BaseModel) -> str:
    """``text`` of an instance, with the fields that were kept though no struct knows them."""
    unknown = ",".join([f"{quote(name)}:{value}" for name, value in (instance.__pydantic_extra__ or {}).items()])
    return f"{text[:-1]}{',' if unknown and text != '{}' else ''}{unknown}}}"


def _struct(model: type[BaseModel], structs: dict[type[BaseModel], Struct]) -> Struct:
    return structs.get(model) or Struct(model, structs)


def _bounds(info: FieldInfo) -> tuple[int, int]:
    low = next(mark.ge for mark in info.metadata if isinstance(mark, Ge))
    high = next(mark.lt for mark in info.metadata if isinstance(mark, Lt))
    return int(low), int(high)  # type: ignore[call-overload]  # the marks are typed for whatever can be compared


_NEGATIVE_ZERO: Final = re.compile(rb"-0[,\]}]")  # the compiled parser loses the sign of an integer


def _as_bytes(data: Any) -> bytes:
    if isinstance(data, str):
        return data.encode()
    if isinstance(data, (bytes, bytearray, memoryview)):
        return bytes(data)
    raise TypeError(f"a document is bytes or str, not {type(data).__name__}")


class Codec(Generic[Model]):
    """Reads and writes the documents of one root model.

    Args:
        model: the root struct. Annotations are Go's types: ``str``, ``bool``, ``float``, ``int`` with ge and lt,
            ``Secret``, ``Any``, ``list[str] | None``, ``dict[str, str] | None``, ``dict[str, Struct] | None``, a
            struct, ``Struct | None`` for a pointer; an optional scalar is written only when it is set.
        meant: for hints, by struct: wrong names (lower case, no ``-`` or ``_``) to the wire name that was meant.
    """

    def __init__(self, model: type[Model], *, meant: Mapping[type[BaseModel], Mapping[str, str]] | None = None) -> None:
        self._structs: dict[type[BaseModel], Struct] = {}
        self._root = Struct(model, self._structs)
        for struct in self._structs.values():
            struct.meant = (meant or {}).get(struct.model, {})
        self._private = self._root.private
        # The compiled parser would take the models' own validators for theirs, unless they are not complete. No string
        # is cached: the cache outlives the document, values may be secrets, and for names alone it does not pay.
        complete = {known: known.__pydantic_complete__ for known in self._structs}
        for known in complete:
            known.__pydantic_complete__ = False
        try:
            self._parser = SchemaValidator(self._root.schema(), {"cache_strings": "none"})
        finally:
            for known, before in complete.items():
                known.__pydantic_complete__ = before

    def decode(self, data: bytes | str, *, keep_unknown: bool = False) -> tuple[Model, tuple[str, ...]]:
        """Read a document; also returns a line for each unread name that looks like a known one.

        Raises:
            RequestError: not JSON, or not of the structs' types; names every place, never a value.
        """
        if not keep_unknown:
            try:
                return self.fast(data if data.__class__ is bytes else _as_bytes(data)), ()
            except (_GiveUp, UnicodeEncodeError):
                pass
        return self.exact(data, keep_unknown=keep_unknown)

    def fast(self, document: bytes) -> Model:
        """Read an ordinary document, or raise an error that means: ask :meth:`exact`."""
        dense = document.translate(None, b" \t\n\r")
        if _NEGATIVE_ZERO.search(dense):
            raise _GiveUp
        try:
            instance: Model = self._parser.validate_json(document)
        except (ValidationError, KeyError, TypeError):
            raise _GiveUp from None
        # Without space `":` is counted for every name of a document, and for some strings besides; so a parser that met
        # as many different names as that met no name twice.
        if self._root.settle(instance) != dense.count(b'":'):
            raise _GiveUp
        if self._private:
            _set_private(instance, self._private.copy())
        return instance

    def exact(self, data: bytes | str, *, keep_unknown: bool = False) -> tuple[Model, tuple[str, ...]]:
        """Read any document, as :meth:`decode`, without the fast way."""
        text = _HALVES.sub("\ufffd", data) if isinstance(data, str) else _as_bytes(data).decode("utf-8", "gojson.read")
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
