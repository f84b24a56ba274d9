"""The record beside an output, `OUTPUT.porter.json`: found, and told from what is not porter's.

What stands in it, and how a file is held to it, is `porter.codecs.provenance`.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from typing import Any

from porter.errors import InputError, UsageError
from porter.storage.input_file import InputFile
from porter.tensors import shared_tensors
from porter.tensors.state_dict import StateDict

SCHEMA = "porter.provenance/1"
SUFFIX = ".porter.json"
OWN_METADATA = ("safetensors", "onnx")
"""Formats that carry the record themselves."""

_LARGEST_RECORD = 256 << 20


def read_beside(path: str) -> dict[str, Any]:
    """Return the record of a `.porter.json` file; `InputError` when it is something else."""
    with InputFile(path) as file:
        if file.size > _LARGEST_RECORD:
            raise InputError(f"a record of {file.size} bytes; {_LARGEST_RECORD} is the limit", path)
        record = json_object(file.pread(0, file.size), path)
    if record.get("schema") != SCHEMA:
        raise InputError("is no record of provenance that this porter knows", path)
    if not isinstance(record.get("metadata"), dict):
        raise InputError("the record of provenance has no metadata", path)
    return record


def json_object(text: str | bytes, path: str) -> dict[str, Any]:
    """Return a JSON object of a record; `InputError` when it is something else."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as fault:
        raise InputError("the record of provenance is no JSON", path) from fault
    if not isinstance(found, dict):
        raise InputError("the record of provenance makes no sense", path)
    return found


def refuse_foreign(path: str) -> None:
    """Raise `UsageError` when the file beside an output is there and is no record of porter's."""
    if not os.path.lexists(path):
        return
    try:
        read_beside(path)
    except InputError as fault:
        raise UsageError("stands where the provenance goes, and is not porter's", path) from fault


def with_record(state: StateDict) -> StateDict:
    """Return the state dict with the metadata of the record beside its file, if there is one.

    Tensors of a `.npz`, which cannot share, are tied again where the record says so and their
    bytes are still equal.
    """
    origin = state.origin
    if origin is None or origin.format in OWN_METADATA:
        return state
    tensors, notes = dict(state), origin.notes
    try:
        record = read_beside(origin.path + SUFFIX)
        if origin.format == "npz":
            noted = shared_tensors.compact(record.get("ties", {}))
            notes += shared_tensors.restore(tensors, noted, origin.path)
    except InputError:
        return state
    metadata = {str(key): str(value) for key, value in record["metadata"].items()}
    metadata.update(origin.metadata)
    return StateDict(tensors, replace(origin, metadata=metadata, notes=notes))
