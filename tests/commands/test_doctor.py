"""The doctor says what is installed, what is missing and how to get it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import porter
from porter.commands.doctor import DISTRIBUTION, PACKAGES, Finding, Health

ROOT = Path(__file__).resolve().parents[2]


def test_what_is_here_is_found() -> None:
    """In an environment of developers everything is there, in its own version."""
    health = porter.doctor()
    versions = {f.module: f.version for f in health.findings}
    assert health.ok
    assert versions["numpy"] == importlib.metadata.version("numpy")
    assert versions["torch"] == importlib.metadata.version("torch")
    assert versions["paddle"] is not None
    assert health.python == sys.version.split()[0]


def test_what_is_missing_has_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that is not there is no reason to fail, unless the core needs it."""
    find_spec = importlib.util.find_spec

    def without(name: str) -> object:
        return None if name in ("torch", "isal") else find_spec(name)

    monkeypatch.setattr("importlib.util.find_spec", without)
    health = porter.doctor()
    missing = {f.module: f.remedy for f in health.findings if f.version is None}
    assert missing == {
        "torch": "pip install 'porter-weights[torch]'",
        "isal": "pip install 'porter-weights[fast]'",
    }
    assert health.ok
    assert health.cuda == "unknown: torch is not installed"


def test_a_missing_core_package_is_not_ok() -> None:
    """Without NumPy nothing works; without torch something is left."""
    core = Finding("numpy", None, "arrays", "pip install numpy", core=True)
    extra = Finding("torch", None, "load_model", "pip install torch", core=False)
    assert not Health("3.11", "Linux", (core,), "none").ok
    assert repr(Health("3.11", "Linux", (core,), "none")) == (
        "Health(Python 3.11, core missing numpy, CUDA none)"
    )
    assert Health("3.11", "Linux", (extra,), "none").ok


def test_every_extra_that_is_offered_exists() -> None:
    """pip knows every extra of a remedy."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {p.extra for p in PACKAGES if p.extra} <= set(project["optional-dependencies"])
    assert DISTRIBUTION.startswith("porter-")


def test_the_core_is_what_the_package_requires() -> None:
    """Every requirement of the package is checked as core, and nothing else is."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    required = {line.partition(">")[0] for line in project["dependencies"]}
    core = {p.distribution for p in PACKAGES if p.extra is None}
    assert core == required


def test_no_framework_is_imported() -> None:
    """Asking whether torch is there does not load it here."""
    code = (
        "import sys, porter; porter.doctor()\n"
        "assert not {'torch', 'paddle', 'onnx'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
