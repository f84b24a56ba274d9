"""Arrays inside a `.pdparams`: every order and protocol, slices, side tables, forged ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from porter import codecs
from porter.codecs.paddle import reading as codec
from porter.errors import InputError, UsageError
from porter.tensors.blocks import Array
from porter.tensors.dtypes import DTYPES
from tests.codecs.paddle.paddle_files import (
    _MAKE,
    _NUMBERS,
    BF16,
    _array,
    _Call,
    _evaluated,
    bits,
    dumped,
    same,
    sliced,
)

ARRAYS: dict[str, Array] = {
    "plain": np.arange(12.0).reshape(3, 4),
    "fortran": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    "fortran of one": np.asfortranarray(np.arange(4.0).reshape(1, 4)),
    "fortran, deep": np.asfortranarray(np.arange(24, dtype=np.int16).reshape(2, 3, 4)),
    "big-endian": np.arange(12, dtype=">f4").reshape(3, 4),
    "big-endian fortran": np.asfortranarray(np.arange(12, dtype=">i8").reshape(3, 4)),
    "big-endian complex": np.array([1 + 2j, -3j], ">c16"),
    "big-endian byte": np.arange(4, dtype=">u1"),
    "scalar": np.array(2.5),
    "empty": np.zeros((0, 3)),
    "long": np.arange(5000, dtype=np.float32),
    "long fortran": np.asfortranarray(np.arange(5000, dtype=np.float32).reshape(50, 100)),
    "long big-endian": np.arange(5000, dtype=">f4"),
    "long big-endian fortran": np.asfortranarray(np.arange(5000, dtype=">i2").reshape(50, 100)),
    "nan": np.array([0x7FC01234, 0xFF800001], np.uint32).view(np.float32),
}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("kind", ARRAYS)
def test_every_array_is_read_as_numpy_reads_it(kind: str, protocol: int) -> None:
    """Order, byte order and protocol make no difference to the values."""
    array = ARRAYS[kind]
    assert same(codecs.read(dumped({"w": array}, protocol))["w"], array)


def test_long_arrays_stay_in_the_file() -> None:
    """An array in C order has its extent; one in another order has none."""
    path = dumped({"a": ARRAYS["long"], "f": ARRAYS["long fortran"], "b": np.arange(999.0)})
    data = Path(path).read_bytes()
    state = codecs.read(path)
    assert state["f"].extent is None
    for name in ("a", "b"):
        extent = state[name].extent
        assert extent is not None
        held = data[extent.offset : extent.offset + extent.nbytes]
        assert held == state[name].read().tobytes()


@pytest.mark.parametrize("module", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_both_names_of_numpy_are_known(module: str) -> None:
    """Files of NumPy 1 and of NumPy 2 are read."""
    path = dumped({"w": np.arange(3.0)}, 2)
    data = Path(path).read_bytes()
    here = f"c{np.zeros(0).__reduce__()[0].__module__}\n".encode()
    assert here in data
    Path(path).write_bytes(data.replace(here, f"c{module}\n".encode()))
    assert np.array_equal(codecs.read(path)["w"].read(), [0.0, 1.0, 2.0])


def test_array_of_a_foreign_dtype_is_read() -> None:
    """Arrays of the ml_dtypes package, which JAX users pickle, keep their dtype."""
    source = {
        dtype.name: bits(dtype.numpy, 3, 4)
        for dtype in DTYPES.values()
        if dtype.numpy.type.__module__ == "ml_dtypes"
    }
    for protocol in (2, 4):
        state = codecs.read(dumped(source, protocol))
        assert all(same(state[name], array) for name, array in source.items())


def test_protocol_2_arrays_are_decoded_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """An array written as text is decoded right wherever a block cuts a character in two."""
    from porter.codecs.pickle import ndarrays

    array = np.random.default_rng(0).integers(0, 256, 9001, np.uint8)
    path = dumped({"w": array}, 2)
    for block in (1, 2, 3, 1000, 1 << 20):
        monkeypatch.setattr(ndarrays, "BLOCK", block)
        assert codecs.read(path)["w"].read().tobytes() == array.tobytes()


def test_uint16_is_bfloat16_only_where_the_file_says_tensor() -> None:
    """The name table and the (name, array) form mark tensors of Paddle, which has no uint16."""
    array = np.arange(4, dtype=np.uint16)
    table = {codec.NAMES: {"w": "linear_0.w_0"}}
    value = {"w": array, "v": array.copy(), **table}
    state = codecs.read(dumped(value))
    assert state["w"].dtype.name == "bfloat16"
    assert state["v"].dtype.name == "uint16"
    assert state["w"].read().tobytes() == state["v"].read().tobytes() == array.tobytes()
    assert codecs.read(dumped({"w": array}))["w"].dtype.name == "uint16"
    assert codecs.read(dumped({"m": {"w": ("n", array)}}))["w"].dtype.name == "bfloat16"
    for choice in ("bfloat16", "uint16"):
        chosen = codecs.read(dumped(value), uint16=choice)
        assert all(found.read().tobytes() == array.tobytes() for found in chosen.values())
        assert {tensor.dtype.name for tensor in chosen.values()} == {choice}
    mixed = codecs.read(dumped({"w": array, "f": np.ones(4)}), uint16="bfloat16")
    assert (mixed["w"].dtype.name, mixed["f"].dtype.name) == ("bfloat16", "float64")
    with pytest.raises(UsageError, match="neither auto nor uint16 nor bfloat16"):
        codecs.read(dumped(value), uint16="half")


def test_long_arrays_stay_in_the_file_whatever_they_are_called() -> None:
    """The same bits under another dtype lie where they lay, in either order."""
    array = np.arange(5000, dtype=np.uint16).reshape(50, 100)
    path = dumped({"c": array, "f": np.asfortranarray(array)})
    for choice in ("uint16", "bfloat16"):
        state = codecs.read(path, uint16=choice)
        numpy = DTYPES[choice].numpy
        assert same(state["c"], array.view(numpy))
        assert same(state["f"], np.asfortranarray(array).view(numpy))
        assert state["c"].extent is not None
        assert state["f"].strided is not None


def test_slices_are_joined() -> None:
    """A parameter in slices is one tensor again, of its own shape, bfloat16 if it was one."""
    state = codecs.read(dumped(sliced()))
    assert set(state) == {"v", "w"}
    assert same(state["w"], np.arange(6, dtype=np.uint16).reshape(2, 3).view(BF16))
    state = codecs.read(dumped(sliced(**{codec.NAMES: None})))
    assert same(state["w"], np.arange(6, dtype=np.uint16).reshape(2, 3))


def test_one_slice_is_a_parameter() -> None:
    """A parameter may be cut into a single slice."""
    value = {
        "w@@.0": np.arange(4.0),
        codec.SLICES: {"w": {"OriginShape": (2, 2), "slices": ["w@@.0"]}},
    }
    assert same(codecs.read(dumped(value))["w"], np.arange(4.0).reshape(2, 2))


def test_what_is_no_dictionary_is_refused() -> None:
    """Tensors without names are no state dict."""
    with pytest.raises(InputError, match="has no tensors under names"):
        codecs.read(dumped([np.ones(2)]))


def test_table_of_names_may_list_what_is_no_array() -> None:
    """A text with a name is still a text, and left behind."""
    value = {"w": np.ones(2), "t": "text", codec.NAMES: {"w": "w_0", "t": "t_0"}}
    assert list(codecs.read(dumped(value))) == ["w"]


def test_three_are_no_pair() -> None:
    """A tensor of Paddle is a name and an array, and nothing more."""
    assert list(codecs.read(dumped({"w": np.ones(2), "three": ("a", np.ones(2), 3)}))) == ["w"]


SIDE_TABLES: dict[str, tuple[Callable[[], Any], str]] = {
    "slice missing": (lambda: sliced(**{"w@@.1": None}), "slice w@@.1 of w is missing"),
    "slice of two dimensions": (lambda: sliced(**{"w@@.1": np.ones((1, 2))}), "or no array"),
    "slice of text": (lambda: sliced(**{"w@@.1": np.array(["x"])}), "or no array"),
    "slice twice": (lambda: sliced(info={"slices": ["w@@.0", "w@@.0"]}), "slice w@@.0 of w"),
    "slice of another dtype": (lambda: sliced(**{"w@@.1": np.ones(2)}), "do not add up"),
    "slice is no name": (lambda: sliced(info={"slices": [[1], "w@@.1"]}), "a list of w"),
    "slices short": (lambda: sliced(info={"OriginShape": (3, 3)}), "do not add up"),
    "shape below zero": (lambda: sliced(info={"OriginShape": (-2, -3)}), "negative"),
    "shape is a list": (lambda: sliced(info={"OriginShape": [2, 3]}), "not a tuple"),
    "slices are a tuple": (
        lambda: sliced(info={"slices": ("w@@.0", "w@@.1")}),
        "is malformed at w",
    ),
    "no slices": (lambda: sliced(info={"slices": []}), "is malformed at w"),
    "more in the table": (lambda: sliced(info={"x": 1}), "is malformed at w"),
    "whole and in slices": (lambda: sliced(w=np.ones(6)), "whole and in slices"),
    "entry of a number": (
        lambda: sliced(**{codec.SLICES: {3: {"OriginShape": (6,), "slices": ["w@@.0", "w@@.1"]}}}),
        "is malformed at 3",
    ),
    "entry is a list": (
        lambda: sliced(**{codec.SLICES: {"w": ["OriginShape", "slices"]}}),
        "is malformed at w",
    ),
    "slices are no table": (lambda: sliced(**{codec.SLICES: [1]}), "is not a dictionary"),
    "names are no table": (lambda: sliced(**{codec.NAMES: [1]}), "is not a dictionary"),
    "name of nothing": (lambda: sliced(**{codec.NAMES: {"ghost": "x"}}), "lists ghost"),
}


@pytest.mark.parametrize("kind", SIDE_TABLES)
def test_side_table_that_lies_is_refused(kind: str) -> None:
    """The tables of names and of slices must fit the arrays that are there."""
    make, message = SIDE_TABLES[kind]
    with pytest.raises(InputError, match=message):
        codecs.read(dumped(make()))


ODD: dict[str, tuple[Any, str]] = {
    "objects": (np.array([None, 1]), "w cannot be ported: it is a NumPy array of dtype O"),
    "texts": (np.array(["a"]), "of dtype U1"),
    "bytes": (np.array([b"a"]), "of dtype S1"),
    "dates": (np.array(["2020"], "M8[D]"), "no sense|of dtype M8"),
    "structured": (np.zeros(2, [("a", "f4"), ("b", "f4")]), "structured"),
    "long floats": (np.zeros(2, np.longdouble), "of dtype f16"),
}


@pytest.mark.parametrize("kind", ODD)
def test_array_that_is_no_tensor_is_refused_by_name(kind: str) -> None:
    """Arrays of objects, text, dates and records are no weights."""
    array, message = ODD[kind]
    for protocol in (2, 4):
        with pytest.raises(InputError, match=message):
            codecs.read(dumped({"w": array}, protocol))


def test_pair_that_is_no_tensor_is_left_behind() -> None:
    """A pair of a text and something else than an array is no tensor of Paddle."""
    state = codecs.read(dumped({"w": np.ones(2), "pair": ("a", 3), "turned": (3, np.ones(2))}))
    assert list(state) == ["w"]
    assert state.origin is not None
    assert state.origin.skipped[0] == "pair: a tuple of 2"
    assert state.origin.skipped[1] == "turned: a tuple of 2 with 1 tensors"


def test_array_that_is_no_tensor_is_left_beside_the_weights() -> None:
    """Beside the state dict, such an array is left behind and named."""
    value = {"model": {"w": np.ones(2)}, "classes": np.array(["a", "b"])}
    state = codecs.read(dumped(value))
    assert list(state) == ["w"]
    assert state.origin is not None
    assert state.origin.skipped == ("classes: a tensor outside of the state dict",)


FORGED: dict[str, tuple[Any, str]] = {
    "state of three": (_array(1, (2,), b""), "state is malformed"),
    "no dtype": (_array(1, (2,), "f4", False, b"12345678"), "without a dtype"),
    "not bytes": (_array(1, (2,), np.dtype("f4"), False, [1.0, 2.0]), "data are not bytes"),
    "too few bytes": (_array(1, (3,), np.dtype("f4"), False, b"12345678"), "needs 12 bytes, 8 are"),
    "too few, long": (_array(1, (9999,), np.dtype("f4"), False, b"1" * 5000), "needs 39996 bytes"),
    "text of others": (_array(1, (2,), np.dtype("u1"), False, "☃☃"), "other characters"),
    "long text of others": (_array(1, (9000,), np.dtype("u1"), False, "☃" * 9000), "bytes of text"),
    "shape of lists": (_array(1, [2], np.dtype("f4"), False, b"12345678"), "not a tuple"),
    "shape of floats": (_array(1, (2.0,), np.dtype("f4"), False, b"12345678"), "not an integer"),
    "shape of truths": (_array(1, (True,), np.dtype("f4"), False, b"1234"), "not an integer"),
    "shape below zero": (_array(1, (-2,), np.dtype("f4"), False, b"12345678"), "negative"),
    "shape without end": (_array(1, (1 << 40, 1 << 40), np.dtype("f4"), False, b""), "more elem"),
    "shape of zero and much": (_array(1, (0, 1 << 62), np.dtype("f4"), False, b""), "more elem"),
    "dimensions": (_array(1, (1,) * 40, np.dtype("f4"), False, b"1234"), "too long"),
    "never filled": (_Call(_MAKE, np.ndarray, (0,), b"b"), "never filled"),
    "matrix": (_Call(_MAKE, np.matrix, (0,), b"b"), "an array that is not a plain numpy.ndarray"),
    "of a set": (_Call(_MAKE, set, (0,), b"b"), "not a plain numpy.ndarray"),
    "array of two": (_Call(_MAKE, np.ndarray, (0,)), "not a plain numpy.ndarray"),
    "array of a text": (_Call(_MAKE, "ndarray", (0,), b"b"), "not a plain numpy.ndarray"),
    "dtype of a list": (
        _Call(np.dtype, "f4", False, True, state=[3, "<", None, None, None, -1, -1, 0]),
        "state is malformed",
    ),
    "dtype of nothing": (_Call(np.dtype), "without a type code"),
    "dtype of a number": (_Call(np.dtype, 3), "without a type code"),
    "dtype of a state": (_Call(np.dtype, "f4", False, True, state=(3, "<")), "state is malformed"),
    "dtype of no order": (
        _array(
            1,
            (1,),
            _Call(np.dtype, "f4", False, True, state=(3, "?", *[None] * 3, -1, -1, 0)),
            False,
            b"",
        ),
        "unknown byte order",
    ),
    "eval of more": (_evaluated("data or 1", {"data": _array(*_NUMBERS)}), "calls eval otherwise"),
    "eval of another": (_evaluated("date", {"date": _array(*_NUMBERS)}), "calls eval otherwise"),
    "eval with more": (
        _evaluated("data", {"data": _array(*_NUMBERS), "x": 1}),
        "calls eval otherwise",
    ),
    "eval of a list": (_evaluated("data", ["data"]), "calls eval otherwise"),
    "eval of a number": (_evaluated("data", {"data": 1}), "calls eval otherwise"),
    "eval without": (_Call(eval, "data"), "calls eval otherwise"),
    "buffer of three": (
        _Call(np._core.numeric._frombuffer, b"", np.dtype("f4"), (0,)),
        "is malformed",
    ),
    "buffer of no order": (
        _Call(np._core.numeric._frombuffer, b"", np.dtype("f4"), (0,), "A"),
        "is malformed",
    ),
}


@pytest.mark.parametrize("kind", FORGED)
def test_forged_array_is_refused(kind: str) -> None:
    """An array whose description does not fit its bytes, or that is made otherwise, is refused."""
    value, message = FORGED[kind]
    for protocol in (2, 4):
        if "long text" in kind and protocol == 4:
            continue
        with pytest.raises(InputError, match=message):
            codecs.read(dumped({"w": value}, protocol))


def test_array_is_filled_once() -> None:
    """A second state for one array is refused."""
    path = dumped({"w": np.ones(2)}, 2)
    data = Path(path).read_bytes()
    state = data[data.rindex(b"tq") + 2 : data.rindex(b"tq") + 3]
    assert data.endswith(b"tq" + state + b"bs.")
    Path(path).write_bytes(data[:-2] + b"h" + state + b"bs.")
    with pytest.raises(InputError, match="state is malformed"):
        codecs.read(path)


@pytest.mark.parametrize("text", ["☃" * 9000, "☃" * 8000, "a" * 8000])
def test_text_of_no_fitting_length_is_refused_unread(text: str) -> None:
    """A character takes one or two bytes: text that cannot fill its array is told at once."""
    length = len(text) + 1000 if text.isascii() else len(text) * 5 // 4
    path = dumped({"w": _array(1, (length,), np.dtype("u1"), False, text)}, 2)
    with pytest.raises(InputError, match=rf"needs {length} bytes, \d+ bytes of text are there"):
        codecs.read(path)


def test_text_that_ends_in_half_a_character_is_refused() -> None:
    """An array as text does not end between the two bytes of a character."""
    path = dumped({"w": _array(1, (4999,), np.dtype("u1"), False, "a" * 5000)}, 2)
    data = Path(path).read_bytes()
    Path(path).write_bytes(data.replace(b"aaaq", b"aa\xc3q"))
    with pytest.raises(InputError, match="4999 bytes is written as 4999"):
        codecs.read(path)["w"].read()


def test_long_text_with_other_characters_is_refused() -> None:
    """An array as text is decoded when it is read; what is not latin-1 is refused then."""
    text = "é" * 2998 + "☃"
    path = dumped({"w": _array(1, (3000,), np.dtype("u1"), False, text)}, 2)
    tensor = codecs.read(path)["w"]
    with pytest.raises(InputError, match="other characters"):
        tensor.read()
    path = dumped({"w": _array(1, (3001,), np.dtype("u1"), False, "é" * 3000)}, 2)
    with pytest.raises(InputError, match="3001 bytes is written as 3000"):
        codecs.read(path)["w"].read()


def test_repetitions_are_bounded() -> None:
    """One array under thousands of names fills far more than the file: that has a limit."""
    array = np.zeros(1 << 20, np.uint8)
    assert len(codecs.read(dumped({str(i): array for i in range(100)}))) == 100
    with pytest.raises(InputError, match="bytes of tensors out of a file of"):
        codecs.read(dumped({str(i): array for i in range(200)}))
