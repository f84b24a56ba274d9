"""A source fitted to its target: what is read, what is written, and by which plans."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product

import numpy as np

from porter.commands.conversion.proof import Proof
from porter.errors import MappingError, PorterError, UsageError
from porter.mapping.table import CANONICAL, Behaviour
from porter.planning import endpoint
from porter.planning.behaviour import behaviour_of, crossed
from porter.planning.endpoint import Endpoint
from porter.planning.fit import Fitted, fit
from porter.planning.locate import head_names
from porter.planning.plan import Plan
from porter.tensors.lazy import LazyTensor
from porter.tensors.state_dict import StateDict
from porter.zoo.architectures import Architecture
from porter.zoo.image_size import Size


@dataclass(frozen=True, slots=True)
class Changes:
    """What is to be different in the output."""

    num_classes: int | None
    image_size: Size | None
    adapt: bool
    drop: Sequence[str]
    fill: Mapping[str, float] | None
    prefix: str | None
    seed: int
    behaviour: str = "canonical"
    """`dialect` for a graph that computes as the code of the source's dialect does."""

    @property
    def seed_used(self) -> int | None:
        """The seed of weights that are drawn, None where none are."""
        return self.seed if self.adapt else None


@dataclass(frozen=True, slots=True)
class Prepared:
    """A source and the plans by which it is read and written."""

    fitted: Fitted
    """How it is read."""
    canonical: StateDict
    target: Plan
    """How it is written."""
    notes: tuple[str, ...]
    changes: Changes
    unchanged: bool
    """Whether the file itself has what is written, under its own names."""

    @property
    def state(self) -> StateDict:
        """The source, without what does not belong to the model."""
        return self.fitted.state

    @property
    def plan(self) -> Plan:
        """The plan of the whole way: how it is read, with the sizes that are written."""
        return replace(
            self.fitted.plan, architecture=self.fitted.architecture,
            num_classes=self.target.num_classes, image_size=self.target.image_size,
        )  # fmt: skip

    @property
    def behaviour(self) -> tuple[Behaviour, ...]:
        """The settings of the source's dialect, where the output is to compute as its code does."""
        if self.changes.behaviour == "canonical":
            return ()
        dialect = self.fitted.plan.source.dialect.name
        return behaviour_of(self.fitted.architecture, dialect, self.state.origin)

    def keeping(self, kept: Iterable[str]) -> Prepared:
        """Return it with tensors that are those of the target."""
        names = tuple(kept)
        fitted = self.fitted._replace(plan=replace(self.fitted.plan, kept=names))
        return replace(self, fitted=fitted, target=replace(self.target, kept=names))

    def proof(self) -> Proof:
        """Return how the output is mapped back."""
        if not self.changes.adapt:
            return Proof(self.fitted.plan, self.state)
        computed = self.target.computed  # Masks and indices: checked against the plan.
        read = {name: t for name, t in self.canonical.items() if name not in computed}
        return Proof(self.target, StateDict(read))

    def left(self, dialect: str) -> StateDict | str:
        """Return what the output is compared with: the file, or its state dict.

        A state dict recovered from a graph, or at an address, is not a file that a framework could
        read, and of one that was changed the same changes are in both sides.
        """
        origin = self.state.origin
        assert origin is not None
        if not self.unchanged:
            return _in_dialect(self.target, self.canonical, dialect)
        if origin.format in endpoint.GRAPHS or origin.address:
            return self.state
        return origin.path

    @property
    def has_filled_head(self) -> bool:
        """Whether the classifier is one value: then only its input can be compared."""
        heads = set(head_names(self.fitted.architecture))
        return bool(heads) and heads <= set(self.plan.filled)


def prepared(
    variant: Architecture,
    state: StateDict,
    sides: tuple[Endpoint, Endpoint],
    container: str,
    changes: Changes,
) -> Prepared:
    """Fit a source to its target; raises as `porter.planning.fit.fit`."""
    left, right = sides
    fitting = partial(
        fit, state=state, source_dialect=left.dialect, target_dialect=right.dialect,
        drop=changes.drop, fill=changes.fill, prefix=changes.prefix,
    )  # fmt: skip
    if changes.adapt:
        fitted = _fitted_to_adapt(fitting, variant, changes)
    else:
        fitted = fitting(variant, num_classes=changes.num_classes, image_size=changes.image_size)
    is_changed = changes.adapt or changes.drop or changes.fill or changes.num_classes == 0
    unchanged = not is_changed and fitted.state is state
    canonical, target = fitted.plan.read(fitted.state), fitted.plan
    notes = (*fitted.notes, *_crossed(fitted, container, changes.behaviour))
    if changes.adapt:
        canonical, target, made = _adapted(
            fitted, variant, canonical, right, changes.num_classes, changes.image_size, changes.seed
        )
        notes = (*notes, *made)
        fitted = fitted._replace(architecture=target.architecture)
    return Prepared(fitted, canonical, target, notes, changes, unchanged)


def _crossed(fitted: Fitted, container: str, behaviour: str) -> Iterator[str]:
    """Yield what only one of the two dialects computes."""
    source, target = (linked.dialect.name for linked in (fitted.plan.source, fitted.plan.target))
    read = behaviour_of(fitted.architecture, source, fitted.state.origin)
    if container == "onnx" and behaviour == "dialect":
        yield from (f"the graph has the behaviour of {source}: it {row.about}" for row in read)
        return
    written = behaviour_of(fitted.architecture, target)
    if container == endpoint.FOLDER:  # Its config.json states the canonical values.
        written = tuple(row for row in written if not row.config)
    yield from crossed((source, read), (target, written))


def _fitted_to_adapt(
    fitting: Callable[..., Fitted], variant: Architecture, changes: Changes
) -> Fitted:
    """Fit a checkpoint of which classes or size will change.

    It may lack its classifier, be of a variant with another window, or not of a square image.
    """
    from porter.planning.adapt import other_windows

    first: PorterError | None = None
    classes = (None, 0) if changes.num_classes else (None,)
    sizes = (None, changes.image_size) if changes.image_size else (None,)
    for one, many, size in product((variant, *other_windows(variant)), classes, sizes):
        try:
            return fitting(one, num_classes=many, image_size=size)
        except (MappingError, UsageError) as error:
            first = first or error
    assert first is not None
    raise first


def _in_dialect(plan: Plan, canonical: StateDict, dialect: str) -> StateDict:
    """Return a canonical state dict under the names of a dialect."""
    back = fit(
        plan.architecture, canonical, CANONICAL, dialect, image_size=plan.image_size,
        num_classes=0 if plan.num_classes == 0 else None,
    )  # fmt: skip
    return back.plan.apply(canonical)


def _adapted(
    fitted: Fitted,
    wanted: Architecture,
    canonical: StateDict,
    right: Endpoint,
    num_classes: int | None,
    image_size: Size | None,
    seed: int,
) -> tuple[StateDict, Plan, tuple[str, ...]]:
    """Return the state dict with other sizes, the plan that writes it, and what was changed."""
    from porter.planning.adapt import adapt, other_windows

    variant = wanted if fitted.architecture in other_windows(wanted) else fitted.architecture
    canonical, changes = adapt(
        variant, canonical, num_classes=num_classes, image_size=image_size,
        source_size=fitted.plan.image_size, seed=seed,
    )  # fmt: skip
    filled = fitted.plan.filled
    canonical = StateDict({
        name: _constant(tensor, filled[name]) if name in filled else tensor
        for name, tensor in canonical.items()
    })  # fmt: skip
    changes = [line for line in changes if line.partition(":")[0] not in filled]
    own = StateDict({n: t for n, t in canonical.items() if n not in fitted.plan.computed})
    plan = fit(variant, own, CANONICAL, right.dialect, image_size=image_size).plan
    return plan.read(canonical), plan, tuple(changes)


def _constant(tensor: LazyTensor, value: float) -> LazyTensor:
    return LazyTensor.of(np.full(tensor.shape, value, tensor.dtype.numpy))
