"""Prove that a table's faults would be seen: mutate each link, each mutation must be caught.

Seeded weights in which every tensor matters are mapped to a dialect and back by the table, as a
port would be; then each canonical tensor of each link is lost, swapped with a sibling,
transposed, reordered or scaled, and the reference model run again. The distance from the
unmutated float64 outputs is compared with the limit of a verdict.

Dialects that one framework runs on the same bytes share these runs: a mutation of a canonical
tensor moves the same outputs, whatever the dialect calls it.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash

from porter import codecs
from porter.frameworks import exchange
from porter.frameworks.process import Pool, shared
from porter.mapping.link import Link
from porter.mapping.table import CANONICAL
from porter.planning.plan import Plan, plan
from porter.tensors.blocks import Array
from porter.tensors.lazy import LazyTensor
from porter.tensors.state_dict import StateDict
from porter.verification.inputs import noise
from porter.verification.sensitivity.effects import CLASSES, Effect, run
from porter.verification.sensitivity.mutate import Mutation, mutations
from porter.verification.steps import Step
from porter.zoo.architectures import Architecture
from porter.zoo.image_size import Size
from porter.zoo.seeded import seeded


@dataclass(frozen=True, slots=True)
class Trial:
    """One mutation of one tensor and what it did to the outputs."""

    row: str
    tensor: str
    kind: str
    what: str
    error: float
    limit: float
    layers_only: bool = False
    """Whether no output depends on it (a bias that softmax cancels): `error` is its layer's."""

    @property
    def caught(self) -> bool:
        """Whether a verdict would fail."""
        return not self.error <= self.limit

    @property
    def margin(self) -> float:
        """How many times over the limit the outputs moved."""
        return self.error / self.limit


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """The proof for one variant and dialect."""

    variant: str
    dialect: str
    image_size: Size
    trials: tuple[Trial, ...]
    unprovable: Mapping[str, str]
    """Tensors on which no output depends, each with the reason."""

    @property
    def uncaught(self) -> tuple[Trial, ...]:
        """Mutations that a verdict would not see."""
        return tuple(trial for trial in self.trials if not trial.caught)

    @property
    def hidden(self) -> tuple[Trial, ...]:
        """Mutations that only a comparison layer by layer sees."""
        return tuple(trial for trial in self.trials if trial.caught and trial.layers_only)

    @property
    def holds(self) -> bool:
        """Whether every mutation was caught."""
        return bool(self.trials) and not self.uncaught

    @property
    def weakest(self) -> Trial | None:
        """The mutation with the smallest margin."""
        return min(self.trials, key=lambda trial: trial.margin, default=None)


Known = dict[str, dict[tuple[str, str], Effect]]
"""{what was run, and on which bytes: {(tensor, fault): effect}}"""


def prove(
    architecture: Architecture,
    dialect: str,
    *,
    image_size: Size | None = None,
    framework: str = CANONICAL,
    seed: int = 0,
    each_row: int | None = 2,
    pool: Pool | None = None,
    known: Known | None = None,
    step: Step | None = None,
) -> Sensitivity:
    """Mutate every row of a dialect on one variant and return what was caught.

    Of the tensors that one row links for one use, `each_row` are mutated, spread from first to
    last; None mutates all. `image_size` is in pixels: the smallest that the variant takes is
    quickest. `known` keeps the results for the other dialects of the variant; `step` is called
    with the name of each step.
    """
    size = image_size or smallest(architecture)
    sides = architecture.sides(size)
    weights = StateDict.of(
        seeded(architecture, seed=seed, num_classes=CLASSES, image_size=size).arrays()
    )
    there = _plan(architecture, weights, CANONICAL, dialect, size)
    written = there.apply(weights)
    back = _plan(architecture, written, dialect, framework, size)
    state = back.apply(written)
    arrays = {name: np.array(tensor.read()) for name, tensor in weights.items()}
    unprovable = {name: why for name in weights if (why := _without_effect(architecture, name))}
    made = [
        (link, m)
        for link, name in _chosen(there, each_row, unprovable)
        for m in _mutations(architecture, name, arrays)
    ]
    ran = f"{framework} {architecture.name} {size} {seed} {_digest(state)}"
    effects = ({} if known is None else known).setdefault(ran, {})
    todo = [m for _, m in made if (m.name, m.what) not in effects]
    if todo:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="porter-")))
            workers = stack.enter_context(shared(pool))
            worker = stack.enter_context(workers.worker(framework))
            codecs.write(state, str(folder / "weights.safetensors"), "safetensors",
                         read_back=False)  # fmt: skip
            exchange.save(folder / "inputs.safetensors", noise([seed], [1], sides), {})
            effects |= run(worker, folder, todo, back, step)
    trials = []
    for link, m in made:
        error, limit, layers_only = effects[m.name, m.what]
        trials.append(Trial(link.row, m.name, m.kind, m.what, error, limit, layers_only))
    return Sensitivity(architecture.name, dialect, size, tuple(trials), unprovable)


def _without_effect(architecture: Architecture, name: str) -> str:
    """Return why no output depends on a tensor; empty if one does."""
    if name.endswith("num_batches_tracked"):
        return "counts batches in training; no output depends on it"
    return architecture.unused_because(name)


def _digest(state: Mapping[str, LazyTensor]) -> str:
    hashed = xxhash.xxh3_128()
    for name in sorted(state):
        hashed.update(name.encode())
        hashed.update(np.array(state[name].read(), order="C").tobytes())
    return hashed.hexdigest()


def layouts(variants: Iterable[Architecture]) -> list[Architecture]:
    """Return the smallest variant of each layout: variants of one have the same rows at work."""
    found: dict[tuple[str, frozenset[str], frozenset[str]], Architecture] = {}
    for variant in sorted(variants, key=lambda v: v.parameters):
        names = frozenset(_use(entry.name) for entry in variant.skeleton().tensors)
        switches = frozenset(k for k, value in variant.config.items() if value is True)
        found.setdefault((variant.family, names, switches), variant)
    return sorted(found.values(), key=lambda v: (v.family, v.parameters))


def _use(name: str) -> str:
    """Return what a tensor is for: its name without the numbers of layers."""
    return re.sub(r"\d+(?=\.\d+\.)|(?<=\.)\d+(?=\.)", "#", name)


def smallest(architecture: Architecture) -> Size:
    """Return the smallest image size (pixels) at which every part of a variant has work to do.

    Two patches a side keep attention from having a single key; a pyramid needs two at its end.
    """
    if architecture.free_width:  # eight columns of eight pixels
        return architecture.sides()[0], 64
    if not architecture.resizable or "window_size" in architecture.config:
        return architecture.image_size
    if architecture.positions is not None:
        coarsest = max(table.patch for table in architecture.position_tables)
        return min(2 * coarsest, architecture.image_size)
    return min(64, architecture.image_size)


def _plan(
    architecture: Architecture, state: StateDict, source: str, target: str, size: Size
) -> Plan:
    shapes = {name: (tensor.dtype.name, tensor.shape) for name, tensor in state.items()}
    return plan(architecture, shapes, source, target, image_size=size)


def _chosen(
    made: Plan, each_row: int | None, unprovable: Collection[str]
) -> Iterator[tuple[Link, str]]:
    """Yield the tensors to mutate: of each row and use, some from first to last."""
    groups: dict[tuple[str, str], list[tuple[Link, str]]] = {}
    for link in made.target.links:
        if link.constant:
            continue
        for name in link.canonical:
            if name not in unprovable:
                groups.setdefault((link.row, _use(name)), []).append((link, name))
    for group in groups.values():
        count = len(group) if each_row is None else min(each_row, len(group))
        for index in np.linspace(0, len(group) - 1, count).round().astype(int):
            yield group[index]


def _mutations(
    architecture: Architecture, name: str, arrays: Mapping[str, Array]
) -> Iterator[Mutation]:
    config = architecture.config.get("num_heads", ())
    heads = (config,) if isinstance(config, int) else tuple(dict.fromkeys(config))
    shape, leaf = arrays[name].shape, name.rpartition(".")[2]
    same = [n for n, a in arrays.items() if a.shape == shape and n != name and n.endswith(leaf)]
    nearest = sorted(same, key=lambda n: -_shared(n, name))
    seen: set[str] = set()
    for made in mutations(architecture.table, name, arrays, heads, tuple(nearest[:2])):
        if made.kind != "reordered" or made.kind not in seen:  # one order represents all
            yield made
        seen.add(made.kind)


def _shared(one: str, other: str) -> int:
    return sum(a == b for a, b in zip(one.split("."), other.split("."), strict=False))
