"""Limits of the user's: how they are written, and what they are compared with."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import porter
from porter.errors import UsageError
from porter.report.machine import as_json
from porter.report.text import plain
from porter.verification.compare import compare
from porter.verification.judge import MEASURES, QUANTISED, agreement, bounds
from porter.verification.sides.report import SideReport
from porter.verification.trace import Trace

SIDE = SideReport(label="a", framework="torch", dialect="torch", file="", format="torch",
                  weights=("float32",))  # fmt: skip


def trace(precision: str, **outputs: np.ndarray) -> Trace:
    """Return what a side computed: {case: logits}."""
    arrays = {f"{case}/logits": array for case, array in outputs.items()}
    inputs = {case: np.zeros((1, 3, 8, 8)) for case in outputs}
    return Trace(SIDE, "x", 3, 8, inputs, {precision: arrays})


def test_limits_are_read_and_shown_alike() -> None:
    """Any number of figures, spaces allowed; the last of one figure counts."""
    assert ", ".join(map(str, bounds(QUANTISED))) == "top1>=99, cosine>=0.999"
    assert [str(b) for b in bounds(" error <= 1e-3 ,top1>=50,top1>=60")] == [
        "error<=0.001",
        "top1>=60",
    ]


@pytest.mark.parametrize(
    ("text", "why"),
    [("top1>99", "not a limit"), ("", "not a limit"), ("top9>=1", "use top1>="),
     ("top1<=99", "the other way"), ("error>=1", "the other way"),
     ("top1>=0.99", "in percent"), ("cosine>=1e", "not a number"),
     ("cosine>=0.9,", "not a limit")],
)  # fmt: skip
def test_other_texts_are_refused(text: str, why: str) -> None:
    """With what may be written."""
    with pytest.raises(UsageError, match=why):
        bounds(text)


def test_all_inputs_are_judged_together() -> None:
    """Of four pictures one is decided otherwise: three quarters agree."""
    logits = np.eye(4)[:, :3] + np.arange(3) / 10
    other = logits.copy()
    other[0] = [0, 0, 1]
    left = trace("float64", a=logits[:1], b=logits[1:])
    right = trace("float32", a=other[:1], b=other[1:])
    (check,) = agreement(left, right, "float32", bounds("top1>=75"))
    assert (check.passed, check.case, check.right.top1) == (True, "2 inputs together", 0.75)
    (check,) = agreement(left, right, "float32", bounds("top1>=76,cosine>=0.999"))
    assert "top1 is 75, top1>=76 is required; cosine is 0." in check.problem


def test_an_output_that_is_missing_fails() -> None:
    """As does one that is not finite, or has another shape."""
    left = trace("float64", a=np.ones((1, 3)))
    for wrong in ({}, {"a": np.full((1, 3), np.nan)}, {"a": np.ones((1, 2))}):
        checks = agreement(left, trace("float32", **wrong), "float32", bounds("error<=9"))
        assert [check.passed for check in checks] == [False]


@pytest.mark.parametrize("measure", sorted(MEASURES))
def test_every_figure_can_be_limited(measure: str) -> None:
    """Each is met by equal outputs, and not by very different ones."""
    least = {"top1": 50, "top5": 50, "cosine": 0.5, "snr": 0.5}
    (bound,) = bounds(f"{measure}>={least[measure]}" if measure in least else f"{measure}<=0.5")
    rows = np.random.default_rng(0).standard_normal((4, 9))
    assert bound.problem(compare(rows, rows)) == ""
    assert measure in bound.problem(compare(rows - 100 * rows.argmax(1)[:, None] * rows, rows))


def test_a_map_has_no_best_class() -> None:
    """Agreement of decisions is only defined for scores."""
    maps = np.ones((1, 2, 3, 3))
    assert "not class scores" in bounds("top1>=50")[0].problem(compare(maps, maps))


def test_a_verdict_says_what_was_asked(tmp_path: Path) -> None:
    """A perturbed checkpoint passes by cosine and fails by agreement within 1e-9."""
    one, two = tmp_path / "a.pth", tmp_path / "b.safetensors"
    porter.init("pvtv2-b0", one)
    porter.convert("pvtv2-b0", one, two, from_="torch", to="safetensors", verify=False,
                   dtype="bf16")  # fmt: skip
    found = porter.verify("pvtv2-b0", one, two, judge="cosine>=0.9", diagnose=False)
    assert all(check.passed for check in found.checks)
    assert found.limits == "cosine>=0.9"
    assert json.loads(as_json(found))["checks"][0]["limit"] is None
    assert "within cosine>=0.9" in plain(found)
    found = porter.verify("pvtv2-b0", one, two, judge="max_abs<=1e-30", diagnose=False)
    assert found.failed
    assert "max_abs<=1e-30 is required" in found.reason
