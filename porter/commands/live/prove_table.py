"""Mutate each row of a custom table: does every fault show in the outputs of its two models?"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from porter import codecs
from porter.commands.live.models import Models, models_of
from porter.errors import UsageError
from porter.frameworks import exchange
from porter.mapping.reader import load as load_table
from porter.mapping.table import CANONICAL, PADDLE, Table
from porter.planning.custom_table import custom_architecture
from porter.planning.plan import Plan, plan
from porter.planning.recognise import shapes_of
from porter.storage.progress import Progress
from porter.tensors.blocks import Array
from porter.tensors.state_dict import StateDict

LIMIT = 1e-4
"""Relative rms difference of the outputs that shows a fault."""


@dataclass(frozen=True, slots=True)
class Mutation:
    """One row of the table, applied wrongly to one of its tensors."""

    row: str
    tensor: str
    kind: str
    error: float
    """How far it moves the outputs, relative to their rms."""

    @property
    def caught(self) -> bool:
        """Whether the outputs show it."""
        return self.error > LIMIT


@dataclass(frozen=True, slots=True)
class TableProof:
    """What the mutations of a table showed."""

    table: str
    dialect: str
    agreement: float
    """Relative difference of the outputs with the table as it is."""
    mutations: tuple[Mutation, ...]

    @property
    def uncaught(self) -> tuple[Mutation, ...]:
        """Mutations that no output shows."""
        return tuple(m for m in self.mutations if not m.caught)

    @property
    def holds(self) -> bool:
        """Whether the table is right and every fault in it would show."""
        return self.agreement <= LIMIT and bool(self.mutations) and not self.uncaught


def prove_table(
    path: str | os.PathLike[str],
    *,
    left_model: str | None = None,
    right_model: str | None = None,
    inputs: str | os.PathLike[str] | None = None,
    python: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> TableProof:
    """Mutate each row, on seeded weights of the left model in which every tensor matters.

    The models are those named, or those of the table's [models]. Raises `UsageError` where there
    are none, `MappingError` where the table does not fit them.
    """
    table = load_table(Path(path))
    dialects = _dialects(table)
    models = models_of(table, dialects, left_model, right_model, inputs, python)
    if models is None:
        raise UsageError(
            "--prove needs the table's two models: name them by --left-model and --right-model,"
            " or in [models]", table.source,
        )  # fmt: skip
    return _proven(table, dialects, models, progress)


def _dialects(table: Table) -> tuple[str, str]:
    """Return the dialects of the two models: those of [models], or the canonical and the other."""
    if len(table.models) == 2:
        one, two = table.models
        return one, two
    others = [name for name in table.dialects if name not in (CANONICAL, PADDLE)]
    return CANONICAL, others[0] if others else PADDLE


def _proven(
    table: Table, dialects: tuple[str, str], models: Models, progress: Progress | None
) -> TableProof:
    with ExitStack() as stack:
        if progress is not None:
            progress("building the models", 0, 0)
        session = stack.enter_context(models.opened())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="porter-")))
        pair = session.pair
        recorded, filled, trials = (
            os.fspath(folder / f"{name}.safetensors") for name in ("left", "right", "trials")
        )
        pair.left.worker.request("live_record", seed=5, inputs=pair.inputs, output=recorded)
        arrays, _ = exchange.load(recorded)
        weights = {n[7:]: a for n, a in arrays.items() if n.startswith("weight/")}
        state = StateDict.of({name: weights[name] for name in pair.left.own})
        shapes = shapes_of(state)
        found = plan(custom_architecture(table, shapes, dialects[0]), shapes, *dialects)
        converted, _ = session.completed(found.apply(state), found)
        codecs.write(converted, filled, format="safetensors", read_back=False, record=False)
        pair.right.fill(filled, None)
        chosen = dict(_mutations(found, converted))
        values = {str(index): value for index, (_, value) in enumerate(chosen.values())}
        exchange.save(trials, values, {})
        if progress is not None:
            progress(f"running {len(chosen)} mutations", 0, 0)
        reply = pair.right.worker.request(
            "live_mutate", left=recorded, inputs=pair.inputs, values=trials,
            trials=[{name: str(i)} for i, (name, _) in enumerate(chosen.values())],
        )  # fmt: skip
        mutations = tuple(
            Mutation(row, name, "rotated by one", float(error))
            for (row, (name, _)), error in zip(chosen.items(), reply["errors"], strict=True)
        )
        return TableProof(table.source, dialects[1], float(reply["agreement"]), mutations)


def _mutations(found: Plan, state: StateDict) -> Iterator[tuple[str, tuple[str, Array]]]:
    """Yield for each row a tensor of the target and a wrong value: its elements moved by one."""
    done: set[str] = set()
    for link in found.target.links:
        kind = "bias" if link.dialect[0].rpartition(".")[2] == "bias" else "weight"
        key = link.row if kind == "weight" else f"{link.row} ({kind})"
        if key in done or not state[link.dialect[0]].dtype.is_float:
            continue
        done.add(key)
        value = np.array(state[link.dialect[0]].read())
        axis = int(np.argmax(value.shape)) if value.ndim else 0
        moved = np.roll(value, 1, axis) if value.size > 1 else value * 2 + 1
        yield key, (link.dialect[0], np.ascontiguousarray(moved))
