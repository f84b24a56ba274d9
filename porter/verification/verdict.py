"""The verdict: a frozen value of which every report is a pure function."""

from __future__ import annotations

from dataclasses import dataclass

from porter.errors import html_escaped as _escape
from porter.errors import visible
from porter.verification.checks import Blind, Check, Deviation, LayerCheck, TensorCheck
from porter.verification.diagnose.finding import Finding
from porter.verification.sides.report import SideReport
from porter.verification.weights import WeightProof
from porter.zoo.image_size import Size

PASSED, FAILED, NOT_MADE = "passed", "failed", "not made"


@dataclass(frozen=True, slots=True, repr=False)
class Verdict:
    """The outcome of a comparison; `not made` if a framework to run it is not installed."""

    architecture: str
    status: str
    reason: str
    """One sentence: why it failed or was not made; empty when it passed."""
    left: SideReport
    right: SideReport
    num_classes: int
    image_size: Size
    precision: str = "float32"
    preset: str = "default"
    limits: str = ""
    """What was asked of all outputs together, in place of limits on the error of each."""
    cases: tuple[str, ...] = ()
    """Names of the inputs that both sides were given."""
    checks: tuple[Check, ...] = ()
    """Outputs."""
    tensors: tuple[TensorCheck, ...] = ()
    """The weights of both files, under canonical names; empty where one is a trace."""
    layers: tuple[LayerCheck, ...] = ()
    story: str = ""
    """The result of the layers, in a sentence."""
    gradients: tuple[Check, ...] = ()
    findings: tuple[Finding, ...] = ()
    """Likely faults."""
    blind: tuple[Blind, ...] = ()
    """Tensors that the outputs do not show on these weights."""
    fuzzed: tuple[Check, ...] = ()
    """Outputs of both sides on fuzzed weights, which are run if some tensors are blind."""
    behaviour: str = "canonical"
    """What was judged: the sides as the canonical model computes, or each as its `dialect` does."""
    deviations: tuple[Deviation, ...] = ()
    """How far the other behaviour is from it, where a dialect's code computes otherwise."""
    notes: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    """Parts of the proof that were left out, each with the reason."""
    weights: WeightProof | None = None
    date: str = ""
    """When the comparison began, in ISO 8601 and UTC."""
    seconds: float = 0.0
    """How long it took."""
    command: str = ""
    """The command line, without secrets in addresses; empty where the library was called."""

    @property
    def passed(self) -> bool:
        """Whether the forward proof was made and passed."""
        return self.status == PASSED

    @property
    def failed(self) -> bool:
        """Whether the forward proof was made and failed."""
        return self.status == FAILED

    def worst(self, precision: str) -> Check | None:
        """Return the check at a precision that comes nearest to its limit or fails."""
        chosen = [c for c in self.checks if c.precision == precision]
        return max(chosen, key=_severity, default=None)

    def __repr__(self) -> str:
        reason = f": {self.reason}" if self.reason else ""
        return visible(f"<Verdict {self._summary()}{reason}>")

    def _summary(self) -> str:
        return f"{self.status}, {self.architecture}, {self.left.label} and {self.right.label}"

    def _repr_html_(self) -> str:
        """Return the outcome, the worst figures and the faults for a notebook."""
        precisions = dict.fromkeys(check.precision for check in self.checks)
        worst = [check for p in precisions if (check := self.worst(p)) is not None]
        rows = "".join(
            f"<tr><td>{_escape(c.output)} {_escape(c.precision)}</td>"
            f"<td>{_escape(c.right.problem) or f'{c.right.error:.1e}'}</td>"
            f"<td>{c.limit:.1e}</td></tr>"
            for c in worst
        )
        head = "<tr><th>output</th><th>error</th><th>limit</th></tr>"
        faults = "".join(f"<li>{_escape(str(finding))}</li>" for finding in self.findings)
        return (
            f"<p><b>{_escape(self._summary())}</b></p>"
            + (f"<p>{_escape(self.reason)}</p>" if self.reason else "")
            + (f"<table>{head}{rows}</table>" if rows else "")
            + (f"<ul>{faults}</ul>" if faults else "")
        )


def _severity(check: Check) -> tuple[bool, float]:
    unfit = bool(check.right.problem or (check.left is not None and check.left.problem))
    return unfit, check.right.error / check.limit if check.right.error == check.right.error else 0.0
