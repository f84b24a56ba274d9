"""torch's files from before 1.6: five pickles and the storages behind them."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from porter import codecs
from porter.codecs.pickle.cursor import Cursor
from porter.errors import InputError
from porter.storage.input_file import InputFile
from tests.codecs.torch.torch_files import (
    LEGACY,
    saved,
)


def test_legacy_storage_views_are_read(tmp_path: Path) -> None:
    """Before torch 0.4 a storage could be a part of another; its tensors are found there."""
    path = tmp_path / "a.pth"
    saved({"w": torch.arange(6.0)}, path, **LEGACY)
    data = path.read_bytes()
    whole = b"K\x06Nt"
    at = data.index(whole)
    part = b"K\x06(X\4\0\0\0partK\x02K\x03tt"
    inner = data[at + len(whole) :].replace(b"K\x06\x85", b"K\x03\x85", 1)
    path.write_bytes(data[:at] + part + inner)
    state = codecs.read(str(path))
    assert np.array_equal(state["w"].read(), [2, 3, 4])
    assert torch.equal(torch.load(path, weights_only=False)["w"], torch.tensor([2.0, 3, 4]))
    for bad in (b"K\x05K\x03", b"K\x00K\x09"):
        path.write_bytes(path.read_bytes().replace(b"K\x02K\x03tt", bad + b"tt"))
        with pytest.raises(InputError, match=r"does not fit|reaches to byte"):
            codecs.read(str(path))
        path.write_bytes(data[:at] + part + inner)


LEGACY_DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "magic": (lambda data: data.replace(b"\x6c\xfc\x9c", b"\x6c\xfc\x9d"), "bare pickle"),
    "version": (lambda data: data.replace(b"M\xe9\x03.", b"M\xe8\x03.", 1), "unknown version"),
    "big-endian": (
        lambda data: data.replace(b"little_endianq\x02\x88", b"little_endianq\x02\x89"),
        "big",
    ),
    "storage cut": (lambda data: data[:-1], "truncated: 24 bytes wanted, 23 left"),
    "tail": (lambda data: data + b"x", "bytes after the storages"),
    "length": (lambda data: data[:-32] + struct.pack("<q", 5) + data[-24:], "has 5 elements"),
    "length below zero": (lambda data: data[:-32] + struct.pack("<q", -6) + data[-24:], "has -6"),
}


@pytest.mark.parametrize("kind", LEGACY_DAMAGE)
def test_damaged_legacy_file_is_refused(kind: str, tmp_path: Path) -> None:
    """The five pickles and the storages behind them must fit each other."""
    change, message = LEGACY_DAMAGE[kind]
    path = Path(saved({"w": torch.arange(6.0)}, tmp_path / "a.pth", **LEGACY))
    data = path.read_bytes()
    assert change(data) != data
    path.write_bytes(change(data))
    with pytest.raises(InputError, match=message):
        codecs.read(str(path))


def test_length_is_looked_at_and_left(tmp_path: Path) -> None:
    """A length may be zero and not below; looking at it does not move the place."""
    (tmp_path / "a").write_bytes(bytes(8) + b"\xff" * 8)
    with InputFile(tmp_path / "a") as file:
        cursor = Cursor(file, 0, 16)
        assert cursor.peek_integer(8) == 0
        assert cursor.integer(8) == 0
        with pytest.raises(InputError, match="a length below zero"):
            cursor.peek_integer(8)


def test_expanded_views_are_bounded(tmp_path: Path) -> None:
    """Views that together would fill far more than the file are refused here as well."""
    path = saved({"w": torch.zeros(1).expand(1 << 25)}, tmp_path / "a.pth", **LEGACY)
    with pytest.raises(InputError, match="134217728 bytes of tensors out of a file of"):
        codecs.read(path)
