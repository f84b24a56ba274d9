"""What a graph does to a weight can be undone."""

from __future__ import annotations

import numpy as np
import pytest

from porter.errors import InputError
from porter.onnx.graph.steps import Expand, Permute, Reshape, Static, Take

TABLE = np.arange(24, dtype=np.float32).reshape(4, 6)


@pytest.mark.parametrize(
    "step",
    [
        Permute((1, 0)),
        Reshape((4, 6), (2, 12)),
        Take(0, np.array([[3, 2], [0, 1], [3, 3]]), 4),
        Take(1, np.array([5, 0, 1, 2, 3, 4, 0]), 6),
        Take(0, np.array([-1, 0, 1, 2]), 4),
        Expand((4, 6), (3, 4, 6)),
    ],
    ids=lambda step: type(step).__name__,
)
def test_a_step_is_undone(step: Permute | Reshape | Take | Expand) -> None:
    """Back after forward gives the same elements, and the shape rule tells the truth."""
    seen = step.forward(TABLE)
    assert seen.shape == step.shape(TABLE.shape)
    np.testing.assert_array_equal(step.back(seen), TABLE)


def test_steps_are_undone_in_turn() -> None:
    """A chain of steps is undone from its end."""
    static = Static("table", (4, 6)).then(Permute((1, 0))).then(Reshape((6, 4), (24,)))
    assert static.shape == (24,)
    np.testing.assert_array_equal(static.unseen(static.seen(TABLE)), TABLE)


def test_entries_that_are_not_there_are_refused() -> None:
    """A table of which the graph took a part cannot be restored."""
    step = Take(0, np.array([0, 1]), 4)
    with pytest.raises(InputError, match="only 2 of its 4 entries"):
        step.back(step.forward(TABLE))


def test_copies_that_differ_are_refused() -> None:
    """Two entries that came from one must be equal."""
    step = Take(0, np.array([0, 1, 2, 3, 0]), 4)
    seen = step.forward(TABLE).copy()
    seen[4] += 1
    with pytest.raises(InputError, match="differ"):
        step.back(seen)
