"""What the tests of the reference models share: golden cases, both frameworks, one measure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import paddle
import pytest
import torch

from porter.frameworks.models import build
from porter.planning.check import dialect_tensors
from porter.planning.plan import plan
from porter.planning.sizes import Shapes
from porter.tensors.state_dict import StateDict
from porter.zoo.architectures import find
from tests.golden.cases import Case, recipe

PADDLE_LEAVES = {"running_mean": "_mean", "running_var": "_variance"}
CONSTANTS = ("relative_position_index", "attn_mask")
"""Buffers that the architecture computes: no weights, and the recipe makes no values for them."""
SCALES = {r"attn2conv\.conv\.conv2\b": 0.1, r"attn\.(proj|bias)_[kv]": 0.1425}
"""{pattern of names: factor of the recipe's values}, where a network overflows or saturates."""
Weights = Mapping[str, np.ndarray]


def _scale(name: str, shape: list[int]) -> float:
    """Return the factor of the recipe's values, whose fan-in of a bank of kernels is too large."""
    bank = shape[1] ** 0.5 if len(shape) == 5 else 1.0
    return bank * next((f for pattern, f in SCALES.items() if re.search(pattern, name)), 1.0)


class Twins:
    """A variant in both frameworks, run on the CPU on weights under canonical names."""

    def build(self, variant: str, framework: str, **options: Any) -> Any:
        """Return a freshly initialised reference model."""
        return build(find(variant), framework, **options)

    def tensors(self, model: torch.nn.Module) -> list[list[Any]]:
        """Return [name, dtype, shape] of a torch model's state dict as a manifest lists them."""
        return [
            [name, str(value.dtype).removeprefix("torch."), list(value.shape)]
            for name, value in model.state_dict().items()
        ]

    def seeded(self, model: torch.nn.Module, seed: int = 3) -> dict[str, np.ndarray]:
        """Return weights for a torch model in which every tensor moves the logits."""
        tensors = self.tensors(model)
        scale = {name: _scale(name, shape) for name, _, shape in tensors}
        weights = recipe.state_dict({"seed": seed, "tensors": tensors, "scale": scale})
        return weights | self.constants(model)

    def constants(self, model: torch.nn.Module) -> dict[str, np.ndarray]:
        """Return the buffers of a torch model that its architecture computes."""
        return {
            name: value.numpy()
            for name, value in model.state_dict().items()
            if name.rpartition(".")[2] in CONSTANTS
        }

    def for_paddle(self, model: paddle.nn.Layer, weights: Weights) -> dict[str, np.ndarray]:
        """Return canonical weights as Paddle keeps them, by the kinds of the model's layers.

        Written without porter's tables on purpose: those are tested against this.
        """
        layers = dict(model.named_sublayers())
        found = {}
        for name, value in weights.items():
            path, _, leaf = name.rpartition(".")
            if leaf == "num_batches_tracked":
                continue
            if isinstance(layers.get(path), paddle.nn.Linear) and leaf == "weight":
                value = value.T
            leaf = PADDLE_LEAVES.get(leaf, leaf)
            found[f"{path}.{leaf}" if path else leaf] = np.array(value, order="C")
        return found

    def run_torch(
        self, model: torch.nn.Module, weights: Weights, image: np.ndarray, dtype: str
    ) -> np.ndarray:
        """Return the logits of a torch model in evaluation, float64."""
        state = {k: torch.from_numpy(np.array(v)) for k, v in weights.items()}
        model.load_state_dict(state, strict=True)
        model.eval().to(getattr(torch, dtype))
        with torch.no_grad():
            found = model(torch.from_numpy(image.astype(dtype)))
        assert str(found.dtype) == f"torch.{dtype}"
        return found.numpy().astype("float64")

    def run_paddle(
        self, model: paddle.nn.Layer, weights: Weights, image: np.ndarray, dtype: str
    ) -> np.ndarray:
        """Return the logits of a Paddle model in evaluation, float64."""
        state = self.for_paddle(model, weights)
        own = {name: tuple(value.shape) for name, value in model.state_dict().items()}
        assert {name: value.shape for name, value in state.items()} == own
        assert list(state) == list(own)  # the same order as torch's
        model.set_state_dict({k: paddle.to_tensor(v) for k, v in state.items()})
        model.eval()
        model.to(dtype=dtype)
        with paddle.no_grad():
            found = model(paddle.to_tensor(image.astype(dtype)))
        assert found.dtype == getattr(paddle, dtype)
        return found.numpy().astype("float64")

    def run(
        self, framework: str, model: Any, weights: Weights, image: np.ndarray, dtype: str
    ) -> np.ndarray:
        """Return the logits of a model in evaluation, float64."""
        chosen: Callable[..., np.ndarray]
        chosen = self.run_torch if framework == "torch" else self.run_paddle
        return chosen(model, weights, image, dtype)

    def error(self, found: np.ndarray, reference: np.ndarray) -> float:
        """Return max |found - reference| / rms(reference)."""
        assert found.shape == reference.shape
        return float(np.abs(found - reference).max() / np.sqrt(np.mean(reference**2)))

    def golden_error(self, case: str, framework: str, dtype: str) -> float:
        """Return a reference model's error on a golden case of its own naming."""
        golden = Case(case)
        model = self.build(golden.variant, framework)
        weights = self.with_constants(golden.variant, golden.weights())
        found = self.run(framework, model, weights, golden.image(), dtype)
        return self.error(found, golden.logits)

    def with_constants(self, variant: str, weights: Weights) -> Weights:
        """Return canonical weights and, in the model's order, the buffers that it computes."""
        if not find(variant).table.constants:
            return weights
        model = self.build(variant, "torch")
        whole = {**weights, **self.constants(model)}
        return {name: whole[name] for name in model.state_dict()}

    def disagreement(self, variant: str, *, image_size: int, **options: Any) -> float:
        """Return how far the twins are apart in float64, on weights that all matter."""
        built = [
            self.build(variant, framework, image_size=image_size, **options)
            for framework in ("torch", "paddle")
        ]
        weights = self.seeded(built[0])
        image = np.random.default_rng(5).standard_normal((2, 3, image_size, image_size))
        left = self.run_torch(built[0], weights, image, "float64")
        right = self.run_paddle(built[1], weights, image, "float64")
        return self.error(right, left)

    def drop_path_spread(self, variant: str, framework: str, image_size: int) -> list[float]:
        """Return how far two runs of one model differ: in evaluation, and with drop path on."""
        torch.manual_seed(0)
        paddle.seed(0)
        model = self.build(variant, framework, image_size=image_size, drop_path_rate=0.9)
        model.eval()
        image = np.random.default_rng(2).standard_normal((2, 3, image_size, image_size))
        image = image.astype("float32")
        x = torch.from_numpy(image) if framework == "torch" else paddle.to_tensor(image)
        with torch.no_grad(), paddle.no_grad():
            evaluation = float(abs(model(x) - model(x)).max())
            for layer in model.modules() if framework == "torch" else model.sublayers():
                layer.training = type(layer).__name__ == "DropPath"
            return [evaluation, float(abs(model(x) - model(x)).max())]

    def idle(self, variant: str, image_size: int) -> set[str]:
        """Return the parameters that do not move the logits: those of no gradient in float64."""
        torch.manual_seed(0)
        model = self.build(variant, "torch", image_size=image_size)
        weights = self.seeded(model)
        model.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in weights.items()})
        model.eval().double()
        logits = model(torch.randn(2, 3, image_size, image_size, dtype=torch.float64))
        (logits * torch.randn_like(logits)).sum().backward()
        grads = {n: p.grad for n, p in model.named_parameters()}
        return {n for n, g in grads.items() if g is None or float(g.abs().max()) < 1e-12}

    def misnamed(self, case: str) -> list[str]:
        """Return where the table's tensors for a golden case's dialect differ from the case's."""
        golden = Case(case)
        made = dialect_tensors(find(golden.variant), _dialect(golden))
        wanted = _shapes(golden)
        names = [*wanted, *(name for name in made if name not in wanted)]
        return [name for name in names if made.get(name) != wanted.get(name)]

    def round_trip(self, case: str, through: str) -> list[str]:
        """Return the tensors of a golden case that a dialect does not give back bit for bit."""
        golden = Case(case)
        architecture, dialect = find(golden.variant), _dialect(golden)
        state = StateDict.of(golden.weights())
        if golden.manifest.get("derived"):
            state = plan(architecture, _shapes(golden), dialect, dialect).apply(state)
        there = plan(architecture, _shapes(golden), dialect, through).apply(state)
        shapes = {name: (tensor.dtype.name, tensor.shape) for name, tensor in there.items()}
        back = plan(architecture, shapes, through, dialect).apply(there)
        assert set(back) == set(state)
        pairs = {name: (state[name].read(), back[name].read()) for name in state}
        return [n for n, (a, b) in pairs.items() if a.dtype != b.dtype or not _same(a, b)]

    def assert_converted(self, case: str) -> None:
        """Hold a case's weights, taken to Paddle by the table, to `for_paddle`."""
        golden = Case(case)
        made = plan(find(golden.variant), _shapes(golden), _dialect(golden), "paddle")
        found = made.apply(StateDict.of(golden.weights())).arrays()
        weights = self.with_constants(golden.variant, golden.weights())
        wanted = self.for_paddle(self.build(golden.variant, "paddle"), weights)
        assert list(found) == list(wanted)
        assert [name for name in wanted if not _same(found[name], wanted[name])] == []


def _dialect(case: Case) -> str:
    return case.side.rpartition(":")[2]


def _shapes(case: Case) -> Shapes:
    return {name: (dtype, tuple(shape)) for name, dtype, shape in case.manifest["tensors"]}


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    return one.shape == other.shape and one.tobytes() == other.tobytes()


@pytest.fixture(scope="session")
def twins() -> Twins:
    """Return the tools that the tests of the reference models share."""
    torch.set_num_threads(1)
    return Twins()
