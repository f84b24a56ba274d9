"""From pairs to the rows of a table: the kind of each layer, and its name in the dialect."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

from porter.infer.evidence import Chain
from porter.infer.generalise import Item, Wide, generalise, template
from porter.infer.pairs import Pairs
from porter.infer.tensor_file import PART, Pair, TensorFile
from porter.mapping.conventions import Leaf
from porter.mapping.table import BARE
from porter.tensors import operations as ops
from porter.tensors.lazy import Shape

_KINDS = {1: ("norm",), 2: ("linear", "embedding"), 3: ("conv", "conv_transpose")}
"""Kinds by the number of axes of `weight`."""


@dataclass(frozen=True, slots=True)
class Body:
    """The keys of a row besides its names; items of one row have them in common."""

    join: str = ""
    first: Chain = ()
    """Operations before one tensor is split."""
    ops: tuple[tuple[str, Chain], ...] = ()
    """Operations by PyTorch's leaf; "" for a bare tensor."""
    leaves: tuple[tuple[str, str], ...] = ()
    doubt: str = ""
    stack: str = ""
    """The placeholder that numbers the layers of a stack."""


@dataclass(frozen=True, slots=True)
class Kind:
    """The kind of a layer, and the other kinds that would fit."""

    name: str
    others: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Draft:
    """A table that is not rendered yet."""

    layers: tuple[tuple[Wide, Kind], ...]
    rows: tuple[tuple[Wide, Body], ...]
    absent: tuple[str, ...]
    """Canonical names without a counterpart in the dialect."""
    extra: tuple[str, ...]
    """Names of the dialect that are not paired."""
    reasons: Mapping[str, str] = field(default_factory=dict)
    """Why a name is in one of these, where that is known."""
    copies: Mapping[str, str] = field(default_factory=dict)
    """Names of the dialect for tensors that it has under another one, too."""
    shared: Mapping[str, str] = field(default_factory=dict)
    """The same for canonical names."""


def draft(pairs: Pairs) -> Draft:
    """Return the rows that follow from the pairs."""
    layers: list[Item] = []
    rows: list[Item] = []
    absent: list[str] = []
    others: list[str] = []
    for group in _groups(pairs):
        part = _module_row(pairs, group) or _bare_rows(pairs, group)
        layers += [Item((path,), (), kind) for path, kind in part.layers]
        others += [name for leaves in group.modules.values() for name in leaves.values()]
        rows += part.rows
        absent += part.absent
    return Draft(
        _layers(layers, others),
        tuple((wide, wide.items[0].key) for wide in generalise(rows)),
        tuple(absent),
        tuple(name for name in pairs.free_right if name not in pairs.copies),
        pairs.reasons,
        pairs.copies,
        pairs.shared,
    )


def _layers(layers: Sequence[Item], names: Sequence[str]) -> tuple[tuple[Wide, Kind], ...]:
    """Return the rows of `[tensors]` and `[layers]`.

    The row of a bare tensor such as `net.2.weight` must not match the tensors of a layer.
    """
    bare = {item.canonical[0] for item in layers if item.key.name in BARE}
    alike = {template(name) for name in bare}
    others = [n for n in names if n not in bare and template(n) in alike]
    wide = generalise([*layers, *(Item((name,), (), None) for name in others)])
    return tuple((row, row.items[0].key) for row in wide if row.items[0].key is not None)


@dataclass(slots=True)
class _Part:
    """What one group of modules adds to a draft."""

    layers: list[tuple[str, Kind]]
    rows: list[Item]
    absent: list[str]


@dataclass(slots=True)
class _Group:
    """Modules of the left that have a pair in common, nearly always one."""

    modules: dict[str, dict[str, str]]
    pairs: dict[tuple[str, ...], Pair]


def _groups(pairs: Pairs) -> list[_Group]:
    """Return the modules of the left, in order, those with a pair in common together."""
    file = pairs.left
    pair_of = {name: pair for pair in pairs.found for name in pair.lefts}
    groups: dict[str, _Group] = {}
    for name in file.state:
        place = file.place(name)
        pair = pair_of.get(name)
        paths = [place.path, *(file.place(n).path for n in (pair.lefts if pair else ()))]
        known = [groups[path] for path in paths if path in groups]
        group = known[0] if known else _Group({}, {})
        for joined in known[1:]:
            if joined is not group:
                group.modules.update(joined.modules)
                group.pairs.update(joined.pairs)
                groups.update(dict.fromkeys(joined.modules, group))
        group.modules.setdefault(place.path, {})[place.leaf] = name
        groups.update(dict.fromkeys(paths, group))
        if pair is not None:
            group.pairs[pair.lefts] = pair
    return list({id(group): group for group in groups.values()}.values())


def _module_row(pairs: Pairs, group: _Group) -> _Part | None:
    """Return the layers and the one row of whole modules; None where tensors need separate rows."""
    paths = _order(pairs, group)
    leaves = group.modules[paths[0]]
    if any(set(group.modules[path]) != set(leaves) for path in paths) or "" in leaves:
        return None
    by_leaf = _pairs_by_leaf(pairs.left, group, paths, leaves)
    if by_leaf is None:
        return None
    shapes = {leaf: pairs.left.prints[name].shape for leaf, name in leaves.items()}
    kinds = _kinds(paths[0], shapes) if pairs.kinds is None else _known(pairs, paths)
    for plain, tried in ((True, kinds), (False, kinds[:1])):
        fitting = {}
        for name in tried:
            body = _body(pairs, pairs.right.convention.kinds[name], by_leaf, plain=plain)
            if body is not None:
                fitting[name] = body
        if fitting:
            name, *others = fitting
            rules = pairs.right.convention.kinds[name]
            kind = Kind(name, tuple(others) if len(shapes.get("weight", ())) == 2 else ())
            return _module_rows(group, paths, kind, rules, fitting[name], by_leaf)
    return None


def _known(pairs: Pairs, paths: Sequence[str]) -> tuple[str, ...]:
    """Return the kind that modules have by their types, nothing where it is not known."""
    kinds = {(pairs.kinds or {}).get(path, "") for path in paths}
    return tuple(kinds - {""}) if len(kinds) == 1 else ()


def _order(pairs: Pairs, group: _Group) -> list[str]:
    """Return the modules of a group in the order in which their pairs join them."""
    for pair in group.pairs.values():
        paths = [pairs.left.place(name).path for name in pair.lefts]
        if len(paths) == len(group.modules):
            return paths
    return list(group.modules)


def _pairs_by_leaf(
    file: TensorFile, group: _Group, paths: Sequence[str], leaves: Mapping[str, str]
) -> dict[str, Pair] | None:
    """Return the pair of each leaf of whole modules; None where a pair is of a part of them."""
    by_leaf = {}
    for pair in group.pairs.values():
        places = [file.place(name) for name in pair.lefts]
        if [p.path for p in places] != list(paths) or len({p.leaf for p in places}) != 1:
            return None
        by_leaf[places[0].leaf] = pair
    return {leaf: by_leaf[leaf] for leaf in leaves if leaf in by_leaf}


def _kinds(path: str, shapes: Mapping[str, Shape]) -> tuple[str, ...]:
    """Return the kinds that a layer with these parameters may be, the likeliest first."""
    if {"running_mean", "running_var"} & set(shapes):
        return ("batchnorm",)
    weight = shapes.get("weight")
    if weight is None or not set(shapes) <= {"weight", "bias"}:
        return ()
    names: tuple[str, ...] = _KINDS.get(min(len(weight), 3), ())
    if len(weight) == 2 and "bias" in shapes:
        names = ("linear",)
    elif re.search(r"emb|wte|wpe|token", path.lower()) and len(weight) == 2:
        names = names[::-1]
    return names


def _body(
    pairs: Pairs, rules: Mapping[str, Leaf], by_leaf: Mapping[str, Pair], *, plain: bool
) -> tuple[Body, tuple[str, ...]] | None:
    """Return a row's keys and the dialect's paths; None where the kind does not allow them.

    With `plain` the row must not need operations besides the framework's conventions.
    """
    if not by_leaf:
        return Body(), ()
    chains: list[tuple[str, Chain]] = []
    for leaf, pair in by_leaf.items():
        rule = tuple(rules[leaf].ops)
        if rule in pair.relation.chains:
            continue
        before = _before(pair.relation.chains[0], rule)
        if plain or not _composes(pairs, pair, (*before, *rule)):
            return None
        chains.append((leaf, before))
    joins = {(pair.relation.join, pair.relation.first) for pair in by_leaf.values()}
    named = _paths(pairs.right, rules, by_leaf)
    if named is None or len(joins) > 1:
        return None
    paths, leaves = named
    doubt = next((pair.doubt for pair in by_leaf.values() if pair.doubt), "")
    return Body(*joins.pop(), tuple(chains), leaves, doubt), paths


def _before(chain: Chain, rule: Chain) -> Chain:
    """Return the operations after which those of the framework give `chain`."""
    undo = _inverse(rule)
    if undo and chain[-len(undo) :] == rule:
        return chain[: -len(undo)]
    return (*chain, *undo)


def _composes(pairs: Pairs, pair: Pair, chain: Chain) -> bool:
    """Whether operations can be applied one after the other to each part that a pair names."""
    shape = pairs.left.prints[pair.lefts[0]].shape
    if len(pair.rights) > 1:
        size = pairs.right.prints[pair.rights[0]].size
        shape = (size // prod(shape[1:]), *shape[1:])
    elif len(pair.lefts) > 1:
        shape = (sum(pairs.left.prints[name].shape[0] for name in pair.lefts), *shape[1:])
    try:
        ops.shape_after([ops.parse(text, {}) for text in chain], shape)
    except ops.ShapeError:
        return False
    return True


def _inverse(rule: Chain) -> Chain:
    return tuple(str(op) for op in ops.inverse([ops.parse(text, {}) for text in rule]))


def _paths(
    file: TensorFile, rules: Mapping[str, Leaf], by_leaf: Mapping[str, Pair]
) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]] | None:
    """Return the dialect's module paths and the parameters with unusual names."""
    paths: set[tuple[str, ...]] = set()
    leaves = []
    for leaf, pair in by_leaf.items():
        cut = [_cut(file, name) for name in pair.rights]
        ends = {end for _, end in cut}
        if len(ends) != 1 or not all(path for path, _ in cut):
            return None
        paths.add(tuple(path for path, _ in cut))
        end = ends.pop()
        if end != rules[leaf].name:
            leaves.append((leaf, end))
    return (paths.pop(), tuple(leaves)) if len(paths) == 1 else None


def _cut(file: TensorFile, name: str) -> tuple[str, str]:
    """Return the module's path and the end of a tensor's name; a part of a stack has no end."""
    path, _, end = name.rpartition(file.convention.separator)
    return (name, "") if PART in end else (path, end)


def _module_rows(
    group: _Group,
    paths: Sequence[str],
    kind: Kind,
    rules: Mapping[str, Leaf],
    body: tuple[Body, tuple[str, ...]],
    by_leaf: Mapping[str, Pair],
) -> _Part:
    gone = [
        name
        for path in paths
        for leaf, name in group.modules[path].items()
        if leaf not in by_leaf and rules[leaf].absent is None
    ]
    rows = [Item(tuple(paths), body[1], body[0])] if body[1] else []
    return _Part([(path, kind) for path in paths], rows, gone)


def _bare_rows(pairs: Pairs, group: _Group) -> _Part:
    """Return a row for each tensor, with all its operations."""
    part = _Part([], [], [])
    for names in group.modules.values():
        part.layers += [(name, Kind("parameter")) for name in names.values()]
    for pair in group.pairs.values():
        chain = pair.relation.chains[0]
        chains = (("", chain),) if chain else ()
        body = Body(pair.relation.join, pair.relation.first, chains, (), pair.doubt)
        part.rows.append(Item(pair.lefts, pair.rights, body))
    paired = {name for pair in group.pairs.values() for name in pair.lefts}
    part.absent = [n for names in group.modules.values() for n in names.values() if n not in paired]
    return part
