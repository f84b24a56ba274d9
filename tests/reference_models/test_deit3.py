"""DeiT III's twins and table against the official code, timm and mmpretrain's names."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from porter.planning.check import dialect_tensors
from porter.zoo.architectures import families, find
from tests.golden.cases import ALL, Case

VARIANTS = {a.name: a for a in families()["deit3"]}
CASES = [c.name for c in ALL if c.variant in VARIANTS]
OFFICIAL = [name for name in CASES if name.endswith(".official")]
PARAMETERS = {
    "deit3-small-224": 22_059_496,
    "deit3-small-384": 22_205_416,
    "deit3-medium-224": 38_849_512,
    "deit3-base-224": 86_585_320,
    "deit3-base-384": 86_877_160,
    "deit3-large-224": 304_374_760,
    "deit3-large-384": 304_763_880,
    "deit3-huge-224": 632_126_440,
}


def test_variants_are_those_published() -> None:
    """The family has its eight variants, found by timm's and the official names too."""
    assert {name: a.parameters for name, a in VARIANTS.items()} == PARAMETERS
    assert find("deit3_base_patch16_384").name == "deit3-base-384"
    assert find("DeiT3_huge_patch14_224").name == "deit3-huge-224"
    assert find("deit_medium_patch16_LS").name == "deit3-medium-224"
    assert {a.preprocessing.crop for a in VARIANTS.values()} == {1.0}


@pytest.mark.parametrize("variant", VARIANTS)
def test_models_have_the_stated_size_and_positions(twins: Any, variant: str) -> None:
    """Each model has its row's parameters, and positions for the patches only."""
    with torch.device("meta"):
        model = twins.build(variant, "torch")
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[variant]
    patch = 14 if "huge" in variant else 16
    assert model.pos_embed.shape[1] == (VARIANTS[variant].image_size // patch) ** 2


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
    """The model computes the golden logits: measured 3e-6 in float32, 1e-14 in float64."""
    assert twins.golden_error("deit3-small-224.official", framework, dtype) < bound


def test_twins_agree(twins: Any) -> None:
    """Both frameworks agree in float64 at another image size and number of classes."""
    assert twins.disagreement("deit3-small-224", image_size=64, num_classes=11) < 1e-9


@pytest.mark.parametrize("framework", ["torch", "paddle"])
def test_drop_path_acts_in_training_only(twins: Any, framework: str) -> None:
    """Residual branches are dropped at random in training and kept in evaluation."""
    evaluation, training = twins.drop_path_spread("deit3-small-224", framework, 32)
    assert evaluation == 0
    assert training > 0


def test_every_parameter_moves_the_logits(twins: Any) -> None:
    """No parameter of the model is without effect."""
    assert twins.idle("deit3-small-224", 32) == set()


@pytest.mark.parametrize("case", CASES)
def test_table_gives_each_dialects_tensors(twins: Any, case: str) -> None:
    """Names, dtypes and shapes that the table expects are those of the manifest."""
    assert twins.misnamed(case) == []


@pytest.mark.parametrize("through", ["torch", "paddle", "timm", "mmpretrain"])
@pytest.mark.parametrize("case", ["deit3-small-224.official", "deit3-small-224.timm"])
def test_every_dialect_gives_every_weight_back(twins: Any, case: str, through: str) -> None:
    """There and back again, no tensor changes by a bit."""
    assert twins.round_trip(case, through) == []


def test_table_agrees_with_the_kinds_of_paddles_layers(twins: Any) -> None:
    """What the table makes for Paddle is what transposing by the layers' kinds makes."""
    twins.assert_converted("deit3-small-224.official")


def test_mmpretrain_calls_its_vit_s_layers_the_same() -> None:
    """All but LayerScale has the names of mmpretrain's ViT, which has a golden manifest."""
    vit = dialect_tensors(find("vit-small-p16-224"), "mmpretrain")
    mine = dialect_tensors(find("deit3-small-224"), "mmpretrain")
    scale = {n for n in mine if n.endswith((".attn.gamma1.weight", ".ffn.gamma2.weight"))}
    assert len(scale) == 24
    assert set(mine) - scale == set(vit)
