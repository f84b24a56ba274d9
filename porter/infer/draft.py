"""From ties to the rows of a table: which kind each layer is, what a dialect calls it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

from porter.infer.evidence import Chain
from porter.infer.generalise import Item, Wide, generalise
from porter.infer.pairing import Pairing
from porter.infer.side import Side, Tie
from porter.mapping.conventions import Leaf
from porter.tensors import operations as ops
from porter.tensors.lazy import Shape

_KINDS = {1: ("norm",), 2: ("linear", "embedding"), 3: ("conv", "conv_transpose")}
"""Kinds by the number of axes of `weight`."""


@dataclass(frozen=True, slots=True)
class Body:
    """What a row says beside its names; items of one row have it in common."""

    join: str = ""
    ops: tuple[tuple[str, Chain], ...] = ()
    """Operations by PyTorch's leaf; "" for a bare tensor."""
    leaves: tuple[tuple[str, str], ...] = ()
    doubt: str = ""


@dataclass(frozen=True, slots=True)
class Kind:
    """What a layer is, and which other kinds nothing speaks against."""

    name: str
    others: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Draft:
    """A table before it is written."""

    layers: tuple[tuple[Wide, Kind], ...]
    rows: tuple[tuple[Wide, Body], ...]
    absent: tuple[str, ...]
    """Canonical names that the dialect has nothing for."""
    extra: tuple[str, ...]
    """Names of the dialect that are tied with nothing."""


def draft(pairing: Pairing) -> Draft:
    """Return the rows that the ties call for."""
    layers: list[Item] = []
    rows: list[Item] = []
    absent: list[str] = []
    for group in _groups(pairing):
        made = _module_row(pairing, group) or _bare_rows(pairing, group)
        layers += [Item((path,), (), kind) for path, kind in made.layers]
        rows += made.rows
        absent += made.absent
    return Draft(
        tuple((wide, wide.items[0].key) for wide in generalise(layers)),
        tuple((wide, wide.items[0].key) for wide in generalise(rows)),
        tuple(absent),
        tuple(pairing.free_right),
    )


@dataclass(slots=True)
class _Made:
    layers: list[tuple[str, Kind]]
    rows: list[Item]
    absent: list[str]


@dataclass(slots=True)
class _Group:
    """Modules of the left that ties hold together, one nearly always."""

    modules: dict[str, dict[str, str]]
    ties: dict[tuple[str, ...], Tie]


def _groups(pairing: Pairing) -> list[_Group]:
    """Return the modules of the left, in order, those with a tie in common together."""
    side = pairing.left
    tie_of = {name: tie for tie in pairing.ties for name in tie.lefts}
    groups: dict[str, _Group] = {}
    for name in side.state:
        place = side.place(name)
        tie = tie_of.get(name)
        paths = [place.path, *(side.place(n).path for n in (tie.lefts if tie else ()))]
        found = [groups[path] for path in paths if path in groups]
        group = found[0] if found else _Group({}, {})
        for other in found[1:]:
            if other is not group:
                group.modules.update(other.modules)
                group.ties.update(other.ties)
                groups.update(dict.fromkeys(other.modules, group))
        group.modules.setdefault(place.path, {})[place.leaf] = name
        groups.update(dict.fromkeys(paths, group))
        if tie is not None:
            group.ties[tie.lefts] = tie
    return list({id(group): group for group in groups.values()}.values())


def _module_row(pairing: Pairing, group: _Group) -> _Made | None:
    """Return the layers and the one row of whole modules; None where tensors need their own."""
    paths = _order(pairing, group)
    leaves = group.modules[paths[0]]
    if any(set(group.modules[path]) != set(leaves) for path in paths) or "" in leaves:
        return None
    ties = _ties_by_leaf(pairing.left, group, paths, leaves)
    if ties is None:
        return None
    shapes = {leaf: pairing.left.prints[name].shape for leaf, name in leaves.items()}
    kinds = _kinds(paths[0], shapes)
    for plain, tried in ((True, kinds), (False, kinds[:1])):
        fitting = {}
        for name in tried:
            body = _body(pairing, pairing.right.convention.kinds[name], ties, plain=plain)
            if body is not None:
                fitting[name] = body
        if fitting:
            name, *others = fitting
            rules = pairing.right.convention.kinds[name]
            kind = Kind(name, tuple(others) if len(shapes.get("weight", ())) == 2 else ())
            return _made(group, paths, kind, rules, fitting[name], ties)
    return None


def _order(pairing: Pairing, group: _Group) -> list[str]:
    """Return the modules of a group in the order in which their ties join them."""
    for tie in group.ties.values():
        paths = [pairing.left.place(name).path for name in tie.lefts]
        if len(paths) == len(group.modules):
            return paths
    return list(group.modules)


def _ties_by_leaf(
    side: Side, group: _Group, paths: Sequence[str], leaves: Mapping[str, str]
) -> dict[str, Tie] | None:
    """Return the tie of each leaf of whole modules; None where a tie is of a part of them."""
    found = {}
    for tie in group.ties.values():
        places = [side.place(name) for name in tie.lefts]
        if [p.path for p in places] != list(paths) or len({p.leaf for p in places}) != 1:
            return None
        found[places[0].leaf] = tie
    return {leaf: found[leaf] for leaf in leaves if leaf in found}


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
    pairing: Pairing, rules: Mapping[str, Leaf], ties: Mapping[str, Tie], *, plain: bool
) -> tuple[Body, tuple[str, ...]] | None:
    """Return what a row says and the dialect's paths; None where the kind cannot say it.

    With `plain` the framework's conventions must be all that is done to the elements.
    """
    if not ties:
        return Body(), ()
    chains: list[tuple[str, Chain]] = []
    for leaf, tie in ties.items():
        rule = tuple(rules[leaf].ops)
        if rule in tie.relation.chains:
            continue
        before = _before(tie.relation.chains[0], rule)
        if plain or not _composes(pairing, tie, (*before, *rule)):
            return None
        chains.append((leaf, before))
    joins = {tie.relation.join for tie in ties.values()}
    named = _paths(pairing.right, rules, ties)
    if named is None or len(joins) > 1:
        return None
    paths, leaves = named
    doubt = next((tie.doubt for tie in ties.values() if tie.doubt), "")
    return Body(joins.pop(), tuple(chains), leaves, doubt), paths


def _before(chain: Chain, rule: Chain) -> Chain:
    """Return the operations after which those of the framework give `chain`."""
    undo = _inverse(rule)
    if undo and chain[-len(undo) :] == rule:
        return chain[: -len(undo)]
    return (*chain, *undo)


def _composes(pairing: Pairing, tie: Tie, chain: Chain) -> bool:
    """Whether operations can be done one behind the other on each part that a tie names."""
    shape = pairing.left.prints[tie.lefts[0]].shape
    if len(tie.rights) > 1:
        size = pairing.right.prints[tie.rights[0]].size
        shape = (size // prod(shape[1:]), *shape[1:])
    elif len(tie.lefts) > 1:
        shape = (sum(pairing.left.prints[name].shape[0] for name in tie.lefts), *shape[1:])
    try:
        ops.shape_after([ops.parse(text, {}) for text in chain], shape)
    except ops.ShapeError:
        return False
    return True


def _inverse(rule: Chain) -> Chain:
    return tuple(str(op) for op in ops.inverse([ops.parse(text, {}) for text in rule]))


def _paths(
    side: Side, rules: Mapping[str, Leaf], ties: Mapping[str, Tie]
) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]] | None:
    """Return the dialect's module paths and the parameters that are not called as usual."""
    separator = side.convention.separator
    found: set[tuple[str, ...]] = set()
    leaves = []
    for leaf, tie in ties.items():
        cut = [name.rpartition(separator) for name in tie.rights]
        ends = {end for _, _, end in cut}
        if len(ends) != 1 or not all(path for path, _, _ in cut):
            return None
        found.add(tuple(path for path, _, _ in cut))
        end = ends.pop()
        if end != rules[leaf].name:
            leaves.append((leaf, end))
    return (found.pop(), tuple(leaves)) if len(found) == 1 else None


def _made(
    group: _Group,
    paths: Sequence[str],
    kind: Kind,
    rules: Mapping[str, Leaf],
    body: tuple[Body, tuple[str, ...]],
    ties: Mapping[str, Tie],
) -> _Made:
    gone = [
        name
        for path in paths
        for leaf, name in group.modules[path].items()
        if leaf not in ties and rules[leaf].absent is None
    ]
    rows = [Item(tuple(paths), body[1], body[0])] if body[1] else []
    return _Made([(path, kind) for path in paths], rows, gone)


def _bare_rows(pairing: Pairing, group: _Group) -> _Made:
    """Return a row for each tensor: what it is called and what is done to it, said in full."""
    made = _Made([], [], [])
    for names in group.modules.values():
        made.layers += [(name, Kind("parameter")) for name in names.values()]
    for tie in group.ties.values():
        chain = tie.relation.chains[0]
        body = Body(tie.relation.join, (("", chain),) if chain else (), (), tie.doubt)
        made.rows.append(Item(tie.lefts, tie.rights, body))
    tied = {name for tie in group.ties.values() for name in tie.lefts}
    made.absent = [n for names in group.modules.values() for n in names.values() if n not in tied]
    return made
