"""The zip directory at its limits, to the byte: zip64 records, fields, names, claims."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from pathlib import Path

import pytest

from porter.codecs.zip import directory as zips
from porter.errors import InputError
from tests.codecs.zip.zip_files import DATE, built, directory

ONE = built([("x", b"abcd")])
FULL16, FULL32 = 0xFFFF, 0xFFFFFFFF


def wide(
    *,
    extra: bytes | None = None,
    packed: int = FULL32,
    size: int = FULL32,
    header: int = FULL32,
    local_extra: bytes = b"",
    record: tuple[int, ...] = (),
    locator: tuple[int, ...] = (),
    end: tuple[int, ...] = (),
    between: bytes = b"",
) -> bytes:
    """Return a zip of one stored member `x`, all of whose numbers stand in zip64 records.

    `record`, `locator` and `end` replace the fields of those records from the left.
    """
    data = b"abcd"
    crc = zlib.crc32(data)
    if extra is None:
        extra = struct.pack("<2H3Q", 1, 24, 4, 4, 0)
    fields = (20, 0, 0, 0, 0, crc)
    body = zips.LOCAL.pack(zips.LOCAL_MAGIC, *fields, 4, 4, 1, len(local_extra))
    body += b"x" + local_extra + data
    entry = zips.CENTRAL.pack(
        zips.CENTRAL_MAGIC, 20, *fields, packed, size, 1, len(extra), 0, 0, 0, 0, header
    )
    entry += b"x" + extra
    at = len(body) + len(entry)
    last: list[object] = [zips.END64_MAGIC, 44, 45, 45, 0, 0, 1, 1, len(entry), len(body)]
    last[: len(record)] = record
    where: list[object] = [zips.LOCATOR64_MAGIC, 0, at, 1]
    where[: len(locator)] = locator
    short: list[object] = [zips.END_MAGIC, 0, 0, FULL16, FULL16, FULL32, FULL32, 0]
    short[: len(end)] = end
    records = zips.END64.pack(*last) + between + zips.LOCATOR64.pack(*where)
    return body + entry + records + zips.END.pack(*short)


def test_every_number_may_stand_in_a_zip64_record(tmp_path: Path) -> None:
    """Sizes, offset and counts are found there, and only where the short one is full."""
    member = directory(wide(), tmp_path)["x"]
    assert (member.size, member.packed, member.offset, member.read()) == (4, 4, 31, b"abcd")
    for packed, size, header, values in (
        (FULL32, 4, 0, (4,)),
        (4, FULL32, 0, (4,)),
        (4, 4, FULL32, (0,)),
        (FULL32, 4, FULL32, (4, 0)),
    ):
        extra = struct.pack(f"<2H{len(values)}Q", 1, 8 * len(values), *values)
        data = wide(extra=extra, packed=packed, size=size, header=header)
        assert directory(data, tmp_path)["x"].read() == b"abcd"


def test_numbers_stand_in_the_order_of_the_specification(tmp_path: Path) -> None:
    """Size before packed size before offset: of a deflated member they differ."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo("x", DATE), b"a" * 999, zipfile.ZIP_DEFLATED)
    data = buffer.getvalue()
    at = data.index(zips.CENTRAL_MAGIC)
    entry = list(zips.CENTRAL.unpack_from(data, at))
    extra = struct.pack("<2H2Q", 1, 16, entry[9], entry[8])
    entry[8] = entry[9] = FULL32
    entry[11] = len(extra)
    changed = zips.CENTRAL.pack(*entry) + b"x" + extra
    end = zips.END.pack(zips.END_MAGIC, 0, 0, 1, 1, len(changed), at, 0)
    assert directory(data[:at] + changed + end, tmp_path)["x"].read() == b"a" * 999


def test_the_zip64_field_is_found_among_others(tmp_path: Path) -> None:
    """Fields of other kinds stand before and behind it; one that is cut short is none."""
    own = struct.pack("<2H3Q", 1, 24, 4, 4, 0)
    other = struct.pack("<2H", 0x4246, 5) + b"\1\0\x18\0Z"
    for extra in (other + own, own + other, other + own + other, own + b"\0\0\0"):
        assert directory(wide(extra=extra), tmp_path)["x"].read() == b"abcd"
    empty = struct.pack("<2H", 0x4246, 0)
    assert directory(wide(extra=empty + own), tmp_path)["x"].read() == b"abcd"
    short = struct.pack("<2H2Q", 1, 23, 4, 4) + bytes(7)
    one = struct.pack("<2HQ", 1, 8, 4)
    for extra in (b"", other, short + other, own[:-1], own[:11], one, b"\1\0\x18"):
        with pytest.raises(InputError, match="zip64 field is missing or short"):
            directory(wide(extra=extra), tmp_path)


BAD_LOCATORS = {
    "disk": (zips.LOCATOR64_MAGIC, 1),
    "disks": (zips.LOCATOR64_MAGIC, 0, 31 + 46 + 1 + 28, 2),
    "place": (zips.LOCATOR64_MAGIC, 0, 31),
}


@pytest.mark.parametrize("kind", BAD_LOCATORS)
def test_locators_are_checked(kind: str, tmp_path: Path) -> None:
    """One file holds all, and the record stands right before its locator."""
    with pytest.raises(InputError, match="is not where its locator says"):
        directory(wide(locator=BAD_LOCATORS[kind]), tmp_path)


def test_no_bytes_hide_behind_the_zip64_record(tmp_path: Path) -> None:
    """Not between the record and its locator, nor before the record."""
    with pytest.raises(InputError, match="is not where its locator says"):
        directory(wide(between=b"HIDE"), tmp_path)
    data = wide()
    at = data.index(zips.END64_MAGIC)
    moved = bytearray(data[:at] + b"HIDE" + data[at:])
    struct.pack_into("<Q", moved, len(moved) - 22 - 12, at + 4)
    with pytest.raises(InputError, match="is not where the end record says"):
        directory(bytes(moved), tmp_path)


def test_a_locator_of_no_disks_is_read(tmp_path: Path) -> None:
    """Some writers count none."""
    place = 31 + 4 + 46 + 1 + 28
    assert directory(wide(locator=(zips.LOCATOR64_MAGIC, 0, place, 0)), tmp_path)


MAGIC = zips.END64_MAGIC
BAD_RECORDS = {
    "magic": (b"PK\6\5",),
    "length": (MAGIC, 45),
    "shorter": (MAGIC, 43),
    "disk": (MAGIC, 44, 45, 45, 1),
    "first disk": (MAGIC, 44, 45, 45, 0, 1),
    "counts": (MAGIC, 44, 45, 45, 0, 0, 2, 1),
}


@pytest.mark.parametrize("kind", BAD_RECORDS)
def test_zip64_records_are_checked(kind: str, tmp_path: Path) -> None:
    """A record of another kind, length or disk is refused."""
    with pytest.raises(InputError, match="the zip64 end record is malformed"):
        directory(wide(record=BAD_RECORDS[kind]), tmp_path)


def test_the_two_end_records_agree(tmp_path: Path) -> None:
    """A short number is full, or the same as the wide one."""
    entry, body = 46 + 1 + 28, 31 + 4
    assert directory(wide(end=(zips.END_MAGIC, 0, 0, 1, 1, entry, body)), tmp_path)
    for wrong in ((2, 2, entry, body), (1, 1, entry + 1, body), (1, 1, entry, body - 1)):
        with pytest.raises(InputError, match="its two end records disagree"):
            directory(wide(end=(zips.END_MAGIC, 0, 0, *wrong)), tmp_path)


def test_limits_of_a_directory_to_the_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is as large as the limit is read, one more is not."""
    size = 46 + 1
    monkeypatch.setattr(zips, "_LARGEST_DIRECTORY", size)
    monkeypatch.setattr(zips, "_MOST_MEMBERS", 1)
    assert directory(ONE, tmp_path)
    monkeypatch.setattr(zips, "_LARGEST_DIRECTORY", size - 1)
    with pytest.raises(InputError, match="not where the end record says"):
        directory(ONE, tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr(zips, "_MOST_MEMBERS", 0)
    with pytest.raises(InputError, match="a directory of 1 members; 0 is the limit"):
        directory(ONE, tmp_path)


def test_limits_of_a_name_to_the_byte(tmp_path: Path) -> None:
    """4,096 bytes, not characters."""
    assert directory(built([("n" * 4096, b"1")]), tmp_path)
    assert directory(built([("é" * 2048, b"1")]), tmp_path)
    for name in ("n" * 4097, "é" * 2048 + "n"):
        with pytest.raises(InputError, match="too long"):
            directory(built([(name, b"1")]), tmp_path)


def test_the_limits_that_stand() -> None:
    """The limits are those of the documentation."""
    assert (zips._MOST_MEMBERS, zips._LARGEST_DIRECTORY) == (4_000_000, 1 << 30)


@pytest.mark.parametrize("more", [0, 1])
def test_what_deflate_can_claim_to_the_byte(more: int, tmp_path: Path) -> None:
    """A member is at most 1,032 times its deflated bytes, and 64 more."""
    data = built([("x", b"a" * 999)], zipfile.ZIP_DEFLATED)
    at = data.index(zips.CENTRAL_MAGIC)
    packed = int.from_bytes(data[at + 20 : at + 24], "little")
    claim = struct.pack("<I", packed * 1032 + 64 + more)
    data = data[:22] + claim + data[26:]
    data = data[: at + 24] + claim + data[at + 28 :]
    if more:
        with pytest.raises(InputError, match="deflate cannot"):
            directory(data, tmp_path)
    else:
        assert directory(data, tmp_path)["x"].size == packed * 1032 + 64


def test_members_come_in_the_order_of_the_file(tmp_path: Path) -> None:
    """The directory may list them otherwise."""
    data = built([("x", b"1"), ("y", b"22"), ("z", b"333")])
    at = data.index(zips.CENTRAL_MAGIC)
    entries = [data[at + 47 * i : at + 47 * (i + 1)] for i in range(3)]
    turned = data[:at] + b"".join(reversed(entries)) + data[at + 3 * 47 :]
    found = directory(turned, tmp_path)
    assert {name: member.read() for name, member in found.items()} == {
        "x": b"1", "y": b"22", "z": b"333",
    }  # fmt: skip
    assert list(found) == ["x", "y", "z"]


def test_a_directory_is_cut_nowhere(tmp_path: Path) -> None:
    """An entry whose fixed part, or whose name, reaches over the end is refused."""
    data = built([("x", b"1"), ("y", b"22")])
    at = data.index(zips.CENTRAL_MAGIC)
    for left in range(1, 46):
        cut = data[: at + 47 + left]
        end = zips.END.pack(zips.END_MAGIC, 0, 0, 2, 2, 47 + left, at, 0)
        with pytest.raises(InputError, match="the directory ends early"):
            directory(cut + end, tmp_path)


def test_a_file_too_short_for_a_locator(tmp_path: Path) -> None:
    """There is no zip64 record to look for; what is wrong is the directory."""
    end = zips.END.pack(zips.END_MAGIC, 0, 0, 0, 0, 0, 0, 0)
    with pytest.raises(InputError, match="not where the end record says"):
        directory(zips.LOCAL_MAGIC + end, tmp_path)


def test_the_sizes_of_a_descriptor() -> None:
    """Four bytes each as long as both fit, and eight always."""
    assert len(list(zips._sizes(FULL32, FULL32))) == 2
    assert len(list(zips._sizes(FULL32 + 1, 0))) == 1
    assert len(list(zips._sizes(0, FULL32 + 1))) == 1


def test_a_gap_is_no_descriptor_and_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A descriptor has 12 to 24 bytes: a gap of megabytes is refused without a look."""
    fields = (20, 8, 0, 0, 0, 0)
    body = zips.LOCAL.pack(zips.LOCAL_MAGIC, *fields, 0, 0, 1, 0) + b"x" + b"abcd"
    body += bytes(1 << 20)
    entry = zips.CENTRAL.pack(
        zips.CENTRAL_MAGIC, 20, *fields[:-1], zlib.crc32(b"abcd"), 4, 4, 1, 0, 0, 0, 0, 0, 0
    )
    entry += b"x"
    data = body + entry + zips.END.pack(zips.END_MAGIC, 0, 0, 1, 1, len(entry), len(body), 0)
    sizes: list[int] = []
    real = zips.Window.pread

    def watched(self: zips.Window, offset: int, nbytes: int) -> bytes:
        sizes.append(nbytes)
        return real(self, offset, nbytes)

    monkeypatch.setattr(zips.Window, "pread", watched)
    with pytest.raises(InputError, match="the descriptor of x disagrees"):
        directory(data, tmp_path)
    assert sizes
    assert max(sizes) < 4096
