"""What is accepted is what the format's own library sees: honest files, and damaged ones."""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from hypothesis import given, settings

from porter import codecs
from porter.errors import PorterError
from porter.tensors.state_dict import StateDict
from tests.badcases import BFLOAT16, Case, collect
from tests.codecs.mutations import damaged
from tests.codecs.paddle.test_paddle_damage import _seeds as paddle_seeds
from tests.codecs.torch.test_damage import _PICKLES, _SEEDS
from tests.codecs.torch.torch_files import rewritten

Seen = dict[str, tuple[str, tuple[int, ...], bytes]]
"""Name: dtype, shape, bytes in C order."""

CASES = [case for case in collect() if not case.rejected and case.name != "torch-ok-name-long"]


def of_torch(tensor: torch.Tensor) -> tuple[str, tuple[int, ...], bytes]:
    """Return what torch says of a tensor."""
    tensor = tensor.detach().resolve_conj().resolve_neg().contiguous()
    data = bytes(tensor.reshape(-1).view(torch.uint8).numpy()) if tensor.numel() else b""
    return str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), data


def of_numpy(array: np.ndarray) -> tuple[str, tuple[int, ...], bytes]:
    """Return what NumPy says of an array."""
    array = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return array.dtype.name, array.shape, array.tobytes()


def of_paddle(tensor: Any) -> tuple[str, tuple[int, ...], bytes]:
    """Return what Paddle says of a tensor, whose NumPy form of bfloat16 is uint16."""
    _, shape, data = of_numpy(tensor.numpy())
    return str(tensor.dtype).removeprefix("paddle."), shape, data


def flat(value: Any, prefix: str = "") -> Seen:
    """Return the tensors in nested dictionaries, keys joined by dots."""
    found: Seen = {}
    if isinstance(value, Mapping):
        for key, part in value.items():
            found |= flat(part, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, torch.Tensor) and value.layout == torch.strided:
        found[prefix] = of_torch(value)
    elif isinstance(value, paddle.Tensor):
        found[prefix] = of_paddle(value)
    elif isinstance(value, np.ndarray) and value.dtype.kind in "fciub":
        found[prefix] = of_numpy(value)
    elif isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], np.ndarray):
        found[prefix] = of_numpy(value[1])
    return found


def seen(state: StateDict) -> Seen:
    """Return what porter says."""
    return {n: (t.dtype.name, t.shape, b"".join(map(bytes, t.blocks()))) for n, t in state.items()}


def by_library(case: Case, path: Path) -> Seen:
    """Return what the library that owns the format finds in an honest file."""
    kind = case.format
    if kind.startswith("torch"):
        return flat(torch.load(path, map_location="cpu", weights_only=False))
    if kind == "paddle":
        return flat(paddle.load(str(path)))
    if kind == "safetensors":
        found = flat(safetensors.torch.load_file(path))
        assert set(safetensors.numpy.safe_open(path, "np").keys()) == set(found)
        return found
    if kind == "npy":
        return {"": of_numpy(np.load(path))}
    with np.load(path) as archive:
        return {name: of_numpy(archive[name]) for name in archive.files}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "case",
    [c for c in CASES if c.format in ("torch-zip", "torch-legacy", "paddle", "npz", "npy",
                                      "safetensors")],
    ids=lambda case: case.name,
)  # fmt: skip
def test_honest_files_are_what_their_library_loads(case: Case, tmp_path: Path) -> None:
    """Names, dtypes, shapes and bytes; what porter leaves behind by name is the library's only."""
    path = case.write(tmp_path)
    if case.name == "st-ok-no-tensors":
        assert not safetensors.torch.load_file(path)
        return
    state = codecs.read(str(path), strip=False)
    found, theirs = seen(state), by_library(case, path)
    if case.name == BFLOAT16:
        theirs = {"w": ("bfloat16", *theirs["w"][1:])}
    assert state.origin is not None
    left = tuple(line.partition(":")[0] for line in state.origin.skipped)
    assert found == {n: t for n, t in theirs.items() if n.partition(".")[0] not in left}


compared = {"torch": 0, "paddle": 0}


def accepted(data: bytes, path: Path) -> Seen | None:
    """Return what porter sees in a file; None when it refuses it."""
    path.write_bytes(data)
    try:
        return seen(codecs.read(str(path), strip=False))
    except PorterError:
        return None


def as_torch_sees_it(data: bytes, folder: Path) -> None:
    """Compare with torch, where both take the file."""
    found = accepted(data, folder / "a.pth")
    if found is None:
        return
    try:
        theirs = flat(torch.load(io.BytesIO(data), weights_only=True))
    except Exception:  # noqa: BLE001 - whatever torch does not take
        return
    compared["torch"] += 1
    assert found == {name: theirs.get(name) for name in found}


@settings(max_examples=500, deadline=None, derandomize=True)
@given(data=damaged(_SEEDS[:2]))
def damaged_torch(folder: Path, data: bytes) -> None:
    """Compare one damaged file."""
    as_torch_sees_it(data, folder)


@settings(max_examples=1500, deadline=None, derandomize=True)
@given(data=damaged(_PICKLES[:1]))
def damaged_pickle(folder: Path, data: bytes) -> None:
    """Compare one whose pickle is damaged and whose checksums are not."""
    as_torch_sees_it(
        rewritten(_SEEDS[0], lambda name, content: data if name == "data.pkl" else content), folder
    )


@settings(max_examples=1500, deadline=None, derandomize=True)
@given(data=damaged(paddle_seeds()))
def damaged_paddle(folder: Path, data: bytes) -> None:
    """Compare one damaged file, slices excepted: Paddle puts them together itself."""
    found = accepted(data, folder / "a.pdparams")
    if found is None or b"UnpackBig" in data:
        return
    try:
        # What `paddle.load` calls; this one in Python, whose memo cannot take all memory.
        theirs = flat(pickle._Unpickler(io.BytesIO(data), encoding="latin1").load())  # type: ignore[attr-defined]
    except Exception:  # noqa: BLE001 - whatever Python does not take
        return
    compared["paddle"] += 1
    for name, (dtype, *rest) in found.items():
        assert [*rest] == [*theirs[name][1:]]
        assert dtype == theirs[name][0] or (dtype, theirs[name][0]) == ("bfloat16", "uint16")


@pytest.mark.filterwarnings("ignore")
def test_damaged_files_are_what_torch_sees(tmp_path: Path) -> None:
    """What porter still accepts of a damaged checkpoint, torch reads so, if it reads it."""
    compared["torch"] = 0
    damaged_torch(tmp_path)
    damaged_pickle(tmp_path)
    assert compared["torch"] > 20, "about 50 of 2,000 are taken by both"


@pytest.mark.filterwarnings("ignore")
def test_damaged_files_are_what_paddle_sees(tmp_path: Path) -> None:
    """What porter still accepts of a damaged pickle, Python's pickle, Paddle's reader, reads so."""
    compared["paddle"] = 0
    damaged_paddle(tmp_path)
    assert compared["paddle"] > 20, "about 50 of 1,500 are taken by both"
