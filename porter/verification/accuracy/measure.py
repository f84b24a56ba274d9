"""Top-1 and top-5 of checkpoints on labelled pictures, each with its own preprocessing."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from porter.errors import InputError
from porter.frameworks import exchange
from porter.frameworks.parallel import together
from porter.planning.preprocessing import Chosen
from porter.tensors.blocks import Array
from porter.verification.accuracy.labelled import Labelled
from porter.verification.checks import SINGLE
from porter.verification.inputs import picture
from porter.verification.sides.report import SideReport
from porter.verification.sides.side import Can, Side
from porter.verification.steps import Steps
from porter.verification.tolerance import roundoff
from porter.zoo.image_size import Size
from porter.zoo.preprocessing import Preprocessing

TOP = 5
_CASE = "pictures"
_THREADS = min(8, os.cpu_count() or 1)


@dataclass(frozen=True, slots=True)
class Accuracy:
    """One checkpoint on all pictures."""

    side: SideReport
    preprocessing: str
    """In words, with its source."""
    top1: float
    """Share of the pictures whose largest output is the class's."""
    top5: float
    agreement: float | None
    """Share of the pictures with the first checkpoint's largest output; None for itself."""
    not_finite: int = 0
    """Pictures with an output that is NaN or infinite: they count as wrong."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Checkpoints of one variant on the same labelled pictures."""

    architecture: str
    data: str
    pictures: int
    image_size: Size
    published: float | None
    """Top-1 in percent that the authors state for the variant, on ImageNet's validation set."""
    rows: tuple[Accuracy, ...]
    date: str = ""
    seconds: float = 0.0
    command: str = ""


@dataclass(slots=True)
class Runner:
    """A side that is being measured: how it sees pictures, and what it has answered."""

    side: Side
    chosen: Chosen
    size: Size
    best: list[Array]
    """The classes of the largest outputs of each batch, (N, at most 5), -1 for one not finite."""

    @property
    def precision(self) -> str:
        """The precision of the run: float32, or that of an ONNX file."""
        if Can.FLOAT64 in self.side.can:
            return SINGLE
        return max(self.side.report.weights, key=roundoff, default=SINGLE)

    def run(self, pixels: Array, path: Path) -> None:
        """Add the answers to a batch (N, 3, height, width); `path` is for the exchange."""
        count = len(pixels)
        fixed = self.side.batch
        for start in range(0, count, fixed or count):
            part = pixels[start : start + (fixed or count)]
            wanted = len(part)
            if fixed:  # An ONNX file may take batches of one size only.
                part = np.concatenate([part, np.repeat(part[-1:], fixed - wanted, axis=0)])
            exchange.save(path, {_CASE: part}, {})
            self.side.compute(path, (self.precision,))
            self.best.append(_best(self._scores()[:wanted]))

    def _scores(self) -> Array:
        outputs = self.side.trace.outputs[self.precision].values()
        scores = next((array for array in outputs if array.ndim == 2), None)
        if scores is None:
            raise InputError("has no output of class scores (N, classes)", self.side.report.file)
        return scores.astype(np.float64)


def measure(
    runners: Sequence[Runner], pictures: Sequence[Labelled], batch: int, folder: Path, steps: Steps
) -> tuple[Accuracy, ...]:
    """Run all sides on all pictures, a batch at a time; a picture is read once a preprocessing."""
    with ThreadPoolExecutor(_THREADS) as pool:
        for start in range(0, len(pictures), batch):
            steps.begin(f"{start} of {len(pictures)} pictures")
            files = [one.file for one in pictures[start : start + batch]]
            seen: dict[tuple[Preprocessing, Size], Array] = {}
            for how, size in {(runner.chosen.how, runner.size) for runner in runners}:
                read = partial(picture, preprocessing=how, size=size)
                seen[how, size] = np.concatenate(list(pool.map(read, files)))
            together([
                partial(
                    runner.run, seen[runner.chosen.how, runner.size],
                    folder / f"pictures-{index}.safetensors",
                )
                for index, runner in enumerate(runners)
            ])  # fmt: skip
    labels = np.array([one.label for one in pictures])
    first = np.concatenate(runners[0].best)
    return tuple(
        _accuracy(runner, labels, None if index == 0 else first)
        for index, runner in enumerate(runners)
    )


def _accuracy(runner: Runner, labels: Array, first: Array | None) -> Accuracy:
    best = np.concatenate(runner.best)
    how, why = runner.chosen
    return Accuracy(
        side=runner.side.report,
        preprocessing=f"{how.described(runner.size)} ({why})",
        top1=float((best[:, 0] == labels).mean()),
        top5=float((best == labels[:, None]).any(axis=1).mean()),
        agreement=None if first is None else float((best[:, 0] == first[:, 0]).mean()),
        not_finite=int((best[:, 0] < 0).sum()),
    )


def _best(scores: Array) -> Array:
    finite = np.asarray(np.isfinite(scores).all(axis=1))
    order = np.argsort(-np.where(finite[:, None], scores, 0), axis=1, kind="stable")[:, :TOP]
    return np.where(finite[:, None], order, -1)
