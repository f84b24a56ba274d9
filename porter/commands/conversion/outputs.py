"""The proof of a conversion's outputs by models that porter knows."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from porter.storage.progress import Progress
from porter.zoo.image_size import Size

if TYPE_CHECKING:
    from porter.commands.conversion.fitting import Prepared
    from porter.commands.convert import Conversion
    from porter.verification.inputs import Halves
    from porter.verification.options import RunOptions
    from porter.verification.verdict import Verdict


@dataclass(frozen=True, slots=True)
class How:
    """How the outputs of both models are compared; the options are those of `porter.convert`."""

    container: str
    """What the output is written as."""
    key: str | None
    judge: str | None
    python: Mapping[str, str] | None
    image_size: Size | None
    behaviour: str
    pictures: Halves | None
    """What a quantised model is judged on."""
    quantised: bool
    progress: Progress | None

    def proven(self, outcome: Conversion, ready: Prepared) -> Conversion:
        """Add the verdict, where there are models to run: reference models, or transformers'."""
        if ready.fitted.architecture.module:
            return self._by_reference_models(outcome, ready)
        if self.container == "onnx":
            return self._by_transformers(outcome, ready)
        return outcome

    def _by_reference_models(self, outcome: Conversion, ready: Prepared) -> Conversion:
        """Compare the reference models of both sides."""
        batches: tuple[int, ...] = (2,)  # one forward in each precision; `porter verify` makes more
        if self.container == "onnx":
            outcome, batches = _checked(outcome), (1, 3)
        if ready.has_filled_head:
            outcome = outcome.noting(
                "the classifier is filled with a constant: outputs are compared before it"
            )
        without_head = ready.plan.num_classes == 0 or ready.has_filled_head
        with tempfile.TemporaryDirectory(prefix="porter-") as folder:
            runs: RunOptions = {
                "num_classes": 0 if without_head else None, "python": self.python,
                "behaviour": self.behaviour,
                "image_size": self.image_size or _noted(ready.plan.image_size),
                **self._inputs(folder, batches),
            }  # fmt: skip
            return replace(outcome, verdict=self._verdict(outcome, ready, runs))

    def _inputs(self, folder: str, batches: tuple[int, ...]) -> RunOptions:
        """Return what is run: pictures, or noise; for a quantised model enough for a percentage."""
        if self.pictures is not None:
            path = os.path.join(folder, "pictures.npz")
            np.savez(path, **self.pictures.judging)  # type: ignore[arg-type]
            return {"inputs": path}
        return {"batch_sizes": (4,), "seeds": 25} if self.quantised else {"batch_sizes": batches}

    def _verdict(self, outcome: Conversion, ready: Prepared, runs: RunOptions) -> Verdict:
        from porter.commands.verify import verify

        left = ready.left(outcome.plan.source.dialect.name)
        return verify(
            ready.fitted.architecture.name,
            left,
            outcome.output,
            left_key=self.key if isinstance(left, str) else None,
            left_dialect=outcome.plan.source.dialect.name,
            right_dialect=outcome.plan.target.dialect.name,
            weights=outcome.weights,
            progress=self.progress,
            judge=self.judge,
            diagnose=not self.quantised,
            **runs,
        )

    def _by_transformers(self, outcome: Conversion, ready: Prepared) -> Conversion:
        """Compare an ONNX file with transformers' class, where that is installed."""
        from porter.commands.published.exported import Exported

        outcome = _checked(outcome)
        architecture, classes = ready.fitted.architecture, ready.plan.num_classes
        file = Exported(architecture, ready.canonical, classes, outcome.output)
        verdict = file.verdict(
            python=self.python, judge=self.judge, weights=outcome.weights, progress=self.progress
        )
        return replace(outcome, verdict=verdict)


def _checked(outcome: Conversion) -> Conversion:
    """Note what the ONNX checker finds."""
    from porter.onnx.export.check import check

    return replace(outcome, graph=check(outcome.output))


def _noted(size: Size) -> Size | None:
    """Return a height and width that no shape shows, which only the source's metadata state."""
    return size if isinstance(size, tuple) else None
