"""The places of two live models' weights in a mapping table."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from porter.mapping.reader import load, parse
from porter.mapping.table import CANONICAL
from porter.planning import custom_table
from porter.planning.plan import Plan, plan
from porter.planning.recognise import best_dialect
from porter.planning.sizes import Shapes
from porter.zoo.architectures import Architecture, find


class Named(NamedTuple):
    """A model's tensors, and what decides in which naming they are."""

    shapes: Shapes
    framework: str
    dialect: str | None


class Planned(NamedTuple):
    """Both models' tensors under canonical names."""

    architecture: Architecture
    left: Plan
    right: Plan


def planned(table: str | os.PathLike[str], left: Named, right: Named) -> Planned:
    """Find both namings in a table, a file or that of a variant, and plan from each to the left's.

    `MappingError` lists tensors that are missing, unexpected or misshapen.
    """
    name = os.fspath(table)
    variant = None if custom_table.is_table(name) else find(name)
    loaded = variant.table if variant is not None else load(Path(name))
    dialects = []
    for side in (left, right):
        if variant is not None:
            dialects.append(side.dialect or best_dialect(variant, side.shapes, side.framework))
        else:
            dialects.append(
                custom_table.fitting(loaded, side.shapes, side.dialect, side.framework)[1]
            )
    architecture = variant or custom_table.custom_architecture(loaded, left.shapes, dialects[0])
    return Planned(
        architecture,
        plan(architecture, left.shapes, dialects[0], dialects[0]),
        plan(architecture, right.shapes, dialects[1], dialects[0]),
    )


def without_table(name: str) -> Planned:
    """Return the places of models of which only the outputs are compared: no tensor has one."""
    table = parse('family = "unknown"\n', name)
    architecture = replace(custom_table.custom_architecture(table, {}), name=name)
    nothing = plan(architecture, {}, CANONICAL, CANONICAL)
    return Planned(architecture, nothing, nothing)
