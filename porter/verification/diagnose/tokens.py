"""Faults between modules: position of the class token, missing position embedding."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from porter.frameworks import exchange
from porter.tensors.blocks import Array
from porter.verification import tolerance
from porter.verification.compare import compare
from porter.verification.diagnose.finding import WHOLE, Finding


def token_order(
    place: str, left_calls: str, right_calls: str, positions: Array | None
) -> Finding | None:
    """Explain why the first module that differs has other tokens as its argument.

    `positions` is the position embedding, (1, N, C), where the model has one.
    """
    one, other = (_argument(path, place) for path in (left_calls, right_calls))
    if one is None or other is None or one.shape != other.shape or one.ndim not in (2, 3):
        return None
    before = compare(other, one).error
    for what, remedy, guess in _guesses(one, positions):
        after = compare(other, guess).error
        if after <= max(tolerance.limit_exact(0.0), 1e-3 * before):
            return Finding(WHOLE, what, remedy, before, after)
    return None


def _argument(path: str, place: str) -> Array | None:
    arguments = exchange.about(path)["calls"].get(place)
    name = arguments[0].get("array") if arguments else None
    return exchange.load(path, {name})[0][name].astype(np.float64) if name else None


def _guesses(tokens: Array, positions: Array | None) -> Iterator[tuple[str, str, Array]]:
    """Yield (fault, remedy, tokens with that fault)."""
    if tokens.ndim != 3:
        return
    fits = positions is not None and positions.shape[1:] == tokens.shape[1:]
    embedding = positions.astype(np.float64) if fits and positions is not None else None
    plain = tokens if embedding is None else tokens - embedding
    last = "has its class token last, the reference first"
    first = "put the class token before the patches"
    for shift in (1, 2):
        which = last if shift == 1 else "has its class and distillation tokens last"
        yield which, first, np.roll(tokens, -shift, axis=1)
        if embedding is not None:
            yield which, first, np.roll(plain, -shift, axis=1) + embedding
    swapped = np.concatenate([plain[:, 1:2], plain[:, :1], plain[:, 2:]], axis=1)
    what = "has its first two tokens swapped"
    yield what, "put the class token first", swapped + (0 if embedding is None else embedding)
    if embedding is not None:
        yield "does not add the position embedding", "add pos_embed to the tokens", plain
        moved = "adds the position embedding of each token to the next"
        yield moved, "line pos_embed up", plain + np.roll(embedding, 1, axis=1)
