"""Fit a converted state dict to the tensors of its target: those of a checkpoint or of a model.

Missing, unexpected and misshapen tensors are errors before anything is written. What only the
target has, its constants, is taken from it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from porter.errors import MappingError, listed, printable
from porter.mapping.fold import fold
from porter.mapping.link import Linked
from porter.tensors.lazy import LazyTensor
from porter.tensors.state_dict import StateDict

UNSEEN = "no output of the model shows it"
"""Why a tensor of one side has no partner where nothing can tell whether it needs one."""


@dataclass(frozen=True, slots=True)
class Target:
    """What a conversion's output must have."""

    name: str
    """How messages call it: a path, or a model."""
    state: Mapping[str, LazyTensor]
    """Its own tensors."""
    trained: Collection[str] | None = None
    """Those that are parameters; None where only names and types are known."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    """{second name of a tensor: the first}."""

    def twin(self, name: str, converted: Mapping[str, LazyTensor]) -> str | None:
        """Return another name of a tensor that a conversion has written, None for none."""
        main = self.aliases.get(name, name)
        names = (main, *(second for second, first in self.aliases.items() if first == main))
        return next((one for one in names if one in converted), None)

    def is_constant(self, name: str, linked: Linked) -> bool:
        """Whether the target keeps a tensor of its own that the table does not write."""
        extra = linked.extra(name)
        if self.trained is not None:
            return name not in self.trained or (extra or "").startswith(UNSEEN)
        return extra is not None or not self.state[name].dtype.is_float


def completed(converted: StateDict, target: Target, linked: Linked) -> tuple[StateDict, list[str]]:
    """Return the tensors of the target in its order, and those that are its own.

    `MappingError` names every tensor that is missing, unexpected or misshapen.
    """
    problems = mismatches(converted, target, linked)
    if problems:
        message = f"does not fit {target.name}: {'; '.join(problems[:8])}"
        raise MappingError(message, problems=problems)
    tensors: dict[str, LazyTensor] = {}
    kept = []
    for name in target.state:
        if name in converted:
            tensors[name] = converted[name]
        elif (twin := target.twin(name, converted)) is not None:
            tensors[name] = converted[twin]
            kept.append(name)
        else:
            tensors[name] = target.state[name]
            kept.append(name)
    return StateDict(tensors, converted.origin), kept


def mismatches(
    state: Mapping[str, LazyTensor], target: Target, linked: Linked | None = None
) -> list[str]:
    """Return what is missing, unexpected or misshapen in a state dict, a line each."""
    missing = [
        name
        for name in target.state
        if name not in state
        and target.twin(name, state) is None
        and not (_counts(name) or (linked is not None and target.is_constant(name, linked)))
        and not (linked is None and target.trained is not None and name not in target.trained)
    ]
    unexpected = [n for n in state if n not in target.state and not _counts(n)]
    problems = [f"{len(missing)} missing: {listed(fold(missing), 12)}"] if missing else []
    if unexpected:
        problems.append(f"{len(unexpected)} unexpected: {listed(fold(unexpected), 12)}")
    for name, tensor in state.items():
        own = target.state.get(name)
        if own is not None and own.shape != tensor.shape:
            problems.append(
                f"{printable(name)} is {list(tensor.shape)}, the target's {list(own.shape)}"
            )
        elif own is not None and own.dtype.is_float != tensor.dtype.is_float:
            problems.append(f"{printable(name)} is {tensor.dtype.name}, not {own.dtype.name}")
    return problems


def _counts(name: str) -> bool:
    """Whether a tensor counts batches, which older files do not have."""
    return name.endswith("num_batches_tracked")
