"""Write a seeded checkpoint: weights in which every tensor matters."""

from __future__ import annotations

import os
from typing import Any

from porter import __version__, codecs
from porter.mapping.table import CANONICAL
from porter.planning import endpoint
from porter.planning.fit import fit
from porter.storage.atomic_output import Written
from porter.tensors.state_dict import StateDict
from porter.zoo.architectures import Architecture, find


def init(
    architecture: str,
    output: str | os.PathLike[str],
    *,
    to: str = "torch",
    seed: int = 0,
    num_classes: int | None = None,
    image_size: int | None = None,
    force: bool = False,
    **options: Any,
) -> Written:
    """Write a seeded checkpoint of a variant, in which every tensor matters."""
    variant = find(architecture)
    side = endpoint.parse(to, variant.table)
    container = endpoint.container_for(os.fspath(output), side)
    state = seeded_state(
        variant, side.dialect, seed=seed, num_classes=num_classes, image_size=image_size
    )
    metadata = {
        "porter.version": __version__,
        "porter.architecture": variant.name,
        "porter.dialect": side.dialect,
        "porter.source": f"seeded weights, seed {seed}",
    }
    return codecs.write(
        state, os.fspath(output), container, force=force, metadata=metadata, **options
    )


def seeded_state(
    variant: Architecture,
    dialect: str,
    *,
    seed: int = 0,
    num_classes: int | None = None,
    image_size: int | None = None,
) -> StateDict:
    """Return the seeded weights of a variant under the names of a dialect."""
    from porter.zoo.seeded import seeded

    state = seeded(variant, seed=seed, num_classes=num_classes, image_size=image_size)
    return StateDict(
        fit(variant, state, CANONICAL, dialect, image_size=image_size).plan.apply(state)
    )
