"""Match the rows of a detector's outputs: near scores change places when they are rounded."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from porter.tensors.blocks import Array

_BY_BOX = ("logits", "pred_boxes", "out_masks")
"""Outputs of a row for each box: (batch, boxes, …)."""
_BY_PAIR = ("order_logits",)
"""Outputs of a number for each pair of boxes: (batch, boxes, boxes)."""


def in_rows_of(reference: Mapping[str, Array], found: Mapping[str, Array]) -> dict[str, Array]:
    """Return outputs with each box in the place of the nearest one of the reference.

    Outputs of other shapes than the reference's are returned as they are.
    """
    keys = ("logits", "pred_boxes")
    if any(k not in found or found[k].shape != reference[k].shape for k in keys):
        return dict(found)
    ours, theirs = (
        np.concatenate([np.asarray(outputs[key], np.float64) for key in keys], -1)
        for outputs in (reference, found)
    )
    places = [_nearest(one, other) for one, other in zip(ours, theirs, strict=True)]
    result = dict(found)
    for name, array in found.items():
        if name in (*_BY_BOX, *_BY_PAIR):
            rows = [row[place] for row, place in zip(array, places, strict=True)]
            if name in _BY_PAIR:
                rows = [row[:, place] for row, place in zip(rows, places, strict=True)]
            result[name] = np.stack(rows)
    return result


def _nearest(reference: Array, found: Array) -> Array:
    """Return for each row of the reference the nearest row that is not taken yet."""
    scale = np.abs(reference).max(0) + 1e-12
    distances = np.abs((reference[:, None] - found[None]) / scale).max(-1)
    places = np.empty(len(reference), np.int64)
    for row in np.argsort(distances.min(1)):
        places[row] = place = int(distances[row].argmin())
        distances[:, place] = np.inf
    return places
