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
from porter.commands.doctor import _EXTRAS, _PACKAGES, Finding, Health

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
    assert missing == {"torch": "pip install 'porter[torch]'", "isal": "pip install 'porter[fast]'"}
    assert health.ok
    assert health.cuda == "unknown: torch is not installed"


def test_a_missing_core_package_is_not_ok() -> None:
    """Without NumPy nothing works."""
    core = Finding("numpy", None, "core", "pip install numpy")
    extra = Finding("torch", None, "load_model", "pip install 'porter[torch]'")
    assert not Health("3.11", "Linux", (core,), "none").ok
    assert Health("3.11", "Linux", (extra,), "none").ok


def test_every_extra_that_is_offered_exists() -> None:
    """A remedy that pip does not know would be no remedy."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(_EXTRAS.values()) <= set(project["optional-dependencies"])
    assert set(_EXTRAS) <= set(_PACKAGES)


def test_the_core_s_requirements_are_all_looked_at() -> None:
    """What is looked at as core is what the package requires."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    required = {line.partition(">")[0] for line in project["dependencies"]}
    core = {package for package, purpose in _PACKAGES.values() if purpose.startswith("core")}
    assert core <= required


def test_no_framework_is_imported() -> None:
    """Asking whether torch is there does not load it here."""
    code = (
        "import sys, porter; porter.doctor()\n"
        "assert not {'torch', 'paddle', 'onnx'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
