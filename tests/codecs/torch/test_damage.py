"""Any checkpoint of torch, any damage: the same bits, or one line."""

from __future__ import annotations

import io
import os
import zipfile

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from porter import codecs
from porter.errors import PorterError
from tests.codecs.mutations import damaged
from tests.codecs.torch.torch_files import (
    BASE,
    COMPLEX,
    LEGACY,
    TORCH_DTYPES,
    bits,
    checkpoint,
    raw,
    rewritten,
    same,
    saved,
)
from tests.systems import MEMORY

SCRATCH = MEMORY / f"porter-torch-{os.getpid()}.pth"


SHAPES = st.lists(st.integers(0, 4), max_size=4).map(tuple)


NAMES = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=12)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    entries=st.dictionaries(
        NAMES, st.tuples(st.sampled_from(list(TORCH_DTYPES)), SHAPES), min_size=1, max_size=6
    ),
    turn=st.booleans(),
    legacy=st.booleans(),
)
def test_any_state_dict_survives_the_round_trip(
    entries: dict[str, tuple[str, tuple[int, ...]]], turn: bool, legacy: bool
) -> None:
    """torch → porter → torch gives every name, dtype, shape and bit back."""
    source = {name: bits(TORCH_DTYPES[d], *shape) for name, (d, shape) in entries.items()}
    if turn:
        source = {
            name: tensor.permute(tuple(reversed(range(tensor.dim()))))
            for name, tensor in source.items()
        }
    state = codecs.read(saved(source, SCRATCH, **(LEGACY if legacy else {})), strip=False)
    assert list(state) == list(source)
    assert all(same(state[name], source[name]) for name in source)
    codecs.write(state, str(SCRATCH.with_suffix(".pt")), "torch", force=True)
    back = torch.load(SCRATCH.with_suffix(".pt"))
    assert list(back) == list(source)
    for name, tensor in source.items():
        assert back[name].dtype == tensor.dtype
        assert back[name].shape == tensor.shape
        assert raw(back[name]) == raw(tensor)


def _seeds() -> list[bytes]:
    seeds = []
    for value in ({"w": BASE, "v": BASE[1], "n": {"a": COMPLEX.conj()}}, checkpoint()):
        for options in ({}, LEGACY):
            buffer = io.BytesIO()
            torch.save(value, buffer, **options)
            seeds.append(buffer.getvalue())
    return seeds


def _try(data: bytes) -> None:
    SCRATCH.write_bytes(data)
    try:
        for tensor in codecs.read(str(SCRATCH)).values():
            for _ in tensor.blocks():
                pass
    except PorterError:
        return


@settings(max_examples=500, deadline=None, derandomize=True)
@given(data=damaged(_seeds()))
def test_damage_never_surprises(data: bytes) -> None:
    """Whatever is done to a checkpoint, it is read or refused, and nothing else."""
    _try(data)


_SEEDS = _seeds()


_PICKLES = [zipfile.ZipFile(io.BytesIO(seed)).read("archive/data.pkl") for seed in _SEEDS[:3:2]]


@settings(max_examples=500, deadline=None, derandomize=True)
@given(data=damaged(_PICKLES))
def test_damage_behind_a_sound_checksum_never_surprises(data: bytes) -> None:
    """A damaged pickle in a sound zip is read or refused, and nothing else."""
    _try(rewritten(_SEEDS[0], lambda name, content: data if name == "data.pkl" else content))
