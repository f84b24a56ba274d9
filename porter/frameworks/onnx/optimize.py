"""Optimise and check ONNX files; in a child process (`porter.frameworks.onnx.tools`)."""

from __future__ import annotations

from typing import Any

from porter.frameworks.models import need
from porter.frameworks.onnx.run import session


def optimize(path: str, output: str, optimizer: str) -> dict[str, Any]:
    """Write the model at `path` as an optimiser makes it; its metadata stay."""
    if optimizer == "onnxruntime":
        session(path, save=output)
        return {}
    for package in ("onnx", "onnxscript"):
        need(package)
    import onnx_ir as ir
    from onnxscript import optimizer as onnxscript

    model = ir.load(path)
    onnxscript.optimize(model)
    ir.save(model, output)
    return {}


def check(path: str) -> dict[str, Any]:
    """Run onnx's checker with full shape inference; return what it finds wrong, if anything."""
    need("onnx")
    import onnx

    try:
        onnx.checker.check_model(path, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        return {"problem": " ".join(str(error).split())[:300]}
    return {"problem": ""}
