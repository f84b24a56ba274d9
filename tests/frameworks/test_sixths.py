"""Hardsigmoid and Hardswish by 6 instead of by a sixth of float32."""

from __future__ import annotations

import pytest

from porter.frameworks.precision.sixths import exact

torch = pytest.importorskip("torch")
X = torch.linspace(-5, 5, 101, dtype=torch.float64)


SLOPES = {"Hardswish": lambda x: x / 3 + 0.5, "Hardsigmoid": lambda x: torch.full_like(x, 1 / 6)}


@pytest.mark.parametrize("name", SLOPES)
@pytest.mark.parametrize("inplace", [False, True])
def test_values_are_those_of_the_cpu_and_slopes_are_exact(name: str, inplace: bool) -> None:
    """The same function, in place too, that can go back: PyTorch's own slope is a float32's."""
    layer = getattr(torch.nn, name)(inplace=inplace)
    usual = layer(X.clone())
    x = X.clone().requires_grad_()
    with exact("cuda", torch.float64):
        ours = layer(x * 1)
    torch.testing.assert_close(ours.detach(), usual, rtol=1e-15, atol=1e-15)
    ours.sum().backward()
    inside = X.abs() < 3 - 1e-9
    torch.testing.assert_close(x.grad[inside], SLOPES[name](X)[inside], rtol=1e-15, atol=1e-15)


def test_in_place_changes_the_argument() -> None:
    """The tensor that is given has the result, as with PyTorch's own function."""
    x = X.clone()
    with exact("cuda:1", torch.float64):
        assert torch.nn.functional.hardswish(x, inplace=True) is x
    torch.testing.assert_close(x, torch.nn.functional.hardswish(X), rtol=1e-15, atol=1e-15)


def test_it_takes_the_place_of_a_gpus_kernel_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU and in other precisions PyTorch's own function runs; on a GPU in float64, not."""
    monkeypatch.setattr(
        "porter.frameworks.precision.sixths._functions",
        lambda: {torch.nn.functional.hardswish: lambda x, inplace: "ours"},
    )
    for device, dtype, replaced in (
        ("cpu", torch.float64, False),
        ("cuda", torch.float32, False),
        ("cuda", torch.float64, True),
    ):
        with exact(device, dtype):
            assert isinstance(torch.nn.functional.hardswish(X), str) is replaced
