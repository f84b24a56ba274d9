"""What a pickle is read into: plain values, and records for what is not plain."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, TypeAlias

from porter.errors import InputError, printable

LONGEST_NAME = 4096
"""UTF-8 bytes of a text that is kept; a dictionary key must be kept."""
_LONGEST_KEY = 16


class Source(Protocol):
    """What a pickle is read from: a file, a member of a zip, or bytes in memory."""

    @property
    def path(self) -> str: ...
    def pread(self, offset: int, nbytes: int) -> bytes: ...


class HeldBytes:
    """Bytes in memory that are read like a file."""

    __slots__ = ("data", "path")

    def __init__(self, data: bytes, path: str) -> None:
        self.data = data
        self.path = path

    def pread(self, offset: int, nbytes: int) -> bytes:
        """Return `nbytes` at `offset`; `InputError` when there are fewer."""
        if offset < 0 or offset + nbytes > len(self.data):
            raise InputError(f"truncated: {nbytes} bytes wanted at byte {offset}", self.path)
        return self.data[offset : offset + nbytes]


class Blob:
    """A byte string left where it is."""

    __slots__ = ("nbytes", "offset", "source")

    def __init__(self, source: Source, offset: int, nbytes: int) -> None:
        self.source = source
        self.offset = offset
        self.nbytes = nbytes

    def read(self) -> bytes:
        """Return the bytes."""
        return self.source.pread(self.offset, self.nbytes)


class Text(Blob):
    """A long text left where it is, `nbytes` of UTF-8."""

    __slots__ = ()


class Global:
    """A name that a pickle may mention, a row of the table.

    `make` gets the arguments of a call and returns a record; None: the call is only noted.
    """

    __slots__ = ("make", "module", "name", "value")

    def __init__(
        self,
        module: str,
        name: str,
        make: Callable[[tuple[Any, ...]], object] | None = None,
        value: object = None,
    ) -> None:
        self.module = module
        self.name = name
        self.make = make
        self.value = value
        """What a reader wants to know about the name, a dtype say."""

    def __repr__(self) -> str:
        return f"{self.module}.{self.name}" if self.module else self.name


class Opaque:
    """A value that is not a tensor and is not ported: what it was, and what it was made of.

    `arguments` are those of the call that would make it, `parts` what was set on it since: items
    and attributes.
    """

    __slots__ = ("arguments", "kind", "parts")

    def __init__(self, kind: str, arguments: tuple[object, ...] = ()) -> None:
        self.kind = kind
        self.arguments = arguments
        self.parts: list[object] = []

    def __repr__(self) -> str:
        return self.kind


class Record(Protocol):
    """Something that a state may be set on (the BUILD opcode)."""

    def build(self, state: object) -> None: ...


Table: TypeAlias = Mapping[tuple[str, str], Global]
"""The names that a pickle may mention."""
_ATOMS = (str, int, bool, float, type(None), bytes, Global, Opaque)


def put(target: dict[Any, Any], pairs: Iterable[tuple[Any, Any]]) -> None:
    """Add pairs to a dictionary; `InputError` for a key that is there, or that nothing is found by.

    A key's type is looked at before it is hashed: nested tuples can take for ever.
    """
    for key, value in pairs:
        kind = type(key)
        if kind is not str:
            _check_key(key, kind)
        if key in target:
            raise InputError(f"the key {printable(key)} is set twice")
        target[key] = value


def _check_key(key: object, kind: type) -> None:
    if kind in _ATOMS or (kind is tuple and _is_flat(key)):
        return
    if kind is Text:
        raise InputError(f"a name is longer than {LONGEST_NAME} bytes")
    if _is_record(kind):
        return
    raise InputError(f"{described(key)} as the key of a dictionary")


def _is_flat(key: Any) -> bool:
    parts = map(type, key)
    return len(key) <= _LONGEST_KEY and all(p in _ATOMS or _is_record(p) for p in parts)


def _is_record(kind: type) -> bool:
    """Whether values are found by what they are, not by what is in them.

    Such as the parameters that the state of an optimizer is keyed by.
    """
    found: object = kind.__hash__
    return found is object.__hash__


def decoded(data: bytes) -> str:
    """Return UTF-8 as text."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"a text is not UTF-8: {printable(data, 40)}") from error


def shown(value: object) -> str:
    """Return a plain value as it is, any other as what it is: to spell it out can take for ever."""
    return printable(value) if type(value) in (str, int, bool) else described(value)


def described(value: object) -> str:
    """Return what a value is, for a message."""
    if type(value) is Global or type(value) is Opaque:
        return printable(repr(value))
    names = {dict: "a dictionary", list: "a list", tuple: "a tuple", str: "a text", int: "a number"}
    return names.get(type(value), type(value).__name__)


def call(function: object, arguments: object) -> object:
    """Return the record that a call stands for; only rows of the table can be called."""
    if type(function) is Opaque:  # What an unknown call returned: a bound method, a partial.
        function = Global("", function.kind)
    if type(function) is not Global:
        raise InputError(f"calls {described(function)}, which is not a name")
    if type(arguments) is not tuple:
        raise InputError(f"calls {function!r} with {described(arguments)}, not with a tuple")
    if function.make is not None:
        return function.make(arguments)
    return Opaque(repr(function), arguments)
