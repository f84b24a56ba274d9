"""Paddle's `.pdparams`: one pickle of NumPy arrays, read without NumPy's or Paddle's help.

    {name: ndarray, …, "StructuredToParameterName@@": {name: name in the program}}

A big file streams: arrays stay in the file as positions. Nested objects hold tensors as
`(name, ndarray)`; a DenseTensor is written as a call of `eval` of exactly one shape, which is
recognised and not evaluated; protocols 2 and 3 cut parameters over 1 GiB into slices.

bfloat16 has no NumPy type: Paddle stores its bits as uint16, which it has no tensors of. So an
array of uint16 is bfloat16 where the file says that it was a Paddle tensor (its name is in the
name table, or it comes as `(name, ndarray)`), and uint16 elsewhere.

The shapes: `python/paddle/framework/io.py` and `io_utils.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np

from porter.codecs.pickle.names import COMMON
from porter.codecs.pickle.ndarrays import NUMPY, NdArray, checked_shape
from porter.codecs.pickle.reading import Unpickler
from porter.codecs.pickle.values import Global, shown
from porter.codecs.unwrap import Leaf, check_total, unwrap
from porter.errors import InputError, UsageError, printable
from porter.storage.input_file import InputFile
from porter.tensors.blocks import Array
from porter.tensors.dtypes import DTYPES, DType
from porter.tensors.lazy import LazyTensor, Shape
from porter.tensors.state_dict import Origin, StateDict
from porter.tensors.streams import StreamedTensor, joined

FORMAT = "paddle"
NAMES = "StructuredToParameterName@@"
SLICES = "UnpackBigParamInfor@@"
OPTIMIZER = "The state of an optimizer (.pdopt), not the weights of a model."
"""The note of a file that has accumulators only."""
_ACCUMULATOR = re.compile(r"_(moment[0-9]*(_max)?|beta[0-9]_pow_acc|velocity|inf_norm|mean_square"
                          r"|mean_grad|momentum|_?avg_squared_(grad|update))_[0-9]+$")  # fmt: skip
"""How Paddle ends the names of what an optimizer keeps of a parameter."""
_BF16, _U16 = DTYPES["bfloat16"], DTYPES["uint16"]


def read(
    file: InputFile,
    *,
    key: str | None = None,
    strip: bool = True,
    uint16: str = "auto",
) -> StateDict:
    """Return the state dict of a `.pdparams` file; `key` names one of several.

    `uint16` ("uint16" or "bfloat16") says what arrays of uint16 are; "auto" goes by what the
    file says of each.
    """
    if uint16 not in ("auto", "uint16", "bfloat16"):
        raise UsageError(f"{printable(uint16)} is neither auto nor uint16 nor bfloat16")
    pickle = Unpickler(file, 0, file.size, PADDLE, encoding="latin-1")
    tree = pickle.load()
    try:
        if pickle.offset != file.size:
            raise InputError(f"goes on after the end of the pickle at byte {pickle.offset}")
        if type(tree) is dict:
            _join_slices(tree)
            _mark_tensors(tree)
        found = unwrap(tree, leaf, key, strip=strip, attributes=pickle.attributes)
        check_total(found.tensors, file.size)
        tensors = _as_said(found.tensors, uint16)
    except InputError as error:
        raise InputError(error.message, file.path) from error
    return StateDict(
        tensors,
        Origin(
            file.path,
            FORMAT,
            (file.path,),
            found.wrapper,
            found.prefix,
            found.others,
            found.skipped,
            _notes(tensors),
            model=found.model,
            pictures=found.pictures,
        ),
    )


class _Tensor:
    """An array that the file says was a Paddle tensor."""

    __slots__ = ("array",)

    attributes = None

    def __init__(self, array: NdArray) -> None:
        self.array = array

    @property
    def problem(self) -> str:
        return self.array.problem

    def lazy(self) -> LazyTensor:
        dtype = None if self.array.dtype is None else self.array.dtype.dtype
        return self.array.lazy(_BF16 if dtype is _U16 else dtype)


class _Joined:
    """A parameter that was cut into slices."""

    __slots__ = ("_dtype", "_parts", "_shape")

    attributes = None
    problem = ""

    def __init__(self, parts: list[LazyTensor], shape: Shape) -> None:
        self._parts = parts
        self._shape = shape
        self._dtype = parts[0].dtype

    def as_tensor(self) -> _Joined:
        """Take uint16 for what it is in a Paddle tensor."""
        if self._dtype is _U16:
            self._dtype = _BF16
        return self

    def lazy(self) -> LazyTensor:
        stream = joined(self._parts)
        return StreamedTensor(self._dtype, self._shape, self._read, stream, tie=self)

    def _read(self) -> Array:
        whole = np.empty(prod(self._shape), self._parts[0].dtype.numpy)
        at = 0
        for part in self._parts:
            whole[at : at + part.size] = part.read()
            at += part.size
        return whole.view(self._dtype.numpy).reshape(self._shape)


def leaf(value: object) -> Leaf | None:
    """Return the tensor that a value of the pickle is, if it is one."""
    if type(value) in (NdArray, _Tensor, _Joined):
        return value  # type: ignore[return-value]
    if type(value) is tuple and len(value) == 2:
        name, array = value
        if type(name) is str and type(array) is NdArray:
            return _Tensor(array)
    return None


def _join_slices(tree: dict[Any, Any]) -> None:
    """Put the slices of big parameters together, in place."""
    table = tree.pop(SLICES, None)
    if table is None:
        return
    if type(table) is not dict:
        raise InputError(f"{SLICES} is not a dictionary")
    for name, entry in table.items():
        known = (
            type(name) is str and type(entry) is dict and set(entry) == {"OriginShape", "slices"}
        )
        if not known or type(entry["slices"]) is not list or not entry["slices"]:
            raise InputError(f"{SLICES} is malformed at {shown(name)}")
        if name in tree:
            raise InputError(f"{printable(name)} is there whole and in slices")
        parts = [_slice(tree, name, part) for part in entry["slices"]]
        shape = checked_shape(entry["OriginShape"])
        if len({part.dtype for part in parts}) > 1 or sum(p.size for p in parts) != prod(shape):
            raise InputError(f"the slices of {printable(name)} do not add up to {list(shape)}")
        tree[name] = _Joined(parts, shape)


def _slice(tree: dict[Any, Any], name: str, part: object) -> LazyTensor:
    array = tree.pop(part, None) if type(part) is str else None
    if type(array) is not NdArray or array.problem or len(array.shape) != 1:
        raise InputError(f"the slice {shown(part)} of {printable(name)} is missing or no array")
    return array.lazy()


def _mark_tensors(tree: dict[Any, Any]) -> None:
    """Mark what the name table calls a tensor, in place, and take the table out."""
    table = tree.pop(NAMES, None)
    if table is None:
        return
    if type(table) is not dict:
        raise InputError(f"{NAMES} is not a dictionary")
    for name in table:
        if name not in tree:
            raise InputError(f"{NAMES} lists {shown(name)}, which is not there")
        value = tree[name]
        if type(value) is NdArray:
            tree[name] = _Tensor(value)
        elif type(value) is _Joined:
            value.as_tensor()


def _as_said(tensors: dict[str, LazyTensor], uint16: str) -> dict[str, LazyTensor]:
    """Return the tensors, all of two-byte patterns taken for what the caller says they are."""
    if uint16 == "auto":
        return tensors
    dtype = DTYPES[uint16]
    return {n: _taken_as(t, dtype) if t.dtype in (_U16, _BF16) else t for n, t in tensors.items()}


def _taken_as(tensor: LazyTensor, dtype: DType) -> LazyTensor:
    def read() -> Array:
        return tensor.read().view(dtype.numpy)

    if tensor.place is None:
        blocks, held = tensor.blocks, tensor.held
        return StreamedTensor(dtype, tensor.shape, read, blocks, held=held, tie=tensor.tie)
    return LazyTensor(
        dtype, tensor.shape, read, extent=tensor.extent, strided=tensor.strided, tie=tensor.tie
    )


def _notes(tensors: Mapping[str, LazyTensor]) -> tuple[str, ...]:
    if tensors and all(_ACCUMULATOR.search(name) for name in tensors):
        return (OPTIMIZER,)
    half = sum(tensor.dtype is _BF16 for tensor in tensors.values())
    if half:
        return (f"{half} tensors of uint16 are Paddle's way to store bfloat16, and read as such.",)
    if tensors and all(tensor.dtype is _U16 for tensor in tensors.values()):
        return (
            f"{len(tensors)} tensors of uint16, which may be bfloat16: `porter repack --uint16"
            " bfloat16` reads them as such.",
        )
    return ()


def _eval(arguments: tuple[Any, ...]) -> object:
    """Stand for `eval("data", {"data": array})`, a DenseTensor, and for nothing else."""
    if len(arguments) == 2 and arguments[0] == "data":
        scope = arguments[1]
        if type(scope) is dict and list(scope) == ["data"] and type(scope["data"]) is NdArray:
            return scope["data"]
    raise InputError("calls eval otherwise than Paddle does for a DenseTensor")


PADDLE: dict[tuple[str, str], Global] = {
    **COMMON,
    **NUMPY,
    ("builtins", "eval"): Global("builtins", "eval", _eval),
    ("__builtin__", "eval"): Global("__builtin__", "eval", _eval),
}
"""The name table of a Paddle checkpoint."""
