"""Read a finished file as anybody would, and compare it with what was meant."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial

from porter.errors import listed, printable
from porter.storage import pieces
from porter.storage.digests import XXH3, Digest, digest_of, method_of
from porter.storage.pieces import Meter
from porter.storage.progress import Advance
from porter.tensors.lazy import SMALL, LazyTensor


def digests_of(
    state: Mapping[str, LazyTensor],
    progress: Advance | None = None,
    methods: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Read every tensor and return {name: digest}; `methods` are by what, where it matters."""
    found: dict[str, str] = {}
    meter = Meter()

    def take(names: list[str]) -> None:
        with meter.large if len(names) == 1 else meter.small:
            for name in names:
                found[name] = _digest(state[name], meter, (methods or {}).get(name, XXH3))

    pieces.run_all(
        (partial(take, names) for names in _batches(state)),
        meter,
        sum(tensor.nbytes for tensor in state.values()),
        progress,
    )
    return found


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


def _batches(state: Mapping[str, LazyTensor]) -> Iterable[list[str]]:
    batch: list[str] = []
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
    digests: Mapping[str, str] | None,
    found: Mapping[str, LazyTensor],
    progress: Advance | None = None,
) -> list[str]:
    """Return how the tensors of a file differ from what was written; empty when they do not.

    `expected` gives names, dtypes and shapes, `digests` (unless None) the bytes.
    """
    problems = []
    if missing := [name for name in expected if name not in found]:
        problems.append(f"missing: {listed(missing)}")
    if extra := [name for name in found if name not in expected]:
        problems.append(f"not expected: {listed(extra)}")
    both = {name: tensor for name, tensor in found.items() if name in expected}
    for name, tensor in both.items():
        want = expected[name]
        if (want.dtype, want.shape) != (tensor.dtype, tensor.shape):
            told = f"{want.dtype.name} {list(want.shape)}"
            seen = f"{tensor.dtype.name} {list(tensor.shape)}"
            problems.append(f"{printable(name)} is {seen}, {told} expected")
    if digests is None:
        return problems
    methods = {name: method_of(digests[name]) for name in both if digests.get(name)}
    actual = digests_of(both, progress, methods)
    if altered := [name for name, digest in actual.items() if digests.get(name) != digest]:
        problems.append(f"other bytes than were written: {listed(altered)}")
    return problems
