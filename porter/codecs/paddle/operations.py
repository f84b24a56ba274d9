"""The operations of a Paddle program, of both forms, as plain values; nothing is run.

    PIR           an operation reads values by number, in the order of its operands
    ProgramDesc   an operation reads variables by name, under the names of its slots (X, Y)

The blocks of loops and branches are inlined where they are: what a loop carries is its start in
the block and its end after it, and a branch gives both results. That tells which operation reads
what; such a program cannot be computed in this order (`Program.branches`).

What reads them (`porter.onnx.program`) knows the operations; this module knows the bytes only.
`paddle/fluid/pir/serialize_deserialize`, `paddle/fluid/framework/framework.proto`
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from porter.codecs.paddle.program import is_pir, malformed, pir_block, tensor_desc, type_of
from porter.codecs.protobuf import (
    BYTES,
    FIXED32,
    FIXED64,
    VARINT,
    Field,
    Span,
    Walker,
    signed,
    unpacked,
)
from porter.storage.input_file import InputFile
from porter.tensors.lazy import Shape

MOST_OPERATIONS = 200_000
_LONGEST_TEXT = 1 << 12
_LONGEST_LIST = 1 << 24
_DEEPEST = 8
_DEEPEST_BLOCK = 8
_YIELD = "2.yield"
Plain: TypeAlias = bool | int | float | str | list[Any]
"""The value of an attribute; lists hold plain values."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of a program."""

    kind: str
    inputs: Mapping[str, tuple[str, ...]]
    """Values read, by slot; the slots of PIR are "0", "1", … in the order of its operands."""
    outputs: Mapping[str, tuple[str, ...]]
    """Values made, likewise."""
    attributes: Mapping[str, Plain]


@dataclass(slots=True)
class Program:
    """The operations of a program in their order."""

    is_pir: bool
    operations: list[Operation] = field(default_factory=list)
    dims: dict[str, Shape] = field(default_factory=dict)
    """The declared shape of each value; -1 is a size that is open."""
    branches: str = ""
    """The kind of the first operation that has blocks, empty without."""


def program(file: InputFile) -> Program:
    """Return the operations of a program; `InputError` where it is malformed."""
    read = _of_pir if is_pir(file) else _of_protobuf
    try:
        found = read(file)
    except (LookupError, TypeError, ArithmeticError, ValueError, AttributeError) as fault:
        raise malformed(file, "an entry is missing or of another kind") from fault
    if len(found.operations) > MOST_OPERATIONS:
        raise malformed(file, f"more than {MOST_OPERATIONS} operations")
    return found


def _of_pir(file: InputFile) -> Program:
    found = Program(is_pir=True)
    _add_block(found, pir_block(file), {}, 0)
    return found


def _add_block(found: Program, block: Any, arguments: Mapping[str, str], depth: int) -> list[str]:
    """Add the operations of a PIR block; returns what it yields.

    `arguments` are names of the values that this and outer blocks are given, by their number.
    """
    if depth > _DEEPEST_BLOCK:
        raise ValueError("a block within blocks")

    def named(entry: Mapping[str, Any]) -> str:
        value = _value(entry)
        return arguments.get(value, value)

    for entry in block["ops"]:
        if len(found.operations) > MOST_OPERATIONS:
            break
        if entry["#"] == "p":
            value, name = _value(entry["O"]), entry["A"][3]
            found.dims[name] = _dims(entry["O"]["TT"])
            found.operations.append(Operation("parameter", {"0": (name,)}, {"0": (value,)}, {}))
            continue
        kind, read = _kind(str(entry["#"])), [named(value) for value in entry["I"]]
        if kind == _YIELD:
            return read
        for result in entry["O"]:
            found.dims[_value(result)] = _dims(result["TT"])
        results = [_value(result) for result in entry["O"]]
        if entry.get("regions"):
            found.branches = found.branches or kind
            _inline(found, entry, (read, results), arguments, depth)
            continue
        found.operations.append(
            Operation(
                kind,
                {str(at): (value,) for at, value in enumerate(read)},
                {str(at): (value,) for at, value in enumerate(results)},
                {str(item["N"]): _plain(item["AT"]) for item in entry["A"]},
            )
        )
    return []


def _inline(
    found: Program,
    entry: Any,
    values: tuple[list[str], list[str]],
    arguments: Mapping[str, str],
    depth: int,
) -> None:
    """Add the blocks of a loop or a branch, which reads and gives some values."""
    read, results = values
    ends: list[list[str]] = [[] for _ in results]
    for region in entry["regions"]:
        for block in region["blocks"]:
            inner = dict(arguments)
            for argument, start in zip(block.get("args", ()), read[1:], strict=False):
                name = f"%{int(argument['#'])}@{len(found.operations)}"
                inner[f"%{int(argument['#'])}"] = name
                found.operations.append(Operation("assign", {"0": (start,)}, {"0": (name,)}, {}))
            yields = _add_block(found, block, inner, depth + 1)
            yields = yields[1:] if len(yields) > len(results) else yields  # a loop's condition
            for end, value in zip(ends, yields, strict=False):
                end.append(value)
    for result, end in zip(results, ends, strict=True):
        slots = {str(at): (value,) for at, value in enumerate(end)}
        kind = "assign" if len(end) == 1 else "select_input"
        found.operations.append(Operation(kind, slots, {"0": (result,)}, {}))


def _kind(word: str) -> str:
    """Return an operation's name; "0." is the dialect builtin, "1." that of the operators."""
    return f"builtin.{word[2:]}" if word.startswith("0.") else word.removeprefix("1.")


def _value(entry: Mapping[str, Any]) -> str:
    return f"%{int(entry['%'])}"


def _dims(kind: Mapping[str, Any]) -> Shape:
    """Return the shape that a type of PIR gives, () for a list of tensors."""
    if kind["#"] != "0.t_dtensor":
        return ()
    return tuple(int(size) for size in kind["D"][1])


def _plain(entry: Any, depth: int = 0) -> Plain:
    """Return the value of an attribute of PIR."""
    if depth > _DEEPEST:
        raise ValueError("an attribute within attributes")
    if isinstance(entry, dict):
        return _plain(entry["D"], depth + 1) if "D" in entry else ""
    if isinstance(entry, list):
        return [_plain(item, depth + 1) for item in entry]
    return "" if entry is None else entry


def _of_protobuf(file: InputFile) -> Program:
    """Return the operations of a ProgramDesc."""
    walker, found = Walker(file, "Paddle program"), Program(is_pir=False)
    blocks = [p.span for p in walker.fields(Span(0, file.size)) if (p.number, p.kind) == (1, BYTES)]
    _add_desc(walker, found, dict(enumerate(blocks)), 0)
    return found


def _add_desc(walker: Walker, found: Program, blocks: dict[int, Span], number: int) -> None:
    """Add the operations of a BlockDesc, which reads and writes variables of the outer ones.

    Each of `blocks` belongs to one operation and is taken out; `KeyError` where one is not there.
    """
    for part in walker.fields(blocks.pop(number)):
        if (part.number, part.kind) == (3, BYTES):
            _note_variable(walker, part.span, found)
        elif (part.number, part.kind) == (4, BYTES):
            if len(found.operations) > MOST_OPERATIONS:
                return
            operation = _operation(walker, part.span)
            inner = operation.attributes.get("sub_block")
            if type(inner) is not int:
                found.operations.append(operation)
                continue
            found.branches = found.branches or operation.kind
            _add_desc(walker, found, blocks, inner)


def _note_variable(walker: Walker, span: Span, found: Program) -> None:
    name, dims = "", list[int]()
    for part in walker.fields(span):
        if (part.number, part.kind) == (1, BYTES):
            name = walker.text(part.span, _LONGEST_TEXT)
        elif (part.number, part.kind) == (2, BYTES):
            _, tensor = type_of(walker, part.span)
            dims = [] if tensor is None else tensor_desc(walker, tensor)[1]
    found.dims[name] = tuple(dims)


def _operation(walker: Walker, span: Span) -> Operation:
    kind, attributes = "", dict[str, Plain]()
    slots: dict[int, dict[str, tuple[str, ...]]] = {1: {}, 2: {}}
    for part in walker.fields(span):
        if part.kind != BYTES:
            continue
        if part.number in slots:
            name, values = _slot(walker, part.span)
            slots[part.number][name] = values
        elif part.number == 3:
            kind = walker.text(part.span, _LONGEST_TEXT)
        elif part.number == 4:
            name, value = _attribute(walker, part.span)
            attributes[name] = value
    return Operation(kind, slots[1], slots[2], attributes)


def _slot(walker: Walker, span: Span) -> tuple[str, tuple[str, ...]]:
    parts = [p for p in walker.fields(span) if p.kind == BYTES]
    names = [walker.text(p.span, _LONGEST_TEXT) for p in parts if p.number == 1]
    return names[0], tuple(walker.text(p.span, _LONGEST_TEXT) for p in parts if p.number == 2)


_LISTS = (6, 7, 8, 11, 15, 16)
"""Fields of OpDesc.Attr that repeat."""


def _attribute(walker: Walker, span: Span) -> tuple[str, Plain]:
    """Return the name and the value of an attribute; the last of its fields that has one."""
    name, kind = "", 0
    found: dict[int, list[Any]] = {}
    for part in walker.fields(span):
        if (part.number, part.kind) == (1, BYTES):
            name = walker.text(part.span, _LONGEST_TEXT)
        elif (part.number, part.kind) == (2, VARINT):
            kind = part.value
        elif part.number in _READ:
            found.setdefault(part.number, []).extend(_READ[part.number](walker, part))
    number = _BY_KIND.get(kind, 0)
    values = found.get(number, [])
    return name, values if number in _LISTS else values[0] if values else ""


_BY_KIND = {0: 3, 1: 4, 2: 5, 3: 6, 4: 7, 5: 8, 6: 10, 7: 11, 8: 12, 9: 13, 11: 15, 12: 16,
            15: 19}  # fmt: skip
"""`AttrType` to the field of OpDesc.Attr that has the value."""


def _integers(walker: Walker, part: Field) -> Iterator[int]:
    if part.kind == VARINT:
        yield signed(part.value)
    elif part.kind == BYTES:
        yield from map(signed, unpacked(walker.bytes(part.span, _LONGEST_LIST)))


def _booleans(walker: Walker, part: Field) -> Iterator[bool]:
    return map(bool, _integers(walker, part))


def _numbers(code: str, kind: int) -> Callable[[Walker, Field], Iterator[float]]:
    def read(walker: Walker, part: Field) -> Iterator[float]:
        if part.kind in (kind, BYTES):
            data = walker.bytes(part.span, _LONGEST_LIST)
            if len(data) % struct.calcsize(code):
                raise walker.broken("numbers that are cut short")
            yield from (number for (number,) in struct.iter_unpack(code, data))

    return read


def _texts(walker: Walker, part: Field) -> Iterator[str]:
    if part.kind == BYTES:
        yield walker.text(part.span, _LONGEST_LIST)


_FLOATS, _DOUBLES = _numbers("<f", FIXED32), _numbers("<d", FIXED64)
_READ: dict[int, Callable[[Walker, Field], Iterator[Any]]] = {
    3: _integers, 4: _FLOATS, 5: _texts, 6: _integers, 7: _FLOATS, 8: _texts, 10: _booleans,
    11: _booleans, 12: _integers, 13: _integers, 15: _integers, 16: _DOUBLES, 19: _DOUBLES,
}  # fmt: skip
