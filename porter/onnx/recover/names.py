"""Read a foreign file's weights by its names: of tensors, of their neighbours, of modules.

Exporters keep the names of biases and norms, lose those of transposed weights (`onnx::MatMul_12`,
`val_18`), and note the module of each node in its name (`/blocks.0/attn/qkv/MatMul`) or in the
node's metadata.
What comes out is a state dict in whatever PyTorch naming the exported model had.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping

from porter.onnx.graph.flow import Flow, Layer
from porter.onnx.graph.modules import module_of
from porter.onnx.graph.steps import Permute, Static
from porter.onnx.graph.values import Node
from porter.tensors.blocks import Array
from porter.tensors.lazy import LazyTensor
from porter.tensors.state_dict import StateDict

_MADE_UP = re.compile(r"onnx::.*|_?val_\d+.*|\d+|/.*|auto\..*|helper\..*|p2o\..*|.*_output_\d+")
_ROLES = ("weight", "bias", "running_mean", "running_var")


def named(flow: Flow, nodes: Mapping[str, Node], weights: Mapping[str, LazyTensor]) -> StateDict:
    """Return the weights that can be named, in the layout of PyTorch.

    `nodes` are the graph's by name.
    """
    uses = Counter(slot.root for slot in _slots(flow))
    found: dict[str, LazyTensor] = {}
    layers = [*flow.layers, *(Layer(("norm",), [], norm.slots) for norm in flow.norms)]
    for layer in layers:
        own = {role: s.root for role, s in layer.slots.items()
               if uses[s.root] == 1 and not _MADE_UP.fullmatch(s.root)}  # fmt: skip
        module = next((path for place in layer.places if (path := _module(place, nodes))), "")
        for role, slot in layer.slots.items():
            name = own.get(role) or _sibling(own, role) or (module and f"{module}.{role}")
            if name:
                found.setdefault(name, _stored(layer, role, slot, weights[slot.root]))
    return StateDict(found)


def _slots(flow: Flow) -> Iterator[Static]:
    for layer in flow.layers:
        yield from layer.slots.values()
    for norm in flow.norms:
        yield from norm.slots.values()


def _sibling(own: Mapping[str, str], role: str) -> str:
    """Return the name that goes with the bias's: `in_proj_bias` gives `in_proj_weight`."""
    for other, name in own.items():
        if name.endswith(other):
            return name.removesuffix(other) + role
    return ""


def _stored(layer: Layer, role: str, slot: Static, tensor: LazyTensor) -> LazyTensor:
    """Return a weight as PyTorch keeps it: Linear as (out, in), others as they are."""
    if layer.label[0] != "linear" or role != "weight":
        return tensor
    transposed = slot.then(Permute((1, 0)))

    def read() -> Array:
        return transposed.seen(tensor.read())

    return LazyTensor(tensor.dtype, transposed.shape, read)


def _module(place: str, nodes: Mapping[str, Node]) -> str:
    """Return the path of the module that a node belongs to, empty if unknown."""
    node = nodes.get(place)
    return module_of(place, node.scope if node is not None else "")
