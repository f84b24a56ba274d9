"""Identify a file: container, wrapper, architecture, dialect, sizes, provenance.

No framework is imported and no tensor is read.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from porter.checkpoints.beside import model_name, names_of
from porter.errors import InputError, printable
from porter.mapping import signature
from porter.mapping.fold import fold
from porter.remote import fetch
from porter.storage.progress import Progress
from porter.tensors.state_dict import Origin, StateDict

if TYPE_CHECKING:
    from porter.planning.recognise import Match
    from porter.verification.reference import Comparison


@dataclass(frozen=True, slots=True)
class Inspection:
    """The contents of a file."""

    state: StateDict
    origin: Origin
    matches: tuple[Match, ...]
    dtypes: dict[str, int]
    """Number of tensors of each dtype."""
    tied: tuple[tuple[str, ...], ...]
    """Groups of names that share their memory."""
    graph: str = ""
    """Inputs, outputs and operator sets of an ONNX model; empty for other files."""
    comparison: Comparison | None = None
    """The tensors against those of a reference, if one was given."""

    def __repr__(self) -> str:
        best = next(iter(self.matches), None)
        exact = best is not None and best.exact
        name = f"{best.architecture.name} as {best.dialect}" if best and exact else "unknown"
        shown = f"{self.origin.shown} ({self.origin.format})"
        return f"Inspection({shown}: {len(self.state)} tensors, architecture {name})"

    def layers(self) -> list[tuple[str, str, str, int]]:
        """Return (folded name, dtype, shape, number) for each group of tensors of one shape."""
        groups: dict[tuple[str, tuple[int, ...]], list[str]] = {}
        for name, tensor in self.state.items():
            groups.setdefault((tensor.dtype.name, tensor.shape), []).append(name)
        rows = []
        for (dtype, shape), names in groups.items():
            rows += [(name, dtype, str(list(shape)), len(names)) for name in fold(names)]
        return rows


def inspect(
    path: str | os.PathLike[str],
    *,
    key: str | None = None,
    like: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Inspection:
    """Identify a checkpoint without reading a tensor, unless a reference is given.

    Parameters:
        path: Path or address of the checkpoint.
        key: Name of one of several state dicts in the file.
        like: Path or address of a checkpoint, in any format and naming, whose values the file
            should have: every tensor of both is read and compared.
        progress: Called with a step's name, the bytes done and the bytes in all (downloads).

    Returns an `Inspection`: format, wrapper, architectures and dialects that fit, dtypes,
    shared tensors, metadata, and the state dict, whose tensors are not read.
    Raises `InputError` for a file that porter does not read, `UsageError` or `MappingError` for
    a reference that is not of the same architecture.
    """
    state = fetch.read(path, key=key, progress=progress)
    assert state.origin is not None
    ties: dict[object, list[str]] = {}
    for name, tensor in state.items():
        if tensor.tie is not None:
            ties.setdefault(tensor.tie, []).append(name)
    return Inspection(
        state,
        state.origin,
        _matches(state, state.origin),
        dict(Counter(tensor.dtype.name for tensor in state.values())),
        tuple(tuple(names) for names in ties.values() if len(names) > 1),
        _graph(state) if state.origin.format == "onnx" else "",
        None if like is None else _compared(state, like, progress),
    )


def _compared(
    state: StateDict, like: str | os.PathLike[str], progress: Progress | None
) -> Comparison:
    from porter.verification.reference import compared, expected_of

    return compared(state, expected_of(state, fetch.read(like, progress=progress), None))


def _matches(state: StateDict, origin: Origin) -> tuple[Match, ...]:
    """Return the architectures that a state dict fits; tables are read only if one is likely.

    Several variants may have the same tensors: the metadata of the file decides.
    """
    if origin.format == "paddle-inference":
        return _of_program(state)
    if not signature.resembles_any(state):
        return ()
    from porter.planning.recognise import recognise, shapes_of

    recorded, stated = origin.metadata.get("porter.architecture"), names_of(origin)

    def is_stated(match: Match) -> bool:
        aliases = {match.architecture.name, *map(str.lower, match.architecture.aliases)}
        return bool(stated & aliases if recorded is None else {recorded} & aliases)

    found = recognise(shapes_of(state))
    return tuple(sorted(found, key=lambda match: not (match.exact and is_stated(match))))


def _of_program(state: StateDict) -> tuple[Match, ...]:
    """Return the architectures of which an inference model of Paddle has the operations.

    Where they are those of none that is recorded, its tensors' shapes tell, which is not exact.
    """
    from porter.planning.by_shapes import variants_of
    from porter.planning.program.names import DIALECT, fitting
    from porter.planning.recognise import Match

    try:
        found = fitting(state)
    except InputError:  # operations that porter does not read; the weights are sound
        return ()
    if not found:
        alike = variants_of(tensor.shape for tensor in state.values() if tensor.dtype.is_float)
        return tuple(Match(architecture, DIALECT, False, 0.0) for architecture in alike)
    matches = (
        Match(named.architecture, DIALECT, True, 1.0, plan.num_classes, plan.image_size)
        for named, plan in found
    )
    stated = model_name(state.origin)
    return tuple(sorted(matches, key=lambda match: stated not in match.architecture.aliases))


def _graph(state: StateDict) -> str:
    """Return a line about the graph of an ONNX model, empty if it cannot be parsed."""
    from porter.onnx.graph.parse import parse
    from porter.storage.input_file import open_input

    assert state.origin is not None
    try:
        model = parse(open_input(state.origin.path))
    except InputError:
        return ""
    inputs = [value for value in model.graph.inputs if value.name not in state]
    takes, gives = (", ".join(map(str, side)) for side in (inputs, model.graph.outputs))
    opsets = ", ".join(f"{d or 'opset'} {version}" for d, version in model.opsets.items())
    return printable(f"{takes} → {gives}; {opsets}; {len(model.graph.nodes)} nodes", 400)
