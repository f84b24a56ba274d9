"""D-DW-Conv's twins and table against the official code."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from porter.planning.check import prove
from porter.zoo.architectures import families
from tests.golden.cases import ALL, Case

VARIANTS = {a.name: a for a in families()["dwnet"]}
CASES = [c.name for c in ALL if c.variant in VARIANTS]
TINY = [name for name in VARIANTS if name.endswith("tiny")]
PARAMETERS = {
    "dwnet-tiny": 24_172_744,
    "dwnet-base": 74_347_112,
    "dynamic-dwnet-tiny": 51_131_752,
    "dynamic-dwnet-base": 161_597_928,
    "i-dynamic-dwnet-tiny": 26_244_280,
    "i-dynamic-dwnet-base": 80_253_608,
}


def test_variants_are_the_forms_in_two_sizes() -> None:
    """The family has its six variants; the dynamic form is not the static one."""
    assert {name: a.parameters for name, a in VARIANTS.items()} == PARAMETERS


@pytest.mark.parametrize("case", CASES)
def test_state_dict_is_that_of_the_official_code(twins: Any, case: str) -> None:
    """Names, dtypes, shapes and order are those of the official model, and so is the size."""
    with torch.device("meta"):
        model = twins.build(Case(case).variant, "torch")
    assert twins.tensors(model) == Case(case).manifest["tensors"]
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[Case(case).variant]


@pytest.mark.parametrize("framework", ["torch", "paddle"])
@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1e-5), ("float64", 1e-9)])
@pytest.mark.parametrize("variant", TINY)
def test_logits_are_those_of_the_official_code(
    twins: Any, variant: str, framework: str, dtype: str, bound: float
) -> None:
    """The model computes the golden logits: measured 3e-6 in float32, 3e-12 in float64."""
    assert twins.golden_error(f"{variant}.official", framework, dtype) < bound


@pytest.mark.parametrize("variant", TINY)
def test_twins_agree(twins: Any, variant: str) -> None:
    """Both frameworks agree in float64 on another size."""
    assert twins.disagreement(variant, image_size=64, num_classes=11) < 1e-9


@pytest.mark.parametrize("variant", TINY)
def test_every_parameter_moves_the_logits(twins: Any, variant: str) -> None:
    """No parameter of the model is without effect."""
    assert twins.idle(variant, 64) == set()


@pytest.mark.parametrize("framework", ["torch", "paddle"])
def test_drop_path_acts_in_training_alone(twins: Any, framework: str) -> None:
    """Residual branches are dropped at random in training and kept in evaluation."""
    evaluation, training = twins.drop_path_spread("dwnet-tiny", framework, 32)
    assert evaluation == 0
    assert training > 0


@pytest.mark.parametrize("framework", ["torch", "paddle"])
@pytest.mark.parametrize("places", ["one kernel", "a kernel for each place"])
def test_convolution_follows_the_formula(framework: str, places: str) -> None:
    """Channel c at (y, x) is the sum over the kernel of its group, zeros outside the map."""
    batch, channels, groups, height, width, size = 2, 4, 2, 5, 6, 3
    rng = np.random.default_rng(0)
    shape = (height, width) if places == "a kernel for each place" else (1, 1)
    image = rng.standard_normal((batch, channels, height, width))
    kernels = rng.standard_normal((batch, groups * size * size, *shape))
    whole = np.broadcast_to(
        kernels.reshape(batch, groups, size, size, *shape),
        (batch, groups, size, size, height, width),
    )
    padded = np.pad(image, [(0, 0), (0, 0), (1, 1), (1, 1)])
    wanted = np.zeros_like(image)
    for c, y, x in np.ndindex(channels, height, width):
        window = padded[:, c, y : y + size, x : x + size]
        wanted[:, c, y, x] = (window * whole[:, c // (channels // groups), :, :, y, x]).sum((1, 2))
    module = __import__(f"porter.reference_models.{framework}.dwnet", fromlist=["convolve"])
    if framework == "torch":
        found = module.convolve(torch.from_numpy(image), torch.from_numpy(kernels), size, groups)
    else:
        import paddle

        given = (paddle.to_tensor(image), paddle.to_tensor(kernels))
        found = module.convolve(*given, size, groups)
    assert np.abs(found.numpy() - wanted).max() < 1e-12


@pytest.mark.parametrize("framework", ["torch", "paddle"])
def test_other_kernels_are_refused(framework: str) -> None:
    """An unknown form is an error that lists the known ones."""
    module = __import__(f"porter.reference_models.{framework}.dwnet", fromlist=["DWNet"])
    with pytest.raises(ValueError, match="static, dynamic, inhomogeneous"):
        module.DWNet(kernels="shared", image_size=32, depths=[1])


@pytest.mark.parametrize("variant", VARIANTS)
def test_table_is_proven(variant: str) -> None:
    """Both dialects are total and exact."""
    for dialect in ("torch", "paddle"):
        assert prove(VARIANTS[variant], dialect).problems == ()


@pytest.mark.parametrize("variant", TINY)
def test_paddle_gives_every_weight_back(twins: Any, variant: str) -> None:
    """The table makes what the layers' kinds make, and there and back no bit changes."""
    assert twins.misnamed(f"{variant}.official") == []
    changed = twins.round_trip(f"{variant}.official", "paddle")
    assert changed
    assert all(name.endswith("num_batches_tracked") for name in changed)
    twins.assert_converted(f"{variant}.official")
