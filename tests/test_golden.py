"""Every golden case, from its own dialect and container, converted to both frameworks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import porter
from tests.golden.cases import WITH_LOGITS, Case

LIMIT = 1e-5
"""Normalised error of the float32 logits; the largest measured is 3e-6."""
LIMITS = {"vit-small-r26-s32-224.timm": 3e-5}
"""A hybrid's 26 convolutions of standardised weights sum up to 2e-5; 2e-14 in float64."""


@pytest.mark.parametrize("framework", ["torch", "paddle"])
@pytest.mark.parametrize("case", WITH_LOGITS, ids=lambda case: case.name)
def test_converted_case_gives_the_golden_logits(case: Case, framework: str, tmp_path: Path) -> None:
    """A checkpoint converted from its authors' naming computes what their code computes."""
    source = case.save(tmp_path)
    target = tmp_path / f"converted.{framework}"
    target = target.with_suffix({"torch": ".pth", "paddle": ".pdparams"}[framework])
    done = porter.convert(case.variant, source, target, from_=case.side, to=framework, verify=False)
    model = porter.load_model(case.variant, target, framework=framework, **case.settings)
    logits = run(model, framework, case.image())
    assert logits.shape == case.logits.shape
    error = np.abs(logits - case.logits).max() / np.sqrt((case.logits**2).mean())
    assert error < LIMITS.get(case.name, LIMIT), (done.notes, error)


def run(model: object, framework: str, image: np.ndarray) -> np.ndarray:
    """Return the logits of a batch in float32, as float64."""
    if framework == "torch":
        import torch

        with torch.no_grad():
            return model(torch.from_numpy(image)).numpy().astype(np.float64)  # type: ignore[operator]
    import paddle

    with paddle.no_grad():
        return model(paddle.to_tensor(image)).numpy().astype(np.float64)  # type: ignore[operator]
