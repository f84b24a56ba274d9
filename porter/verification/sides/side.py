"""One side of a comparison, and what it can do.

A side is a checkpoint in a process of its framework (`Model`), an ONNX file in ONNX Runtime
(`Graph`) or a trace that was recorded earlier (`Recorded`). Callers ask `can` before they ask
for more than outputs, so the verdict uses what both sides can do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Flag, auto
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from porter.errors import UsageError, listed
from porter.frameworks.process import Worker
from porter.tensors.blocks import Array
from porter.tensors.lazy import LazyTensor
from porter.verification.checks import EXACT
from porter.verification.sides.prepare import Prepared
from porter.verification.sides.report import SideReport
from porter.verification.steps import Step
from porter.verification.trace import Trace
from porter.zoo.image_size import Size


class Can(Flag):
    """What a side can do besides showing its outputs."""

    NOTHING = 0
    RUN = auto()
    """Compute: on any input, in any precision that it has."""
    FLOAT64 = auto()
    """Run in float64, which the reference needs."""
    LAYERS = auto()
    """Show the output of each module."""
    MODULES = auto()
    """Run single modules on given arguments, and show those that they were called with."""
    WEIGHTS = auto()
    """Show its tensors under canonical names, and load others."""
    GRADIENTS = auto()


class Side:
    """One side; a subclass implements what its `can` lists, the rest is never called."""

    trace: Trace
    """What `compute` gave."""
    rounded: str | None = None
    """Element type that the weights are rounded to before they are used."""
    batch: int | None = None
    """The only batch size that it takes, where that is fixed."""
    quantised: bool = False
    """Whether it computes in fewer bits than its outputs have."""

    def __init__(
        self, report: SideReport, architecture: str, num_classes: int, image_size: Size, can: Can
    ) -> None:
        self.report = report
        self.architecture = architecture
        self.num_classes = num_classes
        self.image_size = image_size
        self.can = can

    @property
    def prepared(self) -> Prepared:
        """The checkpoint and its plan."""
        self._refuse()

    def start(self, worker: Worker, folder: Path, device: str) -> None:
        """Load the model in a process; files are exchanged in `folder`."""
        self._refuse()

    def compute(
        self, inputs: Path, precisions: Sequence[str], layers: str = "", step: Step | None = None
    ) -> None:
        """Set `trace`: every case at each precision, the layers in the case named `layers`."""
        self._refuse()

    def calls(
        self, inputs: Path, case: str, precision: str, modules: Sequence[str] | None, name: str
    ) -> str:
        """Return a file with arguments and outputs of modules; empty if none were recorded."""
        self._refuse()

    def rerun(
        self,
        calls: str,
        precision: str,
        trials: Sequence[Mapping[str, Any]],
        values: Mapping[str, Array] | None = None,
    ) -> list[dict[str, Array]]:
        """Run modules on the arguments in a file, one for each trial; outputs by part."""
        self._refuse()

    def settings(
        self, modules: Sequence[str], names: Sequence[str]
    ) -> dict[str, dict[str, int | float]]:
        """Return the settings of modules that are numbers: {module: {name: value}}."""
        self._refuse()

    def gradients(
        self, inputs: Mapping[str, Array], precision: str, rate: float | None = None
    ) -> dict[str, Array]:
        """Return gradients, or parameters after a step with `rate`, by canonical name."""
        self._refuse()

    def weights(self) -> Mapping[str, LazyTensor]:
        """Return the tensors of the checkpoint by canonical name."""
        self._refuse()

    def loaded_with(self, prepared: Prepared, folder: Path) -> Side:
        """Load another checkpoint in the same process; return the side that it then is."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise AssertionError(f"{self.report.label} was asked for more than {self.can}")


class Recorded(Side):
    """A trace: its process ran earlier, and perhaps elsewhere."""

    def __init__(self, trace: Trace) -> None:
        can = Can.FLOAT64 if EXACT in trace.outputs else Can.NOTHING
        can |= Can.LAYERS if trace.layers else Can.NOTHING
        super().__init__(trace.report, trace.architecture, trace.num_classes, trace.image_size, can)
        self.trace = trace

    def compute(
        self, inputs: Path, precisions: Sequence[str], layers: str = "", step: Step | None = None
    ) -> None:
        """Refuse a precision in which nothing was recorded."""
        known = self.trace.outputs
        missing = [precision for precision in precisions if precision not in known]
        if missing:
            raise UsageError(
                f"the trace has no run in {listed(missing)}; it has {listed(known)}",
                self.report.file,
            )

    def calls(
        self, inputs: Path, case: str, precision: str, modules: Sequence[str] | None, name: str
    ) -> str:
        return self.trace.calls


def float64_weights(side: Side) -> dict[str, Array]:
    """Return a side's weights in float64, by canonical name."""
    return {n: np.asarray(t.read(), np.float64) for n, t in side.weights().items()}
