"""What porter has just written is mapped, and read where it cannot be."""

from __future__ import annotations

import mmap
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from porter import codecs
from porter.errors import InputError, SystemFault
from porter.storage.input_file import InputFile
from porter.storage.own_file import OwnFile
from porter.storage.read_back import digests_of
from porter.tensors import operations
from porter.tensors.state_dict import StateDict

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="files are mapped on Linux only")
FORMATS = ["torch", "paddle", "safetensors", "npz"]


@pytest.fixture(params=FORMATS)
def written(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str]:
    """A file of each format with a matrix of 4 MB, and the format's name."""
    rng = np.random.default_rng(0)
    arrays = {"b": rng.random(7).astype("f4"), "w": rng.random((1031, 1000)).astype("f4")}
    path = tmp_path / f"x.{request.param}"
    codecs.write(StateDict.of(arrays), str(path), request.param, read_back=False)
    return path, request.param


def transposed(file: InputFile, format: str) -> dict[str, str]:
    """Return the digest of the matrix, transposed."""
    state = codecs.CODECS[format].read(file, strip=False)
    tensor = operations.Permute((1, 0)).apply(state["w"])
    return digests_of({"w": tensor})


def test_mapped_matrix_is_that_which_is_read(
    written: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mapped or read, at an odd address or not, the matrix is the same; it is read once."""
    path, format = written
    expected = transposed(InputFile(path), format)
    large: list[int] = []
    real = OwnFile.pread_into

    def pread_into(file: OwnFile, offset: int, buffer: bytearray | memoryview) -> None:
        large.append(len(buffer))
        real(file, offset, buffer)

    monkeypatch.setattr(OwnFile, "pread_into", pread_into)
    assert transposed(OwnFile(str(path)), format) == expected
    assert not large
    monkeypatch.setattr(OwnFile, "_advised", lambda *_: False)
    assert transposed(OwnFile(str(path)), format) == expected
    assert large


def test_file_that_cannot_be_mapped_is_read(
    written: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some file systems have no mappings."""
    path, format = written
    expected = transposed(InputFile(path), format)

    real: Any = mmap.mmap

    def refuse(fd: int, length: int, **options: int) -> object:
        if fd >= 0:
            raise OSError
        return real(fd, length, **options)

    monkeypatch.setattr(mmap, "mmap", refuse)
    file = OwnFile(str(path))
    assert not file.is_mapped
    assert transposed(file, format) == expected


def test_checksum_of_a_mapped_member_is_compared(tmp_path: Path) -> None:
    """A bit that flipped in a zip is found in what is mapped too."""
    path = tmp_path / "x.pth"
    array = np.random.default_rng(0).random((1031, 1000)).astype("f4")
    codecs.write(StateDict.of({"w": array}), str(path), "torch", read_back=False)
    data = bytearray(path.read_bytes())
    data[data.index(array.tobytes()) + 12345] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match="damaged: its checksum differs"):
        transposed(OwnFile(str(path)), "torch")


def test_file_that_was_cut_short_is_an_error(written: tuple[Path, str]) -> None:
    """It is seen before the first page is touched."""
    path, format = written
    file = OwnFile(str(path))
    state = codecs.CODECS[format].read(file, strip=False)
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises((InputError, SystemFault)):
        list(operations.Permute((1, 0)).apply(state["w"]).blocks())
