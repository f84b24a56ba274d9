"""What need not be typed, and the proofs of checkpoints that a conversion changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import porter
from porter.errors import InputError, UsageError

SMALL = "pvtv2-b0"


@pytest.fixture(scope="module")
def lightning(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as a training framework writes it: a prefix, a loss, an epoch."""
    folder = tmp_path_factory.mktemp("lightning")
    porter.init(SMALL, folder / "plain.pth", num_classes=10)
    state = torch.load(folder / "plain.pth", weights_only=True)
    wrapped = {f"model.{name}": tensor for name, tensor in state.items()}
    path = folder / "epoch=3.ckpt"
    torch.save({"epoch": 3, "state_dict": {**wrapped, "criterion.weight": torch.ones(10)}}, path)
    return path


def test_input_and_output_are_enough(lightning: Path, tmp_path: Path) -> None:
    """Architecture, format and naming come from the content and the suffix."""
    done = porter.convert(None, lightning, tmp_path / "o.pdparams", verify=False)
    assert (done.plan.architecture.name, done.from_, done.to) == (SMALL, "torch", "paddle")
    assert "prefix 'model.'; left out: criterion.weight" in done.notes


def test_several_variants_are_listed(tmp_path: Path) -> None:
    """ViT-Tiny and DeiT-Tiny have the same tensors: the user decides."""
    porter.init("deit-tiny-224", tmp_path / "a.pth")
    state = torch.load(tmp_path / "a.pth", weights_only=True)
    torch.save(state, tmp_path / "b.pth")
    with pytest.raises(UsageError, match=r"fits .*deit-tiny-224.*name one of them"):
        porter.convert(None, tmp_path / "b.pth", tmp_path / "o.pdparams", verify=False)
    assert not (tmp_path / "o.pdparams").exists()


def test_what_cannot_be_recognised_is_refused(tmp_path: Path) -> None:
    """Unknown tensors, an output without a suffix: one line each."""
    torch.save({"x": torch.ones(3)}, tmp_path / "a.pth")
    with pytest.raises(InputError, match="fits no architecture"):
        porter.convert(None, tmp_path / "a.pth", tmp_path / "o.pth")
    with pytest.raises(UsageError, match="--to is needed"):
        porter.convert(SMALL, tmp_path / "a.pth", tmp_path / "o", from_="torch")


CHANGES: dict[str, tuple[dict[str, Any], int]] = {
    "classes": ({"adapt": True, "num_classes": 7}, 7),
    "no classifier": ({"num_classes": 0}, 0),
    "a filled classifier": ({"fill": {"head.weight": 0, "head.bias": 0}}, 10),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_checkpoint_is_proven_with_its_changes(
    change: str, lightning: Path, tmp_path: Path
) -> None:
    """Weights and outputs of both sides are compared after the change."""
    options, classes = CHANGES[change]
    done = porter.convert(SMALL, lightning, tmp_path / "o.pth", from_="torch", **options)
    assert done.weights is not None
    assert done.weights.holds
    assert done.verdict is not None
    assert done.verdict.passed, done.verdict.reason
    assert done.plan.num_classes == classes
