"""Two live models with their weights: run on the same inputs, judged, and the fault named."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from porter import codecs
from porter.errors import InputError
from porter.frameworks import exchange
from porter.frameworks.live.cases import varied, write_cases
from porter.frameworks.live.diagnosis import diagnosed, other_eps
from porter.frameworks.parallel import together
from porter.frameworks.process import Worker, shared
from porter.frameworks.references import Reference
from porter.planning.plan import Plan
from porter.planning.target import Target
from porter.tensors.blocks import Array
from porter.tensors.lazy import LazyTensor
from porter.tensors.state_dict import StateDict
from porter.verification import tolerance
from porter.verification.checks import EXACT, SINGLE, Check
from porter.verification.compare import Figures, compare
from porter.verification.diagnose.finding import Finding

LIMIT = 5e-4
"""Largest error that passes where the source's own says nothing: max |x - ref| / rms(ref)."""
COARSE = 5e-3
"""The same on seeded weights in float32, of which nothing says how they enlarge rounding."""
SLIGHT = 1e-6
"""A difference of two float64 runs above this is not one of rounding: it is reported."""
Outputs = dict[str, dict[str, Array]]
"""{case: {key: array}}"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What running both models showed."""

    checks: tuple[Check, ...]
    story: str
    """Where they begin to differ; empty where they agree."""
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]


class LiveModel:
    """One model in its process.

    Weights that are not `drawn` are whatever the memory has; the model is to be filled.
    """

    def __init__(
        self,
        reference: Reference,
        worker: Worker,
        folder: Path,
        *,
        drawn: bool = True,
        device: str = "cpu",
    ) -> None:
        self.reference, self.worker, self.folder = reference, worker, folder
        hello = worker.request("hello", device=device)
        self.versions: dict[str, str] = hello["versions"]
        self.device: str = hello["device"]
        """With the name of the GPU."""
        self._filled: dict[str, Any] = {}
        self._open = {**reference.request, "device": self.device.partition(" ")[0]}
        about = worker.request("live_open", drawn=drawn, **self._open)
        self.trained = set(about["parameters"])
        self.aliases: dict[str, str] = about["aliases"]
        self._precision = SINGLE
        """In which it computes; empty where a cast has failed."""
        self.own: dict[str, LazyTensor] = {}
        if not drawn:
            return
        values = os.fspath(folder / "own.safetensors")
        worker.request("live_values", output=values)
        written = exchange.tensors(values)
        self.own = {name: written[name] for name in about["tensors"]}

    @property
    def target(self) -> Target:
        """The tensors that a checkpoint of this model has."""
        return Target(f"the model {self.reference.text}", self.own, self.trained, self.aliases)

    def fill(self, path: str, key: str | None, rounded: str | None = None) -> None:
        """Load a checkpoint that has the model's names."""
        self._filled = {"weights": os.path.abspath(path), "key": key, "rounded": rounded}
        self.worker.request("live_fill", **self._filled)

    def reset(self) -> None:
        """Build the model again, in float32, and fill it again."""
        self._rebuild()
        self.worker.request("live_fill", **self._filled)

    def _rebuild(self) -> None:
        self.worker.request("live_open", **self._open)
        self._precision = SINGLE

    def fill_seeded(self, values: Mapping[str, LazyTensor], precision: str) -> None:
        """Load tensors in a precision; into a model that is built again where it is of another."""
        path = os.fspath(self.folder / "seeded.safetensors")
        # not `exchange.save`, which leaves out the second of two tensors of the same bytes
        codecs.write(
            StateDict(values), path, format="safetensors", force=True, sync=False,
            read_back=False, record=False,
        )  # fmt: skip
        self._use(precision)
        self.worker.request("live_fill", weights=path, key=None, precision=precision)

    def seeded(self, inputs: str, precision: str) -> dict[str, LazyTensor]:
        """Give the model weights in which every tensor matters; return them."""
        path = os.fspath(self.folder / f"seeds-{precision}.safetensors")
        self._use(precision)
        self.worker.request("live_seed", seed=5, inputs=inputs, output=path, precision=precision)
        values = exchange.tensors(path)
        return {name: values[name] for name in self.own}

    def _use(self, precision: str) -> None:
        """Build the model again, unless it computes in a precision: casts may leave their marks."""
        if self._precision != precision:
            self._rebuild()
        self._precision = ""  # until the cast has succeeded

    def run(self, inputs: str, precision: str) -> Outputs:
        """Return {case: {key: array}}."""
        path = os.fspath(self.folder / f"run-{precision}.safetensors")
        self._precision = ""
        reply = self.worker.request("live_run", inputs=inputs, output=path, precision=precision)
        self._precision = precision
        arrays, _ = exchange.load(path)
        return {
            case: {key: arrays[f"output/{case}/{key}"] for key in keys}
            for case, keys in reply["outputs"].items()
        }


@dataclass(frozen=True, slots=True)
class LivePair:
    """Both models, built and not yet filled."""

    left: LiveModel
    right: LiveModel
    inputs: str
    """File of the inputs."""
    cases: tuple[str, ...]

    def outcome(self, plan: Plan) -> Outcome:
        """Run both models, which are filled, and say where they differ."""
        left, right = together([
            partial(runs, self.left, self.inputs), partial(runs, self.right, self.inputs),
        ])  # fmt: skip
        found = tuple(checks(left, right))
        notes = not_exact(left, right)
        findings: tuple[Finding, ...] = ()
        story = ""
        worst = max((c.right.error for c in found if c.precision == EXACT), default=0.0)
        failed = not all(check.passed for check in found)
        if failed or worst > SLIGHT:
            story = self._story(plan, failed)
        if failed and story:
            remedy = "make both definitions compute the same there, or correct the table's row"
            findings = (Finding("the model", f"differs first where {story}", remedy),)
        elif worst > SLIGHT:
            apart = f"in float64 the outputs differ by {worst:.1e}" + (story and f": {story}")
            notes.insert(0, apart)
        return Outcome(found, story if failed else "", findings, tuple(notes))

    def seeded(
        self, move: Callable[[Mapping[str, LazyTensor]], Mapping[str, LazyTensor]]
    ) -> tuple[Check, ...]:
        """Check the outputs on seeded weights, which `move` takes to the right model.

        They show every tensor; those of a checkpoint may have zeros that hide some.
        """
        for precision, most in ((EXACT, LIMIT), (SINGLE, COARSE)):
            try:
                values = self.left.seeded(self.inputs, precision)
                moved = move(values)
                wanted, found = together([
                    partial(self.left.run, self.inputs, precision),
                    partial(_filled_run, self.right, moved, self.inputs, precision),
                ])  # fmt: skip
            except InputError:
                if precision == SINGLE:
                    raise
                continue
            if not all(_is_sound(a) for outputs in wanted.values() for a in outputs.values()):
                return ()  # The weights drive this network out of range: they show nothing.
            return tuple(
                _check(case, key, precision, None, compare(theirs, ours), most)
                for case, outputs in wanted.items()
                for key, ours, theirs in _paired(outputs, found[case])
            )
        return ()

    def _story(self, plan: Plan, failed: bool) -> str:
        left, right = together([partial(_calls, m, self.inputs) for m in (self.left, self.right)])
        find = diagnosed if failed else other_eps
        return find(left, right, _modules(plan))


def _calls(model: LiveModel, inputs: str) -> list[dict[str, Any]]:
    model.reset()
    calls: list[dict[str, Any]] = model.worker.request("live_calls", inputs=inputs)["calls"]
    return calls


def _filled_run(
    model: LiveModel, values: Mapping[str, LazyTensor], inputs: str, precision: str
) -> Outputs:
    model.fill_seeded(values, precision)
    return model.run(inputs, precision)


def _modules(plan: Plan) -> dict[str, str]:
    """Return {module of the right: the left's module that has its tensors}."""
    paths: dict[str, str] = {}
    for link in plan.target.links:
        sources = [plan.source.by_canonical.get(name) for name in link.canonical]
        names = {n for source in sources if source is not None for n in source.dialect}
        if len(names) == 1 and len(link.dialect) == 1:
            right, left = link.dialect[0], names.pop()
            paths.setdefault(right.rpartition(".")[0], left.rpartition(".")[0])
    return paths


def runs(model: LiveModel, inputs: str) -> dict[str, Outputs]:
    """Return {precision: what a model computes}; float64 is missing where it has no run in it."""
    outputs = {SINGLE: model.run(inputs, SINGLE)}
    with suppress(InputError):  # Its code asks for float32 somewhere; a note says so.
        outputs[EXACT] = model.run(inputs, EXACT)
    return outputs


def not_exact(left: Mapping[str, Outputs], right: Mapping[str, Outputs]) -> list[str]:
    """Return a note for each side without a run in float64."""
    return [
        f"the {name} model has no run in float64"
        for name, outputs in (("left", left), ("right", right))
        if EXACT not in outputs
    ]


def checks(left: Mapping[str, Outputs], right: Mapping[str, Outputs]) -> Iterator[Check]:
    """Yield a check for each output of each case: in float64 where both have it, and in float32."""
    reference = left.get(EXACT, left[SINGLE])
    for case, outputs in reference.items():
        for precision in (EXACT, SINGLE):
            if precision not in right or (precision == EXACT and EXACT not in left):
                continue
            for key, own, found in _paired(outputs, right[precision][case]):
                source = None
                if precision == SINGLE and EXACT in left:
                    source = compare(left[SINGLE][case].get(key), own)
                limit = LIMIT if EXACT in left else 2 * LIMIT  # Both sides have rounded.
                yield _check(case, key, precision, source, compare(found, own), limit)


def _paired(
    left: Mapping[str, Array], right: Mapping[str, Array]
) -> Iterator[tuple[str, Array | None, Array | None]]:
    """Yield outputs of one key, or in order where the two models have other keys."""
    if left.keys() == right.keys():
        yield from ((key, left[key], right[key]) for key in left)
        return
    names = [*left, *(f"another output, {key}" for key in list(right)[len(left) :])]
    ones: list[Array | None] = [*left.values()]
    others: list[Array | None] = [*right.values()]
    ones += [None] * (len(names) - len(ones))
    others += [None] * (len(names) - len(others))
    yield from zip(names, ones, others, strict=True)


def _is_sound(array: Array) -> bool:
    """Whether an output is of finite numbers, and not of zeros only."""
    return not array.size or (bool(np.isfinite(array).all()) and bool(array.any()))


def _check(
    case: str, key: str, precision: str, source: Figures | None, found: Figures, least: float
) -> Check:
    own = source.error if source is not None and source.error == source.error else 0.0
    limit = max(tolerance.limit(SINGLE, own), least)
    problem = found.problem
    if not problem and not found.error <= limit:
        problem = f"error {found.error:.1e} is over the limit {limit:.1e}"
    return Check(case, key, precision, source, found, limit, problem)


@contextmanager
def opened(
    left: Reference, right: Reference, inputs: Mapping[str, Array] | None,
    python: Mapping[str, str] | None, folder: Path, *, others: bool = True, device: str = "cpu",
) -> Iterator[LivePair]:  # fmt: skip
    """Build both models, each in its process, and write the inputs of both.

    With `others` inputs like those given are drawn, and run, too.
    """
    with shared() as pool:
        interpreters = [(python or {}).get(r.framework) for r in (left, right)]
        with (
            pool.worker(left.framework, interpreters[0]) as one,
            pool.worker(right.framework, interpreters[1]) as two,
        ):
            models = together([
                _model(left, one, folder / "a", device), _model(right, two, folder / "b", device),
            ])  # fmt: skip
            cases = varied(inputs, others=others)
            path = os.fspath(folder / "inputs.safetensors")
            write_cases(path, cases)
            yield LivePair(models[0], models[1], path, tuple(cases))


def _model(
    reference: Reference, worker: Worker, folder: Path, device: str
) -> Callable[[], LiveModel]:
    folder.mkdir(exist_ok=True)
    return lambda: LiveModel(reference, worker, folder, device=device)
