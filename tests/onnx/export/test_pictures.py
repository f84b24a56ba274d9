"""Pixels in, probabilities out: the ends of an exported graph, and labels in any form."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import porter
from porter.errors import InputError, UsageError
from porter.onnx.export.metadata import read_labels

NAME = "pvtv2-b0"
NAMES = ["tench", "goldfish, Carassius", "great white shark"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A seeded checkpoint of three classes."""
    path = tmp_path_factory.mktemp("pictures") / "a.pth"
    porter.init(NAME, path, num_classes=3)
    return path


@pytest.mark.parametrize("dtype", [None, "fp16"])
def test_an_export_from_pixels_to_probabilities_is_proven(
    checkpoint: Path, dtype: str | None, tmp_path: Path
) -> None:
    """The verdict compares probabilities on the pixels nearest to noise; the file comes back."""
    import onnxruntime as ort

    target = tmp_path / "a.onnx"
    done = porter.convert(
        NAME, checkpoint, target, to="onnx", dtype=dtype,  # type: ignore[arg-type]
        onnx={"with_preprocessing": True, "with_softmax": True, "opset": 12},
    )  # fmt: skip
    assert done.ok
    assert done.verdict is not None
    assert any("softmax" in note for note in done.verdict.notes)
    assert any(note.startswith("preprocessing: shorter side 256 px") for note in done.notes)
    session = ort.InferenceSession(target)
    (given,), (result,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.type, given.shape[1:]) == ("image", "tensor(uint8)", [224, 224, 3])
    (found,) = session.run(None, {"image": np.full((2, 224, 224, 3), 7, np.uint8)})
    assert result.name == "probabilities"
    np.testing.assert_allclose(found.astype(np.float64).sum(1), 1, atol=2e-3)
    if dtype is None:
        back = porter.convert(NAME, target, tmp_path / "b.pth", from_="onnx", to="torch")
        assert back.ok
        assert porter.diff(checkpoint, tmp_path / "b.pth").equal


def test_pixels_are_rgb_whatever_the_model_takes(tmp_path: Path) -> None:
    """The graph itself gives a model blue first: its file sees in a picture what the other sees."""
    variant, source = "pp-lcnet-x0_25-textline-ori", tmp_path / "a.safetensors"
    porter.init(variant, source, to="torch:hf")
    colours = np.random.default_rng(1).integers(0, 255, (10, 20, 3), np.uint8).repeat(8, 0)
    Image.fromarray(colours.repeat(8, 1)).save(tmp_path / "a.png")
    pixels = {"with_preprocessing": True}
    plain = porter.convert(variant, source, tmp_path / "a.onnx", from_="torch:hf", to="onnx")
    whole = porter.convert(variant, source, tmp_path / "b.onnx", from_="torch:hf", to="onnx",
                           onnx=pixels)  # type: ignore[arg-type] # fmt: skip
    assert plain.ok
    assert whole.ok
    seen = [
        porter.predict(model, [tmp_path / "a.png"], architecture=arch, from_=side, **given)
        for model, arch, side, given in (
            (source, variant, "torch:hf", {}), (tmp_path / "a.onnx", None, None, {}),
            (tmp_path / "b.onnx", None, None, {}), (tmp_path / "a.onnx", None, None,
            {"channels": "RGB"}),
        )
    ]  # fmt: skip
    first, second, third, other = (
        [guess.probability for guess in found.pictures[str(tmp_path / "a.png")]] for found in seen
    )
    assert first == pytest.approx(second, rel=1e-5)
    assert first == pytest.approx(third, rel=1e-4)
    assert first != pytest.approx(other, rel=1e-2)
    assert "channels BGR" in seen[2].preprocessing.described(224)


def test_another_normalisation_fails(checkpoint: Path, tmp_path: Path) -> None:
    """A graph that normalises otherwise than its metadata state does not pass."""
    import onnx
    from onnx import numpy_helper

    porter.convert(NAME, checkpoint, tmp_path / "a.onnx", to="onnx", verify=False,
                   onnx={"with_preprocessing": True})  # fmt: skip
    model = onnx.load(tmp_path / "a.onnx")
    (shift,) = (node for node in model.graph.node if node.output[0] == "image_shift")
    wrong = numpy_helper.to_array(shift.attribute[0].t) + np.float32(0.1)
    shift.attribute[0].t.CopyFrom(numpy_helper.from_array(wrong))
    onnx.save(model, tmp_path / "b.onnx")
    assert porter.verify(NAME, checkpoint, tmp_path / "a.onnx", batch_sizes=[1]).passed
    assert porter.verify(NAME, checkpoint, tmp_path / "b.onnx", batch_sizes=[1]).failed


def test_pixels_and_calibration_exclude_each_other(checkpoint: Path, tmp_path: Path) -> None:
    """Ranges are measured on normalised pictures."""
    with pytest.raises(UsageError, match="leave --with-preprocessing out"):
        porter.convert(NAME, checkpoint, tmp_path / "a.onnx", to="onnx", dtype="int8",
                       onnx={"with_preprocessing": True, "calibrate": tmp_path})  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(NAMES),
        json.dumps(NAMES),
        "\n".join(f"{n} {name}" for n, name in enumerate(NAMES)),
        "\n".join(f"{n} {NAMES[n]}" for n in (2, 0, 1)),
        json.dumps(dict(enumerate(NAMES))),
        json.dumps({"id2label": {"2": NAMES[2], "0": NAMES[0], "1": NAMES[1]}, "x": 1}),
    ],
)
def test_labels_have_any_form(text: str, tmp_path: Path) -> None:
    """Lines, numbered lines as in PaddleClas, a list, an object, transformers' configuration."""
    (tmp_path / "labels").write_text(text)
    assert read_labels(str(tmp_path / "labels"), 3) == NAMES


@pytest.mark.parametrize("text", ['{"0": "a", "2": "b", "1": 3}', '{"0": "a", "3": "b"}', "[1]"])
def test_labels_that_are_incomplete_are_refused(text: str, tmp_path: Path) -> None:
    """A number is missing, or a name is not a text."""
    (tmp_path / "labels").write_text(text)
    with pytest.raises(InputError, match="not a list of texts"):
        read_labels(str(tmp_path / "labels"), 3)
