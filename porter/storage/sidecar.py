"""The record next to an output, `OUTPUT.porter.json`: reading it.

What is in it is in `porter.codecs.record`, how a file is compared with it in
`porter.codecs.check`.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from typing import Any

from porter.errors import InputError, UsageError
from porter.storage.input_file import read_small
from porter.tensors import shared_tensors
from porter.tensors.state_dict import StateDict

SCHEMA = "porter.provenance/2"
EARLIER = "porter.provenance/1"
"""The schema of earlier versions, whose digests are taken in another way."""
SUFFIX = ".porter.json"
WITH_METADATA = ("safetensors", "onnx")
"""Formats that have a place for metadata."""

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
"""An escape that may leave half of a character, which no output could contain."""
_LARGEST_RECORD = 256 << 20


def read_beside(path: str) -> dict[str, Any]:
    """Return the record of a `.porter.json` file; `InputError` when it is something else."""
    record = _json_object(read_small(path, _LARGEST_RECORD), path)
    if record.get("schema") not in (SCHEMA, EARLIER):
        raise InputError("is not a record of provenance that this porter knows", path)
    if not isinstance(record.get("metadata"), dict):
        raise InputError("the record of provenance has no metadata", path)
    return record


def _json_object(text: bytes, path: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as fault:
        raise InputError("the record of provenance is not JSON", path) from fault
    if not isinstance(value, dict):
        raise InputError("the record of provenance is malformed", path)
    return value


def refuse_foreign(path: str) -> None:
    """Raise `UsageError` when the place of a record is taken by a file that is not porter's."""
    if not os.path.lexists(path):
        return
    try:
        read_beside(path)
    except InputError as fault:
        raise UsageError("is where the record goes, and is not porter's", path) from fault


def with_record(state: StateDict) -> StateDict:
    """Return the state dict with the metadata of the record of its file, if there is one.

    Tensors of a `.npz`, which cannot share memory, share it again where the record says so and
    their bytes are still equal.
    """
    origin = state.origin
    if origin is None or origin.format in WITH_METADATA:
        return state
    tensors, notes = dict(state), origin.notes
    try:
        record = read_beside(origin.path + SUFFIX)
        if origin.format == "npz":
            shared = shared_tensors.compact(record.get("shared", record.get("ties", {})))
            notes += shared_tensors.restore(tensors, shared, origin.path)
    except InputError:
        return state
    metadata = {str(key): str(value) for key, value in record["metadata"].items()}
    metadata.update(origin.metadata)
    return StateDict(tensors, replace(origin, metadata=metadata, notes=notes))
