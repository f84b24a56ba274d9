"""A pickle as bytes, opcode by opcode, and only the opcodes that weight files need.

What a framework's own pickler would write for the same value, this writes too: the same
opcodes, and each value memoised when it is first met.
"""

from __future__ import annotations

import struct
from collections.abc import Callable


class Pickling:
    """A growing pickle of protocol 2 or 4; `take` empties it on the way."""

    def __init__(self, protocol: int) -> None:
        self._out = bytearray(b"\x80" + bytes([protocol]))
        self._protocol = protocol
        self._memo: dict[object, int] = {}
        self._count = 0
        self._runs: dict[object, bytes] = {}
        self._tuples: dict[tuple[int, ...], bytes] = {}

    def take(self) -> bytes:
        """Return what was written since the last call."""
        data = bytes(self._out)
        self._out.clear()
        return data

    def raw(self, opcode: bytes) -> Pickling:
        """Write opcodes that carry nothing."""
        self._out += opcode
        return self

    def memoize(self, key: object = None) -> Pickling:
        """Note the value on the stack; `key` is how to ask for it again."""
        if self._protocol >= 4:
            self._out += b"\x94"
        elif self._count < 256:
            self._out += b"q" + bytes([self._count])
        else:
            self._out += b"r" + struct.pack("<I", self._count)
        if key is not None:
            self._memo[key] = self._count
        self._count += 1
        return self

    def recall(self, key: object) -> bool:
        """Push what was noted under `key`; False when nothing was."""
        index = self._memo.get(key)
        if index is None:
            return False
        self._out += b"h" + bytes([index]) if index < 256 else b"j" + struct.pack("<I", index)
        return True

    def once(self, key: object, make: Callable[[], object]) -> Pickling:
        """Push a value: the first time by `make`, then out of the memo."""
        if not self.recall(key):
            make()
            self.memoize(key)
        return self

    def again(self, key: object, write: Callable[[Pickling], object]) -> Pickling:
        """Push by `write` what is the same each time, so that once noted it is only asked for."""
        run = self._runs.get(key)
        if run is not None:
            self._out += run
            return self
        start, count = len(self._out), self._count
        write(self)
        if self._count == count:
            self._runs[key] = bytes(self._out[start:])
        return self

    def text(self, value: str, key: object = None) -> Pickling:
        """Push a text, again from the memo when the same `key` (or text) was there."""
        return self.once(("text", value) if key is None else key, lambda: self._text(value))

    def fresh_text(self, value: str) -> Pickling:
        """Push a text that is not asked for again."""
        self._text(value)
        return self.memoize()

    def _text(self, value: str) -> None:
        data = value.encode()
        if self._protocol >= 4 and len(data) < 256:
            self._out += b"\x8c" + bytes([len(data)]) + data
        else:
            self._out += b"X" + struct.pack("<I", len(data)) + data

    def name(self, module: str, name: str) -> Pickling:
        """Push a global."""
        return self.once((module, name), lambda: self._name(module, name))

    def _name(self, module: str, name: str) -> None:
        if self._protocol >= 4:
            self.text(module).text(name)
            self._out += b"\x93"
        else:
            self._out += f"c{module}\n{name}\n".encode()

    def integer(self, value: int) -> Pickling:
        """Push an integer."""
        if 0 <= value < 1 << 8:
            self._out += b"K" + bytes([value])
        elif 0 <= value < 1 << 16:
            self._out += b"M" + struct.pack("<H", value)
        elif -(1 << 31) <= value < 1 << 31:
            self._out += b"J" + struct.pack("<i", value)
        else:
            size = (value.bit_length() >> 3) + 1
            self._out += b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=True)
        return self

    def boolean(self, value: bool) -> Pickling:
        """Push True or False."""
        self._out += b"\x88" if value else b"\x89"
        return self

    def integers(self, values: tuple[int, ...]) -> Pickling:
        """Push a tuple of integers."""
        known = self._tuples.get(values)
        if known is None:
            start = len(self._out)
            self._integers(values)
            self._tuples[values] = bytes(self._out[start:])
        else:
            self._out += known
        return self.memoize() if values else self

    def _integers(self, values: tuple[int, ...]) -> None:
        if len(values) > 3:
            self._out += b"("
        for value in values:
            self.integer(value)
        self._out += (b")", b"\x85", b"\x86", b"\x87")[len(values)] if len(values) <= 3 else b"t"
