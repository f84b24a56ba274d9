"""A pickle read as a description: names are looked up in a table, nothing is called.

A pickle is a program for a stack machine. This one runs it over records: a name is a row of a
frozen table of `(module, name)` pairs, or a name that is kept and never looked up; a call makes a
record, long byte strings stay in the file as positions. No import, attribute lookup or call
comes from the input. Only the opcodes that weight files use are known.

The opcodes: https://docs.python.org/3/library/pickletools.html and `Lib/pickletools.py`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from porter.codecs.pickle.names import foreign
from porter.codecs.pickle.values import (
    LONGEST_NAME,
    Blob,
    Global,
    Opaque,
    Source,
    Table,
    Text,
    call,
    decoded,
    described,
    put,
)
from porter.codecs.pickle.window import Window
from porter.errors import InputError

MOST_OPCODES = 50_000_000
FREE_OBJECTS = 1_000_000
"""Containers and texts that any pickle may have, and one more for each `BYTES_OF_OBJECT` bytes."""
BYTES_OF_OBJECT = 8
_KEPT_BYTES = 1024

_U16, _I32, _F64 = struct.Struct("<H"), struct.Struct("<i"), struct.Struct(">d")

PersistentLoad = Callable[[object], object]


class _Stop(Exception):
    """The STOP opcode was met."""


class Unpickler(Window):
    """One pickle inside `source`, from `start`, before `end`.

    `load` returns the value: None, bool, int, float, str, bytes, list, dict, tuple, `Blob`,
    `Text`, `Global`, `Opaque` or what the table's rows make; `offset` is then the byte after
    STOP, and `attributes` is what was set on dictionaries besides their items. `file_size` is the
    size of the file as it is on the disk, which limits how many objects it may make.
    Raises `InputError` that names the byte.
    """

    def __init__(
        self,
        source: Source,
        start: int,
        end: int,
        table: Table,
        *,
        where: str = "",
        persistent: PersistentLoad | None = None,
        encoding: str = "utf-8",
        file_size: int | None = None,
    ) -> None:
        super().__init__(source, start, end)
        self.value: Any = None
        self.attributes: list[dict[Any, Any]] = []
        size = end - start if file_size is None else file_size
        self._most_objects = FREE_OBJECTS + size // BYTES_OF_OBJECT
        self._objects = 0
        self._where = where
        self._table = table
        self._persistent = persistent
        self._encoding = encoding
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._lines: dict[bytes, Global] = {}
        """Names already looked up, by their bytes."""

    def load(self) -> Any:
        """Run to STOP and return the one value left."""
        handlers, at = _HANDLERS, 0
        base, count = self._start, 0
        try:
            if self._source.pread(self._start, min(1, self._end - self._start)) != b"\x80":
                raise InputError("no pickle of protocol 2 to 5 begins here")
            while True:
                count += 1
                at = self._at
                if at >= self._edge:
                    if count > MOST_OPCODES:
                        raise InputError("has more opcodes than any weight file")
                    self._check_objects()
                    self._turn()
                    at = self._at
                base = self._base
                self._at = at + 1
                handlers[self._window[at]](self)
        except _Stop:
            return self._result()
        except InputError as error:
            if error.path is not None:
                raise
            raise self._refused(base + at, error.message) from error
        except IndexError as error:
            raise self._refused(base + at, "takes from an empty stack") from error

    def _check_objects(self) -> None:
        if self._objects > self._most_objects:
            raise InputError(f"makes {self._objects} objects out of a small file")

    def _refused(self, position: int, message: str) -> InputError:
        spot = f"{self._where} byte" if self._where else "byte"
        return InputError(f"{spot} {position - self._start}: {message}", self._source.path)

    def _result(self) -> Any:
        stray = self._marks or len(self._stack) != 1
        if stray or (self._frame_end and self._frame_end != self.offset):
            raise self._refused(self.offset, "stops with its stack or its frame unfinished")
        self.value = self._stack[0]
        return self.value

    # Opcodes that carry a value.

    def proto(self) -> None:
        if self.offset - 1 != self._start or not 2 <= self._u8() <= 5:
            raise InputError("the protocol is not 2 to 5, or is stated twice")

    def frame(self) -> None:
        size = self._u64()
        if self._frame_end:
            raise InputError("a frame inside a frame")
        self._check_left(size)
        self._frame_end = self.offset + size
        self._set_edge()

    def stop(self) -> None:
        raise _Stop

    def none(self) -> None:
        self._stack.append(None)

    def true(self) -> None:
        self._stack.append(True)

    def false(self) -> None:
        self._stack.append(False)

    def int_1(self) -> None:
        at = self._at
        self._at = at + 1
        self._stack.append(self._window[at])

    def int_2(self) -> None:
        self._stack.append(_U16.unpack_from(self._window, self._at)[0])
        self._at += 2

    def int_4(self) -> None:
        self._stack.append(_I32.unpack_from(self._window, self._at)[0])
        self._at += 4

    def int_line(self) -> None:
        """Python 2 writes an integer of 32 to 64 bits, and nothing else, so."""
        line = self._line()
        if not line.removeprefix("-").isdecimal() or len(line) > 20:
            raise InputError("an integer is malformed")
        self._stack.append(int(line))

    def long_1(self) -> None:
        self._stack.append(int.from_bytes(self._take(self._u8()), "little", signed=True))

    def float_8(self) -> None:
        self._stack.append(_F64.unpack_from(self._window, self._at)[0])
        self._at += 8

    def _push_text(self, size: int) -> None:
        if size > LONGEST_NAME:
            self._stack.append(Text(self._source, self._skip(size), size))
        else:
            self._objects += 1
            self._stack.append(decoded(self._take(size)))

    def text_1(self) -> None:
        self._push_text(self._u8())

    def text_4(self) -> None:
        self._push_text(self._u32())

    def text_8(self) -> None:
        self._push_text(self._u64())

    def _push_bytes(self, size: int) -> None:
        if size > _KEPT_BYTES:
            self._stack.append(Blob(self._source, self._skip(size), size))
        else:
            self._objects += 1
            self._stack.append(self._take(size))

    def bytes_1(self) -> None:
        self._push_bytes(self._u8())

    def bytes_4(self) -> None:
        self._push_bytes(self._u32())

    def bytes_8(self) -> None:
        self._push_bytes(self._u64())

    def _push_string(self, size: int) -> None:
        """Push a string of Python 2: a text if it can be read as one."""
        self._push_bytes(size)
        value = self._stack[-1]
        if type(value) is bytes:
            try:
                self._stack[-1] = value.decode(self._encoding)
            except UnicodeDecodeError:
                return

    def string_1(self) -> None:
        self._push_string(self._u8())

    def string_4(self) -> None:
        self._push_string(self._u32())

    # Containers.

    def mark(self) -> None:
        self._objects += 1
        self._marks.append(self._stack)
        self._stack = []

    def _pop_mark(self) -> list[Any]:
        items = self._stack
        self._stack = self._marks.pop()
        return items

    def empty_tuple(self) -> None:
        self._stack.append(())

    def empty_list(self) -> None:
        self._objects += 1
        self._stack.append([])

    def empty_dict(self) -> None:
        self._objects += 1
        self._stack.append({})

    def empty_set(self) -> None:
        self._objects += 2
        self._stack.append(Opaque("set"))

    def tuple_1(self) -> None:
        self._objects += 1
        self._stack[-1] = (self._stack[-1],)

    def tuple_2(self) -> None:
        self._objects += 1
        self._stack[-2:] = [(self._stack[-2], self._stack[-1])]

    def tuple_3(self) -> None:
        self._objects += 1
        self._stack[-3:] = [(self._stack[-3], self._stack[-2], self._stack[-1])]

    def tuple_mark(self) -> None:
        items = tuple(self._pop_mark())
        self._stack.append(items)

    def frozen_set(self) -> None:
        items = self._pop_mark()
        self._stack.append(Opaque("frozenset", tuple(items)))

    def set_item(self) -> None:
        value = self._stack.pop()
        key = self._stack.pop()
        self._set_items([key, value])

    def set_items(self) -> None:
        self._set_items(self._pop_mark())

    def _set_items(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is Opaque:  # A dictionary of a class that is not known.
            target.parts.extend(items)
            return
        if type(target) is not dict:
            raise InputError(f"sets an item of {described(target)}, which is not a dictionary")
        if len(items) % 2:
            raise InputError("a key without a value")
        put(target, zip(items[::2], items[1::2], strict=True))

    def append(self) -> None:
        value = self._stack.pop()
        self._extend([value])

    def appends(self) -> None:
        self._extend(self._pop_mark())

    def _extend(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is Opaque:  # A list of a class that is not known, or a deque.
            target = target.parts
        if type(target) is not list:
            raise InputError(f"appends to {described(target)}, which is not a list")
        target.extend(items)

    def add_items(self) -> None:
        items = self._pop_mark()
        target = self._stack[-1]
        if type(target) is not Opaque:
            raise InputError(f"adds to {described(target)}, which is not a set")
        target.parts.extend(items)

    # The memo.

    def _recall(self, index: int) -> None:
        try:
            self._stack.append(self._memo[index])
        except KeyError as error:
            raise InputError(f"asks for memo {index}, which was never set") from error

    def get_1(self) -> None:
        self._recall(self._u8())

    def get_4(self) -> None:
        self._recall(self._u32())

    def put_1(self) -> None:
        at = self._at
        self._memo[self._window[at]] = self._stack[-1]
        self._at = at + 1

    def put_4(self) -> None:
        self._memo[self._u32()] = self._stack[-1]

    def memoize(self) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    # Names and calls.

    def _look_up(self, module: object, name: object) -> None:
        if type(module) is not str or type(name) is not str:
            raise InputError("names something that is not text")
        self._stack.append(self._table.get((module, name)) or foreign(module, name))

    def global_line(self) -> None:
        at, window = self._at, self._window
        end = window.find(b"\n", window.find(b"\n", at) + 1) + 1
        line = window[at:end]  # Empty where it reaches over the window's end.
        known = self._lines.get(line)
        if known is not None:
            self._at = end
            self._stack.append(known)
            return
        module = self._line()
        self._look_up(module, self._line())
        if line:
            self._lines[line] = self._stack[-1]

    def global_stack(self) -> None:
        name = self._stack.pop()
        self._look_up(self._stack.pop(), name)

    def persistent_id(self) -> None:
        if self._persistent is None:
            raise InputError("refers to something outside of the pickle")
        self._stack[-1] = self._persistent(self._stack[-1])

    def reduce(self) -> None:
        arguments = self._stack.pop()
        function = self._stack[-1]
        self._objects += 2
        if type(arguments) is tuple and len(arguments) == 1 and type(arguments[0]) is dict:
            self._objects += len(arguments[0])  # They are copied.
            self._check_objects()
        self._stack[-1] = call(function, arguments)

    def new(self) -> None:
        function = self._stack[-2]
        if type(function) is Global and function.value is dict and type(self._stack[-1]) is tuple:
            # `dict.__new__` looks at no arguments: the items are set afterwards.
            self._stack[-2:] = [{}]
        else:
            self.reduce()

    def new_extended(self) -> None:
        named = self._stack.pop()
        if type(named) is not dict:
            raise InputError("calls with arguments that are not a dictionary")
        self.reduce()
        made = self._stack[-1]
        if named and type(made) is not Opaque:
            raise InputError(f"makes {described(made)} with named arguments")
        if named:
            made.parts.append(named)

    def build(self) -> None:
        state = self._stack.pop()
        target = self._stack[-1]
        kind = type(target)
        if kind is Opaque:
            target.parts.append(state)
        elif kind is dict:
            # The attributes of an OrderedDict: state_dict() hangs its versions there.
            if type(state) is not dict:
                raise InputError(
                    "sets a dictionary's attributes to something that is not a dictionary"
                )
            self.attributes.append(state)
        elif hasattr(kind, "build"):
            target.build(state)
        else:
            raise InputError(f"sets the state of {described(target)}, which has none")

    def unknown(self) -> None:
        code = self._window[self._at - 1]
        name = _REFUSED.get(code, "no opcode")
        raise InputError(f"opcode {code:#04x} ({name}), which no weight file needs")


_HANDLERS: list[Callable[[Unpickler], None]] = [Unpickler.unknown] * 256
for _code, _handler in {
    b"\x80": Unpickler.proto,
    b"\x95": Unpickler.frame,
    b".": Unpickler.stop,
    b"N": Unpickler.none,
    b"\x88": Unpickler.true,
    b"\x89": Unpickler.false,
    b"K": Unpickler.int_1,
    b"M": Unpickler.int_2,
    b"J": Unpickler.int_4,
    b"I": Unpickler.int_line,
    b"\x8a": Unpickler.long_1,
    b"G": Unpickler.float_8,
    b"\x8c": Unpickler.text_1,
    b"X": Unpickler.text_4,
    b"\x8d": Unpickler.text_8,
    b"C": Unpickler.bytes_1,
    b"B": Unpickler.bytes_4,
    b"\x8e": Unpickler.bytes_8,
    b"\x96": Unpickler.bytes_8,
    b"U": Unpickler.string_1,
    b"T": Unpickler.string_4,
    b"(": Unpickler.mark,
    b")": Unpickler.empty_tuple,
    b"]": Unpickler.empty_list,
    b"}": Unpickler.empty_dict,
    b"\x8f": Unpickler.empty_set,
    b"\x85": Unpickler.tuple_1,
    b"\x86": Unpickler.tuple_2,
    b"\x87": Unpickler.tuple_3,
    b"t": Unpickler.tuple_mark,
    b"\x91": Unpickler.frozen_set,
    b"s": Unpickler.set_item,
    b"u": Unpickler.set_items,
    b"a": Unpickler.append,
    b"e": Unpickler.appends,
    b"\x90": Unpickler.add_items,
    b"h": Unpickler.get_1,
    b"j": Unpickler.get_4,
    b"q": Unpickler.put_1,
    b"r": Unpickler.put_4,
    b"\x94": Unpickler.memoize,
    b"c": Unpickler.global_line,
    b"\x93": Unpickler.global_stack,
    b"Q": Unpickler.persistent_id,
    b"R": Unpickler.reduce,
    b"\x81": Unpickler.new,
    b"\x92": Unpickler.new_extended,
    b"b": Unpickler.build,
}.items():
    _HANDLERS[_code[0]] = _handler

_NAMES = (
    "INST OBJ EXT1 EXT2 EXT4 POP POP_MARK DUP PERSID PUT GET UNICODE STRING FLOAT LONG LIST DICT"
    " LONG4 NEXT_BUFFER READONLY_BUFFER"
)
_REFUSED = dict(zip(b"io\x82\x83\x84012PpgVSFLld\x8b\x97\x98", _NAMES.split(), strict=True))
