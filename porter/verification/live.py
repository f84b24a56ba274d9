"""A side whose process runs: ask it to compute, get a trace."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from porter import __version__
from porter.errors import UsageError
from porter.frameworks import exchange
from porter.frameworks.process import Pool, Worker
from porter.mapping.link import Linked
from porter.tensors.blocks import Array
from porter.tensors.lazy import LazyTensor
from porter.verification.participants import SideReport
from porter.verification.sides import Prepared
from porter.verification.trace import SAMPLE, Layers, Trace

T = TypeVar("T")


@dataclass(slots=True)
class Live:
    """A worker that holds one side's model; all files lie in `folder`."""

    worker: Worker
    side: Prepared
    folder: Path
    report: SideReport
    rounded: str | None = None
    """Element type that the weights go through before they are used."""

    def run(
        self,
        inputs: Path,
        precisions: Sequence[str],
        *,
        layers: str = "",
    ) -> Trace:
        """Run every case at each precision; watch all layers in the case named `layers`."""
        arrays, _ = exchange.load(inputs)
        outputs: dict[str, Mapping[str, Array]] = {}
        watched: dict[str, Layers] = {}
        for precision in precisions:
            path = self._path(f"run-{precision}")
            self.worker.request(
                "run", inputs=os.fspath(inputs), output=path, precision=precision,
                rounded=self.rounded, layers=layers, limit=SAMPLE,
            )  # fmt: skip
            found, about = exchange.load(path)
            outputs[precision] = _under("output/", found)
            if layers:
                watched[precision] = _layers(found, about)
        plan = self.side.plan
        return Trace(
            self.report, self.side.architecture.name, plan.num_classes, plan.image_size,
            arrays, outputs, watched,
        )  # fmt: skip

    def keep_calls(
        self, inputs: Path, case: str, precision: str, places: Sequence[str] | None, name: str
    ) -> str:
        """Run one case and keep arguments and outputs of modules; return the file."""
        path = self._path(f"calls-{name}")
        self.worker.request(
            "run", inputs=os.fspath(inputs), output=path, precision=precision, cases=[case],
            rounded=self.rounded, layers=case, watch=places, calls=True,
        )  # fmt: skip
        return path

    def layers_of(self, calls: str) -> Layers:
        """Return the layers in a file that `keep_calls` made."""
        return _layers(*exchange.load(calls, lambda name: name.startswith("layer/")))

    def rerun(
        self,
        calls: str,
        precision: str,
        trials: Sequence[Mapping[str, Any]],
        values: Mapping[str, Array] | None = None,
    ) -> list[dict[str, Array]]:
        """Run modules on kept arguments, one for each trial; return their outputs by part."""
        path, given = self._path("rerun"), None
        if values:
            given = self._path("values")
            exchange.save(given, values, {})
        self.worker.request(
            "rerun", calls=calls, output=path, precision=precision, trials=list(trials),
            rounded=self.rounded, values=given,
        )  # fmt: skip
        arrays, _ = exchange.load(path)
        found: list[dict[str, Array]] = [{} for _ in trials]
        for key, array in arrays.items():
            index, at, part = key.partition("@")
            found[int(index)][f"{at}{part}"] = array
        return found

    def settings(
        self, modules: Sequence[str], names: Sequence[str]
    ) -> dict[str, dict[str, int | float]]:
        """Return the numbers that modules are set to: {module: {name: value}}."""
        found: dict[str, dict[str, int | float]] = self.worker.request(
            "settings", modules=list(modules), names=list(names)
        )["settings"]
        return found

    def gradients(
        self, inputs: Mapping[str, Array], precision: str, rate: float | None = None
    ) -> dict[str, Array]:
        """Return gradients, or parameters after a step with `rate`, by canonical name."""
        given, path = self._path("gradient-inputs"), self._path("gradients")
        exchange.save(given, inputs, {})
        self.worker.request(
            "gradients", inputs=given, output=path, precision=precision, rounded=self.rounded,
            rate=rate,
        )  # fmt: skip
        return canonical(self.side.plan.target, exchange.load(path)[0])

    def _path(self, name: str) -> str:
        return os.fspath(self.folder / f"{name}.safetensors")


def canonical(linked: Linked, arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Map arrays by a dialect's names to canonical ones; what is not there is left out."""
    found: dict[str, Array] = {}
    for made in linked.links:
        if all(name in arrays for name in made.dialect):
            parts = made.to_canonical([LazyTensor.of(arrays[name]) for name in made.dialect])
            found.update(
                {n: np.array(t.read()) for n, t in zip(made.canonical, parts, strict=True)}
            )
    return found


@contextlib.contextmanager
def started(
    sides: Sequence[Prepared],
    folder: Path,
    device: str,
    python: Mapping[str, str],
    pool: Pool | None = None,
) -> Iterator[list[Live]]:
    """Start the processes of all sides at the same time and load their weights."""
    with contextlib.ExitStack() as stack:
        workers = pool or stack.enter_context(Pool())
        lives = []
        for index, side in enumerate(sides):
            place = folder / str(index)
            place.mkdir(exist_ok=True)
            interpreter = python.get(side.report.framework)
            worker = stack.enter_context(workers.worker(side.report.framework, interpreter))
            lives.append(Live(worker, side, place, side.report))
        together([_starter(live, device) for live in lives])
        yield lives


def _starter(live: Live, device: str) -> Callable[[], None]:
    def start() -> None:
        hello = live.worker.request("hello", device=device)
        other = hello["versions"].get("porter", "an earlier version")
        if other != __version__:
            raise UsageError(f"has porter {other}, not {__version__}", live.worker.python)
        live.worker.request("load", **live.side.request)
        live.report = replace(live.report, device=hello["device"], versions=hello["versions"])

    return start


def together(tasks: Sequence[Callable[[], T]]) -> list[T]:
    """Do tasks at the same time, one thread each; return what they return.

    Whatever stops one of them, an interrupt too, is raised at once: the caller then ends the
    processes that the other threads wait for.
    """
    pool = ThreadPoolExecutor(max(len(tasks), 1))
    try:
        return [future.result() for future in [pool.submit(task) for task in tasks]]
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _under(prefix: str, arrays: Mapping[str, Array]) -> dict[str, Array]:
    return {name[len(prefix) :]: a for name, a in arrays.items() if name.startswith(prefix)}


def _layers(arrays: Mapping[str, Array], about: Mapping[str, Any]) -> Layers:
    return Layers(
        {place: arrays[f"layer/{place}"] for place in about["layers"]},
        {place: tuple(shape) for place, shape in about["shapes"].items()},
        about["kinds"],
    )
