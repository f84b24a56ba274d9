"""A proof reports what it is doing."""

from __future__ import annotations

from porter.verification.steps import Steps


def test_steps_of_both_sides_are_one_text() -> None:
    """Parts that run at the same time are reported together, until they are done."""
    calls: list[tuple[str, int, int]] = []
    steps = Steps(lambda *call: calls.append(call))
    steps.begin("starting")
    steps.part("left", "float64")
    steps.part("right", "float64")
    steps.part("left", "")
    steps.part("right", "")
    steps.begin("weights")
    assert [text for text, *_ in calls] == [
        "starting", "left: float64", "left: float64; right: float64", "right: float64", "weights",
    ]  # fmt: skip
    assert {tuple(numbers) for _, *numbers in calls} == {(0, 0)}


def test_nobody_needs_to_listen() -> None:
    """Without a `Progress` nothing happens."""
    steps = Steps()
    steps.begin("starting")
    steps.part("left", "float64")
