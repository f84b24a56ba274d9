"""Build the wheel, install it in a fresh environment, and run it outside the source tree.

    python .ci/wheel.py [--constraint FILE] [WHEEL]

Runs on Linux, macOS and Windows; `make wheel` and CI call it. With WHEEL nothing is built.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Raise `CalledProcessError` when a step fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("wheel", nargs="?", type=Path, metavar="WHEEL")
    parser.add_argument("--constraint", type=Path, metavar="FILE")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="porter-wheel-") as temporary:
        folder = Path(temporary)
        wheel = given.wheel.resolve() if given.wheel else build(folder)
        venv.create(folder / "venv", with_pip=True)
        python = folder / "venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        limits = ["--constraint", str(given.constraint.resolve())] if given.constraint else []
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        run([*pip, *limits, str(wheel), "pytest", "pytest-timeout"], folder)
        shutil.copytree(ROOT / "tests" / "bare", folder / "tests")
        run([str(python.parent / "porter"), "--version"], folder)
        run([str(python), "-m", "pytest", "-p", "no:cacheprovider", "tests"], folder)


def build(folder: Path) -> Path:
    """Return a new wheel, built from a copy: a left-over `build` folder has no part in it."""
    copy = folder / "source"
    ignored = shutil.ignore_patterns(".git", ".venv*", "build", "dist", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, copy, ignore=ignored)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check"]
    run([*pip, "--no-deps", "--wheel-dir", str(folder), str(copy)], folder)
    (wheel,) = folder.glob("*.whl")
    return wheel


def run(command: list[str], folder: Path) -> None:
    """Run a command there, without what the environment adds to Python's path."""
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run(command, cwd=folder, env=clean, check=True)


if __name__ == "__main__":
    main()
