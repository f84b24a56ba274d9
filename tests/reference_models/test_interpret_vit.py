"""The two studies of "Interpret ViTs as ConvNets", held to the paper's formulas in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import pytest
import torch

from porter.errors import UsageError
from porter.mapping.constants import constants
from porter.planning.check import prove
from porter.planning.plan import plan
from porter.zoo.architectures import families, find
from porter.zoo.seeded import seeded

VARIANTS = {a.name: a for a in families()["interpret-vit"]}
VIT = [name for name in VARIANTS if name.startswith("vit")]
SWIN = [name for name in VARIANTS if name.startswith("swin")]
STUDIES = ["relu", "layernorm", "relumean", "softmax", "depthwise"]
PARAMETERS = {
    "vit-tiny-relu-224": 5_743_768,
    "vit-tiny-relu-norel-224": 5_717_416,
    "vit-tiny-layernorm-224": 5_748_496,
    "vit-tiny-layernorm-norel-224": 5_722_144,
    "vit-tiny-relumean-224": 5_743_768,
    "vit-tiny-relumean-norel-224": 5_717_416,
    "vit-tiny-softmax-224": 5_743_768,
    "vit-tiny-depthwise-224": 5_299_096,
    "vit-tiny-depthwise-norel-224": 5_272_744,
    "swin-tiny-relu-w7-224": 28_288_354,
    "swin-tiny-relu-norel-w7-224": 28_265_032,
    "swin-tiny-layernorm-w7-224": 28_289_530,
    "swin-tiny-layernorm-norel-w7-224": 28_266_208,
    "swin-tiny-relumean-w7-224": 28_288_354,
    "swin-tiny-relumean-norel-w7-224": 28_265_032,
    "swin-tiny-softmax-norel-w7-224": 28_265_032,
    "swin-tiny-depthwise-w7-224": 26_127_394,
    "swin-tiny-depthwise-norel-w7-224": 26_104_072,
}
DIM, HEADS, SIDE = 8, 2, 3
Weights = dict[str, np.ndarray]


def positions(table: np.ndarray, class_token: bool) -> np.ndarray:
    """Return p (heads, N, N), one entry per offset; the class token's three come last."""
    places = [(y, x) for y in range(SIDE) for x in range(SIDE)]
    tokens = [None, *places] if class_token else list(places)
    width = 2 * SIDE - 1
    p = np.zeros((HEADS, len(tokens), len(tokens)))
    for i, one in enumerate(tokens):
        for j, other in enumerate(tokens):
            if one is not None and other is not None:
                row = (one[0] - other[0] + SIDE - 1) * width + one[1] - other[1] + SIDE - 1
            else:
                row = (
                    width**2
                    + {(True, False): 0, (False, True): 1, (True, True): 2}[
                        (one is None, other is None)
                    ]
                )
            p[:, i, j] = table[row]
    return p


def by_formula(study: str, x: np.ndarray, w: Weights, near: np.ndarray) -> np.ndarray:
    """Return the attention of one picture or window, (N, DIM), as the paper writes it.

    `near` (N, N) says which keys a query may use.
    """
    n = len(x)
    p = np.zeros((HEADS, n, n))
    if "relative_position_bias_table" in w:
        p = positions(w["relative_position_bias_table"], n > SIDE * SIDE)
    name = "qk" if study == "depthwise" else "qkv"
    banks = np.split(x @ w[f"{name}.weight"].T + w[f"{name}.bias"], len(name), axis=1)
    out = np.zeros((n, DIM))
    d = DIM // HEADS
    for h in range(HEADS):
        own = slice(h * d, (h + 1) * d)
        q, k = banks[0][:, own], banks[1][:, own]
        for i in range(n):
            js = [j for j in range(n) if near[i, j]]
            if study == "depthwise":
                mean = sum(k[j] for j in js) / len(js)
                out[i, own] = q[i] * mean + sum(p[h, i, j] * k[j] for j in js)
                continue
            scores = np.array([q[i] @ k[j] / np.sqrt(d) + p[h, i, j] for j in range(n)])
            if study in ("relu", "relumean"):
                active = np.maximum(scores, 0) / (len(js) if study == "relumean" else 1)
            elif study == "softmax":
                active = np.exp(scores) / sum(np.exp(scores[j]) for j in js)
            else:
                active = (scores - scores.mean()) / np.sqrt(scores.var() + 1e-6)
                active = active * w["act.weight"] + w["act.bias"]
            out[i, own] = sum(active[j] * banks[2][j, own] for j in js)
    return out @ w["proj.weight"].T + w["proj.bias"]


def attention(
    framework: str, study: str, class_token: bool, relative: bool = True
) -> tuple[Any, Weights]:
    """Return an attention in float64 and its weights in PyTorch's layout."""
    module = __import__(f"porter.reference_models.{framework}.interpret_vit", fromlist=["x"])
    layer = module.make_attention(study, DIM, HEADS, SIDE, class_token, 0.0, relative)
    rng = np.random.default_rng(1)
    weights, given = {}, {}
    for name, value in layer.state_dict().items():
        if name.endswith("index"):
            continue
        given[name] = rng.standard_normal(tuple(value.shape))
        turned = framework == "paddle" and name.endswith("weight") and given[name].ndim == 2
        weights[name] = given[name].T if turned else given[name]
    layer.eval()
    if framework == "torch":
        layer.double().load_state_dict(
            {n: torch.from_numpy(a) for n, a in given.items()}, strict=False
        )
    else:
        layer.to(dtype="float64")
        layer.set_state_dict({n: paddle.to_tensor(a) for n, a in given.items()})
    return layer, weights


def ran(framework: str, layer: Any, *arrays: np.ndarray) -> np.ndarray:
    """Return what a layer makes of arrays."""
    if framework == "torch":
        return layer(*(torch.from_numpy(a) for a in arrays)).detach().numpy()
    return layer(*(paddle.to_tensor(a) for a in arrays)).numpy()


@pytest.mark.parametrize("framework", ["torch", "paddle"])
@pytest.mark.parametrize("class_token", [True, False])
@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize("study", STUDIES)
def test_attention_follows_the_formula(
    framework: str, study: str, class_token: bool, relative: bool
) -> None:
    """Each study's attention is its sum over keys, with and without class token and positions."""
    layer, weights = attention(framework, study, class_token, relative)
    n = SIDE * SIDE + class_token
    x = np.random.default_rng(2).standard_normal((2, n, DIM))
    everyone = np.ones((n, n), bool)
    wanted = np.stack([by_formula(study, picture, weights, everyone) for picture in x])
    assert np.abs(ran(framework, layer, x) - wanted).max() < 1e-12


@pytest.mark.parametrize("framework", ["torch", "paddle"])
@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize("study", STUDIES)
def test_masked_tokens_are_left_out(framework: str, study: str, relative: bool) -> None:
    """In a shifted window the sums run over the tokens that were neighbours before the shift."""
    layer, weights = attention(framework, study, False, relative)
    rng = np.random.default_rng(3)
    regions = rng.integers(0, 2, (2, SIDE * SIDE))  # of each of two windows
    near = regions[:, :, None] == regions[:, None, :]
    mask = np.where(near, 0.0, -100.0)
    x = rng.standard_normal((4, SIDE * SIDE, DIM))  # two pictures of two windows
    wanted = [by_formula(study, window, weights, near[i % 2]) for i, window in enumerate(x)]
    assert np.abs(ran(framework, layer, x, mask) - np.stack(wanted)).max() < 1e-12


def test_variants_are_both_studies_on_vit_and_swin() -> None:
    """The family has each form on both models with the parameters that the studies leave."""
    assert {name: a.parameters for name, a in VARIANTS.items()} == PARAMETERS
    plain = find("swin-tiny-w7-224").parameters
    assert PARAMETERS["swin-tiny-relu-w7-224"] == plain  # nothing is added, nothing goes
    tables = 12 * 3 * ((2 * 14 - 1) ** 2 + 3)
    assert PARAMETERS["vit-tiny-relu-224"] == find("deit-tiny-224").parameters + tables
    values = 12 * (192 * 192 + 192)
    assert PARAMETERS["vit-tiny-depthwise-224"] == PARAMETERS["vit-tiny-relu-224"] - values
    assert PARAMETERS["vit-tiny-layernorm-224"] == PARAMETERS["vit-tiny-relu-224"] + 12 * 2 * 197


@pytest.mark.parametrize("variant", VARIANTS)
def test_models_have_the_stated_size(twins: Any, variant: str) -> None:
    """Each model has its row's parameters."""
    with torch.device("meta"):
        model = twins.build(variant, "torch")
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[variant]


@pytest.mark.parametrize("variant", VIT)
def test_vit_twins_agree(twins: Any, variant: str) -> None:
    """Both frameworks agree in float64 on weights in which every tensor matters."""
    assert twins.disagreement(variant, image_size=64, num_classes=11) < 1e-9


@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize("study", STUDIES)
def test_swin_twins_agree(twins: Any, study: str, relative: bool) -> None:
    """Both frameworks agree in float64 with shifted windows, small model."""
    found, weights = [], {}
    image = np.random.default_rng(5).standard_normal((2, 3, 32, 32))
    for framework in ("torch", "paddle"):
        module = __import__(f"porter.reference_models.{framework}.interpret_vit", fromlist=["x"])
        model = module.InterpretSwin(
            attention=study,
            relative=relative,
            image_size=32,
            patch_size=2,
            window_size=4,
            num_classes=7,
            embed_dim=8,
            depths=[2, 2],
            num_heads=[2, 4],
        )
        weights = weights or twins.seeded(model)
        found.append(twins.run(framework, model, weights, image, "float64"))
    assert twins.error(found[1], found[0]) < 1e-9


@pytest.mark.parametrize("framework", ["torch", "paddle"])
@pytest.mark.parametrize("variant", ["vit-tiny-relu-224", "swin-tiny-depthwise-norel-w7-224"])
def test_constants_are_computed_bit_for_bit(twins: Any, variant: str, framework: str) -> None:
    """What porter writes for the buffers is what the models register."""
    model = twins.build(variant, framework, num_classes=2)
    made = constants("interpret_vit", VARIANTS[variant].config, 224)
    own = {n: v.numpy() for n, v in model.state_dict().items() if n.endswith(("_index", "_mask"))}
    assert set(made) == set(own)
    for name, value in own.items():
        assert value.dtype == made[name].dtype
        assert value.tobytes() == made[name].tobytes()


@pytest.mark.parametrize("framework", ["torch", "paddle"])
def test_drop_path_acts_in_training_alone(twins: Any, framework: str) -> None:
    """Residual branches are dropped at random in training and kept in evaluation."""
    evaluation, training = twins.drop_path_spread("vit-tiny-relu-224", framework, 32)
    assert evaluation == 0
    assert training > 0


@pytest.mark.parametrize("variant", VIT)
def test_every_parameter_moves_the_logits(twins: Any, variant: str) -> None:
    """No parameter of the model is without effect."""
    assert twins.idle(variant, 64) == set()


@pytest.mark.parametrize("framework", ["torch", "paddle"])
def test_an_unknown_study_is_refused(framework: str) -> None:
    """A study that there is not is an error that lists those there are."""
    module = __import__(f"porter.reference_models.{framework}.interpret_vit", fromlist=["x"])
    with pytest.raises(ValueError, match="none of relu, layernorm, softmax, relumean, depthwise"):
        module.make_attention("gelu", DIM, HEADS, SIDE, False, 0.0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_table_is_proven(variant: str) -> None:
    """Both dialects are total and exact, and hold to the models' own tensors."""
    for dialect in ("torch", "paddle"):
        assert prove(VARIANTS[variant], dialect).problems == ()


@pytest.mark.parametrize("variant", ["vit-tiny-layernorm-224", "swin-tiny-depthwise-w7-224"])
def test_paddle_gives_every_weight_back(variant: str) -> None:
    """Through Paddle and back no tensor changes by a bit, constants included."""
    architecture = VARIANTS[variant]
    state = seeded(architecture, num_classes=3)
    shapes = {name: (tensor.dtype.name, tensor.shape) for name, tensor in state.items()}
    there = plan(architecture, shapes, "torch", "paddle")
    back = there.back(there.apply(state)).arrays()
    for name, tensor in state.items():
        if name not in there.computed:
            assert (back[name] == tensor.read()).all()


def test_a_vit_is_for_one_image_size() -> None:
    """Its relative positions are for 224 px: another size is refused, Swin's is not."""
    shapes = {n: (t.dtype.name, t.shape) for n, t in seeded(VARIANTS[VIT[0]]).items()}
    with pytest.raises(UsageError, match="images of 224 px only"):
        plan(VARIANTS[VIT[0]], shapes, "torch", "paddle", image_size=384)
    shapes = {n: (t.dtype.name, t.shape) for n, t in seeded(VARIANTS[SWIN[0]]).items()}
    assert plan(VARIANTS[SWIN[0]], shapes, "torch", "paddle", image_size=448).image_size == 448
