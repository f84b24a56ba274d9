"""Zip files: what two readers could see differently is refused, damage is found."""

from __future__ import annotations

import io
import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings

from porter.codecs.zip import directory as zips
from porter.codecs.zip.directory import Member, read_directory
from porter.errors import InputError, PorterError
from porter.storage.input_file import InputFile
from tests.codecs.mutations import damaged
from tests.codecs.zip.zip_files import DATE, MEMBERS, NOISE, built, directory
from tests.systems import MEMORY


class _Pipe(io.BytesIO):
    """A stream that cannot be rewound: zipfile then writes descriptors."""

    def seekable(self) -> bool:
        return False

    def seek(self, *_: object) -> int:
        raise OSError

    def tell(self) -> int:
        raise OSError


def streamed(method: int = zipfile.ZIP_STORED) -> bytes:
    """Return a zip with a descriptor behind each member."""
    buffer = _Pipe()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in MEMBERS:
            archive.writestr(zipfile.ZipInfo(name, DATE), data, method)
    return buffer.getvalue()


def forced64() -> bytes:
    """Return a zip with zip64 fields where none is needed, as NumPy writes them."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in MEMBERS:
            with archive.open(zipfile.ZipInfo(name, DATE), "w", force_zip64=True) as member:
                member.write(data)
    return buffer.getvalue()


GOOD: dict[str, Callable[[], bytes]] = {
    "stored": built,
    "deflated": lambda: built(method=zipfile.ZIP_DEFLATED),
    "streamed": streamed,
    "streamed, deflated": lambda: streamed(zipfile.ZIP_DEFLATED),
    "zip64": forced64,
    "folders": lambda: built([("a/", b""), *MEMBERS]),
}


@pytest.mark.parametrize("kind", GOOD)
def test_members_are_read(kind: str, tmp_path: Path) -> None:
    """What the standard library writes is read, whole, in blocks of any size, in order."""
    members = directory(GOOD[kind](), tmp_path)
    assert list(members) == [name for name, _ in MEMBERS]
    for name, data in MEMBERS:
        assert members[name].read() == data
        assert members[name].size == len(data)
        assert members[name].checksummed
        for limit in (1, 7, 1 << 20):
            if len(data) < 1000 or limit > 1:
                assert b"".join(members[name].blocks(limit)) == data


def test_folder_that_holds_bytes_is_a_member(tmp_path: Path) -> None:
    """Only an empty one is left out."""
    assert list(directory(built([("a/", b"data"), ("b/", b""), ("c", b"")]), tmp_path)) == [
        "a/", "c",
    ]  # fmt: skip


def _described(mark: bytes, wide: bool, stated: tuple[int, int, int] = (0, 0, 0)) -> bytes:
    """Return a zip of one member whose sizes stand behind it, and in part before it."""
    data, crc = b"abcd", zlib.crc32(b"abcd")
    body = zips.LOCAL.pack(zips.LOCAL_MAGIC, 20, 8, 0, 0, 0, *stated, 1, 0) + b"x" + data
    body += mark + struct.pack("<I2Q" if wide else "<3I", crc, 4, 4)
    entry = zips.CENTRAL.pack(
        zips.CENTRAL_MAGIC, 20, 20, 8, 0, 0, 0, crc, 4, 4, 1, 0, 0, 0, 0, 0, 0
    )
    end = zips.END.pack(zips.END_MAGIC, 0, 0, 1, 1, len(entry) + 1, len(body), 0)
    return body + entry + b"x" + end


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("mark", [zips.DESCRIPTOR_MAGIC, b""])
def test_descriptors_of_every_form_are_read(mark: bytes, wide: bool, tmp_path: Path) -> None:
    """With its mark or without, of four bytes a size or of eight."""
    assert directory(_described(mark, wide), tmp_path)["x"].read() == b"abcd"


def test_what_a_described_member_says_beforehand_agrees(tmp_path: Path) -> None:
    """Each number in front of it is nothing, or the one behind it."""
    crc = zlib.crc32(b"abcd")
    for stated in ((crc, 4, 4), (crc, 0, 0), (0, 4, 0), (0, 0, 4)):
        assert directory(_described(b"", False, stated), tmp_path)
    for stated in ((1, 0, 0), (0, 5, 0), (0, 0, 5), (crc, 4, 5)):
        with pytest.raises(InputError, match="directory and local header of x disagree"):
            directory(_described(b"", False, stated), tmp_path)


def edit(data: bytes, old: bytes, new: bytes, count: int = -1) -> bytes:
    """Replace bytes that must be there."""
    assert old in data
    return data.replace(old, new, count)


def central(data: bytes, offset: int, new: bytes) -> bytes:
    """Change the first directory entry."""
    at = data.index(zips.CENTRAL_MAGIC) + offset
    return data[:at] + new + data[at + len(new) :]


def end_record(data: bytes, offset: int, new: bytes) -> bytes:
    """Change the end record."""
    at = data.rindex(zips.END_MAGIC) + offset
    return data[:at] + new + data[at + len(new) :]


def local(data: bytes, offset: int, new: bytes) -> bytes:
    """Change the first local header."""
    return data[:offset] + new + data[offset + len(new) :]


def _both(offset: int, new: bytes) -> Callable[[], bytes]:
    return lambda: central(local(built(), offset, new), offset + 2, new)


ONE = built([("x", b"abcd")])


def _moved(data: bytes, place: Callable[[bytes], int]) -> bytes:
    """Point the last directory entry elsewhere."""
    at = data.rindex(zips.CENTRAL_MAGIC) + 42
    return data[:at] + struct.pack("<I", place(data)) + data[at + 4 :]


def _reaching(left: int) -> bytes:
    """Return a zip whose first member claims all but a few bytes, its second those."""
    data = built([("x", b"abcd"), ("y", b"12")])
    end = len(data) - left
    sizes = struct.pack("<2I", end - 31, end - 31)
    return _moved(central(local(data, 18, sizes), 20, sizes), lambda _: end)


def _behind(prefix: bytes) -> bytes:
    """Return a zip behind other bytes, its offsets right."""
    data = end_record(ONE, 16, struct.pack("<I", ONE.index(zips.CENTRAL_MAGIC) + len(prefix)))
    return prefix + central(data, 42, struct.pack("<I", len(prefix)))


BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty file": (lambda: b"", "does not begin with a member"),
    "empty zip": (lambda: built([]), "does not begin with a member"),
    "prefix": (lambda: b"#!/bin/sh\n" + ONE, "does not begin with a member"),
    "prefix that is a member": (lambda: ONE + ONE, "where the end record says"),
    "tail": (lambda: ONE + b"x", "followed by other bytes"),
    "comment": (lambda: end_record(ONE, 20, b"\1\0") + b"!", "followed by other bytes"),
    "end magic": (lambda: end_record(ONE, 0, b"PK\5\7"), "followed by other bytes"),
    "comment of nothing": (lambda: end_record(ONE, 20, b"\1\0"), "followed by other bytes"),
    "first disk": (lambda: end_record(ONE, 6, b"\1"), "one part of several"),
    "second local magic": (
        lambda: local(built([("x", b"abcd"), ("y", b"12")]), 35, b"PK\1\1"),
        "disagree",
    ),
    "end record alone": (lambda: zips.LOCAL_MAGIC + bytes(18), "truncated, or followed"),
    "no member": (
        lambda: b"PK\3\4junk" + zips.END.pack(zips.END_MAGIC, 0, 0, 0, 0, 0, 8, 0),
        "has no member",
    ),
    "no local header at the end": (lambda: _reaching(30), "disagree"),
    "local header cut": (lambda: _reaching(9), "local header is cut short"),
    "bytes that look like a member": (lambda: _behind(b"PK\3\4junk"), "bytes before the first"),
    "name beyond the directory": (lambda: central(ONE, 28, b"\xff\0"), "directory|empty, too"),
    "disk": (lambda: end_record(ONE, 4, b"\1"), "one part of several"),
    "count": (lambda: end_record(ONE, 8, b"\2\0\2\0"), "ends early|cannot list"),
    "count below": (lambda: end_record(built(), 8, b"\1\0\1\0"), "more than its members"),
    "counts": (lambda: end_record(ONE, 8, b"\2\0\1\0"), "one part of several"),
    "directory offset": (lambda: end_record(ONE, 16, b"\1\0\0\0"), "where the end record says"),
    "directory magic": (lambda: central(ONE, 0, b"PK\1\3"), "is malformed"),
    "entry comment": (
        lambda: end_record(
            central(edit(ONE, b"x" + zips.END_MAGIC, b"x!" + zips.END_MAGIC), 32, b"\1\0"),
            12,
            struct.pack("<I", 48),
        ),
        "has a comment",
    ),
    "entry disk": (lambda: central(ONE, 34, b"\1\0"), "another disk"),
    "encrypted": (_both(6, b"\1\0"), "encrypted"),
    "patched": (_both(6, b"\x20\0"), "patched"),
    "method": (_both(8, b"\x0c\0"), "method 12"),
    "flags differ": (lambda: local(ONE, 6, b"\2\0"), "disagree"),
    "method differs": (lambda: local(ONE, 8, b"\x08\0"), "disagree"),
    "crc differs": (lambda: local(ONE, 14, b"\0\0\0\0"), "disagree"),
    "size differs": (lambda: local(ONE, 22, b"\5"), "disagree"),
    "name differs": (lambda: local(ONE, 30, b"y"), "disagree"),
    "local magic": (lambda: local(built(), 51, b"PK\1\1"), "disagree"),
    "sizes differ": (lambda: central(ONE, 24, b"\5\0\0\0"), "its two sizes differ"),
    "name twice": (lambda: edit(built([("x", b"1"), ("y", b"2")]), b"y", b"x"), "two members"),
    "name not UTF-8": (lambda: edit(ONE, b"x", b"\xff"), "not UTF-8"),
    "name with NUL": (lambda: edit(built([("xy", b"1")]), b"xy", b"x\0"), "contains a NUL"),
    "name empty": (lambda: built([("", b"1")]), "is empty"),
    "name long": (lambda: built([("n" * 5000, b"1")]), "too long"),
    "claims too much": (
        lambda: central(
            local(built(method=zipfile.ZIP_DEFLATED), 22, b"\xff\xff\xff\0"), 24, b"\xff\xff\xff\0"
        ),
        "deflate cannot",
    ),
    "zip64 missing": (lambda: central(ONE, 42, b"\xff\xff\xff\xff"), "zip64 field is missing"),
    "descriptor differs": (
        lambda: edit(
            streamed(),
            zips.DESCRIPTOR_MAGIC + struct.pack("<I", zlib.crc32(NOISE)),
            b"PK\7\x08abcd",
        ),
        "descriptor",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_ambiguous_zip_is_refused(kind: str, tmp_path: Path) -> None:
    """A zip in which two readers could see two things is refused with the rule it breaks."""
    make, message = BAD[kind]
    with pytest.raises(InputError, match=message):
        directory(make(), tmp_path)


def joined(parts: list[tuple[bytes, bytes]], gap: bytes = b"") -> bytes:
    """Return a zip of stored members with bytes between them that belong to none."""
    out, entries = b"", b""
    for name, data in parts:
        fields = (0, 0, 0, 0, zlib.crc32(data), len(data), len(data), len(name), 0)
        entries += zips.CENTRAL.pack(
            zips.CENTRAL_MAGIC, 20, 20, *fields[:-1], 0, 0, 0, 0, 0, len(out)
        )
        entries += name
        out += zips.LOCAL.pack(zips.LOCAL_MAGIC, 20, *fields) + name + data + gap
    count, size = len(parts), len(entries)
    return out + entries + zips.END.pack(zips.END_MAGIC, 0, 0, count, count, size, len(out), 0)


def test_directory_has_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the members nor the bytes of a directory are without end."""
    monkeypatch.setattr(zips, "_MOST_MEMBERS", 2)
    with pytest.raises(InputError, match="a directory of 3 members"):
        directory(built(), tmp_path)
    monkeypatch.setattr(zips, "_LARGEST_DIRECTORY", 20)
    with pytest.raises(InputError, match="not where the end record says"):
        directory(ONE, tmp_path)


def test_bytes_between_members_are_refused(tmp_path: Path) -> None:
    """Every byte in front of the directory belongs to a member."""
    parts = [(b"x", b"1234"), (b"y", b"5678")]
    assert set(directory(joined(parts), tmp_path)) == {"x", "y"}
    with pytest.raises(InputError, match="4 bytes after"):
        directory(joined(parts, b"HIDE"), tmp_path)


def test_members_that_overlap_are_refused(tmp_path: Path) -> None:
    """Two entries never share a byte."""
    data = joined([(b"x", b"1234"), (b"y", b"5678")])
    at = data.rindex(zips.CENTRAL_MAGIC) + 42
    with pytest.raises(InputError, match="overlaps"):
        directory(data[:at] + struct.pack("<I", 0) + data[at + 4 :], tmp_path)


def deflated(data: bytes, *, end: bytes = b"", cut: int = 0) -> bytes:
    """Return deflated bytes, perhaps with others behind them, perhaps cut short."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = packer.compress(data) + packer.flush()
    return packed[: len(packed) - cut] + end


HONEST = b"abcdefgh" * 100


DAMAGED_DEFLATE = {
    "longer": (deflated(HONEST + b"!"), "more than its 800 bytes"),
    "shorter": (deflated(HONEST[:-1]), "1 bytes are missing"),
    "not ended": (deflated(NOISE[:800], cut=1), "missing|do not end"),
    "end mark cut": (deflated(HONEST, cut=1), "missing|do not end"),
    "followed": (deflated(HONEST, end=b"HIDE"), "other bytes follow"),
    "followed by much": (deflated(HONEST, end=b"HIDE" * 100), "other bytes follow"),
}


@pytest.mark.parametrize("kind", DAMAGED_DEFLATE)
def test_deflated_length_is_held(kind: str, tmp_path: Path) -> None:
    """A deflated member ends where it says, neither sooner nor later, in both its lengths."""
    packed, message = DAMAGED_DEFLATE[kind]
    member = _deflated_member(packed, tmp_path)
    for limit in (1, 16, 800, 1 << 20):
        with pytest.raises(InputError, match=message):
            list(member.blocks(limit))


def test_deflated_end_may_take_several_blocks(tmp_path: Path) -> None:
    """Empty blocks behind the last byte of output are still the member's own."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = packer.compress(HONEST) + packer.flush(zlib.Z_SYNC_FLUSH)
    packed += packer.flush(zlib.Z_FULL_FLUSH) + packer.flush()
    member = _deflated_member(packed, tmp_path)
    for limit in (1, 16, 800, 1 << 20):
        assert b"".join(member.blocks(limit)) == HONEST


def _deflated_member(packed: bytes, folder: Path) -> Member:
    sizes = (zlib.crc32(HONEST), len(packed), len(HONEST), 1)
    data = zips.LOCAL.pack(zips.LOCAL_MAGIC, 20, 0, 8, 0, 0, *sizes, 0) + b"x" + packed
    entry = zips.CENTRAL.pack(zips.CENTRAL_MAGIC, 20, 20, 0, 8, 0, 0, *sizes, 0, 0, 0, 0, 0, 0)
    end = zips.END.pack(zips.END_MAGIC, 0, 0, 1, 1, len(entry) + 1, len(data), 0)
    return directory(data + entry + b"x" + end, folder)["x"]


def test_deflated_nonsense_is_refused(tmp_path: Path) -> None:
    """Deflated bytes that cannot be inflated are damage, not a crash."""
    data = bytearray(built([("x", NOISE)], zipfile.ZIP_DEFLATED))
    data[31:60] = b"\xff" * 29
    member = directory(bytes(data), tmp_path)["x"]
    with pytest.raises(InputError, match=r"x is damaged"):
        member.read()


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_checksum_is_compared(method: int, tmp_path: Path) -> None:
    """A wrong checksum is told by every way to read a member."""
    members = [("x", NOISE)]
    data = built(members, method)
    crc = struct.pack("<I", zlib.crc32(NOISE))
    member = directory(edit(data, crc, b"\1\2\3\4"), tmp_path)["x"]
    with pytest.raises(InputError, match="checksum differs"):
        member.read()
    with pytest.raises(InputError, match="checksum differs"):
        member.verify()
    with pytest.raises(InputError, match="checksum differs"):
        member.fileno()
    with pytest.raises(InputError, match="checksum differs"):
        member.part().fileno()


def test_checksum_is_followed_while_reading(tmp_path: Path) -> None:
    """A stored member read in order is read once; touched anywhere else it is checked first."""
    data = built([("w", b"first"), ("x", NOISE)])
    crc = struct.pack("<I", zlib.crc32(NOISE))
    wrong = edit(data, crc, b"\1\2\3\4")
    member = directory(wrong, tmp_path)["x"]
    half = len(NOISE) // 2
    assert member.pread(member.offset, half) == NOISE[:half]
    with pytest.raises(InputError, match="checksum differs"):
        member.pread(member.offset + half, len(NOISE) - half)
    member = directory(wrong, tmp_path)["x"]
    with pytest.raises(InputError, match="checksum differs"):
        member.pread(member.offset + 5, 10)
    with pytest.raises(InputError, match="checksum differs"):
        member.part().pread(member.offset, 10)
    with pytest.raises(InputError, match="checksum differs"):
        member.part().pread_into(member.offset, memoryview(bytearray(10)))
    member = directory(data, tmp_path)["x"]
    assert member.pread(member.offset + 5, 10) == NOISE[5:15]
    assert member.part().pread(member.offset + 7, 10) == NOISE[7:17]
    buffer = bytearray(10)
    member.part().pread_into(member.offset + 9, memoryview(buffer))
    assert buffer == NOISE[9:19]
    assert member.path.endswith("z.zip")
    assert member.part().path == member.path


def test_member_read_in_order_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Block behind block, every byte is read a single time, and the checksum is compared."""
    member = directory(built([("w", b"first"), ("x", NOISE)]), tmp_path)["x"]
    sizes: list[int] = []
    pread = InputFile.pread

    def counted(file: InputFile, offset: int, nbytes: int) -> bytes:
        sizes.append(nbytes)
        return pread(file, offset, nbytes)

    monkeypatch.setattr(InputFile, "pread", counted)
    for start in range(0, len(NOISE), 10_000):
        assert member.pread(member.offset + start, 10_000) == NOISE[start : start + 10_000]
        assert member.is_sound is (start == 40_000)
    assert sizes == [10_000] * 5


def test_checksum_of_zero_means_none(tmp_path: Path) -> None:
    """A member without a checksum is read, and says that it has none."""
    data = edit(ONE, struct.pack("<I", zlib.crc32(b"abcd")), b"\0\0\0\0")
    member = directory(data, tmp_path)["x"]
    assert member.read() == b"abcd"
    assert not member.checksummed


def test_every_cut_is_refused(tmp_path: Path) -> None:
    """No prefix of a zip is taken for a zip."""
    data = built([("x", b"abcd"), ("y", b"12")])
    for end in range(len(data)):
        with pytest.raises(InputError):
            directory(data[:end], tmp_path)


def test_every_flipped_bit_is_seen_or_harmless(tmp_path: Path) -> None:
    """With any one bit flipped, a zip is refused or still gives the same members."""
    data = built([("x", b"abcdefgh"), ("y", b"12")])
    for at in range(len(data)):
        for bit in range(8):
            changed = data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]
            try:
                members = directory(changed, tmp_path)
                found = {name: member.read() for name, member in members.items()}
            except InputError:
                continue
            assert found == {"x": b"abcdefgh", "y": b"12"}, (at, bit)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(data=damaged([built(), built(method=zipfile.ZIP_DEFLATED), streamed(), forced64()]))
def test_damage_never_surprises(data: bytes) -> None:
    """Whatever is done to a zip, it is read or refused, and nothing else."""
    path = MEMORY / f"porter-{os.getpid()}.zip"
    path.write_bytes(data)
    try:
        for member in read_directory(InputFile(path)).values():
            member.read()
    except PorterError:
        pass
    finally:
        path.unlink()
