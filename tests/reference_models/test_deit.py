"""DeiT's twins and table, plain and distilled, against timm, transformers and the Paddle ports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
import torch

import porter
from porter.planning.check import dialect_tensors
from porter.planning.plan import plan
from porter.planning.recognise import recognise
from porter.zoo.architectures import families, find
from tests.golden.cases import ALL, Case

VARIANTS = {a.name: a for a in families()["deit"]}
ODD = "deit-tiny-224.paddlevit"
"""PaddleViT's DeiT is distilled under the plain name."""
CASES = [c.name for c in ALL if c.variant in VARIANTS and c.name != ODD]
TIMM = [name for name in CASES if name.endswith(".timm")]
DISTILLED = find("deit-tiny-distilled-224")
DIALECTS = [
    name
    for name, dialect in find("deit-tiny-224").table.dialects.items()
    # A folded dialect is not written, a class of distilled models lacks the second head.
    if name != "torch" and not dialect.folds and not dialect.only
]
PARAMETERS = {
    "deit-tiny-224": 5_717_416,
    "deit-small-224": 22_050_664,
    "deit-base-224": 86_567_656,
    "deit-base-384": 86_859_496,
    "deit-tiny-distilled-224": 5_910_800,
    "deit-small-distilled-224": 22_436_432,
    "deit-base-distilled-224": 87_338_192,
    "deit-base-distilled-384": 87_630_032,
}


def test_variants_are_those_published() -> None:
    """The family has its eight variants, found by the official names too."""
    assert {name: a.parameters for name, a in VARIANTS.items()} == PARAMETERS
    assert find("deit_base_patch16_384").name == "deit-base-384"
    assert find("deit_tiny_distilled_patch16_224").name == "deit-tiny-distilled-224"


@pytest.mark.parametrize("variant", VARIANTS)
def test_models_have_the_stated_size_and_positions(twins: Any, variant: str) -> None:
    """Each model has its row's parameters and positions for its one or two tokens."""
    with torch.device("meta"):
        model = twins.build(variant, "torch")
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[variant]
    architecture = VARIANTS[variant]
    assert architecture.positions is not None
    assert model.pos_embed.shape[1] == architecture.positions.count(architecture.image_size)
    tokens = model.pos_embed.shape[1] - (architecture.image_size // 16) ** 2
    assert tokens == 1 + ("distilled" in variant)


@pytest.mark.parametrize("case", TIMM)
def test_state_dict_is_timms(twins: Any, case: str) -> None:
    """Names, dtypes, shapes and order are those of timm's model."""
    with torch.device("meta"):
        model = twins.build(Case(case).variant, "torch")
    assert twins.tensors(model) == Case(case).manifest["tensors"]


@pytest.mark.parametrize("framework", ["torch", "paddle"])
@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1e-5), ("float64", 1e-9)])
@pytest.mark.parametrize("case", ["deit-tiny-224.timm", "deit-tiny-distilled-224.timm"])
def test_logits_are_timms(twins: Any, case: str, framework: str, dtype: str, bound: float) -> None:
    """The model computes the golden logits: measured 2e-6 in float32, 1e-14 in float64."""
    assert twins.golden_error(case, framework, dtype) < bound


@pytest.mark.parametrize("variant", ["deit-small-224", "deit-small-distilled-224"])
def test_twins_agree(twins: Any, variant: str) -> None:
    """Both frameworks agree in float64 on another size."""
    assert twins.disagreement(variant, image_size=32, num_classes=11) < 1e-9


@pytest.mark.parametrize("framework", ["torch", "paddle"])
def test_distilled_model_returns_both_heads_in_training(twins: Any, framework: str) -> None:
    """Training gives the logits of both heads, evaluation their mean."""
    model = twins.build("deit-tiny-distilled-224", framework, image_size=32, num_classes=5)
    image = np.random.default_rng(0).standard_normal((2, 3, 32, 32)).astype("float32")
    x = torch.from_numpy(image) if framework == "torch" else paddle.to_tensor(image)
    model.train()
    found = [logits.detach().numpy() for logits in model(x)]
    assert [logits.shape for logits in found] == [(2, 5), (2, 5)]
    assert np.abs(found[0] - found[1]).max() > 1e-3
    model.eval()
    assert np.abs(model(x).detach().numpy() - (found[0] + found[1]) / 2).max() < 1e-6


@pytest.mark.parametrize("framework", ["torch", "paddle"])
def test_drop_path_acts_in_training_alone(twins: Any, framework: str) -> None:
    """Residual branches are dropped at random in training and kept in evaluation."""
    evaluation, training = twins.drop_path_spread("deit-tiny-distilled-224", framework, 32)
    assert evaluation == 0
    assert training > 0


def test_every_parameter_moves_the_logits(twins: Any) -> None:
    """No parameter of the model is without effect."""
    assert twins.idle("deit-tiny-distilled-224", 32) == set()


@pytest.mark.parametrize("case", CASES)
def test_table_gives_each_dialects_tensors(twins: Any, case: str) -> None:
    """Names, dtypes and shapes that the table expects are those of the manifest."""
    assert twins.misnamed(case) == []


@pytest.mark.parametrize("through", DIALECTS)
@pytest.mark.parametrize(
    "case",
    ["deit-tiny-224.timm", "deit-tiny-distilled-224.hf", "deit-tiny-distilled-224.paddlevit"],
)
def test_every_dialect_gives_every_weight_back(twins: Any, case: str, through: str) -> None:
    """There and back again, no tensor changes by a bit."""
    assert twins.round_trip(case, through) == []


@pytest.mark.parametrize("case", ["deit-tiny-224.timm", "deit-tiny-distilled-224.timm"])
def test_table_agrees_with_the_kinds_of_paddles_layers(twins: Any, case: str) -> None:
    """What the table makes for Paddle is what transposing by the layers' kinds makes."""
    twins.assert_converted(case)


def test_transformers_has_a_plain_deit_as_vit() -> None:
    """Without a distillation token the names are those of transformers' ViT, bar none."""
    made = dialect_tensors(find("deit-base-224"), "hf")
    assert made == dialect_tensors(find("vit-base-p16-224"), "hf")
    made = dialect_tensors(find("deit-base-224"), "hf-v4")
    assert made == dialect_tensors(find("vit-base-p16-224"), "hf-v4")
    assert all(not name.startswith("vit.") for name in dialect_tensors(DISTILLED, "hf"))


def test_distilled_file_of_transformers_is_recognised() -> None:
    """Both makes of the family are found by their names."""
    (best, *_) = recognise(case_shapes("deit-tiny-distilled-224.hf"))
    assert (best.architecture.name, best.dialect) == ("deit-tiny-distilled-224", "hf-v5")
    assert best.exact


def test_paddlevits_plain_name_is_taken_as_distilled(tmp_path: Path) -> None:
    """PaddleViT's deit-tiny-224 has both tokens and heads: the sibling's tensors, and a note."""
    made = plan(DISTILLED, case_shapes(ODD), "paddlevit", "torch")
    assert [[n, d, list(s)] for n, (d, s) in made.canonical.items()] == Case(
        "deit-tiny-distilled-224.timm"
    ).manifest["tensors"]
    target = tmp_path / "deit.pth"
    source = Case(ODD).save(tmp_path)
    done = porter.convert(
        "deit-tiny-224", source, target, from_="paddle:paddlevit", to="torch", verify=False
    )
    assert any("deit-tiny-distilled-224" in note for note in done.notes)
    assert "head_dist.weight" in porter.open(target)


def case_shapes(name: str) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return {name: (dtype, shape)} of a golden case."""
    return {n: (dtype, tuple(shape)) for n, dtype, shape in Case(name).manifest["tensors"]}
