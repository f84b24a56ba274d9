"""A small file in memory, all of whose bytes are known but those of its tensors."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator, Mapping

from porter import codecs
from porter.codecs.zip.directory import checksums
from porter.errors import printable
from porter.storage.digests import crc32
from porter.storage.input_file import InputFile
from porter.storage.pieces import Layout, place
from porter.tensors.lazy import Extent, LazyTensor
from porter.tensors.shared_tensors import aliases, compact
from porter.tensors.state_dict import StateDict

Range = tuple[int, int]
"""The first byte of a tensor in a file, and the one after its last."""


class Buffer:
    """A file of one form in memory: what is the same in all such files, and where the rest is."""

    def __init__(self, path: str, tensors: Mapping[str, Range]) -> None:
        with InputFile(path) as file:
            self.data = bytearray(file.pread(0, file.size))
            zipped = checksums(file) if self.data[:4] == b"PK\3\4" else []
        self.bytes = memoryview(self.data)
        ranges = list(tensors.values())
        self.tensors = {name: self.bytes[a:b] for name, (a, b) in tensors.items()}
        own = [
            (m, p) for m, p in zipped if any(m.offset <= a < m.offset + m.size for a, _ in ranges)
        ]
        self._members = [self.bytes[m.offset : m.offset + m.size] for m, _ in own]
        places = [(number, p) for number, (_, each) in enumerate(own) for p in each]
        self._which = [number for number, _ in places]
        """The member of each checksum."""
        self._sums = [self.bytes[p : p + 4] for _, p in places]
        between = _between([*ranges, *((p, p + 4) for _, p in places)], len(self.data))
        self._frame = [self.bytes[a:b] for a, b in between]
        self._same = b"".join(self._frame)

    def is_of_form(self) -> bool:
        """Whether all that is not a tensor's is as it was, and every checksum that of its bytes."""
        return b"".join(self._frame) == self._same and b"".join(self._sums) == self._summed()

    def restore(self) -> None:
        """Put back what is the same in all files of the form."""
        at = 0
        for part in self._frame:
            part[:] = self._same[at : at + len(part)]
            at += len(part)

    def sum_up(self) -> None:
        """Put the checksums of the members that are there into their places."""
        sums = self._summed()
        for at, stated in zip(range(0, len(sums), 4), self._sums, strict=True):
            stated[:] = sums[at : at + 4]

    def _summed(self) -> bytes:
        """Return the checksums that the content gives, in the order of their places."""
        sums = [*map(crc32, self._members)]
        return struct.pack(f"<{len(self._which)}I", *[sums[number] for number in self._which])


def _between(ranges: Iterable[Range], size: int) -> Iterator[Range]:
    """Yield what is between ranges, in order."""
    at = 0
    for start, end in [*sorted(ranges), (size, size)]:
        if start > at:
            yield at, start
        at = max(at, end)


def ranges(state: StateDict) -> dict[str, Range]:
    """Return where each tensor is in a file; `KeyError` for one that is not in one run of it."""
    result = {}
    for name, tensor in state.items():
        where = tensor.extent or tensor.strided
        if where is None:
            raise KeyError(name)
        result[name] = where.offset, where.offset + tensor.nbytes
    return result


def placed(state: StateDict) -> StateDict:
    """Return a state dict all of whose tensors have a place in the file.

    A small array of a pickle is read with what is around it. Where it is in the file shows when
    porter, writing the same tensors, would write the same file.
    """
    origin = state.origin
    assert origin is not None
    if all(tensor.extent or tensor.strided for tensor in state.values()):
        return state
    file = InputFile(origin.path)
    data = file.pread(0, file.size)
    layout = place(codecs.CODECS[origin.format].pieces(state, {}))
    whole = bytearray(layout.nbytes)
    for offset, piece in layout.frame():
        whole[offset : offset + len(piece)] = piece
    for body in layout.bodies:
        whole[body.offset : body.offset + body.nbytes] = body.tensor.read().tobytes()
    if whole != data:
        raise KeyError
    extents = {n: Extent(file, a, b - a) for n, (a, b) in _places(state, layout).items()}
    tensors = {
        name: LazyTensor.stored(tensor.dtype, tensor.shape, extents[name], tie=tensor.tie)
        for name, tensor in state.items()
    }
    return StateDict(tensors, origin)


def written(state: StateDict, format: str, metadata: Mapping[str, str]) -> dict[str, Range]:
    """Return where each tensor is in the file that porter writes of them."""
    return _places(state, place(codecs.CODECS[format].pieces(state, metadata)))


class Header:
    """The header of a safetensors file, which states the name of its source.

    Raises `KeyError` for one that does not, as `porter.convert` has it.
    """

    def __init__(self, data: bytes, source: str) -> None:
        (length,) = struct.unpack_from("<Q", data)
        self._before, mark, rest = data[8 : 8 + length].partition(b'"porter.source":')
        self._before += mark
        value = _stated(source)
        if not mark or not rest.startswith(value):
            raise KeyError(source)
        self._after = rest.removeprefix(value).rstrip(b" ")
        self._nbytes = length

    def of(self, source: str) -> bytes | None:
        """Return that of another file's conversion; None where it has another length."""
        text = self._before + _stated(source) + self._after
        text += b" " * (-len(text) % 8)
        return struct.pack("<Q", len(text)) + text if len(text) == self._nbytes else None


def _stated(source: str) -> bytes:
    return compact(printable(os.path.basename(source), 400)).encode()


def _places(state: StateDict, layout: Layout) -> dict[str, Range]:
    known = {body.name: (body.offset, body.offset + body.nbytes) for body in layout.bodies}
    shared = aliases(state)
    return {name: known[name if name in known else shared[name]] for name in state}
