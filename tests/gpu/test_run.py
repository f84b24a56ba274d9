"""`run.sh` from wheels, where torch is installed and neither porter, Paddle nor an index is."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
THERE = ("torch", "pytest", "pytest-timeout", "pip", "numpy", "ml_dtypes", "safetensors", "click",
         "rich", "platformdirs", "xxhash")  # fmt: skip


def link(name: str, folder: Path, linked: set[str]) -> None:
    """Link an installed distribution and what it requires into a folder."""
    found = distribution(name)
    linked.add(name)
    for path in {file.parts[0] for file in found.files or () if file.parts[0] != ".."}:
        target = folder / path
        if path != "__pycache__" and not target.exists():
            target.symlink_to(Path(str(found.locate_file(path))))
    for line in found.requires or ():
        needed = re.match(r"[\w.-]+", line)
        assert needed is not None
        if "extra ==" not in line and needed.group() not in linked:
            try:
                link(needed.group(), folder, linked)
            except PackageNotFoundError:
                assert ";" in line, f"{name} needs {line}"  # of another system


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_run_for_a_gpu_machine_goes_to_its_end_on_a_cpu(tmp_path: Path) -> None:
    """From a wheel, without index and network: every step is done, at most eight files are left."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "env"], check=True)
    (packages,) = (tmp_path / "env").glob("lib/python*/site-packages")
    linked: set[str] = set()
    for name in THERE:
        link(name, packages, linked)
    python = tmp_path / "env" / "bin" / "python"
    lacking = "import importlib.util as u; print(u.find_spec('porter'), u.find_spec('paddle'))"
    assert subprocess.check_output([python, "-P", "-c", lacking], text=True) == "None None\n"
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "-w", tmp_path / "wheels", ROOT], check=True)
    nowhere = "http://127.0.0.1:1"
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "PYTHON": str(python),
        **dict.fromkeys(("http_proxy", "https_proxy", "PIP_INDEX_URL"), nowhere),
    }
    options = ["--device", "cpu", "--quick", "--wheels", tmp_path / "wheels"]
    ran = subprocess.run(
        [ROOT / "tests" / "gpu" / "run.sh", tmp_path / "out", *options],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    files = {str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.*")}
    assert files == {
        "gpu.md", "gpu.json", "gpu-good.html", "gpu-faulty.html", "gpu-faulty.xml", "gpu.log",
        "gpu-speed/results.md", "gpu-speed/results.json",
    }  # fmt: skip
    found = json.loads((tmp_path / "out" / "gpu.json").read_text())
    assert {row["precision"] for row in found["rows"]} == {"float32", "float16", "bfloat16"}
    assert "TF32 was left out" in (tmp_path / "out" / "gpu.md").read_text()


def test_a_step_that_fails_does_not_stop_the_next(tmp_path: Path) -> None:
    """Where nothing is installed, every step is tried and fails, and the exit status tells."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "env"], check=True)
    environment = {"PATH": os.environ["PATH"], "PYTHON": str(tmp_path / "env" / "bin" / "python")}
    ran = subprocess.run(
        [ROOT / "tests" / "gpu" / "run.sh", tmp_path / "out", "--wheels", tmp_path],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert ran.returncode == 1
    failed = re.findall("== (.*) FAILED", ran.stdout)
    assert failed == ["install", "porter is the installed one", "reports", "tests",
                      "load benchmark"]  # fmt: skip
