"""Pair the tensors of two files: by their values, then by the pairs around them.

Nothing that is paired only by names, shapes or order is called proven.
"""

from __future__ import annotations

from porter.infer.by_likeness import (
    pair_alike,
    pair_fused,
    pair_same_names,
    shapes,
    values,
)
from porter.infer.by_values import pair_parts, pair_siblings, pair_unique
from porter.infer.pairs import Pairs
from porter.infer.tensor_file import TensorFile

_OTHER_VALUES = "by shape and order, the files have other values"
_SAME_VALUES = "other tensors have the same values"
_SAME_NAME = "by name only, the files have other values"


def pair(left: TensorFile, right: TensorFile) -> Pairs:
    """Return all pairs that can be found, the surest first.

    Where most values are the same, a tensor with other values has no partner: shapes are not
    compared.
    """
    pairs = Pairs(left, right)
    pair_unique(pairs)
    pair_parts(pairs)
    pair_siblings(pairs)
    pair_same_names(pairs, values, "")
    pair_alike(pairs, values, _SAME_VALUES)
    pair_siblings(pairs)
    if len(pairs.free_left) > len(left.state) / 2:
        pair_same_names(pairs, shapes, _SAME_NAME)
        pair_alike(pairs, shapes, _OTHER_VALUES)
        pair_fused(pairs)
        pair_siblings(pairs)
        pair_alike(pairs, shapes, _OTHER_VALUES)
        pair_siblings(pairs)
    return pairs
