"""Each tutorial is done from nothing to its end: commands, files and Python, as it is written."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, Command, File, run, steps


def do(page: str, folder: Path) -> list[str]:
    """Do a tutorial in a folder; return what its commands print."""
    printed = []
    for step in steps(page):
        if isinstance(step, Command):
            printed.append(run(step).output)
        elif isinstance(step, File):
            (folder / step.name).write_text(step.text, encoding="utf-8")
        else:
            subprocess.run([sys.executable, "-c", step], cwd=folder, check=True, timeout=300)
    return printed


@pytest.fixture
def tutorial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[str]]:
    """Does a tutorial in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda name: do(f"docs/tutorials/{name}.md", tmp_path)


def test_a_training_run_goes_to_paddle_and_back(tutorial: Callable[[str], list[str]]) -> None:
    """The prefix is found; every conversion is proven twice; the tuned weights differ."""
    inspected, converted, adapted, back, diff = tutorial("training")
    assert "model." in inspected
    for output in (converted, adapted, back):
        assert "weights  PASS" in output
        assert "the two sides compute the same" in output
    assert "5 classes" in adapted
    assert "differ" in diff


def test_a_checkpoint_goes_into_production(tutorial: Callable[[str], list[str]]) -> None:
    """Labels are in the file, the half and the small one are smaller, the source comes back."""
    _, exported, predicted, half, small, _, back, diff = tutorial("production")
    assert "the two sides compute the same" in exported
    assert predicted.count("flower") == 5
    assert "the two sides compute the same" in half
    assert Path("half.onnx").stat().st_size < 0.6 * Path("deit.onnx").stat().st_size
    assert Path("small.onnx").stat().st_size < 0.4 * Path("deit.onnx").stat().st_size
    assert "PASSED" in small
    assert "PASS" in back
    assert "equal, bit for bit" in diff


def test_variants_are_proven_in_one_run(tutorial: Callable[[str], list[str]]) -> None:
    """Two proofs, every report, nothing left to resume, errors as before."""
    dry, ran, resumed, again = tutorial("thirty-variants")
    assert "deit-tiny-224" in dry
    assert "2" in ran
    assert json.loads(Path("proofs.badge.json").read_text())["message"].startswith("2")
    assert Path("proofs.xml").read_text().count("<testcase") == 2
    assert "2" in resumed
    assert "was" in Path("proofs2.md").read_text() + again


def test_shards_are_written_by_two_processes(tutorial: Callable[[str], list[str]]) -> None:
    """The index is complete and its digests are those of the files."""
    converted, checked, diff = tutorial("larger-than-a-disk")
    assert "index.json.porter.json" in converted
    assert len(list(Path("out").glob("*.safetensors"))) > 2
    assert "as they were written" in checked or "intact" in checked or "check" in checked
    assert "intact: 152 tensors" in checked
    assert "equal, bit for bit" in diff


def test_every_tutorial_is_done() -> None:
    """A page that is added here has a test."""
    pages = {path.stem for path in (ROOT / "docs/tutorials").glob("*.md")}
    assert pages == {"training", "production", "thirty-variants", "larger-than-a-disk"}
