"""Paddle 2.6 with NumPy 1: it loads what porter writes, porter reads what it saves, to the bit.

Run by `make old` in an environment of its own; it fails where another Paddle is installed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from porter import codecs
from porter.commands.repack import repack
from porter.tensors.dtypes import DTYPES
from porter.tensors.lazy import LazyTensor
from porter.tensors.state_dict import StateDict
from tests.old.make_files import FILES, described, make

UNKNOWN = ("float8_e4m3fn", "float8_e5m2")
"""Dtypes that Paddle has since 3.0."""
HELD = [d for d in DTYPES.values() if d.paddle and d.name not in UNKNOWN]


def bits(dtype: Any, *shape: int) -> Any:
    """Return an array of random bits."""
    count = int(np.prod(shape, dtype=int))
    data = np.random.default_rng(len(shape)).integers(0, 256, count * dtype.itemsize, np.uint8)
    return (data & 1 if dtype == np.bool_ else data).view(dtype).reshape(shape)


def test_these_are_the_old_versions() -> None:
    """The environment holds what the tests are about."""
    assert paddle.__version__.startswith("2.6.")
    assert np.__version__.startswith("1.")


@pytest.mark.parametrize("dtype", HELD, ids=lambda dtype: dtype.name)
def test_every_dtype_is_loaded(dtype: Any, tmp_path: Path) -> None:
    """`paddle.load` gives Tensors of the names, dtypes, shapes and bits that were written."""
    source = {
        "w": bits(dtype.numpy, 3, 5),
        "s": bits(dtype.numpy),
        "e": bits(dtype.numpy, 0, 3),
        "big": bits(dtype.numpy, 4000),
    }
    path = tmp_path / "a.pdparams"
    codecs.write(StateDict.of(source), str(path), "paddle", metadata={})
    loaded = paddle.load(str(path))
    assert list(loaded) == list(source)
    for name, array in source.items():
        assert isinstance(loaded[name], paddle.Tensor)
        assert str(loaded[name].dtype) == f"paddle.{dtype.name}"
        assert loaded[name].numpy().tobytes() == array.tobytes()
        assert tuple(loaded[name].shape) == array.shape


def test_written_file_fills_a_layer_and_an_optimizer(tmp_path: Path) -> None:
    """A layer and an optimizer take what porter wrote, and give the same outputs."""
    first, second = (paddle.nn.Linear(3, 4) for _ in range(2))
    arrays = {name: tensor.numpy() for name, tensor in first.state_dict().items()}
    codecs.write(StateDict.of(arrays), str(tmp_path / "a.pdparams"), "paddle")
    missing, unexpected = second.set_state_dict(paddle.load(str(tmp_path / "a.pdparams")))
    assert (missing, unexpected) == ([], [])
    inputs = paddle.rand([5, 3])
    assert first(inputs).numpy().tobytes() == second(inputs).numpy().tobytes()


def test_ties_are_loaded(tmp_path: Path) -> None:
    """One array under two names comes out as it went in."""
    tied = LazyTensor.of(np.arange(3.0))
    tied.tie = "t"
    codecs.write(StateDict({"a": tied, "b": tied}), str(tmp_path / "t.pdparams"), "paddle")
    both = paddle.load(str(tmp_path / "t.pdparams"))
    assert all(np.array_equal(both[name].numpy(), np.arange(3.0)) for name in "ab")


def test_many_names_are_loaded(tmp_path: Path) -> None:
    """Thousands of tensors, more than a pickler sets at a time."""
    source = {f"layer.{i}": np.full(i % 3, i, np.int32) for i in range(2500)}
    codecs.write(StateDict.of(source), str(tmp_path / "a.pdparams"), "paddle")
    loaded = paddle.load(str(tmp_path / "a.pdparams"))
    assert list(loaded) == list(source)
    assert all(np.array_equal(loaded[name].numpy(), array) for name, array in source.items())


def test_what_it_saves_is_read_and_written_back(tmp_path: Path) -> None:
    """Every file of `make_files` comes through porter, and back to the same Paddle, to the bit."""
    for name, tensors in make(tmp_path):
        state = codecs.read(str(tmp_path / name))
        assert set(state) == set(tensors)
        back = tmp_path / f"back-{Path(name).stem}.pdparams"
        repack(tmp_path / name, back, key=state.origin.wrapper or None)  # type: ignore[union-attr]
        loaded = paddle.load(str(back))
        for tensor, value in tensors.items():
            assert state[tensor].read().tobytes() == value.numpy().tobytes()
            assert described(loaded[tensor]) == described(value)


def without_values(rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return what is said of tensors but for the digests of their bytes."""
    return {
        name: {n: {k: row[k] for k in ("dtype", "shape")} for n, row in tensors.items()}
        for name, tensors in rows.items()
    }


def test_committed_files_are_those_of_this_paddle(tmp_path: Path) -> None:
    """What the suite reads holds what this Paddle saves: its bytes differ from run to run."""
    expected = json.loads((FILES / "expected.json").read_text(encoding="utf-8"))
    made = {name: {n: described(t) for n, t in held.items()} for name, held in make(tmp_path)}
    # What Paddle computes differs in its last bits from one processor to another.
    assert without_values(made) == without_values(expected)
    assert {path.name for path in FILES.iterdir()} == {"expected.json", *made}
    for name, tensors in expected.items():
        loaded = paddle.load(str(FILES / name))
        for tensor, row in tensors.items():
            assert described(loaded.get("model", loaded)[tensor]) == row
