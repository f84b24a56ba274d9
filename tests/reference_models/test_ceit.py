"""CeiT's twins and table against the official code."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from porter.zoo.architectures import families, find
from tests.golden.cases import ALL, Case

ALL_VARIANTS = {a.name: a for a in families()["ceit"]}
VARIANTS = {name: a for name, a in ALL_VARIANTS.items() if not a.study}
STUDY = {name: a for name, a in ALL_VARIANTS.items() if a.study}
CASES = [c.name for c in ALL if c.variant in VARIANTS]
PARAMETERS = {
    "ceit-tiny-224": 6_356_904,
    "ceit-small-224": 24_204_840,
    "ceit-base-224": 94_405_416,
    "ceit-tiny-384": 6_429_864,
    "ceit-small-384": 24_350_760,
}


LEFF = {
    f"{name}.{leaf}"
    for name in ("conv1", "conv2", "conv3", "bn1", "bn2", "bn3")
    for leaf in ("weight", "bias")
}


def test_variants_are_those_published() -> None:
    """The family has its five variants, found by the official names too."""
    assert {name: a.parameters for name, a in VARIANTS.items()} == PARAMETERS
    for name in VARIANTS:
        size, pixels = name.split("-")[1:]
        assert find(f"ceit_{size}_patch16_{pixels}").name == name
    assert {c.partition(".")[0] for c in CASES} == set(VARIANTS)


@pytest.mark.parametrize("case", CASES)
def test_state_dict_is_that_of_the_official_code(twins: Any, case: str) -> None:
    """Names, dtypes, shapes and order are those of the official model, and so is the size."""
    variant = Case(case).variant
    with torch.device("meta"):
        model = twins.build(variant, "torch")
    assert twins.tensors(model) == Case(case).manifest["tensors"]
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[variant]


@pytest.mark.parametrize("framework", ["torch", "paddle"])
@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1e-5), ("float64", 1e-9)])
def test_logits_are_those_of_the_official_code(
    twins: Any, framework: str, dtype: str, bound: float
) -> None:
    """The model computes the golden logits: measured 2e-6 in float32, 4e-13 in float64."""
    assert twins.golden_error("ceit-tiny-224.official", framework, dtype) < bound


def test_twins_agree(twins: Any) -> None:
    """Both frameworks agree in float64 on another size."""
    assert twins.disagreement("ceit-small-224", image_size=64, num_classes=11) < 1e-9


@pytest.mark.parametrize("framework", ["torch", "paddle"])
def test_drop_path_acts_in_training_alone(twins: Any, framework: str) -> None:
    """Residual branches are dropped at random in training and kept in evaluation."""
    evaluation, training = twins.drop_path_spread("ceit-tiny-224", framework, 32)
    assert evaluation == 0
    assert training > 0


def test_only_the_last_leff_is_without_effect(twins: Any) -> None:
    """Class tokens alone leave the last block, so its LeFF is idle; all else matters."""
    names = [row[0] for row in Case("ceit-tiny-224.official").manifest["tensors"]]
    last = {n for n in names if n.startswith("blocks.11.leff.") and n.endswith(("weight", "bias"))}
    assert len(last) == 12
    assert twins.idle("ceit-tiny-224", 32) == last


@pytest.mark.parametrize("case", CASES)
def test_table_gives_the_official_tensors(twins: Any, case: str) -> None:
    """Names, dtypes and shapes that the table expects are those of the manifest."""
    assert twins.misnamed(case) == []


def test_paddle_gives_every_weight_back(twins: Any) -> None:
    """Through Paddle and back nothing changes but the batch counters, which Paddle has not."""
    changed = twins.round_trip("ceit-tiny-224.official", "paddle")
    assert len(changed) == 1 + 12 * 3
    assert all(name.endswith("num_batches_tracked") for name in changed)


def test_table_agrees_with_the_kinds_of_paddles_layers(twins: Any) -> None:
    """What the table makes for Paddle is what transposing by the layers' kinds makes."""
    twins.assert_converted("ceit-tiny-224.official")


def test_the_study_varies_one_part_at_a_time() -> None:
    """Kernels, pooling, norms and LCA change the number of parameters by what they have."""
    base, dim, hidden = PARAMETERS["ceit-tiny-224"], 192, 768
    lca = dim * 12 + 4 * dim + (dim + 1) * 3 * dim + (dim + 1) * dim + 2 * dim * hidden
    assert {name: base - a.parameters for name, a in STUDY.items()} == {
        "ceit-tiny-i2t-k7s4-224": 0,
        "ceit-tiny-i2t-k5s4-224": 64 * 3 * (49 - 25),
        "ceit-tiny-i2t-k3s2-224": 64 * 3 * (49 - 9),
        "ceit-tiny-i2t-nonorm-224": 2 * 64,
        "ceit-tiny-leff-k1-224": 12 * hidden * (9 - 1),
        "ceit-tiny-leff-k5-224": 12 * hidden * (9 - 25),
        "ceit-tiny-leff-nonorm-224": 12 * 2 * (2 * hidden + dim),
        "ceit-tiny-nolca-224": lca + hidden + dim,
    }


@pytest.mark.parametrize("variant", STUDY)
def test_twins_of_the_study_agree(twins: Any, variant: str) -> None:
    """Both frameworks agree in float64, and all but the last block's LeFF matters."""
    assert twins.disagreement(variant, image_size=48, num_classes=11) < 1e-9
    idle = {name.removeprefix("blocks.11.leff.") for name in twins.idle(variant, 48)}
    assert idle == {n for n in LEFF if "nonorm" not in variant or "i2t" in variant or "bn" not in n}


def test_without_lca_the_head_reads_the_last_class_token(twins: Any) -> None:
    """The tokens are those of the last block, and the class token decides."""
    model = twins.build("ceit-tiny-nolca-224", "torch", image_size=32, num_classes=3).eval()
    tokens = model.forward_features(torch.ones(1, 3, 32, 32))
    assert tokens.shape == (1, 5, 192)
    assert torch.equal(model.forward_head(tokens), model.head(tokens[:, 0]))
