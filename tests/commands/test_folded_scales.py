"""CaiT's Figure 1: a scaled DeiT is a plain one whose last layers have the scales in them."""

from __future__ import annotations

from pathlib import Path

import pytest

import porter
from porter.errors import MappingError
from porter.verification.compare import compare
from porter.verification.inputs import noise


@pytest.mark.parametrize(
    ("form", "dialect"),
    [("layerscale", "layerscale"), ("rezero-norm", "rezero"), ("skipinit-norm", "rezero")],
)
def test_a_folded_model_computes_what_the_scaled_one_does(
    form: str, dialect: str, tmp_path: Path
) -> None:
    """Both models on one picture in float64; the fold is not undone."""
    import torch

    scaled, plain = f"deit-small-{form}-224", "deit-small-224"
    porter.init(scaled, tmp_path / "a.pth", num_classes=10, image_size=32)
    done = porter.convert(plain, tmp_path / "a.pth", tmp_path / "b.pth", from_=f"torch:{dialect}",
                          to="torch")  # fmt: skip
    assert done.ok
    assert done.weights is not None
    (image,) = noise([0], [2], 32).values()
    with torch.no_grad():
        one, two = (
            porter.load_model(name, tmp_path / file).double()(torch.from_numpy(image).double())
            for name, file in ((scaled, "a.pth"), (plain, "b.pth"))
        )
    assert compare(two.numpy(), one.numpy()).error < 1e-6  # Products are rounded to float32 once.
    with pytest.raises(MappingError, match="no way back"):
        porter.convert(plain, tmp_path / "b.pth", tmp_path / "c.pth", to=f"torch:{dialect}")
