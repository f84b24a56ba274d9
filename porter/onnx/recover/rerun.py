"""Prove recovered weights: exported again, they must compute what the file computes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from porter.errors import InputError, listed
from porter.frameworks import exchange
from porter.frameworks.process import Worker
from porter.mapping.fold import fold
from porter.mapping.table import CANONICAL
from porter.onnx.export.metadata import OUTPUT, PROBABILITIES
from porter.onnx.export.template import Template
from porter.onnx.export.write import Options, export
from porter.onnx.graph.attributes import attribute
from porter.onnx.graph.modules import as_outputs, before_closing
from porter.onnx.graph.parse import parse
from porter.onnx.graph.signature import Signature
from porter.onnx.graph.values import Graph, Node
from porter.planning.fit import fit
from porter.storage.input_file import InputFile
from porter.tensors.blocks import Array
from porter.tensors.state_dict import StateDict
from porter.zoo.architectures import Architecture

LIMITS = {"float32": 2.0**-16, "float16": 2.0**-3}
"""Largest `max |x - ref| / rms(ref)` of two runs of one network: 256 units of roundoff."""

_TIMES, _NOISIEST = 4, 2.0**-12
"""A deep network rounds more: an error is within this many of the file's own, up to a limit."""
_COPIED = 1 << 30
"""Bytes of the largest file of which a copy is made, to see values inside the graph."""


class Outputs(NamedTuple):
    """What a file and what was recovered from it compute."""

    theirs: Array
    mine: Array
    value: str
    """The value inside the file's graph that was compared, before a Softmax or Sigmoid at its end;
    empty: its output."""
    note: str = ""
    """What is to be said of how the file runs, as a clause."""

    @property
    def error(self) -> float:
        """The largest difference, as `error_of` has it."""
        return error_of(self.mine, self.theirs)


@dataclass(frozen=True, slots=True)
class Rerun:
    """Runs a file, and what was recovered from it, on the same noise."""

    architecture: Architecture
    path: str
    graph: Graph
    """That of the file."""
    signature: Signature
    worker: Worker
    folder: Path
    """For what is written meanwhile."""

    def outputs(self, state: StateDict, made: Template) -> Outputs:
        """Return what the file computes, and what a template with the weights `state` does."""
        rebuilt = self.folder / "rebuilt.onnx"
        self._export(state, rebuilt, made)
        with InputFile(rebuilt) as file:
            graph = parse(file).graph
        theirs, mine = before_closing(self.graph), before_closing(graph)
        if theirs[0] != mine[0] or os.path.getsize(self.path) > _COPIED:
            theirs = mine = ("", "")
        note, batch = "", self.signature.batch
        self._write_noise(batch or 2)
        try:
            given = self._run(self.path, self.graph, theirs[1])
        except InputError as error:
            if batch is not None:
                raise InputError(error.message, self.path) from error
            note = "; it declares a free batch, and runs with one picture only"
            self._write_noise(1)
            given = self._run(self.path, self.graph, theirs[1])
        return Outputs(given, self._run(os.fspath(rebuilt), graph, mine[1]), theirs[1], note)

    def _write_noise(self, batch: int) -> None:
        shape = (batch, 3, *self.signature.sides)
        noise = {"noise": np.random.default_rng(0).standard_normal(shape, np.float32)}
        (self.folder / "noise.safetensors").unlink(missing_ok=True)
        exchange.save(self.folder / "noise.safetensors", noise, {})

    def noise(self, found: Outputs) -> float:
        """Return how far the file's outputs are from its own without the runtime's rewrites."""
        plain = self._run(self.path, self.graph, found.value, plain=True)
        return error_of(plain, found.theirs)

    def _run(self, path: str, graph: Graph, value: str, *, plain: bool = False) -> Array:
        """Run a model; return its output, or a value inside it."""
        files = {name: os.fspath(self.folder / f"{name}.safetensors") for name in ("noise", "out")}
        path, outside = os.path.abspath(path), ""
        if value:
            outside, marked = os.path.dirname(path), self.folder / "marked.onnx"
            marked.write_bytes(Path(path).read_bytes() + as_outputs(graph, [value]))
            path = os.fspath(marked)
        self.worker.request(
            "run", path=path, inputs=files["noise"], output=files["out"], value=value,
            outside=outside, plain=plain,
        )  # fmt: skip
        return exchange.load(files["out"])[0]["noise"]

    def _export(self, state: StateDict, path: Path, made: Template) -> None:
        size = self.architecture.size_of(*self.signature.sides)
        plan = fit(self.architecture, state, CANONICAL, CANONICAL, image_size=size).plan
        options = Options(io_dtype="fp32" if self.signature.dtype == "float16" else None)
        export(
            self.architecture, state, path, num_classes=self.signature.num_classes,
            image_size=size, features=plan.features, options=options, read_back=False, made=made,
            force=True,
        )  # fmt: skip


def prove(run: Rerun, state: StateDict, made: Template, reasons: str = "") -> str:
    """Run the file and what was recovered from it, in the template `made`.

    Returns what was found in a sentence; `InputError` when they differ, with `reasons`, what is
    known to be different in the graph.
    """
    found = run.outputs(state, made)
    theirs, mine = found.theirs, found.mine
    assert state.origin is not None
    if state.origin.metadata.get(OUTPUT) == PROBABILITIES and not found.value:
        mine = softmax(mine)  # the file was exported so
    error, limit = error_of(mine, theirs), LIMITS.get(run.signature.dtype, LIMITS["float32"])
    if limit < error <= _NOISIEST:
        limit = max(limit, min(_TIMES * run.noise(found), _NOISIEST))
    if not error <= limit:
        if error_of(softmax(mine), theirs) <= limit:
            reasons = "; its output is the softmax of what they compute: remove the last Softmax"
        raise InputError(
            "the graph does not compute what the recovered weights do"
            f" (error {error:.1e}, {limit:.1e} is the limit){reasons}",
            run.path,
        )
    return f"proven: rebuilt, it computes the same (error {error:.1e}){found.note}"


def with_epsilons(made: Template, epsilons: Mapping[str, tuple[float, float]]) -> Template:
    """Return a template whose norms have the epsilons of a file, {norm: (template's, file's)}."""
    graph = made.model.graph

    def changed(node: Node) -> Node:
        scale = node.inputs[1] if len(node.inputs) > 1 and "epsilon" in node.attributes else ""
        pair = epsilons.get(scale.rpartition(".")[0])
        if pair is None:
            return node
        return replace(
            node, attributes={**node.attributes, "epsilon": attribute("epsilon", pair[1])}
        )

    nodes = [changed(node) for node in graph.nodes]
    return replace(made, model=replace(made.model, graph=replace(graph, nodes=nodes)))


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
