"""The checkpoints that are measured: made by porter, from a seed, a tensor at a time."""

from __future__ import annotations

from functools import partial
from math import isqrt
from pathlib import Path

import numpy as np

from porter import codecs
from porter.tensors.blocks import Array
from porter.tensors.dtypes import DTYPES
from porter.tensors.lazy import LazyTensor, Shape
from porter.tensors.state_dict import StateDict

LAYERS = 24
SUFFIXES = {"torch": ".pth", "paddle": ".pdparams", "safetensors": ".safetensors"}
_F32 = DTYPES["float32"]


def transformer(nbytes: int, layout: str = "torch") -> dict[str, Shape]:
    """Return names and shapes of a plain transformer whose float32 weights take `nbytes`.

    24 layers of width d with an MLP of 4 d and a vocabulary of 11 d: 310 d² parameters. In
    Paddle's `layout` the weights of Linears are (in, out).
    """
    turn = slice(None, None, -1 if layout == "paddle" else 1)
    d = max(8, isqrt(nbytes // 4 // 310) // 8 * 8)
    shapes: dict[str, Shape] = {"embed.weight": (11 * d, d)}
    for i in range(LAYERS):
        block = f"blocks.{i}"
        for norm in ("norm1", "norm2"):
            shapes |= {f"{block}.{norm}.weight": (d,), f"{block}.{norm}.bias": (d,)}
        linears = {f"attn.{name}": (d, d) for name in ("q", "k", "v", "out")}
        linears |= {"mlp.fc1": (4 * d, d), "mlp.fc2": (d, 4 * d)}
        for name, shape in linears.items():
            shapes |= {f"{block}.{name}.weight": shape[turn], f"{block}.{name}.bias": shape[:1]}
    shapes |= {"norm.weight": (d,), "norm.bias": (d,)}
    shapes |= {"head.weight": (11 * d, d)[turn], "head.bias": (11 * d,)}
    return shapes


def small_tensors(count: int) -> dict[str, Shape]:
    """Return names and shapes of `count` tensors of a few elements: weights and biases."""
    shapes: dict[str, Shape] = {}
    for i in range(count // 2):
        shapes |= {f"layers.{i}.weight": (4, 4), f"layers.{i}.bias": (4,)}
    return shapes


def make(shapes: dict[str, Shape], path: Path, container: str, first: int = 0) -> None:
    """Write a checkpoint of these shapes, filled from seeds, if it is not there yet."""
    if path.exists():
        return
    tensors = {
        name: LazyTensor(_F32, shape, partial(_noise, shape, seed))
        for seed, (name, shape) in enumerate(shapes.items(), first)
    }
    codecs.write(StateDict(tensors), str(path), container, read_back=False, sync=False)


def _noise(shape: Shape, seed: int) -> Array:
    generator = np.random.Generator(np.random.SFC64(seed))
    noise: Array = generator.random(shape, np.float32)
    noise -= 0.5
    return noise


def place(folder: Path, name: str, container: str) -> Path:
    """Return where a checkpoint is kept."""
    return folder / f"{name}{SUFFIXES[container]}"
