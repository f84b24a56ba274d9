"""The files between parent and worker: safetensors that its own library reads, or one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from safetensors import safe_open

from porter.errors import InputError
from porter.frameworks import exchange

ARRAYS: dict[str, Any] = {
    "a": np.arange(6.0).reshape(2, 3),
    "t": np.arange(6.0).reshape(2, 3).T,
    "same": np.arange(6.0).reshape(2, 3),
    "s": np.float32(3).reshape(()),
    "e": np.zeros((0, 3), np.int64),
    "b": np.array([True, False]),
}


def test_the_library_reads_what_is_stored(tmp_path: Path) -> None:
    """Arrays of any order come out equal; two equal ones are stored once."""
    exchange.save(tmp_path / "x", ARRAYS, {"k": [1]})
    stored = safetensors.numpy.load_file(tmp_path / "x")
    assert stored.keys() == ARRAYS.keys() - {"same"}
    assert all(np.array_equal(array, ARRAYS[name]) for name, array in stored.items())
    arrays, about = exchange.load(tmp_path / "x")
    assert about == exchange.about(tmp_path / "x") == {"k": [1]}
    assert arrays.keys() == ARRAYS.keys()
    for name, array in arrays.items():
        assert array.dtype == ARRAYS[name].dtype
        assert array.shape == ARRAYS[name].shape
        assert array.tobytes() == np.ascontiguousarray(ARRAYS[name]).tobytes()
        assert array.flags.writeable


def test_what_the_library_wrote_is_read(tmp_path: Path) -> None:
    """A file without the metadata has arrays and an empty value; `wanted` chooses."""
    safetensors.numpy.save_file({"a": ARRAYS["a"], "b": ARRAYS["b"]}, tmp_path / "x")
    arrays, about = exchange.load(tmp_path / "x", {"b"})
    assert list(arrays) == ["b"]
    assert about == {}
    with safe_open(tmp_path / "x", "numpy") as file:
        assert np.array_equal(file.get_tensor("b"), arrays["b"])


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"porter": "{"}, "are not JSON"),
        ({"porter": "[1]"}, "not a JSON object"),
        ({"porter.same": '{"c": "gone"}'}, "'gone' is missing"),
    ],
)
def test_damaged_metadata_end_in_one_line(
    metadata: dict[str, str], message: str, tmp_path: Path
) -> None:
    """Metadata of another program, or none of a trace, are an input error with the path."""
    safetensors.numpy.save_file({"a": ARRAYS["a"]}, tmp_path / "x", metadata)
    with pytest.raises(InputError, match=message) as caught:
        exchange.load(tmp_path / "x")
    assert str(caught.value).startswith(str(tmp_path / "x"))


def test_a_file_that_is_cut_is_refused(tmp_path: Path) -> None:
    """A header without its tensors is not a trace."""
    exchange.save(tmp_path / "x", ARRAYS, {})
    data = (tmp_path / "x").read_bytes()
    (tmp_path / "x").write_bytes(data[:-1])
    with pytest.raises(InputError, match="cannot be read as a trace"):
        exchange.about(tmp_path / "x")
