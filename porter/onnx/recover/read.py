"""Read the state dict out of a graph: porter's own ONNX, or anybody's of a known architecture.

Files written by porter contain it under its names. In a foreign file each weight is found by what
it does, compared with the template of the variant (`align`), then by names, its own and its
neighbours' (`names`). The result is exported again and both files are run: only what computes the
same is kept. A Paddle inference model is such a file too, once its program is written as ONNX.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from porter.checkpoints.read import detect
from porter.checkpoints.read import read as read_checkpoint
from porter.codecs.onnx.transposed import straightened
from porter.codecs.onnx.weights import initializers
from porter.codecs.paddle import inference
from porter.errors import InputError, MappingError, PorterError, UsageError, listed
from porter.frameworks import exchange
from porter.frameworks.process import Limit, Worker
from porter.mapping.constants import constants
from porter.mapping.fold import fold
from porter.mapping.table import CANONICAL
from porter.onnx.export import metadata as notes
from porter.onnx.export import model, transform
from porter.onnx.export.template import Template, template
from porter.onnx.export.write import Options, export
from porter.onnx.graph.constants import weights as weights_of
from porter.onnx.graph.flow import Flow
from porter.onnx.graph.parse import parse
from porter.onnx.graph.reduce import reduce
from porter.onnx.graph.signature import signature_of
from porter.onnx.graph.values import Graph
from porter.onnx.program import translate
from porter.onnx.recover.align import Alignment, align, placed
from porter.onnx.recover.names import named
from porter.onnx.recover.unfuse import apart
from porter.planning.fit import fit
from porter.planning.plan import Plan
from porter.remote import fetch
from porter.remote.address import is_url
from porter.storage.input_file import InputFile
from porter.storage.progress import Progress
from porter.tensors.blocks import Array
from porter.tensors.lazy import LazyTensor
from porter.tensors.state_dict import StateDict
from porter.zoo.architectures import Architecture

FORMATS = ("onnx", inference.FORMAT)
"""What is read by its graph."""
REMEDY = (
    "export it again without folding (torch: dynamo=True, optimize=False), or take the folded"
    " convolutions with --fold-batchnorm"
)
_PADDLE_REMEDY = (
    "save it again by paddle.jit.save without optimising it, or take the folded convolutions with"
    " --fold-batchnorm"
)


LIMITS = {"float32": 2.0**-16, "float16": 2.0**-3}
"""Largest `max |x - ref| / rms(ref)` of two runs of one network: 256 units of roundoff."""


@dataclass(frozen=True, slots=True)
class Recovered:
    """A canonical state dict, and how it was obtained."""

    state: StateDict
    how: tuple[str, ...] = ()
    """A sentence each, for the report; empty for porter's own files."""


def recover(
    architecture: Architecture,
    path: str | os.PathLike[str],
    *,
    fold_batchnorm: bool = False,
) -> Recovered:
    """Return the canonical state dict of an ONNX file, or a Paddle inference model, of a variant.

    That of a file that porter wrote is bit for bit what it was written from. Raises `InputError`
    when weights of a foreign file cannot be placed, were folded into others (unless
    `fold_batchnorm` takes them so), or do not compute what the file computes; `MissingPackage`
    without onnx, onnxscript and onnxruntime, which a foreign file needs.
    """
    name = os.fspath(path)
    if detect(name) == "paddle-inference":
        return _of_program(architecture, name, fold_batchnorm)
    state = initializers(InputFile(name))
    if is_own(state):  # its Constant nodes, if there are any, belong to the graph
        return Recovered(restore(state))
    return _Search(architecture, name, weights_of(name), fold_batchnorm).recovered()


def _of_program(architecture: Architecture, path: str, fold_batchnorm: bool) -> Recovered:
    """Return the same of a Paddle inference model, which is written as an ONNX model for it."""
    state = read_checkpoint(path)
    assert state.origin is not None
    file = InputFile(state.origin.path)
    with tempfile.TemporaryDirectory(prefix="porter-") as folder:
        written, notes = translate.write(file, state, Path(folder))
        constants = weights_of(written).items()
        known = {name: LazyTensor.of(t.read()) for name, t in constants if name not in state}
        weights = StateDict({**known, **state}, state.origin)
        try:
            found = _Search(
                architecture, written, weights, fold_batchnorm, _PADDLE_REMEDY
            ).recovered()
        except PorterError as error:
            error.path = path if error.path == written else error.path
            raise
    return replace(found, how=(*notes, *found.how))


def read(
    architecture: Architecture,
    given: str | os.PathLike[str],
    *,
    fold_batchnorm: bool = False,
    progress: Progress | None = None,
) -> StateDict:
    """Return the canonical state dict of an ONNX file at a path or address; see `recover`.

    The notes of its origin say how it was obtained.
    """
    here = fetch.local(given, progress=progress)
    with fetch.named(here):
        found = detect(here.path)
    if found not in FORMATS:
        raise UsageError(f"is {found}, not onnx", here.shown)
    made = recover(architecture, here.path, fold_batchnorm=fold_batchnorm)
    assert made.state.origin is not None
    all_notes = (*made.state.origin.notes, *here.notes, *made.how)
    address = here.shown if is_url(given) else ""
    origin = replace(made.state.origin, notes=all_notes, stale=here.notes, address=address)
    return StateDict(made.state, origin)


def is_own(state: StateDict) -> bool:
    """Whether porter wrote a file, and nothing has rewritten its graph."""
    metadata = state.origin.metadata if state.origin is not None else {}
    return notes.UNUSED in metadata and notes.OPTIMIZED not in metadata


def restore(state: StateDict) -> StateDict:
    """Return the state dict that a file of porter's was written from."""
    assert state.origin is not None
    whole = StateDict(straightened(state), replace(state.origin, skipped=()))
    return notes.with_unused(whole)


class _Search:
    """Looks for a variant's tensors in a foreign file."""

    def __init__(
        self,
        architecture: Architecture,
        path: str,
        state: StateDict,
        fold_batchnorm: bool,
        remedy: str = REMEDY,
    ) -> None:
        self._architecture = architecture
        self._path = path
        self._weights = state
        self._fold, self._remedy = fold_batchnorm, remedy
        with InputFile(path) as file:
            graph = parse(file).graph
        self._own = signature_of(graph, state, path, architecture.sides())
        self._num_classes, self._image_size = self._own.num_classes, self._own.image_size
        self._sides = architecture.sides(self._image_size)

    def recovered(self) -> Recovered:
        """Return what was found and proven."""
        made = self._template()
        with Worker("onnx-tools") as worker, tempfile.TemporaryDirectory(prefix="porter-") as temp:
            worker.limit = Limit.of(self._path)
            folder = Path(temp)
            graph = self._tidied(worker, self._path, folder)
            foreign = self._reduced(graph)
            found: dict[str, LazyTensor] | None = None
            how: tuple[str, ...] = ()
            lost: list[str] = []
            for mine, theirs in self._pairs(self._tidied_template(made, worker, folder), foreign):
                alignment = align(mine, theirs)
                lost = lost or alignment.lost
                found, how = self._by_structure(alignment, made)
                if found is not None:
                    break
            else:
                found, how = self._by_names(graph, foreign, lost)
            assert self._weights.origin is not None
            state = StateDict(found, replace(self._weights.origin, skipped=()))
            how = (*how, self._prove(state, worker, folder))
        return Recovered(state, how)

    def _reduced(self, graph: Graph) -> Flow:
        try:
            return reduce(graph)
        except InputError as error:
            raise InputError(f"{error.message}{self._hint(graph)}", self._path) from error

    def _hint(self, graph: Graph) -> str:
        """Return a possible reason why a graph is not understood."""
        made = [n.op for n in graph.nodes if n.domain not in ("", "ai.onnx")]
        if not made:
            return ""
        own = listed(dict.fromkeys(made), 4)
        return f"; an optimiser has fused operations ({own}); use the model before optimisation"

    def _template(self) -> Template:
        features = self._own.features(self._architecture)
        return template(self._architecture, image_size=self._image_size, features=features)

    def _pairs(self, graph: Graph, foreign: Flow) -> Iterator[tuple[Flow, Flow]]:
        """Yield the template's and the file's flow, as they are and as others write attention."""
        known = self._constants()
        mine = reduce(graph, known)
        yield mine, foreign
        yield apart(mine), apart(foreign)
        # a mask that the file computes from sizes is not a layer of its flow
        names = [name for name in self._computed() if name not in known]
        yield apart(reduce(graph, {**known, **dict.fromkeys(names)})), apart(foreign)

    def _computed(self) -> Mapping[str, Array]:
        table = self._architecture.table
        return constants(table.constants, self._architecture.config, self._image_size)

    def _constants(self) -> Mapping[str, Array]:
        return {name: array for name, array in self._computed().items() if array.dtype.kind != "f"}

    def _tidied_template(self, made: Template, worker: Worker, folder: Path) -> Graph:
        symbols = {"classes": self._num_classes, "batch": 1}
        sheet = model.Sheet(
            transform.sized(made.model.graph, symbols), made.model.ir_version, made.model.opsets
        )
        path = folder / "template.onnx"
        path.write_bytes(b"".join(p for p in model.pieces(sheet, {}, {}) if isinstance(p, bytes)))
        return self._tidied(worker, os.fspath(path), folder, list(made.weights))

    def _tidied(
        self, worker: Worker, path: str, folder: Path, weights: Sequence[str] = ()
    ) -> Graph:
        output = folder / "tidied.onnx"
        worker.request(
            "tidy", path=os.path.abspath(path), output=os.fspath(output),
            sides=list(self._sides), weights=list(weights),
        )  # fmt: skip
        with InputFile(output) as file:
            return parse(file).graph

    def _by_structure(
        self, made: Alignment, used: Template
    ) -> tuple[dict[str, LazyTensor] | None, tuple[str, ...]]:
        """Return the tensors by what they do, None when some have no place."""
        known = self._constants()
        lost = [name for name in made.lost if name not in known]
        if lost:
            return None, ()
        if made.folded and not self._fold:
            norms, places = listed(fold(made.into)), listed(fold(made.into.values()))
            raise InputError(
                f"{len(made.into)} batch norms are folded and cannot be separated again:"
                f" {norms} into {places}; {self._remedy}",
                self._path,
            )
        shapes = {
            name: tuple(self._num_classes if d == "classes" else int(d or 0) for d in value.dims)
            for name, value in used.weights.items()
        }
        found = placed(made, self._weights, shapes)
        how = [f"{len(found)} tensors placed by what the graph does with them"]
        if made.folded:
            how.append(f"folded batch norms set to the identity: {listed(fold(made.into))}")
        if made.neutral:
            how.append(
                f"not in the graph, filled with neutral values: {listed(fold(made.neutral))}"
            )
        return self._planned(StateDict(found), CANONICAL), tuple(how)

    def _by_names(
        self, graph: Graph, foreign: Flow, lost: Sequence[str]
    ) -> tuple[dict[str, LazyTensor], tuple[str, ...]]:
        """Return the tensors by their names in any PyTorch dialect."""
        nodes = {node.name: node for node in graph.nodes if node.name}
        state = named(foreign, nodes, self._weights)
        try:
            fitted = fit(self._architecture, state, None, CANONICAL)
        except MappingError as error:
            raise InputError(
                f"is foreign, and not understood as {self._architecture.name}: the graph differs"
                f" (no place found for {listed(fold(lost), 5)}), and by its names it"
                f" {error.message}{self._hint(graph)}",
                self._path,
            ) from error
        dialect = fitted.plan.source.dialect.name
        found = dict(fitted.plan.read(state))
        return found, (f"{len(state)} tensors named as in {dialect}, by names and neighbours",)

    def _planned(self, state: StateDict, dialect: str) -> dict[str, LazyTensor]:
        plan: Plan = fit(self._architecture, state, dialect, CANONICAL,
                         image_size=self._image_size).plan  # fmt: skip
        return dict(plan.read(state))

    def _epsilons(self, rebuilt: Path) -> str:
        """Return how LayerNorm differs, the one thing that weights do not show."""
        theirs, mine = _epsilons(self._path), _epsilons(os.fspath(rebuilt))
        if not theirs or theirs == mine:
            return ""
        return f"; its LayerNorms have epsilon {listed(theirs)}, the architecture {listed(mine)}"

    def _prove(self, state: StateDict, worker: Worker, folder: Path) -> str:
        """Run the file and what was recovered from it on the same noise."""
        rebuilt = folder / "rebuilt.onnx"
        dtype = self._own.dtype
        plan = fit(self._architecture, state, CANONICAL, CANONICAL, image_size=self._image_size)
        export(
            self._architecture, state, rebuilt, num_classes=self._num_classes,
            image_size=self._image_size, features=plan.plan.features,
            options=Options(io_dtype="fp32" if dtype == "float16" else None), read_back=False,
        )  # fmt: skip
        shape = (self._own.batch or 2, 3, *self._sides)
        noise = {"noise": np.random.default_rng(0).standard_normal(shape, np.float32)}
        exchange.save(folder / "noise.safetensors", noise, {})
        outputs = []
        for index, path in enumerate((os.path.abspath(self._path), os.fspath(rebuilt))):
            answer = folder / f"output{index}.safetensors"
            worker.request("run", path=path, inputs=os.fspath(folder / "noise.safetensors"),
                           output=os.fspath(answer))  # fmt: skip
            outputs.append(exchange.load(answer)[0]["noise"])
        error, limit = _error(outputs[1], outputs[0]), LIMITS[dtype]
        if not error <= limit:
            raise InputError(
                "is foreign: the recovered weights do not compute the same"
                f" (error {error:.1e}, {limit:.1e} is the limit){self._epsilons(rebuilt)}",
                self._path,
            )
        return f"proven: rebuilt, it computes the same (error {error:.1e})"


def _epsilons(path: str) -> list[str]:
    with InputFile(path) as file:
        nodes = parse(file).graph.nodes
    found = {node.get("epsilon", 1e-5) for node in nodes if node.op == "LayerNormalization"}
    return [f"{value:.0e}" for value in sorted(v for v in found if isinstance(v, float))]


def _error(found: Array, reference: Array) -> float:
    """Return `max |x - ref| / rms(ref)`, infinite where it is undefined."""
    if found.shape != reference.shape or not found.size:
        return float("inf")
    x, ref = found.astype(np.float64), reference.astype(np.float64)
    rms = float(np.sqrt(np.mean(ref**2)))
    error = float(np.abs(x - ref).max()) / rms if rms else float("inf")
    return error if np.isfinite(error) else float("inf")
