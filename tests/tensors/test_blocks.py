"""Bytes in C order, from any view and from files too large to hold."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from porter.errors import InputError
from porter.storage.input_file import InputFile
from porter.tensors import lazy, operations
from porter.tensors.blocks import c_order_blocks, free_lent, lent, merge_axes
from porter.tensors.dtypes import DTYPES, dtype_of
from porter.tensors.lazy import Extent, LazyTensor


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_view_comes_in_c_order(data: st.DataObject) -> None:
    """Permuted, sliced, reversed and broadcast arrays of every width give their bytes."""
    shape = data.draw(st.lists(st.integers(0, 20), max_size=4))
    dtype = data.draw(st.sampled_from(["u1", "<f2", "<f4", "<f8", "<c16"]))
    array = np.arange(int(np.prod(shape))).astype(dtype).reshape(shape)
    array = array.transpose(data.draw(st.permutations(range(array.ndim))))
    steps = [data.draw(st.sampled_from([1, 2, -1])) for _ in shape]
    array = array[tuple(slice(None, None, step) for step in steps)]
    if data.draw(st.booleans()):
        array = np.broadcast_to(array, (2, *array.shape))
    found = b"".join(map(bytes, c_order_blocks(array, data.draw(st.sampled_from([64, 5000])))))
    assert found == np.array(array, order="C").tobytes()


@pytest.mark.parametrize("dtype", ["u1", "f2", "f4", "f8"])
@pytest.mark.parametrize(
    "shape", [(300, 517), (1, 999), (1030, 3), (129, 128), (70, 30_000), (20_000, 70)]
)
def test_large_transposes(shape: tuple[int, int], dtype: str) -> None:
    """Matrices larger than a tile are turned without a fault at any edge."""
    array = (np.arange(shape[0] * shape[1]) % 251).astype(dtype).reshape(shape)
    for limit in (1000, 1 << 20, 8 << 20):
        assert b"".join(map(bytes, c_order_blocks(array.T, limit))) == array.T.tobytes()


@pytest.mark.parametrize("dtype", ["u1", "f2", "f4", "f8"])
@pytest.mark.parametrize("shape", [(300, 517), (1, 999), (1030, 3), (129, 128)])
def test_transposes_at_odd_addresses(shape: tuple[int, int], dtype: str) -> None:
    """Elements that are not aligned, as in a mapped file, are transposed as others are."""
    array = (np.arange(shape[0] * shape[1]) % 251).astype(dtype).reshape(shape)
    odd = np.frombuffer(b"!" + array.tobytes(), np.uint8)[1:].view(dtype).reshape(shape)
    assert odd.itemsize == 1 or not odd.flags.aligned
    assert b"".join(map(bytes, c_order_blocks(odd.T, 1000))) == array.T.tobytes()


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
def test_every_dtype_is_turned(dtype: lazy.DType) -> None:
    """The bytes of every element type come in C order, those that NumPy lacks included."""
    assert dtype.itemsize == dtype.numpy.itemsize
    assert dtype_of(np.zeros(1, dtype.numpy.newbyteorder(">"))) is dtype
    raw = np.arange(12 * dtype.itemsize, dtype=np.uint8) & 1
    array = raw.view(dtype.numpy).reshape(3, 4).T[:, ::2]
    assert b"".join(map(bytes, c_order_blocks(array, 8))) == np.array(array, order="C").tobytes()


def test_axes_that_step_as_one_are_one() -> None:
    """Axes of one element go, neighbours merge, and a scalar keeps one axis."""
    assert merge_axes((2, 1, 3, 4), (48, 7, 16, 4)) == ((24,), (4,))
    assert merge_axes((2, 3), (4, 8)) == ((2, 3), (4, 8))
    assert merge_axes((), ()) == ((1,), (0,))


def test_matrix_too_large_to_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A transpose is read in parts when the whole may not be held, and a change is noticed."""
    monkeypatch.setattr(lazy, "MOST_HELD", 1000)
    array = np.arange(90 * 70, dtype=np.float32).reshape(90, 70)
    path = tmp_path / "x"
    path.write_bytes(b"pad!" + array.tobytes())
    file = InputFile(path)
    stored = LazyTensor.stored(DTYPES["float32"], (90, 70), Extent(file, 4, array.nbytes))
    turned = operations.Permute((1, 0)).apply(stored)
    assert turned.held == 1000
    assert b"".join(map(bytes, turned.blocks(500))) == array.T.tobytes()
    odd = operations.Permute((2, 0, 1)).apply(
        LazyTensor.stored(DTYPES["float32"], (9, 10, 70), Extent(file, 4, array.nbytes))
    )
    expected = array.reshape(9, 10, 70).transpose(2, 0, 1).tobytes()
    assert b"".join(map(bytes, odd.blocks(500))) == expected
    os.truncate(path, 5000)
    with pytest.raises(InputError):
        list(turned.blocks(500))


def address(block: memoryview) -> int:
    """Return where in memory a block begins."""
    return int(np.frombuffer(block, np.uint8).__array_interface__["data"][0])


def test_lent_buffers_are_used_again_and_never_by_two(tmp_path: Path) -> None:
    """Two tensors turned side by side keep apart; what is given back serves the next."""
    arrays = [np.full((50, 40), value, np.float32) for value in (1, 2)]
    turned = []
    for i, array in enumerate(arrays):
        path = tmp_path / str(i)
        path.write_bytes(array.tobytes())
        extent = Extent(InputFile(path), 0, array.nbytes)
        stored = LazyTensor.stored(DTYPES["float32"], array.shape, extent)
        turned.append(operations.Permute((1, 0)).apply(stored))
    for one, two in zip(turned[0].blocks(640), turned[1].blocks(640), strict=True):
        assert set(np.frombuffer(one, np.float32)) == {1}
        assert set(np.frombuffer(two, np.float32)) == {2}
    free_lent()
    with lent(100) as first:
        begin = address(first)
    with lent(50) as second:
        assert address(second) == begin
        assert len(second) == 50


def test_nothing_is_turned(tmp_path: Path) -> None:
    """A transposed tensor without elements has no blocks."""
    path = tmp_path / "x"
    path.write_bytes(b"")
    empty = LazyTensor.stored(DTYPES["float32"], (0, 7), Extent(InputFile(path), 0, 0))
    assert list(operations.Permute((1, 0)).apply(empty).blocks()) == []


@pytest.mark.linux
def test_lent_buffers_go_back_to_the_system() -> None:
    """A large buffer is the process's own memory while it is lent, and nobody's when freed."""

    def own() -> int:
        with open("/proc/self/status") as status:
            return next(int(x.split()[1]) << 10 for x in status if x.startswith("RssAnon:"))

    nbytes = 64 << 20
    free_lent()
    before = own()
    with lent(nbytes) as buffer:
        buffer[:] = bytes(nbytes)
        during = own()
    with lent(nbytes // 2) as buffer:  # the one that is there
        assert own() >= during - (4 << 20)
    free_lent()
    assert during - before > nbytes * 9 // 10
    del buffer
    assert own() - before < nbytes // 10
