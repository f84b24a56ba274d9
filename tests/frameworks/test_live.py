"""Live models without their frameworks: activations, options, where two models differ."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest

from porter.frameworks.live.cases import varied, without_zeros
from porter.frameworks.live.diagnosis import diagnosed, other_eps
from porter.frameworks.live.hooks import takes_one
from porter.frameworks.live.likeness import likeness
from porter.frameworks.live.options import options, reshaped, rotated
from porter.frameworks.live.recipes import Recipe
from porter.frameworks.live.signature import SAME, distance, signature
from porter.frameworks.live.units import Unit

X = np.random.default_rng(0).standard_normal((2, 3, 8, 8))
INPUT = signature(X)


def linear(key: str, out: int, inner: int, **more: Any) -> Unit:
    flipped = more.get("flipped", False)
    return Unit(
        key, "linear", key, "Linear", {"weight": f"{key}.weight"},
        {"weight": (inner, out) if flipped else (out, inner)}, inputs=[INPUT], **more,
    )  # fmt: skip


def test_an_activation_is_recognised_in_any_order_of_its_axes() -> None:
    """Channels first or last, or flattened, it is the same; another one is not."""
    assert distance(INPUT, signature(X.transpose(0, 2, 3, 1))) < 1e-12
    assert distance(INPUT, signature(X.reshape(2, 3, 64) * (1 + 1e-5))) < SAME
    assert distance(INPUT, signature(X * 1.01)) > SAME
    assert distance(INPUT, signature(X[:1])) > SAME


def test_an_activation_may_be_repeated_or_padded() -> None:
    """Positions are given once or for each sequence; a model may pad before its convolution."""
    twice = signature(np.stack([X, X]))
    around = signature(np.pad(X, ((0, 0), (0, 0), (1, 1), (2, 2))))
    for other in (twice, around):
        assert max(distance(INPUT, other), distance(other, INPUT)) < 1e-12
    assert distance(INPUT, signature(np.pad(X, ((0, 0), (0, 0), (1, 1), (2, 2)), "edge"))) > SAME
    assert distance(INPUT, signature(np.ones(7))) > SAME


def test_a_fused_projection_is_cut_in_every_way() -> None:
    """q, k and v are rows of it one after the other, or interleaved by head."""
    left = linear("qkv", 24, 8, sizes=(2,))
    group = [linear(name, 8, 8, flipped=True) for name in "qkv"]
    found = options(group[1], [left], group)
    value = np.arange(24 * 8, dtype=np.float32).reshape(24, 8)
    made = {o.layout: o.recipes["k.weight"].made({"qkv.weight": value}) for o in found
            if o.spans[0][1] == 8}  # fmt: skip
    assert np.array_equal(made["rows"], value[8:16].T)
    by_head = value.reshape(2, 3, 4, 8)[:, 1].reshape(8, 8)
    assert np.array_equal(made["2,3,*"], by_head.T)
    assert {o.spans[0][1] for o in found} == {0, 8, 16}


@pytest.mark.parametrize("flipped", [False, True])
def test_a_matrix_after_flattening_is_a_convolution_of_the_whole_map(flipped: bool) -> None:
    """By channel and place or by place and channel, either way; without channels, nothing."""
    conv = Unit(
        "whole", "conv", "whole", "Conv2d", {"weight": "whole.weight"}, {"weight": (5, 3, 8, 8)},
        inputs=[INPUT],
    )  # fmt: skip
    fc = linear("fc", 5, 192, flipped=flipped)
    value = np.random.default_rng(1).standard_normal((5, 3, 8, 8))
    wanted = [value.reshape(5, -1), value.transpose(0, 2, 3, 1).reshape(5, -1)]
    wanted = [w.T for w in wanted] if flipped else wanted
    there, back = options(fc, [conv], []), options(conv, [fc], [])
    assert len(there) == len(back) == 2
    for option, reverse, matrix in zip(there, back, wanted, strict=True):
        assert np.array_equal(option.recipes["fc.weight"].made({"whole.weight": value}), matrix)
        assert np.array_equal(reverse.recipes["whole.weight"].made({"fc.weight": matrix}), value)


def test_columns_after_flattening_may_be_in_another_order() -> None:
    """Channels first on one side, last on the other: both orders are tried, for each number."""
    conv = Unit("c", "conv", "c", "Conv2d", {"weight": "c.weight"}, {"weight": (3, 3, 1, 1)})
    value = np.random.default_rng(1).standard_normal((5, 192))
    found = options(linear("fc", 5, 192), [conv, linear("head", 5, 192)], [])
    made = [o.recipes["fc.weight"].made({"head.weight": value}) for o in found]
    last = value.reshape(5, 3, 64).transpose(0, 2, 1).reshape(5, 192)
    first = value.reshape(5, 64, 3).transpose(0, 2, 1).reshape(5, 192)
    assert len(made) == 3
    for matrix, order in zip(made, (value, last, first), strict=True):
        assert np.array_equal(matrix, order)


@pytest.mark.parametrize(("start", "size"), [(8, 16), (0, 16)])
def test_two_thirds_of_an_attention_are_one_projection(start: int, size: int) -> None:
    """Keys and values in one Linear, or queries and keys: rows of torch's packed matrix."""
    roles = {"in_proj_weight": "a.in_proj_weight", "out_proj.weight": "a.out_proj.weight"}
    left = Unit(
        "a", "mha", "a", "MultiheadAttention", roles,
        {"in_proj_weight": (24, 8), "out_proj.weight": (8, 8)},
        inputs=[INPUT, signature(X[0]), signature(X[0])],
    )  # fmt: skip
    value = np.arange(24.0 * 8).reshape(24, 8)
    found = options(linear("kv", size, 8, flipped=True), [left], [])
    made = [o.recipes["kv.weight"].made({"a.in_proj_weight": value}) for o in found]
    assert len(made) == 2
    assert any(np.array_equal(matrix, value[start : start + size].T) for matrix in made)
    assert found[0].expects == signature(X[0])


def test_three_projections_are_joined() -> None:
    """The other way round: the right has them in one, in the order that is tried."""
    lefts = [linear(name, 8, 8) for name in "qkv"]
    found = options(linear("qkv", 24, 8), lefts, [])
    assert {o.left for o in found} >= {("q", "k", "v"), ("k", "q", "v")}
    values = {f"{n}.weight": np.full((8, 8), i, np.float32) for i, n in enumerate("qkv")}
    first = next(o for o in found if o.left == ("q", "k", "v") and o.variant == "joined ")
    assert first.recipes["qkv.weight"].made(values)[:, 0].tolist() == [0] * 8 + [1] * 8 + [2] * 8


def test_rotary_rows_are_reordered_in_each_head() -> None:
    """Halves that are rotated become neighbours."""
    left = linear("q", 8, 4)
    (option,) = options(linear("wq", 8, 4), [left], [])
    recipe = rotated(option, left, 4, pairs_first=False).recipes["wq.weight"]
    rows = recipe.made({"q.weight": np.repeat(np.arange(8.0)[:, None], 4, 1)})[:, 0]
    assert rows.tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_a_tied_layer_gives_what_is_its_own() -> None:
    """The bias of a head whose weight is the embedding's; the weight where it is all there is."""
    roles = {"weight": "head.weight", "bias": "head.bias"}
    shapes = {"weight": (9, 4), "bias": (9,)}
    head = Unit("head", "linear", "head", "Linear", roles, shapes, shared=("weight",))
    bias = Unit("bias", "bare", "", "Net", {"": "bias"}, {"": (9,)})
    (option,) = options(bias, [head], [])
    assert option.recipes == {"bias": Recipe(("head.bias",))}
    del roles["bias"], shapes["bias"]
    weight = Unit("decoder", "bare", "", "Net", {"": "decoder"}, {"": (9, 4)})
    assert [o.recipes for o in options(weight, [head], [])] == [
        {"decoder": Recipe(("head.weight",))}
    ]


@pytest.mark.parametrize(
    ("source", "target", "chain"),
    [
        ((16, 1, 1), (16,), ("squeeze 2", "squeeze 1")),
        ((4, 12), (1, 4, 12), ("unsqueeze 0",)),
        ((3, 4), (4, 3), None),
    ],
)
def test_axes_of_size_one_come_and_go(source: Any, target: Any, chain: Any) -> None:
    """Other shapes are not made equal."""
    assert reshaped(source, target) == chain
    if chain is not None:
        made = Recipe(("a",), ops=chain).made({"a": np.zeros(source, np.float32)})
        assert made.shape == target


def test_names_are_alike_by_their_words() -> None:
    """Words of one meaning count as one, the last words most."""
    assert likeness("layers.0.self_attn.q_proj.weight", "layers.0.wq.weight") > likeness(
        "layers.0.self_attn.v_proj.weight", "layers.0.wq.weight"
    )
    assert likeness("h.0.gate_proj.weight", "blocks.0.w1.weight") > likeness(
        "h.0.up_proj.weight", "blocks.0.w1.weight"
    )


def test_a_model_may_take_one_dict() -> None:
    """Several inputs go into one parameter; several parameters take them in order."""
    parameters = [
        inspect.signature(f).parameters.values()
        for f in (lambda batch: None, lambda ids, mask: None, lambda *ids: None)
    ]
    assert [takes_one(p) for p in parameters] == [True, False, False]


def test_inputs_are_varied_within_what_they_are() -> None:
    """Whole numbers stay those that were given, floats keep their type."""
    given = {"ids": np.array([[3, 5, 9]]), "x": X.astype(np.float32)}
    cases = varied(given)
    assert len(cases) == 3
    for case in cases.values():
        assert sorted(case["ids"].ravel()) == [3, 5, 9]
        assert case["x"].dtype == np.float32
    assert cases["larger"]["x"].std() > 2.5 * cases["drawn anew"]["x"].std()


def test_the_token_of_padding_is_replaced_by_another() -> None:
    """Whole numbers keep their range; an array of zeros, and floats, stay as they are."""
    given = {"ids": np.array([[3, 5, 0]]), "types": np.zeros((1, 3), int), "x": X}
    found = without_zeros(given)
    assert found is not None
    assert found["ids"].tolist() == [[3, 5, 3]]
    assert found["types"] is given["types"]
    assert found["x"] is X
    assert without_zeros({"x": X, "ids": np.array([4])}) is None


def call(path: str, kind: str, inputs: Any, output: Any, **settings: Any) -> dict[str, Any]:
    weights = kind in ("Linear", "LayerNorm", "Embedding")
    return {
        "path": path, "kind": kind, "inputs": [signature(inputs)], "output": signature(output),
        "weights": weights, "settings": settings,
    }  # fmt: skip


def test_the_module_that_computes_otherwise_is_named_with_its_setting() -> None:
    """A norm with another eps, a dropout that scales; equal models have no story."""
    paths = {"ln": "norm", "lin": "fc"}
    left = [call("norm", "LayerNorm", X, X, eps=1e-5), call("fc", "Linear", X, X)]
    right = [call("ln", "LayerNorm", X, X * 1.1, _epsilon=1e-3), call("lin", "Linear", X * 1.1, X)]
    assert "eps is 0.001 there and 1e-05 here" in diagnosed(left, right, paths)
    assert other_eps(left, right, paths).startswith("ln (LayerNorm) and norm: eps is 0.001")
    drop = call("drop", "Dropout", X, X / 2, mode="downscale_in_infer", p=0.5)
    right = [call("ln", "LayerNorm", X, X, eps=1e-5), drop, call("lin", "Linear", X / 2, X)]
    story = diagnosed(left, right, paths)
    assert "it is 0.5 times that; drop (Dropout) multiplies by 0.5" in story
    right = [call("ln", "LayerNorm", X, X, eps=1e-5), call("lin", "Linear", X, X)]
    assert "all modules with weights agree" in diagnosed(left, right, paths)


def test_positions_that_are_counted_from_another_number_are_no_difference() -> None:
    """An embedding that gives the same output was given the same, whatever its numbers are."""
    paths = {"positions": "places", "lin": "fc"}
    left = [call("places", "Embedding", X, X), call("fc", "Linear", X, X)]
    right = [call("positions", "Embedding", X + 2, X), call("lin", "Linear", X * 1.1, X)]
    assert "the input of lin (Linear) is not that of fc" in diagnosed(left, right, paths)
    right[0] = call("positions", "Embedding", X + 2, X * 3)
    assert "the input of positions (Embedding)" in diagnosed(left, right, paths)
