"""The dynamic ResNet's twins and table against the public code."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import pytest
import torch
from torch.nn import functional as F

from porter.planning.check import prove
from porter.zoo.architectures import families
from tests.golden.cases import ALL, Case

VARIANTS = {a.name: a for a in families()["dy-resnet"]}
CASES = [c.name for c in ALL if c.variant in VARIANTS]
PARAMETERS = {"dy-resnet18": 45_475_008, "dy-resnet50": 100_895_176}


def test_variants_are_two_depths_at_temperature_one() -> None:
    """The temperature is a setting: its last value, 1."""
    assert {name: a.parameters for name, a in VARIANTS.items()} == PARAMETERS
    assert {a.config["temperature"] for a in VARIANTS.values()} == {1.0}


@pytest.mark.parametrize("case", CASES)
def test_state_dict_is_that_of_the_public_code(twins: Any, case: str) -> None:
    """Names, dtypes, shapes and order are those of the public model, and so is the size."""
    with torch.device("meta"):
        model = twins.build(Case(case).variant, "torch")
    assert twins.tensors(model) == Case(case).manifest["tensors"]
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[Case(case).variant]


@pytest.mark.parametrize("framework", ["torch", "paddle"])
@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1e-5), ("float64", 1e-9)])
def test_logits_are_those_of_the_public_code(
    twins: Any, framework: str, dtype: str, bound: float
) -> None:
    """The model computes the golden logits: measured 2e-6 in float32, 2e-12 in float64."""
    assert twins.golden_error("dy-resnet18.official", framework, dtype) < bound


@pytest.mark.parametrize("variant", VARIANTS)
def test_twins_agree(twins: Any, variant: str) -> None:
    """Both frameworks agree in float64 on another size."""
    assert twins.disagreement(variant, image_size=64, num_classes=11) < 1e-9


def test_every_parameter_moves_the_logits(twins: Any) -> None:
    """No parameter of the model is without effect, the attention over kernels included."""
    assert twins.idle("dy-resnet18", 64) == set()


@pytest.mark.parametrize("framework", ["torch", "paddle"])
@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (1, 2), (3, 1), (3, 2)])
def test_a_dynamic_convolution_mixes_its_bank(framework: str, kernel: int, stride: int) -> None:
    """Each image is convolved by the sum of the kernels, weighed by softmax at the temperature."""
    module = __import__(f"porter.reference_models.{framework}.dy_resnet", fromlist=["DynamicConv"])
    layer = module.DynamicConv(6, 5, kernel, stride, 4, 2.5)
    rng = np.random.default_rng(0)
    given = {n: rng.standard_normal(tuple(v.shape)) for n, v in layer.state_dict().items()}
    image = rng.standard_normal((2, 6, 7, 9))
    if framework == "torch":
        layer.double().load_state_dict({n: torch.from_numpy(a) for n, a in given.items()})
        found = layer(torch.from_numpy(image)).detach().numpy()
    else:
        layer.to(dtype="float64")
        layer.set_state_dict({n: paddle.to_tensor(a) for n, a in given.items()})
        found = layer(paddle.to_tensor(image)).numpy()
    pooled = image.mean((2, 3)) @ given["attention.fc1.weight"][:, :, 0, 0].T
    scores = np.maximum(pooled, 0) @ given["attention.fc2.weight"][:, :, 0, 0].T
    shares = np.exp((scores + given["attention.fc2.bias"]) / 2.5)
    shares /= shares.sum(1, keepdims=True)
    for one, share, out in zip(image, shares, found, strict=True):
        mixed = torch.from_numpy(np.tensordot(share, given["weight"], 1))
        wanted = F.conv2d(torch.from_numpy(one[None]), mixed, stride=stride, padding=kernel // 2)
        assert out.shape == wanted[0].shape
        assert np.abs(out - wanted[0].numpy()).max() < 1e-12


@pytest.mark.parametrize("framework", ["torch", "paddle"])
def test_the_temperature_changes_the_logits(twins: Any, framework: str) -> None:
    """The same weights give other logits at another temperature, set before or afterwards."""
    weights = twins.seeded(twins.build("dy-resnet18", "torch", num_classes=5))
    image = np.random.default_rng(1).standard_normal((1, 3, 32, 32))
    models = [
        twins.build("dy-resnet18", framework, num_classes=5, **options)
        for options in ({}, {"temperature": 34.0}, {})
    ]
    models[2].set_temperature(34.0)
    cold, warm, heated = (
        twins.run(framework, model, weights, image, "float64") for model in models
    )
    assert twins.error(warm, cold) > 1e-3
    assert twins.error(heated, warm) == 0


@pytest.mark.parametrize("framework", ["torch", "paddle"])
def test_drop_path_acts_in_training_alone(twins: Any, framework: str) -> None:
    """Residual branches are dropped at random in training and kept in evaluation."""
    evaluation, training = twins.drop_path_spread("dy-resnet18", framework, 32)
    assert evaluation < 1e-5  # Paddle's convolutions may round otherwise in a second run
    assert training > 0.1


@pytest.mark.parametrize("variant", VARIANTS)
def test_table_is_proven(variant: str) -> None:
    """Both dialects are total and exact."""
    for dialect in ("torch", "paddle"):
        assert prove(VARIANTS[variant], dialect).problems == ()


def test_a_bank_is_the_same_in_paddle(twins: Any) -> None:
    """Five axes are not transposed: the table makes what the layers' kinds make."""
    assert twins.misnamed("dy-resnet18.official") == []
    twins.assert_converted("dy-resnet18.official")
