"""PVT's twins and table against the official code, transformers and Paddle-Image-Models."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from porter.errors import MappingError
from porter.planning.plan import plan
from porter.zoo.architectures import families, find
from porter.zoo.seeded import seeded
from tests.golden.cases import ALL, Case

VARIANTS = {a.name: a for a in families()["pvt"]}
CASES = [c.name for c in ALL if c.variant in VARIANTS]
OFFICIAL = [name for name in CASES if name.endswith(".official")]
TINY = find("pvt-tiny")
TENSORS = {"pvt-tiny": 161, "pvt-small": 301, "pvt-medium": 517, "pvt-large": 751}
PARAMETERS = {
    "pvt-tiny": 13_229_288,
    "pvt-small": 24_485_864,
    "pvt-medium": 44_208_104,
    "pvt-large": 61_369_320,
}


def test_variants_are_those_published() -> None:
    """The family has its four variants, found by the official names too."""
    assert {name: a.parameters for name, a in VARIANTS.items()} == PARAMETERS
    assert find("pvt_medium").name == "pvt-medium"
    assert TINY.preprocessing.crop == 0.875


@pytest.mark.parametrize("variant", VARIANTS)
def test_models_have_the_stated_size(twins: Any, variant: str) -> None:
    """Each model has its row's parameters, and as many tensors as the official one."""
    with torch.device("meta"):
        model = twins.build(variant, "torch")
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[variant]
    assert len(model.state_dict()) == TENSORS[variant]


@pytest.mark.parametrize("case", OFFICIAL)
def test_state_dict_is_that_of_the_official_code(twins: Any, case: str) -> None:
    """Names, dtypes, shapes and order are those of the official model."""
    with torch.device("meta"):
        model = twins.build(Case(case).variant, "torch")
    assert twins.tensors(model) == Case(case).manifest["tensors"]


@pytest.mark.parametrize("framework", ["torch", "paddle"])
@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1e-5), ("float64", 1e-9)])
def test_logits_are_those_of_the_official_code(
    twins: Any, framework: str, dtype: str, bound: float
) -> None:
    """The model computes the golden logits: measured 3e-6 in float32, 1e-13 in float64."""
    assert twins.golden_error("pvt-tiny.official", framework, dtype) < bound


def test_twins_agree(twins: Any) -> None:
    """Both frameworks agree in float64 at another image size and number of classes."""
    assert twins.disagreement("pvt-small", image_size=64, num_classes=11) < 1e-9


def test_twins_resize_positions_alike(twins: Any) -> None:
    """On a map of another size, and an oblong one, both frameworks resize the positions alike."""
    models = [twins.build("pvt-tiny", f, image_size=64, num_classes=5) for f in ("torch", "paddle")]
    weights = twins.seeded(models[0])
    image = np.random.default_rng(1).standard_normal((1, 3, 64, 96))
    found = [
        twins.run(framework, model, weights, image, "float64")
        for framework, model in zip(("torch", "paddle"), models, strict=True)
    ]
    assert twins.error(found[1], found[0]) < 1e-6  # Paddle's ratios are float32 even for float64


def test_positions_of_another_size_are_those_of_the_official_code(twins: Any) -> None:
    """A model for 128 px given the resized tables computes what the model for 64 px does."""
    small, large = (twins.build("pvt-tiny", "torch", image_size=s) for s in (64, 128))
    weights = twins.seeded(small)
    resized = dict(weights)
    for stage, prefix in ((1, 0), (2, 0), (3, 0), (4, 1)):
        table = torch.from_numpy(weights[f"pos_embed{stage}"]).double()
        side = int((table.shape[1] - prefix) ** 0.5)
        grid = table[:, prefix:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
        grid = torch.nn.functional.interpolate(grid, scale_factor=2.0, mode="bilinear")
        rows = [table[:, :prefix], grid.flatten(2).transpose(1, 2)]
        resized[f"pos_embed{stage}"] = torch.cat(rows, 1).numpy()
    image = np.random.default_rng(1).standard_normal((1, 3, 128, 128))
    one = twins.run_torch(small, weights, image, "float64")
    other = twins.run_torch(large, resized, image, "float64")
    assert twins.error(other, one) < 1e-6  # the tables are stored in float32


@pytest.mark.parametrize("framework", ["torch", "paddle"])
def test_drop_path_acts_in_training_only(twins: Any, framework: str) -> None:
    """Residual branches are dropped at random in training and kept in evaluation."""
    evaluation, training = twins.drop_path_spread("pvt-small", framework, 64)
    assert evaluation == 0
    assert training > 0


def test_every_parameter_moves_the_logits(twins: Any) -> None:
    """No parameter of the model is without effect."""
    assert twins.idle("pvt-tiny", 64) == set()


@pytest.mark.parametrize("case", CASES)
def test_table_gives_each_dialects_tensors(twins: Any, case: str) -> None:
    """Names, dtypes and shapes that the table expects are those of the manifest."""
    assert twins.misnamed(case) == []


@pytest.mark.parametrize("through", ["torch", "paddle", "ppim", "hf"])
@pytest.mark.parametrize("case", ["pvt-tiny.official", "pvt-tiny.hf"])
def test_every_dialect_gives_every_weight_back(twins: Any, case: str, through: str) -> None:
    """There and back again, no tensor changes by a bit."""
    assert twins.round_trip(case, through) == []


def test_table_agrees_with_the_kinds_of_paddles_layers(twins: Any) -> None:
    """What the table makes for Paddle is what transposing by the layers' kinds makes."""
    twins.assert_converted("pvt-tiny.official")


def test_the_image_size_is_read_from_the_first_table_and_binds_the_others() -> None:
    """A checkpoint for 256 px is recognised as such; one whose tables disagree is refused."""
    state = seeded(TINY, image_size=256)
    shapes = {name: (tensor.dtype.name, tensor.shape) for name, tensor in state.items()}
    assert plan(TINY, shapes, "torch", "paddle").image_size == 256
    shapes["pos_embed3"] = ("float32", (1, 196, 320))
    with pytest.raises(MappingError, match="pos_embed3"):
        plan(TINY, shapes, "torch", "paddle")
