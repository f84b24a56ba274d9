"""The trace of a side: all it computed, in memory or in a file for another machine.

A trace file is safetensors: `input/CASE`, `output/PRECISION/CASE/NAME`, `layer/PRECISION/PLACE`,
`call/PLACE/INDEX`, `gradient/NAME`, and a JSON value in the metadata under `porter` that describes
the side. Layers are those of the first case.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from porter.errors import InputError, printable
from porter.frameworks import exchange
from porter.frameworks.runner import PRECISIONS
from porter.storage.options import WriteOptions
from porter.tensors.blocks import Array
from porter.tensors.lazy import Shape
from porter.verification.inputs import misfit
from porter.verification.sides.report import SideReport, recorded_side
from porter.zoo.image_size import Size, as_size, sides_of

VERSION = 1
SAMPLE = 1 << 16
"""Elements stored of each layer's output: enough to see a fault, few enough for any model."""


@dataclass(frozen=True, slots=True)
class Layers:
    """Outputs of modules at one precision, in the order in which the modules finished."""

    values: Mapping[str, Array]
    """{place: elements}, evenly spaced ones where the whole is large."""
    shapes: Mapping[str, Shape]
    """Shapes before sampling."""
    kinds: Mapping[str, str]
    """Class of the module at each place."""


@dataclass(frozen=True, slots=True)
class Trace:
    """Everything that one side computed."""

    report: SideReport
    architecture: str
    num_classes: int
    image_size: Size
    inputs: Mapping[str, Array]
    outputs: Mapping[str, Mapping[str, Array]]
    """{precision: {`case/name`: array}}"""
    layers: Mapping[str, Layers] = field(default_factory=dict)
    gradients: Mapping[str, Array] = field(default_factory=dict)
    """By canonical name, in float64."""
    stepped: Mapping[str, Array] = field(default_factory=dict)
    """Parameters after one AdamW step, by canonical name, in float64."""
    arguments: tuple[str, ...] = ()
    """Of a model that porter does not know: the inputs are the arguments of one call, in order."""
    calls: str = ""
    """File with the arguments of each module, to run them elsewhere; empty if not stored."""
    parameters: int = 0
    """Elements of the parameters of a model that a person named a variant; 0: not such a one."""

    @property
    def cases(self) -> tuple[str, ...]:
        """Names of the inputs that were run one after the other."""
        return (exchange.ARGUMENTS,) if self.arguments else tuple(self.inputs)


def save(trace: Trace, path: str | os.PathLike[str], calls: Mapping[str, Array] | None = None,
         about_calls: Mapping[str, Any] | None = None, *, force: bool = False) -> None:  # fmt: skip
    """Write a trace; `calls` are the arguments of modules that are arrays.

    Raises as `porter.storage.atomic_output.publish`; with `force`, a file is replaced.
    """
    arrays = {f"input/{case}": array for case, array in trace.inputs.items()}
    for precision, outputs in trace.outputs.items():
        arrays |= {f"output/{precision}/{key}": array for key, array in outputs.items()}
    for precision, layers in trace.layers.items():
        arrays |= {f"layer/{precision}/{place}": a for place, a in layers.values.items()}
    arrays |= {f"gradient/{name}": array for name, array in trace.gradients.items()}
    arrays |= {f"stepped/{name}": array for name, array in trace.stepped.items()}
    arrays |= calls or {}
    about = {
        "trace": VERSION,
        "report": asdict(trace.report),
        "architecture": trace.architecture,
        "num_classes": trace.num_classes,
        "image_size": trace.image_size,
        "cases": list(trace.inputs),
        "arguments": list(trace.arguments),
        "outputs": _names_of_outputs(trace),
        "layers": {
            precision: {"places": list(v.values), "shapes": dict(v.shapes), "kinds": dict(v.kinds)}
            for precision, v in trace.layers.items()
        },
        "calls": about_calls or {},
        "parameters": trace.parameters,
    }
    exchange.save(path, arrays, about, WriteOptions(force=force, digests=False))


def in_order(outputs: Mapping[str, Array], names: Sequence[str]) -> dict[str, Array]:
    """Sort outputs, `case/name`, in the order in which the model returns them: a file has none."""
    places = {name: index for index, name in enumerate(names)}
    last = len(places)
    order = sorted(outputs, key=lambda key: places.get(key.rpartition("/")[2], last))
    return {key: outputs[key] for key in order}


def _names_of_outputs(trace: Trace) -> list[str]:
    keys = next(iter(trace.outputs.values()), {})
    return list(dict.fromkeys(key.rpartition("/")[2] for key in keys))


def is_trace(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a trace; only its header is read."""
    try:
        return "trace" in exchange.about(path)
    except InputError:
        return False


def load(path: str | os.PathLike[str]) -> Trace:
    """Read a trace; `InputError` if the file is not a trace, or a damaged one."""
    arrays, about = exchange.load(path)
    version = about.get("trace")
    if version != VERSION:
        kind = "not a trace" if version is None else f"a trace of version {printable(version)}"
        raise InputError(f"is {kind}; this porter reads version {VERSION}: record it again", path)
    try:
        made = _parsed(arrays, about, os.fspath(path))
        problem = _problem(made, arrays, about)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        problem = f"{type(error).__name__}: {printable(error)}"
    if problem:
        raise InputError(f"is a damaged trace: {problem}", path)
    return made


def _parsed(arrays: Mapping[str, Array], about: Mapping[str, Any], path: str) -> Trace:
    groups: dict[str, dict[str, Array]] = {}
    for name, array in arrays.items():
        head, _, rest = name.partition("/")
        groups.setdefault(head, {})[rest] = array
    outputs: dict[str, dict[str, Array]] = {}
    for name, array in groups.get("output", {}).items():
        precision, _, rest = name.partition("/")
        outputs.setdefault(precision, {})[rest] = array
    return Trace(
        report=recorded_side(about["report"], path),
        architecture=about["architecture"],
        num_classes=about["num_classes"],
        image_size=as_size(about["image_size"]),
        inputs={case: groups["input"][case] for case in about["cases"]},
        outputs={
            precision: in_order(run, about.get("outputs", ())) for precision, run in outputs.items()
        },
        layers={
            precision: Layers(
                {place: groups["layer"][f"{precision}/{place}"] for place in layers["places"]},
                {place: tuple(shape) for place, shape in layers["shapes"].items()},
                {place: str(kind) for place, kind in layers["kinds"].items()},
            )
            for precision, layers in about["layers"].items()
        },
        arguments=tuple(str(name) for name in about.get("arguments", ())),
        gradients=groups.get("gradient", {}),
        stepped=groups.get("stepped", {}),
        calls=path if about["calls"] else "",
        parameters=int(about.get("parameters", 0)),
    )


def _problem(trace: Trace, arrays: Mapping[str, Array], about: Mapping[str, Any]) -> str:
    """Return what in a trace is not as `save` writes it; empty if nothing is."""
    if not isinstance(trace.architecture, str):
        return "its architecture is not text"
    if problem := _bad_arguments(trace) if trace.arguments else _bad_pictures(trace):
        return problem
    if not trace.inputs or not trace.outputs:
        return "it has no inputs or no outputs"
    for precision, outputs in trace.outputs.items():
        cases = {name.rpartition("/")[0] for name in outputs}
        if precision not in PRECISIONS or cases != {*trace.cases}:
            return f"its outputs in {printable(precision)} are not those of its inputs"
    for layers in trace.layers.values():
        if not layers.values.keys() <= layers.shapes.keys():
            return "a layer has no shape"
    used = [a["array"] for called in about["calls"].values() for a in called if "array" in a]
    return "" if all(name in arrays for name in used) else "arguments of a module are missing"


def _bad_pictures(trace: Trace) -> str:
    """Return what is wrong with the inputs of a variant of porter; empty if nothing is."""
    sides = sides_of(trace.image_size)
    if not all(isinstance(n, int) and n > 0 for n in (trace.num_classes, *sides)):
        return "classes and image size are not positive numbers"
    for case, array in trace.inputs.items():
        width = array.shape[3] if array.ndim == 4 else sides[1]
        width = width if isinstance(trace.image_size, int) else sides[1]
        if problem := misfit(array, (sides[0], width)):
            return f"input {printable(case)} {problem}"
    return ""


def _bad_arguments(trace: Trace) -> str:
    """Return what is wrong with the arguments of another model; empty if nothing is."""
    if set(trace.arguments) != set(trace.inputs):
        return "its arguments are not its inputs"
    for name, array in trace.inputs.items():
        if array.dtype.kind not in "fiub" or not np.isfinite(array).all():
            return f"argument {printable(name)} is not an array of finite numbers"
    return ""
