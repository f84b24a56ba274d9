"""What the output of a conversion says of its origin."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from porter import __version__
from porter.commands.summary import one_way_rows
from porter.errors import printable
from porter.planning.endpoint import Endpoint
from porter.planning.fit import Fitted
from porter.planning.plan import Plan
from porter.remote import address
from porter.tensors.state_dict import Origin
from porter.zoo.image_size import IMAGE_SIZE, shown

if TYPE_CHECKING:
    from porter.commands.convert import Conversion


def options_of(
    wrapper: str,
    dtype: str | None,
    drop: Sequence[str],
    fill: Mapping[str, float] | None,
    seed: int | None,
    behaviour: str,
) -> dict[str, str]:
    """Return the options of the conversion, for the provenance of the output."""
    texts = {
        "source_key": printable(wrapper),
        "dtype": dtype or "",
        "drop": ", ".join(printable(name) for name in drop),
        "fill": ", ".join(f"{printable(name)}={value}" for name, value in (fill or {}).items()),
        "adapt": "" if seed is None else f"seed {seed}",
        "behaviour": "" if behaviour == "canonical" else behaviour,
    }
    return {f"porter.{key}": value for key, value in texts.items() if value}


def metadata_of(outcome: Conversion, fitted: Fitted, right: Endpoint) -> dict[str, str]:
    """Return the provenance that the output carries."""
    table = fitted.architecture.table
    return {
        "format": {"torch": "pt", "paddle": "pd", "flax": "flax"}[
            table.dialect(right.dialect).convention.framework
        ],
        "porter.version": __version__,
        "porter.architecture": fitted.architecture.name,
        **_sizes(outcome.plan),
        "porter.dialect": right.dialect,
        "porter.source": printable(_recorded(outcome.source), 400),
        "porter.source_dialect": outcome.plan.source.dialect.name,
        "porter.table": f"{table.family} xxh3-128:{table.digest}",
        **_one_way(outcome.plan),
        **_recovered(outcome.origin),
    }


def _one_way(plan: Plan) -> dict[str, str]:
    rows = one_way_rows(plan)
    return {"porter.one_way": "; ".join(rows)} if rows else {}


def _recovered(origin: Origin) -> dict[str, str]:
    """Return how weights were found in a graph: folded batch norms do not come back."""
    return {"porter.recovered": "; ".join(origin.recovered)} if origin.recovered else {}


def _sizes(plan: Plan) -> dict[str, str]:
    """Return the classes and image size, which a custom table does not know."""
    if not plan.architecture.module:
        return {}
    return {
        "porter.num_classes": str(plan.num_classes),
        IMAGE_SIZE: shown(plan.image_size),
    }


def _recorded(source: str) -> str:
    """Return the source for the provenance: a whole address, of a path only the name."""
    return source if address.is_url(source) else os.path.basename(source)
