"""safetensors: byte for byte what the reference writes, and refused what it forbids."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from porter import codecs
from porter.codecs import safetensors as ours
from porter.errors import InputError, UsageError
from porter.storage import atomic_output
from porter.storage.input_file import InputFile
from porter.storage.options import WriteOptions
from porter.tensors.dtypes import DTYPES
from porter.tensors.lazy import LazyTensor
from porter.tensors.state_dict import StateDict

NATIVE = [d for d in DTYPES.values() if d.safetensors and d.numpy.isbuiltin == 1]
QUICK = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def bytes_of(state: StateDict, path: Path, metadata: dict[str, str] | None = None) -> bytes:
    atomic_output.publish(path, ours.pieces(state, metadata or {}), WriteOptions(force=True))
    return path.read_bytes()


names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
shapes = st.lists(st.integers(0, 4), max_size=3).map(tuple)


@st.composite
def state_dicts(draw: st.DrawFn) -> dict[str, np.ndarray]:
    found = {}
    for name in draw(st.sets(names.filter(lambda n: n != "__metadata__"), min_size=1, max_size=5)):
        dtype = draw(st.sampled_from(NATIVE)).numpy
        shape = draw(shapes)
        size = int(np.prod(shape)) * dtype.itemsize
        data = draw(st.binary(min_size=size, max_size=size))
        if dtype == np.bool_:
            data = bytes(byte & 1 for byte in data)
        found[name] = np.frombuffer(data, np.uint8).view(dtype).reshape(shape)
    return found


@QUICK
@given(arrays=state_dicts())
def test_bytes_are_those_of_the_reference(arrays: dict[str, np.ndarray], tmp_path: Path) -> None:
    """The file is the reference's to the last byte, and read back it is what was given."""
    data = bytes_of(StateDict.of(arrays), tmp_path / "a.safetensors")
    assert data == safetensors.numpy.save(arrays)
    back = ours.read(InputFile(tmp_path / "a.safetensors"), strip=False)
    assert {n: t.read().tobytes() for n, t in back.items()} == {
        n: a.tobytes() for n, a in arrays.items()
    }


@pytest.mark.parametrize(
    "view",
    [
        lambda a: a.T,
        lambda a: a[::2],
        lambda a: a[::-1, 1:],
        lambda a: np.asfortranarray(a),
        lambda a: np.broadcast_to(a[0], (3, 4)),
        lambda a: a.astype(">f4"),
    ],
)
def test_views_are_written_as_they_look(view: object, tmp_path: Path) -> None:
    """Transposed, strided, reversed, expanded and big-endian arrays keep their values."""
    array = view(np.arange(20, dtype=np.float32).reshape(5, 4))  # type: ignore[operator]
    bytes_of(StateDict.of({"w": array}), tmp_path / "a.safetensors")
    back = safetensors.numpy.load_file(tmp_path / "a.safetensors")["w"]
    assert back.dtype == np.float32
    assert np.array_equal(back, array)


@pytest.mark.parametrize("dtype", [d for d in DTYPES.values() if d.safetensors], ids=str)
def test_every_dtype_is_torchs(dtype: object, tmp_path: Path) -> None:
    """torch reads every dtype that we write, with the bytes that we gave."""
    assert hasattr(dtype, "numpy")
    raw = np.arange(dtype.itemsize * 6, dtype=np.uint8)
    raw = raw & 1 if dtype.name == "bool" else raw + 0x70
    tensor = LazyTensor.of(raw.view(dtype.numpy).reshape(2, 3))
    bytes_of(StateDict({"w": tensor}), tmp_path / "a.safetensors")
    back = safetensors.torch.load_file(tmp_path / "a.safetensors")["w"]
    assert back.dtype == getattr(torch, dtype.torch)
    assert back.contiguous().view(torch.uint8).numpy().tobytes() == raw.tobytes()


def test_every_nan_keeps_its_payload(tmp_path: Path) -> None:
    """All 65,536 patterns of both half types come through."""
    bits = np.arange(1 << 16, dtype=np.uint16)
    state = StateDict.of({"f": bits.view(np.float16), "b": bits.view(ml_dtypes.bfloat16)})
    bytes_of(state, tmp_path / "a.safetensors")
    back = ours.read(InputFile(tmp_path / "a.safetensors"))
    assert all(t.read().tobytes() == bits.tobytes() for t in back.values())


@pytest.mark.parametrize(
    ("name", "array", "what"),
    [
        ("__metadata__", np.zeros(1, np.float32), "no tensor called"),
        ("a\0b", np.zeros(1, np.float32), "no tensor called"),
        ("\ud800", np.zeros(1, np.float32), "not Unicode"),
        ("w", np.zeros(1, np.complex128), "no complex128, which w is"),
    ],
)
def test_what_it_cannot_hold_is_refused_by_name(
    name: str, array: np.ndarray, what: str, tmp_path: Path
) -> None:
    """A name or dtype without a place is refused before anything is written."""
    with pytest.raises(UsageError, match=what):
        codecs.write(StateDict.of({name: array}), str(tmp_path / "a.safetensors"), "safetensors")
    assert not list(tmp_path.iterdir())


def header(entries: str, data: bytes = b"\0" * 16) -> bytes:
    text = entries.encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(text)) + text + data


W = '"w":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}'


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (f"{{{W},}}", "expected"),
        (f"{{{W}}} x", "more than one"),
        (f"{{{W} {W}}}", "comma"),
        ('{"w":{"dtype":"F32","shape":[04],"data_offsets":[0,16]}}', "no list of lengths"),
        ('{"w":{"dtype":"F32","shape":[4,],"data_offsets":[0,16]}}', "no list of lengths"),
        ('{"w":{"dtype":"F32","shape":[,4],"data_offsets":[0,16]}}', "no list of lengths"),
        ('{"w":{"dtype":"F32","shape":[4],"data_offsets":[0,16],}}', "no sound"),
        ('{"w":{"dtype":"F32","shape":[4],"shape":[4],"data_offsets":[0,16]}}', "twice"),
        ('{"w":{"dtype":[4],"shape":[4],"data_offsets":[0,16]}}', "is malformed"),
        ('{"w":{"dtype":"F32","shape":"F32","data_offsets":[0,16]}}', "is malformed"),
        ('{"w":{"dtype":"F32","data_offsets":[0,16]}}', "lacks"),
        ('{"w":{"dtype":"F32","shape":[4],"data_offsets":[0]}}', "are malformed"),
        ('{"w":{"dtype":"F32","shape":[0,999999999999999999],"data_offsets":[0,0]}}', "not fill"),
        ('{"w\\u0000":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}', "NUL"),
        (f'{{"__metadata__":{{"a":1}},{W}}}', "not text"),
        (f'{{"__metadata__":{{"a":"x","a":"x"}},{W}}}', "twice"),
        (f"{{{W},{W}}}", "twice"),
        ('{"w":', "no JSON|expected"),
        ("", "expected"),
        (f"[{W}]", "expected"),
    ],
)
def test_every_rule_of_the_header(text: str, what: str, tmp_path: Path) -> None:
    """Each rule refuses the header that breaks it, and says which."""
    path = tmp_path / "a.safetensors"
    path.write_bytes(header(text))
    with pytest.raises(InputError, match=what):
        ours.read(InputFile(path))


def test_spaces_and_order_of_fields_are_free(tmp_path: Path) -> None:
    """JSON's white space and any order of fields are read."""
    path = tmp_path / "a.safetensors"
    text = ' {\n "w" : { "shape" : [ 2 , 2 ] ,"data_offsets":[0,16],\t"dtype":"F32"} } \n'
    path.write_bytes(header(text))
    assert ours.read(InputFile(path))["w"].shape == (2, 2)


def test_header_may_not_exceed_the_limit(tmp_path: Path) -> None:
    """A header over the limit of the reference is refused before it is read."""
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", ours.LARGEST_HEADER + 1))
    path.open("r+b").truncate(ours.LARGEST_HEADER + 100)
    with pytest.raises(InputError, match="is the limit"):
        ours.read(InputFile(path))


@QUICK
@given(data=st.data())
def test_any_damage_is_refused_or_harmless(data: st.DataObject, tmp_path: Path) -> None:
    """A damaged file is refused, or what it says is what the reference says too."""
    good = bytearray(safetensors.numpy.save({"a": np.arange(3), "b": np.ones((2, 2))}))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(good) - 1))
        size = data.draw(st.integers(0, 4))
        good[at : at + size] = data.draw(st.binary(max_size=4))
    path = tmp_path / "a.safetensors"
    path.write_bytes(good)
    try:
        found = ours.read(InputFile(path), strip=False)
    except InputError:
        return
    want = dict(safetensors.deserialize(bytes(good)))
    assert {n: t.read().tobytes() for n, t in found.items()} == {
        n: bytes(row["data"]) for n, row in want.items()
    }


def test_output_is_the_same_every_time(tmp_path: Path) -> None:
    """The same tensors and metadata give the same bytes, in any order of metadata."""
    state = StateDict.of({"b": np.ones(3), "a": np.arange(4)})
    one = bytes_of(state, tmp_path / "a", {"x": "1", "y": "2"})
    other = bytes_of(state, tmp_path / "b", {"y": "2", "x": "1"})
    assert one == other
    assert json.loads(one[8 : 8 + one[0] + 256 * one[1]])["__metadata__"] == {"x": "1", "y": "2"}


@pytest.mark.parametrize("length", [640, 896, 1152, 1408])
def test_a_header_whose_length_looks_like_a_pickle_is_read(length: int, tmp_path: Path) -> None:
    """The bytes 80 02 to 80 05 begin a pickle, and the length of one header in thirty-two."""
    path = tmp_path / "a.safetensors"
    safetensors.numpy.save_file({"w": np.arange(3, dtype=np.float32)}, path, metadata={"x": ""})
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = data[8:end].rstrip().ljust(length)
    path.write_bytes(length.to_bytes(8, "little") + header + data[end:])
    assert codecs.read(str(path))["w"].read().tolist() == [0, 1, 2]
