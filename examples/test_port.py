"""The tests of a port in its own repository: `pytest test_port.py --porter-report=port.html`.

Two definitions of one network, a table, a verdict; and the fault that everybody makes once.
"""

from pathlib import Path

import numpy as np
import paddle
import pytest
import torch

from porter.testing import assert_equivalent

TABLE = """
[layers]
"norm" = "norm"
"{name:gate,up}" = "linear"
[dialects.paddle]
framework = "paddle"
[dialects.paddle.names]
"gate" = "w1"
"up" = "w2"
"""


class Torch(torch.nn.Module):
    """A gated layer."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.LayerNorm(8)
        self.gate, self.up = torch.nn.Linear(8, 8), torch.nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(x)
        return x + torch.sigmoid(self.gate(y)) * self.up(y)


class Paddle(paddle.nn.Layer):
    """The same, under other names."""

    def __init__(self) -> None:
        super().__init__()
        self.w2, self.w1 = paddle.nn.Linear(8, 8), paddle.nn.Linear(8, 8)
        self.norm = paddle.nn.LayerNorm(8)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        y = self.norm(x)
        return x + paddle.nn.functional.sigmoid(self.w1(y)) * self.w2(y)


def ported(source: Torch, *, transposed: bool) -> Paddle:
    """Return the port with the weights of the source."""
    names = {"gate": "w1", "up": "w2", "norm": "norm"}
    state = {}
    for name, tensor in source.state_dict().items():
        layer, leaf = name.split(".")
        array = tensor.numpy()
        if transposed and array.ndim == 2:
            array = np.ascontiguousarray(array.T)
        state[f"{names[layer]}.{leaf}"] = paddle.to_tensor(array)
    port = Paddle()
    port.set_state_dict(state)
    return port


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """The table as a file."""
    path = tmp_path / "gated.toml"
    path.write_text(TABLE)
    return path


def inputs() -> dict[str, np.ndarray]:
    """One batch of four rows."""
    return {"x": np.random.default_rng(0).standard_normal((4, 8)).astype("float32")}


def test_the_port_computes_the_same(table: Path) -> None:
    """Every tensor, every module, the outputs in float64 and float32."""
    source = Torch()
    assert_equivalent(source, ported(source, transposed=True), table, inputs())


def test_square_matrices_that_are_not_transposed_are_seen(table: Path) -> None:
    """Shapes agree, and no framework complains; the outputs differ."""
    source = Torch()
    with pytest.raises(AssertionError, match="transposed"):
        assert_equivalent(source, ported(source, transposed=False), table, inputs())
