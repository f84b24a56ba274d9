"""What a file says about tensors that its graph does not use is checked before it is believed."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from porter.errors import InputError, UsageError
from porter.onnx.export.metadata import UNUSED, read_labels, unused, with_unused
from porter.tensors.lazy import LazyTensor
from porter.tensors.state_dict import Origin, StateDict

STATE = StateDict.of({"a": np.ones(2, np.float32), "n": np.array(7), "b": np.zeros(1, np.float32)})


def noted(text: str) -> StateDict:
    """Return the state dict of a file whose metadata hold that note."""
    origin = Origin("m.onnx", "onnx", metadata={UNUSED: text})
    return with_unused(StateDict({"a": STATE["a"], "b": STATE["b"]}, origin))


def test_unused_tensors_come_back_at_their_place() -> None:
    """Order, dtype, shape and bytes are those of the state dict that was written."""
    found = noted(unused(STATE, ["n"]))
    assert list(found) == ["a", "n", "b"]
    assert found["n"].read() == 7
    assert found["n"].dtype.name == "int64"


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[1]", '[[0,"n","int64",[-1],"BwAAAAAAAAA="]]', '[[-1,"n","int64",[],""]]',
        '[[0,"n","int64",[2],"BwAAAAAAAAA="]]', '[[0,"n","int7",[],"BwAAAAAAAAA="]]',
        '[[0,"n","int64",[],"not base64"]]', '[[0,3,"int64",[],"BwAAAAAAAAA="]]', "[" * 100_000,
    ],
)  # fmt: skip
def test_a_note_that_makes_no_sense_is_refused(text: str) -> None:
    """Whatever stands there, the answer is one line."""
    with pytest.raises(InputError, match="is malformed"):
        noted(text)


def test_weights_are_no_note() -> None:
    """A large tensor that the graph does not use is not hidden in the metadata."""
    state = StateDict({"w": LazyTensor.of(np.zeros(1 << 19, np.float32))})
    with pytest.raises(UsageError, match="does not use w"):
        unused(state, ["w"])


def test_labels_are_a_small_file(tmp_path: Path) -> None:
    """Labels in a pipe, a device or a very large file are refused at once."""
    os.mkfifo(tmp_path / "pipe")
    with open(tmp_path / "large", "wb") as file:
        file.truncate(1 << 40)
    for path, message in (("pipe", "a pipe"), ("/dev/zero", "a device"), ("large", "is the limit")):
        with pytest.raises(InputError, match=message):
            read_labels(str(tmp_path / path), 2)
    (tmp_path / "labels").write_text("cat\ndog\n")
    assert read_labels(str(tmp_path / "labels"), 2) == ["cat", "dog"]
