"""The twins of PaddleOCR's models against PaddleX's model code and transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
import torch

import porter
from porter.zoo.architectures import find
from porter.zoo.seeded import seeded
from tests.golden.cases import Case
from tests.test_golden import run

CASES = [
    "pp-lcnet-x1_0-doc-ori.paddlex", "hgnet-v2-l.paddlex", "pp-ocrv5-mobile-det.paddlex",
    "pp-ocrv5-mobile-rec.paddlex",
]  # fmt: skip
VARIANTS = [
    "pp-lcnet-x0_25-textline-ori", "pp-lcnet-x1_0-table-cls", "hgnet-v2-l", "pp-ocrv5-mobile-det",
    "pp-ocrv5-mobile-rec",
]  # fmt: skip
IN_TRANSFORMERS = [
    [0.4720361551253326, -0.730986754898647, -0.7366369342669499, -0.016115317578983657],
    [0.4678360757528325, -0.7854125650181422, -0.9129396567740982, -0.20030185824381214],
]
"""Logits of PPLCNetForImageClassification on the first case's weights, in float64."""


def canonical(model: torch.nn.Module, case: Case) -> dict[str, np.ndarray]:
    """Return a case's weights under transformers' names, by the list of its Linears.

    Written without porter's tables on purpose: those are tested against this.
    """
    given = case.weights()
    found = {}
    for name, value in model.state_dict().items():
        theirs = name.replace("running_mean", "_mean").replace("running_var", "_variance")
        if name.endswith("num_batches_tracked"):
            found[name] = value.numpy()
            continue
        array = given.pop(theirs)
        linear = name.endswith(".weight") and name.rpartition(".")[0] in case.manifest["linears"]
        found[name] = array.T if linear else array
    assert not given
    return found


def size(variant: str) -> tuple[int, int]:
    """Return height and width of a small picture."""
    height, width = find(variant).sides()
    return (64, 64) if height == width else (height, width)


@pytest.mark.parametrize("name", CASES)
def test_state_dicts_are_those_published(twins: Any, name: str) -> None:
    """Paddle's names, dtypes, shapes and order are PaddleX's; torch's have counters besides."""
    case = Case(name)
    model = twins.build(case.variant, "paddle")
    assert [
        [n, str(v.dtype).rpartition(".")[2], list(v.shape)] for n, v in model.state_dict().items()
    ] == case.manifest["tensors"]
    assert len(canonical(twins.build(case.variant, "torch"), case)) > len(case.manifest["tensors"])


@pytest.mark.parametrize("framework", ["torch", "paddle"])
@pytest.mark.parametrize("name", CASES)
def test_outputs_are_those_of_paddlex(twins: Any, name: str, framework: str) -> None:
    """Measured in float64: 8e-9, dropout being 0.8 in float32 there, 7e-12 and below without."""
    case = Case(name)
    model = twins.build(case.variant, framework, **case.settings)
    weights = canonical(twins.build(case.variant, "torch"), case)
    found = case.kept(twins.run(framework, model, weights, case.image(), "float64"))
    assert twins.error(found, case.logits) < 2e-8


@pytest.mark.parametrize("framework", ["torch", "paddle"])
def test_the_slope_of_the_gates_is_transformers(twins: Any, framework: str) -> None:
    """As it is built a twin has PyTorch's Hardsigmoid: Paddle's is 1e-7 away, this 3e-11."""
    case = Case(CASES[0])
    model = twins.build(case.variant, framework)
    weights = canonical(twins.build(case.variant, "torch"), case)
    found = twins.run(framework, model, weights, case.image(), "float64")
    assert twins.error(found, np.array(IN_TRANSFORMERS)) < 1e-9
    assert twins.error(found, case.logits) > 5e-8


@pytest.mark.parametrize("variant", VARIANTS)
def test_twins_agree(twins: Any, variant: str) -> None:
    """Both frameworks agree in float64 on seeded weights, on pictures that are not square too."""
    weights = seeded(find(variant)).arrays()
    image = np.random.default_rng(5).standard_normal((2, 3, *size(variant)))
    left, right = (
        twins.run(side, twins.build(variant, side), weights, image, "float64")
        for side in ("torch", "paddle")
    )
    assert twins.error(right, left) < 1e-9
    assert twins.error(left[:1], left[1:]) > 1e-3  # another picture, another answer


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_parameter_moves_the_output(twins: Any, variant: str) -> None:
    """No seeded parameter is without effect, but those after a stride that is the number 2."""
    model = twins.build(variant, "torch")
    weights = {n: torch.from_numpy(np.array(a)) for n, a in seeded(find(variant)).arrays().items()}
    model.load_state_dict(weights)
    model.eval().double()
    found = model(torch.randn(2, 3, *size(variant), dtype=torch.float64))
    (found * torch.randn_like(found)).sum().backward()
    grads = {n: p.grad for n, p in model.named_parameters()}
    idle = {n for n, g in grads.items() if g is None or float(g.abs().max()) < 1e-12}
    assert len(idle) == (8 if variant == "pp-ocrv5-mobile-det" else 0)
    assert idle == {name for name in grads if find(variant).unused_because(name)}


@pytest.mark.parametrize("framework", ["torch", "paddle"])
def test_the_head_is_scaled_whatever_the_dropout(
    twins: Any, framework: str, tmp_path: Path
) -> None:
    """A model loaded for training without dropout, or with another, infers as the published."""
    variant = "pp-lcnet-x0_25-textline-ori"
    porter.init(variant, tmp_path / "a.safetensors", to="torch")
    image = np.random.default_rng(1).standard_normal((1, 3, 80, 160)).astype("float32")
    found = [
        run(porter.load_model(variant, tmp_path / "a.safetensors", framework, drop_rate=rate),
            framework, image)
        for rate in (0.0, 0.5)
    ]  # fmt: skip
    weights = seeded(find(variant)).arrays()
    plain = twins.build(variant, framework, head_scale=1.0)
    whole = twins.run(framework, plain, weights, image, "float64")
    bias = weights["head.bias"].astype("float64")
    assert (found[0] == found[1]).all()
    assert np.abs((found[0] - bias) - 0.8 * (whole - bias)).max() < 1e-4
    with pytest.raises(ValueError, match="no residual branches"):
        porter.load_model(variant, tmp_path / "a.safetensors", framework, drop_path_rate=0.1)


@pytest.mark.parametrize("framework", ["torch", "paddle"])
def test_drop_path_acts_in_training_alone(twins: Any, framework: str) -> None:
    """Residual branches of HGNetV2 are dropped at random in training and kept in evaluation."""
    evaluation, training = twins.drop_path_spread("hgnet-v2-l", framework, 64)
    assert evaluation < 1e-5  # Paddle's convolutions may round otherwise in a second run
    assert training > 0


@pytest.mark.parametrize("framework", ["torch", "paddle"])
def test_the_detector_gives_features_and_maps(twins: Any, framework: str) -> None:
    """The neck's map is a quarter of the picture; another number of maps changes one layer."""
    model = twins.build("pp-ocrv5-mobile-det", framework)
    model.eval()
    image = np.random.default_rng(1).standard_normal((1, 3, 64, 96)).astype("float32")
    x = torch.from_numpy(image) if framework == "torch" else paddle.to_tensor(image)
    features = model.forward_features(x)
    assert list(features.shape) == [1, 96, 16, 24]
    found = model.forward_head(features)
    assert list(found.shape) == [1, 1, 64, 96]
    assert (found == model(x)).all()
    before = {n: list(v.shape) for n, v in model.state_dict().items()}
    model.reset_classifier(3)
    after = {n: list(v.shape) for n, v in model.state_dict().items()}
    changed = {n for n in after if after[n] != before[n]}
    assert changed == {"head.conv_final.weight", "head.conv_final.bias"}
    assert list(model(x).shape) == [1, 3, 64, 96]
    with pytest.raises(ValueError, match="at least 1"):
        model.reset_classifier(0)
    with pytest.raises(ValueError, match="no dropout"):
        twins.build("pp-ocrv5-mobile-det", framework, drop_rate=0.1)


@pytest.mark.parametrize("framework", ["torch", "paddle"])
def test_the_recogniser_takes_lines_of_any_width(twins: Any, framework: str) -> None:
    """A column of 8 px has a token, and a token the scores of all characters."""
    model = twins.build("pp-ocrv5-mobile-rec", framework, num_classes=5)
    model.eval()
    for width in (96, 320):
        image = np.random.default_rng(1).standard_normal((1, 3, 48, width)).astype("float32")
        x = torch.from_numpy(image) if framework == "torch" else paddle.to_tensor(image)
        tokens = model.forward_features(x)
        assert list(tokens.shape) == [1, width // 8, 120]
        assert (model.forward_head(tokens) == model(x)).all()
    model.reset_classifier(7)
    assert list(model(x).shape) == [1, 40, 7]
    with pytest.raises(ValueError, match="at least 1"):
        model.reset_classifier(0)
