"""`docs/schemas.md`: what `--json`, reports and manifests contain, from their JSON Schemas."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from writers import manifest
from writers.markdown import sections, table

HEAD = """\
# Schemas

Generated from the JSON Schemas by `make docs`; do not edit.

Every `--json` and every JSON report begins with `schema`, such as `porter.conversion/1`. The number
changes when a field changes or is removed; fields may be added. The schemas are in the package:
`importlib.resources.files("porter") / "schemas"`."""


def page(root: Path) -> str:
    """Return the page."""
    files = [
        root / "porter" / "report" / "verdict.schema.json",
        *sorted((root / "porter" / "schemas").glob("*.json")),
    ]
    schemas = {path.relative_to(root).as_posix(): json.loads(path.read_text()) for path in files}
    return sections(
        HEAD,
        *(_section(path, schema) for path, schema in schemas.items()),
        "## Mapping tables",
        "A table is TOML. Its schema for editors is"
        " [`mappings/table.schema.json`](../mappings/table.schema.json);"
        " they find it by a first line `#:schema ./table.schema.json`;"
        " `porter table schema` prints it. [The format in words](mapping-format.md).",
        "## Manifests",
        "A manifest of [`porter fleet`](scale.md) is TOML or YAML with `[defaults]` and `[[jobs]]`."
        " A key that is none of these is a variable for braces in other values. Its JSON Schema is"
        " [`manifest.schema.json`](manifest.schema.json).",
        table(("key of a conversion", "type"), _rows(manifest.conversions())),
        "Jobs with `left` and `right` are proofs:",
        table(("key of a proof", "type"), _rows(manifest.proofs())),
    )


def _section(path: str, schema: Mapping[str, Any]) -> str:
    """Return a schema's name, file and outermost fields."""
    required = schema.get("required", ())
    rows = [
        (
            f"`{name}`" + ("" if name in required else " (may be missing)"),
            _type(field, schema),
            field.get("description", ""),
        )
        for name, field in schema["properties"].items()
        if name != "schema"
    ]
    return sections(
        f"## {schema['$id']}",
        f"{schema['title']}. [`{path}`](../{path})",
        table(("field", "type", ""), rows),
    )


def _type(field: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    """Return in words what a field may be."""
    if "$ref" in field:
        return str(field["$ref"]).rpartition("/")[2]
    if "enum" in field:
        return "one of " + ", ".join(f"`{json.dumps(value)}`" for value in field["enum"])
    if "const" in field:
        return f"`{json.dumps(field['const'])}`"
    for word in ("anyOf", "oneOf"):
        if word in field:
            return " or ".join(dict.fromkeys(_type(one, schema) for one in field[word]))
    kinds = field.get("type", "any")
    words = [kinds] if isinstance(kinds, str) else list(kinds)
    inner = _type(field["items"], schema) if isinstance(field.get("items"), dict) else ""
    return " or ".join(f"array of {inner}" if w == "array" and inner else w for w in words)


def _rows(keys: Mapping[str, str]) -> list[tuple[str, str]]:
    return [(f"`{key}`", f"`{kind}`") for key, kind in keys.items()]
