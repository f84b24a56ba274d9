"""Pair modules that look alike: by names, by the pairs around them, by their order."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Mapping

from porter.infer.anchors import Anchors, Module
from porter.infer.pairs import Pairs, fits_together, sibling_groups
from porter.infer.tensor_file import TensorFile, letter

Look = Callable[[TensorFile, Mapping[str, str]], Hashable]
"""What modules must have in common to be paired: their values, or their shapes."""

_FINE_PASSES, _MOST_PASSES = 20, 40
"""Names without any pattern would take a pass for each tensor: after some passes all looks are
paired at once, and what is left after the last is not paired."""
_BY_NAME = "by the names of q, k and v, the files have other values"


def values(file: TensorFile, names: Mapping[str, str]) -> Hashable:
    """Return a module's look by its values."""
    return tuple(sorted((leaf, file.prints[name].key) for leaf, name in names.items()))


def shapes(file: TensorFile, names: Mapping[str, str]) -> Hashable:
    """Return a module's look by its shapes, whatever the order of the axes."""
    return tuple(sorted((leaf, tuple(sorted(file.prints[n].shape))) for leaf, n in names.items()))


def pair_same_names(pairs: Pairs, look: Look, doubt: str) -> None:
    """Pair modules that look the same and have the same name."""
    rights = {
        module.path: (kind, module)
        for kind, modules in _modules(pairs, pairs.right, look).items()
        for module in modules
    }
    for kind, modules in _modules(pairs, pairs.left, look).items():
        same = [(m, rights[m.path][1]) for m in modules if rights.get(m.path, ("",))[0] == kind]
        _pair_modules(pairs, same, doubt)


def pair_alike(pairs: Pairs, look: Look, doubt: str) -> None:
    """Pair modules that look the same by the pairs around them, then by their order."""
    for count in range(_MOST_PASSES):
        at_once = count >= _FINE_PASSES
        if not _pair_near(pairs, look, doubt) and not _pair_in_order(pairs, look, doubt, at_once):
            return


def _pair_near(pairs: Pairs, look: Look, doubt: str) -> bool:
    """Pair modules under paths that are known to belong together; false if none was."""
    before = len(pairs.found)
    proven = [pair for pair in pairs.found if not pair.doubt]
    for known in (proven, pairs.found):
        anchors = Anchors(pairs.left, pairs.right, known)
        rights = _modules(pairs, pairs.right, look)
        for kind, lefts in _modules(pairs, pairs.left, look).items():
            for near, only in anchors.near(lefts, rights.get(kind, [])):
                sure = only and known is proven and look is values
                if sure or known is pairs.found:
                    _pair_modules(pairs, near, "" if sure else doubt)
    return len(pairs.found) > before


def _pair_in_order(pairs: Pairs, look: Look, doubt: str, at_once: bool) -> bool:
    """Pair the modules of one look that are fewest, in order; false if there are none.

    With `at_once`, those of every other look as well.
    """
    anchors = Anchors(pairs.left, pairs.right, pairs.found)
    lefts, rights = _modules(pairs, pairs.left, look), _modules(pairs, pairs.right, look)
    before = len(pairs.found)
    for kind in sorted(lefts, key=lambda kind: (_templates(lefts[kind]), len(lefts[kind]))):
        _pair_modules(pairs, anchors.ordered(lefts[kind], rights.get(kind, [])), doubt)
        if len(pairs.found) > before and not at_once:
            return True
    return len(pairs.found) > before


def _modules(pairs: Pairs, file: TensorFile, look: Look) -> dict[Hashable, list[Module]]:
    """Return the modules that are free, by their look, in order."""
    modules: dict[str, dict[str, str]] = {}
    for name in sorted(pairs.free(file), key=file.order.__getitem__):
        place = file.place(name)
        if place.leaf != "num_batches_tracked":  # only PyTorch counts them
            modules.setdefault(place.path, {})[place.leaf] = name
    by_look: dict[Hashable, list[Module]] = {}
    for path, names in modules.items():
        by_look.setdefault(look(file, names), []).append(Module(path, names))
    return by_look


def _pair_modules(pairs: Pairs, modules: Iterable[tuple[Module, Module]], doubt: str) -> None:
    for left, right in modules:
        for leaf, name in left.names.items():
            match = right.names[leaf]
            how = pairs.relate([name], [match]) or pairs.relate_shapes([name], [match], "")
            if how is not None:
                pairs.add([name], [match], how, doubt)


def _templates(modules: Iterable[Module]) -> int:
    """Return how many modules there are when numbers do not count."""
    return len({re.sub("[0-9]+", "#", module.path) for module in modules})


def pair_fused(pairs: Pairs) -> None:
    """Pair q, k and v with the tensor that has all three, by their names and sizes."""
    anchors = Anchors(pairs.left, pairs.right, pairs.found)
    for whole, many in ((pairs.left, pairs.right), (pairs.right, pairs.left)):
        for siblings in list(sibling_groups(many, pairs.free(many))):
            parts = [name for name in siblings if letter(many, name)]
            parts.sort(key=lambda name, file=many: "qkv".index(letter(file, name)))  # type: ignore[misc]
            if len({letter(many, name) for name in parts}) < max(len(parts), 2):
                continue
            splits = many is pairs.right
            fitting = [
                name
                for name in pairs.free(whole)
                if fits_together(whole.prints[name], [many.prints[part] for part in parts])
                and anchors.agree(*((name, parts[0]) if splits else (parts[0], name)))
            ]
            if len(fitting) != 1:
                continue
            lefts, rights = (fitting, parts) if splits else (parts, fitting)
            how = pairs.relate_shapes(lefts, rights, "concat 0")
            if how is not None:
                pairs.add(lefts, rights, how, _BY_NAME)
