"""Every pair of formats: what goes from one to the other and is read again is what was there."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from porter import codecs
from porter.tensors.dtypes import DTYPES
from porter.tensors.state_dict import StateDict

FORMATS = {"torch": ".pth", "paddle": ".pdparams", "safetensors": ".safetensors", "npz": ".npz"}
COMMON = [
    "float64",
    "float32",
    "float16",
    "int64",
    "int32",
    "int16",
    "int8",
    "uint8",
    "bool",
    "complex64",
]
"""What all of the formats hold."""

names = st.text(
    st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="/\\:"),
    min_size=1,
    max_size=20,
).filter(lambda name: name.strip(". ") == name and not name.endswith(".npy"))


@st.composite
def state_dicts(draw: st.DrawFn) -> dict[str, np.ndarray]:
    """Random names, dtypes, shapes (0-d and empty ones too) and bytes."""
    found = {}
    for name in draw(st.lists(names, min_size=1, max_size=5, unique=True)):
        dtype = DTYPES[draw(st.sampled_from(COMMON))]
        shape = tuple(draw(st.lists(st.integers(0, 4), max_size=3)))
        size = int(np.prod(shape))
        limit = 1 if dtype.name == "bool" else 255
        raw = draw(st.lists(st.integers(0, limit), min_size=size * dtype.itemsize,
                            max_size=size * dtype.itemsize))  # fmt: skip
        found[name] = np.array(raw, np.uint8).view(dtype.numpy).reshape(shape)
    return found


@pytest.mark.parametrize("second", FORMATS)
@pytest.mark.parametrize("first", FORMATS)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(arrays=state_dicts())
def test_every_pair_is_exact(first: str, second: str, arrays: dict[str, np.ndarray]) -> None:
    """Names, dtypes, shapes and bytes survive; safetensors alone has its own order."""
    with tempfile.TemporaryDirectory() as folder:
        one, other = Path(folder, f"a{FORMATS[first]}"), Path(folder, f"b{FORMATS[second]}")
        codecs.write(StateDict.of(arrays), str(one), first)
        codecs.write(codecs.read(str(one)), str(other), second)
        found = codecs.read(str(other)).arrays()
    assert set(found) == set(arrays)
    if "safetensors" not in (first, second):
        assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype, name
        assert found[name].shape == array.shape, name
        assert found[name].tobytes() == array.tobytes(), name
