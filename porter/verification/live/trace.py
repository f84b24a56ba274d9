"""The trace of a model that porter does not define: what it was given and what it computed.

A file of it is safetensors: `input/CASE/NAME` and `output/PRECISION/CASE/KEY`, and a JSON value in
the metadata under `porter` that has the names in their order and describes the side.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from porter.errors import InputError, printable
from porter.frameworks import exchange
from porter.frameworks.live.cases import Cases
from porter.frameworks.runner import PRECISIONS
from porter.storage.options import WriteOptions
from porter.tensors.blocks import Array
from porter.verification.live.pair import Outputs
from porter.verification.sides.report import SideReport, recorded_side

_MARK, _VERSION = "live_trace", 1


@dataclass(frozen=True, slots=True)
class LiveTrace:
    """Everything that one model computed."""

    name: str
    """Of the variant, or of the mapping table."""
    report: SideReport
    cases: Cases
    outputs: Mapping[str, Outputs]
    """{precision: {case: {key: array}}}"""


def save(trace: LiveTrace, path: str | os.PathLike[str], *, force: bool = False) -> None:
    """Write a trace; raises as `porter.storage.atomic_output.publish`."""
    arrays = dict(_flat("input", trace.cases))
    for precision, outputs in trace.outputs.items():
        arrays |= _flat(f"output/{precision}", outputs)
    about = {
        _MARK: _VERSION,
        "name": trace.name,
        "report": asdict(trace.report),
        "cases": {case: list(given) for case, given in trace.cases.items()},
        "outputs": {
            precision: {case: list(found) for case, found in outputs.items()}
            for precision, outputs in trace.outputs.items()
        },
    }
    exchange.save(path, arrays, about, WriteOptions(force=force, digests=False))


def is_live_trace(path: str | os.PathLike[str]) -> bool:
    """Whether a file is such a trace; only its header is read."""
    try:
        return os.path.isfile(path) and _MARK in exchange.about(path)
    except InputError:
        return False


def load(path: str | os.PathLike[str]) -> LiveTrace:
    """Read a trace; `InputError` if the file is a damaged one."""
    arrays, about = exchange.load(path)
    if about.get(_MARK) != _VERSION:
        raise InputError(
            f"is a trace of version {printable(about.get(_MARK))}; this porter reads version"
            f" {_VERSION}: record it again", path,
        )  # fmt: skip
    try:
        return _parsed(arrays, about, os.fspath(path))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"is a damaged trace: {type(error).__name__}: {printable(error)}", path
        ) from error


def _flat(prefix: str, cases: Cases) -> Mapping[str, Array]:
    return {f"{prefix}/{c}/{name}": a for c, given in cases.items() for name, a in given.items()}


def _parsed(arrays: Mapping[str, Array], about: Mapping[str, Any], path: str) -> LiveTrace:
    made = LiveTrace(
        name=str(about["name"]),
        report=recorded_side(about["report"], path),
        cases=_cases(arrays, "input", about["cases"]),
        outputs={
            precision: _cases(arrays, f"output/{precision}", cases)
            for precision, cases in about["outputs"].items()
        },
    )
    if not made.cases or not made.outputs or not made.outputs.keys() <= {*PRECISIONS}:
        raise ValueError("it has no inputs, or no outputs in a known precision")
    if any(outputs.keys() != made.cases.keys() for outputs in made.outputs.values()):
        raise ValueError("its outputs are not those of its inputs")
    return made


def _cases(
    arrays: Mapping[str, Array], prefix: str, cases: Mapping[str, list[str]]
) -> dict[str, dict[str, Array]]:
    return {
        str(case): {str(name): arrays[f"{prefix}/{case}/{name}"] for name in names}
        for case, names in cases.items()
    }
