"""Swin's twins and table against the official code, timm, transformers and the Paddle ports."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from porter.mapping.constants import constants
from porter.planning.check import dialect_tensors
from porter.planning.plan import plan
from porter.zoo.architectures import families, find
from porter.zoo.seeded import seeded
from tests.golden.cases import ALL, Case

VARIANTS = {a.name: a for a in families()["swin"]}
CASES = [c.name for c in ALL if c.variant in VARIANTS]
OFFICIAL = [name for name in CASES if name.endswith(".official")]
TINY = find("swin-tiny-w7-224")
DIALECTS = [d for d in TINY.table.dialects if d != "torch"]
SMALL = {"embed_dim": 8, "depths": [2, 2], "num_heads": [2, 4]}
PARAMETERS = {
    "swin-tiny-w7-224": 28_288_354,
    "swin-small-w7-224": 49_606_258,
    "swin-base-w7-224": 87_768_224,
    "swin-large-w7-224": 196_532_476,
    "swin-base-w12-384": 87_903_584,
    "swin-large-w12-384": 196_735_516,
}


def test_variants_are_those_published() -> None:
    """The family has its six variants, found by the official names and PaddleClas's too."""
    assert {name: a.parameters for name, a in VARIANTS.items()} == PARAMETERS
    assert find("swin_large_patch4_window12_384").name == "swin-large-w12-384"
    assert find("SwinTransformer_tiny_patch4_window7_224") is TINY
    crops = {a.image_size: a.preprocessing.crop for a in VARIANTS.values()}
    assert crops == {224: 0.875, 384: 1.0}


@pytest.mark.parametrize("variant", VARIANTS)
def test_models_have_the_stated_size(twins: Any, variant: str) -> None:
    """Each model has its row's parameters."""
    with torch.device("meta"):
        model = twins.build(variant, "torch")
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[variant]


@pytest.mark.parametrize("case", OFFICIAL)
def test_state_dict_is_that_of_the_official_code(twins: Any, case: str) -> None:
    """Names, dtypes, shapes and order are the official model's, its constants among them."""
    with torch.device("meta"):
        model = twins.build(Case(case).variant, "torch")
    assert twins.tensors(model) == Case(case).manifest["tensors"]


@pytest.mark.parametrize("framework", ["torch", "paddle"])
@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1e-5), ("float64", 1e-9)])
def test_logits_are_those_of_the_official_code(
    twins: Any, framework: str, dtype: str, bound: float
) -> None:
    """The model computes the golden logits: measured 4e-6 in float32, 4e-13 in float64."""
    assert twins.golden_error("swin-tiny-w7-224.official", framework, dtype) < bound


@pytest.mark.parametrize(("image_size", "window"), [(32, 4), (16, 4), (40, 5)])
def test_twins_agree(image_size: int, window: int, twins: Any) -> None:
    """Both frameworks agree in float64 with a shift in both stages, in one and in none."""
    assert small_disagreement(twins, image_size, window) < 1e-9


def small_disagreement(twins: Any, image_size: int, window: int) -> float:
    """Return how far two small models are apart in float64."""
    found, weights = [], {}
    image = np.random.default_rng(5).standard_normal((2, 3, image_size, image_size))
    for framework in ("torch", "paddle"):
        model = module(framework).SwinTransformer(
            image_size=image_size, patch_size=2, window_size=window, num_classes=7, **SMALL
        )
        weights = weights or twins.seeded(model)
        found.append(twins.run(framework, model, weights, image, "float64"))
    return twins.error(found[1], found[0])


def module(framework: str) -> Any:
    """Return the twin of a framework."""
    return __import__(f"porter.reference_models.{framework}.swin", fromlist=["SwinTransformer"])


@pytest.mark.parametrize("framework", ["torch", "paddle"])
@pytest.mark.parametrize(
    ("image_size", "windows", "masks"),
    [
        (32, [4, 4], {"layers.0.blocks.1.attn_mask", "layers.1.blocks.1.attn_mask"}),
        (16, [4, 4], {"layers.0.blocks.1.attn_mask"}),
        (8, [4, 2], set()),
    ],
)
def test_a_small_map_is_one_window(
    framework: str, image_size: int, windows: list[int], masks: set[str]
) -> None:
    """A map that is not larger than the window is the window, and nothing is shifted."""
    model = module(framework).SwinTransformer(
        image_size=image_size, patch_size=2, window_size=4, num_classes=3, **SMALL
    )
    assert [stage.blocks[1].window for stage in model.layers] == windows
    assert [stage.blocks[0].shift for stage in model.layers] == [0, 0]
    assert {name for name in model.state_dict() if name.endswith("attn_mask")} == masks
    table = model.layers[1].blocks[0].attn.relative_position_bias_table
    assert tuple(table.shape) == ((2 * windows[1] - 1) ** 2, 4)


@pytest.mark.parametrize("framework", ["torch", "paddle"])
def test_a_map_without_whole_windows_is_refused(twins: Any, framework: str) -> None:
    """A map of 16×16 tokens cannot be cut into windows of 7."""
    with pytest.raises(ValueError, match="no whole windows of 7"):
        twins.build("swin-tiny-w7-224", framework, image_size=64)


@pytest.mark.parametrize("framework", ["torch", "paddle"])
@pytest.mark.parametrize("image_size", [224, 448])
def test_constants_are_computed_bit_for_bit(twins: Any, framework: str, image_size: int) -> None:
    """What porter writes for the buffers is what the models register, without a negative zero."""
    model = twins.build("swin-tiny-w7-224", framework, image_size=image_size, num_classes=2)
    made = constants("swin", TINY.config, image_size)
    own = {n: v.numpy() for n, v in model.state_dict().items() if n.endswith(("_index", "_mask"))}
    assert set(made) == set(own)
    for name, value in own.items():
        assert value.dtype == made[name].dtype
        assert value.shape == made[name].shape
        assert value.tobytes() == made[name].tobytes()


def test_attention_sees_neighbours_alone(twins: Any) -> None:
    """In a shifted window a token's output does not depend on one from beyond the edge."""
    from porter.reference_models.torch.swin import SwinBlock

    torch.manual_seed(0)
    block = SwinBlock(8, 8, 2, 4, 2, 4, 0.0, 0.0).double().eval()
    x = torch.randn(1, 64, 8, dtype=torch.float64, requires_grad=True)
    block(x)[0, 0].sum().backward()  # the top left token lies in the last window
    seen = x.grad.abs().sum(-1).reshape(8, 8) > 1e-30  # exp(-100) is not zero
    assert seen.nonzero().tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]


@pytest.mark.parametrize("framework", ["torch", "paddle"])
def test_drop_path_acts_in_training_alone(twins: Any, framework: str) -> None:
    """Residual branches are dropped at random in training and kept in evaluation."""
    evaluation, training = twins.drop_path_spread("swin-tiny-w7-224", framework, 224)
    assert evaluation == 0
    assert training > 0


def test_every_parameter_moves_the_logits(twins: Any) -> None:
    """No parameter of the model is without effect."""
    assert twins.idle("swin-tiny-w7-224", 224) == set()


@pytest.mark.parametrize("case", CASES)
def test_table_gives_each_dialects_tensors(twins: Any, case: str) -> None:
    """Names, dtypes and shapes that the table expects are those of the manifest."""
    assert twins.misnamed(case) == []


def test_transformers_4_has_its_own_names() -> None:
    """A block's tensors as transformers 4 saves them, which keeps the index and not the mask."""
    block = "swin.encoder.layers.2.blocks.5."
    layers = (
        "layernorm_before attention.self.query attention.self.key attention.self.value"
        " attention.output.dense layernorm_after intermediate.dense output.dense"
    )
    assert {n for n in dialect_tensors(TINY, "hf-v4") if n.startswith(block)} == {
        *(f"{block}{layer}.{leaf}" for layer in layers.split() for leaf in ("weight", "bias")),
        f"{block}attention.self.relative_position_bias_table",
        f"{block}attention.self.relative_position_index",
    }


@pytest.mark.parametrize("through", DIALECTS)
@pytest.mark.parametrize("case", ["swin-tiny-w7-224.official", "swin-tiny-w7-224.paddlevit"])
def test_every_dialect_gives_every_weight_back(twins: Any, case: str, through: str) -> None:
    """There and back again no tensor changes by a bit, nor do constants that `through` lacks."""
    assert twins.round_trip(case, through) == []


def test_table_agrees_with_the_kinds_of_paddles_layers(twins: Any) -> None:
    """What the table makes for Paddle is what transposing by the layers' kinds makes."""
    twins.assert_converted("swin-tiny-w7-224.official")


def test_constants_of_a_file_are_dropped_with_a_reason() -> None:
    """Wrong constants in a checkpoint do no harm: they are computed, and the plan says so."""
    state = seeded(TINY, num_classes=2).arrays()
    name = "layers.0.blocks.1.attn_mask"
    shapes = {n: (a.dtype.name, a.shape) for n, a in state.items()}
    made = plan(TINY, shapes, "torch", "paddle")
    assert made.dropped[name] == "computed by the architecture"
    assert name in made.computed
    assert plan(TINY, shapes, "torch", "timm").lost[name] == "timm saves no constants"
