"""Linformer's twins and table against lucidrains's and tatp22's attention."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import porter
from porter.errors import MappingError, UsageError
from porter.planning.adapt import adapt
from porter.planning.check import prove
from porter.planning.plan import plan
from porter.tensors.state_dict import StateDict
from porter.zoo.architectures import families, find
from porter.zoo.seeded import seeded
from tests.golden.cases import ALL, Case

VARIANTS = {a.name: a for a in families()["linformer"]}
PER_HEAD = VARIANTS["vit-tiny-linformer-perhead-224"]
CASES = [c.name for c in ALL if c.variant in VARIANTS and c.name.endswith(".lucidrains")]
TATP22 = Case("vit-tiny-linformer-224.tatp22")
PARAMETERS = {
    "vit-tiny-linformer-224": 6_013_096,
    "vit-tiny-linformer-sharekv-224": 5_419_432,
    "vit-tiny-linformer-onekv-224": 5_423_272,
    "vit-tiny-linformer-perhead-224": 6_622_888,
}


def test_variants_are_the_ways_to_share() -> None:
    """The family has one variant for each way of sharing E, F, keys and values."""
    assert {name: a.parameters for name, a in VARIANTS.items()} == PARAMETERS


@pytest.mark.parametrize("variant", VARIANTS)
def test_models_have_the_stated_size(twins: Any, variant: str) -> None:
    """Each model has its row's parameters."""
    with torch.device("meta"):
        model = twins.build(variant, "torch")
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[variant]


@pytest.mark.parametrize("case", CASES)
def test_state_dict_is_lucidrains(twins: Any, case: str) -> None:
    """Names, dtypes, shapes and order are those of the public code in a ViT."""
    with torch.device("meta"):
        model = twins.build(Case(case).variant, "torch")
    assert twins.tensors(model) == Case(case).manifest["tensors"]


@pytest.mark.parametrize("framework", ["torch", "paddle"])
@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1e-5), ("float64", 1e-9)])
def test_logits_are_lucidrains(twins: Any, framework: str, dtype: str, bound: float) -> None:
    """The model computes the golden logits: measured 4e-6 in float32, 2e-14 in float64."""
    assert twins.golden_error("vit-tiny-linformer-224.lucidrains", framework, dtype) < bound


@pytest.mark.parametrize("variant", VARIANTS)
def test_twins_agree(twins: Any, variant: str) -> None:
    """Both frameworks agree in float64 on another size."""
    assert twins.disagreement(variant, image_size=64, num_classes=11) < 1e-9


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_parameter_moves_the_logits(twins: Any, variant: str) -> None:
    """No parameter of the model is without effect."""
    assert twins.idle(variant, 64) == set()


def test_one_head_of_keys_and_values_is_all_heads_alike(twins: Any) -> None:
    """Repeating that head in a model with all heads gives the same logits."""
    one, every = (twins.build(f"vit-tiny-linformer-{n}224", "torch") for n in ("onekv-", ""))
    weights = twins.seeded(one)
    image = np.random.default_rng(1).standard_normal((1, 3, 224, 224))
    repeated = {
        n: np.concatenate([a] * 3) if n.endswith(("to_k.weight", "to_v.weight")) else a
        for n, a in weights.items()
    }
    found = [
        twins.run_torch(model, given, image, "float64")
        for model, given in ((one, weights), (every, repeated))
    ]
    assert twins.error(*found) < 1e-12


@pytest.mark.parametrize("variant", VARIANTS)
def test_table_is_proven(variant: str) -> None:
    """Every dialect that the variant has is total and exact."""
    dialects = VARIANTS[variant].dialects
    assert ("tatp22" in dialects) is (VARIANTS[variant] is PER_HEAD)
    for dialect in dialects:
        assert prove(VARIANTS[variant], dialect).problems == ()


@pytest.mark.parametrize("case", CASES)
def test_every_dialect_gives_every_weight_back(twins: Any, case: str) -> None:
    """There and back again, no tensor changes by a bit."""
    assert twins.misnamed(case) == []
    assert twins.round_trip(case, "paddle") == []


def test_table_agrees_with_the_kinds_of_paddles_layers(twins: Any) -> None:
    """What the table makes for Paddle is what transposing by the layers' kinds makes."""
    twins.assert_converted("vit-tiny-linformer-224.lucidrains")


@pytest.mark.parametrize("through", ["torch", "paddle"])
def test_tatp22s_weights_come_back(through: str) -> None:
    """Heads apart become one tensor and heads apart again, bit for bit."""
    state = StateDict.of(TATP22.weights())
    shapes = {name: (tensor.dtype.name, tensor.shape) for name, tensor in state.items()}
    there = plan(PER_HEAD, shapes, "tatp22", through)
    back = there.back(there.apply(state)).arrays()
    assert set(back) == set(state)
    assert all((back[name] == tensor.read()).all() for name, tensor in state.items())


def test_tatp22s_heads_are_laid_out_the_other_way_round() -> None:
    """E of head h is a Linear there, and the transpose of `proj_k[h]` here."""
    arrays = TATP22.weights()
    shapes = {name: (a.dtype.name, a.shape) for name, a in arrays.items()}
    made = plan(PER_HEAD, shapes, "tatp22", "torch").apply(StateDict.of(arrays)).arrays()
    for h in range(3):
        wanted = arrays[f"blocks.5.attn.heads.{h}.E.weight"].T
        assert (made["blocks.5.attn.proj_k"][h] == wanted).all()
        wanted = arrays[f"blocks.5.attn.to_v.{h}.weight"]
        assert (made["blocks.5.attn.to_v.weight"][64 * h : 64 * h + 64] == wanted).all()


def test_a_shared_projection_is_refused_as_tatp22s(tmp_path: Path) -> None:
    """There is no naming of tatp22's for E and F without a bias, and the error says so."""
    source = Case("vit-tiny-linformer-224.lucidrains").save(tmp_path)
    with pytest.raises(MappingError, match="tatp22 names only variants that have"):
        porter.convert(
            "vit-tiny-linformer-224", source, tmp_path / "x.pth", from_="torch", to="torch:tatp22"
        )


def test_another_image_size_needs_other_projections() -> None:
    """E and F mix a fixed number of tokens: they are not resized like positions."""
    variant = find("vit-tiny-linformer-224")
    with pytest.raises(UsageError, match="proj_k"):
        adapt(variant, seeded(variant), image_size=384)
    assert adapt(variant, seeded(variant), image_size=224)[1] == []
