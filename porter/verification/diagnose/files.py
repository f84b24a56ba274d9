"""What the files say of a difference: another state dict of the same file, another model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from porter.errors import UsageError, printable
from porter.remote import fetch
from porter.tensors.state_dict import StateDict
from porter.verification.checks import TensorCheck
from porter.verification.diagnose.finding import WHOLE, Finding
from porter.verification.diagnose.tensors import UNRELATED
from porter.verification.sides.pair import Pair
from porter.verification.sides.prepare import Prepared
from porter.verification.sides.processes import Graph
from porter.zoo.architectures import find

_MOST_KEYS, _MOST_TENSORS = 4, 8
_MOSTLY = 0.5
"""Share of the tensors that are unrelated where another model is suspected."""


def origins(tensors: Sequence[TensorCheck], pair: Pair) -> list[Finding]:
    """Name the state dict that a side was taken from by mistake, or the model that a file is of."""
    wrong = [check for check in tensors if not check.passed]
    if not wrong:
        return _of_graphs(pair)
    sides = {"left": pair.left.prepared, "right": pair.right.prepared}
    for name, other in (("left", "right"), ("right", "left")):
        for finding in _other_keys(name, sides[name], sides[other], wrong):
            return [finding]
    unrelated = [check for check in wrong if check.problem == UNRELATED]
    if len(unrelated) < _MOSTLY * len(tensors):
        return []
    found = (_other_model(name, side, pair.architecture.name) for name, side in sides.items())
    return [finding for finding in found if finding is not None]


def _of_graphs(pair: Pair) -> list[Finding]:
    """Return what the metadata of ONNX models say, whose weights are not compared."""
    sides = {"left": pair.left, "right": pair.right}
    found = [
        _other_model(name, side.prepared, pair.architecture.name)
        for name, side in sides.items()
        if isinstance(side, Graph) and side.prepared.is_graph
    ]
    return [finding for finding in found if finding is not None]


def _other_keys(
    name: str, mine: Prepared, theirs: Prepared, wrong: Sequence[TensorCheck]
) -> Iterator[Finding]:
    """Yield the state dict of a side's file that has the other side's values."""
    origin = mine.state.origin
    expected = theirs.plan.read(theirs.state)
    names = [check.name for check in wrong][:_MOST_TENSORS]
    for key in origin.others[:_MOST_KEYS] if origin is not None else ():
        assert origin is not None
        state = fetch.read(origin.path, key=key)
        if not set(state) >= set(mine.plan.source.by_dialect):
            continue
        values = mine.plan.read(state)
        if all(np.array_equal(values[n].read(), expected[n].read()) for n in names):
            label, other = printable(key), "right" if name == "left" else "left"
            own = printable(origin.wrapper) or "the state dict that was taken"
            yield Finding(
                WHOLE, f"of the {other} side is {label!r} of the {name} file, not its {own!r}",
                f"compare the same state dict: --{name}-key {label}",
            )  # fmt: skip


def _other_model(name: str, side: Prepared, expected: str) -> Finding | None:
    """Return a finding where a file's own metadata name another model than the verdict's."""
    recorded = model_of(side.state)
    if not recorded:
        return None
    try:
        variant = find(recorded).name
    except UsageError:
        variant = ""
    if variant == expected:
        return None
    text = f"{printable(recorded)!r}" + (f" ({variant})" if variant else "")
    return Finding(
        WHOLE, f"of the {name} file is {text} by the file's own metadata",
        f"it is another model than {expected}: compare with its own checkpoint",
    )  # fmt: skip


def model_of(state: StateDict) -> str:
    """Return the name of the model that a checkpoint records, empty if it records none."""
    if state.origin is None:
        return ""
    return state.origin.metadata.get("porter.architecture", "") or state.origin.model
