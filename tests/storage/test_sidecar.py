"""The record beside an output: what is one, and whose metadata it gives."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from porter import codecs
from porter.errors import InputError, UsageError
from porter.storage import sidecar
from porter.tensors.state_dict import StateDict

RECORD = {"schema": sidecar.SCHEMA, "metadata": {"k": "v"}}


def record(path: Path, content: object = RECORD) -> str:
    """Write a record beside `path`: a value, or text as it is."""
    target = Path(f"{path}{sidecar.SUFFIX}")
    target.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(target)


FOREIGN: dict[str, tuple[object, str]] = {
    "no JSON": ("{", "is not JSON"),
    "deep": ("[" * 100_000, "is not JSON"),
    "half a character": ({**RECORD, "metadata": {"k": "\ud800"}}, "is not JSON"),
    "no object": ([], "is malformed"),
    "another schema": ({**RECORD, "schema": "x"}, "is not a record of provenance that this porter"),
    "no schema": ({"metadata": {}}, "is not a record of provenance that this porter knows"),
    "no metadata": ({"schema": sidecar.SCHEMA}, "the record of provenance has no metadata"),
    "metadata of a list": ({**RECORD, "metadata": []}, "the record of provenance has no metadata"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_what_is_no_record_is_left_alone(kind: str, tmp_path: Path) -> None:
    """It is not read, not replaced, and of no account to a checkpoint that is read."""
    content, message = FOREIGN[kind]
    codecs.write(StateDict.of({"a": np.ones(3)}), str(tmp_path / "a.pth"), "torch")
    path = record(tmp_path / "a.pth", content)
    with pytest.raises(InputError, match=message):
        sidecar.read_beside(path)
    with pytest.raises(UsageError, match="is where the record goes, and is not porter's"):
        sidecar.refuse_foreign(path)
    state = sidecar.with_record(codecs.read(str(tmp_path / "a.pth")))
    assert state.origin is not None
    assert state.origin.metadata == {}


def test_record_of_the_limit_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record as long as the limit, and no longer."""
    path = record(tmp_path / "a")
    size = Path(path).stat().st_size
    monkeypatch.setattr(sidecar, "_LARGEST_RECORD", size)
    assert sidecar.read_beside(path) == RECORD
    monkeypatch.setattr(sidecar, "_LARGEST_RECORD", size - 1)
    with pytest.raises(InputError, match=f"has {size} bytes; {size - 1} is the limit"):
        sidecar.read_beside(path)
    sidecar.refuse_foreign(str(tmp_path / "none"))


def test_record_gives_what_a_format_has_no_place_for(tmp_path: Path) -> None:
    """A format with metadata of its own is not given that of a record that lies beside it."""
    for name, format, takes in (("a.pth", "torch", True), ("a.st", "safetensors", False)):
        codecs.write(StateDict.of({"a": np.ones(3)}), str(tmp_path / name), format)
        record(tmp_path / name)
        found = codecs.read(str(tmp_path / name))
        assert found.origin is not None
        given = sidecar.with_record(found)
        assert given.origin is not None
        assert (given.origin.metadata.get("k") == "v") is takes
        assert ("k" in given.origin.metadata) is takes
    state = StateDict.of({"a": np.ones(3)})
    assert sidecar.with_record(state) is state


def test_a_file_has_the_last_word_about_itself(tmp_path: Path) -> None:
    """What stands in the file goes before what the record beside it says of the same."""
    codecs.write(StateDict.of({"a": np.ones(3)}), str(tmp_path / "a.pth"), "torch")
    record(tmp_path / "a.pth", {**RECORD, "metadata": {"k": "beside", "other": "beside"}})
    state = codecs.read(str(tmp_path / "a.pth"))
    assert state.origin is not None
    origin = replace(state.origin, metadata={"k": "inside"})
    given = sidecar.with_record(StateDict(dict(state), origin)).origin
    assert given is not None
    assert given.metadata == {"k": "inside", "other": "beside"}


@pytest.mark.parametrize("key", ["shared", "ties"])
@pytest.mark.parametrize("format", ["torch", "npz"])
def test_shared_tensors_are_taken_from_the_record_of_an_archive(
    format: str, key: str, tmp_path: Path
) -> None:
    """Only a `.npz` needs it: other formats share by themselves. Earlier records said "ties"."""
    path = tmp_path / f"a.{'pth' if format == 'torch' else 'npz'}"
    codecs.write(StateDict.of({"a": np.ones(3), "b": np.ones(3)}), str(path), format)
    record(path, {**RECORD, key: {"b": "a"}})
    given = sidecar.with_record(codecs.read(str(path)))
    tied = given["a"].tie is not None and given["a"].tie == given["b"].tie
    assert tied is (format == "npz")
