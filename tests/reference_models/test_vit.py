"""ViT's twins and table against timm, Google, transformers, torchvision and the Paddle ports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
import torch

import porter
from porter.errors import MappingError
from porter.planning.check import dialect_tensors
from porter.planning.fit import fit
from porter.planning.plan import plan
from porter.tensors.state_dict import StateDict
from porter.zoo.architectures import families, find
from porter.zoo.seeded import seeded
from tests.golden.cases import ALL, Case

VARIANTS = {a.name: a for a in families()["vit"]}
CASES = [c.name for c in ALL if c.variant in VARIANTS]
TIMM = [name for name in CASES if name.endswith(".timm")]
DIALECTS = [d for d in find("vit-tiny-p16-224").table.dialects if d != "torch"]
PARAMETERS = {
    "vit-tiny-p16-224": 5_717_416,
    "vit-tiny-p16-384": 5_790_376,
    "vit-small-p16-224": 22_050_664,
    "vit-small-p16-384": 22_196_584,
    "vit-base-p16-224": 86_567_656,
    "vit-base-p16-384": 86_859_496,
    "vit-large-p16-224": 304_326_632,
    "vit-large-p16-384": 304_715_752,
    "vit-small-p32-224": 22_878_952,
    "vit-small-p32-384": 22_915_432,
    "vit-base-p32-224": 88_224_232,
    "vit-base-p32-384": 88_297_192,
    "vit-large-p32-224": 306_535_400,
    "vit-large-p32-384": 306_632_680,
    "vit-huge-p14-224": 632_045_800,
    "vit-base-p8-224": 86_576_872,
    "vit-small-gap-p16-224": 22_049_896,
    "vit-base-gap-p16-224": 86_566_120,
    "vit-small768-p16-224": 48_754_408,
    "vit-tiny-r-s16-p8-224": 6_337_704,
    "vit-small-r26-s32-224": 36_431_912,
    "vit-base-r50-s16-224": 98_659_112,
    "vit-base-r50-s16-384": 98_950_952,
}
TOKENS = {"vit-tiny-r-s16-p8-224": 50, "vit-small-r26-s32-224": 50, "vit-base-r50-s16-224": 197}
"""Positions of hybrids, whose patches are not those of their names."""


def test_variants_are_those_published() -> None:
    """The family has its variants, found by timm's, Google's and torchvision's names too."""
    assert {name: a.parameters for name, a in VARIANTS.items()} == PARAMETERS
    for alias, name in {
        "vit_base_patch16_224": "vit-base-p16-224",
        "ViT_large_patch32_384": "vit-large-p32-384",
        "vit_huge_patch14_224": "vit-huge-p14-224",
        "vit_b_32": "vit-base-p32-224",
        "ViT-S_32": "vit-small-p32-224",
        "R26+ViT-S_32": "vit-small-r26-s32-224",
        "ViT-B_16-gap-norep": "vit-base-gap-p16-224",
    }.items():
        assert find(alias).name == name


@pytest.mark.parametrize("variant", VARIANTS)
def test_models_have_the_stated_size_and_positions(twins: Any, variant: str) -> None:
    """Each model has its row's parameters, a position for each patch and one for a class token."""
    with torch.device("meta"):
        model = twins.build(variant, "torch")
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[variant]
    architecture = VARIANTS[variant]
    assert architecture.positions is not None
    assert model.pos_embed.shape[1] == architecture.positions.count(architecture.image_size)
    if "-r" in variant:
        count = TOKENS.get(variant, 577)
    else:
        patch, pixels = (int(word.strip("p")) for word in variant.split("-")[-2:])
        count = (pixels // patch) ** 2 + ("-gap-" not in variant)
    assert model.pos_embed.shape[1] == count


def test_preprocessing_is_timms() -> None:
    """Pictures are scaled to [-1, 1]; at 384 px nothing is cropped; PaddleClas crops its own."""
    for architecture in VARIANTS.values():
        made = architecture.preprocessing
        assert made.mean == made.std == (0.5, 0.5, 0.5)
        crop = 0.875 if "small768" in architecture.name else 0.9
        assert made.crop == (1.0 if architecture.image_size == 384 else crop)


@pytest.mark.parametrize("case", TIMM)
def test_state_dict_is_timms(twins: Any, case: str) -> None:
    """Names, dtypes, shapes and order are those of timm's model."""
    with torch.device("meta"):
        model = twins.build(Case(case).variant, "torch")
    assert twins.tensors(model) == Case(case).manifest["tensors"]


@pytest.mark.parametrize("framework", ["torch", "paddle"])
@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1e-5), ("float64", 1e-9)])
def test_logits_are_timms(twins: Any, framework: str, dtype: str, bound: float) -> None:
    """The model computes the golden logits: measured 2e-6 in float32, 1e-14 in float64."""
    assert twins.golden_error("vit-tiny-p16-224.timm", framework, dtype) < bound


@pytest.mark.parametrize("framework", ["torch", "paddle"])
@pytest.mark.parametrize(
    "variant", ["vit-small-gap-p16-224", "vit-tiny-r-s16-p8-224", "vit-small-r26-s32-224"]
)
def test_other_forms_compute_timms_logits(twins: Any, framework: str, variant: str) -> None:
    """Pooled heads and hybrids compute the golden logits: measured 2e-14 in float64."""
    assert twins.golden_error(f"{variant}.timm", framework, "float64") < 1e-9


@pytest.mark.parametrize(
    ("variant", "features"),
    [
        ("vit-small-p32-224", ()),
        ("vit-tiny-p16-224", ("pre_logits",)),
        ("vit-small768-p16-224", ()),
    ],
)
def test_twins_agree(twins: Any, variant: str, features: tuple[str, ...]) -> None:
    """Both frameworks agree in float64 on other patches, with `pre_logits`, without qkv biases."""
    found = twins.disagreement(variant, image_size=64, num_classes=11, features=features)
    assert found < 1e-9


@pytest.mark.parametrize("framework", ["torch", "paddle"])
def test_pre_logits_is_a_linear_and_a_tanh(twins: Any, framework: str) -> None:
    """The hidden layer lies between the class token and the head."""
    model = twins.build(
        "vit-tiny-p16-224", framework, image_size=32, num_classes=3, features=("pre_logits",)
    )
    model.eval()
    image = np.random.default_rng(0).standard_normal((1, 3, 32, 32)).astype("float32")
    x = torch.from_numpy(image) if framework == "torch" else paddle.to_tensor(image)
    layers = [model.forward_features(x)[:, 0], model.pre_logits.fc, model.head]
    token, fc_w, fc_b, head_w, head_b = (
        value.detach().numpy()
        for value in (layers[0], layers[1].weight, layers[1].bias, layers[2].weight, layers[2].bias)
    )
    if framework == "torch":
        fc_w, head_w = fc_w.T, head_w.T
    wanted = np.tanh(token @ fc_w + fc_b) @ head_w + head_b
    assert np.abs(model(x).detach().numpy() - wanted).max() < 1e-6


@pytest.mark.parametrize("framework", ["torch", "paddle"])
def test_drop_path_acts_in_training_alone(twins: Any, framework: str) -> None:
    """Residual branches are dropped at random in training and kept in evaluation."""
    evaluation, training = twins.drop_path_spread("vit-tiny-p16-224", framework, 32)
    assert evaluation == 0
    assert training > 0


@pytest.mark.parametrize("variant", ["vit-tiny-p16-224", "vit-small-r26-s32-224"])
def test_every_parameter_moves_the_logits(twins: Any, variant: str) -> None:
    """No parameter of the model is without effect."""
    assert twins.idle(variant, 64) == set()


def test_paddleclas_s_small_is_not_vit_s(twins: Any) -> None:
    """Its attention scales by its whole width, and its file does not fit ViT-S."""
    model = twins.build("vit-small768-p16-224", "torch", image_size=32)
    assert model.blocks[0].attn.scale == pytest.approx(768**-0.5, abs=1e-12)
    state = StateDict.of(Case("vit-small768-p16-224.paddleclas").weights())
    with pytest.raises(MappingError, match="it fits vit-small768-p16-224 as paddle"):
        fit(find("vit-small-p16-224"), state, "paddle", "torch")


@pytest.mark.parametrize("case", CASES)
def test_table_gives_each_dialects_tensors(twins: Any, case: str) -> None:
    """Names, dtypes and shapes that the table expects are those of the manifest."""
    assert twins.misnamed(case) == []


@pytest.mark.parametrize("through", DIALECTS)
@pytest.mark.parametrize("case", ["vit-small-p16-224.google", "vit-tiny-p16-224.timm"])
def test_every_dialect_gives_every_weight_back(twins: Any, case: str, through: str) -> None:
    """There and back again, no tensor changes by a bit."""
    assert twins.round_trip(case, through) == []


def test_table_agrees_with_the_kinds_of_paddles_layers(twins: Any) -> None:
    """What the table makes for Paddle is what transposing by the layers' kinds makes."""
    twins.assert_converted("vit-tiny-p16-224.timm")


@pytest.mark.parametrize("through", DIALECTS)
def test_pre_logits_is_recognised_and_kept(through: str) -> None:
    """A checkpoint with the hidden layer is taken as such, through every dialect and back."""
    variant = find("vit-tiny-p16-224")
    state = seeded(variant, num_classes=4, features=("pre_logits",))
    there = plan(variant, shapes(state), "torch", through)
    assert there.features == ("pre_logits",)
    moved = there.apply(state)
    back = plan(variant, shapes(moved), through, "torch")
    assert back.features == ("pre_logits",)
    found = back.apply(moved)
    assert list(found) == list(state)
    assert all((found[name].read() == state[name].read()).all() for name in state)


def test_names_without_a_golden_case_are_right() -> None:
    """`pre_logits` in each dialect, and what transformers 4 and torchvision's files say."""
    variant = find("vit-tiny-p16-224")
    hidden = {
        "google": "pre_logits/kernel",
        "hf": "vit.pooler.dense.weight",
        "hf-v4": "vit.pooler.dense.weight",
        "torchvision": "heads.pre_logits.weight",
        "torchvision-v1": "heads.pre_logits.weight",
    }
    for dialect, name in hidden.items():
        made = dialect_tensors(variant, dialect, ("pre_logits",))
        assert made[name] == ("float32", (192, 192))
        assert name not in dialect_tensors(variant, dialect)
    block = "vit.encoder.layer.11."
    layers = (
        "layernorm_before attention.attention.query attention.attention.key"
        " attention.attention.value attention.output.dense layernorm_after"
        " intermediate.dense output.dense"
    )
    assert {n for n in dialect_tensors(variant, "hf-v4") if n.startswith(block)} == {
        f"{block}{layer}.{leaf}" for layer in layers.split() for leaf in ("weight", "bias")
    }
    now, first = (dialect_tensors(variant, d) for d in ("torchvision", "torchvision-v1"))
    assert list(first.values()) == list(now.values())
    assert list(first) == [
        n.replace("mlp.0", "mlp.linear_1").replace("mlp.3", "mlp.linear_2") for n in now
    ]


def test_google_file_becomes_torchs(tmp_path: Path) -> None:
    """Kernels of an .npz (dim, heads, head_dim) and HWIO become rows of q, k, v and OIHW."""
    case = Case("vit-small-p16-224.google")
    weights = case.weights()
    target = tmp_path / "vit.pth"
    source = case.save(tmp_path)
    porter.convert(case.variant, source, target, from_="numpy:google", to="torch", verify=False)
    made = porter.open(target).arrays()
    block = "Transformer/encoderblock_5/MultiHeadDotProductAttention_1"
    rows = [weights[f"{block}/{n}/kernel"].reshape(384, 384).T for n in ("query", "key", "value")]
    assert (made["blocks.5.attn.qkv.weight"] == np.concatenate(rows)).all()
    out = weights[f"{block}/out/kernel"].reshape(384, 384).T
    assert (made["blocks.5.attn.proj.weight"] == out).all()
    kernel = weights["embedding/kernel"]
    assert (made["patch_embed.proj.weight"] == kernel.transpose(3, 2, 0, 1)).all()


def test_half_a_pre_logits_is_refused() -> None:
    """A weight without its bias is an error that names the bias."""
    variant = find("vit-tiny-p16-224")
    state = dict(shapes(seeded(variant, features=("pre_logits",))))
    del state["pre_logits.fc.bias"]
    with pytest.raises(MappingError, match=r"pre_logits\.fc\.bias"):
        plan(variant, state, "torch", "paddle")


def shapes(state: Any) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return {name: (dtype, shape)} of a state dict."""
    return {name: (tensor.dtype.name, tensor.shape) for name, tensor in state.items()}
