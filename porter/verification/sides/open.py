"""Open what a user gave as a side, check that two sides fit, and give both the same inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path

import numpy as np

from porter.errors import UsageError, listed, printable
from porter.frameworks import exchange
from porter.planning.pairing import refuse_foreign_layout
from porter.planning.preprocessing import Chosen, chosen
from porter.tensors.blocks import Array
from porter.verification import inputs as sources
from porter.verification import trace as traces
from porter.verification.checks import SINGLE
from porter.verification.options import Runs
from porter.verification.sides.prepare import Checkpoint, prepare
from porter.verification.sides.processes import Graph, Model, alike
from porter.verification.sides.side import Can, Recorded, Side
from porter.verification.tolerance import roundoff
from porter.verification.trace import Trace
from porter.zoo.architectures import Architecture
from porter.zoo.image_size import shown


def opened(
    architecture: Architecture,
    given: Checkpoint,
    folder: Path,
    dialect: str | None,
    key: str | None,
    prefix: str | None,
    runs: Runs,
) -> Side:
    """Return a checkpoint, an ONNX model or a trace as a side; no process is started yet."""
    if not isinstance(given, Mapping) and traces.is_trace(given):
        trace = traces.load(given)
        if trace.architecture not in (architecture.name, architecture.sibling):
            name = printable(trace.architecture)
            raise UsageError(f"is a trace of {name}, not of {architecture.name}", given)
        check_parameters(architecture, trace)
        if key is not None or prefix is not None:
            raise UsageError("is a trace: there is no state dict in it to choose from", given)
        return Recorded(trace)
    prepared = prepare(
        architecture, given, folder, dialect=dialect, key=key, prefix=prefix,
        num_classes=runs.num_classes, image_size=runs.image_size, behaviour=runs.behaviour,
    )  # fmt: skip
    if prepared.is_graph and (key is not None or prefix is not None):
        text = "is an ONNX model: there is no state dict in it to choose from"
        raise UsageError(text, prepared.report.file)
    if not isinstance(given, Mapping) and dialect is None:
        refuse_foreign_layout(prepared.state, architecture)
    return Graph(prepared) if prepared.is_graph else Model(prepared)


def check_parameters(architecture: Architecture, trace: Trace) -> None:
    """Raise `UsageError` where a trace, whatever it was called, is that of another model.

    Definitions of one architecture differ in a few buffers, not in a twentieth of all elements.
    """
    if not trace.parameters:
        return
    symbols = architecture.symbols(trace.num_classes, trace.image_size)
    bound = architecture.skeleton().bind(symbols)
    expected = sum(prod(shape) for _, shape in bound.values())
    if abs(trace.parameters - expected) > expected / 20:
        raise UsageError(
            f"was recorded from a model with {trace.parameters:,} parameters, and"
            f" {architecture.name} has {expected:,}: it is another model", trace.report.file,
        )  # fmt: skip


def check_agreement(left: Side, right: Side) -> None:
    """Raise `UsageError` where two sides are not of the same model."""
    for what, one, other in (
        ("variants", left.architecture, right.architecture),
        ("numbers of classes", left.num_classes, right.num_classes),
        ("image sizes", shown(left.image_size), shown(right.image_size)),
    ):
        if one != other:
            raise UsageError(f"the two sides have different {what}: {one} and {other}")
    if Can.RUN in left.can & right.can:
        parts = set(left.prepared.plan.features) ^ set(right.prepared.plan.features)
        if parts:
            raise UsageError(f"only one side has {listed(parts)}")


def reference_first(left: Side, right: Side) -> tuple[Side, Side, tuple[str, ...]]:
    """Put an ONNX model on the right, since the left side's float64 run is the reference.

    Also returns the notes for the report.
    """
    if not isinstance(left, Graph) or Can.FLOAT64 in left.can:
        return left, right, ()
    if isinstance(right, Graph) and Can.FLOAT64 not in right.can:
        left.marks, right.marks = alike(left, right)
        note = "an ONNX model has no float64 run: the reference is the left one as it is written,"
        return left, right, (f"{note} its own error is that of the runtime's optimisations",)
    return right, left, ("the sides were swapped: an ONNX model has no float64 run",)


def runs_of(runs: Runs, left: Side, right: Side) -> Runs:
    """Return the options with the batch size and precision that are fixed in an ONNX model."""
    if Can.RUN not in right.can or Can.FLOAT64 in right.can:
        return runs
    graphs = [side for side in (left, right) if Can.FLOAT64 not in side.can]
    types = [name for side in graphs for name in side.report.weights]
    precision = max(types, key=roundoff, default=SINGLE)
    precision = precision if runs.precision == SINGLE else runs.precision
    fixed = {side.batch for side in (left, right) if side.batch is not None}
    if len(fixed) > 1:
        raise UsageError(
            f"the two sides have different batch sizes: {left.batch} and {right.batch}"
        )
    return runs.changed(batch_sizes=tuple(fixed) or runs.batch_sizes, precision=precision)


def rounding(left: Side, right: Side) -> str | None:
    """Return the element type that the right side's weights were rounded to and the left's not."""
    types = [max(side.report.weights, key=roundoff, default=SINGLE) for side in (left, right)]
    return types[1] if roundoff(types[1]) > roundoff(types[0]) else None


def preprocessing_of(architecture: Architecture, side: Side) -> Chosen:
    """Return the preprocessing of a side's checkpoint; that of the variant for a trace."""
    if Can.RUN not in side.can:
        return chosen(architecture, side.report.dialect, None, side.image_size)
    named = side.prepared.named or side.report.dialect
    return chosen(architecture, named, side.prepared.state.origin, side.image_size)


def write_inputs(path: Path, runs: Runs, architecture: Architecture, sides: Sequence[Side]) -> str:
    """Write the inputs of all sides to a file; return the first case, whose layers are watched.

    The inputs of a trace are recorded in it: the other side gets the same. Pictures are prepared
    as for the first side.
    """
    recorded = [side.trace.inputs for side in sides if isinstance(side, Recorded)]
    size = architecture.sides(sides[0].image_size)
    if recorded:
        if not all(_same(inputs, recorded[0]) for inputs in recorded):
            raise UsageError("the two traces were recorded with different inputs")
        arrays = dict(recorded[0])
    elif runs.images is not None:
        prepared = preprocessing_of(architecture, sides[0]).how
        arrays = sources.pictures(runs.images, prepared, size)
    elif runs.inputs is not None:
        arrays = sources.arrays(runs.inputs, size)
    else:
        arrays = sources.noise(runs.protocol.seeds, runs.protocol.batch_sizes, size)
    for side in sides:
        how = side.prepared.pixels if Can.RUN in side.can else None
        if how is not None:
            exact = {name: sources.representable(array, how) for name, array in arrays.items()}
            if recorded and not all(np.allclose(exact[n], arrays[n], atol=1e-5) for n in arrays):
                raise UsageError("takes bytes, which the trace's inputs are not", side.report.file)
            arrays = exact
    exchange.save(path, arrays, {})
    return next(iter(arrays))


def _same(one: Mapping[str, Array], other: Mapping[str, Array]) -> bool:
    return one.keys() == other.keys() and all(
        one[case].shape == other[case].shape and bool((one[case] == other[case]).all())
        for case in one
    )
