"""The keys of a manifest: their list for `docs/schemas.md`, and `docs/manifest.schema.json`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from porter.fleet.keys import choices, conversions, proofs, stated

WORDS = {"str": "string", "path": "string", "int": "integer", "bool": "boolean", "float": "number"}


def schema() -> dict[str, Any]:
    """Return the JSON Schema of manifests."""
    keys = {**proofs(), **conversions()}
    job = {
        "type": "object",
        "properties": {key: _value(kind) for key, kind in sorted(keys.items())},
        "additionalProperties": {"description": "a variable for braces in other values"},
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "porter.manifest/1",
        "title": "Conversions and proofs, for porter fleet",
        "type": "object",
        "properties": {
            "defaults": {"$ref": "#/$defs/job"},
            "jobs": {
                "type": "array",
                "minItems": 1,
                "items": {"allOf": [{"$ref": "#/$defs/job"}, {"anyOf": _needed()}]},
            },
        },
        "required": ["jobs"],
        "additionalProperties": False,
        "$defs": {"job": job},
    }


def _needed() -> list[Mapping[str, Any]]:
    """Return what makes a job: a source and an output, or two sides; `defaults` may have some."""
    return [{"anyOf": [{"required": [key]} for key in ("input", "output", "left", "right")]}]


def _value(kind: str) -> dict[str, Any]:
    """Return a key's schema: its type, a text with a variable, or a list of either."""
    one = {"anyOf": [_type(kind), {"type": "string", "pattern": r"\{\w+\}"}]}
    return {"anyOf": [*one["anyOf"], {"type": "array", "minItems": 1, "items": one}]}


def _type(kind: str) -> dict[str, Any]:
    parts = kind.split(" | ")
    if len(parts) > 1:
        return {"anyOf": [_type(part) for part in parts]}
    if kind == "Size":
        return {"anyOf": [{"type": "integer"}, {"type": "string", "pattern": r"^\d+x\d+$"}]}
    if kind in WORDS:
        return {"type": WORDS[kind]}
    if kind.startswith("Literal["):
        return {"enum": stated(kind)}
    if kind.startswith("Sequence["):
        return {"type": "array", "items": _type(kind[9:-1])}
    if kind.startswith("Mapping[str, "):
        return {"type": "object", "additionalProperties": _type(kind[13:-1])}
    return {"enum": choices(kind)}
