"""A tensor not yet read, given to NumPy and to torch as it is."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch

from porter import codecs
from porter.tensors import casts
from porter.tensors.lazy import LazyTensor
from porter.tensors.state_dict import StateDict

ARRAY = np.arange(6, dtype=np.float32).reshape(2, 3)


def stored(folder: Path, array: np.ndarray) -> LazyTensor:
    """Return the array as a tensor of a file."""
    path = str(folder / "a.safetensors")
    codecs.write(StateDict({"a": LazyTensor.of(array)}), path, "safetensors", force=True)
    return codecs.read(path)["a"]


def test_numpy_reads_a_tensor_of_a_file(tmp_path: Path) -> None:
    """`np.asarray` gives the elements, not an array of one object."""
    array = np.asarray(stored(tmp_path, ARRAY))
    assert array.dtype == np.float32
    assert (array == ARRAY).all()
    assert np.add(stored(tmp_path, ARRAY), 1).sum() == 21


def test_numpy_casts_when_asked(tmp_path: Path) -> None:
    """The dtype argument is respected, bfloat16 widened exactly."""
    half = ARRAY.astype(ml_dtypes.bfloat16)
    tensor = stored(tmp_path, half)
    assert np.asarray(tensor).dtype == ml_dtypes.bfloat16
    wide = np.asarray(tensor, dtype=np.float64)
    assert wide.dtype == np.float64
    assert (wide == ARRAY).all()


def test_a_copy_is_the_caller_s(tmp_path: Path) -> None:
    """`copy=True` gives memory of its own, writable; `copy=False` refuses a cast."""
    array = ARRAY.copy()
    tensor = LazyTensor.of(array)
    tensor.__array__(copy=True)[:] = 9
    assert (array == ARRAY).all()
    assert np.shares_memory(tensor.__array__(copy=False), array)
    assert tensor.__array__(np.float32, copy=False).dtype == np.float32
    with pytest.raises(ValueError, match="needs a copy"):
        tensor.__array__(np.float64, copy=False)
    assert np.array(stored(tmp_path, ARRAY)).flags.writeable


def test_torch_takes_a_tensor_by_dlpack(tmp_path: Path) -> None:
    """`torch.from_dlpack` gives the elements; what NumPy cannot export is refused as it does."""
    tensor = torch.from_dlpack(stored(tmp_path, ARRAY))
    assert tensor.dtype is torch.float32
    assert tensor.tolist() == ARRAY.tolist()
    assert (np.from_dlpack(stored(tmp_path, ARRAY)) == ARRAY).all()  # type: ignore[arg-type]
    with pytest.raises(BufferError):
        torch.from_dlpack(LazyTensor.of(ARRAY.astype(ml_dtypes.bfloat16)))


def test_a_cast_does_not_count_axes(tmp_path: Path) -> None:
    """A tensor of more axes than NumPy has is cast all the same."""
    shape = ",".join(["2", *["1"] * 69])
    header = f'{{"w":{{"dtype":"F32","shape":[{shape}],"data_offsets":[0,8]}}}}'.encode()
    body = np.array([1.5, 1e9], np.float32).tobytes()
    (tmp_path / "d.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + body)
    state, costs = casts.cast(codecs.read(str(tmp_path / "d.safetensors")), "fp16")
    assert state["w"].whole() == np.array([1.5, np.inf], np.float16).tobytes()
    assert costs["w"].overflows == 1
