"""The Shunted Transformer's twins against the official code's golden case."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from porter.zoo.architectures import families, find
from tests.golden.cases import Case

VARIANTS = [a.name for a in families()["shunted"]]


def test_variants_are_those_published() -> None:
    """The family has its three variants, found by their official names too."""
    assert VARIANTS == ["shunted-t", "shunted-s", "shunted-b"]
    assert [find(f"shunted_{size}").name for size in "tsb"] == VARIANTS


@pytest.mark.parametrize("variant", VARIANTS)
def test_state_dict_is_that_of_the_official_code(twins: Any, variant: str) -> None:
    """Names, dtypes, shapes and order are those of the official model, and so is the size."""
    with torch.device("meta"):
        model = twins.build(variant, "torch")
    assert twins.tensors(model) == Case(f"{variant}.official").manifest["tensors"]
    assert sum(p.numel() for p in model.parameters()) == find(variant).parameters


def test_classes_and_image_size_change_the_head_alone(twins: Any) -> None:
    """At 256 px with 10 classes the tensors are those of the official model so built."""
    with torch.device("meta"):
        model = twins.build("shunted-t", "torch", num_classes=10, image_size=256)
    assert twins.tensors(model) == Case("shunted-t.official-256-10cls").manifest["tensors"]


@pytest.mark.parametrize("framework", ["torch", "paddle"])
@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1e-5), ("float64", 1e-9)])
def test_logits_are_those_of_the_official_code(
    twins: Any, framework: str, dtype: str, bound: float
) -> None:
    """The model computes the golden logits: measured 2e-6 in float32, 5e-13 in float64."""
    assert twins.golden_error("shunted-t.official", framework, dtype) < bound


def test_twins_agree_with_stem_convolutions(twins: Any) -> None:
    """Both frameworks agree in float64 where the stem has its second convolution."""
    assert twins.disagreement("shunted-s", image_size=64, num_classes=11) < 1e-9


def test_twins_agree_on_an_oblong_image(twins: Any) -> None:
    """Height and width are not confused: both frameworks agree on 64 x 96 pixels."""
    models = [twins.build("shunted-t", f, num_classes=5) for f in ("torch", "paddle")]
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
    evaluation, training = twins.drop_path_spread("shunted-t", framework, 32)
    assert evaluation == 0
    assert training > 0


@pytest.mark.parametrize("variant", VARIANTS)
def test_table_gives_the_official_tensors(twins: Any, variant: str) -> None:
    """Names, dtypes and shapes that the table expects are those of the official manifest."""
    assert twins.misnamed(f"{variant}.official") == []


def test_paddle_gives_every_weight_back(twins: Any) -> None:
    """Through Paddle and back nothing changes but the batch counters, which Paddle has not."""
    changed = twins.round_trip("shunted-t.official", "paddle")
    assert changed == ["patch_embed1.conv.1.num_batches_tracked"]


def test_table_agrees_with_the_kinds_of_paddles_layers(twins: Any) -> None:
    """What the table makes for Paddle is what transposing by the layers' kinds makes."""
    twins.assert_converted("shunted-t.official")


def test_every_parameter_matters(twins: Any) -> None:
    """No parameter is without effect on the logits."""
    assert twins.idle("shunted-t", 64) == set()
