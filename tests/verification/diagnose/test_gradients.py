"""Gradients and one optimiser step: what differs, is lost or is zero but for rounding."""

from __future__ import annotations

import numpy as np

from porter.commands.verify import verify
from porter.planning.plan import plan
from porter.planning.recognise import shapes_of
from porter.tensors.lazy import LazyTensor
from porter.tensors.state_dict import StateDict
from porter.verification.checks import Check
from porter.verification.diagnose.gradients import RATE, judge_gradients, judge_step
from porter.zoo.architectures import find
from porter.zoo.seeded import seeded

DRAW = np.random.default_rng(0)
LEFT = {"weight": DRAW.standard_normal((4, 4)), "bias": DRAW.standard_normal(4)}


def failed(checks: tuple[Check, ...]) -> dict[str, str]:
    return {check.output: check.problem for check in checks if check.problem}


def test_a_gradient_that_differs_is_lost_or_new_fails() -> None:
    """Every parameter of either side is compared, by name."""
    assert not failed(judge_gradients(LEFT, {n: a * (1 + 1e-7) for n, a in LEFT.items()}))
    assert set(failed(judge_gradients(LEFT, {**LEFT, "bias": LEFT["bias"] * 1.001}))) == {"bias"}
    assert failed(judge_gradients(LEFT, {"weight": LEFT["weight"]})) == {"bias": "missing"}
    assert set(failed(judge_gradients(LEFT, {**LEFT, "more": np.ones(1)}))) == {"more"}
    assert failed(judge_gradients(LEFT, {**LEFT, "bias": np.full(4, np.nan)})) == {"bias": "NaN"}


def test_a_gradient_of_rounding_alone_is_held_to_the_largest() -> None:
    """A key's bias before a softmax has none but noise: two draws of noise differ, and pass."""
    noise = [1e-12 * DRAW.standard_normal(4) for _ in range(2)]
    assert not failed(judge_gradients({**LEFT, "key": noise[0]}, {**LEFT, "key": noise[1]}))
    assert failed(judge_gradients({**LEFT, "key": noise[0]}, {**LEFT, "key": np.ones(4)}))


def test_a_step_is_compared_by_how_far_it_moved() -> None:
    """Another learning rate moves large weights by little, and fails all the same."""
    before = {n: 1000 + a for n, a in LEFT.items()}
    after = {n: a - RATE for n, a in before.items()}
    assert not failed(judge_step(before, after, after))
    half = {n: a - RATE / 2 for n, a in before.items()}
    assert set(failed(judge_step(before, after, half))) == {"weight", "bias"}


def test_gradients_fail_where_weights_differ() -> None:
    """Behind a head that is all zeros outputs agree; gradients and the step do not."""
    variant = find("vit-tiny-p16-224")
    state = seeded(variant, num_classes=10, image_size=32)
    left = StateDict({**state, "head.weight": LazyTensor.of(0 * state["head.weight"].read())})
    wrong = LazyTensor.of(state["blocks.3.mlp.fc1.weight"].read()[::-1].copy())
    right = StateDict({**left, "blocks.3.mlp.fc1.weight": wrong})
    made = plan(variant, shapes_of(right), "torch", "paddle", image_size=32)
    verdict = verify(
        variant, left, made.apply(right), left_dialect="torch", right_dialect="paddle",
        image_size=32, batch_sizes=(1,), grad=True, train_step=True, diagnose=False,
    )  # fmt: skip
    assert all(check.passed for check in verdict.checks)
    assert {c.case for c in verdict.gradients if not c.passed} == {"gradient", "train step"}
    assert verdict.failed
