"""A dialect's row that is wrong in both directions: the golden logits see it, nothing else does.

What a table does there and back cancels, so bytes and outputs of two frameworks agree on a wrong
file. The golden logits were computed by the dialect's own implementation.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from porter.frameworks.fill import fill
from porter.frameworks.models import build
from porter.mapping.link import Link, Linked
from porter.mapping.table import CANONICAL
from porter.planning.fit import fit
from porter.planning.plan import Plan, link_variant
from porter.tensors import operations
from porter.tensors.lazy import Shape
from porter.tensors.state_dict import StateDict
from porter.verification.sensitivity.prove import layouts
from porter.verification.weights import prove_weights
from porter.zoo.architectures import families, find
from tests.golden.cases import ALL, WITH_LOGITS, Case
from tests.test_golden import LIMIT, run

FURTHER = [
    c
    for c in WITH_LOGITS
    if ":" in c.side and c.side.partition(":")[2] not in find(c.variant).table.aliases
]
"""Cases whose dialect has rows of its own: PaddleClas' DeiT has the names of the reference."""

AS_ANOTHER = {
    ("deit", "hf"): "hf-v5", ("swin", "hf"): "hf-v5", ("vit", "hf"): "hf-v5",
    ("deit", "hf-class"): "hf-v5",
    ("swin", "paddleclas"): "torch", ("vit", "torchvision-v1"): "torchvision",
    ("vit", "paddlevit"): "torch", ("vit", "mmpretrain"): "torch", ("vit", "passl"): "torch",
    ("deit3", "mmpretrain"): "timm", ("pvtv2", "paddlevit"): "torch",
    ("swin", "torchvision"): "timm", ("pp-lcnet", "train"): "paddlex",
    ("hgnet-v2", "train"): "paddlex", ("pp-ocrv5-mobile-det", "train"): "paddlex",
    ("pp-ocrv5-mobile-rec", "train"): "paddlex",
}  # fmt: skip
"""Dialects without logits, each with one that has some and does the same to every tensor."""


def mutants(linked: Linked, shapes: Mapping[str, Shape]) -> Iterator[tuple[str, Linked]]:
    """Yield every row made wrong in each way that still fits: both directions have the fault."""
    groups: dict[tuple[str, str], list[Link]] = {}
    for link in linked.links:
        if not link.constant:
            groups.setdefault((link.row, _use(link.canonical[0])), []).append(link)
    for (row, use), links in groups.items():
        for fault, wrong in _faults(links, shapes):
            yield f"{row} ({use}) {fault}", _with(linked, dict(zip(links, wrong, strict=True)))
        if use.endswith(".bias"):
            continue  # a row swapped for another is caught by its weights
        fits = [g for key, g in groups.items() if _fit(key, g, (row, use), links, shapes)]
        for other in fits[:1]:
            crossed = {a: a._replace(dialect=b.dialect) for a, b in zip(links, other, strict=True)}
            crossed |= {b: b._replace(dialect=a.dialect) for a, b in zip(links, other, strict=True)}
            yield f"{row} ({use}) swapped with {other[0].row}", _with(linked, crossed)


def _faults(links: Sequence[Link], shapes: Mapping[str, Shape]) -> Iterator[tuple[str, list[Link]]]:
    first = [shapes[name] for name in links[0].dialect]
    if all(len(shape) == 2 and shape[0] == shape[1] for shape in first):
        turn = operations.Permute((1, 0))
        yield "transposed", [link._replace(ops=(*link.ops, turn)) for link in links]
    if len(first) > 1:
        yield (
            "in another order",
            [link._replace(dialect=(*link.dialect[1:], link.dialect[0])) for link in links],
        )


def _fit(
    key: tuple[str, str], others: Sequence[Link], mine: tuple[str, str], links: Sequence[Link],
    shapes: Mapping[str, Shape],
) -> bool:  # fmt: skip
    """Whether two rows can be taken for each other: as many tensors, of the same shapes."""
    if key <= mine or len(others) != len(links):
        return False
    return all(
        a.ops == b.ops and [shapes[n] for n in a.dialect] == [shapes[n] for n in b.dialect]
        for a, b in zip(links, others, strict=True)
    )


def _with(linked: Linked, changed: Mapping[Link, Link]) -> Linked:
    return Linked(linked.dialect, [changed.get(link, link) for link in linked.links], linked.gaps)


def _use(name: str) -> str:
    return re.sub(r"\d+(?=\.\d+\.)|(?<=\.)\d+(?=\.)", "#", name)


@pytest.mark.slow
@pytest.mark.parametrize("case", FURTHER, ids=lambda case: case.name)
def test_golden_logits_see_what_a_dialect_does_twice(case: Case) -> None:
    """Each wrong row passes bit for bit there and back, and moves the logits over the limit."""
    state = StateDict.of(case.weights())
    good, other = (_plan(case, state, target) for target in (CANONICAL, "paddle"))
    reference = _canonical(good, state)
    model = build(good.architecture, "torch", num_classes=case.logits.shape[1],
                  image_size=good.image_size, **case.settings)  # fmt: skip
    fill(model, good.apply(state), "torch")
    model.eval()
    image = case.image()
    assert error(run(model, "torch", image), case) < LIMIT
    seen: dict[str, float] = {}
    shapes = {name: tensor.shape for name, tensor in state.items()}
    for fault, linked in mutants(good.source, shapes):
        if not seen:
            wrong = replace(other, source=linked)
            assert prove_weights(wrong, state, wrong.apply(state)).holds
        found = _canonical(replace(good, source=linked), state)
        changed = [n for n in found if not np.array_equal(found[n], reference[n])]
        assert changed, fault
        with held(model, {name: found[name] for name in changed}):
            seen[fault] = error(run(model, "torch", image), case)
    kinds = {word for fault in seen for word in ("transposed", "swapped", "order") if word in fault}
    parts = any(len(link.dialect) > 1 for link in good.source.links)
    assert kinds | {"transposed"} == {"transposed", "swapped"} | ({"order"} if parts else set())
    assert ("transposed" in kinds) is (case.framework != "numpy")  # Flax' square ones have 3 axes
    assert min(seen.values()) > 1e-4, min(seen, key=seen.__getitem__)


def test_every_dialect_is_covered() -> None:
    """A dialect has golden logits of its own, or does to each tensor what one with logits does."""
    covered = {(find(c.variant).family, c.side.partition(":")[2] or CANONICAL) for c in WITH_LOGITS}
    for family, variants in families().items():
        if not variants[0].module:
            continue  # nothing computes logits of it here
        further = set(variants[0].table.dialects) - {CANONICAL, "paddle"}
        for dialect in further:
            if variants[0].table.dialect(dialect).folds:
                continue  # `tests/commands/test_folded_scales.py` runs both forms.
            alike = AS_ANOTHER.get((family, dialect), dialect)
            assert (family, alike) in covered, (family, dialect)
            for variant in layouts(variants) if alike != dialect else ():
                names = [tensor.name for tensor in variant.skeleton().tensors]
                if not variant.table.dialect(dialect).names(names):
                    continue
                done, other = _done(variant.name, dialect), _done(variant.name, alike)
                assert done == {name: other[name] for name in done}
                assert {name.partition(".")[0] for name in set(other) - set(done)} <= {"head_dist"}


@pytest.mark.parametrize("dialect", ["hf", "hf-v4"])
def test_a_plain_deit_is_named_as_a_vit(dialect: str) -> None:
    """transformers has no model for it but ViT's, whose naming has logits."""
    linked = [link_variant(find(n), dialect) for n in ("deit-tiny-224", "vit-tiny-p16-224")]
    rows = [
        {link.canonical: (link.dialect, link.ops, link.join) for link in made.links
         if not link.canonical[0].startswith("pre_logits")}
        for made in linked
    ]  # fmt: skip
    assert rows[0] == rows[1]


def test_dialects_without_logits_have_the_names_of_their_authors() -> None:
    """PaddleViT's ViT and PaddleClas' Swin, which have no logits, are held to whole manifests."""
    manifests = {(find(c.variant).family, c.side.partition(":")[2]) for c in ALL}
    assert {("vit", "paddlevit"), ("swin", "paddleclas")} <= manifests


def _done(variant: str, dialect: str) -> dict[str, tuple[object, ...]]:
    """Return what is done to each canonical tensor; Paddle's layout is its conventions' affair."""
    chosen = find(variant)
    paddle = chosen.table.dialect(dialect).convention.framework == "paddle"
    return {
        name: (len(link.dialect), link.canonical.index(name), link.join if not paddle else None,
               link.ops if not paddle else ())
        for link in link_variant(chosen, dialect).links
        for name in link.canonical
        if not link.constant
    }  # fmt: skip


def _plan(case: Case, state: StateDict, target: str) -> Plan:
    variant = find(case.variant)
    dialect = variant.table.dialect(case.side.rpartition(":")[2]).name
    return fit(variant, state, dialect, target).plan


def _canonical(made: Plan, state: StateDict) -> dict[str, np.ndarray]:
    return {name: np.array(tensor.read()) for name, tensor in made.read(state).items()}


def error(logits: np.ndarray, case: Case) -> float:
    """Return the normalised error, the largest there is where logits are no numbers."""
    found = np.abs(logits - case.logits).max() / np.sqrt((case.logits**2).mean())
    return float(found) if np.isfinite(found) else float("inf")


@contextlib.contextmanager
def held(model: Any, tensors: Mapping[str, np.ndarray]) -> Iterator[None]:
    """Put other values into a model for a while."""
    import torch

    state = model.state_dict()
    before = {name: state[name].clone() for name in tensors}
    try:
        for name, array in tensors.items():
            state[name].copy_(torch.from_numpy(np.array(array, order="C")))
        yield
    finally:
        for name, value in before.items():
            state[name].copy_(value)
