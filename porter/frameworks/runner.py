"""The interface through which a worker drives a framework: build, load, run, derive.

A protocol and not a base class: the implementations are twins that share no code, so that a diff
of the two modules shows what differs between the frameworks.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Protocol

import numpy as np

from porter.errors import UsageError, printable
from porter.tensors.blocks import Array
from porter.tensors.lazy import Shape
from porter.zoo.architectures import Architecture
from porter.zoo.image_size import Size

PRECISIONS = ("float64", "float32", "tf32", "float16", "bfloat16")
"""Element types of a run; `tf32` is float32 with TF32 matrix products (CUDA only)."""

STEP_EPS = 1e-3
"""AdamW's eps in `step`. Its usual 1e-8 would turn the rounding noise of a gradient that is zero
(the bias of a key before a softmax) into a step of full length."""

Naming = Callable[[str], str | None]
"""The canonical path of a module for its own, None for one to leave out."""


def as_it_is(path: str) -> str | None:
    """Return a path, for models whose modules have the canonical ones."""
    return path


Argument = Array | int | float | bool | str | None
"""An argument of a module, where the call can be recorded and repeated."""


@dataclass(frozen=True, slots=True)
class Watch:
    """What to record of a forward pass: outputs of modules, and their arguments."""

    modules: Collection[str] | None = ()
    """Canonical module paths; None: all, the whole model (path "") included."""
    calls: bool = False
    limit: int | None = None
    """Elements recorded of each output, evenly spaced; None: all."""

    def wants(self, name: str) -> bool:
        """Whether a module is to be watched."""
        return self.modules is None or name in self.modules


@dataclass(slots=True)
class Recording:
    """The result of one forward pass; the second call of a module has `#2` after its path."""

    outputs: dict[str, Array] = field(default_factory=dict)
    layers: dict[str, Array] = field(default_factory=dict)
    """Output of each watched module, in the order in which they finished."""
    shapes: dict[str, Shape] = field(default_factory=dict)
    """Shapes of the outputs before sampling."""
    kinds: dict[str, str] = field(default_factory=dict)
    """Class of each watched module."""
    calls: dict[str, tuple[Argument, ...]] = field(default_factory=dict)
    """Arguments of each watched module, where all of them can be recorded."""

    def keep(self, name: str, kind: str, outputs: Mapping[str, Array], limit: int | None) -> str:
        """Add a module's outputs, {part: array}; return the place under which they are stored."""
        count, place = 1, name
        while place in self.kinds:
            count += 1
            place = f"{name}#{count}"
        self.kinds[place] = kind
        for part, array in outputs.items():
            key = f"{place}{part}"
            self.shapes[key] = array.shape
            self.layers[key] = sampled(array, limit)
        return place


def sampled(array: Array, limit: int | None) -> Array:
    """Return at most `limit` elements, evenly spaced, or the array itself if it is smaller."""
    if limit is None or array.size <= limit:
        return array
    return array.reshape(-1)[np.linspace(0, array.size - 1, limit).astype(np.int64)]


def parts(value: Any, array: Callable[[Any], Array]) -> list[tuple[str, Array]]:
    """Return the tensors of an output: one has the name "", several are `@0`, `@1`, `@KEY`, …

    Tuples, mappings (transformers' `ModelOutput`) and dataclasses may be nested: `@states.0`.
    Entries of a tuple are counted without those that are not tensors.
    """
    leaves = list(_leaves(value))
    if len(leaves) == 1:
        return [("", array(leaves[0][1]))]
    return [("@" + ".".join(path), array(tensor)) for path, tensor in leaves]


def _leaves(value: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield the tensors of a nested value with the keys that lead to each."""
    if hasattr(value, "detach"):
        yield (), value
        return
    entries: list[tuple[str, Any]] = []
    if isinstance(value, Mapping):
        entries = [(re.sub("[/@]", ".", str(key)), one) for key, one in value.items()]
    elif is_dataclass(value) and not isinstance(value, type):
        entries = [(f.name, getattr(value, f.name)) for f in fields(value)]
    elif isinstance(value, tuple | list):
        counted = [one for one in value if next(_leaves(one), None) is not None]
        entries = [(str(index), one) for index, one in enumerate(counted)]
    for key, one in entries:
        for path, tensor in _leaves(one):
            yield (key, *path), tensor


def device_for(name: str, framework: str, count: int) -> str:
    """Return `cpu` or `cuda[:n]` for `--device`, in a framework that sees `count` devices."""
    if name == "auto":
        return "cuda" if count else "cpu"
    match = re.fullmatch(r"cpu|cuda(?::(\d+))?", name)
    if match is None:
        raise UsageError(f"--device {printable(name)!r} is not one of auto, cpu, cuda, cuda:N")
    if name != "cpu" and not count:
        raise UsageError(f"--device {name}: this {framework} sees no CUDA device")
    if int(match.group(1) or 0) >= max(count, 1):
        raise UsageError(
            f"--device {name}: this {framework} sees {count} CUDA devices, numbered from 0"
        )
    return name


class Runner(Protocol):
    """One framework with one model."""

    def environment(self) -> dict[str, str]:
        """Return the versions of the framework and of the libraries it computes with."""

    def place(self, device: str) -> str:
        """Move the model to `auto`, `cpu` or `cuda[:n]`; return where it is."""

    def build(
        self,
        architecture: Architecture,
        num_classes: int,
        image_size: Size,
        features: Sequence[str],
        *,
        blank: bool = False,
    ) -> None:
        """Build the reference model, in evaluation mode; `blank` if every tensor will be set."""

    def adopt(self, model: Any, name: Naming = as_it_is) -> None:
        """Use a model that was built elsewhere; it is put in evaluation mode.

        `name` gives the name by which a module, given by its path, is known; None for none.
        """

    def lent(self, model: Any, name: Naming = as_it_is) -> AbstractContextManager[None]:
        """Use a caller's model for a while; model and framework come back as they were.

        That is the mode of every module, the element types, the values, the device, the settings.
        """

    def tensors(self) -> dict[str, tuple[str, Shape]]:
        """Return {name: (dtype name, shape)} of the model's state dict."""

    def cast(self, precision: str) -> None:
        """Compute in another precision from now on; floating weights must be assigned again."""

    def assign(self, name: str, array: Array) -> None:
        """Set one tensor of the state dict, rounded to the precision."""

    def value(self, name: str) -> Array:
        """Return one tensor of the state dict."""

    def forward(self, inputs: Array | Sequence[Array], watch: Watch) -> Recording:
        """Run the model on its argument, or several, and record what `watch` asks for."""

    def call(self, module: str, arguments: Sequence[Argument]) -> dict[str, Array]:
        """Run one module only; return its outputs, {part: array}."""

    def attribute(self, module: str, name: str) -> Any:
        """Return a setting of a module (`eps`, `num_heads`, …), None if it has none."""

    def altered(self, module: str, settings: Mapping[str, Any]) -> AbstractContextManager[None]:
        """Change settings of a module for a while; `activation` replaces every GELU in it."""

    def gradients(self, inputs: Array, projection: Array) -> dict[str, Array]:
        """Return the gradient of sum(projection * logits) by every parameter."""

    def step(self, inputs: Array, projection: Array, rate: float) -> dict[str, Array]:
        """Take one AdamW step down sum(projection * logits); return every parameter after it."""


RUNNERS = {
    "torch": ("porter.frameworks.torch", "TorchRunner"),
    "paddle": ("porter.frameworks.paddle", "PaddleRunner"),
}


def runner(framework: str) -> Runner:
    """Import a framework and return its runner; `MissingPackage` if it is not installed."""
    module, name = RUNNERS[framework]
    result: Runner = getattr(importlib.import_module(module), name)()
    return result
