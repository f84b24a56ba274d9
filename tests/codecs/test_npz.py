"""NumPy's files: what `numpy.save` writes, read without evaluating anything."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from porter import codecs
from porter.codecs import npy, npz, output
from porter.codecs.files import InputFile
from porter.errors import InputError, UsageError
from porter.tensor import DTYPES, LazyTensor, StateDict

QUICK = settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
NATIVE = [d.numpy for d in DTYPES.values() if d.numpy.isbuiltin == 1]


def saved(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize("shape", [(), (3,), (0, 4), (2, 3, 1), (123456, 0), (1,) * 32])
@pytest.mark.parametrize("dtype", NATIVE, ids=str)
def test_npy_bytes_are_numpys(dtype: np.dtype, shape: tuple[int, ...], tmp_path: Path) -> None:
    """A `.npy` file is byte for byte what NumPy writes, and NumPy's is read by us."""
    array = np.ones(shape, dtype)
    output.publish(tmp_path / "a.npy", npy.pieces(StateDict.of({"": array}), {}))
    assert (tmp_path / "a.npy").read_bytes() == saved(array)
    back = npy.read(InputFile(tmp_path / "a.npy"))[""]
    assert (back.dtype.numpy, back.shape) == (dtype, shape)
    assert b"".join(bytes(block) for block in back.blocks()) == array.tobytes()


@pytest.mark.parametrize("packed", [False, True])
def test_archive_is_read_as_numpy_reads_it(packed: bool, tmp_path: Path) -> None:
    """Stored and deflated archives, Fortran order and big endian give NumPy's values."""
    arrays = {
        "c": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
        "f": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "big": np.arange(5, dtype=">i4"),
        "bigc": np.array([1 + 2j], ">c16"),
        "block0/kernel": np.float16([[1, 2]]),
        "scalar": np.array(True),
        "none": np.zeros((0, 2), np.uint8),
        "zeros": np.zeros(300_000, np.float32),
    }
    (np.savez_compressed if packed else np.savez)(tmp_path / "a.npz", **arrays)
    found = npz.read(InputFile(tmp_path / "a.npz"))
    for name, array in arrays.items():
        native = array.astype(array.dtype.newbyteorder("<"))
        assert found[name].read().tobytes() == native.tobytes()
        assert b"".join(bytes(b) for b in found[name].blocks(1000)) == native.tobytes()
        assert found[name].shape == array.shape


def test_what_we_write_numpy_reads(tmp_path: Path) -> None:
    """NumPy reads every name and array of ours, those that `savez` would lose included."""
    arrays = {"file": np.arange(3), "allow_pickle": np.ones((2, 2)), "a/b": np.array(1, "u2")}
    codecs.write(StateDict.of(arrays), str(tmp_path / "a.npz"), "npz")
    with np.load(tmp_path / "a.npz", allow_pickle=False) as found:
        assert {name: found[name].tolist() for name in found.files} == {
            name: array.tolist() for name, array in arrays.items()
        }
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        assert archive.testzip() is None


@pytest.mark.parametrize(
    ("name", "array", "what"),
    [
        ("b", np.zeros(1, ml_dtypes.bfloat16), "NumPy has no bfloat16"),
        ("b", np.zeros(1, ml_dtypes.float8_e5m2), "NumPy has no float8_e5m2"),
        ("../b", np.zeros(1), "leads out"),
        ("a.npy", np.zeros(1), "takes off twice"),
        ("a\0", np.zeros(1), "NUL"),
        ("\ud800", np.zeros(1), "no Unicode"),
        ("x" * 70_000, np.zeros(1), "70000 bytes"),
    ],
)
def test_what_it_cannot_hold_is_refused(
    name: str, array: np.ndarray, what: str, tmp_path: Path
) -> None:
    """A name or dtype that NumPy would lose is refused by name, and nothing is written."""
    with pytest.raises(UsageError, match=what):
        codecs.write(StateDict.of({name: array}), str(tmp_path / "a.npz"), "npz")
    assert not list(tmp_path.iterdir())


def test_npy_holds_one_array(tmp_path: Path) -> None:
    """Two tensors do not fit into one `.npy`."""
    state = StateDict({n: LazyTensor.of(np.zeros(1)) for n in "ab"})
    with pytest.raises(UsageError, match="one array, not 2"):
        codecs.write(state, str(tmp_path / "a.npy"), "npy")


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
        (b"\x93NUMPY\x01", "is no NumPy array"),
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
        (GOOD.replace("(2, 2)", "(2 2)"), "makes no sense"),
        (GOOD.replace("(2, 2)", "(4)"), "makes no sense"),
        (GOOD.replace("(2, 2)", "(02, 2)"), "makes no sense"),
        (GOOD.replace("(2, 2)", "(1," + "1," * 64 + ")"), "makes no sense"),
        (GOOD.replace("(2, 2)", f"({1 << 60}, 0)"), "more elements"),
        (GOOD.replace("(2, 2)", f"({(1 << 48) + 1}, 0)"), "more elements"),
        (GOOD.replace("'shape'", "'descr': '<f4', 'shape'"), "twice"),
        (GOOD.replace("<f4", "f1"), "none that other"),
        (GOOD.replace("<f4", "<f04"), "none that other"),
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


@QUICK
@given(data=st.data())
def test_any_damage_is_refused_or_harmless(data: st.DataObject, tmp_path: Path) -> None:
    """A damaged `.npy` is refused, or NumPy reads the same from it."""
    good = bytearray(saved(np.arange(6, dtype=np.int16).reshape(2, 3)))
    at = data.draw(st.integers(0, 80))
    good[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    path = tmp_path / "a.npy"
    path.write_bytes(good)
    try:
        found = npy.read(InputFile(path))[""].read()
    except InputError:
        return
    want = np.load(path, allow_pickle=False)
    assert found.shape == want.shape
    assert np.array_equal(found, want)


def test_every_flipped_bit_of_an_archive_is_found(tmp_path: Path) -> None:
    """One flipped bit anywhere in an archive is refused, or changes no value."""
    np.savez(tmp_path / "a.npz", w=np.arange(4, dtype=np.float32))
    good = (tmp_path / "a.npz").read_bytes()
    for position in range(len(good)):
        data = bytearray(good)
        data[position] ^= 1 << position % 8
        (tmp_path / "b.npz").write_bytes(data)
        try:
            found = codecs.read(str(tmp_path / "b.npz"), strip=False)
            values = {name: tensor.read().tolist() for name, tensor in found.items()}
        except InputError:
            continue
        assert values == {"w": [0, 1, 2, 3]}, position
