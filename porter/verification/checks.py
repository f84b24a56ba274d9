"""The single checks that a verdict is made of: outputs, tensors, layers, blind spots."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from porter.verification.compare import Figures

EXACT, SINGLE = "float64", "float32"
CAUSES, CARRIES, UNKNOWN = "causes", "propagates", "unknown"
ON_FUZZED, BY_BYTES, UNPROVEN = "fuzzed weights", "bytes", "not proven"


@dataclass(frozen=True, slots=True)
class Check:
    """One output of one case at one precision, judged."""

    case: str
    output: str
    precision: str
    left: Figures | None
    """The source against the reference; None where the source is the reference itself."""
    right: Figures
    limit: float
    problem: str = ""
    """Why it fails; empty when it passes."""
    direct: Figures | None = None
    """The target against the source's float32 run: the classical figures, side against side."""

    @property
    def passed(self) -> bool:
        """Whether it is within the limit."""
        return not self.problem


@dataclass(frozen=True, slots=True)
class TensorCheck:
    """One canonical tensor on both sides."""

    name: str
    row: str
    """Row of the table that it is linked by, on the right side."""
    problem: str = ""
    remedy: str = ""
    distance: float = 0.0
    """Norm of the difference by that of the left tensor."""

    @property
    def passed(self) -> bool:
        """Whether both sides have the same bytes."""
        return not self.problem


@dataclass(frozen=True, slots=True)
class LayerCheck:
    """One module's output on both sides."""

    place: str
    """Canonical module path, with `#2` for a second call; empty for the whole model."""
    kind: str
    own: Figures | None
    """The left side in float32 against its float64 run."""
    rounded: Figures | None
    """The right side at the precision compared, against the same."""
    exact: Figures | None
    """The right side in float64, against the same."""
    limit: float
    """What the judged figure may be: of `exact` if it is known, else of `rounded`."""
    problem: str = ""
    role: str = ""
    """For one that fails: `causes`, `propagates` or `unknown`."""
    alone: float | None = None
    """Error of the module when the left side runs it with the right side's arguments."""

    @property
    def judged(self) -> Figures | None:
        """The sharpest figure that is known."""
        return self.exact if self.exact is not None else self.rounded

    @property
    def passed(self) -> bool:
        """Whether the two sides agree here."""
        return not self.problem


@dataclass(frozen=True, slots=True)
class Deviation:
    """Outputs of a side in the behaviour that it was not judged in, against those it was."""

    side: str
    """`left`, `right`; `both` for the two sides against each other, each in that behaviour."""
    behaviour: str
    """`dialect` or `canonical`: the behaviour that it was not judged in."""
    about: tuple[str, ...]
    """What the dialect's code does, a clause each, with its source."""
    settings: Mapping[str, bool | float]
    """Settings of the reference model that make it compute so."""
    figures: Figures


@dataclass(frozen=True, slots=True)
class Blind:
    """A tensor whose loss would not be seen in the outputs."""

    name: str
    effect: float
    """How far the output would move, relative to its rms, if the tensor were lost (first order)."""
    limit: float
    proof: str = BY_BYTES
    """What proves it: outputs on fuzzed weights (its row of the table), or only its bytes."""
    part: str = ""
    """`keys` for that part of a fused bias only: softmax cancels what is added to all scores."""
