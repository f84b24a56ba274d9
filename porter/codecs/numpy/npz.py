"""Several NumPy arrays: a zip of `.npy` files, stored or deflated.

https://numpy.org/doc/stable/reference/generated/numpy.savez.html
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from porter.codecs.flat import flat
from porter.codecs.numpy import npy
from porter.codecs.zip.directory import Member, read_directory
from porter.codecs.zip.writing import Content, zip_pieces
from porter.errors import InputError, UsageError, printable
from porter.storage.input_file import InputFile
from porter.storage.pieces import Body, Piece
from porter.tensors.lazy import LazyTensor
from porter.tensors.state_dict import Origin, StateDict
from porter.tensors.streams import cut

_SUFFIX = ".npy"
_LONGEST_NAME = 65_535 - len(_SUFFIX)


def read(file: InputFile, *, key: str | None = None, strip: bool = True) -> StateDict:
    """Return the arrays of a `.npz` file; `InputError` for what is no array, or ambiguous."""
    tensors: dict[str, LazyTensor] = {}
    members = read_directory(file, marked_names=True)
    for member in members.values():
        name = _key(member)
        tensors[name] = _tensor(member)
    bare = sum(not member.checksummed for member in members.values())
    note = f"{bare} of {len(members)} arrays carry no checksum: damage cannot be seen."
    origin = Origin(file.path, "npz", (file.path,), notes=(note,) if bare else ())
    return flat(tensors, origin, key=key, strip=strip)


def _key(member: Member) -> str:
    if not member.name.endswith(_SUFFIX):
        what = f"the archive contains {printable(member.name)}, which is not a .npy file"
        raise InputError(what, member.path)
    name = member.name.removesuffix(_SUFFIX)
    if problem := _problem(name):
        raise InputError(f"the array name {printable(name)} {problem}", member.path)
    return name


def _problem(name: str) -> str:
    """Say what is wrong with a name: programs unpack these archives into folders."""
    if name.startswith("/") or "\\" in name or ".." in name.split("/"):
        return "is a path that leads out of a folder"
    if "\0" in name:
        return "contains a NUL"
    if name.endswith(_SUFFIX):
        return "ends in .npy, which NumPy takes off twice"
    return ""


class _Inflated:
    """The bytes of a deflated member, inflated as far as they are asked for."""

    def __init__(self, member: Member) -> None:
        self._member = member

    def read(self, offset: int, nbytes: int) -> bytes:
        if offset + nbytes == self._member.size:
            return self._member.read()[offset:]
        found = b""
        for block in self._member.blocks(max(1, offset + nbytes)):
            found += block
            if len(found) >= offset + nbytes:
                break
        return found[offset : offset + nbytes]


class _Stored:
    """The bytes of a stored member."""

    def __init__(self, member: Member) -> None:
        self._member = member

    def read(self, offset: int, nbytes: int) -> bytes:
        return self._member.pread(self._member.offset + offset, nbytes)


def _tensor(member: Member) -> LazyTensor:
    source = _Stored(member) if member.stored else _Inflated(member)
    try:
        header = npy.parse(source, member.size, f"{printable(member.name)}: ")
    except InputError as error:
        raise InputError(error.message, member.path) from error
    if member.stored:
        return npy.tensor(header, source, (member, member.offset))

    def stream(limit: int) -> Iterator[memoryview]:
        return cut(member.checked(limit), header.size, header.nbytes)

    return npy.tensor(header, source, None, stream)


def check(state: StateDict) -> None:
    """Raise `UsageError` for a name or dtype that the format cannot hold."""
    for name, tensor in state.items():
        npy.check_dtype(name, tensor)
        if problem := _problem(name):
            raise UsageError(f"a .npz file cannot store {printable(name)}: the name {problem}")
        try:
            length = len(name.encode("utf-8"))
        except UnicodeEncodeError as fault:
            raise UsageError(f"the name {printable(name)} is not Unicode text") from fault
        if length > _LONGEST_NAME:
            raise UsageError(f"a .npz file cannot store a name of {length} bytes")


def pieces(state: StateDict, metadata: Mapping[str, str]) -> Iterator[Piece]:
    """Yield the pieces of the archive, members stored; there is no place for `metadata`."""
    check(state)
    yield from zip_pieces(
        Content(name + _SUFFIX, npy.header_of(tensor), Body(name, tensor))
        for name, tensor in state.items()
    )
