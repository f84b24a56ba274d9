"""What porter has by name: what `porter list` prints and shells complete.

It is in `mappings/families.json`, generated from tables and variants by `make docs`, so that none
of them is read for a list.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from porter.mappings import FOLDER
from porter.zoo import plugins

if TYPE_CHECKING:
    from porter.zoo.architectures import Architecture


def families() -> dict[str, Any]:
    """Return {family: title, dialects, what they are for, variants}; plugins' are read."""
    if plugins.folders():
        from porter.zoo import architectures

        return described(architectures.families())
    found: dict[str, Any] = json.loads((FOLDER / "families.json").read_bytes())
    return found


def described(known: Mapping[str, list[Architecture]]) -> dict[str, Any]:
    """Return families for people and machines."""
    from porter.planning.endpoint import purposes, spellings

    return {
        name: {
            "title": variants[0].title,
            "dialects": spellings(variants[0].table),
            "about": purposes(variants[0].table),
            "variants": {v.name: _variant(v) for v in variants},
        }
        for name, variants in known.items()
    }


def _variant(variant: Architecture) -> dict[str, Any]:
    height, width = variant.sides()
    return {
        "aliases": list(variant.aliases), "parameters": variant.parameters,
        "image_size": height, "image_width": width, "top1": variant.top1,
    }  # fmt: skip
