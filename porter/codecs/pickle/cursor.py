"""Pickles, numbers and storages that stand one behind the other in a file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from porter.codecs.pickle.reading import Unpickler
from porter.codecs.pickle.values import Table
from porter.codecs.torch.storages import Run, Storage
from porter.errors import InputError, printable
from porter.storage.input_file import InputFile


class Cursor:
    """Reads pickles and numbers one behind the other."""

    def __init__(self, file: InputFile, start: int, end: int) -> None:
        self.file = file
        self.at = start
        self.end = end
        self.attributes: list[dict[Any, Any]] = []
        """What was set on dictionaries besides their items, in all pickles so far."""

    def pickle(
        self, table: Table, where: str, persistent: Callable[[object], object] | None = None
    ) -> Any:
        """Return the next pickle's value."""
        pickle = Unpickler(
            self.file, self.at, self.end, table, where=where, persistent=persistent,
            file_size=self.file.size,
        )  # fmt: skip
        pickle.load()
        self.at = pickle.offset
        self.attributes += pickle.attributes
        return pickle.value

    def integer(self, size: int) -> int:
        """Return the next `size` bytes as a signed number."""
        return int.from_bytes(self.bytes(size), "little", signed=True)

    def bytes(self, size: int) -> bytes:
        """Return the next `size` bytes."""
        at = self.skip(size)
        return self.file.pread(at, size)

    def skip(self, size: int) -> int:
        """Step over `size` bytes; return where they begin."""
        if size > self.end - self.at:
            raise InputError(f"truncated: {size} bytes wanted, {self.end - self.at} left")
        at, self.at = self.at, self.at + size
        return at

    def storage(self, storage: Storage) -> None:
        """Take in one storage: its length, which must be the one announced, and its bytes."""
        numel = self.integer(8)
        width = storage.dtype.itemsize if storage.dtype else 1
        if numel * width != storage.nbytes:
            raise InputError(
                f"storage {printable(storage.key)} has {numel} elements,"
                f" its tensors say {storage.nbytes // width}"
            )
        storage.bytes = Run(self.file, self.skip(storage.nbytes))

    def peek_integer(self, size: int) -> int:
        """Return the next `size` bytes as a number that is not negative, and stay."""
        value = self.integer(size)
        self.at -= size
        if value < 0:
            raise InputError("a length below zero")
        return value

    def finish(self, what: str) -> None:
        """Raise `InputError` unless everything was read."""
        if self.at != self.end:
            raise InputError(f"there are bytes after {what}, from byte {self.at} on")
