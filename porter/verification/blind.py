"""Tensors that a checkpoint's outputs do not show: LayerScale near zero, dead features."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from porter.tensors.blocks import Array
from porter.verification.checks import Blind

_FUSED = {"qkv": (1, 3), "kv": (0, 2)}
"""{last name of a fused layer: which of how many parts are keys}"""


def unseen(
    gradients: Mapping[str, Array], values: Mapping[str, Array], rms: float, limit: float
) -> tuple[Blind, ...]:
    """Return the parameters whose loss would move the projected output by less than `limit`.

    `gradients` are those of sum(projection * logits), the projection being standard normal, so
    that the norm of gradient * value is how far the logits move. `rms` is the logits'. Of a fused
    bias whose keys' part alone does not move them, that part is returned.
    """
    blind = []
    for name, gradient in gradients.items():
        value = values.get(name)
        if value is None or value.shape != gradient.shape:
            continue
        moved = gradient * value
        effect = _size(moved) / rms if rms else 0.0
        keys = _keys(name, moved)
        if effect < limit:
            blind.append(Blind(name, effect, limit))
        elif keys is not None and _size(keys) / rms < limit:
            blind.append(Blind(name, _size(keys) / rms, limit, part="keys"))
    return tuple(blind)


def _size(values: Array) -> float:
    return float(np.linalg.norm(values))


def _keys(name: str, values: Array) -> Array | None:
    """Return the keys' part of what belongs to a fused bias, `qkv` or `kv`; None for another."""
    module, _, leaf = name.rpartition(".")
    fused = module.rpartition(".")[2].rstrip("0123456789")
    if leaf != "bias" or values.ndim != 1 or fused not in _FUSED:
        return None
    index, count = _FUSED[fused]
    return np.asarray(np.split(values, count)[index]) if len(values) % count == 0 else None
