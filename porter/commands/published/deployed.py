"""Verdicts of Paddle's inference models as they are deployed: the program itself is run.

transformers' class runs the other side's weights in float64 and float32, Paddle the program, on the
same picture. Of a program that is merged (batch norms are in the convolutions) that is the proof.
"""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from porter.checkpoints.folder import find
from porter.codecs.paddle.inference import pair
from porter.codecs.paddle.operations import program
from porter.commands.published.exported import Exported
from porter.errors import InputError
from porter.frameworks.live.cases import write_cases
from porter.frameworks.process import Worker, every_core
from porter.frameworks.references import parse
from porter.planning.endpoint import PROGRAM
from porter.storage.input_file import InputFile
from porter.tensors.blocks import Array
from porter.tensors.state_dict import StateDict
from porter.verification import tolerance
from porter.verification.checks import EXACT, SINGLE, Check
from porter.verification.compare import compare
from porter.verification.judge import concluded
from porter.verification.live.pair import LiveModel
from porter.verification.sides.report import SideReport
from porter.verification.sides.rows import in_rows_of
from porter.verification.stamp import Clock, digest
from porter.verification.verdict import NOT_MADE, Verdict
from porter.zoo.architectures import Architecture

PROVIDER = "inference"
"""The word before the colon of a reference to a program."""
_CASE = "the program itself"
_SIDE, _WIDTH = 192, 320
"""Pixels of the picture where the program takes any size: a proof needs no large one."""


def runs_here(python: Mapping[str, str] | None) -> bool:
    """Whether Paddle is installed, as far as can be seen without importing it."""
    return "paddle" in (python or {}) or importlib.util.find_spec("paddle") is not None


@dataclass(frozen=True, slots=True)
class Deployed:
    """An inference model, and the weights that it is compared with."""

    variant: Architecture
    state: StateDict
    """Canonical."""
    num_classes: int
    path: str
    device: str = "cpu"

    def refusal(self) -> str:
        """Say why the outputs of the program are not those of a class; empty where they may be."""
        source = program(self._files()[0])
        if source.branches:
            return "the program loops over its own output"
        inputs = [o for o in source.operations if o.kind in ("data", "feed")]
        if len(inputs) != 1:
            return f"the program has {len(inputs)} inputs, the class a picture"
        return ""

    def verdict(self, python: Mapping[str, str] | None = None) -> Verdict:
        """Run both on a picture of noise, and compare the outputs that both have.

        Raises `InputError` where there is none, `MissingPackage` without Paddle or transformers.
        """
        clock = Clock()
        picture = self._picture()
        source = Exported(self.variant, self.state, self.num_classes, self.path, device=self.device)
        classes, ran = source.by_class({_CASE: picture}, SINGLE, python)
        given, own = self._by_paddle(picture, python)
        exact, single = (classes[precision][_CASE] for precision in (EXACT, SINGLE))
        checks = tuple(_checks(exact, single, given))
        if not checks:
            raise InputError("none of its outputs has the shape of one of the class", self.path)
        left = replace(source.source_report(), **ran)
        right = SideReport(
            label="the program in Paddle", framework="paddle", dialect=PROGRAM,
            file=self.path, format=PROGRAM, weights=(SINGLE,), **own,
            digest=digest(file.path for file in self._files()),
        )  # fmt: skip
        return clock.stamped(
            concluded(
                Verdict(
                    self.variant.name, NOT_MADE, "", left, right, num_classes=self.num_classes,
                    image_size=picture.shape[2:], cases=(_CASE,), checks=checks,
                )
            )
        )  # fmt: skip

    def _files(self) -> tuple[InputFile, InputFile]:
        return pair(InputFile(find(self.path).path))

    def _picture(self) -> Array:
        """Return a picture of the size that the program takes, a small one where it takes any."""
        source = program(self._files()[0])
        (image,) = (o for o in source.operations if o.kind in ("data", "feed"))
        (value,) = next(iter(image.outputs.values()))
        sides = source.dims.get(value, ())[2:4] or self.variant.sides()
        height, width = (
            size if size > 0 else usual or free
            for size, usual, free in zip(sides, self._usual(), (_SIDE, _WIDTH), strict=True)
        )
        draw = np.random.default_rng(11)
        return draw.standard_normal((1, 3, height, width), np.float32)

    def _usual(self) -> tuple[int, int]:
        """Return the sides that the variant takes, 0 for one that it takes any of."""
        height, width = self.variant.sides()
        if self.variant.graph.free == "sides":
            return 0, 0
        return height, 0 if self.variant.graph.free == "width" else width

    def _by_paddle(
        self, picture: Array, python: Mapping[str, str] | None
    ) -> tuple[dict[str, Array], dict[str, Any]]:
        """Return the outputs of the program by name, and its `versions` and `device`."""
        reference = parse(f"{PROVIDER}:{os.path.abspath(self.path)}")
        with tempfile.TemporaryDirectory(prefix="porter-") as folder:
            inputs = os.path.join(folder, "inputs.safetensors")
            write_cases(inputs, {_CASE: {"x": picture}})
            interpreter = (python or {}).get("paddle")
            with Worker("paddle", python=interpreter, threads=every_core()) as worker:
                model = LiveModel(reference, worker, Path(folder), drawn=False, device=self.device)
                outputs = model.run(inputs, SINGLE)[_CASE]
                return outputs, {"versions": model.versions, "device": model.device}


def _checks(
    exact: Mapping[str, Array], single: Mapping[str, Array], given: Mapping[str, Array]
) -> Iterator[Check]:
    """Yield a check for each output of the class that the program has, too, by its shape."""
    left = dict(given)
    found: dict[str, Array] = {}
    for name, array in exact.items():
        match = next((n for n, a in left.items() if a.shape == array.shape), None)
        if match is not None:
            found[name] = left.pop(match)
    exact, single = ({n: o[n] for n in found} for o in (exact, single))
    for name, array in found.items():
        if _is_softmax(array) and not _is_softmax(exact[name]):
            exact, single = ({**o, name: _softmax(o[name])} for o in (exact, single))
    if "pred_boxes" in exact:  # rows of near scores change places
        single, found = in_rows_of(exact, single), in_rows_of(exact, found)
    for name, array in found.items():
        own, figures = compare(single[name], exact[name]), compare(array, exact[name])
        limit = tolerance.limit(SINGLE, own.error)
        problem = figures.problem
        if not problem and not figures.error <= limit:
            problem = f"error {figures.error:.1e} is over the limit {limit:.1e}"
        yield Check(_CASE, name, SINGLE, own, figures, limit, problem)


def _is_softmax(array: Array) -> bool:
    """Whether the rows of an output are probabilities that sum up to one."""
    sums = np.asarray(array, np.float64).sum(-1)
    return bool(array.min() >= 0 and np.abs(sums - 1).max() < 1e-4)


def _softmax(scores: Array) -> Array:
    raised = np.exp(scores - scores.max(-1, keepdims=True))
    return np.asarray(raised / raised.sum(-1, keepdims=True))
