"""What a side can do, and what is asked of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from porter.errors import UsageError
from porter.verification.options import Runs
from porter.verification.sides.open import opened, reference_first, rounding, runs_of
from porter.verification.sides.processes import Graph, Model
from porter.verification.sides.report import SideReport
from porter.verification.sides.side import Can, Recorded, Side
from porter.verification.trace import Layers, Trace
from porter.zoo.architectures import find
from porter.zoo.seeded import seeded

VIT = find("vit-tiny-p16-224")
WHOLE = ~Can.NOTHING


def recorded(*precisions: str, layers: bool = False) -> Recorded:
    """Return a trace with the given runs."""
    array = np.ones((1, 10))
    found = Layers({"head": array}, {"head": (1, 10)}, {"head": "Linear"})
    return Recorded(
        Trace(
            SideReport("torch", "torch", "torch", "a.safetensors", "", weights=("float32",)),
            VIT.name, 10, 32, {}, {p: {"x/logits": array} for p in precisions},
            {"float64": found} if layers else {},
        )
    )  # fmt: skip


def fixed(can: Can, *weights: str, batch: int | None = None) -> Side:
    """Return a side that never runs."""
    side = Side(SideReport("a", "a", "", "", "", weights=weights), VIT.name, 10, 32, can)
    side.batch = batch
    return side


def test_a_checkpoint_can_do_everything(tmp_path: Path) -> None:
    """A state dict that was opened runs, shows layers and weights, and gives gradients."""
    state = seeded(VIT, num_classes=10, image_size=32)
    side = opened(VIT, state, tmp_path, None, None, None, Runs())
    assert isinstance(side, Model)
    assert side.can == WHOLE
    assert (side.num_classes, side.image_size) == (10, 32)
    assert set(side.weights()) == set(state)


def test_a_graph_runs_and_no_more(tmp_path: Path) -> None:
    """What an ONNX model cannot do is never asked of it."""
    state = seeded(VIT, num_classes=10, image_size=32)
    checkpoint = opened(VIT, state, tmp_path, None, None, None, Runs())
    graph = Graph(checkpoint.prepared)
    assert graph.can == Can.RUN | Can.LAYERS
    for ask in (graph.weights, lambda: graph.gradients({}, "float64")):
        with pytest.raises(AssertionError, match="asked for more than"):
            ask()


def test_a_trace_can_do_what_was_recorded() -> None:
    """Float64 and layers are there if they were recorded; nothing is run."""
    assert recorded("float32").can == Can.NOTHING
    assert recorded("float64").can == Can.FLOAT64
    assert recorded("float64", layers=True).can == Can.FLOAT64 | Can.LAYERS
    recorded("float64", "float32").compute(Path("x"), ("float64", "float32"))
    with pytest.raises(UsageError, match=r"no run in float64.*it has float32"):
        recorded("float32").compute(Path("x"), ("float64", "float32"))


def test_the_side_with_float64_is_the_reference(tmp_path: Path) -> None:
    """An ONNX model goes to the right, where a checkpoint is the other side."""
    state = seeded(VIT, num_classes=10, image_size=32)
    checkpoint = opened(VIT, state, tmp_path, None, None, None, Runs())
    graph = Graph(checkpoint.prepared)
    assert reference_first(checkpoint, graph) == (checkpoint, graph, ())
    left, right, (note,) = reference_first(graph, checkpoint)
    assert (left, right) == (checkpoint, graph)
    assert "swapped" in note


def test_a_graph_keeps_its_batch_and_precision() -> None:
    """A model in float16 with a fixed batch is run as it is, unless a precision is asked for."""
    graph = fixed(Can.RUN, "float16", batch=3)
    assert runs_of(Runs(), fixed(WHOLE), graph) == Runs(batch_sizes=(3,), precision="float16")
    assert runs_of(Runs(precision="tf32"), fixed(WHOLE), graph).precision == "tf32"
    assert runs_of(Runs(), fixed(WHOLE), fixed(WHOLE, "float16", batch=3)) == Runs()


def test_the_left_side_is_rounded_as_the_right_was() -> None:
    """Only weights in a coarser type than the left's count."""
    fine, coarse = fixed(WHOLE, "float32"), fixed(WHOLE, "bfloat16", "float32")
    assert rounding(fine, coarse) == "bfloat16"
    assert rounding(coarse, fine) is None
    assert rounding(fine, fine) is None
