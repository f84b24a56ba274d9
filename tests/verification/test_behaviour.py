"""The verdict says how far a dialect's own behaviour is, and recognises it in a foreign model."""

from __future__ import annotations

from pathlib import Path

import pytest

import porter
from porter.commands.verify import verify
from porter.report.figures import behaviour_lines
from porter.report.machine import as_dict
from porter.report.text import plain
from porter.testing import record

NAME = "deit3-small-224"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One checkpoint in two dialects, one of which computes otherwise."""
    path = tmp_path_factory.mktemp("behaviour")
    porter.init(NAME, path / "a.pth", num_classes=10, image_size=64)
    porter.convert(NAME, path / "a.pth", path / "b.pth", from_="torch", to="torch:mmpretrain",
                   verify=False)  # fmt: skip
    return path


def test_both_behaviours_are_compared_and_named(folder: Path) -> None:
    """The canonical one passes; the dialect's is off by the half, and the report says which."""
    verdict = verify(NAME, folder / "a.pth", folder / "b.pth", batch_sizes=[1])
    assert verdict.passed
    assert [one.side for one in verdict.deviations] == ["right", "both"]
    assert all(0.1 < one.figures.error < 2 for one in verdict.deviations)
    assert verdict.deviations[0].settings == {"norm1_twice": True}
    first, second = behaviour_lines(verdict)
    assert first.startswith("right as its dialect's code computes (torch:mmpretrain applies")
    assert second.startswith("both sides, each as its dialect's code computes: they differ by")
    assert "behaviour: right as" in plain(verdict)
    assert as_dict(verdict)["deviations"][0]["behaviour"] == "dialect"


def test_a_verdict_on_the_dialect_s_behaviour_fails(folder: Path) -> None:
    """With `behaviour="dialect"` each side computes as its own code, and these two differ."""
    verdict = verify(
        NAME, folder / "a.pth", folder / "b.pth", batch_sizes=[1], behaviour="dialect",
        diagnose=False,
    )  # fmt: skip
    assert verdict.failed
    assert verdict.right.behaviour == {"norm1_twice": True}
    assert verdict.left.behaviour == {}
    canonical = {one.side: one.figures.error for one in verdict.deviations}
    assert canonical["both"] < 1e-12
    assert canonical["right"] > 0.1


@pytest.mark.parametrize("behaviour", ["canonical", "dialect"])
def test_a_recorded_model_of_the_dialect_is_recognised(folder: Path, behaviour: str) -> None:
    """A trace of the authors' own code fails with its name, or agrees in its own behaviour."""
    trace = folder / f"{behaviour}.safetensors"
    model = porter.load_model(NAME, folder / "b.pth", behaviour="dialect")
    record(model, trace, architecture=NAME, num_classes=10, image_size=64)
    verdict = verify(NAME, folder / "b.pth", trace, behaviour=behaviour)
    assert verdict.passed == (behaviour == "dialect")
    if not verdict.passed:
        assert "computes as mmpretrain" in str(verdict.findings[0])
        assert "--behaviour dialect" in verdict.findings[0].remedy
        assert verdict.findings[0].after is not None
        assert verdict.findings[0].after < 1e-10
