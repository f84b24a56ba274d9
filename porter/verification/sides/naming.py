"""Map arrays between canonical names and those of a dialect."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from porter.mapping.link import Linked
from porter.tensors.blocks import Array
from porter.tensors.lazy import LazyTensor


def canonical(linked: Linked, arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Map arrays by a dialect's names to canonical ones; missing ones are left out."""
    mapped: dict[str, Array] = {}
    for link in linked.links:
        if all(name in arrays for name in link.dialect):
            parts = link.to_canonical([LazyTensor.of(arrays[name]) for name in link.dialect])
            mapped.update(
                {n: np.array(t.read()) for n, t in zip(link.canonical, parts, strict=True)}
            )
    return mapped


def to_framework(linked: Linked, arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Map canonical arrays to a dialect's names; missing ones are left out."""
    mapped: dict[str, Array] = {}
    for link in linked.links:
        if all(name in arrays for name in link.canonical):
            parts = link.to_dialect([LazyTensor.of(arrays[name]) for name in link.canonical])
            mapped.update({n: np.array(t.read()) for n, t in zip(link.dialect, parts, strict=True)})
    return mapped
