"""Say what a file is: container, wrapper, architecture, dialect, sizes, provenance.

No framework is imported and no tensor is read.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass

from porter import fetch
from porter._callable import make_callable
from porter.errors import InputError, printable
from porter.mapping.fold import fold
from porter.mapping.recognise import Match, recognise, shapes_of
from porter.tensor import Origin, StateDict


@dataclass(frozen=True, slots=True)
class Inspection:
    """What was found in a file."""

    state: StateDict
    origin: Origin
    matches: tuple[Match, ...]
    dtypes: dict[str, int]
    """Number of tensors of each dtype."""
    tied: tuple[tuple[str, ...], ...]
    """Groups of names that share their memory."""
    graph: str = ""
    """What an ONNX model takes and gives, by which operators; empty for other files."""

    def layers(self) -> list[tuple[str, str, str, int]]:
        """Return (folded name, dtype, shape, tensors) for each group of tensors alike."""
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
    progress: fetch.Progress | None = None,
) -> Inspection:
    """Return what a checkpoint, a path or an http or https address, is.

    `InputError` is raised if it is none that porter reads.
    """
    state = fetch.read(path, key=key, progress=progress)
    assert state.origin is not None
    ties: dict[object, list[str]] = {}
    for name, tensor in state.items():
        if tensor.tie is not None:
            ties.setdefault(tensor.tie, []).append(name)
    recorded = state.origin.metadata.get("porter.architecture")
    matches = sorted(
        recognise(shapes_of(state)), key=lambda m: not (m.exact and m.architecture.name == recorded)
    )  # several variants may have the same tensors: what the file says of itself decides
    return Inspection(
        state,
        state.origin,
        tuple(matches),
        dict(Counter(tensor.dtype.name for tensor in state.values())),
        tuple(tuple(names) for names in ties.values() if len(names) > 1),
        _graph(state) if state.origin.format == "onnx" else "",
    )


def _graph(state: StateDict) -> str:
    """Return a line about the graph of an ONNX model, empty where it makes no sense."""
    from porter.codecs.files import InputFile
    from porter.onnx.parse import parse

    assert state.origin is not None
    try:
        with InputFile(state.origin.path) as file:
            model = parse(file)
    except InputError:
        return ""
    inputs = [value for value in model.graph.inputs if value.name not in state]
    takes, gives = (", ".join(map(str, side)) for side in (inputs, model.graph.outputs))
    opsets = ", ".join(f"{d or 'opset'} {version}" for d, version in model.opsets.items())
    return printable(f"{takes} → {gives}; {opsets}; {len(model.graph.nodes)} nodes", 400)


make_callable(__name__, inspect)
