"""The tar of torch 0.1: read as torch reads it, refused where it lies."""

from __future__ import annotations

import struct
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from porter import codecs
from porter.codecs.torch import legacy
from porter.codecs.torch import tar as torch_tar
from porter.errors import InputError
from porter.storage.input_file import InputFile
from tests.codecs.torch.torch_files import (
    dump,
    old_tar,
    same,
)

SYSTEM = dump({"protocol_version": 1000, "little_endian": True, "type_sizes": {"int": 4}})


@pytest.mark.parametrize("extra", [{}, {"sys_info": SYSTEM}], ids=["", "system"])
@pytest.mark.parametrize("views", [None, [(12, 11, 2, 4)]], ids=["whole", "part"])
def test_tar_is_read_as_torch_reads_it(
    views: list[tuple[int, int, int, int]] | None, extra: dict[str, bytes], tmp_path: Path
) -> None:
    """The tar of torch 0.1 gives the tensors that torch itself finds in it."""
    path = tmp_path / "a.pth"
    path.write_bytes(old_tar(views, **extra))
    expected = torch.load(path, weights_only=False)["state_dict"]
    state = codecs.read(str(path))
    assert list(state) == ["w", "t"]
    assert all(same(state[name], expected[name]) for name in expected)
    assert state.origin is not None
    assert state.origin.wrapper == "state_dict"


FLOATS = struct.pack("<q6f", 6, *range(6))


STORED = dump((11, "cpu", torch.FloatStorage)) + FLOATS


VIEWED = dump((21, 11, torch.FloatTensor)) + struct.pack("<iiqqq", 1, 0, 6, 1, 0)


def with_parts(*parts: Any) -> Callable[[], bytes]:
    """Return the maker of a tar whose storage has parts."""
    return lambda: old_tar(storages=dump(1) + STORED + dump(list(parts)))


def extended(records: bytes) -> bytes:
    """Return a tar that begins with an extended header of these bytes."""
    item = tarfile.TarInfo("pickle")
    item.type, item.size = tarfile.XHDTYPE, len(records)
    return item.tobuf() + records + bytes(-len(records) % 512) + old_tar()


TAR_DAMAGE: dict[str, tuple[Callable[[], bytes], str]] = {
    "part outside": (lambda: old_tar([(12, 11, 3, 4)]), "does not fit"),
    "part of nothing": (lambda: old_tar([(12, 99, 0, 4)]), "a part of what is not there"),
    "part of itself": (lambda: old_tar([(11, 11, 0, 6)]), "a part of what is not there"),
    "storages missing": (lambda: old_tar().replace(b"storages\0", b"storagex\0"), "no header"),
    "pickle twice": (
        lambda: old_tar(**{"./pickle": b"x"}),
        "pickle is there twice",
    ),
    "pickle goes on": (lambda: old_tar(pickle=b"\x80\x02}.x"), "bytes behind pickle"),
    "refers to nothing": (
        lambda: old_tar(pickle=b"\x80\x02X\2\0\0\x0099Q."),
        "no tensor of the tar",
    ),
    "refers to a name": (
        lambda: old_tar(pickle=b"\x80\x02X\3\0\0\0abcQ."),
        "no tensor of the tar",
    ),
    "refers to what takes for ever": (
        lambda: old_tar(pickle=b"\x80\x02)q\0" + b"h\0\x86q\0" * 60 + b"Q."),
        "no tensor of the tar",
    ),
    "storages go on": (
        lambda: old_tar(storages=dump(1) + STORED + dump([]) + b"x"),
        "bytes behind storages",
    ),
    "tensors go on": (lambda: old_tar(tensors=dump(1) + VIEWED + b"x"), "bytes behind tensors"),
    "bytes at the end": (lambda: old_tar() + b"x", "bytes behind its end"),
    "bytes in the last block": (lambda: old_tar()[:-1] + b"x", "bytes behind its end"),
    "bytes far behind": (lambda: old_tar() + bytes(3 << 20) + b"x", "bytes behind its end"),
    "refers to no number": (lambda: old_tar(pickle=b"\x80\x02]Q."), "no tensor of the tar"),
    "count": (lambda: old_tar(tensors=b"\x80\x02N."), "number of entries"),
    "count below zero": (lambda: old_tar(storages=b"\x80\x02J\xff\xff\xff\xff."), "number of"),
    "entry": (lambda: old_tar(tensors=b"\x80\x02K\1.\x80\x02N."), "an entry makes no sense"),
    "storage entry": (lambda: old_tar(storages=b"\x80\x02K\1.\x80\x02N."), "an entry makes no"),
    "storage untyped": (
        lambda: old_tar(
            storages=b"\x80\x02K\1.\x80\x02K\x0bX\3\0\0\0cpuctorch.storage\nUntypedStorage\n\x87."
        ),
        "is untyped",
    ),
    "storage long": (
        lambda: old_tar(
            storages=b"\x80\x02K\1.\x80\x02K\x0bX\3\0\0\0cpuctorch\nFloatStorage\n\x87."
            + struct.pack("<q", 1 << 40)
        ),
        "truncated: 4398046511104 bytes wanted",
    ),
    "storage below zero": (
        lambda: old_tar(
            storages=b"\x80\x02K\1.\x80\x02K\x0bX\3\0\0\0cpuctorch\nFloatStorage\n\x87."
            + struct.pack("<q", -1)
        ),
        "below zero",
    ),
    "tensor without storage": (
        lambda: old_tar(tensors=b"\x80\x02K\1.\x80\x02K\1K\5N\x87."),
        "has no storage",
    ),
    "tensor of many dimensions": (
        lambda: old_tar(tensors=dump(1, (1, 11, torch.FloatTensor)) + struct.pack("<ii", 99, 0)),
        "99 dimensions",
    ),
    "parts are no list": (
        lambda: old_tar(storages=b"\x80\x02K\0.\x80\x02N."),
        "list of parts is none",
    ),
    "storage entry of two": (lambda: old_tar(storages=dump(1, (11, "cpu"))), "an entry makes no"),
    "storage under a text": (
        lambda: old_tar(storages=dump(1, ("11", "cpu", torch.FloatStorage)) + FLOATS + dump([])),
        "an entry makes no sense",
    ),
    "storage twice": (
        lambda: old_tar(storages=dump(2) + STORED + STORED + dump([])),
        "or there twice",
    ),
    "part of three": (with_parts((12, 11, 2)), "a part makes no sense"),
    "part of texts": (with_parts((12, 11, 2, "4")), "a part makes no sense"),
    "part of a part": (with_parts((12, 11, 0, 4), (13, 12, 0, 2)), "a part of what is not there"),
    "part below zero": (with_parts((12, 11, 2, -1)), "a part of what is not there"),
    "part twice": (with_parts((12, 11, 0, 4), (12, 11, 0, 4)), "or there twice"),
    "tensor entry of two": (lambda: old_tar(tensors=dump(1, (21, 11))), "an entry makes no sense"),
    "tensor under a text": (
        lambda: old_tar(tensors=dump(1, ("21", 11, torch.FloatTensor)) + VIEWED[-32:]),
        "an entry makes no sense",
    ),
    "tensor twice": (lambda: old_tar(tensors=dump(2) + VIEWED + VIEWED), "or is there twice"),
    "tensor of a list": (
        lambda: old_tar(tensors=dump(1, (21, [11], torch.FloatTensor))),
        "has no storage",
    ),
    "another member": (lambda: old_tar(more=b"x"), "members that no torch checkpoint has: more"),
    "many members": (
        lambda: old_tar(**{f"more{i}": b"" for i in range(70)}),
        "or one of too many",
    ),
    "big-endian": (lambda: old_tar(sys_info=dump({"little_endian": False})), "is big-endian"),
    "system is a list": (lambda: old_tar(sys_info=dump([])), "is big-endian"),
    "system goes on": (lambda: old_tar(sys_info=dump({}) + b"x"), "bytes behind sys_info"),
    "tensor of another type": (
        lambda: old_tar(tensors=dump(1, (21, 11, torch.LongTensor)) + VIEWED[-32:]),
        "21 is of another type than its storage",
    ),
    "tensor of no type": (
        lambda: old_tar(tensors=dump(1, (21, 11, None)) + VIEWED[-32:]),
        "21 is of another type than its storage",
    ),
    "bytes behind a member": (lambda: old_tar(gap=b"x"), "bytes behind storages"),
    "name in two parts": (lambda: old_tar(prefix="p"), "the name storages goes on where not"),
    "name behind a NUL": (
        lambda: old_tar(extended={}, name="pickle\0x"),
        "the name pickle goes on where not",
    ),
    "another name": (lambda: old_tar(extended={"path": "pickle"}), "an extended header with path"),
    "sparse": (
        lambda: old_tar(extended={"GNU.sparse.size": "9"}),
        r"an extended header with GNU\.sparse\.size",
    ),
    "long extended header": (
        lambda: old_tar(extended={"comment": "x" * 70000}),
        "an extended header of 7",
    ),
    "record too short": (lambda: extended(b"6 a=bc\n"), "that makes no sense"),
    "record too long": (lambda: extended(b"99 size=5\n"), "that makes no sense"),
    "record without a number": (lambda: extended(b"x size=5\n"), "that makes no sense"),
    "record of no length": (lambda: extended(b"0 size=5\n"), "that makes no sense"),
    "record of nine digits": (lambda: extended(b"000000017 size=1\n"), "that makes no sense"),
    "record without a value": (lambda: extended(b"7 size\n"), "that makes no sense"),
    "record twice": (lambda: extended(b"9 size=1\n9 size=1\n"), "that makes no sense"),
    "part is no tuple": (
        lambda: old_tar(storages=b"\x80\x02K\0.\x80\x02]Na."),
        "a part makes no sense",
    ),
}


@pytest.mark.parametrize("kind", TAR_DAMAGE)
def test_damaged_tar_is_refused(kind: str, tmp_path: Path) -> None:
    """A tar whose members do not fit each other is refused."""
    make, message = TAR_DAMAGE[kind]
    path = tmp_path / "a.pth"
    path.write_bytes(make())
    with pytest.raises(InputError, match=message):
        codecs.read(str(path))


def test_tensors_of_any_rank_are_read(tmp_path: Path) -> None:
    """A number of its own, 32 dimensions, and a part of no elements are tensors too."""
    path = tmp_path / "a.pth"
    scalar = dump((21, 11, torch.FloatTensor)) + struct.pack("<iiq", 0, 0, 5)
    deep = dump((22, 11, torch.FloatTensor)) + struct.pack("<ii64qq", 32, 0, *[1] * 64, 0)
    path.write_bytes(old_tar(tensors=dump(2) + scalar + deep))
    state = codecs.read(str(path))
    assert state["w"].read() == np.float32(5)
    assert state["t"].shape == (1,) * 32
    path.write_bytes(old_tar([(12, 11, 2, 0)]))
    assert [tensor.shape for tensor in codecs.read(str(path)).values()] == [(2, 0), (0, 2)]
    path.write_bytes(old_tar(tensors=dump(2) + scalar + deep.replace(b"\x20\0\0\0", b"\x21\0\0\0")))
    with pytest.raises(InputError, match="one of 33 dimensions"):
        codecs.read(str(path))


def test_sizes_in_extended_headers_are_read(tmp_path: Path) -> None:
    """A size too large for its field stands in an extended header, which goes before the field."""
    path = tmp_path / "a.pth"
    path.write_bytes(old_tar(size="{}"))
    assert list(codecs.read(str(path))) == ["w", "t"]
    path.write_bytes(old_tar(size="{:018d}"))
    assert list(codecs.read(str(path))) == ["w", "t"]
    for size, message in (
        ("{:019d}", "no number"),
        ("{}0000000", "truncated: a member of"),
        ("x", "no number"),
        ("1" + "0" * 5000, "no number"),
    ):
        path.write_bytes(old_tar(size=size))
        with pytest.raises(InputError, match=message):
            codecs.read(str(path))


def test_tar_has_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is as much as a limit is read, and one more is refused."""
    path = tmp_path / "a.pth"
    path.write_bytes(old_tar())
    data = old_tar()
    longest = 1 + max(int(data[at + 124 : at + 136].strip(b"\0 "), 8) for at in _extended(data))
    for name, most, message in (
        ("_MOST_OBJECTS", 2, "the number of entries makes no sense"),
        ("_MOST_MEMBERS", 3, "or one of too many"),
        ("_MOST_EXTENDED", longest - 1, "an extended header of"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(torch_tar, name, most)
            assert list(codecs.read(str(path))) == ["w", "t"]
            patch.setattr(torch_tar, name, most - 1)
            with pytest.raises(InputError, match=message):
                codecs.read(str(path))


def _extended(tar: bytes) -> list[int]:
    """Return where the extended headers begin."""
    return [at for at in range(0, len(tar), 512) if tar[at + 156 : at + 158] == b"x\0"]


def test_tar_may_end_with_its_last_member(tmp_path: Path) -> None:
    """The two empty blocks at the end may be missing, and the rest of the last block."""
    path = tmp_path / "a.pth"
    item = tarfile.TarInfo("other")
    for size, data in ((0, b""), (512, bytes(512)), (3, b"abc")):
        item.size = size
        path.write_bytes(item.tobuf() + data)
        with InputFile(path) as file:
            assert torch_tar.is_tar(file)
            assert torch_tar._members(file) == {"other": (512, 512 + size)}
    for zeros in (511, 512, 2048):
        path.write_bytes(bytes(zeros))
        with InputFile(path) as file:
            assert not torch_tar.is_tar(file)


def test_odd_tars_are_refused(tmp_path: Path) -> None:
    """Links, numbers that are none and sizes beyond the file are refused."""
    path = tmp_path / "a.pth"
    for kind, size, message in (
        (tarfile.SYMTYPE, None, "no regular file"),
        (None, b"0000z000000\0", "no octal number"),
        (None, b"77777777777\0", "truncated: a member of"),
    ):
        item = tarfile.TarInfo("pickle")
        item.type = kind or tarfile.REGTYPE
        header = bytearray(item.tobuf())
        if size is not None:
            header[124:136] = size
            header[148:156] = b" " * 8
            header[148:156] = b"%06o\0 " % sum(header)
        path.write_bytes(bytes(header) + b"\0" * 1024)
        with pytest.raises(InputError, match=message):
            codecs.read(str(path))
    path.write_bytes(tarfile.TarInfo("other").tobuf() + b"\0" * 1024)
    with pytest.raises(InputError, match="has no storages"):
        codecs.read(str(path))
    assert legacy.is_tar(InputFile(path))


@pytest.mark.parametrize(
    ("records", "size"),
    [
        (b"9 size=7\n", 7),
        (b"00000016 size=7\n", 7),
        (b"11 mtime=1\n9 size=7\n", 7),
        (b"11 mtime=1\n", None),
        (b"000000017 size=7\n", "makes no sense"),
        (b"9 size=7\n9 size=7\n", "makes no sense"),
        (b"11 mtime=1\n11 mtime=1\n", "makes no sense"),
    ],
)
def test_records_of_extended_headers(
    records: bytes, size: int | str | None, tmp_path: Path
) -> None:
    """Lengths have eight digits at most, and no key comes twice."""
    path = tmp_path / "header"
    path.write_bytes(records)
    with InputFile(path) as file:
        if isinstance(size, str):
            with pytest.raises(InputError, match=size):
                torch_tar._extended_size(file, 0, len(records))
        else:
            assert torch_tar._extended_size(file, 0, len(records)) == size
