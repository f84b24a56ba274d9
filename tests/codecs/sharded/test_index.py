"""An index and its shards: each rule, and what keeps within it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from porter import codecs
from porter.codecs import safetensors
from porter.codecs.sharded import index as sharded
from porter.errors import InputError
from porter.tensors.lazy import LazyTensor
from porter.tensors.state_dict import StateDict

NAMES = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def shard(folder: Path, name: str, state: StateDict, **metadata: str) -> None:
    """Write a file of safetensors that is no more than that."""
    with (folder / name).open("wb") as out:
        for piece in safetensors.pieces(state, metadata):
            if isinstance(piece, bytes):
                out.write(piece)
            else:
                out.writelines(piece.tensor.blocks())  # type: ignore[union-attr]


def index(folder: Path, content: object) -> str:
    """Write an index: a value, or text as it is."""
    path = folder / "model.safetensors.index.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """Return a folder with two shards of a tensor each."""
    for number, name in enumerate(NAMES):
        state = StateDict.of({"ab"[number]: np.full(2, number, np.float32)})
        shard(tmp_path, name, state, place=str(number))
    return tmp_path


MAP = dict(zip("ab", NAMES, strict=True))


@pytest.mark.parametrize(
    "metadata",
    [
        {"metadata": {"total_size": 16}},
        {"metadata": {"format": "pt", "total_size": 16, "more": None}},
        {"metadata": {}},
        {},
    ],
)
def test_index_may_say_more_or_less(metadata: dict[str, object], pair: Path) -> None:
    """The total and what is beside it may be there or not; the first shard's notes are kept."""
    found = codecs.read(index(pair, {**metadata, "weight_map": MAP}))
    assert {name: tensor.read()[0] for name, tensor in found.items()} == {"a": 0, "b": 1}
    assert found.origin is not None
    assert found.origin.metadata == {"place": "0"}


NOTED: dict[str, tuple[dict[str, object], str]] = {
    "total too small": (
        {"metadata": {"total_size": 15}},
        "total_size of the index is 15, the shards have 16 bytes",
    ),
    "total of a text": ({"metadata": {"total_size": "15"}}, "is 15, the shards have 16"),
    "total of words": ({"metadata": {"total_size": "16 B"}}, "total_size of the index is not a"),
    "total of a list": ({"metadata": {"total_size": [16]}}, "total_size of the index is not a"),
    "an entry of another program": (
        {"format": "pt", "more": {"deep": [{}, [1, "x", None]]}},
        "the index has entries that porter does not use: format, more",
    ),
}


@pytest.mark.parametrize("kind", NOTED)
def test_what_is_unusual_in_an_index_is_a_note(kind: str, pair: Path) -> None:
    """A wrong total and unknown entries are reported; the tensors are those of the shards."""
    more, note = NOTED[kind]
    found = codecs.read(index(pair, {**more, "weight_map": MAP}))
    assert list(found) == ["a", "b"]
    assert found.origin is not None
    assert len(found.origin.notes) == 1
    assert note in found.origin.notes[0]


def test_total_as_a_text_is_a_number(pair: Path) -> None:
    """A right total, written as text or not written at all, is nothing to report."""
    for metadata in ({"total_size": "16"}, {"total_size": None}, None, {}):
        found = codecs.read(index(pair, {"metadata": metadata, "weight_map": MAP}))
        assert found.origin is not None
        assert not found.origin.notes


def test_paths_of_windows_are_read(pair: Path) -> None:
    """A backslash separates folders, `./` changes nothing, and both stay below the index."""
    (pair / "parts").mkdir()
    for name in NAMES:
        (pair / name).rename(pair / "parts" / name)
    files = {"a": f".\\parts\\{NAMES[0]}", "b": f"parts\\{NAMES[1]}"}
    found = codecs.read(index(pair, {"weight_map": files}))
    assert {name: tensor.read()[0] for name, tensor in found.items()} == {"a": 0, "b": 1}
    assert found.origin is not None
    assert "Windows" in found.origin.notes[0]
    for out in ("..\\x.safetensors", "parts\\..\\..\\x.safetensors", "\\x.safetensors"):
        with pytest.raises(InputError, match="not a path below"):
            codecs.read(index(pair, {"weight_map": {"a": out}}))


def test_values_nested_without_end_are_refused(pair: Path) -> None:
    """Entries that nobody asks for are read through, to a limited depth."""
    deep = "[" * 40 + "]" * 40
    text = f'{{"weight_map": {json.dumps(MAP)}, "more": {deep}}}'
    with pytest.raises(InputError, match="nested deeper than 32"):
        codecs.read(index(pair, text))


def test_shards_of_paddle(tmp_path: Path) -> None:
    """PaddleNLP's index names shards that are pickles; bfloat16 is stored as uint16 there."""
    paddle = pytest.importorskip("paddle")
    names = ("model_state-00001-of-00002.pdparams", "model_state-00002-of-00002.pdparams")
    paddle.save({"a": paddle.to_tensor([1.0])}, str(tmp_path / names[0]))
    paddle.save({"b": paddle.to_tensor([2.0]).astype("bfloat16")}, str(tmp_path / names[1]))
    path = tmp_path / "model_state.pdparams.index.json"
    path.write_text(json.dumps({"weight_map": dict(zip("ab", names, strict=True))}))
    found = codecs.read(str(path))
    assert {name: float(tensor.read()[0]) for name, tensor in found.items()} == {"a": 1, "b": 2}
    assert [tensor.dtype.name for tensor in found.values()] == ["float32", "bfloat16"]
    assert codecs.read(str(path), uint16="uint16")["b"].dtype.name == "uint16"


def test_index_of_one_file(tmp_path: Path) -> None:
    """An index may name a single file; spaces in it change nothing."""
    shard(tmp_path, "model.safetensors", StateDict.of({"a": np.ones(2)}))
    text = '{ "metadata" : { } , "weight_map" : { "a" : "model.safetensors" } } '
    assert list(codecs.read(index(tmp_path, text))) == ["a"]


def test_index_has_limits(pair: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So many bytes, so many tensors."""
    path = index(pair, {"weight_map": MAP})
    size = Path(path).stat().st_size
    monkeypatch.setattr(sharded, "LARGEST_INDEX", size)
    monkeypatch.setattr(sharded, "MOST_TENSORS", 2)
    assert list(codecs.read(path)) == ["a", "b"]
    monkeypatch.setattr(sharded, "MOST_TENSORS", 1)
    with pytest.raises(InputError, match="more than 1 tensors"):
        codecs.read(path)
    monkeypatch.setattr(sharded, "LARGEST_INDEX", size - 1)
    with pytest.raises(InputError, match=rf"an index of {size} bytes; {size - 1} is the limit"):
        codecs.read(path)


BAD: dict[str, tuple[object, str]] = {
    "two objects": (json.dumps({"weight_map": MAP}) + "{}", "more than one JSON object"),
    "file of a number": ({"weight_map": {"a": 1}}, "the file of a is not text"),
    "no UTF-8 in it": ('{"weight_map": {"a": "\\ud800"}}', "a lone surrogate"),
    "second shard left out": (
        {"weight_map": {"a": NAMES[0], "b": "model-00003-of-00002.safetensors"}},
        "the index does not name model-00002-of-00002",
    ),
    "tensor of nowhere": (
        {"weight_map": {**MAP, "c": NAMES[1]}},
        "tensors that no shard contains: c",
    ),
    "tensor left out": ({"weight_map": {"x": NAMES[0], "b": NAMES[1]}}, "the index says nowhere"),
}


@pytest.mark.parametrize("kind", BAD)
def test_index_that_does_not_fit_is_refused(kind: str, pair: Path) -> None:
    """Each rule refuses what breaks it, by its own words."""
    content, message = BAD[kind]
    with pytest.raises(InputError, match=message):
        codecs.read(index(pair, content))


def test_index_of_other_bytes_is_refused(tmp_path: Path) -> None:
    """An index is UTF-8."""
    path = index(tmp_path, "")
    Path(path).write_bytes(b'{"weight_map": {"\xff": "x"}}')
    with pytest.raises(InputError, match="the index is not UTF-8"):
        codecs.read(path)


def test_tensor_in_two_shards_is_told(pair: Path) -> None:
    """A name that both shards hold is refused as that."""
    shard(pair, NAMES[1], StateDict.of({"a": np.ones(1), "b": np.ones(1)}))
    with pytest.raises(InputError, match="two shards contain a"):
        codecs.read(index(pair, {"weight_map": MAP}))


@pytest.mark.parametrize(("total", "sound"), [(40, True), (32, True), (24, False), (8, False)])
def test_tied_tensors_count_once_or_each(total: int, sound: bool, tmp_path: Path) -> None:
    """Writers count tied tensors once, or each of them, and other tensors always."""
    tied = LazyTensor.of(np.ones(1))
    tied.tie = "t"
    others = {name: LazyTensor.of(np.ones(1)) for name in "cde"}
    shard(tmp_path, "x.safetensors", StateDict({"a": tied, "b": tied, **others}))
    content = {
        "metadata": {"total_size": total},
        "weight_map": dict.fromkeys("abcde", "x.safetensors"),
    }
    found = codecs.read(index(tmp_path, content))
    assert list(found) == list("abcde")
    assert found.origin is not None
    note = f"total_size of the index is {total}, the shards have 40 bytes"
    assert found.origin.notes == (() if sound else (note,))


@pytest.mark.parametrize(
    ("index", "what"),
    [
        (
            r'{"weight_map": {"a\q": "x.safetensors"}}',
            "is not JSON begins at character 16",
        ),
        ('{"more": nan, "weight_map": {}}', "neither a text nor a number"),
        ('{"more": [1 2], "weight_map": {}}', "] expected at character 12"),
    ],
)
def test_odd_json_is_refused_where_it_stands(index: str, what: str, tmp_path: Path) -> None:
    """An escape that JSON has not, and a list where a number goes, are named."""
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(index)
    with pytest.raises(InputError, match=what):
        codecs.read(str(path))


def test_an_index_is_written_as_others_write_it() -> None:
    """Two spaces a level, names as they are, a newline at the end: what huggingface_hub writes."""
    text = sharded.text_of({"é": "m.safetensors"}, 4).decode()
    assert text == (
        '{\n  "metadata": {\n    "total_size": 4\n  },\n'
        '  "weight_map": {\n    "é": "m.safetensors"\n  }\n}\n'
    )
