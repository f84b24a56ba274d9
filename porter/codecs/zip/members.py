"""One member of a zip: read by position, inflated where it must be, its checksum compared."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from porter.errors import InputError, printable
from porter.storage.digests import crc32
from porter.storage.input_file import InputFile
from porter.tensors.lazy import BLOCK, ByteFile

STORED, DEFLATED = 0, 8
_CHECKED = 1 << 20
"""Bytes read and checked at a time."""


class Member:
    """One file inside a zip; reads by position in the outer file and watches the checksum.

    A stored member is a `ByteFile`: read from its first byte to its last in order, its CRC is
    compared on the way; touched in any other way, it is read through once beforehand.
    """

    __slots__ = ("_run", "_sound", "crc", "file", "method", "name", "offset", "packed", "size")

    def __init__(
        self, file: InputFile, name: str, method: int, crc: int, packed: int, size: int
    ) -> None:
        self.file = file
        self.name = name
        self.method = method
        self.crc = crc
        self.packed = packed
        self.size = size
        self.offset = 0
        """Where its bytes begin in the file."""
        self._sound = not crc  # 0: the writer computed none, or there is nothing
        # Position and CRC of all before it, one value: several threads may read a member.
        self._run = (-1, 0)

    @property
    def path(self) -> str:
        """Path of the zip."""
        return self.file.path

    @property
    def stored(self) -> bool:
        """Whether its bytes stand in the file as they are."""
        return self.method == STORED

    @property
    def checksummed(self) -> bool:
        """Whether there is a CRC to compare with."""
        return self.crc != 0 or self.size == 0

    @property
    def is_sound(self) -> bool:
        """Whether the checksum was compared, or there is none."""
        return self._sound

    @property
    def is_local(self) -> bool:
        """Whether the zip is."""
        return self.file.is_local

    @property
    def is_mapped(self) -> bool:
        """Whether the zip is."""
        return self.file.is_mapped

    @contextmanager
    def mapped(self, offset: int, nbytes: int) -> Iterator[memoryview | None]:
        """Return bytes where they are in the zip, taken into the CRC as those that are read."""
        with self.file.mapped(offset, nbytes) as data:
            if data is not None:
                self._count(data, offset, self._crc_before(offset))
            yield data

    def fileno(self) -> int:
        """Return the descriptor of the zip, after the checksum was compared."""
        self.verify()
        return self.file.fileno()

    def pread(self, offset: int, nbytes: int) -> bytes:
        """Return bytes at a position of the *outer* file, inside this stored member."""
        before = self._crc_before(offset)
        data = self.file.pread(offset, nbytes)
        self._count(data, offset, before)
        return data

    def pread_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` from a position of the *outer* file, inside this stored member."""
        before = self._crc_before(offset)
        self.file.pread_into(offset, buffer)
        self._count(buffer, offset, before)

    def _crc_before(self, offset: int) -> int:
        """Return the CRC of what stands before `offset`, where reading it goes on from there."""
        reached, value = self._run
        if offset == self.offset:
            return 0
        if offset != reached:
            self.verify()
        return value

    def _count(self, data: bytes | memoryview, offset: int, before: int) -> None:
        """Take bytes that were read into the CRC; compare it when they are the last."""
        if not self._sound:
            value = crc32(data, before)
            end = offset + len(data)
            self._run = (end, value)
            if end == self.offset + self.size:
                self._compare(value)

    def part(self) -> ByteFile:
        """Return the member to be read in part: the checksum is compared beforehand."""
        return _Part(self)

    def verify(self) -> None:
        """Compare the checksum once, reading the member through; `InputError` if it differs."""
        if not self._sound:
            for _ in self.checked(_CHECKED):
                pass

    def _compare(self, value: int) -> None:
        if value != self.crc:
            raise InputError(f"{printable(self.name)} is damaged: its checksum differs", self.path)
        self._sound = True

    def blocks(self, limit: int = BLOCK) -> Iterator[bytes]:
        """Yield the bytes, inflated where they are deflated, without looking at the checksum."""
        if self.stored:
            for start in range(0, self.size, limit):
                yield self.file.pread(self.offset + start, min(limit, self.size - start))
        else:
            yield from self._inflated(limit)

    def checked(self, limit: int = BLOCK) -> Iterator[bytes]:
        """Yield the bytes; when the last was taken, compare the checksum."""
        value, known = 0, self._sound
        for block in self.blocks(limit):
            if not known:
                value = crc32(block, value)
            yield block
        if not self._sound:
            self._compare(value)

    def _inflated(self, limit: int) -> Iterator[bytes]:
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        start, left, pending = 0, self.size, b""
        while left:
            if not pending and not inflater.eof and start < self.packed:
                pending = self.file.pread(self.offset + start, min(limit, self.packed - start))
                start += len(pending)
            block = self._inflate(inflater, pending, min(left, limit))
            if not block and (inflater.eof or start == self.packed):
                raise self._broken(f"{left} bytes are missing")
            pending = inflater.unconsumed_tail
            left -= len(block)
            yield block
        self._finish(inflater, pending, start)

    def _finish(self, inflater: zlib._Decompress, pending: bytes, start: int) -> None:
        """Take in what can follow the last byte of output: the end mark, and nothing else."""
        while not inflater.eof and (pending or start < self.packed):
            if not pending:
                pending = self.file.pread(self.offset + start, min(BLOCK, self.packed - start))
                start += len(pending)
            if self._inflate(inflater, pending, 1):
                raise self._broken(f"there is more than its {self.size} bytes")
            pending = inflater.unconsumed_tail
        if not inflater.eof:
            raise self._broken("its deflated bytes do not end")
        if inflater.unused_data or start < self.packed:
            raise self._broken("other bytes follow its deflated ones")

    def _inflate(self, inflater: zlib._Decompress, data: bytes, limit: int) -> bytes:
        try:
            return inflater.decompress(data, limit)
        except zlib.error as fault:
            raise self._broken("its deflated bytes are malformed") from fault

    def _broken(self, what: str) -> InputError:
        return InputError(f"{printable(self.name)} is damaged: {what}", self.path)

    def read(self) -> bytes:
        """Return all bytes, checksum compared."""
        return b"".join(self.checked())


class _Part:
    """A stored member of which not all will be read."""

    __slots__ = ("_member",)

    def __init__(self, member: Member) -> None:
        self._member = member

    @property
    def path(self) -> str:
        return self._member.path

    @property
    def is_sound(self) -> bool:
        return self._member.is_sound

    @property
    def is_local(self) -> bool:
        return self._member.is_local

    @property
    def is_mapped(self) -> bool:
        return self._member.is_mapped

    def mapped(self, offset: int, nbytes: int) -> AbstractContextManager[memoryview | None]:
        self._member.verify()
        return self._member.file.mapped(offset, nbytes)

    def fileno(self) -> int:
        return self._member.fileno()

    def pread(self, offset: int, nbytes: int) -> bytes:
        self._member.verify()
        return self._member.file.pread(offset, nbytes)

    def pread_into(self, offset: int, buffer: memoryview) -> None:
        self._member.verify()
        self._member.file.pread_into(offset, buffer)
