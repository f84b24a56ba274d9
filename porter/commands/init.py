"""Write a seeded checkpoint: weights in which every tensor matters."""

from __future__ import annotations

import os
from typing import Unpack

from porter import __version__, codecs
from porter.commands.options import InitKeywords, checked_options
from porter.mapping.table import CANONICAL
from porter.planning import endpoint
from porter.planning.fit import fit
from porter.storage.atomic_output import Written
from porter.tensors.state_dict import StateDict
from porter.zoo.architectures import Architecture, find
from porter.zoo.image_size import Size


@checked_options(InitKeywords)
def init(
    architecture: str,
    output: str | os.PathLike[str],
    *,
    to: str = "torch",
    seed: int = 0,
    num_classes: int | None = None,
    image_size: Size | None = None,
    force: bool = False,
    **options: Unpack[InitKeywords],
) -> Written:
    """Write a seeded checkpoint of a variant, in which every tensor matters to the output.

    Parameters:
        architecture: Name of the variant, such as "shunted-t" (`porter list` prints them).
        output: Path of the file to write.
        to: Format and naming, `FORMAT[:DIALECT]`.
        seed: Seed of the weights; the same seed gives the same bytes on every machine.
        num_classes: Number of classes; None for the variant's.
        image_size: Image size in pixels; None for the variant's.
        force: Replace an existing output.
        options: `max_shard_size`, `progress`, and how the output is written: `read_back`,
            `sync`, `digests`, `digest` and `record`, as in `porter.convert`.

    Returns a `Written` with the path, the size and the digests of the output.
    Raises `UsageError` or `SystemFault`; nothing is then written.
    """
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
    image_size: Size | None = None,
) -> StateDict:
    """Return the seeded weights of a variant under the names of a dialect."""
    from porter.zoo.seeded import seeded

    state = seeded(variant, seed=seed, num_classes=num_classes, image_size=image_size)
    return StateDict(
        fit(variant, state, CANONICAL, dialect, image_size=image_size).plan.apply(state)
    )
