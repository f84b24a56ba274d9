"""Tensors that a model has under several names, in an inferred table."""

from __future__ import annotations

import numpy as np

from porter.infer.draft import Body, Draft, Kind
from porter.infer.generalise import Item, generalise
from porter.infer.render import render
from porter.mapping.reader import parse
from porter.planning.custom_table import custom_architecture
from porter.planning.plan import plan
from porter.planning.recognise import shapes_of
from porter.tensors.state_dict import StateDict

MAIN = "cpe.proj"
TORCH = [f"blocks.{i}.cpe.proj.weight" for i in range(3)]
PADDLE = [f"layers.{i}.cpe.proj.weight" for i in range(3)]


def test_a_tensor_under_three_names_is_one_both_ways() -> None:
    """Each name of one side gets the values of the one tensor of the other side."""
    layers = [Item((MAIN,), (), Kind("conv")), *(Item((n,), (), Kind("parameter")) for n in TORCH)]
    draft = Draft(
        tuple((wide, wide.items[0].key) for wide in generalise(layers)),
        tuple((wide, Body()) for wide in generalise([Item((MAIN,), (MAIN,), Body())])),
        absent=tuple(TORCH), extra=(),
        reasons=dict.fromkeys(TORCH, "one tensor under two names"),
        copies=dict.fromkeys(PADDLE, f"{MAIN}.weight"),
        shared=dict.fromkeys(TORCH, f"{MAIN}.weight"),
    )  # fmt: skip
    text = render(draft, "paddle", "paddle", "shared", [])
    assert '"blocks.{i}.cpe.proj.weight" = { reason = ' in text
    table = parse(text, "shared.toml")
    value = np.arange(8, dtype=np.float32).reshape(2, 4, 1, 1)
    state = StateDict.of(dict.fromkeys([f"{MAIN}.weight", *TORCH], value))
    architecture = custom_architecture(table, shapes_of(state), "torch")
    forth = plan(architecture, shapes_of(state), "torch", "paddle").apply(state)
    assert set(forth) == {f"{MAIN}.weight", *PADDLE}
    back = plan(architecture, shapes_of(forth), "paddle", "torch").apply(forth)
    assert set(back) == set(state)
    for tensor in [*forth.values(), *back.values()]:
        assert tensor.read().tolist() == value.tolist()
