"""The layers that the reference models share."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import pytest
import torch
from porter.reference_models.paddle import layers as paddle_layers
from porter.reference_models.torch import layers as torch_layers


def test_drop_path_drops_whole_samples_in_torch() -> None:
    """A sample's branch is dropped whole or scaled by 1 / (1 - rate), so that the mean stays."""
    torch.manual_seed(0)
    layer = torch_layers.DropPath(0.25).train()
    found = layer(torch.ones(2000, 3, 2, dtype=torch.float64))
    assert found.dtype == torch.float64
    assert {round(v, 9) for v in found.unique().tolist()} == {0.0, round(1 / 0.75, 9)}
    assert (found == found[:, :1, :1]).all()
    assert found.mean().item() == pytest.approx(1.0, abs=0.05)
    assert (layer.eval()(found) == found).all()


def test_drop_path_drops_whole_samples_in_paddle() -> None:
    """A sample's branch is dropped whole or scaled by 1 / (1 - rate), so that the mean stays."""
    paddle.seed(0)
    layer = paddle_layers.DropPath(0.25)
    layer.train()
    found = layer(paddle.ones([2000, 3, 2], dtype="float64"))
    assert found.dtype == paddle.float64
    assert {round(v, 9) for v in found.unique().tolist()} == {0.0, round(1 / 0.75, 9)}
    assert bool((found == found[:, :1, :1]).all())
    assert float(found.mean()) == pytest.approx(1.0, abs=0.05)
    layer.eval()
    assert bool((layer(found) == found).all())


@pytest.mark.parametrize("layers", [torch_layers, paddle_layers])
def test_drop_path_rates_grow_linearly(layers: object) -> None:
    """The first block never drops, the last drops at the full rate, a single block never."""
    rates = layers.drop_path_rates  # type: ignore[attr-defined]
    assert rates(0.3, 4) == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert rates(0.3, 1) == [0.0]


def test_initialisation_is_the_same_in_both_frameworks() -> None:
    """Linear weights have std 0.02 and convolutions sqrt(2 / fan-out), with zero biases."""
    linear = [torch.nn.Linear(400, 300), paddle.nn.Linear(400, 300)]
    conv = [torch.nn.Conv2d(64, 128, 3, groups=2), paddle.nn.Conv2D(64, 128, 3, groups=2)]
    for layers, one, two in zip((torch_layers, paddle_layers), linear, conv, strict=True):
        layers.init_linear(one)
        layers.init_conv(two)
        assert float(one.weight.detach().std()) == pytest.approx(0.02, rel=0.05)
        assert float(two.weight.detach().std()) == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.05)
        assert float(abs(one.bias.detach()).max()) == float(abs(two.bias.detach()).max()) == 0


@pytest.mark.parametrize("layers", [torch_layers, paddle_layers])
def test_attention_is_scaled_softmax_attention(layers: Any) -> None:
    """It is softmax(scale q kᵀ) v, as NumPy computes it, and the scale has to be given."""
    draw = np.random.default_rng(0).standard_normal
    q, k, v = draw((2, 3, 5, 4)), draw((2, 3, 6, 4)), draw((2, 3, 6, 7))
    scores = np.exp(0.3 * q @ k.transpose(0, 1, 3, 2))
    wanted = scores / scores.sum(-1, keepdims=True) @ v
    tensors = [tensor(layers, array) for array in (q, k, v)]
    assert np.abs(layers.attention(*tensors, scale=0.3).numpy() - wanted).max() < 1e-14
    with pytest.raises(TypeError, match="scale"):
        layers.attention(*tensors)


@pytest.mark.parametrize("layers", [torch_layers, paddle_layers])
@pytest.mark.parametrize(
    "shapes",
    [
        [(2, 5, 4), (2, 5, 4), (2, 5, 4)],  # heads not split
        [(2, 5, 3, 4), (2, 6, 3, 4), (2, 6, 3, 4)],  # (B, tokens, heads, d): broadcasts with 1
        [(2, 3, 5, 4), (1, 3, 5, 4), (1, 3, 5, 4)],  # one image's keys for two
        [(2, 3, 5, 4), (2, 1, 5, 4), (2, 1, 5, 4)],  # one head's keys for three
        [(2, 3, 5, 4), (2, 3, 5, 8), (2, 3, 5, 4)],
        [(2, 3, 5, 4), (2, 3, 6, 4), (2, 3, 5, 4)],
    ],
)
def test_attention_refuses_other_shapes(layers: Any, shapes: list[tuple[int, ...]]) -> None:
    """Shapes that would be broadcast are refused, with all three in the message."""
    tensors = [tensor(layers, np.zeros(shape)) for shape in shapes]
    with pytest.raises(ValueError, match=r"head_dim\), not \["):
        layers.attention(*tensors, scale=1.0)


def tensor(layers: Any, array: np.ndarray) -> Any:
    """Return an array as a tensor of the framework that the layers belong to."""
    return torch.from_numpy(array) if layers is torch_layers else paddle.to_tensor(array)
