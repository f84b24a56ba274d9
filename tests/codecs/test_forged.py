"""torch files that no torch would write: every rule about tensors and storages, broken once."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from porter import codecs
from porter.codecs.pickle.names import COMMON
from porter.codecs.pickle.reading import Unpickler
from porter.codecs.pickle.values import Blob, HeldBytes, Opaque, Text
from porter.codecs.pickle.writing import Pickling
from porter.codecs.torch.writing import pieces
from porter.errors import InputError, UsageError
from porter.storage.input_file import InputFile
from porter.tensors.dtypes import DTYPES
from porter.tensors.lazy import LazyTensor
from porter.tensors.state_dict import StateDict
from tests.codecs.torch.torch_pickles import (
    FLOATS,
    HOOKS,
    NUMBERS,
    PLAIN,
    STORE,
    UNTYPED,
    VIEW,
    Call,
    Listed,
    Name,
    Store,
    archive,
    emit,
    rebuild,
)

BYTES = Store("storage", UNTYPED, "0", "cpu", 16)


def with_store(*parts: Any) -> Call:
    """Return a plain tensor in another storage."""
    return rebuild("tensor_v2", Store(*parts), *VIEW, False, HOOKS)


def subclass(*arguments: Any) -> Call:
    """Return a tensor of a subclass."""
    return Call(Name("torch._tensor", "_rebuild_from_type_v2"), *arguments)


V2 = Name("torch._utils", "_rebuild_tensor_v2")


READ: dict[str, Any] = {
    "version 1": rebuild("tensor", STORE, *VIEW),
    "version 2": PLAIN,
    "version 2, no bits": rebuild("tensor_v2", STORE, *VIEW, False, HOOKS, None),
    "version 2, bits off": rebuild("tensor_v2", STORE, *VIEW, False, HOOKS, {"neg": False}),
    "version 3": rebuild("tensor_v3", BYTES, *VIEW, False, HOOKS, Name("torch", "float32")),
    "parameter": rebuild("parameter", PLAIN, True, HOOKS),
    "parameter with state": rebuild("parameter_with_state", PLAIN, True, HOOKS, {"x": 1}),
    "subclass of itself": subclass(
        V2, Name("torch.nn.parameter", "Parameter"), (STORE, *VIEW, False, HOOKS), {}
    ),
    "of a graphics card": with_store(
        "storage", Name("torch.cuda", "FloatStorage"), "0", "cuda:7", 4
    ),
    "storage without a part": with_store("storage", FLOATS, "0", "cpu", 4, None),
}


def read(value: Any, folder: Path, *storages: bytes) -> StateDict:
    """Read a torch zip of a value."""
    path = folder / "a.pth"
    path.write_bytes(archive(value, *storages))
    return codecs.read(str(path))


@pytest.mark.parametrize("kind", READ)
def test_every_form_of_a_tensor_is_read(kind: str, tmp_path: Path) -> None:
    """Each call that ever made a tensor gives the tensor."""
    state = read({"w": READ[kind]}, tmp_path, NUMBERS)
    assert state["w"].read().tolist() == [[0, 1], [2, 3]]


NO_SENSE = "description is malformed"


REFUSED: dict[str, tuple[Any, str]] = {
    "version 1 of five": (rebuild("tensor", STORE, *VIEW, 1), NO_SENSE),
    "version 2 of four": (rebuild("tensor_v2", STORE, *VIEW), NO_SENSE),
    "version 3 of five": (rebuild("tensor_v3", BYTES, *VIEW, False), NO_SENSE),
    "no storage": (rebuild("tensor_v2", 5, *VIEW, False, HOOKS), NO_SENSE),
    "strides of a list": (rebuild("tensor_v2", STORE, 0, (2,), [1], False, HOOKS), NO_SENSE),
    "offset of a truth": (rebuild("tensor_v2", STORE, True, (2,), (1,), False, HOOKS), "begins"),
    "offset below zero": (rebuild("tensor_v2", STORE, -1, (2,), (1,), False, HOOKS), "begins"),
    "stride of a truth": (
        rebuild("tensor_v2", STORE, 0, (2,), (True,), False, HOOKS),
        "negative st",
    ),
    "stride without end": (
        rebuild("tensor_v2", STORE, 0, (0,), (1 << 61,), False, HOOKS),
        "negative stride",
    ),
    "empty beyond the end": (
        rebuild("tensor_v2", STORE, 5, (0,), (1,), False, HOOKS),
        "byte 20 of",
    ),
    "unknown bits": (
        rebuild("tensor_v2", STORE, *VIEW, False, HOOKS, {"odd": True}),
        "neither conj nor neg",
    ),
    "bits of a tuple": (
        rebuild("tensor_v2", STORE, *VIEW, False, HOOKS, ("conj",)),
        "neither conj nor neg",
    ),
    "bits of a list": (rebuild("tensor_v2", STORE, *VIEW, False, HOOKS, [1]), "neither conj nor"),
    "untyped, version 2": (rebuild("tensor_v2", BYTES, *VIEW, False, HOOKS), "of no dtype"),
    "version 3, another dtype": (
        rebuild("tensor_v3", STORE, *VIEW, False, HOOKS, Name("torch", "int32")),
        "in a storage of another",
    ),
    "version 3, unknown dtype": (
        rebuild("tensor_v3", BYTES, *VIEW, False, HOOKS, Name("torch", "bits8")),
        "cannot be ported: it is of dtype torch.bits8",
    ),
    "version 3, no dtype": (
        rebuild("tensor_v3", BYTES, *VIEW, False, HOOKS, [1]),
        "cannot be ported: it is of dtype a list",
    ),
    "negative bytes": (
        rebuild(
            "tensor_v3", BYTES, *VIEW, False, HOOKS, Name("torch", "float8_e4m3fnuz"), {"neg": True}
        ),
        "a negative view of float8_e4m3fnuz",
    ),
    "parameter of a number": (
        rebuild("parameter", 5, True, HOOKS),
        "a parameter that is not a tensor",
    ),
    "parameter of one": (rebuild("parameter", PLAIN), "a parameter that is not a tensor"),
    "subclass of three": (subclass(V2, UNTYPED, (1,)), "subclass whose description"),
    "subclass of a text": (subclass("f", UNTYPED, (1,), {}), "subclass whose description"),
    "subclass with a list": (
        subclass(V2, Name("torch", "device"), [STORE, *VIEW, False, HOOKS], {}),
        "subclass whose description",
    ),
    "subclass of a structure": (
        subclass(V2, [[1]], (STORE, *VIEW, False, HOOKS), {}),
        "of the class a list",
    ),
    "subclass of a subclass": (
        subclass(
            Name("torch._tensor", "_rebuild_from_type_v2"), UNTYPED, (V2, UNTYPED, (), {}), {}
        ),
        "a tensor subclass made by torch._tensor._rebuild_from_type_v2",
    ),
    "subclass by another": (
        subclass(Name("builtins", "set"), UNTYPED, (), {}),
        "a tensor subclass made by builtins.set",
    ),
    "subclass by a tuple": (
        subclass(Name("builtins", "tuple"), UNTYPED, ([1],), {}),
        "a tensor subclass made by builtins.tuple",
    ),
    "subclass unknown": (
        subclass(V2, Name("torch", "device"), (STORE, *VIEW, False, HOOKS), {}),
        "of the class torch.device",
    ),
    "made of nothing": (Call(Name("torch", "Tensor"), 64, 64), "without values"),
    "made of a class": (Call(Name("torch.nn.parameter", "Parameter"), PLAIN), "without values"),
    "storage of a list": (with_store("storage", [], "0", "cpu", 4), "of no known type"),
    "storage of a name": (
        with_store("storage", Name("torch", "int32"), "0", "cpu", 4),
        "of no known",
    ),
    "storage of three": (with_store("storage", FLOATS, "0"), NO_SENSE),
    "storage by number": (with_store("storage", FLOATS, 0, "cpu", 4), "key or length"),
    "storage of a truth": (with_store("storage", FLOATS, "0", "cpu", True), "key or length"),
    "storage below zero": (with_store("storage", FLOATS, "0", "cpu", -4), "key or length"),
    "storage without end": (with_store("storage", FLOATS, "0", "cpu", 1 << 61), "key or length"),
    "reference to nothing": (Store(), "refers to nothing"),
    "reference to a file": (Store("file", "/etc/passwd"), "refers to file"),
    "reference by a list": (
        rebuild("tensor_v2", Listed("storage", FLOATS, "0", "cpu", 4), *VIEW, False, HOOKS),
        "refers to nothing",
    ),
    "part by a list": (with_store("storage", FLOATS, "0", "cpu", 4, ["p", 0, 4]), "a part of a"),
    "part of a text's length": (
        with_store("storage", FLOATS, "0", "cpu", 4, ("p", 0, "4")),
        "a part of a storage",
    ),
    "strides of another length": (
        rebuild("tensor_v2", STORE, 0, (4,), (1, 1), False, HOOKS),
        "differ in length",
    ),
    "part of one": (
        with_store("storage", FLOATS, "0", "cpu", 4, ("p",)),
        "a part of a storage that",
    ),
    "part by number": (
        with_store("storage", FLOATS, "0", "cpu", 4, (1, 0, 4)),
        "a part of a storage",
    ),
    "part of texts": (with_store("storage", FLOATS, "0", "cpu", 4, ("p", "0", 4)), "a part of a"),
    "part below zero": (with_store("storage", FLOATS, "0", "cpu", 4, ("p", -1, 4)), "does not fit"),
    "part moved": (
        [
            with_store("storage", FLOATS, "0", "cpu", 8, ("p", 0, 4)),
            with_store("storage", FLOATS, "0", "cpu", 8, ("p", 4, 4)),
        ],
        "storage p is described in two ways",
    ),
    "part of another length": (
        [
            with_store("storage", FLOATS, "0", "cpu", 8, ("p", 0, 4)),
            with_store("storage", FLOATS, "0", "cpu", 8, ("p", 0, 5)),
        ],
        "storage p is described in two ways",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_forged_tensor_is_refused(kind: str, tmp_path: Path) -> None:
    """A tensor whose description breaks a rule is refused with that rule."""
    value, message = REFUSED[kind]
    with pytest.raises(InputError, match=message):
        read({"w": value}, tmp_path, NUMBERS)


def test_parts_of_storages_share_their_bytes(tmp_path: Path) -> None:
    """Two parts of one storage are read each from its own place."""
    value = {
        name: with_store("storage", FLOATS, "0", "cpu", 8, (f"p{start}", start, 4))
        for name, start in (("a", 0), ("b", 4), ("again", 4))
    }
    state = read(value, tmp_path, np.arange(8, dtype=np.float32).tobytes())
    assert state["a"].read().tolist() == [[0, 1], [2, 3]]
    assert state["b"].read().tolist() == state["again"].read().tolist() == [[4, 5], [6, 7]]
    assert state["b"].tie == state["again"].tie != state["a"].tie


def test_both_lazy_bits_are_resolved(tmp_path: Path) -> None:
    """A complex tensor may be conjugated and negated at once."""
    store = Store("storage", Name("torch", "ComplexFloatStorage"), "0", "cpu", 2)
    bits = {"conj": True, "neg": True}
    value = {"w": rebuild("tensor_v2", store, 0, (2,), (1,), False, HOOKS, bits)}
    state = read(value, tmp_path, np.array([1 + 2j, 3 - 4j], np.complex64).tobytes())
    assert state["w"].read().tolist() == [-1 + 2j, -3 - 4j]


def test_deflated_pickle_has_a_limit(tmp_path: Path) -> None:
    """A pickle that must be inflated is held, and therefore bounded."""
    path = tmp_path / "a.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("archive/data.pkl", b"\x80\x02" + b"N" * (65 << 20))
    with pytest.raises(InputError, match=r"data\.pkl is deflated and has"):
        codecs.read(str(path))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (b"N", "list of storage keys is not a list"),
        (b"]K\x01a", "list of storage keys is not a list"),
        (b"](X\1\0\0\x000K\x01e", "list of storage keys is not a list"),
        (b"]X\1\0\0\0xa", "does not fit the tensors"),
    ],
)
def test_legacy_keys_must_be_those_of_the_tensors(
    keys: bytes, message: str, tmp_path: Path
) -> None:
    """The old format's list of storages is a list of texts that the tensors mention."""
    magic = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({}, 2)
    path = tmp_path / "a.pth"
    path.write_bytes(magic + b"\x80\x02" + emit({"w": PLAIN}) + b"." + b"\x80\x02" + keys + b".")
    with pytest.raises(InputError, match=message):
        codecs.read(str(path))


def test_legacy_magic_is_compared(tmp_path: Path) -> None:
    """A file asked for as torch's old format needs its magic number."""
    from porter.codecs.torch import legacy

    path = tmp_path / "a"
    path.write_bytes(pickle.dumps(5, 2))
    with pytest.raises(InputError, match="without torch's magic number"):
        legacy.read(InputFile(path))


def test_dtype_that_torch_lacks_is_refused_by_name() -> None:
    """Writing names the tensor and the dtype that torch cannot store."""
    odd = DTYPES["float32"]._replace(name="float4", torch=None)
    state = StateDict({"w": LazyTensor(odd, (1,), lambda: np.zeros(1, np.float32))})
    with pytest.raises(UsageError, match="torch cannot store w: its dtype is float4"):
        list(pieces(state, {}))


def load(data: bytes) -> Any:
    """Read a plain pickle."""
    return Unpickler(HeldBytes(data, "x"), 0, len(data), COMMON).load()


def test_bytes_of_old_protocols_are_read() -> None:
    """Bytes and byte arrays as protocol 2 writes them are what they stand for."""
    assert load(pickle.dumps([b"", bytearray(), bytearray(b"ab")], 2)) == [b"", b"", "ab"]
    assert load(pickle.dumps(bytearray(b"ab"), 4)) == b"ab"
    assert load(pickle.dumps(bytearray(b"ab"), 5)) == b"ab"
    assert type(load(pickle.dumps(bytearray(b"a" * 5000), 4))) is Blob
    assert repr(load(b"\x80\x02cbuiltins\nbytes\nK\1\x85R.")) == "bytes"


def test_text_with_eight_bytes_of_length_is_read() -> None:
    """The opcode for texts over 4 GiB serves short ones too."""
    assert load(b"\x80\x04\x8d\2" + b"\0" * 7 + b"ab.") == "ab"


def test_objects_made_with_names_are_kept() -> None:
    """An inert object may be made with named arguments, or with none."""
    made = load(b"\x80\x04cargparse\nNamespace\n)}X\1\0\0\0aNs\x92.")
    assert type(made) is Opaque
    assert made.parts == [{"a": None}]
    assert load(b"\x80\x04ccollections\nOrderedDict\n)}\x92.") == {}


def test_held_bytes_end() -> None:
    """Bytes in memory are read inside their bounds."""
    held = HeldBytes(b"abc", "x")
    assert held.pread(1, 2) == b"bc"
    for offset, size in ((2, 2), (-1, 1)):
        with pytest.raises(InputError, match="truncated"):
            held.pread(offset, size)


def test_long_text_beside_the_weights_is_named(tmp_path: Path) -> None:
    """A text that is left in the file is a text in the report."""
    long = pickle.dumps("x" * 9000, 2)[2:-1].replace(b"q\x00", b"")
    assert type(load(b"\x80\x02" + long + b".")) is Text
    path = tmp_path / "a.pdparams"
    path.write_bytes(pickle.dumps({"m": {"w": np.ones(2)}, "note": "x" * 9000}, 4))
    origin = codecs.read(str(path)).origin
    assert origin is not None
    assert origin.skipped == ("note: a text",)


def test_pickling_writes_texts_by_length() -> None:
    """Protocol 4 has a short form for texts under 256 bytes."""
    for length in (255, 256):
        data = Pickling(4).text("x" * length).raw(b".").take()
        assert pickle.loads(data) == "x" * length
        assert (data[2:3] == b"\x8c") == (length < 256)


@pytest.mark.parametrize("system", [[], None, {"little_endian": False}, {"little_endian": 1}])
def test_legacy_system_must_be_little_endian(system: Any, tmp_path: Path) -> None:
    """The old format's note on the machine is a dictionary that does not say big-endian."""
    path = tmp_path / "a.pth"
    start = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2)
    path.write_bytes(start + pickle.dumps(system, 2))
    with pytest.raises(InputError, match="ambiguous"):
        codecs.read(str(path))
