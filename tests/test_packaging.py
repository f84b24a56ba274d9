"""What pip, the package index and other machines see of the project."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
SETTINGS: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT: dict[str, Any] = SETTINGS["project"]
DISTRIBUTION = "porter-weights"
TEXTS = ("porter", "docs", "mappings", "reference_models", "benchmarks", ".github")
OTHERS_PACKAGE = re.compile(r"pip[^\n`]* install\b[^\n`&|;]*[ '\"]porter(?![\w.-])|[ '\"]porter\[")
"""`porter` on the index is another project: `pip install porter`, `porter[torch]`."""


@pytest.fixture(scope="module")
def setup_py() -> ModuleType:
    """The module `setup.py`, imported without running it."""
    spec = importlib.util.spec_from_file_location("porter_setup", ROOT / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_nothing_tells_to_install_the_other_porter() -> None:
    """Messages, documents and workflows name `porter-weights`, never `porter`."""
    for bad in ("pip install porter", "python3 -m pip install 'porter[torch]'", '"porter[all]"'):
        assert OTHERS_PACKAGE.search(bad), bad
    for good in ("pip install 'porter-weights[torch]'", "pip install .", "porter convert [ARCH]"):
        assert not OTHERS_PACKAGE.search(good), good
    files = [path for name in TEXTS for path in (ROOT / name).rglob("*") if path.is_file()]
    files += [path for path in ROOT.iterdir() if path.is_file()]
    texts = [f for f in files if f.suffix in (".py", ".md", ".toml", ".yml", ".txt", "")]
    assert len(texts) > 200
    found = {
        str(path.relative_to(ROOT)): match[0]
        for path in texts
        if (match := OTHERS_PACKAGE.search(path.read_text(encoding="utf-8", errors="replace")))
    }
    assert found == {}


def test_extras_refer_to_the_distribution() -> None:
    """An extra that contains others names them as this distribution's, and they exist."""
    assert PROJECT["name"] == DISTRIBUTION
    extras = PROJECT["optional-dependencies"]
    for requirements in extras.values():
        for requirement in requirements:
            name, _, inner = requirement.rstrip("]").partition("[")
            if name.startswith("porter"):
                assert name == DISTRIBUTION
                assert set(inner.split(",")) <= set(extras)


def test_constraints_cover_every_dependency() -> None:
    """What `make` and `make lowest` install is pinned: all, and the core's lowest versions."""
    pinned = _pins("constraints.txt")
    extras = [r for some in PROJECT["optional-dependencies"].values() for r in some]
    wanted = {_name(r) for r in (*PROJECT["dependencies"], *extras)} - {DISTRIBUTION, "pillow"}
    assert wanted <= set(pinned)
    lowest = _pins("constraints-lowest.txt")
    for requirement in PROJECT["dependencies"]:
        name, _, version = requirement.partition(">=")
        assert lowest[_name(name)].startswith(version), requirement
    assert set(lowest) == {_name(r) for r in PROJECT["dependencies"]}


def _pins(name: str) -> dict[str, str]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {_name(package): version for package, version in pairs}


def _name(requirement: str) -> str:
    return re.split(r"[\[<>=; ]", requirement)[0].lower().replace("_", "-")


def test_every_python_of_the_classifiers_is_tested() -> None:
    """The matrix of CI runs what the classifiers promise, on three systems."""
    stated = set(re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"])))
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    matrix = workflow["jobs"]["systems"]["strategy"]["matrix"]
    assert set(matrix["python"]) == stated
    assert {system.partition("-")[0] for system in matrix["os"]} == {"ubuntu", "macos", "windows"}
    assert PROJECT["requires-python"] == f">={min(stated, key=lambda v: int(v[2:]))}"


def test_links_of_the_readme_work_on_the_index(setup_py: ModuleType) -> None:
    """Relative links and pictures become addresses of the released version; others stay."""
    text = "![a](b.png) [c](docs/d.md#e) [f](https://g) [h](#i)"
    assert setup_py.absolute(text, "v1") == (
        "![a](https://raw.githubusercontent.com/porter-weights/porter/v1/b.png)"
        " [c](https://github.com/porter-weights/porter/blob/v1/docs/d.md#e) [f](https://g) [h](#i)"
    )
    readme = setup_py.absolute((ROOT / "README.md").read_text(encoding="utf-8"), "v1")
    targets = re.findall(r"\]\(([^)\s]+)\)", readme)
    assert len(targets) > 10
    assert all(re.match(r"https?:|#", target) for target in targets)


@pytest.mark.slow
def test_the_source_distribution_is_complete(tmp_path: Path) -> None:
    """It has every file that the repository has: tests, tables, models, documents, workflows."""
    code = f"from setuptools.build_meta import build_sdist; build_sdist({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)
    (archive,) = tmp_path.glob("porter_weights-*.tar.gz")
    with tarfile.open(archive) as tar:
        packed = {name.partition("/")[2] for name in tar.getnames()}
        readme = tar.extractfile(f"{archive.name.removesuffix('.tar.gz')}/PKG-INFO")
        assert readme is not None
        assert b"porter/blob/v" in readme.read()
    folders = (*TEXTS, "tests", ".ci")
    expected = {
        path.relative_to(ROOT).as_posix()
        for folder in folders
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    expected |= {"Makefile", "README.md", "action.yml", "constraints.txt", "SECURITY.md"}
    assert len(expected) > 500
    assert expected - packed == set()
