"""Each option of `--to onnx`, from the command line to ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import porter
from porter.errors import UsageError

NAME, SMALL = "deit-tiny-224", 32
"""At 32 px a template is traced as quickly as it can be."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a seeded checkpoint at 224 px."""
    path = tmp_path_factory.mktemp("options") / "m.pth"
    porter.init(NAME, path)
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a seeded checkpoint at 32 px, of 5 classes."""
    path = tmp_path_factory.mktemp("options") / "m.pth"
    porter.init(NAME, path, image_size=SMALL, num_classes=5)
    return path


def run(path: Path, image: np.ndarray) -> np.ndarray:
    """Return what ONNX Runtime computes, after onnx's checker has passed the file."""
    onnx.checker.check_model(str(path), full_check=True)
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: image})[0]


def noise(batch: int, size: int) -> np.ndarray:
    """Return seeded pictures."""
    return np.random.default_rng(0).standard_normal((batch, 3, size, size), np.float32)


@pytest.mark.slow
def test_the_first_and_the_last_opset_compute_the_same(small: Path, tmp_path: Path) -> None:
    """A model of another image size is traced, and sound and alike at both ends of the range."""
    found = []
    for opset in (11, 23):
        path = tmp_path / f"{opset}.onnx"
        outcome = porter.convert(NAME, small, path, from_="torch", to="onnx", verify=False,
                                 onnx={"opset": opset})  # fmt: skip
        assert (outcome.plan.image_size, outcome.plan.num_classes) == (SMALL, 5)
        assert [entry.version for entry in onnx.load(path).opset_import] == [opset]
        found.append(run(path, noise(3, SMALL)))
    assert found[0].shape == (3, 5)
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)


def test_classes_are_the_checkpoints_or_drawn_anew(checkpoint: Path, tmp_path: Path) -> None:
    """Another number of classes is refused, and with --adapt a new head is made."""
    path, asked = tmp_path / "m.onnx", {"from_": "torch", "to": "onnx", "num_classes": 7}
    with pytest.raises(UsageError, match="--adapt"):
        porter.convert(NAME, checkpoint, path, **asked)
    assert not path.exists()
    porter.convert(NAME, checkpoint, path, adapt=True, verify=False, **asked)
    assert run(path, noise(2, 224)).shape == (2, 7)


@pytest.mark.slow
def test_the_image_size_is_the_checkpoints_or_adapted(checkpoint: Path, tmp_path: Path) -> None:
    """Another size is refused; with --adapt positions are resized, and the model is proven."""
    path, asked = tmp_path / "m.onnx", {"from_": "torch", "to": "onnx", "image_size": SMALL}
    with pytest.raises(UsageError, match="--adapt"):
        porter.convert(NAME, checkpoint, path, **asked)
    adapted = tmp_path / "adapted.pth"
    porter.convert(NAME, checkpoint, adapted, from_="torch", to="torch", image_size=SMALL,
                   adapt=True, verify=False)  # fmt: skip
    porter.convert(NAME, checkpoint, path, adapt=True, verify=False, **asked)
    assert run(path, noise(2, SMALL)).shape == (2, 1000)
    back = tmp_path / "back.pth"
    porter.convert(NAME, path, back, from_="onnx", to="torch", verify=False)
    assert back.read_bytes() == adapted.read_bytes()
