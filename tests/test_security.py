"""The guarantees of `docs/security.md`: each has its test, and reading code can run nothing."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CODECS = ROOT / "porter" / "codecs"
READING = sorted(
    path
    for folder in (CODECS, ROOT / "porter" / "storage", ROOT / "porter" / "tensors")
    for path in folder.rglob("*.py")
    if path.name != "dtypes.py"  # looks up types of ml_dtypes, by names of its own
)
MODULES = {"pickle", "marshal", "shelve", "subprocess", "ctypes", "socket", "runpy", "torch",
           "paddle", "onnx", "importlib", "cloudpickle", "dill"}  # fmt: skip
CALLS = {"eval", "exec", "compile", "__import__", "getattr", "setattr", "globals"}


@pytest.mark.parametrize("path", READING, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_reading_code_can_run_nothing(path: Path) -> None:
    """No codec imports what could execute input, nor calls what looks names up."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            assert not MODULES & {name.name.split(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert (node.module or "").split(".")[0] not in MODULES
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in CALLS, node.lineno
        elif isinstance(node, ast.Attribute):
            assert node.attr not in {"allow_pickle", "literal_eval", "load_module"}, node.lineno


def test_the_readers_of_every_format_are_among_the_code_that_is_checked() -> None:
    """A folder that moved would otherwise be checked no longer, silently."""
    folders = {path.parent.name for path in READING if path.is_relative_to(CODECS)}
    formats = {"torch", "paddle", "numpy", "onnx", "sharded", "pickle", "zip"}
    assert folders == {"codecs", *formats}
    assert len(READING) > 50


def test_every_guarantee_names_tests_that_exist() -> None:
    """Every guarantee is listed with the files that check it."""
    text = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    promises = re.split(r"^\d+\. \*\*", text.split("## Rules")[0], flags=re.MULTILINE)[1:]
    assert len(promises) == 15
    for promise in promises:
        assert "*Checked by*" in promise
        for name in re.findall(r"`((?:tests/)[\w/]+(?:\.py)?)`", promise):
            assert (ROOT / name).exists(), name
