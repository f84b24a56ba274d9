"""Trace a reference model into a template: torch's exporter, with the weights kept out of it.

Runs in a child process (`porter.frameworks.onnx.tools`). The model is built without initialising
its weights and traced on fake tensors, so a trace takes seconds and hardly any memory, whatever
the size of the model. What ties an initialiser to a tensor of the state dict is identity: the
exporter's initialiser must be that very memory, of that name. Before the graph is tidied its
weights are turned into inputs, so that no rewrite can merge, fold or transpose one.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from porter.errors import UsageError, listed
from porter.frameworks.models import build, need
from porter.zoo.architectures import Architecture
from porter.zoo.image_size import Size

CLASSES = 10_007
"""Traced number of classes: a prime that no other size is, so that the graph shows where it is."""
INPUT, OUTPUT = "image", "logits"
TEMPLATE = "porter.template"
"""Metadata key of what a template says about itself, as JSON."""
OPSETS = range(18, 24)
"""Operator sets that torch's exporter writes and ONNX Runtime runs."""


def trace(
    architecture: Architecture,
    path: str | os.PathLike[str],
    *,
    image_size: Size,
    opset: int,
    features: Sequence[str] = (),
) -> None:
    """Write a template to `path`: a gzipped ONNX model whose weights are inputs.

    The batch is the symbol `batch`, the number of classes the symbol `classes`. `image_size` is
    in pixels. `MissingPackage` without torch and onnxscript; `UsageError` for an opset that the
    exporter does not write, or a weight that the graph does not hold as it is.
    """
    for package in ("torch", "onnxscript", "onnx"):
        need(package)
    if opset not in OPSETS:
        raise UsageError(f"opset {opset} is not one of {OPSETS.start} to {OPSETS.stop - 1}")
    import torch

    with _no_initialisation(torch):
        model = build(
            architecture, "torch", num_classes=CLASSES, image_size=image_size, features=features
        ).eval()
    example = torch.zeros(2, 3, *architecture.sides(image_size))
    exported = torch.export.export(model, (example,), dynamic_shapes=({0: torch.export.Dim("n")},))
    program = torch.onnx.export(
        exported,
        (),
        dynamo=True,
        optimize=False,
        opset_version=opset,
        input_names=[INPUT],
        output_names=[OUTPUT],
        verbose=False,
    )
    assert program is not None
    state = {name: value.detach() for name, value in model.state_dict().items()}
    written = _finish(program.model, state, architecture)
    with open(path, "wb") as file:
        file.write(gzip.compress(written, 9, mtime=0))


@contextmanager
def _no_initialisation(torch: Any) -> Iterator[None]:
    """Leave weights as they are allocated: their values have no part in a trace."""
    init = torch.nn.init
    before = {name: getattr(init, name) for name in dir(init) if name.endswith("_")}
    chosen = {n: f for n, f in before.items() if callable(f) and not n.startswith("_")}
    for name in chosen:
        setattr(init, name, lambda tensor, *args, **options: tensor)
    try:
        yield
    finally:
        for name, function in chosen.items():
            setattr(init, name, function)


def _finish(model: Any, state: dict[str, Any], architecture: Architecture) -> bytes:
    """Return the template of an exported model, serialised."""
    import onnx_ir as ir
    from onnxscript import optimizer

    weights = _open_weights(model, state)
    optimizer.optimize(model)
    graph = model.graph
    unused = [name for name in state if name not in weights or not _is_used(weights[name])]
    for name in unused:
        if name in weights:
            graph.inputs.remove(weights[name])
    _name_nodes(graph)
    close_constants(graph)
    _symbols(graph, architecture)
    graph.name = architecture.name
    model.metadata_props.clear()
    model.metadata_props[TEMPLATE] = json.dumps({"unused": unused})
    for node in graph:
        node.metadata_props.clear()
        node.doc_string = None
    proto = ir.to_proto(model)
    del proto.graph.value_info[:]
    for value in (*proto.graph.input, *proto.graph.output):
        del value.metadata_props[:]
    data: bytes = proto.SerializeToString(deterministic=True)
    return data


def _open_weights(model: Any, state: dict[str, Any]) -> dict[str, Any]:
    """Turn the initialisers that are the state dict's tensors into inputs, in its order."""
    graph = model.graph
    held = {}
    for name, value in graph.initializers.items():
        if name not in state:
            continue
        raw = value.const_value.raw
        if raw.data_ptr() != state[name].data_ptr() or raw.shape != state[name].shape:
            raise UsageError(f"the exporter's {name} is not the model's")
        held[name] = value
    for value in held.values():
        graph.initializers.pop(value.name)
        value.const_value = None
    found = {name: held[name] for name in state if name in held}
    graph.inputs.extend(found.values())
    known = {tensor.data_ptr(): name for name, tensor in state.items() if tensor.numel()}
    renamed = [
        f"{known[pointer]} as {name}"
        for name, value in graph.initializers.items()
        if (pointer := _pointer(value.const_value)) in known
    ]
    if renamed:
        raise UsageError(f"the exporter renamed {listed(renamed)}")
    return found


def _pointer(constant: Any) -> int:
    raw: Any = getattr(constant, "raw", None)
    return int(raw.data_ptr()) if hasattr(raw, "data_ptr") else 0


def _is_used(value: Any) -> bool:
    return bool(value.uses())


def _name_nodes(graph: Any) -> None:
    """Call each node by its module's path and its operation: `/block1.0/attn/q/MatMul`."""
    counts: dict[str, int] = {}
    of: dict[Any, list[str]] = {}
    for node in graph:
        # what the optimiser made itself has no scope: it belongs to where its input comes from
        source = node.inputs[0].producer() if node.inputs and node.inputs[0] else None
        of[node] = scopes = _scopes(node) or of.get(source, [])
        path = "/".join(["", *_steps(scopes), node.op_type])
        count = counts[path] = counts.get(path, 0) + 1
        node.name = path if count == 1 else f"{path}_{count - 1}"


def _scopes(node: Any) -> list[str]:
    """Return the paths of the modules that a node belongs to, outermost first."""
    text = node.metadata_props.get("pkg.torch.onnx.name_scopes", "")
    try:
        found = json.loads(text.replace("'", '"'))
    except ValueError:
        return []
    return [str(scope) for scope in found[:-1] if scope]


def _steps(scopes: Sequence[str]) -> Iterator[str]:
    before = ""
    for scope in scopes:
        yield scope.removeprefix(f"{before}.") if before else scope
        before = scope


def close_constants(graph: Any) -> None:
    """Make Constant nodes of what was folded: the initialisers are then the weights alone."""
    import onnx_ir as ir

    nodes = []
    for name, value in list(graph.initializers.items()):
        graph.initializers.pop(name)
        if not value.uses():
            continue
        node = ir.node("Constant", [], attributes={"value": value.const_value}, name=f"/{name}")
        made = node.outputs[0]
        made.name, made.shape, made.type = name, value.shape, value.type
        value.name = f"{name}_before"
        value.replace_all_uses_with(made)
        nodes.append(node)
    first = next(iter(graph))
    graph.insert_before(first, nodes)


def _symbols(graph: Any, architecture: Architecture) -> None:
    """Write the number of classes as a symbol; refuse a graph that depends on it elsewhere."""
    import onnx_ir as ir

    for value in (*graph.inputs, *graph.outputs):
        dims = [_symbol(dim) for dim in value.shape]
        value.shape = ir.Shape(dims)
    image = graph.inputs[0]
    image.shape = ir.Shape(["batch", *image.shape[1:]])
    for output in graph.outputs:
        output.shape = ir.Shape(["batch", *output.shape[1:]])
    for node in graph:
        for attribute in node.attributes.values():
            if CLASSES in _numbers(attribute):
                raise UsageError(f"the graph of {architecture.name} depends on the classes")


def _symbol(dim: Any) -> int | str:
    if not isinstance(dim, int):
        return str(dim)
    return "classes" if dim == CLASSES else dim


def _numbers(attribute: Any) -> list[int]:
    """Return the whole numbers of an attribute."""
    import onnx_ir as ir

    value = attribute.value
    if attribute.type == ir.AttributeType.INTS:
        return list(value)
    if attribute.type == ir.AttributeType.INT:
        return [value]
    if attribute.type == ir.AttributeType.TENSOR and value.numpy().dtype.kind in "iu":
        return [int(number) for number in value.numpy().ravel()]
    return []
