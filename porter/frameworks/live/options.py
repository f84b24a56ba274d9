"""Which tensors of the left model may become a unit of the right one, and by which operations.

Operations are those of mapping tables, so that what was tried can be written down.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import permutations
from math import prod

from porter.frameworks.live.flattened import channel_counts, flattened
from porter.frameworks.live.recipes import Ops, Option, Recipe
from porter.frameworks.live.signature import Signature, distance
from porter.frameworks.live.units import Unit
from porter.tensors.lazy import Shape

GROUP = 4
"""Layers of which one projection is made, at most: gate and up; q, k and v."""


def options(right: Unit, lefts: Sequence[Unit], group: Sequence[Unit]) -> list[Option]:
    """Return the ways to fill `right`; `group` are the right units that have its input."""
    found: list[Option] = []
    channels = channel_counts(lefts)
    for left in lefts:
        if left.floating:
            found += _whole(left, right)
            found += flattened(left, right, channels)
            found += _parts(left, right, group)
    found += _joined(lefts, right)
    return found


def _whole(left: Unit, right: Unit) -> Iterator[Option]:
    """Yield the option that one unit becomes one unit."""
    recipes = _same_kind(left, right) or _matrices(left, right) or _single(left, right)
    if recipes is None:
        return
    alike = right.kind == left.kind or (right.kind != "bare" and left.kind != "bare")
    expects = left.inputs[0] if left.inputs and alike else None
    if "bare" in (left.kind, right.kind) and left.kind == right.kind and left.inputs:
        expects = left.inputs[0]
    size = left.matrix[0] if left.matrix else 1
    yield Option((left.key,), recipes, expects, spans=((left.key, 0, size),))


def _same_kind(left: Unit, right: Unit) -> dict[str, Recipe] | None:
    """Return the recipes for two layers of one kind and the same sizes."""
    known = {left.kind, right.kind}
    if known == {"linear"} or "bare" in known:
        return None
    if left.kind != right.kind and not (
        "custom" in known and known <= {"custom", "norm", "batchnorm", "embedding", "prelu"}
    ):
        return None
    roles = [set(unit.roles) - {"count"} for unit in (left, right)]
    if left.kind == "rnn" and roles[1] > roles[0]:
        roles[1] = roles[0]
    if roles[0] != roles[1]:
        return None
    recipes = {}
    for role, name in right.roles.items():
        if role not in left.roles:
            continue
        chain = reshaped(left.shapes[role], right.shapes[role])
        if chain is None:
            return None
        recipes[name] = Recipe((left.roles[role],), ops=chain)
    return recipes


def _matrices(left: Unit, right: Unit) -> dict[str, Recipe] | None:
    """Return the recipes for two layers that multiply by a matrix of the same sizes."""
    if left.matrix is None or left.matrix != right.matrix or set(left.roles) != set(right.roles):
        return None
    recipes = {}
    for role, name in right.roles.items():
        if role in ("weight", "weight_v"):
            chain: Ops | None = oriented(left, right, role)
        else:
            chain = reshaped(left.shapes[role], right.shapes[role])
        if chain is None:
            return None
        recipes[name] = Recipe((left.roles[role],), ops=chain)
    return recipes


def _single(left: Unit, right: Unit) -> dict[str, Recipe] | None:
    """Return the recipe for single tensors, at least one of which is in no known layer."""
    given, made = left.single, right.single
    if "bare" not in (left.kind, right.kind) or given is None or made is None:
        return None
    source, target = left.shapes[given], right.shapes[made]
    chain = reshaped(source, target)
    if chain is None and len(source) == 2 and source[::-1] == target:
        chain = ("transpose",)
    if chain is None and prod(source) == prod(target) > 1 and len(source) != len(target):
        sizes = (",".join(map(str, shape)) for shape in (source, target))
        chain = (f"reshape {' -> '.join(sizes)}",)
    if chain is None:
        return None
    return {right.roles[made]: Recipe((left.roles[given],), ops=chain)}


def _parts(left: Unit, right: Unit, group: Sequence[Unit]) -> Iterator[Option]:
    """Yield the parts of one projection that several units of the right may be."""
    if right.matrix is None or set(right.roles) - {"weight", "bias"}:
        return
    if left.kind == "mha":
        yield from _of_attention(left, right)
        return
    if left.matrix is None or set(left.roles) != set(right.roles):
        return
    rows, columns = left.matrix
    size = right.matrix[0]
    if columns != right.matrix[1] or size >= rows:
        return
    expects = left.inputs[0] if left.inputs else None
    for start, layout in dict.fromkeys(_places(right, group, rows, left)):
        first = (f"regroup {{axis}} {layout} -> 1,0,2",) if layout else ()
        yield _part(left, right, start, size, first, expects, layout or "rows")


def _places(right: Unit, group: Sequence[Unit], rows: int, left: Unit) -> Iterator[tuple[int, str]]:
    """Yield where a part may start, and how the rows are arranged before they are cut."""
    others = [u.matrix[0] for u in group if u is not right and u.matrix is not None]
    assert right.matrix is not None
    size = right.matrix[0]
    for count in range(1, min(len(others), GROUP - 1) + 1):
        for chosen in dict.fromkeys(permutations(others, count)):
            if sum(chosen) + size != rows:
                continue
            for before in range(count + 1):
                yield sum(chosen[:before]), ""
            if set(chosen) == {size}:
                for heads in _heads(size, (*right.sizes, *left.sizes)):
                    for before in range(count + 1):
                        yield before * size, f"{heads},{count + 1},*"


def _heads(size: int, settings: Sequence[int]) -> list[int]:
    """Return the numbers of heads that a projection may have, those in the settings only."""
    found = [n for n in settings if size % n == 0 and 1 < n < size]
    found += [size // n for n in found]
    return list(dict.fromkeys(found))[:8]


def _part(
    left: Unit, right: Unit, start: int, size: int, first: Ops, expects: Signature | None,
    layout: str,
) -> Option:  # fmt: skip
    recipes = {}
    for role, name in right.roles.items():
        axis = out_axis(left) if role == "weight" else 0
        chain = oriented(left, right, role) if role == "weight" else ()
        recipes[name] = Recipe(
            (left.roles[role],), tuple(text.format(axis=axis) for text in first),
            f"concat {axis}", (axis, start, size), chain,
        )  # fmt: skip
    return Option((left.key,), recipes, expects, layout, ((left.key, start, start + size),))


def _of_attention(left: Unit, right: Unit) -> Iterator[Option]:
    """Yield the projections of torch's attention, whose parts are called by nobody."""
    assert right.matrix is not None
    leaves = left.roles
    out = left.shapes.get("out_proj.weight")
    packed = left.shapes.get("in_proj_weight")
    bias = "bias" in right.roles
    if packed and bias == ("in_proj_bias" in leaves) and right.matrix[1] == packed[1]:
        third = packed[0] // 3
        if right.matrix[0] == third:
            for index in range(3):
                sig = left.inputs[index] if index < len(left.inputs) else None
                yield _packed(left, right, index * third, third, sig)
        elif right.matrix[0] == 2 * third:
            for index in (1, 0):  # k and v together; q and k
                sig = left.inputs[index] if index < len(left.inputs) else None
                yield _packed(left, right, index * third, 2 * third, sig)
        elif right.matrix[0] == packed[0]:
            sig = left.inputs[0] if left.inputs else None
            yield _packed(left, right, 0, packed[0], sig)
    if out == right.matrix and bias == ("out_proj.bias" in leaves):
        recipes = {
            name: Recipe(
                (leaves[f"out_proj.{role}"],), ops=_flip(right) if role == "weight" else ()
            )
            for role, name in right.roles.items()
        }
        yield Option((left.key,), recipes, None, "out", ((f"{left.key} out", 0, 1),))


def _packed(left: Unit, right: Unit, start: int, size: int, expects: Signature | None) -> Option:
    whole = size == left.shapes["in_proj_weight"][0]
    recipes = {
        name: Recipe(
            (left.roles[f"in_proj_{role}"],), join="" if whole else "concat 0",
            part=None if whole else (0, start, size), ops=_flip(right) if role == "weight" else (),
        )
        for role, name in right.roles.items()
    }  # fmt: skip
    return Option((left.key,), recipes, expects, "rows", ((left.key, start, start + size),))


def _flip(right: Unit) -> Ops:
    if right.kind == "conv":
        return tuple(f"unsqueeze {a}" for a in range(2, len(right.shapes["weight"])))
    return ("transpose",) if right.flipped else ()


def _joined(lefts: Sequence[Unit], right: Unit) -> Iterator[Option]:
    """Yield the projections of one input that one unit of the right may have together."""
    if right.matrix is None or set(right.roles) - {"weight", "bias"}:
        return
    rows, columns = right.matrix
    fitting = [
        u for u in lefts
        if u.matrix is not None and u.matrix[1] == columns and u.matrix[0] < rows
        and set(u.roles) == set(right.roles) and u.inputs and u.kind == "linear"
    ]  # fmt: skip
    for group in _of_one_input(fitting):
        for count in range(2, min(len(group), GROUP) + 1):
            for chosen in permutations(group, count):
                sizes = [u.matrix[0] for u in chosen if u.matrix is not None]
                if sum(sizes) == rows and len({u.flipped for u in chosen}) == 1:
                    yield from _join(chosen, right, sizes)


def _of_one_input(units: Sequence[Unit]) -> list[list[Unit]]:
    groups: list[list[Unit]] = []
    for unit in units:
        for group in groups:
            if distance(group[0].inputs[0], unit.inputs[0]) < 1e-6:
                group.append(unit)
                break
        else:
            groups.append([unit])
    return [group for group in groups if 1 < len(group) <= GROUP + 2]


def _join(chosen: Sequence[Unit], right: Unit, sizes: Sequence[int]) -> Iterator[Option]:
    layouts = [""]
    if len(set(sizes)) == 1:
        heads = _heads(sizes[0], (*right.sizes, *chosen[0].sizes))
        layouts += [f"{len(chosen)},{count},*" for count in heads]
    for layout in layouts:
        recipes = {}
        for role, name in right.roles.items():
            axis = out_axis(chosen[0]) if role == "weight" else 0
            chain = oriented(chosen[0], right, role) if role == "weight" else ()
            mix = (f"regroup {axis} {layout} -> 1,0,2",) if layout else ()
            recipes[name] = Recipe(
                tuple(u.roles[role] for u in chosen), join=_concat(axis, sizes),
                ops=(*mix, *chain),
            )  # fmt: skip
        spans = tuple((u.key, 0, u.matrix[0] if u.matrix else 1) for u in chosen)
        yield Option(
            tuple(u.key for u in chosen), recipes, chosen[0].inputs[0], "", spans,
            f"joined {layout}",
        )  # fmt: skip


def _concat(axis: int, sizes: Sequence[int]) -> str:
    same = len(set(sizes)) == 1
    return f"concat {axis}" if same else f"concat {axis} sizes {','.join(map(str, sizes))}"


def rotated(option: Option, left: Unit, dim: int, *, pairs_first: bool) -> Option:
    """Return an option whose rows are reordered in each head of `dim`, as rotary positions need.

    Halves that are rotated become neighbours, or with `pairs_first` the other way round.
    """
    recipes = {}
    for name, recipe in option.recipes.items():
        axis = out_axis(left) if recipe.left[0] == left.roles.get("weight") else 0
        factors = f"*,{dim // 2},2" if pairs_first else f"*,2,{dim // 2}"
        recipes[name] = replace(recipe, ops=(f"regroup {axis} {factors} -> 0,2,1", *recipe.ops))
    return replace(option, recipes=recipes, variant=f"rotary {dim} {pairs_first}")


def out_axis(unit: Unit) -> int:
    """Return the axis of the outputs in a matrix as it is stored."""
    return 1 if unit.kind == "linear" and unit.flipped else 0


def oriented(left: Unit, right: Unit, role: str) -> Ops:
    """Return what makes the right's matrix of the left's."""
    source, target = left.shapes.get(role, ()), right.shapes[role]
    if left.kind == right.kind == "linear":
        return () if left.flipped == right.flipped else ("transpose",)
    chain = [f"squeeze {axis}" for axis in reversed(range(2, len(source)))]
    if left.kind == "conv" and right.kind == "conv":
        return tuple(chain) + tuple(f"unsqueeze {a}" for a in range(2, len(target))) \
            if len(source) != len(target) else ()  # fmt: skip
    if (left.kind == "linear" and left.flipped) != (right.kind == "linear" and right.flipped):
        chain.append("transpose")
    return (*chain, *(f"unsqueeze {axis}" for axis in range(2, len(target))))


def _plain(shape: Shape) -> Shape:
    return tuple(size for size in shape if size != 1)


def reshaped(source: Shape, target: Shape) -> Ops | None:
    """Return what adds and removes axes of size 1; None where shapes differ in more."""
    if source == target:
        return ()
    if _plain(source) != _plain(target):
        return None
    chain = [f"squeeze {axis}" for axis in reversed(range(len(source))) if source[axis] == 1]
    chain += [f"unsqueeze {axis}" for axis in range(len(target)) if target[axis] == 1]
    return tuple(chain)
