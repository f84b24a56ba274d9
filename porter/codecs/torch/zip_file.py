"""torch's zip checkpoints (`.pth`, `.pt`, `.bin`, `.ckpt`, torch 1.6 and later), without torch.

The archive holds one folder with `data.pkl`, one member of `data/` for each storage, and a few
notes; whatever else is in it is refused. The layout: `torch/serialization.py` (`_save`, `_load`)
and `caffe2/serialize/inline_container.h`.
"""

from __future__ import annotations

from collections.abc import Iterator

from porter.codecs.pickle.reading import Unpickler
from porter.codecs.pickle.values import HeldBytes, Source
from porter.codecs.torch.names import TORCH, leaf
from porter.codecs.torch.storages import Run, Storages
from porter.codecs.unwrap import EXPANSION, check_total, unwrap
from porter.codecs.zip.directory import Member, read_directory
from porter.errors import InputError, listed, printable
from porter.storage.input_file import InputFile
from porter.tensors.lazy import Extent
from porter.tensors.state_dict import Origin, StateDict
from porter.tensors.streams import cut

FORMAT = "torch"

_NOTES = ("version", "byteorder", ".format_version", ".storage_alignment", ".data/serialization_id")
_STEP = 1 << 20
"""Bytes inflated at a time of a record of which a part is wanted."""
_LARGEST_HELD = 64 << 20
"""Bytes of a pickle that must be inflated, and so held."""
_FREE = 1 << 30
"""Bytes that may be inflated over and over, whatever the size of the file."""


def read(file: InputFile, *, key: str | None = None, strip: bool = True) -> StateDict:
    """Return the state dict of a torch zip file; `key` names one of several."""
    path = file.path
    members = read_directory(file)
    try:
        pickle = _load(file, members)
        found = unwrap(pickle.value, leaf, key, strip=strip, attributes=pickle.attributes)
        check_total(found.tensors, file.size)
    except InputError as error:
        raise InputError(error.message, path) from error
    return StateDict(
        found.tensors,
        Origin(
            path,
            FORMAT,
            (path,),
            found.wrapper,
            found.prefix,
            found.others,
            found.skipped,
            _notes(members),
            model=found.model,
            pictures=found.pictures,
        ),
    )


def tree(file: InputFile) -> object:
    """Return the object that a torch zip file has, its tensors as `leaf` knows them."""
    try:
        return _load(file, read_directory(file)).value
    except InputError as error:
        raise InputError(error.message, file.path) from error


def _load(file: InputFile, members: dict[str, Member]) -> Unpickler:
    root = _root(file, members)
    storages = Storages()
    big = _is_big(members.get(f"{root}/byteorder"), file.path)
    pickle = _unpickle(members[f"{root}/data.pkl"], storages, file.size)
    _attach(storages, members, root, file.size, big)
    return pickle


def _root(file: InputFile, members: dict[str, Member]) -> str:
    """Return the archive's one folder; `InputError` when this is another kind of zip."""
    roots = {name.partition("/")[0] for name in members}
    pickles = [name for name in members if name.endswith("/data.pkl") and name.count("/") == 1]
    if not pickles:
        raise InputError("a zip file, and no torch checkpoint: it has no data.pkl", file.path)
    if len(roots) > 1:
        raise InputError(f"the archive has several roots: {listed(sorted(roots))}", file.path)
    root = pickles[0].partition("/")[0]
    if len({name.lower() for name in members}) != len(members):
        raise InputError("members whose names differ by case only: torch mixes them up", file.path)
    if any(name.startswith((f"{root}/code/", f"{root}/constants")) for name in members):
        raise InputError(
            "a TorchScript archive, which contains a program: save the state_dict() instead",
            file.path,
        )
    known = {f"{root}/data.pkl", *(f"{root}/{note}" for note in _NOTES)}
    stray = [n for n in members if n not in known and not n.startswith(f"{root}/data/")]
    if stray:
        raise InputError(f"members that no torch checkpoint has: {listed(stray)}", file.path)
    return root


def _is_big(member: Member | None, path: str) -> bool:
    if member is None:  # before torch 2.1
        return False
    order = member.read() if member.size < 16 else b""
    if order not in (b"little", b"big"):
        raise InputError("the byte order is neither little nor big", path)
    return order == b"big"


def _unpickle(member: Member, storages: Storages, file_size: int) -> Unpickler:
    source: Source
    if member.stored:
        source, start = member.part(), member.offset
    elif member.size <= _LARGEST_HELD:
        source, start = HeldBytes(member.read(), member.path), 0
    else:
        raise InputError(f"data.pkl is deflated and has {member.size} bytes", member.path)
    end = start + member.size
    pickle = Unpickler(
        source, start, end, TORCH, where="data.pkl", persistent=storages.load, file_size=file_size
    )
    pickle.load()
    if pickle.offset != end:
        raise InputError(f"data.pkl goes on after its end at byte {pickle.offset - start}")
    return pickle


def _attach(
    storages: Storages, members: dict[str, Member], root: str, file_size: int, big: bool
) -> None:
    """Give every storage its bytes: each record used, each as long as the pickle says."""
    begin = f"{root}/data/"
    unused = {name for name in members if name.startswith(begin)}
    again = 0
    for key, storage in storages.found.items():
        member = members.get(begin + key)
        if member is None:
            raise InputError(f"there is no record data/{printable(key)}")
        unused.discard(begin + key)
        if member.size != storage.nbytes:
            raise InputError(
                f"data/{printable(key)} has {member.size} bytes, data.pkl says {storage.nbytes}"
            )
        storage.big = big
        storage.bytes = _Stored(member) if member.stored else _Deflated(member)
        if not member.stored:
            again += member.size * max(0, storage.views - 1)
    if unused:
        raise InputError(f"no tensor refers to {listed(sorted(unused))}: bytes would be lost")
    if again > EXPANSION * file_size + _FREE:
        raise InputError("many tensors share deflated records: store them, or save again")
    for storage in storages.parts.values():
        storage.big = big


class _Stored(Run):
    """A storage that stands in the file, guarded by its checksum."""

    __slots__ = ("_part", "_size")

    def __init__(self, member: Member) -> None:
        super().__init__(member, member.offset)
        self._part = Run(member.part(), member.offset)
        self._size = member.size

    def extent(self, offset: int, nbytes: int) -> Extent:
        if nbytes != self._size:
            return self._part.extent(offset, nbytes)
        return super().extent(offset, nbytes)

    def read(self, offset: int, nbytes: int) -> bytes:
        if nbytes != self._size:
            return self._part.read(offset, nbytes)
        return super().read(offset, nbytes)


class _Deflated:
    """A storage that must be inflated, anew for every tensor that looks into it."""

    __slots__ = ("_member",)

    seekable = False

    def __init__(self, member: Member) -> None:
        self._member = member

    def extent(self, offset: int, nbytes: int) -> None:
        return None

    def blocks(self, offset: int, nbytes: int, limit: int) -> Iterator[memoryview]:
        return cut(self._member.checked(limit), offset, nbytes)

    def read(self, offset: int, nbytes: int) -> bytes:
        return b"".join(self.blocks(offset, nbytes, _STEP))


def _notes(members: dict[str, Member]) -> tuple[str, ...]:
    bare = sum(not member.checksummed for member in members.values())
    if bare:
        return (f"{bare} of {len(members)} records carry no checksum: damage cannot be seen.",)
    return ()
