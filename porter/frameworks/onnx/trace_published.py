"""Trace a model that transformers has and porter has not, by its published `config.json`.

A model of free width is traced here too, where porter has it. Runs in a child process
(`porter.frameworks.onnx.tools`).
"""

from __future__ import annotations

import builtins
import gzip
import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from porter.errors import UsageError
from porter.frameworks.models import build, need
from porter.frameworks.onnx import trace as fixed
from porter.frameworks.published.transformers import transformers
from porter.zoo.architectures import Architecture
from porter.zoo.image_size import Size
from porter.zoo.published import published_config

_STEP = 32
"""Pixels of which height and width are multiples where both are free."""
_EXAMPLE = (8 * _STEP, 10 * _STEP)
"""No two sizes of the example are equal, so that the exporter does not take one for another."""
_WIDTH = 323
"""Pixels of an example of free width: a prime, so that it is not taken for a multiple."""


def trace(
    architecture: Architecture,
    path: str | os.PathLike[str],
    *,
    image_size: Size,
    opset: int,
    free: bool = False,
) -> None:
    """Write a template to `path`, as `trace.trace` does; `MissingPackage` without transformers.

    The graph gives what `architecture.graph` names. In a `free` one the sides that it names are
    symbols, `height` and `width`; `UsageError` where the model depends on them.
    """
    for package in ("torch", "onnxscript", "onnx"):
        need(package)
    if not architecture.module:
        need("transformers")
    import torch

    model = _model(torch, architecture)
    state = {name: value.detach() for name, value in model.state_dict().items()}
    outputs = architecture.graph.outputs
    names = [name for name, output in outputs.items() if not output.before_softmax]
    if architecture.module:
        names = [fixed.OUTPUT]
    else:
        model.forward = _chosen(model.forward, [outputs[name].of for name in names])
    example, shapes = _example(torch, architecture, image_size, free)
    try:
        # a guard that no range of sizes proves is checked when the model runs, not refused here
        exported = torch.export.export(
            model, (example,), dynamic_shapes=(shapes,), strict=False,
            prefer_deferred_runtime_asserts_over_guards=True,
        )  # fmt: skip
    except (RuntimeError, ValueError, AssertionError) as error:
        raise UsageError(f"the graph of {architecture.name} cannot be traced: {error}") from error
    program = torch.onnx.export(
        exported, (), dynamo=True, optimize=False, opset_version=opset,
        input_names=[fixed.INPUT], output_names=names, verbose=False,
    )  # fmt: skip
    assert program is not None
    _show_scores(program.model, architecture)
    if free:
        _name_sizes(program.model, architecture)
    written = _with_shared(fixed._finish(program.model, state, architecture), state)
    with open(path, "wb") as file:
        file.write(gzip.compress(written, 9, mtime=0))


def _model(torch: Any, architecture: Architecture) -> Any:
    """Return the class with the traced number of classes."""
    has_classes = any("classes" in t.dims for t in architecture.skeleton().tensors)
    has_classes = has_classes and not architecture.graph.own_classes
    with tempfile.TemporaryDirectory(prefix="porter-") as folder, fixed._no_initialisation(torch):
        if architecture.module:
            classes = fixed.CLASSES if has_classes else None
            return build(architecture, "torch", num_classes=classes).eval()
        config = published_config(architecture, fixed.CLASSES if has_classes else None)
        Path(folder, "config.json").write_text(json.dumps(config), encoding="utf-8")
        attention = architecture.graph.attention
        options = {"_attn_implementation": attention} if attention else {}
        model = transformers(folder, **options).eval()
    _keep_batch_free(torch, sys.modules[type(model).__module__])
    return model


def _keep_batch_free(torch: Any, code: ModuleType) -> None:
    """Replace, in this process, what takes the batch for a plain number and fixes it in a graph."""
    vars(code)["len"] = lambda of: of.shape[0] if torch.is_tensor(of) else builtins.len(of)
    torch.take_along_dim = lambda source, places, dim: torch.gather(source, dim, places)


def _example(
    torch: Any, architecture: Architecture, image_size: Size, free: bool
) -> tuple[Any, dict[int, Any]]:
    """Return an example picture, and which of its sizes are symbols."""
    dim = torch.export.Dim
    height, width = architecture.sides(image_size)
    shapes = {0: dim("n", min=1, max=1 << 16)}
    if free and architecture.graph.free == "width":
        width = _WIDTH
        shapes[3] = dim("columns", min=16, max=1 << 16)
    elif free:
        height, width = _EXAMPLE
        shapes[2] = _STEP * dim("rows", min=2, max=256)
        shapes[3] = _STEP * dim("columns", min=2, max=256)
    return torch.zeros(2, 3, height, width), shapes


def _chosen(forward: Callable[..., Any], names: Sequence[str]) -> Callable[[Any], Any]:
    def run(image: Any) -> Any:
        found = forward(image)
        return tuple(found[name] for name in names)

    return run


def _name_sizes(model: Any, architecture: Architecture) -> None:
    import onnx_ir as ir

    image = model.graph.inputs[0]
    height = "height" if architecture.graph.free == "sides" else image.shape[2]
    image.shape = ir.Shape([*image.shape[:2], height, "width"])
    for output in model.graph.outputs:
        batch, *dims = output.shape
        dims = ["positions", dims[1]] if len(dims) == 2 else [dims[0], "height", "width"]
        output.shape = ir.Shape([batch, *dims])


def _with_shared(written: bytes, state: Mapping[str, Any]) -> bytes:
    """Return a template that names the tensors that are others of the state dict, too."""
    import onnx

    model = onnx.load_from_string(written)
    (note,) = (prop for prop in model.metadata_props if prop.key == fixed.TEMPLATE)
    about = json.loads(note.value)
    places = {tensor.data_ptr(): name for name, tensor in state.items() if tensor.numel()}
    places |= {state[v.name].data_ptr(): v.name for v in model.graph.input if v.name in state}
    pairs = {name: places.get(state[name].data_ptr(), name) for name in about["unused"]}
    shared = {name: other for name, other in pairs.items() if name != other}
    if not shared:
        return written
    about["unused"] = [name for name in about["unused"] if name not in shared]
    note.value = json.dumps({**about, "shared": shared})
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def _show_scores(model: Any, architecture: Architecture) -> None:
    """Give what the softmax at the end of the graph is computed from as an output, too."""
    for name, output in architecture.graph.outputs.items():
        if not output.before_softmax:
            continue
        if architecture.module:  # its reference model has no softmax: an export adds it
            return
        node = model.graph.outputs[0].producer()
        while node.op_type in ("Cast", "Identity"):
            node = node.inputs[0].producer()
        if node.op_type != "Softmax":
            raise UsageError(f"the graph of {architecture.name} does not end with a softmax")
        scores = node.inputs[0]
        while scores.producer().op_type in ("Cast", "Identity"):
            scores = scores.producer().inputs[0]
        scores.name = name
        model.graph.outputs.append(scores)
