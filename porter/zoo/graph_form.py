"""What a variant's ONNX graph is called, gives and leaves open: `[onnx]` of the variants' files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class GraphOutput:
    """One output of a graph."""

    of: str
    """What transformers' class calls it, of a model without reference model."""
    about: str
    """What it is, in a clause; empty: scores of classes, as the number of axes says."""
    before_softmax: bool = False
    """Whether it is what that output is the softmax of."""


@dataclass(frozen=True, slots=True)
class GraphForm:
    """The form of a graph where nothing else is asked for."""

    input: str = "image"
    outputs: Mapping[str, GraphOutput] = field(default_factory=dict)
    """By their names; empty: `logits`."""
    free: str = ""
    """Which sides of the pictures one graph can leave open: `sides` (multiples of 32), or `width`
    (any number of pixels)."""
    is_free: bool = False
    """Whether they are left open unless an image size is asked for."""
    attention: str = ""
    """Which attention of transformers is traced, where its own choice cannot be."""
    own_classes: bool = False
    """Whether it is of the variant's number of classes only: its configuration has a value of
    each."""
    lowest_opset: int = 0
    """The first operator set in which it can be written."""
    loop: str = ""
    """What it writes step by step, in a Loop: `parts` of a table, or `tokens`; empty: nothing."""
    softmax: bool = False
    """Whether the first output is a softmax of the second, which the reference model gives."""

    @property
    def gives_probabilities(self) -> bool:
        """Whether the first output is a softmax, and the scores are another one."""
        return any(output.before_softmax for output in self.outputs.values())


def form_of(body: Mapping[str, Any], any_size: bool) -> GraphForm:
    """Return the form that a family's file states."""
    said = body.get("onnx", {})
    outputs = {
        name: GraphOutput(row.get("of", ""), row.get("about", ""), row.get("before_softmax", False))
        for name, row in said.get("outputs", {}).items()
    }
    return GraphForm(
        input=said.get("input", "image"),
        outputs=outputs,
        free=said.get("free", "sides" if any_size else ""),
        is_free=said.get("is_free", False),
        attention=said.get("attention", ""),
        own_classes=said.get("own_classes", False),
        lowest_opset=said.get("lowest_opset", 0),
        loop=said.get("loop", ""),
        softmax=said.get("softmax", False),
    )
