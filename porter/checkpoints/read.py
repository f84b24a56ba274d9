"""Read a checkpoint, be it a file or a folder."""

from __future__ import annotations

import os
from dataclasses import replace

from porter import codecs
from porter.checkpoints.folder import find
from porter.checkpoints.placeholders import refuse_placeholders
from porter.codecs.onnx.transposed import straightened
from porter.tensors.state_dict import StateDict


def read(
    given: str,
    *,
    key: str | None = None,
    format: str | None = None,
    strip: bool = True,
    uint16: str = "auto",
) -> StateDict:
    """Return the state dict of a file or folder, its tensors not yet read.

    The parameters are those of `codecs.read`; `format` chooses among the files of a folder.
    Raises `InputError` for what is refused: a folder without weights, and weights that are
    placeholders only.
    """
    place = find(given, format)
    if place.kind == "dcp":
        from porter.checkpoints import dcp

        state = dcp.read(place.path, key=key, strip=strip)
    elif place.kind == "deepspeed":
        from porter.checkpoints import zero

        state = zero.read(place.path, key=key, strip=strip)
    else:
        state = codecs.read(place.path, key=key, format=format, strip=strip, uint16=uint16)
        if state.origin is not None and state.origin.format == "onnx":
            state = straightened(state)
    refuse_placeholders(state)
    if not place.notes:
        return state
    assert state.origin is not None
    origin = replace(state.origin, notes=(*place.notes, *state.origin.notes))
    return StateDict(state, origin)


def detect(given: str) -> str:
    """Return the format of a file or folder: a key of `CODECS`, `dcp` or `deepspeed`."""
    if not os.path.isdir(given) and not os.path.basename(given).startswith("."):
        return codecs.detect(given)
    place = find(given)
    return codecs.detect(place.path) if place.kind == "file" else place.kind
