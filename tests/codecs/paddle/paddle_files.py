"""What the tests of Paddle's files share: how files are made, and when tensors are the same."""

from __future__ import annotations

import os
import pickle
from typing import Any

import ml_dtypes
import numpy as np

from porter.codecs.paddle import reading as codec
from porter.tensors.blocks import Array
from porter.tensors.dtypes import DTYPES
from porter.tensors.lazy import LazyTensor
from tests.systems import MEMORY

SCRATCH = MEMORY / f"porter-paddle-{os.getpid()}.pdparams"


BF16 = np.dtype(ml_dtypes.bfloat16)


PADDLE_DTYPES = [dtype for dtype in DTYPES.values() if dtype.paddle]


def same(found: LazyTensor, expected: Array) -> bool:
    """Whether dtype, shape and bytes are equal, read at once and in blocks."""
    data = b"".join(bytes(block) for block in found.blocks())
    assert found.dtype.numpy == expected.dtype.newbyteorder("<")
    assert found.shape == expected.shape
    little = expected.astype(expected.dtype.newbyteorder("<"), order="C")
    assert found.read().tobytes() == data
    return data == little.tobytes()


def bits(dtype: np.dtype[Any], *shape: int) -> Array:
    """Return an array of random bits."""
    count = int(np.prod(shape, dtype=int))
    data = np.random.default_rng(len(shape)).integers(0, 256, count * dtype.itemsize, np.uint8)
    if dtype == np.bool_:
        data &= 1
    return data.view(dtype).reshape(shape)


def dumped(value: Any, protocol: int = 4, name: str = "a") -> str:
    """Pickle plainly, as Paddle does once tensors have become arrays."""
    path = SCRATCH.with_name(f"{SCRATCH.stem}-{name}.pdparams")
    path.write_bytes(pickle.dumps(value, protocol))
    return str(path)


def sliced(**change: Any) -> dict[str, Any]:
    """Return a parameter in slices, as protocols 2 and 3 write those over 1 GiB."""
    info = {"OriginShape": (2, 3), "slices": ["w@@.0", "w@@.1"], **change.pop("info", {})}
    value = {
        "w@@.0": np.arange(4, dtype=np.uint16),
        "w@@.1": np.arange(4, 6, dtype=np.uint16),
        "v": np.ones(2),
        codec.NAMES: {"w": "w_0", "v": "v_0"},
        codec.SLICES: {"w": info},
        **change,
    }
    return {key: item for key, item in value.items() if item is not None}


class _Call:
    """Pickles as a call of anything with anything."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self._parts = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> Any:
        return self._parts


_MAKE = np.zeros(0).__reduce__()[0]


_NUMBERS = (1, (2,), np.dtype("f4"), False, b"12345678")


def _array(*state: Any) -> _Call:
    return _Call(_MAKE, np.ndarray, (0,), b"b", state=tuple(state))


def _evaluated(text: Any, scope: Any) -> _Call:
    return _Call(eval, text, scope)
