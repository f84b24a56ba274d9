"""The program of a Paddle inference model: the names, dtypes and shapes of its parameters.

    inference.json      a program of PIR, Paddle 3: JSON, a parameter is an operation "p"
    inference.pdmodel   a ProgramDesc of protobuf, before that: a parameter is persistable

Nothing is run, and no operation is interpreted.
`paddle/fluid/pir/serialize_deserialize`, `paddle/fluid/framework/framework.proto`
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any, TypeAlias

from porter.codecs.protobuf import BYTES, VARINT, Span, Walker, signed, unpacked
from porter.errors import InputError, printable
from porter.storage.input_file import InputFile
from porter.tensors.dtypes import DTYPES, DType
from porter.tensors.lazy import Shape

LARGEST = 64 << 20
MOST_PARAMETERS = 1_000_000
_MOST_ELEMENTS = 1 << 48
_LONGEST_NAME = 1 << 12
_MOST_AXES = 64
_FEED, _FETCH, _RAW = 9, 10, 17
"""`VarType.Type` of variables that are persistable and not tensors."""

BY_CODE: dict[int, DType] = {
    code: DTYPES[name]
    for code, name in {
        0: "bool", 1: "int16", 2: "int32", 3: "int64", 4: "float16", 5: "float32", 6: "float64",
        20: "uint8", 21: "int8", 22: "bfloat16", 23: "complex64", 24: "complex128",
        32: "float8_e4m3fn", 33: "float8_e5m2",
    }.items() if name in DTYPES
}  # fmt: skip
"""`VarType.Type` to dtype."""
_BY_PIR: dict[str, DType] = {
    f"0.t_{word}": DTYPES[name]
    for word, name in {
        "bool": "bool", "i8": "int8", "ui8": "uint8", "i16": "int16", "i32": "int32",
        "i64": "int64", "f16": "float16", "bf16": "bfloat16", "f32": "float32", "f64": "float64",
        "c64": "complex64", "c128": "complex128", "f8e4m3fn": "float8_e4m3fn",
        "f8e5m2": "float8_e5m2",
    }.items() if name in DTYPES
}  # fmt: skip
_Json: TypeAlias = Any


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter as the program declares it."""

    name: str
    dtype: DType
    shape: Shape


def parameters(file: InputFile) -> dict[str, Parameter]:
    """Return the parameters of a program, in its order; `InputError` where it is malformed."""
    if file.size > LARGEST:
        raise InputError(f"a program of {file.size} bytes; {LARGEST} is the limit", file.path)
    found: dict[str, Parameter] = {}
    for parameter in (_of_pir if is_pir(file) else _of_protobuf)(file):
        if parameter.name in found:
            raise malformed(file, f"two parameters are called {printable(parameter.name)}")
        if len(found) == MOST_PARAMETERS:
            raise malformed(file, f"more than {MOST_PARAMETERS} parameters")
        found[parameter.name] = parameter
    return found


def is_pir(file: InputFile) -> bool:
    """Whether a program is of PIR, which is JSON."""
    return file.pread(0, min(1, file.size)) == b"{"


def malformed(file: InputFile, what: str) -> InputError:
    """Return the error of a program that is not as Paddle writes it."""
    return InputError(f"malformed Paddle program: {what}", file.path)


def _checked(file: InputFile, name: str, dtype: DType | None, dims: list[int]) -> Parameter:
    if not name or len(name) > _LONGEST_NAME or not name.isprintable():
        raise malformed(file, f"a parameter is called {printable(name) or 'nothing'}")
    if dtype is None:
        raise InputError(f"{printable(name)} has a type that porter does not read", file.path)
    sizes = [max(n, 1) for n in dims]
    if len(dims) > _MOST_AXES or min(dims, default=0) < 0 or prod(sizes) > _MOST_ELEMENTS:
        raise malformed(file, f"{printable(name)} has the shape {printable(dims)}")
    return Parameter(name, dtype, tuple(dims))


def _of_pir(file: InputFile) -> Iterator[Parameter]:
    """Yield the parameters of a PIR program, the last one first: each was put in front."""
    try:
        operations = [op for op in pir_block(file)["ops"] if op["#"] == "p"]
        for op in reversed(operations):
            name, kind = op["A"][3], op["O"]["TT"]
            if kind["#"] != "0.t_dtensor" or type(name) is not str:
                raise malformed(file, f"the parameter {printable(name)} is not a dense tensor")
            dtype, dims = kind["D"][0]["#"], kind["D"][1]
            if type(dims) is not list or any(type(n) is not int for n in dims):
                raise malformed(file, f"{printable(name)} has no shape")
            yield _checked(file, name, _BY_PIR.get(str(dtype)), dims)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as fault:
        raise malformed(file, "an entry is missing or of another kind") from fault


def pir_block(file: InputFile) -> _Json:
    """Return the only block of a PIR program; `InputError` where the JSON is not one."""
    body = _json(file)
    code = body.get("base_code")
    if not isinstance(code, dict) or code.get("magic") != "pir":
        raise InputError("is JSON, and not a program of Paddle's PIR", file.path)
    try:
        (block,) = body["program"]["regions"][0]["blocks"]
    except (KeyError, IndexError, TypeError, ValueError) as fault:
        raise malformed(file, "an entry is missing or of another kind") from fault
    return block


def _json(file: InputFile) -> _Json:
    try:
        body = json.loads(file.pread(0, file.size), object_pairs_hook=_once)
    except (ValueError, RecursionError) as fault:
        raise malformed(file, "not JSON, or cut short") from fault
    if not isinstance(body, dict):
        raise malformed(file, "not an object")
    return body


def _once(pairs: list[tuple[str, _Json]]) -> dict[str, _Json]:
    entry = dict(pairs)
    if len(entry) != len(pairs):
        raise ValueError("a key is there twice")
    return entry


def _of_protobuf(file: InputFile) -> Iterator[Parameter]:
    """Yield the persistable tensors of the first block of a ProgramDesc."""
    walker = Walker(file, "Paddle program")
    block = next(
        (p.span for p in walker.fields(Span(0, file.size)) if (p.number, p.kind) == (1, BYTES)),
        None,
    )
    if block is None:
        raise malformed(file, "there is no block")
    for part in walker.fields(Span(0, file.size)):
        if part.kind not in (BYTES, VARINT):
            raise malformed(file, f"field {part.number} of kind {part.kind}")
    for part in walker.fields(block):
        if part.number == 3 and part.kind == BYTES:
            yield from _variable(walker, part.span)


def _variable(walker: Walker, span: Span) -> Iterator[Parameter]:
    """Yield the parameter that a VarDesc declares, if it is one."""
    name, is_persistable = "", False
    types: list[Span] = []
    for part in walker.fields(span):
        if (part.number, part.kind) == (1, BYTES):
            name = walker.text(part.span, _LONGEST_NAME)
        elif (part.number, part.kind) == (2, BYTES):
            types.append(part.span)
        elif (part.number, part.kind) == (3, VARINT):
            is_persistable = bool(part.value)
    if not is_persistable:
        return
    for declared in types:
        kind, tensor = type_of(walker, declared)
        if kind in (_FEED, _FETCH, _RAW):
            continue
        if tensor is None:
            raise walker.broken(f"{printable(name)} is persistable and not a dense tensor")
        code, dims = tensor_desc(walker, tensor)
        yield _checked(walker.file, name, BY_CODE.get(code), dims)


def type_of(walker: Walker, span: Span) -> tuple[int, Span | None]:
    """Return the type of a variable and, of a dense tensor, the span of its TensorDesc."""
    kind, dense = -1, None
    for part in walker.fields(span):
        if (part.number, part.kind) == (1, VARINT):
            kind = part.value
        elif (part.number, part.kind) == (3, BYTES):
            dense = part.span
    inner = () if dense is None else walker.fields(dense)
    return kind, next((p.span for p in inner if (p.number, p.kind) == (1, BYTES)), None)


def tensor_desc(walker: Walker, span: Span) -> tuple[int, list[int]]:
    """Return (type, dims) of a TensorDesc; `InputError` when it has another field."""
    code, dims = -1, list[int]()
    for part in walker.fields(span):
        if (part.number, part.kind) == (1, VARINT) and code < 0:
            code = part.value
        elif (part.number, part.kind) == (2, VARINT):
            dims.append(signed(part.value))
        elif (part.number, part.kind) == (2, BYTES):
            dims += map(signed, unpacked(walker.bytes(part.span, 10 * _MOST_AXES)))
        else:
            raise walker.broken(f"field {part.number} of a tensor's description")
        if len(dims) > _MOST_AXES:
            raise walker.broken("a tensor of more than 64 dimensions")
    return code, dims
