"""What applies to a whole framework: how each kind of layer stores its parameters."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

from porter.mappings import FOLDER


class Leaf(NamedTuple):
    """One parameter of a kind in a framework."""

    name: str
    ops: tuple[str, ...] = ()
    absent: str | None = None
    optional: bool = False
    fill: float | None = None


class Convention(NamedTuple):
    """How one framework stores its layers: {kind: {PyTorch's leaf: Leaf}}."""

    framework: str
    separator: str
    container: str
    kinds: Mapping[str, Mapping[str, Leaf]]


@cache
def conventions() -> Mapping[str, Convention]:
    """Read the conventions of every framework from `conventions.toml`."""
    text = (FOLDER / "conventions.toml").read_text(encoding="utf-8")
    return {name: _convention(name, body) for name, body in tomllib.loads(text).items()}


def _convention(framework: str, body: dict[str, Any]) -> Convention:
    separator, container = body.pop("separator"), body.pop("container")
    kinds: dict[str, Mapping[str, Leaf]] = {
        kind: {leaf: _leaf(value) for leaf, value in leaves.items()}
        for kind, leaves in body.items()
        if not isinstance(leaves, str)
    }
    aliases = {kind: kinds[known] for kind, known in body.items() if isinstance(known, str)}
    return Convention(framework, separator, container, {**kinds, **aliases})


def _leaf(value: str | dict[str, Any]) -> Leaf:
    if isinstance(value, str):
        return Leaf(value)
    return Leaf(**{"name": "", **value, "ops": tuple(value.get("ops", ()))})
