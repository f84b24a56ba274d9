"""ONNX, field by field: what each may hold, how much, and how often."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, numpy_helper

from porter import codecs
from porter.codecs.onnx import weights
from porter.errors import InputError
from porter.tensors.dtypes import DTYPES
from porter.tensors.state_dict import StateDict

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


def varint(value: int) -> bytes:
    """Return a number as protobuf writes it."""
    value &= (1 << 64) - 1
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def field(number: int, content: bytes | int, kind: int | None = None) -> bytes:
    """Return a field: a number, bytes with their length, or bytes of the kind that is said."""
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    if kind is None:
        return varint(number << 3 | BYTES) + varint(len(content)) + content
    return varint(number << 3 | kind) + content


def tensor(code: int, dims: list[int], *fields: bytes) -> bytes:
    """Return a TensorProto called w."""
    parts = [field(1, length) for length in dims]
    return b"".join([*parts, field(2, code), field(8, b"w"), *fields])


INITIALIZER = field(5, tensor(1, [1], field(9, b"1234")))
NOTE = field(14, field(1, b"k") + field(2, b"v"))


def onnx(folder: Path, *fields: bytes, graph: bytes = INITIALIZER) -> str:
    """Write a model of one weight and some fields around it."""
    path = folder / "a.onnx"
    path.write_bytes(b"\x08\x07" + b"".join(fields) + field(7, graph))
    return str(path)


def read(folder: Path, *initializers: bytes) -> StateDict:
    """Read a model with these tensors."""
    return codecs.read(onnx(folder, graph=b"".join(field(5, made) for made in initializers)))


def skipped(state: StateDict) -> tuple[str, ...]:
    assert state.origin is not None
    return state.origin.skipped


def test_training_of_a_model_is_named(tmp_path: Path) -> None:
    """What an ONNX file keeps for training is left behind, and said; else nothing is said."""
    state = codecs.read(onnx(tmp_path, NOTE, field(20, b"")))
    assert skipped(state) == ("training_info, which belongs to the training",)
    assert state.origin is not None
    assert state.origin.metadata == {"k": "v"}
    assert skipped(codecs.read(onnx(tmp_path))) == ()


def test_a_model_without_weights_is_refused(tmp_path: Path) -> None:
    """A graph without initialisers, and a model without a graph, are no checkpoints."""
    with pytest.raises(InputError, match="without initialisers or constants"):
        codecs.read(onnx(tmp_path, graph=b""))
    (tmp_path / "b.onnx").write_bytes(b"\x08\x07")
    with pytest.raises(InputError, match="an ONNX model without a graph"):
        codecs.read(str(tmp_path / "b.onnx"))


def test_notes_of_a_model_have_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A note comes once; so many notes and initialisers, and no more."""
    with pytest.raises(InputError, match="the note k is there twice"):
        codecs.read(onnx(tmp_path, NOTE, NOTE))
    monkeypatch.setattr(weights, "_MOST_NOTES", 1)
    assert list(codecs.read(onnx(tmp_path, NOTE))) == ["w"]
    with pytest.raises(InputError, match="more than 1 notes"):
        codecs.read(onnx(tmp_path, NOTE, field(14, field(1, b"another"))))
    monkeypatch.setattr(weights, "MOST_TENSORS", 1)
    assert len(codecs.read(onnx(tmp_path))) == 1
    monkeypatch.setattr(weights, "MOST_TENSORS", 0)
    with pytest.raises(InputError, match="more than 0 initialisers"):
        codecs.read(onnx(tmp_path))


def test_texts_of_a_model_have_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name or a note of the limit is read, and one byte more is refused."""
    monkeypatch.setattr(weights, "_LONGEST_TEXT", 1)
    monkeypatch.setattr(weights, "_LONGEST_NOTE", 1)
    assert list(codecs.read(onnx(tmp_path, NOTE))) == ["w"]
    monkeypatch.setattr(weights, "_LONGEST_NOTE", 0)
    with pytest.raises(InputError, match="a field of 1 bytes; 0 is the limit"):
        codecs.read(onnx(tmp_path, NOTE))
    monkeypatch.setattr(weights, "_LONGEST_TEXT", 0)
    with pytest.raises(InputError, match="a field of 1 bytes; 0 is the limit"):
        codecs.read(onnx(tmp_path))


GRAPHS: dict[str, tuple[bytes, str]] = {
    "name twice": (INITIALIZER + INITIALIZER, "two initialisers are called w"),
    "no name": (field(5, field(2, 1)), "an initialiser without a name"),
    "sparse": (INITIALIZER + field(15, b""), "a sparse initialiser"),
    "graph named twice": (INITIALIZER + field(2, b"g") * 2, "field 2 of a graph twice"),
    "graph of other fields": (INITIALIZER + field(3, b""), "field 3 of a graph, which"),
    "in segments": (field(5, tensor(1, [1], field(3, b""))), "an initialiser in segments"),
    "of text": (field(5, tensor(8, [1], field(6, b"a"))), "an initialiser of text"),
    "no type": (field(5, field(8, b"w")), "w is undefined"),
    "name of other bytes": (field(5, field(8, b"\xff")), "a text that is not UTF-8"),
    "undefined": (field(5, tensor(0, [1])), "w is undefined"),
    "of 4 bits": (field(5, tensor(22, [1])), "w is of 4 bits"),
    "of a new type": (field(5, tensor(99, [1])), "w is of type 99"),
    "type twice": (field(5, tensor(1, [1], field(2, 1))), "field 2 of a tensor twice"),
    "unknown field": (field(5, tensor(1, [1], field(15, 1))), "field 15 of a tensor, which"),
    "negative length": (field(5, tensor(1, [-1])), r"w has the shape \[-1\]"),
}


@pytest.mark.parametrize("kind", GRAPHS)
def test_every_rule_of_a_graph(kind: str, tmp_path: Path) -> None:
    """Each rule refuses the graph that breaks it, by its own words."""
    graph, message = GRAPHS[kind]
    with pytest.raises(InputError, match=message):
        codecs.read(onnx(tmp_path, graph=graph))


MODELS: dict[str, tuple[bytes, str]] = {
    "unknown field": (field(9, b""), "field 9 of a model, which the format does not have"),
    "number as bytes": (field(5, b"\1"), "field 5 of a model, which the format does not have"),
    "producer twice": (field(2, b"x") * 2, "field 2 of a model twice: two files, one after"),
    "graph twice": (field(7, INITIALIZER), "field 7 of a model twice"),
}


@pytest.mark.parametrize("kind", MODELS)
def test_every_rule_of_a_model(kind: str, tmp_path: Path) -> None:
    """Unknown fields are refused, and those twice that the format has once."""
    more, message = MODELS[kind]
    with pytest.raises(InputError, match=message):
        codecs.read(onnx(tmp_path, more))


def test_a_note_may_lack_a_text(tmp_path: Path) -> None:
    """protobuf leaves empty texts out."""
    notes = field(14, field(1, b"k")), field(14, field(2, b"v"))
    origin = codecs.read(onnx(tmp_path, *notes)).origin
    assert origin is not None
    assert origin.metadata == {"k": "", "": "v"}


def test_a_note_holds_two_texts(tmp_path: Path) -> None:
    """A note of a third field, or with a key twice, is refused."""
    with pytest.raises(InputError, match="field 3 of a note, which the format does not have"):
        codecs.read(onnx(tmp_path, field(14, field(3, b""))))
    with pytest.raises(InputError, match="field 1 of a note twice"):
        codecs.read(onnx(tmp_path, field(14, field(1, b"a") * 2)))


def node(*attributes: bytes) -> bytes:
    """Return a node with attributes."""
    return field(1, b"".join(field(5, made) for made in attributes))


INNER: dict[str, tuple[bytes, str]] = {
    "value": (node(field(5, b"")), "1 tensors in attributes"),
    "values": (node(field(10, b"") * 3), "3 tensors in attributes"),
    "sparse": (node(field(22, b"") + field(23, b"")), "2 sparse tensors"),
    "graph": (node(field(6, field(5, b"") * 2 + field(15, b""))), "3 tensors in subgraphs"),
    "graphs": (node(field(11, field(5, b"")) * 2), "2 tensors in subgraphs"),
    "graph in a graph": (node(field(6, node(field(6, field(5, b""))))), "1 tensors in subgraphs"),
    "other attributes": (node(field(1, b"axis") + field(3, 7) + field(4, b"text")), ""),
    "number where a tensor goes": (node(field(5, 1)), ""),
    "bytes where an attribute goes": (field(1, field(5, b"\x2a\0\x2a\0", FIXED32)), ""),
    "bytes where a node goes": (node(field(6, field(1, b"\x2a\2\x2a\0", FIXED32))), ""),
    "other fields": (field(1, field(1, b"x") + field(4, b"Relu") + field(5, 3)), ""),
    "graph of other fields": (node(field(6, field(2, b"name") + field(1, 3) + field(9, b""))), ""),
}


@pytest.mark.parametrize("kind", INNER)
def test_tensors_inside_of_nodes_are_counted(kind: str, tmp_path: Path) -> None:
    """Tensors in attributes and in the graphs of attributes are counted, and nothing else."""
    graph, expected = INNER[kind]
    lines = skipped(codecs.read(onnx(tmp_path, graph=INITIALIZER + graph)))
    assert len(lines) == bool(expected)
    assert all(line.startswith(expected) for line in lines)


def test_graphs_are_nested_as_deep_as_the_limit(tmp_path: Path) -> None:
    """A graph a hundred deep is walked over, and a deeper one is refused."""
    graph = node()
    for _ in range(100):
        graph = node(field(6, graph))
    assert list(codecs.read(onnx(tmp_path, graph=INITIALIZER + graph))) == ["w"]
    with pytest.raises(InputError, match="graphs are nested deeper than 100"):
        codecs.read(onnx(tmp_path, graph=INITIALIZER + node(field(6, graph))))


def test_shapes_have_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """64 dimensions and so many elements are read; a zero does not hide the rest."""
    data = field(9, b"1234")
    assert read(tmp_path, tensor(1, [1] * 64, data))["w"].shape == (1,) * 64
    with pytest.raises(InputError, match="more than 64 dimensions"):
        read(tmp_path, tensor(1, [1] * 65, data))
    packed = tensor(1, [], field(1, b"\1" * 4097), data)
    with pytest.raises(InputError, match="a field of 4097 bytes; 4096 is the limit"):
        read(tmp_path, packed)
    monkeypatch.setattr(weights, "MOST_ELEMENTS", 6)
    assert read(tmp_path, tensor(3, [2, 3], field(9, b"123456")))["w"].shape == (2, 3)
    assert read(tmp_path, tensor(3, [6, 0]))["w"].shape == (6, 0)
    for dims in ([7], [0, 7], [3, 3]):
        with pytest.raises(InputError, match="has the shape"):
            read(tmp_path, tensor(3, dims))


def test_packed_and_single_lengths_are_one_shape(tmp_path: Path) -> None:
    """A shape is read in both forms that protobuf has, and from both together."""
    made = tensor(3, [2], field(1, b"\3\1"), field(9, b"123456"))
    assert read(tmp_path, made)["w"].shape == (2, 3, 1)


ELEMENTS: dict[str, tuple[bytes, list[float]]] = {
    "one run": (tensor(1, [2], field(4, struct.pack("<2f", 1, 2))), [1, 2]),
    "two runs": (tensor(1, [2], *(field(4, struct.pack("<f", v)) for v in (1, 2))), [1, 2]),
    "single": (tensor(1, [2], *(field(4, struct.pack("<f", v), FIXED32) for v in (1, 2))), [1, 2]),
    "doubles": (tensor(11, [1], field(10, struct.pack("<d", 3), FIXED64)), [3]),
    "small": (tensor(3, [2], field(5, b"\1"), field(5, 2)), [1, 2]),
    "long": (tensor(7, [2], field(7, -1), field(7, b"\5")), [-1, 5]),
    "unsigned": (tensor(13, [2], field(11, b"\1\2")), [1, 2]),
    "truths": (tensor(9, [2], field(5, b"\1\0")), [1, 0]),
    "none": (tensor(1, [0]), []),
    "none, raw": (tensor(1, [0], field(9, b"")), []),
    "none, packed": (tensor(6, [0], field(5, b"")), []),
}


@pytest.mark.parametrize("kind", ELEMENTS)
def test_elements_are_read_in_every_form(kind: str, tmp_path: Path) -> None:
    """Packed or one by one, in one run or in several, elements are those that onnx sees."""
    made, expected = ELEMENTS[kind]
    found = read(tmp_path, made)["w"].read()
    assert found.tolist() == expected
    proto = TensorProto.FromString(made)
    assert numpy_helper.to_array(proto).tobytes() == found.tobytes()


def test_elements_in_one_run_stay_in_the_file(tmp_path: Path) -> None:
    """One run is copied from where it stands; several are put together when they are read."""
    for kind, stays in (("one run", True), ("doubles", True), ("two runs", False)):
        assert (read(tmp_path, ELEMENTS[kind][0])["w"].extent is not None) is stays


MISPLACED: dict[str, tuple[bytes, str]] = {
    "nothing": (tensor(1, [1]), "w has no elements"),
    "nothing of a scalar": (tensor(1, []), "w has no elements"),
    "two fields": (tensor(1, [1], field(9, b"1234"), field(4, b"1234")), "in two fields"),
    "others' field": (tensor(1, [1], field(5, 1)), "has its elements in the field of others"),
    "floats as 64 bits": (tensor(1, [2], field(4, bytes(8), FIXED64)), "field 4 of a tensor"),
    "floats as a number": (tensor(1, [0], field(4, 0)), "field 4 of a tensor"),
    "doubles as 32 bits": (tensor(11, [0], field(10, bytes(4), FIXED32)), "field 10 of a tensor"),
    "lengths as 32 bits": (tensor(1, [], field(1, bytes(4), FIXED32)), "field 1 of a tensor"),
    "small as 32 bits": (tensor(6, [1], field(5, bytes(4), FIXED32)), "field 5 of a tensor"),
    "long as 64 bits": (tensor(7, [1], field(7, bytes(8), FIXED64)), "field 7 of a tensor"),
    "unsigned as 64 bits": (tensor(13, [1], field(11, bytes(8), FIXED64)), "field 11 of a tensor"),
    "floats too short": (tensor(1, [2], field(4, bytes(4))), "does not fill its 4 bytes"),
    "floats too long": (tensor(1, [1], field(4, bytes(8))), "does not fill its 8 bytes"),
    "numbers too few": (tensor(6, [3], field(5, b"\1\2")), "does not fill its 2 bytes"),
    "numbers too many": (tensor(6, [1], field(5, b"\1" * 11)), "does not fill its 11 bytes"),
    "number of nothing": (tensor(6, [0], field(5, 1)), "does not fill its 10 bytes"),
    "inside, said to be outside": (
        tensor(1, [1], field(9, b"1234"), field(14, 1)),
        "w is both inside and outside of the file",
    ),
    "inside, with a place": (
        tensor(1, [1], field(9, b"1234"), field(13, field(1, b"location") + field(2, b"w.bin"))),
        "w is both inside and outside of the file",
    ),
    "a place, and not outside": (
        tensor(1, [1], field(13, field(1, b"location") + field(2, b"w.bin"))),
        "w is both inside and outside of the file",
    ),
    "outside without a place": (tensor(1, [1], field(14, 1)), "there is no location"),
}


@pytest.mark.parametrize("kind", MISPLACED)
def test_elements_that_are_elsewhere_are_refused(kind: str, tmp_path: Path) -> None:
    """Elements stand in the one field of their dtype, in its form, and are as many as it says."""
    (tmp_path / "w.bin").write_bytes(b"1234")
    made, message = MISPLACED[kind]
    with pytest.raises(InputError, match=message):
        read(tmp_path, made)


def test_as_many_numbers_as_the_shape_says(tmp_path: Path) -> None:
    """Bytes that could be so many numbers and are not are refused when they are read."""
    with pytest.raises(InputError, match=r"w \[2\] has 4 elements"):
        read(tmp_path, tensor(6, [2], field(5, b"\1\2\3\4")))["w"].read()


@pytest.mark.parametrize("name", ["int8", "int16", "int32", "uint8", "uint16", "uint32"])
def test_numbers_reach_to_the_ends_of_their_dtype(name: str, tmp_path: Path) -> None:
    """The smallest and the largest number are read; the next one on either side is refused."""
    dtype = DTYPES[name]
    number = 11 if name == "uint32" else 5
    ends = np.iinfo(dtype.numpy)
    assert dtype.onnx is not None
    made = tensor(dtype.onnx, [2], field(number, int(ends.min)), field(number, int(ends.max)))
    assert read(tmp_path, made)["w"].read().tolist() == [ends.min, ends.max]
    for value in (int(ends.min) - 1, int(ends.max) + 1):
        made = tensor(dtype.onnx, [1], field(number, value))
        with pytest.raises(InputError, match=f"w has numbers that {name} has not"):
            read(tmp_path, made)["w"].read()


def test_numbers_of_64_bits_are_all_of_them(tmp_path: Path) -> None:
    """No varint is too large for the dtypes of eight bytes."""
    for code, number, dtype in ((7, 7, np.int64), (13, 11, np.uint64)):
        ends = [int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)]
        made = tensor(code, [2], *(field(number, value) for value in ends))
        assert read(tmp_path, made)["w"].read().tolist() == ends


def test_a_truth_is_zero_or_one(tmp_path: Path) -> None:
    """A number that is neither would be another byte than the one that onnx makes of it."""
    with pytest.raises(InputError, match="w has numbers that bool has not"):
        read(tmp_path, tensor(9, [1], field(5, 2)))["w"].read()


def place(**entries: str) -> bytes:
    """Return entries of external data."""
    rows = (field(1, key.encode()) + field(2, text.encode()) for key, text in entries.items())
    return field(14, 1) + b"".join(field(13, row) for row in rows)


def test_a_remark_behind_a_place_changes_nothing(tmp_path: Path) -> None:
    """The fields that may follow the place of a tensor leave it where it is."""
    (tmp_path / "w.bin").write_bytes(b"1234")
    remarks = field(12, b"a remark") + field(16, b"")
    made = tensor(1, [1], place(location="w.bin"), remarks)
    assert read(tmp_path, made)["w"].read().tobytes() == b"1234"


def test_external_data_is_opened_once(tmp_path: Path) -> None:
    """Tensors in one file share its descriptor; those at one place are tied."""
    (tmp_path / "w.bin").write_bytes(b"12345678")
    rows = [
        field(1, 1) + field(2, 1) + field(8, name) + place(location="w.bin", offset=at, length="4")
        for name, at in ((b"a", "0"), (b"b", "4"), (b"c", "4"))
    ]
    a, b, c = read(tmp_path, *rows).values()
    assert a.extent is not None
    assert b.extent is not None
    assert a.extent.file is b.extent.file
    assert a.tie != b.tie
    assert b.tie == c.tie
    assert b.read().tobytes() == b"5678"


def test_checksum_of_external_data_is_that_of_all_of_it(tmp_path: Path) -> None:
    """A checksum of any case is compared with all bytes of the file."""
    data = bytearray(3 << 20)
    data[1 << 20] = data[-1] = 1
    (tmp_path / "w.bin").write_bytes(data)
    digest = hashlib.sha1(data, usedforsecurity=False).hexdigest()
    for told in (digest, digest.upper()):
        made = tensor(3, [3 << 20], place(location="w.bin", checksum=told))
        assert read(tmp_path, made)["w"].nbytes == 3 << 20
    data[-1] = 2
    (tmp_path / "w.bin").write_bytes(data)
    with pytest.raises(InputError, match=r"w\.bin: differs from the checksum in the model"):
        read(tmp_path, made)


@pytest.mark.parametrize("text", ["", "-1", "+4", "1.0", " 4", "4_0", "٤", "0" * 19])
def test_numbers_of_external_data_are_plain(text: str, tmp_path: Path) -> None:
    """An offset is digits of ASCII, and not too many."""
    (tmp_path / "w.bin").write_bytes(b"12345678")
    with pytest.raises(InputError, match="which is not a number"):
        read(tmp_path, tensor(1, [1], place(location="w.bin", offset=text)))


def test_numbers_of_external_data_may_have_18_digits(tmp_path: Path) -> None:
    """The longest number that is read."""
    (tmp_path / "w.bin").write_bytes(b"12345678")
    made = tensor(1, [1], place(location="w.bin", offset="0" * 17 + "4"))
    assert read(tmp_path, made)["w"].read().tobytes() == b"5678"


def test_entries_of_external_data_come_once(tmp_path: Path) -> None:
    """A key twice would leave it to the reader which of the two holds."""
    (tmp_path / "w.bin").write_bytes(b"12345678")
    with pytest.raises(InputError, match="offset of external data is there twice"):
        read(tmp_path, tensor(1, [1], place(location="w.bin", offset="0"), place(offset="4")[2:]))
