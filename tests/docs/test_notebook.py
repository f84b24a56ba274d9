"""The notebook runs from nothing to its end in a kernel of its own."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "examples" / "convert_and_verify.ipynb"


def outputs(cell: Any) -> str:
    """Return what a cell shows, as HTML where there is any."""
    data = [one.get("data", {}) for one in cell.get("outputs", ())]
    texts = ["".join(one.get("text", "")) for one in cell.get("outputs", ())]
    shown = [one.get("text/html") or ", ".join([*one, one.get("text/plain", "")]) for one in data]
    return "\n".join([*shown, *texts])


def test_the_notebook_shows_what_it_says(tmp_path: Path) -> None:
    """The right port passes, the faulty one fails with its fault named, the layers are drawn."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [outputs(cell) for cell in notebook.cells if cell.cell_type == "code"]
    _, match, done, verdict, _, faulty, plot, report = shown
    assert "deit-tiny-224" in match
    assert "<table" in done
    assert "passed" in verdict.lower()
    assert "failed" in faulty.lower()
    assert "blocks.{3,7}.attn.proj.weight" in faulty
    assert "transposed" in faulty
    assert "image/png" in plot
    assert "FAIL" in report.upper()
    assert (tmp_path / "faulty.html").exists()


def test_the_notebook_is_stored_with_what_it_shows() -> None:
    """Readers of the repository see results, and no path of the machine that made them."""
    stored = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    code = [cell for cell in stored["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    for output in (one for cell in code for one in cell["outputs"]):
        output.get("data", {}).pop("image/png", None)  # Its letters say nothing.
    shown = json.dumps(code).replace("\\n", "\n")
    assert "deit.pth" in shown
    assert not re.search(r"[\s'\"(=]/\w+/", shown)
