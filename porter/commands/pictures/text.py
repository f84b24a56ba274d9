"""The text that a recogniser reads in a line: by its classes at each position, and a dictionary."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import NamedTuple

import numpy as np

from porter.errors import UsageError
from porter.tensors.blocks import Array
from porter.verification.sides.pair import softmax
from porter.zoo.image_size import Size, sides_of
from porter.zoo.preprocessing import Preprocessing

_WIDEST = 3200
"""Pixels; PaddleOCR squeezes lines that would be wider."""


class Text(NamedTuple):
    """What is written in a picture, and the mean probability of its characters."""

    text: str
    probability: float


def read(scores: Array, characters: Sequence[str]) -> Text:
    """Return the text of the scores (positions, classes) of a line, or of its probabilities.

    The best class of each position is taken; one that is repeated counts once, and class 0 is a
    blank between characters.
    """
    if len(characters) != scores.shape[-1]:
        raise UsageError("no dictionary is known: pass --labels FILE, one character a line")
    are_probabilities = scores.min() >= 0 and bool(np.allclose(scores.sum(-1), 1, atol=1e-2))
    found = scores if are_probabilities else softmax(scores)
    best = found.argmax(-1)
    kept = np.flatnonzero((best != 0) & (best != np.concatenate([[-1], best[:-1]])))
    text = "".join(characters[int(best[place])] for place in kept)
    return Text(text, float(found[kept].max(-1).mean()) if len(kept) else 0.0)


def width_of(picture: tuple[int, int], how: Preprocessing, size: Size) -> Size:
    """Return the size of the input for a line (width, height) that is longer than `size`."""
    height, width = sides_of(size)
    if how.padding != "width":
        return size
    needed = ceil(picture[0] * height / picture[1] - 1e-6)
    return height, min(max(width, needed), max(width, _WIDEST))
