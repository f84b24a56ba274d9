"""The weight-level proof: what was written, mapped back, is what was read, bit for bit.

It covers every byte but cannot see a fault that a table makes in both directions; the forward
proof (`porter.commands.verify`) is there for those.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from porter.errors import listed, printable
from porter.mapping.fold import fold
from porter.planning.plan import Plan
from porter.storage.pieces import WRITE_BLOCK, Meter, run_all
from porter.storage.progress import Advance
from porter.storage.read_back import Returned
from porter.tensors.blocks import Array
from porter.tensors.dtypes import DTYPES, DType
from porter.tensors.lazy import LazyTensor


@dataclass(frozen=True, slots=True)
class WeightProof:
    """What became of every tensor of a conversion; without `problems` all of them are right."""

    compared: int
    """Tensors of the source that were mapped back and compared."""
    nbytes: int
    """Bytes of the source that were compared."""
    dropped: int
    """Tensors of the source left out for a stated reason."""
    lost: int
    """Tensors of the source for which the target has no place."""
    folded: int
    """Tensors of the source with no way back: what was made of them was computed again."""
    filled: int
    """Tensors of the target that were written with a constant value."""
    computed: int
    """Tensors of the target that the architecture computes."""
    cast: str | None = None
    """Element type that floating tensors were rounded to."""
    problems: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether everything written, mapped back, is what was read."""
        return not self.failed

    @property
    def failed(self) -> bool:
        """Whether a tensor is not what it must be."""
        return bool(self.problems)


def prove_weights(
    plan: Plan,
    source: Mapping[str, LazyTensor],
    written: Mapping[str, LazyTensor],
    cast: str | None = None,
    progress: Advance | None = None,
    *,
    digests: Returned | None = None,
) -> WeightProof:
    """Map `written` back by the plan and compare dtype, shape and bytes with `source`.

    Tensors are compared side by side, a block at a time, as bytes, so that NaN, -0 and denormals
    count.
    With `digests`, taken while source and output were read, nothing is read again; with `cast`
    too, those of the source are of its rounded tensors.
    With `cast` (a dtype's name) floating tensors must be the source's, rounded to nearest even.
    Names that neither side accounts for are problems, as are filled and computed tensors that
    have other values than the plan states.
    """
    problems = _names(plan, written)
    if problems:
        return WeightProof(0, 0, 0, 0, 0, 0, 0, cast, tuple(problems))
    back = plan.back(written)
    one_way = plan.one_way
    compared = nbytes = dropped = lost = folded = 0
    both = [(name, tensor, back[name]) for name, tensor in source.items() if name in back]
    found = _digested(both, digests, cast) if digests else _differences(both, cast, progress)
    for name, tensor in source.items():
        if name in back:
            compared += 1
            nbytes += tensor.nbytes
            problems += found[name]
        elif name in plan.dropped:
            dropped += 1
        elif name in one_way:
            folded += 1
        elif _is_lost(plan, name):
            lost += 1
        else:
            problems.append(f"{printable(name)} was read and is nowhere in what was written")
    problems += [
        f"{printable(name)} comes back but was not read" for name in _invented(back, source)
    ]
    problems += _made_here(plan, source, written, cast)
    if not compared:
        problems.append("no tensor was compared")
    return WeightProof(
        compared, nbytes, dropped, lost, folded, len(plan.filled), len(plan.computed), cast,
        tuple(problems),
    )  # fmt: skip


def _names(plan: Plan, written: Mapping[str, LazyTensor]) -> list[str]:
    expected = set(plan.target.by_dialect)
    own = {name for name in written if plan.target.extra(name) is not None} | set(plan.kept)
    missing, extra = fold(expected - set(written)), fold(set(written) - expected - own)
    return [
        *([f"not written: {listed(missing, 12)}"] if missing else []),
        *([f"written but not planned: {listed(extra, 12)}"] if extra else []),
    ]


def _is_lost(plan: Plan, name: str) -> bool:
    made = plan.source.by_dialect.get(name)
    return made is not None and any(part in plan.lost for part in made.canonical)


def _invented(back: Mapping[str, LazyTensor], source: Mapping[str, LazyTensor]) -> Iterator[str]:
    yield from (name for name in back if name not in source)


def _made_here(
    plan: Plan,
    source: Mapping[str, LazyTensor],
    written: Mapping[str, LazyTensor],
    cast: str | None,
) -> list[str]:
    """Compare the tensors that do not come back with what the plan makes of the source."""
    canonical = plan.mapped(source)
    made = plan.made & set(canonical)
    problems = []
    for link in plan.target.links:
        if all(name in made for name in link.canonical):
            expected = link.to_dialect([canonical[name] for name in link.canonical])
            for name, tensor in zip(link.dialect, expected, strict=True):
                problems += _difference(name, tensor, written[name], cast)
    return problems


def _differences(
    both: Sequence[tuple[str, LazyTensor, LazyTensor]],
    cast: str | None,
    progress: Advance | None,
) -> dict[str, list[str]]:
    """Compare tensors over a few threads: {name: how they differ}."""
    found: dict[str, list[str]] = {}
    meter = Meter()

    def compare(batch: Sequence[tuple[str, LazyTensor, LazyTensor]]) -> None:
        with meter.large if len(batch) == 1 else meter.small:
            for name, read, written in batch:
                with meter.budget.taken(read.held + written.held):
                    found[name] = _difference(name, read, written, cast)
                meter.add(read.nbytes)

    total = sum(read.nbytes for _, read, _ in both)
    run_all((partial(compare, batch) for batch in _batches(both)), meter, total, progress)
    return found


def _digested(
    both: Sequence[tuple[str, LazyTensor, LazyTensor]], digests: Returned, cast: str | None
) -> dict[str, list[str]]:
    """Compare tensors by digests that were taken before: {name: how they differ}."""
    found: dict[str, list[str]] = {}
    for name, read, back in both:
        expected = _expected(read, cast)
        found[name] = _form(name, read, back, expected)
        if not found[name] and (
            name not in digests.read or digests.read[name] != digests.back[name]
        ):
            found[name] = [f"{printable(name)} has other values than the source"]
            if expected is not read.dtype:  # Which elements, and whether they are all NaN.
                found[name] = _difference(name, read, back, cast)
    return found


def _expected(read: LazyTensor, cast: str | None) -> DType:
    """Return the type that a tensor has in the output."""
    return DTYPES[cast] if cast is not None and read.dtype.is_float else read.dtype


def _form(name: str, read: LazyTensor, found: LazyTensor, expected: DType) -> list[str]:
    """Return how dtype or shape differ: nothing, or one line."""
    if found.dtype is not expected:
        return [f"{printable(name)} is {found.dtype.name}, not {expected.name}"]
    if found.shape != read.shape:
        return [f"{printable(name)} is {list(found.shape)}, not {list(read.shape)}"]
    return []


def _batches(
    both: Sequence[tuple[str, LazyTensor, LazyTensor]],
) -> Iterator[list[tuple[str, LazyTensor, LazyTensor]]]:
    """Yield small tensors in groups and large ones one by one."""
    batch: list[tuple[str, LazyTensor, LazyTensor]] = []
    size = 0
    for row in both:
        batch.append(row)
        size += row[1].nbytes + 4096
        if size >= WRITE_BLOCK:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _difference(name: str, read: LazyTensor, found: LazyTensor, cast: str | None) -> list[str]:
    """Return how `found` differs from `read`: nothing, or one line."""
    expected = _expected(read, cast)
    where = printable(name)
    if wrong := _form(name, read, found, expected):
        return wrong
    if expected is not read.dtype:
        count = sum(_uncast(a, b, expected) for a, b in _pairs(read, found))
        return [f"{where}: {count} elements are not the source's, rounded"] if count else []
    if not all(_same_bytes(a, b) for a, b in _pairs(read, found)):
        return [f"{where} has other values than the source"]
    return []


def _uncast(read: Array, found: Array, dtype: DType) -> int:
    """Return how many elements of `found` are not `read` rounded; all NaNs are equal."""
    with np.errstate(over="ignore", invalid="ignore"):
        rounded = read.astype(dtype.numpy)
    word = np.dtype(f"u{dtype.itemsize}")
    differs = rounded.view(word) != found.view(word)
    if not differs.any():
        return 0
    nan = np.isnan(rounded.astype(np.float64)) & np.isnan(found.astype(np.float64))
    return int(np.count_nonzero(differs & ~nan))


def _same_bytes(read: Array, found: Array) -> bool:
    """Whether two contiguous arrays of one type have the same bytes."""
    a, b = read.view(np.uint8), found.view(np.uint8)
    if len(a) % 8 == 0:  # Eight bytes at a time take an eighth of the steps.
        a, b = a.view(np.uint64), b.view(np.uint64)
    return bool(np.array_equal(a, b))


def _pairs(one: LazyTensor, other: LazyTensor) -> Iterator[tuple[Array, Array]]:
    """Yield the elements of two tensors of one shape, as many of both, in C order.

    What is yielded is good until the next is asked for.
    """
    left, right = one.blocks(WRITE_BLOCK), other.blocks(WRITE_BLOCK)
    a = b = memoryview(b"")
    wide, narrow = one.dtype.itemsize, other.dtype.itemsize
    done = 0
    while done < one.size:
        a = a or next(left)
        b = b or next(right)
        count = min(len(a) // wide, len(b) // narrow)
        yield (
            np.frombuffer(a[: count * wide], one.dtype.numpy),
            np.frombuffer(b[: count * narrow], other.dtype.numpy),
        )
        a, b = a[count * wide :], b[count * narrow :]
        done += count
