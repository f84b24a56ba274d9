"""The committed report of a GPU run: it covers everything, and the documentation repeats it."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from porter.verification.tolerance import floor, limit, roundoff
from tests.gpu.recorded import VARIANTS

DOCS = Path(__file__).parents[2] / "docs"
NOT_YET = {"deit3-small-224", "dwnet-tiny", "dy-resnet18", "pvt-tiny", "vit-tiny-linformer-224",
           "pp-lcnet-x0_25-textline-ori", "hgnet-v2-l", "pp-ocrv5-mobile-rec"}  # fmt: skip
"""Variants of families that came after the last run; `docs/reports/README.md` names them."""
PRECISIONS = {"float32": "float32, TF32 off", "tf32": "TF32", "float16": "float16",
              "bfloat16": "bfloat16"}  # fmt: skip


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    """The rows of a run on a CUDA device."""
    found = json.loads((DOCS / "reports" / "gpu.json").read_text())
    assert found["device"].startswith("cuda (")
    assert not found["errors"]
    return list(found["rows"])


def test_every_family_was_run_at_every_precision(rows: list[dict[str, Any]]) -> None:
    """All good ports passed, all faults were caught in float64."""
    ran = [(row["variant"], row["precision"]) for row in rows]
    assert sorted(ran) == sorted(product(set(VARIANTS) - NOT_YET, PRECISIONS))
    assert all(row["passed"] for row in rows)
    for fault in (fault for row in rows for fault in row["faults"]):
        assert fault["caught_in_float64"]
        assert fault["caught"] or not fault["due"]


def test_the_limits_of_the_report_are_those_of_today(rows: list[dict[str, Any]]) -> None:
    """Whoever changes a floor or a factor runs the report again."""
    for row in rows:
        assert row["limit"] == pytest.approx(limit(row["precision"], row["own"]))
        assert row["floor"] == floor(row["precision"])


def test_the_documentation_has_the_figures_of_the_report(rows: list[dict[str, Any]]) -> None:
    """The table of `verification.md`, line by line."""
    text = (DOCS / "verification.md").read_text()
    for precision, name in PRECISIONS.items():
        chosen = [row for row in rows if row["precision"] == precision]
        units = sorted(row["units"] for row in chosen)
        shares = sorted(100 * row["error"] / row["limit"] for row in chosen)
        assert (
            f"| {name} | {floor(precision) / roundoff(precision):.0f}"
            f" | {units[0]:.0f} to {units[-1]:.0f} | {shares[0]:.0f} to {shares[-1]:.0f} % |"
        ) in text
