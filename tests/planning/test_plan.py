"""Plans: total or an error, exact both ways, and blind to nothing in names, shapes and dtypes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from porter.errors import MappingError, UsageError
from porter.planning.plan import plan
from porter.tensors.state_dict import StateDict
from porter.zoo.architectures import find
from porter.zoo.seeded import seeded

GOLDEN = Path(__file__).parents[1] / "golden"


def manifest(case: str) -> dict[str, tuple[str, tuple[int, ...]]]:
    body = json.loads((GOLDEN / f"{case}.json").read_text())
    return {name: (dtype, tuple(shape)) for name, dtype, shape in body["tensors"]}


@pytest.fixture(scope="module")
def state() -> StateDict:
    return StateDict.of(seeded(find("shunted-t"), num_classes=3).arrays())


@pytest.mark.parametrize(
    ("variant", "case", "classes"),
    [
        ("shunted-t", "shunted-t.official", 1000),
        ("shunted-s", "shunted-s.official", 1000),
        ("shunted-b", "shunted-b.official", 1000),
        ("shunted-t", "shunted-t.official-256-10cls", 10),
    ],
)
def test_official_manifests_fit(variant: str, case: str, classes: int) -> None:
    """The official checkpoints plan both ways; the classes are taken from them."""
    there = plan(find(variant), manifest(case), "torch", "paddle")
    assert there.num_classes == classes
    assert list(there.canonical) == list(manifest(case))
    back = plan(find(variant), dialect_of(there), "paddle", "torch")
    assert back.canonical == there.canonical


def dialect_of(made: object) -> dict[str, tuple[str, tuple[int, ...]]]:
    shapes = {}
    for link in made.target.links:  # type: ignore[attr-defined]
        inner = [made.canonical[name] for name in link.canonical]  # type: ignore[attr-defined]
        for name, shape in zip(
            link.dialect, link.dialect_shapes([s for _, s in inner]), strict=True
        ):
            shapes[name] = (inner[0][0], shape)
    return shapes


def test_values_go_there_and_back(state: StateDict) -> None:
    """Every element ends where Paddle has it, and comes back bit for bit."""
    variant = find("shunted-t")
    shapes = {n: (t.dtype.name, t.shape) for n, t in state.items()}
    there = plan(variant, shapes, "torch", "paddle")
    paddle = there.apply(state)
    weight = state["block1.0.attn.q.weight"].read()
    np.testing.assert_array_equal(paddle["block1.0.attn.q.weight"].read(), weight.T)
    np.testing.assert_array_equal(
        paddle["patch_embed1.conv.1._mean"].read(), state["patch_embed1.conv.1.running_mean"].read()
    )
    back = there.back(paddle)
    lost = {"patch_embed1.conv.1.num_batches_tracked"}
    assert set(back) == set(state) - lost == set(state) - set(there.lost)
    for name, tensor in back.items():
        assert tensor.read().tobytes() == state[name].read().tobytes(), name
    forth = plan(
        variant, {n: (t.dtype.name, t.shape) for n, t in paddle.items()}, "paddle", "torch"
    )
    again = forth.apply(paddle)
    assert list(again) == list(state)
    assert forth.filled == {"patch_embed1.conv.1.num_batches_tracked": 0}


def test_one_error_lists_everything() -> None:
    """Missing, unexpected and misshapen tensors stand in one message, layers folded."""
    source = manifest("shunted-t.official")
    del source["head.weight"]
    del source["block2.0.norm1.bias"], source["block2.1.norm1.bias"]
    source["extra.0"] = ("float32", (1,))
    source["block1.0.attn.q.weight"] = ("float32", (3, 3))
    source["norm1.bias"] = ("int64", (64,))
    with pytest.raises(MappingError) as caught:
        plan(find("shunted-t"), source, "torch", "paddle", path="x.pth")
    text = str(caught.value)
    assert text.startswith("x.pth: does not fit shunted-t (torch): 3 missing")
    for part in (
        "block2.{0…1}.norm1.bias",
        "head.weight",
        "extra.0",
        "[3, 3], not [64, 64]",
        "int64",
    ):
        assert part in text
    assert "\n" not in text
    assert len(caught.value.problems) == 5


def test_leniency_is_spelled_out() -> None:
    """`drop` and `fill` excuse the tensors that they name, and must name some."""
    source = manifest("shunted-t.official")
    del source["norm4.bias"]
    source["extra"] = ("float32", (1,))
    made = plan(
        find("shunted-t"), source, "torch", "paddle", drop=["extra"], fill={"norm4.bias": 0.0}
    )
    assert made.dropped == {"extra": "dropped as asked"}
    assert made.filled["norm4.bias"] == 0.0
    with pytest.raises(UsageError, match="nothing_such"):
        plan(
            find("shunted-t"),
            manifest("shunted-t.official"),
            "torch",
            "paddle",
            drop=["nothing_such"],
        )


def test_what_the_checkpoint_contradicts_is_refused() -> None:
    """Ten classes asked for are not made out of a thousand."""
    with pytest.raises(UsageError, match="the checkpoint has 1000"):
        plan(find("shunted-t"), manifest("shunted-t.official"), "torch", "paddle", num_classes=10)


def test_heads_that_disagree_are_seen() -> None:
    """Two tensors that say different numbers of classes are one problem, named."""
    source = manifest("shunted-t.official")
    source["head.bias"] = ("float32", (10,))
    with pytest.raises(
        MappingError, match=r"head\.bias has 10 classes where head\.weight has 1000"
    ):
        plan(find("shunted-t"), source, "torch", "paddle")


def test_swapped_names_of_equal_shape_are_planned_as_they_stand() -> None:
    """A plan goes by names alone: shapes never decide where a tensor goes."""
    made = plan(find("shunted-t"), manifest("shunted-t.official"), "torch", "paddle")
    pairs = {link.canonical[0]: link.dialect[0] for link in made.target.links}
    assert pairs["block1.0.norm1.weight"] == "block1.0.norm1.weight"
    assert pairs["block1.0.attn.kv1.weight"] == "block1.0.attn.kv1.weight"
