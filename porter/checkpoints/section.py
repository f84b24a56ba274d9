"""A part of a file that is read as a file."""

from __future__ import annotations

from porter.errors import InputError
from porter.storage.input_file import InputFile


class Section(InputFile):
    """`size` bytes of `file` from `start` on; positions count from there."""

    __slots__ = ("_file", "_start")

    def __init__(self, file: InputFile, start: int, size: int) -> None:
        self._fd = -1  # The descriptor is that of `file`.
        if not 0 <= start <= start + size <= file.size:
            wanted = f"{size} bytes wanted at byte {start}"
            raise InputError(f"truncated: {wanted}, the file has {file.size}", file.path)
        self.path = file.path
        self.size = size
        self._identity = file.identity
        self._file = file
        self._start = start

    def fileno(self) -> int:
        """Never called: positions in the descriptor are others."""
        raise AssertionError(self.path)

    def pread(self, offset: int, nbytes: int) -> bytes:
        """Return exactly `nbytes` at `offset`; `InputError` when the section is too short."""
        self._check_range(offset, nbytes)
        return self._file.pread(self._start + offset, nbytes)

    def pread_into(self, offset: int, buffer: bytearray | memoryview) -> None:
        """Fill `buffer` from `offset`; `InputError` when the section is too short."""
        self._check_range(offset, len(memoryview(buffer).cast("B")))
        self._file.pread_into(self._start + offset, buffer)

    def check_unchanged(self) -> None:
        """Raise `InputError` when the file is no longer what was opened."""
        self._file.check_unchanged()
