"""protobuf's wire format: numbers, fields, and what is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from porter.codecs.protobuf import BYTES, FIXED32, FIXED64, VARINT, Span, Walker, signed, unpacked
from porter.errors import InputError
from porter.storage.input_file import InputFile


def test_numbers_end(tmp_path: Path) -> None:
    """A varint has ten bytes at most, and ends inside its message."""
    path = tmp_path / "a.bin"
    path.write_bytes(b"\xff" * 20)
    walker = Walker(InputFile(path))
    with pytest.raises(InputError, match="does not end at byte 10"):
        list(walker.fields(Span(0, 20)))
    with pytest.raises(InputError, match="truncated inside a number"):
        list(walker.fields(Span(0, 3)))
    with pytest.raises(InputError, match="does not end"):
        list(unpacked(b"\xff" * 20))
    with pytest.raises(InputError, match="truncated inside a number"):
        list(unpacked(b"\x01\xff"))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x00\x01", "a field 0 of kind 0 at byte 1"),
        (b"\x0b\x01", "a field 1 of kind 3 at byte 1"),
        (b"\x0c\x01", "a field 1 of kind 4 at byte 1"),
        (b"\x0a\x02x", "truncated: 2 bytes wanted at byte 2"),
        (b"\x0d123", "truncated: 4 bytes wanted at byte 1"),
        (b"\x091234567", "truncated: 8 bytes wanted at byte 1"),
    ],
)
def test_what_is_no_field_is_refused(data: bytes, message: str, tmp_path: Path) -> None:
    """Numbers begin at one, groups are of another age, and what is announced is there."""
    (tmp_path / "x").write_bytes(data)
    with InputFile(tmp_path / "x") as file, pytest.raises(InputError, match=message):
        list(Walker(file).fields(Span(0, len(data))))


def test_a_window_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers that lie in the bytes held are taken from them, wherever they begin."""
    (tmp_path / "x").write_bytes(bytes(range(100)))
    with InputFile(tmp_path / "x") as file:
        walker = Walker(file)
        taken: list[int] = []
        pread = file.pread

        def counted(_: InputFile, offset: int, nbytes: int) -> bytes:
            taken.append(offset)
            return pread(offset, nbytes)

        monkeypatch.setattr(InputFile, "pread", counted)
        assert [walker.varint(at, 100)[0] for at in (20, 20, 21, 99, 22)] == [20, 20, 21, 99, 22]
        assert taken == [20]
        assert [walker.varint(at, 100)[0] for at in (3, 20, 99)] == [3, 20, 99]
        assert taken == [20, 3]


def test_a_number_ends_inside_of_its_message(tmp_path: Path) -> None:
    """The byte behind the message is not taken for the number's last."""
    (tmp_path / "x").write_bytes(b"\xff\x01")
    with InputFile(tmp_path / "x") as file:
        assert Walker(file).varint(0, 2) == (255, 2)
        with pytest.raises(InputError, match="truncated inside a number"):
            Walker(file).varint(0, 1)


def test_fields_of_every_kind_are_told_apart(tmp_path: Path) -> None:
    """A field has its number, its kind, and its value or its place."""
    data = b"\x08\x96\x01" + b"\x11" + bytes(8) + b"\x1a\x03abc" + b"\xa5\x01" + bytes(4)
    (tmp_path / "x").write_bytes(b"??" + data)
    with InputFile(tmp_path / "x") as file:
        found = [tuple(part) for part in Walker(file).fields(Span(2, 2 + len(data)))]
    assert found == [
        (1, VARINT, 150, (5, 5)),
        (2, FIXED64, 0, (6, 14)),
        (3, BYTES, 0, (16, 19)),
        (20, FIXED32, 0, (21, 25)),
    ]


@pytest.mark.parametrize(
    ("value", "number"),
    [(0, 0), (1, 1), (2**63 - 1, 2**63 - 1), (2**63, -(2**63)), (2**64 - 1, -1)],
)
def test_a_varint_of_64_bits_has_a_sign(value: int, number: int) -> None:
    """The upper half of the unsigned numbers stands for the negative ones."""
    assert signed(value) == number


def test_a_field_of_the_limit_is_read_and_a_longer_one_is_not(tmp_path: Path) -> None:
    """A field is measured before its bytes are read."""
    path = tmp_path / "x"
    path.write_bytes(b"abcdef")
    with InputFile(path) as file:
        walker = Walker(file)
        assert walker.bytes(Span(1, 4), 3) == b"bcd"
        with pytest.raises(InputError, match="4 bytes; 3 is the limit"):
            walker.bytes(Span(1, 5), 3)
