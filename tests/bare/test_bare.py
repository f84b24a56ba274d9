"""On a machine with neither torch nor paddle nor ONNX: everything but running a model works.

Run by `make bare` in an environment of its own; it fails where a framework is installed.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

FRAMEWORKS = ("torch", "paddle", "onnx", "onnxruntime", "onnxscript")


def porter(*arguments: str, cwd: Path, code: int = 0) -> str:
    """Run the command and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", "from porter.cli import main; main()", *arguments],
        cwd=cwd,
        env={**os.environ, "PORTER_CACHE_DIR": str(cwd / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, (done.stdout, done.stderr)
    return done.stdout + done.stderr


def test_no_framework_is_installed() -> None:
    """The environment is as bare as it says."""
    assert not [name for name in FRAMEWORKS if importlib.util.find_spec(name)]


def test_conversions_work_both_ways(tmp_path: Path) -> None:
    """Paddle to torch, to safetensors and back ends where it began, bit for bit."""
    said = porter("convert", "shunted-t", "--from", "paddle", "--to", "torch", cwd=tmp_path)
    assert "bit-identical when mapped back" in said
    assert "not installed" in said
    porter(
        "convert", "shunted-t", "shunted-t.pth", "-o", "a.safetensors", "--from", "torch",
        "--to", "safetensors", cwd=tmp_path,
    )  # fmt: skip
    porter(
        "convert", "shunted-t", "a.safetensors", "-o", "back.pdparams", "--from", "safetensors",
        "--to", "paddle", cwd=tmp_path,
    )  # fmt: skip
    said = porter("diff", "shunted-t.pdparams", "back.pdparams", cwd=tmp_path)
    assert "equal, bit for bit" in said


def test_onnx_is_written_from_a_packed_template_and_read_back(tmp_path: Path) -> None:
    """The graph is in the package: no framework traces it; what proves it is asked for."""
    porter("init", "shunted-t", "-o", "x.pdparams", "--to", "paddle", cwd=tmp_path)
    said = porter(
        "convert", "shunted-t", "x.pdparams", "-o", "x.onnx", "--from", "paddle", "--to", "onnx",
        "--opset", "13", cwd=tmp_path,
    )  # fmt: skip
    assert "bit-identical when mapped back" in said
    assert "not installed" in said
    assert "not checked: onnx is not installed" in said
    porter(
        "convert", "shunted-t", "x.onnx", "-o", "back.pdparams", "--from", "onnx", "--to",
        "paddle", cwd=tmp_path,
    )  # fmt: skip
    assert (tmp_path / "back.pdparams").read_bytes() == (tmp_path / "x.pdparams").read_bytes()
    found = json.loads(porter("inspect", "x.onnx", "--json", cwd=tmp_path))
    assert found["matches"][0]["architecture"] == "shunted-t"


def test_a_template_that_is_not_packed_asks_for_torch(tmp_path: Path) -> None:
    """Another image size must be traced: exit code 3, and where a template may come from."""
    porter("init", "shunted-t", "-o", "x.pth", cwd=tmp_path)
    said = porter(
        "convert", "shunted-t", "x.pth", "-o", "x.onnx", "--from", "torch", "--to", "onnx",
        "--adapt", "--image-size", "256", cwd=tmp_path, code=3,
    )  # fmt: skip
    assert "needs torch" in said
    assert "export-templates" in said


def test_files_are_inspected(tmp_path: Path) -> None:
    """A checkpoint is recognised without a framework."""
    porter("init", "shunted-t", "-o", "x.pdparams", "--to", "paddle", cwd=tmp_path)
    found = json.loads(porter("inspect", "x.pdparams", "--json", cwd=tmp_path))
    assert found["matches"][0]["architecture"] == "shunted-t"
    assert found["matches"][0]["dialect"] == "paddle"


def test_tables_are_proven(tmp_path: Path) -> None:
    """Tables are checked against the skeletons alone."""
    assert "total and exact, both ways" in porter("table", "check", "shunted", cwd=tmp_path)


def test_what_needs_a_framework_says_so(tmp_path: Path) -> None:
    """Loading a model asks for the package, with exit code 3."""
    porter("init", "shunted-t", "-o", "x.pth", cwd=tmp_path)
    code = "import porter; porter.load_model('shunted-t', 'x.pth')"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert "MissingPackage: this needs torch, which is not installed" in done.stderr
    assert "torch" in porter("doctor", cwd=tmp_path)
