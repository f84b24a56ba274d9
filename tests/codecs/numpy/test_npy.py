"""The header of a NumPy array, and how the array lies behind it."""

from __future__ import annotations

import io
import time
from pathlib import Path

import numpy as np
import pytest

from porter import codecs
from porter.codecs.numpy import npy
from porter.errors import InputError
from porter.storage.input_file import InputFile
from porter.tensors.dtypes import DTYPES
from porter.tensors.lazy import LazyTensor, Shape
from porter.tensors.streams import StreamedTensor


def written(text: str, data: bytes = b"\0" * 16, version: bytes = b"\x01\x00") -> bytes:
    body = text.encode("latin-1")
    length = len(body).to_bytes(2 if version == b"\x01\x00" else 4, "little")
    return b"\x93NUMPY" + version + length + body + data


GOOD = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2), }\n"


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        GOOD.replace("'", '"'),
        "{'shape': (2L, 2L), 'descr': '<f4', 'fortran_order': False}",
        "{'shape': (4,), 'descr': '=f4', 'fortran_order': True}   \n",
    ],
)
def test_headers_of_all_ages(text: str, tmp_path: Path) -> None:
    """Headers as other versions of NumPy and Python write them are read."""
    (tmp_path / "a.npy").write_bytes(written(text))
    assert npy.read(InputFile(tmp_path / "a.npy"))[""].nbytes == 16


def test_header_has_a_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A header is as long as it says, inside of the file, and has a limit."""
    path = tmp_path / "a.npy"
    for data, message in (
        (b"\x93NUMPY\x01", "is not a NumPy array"),
        (b"\x93NUMPY\x01\x00\x00", "truncated: no header"),
        (b"\x93NUMPY\x01\x00\x00\x00", "a header that NumPy does not write"),
        (b"\x93NUMPY\x02\x00\x00\x00\x00", "truncated: no header"),
        (b"\x93NUMPY\x02\x00\x00\x00\x00\x00", "a header that NumPy does not write"),
        (b"\x93NUMPY\x01\x00\x03\x00{}", "a header of 3 bytes"),
        (b"\x93NUMPY\x02\x00\x03\x00\x00\x00{}", "a header of 3 bytes"),
        (b"\x93NUMPY\x01\x00\x02\x00{}", "a header that NumPy does not write"),
    ):
        path.write_bytes(data)
        with pytest.raises(InputError, match=message):
            npy.read(InputFile(path))
    path.write_bytes(written(GOOD))
    monkeypatch.setattr(npy, "LARGEST_HEADER", len(GOOD))
    assert npy.read(InputFile(path))[""].nbytes == 16
    monkeypatch.setattr(npy, "LARGEST_HEADER", len(GOOD) - 1)
    with pytest.raises(InputError, match=f"a header of {len(GOOD)} bytes"):
        npy.read(InputFile(path))


def test_two_bytes_have_an_order(tmp_path: Path) -> None:
    """The shortest elements that are swapped."""
    (tmp_path / "a.npy").write_bytes(written(GOOD.replace("<f4", ">i2"), b"\0\1\0\2\0\3\1\0"))
    assert npy.read(InputFile(tmp_path / "a.npy"))[""].read().tolist() == [[1, 2], [3, 256]]


@pytest.mark.parametrize("shape", ["(16,)", "(1, 16, 1)", f"({'1, ' * 63}16)", f"(0, {1 << 48})"])
def test_order_of_one_axis_is_every_order(shape: str, tmp_path: Path) -> None:
    """An array of one long axis lies in the file as it is; shapes may be as long as the limits."""
    text = GOOD.replace("<f4", "|u1").replace("(2, 2)", shape).replace("False", "True")
    path = tmp_path / "a.npy"
    path.write_bytes(written(text, b"" if "0," in shape else bytes(range(16))))
    found = npy.read(InputFile(path))[""]
    assert found.extent is not None
    assert found.shape == np.load(path).shape
    assert np.array_equal(found.read(), np.load(path))


@pytest.mark.parametrize("order", "<>|")
def test_one_byte_has_no_order(order: str, tmp_path: Path) -> None:
    """An array of bytes is copied as it lies, whatever order it says."""
    text = GOOD.replace("<f4", f"{order}u1")
    (tmp_path / "a.npy").write_bytes(written(text, b"1234"))
    found = npy.read(InputFile(tmp_path / "a.npy"))[""]
    assert found.extent is not None
    assert found.read().tobytes() == b"1234"


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (GOOD.replace("False", "0"), "does not write"),
        (GOOD.replace("'<f4'", "False"), "does not write"),
        (GOOD.replace("False", "'<f4'"), "does not write"),
        (GOOD.replace("(2, 2)", "True"), "does not write"),
        (GOOD.replace("(2, 2)", "(2 2)"), "is malformed"),
        (GOOD.replace("(2, 2)", "(4)"), "is malformed"),
        (GOOD.replace("(2, 2)", "(02, 2)"), "is malformed"),
        (GOOD.replace("(2, 2)", "(1," + "1," * 64 + ")"), "is malformed"),
        (GOOD.replace("(2, 2)", f"({1 << 60}, 0)"), "more elements"),
        (GOOD.replace("(2, 2)", f"({(1 << 48) + 1}, 0)"), "more elements"),
        (GOOD.replace("'shape'", "'descr': '<f4', 'shape'"), "twice"),
        (GOOD.replace("<f4", "f1"), "unknown to other"),
        (GOOD.replace("<f4", "<f04"), "unknown to other"),
        (GOOD.replace("<f4", "|V4"), "type is lost"),
        (GOOD + "x", "does not write"),
        ("", "does not write"),
    ],
)
def test_every_rule_of_the_header(text: str, what: str, tmp_path: Path) -> None:
    """Each rule refuses the header that breaks it."""
    (tmp_path / "a.npy").write_bytes(written(text))
    with pytest.raises(InputError, match=what):
        npy.read(InputFile(tmp_path / "a.npy"))


@pytest.mark.parametrize("order", "CF")
def test_array_in_a_file_is_where_it_lies(order: str, tmp_path: Path) -> None:
    """In C order it is one run, in Fortran order steps."""
    array = np.arange(12.0).reshape(3, 4, order=order)  # type: ignore[call-overload]
    np.save(tmp_path / "a.npy", array)
    found = npy.read(InputFile(tmp_path / "a.npy"))[""]
    assert (found.extent is None) is (order == "F")
    assert found.strided is not None
    assert b"".join(map(bytes, found.blocks())) == array.tobytes()


@pytest.mark.parametrize("order", "CF")
def test_deflated_array_comes_in_blocks(order: str, tmp_path: Path) -> None:
    """In C order it is inflated a block at a time; without a stream it is read whole."""
    array = np.arange(12.0).reshape(3, 4, order=order)  # type: ignore[call-overload]
    np.savez_compressed(tmp_path / "a.npz", w=array)
    found = codecs.read(str(tmp_path / "a.npz"))["w"]
    assert isinstance(found, StreamedTensor) is (order == "C")
    np.save(tmp_path / "a.npy", array)
    source = npy._Whole(InputFile(tmp_path / "a.npy"))
    header = npy.parse(source, (tmp_path / "a.npy").stat().st_size, "")
    whole = npy.tensor(header, source, None)
    assert not isinstance(whole, StreamedTensor)
    for tensor in (found, whole):
        assert b"".join(map(bytes, tensor.blocks())) == array.tobytes()


@pytest.mark.parametrize("axes", [0, 1, *range(2, 36, 3)])
def test_header_leaves_room_as_numpy_does(axes: int) -> None:
    """Shapes of any length of text have NumPy's header, byte for byte."""
    for digits in range(1, 12):
        shape: Shape = (10 ** (digits - 1), *(7,) * (axes - 1)) if axes else ()
        out = io.BytesIO()
        fields = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(out, fields)
        tensor = LazyTensor(DTYPES["float32"], shape, lambda: np.zeros(0, np.float32))
        assert npy.header_of(tensor) == out.getvalue()


def test_a_long_header_is_refused_in_one_pass(tmp_path: Path) -> None:
    """Sixty thousand spaces before a wrong letter take no longer than the spaces alone."""
    header = GOOD.strip() + " " * 60_000 + "x"
    with pytest.raises(InputError, match="a header that NumPy does not write"):
        npy._described(header, len(header))
    begin = time.process_time()
    with pytest.raises(InputError, match="a header that NumPy does not write"):
        npy._described(header, len(header))
    assert time.process_time() - begin < 1
