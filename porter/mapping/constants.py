"""Buffers that an architecture computes from its configuration: never weights.

A table names its family's function in `constants`; the function returns every such buffer of a
variant at an image size, under canonical names, bit for bit as the reference model computes them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from porter.errors import TableError
from porter.tensors.blocks import Array

MASKED = -100.0
"""Added by Swin to the score of two tokens that were not neighbours before the shift."""


def constants(function: str, config: Mapping[str, Any], image_size: int) -> dict[str, Array]:
    """Return {canonical name: array} of a variant's constants; empty if the family has none."""
    if not function:
        return {}
    if function not in FUNCTIONS:
        raise TableError(f"unknown constants {function!r}; known: {', '.join(sorted(FUNCTIONS))}")
    return FUNCTIONS[function](config, image_size)


def swin(config: Mapping[str, Any], image_size: int) -> dict[str, Array]:
    """Return Swin's `relative_position_index` (window⁴, int64) and `attn_mask` (windows, w², w²).

    A stage whose map is not larger than the window has one window of the map's size, no shift
    and no mask (as the official code decides from the image size).
    """
    buffers: dict[str, Array] = {}
    resolution = image_size // config.get("patch_size", 4)
    for stage, depth in enumerate(config["depths"]):
        size = resolution // 2**stage
        window = min(size, config["window_size"])
        shift = 0 if size <= config["window_size"] else window // 2
        for block in range(depth):
            place = f"layers.{stage}.blocks.{block}."
            if block % 2 and shift:
                buffers[place + "attn_mask"] = _shift_mask(size, window, shift)
            buffers[place + "attn.relative_position_index"] = _relative_index(window)
    return buffers


def interpret_vit(config: Mapping[str, Any], image_size: int) -> dict[str, Array]:
    """Return Swin's constants, or each ViT block's `relative_position_index`, if it has one.

    ViT's has a class token first: rows of the bias table for class to patch, patch to class and
    class to itself follow those of the offsets.
    """
    relative = config.get("relative", True)
    if "depths" in config:
        found = swin(config, image_size)
        return {name: array for name, array in found.items() if relative or "attn_mask" in name}
    if not relative:
        return {}
    side = image_size // config["patch_size"]
    rows = (2 * side - 1) ** 2
    index = np.pad(_relative_index(side), ((1, 0), (1, 0)))
    index[0, :], index[:, 0], index[0, 0] = rows, rows + 1, rows + 2
    return {f"blocks.{i}.attn.relative_position_index": index for i in range(config["depth"])}


def _relative_index(window: int) -> Array:
    """Return, for each pair of tokens of a window, the row of their offset in the bias table."""
    y, x = np.divmod(np.arange(window * window), window)
    dy = y[:, None] - y[None, :] + window - 1
    dx = x[:, None] - x[None, :] + window - 1
    index: Array = dy * (2 * window - 1) + dx
    return index.astype(np.int64)


def _shift_mask(size: int, window: int, shift: int) -> Array:
    """Return MASKED where two tokens of a shifted window come from different regions, else 0."""
    region = np.repeat([0, 1, 2], [size - window, window - shift, shift])
    labels = 3 * region[:, None] + region[None, :]
    per_side = size // window
    windows = labels.reshape(per_side, window, per_side, window).transpose(0, 2, 1, 3)
    flat = windows.reshape(-1, window * window)
    return np.where(flat[:, None, :] != flat[:, :, None], np.float32(MASKED), np.float32(0))


FUNCTIONS: dict[str, Callable[[Mapping[str, Any], int], dict[str, Array]]] = {
    "swin": swin,
    "interpret_vit": interpret_vit,
}
