"""Make a checkpoint ready to be one side: which naming it has, which framework runs it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from porter import codecs
from porter.errors import UsageError, listed
from porter.mapping.table import CANONICAL
from porter.planning.fit import fit
from porter.planning.plan import Plan, plan
from porter.planning.recognise import best_dialect, shapes_of
from porter.remote import fetch
from porter.tensors.lazy import LazyTensor
from porter.tensors.state_dict import StateDict
from porter.verification.participants import SideReport
from porter.verification.trace import Trace
from porter.zoo.architectures import Architecture
from porter.zoo.seeded import seeded

Checkpoint = str | os.PathLike[str] | StateDict
_RUNS = {"torch": "torch", "paddle": "paddle", "flax": "torch"}
"""Which framework runs a dialect of a framework's conventions."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """One side: what the report says of it, its plan, and what its process is asked to load."""

    report: SideReport
    architecture: Architecture
    plan: Plan
    state: StateDict
    """The checkpoint as it stands in the file."""
    request: Mapping[str, Any]
    batch: int | None = None
    """The only batch size that it takes, where it is frozen into the file."""

    @property
    def is_graph(self) -> bool:
        """Whether it is an ONNX model: it runs as it is, in its own precision, and no further."""
        return self.report.framework == "onnxruntime"

    @property
    def num_classes(self) -> int:
        """Classes of the checkpoint."""
        return self.plan.num_classes

    @property
    def image_size(self) -> int:
        """Image size in pixels."""
        return self.plan.image_size


def prepare(
    architecture: Architecture,
    given: Checkpoint,
    folder: Path,
    *,
    dialect: str | None = None,
    key: str | None = None,
    num_classes: int | None = None,
    image_size: int | None = None,
) -> Prepared:
    """Recognise a checkpoint and fit it to the variant.

    One in the reference naming of its framework is read by the process itself, so that no table
    has a part in what it computes; any other is mapped to it and passed on as a file in `folder`.
    """
    if not isinstance(given, StateDict):
        here = fetch.local(given)
        with fetch.named(here):
            found = codecs.detect(here.path)
        if found == "onnx":
            return _graph(architecture, here, image_size or architecture.image_size)
    state = given if isinstance(given, StateDict) else fetch.read(given, key=key)
    shapes = shapes_of(state)
    container = state.origin.format if state.origin is not None else ""
    if dialect is None:
        prefer = "paddle" if container == "paddle" else "torch"
        dialect = best_dialect(architecture, shapes, prefer)
    chosen = architecture.table.dialect(dialect)
    framework = _RUNS[chosen.convention.framework]
    fitted = fit(
        architecture, state, chosen.name, framework, num_classes=num_classes, image_size=image_size
    )
    direct = chosen.name == framework and state.origin is not None and container != "onnx"
    report = SideReport(
        label=framework if chosen.name == framework else f"{framework}:{chosen.name}",
        framework=framework,
        dialect=chosen.name,
        file=state.origin.shown if state.origin is not None else "",
        format=container,
        weights=tuple(sorted({t.dtype.name for t in state.values() if t.dtype.is_float})),
        direct=direct,
    )
    request = {
        "architecture": fitted.architecture.name,
        "num_classes": fitted.plan.num_classes,
        "image_size": fitted.plan.image_size,
        "features": fitted.plan.features,
        **(_directly(fitted.plan, state, key) if direct else _mapped(fitted.plan, state, folder)),
    }
    return Prepared(report, fitted.architecture, fitted.plan, state, request)


def _graph(architecture: Architecture, here: fetch.Fetched, image_size: int) -> Prepared:
    """Return an ONNX model as a side: classes, size, batch and precision are the graph's own."""
    from porter.onnx.graph.signature import signature

    own = signature(here.path, image_size)
    report = SideReport(
        label="onnxruntime", framework="onnxruntime", dialect="onnx", file=here.shown,
        format="onnx", weights=(own.dtype,),
    )  # fmt: skip
    shapes = shapes_of(
        seeded(
            architecture, num_classes=own.num_classes, image_size=own.image_size,
            features=own.features(architecture),
        )
    )  # fmt: skip
    made = plan(architecture, shapes, CANONICAL, CANONICAL, image_size=own.image_size)
    request = {"weights": os.path.abspath(here.path)}
    return Prepared(report, architecture, made, StateDict({}), request, own.batch)


def _directly(plan: Plan, state: StateDict, key: str | None) -> dict[str, Any]:
    """Return what the process needs to read the user's file itself."""
    assert state.origin is not None
    own = {*plan.filled, *plan.computed}
    lacking = [
        name
        for made in plan.source.links
        if all(part in own for part in made.canonical)
        for name in made.dialect
    ]
    return {
        "weights": os.path.abspath(state.origin.path),
        "key": key,
        "lacking": lacking,
        "skipped": list(plan.dropped),
    }


def _mapped(plan: Plan, state: Mapping[str, LazyTensor], folder: Path) -> dict[str, Any]:
    path = folder / "weights.safetensors"
    folder.mkdir(parents=True, exist_ok=True)
    codecs.write(plan.apply(state), os.fspath(path), format="safetensors", read_back=False)
    return {"weights": os.fspath(path)}


def agree(left: Prepared | Trace, right: Prepared | Trace) -> None:
    """Raise `UsageError` where two sides are not of the same model."""
    names = [s.architecture if isinstance(s, Trace) else s.architecture.name for s in (left, right)]
    for what, one, other in (
        ("variants", *names),
        ("numbers of classes", left.num_classes, right.num_classes),
        ("image sizes", left.image_size, right.image_size),
    ):
        if one != other:
            raise UsageError(f"the two sides have different {what}: {one} and {other}")
    if isinstance(left, Prepared) and isinstance(right, Prepared):
        parts = [set(side.plan.features) for side in (left, right)]
        if parts[0] != parts[1]:
            raise UsageError(f"only one side has {listed(parts[0] ^ parts[1])}")
