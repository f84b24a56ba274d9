"""Paddle's files: what Paddle saves is read, what porter writes Paddle loads, bit for bit."""

from __future__ import annotations

import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from paddle.framework.io import _pickle_save

from porter import codecs
from porter.codecs.paddle import reading as codec
from porter.codecs.paddle.writing import _bytes_opcode, pieces
from porter.errors import UsageError
from porter.tensors.dtypes import DTYPES
from porter.tensors.lazy import LazyTensor
from porter.tensors.state_dict import StateDict
from tests.codecs.paddle.paddle_files import (
    BF16,
    PADDLE_DTYPES,
    bits,
    same,
)


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_state_dict_of_paddle_is_read(protocol: int, tmp_path: Path) -> None:
    """What `paddle.save` writes for a layer is read, whatever the protocol, bfloat16 included."""
    layer = paddle.nn.Sequential(paddle.nn.Linear(3, 400), paddle.nn.BatchNorm1D(400))
    state = dict(layer.state_dict())
    state["half"] = paddle.rand([70, 3]).astype("bfloat16")
    state["flags"] = paddle.to_tensor([True, False])
    path = tmp_path / "a.pdparams"
    paddle.save(state, str(path), protocol=protocol)
    found = codecs.read(str(path))
    assert list(found) == list(state)
    for name, tensor in state.items():
        expected = tensor.numpy()
        assert same(found[name], expected.view(BF16) if name == "half" else expected)
    assert found.origin is not None
    assert "1 tensors of uint16" in found.origin.notes[0]


@pytest.mark.parametrize("protocol", [2, 4])
def test_nested_object_of_paddle_is_read(protocol: int, tmp_path: Path) -> None:
    """Tensors inside nested objects, which come as (name, array), are read and told apart."""
    layer = paddle.nn.Linear(3, 4)
    value = {
        "model": layer.state_dict(),
        "ema": {"weight": layer.weight.astype("bfloat16")},
        "epoch": 3,
        "lr": 0.5,
    }
    path = tmp_path / "a.pdparams"
    paddle.save(value, str(path), protocol=protocol)
    state = codecs.read(str(path))
    assert {name: tensor.shape for name, tensor in state.items()} == {
        "weight": (3, 4),
        "bias": (4,),
    }
    assert state.origin is not None
    assert state.origin.wrapper == "model"
    assert state.origin.others == ("ema",)
    assert state.origin.skipped[-2:] == ("epoch: the value 3", "lr: the value 0.5")
    ema = codecs.read(str(path), key="ema")
    assert ema["weight"].dtype.name == "bfloat16"


def test_dense_tensor_of_paddle_is_read(tmp_path: Path) -> None:
    """A DenseTensor, which Paddle writes as a call of eval, is recognised by its shape."""
    tensor = paddle.to_tensor([[1.0, 2.0]])  # must outlive the DenseTensor inside it
    path = tmp_path / "a.pdparams"
    with path.open("wb") as file:
        _pickle_save({"w": tensor.value().get_tensor()}, file, 4)
    assert b"eval" in path.read_bytes()
    assert np.array_equal(codecs.read(str(path))["w"].read(), [[1.0, 2.0]])


def test_optimizer_state_of_paddle_is_read(tmp_path: Path) -> None:
    """A `.pdopt` is a state dict too."""
    layer = paddle.nn.Linear(2, 2)
    optimizer = paddle.optimizer.Adam(parameters=layer.parameters())
    layer(paddle.ones([1, 2])).sum().backward()
    optimizer.step()
    path = tmp_path / "a.pdopt"
    paddle.save(optimizer.state_dict(), str(path))
    state = codecs.read(str(path))
    expected = {k: v for k, v in optimizer.state_dict().items() if isinstance(v, paddle.Tensor)}
    assert set(state) == set(expected)
    assert all(same(state[name], tensor.numpy()) for name, tensor in expected.items())


@pytest.mark.parametrize("dtype", PADDLE_DTYPES, ids=lambda dtype: dtype.name)
def test_every_dtype_comes_and_goes(dtype: Any, tmp_path: Path) -> None:
    """Every dtype that Paddle holds is written, loaded by Paddle as a Tensor, and read back."""
    source = {
        "w": bits(dtype.numpy, 3, 5),
        "s": bits(dtype.numpy),
        "e": bits(dtype.numpy, 0, 3),
        "big": bits(dtype.numpy, 4000),
    }
    path = tmp_path / "a.pdparams"
    codecs.write(StateDict.of(source), str(path), "paddle")
    loaded = paddle.load(str(path))
    assert list(loaded) == list(source)
    for name, array in source.items():
        assert isinstance(loaded[name], paddle.Tensor)
        assert str(loaded[name].dtype) == f"paddle.{dtype.name}"
        assert loaded[name].numpy().tobytes() == array.tobytes()
        assert list(loaded[name].shape) == list(array.shape)
    back = codecs.read(str(path))
    assert all(same(back[name], array) for name, array in source.items())


def test_written_file_fills_a_layer(tmp_path: Path) -> None:
    """A layer takes every tensor of a written file, and computes with it."""
    layer = paddle.nn.Linear(3, 4)
    arrays = {name: tensor.numpy() + 1 for name, tensor in layer.state_dict().items()}
    codecs.write(StateDict.of(arrays), str(tmp_path / "a.pdparams"), "paddle")
    missing, unexpected = layer.set_state_dict(paddle.load(str(tmp_path / "a.pdparams")))
    assert (missing, unexpected) == ([], [])
    assert all(np.array_equal(t.numpy(), arrays[n]) for n, t in layer.state_dict().items())


def test_written_pickle_uses_what_all_versions_know(tmp_path: Path) -> None:
    """Only names that NumPy 1 and 2 have, and only opcodes up to protocol 4, are written."""
    import pickletools

    path = tmp_path / "a.pdparams"
    codecs.write(StateDict.of({"w": np.ones((2, 2), np.float32)}), str(path), "paddle")
    opcodes = list(pickletools.genops(path.read_bytes()))
    texts = [argument for _, argument, _ in opcodes if isinstance(argument, str)]
    assert opcodes[0][1] == 4
    assert max(opcode.proto for opcode, _, _ in opcodes) == 4
    assert {"numpy.core.multiarray", "_reconstruct", "ndarray", "dtype"} <= set(texts)
    assert not any("_core" in text for text in texts)


def test_output_is_deterministic(tmp_path: Path) -> None:
    """The same tensors give the same bytes."""
    state = StateDict.of({"w": np.ones((2, 2), np.float32), "v": np.zeros(3)})
    for name in ("b", "c"):
        codecs.write(state, str(tmp_path / f"{name}.pdparams"), "paddle")
    assert (tmp_path / "b.pdparams").read_bytes() == (tmp_path / "c.pdparams").read_bytes()


def test_ties_are_kept(tmp_path: Path) -> None:
    """Tied names are one array in the file, both in what Paddle loads and in what is read."""
    array = np.arange(5000, dtype=np.float32)
    tied = LazyTensor.of(array)
    tied.tie = "t"
    other = LazyTensor.of(array)
    path = tmp_path / "a.pdparams"
    codecs.write(StateDict({"a": tied, "b": tied, "c": other}), str(path), "paddle")
    assert path.stat().st_size < 2.5 * array.nbytes
    state = codecs.read(str(path))
    assert state["a"].tie == state["b"].tie != state["c"].tie
    loaded = paddle.load(str(path))
    assert all(np.array_equal(tensor.numpy(), array) for tensor in loaded.values())


def test_many_tensors_are_written_in_batches(tmp_path: Path) -> None:
    """Thousands of names, which a pickler sets a thousand at a time, come and go."""
    source = {f"layer.{i}": np.full(i % 3, i, np.int32) for i in range(2500)}
    path = tmp_path / "a.pdparams"
    codecs.write(StateDict.of(source), str(path), "paddle")
    with path.open("rb") as file:
        loaded = pickle.load(file)
    assert loaded.pop(codec.NAMES) == {name: name for name in source}
    assert list(loaded) == list(source)
    assert all(np.array_equal(loaded[name], array) for name, array in source.items())


def test_arrays_over_4_gib_take_eight_bytes() -> None:
    """The length of an array beyond 32 bits has its own opcode."""
    assert _bytes_opcode(255) == b"C\xff"
    assert _bytes_opcode(256) == b"B\0\1\0\0"
    assert _bytes_opcode((1 << 32) - 1) == b"B\xff\xff\xff\xff"
    assert _bytes_opcode(1 << 32) == b"\x8e" + struct.pack("<Q", 1 << 32)


def test_array_over_4_gib_is_read_where_it_lies(tmp_path: Path) -> None:
    """An array beyond 32 bits stays in the file, and what follows it is found."""
    path = tmp_path / "a.pdparams"
    state = StateDict.of({"a": np.ones(3, np.int8), "b": np.ones(2, np.int8)})
    codecs.write(state, str(path), "paddle")
    data = path.read_bytes()
    size = (1 << 32) + 8
    head, tail = data.split(b"C\x03\1\1\1")
    head = head.replace(b"K\x03\x85", b"\x8a\x05" + size.to_bytes(5, "little") + b"\x85")
    with path.open("wb") as file:
        file.write(head + b"\x8e" + struct.pack("<Q", size))
        file.write(b"HEAD")
        file.seek(size - 8, 1)
        file.write(b"TAIL" + tail)
    found = codecs.read(str(path))
    extent = found["a"].extent
    assert extent is not None
    assert found["a"].shape == (size,)
    assert extent.file.pread(extent.offset, 4) == b"HEAD"
    assert extent.file.pread(extent.offset + size - 4, 4) == b"TAIL"
    assert np.array_equal(found["b"].read(), [1, 1])


UNHELD = [dtype for dtype in DTYPES.values() if dtype.paddle is None]


@pytest.mark.parametrize("dtype", UNHELD, ids=lambda dtype: dtype.name)
def test_dtype_that_paddle_lacks_is_refused_by_name(dtype: Any) -> None:
    """Writing names the tensor and the dtype that cannot be held."""
    state = StateDict({"w": LazyTensor(dtype, (1,), lambda: np.zeros(1))})
    with pytest.raises(UsageError, match=f"w: its dtype is {dtype.name}"):
        list(pieces(state, {}))


@pytest.mark.parametrize("name", [codec.NAMES, codec.SLICES])
def test_names_that_paddle_keeps_are_refused(name: str) -> None:
    """A tensor called as one of Paddle's side tables cannot be written."""
    with pytest.raises(UsageError, match="for itself"):
        list(pieces(StateDict.of({name: np.zeros(1)}), {}))


def test_only_bfloat16_is_told_of(tmp_path: Path) -> None:
    """A file without it has no note."""
    for dtype, notes in (("float32", 0), ("bfloat16", 1)):
        state = StateDict.of({"w": np.ones(2, DTYPES[dtype].numpy)})
        codecs.write(state, str(tmp_path / f"{dtype}.pdparams"), "paddle")
        origin = codecs.read(str(tmp_path / f"{dtype}.pdparams")).origin
        assert origin is not None
        assert len(origin.notes) == notes
        assert all(note.startswith("1 tensors of uint16") for note in origin.notes)
