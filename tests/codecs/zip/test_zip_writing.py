"""Zip files as porter writes them: read by the standard library, aligned, zip64 when needed."""

from __future__ import annotations

import functools
import os
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from porter.codecs.zip import writing
from porter.codecs.zip.directory import read_directory
from porter.codecs.zip.writing import Content, zip_pieces
from porter.errors import InputError
from porter.storage import atomic_output
from porter.storage.input_file import InputFile
from porter.storage.options import WriteOptions
from porter.storage.pieces import Body, Late, Piece, place
from porter.tensors.dtypes import DTYPES
from porter.tensors.lazy import LazyTensor
from tests.codecs.zip.zip_files import DATE, directory
from tests.systems import MEMORY


def tensor(values: list[int]) -> LazyTensor:
    """Return a tensor of bytes."""
    return LazyTensor.of(np.array(values, np.uint8))


def test_written_zip_is_read_by_the_standard_library(tmp_path: Path) -> None:
    """Members, heads and tensors come out under their names, aligned, with sound checksums."""
    path = tmp_path / "z.zip"
    contents = [
        Content("a", b"head"),
        Content("é", b"", Body("t", tensor([1, 2, 3]))),
        Content("c", b"shape", Body("u", tensor(list(range(200))))),
        Content("empty", b""),
    ]
    atomic_output.publish(path, zip_pieces(contents))
    expected = {
        "a": b"head",
        "é": b"\1\2\3",
        "c": b"shape" + bytes(range(200)),
        "empty": b"",
    }
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert {name: archive.read(name) for name in archive.namelist()} == expected
        assert all(item.date_time == DATE for item in archive.infolist())
    members = read_directory(InputFile(path))
    assert {name: member.read() for name, member in members.items()} == expected
    assert all(member.offset % 64 == 0 for member in members.values())


@settings(max_examples=60, deadline=None, derandomize=True)
@given(names=st.lists(st.text(min_size=1, max_size=130), unique=True, max_size=6))
def test_members_begin_at_the_alignment(names: list[str]) -> None:
    """Whatever the length of the names, every member's bytes begin at a multiple of 64."""
    names = [name for name in names if "\0" not in name and _is_text(name)]
    path = MEMORY / f"porter-{os.getpid()}.zip"
    contents = [Content(f"x{name}", name.encode()) for name in names]
    if contents:
        atomic_output.publish(path, zip_pieces(contents), WriteOptions(force=True))
        members = read_directory(InputFile(path))
        assert all(member.offset % 64 == 0 for member in members.values())
        path.unlink()


def _is_text(name: str) -> bool:
    return all(not 0xD800 <= ord(c) < 0xE000 for c in name) and not name.endswith("/")


def test_many_members_take_zip64(tmp_path: Path) -> None:
    """More than 65,535 members are listed by the zip64 record, for every reader."""
    path = tmp_path / "z.zip"
    count = 66_000
    atomic_output.publish(path, zip_pieces((Content(f"{i}", b"") for i in range(count)), align=1))
    with zipfile.ZipFile(path) as archive:
        assert len(archive.namelist()) == count
    assert len(read_directory(InputFile(path))) == count


def _sparse(path: Path, pieces: Iterable[Piece]) -> None:
    """Write pieces, leaving a hole where a tensor would be."""
    plan = place(pieces)
    with path.open("wb") as file:
        file.truncate(plan.nbytes)
        for offset, piece in (part for job in plan.jobs for part in job.parts):
            if not isinstance(piece, Body):
                file.seek(offset)
                file.write(piece.make() if isinstance(piece, Late) else piece)
        for late in plan.last:
            file.seek(late.offset)
            file.write(late.make())


def test_members_over_4_gib_take_zip64(tmp_path: Path) -> None:
    """Sizes and offsets beyond 32 bits are written and read, by the standard library too."""
    path = tmp_path / "z.zip"
    size = (1 << 32) + 5
    huge = LazyTensor(DTYPES["uint8"], (size,), lambda: np.empty(0))
    contents = [Content("a", b"x", Body("a", huge)), Content("b", b"tail"), Content("c", b"end")]
    _sparse(path, zip_pieces(contents))
    with zipfile.ZipFile(path) as archive:
        assert archive.getinfo("a").file_size == size + 1
        assert archive.read("b") == b"tail"
    members = read_directory(InputFile(path))
    assert members["a"].size == size + 1
    assert members["c"].read() == b"end"
    assert members["c"].offset > 1 << 32


@pytest.mark.parametrize(
    ("offset", "new", "message"),
    [
        (0, b"PK\6\5", "zip64 end record is malformed"),
        (4, b"\x2d", "zip64 end record is malformed"),
        (16, b"\1", "zip64 end record is malformed"),
        (20, b"\1", "zip64 end record is malformed"),
        (24, b"\1", "zip64 end record is malformed"),
        (56 + 16, b"\2", "where its locator says"),
        (56 + 4, b"\1", "where its locator says"),
        (56 + 8, b"\0", "where its locator says"),
        (56 + 20 + 8, b"\5\0\5\0", "two end records disagree"),
    ],
)
def test_zip64_records_must_agree(offset: int, new: bytes, message: str, tmp_path: Path) -> None:
    """The zip64 end record, its locator and the end record tell one story."""
    data = bytearray(_of_many_members())
    at = len(data) - 56 - 20 - 22 + offset
    data[at : at + len(new)] = new
    with pytest.raises(InputError, match=message):
        directory(bytes(data), tmp_path)


@functools.cache
def _of_many_members() -> bytes:
    pieces = zip_pieces([Content(f"{i}", b"") for i in range(65_600)], align=1)
    return b"".join(p.make() if isinstance(p, Late) else p for p in pieces)  # type: ignore[misc]


def test_zip64_is_not_taken_without_need() -> None:
    """A small zip has no zip64 record, so that every reader takes it."""
    pieces = list(zip_pieces([Content("a", b"x")]))
    assert writing.END64_MAGIC not in b"".join(p for p in pieces if isinstance(p, bytes))
