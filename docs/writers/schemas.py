"""The JSON Schemas of evaluations and evidence, which contain that of a verdict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def report_schemas(root: Path) -> dict[Path, str]:
    """Return the schemas of evaluations and evidence, with what verdicts have in them."""
    folder = root / "porter" / "schemas"
    verdict = json.loads((root / "porter" / "report" / "verdict.schema.json").read_text())
    evaluation, evidence = (
        json.loads((folder / f"{name}.json").read_text()) for name in ("evaluation", "evidence")
    )
    evaluation["$defs"] = {"side": verdict["$defs"]["side"]}
    row = evidence["properties"]["rows"]["items"]["properties"]
    row["verdict"] = _inner(verdict)
    row["evaluation"] = {**_inner(evaluation), "type": ["object", "null"]}
    evidence["$defs"] = verdict["$defs"]
    both = {"evaluation": evaluation, "evidence": evidence}
    return {folder / f"{n}.json": f"{json.dumps(made, indent=1)}\n" for n, made in both.items()}


def _inner(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema as a part of another."""
    outer = ("$schema", "$id", "title", "$defs")
    return {key: value for key, value in schema.items() if key not in outer}
