"""Find a variant's weights in a graph that porter did not write, or that was rewritten.

Each weight is found by what it does, compared with the template of the variant (`align`), then
by names, its own and its neighbours' (`names`). What was found is proven by running both.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from math import isclose, prod
from pathlib import Path

import numpy as np

from porter.errors import InputError, MappingError, listed, printable
from porter.frameworks.process import Limit, Worker
from porter.mapping.fold import fold
from porter.mapping.table import CANONICAL
from porter.onnx.export import model, transform
from porter.onnx.export.template import Template, template
from porter.onnx.graph.flow import Flow
from porter.onnx.graph.parse import parse
from porter.onnx.graph.reduce import reduce
from porter.onnx.graph.signature import signature_of
from porter.onnx.graph.values import Graph
from porter.onnx.recover import recorded, rerun
from porter.onnx.recover.align import Alignment, align, placed
from porter.onnx.recover.names import named
from porter.onnx.recover.unfuse import apart
from porter.planning.behaviour import behaviour_of
from porter.planning.fit import fit
from porter.planning.plan import Plan
from porter.storage.input_file import InputFile
from porter.tensors.blocks import Array
from porter.tensors.lazy import LazyTensor
from porter.tensors.state_dict import StateDict
from porter.zoo.architectures import Architecture
from porter.zoo.image_size import IMAGE_SIZE, shown

EXPORT_AGAIN = "export it again without folding (torch: dynamo=True, optimize=False)"
UNTOUCHED = "use the file as it was before another tool rewrote it"
_ROUNDED = {"DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul",
            "MatMulInteger", "ConvInteger", "MatMulNBits", "MatMulIntegerToFloat",
            "DynamicQuantizeMatMul", "QGemm", "QAttention"}  # fmt: skip
"""Operations on quantised weights."""
Epsilons = Mapping[str, tuple[float, float]]
"""{norm: its epsilon in the template and in the file}, where they differ."""


@dataclass(frozen=True, slots=True)
class Recovered:
    """A canonical state dict, and how it was obtained."""

    state: StateDict
    how: tuple[str, ...] = ()
    """A sentence each, for the report; empty for porter's own files."""


class Search:
    """Looks for a variant's tensors in a file."""

    def __init__(
        self,
        architecture: Architecture,
        path: str,
        state: StateDict,
        fold_batchnorm: bool,
        remedy: str = EXPORT_AGAIN,
        timeout: float | None = None,
    ) -> None:
        self._architecture = architecture
        self._path = path
        self._weights = state
        self._fold, self._remedy = fold_batchnorm, remedy
        self._limit = Limit.of(path, timeout)
        self._digests = recorded.digests(state)
        self._rewritten = recorded.is_rewritten(state)
        with InputFile(path) as file:
            self._graph = parse(file).graph
        has_classes = any("classes" in tensor.dims for tensor in architecture.skeleton().tensors)
        self._signature = signature_of(
            self._graph, state, path, architecture.sides(),
            None if has_classes else architecture.num_classes,
        )  # fmt: skip
        self._num_classes = self._signature.num_classes
        self._sides = self._signature.sides
        self._image_size = architecture.size_of(*self._sides)

    def recovered(self) -> Recovered:
        """Return what was found and proven."""
        self._refuse_rounded()
        if self._signature.as_bytes:
            raise InputError(f"takes pixels, and its graph was changed; {UNTOUCHED}", self._path)
        made = self._template()
        with Worker("onnx-tools") as worker, tempfile.TemporaryDirectory(prefix="porter-") as temp:
            worker.limit = self._limit
            folder = Path(temp)
            graph = self._tidied(worker, self._path, folder)
            found, how, epsilons = self._found(made, graph, worker, folder)
            if self._rewritten:
                found = recorded.with_unused(found, self._weights)
                how = (recorded.comparison(found, self._digests), *how)
            assert self._weights.origin is not None
            origin = self._weights.origin
            metadata = {**origin.metadata, IMAGE_SIZE: shown(self._image_size)}
            state = StateDict(found, replace(origin, skipped=(), metadata=metadata))
            run = rerun.Rerun(
                self._architecture, self._path, self._graph, self._signature, worker, folder
            )
            proof = self._proven(run, state, made, epsilons)
        return Recovered(state, (*how, *proof))

    def _proven(
        self, run: rerun.Rerun, state: StateDict, made: Template, epsilons: Epsilons
    ) -> tuple[str, ...]:
        """Return the proof, and what is known to be different, in sentences.

        A dialect of the family may be declared to have the file's epsilons: its weights are proven
        with them.
        """
        if not epsilons:
            return (rerun.prove(run, state, made),)
        differing = rerun.epsilons(epsilons)
        dialect = self._declared(epsilons)
        if not dialect:
            return differing, rerun.prove(run, state, made, f"; {differing}")
        proof = rerun.prove(run, state, rerun.with_epsilons(made, epsilons), f"; {differing}")
        size = run.outputs(state, made).error
        return (
            f"{differing}, as in {dialect}: with its own, the architecture computes something else"
            f" (error {size:.1e})",
            f"{proof} with the file's epsilons",
        )

    def _declared(self, epsilons: Epsilons) -> str:
        """Return a dialect of the family whose declared behaviour are these epsilons."""
        pairs = set(epsilons.values())
        for name in self._architecture.dialects:
            rows = behaviour_of(self._architecture, name)
            known = [(r.canonical, r.value) for r in rows if r.setting.endswith("eps")]
            if all(any(_close(pair, row) for row in known) for pair in pairs):
                return name
        return ""

    def _found(
        self, made: Template, graph: Graph, worker: Worker, folder: Path
    ) -> tuple[dict[str, LazyTensor], tuple[str, ...], Epsilons]:
        """Return the tensors, how they were found, and norms that differ from the template's."""
        foreign = self._reduced(graph)
        lost: list[str] = []
        template = self._tidied_template(made, worker, folder)
        pairs = [self._pairs(template, foreign)]
        if any(value.dims in ((), (1,)) for value in made.weights.values()):
            pairs.insert(0, self._with_scalars(template, graph))
        for mine, theirs in chain(*pairs):
            alignment = align(mine, theirs)
            lost = lost or alignment.lost
            found, how = self._by_structure(alignment, made, theirs)
            if found is not None:
                return found, how, self._epsilons(alignment)
        return *self._by_names(graph, foreign, lost), {}

    def _epsilons(self, alignment: Alignment) -> Epsilons:
        """Return the norms that have another epsilon; `InputError` when porter wrote the file.

        Frameworks differ in their epsilons, and the effect is often below what outputs show.
        """
        if alignment.epsilons and self._rewritten:
            differing = rerun.epsilons(alignment.epsilons)
            raise InputError(
                f"its graph was changed since porter wrote it: {differing}", self._path
            )
        return alignment.epsilons

    def _refuse_rounded(self) -> None:
        made = [node.op for node in self._graph.nodes if node.op in _ROUNDED]
        if made:
            raise InputError(
                f"is quantised ({listed(dict.fromkeys(made), 3)}): its weights were rounded and do"
                f" not come back; {UNTOUCHED}",
                self._path,
            )

    def _reduced(self, graph: Graph) -> Flow:
        try:
            return reduce(graph)
        except InputError as error:
            raise InputError(f"{error.message}{self._hint(graph)}", self._path) from error

    def _hint(self, graph: Graph) -> str:
        """Return a possible reason why a graph is not understood."""
        metadata = self._weights.origin.metadata if self._weights.origin is not None else {}
        said = metadata.get("porter.architecture", "")
        hint = ""
        if said and said != self._architecture.name:
            hint = f"; the file's metadata say {printable(said)}"
        fused = self._fused(graph)
        return f"{hint}; {fused}" if fused else hint

    def _fused(self, graph: Graph) -> str:
        """Return which operations are not ONNX's own, with the remedy; empty without any."""
        names = dict.fromkeys(n.op for n in graph.nodes if n.domain not in ("", "ai.onnx"))
        if not names:
            return ""
        return (
            f"an optimiser has fused operations ({listed(names, 4)}); use the model before"
            " optimisation"
        )

    def _template(self) -> Template:
        names = {*self._signature.names, *self._digests}
        signature = replace(self._signature, names=tuple(names))
        features = signature.features(self._architecture)
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

    def _with_scalars(self, template: Graph, graph: Graph) -> Iterator[tuple[Flow, Flow]]:
        """Yield both flows with numbers as weights, of an architecture that has such."""
        yield reduce(template, self._constants(), scalars=True), reduce(graph, scalars=True)

    def _computed(self) -> Mapping[str, Array]:
        return self._architecture.constants(self._image_size)

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
        self, made: Alignment, used: Template, foreign: Flow
    ) -> tuple[dict[str, LazyTensor] | None, tuple[str, ...]]:
        """Return the tensors by what they do, None when some have no place."""
        known = self._constants()
        lost = [name for name in made.lost if name not in known]
        if lost:
            return None, ()
        if made.folded and not self._fold:
            raise InputError(
                f"{len(made.into)} batch norms are folded and cannot be separated again:"
                f" {listed(fold(made.into))} into {listed(fold(made.into.values()))};"
                f" {self._untouched()}, or take the folded convolutions with --fold-batchnorm",
                self._path,
            )
        if made.standardised and not self._fold:
            raise InputError(
                f"{len(made.standardised)} weights are standardised, and what they were is lost:"
                f" {listed(fold(made.standardised))}; {self._untouched()}, or take them so with"
                " --fold-batchnorm",
                self._path,
            )
        shapes = {
            name: tuple(self._num_classes if d == "classes" else int(d or 0) for d in value.dims)
            for name, value in used.weights.items()
        }
        scalars = {name: LazyTensor.of(array) for name, array in foreign.scalars.items()}
        found = placed(made, {**scalars, **self._weights}, shapes)
        unused = self._unused(used)
        found |= unused
        how = [f"{len(found)} tensors placed by what the graph does with them"]
        if made.folded:
            how.append(f"folded batch norms set to the identity: {listed(fold(made.into))}")
        if made.standardised:
            how.append(f"standardised weights taken as they are: {listed(fold(made.standardised))}")
        if made.neutral:
            how.append(
                f"not in the graph, filled with neutral values: {listed(fold(made.neutral))}"
            )
        if unused and not self._rewritten:
            how.append(f"without influence on any output, set to 1 and 0: {listed(fold(unused))}")
        return self._planned(StateDict(found), CANONICAL), tuple(how)

    def _untouched(self) -> str:
        return UNTOUCHED if self._rewritten else self._remedy

    def _unused(self, used: Template) -> dict[str, LazyTensor]:
        """Return weights that no output depends on: as porter noted them in the file, else, those
        of one element, as a module has them when it is made."""
        bound = self._architecture.skeleton().bind(
            self._architecture.symbols(self._num_classes, self._image_size)
        )
        shapes = {n: bound[n][1] for n in used.unused if bound.get(n, ("",))[0] == "float32"}
        if self._rewritten:
            noted = recorded.unused(self._weights)
            return {n: noted[n] for n, shape in shapes.items()
                    if n in noted and noted[n].shape == shape}  # fmt: skip
        return {
            name: LazyTensor.of(np.full(shape, 0.0 if name.endswith("bias") else 1.0, np.float32))
            for name, shape in shapes.items()
            if prod(shape) == 1
        }

    def _by_names(
        self, graph: Graph, foreign: Flow, lost: Sequence[str]
    ) -> tuple[dict[str, LazyTensor], tuple[str, ...]]:
        """Return the tensors by their names in any PyTorch dialect."""
        nodes = {node.name: node for node in graph.nodes if node.name}
        state = named(foreign, nodes, self._weights)
        try:
            fitted = fit(self._architecture, state, None, CANONICAL)
        except MappingError as error:
            if fused := self._fused(graph):
                raise InputError(fused, self._path) from error
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


def _close(pair: tuple[float, float], row: tuple[float, float]) -> bool:
    return all(isclose(one, other, rel_tol=1e-3) for one, other in zip(pair, row, strict=True))
