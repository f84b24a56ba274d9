"""`layout="view"`: torch and Paddle files that state a transpose, the bytes as they were."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import paddle
import pytest
import torch

from porter import codecs
from porter.errors import SystemFault, UsageError
from porter.tensors import operations
from porter.tensors.blocks import Array
from porter.tensors.lazy import LazyTensor
from porter.tensors.state_dict import StateDict
from porter.tensors.strided_view import view_of


@pytest.fixture
def arrays() -> dict[str, Array]:
    """Two matrices, a square one, a kernel, a vector and a matrix of one column."""
    shapes = {
        "m": (5, 3),
        "large": (300, 200),
        "square": (4, 4),
        "kernel": (2, 3, 4, 5),
        "bias": (7,),
        "one": (6, 1),
    }
    rng = np.random.default_rng(0)
    return {name: rng.random(shape, np.float32) for name, shape in shapes.items()}


@pytest.fixture
def stored(tmp_path: Path, arrays: dict[str, Array]) -> StateDict:
    """The same, in a file."""
    path = tmp_path / "source.safetensors"
    codecs.write(StateDict.of(arrays), str(path), "safetensors")
    return codecs.read(str(path))


def turned(state: StateDict) -> StateDict:
    """Return every tensor of more than one axis with its axes in the opposite order."""
    tensors = {
        name: operations.Permute(tuple(reversed(range(len(tensor.shape))))).apply(tensor)
        if len(tensor.shape) > 1
        else tensor
        for name, tensor in state.items()
    }
    return StateDict(tensors, state.origin)


def same(found: dict[str, Array], arrays: dict[str, Array]) -> bool:
    """Whether every array is the transpose of what was stored, bit for bit."""
    return all(found[name].tobytes() == arrays[name].T.tobytes() for name in arrays)


def test_torch_loads_a_view(tmp_path: Path, stored: StateDict, arrays: dict[str, Array]) -> None:
    """torch.load gives tensors of the stated shape and strides, over the source's bytes."""
    path = tmp_path / "out.pth"
    codecs.write(turned(stored), str(path), "torch", layout="view")
    loaded = torch.load(path, weights_only=True)
    assert loaded["m"].shape == (3, 5)
    assert loaded["m"].stride() == (1, 3)
    assert loaded["kernel"].stride() == (1, 5, 20, 60)
    assert same({name: t.contiguous().numpy() for name, t in loaded.items()}, arrays)
    assert arrays["m"].tobytes() in path.read_bytes()


def test_paddle_loads_a_view(tmp_path: Path, stored: StateDict, arrays: dict[str, Array]) -> None:
    """paddle.load gives the transposes, over the source's bytes."""
    path = tmp_path / "out.pdparams"
    codecs.write(turned(stored), str(path), "paddle", layout="view")
    loaded = paddle.load(str(path))
    assert list(loaded["m"].shape) == [3, 5]
    assert same({name: t.numpy() for name, t in loaded.items()}, arrays)
    assert arrays["kernel"].tobytes() in path.read_bytes()


@pytest.mark.parametrize(("format", "suffix"), [("torch", "pth"), ("paddle", "pdparams")])
def test_a_view_read_by_porter_is_the_transpose(
    tmp_path: Path, stored: StateDict, arrays: dict[str, Array], format: str, suffix: str
) -> None:
    """What states a transpose is read as one, and turning it back needs no turning at all."""
    path = tmp_path / f"out.{suffix}"
    codecs.write(turned(stored), str(path), format, layout="view")
    found = codecs.read(str(path))
    assert same(found.arrays(), arrays)
    assert view_of(found["large"], format) is not None
    again = tmp_path / f"again.{suffix}"
    codecs.write(turned(found), str(again), format)
    back = codecs.read(str(again)).arrays()
    assert all(back[name].tobytes() == arrays[name].tobytes() for name in arrays)


def test_only_the_opposite_order_is_a_fortran_array(tmp_path: Path, stored: StateDict) -> None:
    """Another order of axes is stated by torch's strides, and turned for Paddle."""
    kernel = operations.Permute((2, 3, 1, 0)).apply(stored["kernel"])
    assert view_of(kernel, "paddle") is None
    view = view_of(kernel, "torch")
    assert view is not None
    assert view.strides == (5, 1, 20, 60)
    path = tmp_path / "out.pdparams"
    codecs.write(StateDict({"kernel": kernel}, stored.origin), str(path), "paddle", layout="view")
    assert codecs.read(str(path))["kernel"].read().tobytes() == kernel.read().tobytes()


def test_what_is_in_memory_or_cast_is_turned(stored: StateDict, arrays: dict[str, Array]) -> None:
    """Only bytes that stand in a file as they are can be looked at otherwise."""
    assert view_of(LazyTensor.of(arrays["m"].T), "torch") is None
    assert view_of(stored["m"], "torch") is None  # there is nothing to turn


def test_other_strides_are_not_kept(
    tmp_path: Path, stored: StateDict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading back sees strides that are not those meant, also of a square matrix."""
    from porter.codecs.torch import writing

    state = StateDict({"square": turned(stored)["square"]}, stored.origin)
    real = writing._tensor

    def contiguous(out, tensor, key, strides):  # type: ignore[no-untyped-def]
        real(out, tensor, key, writing._strides(tensor.shape))

    monkeypatch.setattr(writing, "_tensor", contiguous)
    with pytest.raises(SystemFault, match="other bytes"):
        codecs.write(state, str(tmp_path / "out.pth"), "torch", layout="view")
    assert not (tmp_path / "out.pth").exists()


@pytest.mark.parametrize("format", ["safetensors", "npz"])
def test_a_format_without_strides_is_refused(
    tmp_path: Path, stored: StateDict, format: str
) -> None:
    """safetensors and NumPy archives have no way to state a transpose here."""
    with pytest.raises(UsageError, match="state no transpose"):
        codecs.write(turned(stored), str(tmp_path / "out"), format, layout="view")
    with pytest.raises(UsageError, match="no layout"):
        codecs.write(turned(stored), str(tmp_path / "out"), format, layout="fortran")
