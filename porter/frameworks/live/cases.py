"""Inputs of live models: the user's, and others that are made from them."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Mapping

import numpy as np

from porter.errors import InputError, printable
from porter.frameworks import exchange
from porter.tensors.blocks import Array

Cases = Mapping[str, Mapping[str, Array]]
GIVEN = "given"
_SIDE = 224
"""Pixels of the picture that is tried where no inputs are given."""


def read_inputs(path: str | os.PathLike[str]) -> dict[str, Array]:
    """Return the named arrays of an `.npz` file, or the one of an `.npy` file, in their order."""
    try:
        loaded = np.load(path, allow_pickle=False)
        named = {"x": loaded} if isinstance(loaded, np.ndarray) else dict(loaded.items())
    except (OSError, ValueError, EOFError, KeyError, NotImplementedError, zipfile.BadZipFile,
            zlib.error) as error:  # fmt: skip
        raise InputError(
            f"is not a .npy or .npz file of plain arrays: {printable(error)}", path
        ) from error
    if not named:
        raise InputError("contains no array", path)
    for name, array in named.items():
        if array.dtype.kind not in "fiub" or "/" in name:
            raise InputError(f"array {printable(name)!r} is not an array of numbers", path)
    return named


def varied(
    inputs: Mapping[str, Array] | None, seed: int = 7, *, others: bool = True
) -> dict[str, dict[str, Array]]:
    """Return the inputs with `others` like them: drawn anew, and three times as large.

    Whole numbers are those of the input in another order, so that they stay indices of what they
    were indices of. Without inputs, two random pictures.
    """
    draw = np.random.default_rng(seed)
    if inputs is None:
        inputs = {"x": draw.standard_normal((2, 3, _SIDE, _SIDE), np.float32)}
    if not others:
        return {GIVEN: dict(inputs)}

    def other(array: Array, scale: float) -> Array:
        if array.dtype.kind != "f" or not array.size:
            mixed: Array = draw.permutation(array.reshape(-1)).reshape(array.shape)
            return mixed
        spread, middle = float(array.std()) * scale or scale, float(array.mean())
        return np.asarray(draw.standard_normal(array.shape) * spread + middle, array.dtype)

    return {
        GIVEN: dict(inputs),
        "drawn anew": {name: other(array, 1.0) for name, array in inputs.items()},
        "larger": {name: other(array, 3.0) for name, array in inputs.items()},
    }


def without_zeros(inputs: Mapping[str, Array]) -> dict[str, Array] | None:
    """Return the inputs with each whole number 0 replaced by another one of its array.

    None where there is none: 0 is the token that models take for padding.
    """
    found = dict(inputs)
    for name, array in inputs.items():
        others = array[array != 0]
        if array.dtype.kind in "iu" and 0 < others.size < array.size:
            found[name] = np.where(array == 0, others[0], array).astype(array.dtype)
    return None if all(found[name] is inputs[name] for name in inputs) else found


def read_cases(path: str) -> dict[str, dict[str, Array]]:
    """Return the inputs of a file that `write_cases` wrote."""
    arrays, about = exchange.load(path)
    return {
        case: {name: arrays[f"{case}/{name}"] for name in names}
        for case, names in about["cases"].items()
    }


def write_cases(path: str, cases: Cases) -> None:
    """Write named inputs, several cases of them, in their order."""
    arrays = {f"{case}/{name}": a for case, given in cases.items() for name, a in given.items()}
    exchange.save(path, arrays, {"cases": {case: list(given) for case, given in cases.items()}})
