"""The forward proof, on the smallest Shunted Transformer at 64 px."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import porter
from porter.errors import UsageError
from porter.planning.plan import plan
from porter.planning.recognise import shapes_of
from porter.tensors.dtypes import DTYPES
from porter.tensors.lazy import LazyTensor
from porter.tensors.state_dict import StateDict
from porter.zoo.architectures import find
from porter.zoo.seeded import seeded

VARIANT = find("shunted-t")
SMALL = {"image_size": 64, "batch_sizes": (2,)}


@pytest.fixture(scope="module")
def canonical() -> StateDict:
    return StateDict.of(seeded(VARIANT, num_classes=10).arrays())


@pytest.fixture(scope="module")
def ported(canonical: StateDict) -> StateDict:
    return plan(VARIANT, shapes_of(canonical), "torch", "paddle").apply(canonical)


def test_a_good_port_passes(canonical: StateDict, ported: StateDict) -> None:
    """torch and paddle agree, sharply in float64 and within rounding in float32."""
    steps: list[tuple[str, int, int]] = []
    verdict = porter.verify(
        VARIANT, canonical, ported, left_dialect="torch", right_dialect="paddle",
        progress=lambda *call: steps.append(call), **SMALL,
    )  # fmt: skip
    assert verdict.passed, verdict.reason
    names = [name for name, *_ in steps]
    assert names[:2] == ["reading the checkpoints", "starting torch and paddle"]
    assert names[-1] == "comparing the weights"
    running = "; ".join(names[2:-1])
    for run in ("left (torch): float64", "left (torch): float32", "right (paddle): float64"):
        assert run in running
    assert [(c.precision, c.case) for c in verdict.checks] == [
        ("float64", "seed0.batch2"),
        ("float32", "seed0.batch2"),
    ]
    exact, single = verdict.checks
    assert exact.right.error < 1e-11  # 7e-13 measured
    assert single.left is not None
    assert 0 < single.left.error < 1e-5  # 2e-6 measured
    assert verdict.left.framework == "torch"
    assert "paddle" in verdict.right.versions


def test_a_square_weight_left_untransposed_fails(canonical: StateDict, ported: StateDict) -> None:
    """The classical fault, which no shape check sees, fails in both precisions."""
    name = "block4.0.attn.proj.weight"
    wrong = StateDict({**ported, name: canonical[name]})
    steps: list[str] = []
    verdict = porter.verify(
        VARIANT, canonical, wrong, right_dialect="paddle",
        progress=lambda step, *_: steps.append(step), **SMALL,
    )  # fmt: skip
    assert verdict.failed
    assert all(not check.passed for check in verdict.checks)
    assert "layers" in steps
    assert steps[-1] == "looking for the fault"
    assert "over the limit" in verdict.reason


def test_nan_fails(canonical: StateDict, ported: StateDict) -> None:
    """NaN on the right side is said to be NaN."""
    bias = ported["head.bias"].read().copy()
    bias[0] = np.nan
    wrong = StateDict({**ported, "head.bias": LazyTensor.of(bias)})
    verdict = porter.verify(VARIANT, canonical, wrong, right_dialect="paddle", **SMALL)
    assert verdict.failed
    assert {check.problem for check in verdict.checks} == {"NaN"}


def test_a_cast_is_judged_apart_from_its_rounding(canonical: StateDict, ported: StateDict) -> None:
    """Weights rounded to float16 pass at full sharpness, since the left side's are rounded too."""
    half = StateDict(
        {
            n: LazyTensor.of(t.read().astype(DTYPES["float16"].numpy)) if t.dtype.is_float else t
            for n, t in ported.items()
        }
    )
    verdict = porter.verify(VARIANT, canonical, half, right_dialect="paddle", **SMALL)
    assert verdict.passed, verdict.reason
    assert verdict.checks[0].right.error < 1e-11
    assert "rounded to float16" in verdict.notes[0]


def test_two_different_models_are_refused(canonical: StateDict) -> None:
    """Sides of another number of classes are no pair."""
    other = seeded(VARIANT, num_classes=7)
    with pytest.raises(UsageError, match="different numbers of classes: 10 and 7"):
        porter.verify(VARIANT, canonical, other, **SMALL)


def test_without_a_framework_the_proof_is_not_made(
    canonical: StateDict, tmp_path, monkeypatch
) -> None:  # type: ignore[no-untyped-def]
    """A missing framework is neither passed nor failed, and the reason says what to install."""
    (tmp_path / "paddle.py").write_text("raise ModuleNotFoundError('no', name='paddle')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    verdict = porter.verify(
        VARIANT, canonical, plan(VARIANT, shapes_of(canonical), "torch", "paddle").apply(canonical),
        right_dialect="paddle", **SMALL,
    )  # fmt: skip
    assert not verdict.passed
    assert not verdict.failed
    assert "pip install paddlepaddle" in verdict.reason


def test_verify_imports_no_framework() -> None:
    """Asking for `porter.verify` imports neither torch nor paddle."""
    code = (
        "import sys, porter, porter.verification; assert callable(porter.verify);"
        " from porter.verification.weights import prove_weights;"
        " print(sorted({'torch', 'paddle', 'onnx'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
