"""Change a checkpoint's number of classes or image size on request: this alters values.

Position embeddings are resized as a picture, bicubic with a = -0.75 and no anti-aliasing, as
`torch.nn.functional.interpolate(mode="bicubic", align_corners=False)` and the official
fine-tuning code do, or bilinear where the official code resizes so (PVT). So are Swin's tables of
relative positions for another window, each head's as a picture of its own; the head is drawn at
random (normal, std 0.02, zero bias).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import isqrt, prod

import numpy as np

from porter.errors import UsageError, listed
from porter.tensors.blocks import Array
from porter.tensors.dtypes import DType
from porter.tensors.lazy import LazyTensor, Shape
from porter.tensors.state_dict import StateDict
from porter.zoo.architectures import Architecture, Positions, all_variants
from porter.zoo.image_size import Size
from porter.zoo.seeded import noise
from porter.zoo.skeleton import Dim

_RELATIVE = ".relative_position_bias_table"


def adapt(
    architecture: Architecture,
    state: Mapping[str, LazyTensor],
    *,
    num_classes: int | None = None,
    image_size: Size | None = None,
    source_size: Size | None = None,
    seed: int = 0,
) -> tuple[StateDict, list[str]]:
    """Return a canonical state dict for other classes and image size, and what was changed.

    `image_size` is in pixels, `source_size` the checkpoint's, square where it is not known.
    Constants are left as they are: the plan computes them.
    """
    tensors = dict(state)
    changes: list[str] = []
    for name, dims in _heads(architecture):
        axis = dims.index("classes")
        if num_classes is not None and name not in tensors:
            shape = tuple(num_classes if d == "classes" else int(d) for d in dims)
            tensors[name] = _drawn(name, shape, next(iter(tensors.values())).dtype, seed)
            changes.append(f"{name}: drawn at random for {num_classes} classes")
        elif num_classes is not None and tensors[name].shape[axis] != num_classes:
            old = tensors[name]
            shape = (*old.shape[:axis], num_classes, *old.shape[axis + 1 :])
            tensors[name] = _drawn(name, shape, old.dtype, seed)
            changes.append(
                f"{name}: {old.shape[axis]} classes became {num_classes}, drawn at random"
            )
    if image_size is not None:
        for table in architecture.position_tables:
            before = table.grid(source_size) if source_size is not None else None
            changes += _resize(architecture, tensors, table, before, table.grid(image_size))
    changes += _resize_windows(architecture, tensors)
    return StateDict(tensors), changes


def other_windows(architecture: Architecture) -> list[Architecture]:
    """Return the variants that differ from one only by the window of their attention (Swin)."""
    if "window_size" not in architecture.config:
        return []
    return [
        other
        for other in all_variants().values()
        if (other.family, other.model) == (architecture.family, architecture.model)
        and other.config["window_size"] != architecture.config["window_size"]
        and {**other.config, "window_size": 0} == {**architecture.config, "window_size": 0}
    ]


def _resize_windows(architecture: Architecture, tensors: dict[str, LazyTensor]) -> Iterator[str]:
    """Resize the tables of relative positions of another window, and yield what was changed.

    A table has a row for each of (2 window - 1)² offsets.
    """
    resized = []
    for tensor in architecture.skeleton().tensors:
        old = tensors.get(tensor.name)
        if not tensor.name.endswith(_RELATIVE) or old is None or old.shape[0] == tensor.dims[0]:
            continue
        count = int(tensor.dims[0])
        table = Positions(tensor.name, 0, 1, 0)
        tensors[tensor.name] = _resized(old, table, _square(old.shape[0]), _square(count))
        resized.append((old.shape[0], count))
    if resized:
        (before, after), many = resized[0], len(resized)
        sides = isqrt(before) // 2 + 1, isqrt(after) // 2 + 1
        yield (
            f"{many} tables of relative positions: windows of {sides[0]} became {sides[1]}, bicubic"
        )


def _resize(
    architecture: Architecture,
    tensors: dict[str, LazyTensor],
    table: Positions,
    known: tuple[int, int] | None,
    grid: tuple[int, int],
) -> Iterator[str]:
    """Resize a table of positions in place, and yield a description of the change."""
    symbolic = any(table.symbol in t.dims for t in architecture.skeleton().tensors)
    old = tensors.get(table.tensor)
    if not symbolic or old is None:
        return
    count = old.shape[table.axis] - table.prefix
    before, after = count + table.prefix, prod(grid) + table.prefix
    source = known if known is not None and prod(known) == count else _square(count)
    if source == grid:
        return
    _refuse_projections(architecture, table)
    tensors[table.tensor] = _resized(old, table, source, grid)
    shape = "" if grid[0] == grid[1] else f" ({grid[0]} × {grid[1]})"
    yield f"{table.tensor}: {before} positions became {after}{shape}, {table.interpolation}"


def _refuse_projections(architecture: Architecture, table: Positions) -> None:
    """Raise `UsageError` if other weights have a row for each position, too."""
    projections = [
        tensor.name
        for tensor in architecture.skeleton().tensors
        if table.symbol in tensor.dims and tensor.name != table.tensor
    ]
    if projections:
        raise UsageError(
            f"{architecture.name} cannot be adapted to another image size: {listed(projections, 2)}"
            " mix a fixed number of tokens"
        )


def _heads(architecture: Architecture) -> Iterator[tuple[str, tuple[Dim, ...]]]:
    """Yield the tensors that have an entry for each class, with their dimensions."""
    for tensor in architecture.skeleton().tensors:
        if "classes" in tensor.dims and not tensor.feature:
            yield tensor.name, tensor.dims


def _drawn(name: str, shape: Shape, dtype: DType, seed: int) -> LazyTensor:
    if name.endswith(".bias"):
        return LazyTensor.of(np.zeros(shape, dtype.numpy))
    return LazyTensor.of((np.float32(0.02) * noise(seed, name, shape)).astype(dtype.numpy))


def _square(count: int) -> tuple[int, int]:
    """Return the rows and columns of so many positions; `UsageError` unless they are as many."""
    side = isqrt(max(count, 0))
    if side**2 != count:
        raise UsageError("position embeddings that are not square cannot be resized")
    return side, side


def _resized(
    old: LazyTensor, positions: Positions, before: tuple[int, int], sides: tuple[int, int]
) -> LazyTensor:
    """Return a table of positions with other rows and columns."""
    axis, prefix = positions.axis, positions.prefix

    def read() -> Array:
        table = np.moveaxis(old.read(), axis, 0)
        grid = table[prefix:].reshape(*before, -1).astype(np.float64)
        resize = RESIZES[positions.interpolation]
        rows, columns = (resize(*pair) for pair in zip(before, sides, strict=True))
        new = np.einsum("ai,bj,ijc->abc", rows, columns, grid, optimize=True)
        flat = new.reshape(prod(sides), *table.shape[1:]).astype(old.dtype.numpy)
        return np.moveaxis(np.concatenate([table[:prefix], flat]), 0, axis)

    shape = (*old.shape[:axis], prod(sides) + prefix, *old.shape[axis + 1 :])
    return LazyTensor(old.dtype, shape, read)


def bicubic(before: int, after: int) -> Array:
    """Return the (after, before) matrix that resizes a line bicubically, edges repeated."""
    a = -0.75
    weights = np.zeros((after, before))
    for row in range(after):
        centre = (row + 0.5) * before / after - 0.5
        base = int(np.floor(centre))
        for tap in range(base - 1, base + 3):
            d = abs(centre - tap)
            near = (a + 2) * d**3 - (a + 3) * d**2 + 1
            far = a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
            weights[row, min(max(tap, 0), before - 1)] += near if d <= 1 else far if d < 2 else 0.0
    return weights


def bilinear(before: int, after: int) -> Array:
    """Return the (after, before) matrix that resizes a line bilinearly, edges repeated."""
    weights = np.zeros((after, before))
    for row in range(after):
        centre = min(max((row + 0.5) * before / after - 0.5, 0.0), before - 1)
        base = int(centre)
        weights[row, base] += 1 - (centre - base)
        weights[row, min(base + 1, before - 1)] += centre - base
    return weights


RESIZES = {"bicubic": bicubic, "bilinear": bilinear}
