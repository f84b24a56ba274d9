"""Records of NumPy arrays: states, shapes and orders, apart from any file."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from porter.codecs.pickle.ndarrays import MOST_ELEMENTS, NUMPY, Dtype, NdArray, checked_shape
from porter.codecs.pickle.reading import Unpickler
from porter.codecs.pickle.values import Blob, HeldBytes
from porter.errors import InputError
from porter.storage.input_file import InputFile
from porter.tensors.dtypes import DTYPES
from porter.tensors.lazy import Shape
from tests.codecs.paddle.paddle_files import same

FLOAT = Dtype("f8", DTYPES["float64"])
STATE = ((2,), FLOAT, False, bytes(16))


def test_state_of_an_array_may_lack_its_version() -> None:
    """Four values, or five with a version in front, and nothing but a tuple of them."""
    for state in (STATE, (1, *STATE)):
        array = NdArray()
        array.build(state)
        assert array.lazy().shape == (2,)
    for wrong in (list(STATE), STATE[1:], (0, 1, *STATE)):
        with pytest.raises(InputError, match="a NumPy array whose state is malformed"):
            NdArray().build(wrong)


def test_state_of_a_dtype_has_eight_values_or_nine() -> None:
    """Dates have a ninth: what they count."""
    state = (3, "<", None, None, None, -1, -1, 0, {})
    for length in (8, 9):
        Dtype("M8", None).build(state[:length])
    for wrong in (state[:7], (*state, 0), list(state)):
        with pytest.raises(InputError, match="a NumPy dtype whose state is malformed"):
            Dtype("M8", None).build(wrong)


@pytest.mark.parametrize(
    ("shape", "one_run"),
    [((4000,), True), ((1, 4000), True), ((4000, 1, 1), True), ((2, 2000), False)],
)
def test_order_of_one_axis_is_every_order(shape: Shape, one_run: bool, tmp_path: Path) -> None:
    """An array in Fortran order lies as in C order where one axis alone has a length."""
    values = np.arange(4000.0).reshape(shape, order="F")
    (tmp_path / "a").write_bytes(values.tobytes("F"))
    array = NdArray()
    array.fill(shape, FLOAT, True, Blob(InputFile(tmp_path / "a"), 0, 32000))
    tensor = array.lazy()
    assert (tensor.extent is not None) is one_run
    assert same(tensor, values)


def test_shape_of_the_limit_is_a_shape() -> None:
    """As many elements as any file could hold, and not one more."""
    assert checked_shape((MOST_ELEMENTS, 1, 0)) == (MOST_ELEMENTS, 1, 0)
    with pytest.raises(InputError, match="more elements than any file has"):
        checked_shape((MOST_ELEMENTS + 1,))


@pytest.mark.parametrize("order", ["C", "F"])
def test_array_of_an_inflated_pickle_is_in_memory(order: str) -> None:
    """Nothing can be copied from a file where the pickle had to be inflated."""
    array = np.arange(4000.0).reshape(40, 100, order=order)  # type: ignore[call-overload]
    data = pickle.dumps(array, 4)
    found = Unpickler(HeldBytes(data, "x"), 0, len(data), NUMPY).load()
    assert isinstance(found, NdArray)
    tensor = found.lazy()
    assert tensor.extent is None
    assert tensor.strided is None
    assert same(tensor, array)
