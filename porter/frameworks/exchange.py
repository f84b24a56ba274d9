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

from porter.codecs import safetensors
from porter.errors import InputError
from porter.storage import atomic_output
from porter.storage.input_file import InputFile
from porter.storage.options import WriteOptions
from porter.tensors.blocks import Array, as_bytes
from porter.tensors.lazy import LazyTensor
from porter.tensors.state_dict import StateDict

KEY = "porter"
"""Key of the JSON value in the metadata; `porter.same` lists repeated arrays."""


ARGUMENTS = "inputs"
"""Name of the only case of a file whose arrays are the arguments of one call."""


def cases(arrays: Mapping[str, Array], about: Mapping[str, Any]) -> dict[str, Array | list[Array]]:
    """Return the cases of a file of inputs: {case: batch}, or one with several arguments.

    `about["arguments"]` lists, in order, the arrays that are the arguments of one call.
    """
    if about.get("arguments"):
        return {ARGUMENTS: [arrays[name] for name in about["arguments"]]}
    return dict(arrays)


def save(
    path: str | os.PathLike[str],
    arrays: Mapping[str, Array],
    about: Mapping[str, Any],
    options: WriteOptions | None = None,
) -> None:
    """Write arrays and a JSON value to one file; without `options`, one of the running command."""
    stored: dict[str, Array] = {}
    same: dict[str, str] = {}
    seen: dict[tuple[int, str, tuple[int, ...]], str] = {}
    for name, array in arrays.items():
        dense = array if array.flags.c_contiguous else np.array(array, order="C")
        digest = xxhash.xxh3_128_intdigest(dense.reshape(-1).view(np.uint8).data)
        first = seen.setdefault((digest, dense.dtype.str, dense.shape), name)
        if first == name:
            stored[name] = dense
        else:
            same[name] = first
    metadata = {KEY: json.dumps(about), f"{KEY}.same": json.dumps(same)}
    temporary = WriteOptions(force=True, sync=False, read_back=False, digests=False)
    atomic_output.publish(
        path, safetensors.pieces(StateDict.of(stored), metadata), options or temporary,
        lock=options is not None,
    )  # fmt: skip


def load(
    path: str | os.PathLike[str], wanted: Callable[[str], bool] | Collection[str] | None = None
) -> tuple[dict[str, Array], dict[str, Any]]:
    """Return the arrays, all or those wanted, and the JSON value of a file that `save` wrote."""
    if wanted is None:
        choose: Callable[[str], bool] = lambda name: True  # noqa: E731
    else:
        choose = wanted if callable(wanted) else wanted.__contains__
    state, metadata = _opened(path)
    same = _value(metadata, f"{KEY}.same", path)
    places = {**{name: name for name in state}, **same}
    chosen = {name: place for name, place in places.items() if choose(name)}
    if lost := [place for place in chosen.values() if place not in state]:
        raise InputError(f"cannot be read as a trace: {lost[0]!r} is missing", path)
    read = {place: _array(state[place]) for place in set(chosen.values())}
    return {name: read[place] for name, place in chosen.items()}, _value(metadata, KEY, path)


def tensors(path: str | os.PathLike[str]) -> dict[str, LazyTensor]:
    """Return the arrays of a file that `save` wrote, to be read when they are needed."""
    state, metadata = _opened(path)
    places = {**{name: name for name in state}, **_value(metadata, f"{KEY}.same", path)}
    return {name: state[place] for name, place in places.items()}


def _array(tensor: LazyTensor) -> Array:
    """Read a tensor into an array that may be written to."""
    array: Array = np.empty(tensor.shape, tensor.dtype.numpy)
    tensor.read_into(as_bytes(array))
    return array


def about(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return only the JSON value of a file, empty if it has none; no array is read."""
    return _value(_opened(path)[1], KEY, path)


def _opened(path: str | os.PathLike[str]) -> tuple[StateDict, Mapping[str, str]]:
    try:
        state = safetensors.read(InputFile(path), strip=False)
    except InputError as error:
        raise InputError(f"cannot be read as a trace: {error.message}", path) from error
    assert state.origin is not None
    return state, state.origin.metadata


def _value(metadata: Mapping[str, str], key: str, path: str | os.PathLike[str]) -> dict[str, Any]:
    try:
        value: Any = json.loads(metadata.get(key, "{}"))
    except (ValueError, RecursionError) as error:
        raise InputError("cannot be read as a trace: its metadata are not JSON", path) from error
    if not isinstance(value, dict):
        raise InputError("cannot be read as a trace: its metadata are not a JSON object", path)
    return value
