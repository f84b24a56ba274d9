"""The zip directory, read by strict rules: what two readers could see differently is refused.

A zip names every member twice, and nothing in the format makes the two agree. Here they must:
one directory at the very end of the file, members in order without gap or overlap from byte 0,
unique names, local header equal to directory entry, stored or deflated, never encrypted.

Layout: https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT, sections 4.3 to 4.5.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from porter.codecs.zip.members import DEFLATED, STORED, Member
from porter.errors import InputError, printable
from porter.storage.input_file import InputFile, Window

__all__ = ["DEFLATED", "STORED", "Member", "read_directory"]

LOCAL = struct.Struct("<4s5H3I2H")
CENTRAL = struct.Struct("<4s6H3I5H2I")
END = struct.Struct("<4s4H2IH")
END64 = struct.Struct("<4sQ2H2I4Q")
LOCATOR64 = struct.Struct("<4sIQI")
LOCAL_MAGIC, CENTRAL_MAGIC, END_MAGIC = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
END64_MAGIC, LOCATOR64_MAGIC, DESCRIPTOR_MAGIC = b"PK\x06\x06", b"PK\x06\x07", b"PK\x07\x08"
FULL16, FULL32 = 0xFFFF, 0xFFFFFFFF

DESCRIPTOR_FLAG, UTF8_FLAG = 1 << 3, 1 << 11
_ZIP64, _UNICODE_PATH = 1, 0x7075
_ALLOWED_FLAGS = DESCRIPTOR_FLAG | UTF8_FLAG | 0b110  # bits 1 and 2: how hard deflate tried
_LONGEST_NAME = 4096
_MOST_MEMBERS = 4_000_000
_LARGEST_DIRECTORY = 1 << 30
_BEST_RATIO = 1032
"""Deflate cannot shrink by more: a claim beyond it is a lie."""


class _Entry(NamedTuple):
    """A directory entry as it stands: the member, and where its local header is."""

    member: Member
    raw_name: bytes
    flags: int
    header: int


def read_directory(file: InputFile, *, marked_names: bool = False) -> dict[str, Member]:
    """Return the members of a zip by name, in order; `InputError` for what is ambiguous.

    Folders (empty members whose name ends in a slash) are left out. With `marked_names`, names
    that are not ASCII must be marked as UTF-8 and be stored once: Python's zipfile, by which NumPy
    reads, takes others for code page 437 or for the name in the field 0x7075.
    """
    count, start, size = _find_directory(file)
    entries = list(_entries(file, file.pread(start, size), count, marked_names))
    _check_order(file, entries)
    ends = [entry.header for entry in entries[1:]] + [start]
    members: dict[str, Member] = {}
    file.expect((entry.header, _header_size(entry)) for entry in entries)
    window = Window(file)
    for entry, end in zip(entries, ends, strict=True):
        _locate(window, entry, end)
        if entry.member.name in members:
            raise _bad(file, f"two members are called {printable(entry.member.name)}")
        members[entry.member.name] = entry.member
    return {name: m for name, m in members.items() if not (name.endswith("/") and not m.size)}


def _bad(file: InputFile, what: str) -> InputError:
    return InputError(f"zip: {what}", file.path)


def _find_directory(file: InputFile) -> tuple[int, int, int]:
    """Return (members, offset of the directory, its size)."""
    if file.size < END.size or file.pread(0, 4) != LOCAL_MAGIC:
        raise _bad(file, "does not begin with a member")
    end = file.size - END.size
    magic, disk, first, here, count, size, start, comment = END.unpack(file.pread(end, END.size))
    if magic != END_MAGIC or comment:
        raise _bad(file, "truncated, or followed by other bytes: no directory at its end")
    if disk or first or here != count:
        raise _bad(file, "one part of several")
    where = end - LOCATOR64.size
    locator = file.pread(where, LOCATOR64.size) if where >= END64.size else b""
    if locator[:4] == LOCATOR64_MAGIC:
        found = _find_directory64(file, LOCATOR64.unpack(locator), where)
        for short, full, value in zip(
            (count, size, start), (FULL16, FULL32, FULL32), found, strict=True
        ):
            if short not in (full, value):
                raise _bad(file, "its two end records disagree")
        count, size, start, end = *found, where - END64.size
    if start + size != end or size > _LARGEST_DIRECTORY:
        raise _bad(file, "the directory is not where the end record says")
    if count > _MOST_MEMBERS:
        raise _bad(file, f"a directory of {count} members; {_MOST_MEMBERS} is the limit")
    return count, start, size


def _find_directory64(
    file: InputFile, locator: tuple[bytes, int, int, int], where: int
) -> tuple[int, int, int]:
    """Return (members, size, offset) out of the zip64 end record."""
    _, disk, offset, disks = locator
    if disk or disks > 1 or offset + END64.size != where:
        raise _bad(file, "the zip64 end record is not where its locator says")
    record = END64.unpack(file.pread(offset, END64.size))
    magic, length, _, _, disk, first, here, count, size, start = record
    if magic != END64_MAGIC or length != END64.size - 12 or disk or first or here != count:
        raise _bad(file, "the zip64 end record is malformed")
    return count, size, start


def _entries(file: InputFile, directory: bytes, count: int, marked_names: bool) -> Iterator[_Entry]:
    at = 0
    for _ in range(count):
        if at + CENTRAL.size > len(directory):
            raise _bad(file, "the directory ends early")
        fields = CENTRAL.unpack_from(directory, at)
        at += CENTRAL.size
        name_end = at + fields[10]
        extra_end = name_end + fields[11]
        name, extra = directory[at:name_end], directory[name_end:extra_end]
        at = extra_end  # Behind it stands a comment, and an entry with one is refused.
        if fields[0] != CENTRAL_MAGIC:
            raise _bad(file, "the directory is malformed")
        if marked_names:
            _check_marked(file, fields[3], name, extra)
        yield _entry(file, fields, name, extra)
    if at != len(directory):
        raise _bad(file, "the directory contains more than its members")


def _entry(file: InputFile, fields: tuple[int, ...], raw: bytes, extra: bytes) -> _Entry:
    _, _, _, flags, method, _, _, crc, packed, size, _, _, comment, disk, _, _, header = fields
    name = _name(file, raw)
    if comment or disk:
        raise _bad(file, f"{printable(name)} has a comment or is on another disk")
    if flags & ~_ALLOWED_FLAGS:
        raise _bad(
            file, f"{printable(name)} is encrypted, patched or otherwise flagged ({flags:#x})"
        )
    if method not in (STORED, DEFLATED):
        raise _bad(
            file, f"{printable(name)} is packed by method {method}, neither stored nor deflated"
        )
    size, packed, header = _wide(file, extra, size, packed, header)
    if method == STORED and packed != size:
        raise _bad(file, f"{printable(name)} is stored, and its two sizes differ")
    if size > packed * _BEST_RATIO + 64:
        raise _bad(file, f"{printable(name)} claims {size} bytes out of {packed}: deflate cannot")
    return _Entry(Member(file, name, method, crc, packed, size), raw, flags, header)


def _check_marked(file: InputFile, flags: int, raw: bytes, extra: bytes) -> None:
    if not raw.isascii() and not flags & UTF8_FLAG:
        raise _bad(file, f"the name {printable(raw)} is not marked as UTF-8: readers differ on it")
    if _field(extra, _UNICODE_PATH) is not None:
        raise _bad(file, f"{printable(raw)} has a second name in the field 0x7075")


def _name(file: InputFile, raw: bytes) -> str:
    try:
        name = raw.decode("utf-8")
    except UnicodeDecodeError as fault:
        raise _bad(file, f"a member's name is not UTF-8: {printable(raw)}") from fault
    if not name or "\0" in name or len(raw) > _LONGEST_NAME:
        raise _bad(file, f"a member's name is empty, too long or contains a NUL: {printable(name)}")
    return name


def _wide(file: InputFile, extra: bytes, *values: int) -> list[int]:
    """Return the values, those that are full replaced from the zip64 field, in its order."""
    if FULL32 not in values:
        return list(values)
    field = _field(extra, _ZIP64) or b""
    result = []
    for value in values:
        if value == FULL32:
            if len(field) < 8:
                raise _bad(file, "a zip64 field is missing or short")
            value, field = int.from_bytes(field[:8], "little"), field[8:]
        result.append(value)
    return result


def _field(extra: bytes, wanted: int) -> bytes | None:
    """Return the extra field of a kind, None where there is none."""
    at = 0
    while at < len(extra) - 3:
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == wanted:
            return extra[at + 4 : at + 4 + length]
        at += 4 + length
    return None


def _check_order(file: InputFile, entries: list[_Entry]) -> None:
    if not entries:
        raise _bad(file, "has no member")
    entries.sort(key=lambda entry: entry.header)
    if entries[0].header:
        raise _bad(file, f"{entries[0].header} bytes before the first member")


def _header_size(entry: _Entry) -> int:
    """Return the bytes of a local header, with more extra fields than most have."""
    return LOCAL.size + len(entry.raw_name) + 64


def _locate(window: Window, entry: _Entry, end: int) -> None:
    """Set the member's offset; its local header must agree, its bytes must fill up to `end`."""
    file, member = window.file, entry.member
    head = window.pread(entry.header, min(_header_size(entry), file.size - entry.header))
    if len(head) < LOCAL.size:
        raise _bad(file, "a local header is cut short")
    magic, _, flags, method, _, _, crc, packed, size, name_size, extra_size = LOCAL.unpack_from(
        head
    )
    name = head[LOCAL.size : LOCAL.size + name_size]
    if magic != LOCAL_MAGIC or (flags, method, name) != (
        entry.flags,
        member.method,
        entry.raw_name,
    ):
        raise _bad(file, f"directory and local header of {printable(member.name)} disagree")
    member.offset = entry.header + LOCAL.size + name_size + extra_size
    gap = end - (member.offset + member.packed)
    described = bool(flags & DESCRIPTOR_FLAG)
    if gap < 0:
        raise _bad(file, f"{printable(member.name)} overlaps what follows it")
    if gap and not described:
        raise _bad(file, f"{gap} bytes after {printable(member.name)} belong to no member")
    if FULL32 in (packed, size):
        extra = window.pread(entry.header + LOCAL.size + name_size, extra_size)
        size, packed = _wide(file, extra, size, packed)
    stated = (crc, packed, size)
    actual = (member.crc, member.packed, member.size)
    if described:
        _check_descriptor(window, member, gap, actual)
        agrees = all(a in (0, b) for a, b in zip(stated, actual, strict=True))
    else:
        agrees = stated == actual
    if not agrees:
        raise _bad(file, f"directory and local header of {printable(member.name)} disagree")


def _check_descriptor(
    window: Window, member: Member, gap: int, actual: tuple[int, int, int]
) -> None:
    found = window.pread(member.offset + member.packed, gap) if gap in (12, 16, 20, 24) else b""
    forms = [
        mark + struct.pack("<I", actual[0]) + sizes
        for mark in (DESCRIPTOR_MAGIC, b"")
        for sizes in _sizes(actual[1], actual[2])
    ]
    if found not in forms:
        raise _bad(
            window.file,
            f"the descriptor of {printable(member.name)} disagrees with the directory",
        )


def _sizes(packed: int, size: int) -> Iterator[bytes]:
    if packed <= FULL32 and size <= FULL32:
        yield struct.pack("<2I", packed, size)
    yield struct.pack("<2Q", packed, size)


def checksums(file: InputFile) -> list[tuple[Member, tuple[int, ...]]]:
    """Return the members, each with the offsets at which the file states its checksum.

    The file is one that `read_directory` takes.
    """
    members = read_directory(file)
    count, start, size = _find_directory(file)
    directory = file.pread(start, size)
    found, at = [], start
    for entry in _entries(file, directory, count, False):
        name, extra = CENTRAL.unpack_from(directory, at - start)[10:12]
        member = members.get(entry.member.name)
        if member is not None and member.checksummed and member.size:
            end = member.offset + member.packed
            places = (at + 16, entry.header + 14, end, end + len(DESCRIPTOR_MAGIC))
            stated = struct.pack("<I", member.crc)
            within = [p for p in places if p + 4 <= file.size and file.pread(p, 4) == stated]
            found.append((member, tuple(within)))
        at += CENTRAL.size + name + extra
    return found
