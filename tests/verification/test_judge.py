"""What passes: limits by precision, presets, and outputs that are missing, extra or no numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from porter.commands.verify import verify
from porter.verification import tolerance
from porter.verification.judge import judge
from porter.verification.sides.report import SideReport
from porter.verification.tolerance import PRESETS
from porter.verification.trace import Trace
from porter.verification.verdict import Verdict
from porter.zoo.architectures import find
from porter.zoo.seeded import seeded

REF = np.random.default_rng(0).standard_normal((2, 10))
ROUNDED = REF * (1 + 1e-6)
DEFAULT = PRESETS["default"]


def trace(**outputs: Mapping[str, np.ndarray]) -> Trace:
    report = SideReport("torch", "torch", "torch", "", "")
    return Trace(report, "vit-tiny-p16-224", 10, 32, {"case": REF}, outputs)


LEFT = trace(float64={"case/logits": REF}, float32={"case/logits": ROUNDED})


def right(array: np.ndarray, precision: str = "float32", name: str = "logits") -> Trace:
    return trace(**{precision: {f"case/{name}": array}})


def problems(other: Trace, precision: str = "float32", preset: str = "default") -> list[str]:
    return [check.problem for check in judge(LEFT, other, precision)]


def test_rounding_passes_and_more_does_not() -> None:
    """Up to eight times the source's own error passes in float32."""
    own = judge(LEFT, LEFT, "float32")[0].left
    checks = judge(LEFT, right(REF * (1 + 4e-6)), "float32")
    assert own is None
    assert [check.passed for check in checks] == [True]
    assert checks[0].left is not None
    assert checks[0].limit == 8 * checks[0].left.error > 256 * 2.0**-24
    assert "over the limit" in problems(right(REF * (1 + 4e-5)))[0]


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (REF[:, :5], "shape [2, 5], not [2, 10]"),
        (REF[:0], "shape [0, 10], not [2, 10]"),
        (np.where(REF > 1, np.nan, REF), "NaN"),
        (np.where(REF > 1, np.inf, REF), "infinite"),
    ],
)
def test_what_is_no_output_fails(array: np.ndarray, said: str) -> None:
    """Misshapen, empty, NaN and infinite outputs fail with that word."""
    assert problems(right(array)) == [said]


def test_missing_and_extra_outputs_fail() -> None:
    """Outputs are paired by name: one that only one side has fails, whichever it is."""
    assert problems(right(REF, name="aux")) == ["missing", "the left side is missing"]
    both = trace(float32={"case/logits": REF, "case/aux": REF})
    assert problems(both) == ["", "the left side is missing"]
    assert problems(trace(float32={})) == ["missing"]


def test_a_left_side_that_is_no_number_fails() -> None:
    """NaN in the source is no reason to let NaN in the port pass."""
    for precision in ("float64", "float32"):
        wrong = {**LEFT.outputs, precision: {"case/logits": REF * np.nan}}
        checks = judge(replace(LEFT, outputs=wrong), right(REF), "float32")
        assert not any(check.passed for check in checks)
        assert "NaN" in checks[-1].problem
    empty = replace(LEFT, outputs={p: {"case/logits": REF[:0]} for p in LEFT.outputs})
    assert judge(empty, right(REF[:0]), "float32")[0].problem == "the left side is empty"


@pytest.mark.parametrize(
    ("precision", "units", "unit"),
    [
        ("float64", 8 * 32 * 2.0**15, 2.0**-53), ("float32", 256, 2.0**-24),
        ("tf32", 32, 2.0**-11), ("float16", 32, 2.0**-11), ("bfloat16", 32, 2.0**-8),
    ],
)  # fmt: skip
def test_each_precision_has_its_floor(precision: str, units: float, unit: float) -> None:
    """Where the source's own error is small the limit is so many units of roundoff."""
    exact = precision == "float64"
    found = tolerance.limit_exact(0.0) if exact else tolerance.limit(precision, 0.0)
    assert found == units * unit
    assert tolerance.UNIT_ROUNDOFF[precision] == unit


def test_a_coarse_limit_can_be_failed() -> None:
    """No precision's floor lets a fault as large as an eighth of the logits pass."""
    for precision in tolerance.COARSE:
        assert tolerance.limit(precision, 20 * 2.0**-24) <= 0.16
        assert not problems(right(REF * (1 + 0.01 * tolerance.roundoff(precision)), precision),
                            precision)[-1]  # fmt: skip
        assert problems(right(REF[:, ::-1], precision), precision)[-1]


def test_absolute_figures_are_stated_and_not_judged() -> None:
    """A large scale differs by more than 1e-4 side against side, as the source does of itself."""
    large = trace(float64={"case/logits": 1e5 * REF}, float32={"case/logits": 1e5 * ROUNDED})
    port = trace(float32={"case/logits": 1e5 * REF})
    (check,) = judge(large, port, "float32")
    assert check.passed
    assert check.direct is not None
    assert check.direct.max_abs > 1e-4
    assert check.direct.max_abs == float(np.abs(1e5 * REF - 1e5 * ROUNDED).max())
    assert check.direct.top1 == 1


def test_presets_are_the_protocols_of_the_field() -> None:
    """Seeds, batch sizes and the difference asked for are those that the documentation states."""
    assert {name: (len(p.seeds), p.batch_sizes, p.asked) for name, p in PRESETS.items()} == {
        "default": (1, (1, 2), None),
        "strict": (5, (1, 4), None),
        "paddleclas": (5, (1, 4), 1e-4),
    }


def test_a_preset_runs_every_seed_at_every_batch_size() -> None:
    """`paddleclas` makes ten runs a precision, and its name stands in the verdict."""
    variant = find("vit-tiny-p16-224")
    state = seeded(variant, num_classes=10, image_size=32)
    verdict: Verdict = verify(variant, state, state, image_size=32, preset="paddleclas")
    assert verdict.passed, verdict.reason
    assert verdict.preset == "paddleclas"
    assert verdict.cases == tuple(f"seed{s}.batch{b}" for s in range(5) for b in (1, 4))
    assert len(verdict.checks) == 20
    assert any("TF32 is off" in note for note in verdict.notes)
