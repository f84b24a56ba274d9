"""The header of safetensors: how long, how many, and how it may be spelt."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from porter import codecs
from porter.codecs import safetensors
from porter.errors import InputError, UsageError
from porter.storage.input_file import InputFile
from porter.tensors.state_dict import StateDict


def header(folder: Path, text: str, data: bytes = b"") -> str:
    """Write a safetensors file."""
    path = folder / "a.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text.encode() + data)
    return str(path)


def test_header_of_safetensors_has_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So many tensors, so many notes, so many bytes."""
    rows = ",".join(f'"{n}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}' for n in "abc")
    assert len(codecs.read(header(tmp_path, f'{{"__metadata__":{{"n":"1","m":"2"}},{rows}}}'))) == 3
    monkeypatch.setattr(safetensors, "MOST_TENSORS", 2)
    with pytest.raises(InputError, match="more than 2 tensors"):
        codecs.read(header(tmp_path, f"{{{rows}}}"))
    monkeypatch.setattr(safetensors, "_MOST_NOTES", 1)
    with pytest.raises(InputError, match="more than 1 entries of metadata"):
        codecs.read(header(tmp_path, '{"__metadata__":{"n":"1","m":"2"}}'))
    state = StateDict.of({"w": np.ones(2)})
    length = len(next(safetensors.pieces(state, {}))) - 8  # type: ignore[arg-type]
    assert length == 56
    monkeypatch.setattr(safetensors, "LARGEST_HEADER", 56)
    list(safetensors.pieces(state, {}))
    monkeypatch.setattr(safetensors, "LARGEST_HEADER", 55)
    with pytest.raises(UsageError, match="a header of 56 bytes; safetensors allows 55"):
        list(safetensors.pieces(state, {}))
    (tmp_path / "short").write_bytes(b"1234")
    with pytest.raises(InputError, match="truncated: 4 bytes are not a safetensors file"):
        safetensors.read(InputFile(tmp_path / "short"))


@pytest.mark.parametrize(
    ("code", "offsets", "message"),
    [
        ("U8", (1, 3), "w follows a gap: begins at 1, 0 expected"),
        ("U8", (0, 2), r"a\.safetensors: tensors fill 2 bytes, the file has 3"),
        ("U8", (0, 4), "truncated: tensors fill 4 bytes, the file has 3"),
        ("F4", (0, 3), "w has dtype F4, which packs elements into parts of bytes"),
        ("F5", (0, 3), "w has dtype F5, unknown"),
    ],
)
def test_header_says_what_is_wrong_with_it(
    code: str, offsets: tuple[int, int], message: str, tmp_path: Path
) -> None:
    """Gaps, missing bytes and dtypes are each told as what they are."""
    begin, end = offsets
    row = f'"w":{{"dtype":"{code}","shape":[{end - begin}],"data_offsets":[{begin},{end}]}}'
    with pytest.raises(InputError, match=message):
        codecs.read(header(tmp_path, f"{{{row}}}", b"abc"))


def test_tensors_that_overlap_are_told(tmp_path: Path) -> None:
    """Two tensors may not share a byte."""
    rows = (f'"{n}":{{"dtype":"U8","shape":[2],"data_offsets":[{at},{at + 2}]}}'
            for n, at in (("a", 0), ("b", 1)))  # fmt: skip
    with pytest.raises(InputError, match="b overlaps another tensor: begins at 1, 2 expected"):
        codecs.read(header(tmp_path, f"{{{','.join(rows)}}}", b"abc"))


def test_header_of_the_limit_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A header as long as the limit, and as long as the file, and no longer."""
    text = '{"w":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'
    path = header(tmp_path, text)
    monkeypatch.setattr(safetensors, "LARGEST_HEADER", len(text))
    assert list(codecs.read(path)) == ["w"]
    Path(path).write_bytes(Path(path).read_bytes()[:-1])
    with pytest.raises(InputError, match="truncated: a header of 53 bytes, 52 left"):
        codecs.read(path)
    monkeypatch.setattr(safetensors, "LARGEST_HEADER", len(text) - 1)
    with pytest.raises(InputError, match="a header of 53 bytes; 52 is the limit"):
        codecs.read(header(tmp_path, text))
    (tmp_path / "zeros").write_bytes(bytes(8))
    with pytest.raises(InputError, match=r"no JSON object: \{ expected at character 0"):
        safetensors.read(InputFile(tmp_path / "zeros"))


def test_empty_tensors_lie_where_they_like(tmp_path: Path) -> None:
    """A tensor of no bytes may be named before the one at whose end it lies."""
    rows = (
        f'"{name}":{{"dtype":"U8","shape":[{end - begin}],"data_offsets":[{begin},{end}]}}'
        for name, begin, end in (("b", 3, 3), ("a", 0, 3), ("c", 0, 0))
    )
    found = codecs.read(header(tmp_path, f"{{{','.join(rows)}}}", b"abc"))
    assert {name: tensor.nbytes for name, tensor in found.items()} == {"b": 0, "a": 3, "c": 0}


def test_spaces_change_nothing(tmp_path: Path) -> None:
    """White space is allowed wherever JSON allows it, in metadata and in lists too."""
    text = (
        ' { "__metadata__" : { "k" : "v" } , "w" : { "shape" : [ ] , "dtype" : "U8" ,'
        ' "data_offsets" : [ 0 , 1 ] } , "v":{"dtype":"U8","shape":[],"data_offsets":[1,2]} } '
    )
    found = codecs.read(header(tmp_path, text, b"ab"))
    assert {name: tensor.shape for name, tensor in found.items()} == {"w": (), "v": ()}
    assert found.origin is not None
    assert found.origin.metadata == {"k": "v"}


FAR = 1 << 48


@pytest.mark.parametrize(
    ("shape", "offsets", "message"),
    [
        ("5", (5, 3), r"the data_offsets of w are malformed: \[5, 3\]"),
        ("0", (FAR + 1, FAR + 1), "the data_offsets of w are malformed"),
        ("0", (FAR, FAR), "w follows a gap"),
        (f"0,{FAR + 1}", (0, 0), "does not fill its 0 bytes"),
    ],
)
def test_numbers_have_limits(
    shape: str, offsets: tuple[int, int], message: str, tmp_path: Path
) -> None:
    """Offsets go forward, and neither they nor a shape go far beyond any file."""
    row = f'"w":{{"dtype":"U8","shape":[{shape}],"data_offsets":[{offsets[0]},{offsets[1]}]}}'
    with pytest.raises(InputError, match=message):
        codecs.read(header(tmp_path, f"{{{row}}}"))


def test_a_shape_of_the_limit_is_read(tmp_path: Path) -> None:
    """A length beside a zero may be as large as that of any file."""
    row = f'"w":{{"dtype":"U8","shape":[0,{FAR}],"data_offsets":[0,0]}}'
    assert codecs.read(header(tmp_path, f"{{{row}}}"))["w"].shape == (0, FAR)


def test_metadata_may_be_null(tmp_path: Path) -> None:
    """The reference implementation reads null as no metadata; any other value is refused."""
    row = '"w":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'
    found = codecs.read(header(tmp_path, f'{{"__metadata__": null ,{row}}}'))
    assert list(found) == ["w"]
    assert found.origin is not None
    assert found.origin.metadata == {}
    for value in ("nul", "nulls", "true", "[]", '"x"'):
        with pytest.raises(InputError):
            codecs.read(header(tmp_path, f'{{"__metadata__":{value}}}'))
