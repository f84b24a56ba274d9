"""PVTv2's twins and table against the official code, timm, transformers and two Paddle ports."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from porter.zoo.architectures import families, find
from tests.golden.cases import ALL, Case

VARIANTS = {a.name: a for a in families()["pvtv2"]}
CASES = [c.name for c in ALL if c.variant in VARIANTS]
OFFICIAL = [name for name in CASES if name.endswith(".official")]
PARAMETERS = {
    "pvtv2-b0": 3_666_760,
    "pvtv2-b1": 14_009_000,
    "pvtv2-b2": 25_362_856,
    "pvtv2-b3": 45_238_696,
    "pvtv2-b4": 62_556_072,
    "pvtv2-b5": 81_956_008,
    "pvtv2-b2-li": 22_553_512,
}


def test_variants_are_those_published() -> None:
    """The family has its seven variants, found by timm's and the official names too."""
    assert {name: a.parameters for name, a in VARIANTS.items()} == PARAMETERS
    assert find("pvt_v2_b4").name == "pvtv2-b4"
    assert find("pvt_v2_b2_li").name == find("PVT_V2_B2_Linear").name == "pvtv2-b2-li"


@pytest.mark.parametrize("variant", VARIANTS)
def test_models_have_the_stated_size(twins: Any, variant: str) -> None:
    """Each model has its row's parameters."""
    with torch.device("meta"):
        model = twins.build(variant, "torch")
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[variant]


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
    """The model computes the golden logits: measured 2e-6 in float32, 6e-13 in float64."""
    assert twins.golden_error("pvtv2-b0.official", framework, dtype) < bound


@pytest.mark.parametrize("variant", ["pvtv2-b1", "pvtv2-b2-li"])
def test_twins_agree(twins: Any, variant: str) -> None:
    """Both frameworks agree in float64, also where 7×7 pooling does not divide the map."""
    assert twins.disagreement(variant, image_size=64, num_classes=11) < 1e-9


def test_twins_agree_on_an_oblong_image(twins: Any) -> None:
    """Height and width are not confused: both frameworks agree on 64×96 pixels."""
    models = [twins.build("pvtv2-b0", f, num_classes=5) for f in ("torch", "paddle")]
    weights = twins.seeded(models[0])
    image = np.random.default_rng(1).standard_normal((1, 3, 64, 96))
    found = [
        twins.run(framework, model, weights, image, "float64")
        for framework, model in zip(("torch", "paddle"), models, strict=True)
    ]
    assert twins.error(found[1], found[0]) < 1e-9


@pytest.mark.parametrize("framework", ["torch", "paddle"])
def test_drop_path_acts_in_training_alone(twins: Any, framework: str) -> None:
    """Residual branches are dropped at random in training and kept in evaluation."""
    evaluation, training = twins.drop_path_spread("pvtv2-b0", framework, 32)
    assert evaluation == 0
    assert training > 0


@pytest.mark.parametrize("variant", ["pvtv2-b0", "pvtv2-b2-li"])
def test_every_parameter_moves_the_logits(twins: Any, variant: str) -> None:
    """No parameter of the model is without effect."""
    assert twins.idle(variant, 64) == set()


@pytest.mark.parametrize("case", CASES)
def test_table_gives_each_dialects_tensors(twins: Any, case: str) -> None:
    """Names, dtypes and shapes that the table expects are those of the manifest."""
    assert twins.misnamed(case) == []


@pytest.mark.parametrize("through", ["torch", "paddle", "paddleclas", "timm", "hf", "paddlevit"])
@pytest.mark.parametrize("case", ["pvtv2-b0.official", "pvtv2-b0.timm"])
def test_every_dialect_gives_every_weight_back(twins: Any, case: str, through: str) -> None:
    """There and back again, no tensor changes by a bit."""
    assert twins.round_trip(case, through) == []


def test_table_agrees_with_the_kinds_of_paddles_layers(twins: Any) -> None:
    """What the table makes for Paddle is what transposing by the layers' kinds makes."""
    twins.assert_converted("pvtv2-b0.official")
