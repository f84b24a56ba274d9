"""Tensors that a checkpoint's outputs do not show: LayerScale near zero, dead features."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from porter.tensors.blocks import Array
from porter.verification.checks import Blind


def unseen(
    gradients: Mapping[str, Array], values: Mapping[str, Array], rms: float, limit: float
) -> tuple[Blind, ...]:
    """Return the parameters whose loss would move the projected output by less than `limit`.

    `gradients` are those of sum(projection * logits), the projection being standard normal, so
    that the norm of gradient * value is how far the logits move. `rms` is the logits'.
    """
    blind = []
    for name, gradient in gradients.items():
        value = values.get(name)
        if value is None or value.shape != gradient.shape:
            continue
        effect = float(np.linalg.norm(gradient * value)) / rms if rms else 0.0
        if effect < limit:
            blind.append(Blind(name, effect, limit))
    return tuple(blind)
