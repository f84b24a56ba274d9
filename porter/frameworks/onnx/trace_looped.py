"""Trace a model that writes the structure of a table, part by part: one step, put into a Loop.

SLANet and SLANeXt of transformers. Runs in a child process (`porter.frameworks.onnx.tools`).
"""

from __future__ import annotations

import gzip
import os
from typing import Any

from porter.errors import UsageError
from porter.frameworks.models import need
from porter.frameworks.onnx import trace as fixed
from porter.frameworks.onnx.loop import ENDED, State, looped, node
from porter.frameworks.onnx.trace_published import _model
from porter.zoo.architectures import Architecture
from porter.zoo.image_size import Size

_SCORES = "scores"


def trace(
    architecture: Architecture, path: str | os.PathLike[str], *, image_size: Size, opset: int
) -> None:
    """Write a template to `path`; its graph gives (batch, steps, parts), as the class does."""
    for package in ("torch", "onnxscript", "onnx", "transformers"):
        need(package)
    import onnx
    import torch
    from onnx import TensorProto, helper

    model = _model(torch, architecture)
    state = {name: value.detach() for name, value in model.state_dict().items()}
    config = model.config
    width = config.hidden_size
    states = (
        State("features", TensorProto.FLOAT, (width,)),
        State("written", TensorProto.INT64),
        State(ENDED, TensorProto.BOOL),
    )
    model.forward = _step(torch, model)
    example = (
        torch.zeros(2, 3, *architecture.sides(image_size)),
        torch.zeros(2, width), torch.zeros(2, dtype=torch.long), torch.zeros(2, dtype=torch.bool),
    )  # fmt: skip
    batch = torch.export.Dim("n", min=1, max=1 << 16)
    shapes = tuple({0: batch} for _ in example)
    try:
        exported = torch.export.export(model, example, dynamic_shapes=(shapes,), strict=False)
    except (RuntimeError, ValueError, AssertionError) as error:
        raise UsageError(f"the graph of {architecture.name} cannot be traced: {error}") from error
    program = torch.onnx.export(
        exported, (), dynamo=True, optimize=False, opset_version=opset,
        input_names=[fixed.INPUT, *(one.name for one in states)], verbose=False,
        output_names=[_SCORES, *(f"next_{one.name}" for one in states)],
    )  # fmt: skip
    assert program is not None
    proto = onnx.load_from_string(fixed._finish(program.model, state, architecture))
    looped(
        proto, states, config.max_text_length + 1, {_SCORES: (_SCORES, TensorProto.FLOAT)}
    )  # fmt: skip
    (output,) = architecture.graph.outputs
    proto.graph.node.extend([
        node("Transpose", [f"/{_SCORES}"], ["/by_picture"], perm=[1, 0, 2]),
        node("Softmax", ["/by_picture"], [output], axis=-1),
    ])  # fmt: skip
    dims = ["batch", "steps", config.out_channels]
    proto.graph.output.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, dims))
    with open(path, "wb") as file:
        file.write(gzip.compress(proto.SerializeToString(deterministic=True), 9, mtime=0))


def _step(torch: Any, model: Any) -> Any:
    """Return the forward pass of one step, as the head of the class does it."""
    last = model.config.out_channels - 1

    def run(image: Any, features: Any, written: Any, ended: Any) -> Any:
        hidden = model.backbone(image).last_hidden_state
        one_hot = torch.nn.functional.one_hot(written, model.config.out_channels).float()
        features, _ = model.head.structure_attention_cell(features, hidden, one_hot)
        scores = model.head.structure_generator(features)
        written = scores.argmax(dim=1)
        return scores, features, written, ended | written.eq(last)

    return lambda *given: run(*given)
