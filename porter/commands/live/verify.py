"""Verdicts on checkpoints of models that porter does not define, and their traces."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from porter.commands.live.models import models_of, reference_of
from porter.commands.live.one import Asked, One, Side, by_traces, traces_of
from porter.commands.verify import files_read
from porter.errors import MappingError, UsageError
from porter.frameworks.live.cases import read_inputs, varied
from porter.mapping.reader import load as load_table
from porter.mapping.table import Table
from porter.planning import custom_table, endpoint
from porter.planning.fit import fit
from porter.planning.plan import Plan
from porter.planning.recognise import shapes_of
from porter.planning.target import mismatches
from porter.remote import fetch
from porter.storage.outputs import check_outputs
from porter.storage.progress import Progress
from porter.tensors.lazy import LazyTensor
from porter.tensors.state_dict import StateDict
from porter.verification.checks import TensorCheck
from porter.verification.diagnose.tensors import compared
from porter.verification.live import trace as live_trace
from porter.verification.live.trace import LiveTrace
from porter.verification.stamp import Clock
from porter.verification.verdict import Verdict


def verify_models(
    table: str | os.PathLike[str],
    left: str | os.PathLike[str],
    right: str | os.PathLike[str],
    *,
    left_model: str | None = None,
    right_model: str | None = None,
    inputs: str | os.PathLike[str] | None = None,
    left_dialect: str | None = None,
    right_dialect: str | None = None,
    left_key: str | None = None,
    right_key: str | None = None,
    python: Mapping[str, str] | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> Verdict:
    """Compare two checkpoints by a custom table: every tensor, and the outputs of both models.

    Dialects are `F[:DIALECT]` as `--from` takes them; None for the one that the file fits. Models
    run on `device`: "cpu", "cuda[:n]", or "auto" for a GPU where the framework sees one.
    Raises `MappingError` where a file does not fit the table or its model, `UsageError` where the
    table names no models and none are given.
    """
    loaded, clock = load_table(Path(table)), Clock()
    if progress is not None:
        progress("reading the checkpoints", 0, 0)
    given = (
        Asked(left, left_dialect, left_key, left_model),
        Asked(right, right_dialect, right_key, right_model),
    )
    traces = traces_of(given, inputs)
    if any(traces):
        sides = [
            trace or _one(loaded, asked, place, python, device)
            for trace, asked, place in zip(traces, given, ("left", "right"), strict=True)
        ]
        return clock.stamped(by_traces(Path(loaded.source).stem, sides, progress))
    states = [fetch.read(left, key=left_key), fetch.read(right, key=right_key)]
    dialects = [
        _dialect(loaded, state, asked)
        for state, asked in zip(states, (left_dialect, right_dialect), strict=True)
    ]
    models = models_of(loaded, (dialects[0], dialects[1]), left_model, right_model, inputs, python)
    if models is None:
        raise UsageError(
            "a verdict by a custom table needs the two models: name them by --left-model and"
            " --right-model, or in [models]", loaded.source,
        )  # fmt: skip
    architecture = custom_table.custom_architecture(loaded, shapes_of(states[0]), dialects[0])
    fitted = fit(architecture, states[0], dialects[0], dialects[1])
    with replace(models, device=device).opened() as session:
        session.check_source(fitted.state)
        expected, kept = session.completed(fitted.plan.apply(fitted.state), fitted.plan)
        found = mismatches(states[1], session.pair.right.target)
        if found:
            name = session.pair.right.target.name
            raise MappingError(f"does not fit {name}: {'; '.join(found[:8])}", right, found)
        if progress is not None:
            progress("running both models", 0, 0)
        verdict = session.verdict(
            fitted.plan,
            Side(fitted.state, dialects[0], left_key, fitted.state is states[0]),
            Side(states[1], dialects[1], right_key),
            tensors=tuple(_tensors(expected, states[1], fitted.plan, set(kept))),
        )
        return clock.stamped(verdict)


def record_model(
    table: str | os.PathLike[str],
    checkpoint: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    model: str | None = None,
    inputs: str | os.PathLike[str] | None = None,
    dialect: str | None = None,
    key: str | None = None,
    python: Mapping[str, str] | None = None,
    device: str = "auto",
    force: bool = False,
    progress: Progress | None = None,
) -> LiveTrace:
    """Run one model on its checkpoint and write the trace `output`, to be compared elsewhere.

    The options are those of `verify_models`; with `force` a file at `output` is replaced. Raises
    as `verify_models` does.
    """
    check_outputs([output], files_read((checkpoint,), inputs), force)
    loaded = load_table(Path(table))
    asked = Asked(checkpoint, dialect, key, model)
    given = None if inputs is None else read_inputs(inputs)
    made = _one(loaded, asked, "left", python, device).trace(varied(given), progress)
    live_trace.save(made, output, force=force)
    return made


def _one(
    table: Table, asked: Asked, place: str, python: Mapping[str, str] | None, device: str
) -> One:
    """Read a checkpoint and find its model."""
    state = fetch.read(asked.path, key=asked.key)
    dialect = _dialect(table, state, asked.dialect)
    reference = reference_of(table, dialect, asked.model, python)
    if reference is None:
        raise UsageError(
            f"no model is known to run {dialect}: name it by --{place}-model, or in [models]",
            table.source,
        )
    architecture = custom_table.custom_architecture(table, shapes_of(state), dialect)
    fitted = fit(architecture, state, dialect, dialect).state
    side = Side(fitted, dialect, asked.key, fitted is state)
    return One(Path(table.source).stem, reference, side, python, device)


def _dialect(table: Table, state: StateDict, asked: str | None) -> str:
    if asked is not None:
        return endpoint.parse(asked, table).dialect
    container = "" if state.origin is None else state.origin.format
    return custom_table.fitting(table, shapes_of(state), None, container)[1]


def _tensors(
    expected: Mapping[str, LazyTensor], found: Mapping[str, LazyTensor], plan: Plan, kept: set[str]
) -> Iterator[TensorCheck]:
    """Yield a check for each tensor that the table writes."""
    for name, tensor in expected.items():
        if name in kept or name not in found:
            continue
        link = plan.target.by_dialect.get(name)
        other = found[name]
        row = "" if link is None else link.row
        if other.dtype is not tensor.dtype:
            yield TensorCheck(name, row, f"is {other.dtype.name}, not {tensor.dtype.name}")
        else:
            yield compared(plan, name, row, expected, found)
