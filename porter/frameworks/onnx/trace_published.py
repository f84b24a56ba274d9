"""Trace a model that transformers has and porter has not, by its published `config.json`.

Runs in a child process (`porter.frameworks.onnx.tools`).
"""

from __future__ import annotations

import gzip
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from porter.frameworks.models import need
from porter.frameworks.onnx import trace as fixed
from porter.frameworks.providers import transformers
from porter.zoo.architectures import Architecture
from porter.zoo.image_size import Size
from porter.zoo.published import published_config


def trace(
    architecture: Architecture, path: str | os.PathLike[str], *, image_size: Size, opset: int
) -> None:
    """Write a template to `path`, as `trace.trace` does; `MissingPackage` without transformers.

    The graph gives what the class calls `architecture.published_output`.
    """
    for package in ("torch", "onnxscript", "onnx", "transformers"):
        need(package)
    import torch

    model = _model(torch, architecture)
    state = {name: value.detach() for name, value in model.state_dict().items()}
    model.forward = _one_output(model.forward, architecture.published_output)
    example = torch.zeros(2, 3, *architecture.sides(image_size))
    shapes = ({0: torch.export.Dim("n")},)
    exported = torch.export.export(model, (example,), dynamic_shapes=shapes, strict=False)
    program = torch.onnx.export(
        exported, (), dynamo=True, optimize=False, opset_version=opset,
        input_names=[fixed.INPUT], output_names=[fixed.OUTPUT], verbose=False,
    )  # fmt: skip
    assert program is not None
    with open(path, "wb") as file:
        file.write(gzip.compress(fixed._finish(program.model, state, architecture), 9, mtime=0))


def _model(torch: Any, architecture: Architecture) -> Any:
    """Return transformers' class with the traced number of classes."""
    has_classes = any("classes" in t.dims for t in architecture.skeleton().tensors)
    config = published_config(architecture, fixed.CLASSES if has_classes else None)
    with tempfile.TemporaryDirectory(prefix="porter-") as folder, fixed._no_initialisation(torch):
        Path(folder, "config.json").write_text(json.dumps(config), encoding="utf-8")
        return transformers(folder).eval()


def _one_output(forward: Callable[..., Any], name: str) -> Callable[[Any], Any]:
    def run(image: Any) -> Any:
        return forward(image)[name]

    return run
