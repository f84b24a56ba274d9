"""The commands of a worker for ONNX files, `Worker("onnx-tools")`.

The parent needs neither torch nor onnx: they are imported here, in the child.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from porter.errors import UsageError, printable
from porter.frameworks.onnx import trace_free, trace_looped, trace_published, trace_written
from porter.frameworks.onnx.optimize import check, optimize
from porter.frameworks.onnx.quantize import quantize
from porter.frameworks.onnx.run import run, run_all
from porter.frameworks.onnx.tidy import tidy
from porter.frameworks.onnx.trace import trace
from porter.zoo.architectures import find
from porter.zoo.image_size import as_size, shown


def traced(
    architecture: str,
    path: str,
    image_size: int | Sequence[int],
    opset: int,
    features: Sequence[str] = (),
    free: bool = False,
    settings: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write a template: by the module that traces such a variant, with settings of its own."""
    variant, size = find(architecture), as_size(image_size)
    variant = replace(variant, config={**variant.config, **(settings or {})})
    if variant.graph.loop == "tokens":
        trace_written.trace(variant, path, image_size=size, opset=opset)
    elif variant.graph.loop:
        trace_looped.trace(variant, path, image_size=size, opset=opset)
    elif not variant.module or (free and variant.graph.free == "width"):
        trace_published.trace(variant, path, image_size=size, opset=opset, free=free)
    elif free:
        trace_free.trace(variant, path, opset=opset)
    else:
        try:
            trace(variant, path, image_size=size, opset=opset, features=features)
        except RuntimeError as error:  # torch's, of maps that have become too small
            reason = printable(str(error).strip().partition("\n")[0], 160)
            raise UsageError(
                f"{variant.name} takes no pictures of {shown(size)} px: {reason}"
            ) from error
    return {}


def tidied(
    path: str, output: str, sides: Sequence[int], weights: Sequence[str] = ()
) -> dict[str, Any]:
    """Write a graph without its weights (`porter.frameworks.onnx.tidy.tidy`)."""
    tidy(path, output, sides, weights)
    return {}


def commands() -> dict[str, Callable[..., dict[str, Any]]]:
    """Return the commands of this worker."""
    return {
        "trace": traced,
        "tidy": tidied,
        "run": run,
        "run_all": run_all,
        "optimize": optimize,
        "quantize": quantize,
        "check": check,
    }
