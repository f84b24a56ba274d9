"""Attributes of a node: AttributeProto to a value of Python or NumPy, and back.

https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from porter.errors import InputError
from porter.onnx.graph import wire
from porter.tensors.blocks import Array
from porter.tensors.dtypes import DTYPES, DType, dtype_of
from porter.tensors.lazy import Shape

BY_ONNX: dict[int, DType] = {d.onnx: d for d in DTYPES.values() if d.onnx is not None}

# AttributeProto.AttributeType
_FLOAT, _INT, _STRING, _TENSOR, _GRAPH, _FLOATS, _INTS, _STRINGS = 1, 2, 3, 4, 5, 6, 7, 8

Attribute = float | int | bytes | Array | list[int] | list[float] | list[bytes] | None
"""An attribute's value; None for what has no place here (a subgraph)."""


def tensor_attribute(array: Array, name: str = "value") -> bytes:
    """Return an array as an AttributeProto."""
    data = np.array(array, order="C")
    code = dtype_of(data).onnx
    assert code is not None
    tensor = tensor_header(code, data.shape) + wire.blob(9, data.tobytes())
    return wire.text(1, name) + wire.blob(5, tensor) + wire.integer(20, _TENSOR)


def tensor_header(code: int, shape: Shape, name: str = "") -> bytes:
    """Return the first fields of a TensorProto: dims, data_type and name."""
    named = wire.text(8, name) if name else b""
    return wire.packed(1, shape) + wire.integer(2, code) + named


def attribute(name: str, value: object) -> bytes:
    """Return a number, a text or a list of whole numbers as an AttributeProto."""
    named = wire.text(1, name)
    if isinstance(value, list):
        numbers = b"".join(wire.integer(8, number) for number in value)
        return named + numbers + wire.integer(20, _INTS)
    if isinstance(value, str):
        return named + wire.text(4, value) + wire.integer(20, _STRING)
    if isinstance(value, float):
        return named + wire.real(2, value) + wire.integer(20, _FLOAT)
    assert isinstance(value, int), value
    return integer_attribute(name, value)


def integer_attribute(name: str, value: int) -> bytes:
    """Return an integer as an AttributeProto."""
    return wire.text(1, name) + wire.integer(3, value) + wire.integer(20, _INT)


def integers_attribute(name: str, values: Iterable[int]) -> bytes:
    """Return a list of integers as an AttributeProto."""
    numbers = b"".join(wire.integer(8, value) for value in values)
    return wire.text(1, name) + numbers + wire.integer(20, _INTS)


def attribute_value(data: bytes) -> Attribute:
    """Return the value of an AttributeProto."""
    kind = 0
    found: dict[int, list[tuple[int, int | memoryview]]] = {}
    for number, wired, value in wire.fields(data):
        if number == 20:
            kind = int(value) if isinstance(value, int) else 0
        found.setdefault(number, []).append((wired, value))
    if kind == _FLOAT:
        return _floats(found.get(2, [(wire.FIXED32, 0)]))[0]
    if kind == _INT:
        return _integers(found.get(3, [(wire.VARINT, 0)]))[0]
    if kind == _STRING:
        return _strings(found.get(4, [(wire.BYTES, memoryview(b""))]))[0]
    if kind == _TENSOR:
        return tensor_array(found[5][0][1])
    if kind == _FLOATS:
        return _floats(found.get(7, []))
    if kind == _INTS:
        return _integers(found.get(8, []))
    if kind == _STRINGS:
        return _strings(found.get(9, []))
    return None


def _integers(values: Iterable[tuple[int, int | memoryview]]) -> list[int]:
    return [number for kind, value in values for number in wire.unpacked(value, kind)]


def _floats(values: Iterable[tuple[int, int | memoryview]]) -> list[float]:
    found: list[float] = []
    for _, value in values:
        data = value.to_bytes(4, "little") if isinstance(value, int) else bytes(value)
        found += np.frombuffer(data, "<f4").tolist()
    return found


def _strings(values: Iterable[tuple[int, int | memoryview]]) -> list[bytes]:
    return [bytes(value) for _, value in values if isinstance(value, memoryview)]


_TYPED = {4: "<f4", 10: "<f8"}
"""Fields of a TensorProto of fixed-width numbers: float_data, double_data."""


def tensor_array(data: int | memoryview) -> Array:
    """Return the elements of a TensorProto in an attribute."""
    if isinstance(data, int):
        raise InputError("malformed protobuf: a tensor expected")
    dims: list[int] = []
    code, raw = 0, b""
    numbers: list[int] = []
    for number, kind, value in wire.fields(data):
        if number == 1:
            dims += wire.unpacked(value, kind)
        elif number == 2 and isinstance(value, int):
            code = value
        elif number == 9 and isinstance(value, memoryview):
            raw += bytes(value)
        elif number in _TYPED:
            raw += value.to_bytes(4, "little") if isinstance(value, int) else bytes(value)
        elif number in (5, 7, 11):
            numbers += wire.unpacked(value, kind)
    if code not in BY_ONNX:
        raise InputError(f"a constant has data type {code}, which porter does not read")
    dtype = BY_ONNX[code].numpy
    if numbers:
        bits = np.dtype(f"i{dtype.itemsize}")
        raw = np.array(numbers, np.int64).astype(bits).tobytes()
    if min(dims, default=0) < 0 or len(raw) != int(np.prod(dims, dtype=float)) * dtype.itemsize:
        raise InputError(f"a constant of shape {dims} has {len(raw)} bytes")
    return np.frombuffer(raw, dtype).reshape(dims)
