"""The bytes of a pickle, a window at a time: what is long stays in the file.

A frame (protocol 4) must begin and end between opcodes, and frames do not nest.
"""

from __future__ import annotations

import struct

from porter.codecs.pickle.values import Source, decoded
from porter.errors import InputError

LARGEST_PICKLE = 512 << 20
"""Bytes of a pickle, its long strings not counted."""
MARGIN = 16
"""No opcode has more fixed bytes than this behind it."""
_PADDING = b"\0" * MARGIN
"""Stands behind each window: no number is cut by its end."""
_LONGEST_LINE = 256
_LARGEST_WINDOW = 256 << 10
_SMALLEST_WINDOW = 1 << 10

_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")


class Window:
    """A place in `source` that moves from `start` towards `end`."""

    def __init__(self, source: Source, start: int, end: int) -> None:
        self._source = source
        self._start = start
        self._end = end
        self._base = start
        """Position in the source of the window's first byte."""
        self._window = _PADDING
        self._length = 0
        """Bytes of the window, the padding behind it not counted."""
        self._at = 0
        self._edge = 0
        """Where in the window the loop must stop and look."""
        self._reach = _SMALLEST_WINDOW
        self._skipped = 0
        self._frame_end = 0

    @property
    def offset(self) -> int:
        """Position in the source."""
        return self._base + self._at

    def _turn(self) -> None:
        """Go on at a frame's end or at the window's end."""
        position = self.offset
        if self._frame_end and position >= self._frame_end:
            if position > self._frame_end:
                raise InputError("a frame ends inside an opcode")
            self._frame_end = 0
        kept = position - self._start - self._skipped
        if kept > LARGEST_PICKLE:
            raise InputError("is longer than any weight file's pickle")
        if position >= self._end:
            raise InputError("truncated: ends before its STOP")
        self._fill(MARGIN)

    def _fill(self, wanted: int) -> None:
        """Have at least `wanted` bytes in the window, or all that are left."""
        if self._at + wanted > self._length and self._base + self._length < self._end:
            position = self.offset
            self._reach = min(self._reach * 2, _LARGEST_WINDOW)
            size = min(max(self._reach, wanted), self._end - position)
            self._window = self._source.pread(position, size) + _PADDING
            self._base, self._at, self._length = position, 0, size
        self._set_edge()

    def _set_edge(self) -> None:
        last = self._base + self._length >= self._end
        self._edge = self._length - (0 if last else MARGIN)
        if self._frame_end:
            self._edge = min(self._edge, self._frame_end - self._base)

    def _take(self, size: int) -> bytes:
        """Return the next `size` bytes; `InputError` when the pickle has fewer."""
        self._check_left(size)
        if self._at + size > self._length:
            self._fill(size)
        data = self._window[self._at : self._at + size]
        self._at += size
        return data

    def _check_left(self, size: int) -> None:
        if size > self._end - self.offset:
            raise InputError(f"truncated: {size} bytes announced, {self._end - self.offset} left")

    def _skip(self, size: int) -> int:
        """Leave `size` bytes in the file and return their position."""
        self._check_left(size)
        position = self.offset
        self._at += size
        self._skipped += size
        if self._at > self._length:
            self._base, self._at, self._length = self.offset, 0, 0
            self._window, self._reach = b"", _SMALLEST_WINDOW
            self._edge = 0
        return position

    def _line(self) -> str:
        found = self._window.find(b"\n", self._at, self._at + _LONGEST_LINE)
        if found < 0:
            self._fill(_LONGEST_LINE)
            found = self._window.find(b"\n", self._at, self._at + _LONGEST_LINE)
            if found < 0:
                raise InputError("a line is cut short or too long")
        line = self._window[self._at : found]
        self._at = found + 1
        return decoded(line)

    def _u8(self) -> int:
        at = self._at
        self._at = at + 1
        return self._window[at]

    def _u32(self) -> int:
        at = self._at
        self._at = at + 4
        return int(_U32.unpack_from(self._window, at)[0])

    def _u64(self) -> int:
        at = self._at
        self._at = at + 8
        return int(_U64.unpack_from(self._window, at)[0])
