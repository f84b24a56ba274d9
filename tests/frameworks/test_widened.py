"""A model whose code asks for float32 runs in float64 where its input is of it."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from porter.frameworks.precision.widened import widened
from porter.frameworks.published.paddlex import _exact_slope

TORCH = """
import torch
class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = torch.nn.Linear(4, 4)
    def forward(self, x):
        state = torch.zeros(x.shape[0], 4, dtype=torch.float32)
        return torch.softmax(self.fc(x.float() + state), 1, dtype=torch.float32)
"""
PADDLE = """
import paddle
class Model(paddle.nn.Layer):
    def __init__(self):
        super().__init__()
        self.fc = paddle.nn.Linear(4, 4)
    def forward(self, x):
        state = paddle.zeros([x.shape[0], 4], dtype="float32")
        return paddle.nn.functional.softmax(self.fc(x.astype("float32") + state))
"""


@pytest.mark.parametrize(("framework", "source"), [("torch", TORCH), ("paddle", PADDLE)])
def test_float32_is_the_precision_of_the_input(
    framework: str, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float64 the result is exact to 1e-15, and the framework is as it was afterwards."""
    module = ModuleType("narrow")
    exec(source, module.__dict__)
    monkeypatch.setitem(sys.modules, "narrow", module)
    module.Model.__module__ = "narrow"
    package: Any = sys.modules[framework]
    methods = package.Tensor.float, getattr(package.Tensor, "astype", None)
    model = module.Model()
    to_tensor = torch_tensor if framework == "torch" else package.to_tensor
    values = np.random.default_rng(0).random((2, 4))
    single = widened(framework, model, model.forward, to_tensor(values.astype(np.float32)))
    assert single.dtype == package.float32
    model = model.double() if framework == "torch" else model.to(dtype="float64")
    weight, bias = (p.detach().numpy() for p in (model.fc.weight, model.fc.bias))
    found = widened(framework, model, model.forward, to_tensor(values))
    assert found.dtype == package.float64
    scores = values @ (weight.T if framework == "torch" else weight) + bias
    expected = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    assert np.abs(found.detach().numpy() - expected).max() < 1e-15
    assert module.__dict__[framework] is package
    assert methods == (package.Tensor.float, getattr(package.Tensor, "astype", None))


def torch_tensor(values: np.ndarray) -> Any:
    """Return a tensor of torch."""
    import torch

    return torch.from_numpy(values)


def test_the_exact_slope_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Paddle's own function keeps 1/6 in float32, which is 3e-8 off."""
    import paddle.nn.functional as F

    x = paddle_tensor([-4.0, -1.7, 0.3, 2.9, 5.0])
    kept = np.abs(F.hardsigmoid(x, slope=1 / 6).numpy() - np.clip(x.numpy() / 6 + 0.5, 0, 1))
    assert kept.max() > 1e-9
    monkeypatch.setattr(F, "hardsigmoid", F.hardsigmoid)
    _exact_slope()
    layer = paddle_layer()
    found = layer(x).numpy()
    assert np.abs(found - np.clip(x.numpy() / 6 + 0.5, 0, 1)).max() < 1e-16


def paddle_tensor(values: list[float]) -> Any:
    """Return a tensor of Paddle in float64."""
    import paddle

    return paddle.to_tensor(values, dtype="float64")


def paddle_layer() -> Any:
    """Return the layer that PaddleX's classes have."""
    from paddle import nn

    return nn.Hardsigmoid()
