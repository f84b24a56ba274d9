"""NumPy's files: what `numpy.save` writes, read without evaluating anything."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from porter import codecs
from porter.codecs.numpy import npy, npz
from porter.errors import InputError, UsageError
from porter.storage import atomic_output
from porter.storage.input_file import InputFile
from porter.tensors.dtypes import DTYPES
from porter.tensors.lazy import LazyTensor
from porter.tensors.state_dict import StateDict

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
    atomic_output.publish(tmp_path / "a.npy", npy.pieces(StateDict.of({"": array}), {}))
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
        ("\ud800", np.zeros(1), "not Unicode"),
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


def test_name_of_the_limit_is_written() -> None:
    """A zip counts the bytes of a name in 16 bits, the suffix among them."""
    array = LazyTensor.of(np.zeros(1))
    npz.check(StateDict({"x" * 65_531: array}))
    with pytest.raises(UsageError, match="a name of 65532 bytes"):
        npz.check(StateDict({"x" * 65_532: array}))


@pytest.mark.parametrize("name", ["/a", "a\\b", "..", "a/../b", "../a"])
def test_name_that_leads_out_of_a_folder_is_refused(name: str, tmp_path: Path) -> None:
    """Programs unpack archives: every way out is closed, for reading and for writing."""
    with pytest.raises(UsageError, match="is a path that leads out of a folder"):
        npz.check(StateDict({name: LazyTensor.of(np.zeros(1))}))
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr(f"{name}.npy", saved(np.zeros(1)))
    with pytest.raises(InputError, match="is a path that leads out of a folder"):
        npz.read(InputFile(tmp_path / "a.npz"))


def test_arrays_without_checksums_are_counted(tmp_path: Path) -> None:
    """What cannot be checked is said, and nothing where there is nothing to say."""
    np.savez(tmp_path / "a.npz", a=np.zeros(3), b=np.ones(3))
    origin = npz.read(InputFile(tmp_path / "a.npz")).origin
    assert origin is not None
    assert origin.notes == ()
    data = (tmp_path / "a.npz").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        crc = archive.getinfo("a.npy").CRC.to_bytes(4, "little")
    (tmp_path / "a.npz").write_bytes(data.replace(crc, bytes(4)))
    origin = npz.read(InputFile(tmp_path / "a.npz")).origin
    assert origin is not None
    assert origin.notes == ("1 of 2 arrays carry no checksum: damage cannot be seen.",)


def test_stored_array_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Header and elements in their order, the checksum compared on the way."""
    array = np.arange(100_000.0)
    np.savez(tmp_path / "a.npz", w=array)
    taken: list[int] = []
    pread, pread_into = InputFile.pread, InputFile.pread_into

    def counted(file: InputFile, offset: int, nbytes: int) -> bytes:
        taken.append(nbytes)
        return pread(file, offset, nbytes)

    def counted_into(file: InputFile, offset: int, buffer: memoryview) -> None:
        taken.append(len(buffer))
        pread_into(file, offset, buffer)

    monkeypatch.setattr(InputFile, "pread", counted)
    monkeypatch.setattr(InputFile, "pread_into", counted_into)
    found = npz.read(InputFile(tmp_path / "a.npz"))["w"]
    assert found.extent is not None
    assert b"".join(map(bytes, found.blocks(1 << 16))) == array.tobytes()
    assert array.nbytes < sum(taken) < array.nbytes + 10_000


def test_names_that_readers_see_differently_are_refused(tmp_path: Path) -> None:
    """A name beyond ASCII is marked as UTF-8, and no field gives a member another name."""
    np.savez(tmp_path / "a.npz", é=np.ones(2), w=np.ones(2))
    data = (tmp_path / "a.npz").read_bytes()
    assert list(npz.read(InputFile(tmp_path / "a.npz"))) == ["é", "w"]
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        flags = archive.getinfo("é.npy").flag_bits
    assert flags == 1 << 11
    (tmp_path / "a.npz").write_bytes(data.replace(struct.pack("<H", flags), bytes(2)))
    with pytest.raises(InputError, match="not marked as UTF-8"):
        npz.read(InputFile(tmp_path / "a.npz"))
    other = b"\1" + struct.pack("<I", zlib.crc32(b"w.npy")) + b"evil.npy"
    info = zipfile.ZipInfo("w.npy")
    info.extra = struct.pack("<HH", 0x7075, len(other)) + other
    buffer = io.BytesIO()
    np.save(buffer, np.ones(2))
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as archive:
        archive.writestr(info, buffer.getvalue())
    with pytest.raises(InputError, match="second name in the field 0x7075"):
        npz.read(InputFile(tmp_path / "b.npz"))
