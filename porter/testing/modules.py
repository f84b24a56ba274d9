"""The names of a model's modules in a trace, where they differ from the canonical ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial

from porter.frameworks.runner import Naming, as_it_is
from porter.planning.plan import Plan

Modules = Mapping[str, str | None] | Callable[[str], str | None]
"""{path of a module: canonical path}, or a function; None for a module to leave out."""


def naming(modules: Modules | None) -> Naming:
    """Return the function that gives a module its canonical path; None to leave it out."""
    if modules is None:
        return as_it_is
    return partial(_by_prefix, modules=modules) if isinstance(modules, Mapping) else modules


def _by_prefix(path: str, modules: Mapping[str, str | None]) -> str | None:
    """Return the name of a module by its own entry, or by that of the nearest one around it."""
    if path in modules:
        return modules[path]
    parent, _, last = path.rpartition(".")
    while parent and parent not in modules:
        parent, _, more = parent.rpartition(".")
        last = f"{more}.{last}"
    if not parent:
        return path
    outer = modules[parent]
    return outer and f"{outer}.{last}"


def paths_of(left: Plan, right: Plan) -> dict[str, str]:
    """Return {module of the right side: module of the left side} by the tensors that both have.

    A module that contains others is the one that contains the same ones on the left, where the
    names have as many parts; what has no such partner keeps its name.
    """
    partners: dict[str, set[str]] = {}
    for name, link in right.source.by_canonical.items():
        other = left.source.by_canonical.get(name)
        if other is None or len(link.dialect) != 1 or len(other.dialect) != 1:
            continue
        mine, theirs = link.dialect[0].split(".")[:-1], other.dialect[0].split(".")[:-1]
        depths = range(1, len(mine) + 1) if len(mine) == len(theirs) else [len(mine)]
        for depth in depths:
            end = depth if depth < len(mine) else len(theirs)
            partners.setdefault(".".join(mine[:depth]), set()).add(".".join(theirs[:end]))
    single = {mine: next(iter(theirs)) for mine, theirs in partners.items() if len(theirs) == 1}
    taken = Counter(single.values())
    return {mine: theirs for mine, theirs in single.items() if mine and taken[theirs] == 1}
