"""The files through which parent and worker pass arrays: safetensors and a JSON value.

An array that occurs twice (the output of one module is the argument of the next) is stored once.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from porter.errors import InputError, printable
from porter.tensors.blocks import Array

KEY = "porter"
"""Key of the JSON value in the file's metadata; `porter.same` lists repeated arrays."""

_DAMAGED = (SafetensorError, OSError, ValueError, TypeError, KeyError, RecursionError)
"""Errors of reading an untrusted file: an element type that NumPy lacks, a malformed header."""


def save(
    path: str | os.PathLike[str], arrays: Mapping[str, Array], about: Mapping[str, Any]
) -> None:
    """Write arrays and a JSON value to one file."""
    stored: dict[str, Array] = {}
    same: dict[str, str] = {}
    seen: dict[tuple[int, str, tuple[int, ...]], str] = {}
    for name, array in arrays.items():
        # safetensors 0.8.0 writes wrong bytes for arrays that are not C-contiguous
        dense = array if array.flags.c_contiguous else np.array(array, order="C")
        digest = xxhash.xxh3_128_intdigest(dense.reshape(-1).view(np.uint8).data)
        first = seen.setdefault((digest, dense.dtype.str, dense.shape), name)
        if first == name:
            stored[name] = dense
        else:
            same[name] = first
    save_file(stored, path, {KEY: json.dumps(about), f"{KEY}.same": json.dumps(same)})


def load(
    path: str | os.PathLike[str], wanted: Callable[[str], bool] | Collection[str] | None = None
) -> tuple[dict[str, Array], dict[str, Any]]:
    """Return the arrays, all or those wanted, and the JSON value of a file that `save` wrote."""
    if wanted is None:
        choose: Callable[[str], bool] = lambda name: True  # noqa: E731
    else:
        choose = wanted if callable(wanted) else wanted.__contains__
    try:
        with safe_open(path, "numpy") as file:
            same = _value(file, f"{KEY}.same")
            places = {**{name: name for name in file.keys()}, **same}  # noqa: SIM118
            chosen = {name: place for name, place in places.items() if choose(name)}
            read = {place: file.get_tensor(place) for place in set(chosen.values())}
            return {name: read[place] for name, place in chosen.items()}, _value(file, KEY)
    except _DAMAGED as error:
        raise InputError(f"cannot be read as a trace: {printable(error, 300)}", path) from error


def about(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the JSON value of a file, empty if it has none; no array is read."""
    try:
        with safe_open(path, "numpy") as file:
            return _value(file, KEY)
    except _DAMAGED as error:
        raise InputError(f"cannot be read as a trace: {printable(error, 300)}", path) from error


def _value(file: Any, key: str) -> dict[str, Any]:
    found: Any = json.loads((file.metadata() or {}).get(key, "{}"))
    if not isinstance(found, dict):
        raise ValueError("its metadata are not a JSON object")
    return found
