"""The JSON files next to a checkpoint: `config.json` and `preprocessor_config.json` of hubs."""

from __future__ import annotations

import json
import os
from typing import Any

from porter.errors import PorterError
from porter.storage.input_file import read_small
from porter.tensors.state_dict import Origin

CONFIG = "config.json"
PREPROCESSOR = "preprocessor_config.json"
_LARGEST = 16 << 20


def beside(origin: Origin | None, name: str) -> dict[str, Any]:
    """Return the object in the file `name` next to a checkpoint; empty if there is none.

    A file that is no JSON object is left alone: nothing that is read depends on it.
    """
    path = place(origin, name)
    if not path:
        return {}
    try:
        found = json.loads(read_small(path, _LARGEST))
    except (PorterError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def place(origin: Origin | None, name: str) -> str:
    """Return the path of the file `name` next to a checkpoint, empty if there is none."""
    if origin is None or not origin.path:
        return ""
    folder = origin.path if os.path.isdir(origin.path) else os.path.dirname(origin.path)
    path = os.path.join(folder, name)
    return path if os.path.isfile(path) else ""
