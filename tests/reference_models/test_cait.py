"""CaiT's twins and table against the official code and PaddleViT's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import porter
from porter.zoo.architectures import families, find
from tests.golden.cases import ALL, Case

ALL_VARIANTS = {a.name: a for a in families()["cait"]}
VARIANTS = {name: a for name, a in ALL_VARIANTS.items() if not a.study}
STUDY = {name: a for name, a in ALL_VARIANTS.items() if a.study}
OFFICIAL = [c.name for c in ALL if c.variant in VARIANTS and c.name.endswith(".official")]
CASES = [c.name for c in ALL if c.variant in VARIANTS]
PARAMETERS = {
    "cait-xxs24-224": 11_956_264,
    "cait-xxs24-384": 12_029_224,
    "cait-xxs36-224": 17_299_720,
    "cait-xxs36-384": 17_372_680,
    "cait-xs24-384": 26_670_088,
    "cait-s24-224": 46_916_200,
    "cait-s24-384": 47_062_120,
    "cait-s36-384": 68_366_632,
    "cait-m36-384": 271_221_352,
    "cait-m48-448": 356_460_520,
}


def test_variants_are_those_published() -> None:
    """The family has its ten variants, found by timm's and the official names too."""
    assert {name: a.parameters for name, a in VARIANTS.items()} == PARAMETERS
    for alias, name in {
        "cait_xxs24_224": "cait-xxs24-224",
        "cait_XXS24_224": "cait-xxs24-224",
        "cait_XXS24": "cait-xxs24-384",
        "cait_XS24": "cait-xs24-384",
        "cait_M48": "cait-m48-448",
        "cait_m48_448": "cait-m48-448",
    }.items():
        assert find(alias).name == name


@pytest.mark.parametrize("variant", VARIANTS)
def test_models_have_the_stated_size_and_layer_scale(twins: Any, variant: str) -> None:
    """Each model has its row's parameters, and LayerScale starts as the paper has it."""
    with torch.device("meta"):
        model = twins.build(variant, "torch")
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[variant]
    architecture = VARIANTS[variant]
    start = 1e-5 if architecture.config["depth"] == 24 else 1e-6
    assert architecture.config["layer_scale_init"] == start
    assert len(model.blocks) == architecture.config["depth"]


@pytest.mark.parametrize("framework", ["torch", "paddle"])
@pytest.mark.parametrize(("depth", "start"), [(1, 0.1), (18, 0.1), (24, 1e-5), (36, 1e-6)])
def test_layer_scale_follows_the_depth(framework: str, depth: int, start: float) -> None:
    """Without a value of its own a model takes the paper's for its depth, in all its blocks."""
    module = __import__(f"porter.reference_models.{framework}.cait", fromlist=["CaiT"])
    model = module.CaiT(image_size=16, num_classes=2, dim=4, num_heads=1, depth=depth)
    for block in [*model.blocks, *model.blocks_token_only]:
        for gamma in (block.gamma_1, block.gamma_2):
            assert gamma.tolist() == pytest.approx([start] * 4)


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
    """The model computes the golden logits: measured 2e-6 in float32, 1e-14 in float64."""
    assert twins.golden_error("cait-xxs24-224.official", framework, dtype) < bound


def test_twins_agree(twins: Any) -> None:
    """Both frameworks agree in float64 on another size, LayerScale far from its start."""
    assert twins.disagreement("cait-xs24-384", image_size=48, num_classes=11) < 1e-9


@pytest.mark.parametrize("framework", ["torch", "paddle"])
def test_drop_path_acts_in_training_alone(twins: Any, framework: str) -> None:
    """Residual branches are dropped at random in training and kept in evaluation."""
    evaluation, training = twins.drop_path_spread("cait-xxs24-224", framework, 32)
    assert evaluation == 0
    assert training > 0


def test_only_what_the_softmax_cancels_is_without_effect(twins: Any) -> None:
    """A constant added to all of a head's scores is cancelled; every other parameter matters."""
    talking = {f"blocks.{i}.attn.proj_l.bias" for i in range(24)}
    asked = {f"blocks_token_only.{i}.attn.k.bias" for i in range(2)}
    assert twins.idle("cait-xxs24-224", 32) == talking | asked


@pytest.mark.parametrize("case", CASES)
def test_table_gives_each_dialects_tensors(twins: Any, case: str) -> None:
    """Names, dtypes and shapes that the table expects are those of the manifest."""
    assert twins.misnamed(case) == []


@pytest.mark.parametrize("through", ["torch", "paddle", "paddlevit", "timm", "ppim", "passl"])
@pytest.mark.parametrize("case", ["cait-xxs24-224.official", "cait-xxs24-224.paddlevit"])
def test_every_dialect_gives_every_weight_back(twins: Any, case: str, through: str) -> None:
    """There and back again, no tensor changes by a bit."""
    assert twins.round_trip(case, through) == []


def test_table_agrees_with_the_kinds_of_paddles_layers(twins: Any) -> None:
    """What the table makes for Paddle is what transposing by the layers' kinds makes."""
    twins.assert_converted("cait-xxs24-224.official")


def test_official_file_becomes_paddlevits(tmp_path: Path) -> None:
    """A file as published, `module.` and all, becomes what PaddleViT's model has."""
    case = Case("cait-xxs24-224.official")
    weights = {f"module.{n}": torch.from_numpy(np.array(a)) for n, a in case.weights().items()}
    torch.save({"model": weights}, tmp_path / "XXS24_224.pth")
    target = tmp_path / "cait.pdparams"
    porter.convert(
        "cait_XXS24_224",
        tmp_path / "XXS24_224.pth",
        target,
        from_="torch",
        to="paddle:paddlevit",
        verify=False,
    )
    made = porter.open(target).arrays()
    wanted = Case("cait-xxs24-224.paddlevit").manifest["tensors"]
    assert [[n, a.dtype.name, list(a.shape)] for n, a in made.items()] == wanted
    own = weights["module.patch_embed.proj.weight"].numpy()
    assert (made["patch_embed.patch_embed.weight"] == own).all()
    own = weights["module.blocks.3.attn.proj_l.weight"].numpy()
    assert (made["blocks.3.attn.proj_l.weight"] == own.T).all()


FORMS = ["rezero", "skipinit", "fixup"]


def test_the_study_has_the_forms_of_figure_1() -> None:
    """Scales, norms and scalar biases change DeiT-S's parameters by what they have."""
    deit, norms = find("deit-small-224").parameters, 12 * 2 * 2 * 384
    scalars = {"rezero": 24, "skipinit": 24, "fixup": 24 + 48}
    wanted = {f"deit-small-{form}-norm-224": deit + n for form, n in scalars.items()}
    wanted |= {f"deit-small-{form}-224": deit + n - norms for form, n in scalars.items()}
    wanted["deit-small-layerscale-224"] = deit + 24 * 384
    wanted |= {f"deit-small-class{i}-224": deit - 384 for i in (2, 4, 8, 10, 11)}
    wanted["deit-small-avgpool-224"] = deit - 2 * 384
    assert {name: a.parameters for name, a in STUDY.items()} == wanted


@pytest.mark.parametrize("variant", STUDY)
def test_twins_of_the_study_agree(twins: Any, variant: str) -> None:
    """Both frameworks agree in float64; all matters but a scalar that the next norm takes away."""
    assert twins.disagreement(variant, image_size=32, num_classes=11) < 1e-9
    cancelled = {
        "deit-small-fixup-224": {"blocks.11.bias_2b"},
        "deit-small-fixup-norm-224": {f"blocks.{i}.bias_{n}b" for i in range(12) for n in (1, 2)},
    }
    assert twins.idle(variant, 32) == cancelled.get(variant, set())


@pytest.mark.parametrize("framework", ["torch", "paddle"])
@pytest.mark.parametrize(("form", "start"), [("rezero", 0), ("skipinit", 0.5), ("fixup", 1)])
def test_scalars_start_as_their_papers_say(framework: str, form: str, start: float) -> None:
    """ReZero starts at 0, SkipInit at 1/sqrt(depth), Fixup at 1 with branches of 0."""
    module = __import__(f"porter.reference_models.{framework}.cait", fromlist=["CaiT"])
    model = module.CaiT(
        image_size=16, num_classes=2, dim=4, num_heads=1, depth=4, class_depth=0, class_at=0,
        talking_heads=False, residual=form, branch_norm=False,
    )  # fmt: skip
    for block in model.blocks:
        assert block.alpha_1.tolist() == block.alpha_2.tolist() == [start]
        assert (float(abs(block.mlp.fc2.weight).max()) == 0) is (form == "fixup")


def by_formula(form: str, block: Any, x: torch.Tensor) -> torch.Tensor:
    """Return a block's output as Figure 1 writes it: form (b), or (c) after a dash and "norm"."""
    norm = form.endswith("-norm")
    for n, branch in ((1, block.attn), (2, block.mlp)):
        inner = getattr(block, f"norm{n}")(x) if norm else x
        alpha = getattr(block, f"alpha_{n}")
        if form.startswith("fixup"):
            before, after = getattr(block, f"bias_{n}a"), getattr(block, f"bias_{n}b")
            x = x + alpha * branch(inner + before) + after
        else:
            x = x + alpha * branch(inner)
    return x


@pytest.mark.parametrize("form", [*FORMS, *(f"{form}-norm" for form in FORMS)])
def test_a_block_follows_the_formula(twins: Any, form: str) -> None:
    """Branches are scaled by a scalar, with or without a norm before them."""
    model = twins.build(f"deit-small-{form}-224", "torch", image_size=32).double().eval()
    weights = twins.seeded(model)
    model.load_state_dict({n: torch.from_numpy(a) for n, a in weights.items()})
    x = torch.randn(2, 5, 384, dtype=torch.float64)
    block = model.blocks[3]
    assert torch.allclose(block(x), by_formula(form, block, x), rtol=0, atol=1e-12)


def test_plain_branches_with_the_token_at_the_start_are_deit(twins: Any) -> None:
    """Form (a) with the class token before the first block has DeiT's names and computes DeiT."""
    options = {"residual": "plain", "image_size": 32, "num_classes": 3}
    model = twins.build("deit-small-layerscale-224", "torch", **options)
    deit = twins.build("deit-small-224", "torch", image_size=32, num_classes=3)
    weights, image = twins.seeded(deit), np.random.default_rng(0).standard_normal((1, 3, 32, 32))
    found = [twins.run_torch(m, weights, image, "float64") for m in (model, deit)]
    assert twins.error(*found) == 0


def test_the_class_token_joins_before_its_block(twins: Any) -> None:
    """Blocks before it see the patches only."""
    model = twins.build("deit-small-class8-224", "torch", image_size=32).eval()
    seen: list[int] = []
    for block in model.blocks:
        block.register_forward_hook(lambda _, given, __: seen.append(given[0].shape[1]))
    model(torch.zeros(1, 3, 32, 32))
    assert seen == [4] * 8 + [5] * 4


@pytest.mark.parametrize("framework", ["torch", "paddle"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"residual": "highway"}, "none of plain"),
        ({"branch_norm": False}, "layerscale branches have a norm"),
        ({"class_at": 0}, "class attention"),
        ({"pool": "mean"}, "class attention"),
        ({"pool": "max"}, "neither class nor mean"),
        ({"pool": "mean", "class_depth": 0, "class_at": 3}, "has no class token"),
    ],
)
def test_settings_that_contradict_are_refused(
    framework: str, options: dict[str, Any], message: str
) -> None:
    """A combination that no form has is an error that says why."""
    module = __import__(f"porter.reference_models.{framework}.cait", fromlist=["CaiT"])
    with pytest.raises(ValueError, match=message):
        module.CaiT(image_size=16, dim=4, num_heads=1, depth=2, **options)
