"""Formats whose tensors have a limited number of dimensions."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from porter import codecs
from porter.errors import InputError

SUFFIXES = {"torch": "pth", "paddle": "pdparams", "npz": "npz"}


def deep(path: Path, dimensions: int) -> str:
    """A safetensors file with one tensor of so many dimensions."""
    about = {"dtype": "F32", "shape": [1] * dimensions, "data_offsets": [0, 4]}
    header = json.dumps({"w": about}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + struct.pack("<f", 2))
    return str(path)


@pytest.mark.parametrize("format", SUFFIXES)
def test_a_tensor_of_too_many_dimensions_is_refused_before_writing(
    tmp_path: Path, format: str
) -> None:
    """The most that a reader takes are written; one more is refused by the input's name."""
    most, target = codecs.MOST_DIMENSIONS[format], f"{tmp_path}/o.{SUFFIXES[format]}"
    state = codecs.read(deep(tmp_path / "i.safetensors", most + 1))
    with pytest.raises(InputError, match=f"i.safetensors: 'w' has {most + 1} dimensions"):
        codecs.write(state, target, format)
    assert [p.name for p in tmp_path.iterdir()] == ["i.safetensors"]
    codecs.write(codecs.read(deep(tmp_path / "i.safetensors", most)), target, format)
    (tensor,) = codecs.read(target).values()
    assert len(tensor.shape) == most
