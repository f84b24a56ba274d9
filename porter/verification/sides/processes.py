"""Sides that run in a process: a checkpoint in its framework, an ONNX file in ONNX Runtime."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from porter import __version__
from porter.errors import UsageError
from porter.frameworks import exchange
from porter.frameworks.parallel import together
from porter.frameworks.process import Limit, Pool, Worker, shared
from porter.onnx.graph.modules import Mark, as_outputs, common_values, outputs_of_modules
from porter.onnx.graph.parse import parse
from porter.storage.input_file import InputFile
from porter.tensors.blocks import Array
from porter.tensors.lazy import LazyTensor
from porter.verification.options import Runs
from porter.verification.sides.naming import canonical
from porter.verification.sides.prepare import Prepared
from porter.verification.sides.side import Can, Side
from porter.verification.steps import Step, Steps
from porter.verification.trace import SAMPLE, Layers, Trace, in_order


class Graph(Side):
    """An ONNX model: it runs as it is, in its own precision."""

    worker: Worker
    folder: Path

    def __init__(self, prepared: Prepared, can: Can = Can.RUN | Can.LAYERS) -> None:
        plan = prepared.plan
        super().__init__(
            prepared.report, prepared.architecture.name, plan.num_classes, plan.image_size, can
        )
        self._prepared = prepared
        self.batch = prepared.batch
        self.quantised = prepared.quantised
        self.marks: Mapping[str, Mark] | None = None
        """Values that are shown as layers, by place; None for the outputs of modules."""

    @property
    def prepared(self) -> Prepared:
        return self._prepared

    def start(self, worker: Worker, folder: Path, device: str) -> None:
        """Start the process and load the weights; `UsageError` for another version of porter."""
        hello = worker.request("hello", device=device)
        version = hello["versions"].get("porter", "an earlier version")
        if version != __version__:
            raise UsageError(f"has porter {version}, not {__version__}", worker.python)
        worker.request("load", **self.prepared.request)
        self.worker, self.folder = worker, folder
        self.report = replace(self.report, device=hello["device"], versions=hello["versions"])

    def compute(
        self, inputs: Path, precisions: Sequence[str], layers: str = "", step: Step | None = None
    ) -> None:
        layers = layers if Can.LAYERS in self.can else ""
        arrays, described = exchange.load(inputs)
        outputs: dict[str, Mapping[str, Array]] = {}
        watched: dict[str, Layers] = {}
        for precision in precisions:
            if step is not None:
                step(precision)
            path = self._path(f"run-{precision}")
            self.worker.request(
                "run", inputs=os.fspath(inputs), output=path, precision=precision,
                rounded=self.rounded, layers=layers, limit=SAMPLE, **self._marked(layers),
            )  # fmt: skip
            found, about = exchange.load(path)
            outputs[precision] = in_order(_under("output/", found), about.get("outputs", ()))
            if layers and "layers" in about:
                watched[precision] = _layers(found, about)
        self.trace = Trace(
            self.report, self.architecture, self.num_classes, self.image_size,
            arrays, outputs, watched, arguments=tuple(described.get("arguments", ())),
        )  # fmt: skip

    def calls(
        self, inputs: Path, case: str, precision: str, modules: Sequence[str] | None, name: str
    ) -> str:
        return ""  # values are shown, not what a module is called with

    def _marked(self, layers: str) -> dict[str, Any]:
        """Write the model with values as outputs; return what the process must know of them."""
        if not layers:
            return {}
        path = os.fspath(self.folder / "marked.onnx")
        marks = marked(self.prepared.request["weights"], path, self.marks)
        return {"marked": path, "places": {p: (m.value, m.kind) for p, m in marks.items()}}

    def _path(self, name: str) -> str:
        return os.fspath(self.folder / f"{name}.safetensors")


class Model(Graph):
    """A checkpoint in its framework: everything can be asked of it."""

    def __init__(self, prepared: Prepared) -> None:
        super().__init__(prepared, ~Can.NOTHING)

    def _marked(self, layers: str) -> dict[str, Any]:
        return {}  # its modules are watched

    def calls(
        self, inputs: Path, case: str, precision: str, modules: Sequence[str] | None, name: str
    ) -> str:
        path = self._path(f"calls-{name}")
        self.worker.request(
            "run", inputs=os.fspath(inputs), output=path, precision=precision, cases=[case],
            rounded=self.rounded, layers=case, watch=modules, calls=True,
        )  # fmt: skip
        return path

    def rerun(
        self,
        calls: str,
        precision: str,
        trials: Sequence[Mapping[str, Any]],
        values: Mapping[str, Array] | None = None,
    ) -> list[dict[str, Array]]:
        path, given = self._path("rerun"), None
        if values:
            given = self._path("values")
            exchange.save(given, values, {})
        self.worker.request(
            "rerun", calls=calls, output=path, precision=precision, trials=list(trials),
            rounded=self.rounded, values=given,
        )  # fmt: skip
        arrays, _ = exchange.load(path)
        results: list[dict[str, Array]] = [{} for _ in trials]
        for key, array in arrays.items():
            index, at, part = key.partition("@")
            results[int(index)][f"{at}{part}"] = array
        return results

    def settings(
        self, modules: Sequence[str], names: Sequence[str]
    ) -> dict[str, dict[str, int | float]]:
        reply = self.worker.request("settings", modules=list(modules), names=list(names))
        values: dict[str, dict[str, int | float]] = reply["settings"]
        return values

    def gradients(
        self, inputs: Mapping[str, Array], precision: str, rate: float | None = None
    ) -> dict[str, Array]:
        given, path = self._path("gradient-inputs"), self._path("gradients")
        exchange.save(given, inputs, {})
        self.worker.request(
            "gradients", inputs=given, output=path, precision=precision, rounded=self.rounded,
            rate=rate,
        )  # fmt: skip
        return canonical(self.prepared.plan.target, exchange.load(path)[0])

    def weights(self) -> Mapping[str, LazyTensor]:
        return self.prepared.plan.read(self.prepared.state)

    def loaded_with(self, prepared: Prepared, folder: Path) -> Side:
        self.worker.request("load", **prepared.request)
        side = Model(prepared)
        side.worker, side.folder, side.report = self.worker, folder, self.report
        return side


def alike(one: Graph, other: Graph) -> tuple[Mapping[str, Mark], Mapping[str, Mark]]:
    """Return what two ONNX models show as layers: modules, or values of one name without them."""
    graphs = []
    for side in (one, other):
        with InputFile(side.prepared.request["weights"]) as file:
            graphs.append(parse(file).graph)
    modules = [outputs_of_modules(graph) for graph in graphs]
    if set(modules[0]) & set(modules[1]):
        return modules[0], modules[1]
    values = common_values(*graphs)
    return values, values


def marked(path: str, output: str, marks: Mapping[str, Mark] | None) -> Mapping[str, Mark]:
    """Write an ONNX model whose marked values are outputs; return the marks, those of modules
    where None are given."""
    with InputFile(path) as file:
        graph = parse(file).graph
    chosen = outputs_of_modules(graph) if marks is None else marks
    shutil.copyfile(path, output)
    with open(output, "ab") as copy:
        copy.write(as_outputs(graph, [mark.value for mark in chosen.values()]))
    return chosen


@contextlib.contextmanager
def started(
    sides: Sequence[Side], folder: Path, runs: Runs, pool: Pool | None, steps: Steps
) -> Iterator[None]:
    """Start the processes of all sides at the same time and load their weights."""
    with contextlib.ExitStack() as stack:
        workers = stack.enter_context(shared(pool))
        starts = []
        for index, side in enumerate(sides):
            if Can.RUN not in side.can:
                continue
            framework = side.report.framework
            python = (runs.python or {}).get(framework)
            worker = stack.enter_context(workers.worker(framework, python))
            if side.prepared.is_graph:
                worker.limit = Limit.of(side.prepared.request["weights"], runs.timeout)
            place = folder / str(index)
            place.mkdir(exist_ok=True)
            starts.append((side, worker, place))
        steps.begin(f"starting {' and '.join(side.report.framework for side, _, _ in starts)}")
        together([_starter(*start, runs.device) for start in starts])
        yield


def _starter(side: Side, worker: Worker, folder: Path, device: str) -> Callable[[], None]:
    return lambda: side.start(worker, folder, device)


def layers_of(calls: str) -> Layers:
    """Return the layers in a file of `Side.calls`."""
    return _layers(*exchange.load(calls, lambda name: name.startswith("layer/")))


def arguments_of(calls: str) -> tuple[dict[str, Array], dict[str, object]]:
    """Return the arrays and the description of the arguments in a file of `Side.calls`."""
    if not calls:
        return {}, {}
    arrays, about = exchange.load(calls)
    return {n: a for n, a in arrays.items() if n.startswith("call/")}, about["calls"]


def _under(prefix: str, arrays: Mapping[str, Array]) -> dict[str, Array]:
    return {name[len(prefix) :]: a for name, a in arrays.items() if name.startswith(prefix)}


def _layers(arrays: Mapping[str, Array], about: Mapping[str, Any]) -> Layers:
    return Layers(
        {place: arrays[f"layer/{place}"] for place in about["layers"]},
        {place: tuple(shape) for place, shape in about["shapes"].items()},
        about["kinds"],
    )
