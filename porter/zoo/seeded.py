"""Seeded checkpoints in which every tensor matters, for demos, tests and proofs.

A fresh initialisation hides mapping errors: with zero biases, unit norms and LayerScale at 1e-5 a
wrong port passes. Here values are drawn by the purpose of their tensor, so that every tensor
affects the output.
"""

from __future__ import annotations

import hashlib
from math import prod

import numpy as np

from porter.mapping.layers import place_of
from porter.mapping.table import Table
from porter.tensors.blocks import Array
from porter.tensors.dtypes import DTYPES
from porter.tensors.lazy import LazyTensor, Shape
from porter.tensors.state_dict import StateDict
from porter.zoo.architectures import Architecture
from porter.zoo.canonical import canonical_tensors
from porter.zoo.image_size import Size


def seeded(
    architecture: Architecture,
    *,
    seed: int = 0,
    num_classes: int | None = None,
    image_size: Size | None = None,
    features: tuple[str, ...] = (),
) -> StateDict:
    """Return a canonical state dict (PyTorch's names), the same on every machine.

    `image_size` is in pixels. Values are generated when they are read; they depend
    only on the seed, a tensor's name and its shape; of tensors that a dialect has as one, on the
    name of that one.
    """
    size = image_size or architecture.image_size
    bound = architecture.skeleton().bind(architecture.symbols(num_classes, size), features)
    computed = architecture.constants(size)
    tensors: dict[str, LazyTensor] = {}
    for name in [*canonical_tensors(architecture, features), *computed]:
        if name in computed:
            tensors[name] = LazyTensor.of(computed[name])
        elif name in bound:
            dtype, shape = bound[name]
            drawn = _shared(architecture.table, name)
            tensors[name] = _tensor(architecture, seed, drawn, dtype, shape)
    return StateDict(tensors)


def _shared(table: Table, name: str) -> str:
    """Return the tensor that a dialect has in the place of this one, too; the same name for none.

    Models of such a dialect hold one tensor under both names.
    """
    for dialect in table.dialects.values():
        for absent in dialect.absent:
            if absent.same is not None and (values := absent.path.match(name)) is not None:
                return absent.same.format(values)
    return name


def _tensor(
    architecture: Architecture, seed: int, name: str, dtype: str, shape: Shape
) -> LazyTensor:
    place = place_of(architecture.table, name)
    assert place is not None, name
    kind, leaf = place[0].kind, place[2]
    chosen = DTYPES[dtype]
    factor = np.float32(architecture.seeded_scale(place[1]))
    return LazyTensor(
        chosen, shape, lambda: (values(seed, name, kind, leaf, shape) * factor).astype(chosen.numpy)
    )


def values(seed: int, name: str, kind: str, leaf: str, shape: Shape) -> Array:
    """Return one tensor's values, float32 except for counters.

    Weights keep the size of their input (variance 1 / fan-in), biases are 0.05 of it, scales
    are around 1, variances above 0.5, bare parameters (tokens, positions, tables) at 0.5,
    bare vectors (LayerScale) around 0.3.
    """
    if leaf == "num_batches_tracked":
        return np.full(shape, 1000 + seed, np.int64)
    drawn = noise(seed, name, shape)
    if leaf == "running_var":
        return np.float32(0.5) + np.abs(drawn)
    if leaf == "running_mean":
        return np.float32(0.1) * drawn
    if leaf == "bias":
        return np.float32(0.05) * drawn
    if kind in ("norm", "batchnorm"):
        return 1 + np.float32(0.1) * drawn
    if leaf == "weight":
        fan_in = shape[0] if kind == "conv_transpose" else prod(shape[1 + (kind == "conv_bank") :])
        return drawn * np.float32(max(fan_in, 1) ** -0.5)
    if len(shape) == 1:
        return np.float32(0.3) * (1 + np.float32(0.3) * drawn)
    return np.float32(0.5) * drawn


def noise(seed: int, name: str, shape: Shape) -> Array:
    """Return standard normal float32 values that depend only on the arguments."""
    words = np.frombuffer(hashlib.sha256(f"{seed}:{name}".encode()).digest(), np.uint32)
    return np.random.Generator(np.random.PCG64(words)).standard_normal(shape, np.float32)
