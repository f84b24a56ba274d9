"""What every framework must be able to do to be one side of a comparison.

A protocol and not a base class: the implementations are twins that share no code, so that
reading one beside the other shows what differs between the frameworks.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from porter.errors import UsageError, printable
from porter.tensors.blocks import Array
from porter.tensors.lazy import Shape
from porter.zoo.architectures import Architecture

PRECISIONS = ("float64", "float32", "tf32", "float16", "bfloat16")
"""What a side can compute in; `tf32` is float32 with TF32 matrix products (CUDA only)."""

STEP_EPS = 1e-3
"""AdamW's eps in `step`. Its usual 1e-8 would turn the rounding noise of a gradient that is zero
(a key's bias before a softmax) into a step of full length."""

Argument = Array | int | float | bool | str | None
"""What a module is called with, where a call can be kept and repeated."""


@dataclass(frozen=True, slots=True)
class Watch:
    """What is kept of a forward pass: outputs of modules, and what they were called with."""

    modules: Collection[str] | None = ()
    """Canonical module paths; None stands for all, the whole model (path "") included."""
    calls: bool = False
    limit: int | None = None
    """Elements kept of each output, evenly spaced; None keeps all."""

    def wants(self, name: str) -> bool:
        """Whether a module is to be watched."""
        return self.modules is None or name in self.modules


@dataclass(slots=True)
class Record:
    """What one forward pass left behind; a module called again has `#2` behind its path."""

    outputs: dict[str, Array] = field(default_factory=dict)
    layers: dict[str, Array] = field(default_factory=dict)
    """Output of each watched module, in the order in which they finished."""
    shapes: dict[str, Shape] = field(default_factory=dict)
    """Whole shapes of the outputs."""
    kinds: dict[str, str] = field(default_factory=dict)
    """Class of each watched module."""
    calls: dict[str, tuple[Argument, ...]] = field(default_factory=dict)
    """Arguments of each watched module, where all can be kept."""

    def keep(self, name: str, kind: str, outputs: Mapping[str, Array], limit: int | None) -> str:
        """Add a module's outputs, {part: array}; return the place they have."""
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


def device_for(asked: str, framework: str, count: int) -> str:
    """Return `cpu` or `cuda[:n]` for what was asked, of a framework that sees `count` devices."""
    if asked == "auto":
        return "cuda" if count else "cpu"
    found = re.fullmatch(r"cpu|cuda(?::(\d+))?", asked)
    if found is None:
        raise UsageError(f"--device {printable(asked)!r} is none of auto, cpu, cuda, cuda:N")
    if asked != "cpu" and not count:
        raise UsageError(f"--device {asked}: this {framework} sees no CUDA device")
    if int(found.group(1) or 0) >= max(count, 1):
        raise UsageError(f"--device {asked}: this {framework} sees {count} CUDA devices, 0 first")
    return asked


class Side(Protocol):
    """A framework that holds one model."""

    def environment(self) -> dict[str, str]:
        """Return the versions of the framework and of what it computes with."""

    def place(self, device: str) -> str:
        """Move the model to `auto`, `cpu` or `cuda[:n]`; return where it is."""

    def build(
        self,
        architecture: Architecture,
        num_classes: int,
        image_size: int,
        features: Sequence[str],
        *,
        blank: bool = False,
    ) -> None:
        """Build the reference model, in evaluation mode; `blank` if every tensor will be set."""

    def adopt(self, model: Any) -> None:
        """Take a model that was built elsewhere; it is put in evaluation mode."""

    def tensors(self) -> dict[str, tuple[str, Shape]]:
        """Return {name: (dtype name, shape)} of the model's state dict."""

    def cast(self, precision: str) -> None:
        """Compute in another precision from now on; floating weights must be assigned again."""

    def assign(self, name: str, array: Array) -> None:
        """Set one tensor of the state dict, rounded to the precision."""

    def value(self, name: str) -> Array:
        """Return one tensor of the state dict."""

    def forward(self, inputs: Array, watch: Watch) -> Record:
        """Run the model and keep what is watched."""

    def call(self, module: str, arguments: Sequence[Argument]) -> dict[str, Array]:
        """Run one module by itself; return its outputs, {part: array}."""

    def attribute(self, module: str, name: str) -> Any:
        """Return a setting of a module (`eps`, `num_heads`, …), None if it has none."""

    def altered(self, module: str, settings: Mapping[str, Any]) -> AbstractContextManager[None]:
        """Change settings of a module for a while; `activation` stands for every GELU within."""

    def gradients(self, inputs: Array, projection: Array) -> dict[str, Array]:
        """Return the gradient of sum(projection * logits) by every parameter."""

    def step(self, inputs: Array, projection: Array, rate: float) -> dict[str, Array]:
        """Take one AdamW step down sum(projection * logits); return every parameter after it."""


SIDES = {
    "torch": ("porter.frameworks.torch", "TorchSide"),
    "paddle": ("porter.frameworks.paddle", "PaddleSide"),
}


def side(framework: str) -> Side:
    """Import a framework and return its side; `MissingPackage` if it is not installed."""
    module, name = SIDES[framework]
    made: Any = getattr(importlib.import_module(module), name)()
    return made  # type: ignore[no-any-return]
