"""Every golden case, from its own dialect and container, converted to both frameworks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import porter
from porter.frameworks.fill import fill
from porter.frameworks.models import build
from porter.planning.fit import fit
from porter.zoo.architectures import find
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
    model = loaded(case, target, framework)
    logits = case.kept(run(model, framework, case.image()))
    assert logits.shape == case.logits.shape
    error = np.abs(logits - case.logits).max() / np.sqrt((case.logits**2).mean())
    assert error < LIMITS.get(case.name, LIMIT), (done.notes, error)


@pytest.mark.parametrize("framework", ["torch", "paddle"])
@pytest.mark.parametrize("case", [c for c in WITH_LOGITS if c.settings], ids=lambda case: case.name)
def test_a_case_loaded_as_its_dialect_computes_gives_its_logits(
    case: Case, framework: str, tmp_path: Path
) -> None:
    """The authors' own file, loaded in the behaviour of its dialect, needs no setting by hand."""
    dialect = case.side.partition(":")[2]
    model = porter.load_model(
        case.variant, case.save(tmp_path), framework, dialect=dialect, behaviour="dialect"
    )
    logits = case.kept(run(model, framework, case.image()))
    error = np.abs(logits - case.logits).max() / np.sqrt((case.logits**2).mean())
    assert error < LIMIT, error


def loaded(case: Case, path: Path, framework: str) -> object:
    """Load a model that computes as the case's own code does."""
    state = porter.open(path)
    fitted = fit(find(case.variant), state, None, framework)
    model = build(
        fitted.architecture, framework, num_classes=fitted.plan.num_classes,
        image_size=fitted.plan.image_size, features=fitted.plan.features, **case.settings,
    )  # fmt: skip
    fill(model, fitted.plan.apply(fitted.state), framework)
    model.eval()
    return model


def run(model: object, framework: str, image: np.ndarray) -> np.ndarray:
    """Return the logits of a batch in float32, as float64."""
    if framework == "torch":
        import torch

        with torch.no_grad():
            return model(torch.from_numpy(image)).numpy().astype(np.float64)  # type: ignore[operator]
    import paddle

    with paddle.no_grad():
        return model(paddle.to_tensor(image)).numpy().astype(np.float64)  # type: ignore[operator]
