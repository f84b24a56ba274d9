"""Prepare a checkpoint: recognise its naming, fit it to the variant, choose its framework."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from porter import codecs
from porter.errors import UsageError
from porter.mapping.table import CANONICAL, Behaviour
from porter.onnx.export import metadata as notes
from porter.onnx.recover.read import read as read_graph
from porter.planning.behaviour import behaviour_of, settings
from porter.planning.endpoint import GRAPHS, PROGRAM
from porter.planning.fit import fit
from porter.planning.locate import below
from porter.planning.plan import Plan, plan
from porter.planning.recognise import best_dialect, shapes_of
from porter.remote import fetch
from porter.remote.address import is_url
from porter.tensors.lazy import LazyTensor
from porter.tensors.state_dict import StateDict
from porter.verification.sides.report import SideReport
from porter.verification.stamp import digest
from porter.zoo.architectures import Architecture
from porter.zoo.image_size import Size
from porter.zoo.preprocessing import Preprocessing
from porter.zoo.seeded import seeded

Checkpoint = str | os.PathLike[str] | StateDict
_RUNS = {"torch": "torch", "paddle": "paddle", "flax": "torch"}
"""{framework of a dialect: framework that runs it}"""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A checkpoint with its plan, and the request with which a process loads it."""

    report: SideReport
    architecture: Architecture
    plan: Plan
    state: StateDict
    """The checkpoint under the names of its file."""
    request: Mapping[str, Any]
    batch: int | None = None
    """The only batch size that it takes, where that is fixed in the file."""
    behaviour: tuple[Behaviour, ...] = ()
    """What the dialect's code computes otherwise than the canonical model."""
    named: str = ""
    """The dialect as the user wrote it: perhaps an alias."""
    quantised: bool = False
    """Whether it is an ONNX model that computes in 8 bits or fewer."""
    pixels: Preprocessing | None = None
    """How its graph normalises pictures that it takes as bytes."""
    probabilities: bool = False
    """Whether its graph ends with a softmax."""

    @property
    def is_graph(self) -> bool:
        """Whether it is an ONNX model, which runs in the precision of the file only."""
        return self.report.framework == "onnxruntime"


def prepare(
    architecture: Architecture,
    given: Checkpoint,
    folder: Path,
    *,
    dialect: str | None = None,
    key: str | None = None,
    prefix: str | None = None,
    num_classes: int | None = None,
    image_size: Size | None = None,
    behaviour: str = "canonical",
) -> Prepared:
    """Recognise a checkpoint and fit it to the variant.

    A checkpoint in the reference naming of its framework is read by the process itself, so that
    its outputs do not depend on a table; any other is mapped to that naming and passed on as a
    file in `folder`. With `behaviour` "dialect" the model computes as its dialect's code does.
    """
    architecture.need_model("comparing outputs")
    if not isinstance(given, StateDict):
        container = fetch.detect(given)
        if container == "onnx":
            return _graph(architecture, fetch.local(given), image_size)
        if container == PROGRAM:
            given = read_graph(architecture, given)
    state = given if isinstance(given, StateDict) else fetch.read(given, key=key)
    if prefix is not None:
        state = below(state, prefix)
    shapes = shapes_of(state)
    container = state.origin.format if state.origin is not None else ""
    if dialect is None:
        prefer = "paddle" if container == "paddle" else "torch"
        dialect = best_dialect(architecture, shapes, prefer)
    named, chosen = dialect, architecture.table.dialect(dialect)
    framework = _RUNS[chosen.convention.framework]
    fitted = fit(
        architecture, state, chosen.name, framework, num_classes=num_classes, image_size=image_size
    )
    direct = chosen.name == framework and state.origin is not None and container not in GRAPHS
    # The process itself removes no prefix, and reads no address.
    direct = direct and prefix is None and fitted.state is state
    direct = direct and not (state.origin is not None and is_url(state.origin.path))
    state = fitted.state
    rows = behaviour_of(fitted.architecture, fitted.plan.source.dialect.name, state.origin)
    report = SideReport(
        label=framework if chosen.name == framework else f"{framework}:{chosen.name}",
        framework=framework,
        dialect=chosen.name,
        file=state.origin.shown if state.origin is not None else "",
        format=container,
        weights=tuple(sorted({t.dtype.name for t in state.values() if t.dtype.is_float})),
        direct=direct,
        behaviour=settings(rows) if behaviour == "dialect" else {},
        key=state.origin.wrapper if state.origin is not None else "",
        digest=digest(state.origin.files) if state.origin is not None else "",
    )
    request = {
        "architecture": fitted.architecture.name,
        "num_classes": fitted.plan.num_classes,
        "image_size": fitted.plan.image_size,
        "features": fitted.plan.features,
        "config": dict(report.behaviour),
        **(_directly(fitted.plan, state, key) if direct else _mapped(fitted.plan, state, folder)),
    }
    return Prepared(report, fitted.architecture, fitted.plan, state, request, None, rows, named)


def _graph(architecture: Architecture, local: fetch.Fetched, image_size: Size | None) -> Prepared:
    """Prepare an ONNX model: classes, image size, batch and precision are those of the graph."""
    from porter.onnx.graph.signature import signature

    sides = architecture.sides(image_size)
    found = signature(local.path, sides)
    if image_size is not None:
        found.check_sides(sides, local.path)
    origin = codecs.read(local.path).origin
    assert origin is not None
    classes = 0 if found.metadata.get(notes.CLASSES) == "0" else found.num_classes
    report = SideReport(
        label="onnxruntime", framework="onnxruntime", dialect="onnx", file=local.shown,
        format="onnx", weights=(found.dtype,), digest=digest(origin.files),
    )  # fmt: skip
    size = architecture.size_of(*found.sides)
    shapes = shapes_of(
        seeded(
            architecture, num_classes=classes, image_size=size,
            features=found.features(architecture),
        )
    )  # fmt: skip
    identity = plan(
        architecture,
        shapes,
        CANONICAL,
        CANONICAL,
        image_size=size,
        num_classes=0 if not classes else None,
    )
    pixels = notes.pixels(found.metadata) if found.as_bytes else None
    if found.as_bytes and pixels is None:
        raise UsageError(
            "takes bytes: its metadata do not state how they are normalised", local.path
        )
    normal = None if pixels is None else pixels.normalising()
    request = {"weights": os.path.abspath(local.path), "pixels": normal}
    return Prepared(
        report, architecture, identity, StateDict({}, origin), request, found.batch, pixels=pixels,
        quantised=found.quantised,
        probabilities=found.metadata.get(notes.OUTPUT) == notes.PROBABILITIES,
    )  # fmt: skip


def _directly(plan: Plan, state: StateDict, key: str | None) -> dict[str, Any]:
    """Return the part of the request with which the process reads the user's file itself."""
    assert state.origin is not None
    added = {*plan.filled, *plan.computed}
    lacking = [
        name
        for link in plan.source.links
        if all(part in added for part in link.canonical)
        for name in link.dialect
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
