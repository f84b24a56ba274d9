"""Prove recovered weights: exported again, they must compute what the file computes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from porter.errors import InputError, listed
from porter.frameworks import exchange
from porter.frameworks.process import Worker
from porter.mapping.fold import fold
from porter.mapping.table import CANONICAL
from porter.onnx.export.metadata import OUTPUT, PROBABILITIES
from porter.onnx.export.write import Options, export
from porter.onnx.graph.signature import Signature
from porter.planning.fit import fit
from porter.tensors.blocks import Array
from porter.tensors.state_dict import StateDict
from porter.zoo.architectures import Architecture

LIMITS = {"float32": 2.0**-16, "float16": 2.0**-3}
"""Largest `max |x - ref| / rms(ref)` of two runs of one network: 256 units of roundoff."""


def prove(
    architecture: Architecture,
    state: StateDict,
    path: str,
    signature: Signature,
    worker: Worker,
    folder: Path,
    reasons: str = "",
) -> str:
    """Run the file at `path` and what was recovered from it on the same noise.

    Returns what was found in a sentence; `InputError` when they differ, with `reasons`, what is
    known to be different in the graph.
    """
    rebuilt = folder / "rebuilt.onnx"
    _export(architecture, state, rebuilt, signature)
    shape = (signature.batch or 2, 3, *signature.sides)
    noise = {"noise": np.random.default_rng(0).standard_normal(shape, np.float32)}
    exchange.save(folder / "noise.safetensors", noise, {})
    outputs = []
    for index, each in enumerate((os.path.abspath(path), os.fspath(rebuilt))):
        answer = folder / f"output{index}.safetensors"
        worker.request("run", path=each, inputs=os.fspath(folder / "noise.safetensors"),
                       output=os.fspath(answer))  # fmt: skip
        outputs.append(exchange.load(answer)[0]["noise"])
    theirs, mine = outputs
    assert state.origin is not None
    if state.origin.metadata.get(OUTPUT) == PROBABILITIES:
        mine = softmax(mine)  # the file was exported so
    error, limit = error_of(mine, theirs), LIMITS.get(signature.dtype, LIMITS["float32"])
    if not error <= limit:
        if error_of(softmax(mine), theirs) <= limit:
            reasons = "; its output is the softmax of what they compute: remove the last Softmax"
        raise InputError(
            "the graph does not compute what the recovered weights do"
            f" (error {error:.1e}, {limit:.1e} is the limit){reasons}",
            path,
        )
    return f"proven: rebuilt, it computes the same (error {error:.1e})"


def _export(architecture: Architecture, state: StateDict, path: Path, signature: Signature) -> None:
    size = architecture.size_of(*signature.sides)
    plan = fit(architecture, state, CANONICAL, CANONICAL, image_size=size).plan
    options = Options(io_dtype="fp32" if signature.dtype == "float16" else None)
    export(
        architecture, state, path, num_classes=signature.num_classes, image_size=size,
        features=plan.features, options=options, read_back=False,
    )  # fmt: skip


def epsilons(differing: Mapping[str, tuple[float, float]]) -> str:
    """Return the norms whose epsilon is not the architecture's, as a clause."""
    groups: dict[tuple[float, float], list[str]] = {}
    for name, pair in differing.items():
        groups.setdefault(pair, []).append(name)
    return "; ".join(
        f"{listed(fold(names), 3)}: epsilon {theirs:.3g}, in the architecture {mine:.3g}"
        for (mine, theirs), names in groups.items()
    )


def softmax(logits: Array) -> Array:
    """Return the probabilities of scores, in float64."""
    raised = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=-1, keepdims=True))


def error_of(found: Array, reference: Array) -> float:
    """Return `max |x - ref| / rms(ref)`, infinite where it is undefined."""
    if found.shape != reference.shape or not found.size:
        return float("inf")
    x, ref = found.astype(np.float64), reference.astype(np.float64)
    rms = float(np.sqrt(np.mean(ref**2)))
    error = float(np.abs(x - ref).max()) / rms if rms else float("inf")
    return error if np.isfinite(error) else float("inf")
