"""The scripts of examples/ do what they say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

import porter
from tests.docs.pages import ROOT


def test_pictures_are_named_without_porter(tmp_path: Path) -> None:
    """The best class is that of `porter.predict`, of pictures taller and wider than the model's."""
    (tmp_path / "names.txt").write_text("\n".join(f"flower {n}" for n in range(7)))
    checkpoint, model = tmp_path / "a.pth", tmp_path / "a.onnx"
    porter.init("deit-tiny-224", checkpoint, num_classes=7)
    onnx = {"labels": tmp_path / "names.txt", "with_preprocessing": True, "with_softmax": True}
    porter.convert(
        "deit-tiny-224", checkpoint, model, from_="torch", to="onnx", verify=False, onnx=onnx
    )
    rng = np.random.default_rng(0)
    paths = []
    for name, shape in (("tall", (40, 30, 3)), ("wide", (30, 50, 3))):
        path = tmp_path / f"{name}.png"
        Image.fromarray(rng.integers(0, 256, shape, np.uint8)).resize((300, 260)).save(path)
        paths.append(str(path))
    run = subprocess.run(
        [sys.executable, str(ROOT / "examples/serve.py"), str(model), *paths],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    printed = run.stdout.split(paths[1])
    assert run.stdout.count("flower") == 10
    for path, text in zip(paths, printed, strict=True):
        (best, *_) = porter.predict(model, [path]).pictures[path]
        assert text.split("%")[1].split("\n")[0].strip() == best.label


def test_the_tests_of_a_port_pass_and_see_a_fault(tmp_path: Path) -> None:
    """Both tests pass, and the report is written."""
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider",
         "--porter-report", str(tmp_path / "port.html"), str(ROOT / "examples/test_port.py")],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "2 passed" in run.stdout, run.stdout
    assert (tmp_path / "port.html").exists()
