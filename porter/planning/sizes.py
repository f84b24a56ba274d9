"""The classes and the image size of a checkpoint, by the shapes of its tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import isqrt

from porter.errors import MappingError, UsageError
from porter.mapping.link import Link, Linked
from porter.tensors import operations
from porter.tensors.lazy import Shape
from porter.zoo.architectures import Architecture
from porter.zoo.image_size import Size, shown
from porter.zoo.skeleton import Dim, symbol_of

Shapes = Mapping[str, tuple[str, Shape]]
"""{name: (dtype name, shape)}"""


def infer_symbols(
    read: Linked, source: Shapes, dims: Mapping[str, tuple[Dim, ...]]
) -> tuple[dict[str, int], list[str]]:
    """Return the values of the skeleton's symbols in a checkpoint, and contradictions."""
    symbols: dict[str, int] = {}
    origin: dict[str, str] = {}
    problems = []
    for link in read.links:
        for name, symbol, size in _symbolic_sizes(link, source, dims):
            if symbols.setdefault(symbol, size) != size:
                problems.append(
                    f"{name} has {size} {symbol} where {origin[symbol]} has {symbols[symbol]}"
                )
            origin.setdefault(symbol, name)
    return symbols, problems


def _symbolic_sizes(
    link: Link, source: Shapes, dims: Mapping[str, tuple[Dim, ...]]
) -> Iterator[tuple[str, str, int]]:
    """Yield (tensor, symbol, size) of a link's axes whose size a checkpoint may choose."""
    wanted = [dims.get(name, ()) for name in link.canonical]
    if not any(isinstance(dim, str) for shape in wanted for dim in shape):
        return
    if not all(name in source for name in link.dialect):
        return
    try:
        shapes = link.canonical_shapes([source[name][1] for name in link.dialect])
    except operations.ShapeError:
        return  # reported with its shape when the plan is checked
    for name, shape, expected in zip(link.dialect[:1], shapes, wanted, strict=False):
        for dim, size in zip(expected, shape, strict=False):
            if isinstance(dim, str):
                symbol, more = symbol_of(dim)
                yield name, symbol, size - more


def check_classes(symbols: Mapping[str, int], asked: int, path: str | None) -> None:
    """Raise `UsageError` where another number of classes is asked for than the checkpoint has."""
    if symbols.get("classes", asked) != asked:
        raise UsageError(
            f"{asked} classes asked for, the checkpoint has {symbols['classes']}; leave the option"
            " out to keep them, or pass --adapt to change them",
            path,
        )


def image_size(
    architecture: Architecture,
    symbols: Mapping[str, int],
    source: Shapes,
    read: Linked,
    asked: Size | None,
    path: str | None,
    recorded: Size | None = None,
) -> Size:
    """Return the image size (pixels) of the checkpoint, the one asked for, or the default.

    `MappingError` is raised where its positions are not those of a square image, `UsageError`
    where another size is asked for than its positions have. `recorded` is what the metadata say,
    taken where the positions are those.
    """
    positions = architecture.positions
    asked = None if asked is None else architecture.size_of(*architecture.sides(asked))
    if positions is None:
        return asked or recorded or architecture.image_size
    count = symbols.get("positions")
    if count is None:
        count = _positions(positions.tensor, positions.axis, source, read)
    if asked is None and recorded is not None and count in (None, positions.count(recorded)):
        return recorded
    size: Size | None = None if count is None else positions.image_size(count)
    fits = asked is not None and positions.count(asked) == count
    if count is not None and size is None and "positions" in symbols and not fits:
        raise MappingError(_not_square(architecture, count, positions.prefix), path)
    if size is None:
        return asked or architecture.image_size
    if size == positions.image_size(positions.count(architecture.image_size)):
        size = architecture.image_size  # which may not be a multiple of the patch
    if asked is not None and not fits:
        raise UsageError(
            f"image size {shown(asked)} asked for, the checkpoint has the positions of"
            f" {shown(size)}; leave the option out to keep it, or pass --adapt to change it",
            path,
        )
    return asked or size


def _not_square(architecture: Architecture, count: int, prefix: int) -> str:
    """Return why a number of positions is not that of any image size."""
    side = isqrt(count)
    if prefix and side * side == count:
        return (
            f"has {count} positions, {side} by {side} and none for the class token, which"
            f" {architecture.name} has (cls_token)"
        )
    return (
        f"{count} positions are not those of a square image; pass the height and width of its"
        " images, --image-size 256x192 for example"
    )


def _positions(tensor: str, axis: int, source: Shapes, read: Linked) -> int | None:
    """Return the number of positions of a checkpoint, None where it does not show."""
    link = read.by_canonical.get(tensor)
    if link is None or link.dialect[0] not in source:
        return None
    shape = source[link.dialect[0]][1]
    return shape[axis] if axis < len(shape) else None
