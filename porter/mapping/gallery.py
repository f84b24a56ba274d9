"""The gallery: tables for pairs of public packages, and what proved each.

`gallery.json` lists them; next to it are the tables and the names, types and shapes of the tensors
of both models of each pair. `python -m benchmarks.gallery` makes all of them.
"""

from __future__ import annotations

import json
import lzma
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

from porter.errors import UsageError, listed, nearest, printable
from porter.mappings import FOLDER

PREFIX = "gallery/"
"""What the name of an entry begins with on the command line."""
PLACE = FOLDER / "gallery"


class Family(NamedTuple):
    """A table of the gallery, and the run that proved it."""

    name: str
    """Of its file, without the suffix."""
    title: str
    command: str
    """The command that made it."""
    versions: Mapping[str, str]
    """{package: version}."""
    date: str
    difference: float
    """Of the outputs of both models with the same weights: relative rms, the largest of all."""
    limit: float
    precision: str
    models: Mapping[str, Mapping[str, str]]
    """{entry: {dialect: model}}; the table was inferred from the first, and fits all."""


class Differing(NamedTuple):
    """A pair of models that compute differently with the same weights."""

    name: str
    title: str
    models: Mapping[str, str]
    command: str
    versions: Mapping[str, str]
    date: str
    about: str
    """Where they begin to differ."""
    note: str = ""
    """Why, where a person has looked."""


class Side(NamedTuple):
    """The tensors of one model."""

    tensors: Mapping[str, tuple[str, tuple[int, ...]]]
    """{name: (dtype, shape)}."""
    constants: frozenset[str]
    """Those that are not trained."""
    aliases: Mapping[str, str]
    """{second name of a tensor: the first}."""


def _index() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = json.loads((PLACE / "gallery.json").read_text("utf-8"))
    return found


@cache
def families() -> dict[str, Family]:
    """Return the tables by name."""
    return {name: Family(name, **row) for name, row in _index()["tables"].items()}


@cache
def differences() -> dict[str, Differing]:
    """Return the pairs for which no table is proven."""
    return {name: Differing(name, **row) for name, row in _index()["differences"].items()}


@cache
def entries() -> dict[str, Family]:
    """Return the table of each pair, by what is typed for it: `gallery/resnet50`."""
    return {f"{PREFIX}{name}": f for f in families().values() for name in f.models}


def is_entry(name: str) -> bool:
    """Whether an argument names a pair of the gallery."""
    return name.startswith(PREFIX) and not name.endswith(".toml")


def find(name: str) -> tuple[bytes, dict[str, str]]:
    """Return the table's text and the models of an entry; `UsageError` for unknown ones."""
    family = entries().get(name)
    if family is None:
        near = nearest(name, entries())
        hint = f"did you mean {listed(near[:3])}?" if near else "see `porter list --gallery`"
        raise UsageError(f"unknown pair {printable(name)!r}; {hint}")
    data = (PLACE / f"{family.name}.toml").read_bytes()
    return data, dict(family.models[name.removeprefix(PREFIX)])


def skeletons(name: str) -> dict[str, dict[str, Side]]:
    """Return {entry: {dialect: tensors}} of a table."""
    packed = json.loads(lzma.decompress((PLACE / f"{name}.json.xz").read_bytes()))
    return {
        entry: {dialect: _side(side) for dialect, side in sides.items()}
        for entry, sides in packed.items()
    }


def sides(name: str) -> dict[str, Side]:
    """Return {dialect: tensors} of an entry."""
    return skeletons(entries()[name].name)[name.removeprefix(PREFIX)]


def _side(packed: Mapping[str, Any]) -> Side:
    tensors = {name: (dtype, tuple(shape)) for name, (dtype, shape) in packed["tensors"].items()}
    return Side(tensors, frozenset(packed["constants"]), packed["aliases"])
