"""Change the floating type of tensors as they are written, and say what it cost.

Every other type stays as it is: integers, bool and complex numbers are not cast.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from porter.errors import UsageError, listed
from porter.tensors.blocks import Array, c_order_blocks
from porter.tensors.dtypes import DTYPES, DType
from porter.tensors.lazy import BLOCK, LazyTensor
from porter.tensors.state_dict import StateDict

FLOATS = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
"""What `--dtype` takes, and the dtype that it names."""


@dataclass(slots=True)
class Cast:
    """What the cast of one tensor cost; it is known once the tensor has been read."""

    source: str
    target: str
    max_error: float = 0.0
    """Largest `|cast - original|` over the elements that stayed finite."""
    overflows: int = 0
    """Finite elements that became infinite."""


class CastTensor(LazyTensor):
    """`base` with its elements rounded to nearest, ties to even; a NaN stays some NaN."""

    __slots__ = ("base", "cost")

    def __init__(self, base: LazyTensor, dtype: DType, cost: Cast) -> None:
        tie = None if base.tie is None else (base.tie, "cast", dtype.name)
        super().__init__(dtype, base.shape, self._whole, tie=tie)
        self.base = base
        self.cost = cost

    @property
    def place(self) -> tuple[str, int] | None:
        """Where reading begins."""
        return self.base.place

    @property
    def held(self) -> int:
        """Bytes that `blocks` holds beside one block: those that the base holds."""
        return self.base.held

    def _whole(self) -> Array:
        self.cost.max_error, self.cost.overflows = 0.0, 0
        return self._rounded(self.base.read())

    def whole(self) -> bytes:
        """Return the C-order bytes; NumPy's limit on the number of axes does not matter."""
        self.cost.max_error, self.cost.overflows = 0.0, 0
        flat = np.frombuffer(self.base.whole(), np.uint8).view(self.base.dtype.numpy)
        return self._rounded(flat).tobytes()

    def blocks(self, limit: int = BLOCK) -> Iterator[memoryview]:
        """Yield the C-order bytes, cast block by block."""
        source = self.base.dtype.numpy
        # As many elements at a time as fill `limit` on the wider side.
        portion = max(1, limit // max(self.dtype.itemsize, source.itemsize)) * source.itemsize
        self.cost.max_error, self.cost.overflows = 0.0, 0
        for block in self.base.blocks(portion):
            array = np.frombuffer(block, np.uint8).view(source)
            yield from c_order_blocks(self._rounded(array), limit)

    def _rounded(self, array: Array) -> Array:
        with np.errstate(over="ignore", invalid="ignore"):
            result = array.astype(self.dtype.numpy)
        _count(array, result, self.cost)
        return result


def _count(array: Array, result: Array, cost: Cast) -> None:
    """Add what one block lost to the cost of its tensor."""
    if result.dtype.itemsize > array.dtype.itemsize and result.dtype.kind == "f":
        return  # A wider type holds every value.
    wide: Any = np.float64 if array.dtype.itemsize == 8 else np.float32
    with np.errstate(over="ignore", invalid="ignore"):
        before, after = array.astype(wide, copy=False), result.astype(wide)
        error = np.abs(np.subtract(after, before, out=after))
    finite = np.isfinite(error)
    if not finite.all():
        # An infinite difference is an overflow; NaN and infinity as they were differ by NaN.
        cost.overflows += int(np.count_nonzero(np.isinf(error) & np.isfinite(before)))
        error = error[finite]
    if error.size:
        cost.max_error = max(cost.max_error, float(error.max()))


def cast(state: StateDict, dtype: str) -> tuple[StateDict, dict[str, Cast]]:
    """Return the state dict with its floats as `dtype`, and the cost of each, once written.

    `dtype` is a key of `FLOATS`; tensors that have it already are left alone.
    """
    if dtype not in FLOATS:
        raise UsageError(f"no dtype {dtype!r} to cast to; use {listed(FLOATS)}")
    target = DTYPES[FLOATS[dtype]]
    costs: dict[str, Cast] = {}
    tensors: dict[str, LazyTensor] = {}
    for name, tensor in state.items():
        if tensor.dtype.is_float and tensor.dtype is not target:
            costs[name] = Cast(tensor.dtype.name, target.name)
            tensors[name] = CastTensor(tensor, target, costs[name])
        else:
            tensors[name] = tensor
    return StateDict(tensors, state.origin), costs
