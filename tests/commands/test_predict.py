"""Predictions: the best classes by the model's own preprocessing and labels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import porter
from porter.cli import cli
from porter.errors import InputError, UsageError
from porter.verification.inputs import picture
from porter.zoo.architectures import find

NAME = "pvtv2-b0"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, its labels, two pictures and ONNX files made from it."""
    path = tmp_path_factory.mktemp("predict")
    porter.init(NAME, path / "a.pth", num_classes=10)
    (path / "labels.txt").write_text("\n".join(f"{n} thing {n}" for n in range(10)))
    (path / "pictures").mkdir()
    colours = np.random.default_rng(0)
    for name, size in (("a.png", (6, 8, 3)), ("b.jpg", (9, 5, 3))):
        tiles = colours.integers(0, 255, size, dtype=np.uint8)
        Image.fromarray(tiles.repeat(40, 0).repeat(40, 1)).save(path / "pictures" / name)
    for name, options in (("plain", {}), ("whole", {"with_preprocessing": True,
                          "with_softmax": True, "labels": str(path / "labels.txt")})):  # fmt: skip
        porter.convert(NAME, path / "a.pth", path / f"{name}.onnx", to="onnx", verify=False,
                       onnx={"mean": 0.4, "std": (0.5, 0.4, 0.3), **options})  # fmt: skip
    return path


def test_a_checkpoint_predicts_what_its_model_computes(folder: Path) -> None:
    """The order is that of the probabilities of the loaded model on the prepared picture."""
    import torch

    file = folder / "pictures" / "a.png"
    found = porter.predict(folder / "a.pth", [file], top=10)
    image = picture(file, find(NAME).preprocessing, 224)
    with torch.no_grad():
        scores = porter.load_model(NAME, folder / "a.pth")(torch.from_numpy(image)).softmax(1)
    guesses = found.pictures[str(file)]
    assert [guess.number for guess in guesses] == scores[0].argsort(descending=True).tolist()
    assert sum(guess.probability for guess in guesses) == pytest.approx(1)
    assert guesses[0].label == f"class {guesses[0].number}"
    assert (found.architecture, found.why) == (NAME, "that of whai362/PVT")


def test_an_onnx_file_predicts_as_its_checkpoint(folder: Path) -> None:
    """With or without preprocessing and softmax in the graph, the probabilities are the same."""
    whole = porter.predict(folder / "whole.onnx", [folder / "pictures"])
    plain = porter.predict(folder / "plain.onnx", [folder / "pictures"])
    source = porter.predict(
        folder / "a.pth", [folder / "pictures"], mean=0.4, std=(0.5, 0.4, 0.3),
        labels=str(folder / "labels.txt"),
    )  # fmt: skip
    assert len(source.pictures) == 2
    for file, guesses in source.pictures.items():
        assert [g.label for g in whole.pictures[file]] == [g.label for g in guesses]
        for other in (whole, plain):
            for one, two in zip(other.pictures[file], guesses, strict=True):
                assert one.number == two.number
                assert one.probability == pytest.approx(two.probability, rel=1e-4)
    assert whole.why == "its own metadata"
    assert whole.preprocessing == plain.preprocessing == source.preprocessing
    assert guesses[0].label.startswith("thing")


def test_a_file_without_metadata_needs_the_preprocessing(folder: Path, tmp_path: Path) -> None:
    """A foreign file says what it lacks; with it, the file is run."""
    import onnx

    model = onnx.load(folder / "plain.onnx")
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "foreign.onnx")
    picture = folder / "pictures" / "a.png"
    with pytest.raises(UsageError, match="pass --mean, --std, --crop, --interpolation"):
        porter.predict(tmp_path / "foreign.onnx", [picture])
    config = tmp_path / "preprocessor_config.json"
    config.write_text(json.dumps({
        "image_mean": [0.4, 0.4, 0.4], "image_std": [0.5, 0.4, 0.3], "resample": 3,
        "size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224},
    }))  # fmt: skip
    foreign = porter.predict(tmp_path / "foreign.onnx", [picture], preprocessing=str(config))
    own = porter.predict(folder / "plain.onnx", [picture])
    assert foreign.pictures == own.pictures
    assert foreign.why == "preprocessor_config.json, given"


def test_the_command_prints_the_best_five(folder: Path) -> None:
    """Probability and label, a line each, and the preprocessing with its reason."""
    done = CliRunner().invoke(
        cli, ["predict", str(folder / "whole.onnx"), str(folder / "pictures" / "a.png")]
    )
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert lines[0].endswith("a.png")
    assert all("% " in line and "thing" in line for line in lines[1:6])
    assert lines[6].startswith("preprocessing: shorter side 256 px, bicubic, central 224 px")


def test_what_cannot_be_predicted_is_refused(folder: Path, tmp_path: Path) -> None:
    """No picture, a folder without one, labels of another number."""
    with pytest.raises(UsageError, match="no picture"):
        porter.predict(folder / "a.pth", [])
    with pytest.raises(UsageError, match="contains no picture"):
        porter.predict(folder / "a.pth", [tmp_path])
    two = tmp_path / "two.txt"
    two.write_text("a\nb\n")
    with pytest.raises(UsageError, match="2 labels for 10 classes"):
        porter.predict(
            folder / "whole.onnx", [folder / "pictures"], labels=str(tmp_path / "two.txt")
        )
    with pytest.raises(UsageError, match="std"):
        porter.predict(folder / "a.pth", [folder / "pictures"], std=0.0)
    short = tmp_path / "short.onnx"
    short.write_bytes((folder / "plain.onnx").read_bytes()[:5000])
    with pytest.raises(InputError, match=r"short.onnx: malformed"):
        porter.predict(short, [folder / "pictures"])
