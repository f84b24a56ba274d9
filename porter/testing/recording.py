"""Record what a live model computes."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from porter.errors import UsageError
from porter.frameworks import exchange
from porter.storage.outputs import check_outputs
from porter.tensors.blocks import Array
from porter.testing.live import live
from porter.testing.modules import Modules, naming
from porter.verification import trace as traces
from porter.verification.checks import EXACT, SINGLE
from porter.verification.inputs import noise
from porter.verification.sides.processes import arguments_of, layers_of
from porter.verification.tolerance import PRESETS
from porter.verification.trace import Trace
from porter.zoo.architectures import find
from porter.zoo.image_size import Size

Inputs = Array | Mapping[str, Array]


def record(
    model: Any,
    output: str | os.PathLike[str],
    *,
    architecture: str | None = None,
    inputs: Inputs | None = None,
    num_classes: int | None = None,
    image_size: Size | None = None,
    modules: Modules | None = None,
    exact: bool = True,
    device: str = "cpu",
    force: bool = False,
) -> Trace:
    """Run a live `nn.Module` or `nn.Layer` and write a trace to `output`.

    Of a variant of porter, `architecture`, `inputs` maps names to batches (N, 3, H, W); None:
    seeded noise. Of any other model they are the arguments of one call, of any type, by name and
    in order, or its only argument. Outputs may be tensors, tuples, mappings and dataclasses.

    Every module is recorded under its path; `modules`, a dictionary or a function, maps that path
    to the canonical one where they differ, and to None for a module to leave out; a dictionary's
    entry counts for the modules inside, too. With `exact` the model also runs in float64, for
    which its weights are widened meanwhile: that run shows faults that float32 rounding hides.
    The model comes back in its mode, with its element types and values.
    An `output` that exists is replaced with `force` only.
    """
    check_outputs([output], (), force)
    given, size = _inputs(architecture, inputs, image_size)
    precisions = [EXACT, SINGLE] if exact else [SINGLE]
    with (
        tempfile.TemporaryDirectory(prefix="porter-") as folder,
        live(model, Path(folder), device=device, name=naming(modules)) as side,
    ):
        path, case = write_arguments(Path(folder), given, single_call=architecture is None)
        side.architecture = find(architecture).name if architecture is not None else ""
        side.image_size = size
        side.compute(path, precisions, case)
        calls = side.calls(path, case, precisions[0], None, "all")
        layers = {**side.trace.layers, precisions[0]: layers_of(calls)}
        classes = _last(side.trace) if architecture is not None else 0
        trace = replace(
            side.trace, report=replace(side.report, recorded=True), layers=layers,
            num_classes=num_classes or classes,
            parameters=sum(prod(p.shape) for p in model.parameters()) if architecture else 0,
        )  # fmt: skip
        traces.save(trace, output, *arguments_of(calls), force=force)
    return replace(trace, calls=os.fspath(output))


def _inputs(
    architecture: str | None, inputs: Inputs | None, image_size: Size | None
) -> tuple[dict[str, Array], Size]:
    """Return the inputs by name, and the image size of a variant (0 for other models)."""
    if architecture is None:
        return named(inputs), 0
    variant, protocol = find(architecture), PRESETS["default"]
    if inputs is None:
        size = image_size or variant.image_size
        return noise(protocol.seeds, protocol.batch_sizes, variant.sides(size)), size
    if not isinstance(inputs, Mapping):
        raise UsageError("inputs of a variant are a mapping: {name: batch (N, 3, H, W)}")
    if image_size is None:
        shape = next(iter(inputs.values())).shape
        image_size = variant.size_of(*shape[2:]) if len(shape) == 4 else shape[2]
    return dict(inputs), image_size


def named(inputs: Inputs | None) -> dict[str, Array]:
    """Return the arguments of a call by name; `UsageError` for what are not numbers."""
    if inputs is None or (isinstance(inputs, Mapping) and not inputs):
        raise UsageError("a model that porter does not know needs inputs: {name: array}")
    arrays = inputs if isinstance(inputs, Mapping) else {"input": inputs}
    given = {name: np.asarray(array) for name, array in arrays.items()}
    for name, array in given.items():
        if array.dtype.kind not in "fiub" or not np.isfinite(array).all():
            raise UsageError(f"input {name!r} is not an array of finite numbers")
    return given


def write_arguments(
    folder: Path, arrays: Mapping[str, Array], *, single_call: bool
) -> tuple[Path, str]:
    """Write inputs to a file for the sides; return it and the case whose layers are watched."""
    path = folder / "inputs.safetensors"
    exchange.save(path, arrays, {"arguments": list(arrays)} if single_call else {})
    return path, exchange.ARGUMENTS if single_call else next(iter(arrays))


def _last(trace: Trace) -> int:
    """Return the length of the last axis of the first output: the classes."""
    outputs = next(iter(trace.outputs.values()))
    return int(next(iter(outputs.values())).shape[-1])
