"""labml's ViT: twins and table against its own code."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from porter.zoo.architectures import families, find
from tests.golden.cases import Case

CASE = "vit-labml-cifar10.seed"


def test_variant_is_the_cifar10_experiment() -> None:
    """The family has one variant: 32 px, 10 classes, the experiment's own normalisation."""
    (only,) = families()["vit-labml"]
    assert only.name == "vit-labml-cifar10"
    assert (only.image_size, only.num_classes) == (32, 10)
    assert only.preprocessing.mean == only.preprocessing.std == (0.5, 0.5, 0.5)
    assert only.preprocessing.crop == 1.0


def test_state_dict_is_that_of_the_original(twins: Any) -> None:
    """Names, dtypes, shapes and order are those of the original, and so is the size."""
    with torch.device("meta"):
        model = twins.build("vit-labml-cifar10", "torch")
    assert twins.tensors(model) == Case(CASE).manifest["tensors"]
    assert sum(p.numel() for p in model.parameters()) == 22_572_042
    assert find("vit-labml-cifar10").parameters == 22_572_042


@pytest.mark.parametrize("framework", ["torch", "paddle"])
@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1e-5), ("float64", 1e-9)])
def test_logits_are_those_of_the_original(
    twins: Any, framework: str, dtype: str, bound: float
) -> None:
    """The model computes the golden logits: measured 1e-6 in float32, 3e-13 in float64."""
    assert twins.golden_error(CASE, framework, dtype) < bound


def test_twins_agree_on_another_image_size(twins: Any) -> None:
    """Both frameworks agree in float64 at 48 px, which uses more of the positions."""
    assert twins.disagreement("vit-labml-cifar10", image_size=48) < 1e-9


@pytest.mark.parametrize("framework", ["torch", "paddle"])
def test_an_image_beyond_the_positions_is_refused(twins: Any, framework: str) -> None:
    """5000 positions serve images up to 280 px, and a larger model is not built."""
    with pytest.raises(ValueError, match="5000 positions"):
        twins.build("vit-labml-cifar10", framework, image_size=284)


@pytest.mark.parametrize("framework", ["torch", "paddle"])
def test_drop_path_acts_in_training_alone(twins: Any, framework: str) -> None:
    """Residual branches are dropped at random in training and kept in evaluation."""
    evaluation, training = twins.drop_path_spread("vit-labml-cifar10", framework, 16)
    assert evaluation == 0
    assert training > 0


def test_only_what_the_softmax_cancels_is_without_effect(twins: Any) -> None:
    """A key's bias adds one constant to all of a query's scores; every other parameter matters."""
    keys = {f"transformer_layers.{i}.self_attn.key.linear.bias" for i in range(6)}
    assert twins.idle("vit-labml-cifar10", 16) == keys


def test_table_gives_the_originals_tensors(twins: Any) -> None:
    """Names, dtypes and shapes that the table expects are those of the manifest."""
    assert twins.misnamed(CASE) == []


def test_paddle_gives_every_weight_back(twins: Any) -> None:
    """Through Paddle and back no tensor changes by a bit."""
    assert twins.round_trip(CASE, "paddle") == []


def test_table_agrees_with_the_kinds_of_paddles_layers(twins: Any) -> None:
    """What the table makes for Paddle is what transposing by the layers' kinds makes."""
    twins.assert_converted(CASE)
