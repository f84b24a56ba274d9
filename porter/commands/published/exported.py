"""Verdicts of ONNX files of variants without reference model: by transformers' class.

The class runs the weights in float64 and float32, ONNX Runtime the file, on the same pictures.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from porter import codecs
from porter.errors import MissingPackage
from porter.frameworks import exchange
from porter.frameworks.live.cases import write_cases
from porter.frameworks.process import Limit, Worker, every_core
from porter.frameworks.references import parse
from porter.mapping.table import CANONICAL
from porter.onnx.graph.signature import Signature, open_sides, signature
from porter.storage.progress import Progress
from porter.tensors.blocks import Array
from porter.tensors.state_dict import StateDict
from porter.verification import tolerance
from porter.verification.checks import EXACT, SINGLE, Check
from porter.verification.compare import compare
from porter.verification.judge import UNRANKED, bounds, concluded
from porter.verification.live.pair import LiveModel
from porter.verification.sides.report import SideReport
from porter.verification.sides.rows import in_rows_of
from porter.verification.stamp import Clock, digest
from porter.verification.verdict import NOT_MADE, Verdict
from porter.verification.weights import WeightProof
from porter.zoo.architectures import Architecture
from porter.zoo.graph_form import GraphForm
from porter.zoo.published import published_config

_SIDE = 192
"""Pixels of a picture's side where the file takes any: a proof needs no large one."""
_WIDTH = 331
"""Pixels of the width of a line, where the file takes any."""
_FIRST = "its first picture"
_STEPS = 8
"""Steps that are compared of a model that is fed what it wrote: a difference grows with each."""
_Outputs = Mapping[str, Mapping[str, Array]]
"""{case: {output: array}}"""


@dataclass(frozen=True, slots=True)
class Exported:
    """An ONNX file, and the weights that it is compared with."""

    variant: Architecture
    state: StateDict
    """Canonical."""
    num_classes: int
    path: str
    timeout: float | None = None
    device: str = "cpu"
    """Where the class runs; the ONNX file runs on the CPU."""

    def verdict(
        self,
        *,
        python: Mapping[str, str] | None = None,
        judge: str | None = None,
        weights: WeightProof | None = None,
        pictures: Mapping[str, Array] | None = None,
        progress: Progress | None = None,
    ) -> Verdict:
        """Run both on batches of pictures, or on noise, and compare.

        The status is "not made" where a package is missing.
        """
        clock = Clock()
        found = signature(self.path, self.variant.sides(), self.num_classes)
        verdict = Verdict(
            self.variant.name, NOT_MADE, "", *self._reports(found),
            num_classes=self.num_classes, image_size=found.sides, weights=weights,
        )  # fmt: skip
        if found.as_bytes:
            return replace(verdict, reason="the file takes pictures as bytes, the class numbers")
        cases = _noise(found, self.path) if pictures is None else pictures
        try:
            if progress is not None:
                progress("running transformers' class", 0, 0)
            wanted, ran = self.by_class(cases, found.dtype, python)
            if progress is not None:
                progress("running the ONNX file", 0, 0)
            given, runtime = self._by_runtime(cases)
        except MissingPackage as error:
            return clock.stamped(replace(verdict, reason=str(error)))
        left = replace(verdict.left, **ran)
        right = replace(verdict.right, versions=runtime)
        checks = tuple(_checks(self.variant.graph, wanted, given, found, judge))
        limits = (judge or UNRANKED) if found.quantised or judge else ""
        return clock.stamped(
            concluded(
                replace(
                    verdict, left=left, right=right, cases=tuple(cases), checks=checks,
                    limits=limits, image_size=next(iter(cases.values())).shape[2:],
                )
            )
        )  # fmt: skip

    def _reports(self, found: Signature) -> tuple[SideReport, SideReport]:
        written = codecs.read(self.path).origin
        return (
            self.source_report(),
            SideReport(
                label="onnxruntime", framework="onnxruntime", dialect="onnx", file=self.path,
                format="onnx", weights=(found.dtype,), device="cpu",
                digest="" if written is None else digest(written.files),
            ),
        )  # fmt: skip

    def source_report(self) -> SideReport:
        """Describe the class with its weights."""
        origin = self.state.origin
        types = {t.dtype.name for t in self.state.values() if t.dtype.is_float}
        return SideReport(
            label="transformers in torch", framework="torch", dialect=CANONICAL, device="cpu",
            file="" if origin is None else origin.shown,
            format="" if origin is None else origin.format, weights=tuple(sorted(types)),
            digest="" if origin is None else digest(origin.files),
        )  # fmt: skip

    def by_class(
        self, cases: Mapping[str, Array], dtype: str, python: Mapping[str, str] | None
    ) -> tuple[dict[str, _Outputs], dict[str, Any]]:
        """Return what the class computes in both precisions, and its `versions` and `device`.

        Its weights are rounded to `dtype`.
        """
        rounded = dtype if dtype != SINGLE else None
        with tempfile.TemporaryDirectory(prefix="porter-") as folder:
            inputs = os.path.join(folder, "inputs.safetensors")
            # of the first picture the class would give what it gives of all
            given = {case: {"x": array} for case, array in cases.items() if case != _FIRST}
            write_cases(inputs, given)
            weights = os.path.join(folder, "weights.safetensors")
            codecs.write(self.state, weights, format="safetensors", read_back=False, record=False)
            interpreter = (python or {}).get("torch")
            with Worker("torch", python=interpreter, threads=every_core()) as worker:
                reference = parse(self._class(folder))
                model = LiveModel(reference, worker, Path(folder), drawn=False, device=self.device)
                model.fill(weights, None, rounded)
                outputs: dict[str, _Outputs] = {SINGLE: model.run(inputs, SINGLE)}
                outputs[EXACT] = model.run(inputs, EXACT)
                return outputs, {"versions": model.versions, "device": model.device}

    def _class(self, folder: str) -> str:
        """Return the reference of the class, with the number of classes of the weights."""
        config = published_config(self.variant, self.num_classes or None)
        path = Path(folder, "config.json")
        path.write_text(json.dumps(config), encoding="utf-8")
        wanted = dict.fromkeys(
            output.of for output in self.variant.graph.outputs.values() if output.of
        )
        loops = {"parts": f"&max_text_length={_STEPS - 1}", "tokens": f"&tokens={_STEPS}"}
        steps = loops.get(self.variant.graph.loop, "")
        return f"transformers:{path}?outputs={','.join(wanted)}{steps}"

    def _by_runtime(self, cases: Mapping[str, Array]) -> tuple[_Outputs, Mapping[str, str]]:
        """Return the outputs of the file by name, and the version of the runtime."""
        with tempfile.TemporaryDirectory(prefix="porter-") as folder:
            files = [os.path.join(folder, name) for name in ("in", "out")]
            exchange.save(files[0], cases, {})
            with Worker("onnx-tools", threads=every_core()) as worker:
                worker.limit = Limit.of(self.path, self.timeout)
                reply = worker.request(
                    "run_all", path=os.path.abspath(self.path), inputs=files[0], output=files[1],
                    steps=_STEPS if self.variant.graph.loop else None,
                )  # fmt: skip
            arrays, _ = exchange.load(files[1])
            outputs = {
                case: {name: arrays[f"{case}/{name}"] for name in reply["outputs"]}
                for case in cases
            }
            return outputs, reply["versions"]


def _noise(found: Signature, path: str) -> dict[str, Array]:
    """Return pictures of noise by case: of the size that a file takes, small where it takes any.

    A file of any batch runs the first of them once more, without the others.
    """
    free = open_sides(path)
    height, width = found.sides
    if free == (True, True):
        height, width = _SIDE, _SIDE + 32
    elif free[1]:
        width = _WIDTH
    draw = np.random.default_rng(11)
    batch = found.batch or 2
    array = draw.standard_normal((batch, 3, height, width), np.float32)
    cases = {f"noise, batch {batch}": array}
    return cases if found.batch is not None else {**cases, _FIRST: array[:1]}


def _checks(
    form: GraphForm,
    wanted: Mapping[str, _Outputs],
    given: _Outputs,
    found: Signature,
    judge: str | None,
) -> Iterator[Check]:
    """Yield a check for each output of each case."""
    precision = found.dtype
    limits = bounds(judge or UNRANKED) if found.quantised or judge else ()
    for case, outputs in given.items():
        both = [wanted[precision] for precision in (EXACT, SINGLE)]
        steps = next(iter(outputs.values())).shape[1] if form.loop else None
        reference, single = (_named(_of_case(one, case, steps), form) for one in both)
        outputs = {
            name: _centred(a) if _is_scores(form, name) else a for name, a in outputs.items()
        }
        if "pred_boxes" in reference:  # rows of near scores change places
            single, outputs = in_rows_of(reference, single), in_rows_of(reference, outputs)
        for name in dict.fromkeys([*reference, *outputs]):
            own = compare(single.get(name), reference.get(name))
            figures = compare(outputs.get(name), reference.get(name))
            limit = tolerance.limit(precision, own.error)
            problem = figures.problem
            if not problem and limits:
                problem = "; ".join(p for bound in limits if (p := bound.problem(figures)))
            elif not problem and not figures.error <= limit:
                problem = f"error {figures.error:.1e} is over the limit {limit:.1e}"
            yield Check(case, name, precision, own, figures, limit, problem)


def _of_case(outputs: _Outputs, case: str, steps: int | None) -> Mapping[str, Array]:
    """Return the class's outputs of a case; of the first picture only, the first rows.

    Of what is written step by step, that picture by itself may have ended after fewer `steps`.
    """
    if case in outputs:
        return outputs[case]
    first = {name: array[:1] for name, array in next(iter(outputs.values())).items()}
    return first if steps is None else {name: array[:, :steps] for name, array in first.items()}


def _named(outputs: Mapping[str, Array], form: GraphForm) -> dict[str, Array]:
    """Return the class's outputs by the graph's names; scores from their probabilities.

    Probabilities of seeded weights are nearly equal: scores show what they hide.
    """
    found = {}
    for name, output in form.outputs.items():
        array = outputs[output.of]
        found[name] = _centred(np.log(array)) if output.before_softmax else array
    return found


def _is_scores(form: GraphForm, name: str) -> bool:
    return name in form.outputs and form.outputs[name].before_softmax


def _centred(scores: Array) -> Array:
    """Return scores without what a softmax does not see: a number that is added to all."""
    wide = np.asarray(scores, np.float64)
    return np.asarray(wide - wide.mean(-1, keepdims=True))
