"""The boxes that a detector finds in a picture: objects with a class, or regions of text.

Both follow the published post-processing: transformers' `post_process_object_detection` for
RT-DETR and PP-DocLayout; that of differentiable binarisation (Liao et al. 2019) for text, with
upright boxes where PaddleOCR turns them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from porter.errors import printable
from porter.tensors.blocks import Array

LEAST = 0.5
"""Probability from which an object is named, as in PaddleX and transformers."""
_INK, _LEAST_TEXT, _GROWTH, _SMALLEST = 0.3, 0.6, 1.5, 3
"""Of text: the least probability of a pixel, of a region, how much a region is enlarged (area times
this over perimeter), and the least side in pixels. `PP-OCRv5_server_det`'s inference.yml."""
_LONGEST, _STEP = 960, 32
"""Pixels of the longer side of a page for a text detector, and what its sides are multiples of."""


class Box(NamedTuple):
    """One object in a picture."""

    number: int
    label: str
    probability: float
    left: int
    top: int
    right: int
    bottom: int
    """Pixels of the picture."""


def objects(
    outputs: Mapping[str, Array], labels: Sequence[str], picture: tuple[int, int]
) -> tuple[Box, ...]:
    """Return the objects of `logits` (1, queries, classes) and `pred_boxes` (1, queries, 4).

    `picture` is its width and height. They are in reading order where the model gives one
    (`order_logits`), else the most probable comes first.
    """
    scores = 1 / (1 + np.exp(-np.asarray(outputs["logits"][0], np.float64)))
    names = labels if len(labels) == scores.shape[1] else _numbered(scores.shape[1])
    best = np.argsort(-scores, axis=None, kind="stable")[: len(scores)]
    best = best[scores.flat[best] >= LEAST]
    queries, classes = np.divmod(best, scores.shape[1])
    if "order_logits" in outputs:
        order = np.argsort(reading_order(outputs["order_logits"][0])[queries], kind="stable")
        queries, classes = queries[order], classes[order]
    found = []
    for query, number in zip(queries, classes, strict=True):
        x, y, width, height = outputs["pred_boxes"][0, query].astype(np.float64)
        corners = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        found.append(_box(int(number), names, float(scores[query, number]), corners, picture))
    return tuple(found)


def reading_order(logits: Array) -> Array:
    """Return the place of each query in the order that pairs of queries vote for.

    The logit of (i, j), i before j, says how likely i is read first; each is compared once.
    """
    first = np.triu(1 / (1 + np.exp(-np.asarray(logits, np.float64))), 1)
    votes = first.sum(0) + np.tril(1 - first.T, -1).sum(0)
    return np.argsort(np.argsort(votes, kind="stable"), kind="stable")


def regions(probabilities: Array, picture: tuple[int, int]) -> tuple[Box, ...]:
    """Return upright boxes around the text in a map (height, width), from top to bottom."""
    height, width = probabilities.shape
    found = []
    for rows, columns in _components(probabilities > _INK):
        top, bottom = int(rows.min()), int(rows.max()) + 1
        left, right = int(columns.min()), int(columns.max()) + 1
        score = float(probabilities[rows, columns].mean())
        if min(bottom - top, right - left) < _SMALLEST or score < _LEAST_TEXT:
            continue
        area = (bottom - top) * (right - left)
        grown = area * _GROWTH / (2 * (bottom - top + right - left))
        corners = ((left - grown) / width, (top - grown) / height,
                   (right + grown) / width, (bottom + grown) / height)  # fmt: skip
        found.append(_box(0, ["text"], score, corners, picture))
    return tuple(sorted(found, key=lambda box: (box.top, box.left)))


def page_size(picture: tuple[int, int]) -> tuple[int, int]:
    """Return height and width of a text detector's input for a picture (width, height)."""
    scale = min(1.0, _LONGEST / max(picture))
    width, height = (max(_STEP, round(side * scale / _STEP) * _STEP) for side in picture)
    return height, width


def _numbered(count: int) -> list[str]:
    return [f"class {number}" for number in range(count)]


def _box(
    number: int,
    names: Sequence[str],
    score: float,
    corners: Sequence[float],
    picture: tuple[int, int],
) -> Box:
    """Return a box of corners in [0, 1], in pixels inside of the picture."""
    sides = (*picture, *picture)
    pixels = [
        min(max(round(place * side), 0), side) for place, side in zip(corners, sides, strict=True)
    ]
    left, top, right, bottom = pixels
    return Box(number, printable(names[number]), score, left, top, right, bottom)


def _components(mask: Array) -> list[tuple[Array, Array]]:
    """Return the rows and columns of the pixels of each region, 8-connected."""
    parents: list[int] = []

    def root(one: int) -> int:
        while parents[one] != one:
            parents[one] = parents[parents[one]]
            one = parents[one]
        return one

    runs: list[tuple[int, int, int]] = []
    above: list[int] = []
    for row, line in enumerate(mask):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], line.astype(np.int8), [0]])))
        here = []
        for start, end in edges.reshape(-1, 2).tolist():
            parents.append(len(runs))
            here.append(len(runs))
            runs.append((row, start, end))
            for other in above:
                if runs[other][1] <= end and start <= runs[other][2]:
                    parents[root(other)] = root(here[-1])
        above = here
    groups: dict[int, list[tuple[int, int, int]]] = {}
    for index, run in enumerate(runs):
        groups.setdefault(root(index), []).append(run)
    return [
        (
            np.concatenate([np.full(end - start, row) for row, start, end in group]),
            np.concatenate([np.arange(start, end) for _, start, end in group]),
        )
        for group in groups.values()
    ]
