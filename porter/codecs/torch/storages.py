"""torch's storages: blocks of memory that tensors look into, as a pickle describes them.

Nothing is allocated from a number in the file: a length is compared with the bytes that are
there before any is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from porter.codecs.pickle.ndarrays import MOST_ELEMENTS
from porter.codecs.pickle.values import Global, shown
from porter.errors import InputError, printable
from porter.tensors.dtypes import DType
from porter.tensors.lazy import ByteFile, Extent


class Bytes(Protocol):
    """Where a storage's bytes are: a run of a file, or something to be inflated."""

    @property
    def seekable(self) -> bool: ...
    def extent(self, offset: int, nbytes: int) -> Extent | None: ...
    def read(self, offset: int, nbytes: int) -> bytes: ...
    def blocks(self, offset: int, nbytes: int, limit: int) -> Iterator[memoryview]: ...


class Run:
    """Bytes that stand in a file from `start` on."""

    __slots__ = ("_file", "_start")

    seekable = True

    def __init__(self, file: ByteFile, start: int) -> None:
        self._file = file
        self._start = start

    def extent(self, offset: int, nbytes: int) -> Extent:
        """Return where a part of them lies."""
        return Extent(self._file, self._start + offset, nbytes)

    def read(self, offset: int, nbytes: int) -> bytes:
        """Return a part of them."""
        return self._file.pread(self._start + offset, nbytes)

    def blocks(self, offset: int, nbytes: int, limit: int) -> Iterator[memoryview]:
        """Never called: a part of them has an extent."""
        raise AssertionError(offset, nbytes, limit)


class Storage:
    """A block of memory that tensors look into.

    `dtype` is None when it is untyped; `nbytes` is what the pickle says, `bytes` is set by the
    codec when it has found as many.
    """

    __slots__ = ("big", "bytes", "dtype", "key", "nbytes", "part_of", "start", "views")

    def __init__(self, key: str, dtype: DType | None, nbytes: int) -> None:
        self.key = key
        self.dtype = dtype
        self.nbytes = nbytes
        self.bytes: Bytes | None = None
        self.big = False
        """Whether it was written by a big-endian machine."""
        self.views = 0
        """Tensors that look into it."""
        self.part_of: Storage | None = None
        self.start: int
        """For a part of another storage (torch before 0.4): its first byte there."""


class StorageType:
    """What a storage class holds; `dtype` is None when it is untyped or quantized."""

    __slots__ = ("dtype", "width")

    def __init__(self, dtype: DType | None, width: int) -> None:
        self.dtype = dtype
        self.width = width


def storage_type(kind: object) -> StorageType:
    """Return what the name of a storage class stands for."""
    if type(kind) is not Global or type(kind.value) is not StorageType:
        raise InputError("a storage of no known type")
    return kind.value


class Storages:
    """The storages of one file by key, made as the pickle mentions them."""

    def __init__(self) -> None:
        self.found: dict[str, Storage] = {}
        self.parts: dict[str, Storage] = {}
        """Parts of storages, by a key of their own."""

    def load(self, identity: object) -> Storage:
        """Answer a persistent id: `("storage", type, key, location, numel)`."""
        if type(identity) is not tuple or not identity or identity[0] != "storage":
            what = shown(identity[0]) if type(identity) is tuple and identity else "nothing"
            raise InputError(f"refers to {what}, not to a storage")
        if len(identity) not in (5, 6):
            raise InputError("a storage whose description is malformed")
        _, kind, key, _, numel = identity[:5]
        held = storage_type(kind)
        if type(key) is not str or type(numel) is not int or not 0 <= numel <= MOST_ELEMENTS:
            raise InputError("a storage whose key or length is malformed")
        storage = _declare(self.found, key, held.dtype, numel * held.width)
        if len(identity) == 6 and identity[5] is not None:
            return self._part(storage, identity[5], held.width)
        return storage

    def _part(self, whole: Storage, view: object, width: int) -> Storage:
        """Stand for a storage that is a part of another: `(key, offset, numel)` in elements."""
        if type(view) is not tuple or len(view) != 3:
            raise InputError("a part of a storage that is malformed")
        key, offset, numel = view
        if type(key) is not str or type(offset) is not int or type(numel) is not int:
            raise InputError("a part of a storage that is malformed")
        part = _declare(self.parts, key, whole.dtype, numel * width)
        place_part(part, whole, offset * width)
        return part


def place_part(part: Storage, whole: Storage, start: int) -> None:
    """Say where in `whole` a part lies; `InputError` when it does not fit or lay elsewhere."""
    if part.part_of is not None and (part.part_of, part.start) != (whole, start):
        raise InputError(f"storage {printable(part.key)} is described in two ways")
    if not 0 <= start <= start + part.nbytes <= whole.nbytes:
        raise InputError("a part of a storage that does not fit into it")
    part.part_of, part.start = whole, start


def _declare(known: dict[str, Storage], key: str, dtype: DType | None, nbytes: int) -> Storage:
    storage = known.get(key)
    if storage is None:
        storage = known[key] = Storage(key, dtype, nbytes)
    elif (storage.dtype, storage.nbytes) != (dtype, nbytes):
        raise InputError(f"storage {printable(key)} is described in two ways")
    return storage
