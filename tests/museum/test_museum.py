"""Twelve public faults without an error message: the origin's check passes, porter's does not."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "museum.md"
EXHIBITS = (
    "transposed views", "square experts", "names corrupted on save", "a clean loading report",
    "renames that are not reversed", "joined, then sliced", "parallel writers", "square linears",
    "a load that is not strict", "an exporter", "interleaved q, k and v", "a tied weight",
)  # fmt: skip


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What both checks find, made in one process that has torch and Paddle."""
    folder = tmp_path_factory.mktemp("museum")
    run = subprocess.run(
        [sys.executable, "-W", "ignore", Path(__file__).with_name("models.py"), folder],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    text = run.stdout[run.stdout.index("{\n") :].replace(f"{folder}/", "")
    found: dict[str, Any] = json.loads(text)
    return found


def test_every_exhibit_is_shown(results: dict[str, Any]) -> None:
    """The script, this list and the document have the same ones."""
    assert tuple(results) == ("a good port", *EXHIBITS)
    titles = re.findall(r"^## \d+\. (.*)$", DOCUMENT.read_text(), re.MULTILINE)
    assert tuple(title[0].lower() + title[1:] for title in titles) == EXHIBITS


def test_a_good_port_passes(results: dict[str, Any]) -> None:
    """A museum in which everything is a fault would show nothing."""
    assert results["a good port"] == {"origin": True, "status": "passed", "findings": []}


@pytest.mark.parametrize("name", EXHIBITS)
def test_a_silent_fault_is_caught_and_named(results: dict[str, Any], name: str) -> None:
    """The origin's own check is content; porter fails or refuses, and says what to do."""
    found = results[name]
    assert found["origin"] is True
    assert found["status"] in ("failed", "refused")
    assert found["findings"]
    text = _without_numbers(" ".join(DOCUMENT.read_text().split()))
    for finding in found["findings"]:
        assert ": " in finding  # a fault and its remedy
        assert _without_numbers(finding) in text


def _without_numbers(text: str) -> str:
    """Return text without errors of rounding, which are others on another machine."""
    return re.sub(r"\d\.\de-\d+", "…", text)
