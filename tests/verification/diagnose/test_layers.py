"""Layer by layer: the first divergence, rounding or a fault, and which modules cause it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from porter.frameworks import exchange
from porter.verification.checks import CARRIES, CAUSES, UNKNOWN, LayerCheck
from porter.verification.diagnose import isolate
from porter.verification.diagnose.layers import (
    Isolated,
    compare_layers,
    describe,
    first_divergence,
    inside,
    roles,
)
from porter.verification.sides.report import SideReport
from porter.verification.sides.side import Can, Side
from porter.verification.trace import Layers, Trace

PLACES = ("embed", "blocks.0.attn", "blocks.0", "blocks.1.attn", "blocks.1", "head", "")
DRAW = np.random.default_rng(0)
REF = {place: DRAW.standard_normal((2, 8)) for place in PLACES}


def trace(**precisions: Mapping[str, np.ndarray]) -> Trace:
    layers = {
        precision: Layers(
            values, {p: a.shape for p, a in values.items()}, dict.fromkeys(values, "X")
        )
        for precision, values in precisions.items()
    }
    report = SideReport("torch", "torch", "torch", "", "")
    return Trace(report, "x", 10, 32, {}, {}, layers)


def moved(by: float, *places: str) -> dict[str, np.ndarray]:
    return {p: a * (1 + by) if p in places else a * (1 + 1e-14) for p, a in REF.items()}


LEFT = trace(float64=REF, float32={p: a * (1 + 1e-7) for p, a in REF.items()})


def compared(right: Mapping[str, np.ndarray], precision: str = "float64") -> tuple[LayerCheck, ...]:
    return compare_layers(LEFT, trace(**{precision: right}), "float32")


def test_rounding_is_told_from_a_fault() -> None:
    """Small everywhere is rounding; nothing, then a jump, is a fault that begins somewhere."""
    good = compared(moved(0.0))
    assert first_divergence(good) is None
    assert describe(good).startswith("rounding only")
    wrong = compared(moved(1e-2, *PLACES[3:]))
    first = first_divergence(wrong)
    assert first is not None
    assert first.place == "blocks.1.attn"
    assert describe(wrong).startswith("a fault, not rounding: blocks.1.attn differs by")
    assert "all 3 layers before it" in describe(wrong)


def test_without_a_float64_run_layers_are_judged_at_the_precision() -> None:
    """A float32 trace is held to float32 limits: rounding passes, a small fault does not."""
    assert all(check.passed for check in compared(moved(1e-6, *PLACES), "float32"))
    assert not any(check.passed for check in compared(moved(1e-4, *PLACES), "float32"))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_layer_that_is_no_number_fails(value: float) -> None:
    """NaN within the model is a fault though the outputs may hide it."""
    checks = compared({**moved(0.0), "blocks.0": np.full((2, 8), value)})
    assert [check.place for check in checks if not check.passed] == ["blocks.0"]


def test_a_layer_of_another_shape_fails() -> None:
    """The shape is said, not hidden by what of the values is kept."""
    (check,) = [c for c in compared({**moved(0.0), "head": REF["head"].T}) if not c.passed]
    assert check.problem == "shape [8, 2], not [2, 8]"


def test_dead_layers_are_no_fault_and_foreign_ones_are_left_out() -> None:
    """A ReLU that is zero on both sides passes; a module that one side lacks is not compared."""
    left = trace(float64={"a": np.zeros((2, 8)), "b": REF[""]})
    right = trace(float64={"a": np.zeros((2, 8)), "c": REF[""]})
    assert [(c.place, c.passed) for c in compare_layers(left, right, "float32")] == [("a", True)]


def test_a_module_that_differs_by_itself_causes_and_others_propagate() -> None:
    """Of nested modules the innermost that differs causes; one that was not tried is unknown."""
    checks = compared(moved(1e-2, *PLACES[3:]))
    isolated = {p: Isolated(1e-2, 1e-9) for p in ("blocks.1.attn", "blocks.1", "")}
    isolated["head"] = Isolated(1e-14, 1e-9)
    found = {check.place: check.role for check in roles(checks, isolated)}
    assert found["embed"] == ""
    assert found["blocks.1.attn"] == CAUSES
    assert found["blocks.1"] == found["head"] == found[""] == CARRIES
    del isolated["head"]
    assert {c.place: c.role for c in roles(checks, isolated)}["head"] == UNKNOWN
    isolated["head"] = Isolated(float("nan"), 1e-9)
    assert {c.place: c.role for c in roles(checks, isolated)}["head"] == CAUSES


def test_inside_is_by_path() -> None:
    """`blocks.10` is no part of `blocks.1`; everything is a part of the whole model."""
    assert inside("blocks.1.attn", "blocks.1")
    assert inside("blocks.1.attn#2", "blocks.1")
    assert not inside("blocks.10.attn", "blocks.1")
    assert not inside("blocks.1", "blocks.1")
    assert inside("head", "")


def test_the_calls_of_every_chunk_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large model's calls are many files: the diagnosis reads the first after the last."""

    class Model(Side):
        trace = replace(LEFT, inputs={"x": np.ones(1)}, outputs={"float64": {}})

        def calls(self, inputs: Path, case: str, precision: str, modules: Any, name: str) -> str:
            path = tmp_path / name
            exchange.save(path, {}, {"calls": {key: [] for key in modules}})
            return str(path)

    monkeypatch.setattr(isolate, "_CHUNK", 1)
    side = Model(LEFT.report, "a", 10, 32, Can.RUN)
    checks = compared(moved(1e-2, *PLACES[:4]))
    chunks = list(isolate.calls_of(checks, side, tmp_path / "inputs"))
    assert len(chunks) == 4
    for chunk in chunks:
        assert set(chunk.places) <= set(exchange.about(chunk.path)["calls"])
        assert chunk.places
