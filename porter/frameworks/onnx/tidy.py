"""Tidy any ONNX graph so that two of them can be compared: one image, no shape arithmetic.

Runs in a child process (`porter.frameworks.onnx.tools`).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from porter.errors import InputError, listed
from porter.frameworks.models import need
from porter.frameworks.onnx.trace import close_constants

_SHORT = 64
"""Elements of the longest constant that can be a shape."""


def tidy(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str],
    sides: Sequence[int],
    weights: Sequence[str] = (),
) -> None:
    """Write the graph at `path` to `output` without its weights, which become inputs.

    The batch becomes 1, the image `sides` pixels high and wide, and everything that follows
    from shapes alone is folded; shapes of all values are noted. What counts as a weight are
    floating tensors of more than one element, and the inputs that `weights` names.
    `InputError` when the graph has not one image as its input.
    """
    for package in ("onnx", "onnxscript"):
        need(package)
    import onnx_ir as ir
    from onnxscript import optimizer

    try:
        model = ir.load(path)
    except (ValueError, TypeError, KeyError, AssertionError, OSError) as error:
        raise InputError(f"onnx does not read it: {error}", path) from error
    graph = model.graph
    own = {*graph.initializers, *weights}
    images = [v for v in graph.inputs if v.name not in own]
    if len(images) != 1 or images[0].shape is None or len(images[0].shape) != 4:
        raise InputError(f"takes {listed(str(v.name) for v in images)}, not one image", path)
    for value in [v for v in graph.inputs if v.name in graph.initializers]:
        graph.inputs.remove(value)
    images[0].shape = ir.Shape([1, 3, *sides])
    for value in graph.outputs:
        value.shape = None
    _open(graph)
    for node in graph:
        if node.op_type == "Expand":
            _keep_unknown(node)
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape = None  # it may hold the old batch
    optimizer.optimize(model, num_iterations=3)
    if _fill_constants(graph):
        optimizer.optimize(model, num_iterations=3)
    close_constants(graph)
    model.metadata_props.clear()
    ir.save(model, output)


def _open(graph: Any) -> None:
    """Make inputs of the weights, whether they are initialisers or Constant nodes."""
    import onnx_ir as ir

    for name, value in list(graph.initializers.items()):
        if _is_weight(value.const_value):
            graph.initializers.pop(name)
            value.const_value = None
            graph.inputs.append(value)
    for node in list(graph):
        attribute = node.attributes.get("value") if node.op_type == "Constant" else None
        if attribute is None or attribute.type != ir.AttributeType.TENSOR:
            continue
        if _is_weight(attribute.value):
            (made,) = node.outputs
            name, tensor = made.name, attribute.value
            made.name = f"{name}_before"
            value = ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype))
            made.replace_all_uses_with(value)
            graph.remove(node, safe=True)
            graph.inputs.append(value)


def _fill_constants(graph: Any) -> int:
    """Make constants of the small ConstantOfShape nodes, which the optimizer leaves alone."""
    import onnx_ir as ir

    found = 0
    for node in list(graph):
        sizes = node.inputs and ir.convenience.get_const_tensor(node.inputs[0])
        if node.op_type != "ConstantOfShape" or sizes is None or np.prod(sizes.numpy()) > _SHORT:
            continue
        value = node.attributes.get("value")
        filled = value.value.numpy().ravel()[:1] if value is not None else np.zeros(1, np.float32)
        (made,) = node.outputs
        tensor = ir.tensor(np.full(sizes.numpy(), filled, filled.dtype), name=f"{made.name}_filled")
        constant = ir.node("Constant", [], attributes={"value": tensor})
        graph.insert_before(node, constant)
        made.replace_all_uses_with(constant.outputs[0])
        graph.remove(node, safe=True)
        found += 1
    return found


def _keep_unknown(node: Any) -> None:
    """Replace -1 in the shape of an Expand, which paddle2onnx writes for "as it is"."""
    import onnx_ir as ir

    shape = ir.convenience.get_const_tensor(node.inputs[1])
    if shape is None or (shape.numpy() >= 0).all():
        return
    sizes = ir.Value(name=f"{node.outputs[0].name}_sizes")
    sizes.const_value = ir.tensor(np.maximum(shape.numpy(), 1), name=sizes.name)
    node.graph.initializers[str(sizes.name)] = sizes
    node.replace_input_with(1, sizes)


def _is_weight(tensor: Any) -> bool:
    return bool(tensor is not None and tensor.dtype.is_floating_point() and tensor.size > 1)
