"""Both sides of a comparison while they can be asked, and what they are compared on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from porter.frameworks.parallel import together
from porter.tensors.blocks import Array
from porter.verification.checks import EXACT, SINGLE
from porter.verification.sides.side import Can, Side
from porter.verification.steps import Steps
from porter.zoo.architectures import Architecture


def softmax(scores: Array) -> Array:
    """Return the probabilities of scores (N, classes)."""
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return np.asarray(powers / powers.sum(-1, keepdims=True))


@dataclass(frozen=True, slots=True)
class Pair:
    """The sides, the reference first, with the inputs and the precision of the comparison."""

    architecture: Architecture
    left: Side
    right: Side
    folder: Path
    precision: str
    case: str
    """The input for which layers are watched."""
    steps: Steps

    @property
    def inputs(self) -> Path:
        """File of the inputs."""
        return self.folder / "inputs.safetensors"

    @property
    def both_can(self) -> Can:
        """What both sides can do."""
        return self.left.can & self.right.can

    @property
    def has_graph(self) -> bool:
        """Whether a side is an ONNX model."""
        return any(side.report.framework == "onnxruntime" for side in (self.left, self.right))

    def compute(self, *, layers: bool, sides: tuple[Side, ...] = ()) -> None:
        """Run both sides, or some: in float64, and in float32 or the right side's precision."""
        exact = (EXACT,) if Can.FLOAT64 in self.right.can else ()
        precisions = {
            "left": (EXACT, SINGLE), "right": tuple(dict.fromkeys([*exact, self.precision])),
        }  # fmt: skip

        def run(name: str, side: Side) -> None:
            step = partial(self.steps.part, f"{name} ({side.report.framework})")
            side.compute(self.inputs, precisions[name], self.case if layers else "", step)
            step("")

        both = {"left": self.left, "right": self.right}
        chosen = {name: side for name, side in both.items() if not sides or side in sides}
        together([partial(run, name, side) for name, side in chosen.items()])
        for side in chosen.values():
            traced = {name: self.compared(side, o) for name, o in side.trace.outputs.items()}
            side.trace = replace(side.trace, outputs=traced)

    def compared(self, side: Side, outputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Return a side's outputs as they are compared: where one gives probabilities, as such."""
        gives = {s: Can.RUN in s.can and s.prepared.probabilities for s in (self.left, self.right)}
        if gives[side] or not any(gives.values()):
            return outputs
        return {name: softmax(scores) for name, scores in outputs.items()}
