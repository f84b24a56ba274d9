"""What a file is, by its content, and what is said of one that is something else."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from porter import codecs
from porter.codecs.detect import detect
from porter.errors import InputError, UsageError
from porter.storage.input_file import InputFile
from tests.codecs.torch.torch_pickles import (
    NUMBERS,
    PLAIN,
    archive,
)

MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, 2)[2:]
SNIFFED: dict[str, tuple[bytes, str]] = {
    "zip, cut short": (b"PK\3\4", "torch"),
    "zip, cut in a name": (b"PK\3\4" + bytes(22) + b"\x09\0\0\0w.npy", "npz"),
    "zip of one letter": (b"PK\3\4" + bytes(22) + b"\x09\0\0\0w", "torch"),
    "torch": (archive({}), "torch"),
    "npy": (b"\x93NUMPY\1\0", "npy"),
    "pickle": (b"\x80\x02}.", "paddle"),
    "legacy": (pickle.dumps(0x1950A86A20F9469CFC6C, 2), "torch-legacy"),
    "legacy, protocol 4": (pickle.dumps(0x1950A86A20F9469CFC6C, 4), "torch-legacy"),
    "protocol 5": (b"\x80\5}.", "paddle"),
    "magic in front": (b"\x80\4" + b"N" * 17 + MAGIC, "torch-legacy"),
    "magic behind much": (b"\x80\4" + b"N" * 18 + MAGIC, "paddle"),
    "safetensors": (b"\2\0\0\0\0\0\0\0{}", "safetensors"),
    "safetensors, header of 123 bytes": (b"{" + bytes(7) + b" \t\r\n{}", "safetensors"),
    **{
        f"safetensors, header of {length} bytes": (
            length.to_bytes(8, "little") + b'{"',
            "safetensors",
        )
        for length in (0x0280, 0x0380, 0x0480, 0x0580, 0x10480, 0x04034B50, 0x8B1F)
    },
    "index": (b'{"weight_map": {}}', "index"),
    "index with a NUL": (b'{"a": 12\0}', "index"),
    "onnx": (b"\x08\x07\x12\x00", "onnx"),
}


@pytest.mark.parametrize("kind", SNIFFED)
def test_content_tells_the_format(kind: str, tmp_path: Path) -> None:
    """The first bytes say what a file is."""
    data, expected = SNIFFED[kind]
    path = tmp_path / "x"
    path.write_bytes(data)
    assert detect(InputFile(path)) == expected


FOREIGN: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty"),
    "git-lfs": (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    "web page": (b"\n<!DOCTYPE html>", "the download failed"),
    "gzip": (b"\x1f\x8b\x08", "gzip"),
    "zstd": (b"\x28\xb5\x2f\xfd", "zstd"),
    "xz": (b"\xfd7zXZ\0", "xz"),
    "bzip2": (b"BZh9", "bzip2"),
    "7z": (b"7z\xbc\xaf\x27\x1c", "7z"),
    "HDF5": (b"\x89HDF\r\n\x1a\n", "HDF5"),
    "GGUF": (b"GGUF", "GGUF"),
    "program": (b"\x7fELF", "a program"),
    "PDF": (b"%PDF-1.4", "PDF"),
    "tensor stream, cut short": (b"\0" * 16 + b"\6\0\0\0", "not a format"),
    "tar": (b"x" + bytes(256) + b"ustar" + bytes(250), "save it again by torch.save"),
    "old tar": (b"storages".ljust(512, b"\0"), "torch wrote before 0.2"),
    "zeros": (b"\0" * 16, "begins with zeros only"),
    "old tar, cut short": (b"storages".ljust(511, b"\0"), "not a format that porter reads"),
    "protocol 1": (b"\x80\1}.", "not a format that porter reads"),
    "protocol 6": (b"\x80\6}.", "not a format that porter reads"),
    "half a pickle": (b"\x80", "not a format that porter reads"),
    "text": (b"hello", "not a format that porter reads"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_foreign_file_is_called_by_its_kind(kind: str, tmp_path: Path) -> None:
    """What is no checkpoint is refused by what it is instead."""
    data, message = FOREIGN[kind]
    path = tmp_path / "x.pth"
    path.write_bytes(data)
    with pytest.raises(InputError, match=message):
        detect(InputFile(path))


def test_name_that_lies_is_refused_unless_told(tmp_path: Path) -> None:
    """A file whose name says another format is read when the format is said."""
    path = tmp_path / "a.pdparams"
    path.write_bytes(archive({"w": PLAIN}, NUMBERS))
    with pytest.raises(
        InputError, match=r"is a torch zip file, though its name ends in \.pdparams"
    ):
        codecs.read(str(path))
    assert list(codecs.read(str(path), format="torch")) == ["w"]
    for name in ("a.bin", "a.ckpt", "a", "a.PTH"):
        path = path.rename(tmp_path / name)
        assert list(codecs.read(str(path))) == ["w"]


def test_format_that_was_said_is_held_to(tmp_path: Path) -> None:
    """A file that is something else than was said is called by its kind, with its name."""
    path = tmp_path / "a.pth"
    path.write_bytes(archive({"w": PLAIN}, NUMBERS))
    with pytest.raises(UsageError, match=r"a\.pth: is a torch checkpoint, not a NumPy archive"):
        codecs.read(str(path), format="npz")
    with pytest.raises(UsageError, match="no format is called zzz; there are torch"):
        codecs.read(str(path), format="zzz")


def test_key_that_is_not_there_names_the_file(tmp_path: Path) -> None:
    """A key where there is none says which file was looked into, whatever its format."""
    path = tmp_path / "a.pth"
    path.write_bytes(archive({"w": PLAIN}, NUMBERS))
    with pytest.raises(UsageError, match=r"a\.pth: no state dict is called model"):
        codecs.read(str(path), key="model")
    for name, format in (("b.npz", "npz"), ("b.safetensors", "safetensors")):
        codecs.write(codecs.read(str(path)), str(tmp_path / name), format)
        with pytest.raises(UsageError, match=rf"{name}: no state dict is called model: {format}"):
            codecs.read(str(tmp_path / name), key="model")
