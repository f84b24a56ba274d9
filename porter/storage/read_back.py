"""Read a finished file as any reader would, and compare it with what was to be written."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

from porter.errors import SystemFault, listed, printable
from porter.storage import pieces
from porter.storage.digests import XXH3, Digest, digest_of, method_of
from porter.storage.file_digest import FileDigest
from porter.storage.pieces import Meter, Task
from porter.storage.progress import Advance
from porter.tensors.blocks import Array
from porter.tensors.lazy import SMALL, LazyTensor

Place = tuple[str, int, int]
"""Path, offset and bytes of a tensor that is stored in one run."""

Key = TypeVar("Key", bound=Hashable)


class Proof(Protocol):
    """How an output is compared with its source."""

    @property
    def source(self) -> Mapping[str, LazyTensor]:
        """The tensors that were read."""

    def back(self, written: Mapping[str, LazyTensor]) -> Mapping[str, LazyTensor]:
        """Return the source's tensors, made of those that were written."""


@dataclass(frozen=True, slots=True)
class Returned:
    """Digests of the source as it was read, and as the output maps back to it."""

    read: Mapping[str, str]
    back: Mapping[str, str]


def place_of(tensor: LazyTensor) -> Place | None:
    """Return where a tensor is stored, None when it is not in one run of a file."""
    extent = tensor.extent
    return None if extent is None else (extent.file.path, extent.offset, extent.nbytes)


def runs_in(path: str, tensors: Iterable[LazyTensor]) -> set[tuple[int, int]]:
    """Return (offset, bytes) of the tensors that are stored in a file."""
    places = map(place_of, tensors)
    return {place[1:] for place in places if place is not None and place[0] == path}


def sure(tensor: LazyTensor, digest: str) -> LazyTensor:
    """Return a tensor that is read whole, and must then have a digest."""

    def read() -> Array:
        array = tensor.read()
        if digest_of(array.tobytes(), method_of(digest)) != digest:
            raise SystemFault("a tensor that is read again has other values (memory error?)")
        return array

    return LazyTensor(tensor.dtype, tensor.shape, read)


def digests_of(
    state: Mapping[Key, LazyTensor],
    progress: Advance | None = None,
    *,
    method: str = XXH3,
    files: Sequence[FileDigest] = (),
    known: Mapping[Place, str] | None = None,
) -> dict[Key, str]:
    """Return {name: digest} of all tensors.

    `files` are read through on the way, each once: tensors in one run of them are not read again,
    nor are those that are `known`. Other tensors are read when the pass is near them.
    """
    places = {name: place_of(tensor) for name, tensor in state.items()}
    covered = set(known or ())
    covered |= {(file.path, *run) for file in files for run in runs_in(file.path, state.values())}
    rest = {name: tensor for name, tensor in state.items() if places[name] not in covered}
    result: dict[Key, str] = {}
    meter = Meter()

    def take(names: list[Key]) -> None:
        with meter.large if len(names) == 1 else meter.small:
            for name in names:
                result[name] = _digest(state[name], meter, method)

    jobs = [
        Task(_place(rest[names[0]]), partial(take, names), _whole([rest[name] for name in names]))
        for names in _batches(rest)
    ]
    total = sum(tensor.nbytes for tensor in rest.values()) + sum(file.size for file in files)
    in_order = pieces.in_order(jobs, files, meter)
    pieces.run_all((job.run for job in in_order), meter, total, progress)
    taken = {**(known or {}), **{place: text for file in files for place, text in file.places()}}
    for name, place in places.items():
        if name not in result:
            assert place is not None
            result[name] = taken[place]
    return result


def _place(tensor: LazyTensor) -> tuple[str, int]:
    return tensor.place or ("", 0)


def _whole(batch: list[LazyTensor]) -> int:
    return batch[0].nbytes if len(batch) == 1 and batch[0].is_read_whole else 0


def _digest(tensor: LazyTensor, meter: Meter, method: str) -> str:
    if tensor.nbytes <= SMALL:
        meter.add(tensor.nbytes)
        return digest_of(tensor.whole(), method)
    digest = Digest(method)
    with meter.budget.taken(tensor.held):
        for block in tensor.blocks(pieces.WRITE_BLOCK):
            digest.update(block)
            meter.add(len(block))
    return digest.text()


def _batches(state: Mapping[Key, LazyTensor]) -> Iterable[list[Key]]:
    batch: list[Key] = []
    size = 0
    for name, tensor in state.items():
        batch.append(name)
        size += tensor.nbytes + 4096
        if size >= pieces.WRITE_BLOCK:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def differences(
    expected: Mapping[str, LazyTensor],
    found: Mapping[str, LazyTensor],
    digests: Mapping[str, str] | None = None,
    actual: Mapping[str, str] | None = None,
) -> list[str]:
    """Return how the tensors of a file differ from what was written; empty when they do not.

    `expected` gives names, dtypes and shapes, `digests` the bytes, those of `found` being
    `actual`.
    """
    problems = []
    if missing := [name for name in expected if name not in found]:
        problems.append(f"missing: {listed(missing)}")
    if extra := [name for name in found if name not in expected]:
        problems.append(f"not expected: {listed(extra)}")
    both = [name for name in found if name in expected]
    for name in both:
        want, tensor = expected[name], found[name]
        if (want.dtype, want.shape) != (tensor.dtype, tensor.shape):
            wanted = f"{want.dtype.name} {list(want.shape)}"
            seen = f"{tensor.dtype.name} {list(tensor.shape)}"
            problems.append(f"{printable(name)} is {seen}, {wanted} expected")
    if digests is not None and actual is not None:
        altered = [name for name in both if digests.get(name) != actual.get(name)]
        if altered:
            problems.append(f"bytes differ from what was written: {listed(altered)}")
    return problems
