"""Faults by degree: rounded, trained on, quantised, adapted, shifted; and what files say."""

from __future__ import annotations

import argparse
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from porter import codecs
from porter.tensors.blocks import Array
from porter.verification.diagnose.degree import CLOSE, degree, distance, rounded
from porter.verification.diagnose.files import origins
from porter.verification.diagnose.outputs import relation
from porter.verification.diagnose.siblings import mixed, untied
from porter.verification.diagnose.tensors import compare_tensors
from porter.verification.sides.pair import Pair
from porter.verification.sides.prepare import Checkpoint, prepare
from porter.verification.sides.processes import Model
from porter.verification.steps import Steps
from porter.zoo.architectures import find
from porter.zoo.seeded import seeded

RNG = np.random.default_rng(3)
LEFT = RNG.standard_normal((96, 128)).astype(np.float32)
OTHER = RNG.standard_normal(LEFT.shape).astype(np.float32)
VARIANT = find("vit-tiny-p16-224")


def _steps(values: Array, levels: int, size: int) -> Array:
    """Round to whole multiples of a step, one for each group of a row."""
    groups = values.reshape(-1, size)
    step = np.abs(groups).max(axis=1, keepdims=True) / levels
    return (np.rint(groups / step) * step).reshape(values.shape).astype(np.float32)


@pytest.mark.parametrize(
    ("right", "expected"),
    [
        (LEFT + 0.05 * OTHER, CLOSE),
        (LEFT + 0.5 * OTHER, CLOSE),
        (_steps(LEFT, 127, 128), "is quantised: at most 256 values"),
        (_steps(LEFT, 7, 128), "is quantised: at most 16 values"),
        (_steps(LEFT, 7, 32), "is quantised: at most 16 values"),
        (LEFT + 0.3 * OTHER[:, :4] @ OTHER[:4], "differs by a matrix of rank 4"),
        (LEFT + np.float32(1), "is the source's plus 1"),
        (LEFT - np.float32(0.25), "is the source's plus -0.25"),
    ],
)
def test_a_change_is_named_by_its_kind(right: Array, expected: str) -> None:
    """Each has another cause, none of which is that the tensor was not loaded."""
    found = degree(LEFT, right)
    assert found is not None
    assert found[0].startswith(expected)


@pytest.mark.parametrize("shape", [(96, 128), (32, 3, 4, 4), (768,), (16,)])
def test_unrelated_values_are_not_explained(shape: tuple[int, ...]) -> None:
    """Not even those of norms, all of which are near 1."""
    one, other = (np.random.default_rng(seed).standard_normal(shape) for seed in (0, 1))
    assert degree(one, other) is None
    assert degree(1 + 0.05 * one, 1 + 0.05 * other) is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rounding_is_found_whichever_side_is_rounded(dtype: torch.dtype) -> None:
    """Torch is the oracle of the rounding."""
    name = str(dtype).rpartition(".")[2]
    right = torch.from_numpy(LEFT).to(dtype).float().numpy()
    assert rounded(LEFT, right) == (
        f"is rounded to {name}",
        "keep the source's element type, or round the source alike before comparing",
    )
    found = rounded(right, LEFT)
    assert found is not None
    assert found[0] == f"is not rounded to {name} as the source's is"
    right[5, 5] += 1
    assert rounded(LEFT, right) is None


def test_values_that_all_become_one_are_not_taken_for_rounding() -> None:
    """A norm's weights near 1, next to fresh ones, are not a rounding of them."""
    near = 1 + 1e-4 * RNG.standard_normal(64).astype(np.float32)
    assert rounded(near, np.ones_like(near)) is None
    assert rounded(np.ones_like(near), near) is None


@given(st.floats(0.01, 0.3), st.integers(0, 100))
def test_the_distance_is_relative_to_the_source(size: float, seed: int) -> None:
    """It says how far training went on."""
    noise = np.random.default_rng(seed).standard_normal(LEFT.shape)
    noise *= size * np.linalg.norm(LEFT) / np.linalg.norm(noise)
    assert distance(LEFT, LEFT + noise) == pytest.approx(size, rel=1e-6)


def _softmax(values: Array) -> Array:
    powers = np.exp(values)
    return np.asarray(powers / powers.sum(1, keepdims=True))


LOGITS = RNG.standard_normal((2, 10))
NOISE = 1 + 1e-7 * RNG.standard_normal((2, 10))
ORDER = RNG.permutation(10)


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        (LOGITS, _softmax(LOGITS), "is the softmax of the left's"),
        (_softmax(LOGITS), LOGITS, "is what comes before a softmax that the left has"),
        (LOGITS, np.log(_softmax(LOGITS)), "is the log-softmax of the left's"),
        (LOGITS, 1 / (1 + np.exp(-LOGITS)), "is the sigmoid of the left's"),
        (LOGITS, 0.125 * LOGITS, "is 0.125 times the left's"),
        (LOGITS, LOGITS[:, ORDER], "has the left's entries in another order"),
    ],
)
def test_outputs_that_follow_from_the_left_s_are_named(
    left: Array, right: Array, expected: str
) -> None:
    """Rounding may differ, as the two sides' frameworks do."""
    found = relation(left, right * NOISE)
    assert found is not None
    assert found[0] == expected
    assert found[2] < 1e-5


def test_unrelated_outputs_have_no_relation() -> None:
    """A fault somewhere in the network is not a function of the output."""
    assert relation(LOGITS, RNG.standard_normal(LOGITS.shape)) is None
    assert relation(LOGITS, LOGITS + 0.1 * RNG.standard_normal(LOGITS.shape)) is None


def _findings(left: Checkpoint, right: Checkpoint, folder: Path) -> list[str]:
    sides = [Model(prepare(VARIANT, given, folder, image_size=32)) for given in (left, right)]
    pair = Pair(VARIANT, sides[0], sides[1], folder, "float32", "", Steps())
    tensors = compare_tensors(*((side.prepared.plan, side.prepared.state) for side in sides))
    return [str(finding) for finding in origins(tensors, pair)]


def _torch(seed: int) -> OrderedDict[str, torch.Tensor]:
    state = seeded(VARIANT, num_classes=4, image_size=32, seed=seed)
    return OrderedDict((n, torch.from_numpy(np.array(t.read()))) for n, t in state.items())


def test_the_other_state_dict_of_a_file_is_recognised(tmp_path: Path) -> None:
    """The port was made from `model_ema`, the comparison takes `model`."""
    torch.save({"model": _torch(0), "model_ema": _torch(1)}, tmp_path / "both.pth")
    torch.save(_torch(1), tmp_path / "port.pth")
    found = _findings(tmp_path / "both.pth", tmp_path / "port.pth", tmp_path)
    assert found == [
        "the model of the right side is 'model_ema' of the left file, not its 'model':"
        " compare the same state dict: --left-key model_ema"
    ]


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ({"arch": "deit_tiny_patch16_224"}, "'deit_tiny_patch16_224' (deit-tiny-224)"),
        ({"args": argparse.Namespace(model="my_model", lr=0.1)}, "'my_model'"),
        ({"args": argparse.Namespace(model=VARIANT.name)}, ""),
        ({"epoch": 3}, ""),
    ],
)
def test_another_model_is_named_by_the_file(
    tmp_path: Path, extra: dict[str, object], expected: str
) -> None:
    """Names and shapes fit, values do not: what the training script saved tells why."""
    torch.save({"model": _torch(0), **extra}, tmp_path / "left.pth")
    torch.save(_torch(1), tmp_path / "right.pth")
    found = _findings(tmp_path / "left.pth", tmp_path / "right.pth", tmp_path)
    assert len(found) == bool(expected)
    for line in found:
        assert line.startswith(f"the model of the left file is {expected} by the file's own")
    assert codecs.read(tmp_path / "right.pth").origin.model == ""  # type: ignore[union-attr]


def test_tensors_with_values_of_another_are_named() -> None:
    """Rows of a sibling after slicing, and a shared tensor that is stored once."""
    other = ("up", OTHER)
    rows = np.concatenate([LEFT[:40], OTHER[:56]])
    found = mixed(LEFT, rows, iter([other]))
    assert found is not None
    assert found[0] == "has 56 of its 96 rows from up"
    columns = np.concatenate([LEFT[:, 1:], OTHER[:, :1]], axis=1)
    found = mixed(LEFT, columns, iter([other]))
    assert found is not None
    assert found[0] == "has 1 of its 128 columns from up"
    assert mixed(LEFT, OTHER, iter([other])) is None  # all of it: that is another fault
    assert mixed(LEFT, OTHER[::-1], iter([("up", OTHER + 1)])) is None
    assert untied(LEFT, iter([("embed", LEFT), other]), lambda *_: True) is not None
    assert untied(LEFT, iter([("embed", LEFT)]), lambda *_: False) is None
    assert untied(LEFT, iter([other]), lambda *_: True) is None
    assert untied(np.zeros(4), iter([("embed", np.zeros(4))]), lambda *_: True) is None
