"""Trace a reference model whose picture may have any height and width.

Runs in a child process (`porter.frameworks.onnx.tools`). Only models whose weights do not depend
on the size can be traced so: convolutions, and attention over whatever tokens there are.
"""

from __future__ import annotations

import gzip
import os
from typing import Any

from porter.errors import UsageError
from porter.frameworks.models import build, need
from porter.frameworks.onnx import trace as fixed
from porter.zoo.architectures import Architecture

STEP = 32
"""Pixels of which height and width are multiples: what the coarsest grid of these models covers."""
_EXAMPLE = (8 * STEP, 10 * STEP)
"""No two sizes of the example are equal, so that the exporter does not take one for another."""


def trace(architecture: Architecture, path: str | os.PathLike[str], *, opset: int) -> None:
    """Write a template to `path` in which `height` and `width` are symbols as the batch is.

    `UsageError` where the model depends on the size of the picture; see `trace.trace` for others.
    """
    for package in ("torch", "onnxscript", "onnx"):
        need(package)
    import torch

    with fixed._no_initialisation(torch):
        model = build(
            architecture, "torch", num_classes=fixed.CLASSES, image_size=architecture.image_size
        ).eval()
    if hasattr(model, "free_size"):
        model.free_size = True
    dim = torch.export.Dim
    height, width = (STEP * dim(name, min=2, max=256) for name in ("rows", "columns"))
    shapes = ({0: dim("n"), 2: height, 3: width},)
    try:
        exported = torch.export.export(
            model, (torch.zeros(2, 3, *_EXAMPLE),), dynamic_shapes=shapes
        )
    except (RuntimeError, ValueError, AssertionError) as error:
        raise UsageError(
            f"{architecture.name} depends on the size of its pictures: leave --free-size out"
        ) from error
    program = torch.onnx.export(
        exported, (), dynamo=True, optimize=False, opset_version=opset,
        input_names=[fixed.INPUT], output_names=[fixed.OUTPUT], verbose=False,
    )  # fmt: skip
    assert program is not None
    state = {name: value.detach() for name, value in model.state_dict().items()}
    _name_sizes(program.model)
    with open(path, "wb") as file:
        file.write(gzip.compress(fixed._finish(program.model, state, architecture), 9, mtime=0))


def _name_sizes(model: Any) -> None:
    import onnx_ir as ir

    image = model.graph.inputs[0]
    image.shape = ir.Shape([*image.shape[:2], "height", "width"])
