"""rishikksh20's CeiT: twins and table against its own code."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from porter.zoo.architectures import families
from tests.golden.cases import ALL, Case

VARIANTS = {a.name: a for a in families()["ceit-rishikksh20"]}
CASES = [c.name for c in ALL if c.variant in VARIANTS]
PARAMETERS = {"ceit-rishikksh20": 5_790_568, "ceit-rishikksh20-lca": 6_087_016}
LAST = "transformer.layers.11.1."


def test_variants_are_with_and_without_lca() -> None:
    """The family has its two variants, and a golden case for each."""
    assert {name: a.parameters for name, a in VARIANTS.items()} == PARAMETERS
    assert CASES == ["ceit-rishikksh20-lca.seed", "ceit-rishikksh20.seed"]


@pytest.mark.parametrize("case", CASES)
def test_state_dict_is_that_of_the_original(twins: Any, case: str) -> None:
    """Names, dtypes, shapes and order are those of the original, and so is the size."""
    variant = Case(case).variant
    with torch.device("meta"):
        model = twins.build(variant, "torch")
    assert twins.tensors(model) == Case(case).manifest["tensors"]
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[variant]


@pytest.mark.parametrize("framework", ["torch", "paddle"])
@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1e-5), ("float64", 1e-9)])
def test_logits_are_those_of_the_original(
    twins: Any, framework: str, dtype: str, bound: float
) -> None:
    """The model computes the golden logits: measured 2e-6 in float32, 4e-13 in float64."""
    assert twins.golden_error("ceit-rishikksh20-lca.seed", framework, dtype) < bound


def test_twins_agree_without_lca(twins: Any) -> None:
    """Both frameworks agree in float64 on the variant that has no golden logits here."""
    assert twins.disagreement("ceit-rishikksh20", image_size=64, num_classes=11) < 1e-9


@pytest.mark.parametrize("framework", ["torch", "paddle"])
def test_drop_path_acts_in_training_alone(twins: Any, framework: str) -> None:
    """Residual branches are dropped at random in training and kept in evaluation."""
    evaluation, training = twins.drop_path_spread("ceit-rishikksh20", framework, 32)
    assert evaluation == 0
    assert training > 0


@pytest.mark.parametrize("variant", VARIANTS)
def test_only_the_last_leff_is_without_effect(twins: Any, variant: str) -> None:
    """Class tokens alone leave the last block, so its LeFF is idle; all else matters."""
    names = [row[0] for row in Case(f"{variant}.seed").manifest["tensors"]]
    last = {n for n in names if n.startswith(LAST) and n.endswith(("weight", "bias"))}
    assert len(last) == 13
    assert twins.idle(variant, 32) == last


@pytest.mark.parametrize("case", CASES)
def test_table_gives_the_originals_tensors(twins: Any, case: str) -> None:
    """Names, dtypes and shapes that the table expects are those of the manifest."""
    assert twins.misnamed(case) == []


def test_paddle_gives_every_weight_back(twins: Any) -> None:
    """Through Paddle and back nothing changes but the batch counters, which Paddle has not."""
    changed = twins.round_trip("ceit-rishikksh20-lca.seed", "paddle")
    assert len(changed) == 1 + 12 * 3
    assert all(name.endswith("num_batches_tracked") for name in changed)


@pytest.mark.parametrize("case", CASES)
def test_table_agrees_with_the_kinds_of_paddles_layers(twins: Any, case: str) -> None:
    """What the table makes for Paddle is what transposing by the layers' kinds makes."""
    twins.assert_converted(case)
