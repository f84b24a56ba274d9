"""Any checkpoint of Paddle, any damage: the same bits, or one line."""

from __future__ import annotations

import collections
import pickle
from typing import Any

import numpy as np
import paddle
from hypothesis import given, settings
from hypothesis import strategies as st

from porter import codecs
from porter.codecs.paddle import reading as codec
from porter.errors import PorterError
from porter.tensors.state_dict import StateDict
from tests.codecs.mutations import damaged
from tests.codecs.paddle.paddle_files import (
    PADDLE_DTYPES,
    SCRATCH,
    _evaluated,
    bits,
    same,
    sliced,
)

SHAPES = st.lists(st.integers(0, 4), max_size=4).map(tuple)


NAMES = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=12)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    entries=st.dictionaries(
        NAMES, st.tuples(st.sampled_from(PADDLE_DTYPES), SHAPES), min_size=1, max_size=6
    )
)
def test_any_state_dict_survives_the_round_trip(entries: dict[str, Any]) -> None:
    """porter → Paddle → porter gives every name, dtype, shape and bit back."""
    source = {name: bits(dtype.numpy, *shape) for name, (dtype, shape) in entries.items()}
    codecs.write(StateDict.of(source), str(SCRATCH), "paddle", force=True)
    state = codecs.read(str(SCRATCH), strip=False)
    assert list(state) == list(source)
    assert all(same(state[name], array) for name, array in source.items())
    paddle.save(paddle.load(str(SCRATCH)), str(SCRATCH))
    back = codecs.read(str(SCRATCH), strip=False)
    assert all(same(back[name], array) for name, array in source.items())


def _seeds() -> list[bytes]:
    values = [
        {"w": np.arange(6, dtype=np.float32).reshape(2, 3), codec.NAMES: {"w": "w_0"}},
        {"model": {"w": ("w_0", np.ones(300))}, "epoch": 1, "args": collections.Counter("ab")},
        {"w": _evaluated("data", {"data": np.ones(2)})},
        sliced(),
    ]
    return [pickle.dumps(value, protocol) for value in values for protocol in (2, 4, 5)]


@settings(max_examples=1000, deadline=None, derandomize=True)
@given(data=damaged(_seeds()))
def test_damage_never_surprises(data: bytes) -> None:
    """Whatever is done to a file, it is read or refused, and nothing else."""
    SCRATCH.write_bytes(data)
    try:
        for tensor in codecs.read(str(SCRATCH)).values():
            for _ in tensor.blocks():
                pass
    except PorterError:
        return
