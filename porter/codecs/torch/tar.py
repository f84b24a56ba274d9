"""The tar that torch 0.1 wrote: `storages`, `tensors` and a `pickle` that refers to them.

The layout: `legacy_load` in `torch/serialization.py`. The tar is read by rules of its own:
regular files of known names, each once, numbers in octal or in an extended header, zeros between
and behind them.
"""

from __future__ import annotations

from porter.codecs.pickle.cursor import Cursor
from porter.codecs.pickle.ndarrays import MOST_DIMENSIONS, checked_shape
from porter.codecs.pickle.values import Global
from porter.codecs.torch.names import TORCH
from porter.codecs.torch.storages import Storage, place_part, storage_type
from porter.codecs.torch.views import TorchTensor
from porter.errors import InputError, listed, printable
from porter.storage.input_file import InputFile

_BLOCK = 512
_PORTION = 1 << 20
_NAMES = ("sys_info", "pickle", "tensors", "storages")
_MOST_MEMBERS = 64
_MOST_EXTENDED = 1 << 16
_HARMLESS = (b"mtime", b"atime", b"ctime", b"uid", b"gid", b"uname", b"gname", b"comment")
"""What an extended header may say beside the size: nothing that changes what is read."""
_MOST_OBJECTS = 1_000_000


def is_tar(file: InputFile) -> bool:
    """Whether the first block is the header of a tar."""
    return file.size >= _BLOCK and _checksum_holds(file.pread(0, _BLOCK))


def read_tar(file: InputFile) -> object:
    """Return the tree that the tar's pickle holds, its tensors in place."""
    members = _members(file)
    missing = [name for name in ("storages", "tensors", "pickle") if name not in members]
    if missing:
        raise InputError(f"a tar, and no torch checkpoint: it has no {missing[0]}")
    if stray := [name for name in members if name not in _NAMES]:
        raise InputError(f"tar: members that no torch checkpoint has: {listed(stray)}")
    if "sys_info" in members:
        _check_system(Cursor(file, *members["sys_info"]))
    storages = _storages(Cursor(file, *members["storages"]))
    tensors = _tensors(Cursor(file, *members["tensors"]), storages)
    cursor = Cursor(file, *members["pickle"])

    def load(identity: object) -> object:
        known = type(identity) in (int, str) and str(identity).isdecimal()
        tensor = tensors.get(int(str(identity))) if known else None
        if tensor is None:
            raise InputError("refers to something that is no tensor of the tar")
        return tensor

    tree: object = cursor.pickle(TORCH, "pickle,", load)
    cursor.finish("pickle")
    return tree


def _check_system(cursor: Cursor) -> None:
    system = cursor.pickle({}, "sys_info,")
    if type(system) is not dict or system.get("little_endian", True) is not True:
        raise InputError("says that it is big-endian, which torch does not look at: ambiguous")
    cursor.finish("sys_info")


def _storages(cursor: Cursor) -> dict[int, Storage]:
    storages: dict[int, Storage] = {}
    for _ in range(_count(cursor, "storages")):
        entry = cursor.pickle(TORCH, "storages,")
        if type(entry) is not tuple or len(entry) != 3 or type(entry[0]) is not int:
            raise InputError("storages: an entry makes no sense")
        key, _, kind = entry
        dtype = storage_type(kind).dtype
        if dtype is None or key in storages:
            raise InputError(f"storages: {printable(key)} is untyped, or there twice")
        storage = Storage(str(key), dtype, cursor.peek_integer(8) * dtype.itemsize)
        cursor.storage(storage)
        storages[key] = storage
    _parts(cursor.pickle({}, "storages,"), storages)
    cursor.finish("storages")
    return storages


def _parts(views: object, storages: dict[int, Storage]) -> None:
    """Add the storages that are parts of others: `[(key, whole, offset, numel), …]`."""
    if type(views) is not list:
        raise InputError("storages: the list of parts is none")
    for view in views:
        if type(view) is not tuple or len(view) != 4 or any(type(v) is not int for v in view):
            raise InputError("storages: a part makes no sense")
        key, root, offset, numel = view
        whole = storages.get(root)
        if whole is None or whole.part_of is not None or key in storages or numel < 0:
            raise InputError("storages: a part of what is not there, or there twice")
        assert whole.dtype is not None
        part = Storage(str(key), whole.dtype, numel * whole.dtype.itemsize)
        place_part(part, whole, offset * whole.dtype.itemsize)
        storages[key] = part


def _tensors(cursor: Cursor, storages: dict[int, Storage]) -> dict[int, TorchTensor]:
    tensors: dict[int, TorchTensor] = {}
    for _ in range(_count(cursor, "tensors")):
        entry = cursor.pickle(TORCH, "tensors,")
        if type(entry) is not tuple or len(entry) != 3 or type(entry[0]) is not int:
            raise InputError("tensors: an entry makes no sense")
        key = entry[0]
        storage = storages.get(entry[1]) if type(entry[1]) is int else None
        if storage is None or key in tensors:
            raise InputError(f"tensors: {printable(key)} has no storage, or is there twice")
        assert storage.dtype is not None
        kind = str(storage.dtype.storage).replace("Storage", "Tensor")
        if type(entry[2]) is not Global or entry[2].name != kind:
            raise InputError(f"tensors: {key} is of another type than its storage")
        tensors[key] = _tensor(cursor, storage)
    cursor.finish("tensors")
    return tensors


def _tensor(cursor: Cursor, storage: Storage) -> TorchTensor:
    rank = cursor.integer(4)
    cursor.skip(4)  # the number of dimensions once took eight bytes
    if not 0 <= rank <= MOST_DIMENSIONS:
        raise InputError(f"tensors: one of {rank} dimensions")
    shape = tuple(cursor.integer(8) for _ in range(rank))
    stride = tuple(cursor.integer(8) for _ in range(rank))
    offset = cursor.integer(8)
    assert storage.dtype is not None
    return TorchTensor(storage, storage.dtype, offset, checked_shape(shape), stride)


def _count(cursor: Cursor, where: str) -> int:
    count = cursor.pickle({}, f"{where},")
    if type(count) is not int or not 0 <= count <= _MOST_OBJECTS:
        raise InputError(f"{where}: the number of entries makes no sense")
    return count


def _members(file: InputFile) -> dict[str, tuple[int, int]]:
    """Return where each member begins and ends."""
    members: dict[str, tuple[int, int]] = {}
    at, size_override = 0, None
    while at + _BLOCK <= file.size:
        header = file.pread(at, _BLOCK)
        at += _BLOCK
        if not header.strip(b"\0"):
            break
        if not _checksum_holds(header):
            raise InputError(f"tar: no header at byte {at - _BLOCK}")
        size = _octal(header[124:136]) if size_override is None else size_override
        if size > file.size - at:
            raise InputError(f"truncated: a member of {size} bytes, {file.size - at} left")
        kind, name = header[156:157], _name(header)
        size_override = _extended_size(file, at, size) if kind == b"x" else None
        if kind in (b"0", b"\0"):
            if name in members or len(members) >= _MOST_MEMBERS:
                raise InputError(f"tar: {printable(name)} is there twice, or one of too many")
            members[name] = (at, at + size)
        elif kind != b"x":
            raise InputError(f"tar: {printable(name)} is no regular file")
        end = at + -(-size // _BLOCK) * _BLOCK
        _check_zeros(file, at + size, min(end, file.size), f"behind {printable(name)}")
        at = end
    _check_zeros(file, at, file.size, "behind its end")
    return members


def _name(header: bytes) -> str:
    """Return the name of a member; `InputError` where readers could see two."""
    name, _, rest = header[:100].partition(b"\0")
    if rest.strip(b"\0") or header[345:].strip(b"\0"):
        what = printable(name.decode("latin-1"))
        raise InputError(f"tar: the name {what} goes on where not every reader looks")
    return name.decode("latin-1").removeprefix("./")


def _check_zeros(file: InputFile, start: int, end: int, where: str) -> None:
    """Refuse anything but zeros in a part of the file that belongs to no member."""
    for at in range(start, end, _PORTION):
        if file.pread(at, min(_PORTION, end - at)).strip(b"\0"):
            raise InputError(f"tar: there are bytes {where}")


def _checksum_holds(header: bytes) -> bool:
    stated = header[148:156].strip(b" \0")
    if not stated or stated.strip(b"01234567"):
        return False
    return int(stated, 8) == sum(header[:148]) + 8 * 32 + sum(header[156:])


def _octal(field: bytes) -> int:
    text = field.strip(b" \0")
    if text.strip(b"01234567"):
        raise InputError("tar: a size that is no octal number")
    return int(text or b"0", 8)


def _extended_size(file: InputFile, at: int, nbytes: int) -> int | None:
    """Return the size that an extended header (`21 size=12345678901\\n`) gives, if it does."""
    if nbytes > _MOST_EXTENDED:
        raise InputError(f"tar: an extended header of {nbytes} bytes")
    rest, said = file.pread(at, nbytes), dict[bytes, bytes]()
    while rest:
        length, _, _ = rest[:8].partition(b" ")
        end = int(length) if length.isdigit() else 0
        key, equals, value = rest[len(length) + 1 : end].partition(b"=")
        if not equals or rest[end - 1 : end] != b"\n" or key in said:
            raise InputError("tar: an extended header that makes no sense")
        if key not in (b"size", *_HARMLESS):
            what = printable(key.decode("latin-1"))
            raise InputError(f"tar: an extended header with {what}")
        said[key], rest = value[:-1], rest[end:]
    size = said.get(b"size")
    if size is not None and (not size.isdigit() or len(size) > 18):
        raise InputError("tar: a size that is no number")
    return None if size is None else int(size)
