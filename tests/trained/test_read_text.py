"""Trained weights from end to end: PP-OCRv6 out of the ONNX files of the rapidocr wheel.

Batch norms are folded in them and nothing has a name. Recovered, transformers' classes read the
same text from pictures as ONNX Runtime does from the files.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import transformers

import porter
from porter.errors import InputError
from tests.trained import pages

SPEC = importlib.util.find_spec("rapidocr")
assert SPEC is not None, "pip install --no-deps rapidocr"
MODELS = Path(SPEC.submodule_search_locations[0]) / "models"  # type: ignore[index]
LINES = (
    "The quick brown fox jumps over 13 lazy dogs",
    "weights move, outputs agree: 0.9875 = 79/80",
    "PADDLE to PyTorch & back (bit for bit)",
)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BLOCK_EPSILON = 1e-5
"""Of the norms in the recogniser's blocks; the classes of transformers and PaddleX have 1e-6."""


def source(kind: str) -> Path:
    """Return the file of a trained model in the wheel."""
    return MODELS / f"PP-OCRv6_{kind}_small.onnx"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both models, recovered into folders that transformers loads."""
    made = tmp_path_factory.mktemp("trained")
    for kind in ("rec", "det"):
        done = porter.convert(
            f"pp-ocrv6-small-{kind}", source(kind), made / kind, from_="onnx", to="torch:hf",
            fold_batchnorm=True,
        )  # fmt: skip
        assert done.ok
        assert done.weights is not None
        assert any("proven: rebuilt, it computes the same" in n for n in done.origin.notes)
    return made


def scores() -> Any:
    """Return a session of the recogniser that also gives the values before its softmax."""
    model = onnx.load(source("rec"))
    before = model.graph.node[-1].input[0]
    model.graph.output.append(onnx.helper.make_tensor_value_info(before, 1, None))
    return onnxruntime.InferenceSession(model.SerializeToString())


@pytest.fixture(scope="module")
def alphabet() -> list[str]:
    """The characters of the recogniser, from the metadata of its file."""
    session = onnxruntime.InferenceSession(source("rec"))
    text: str = session.get_modelmeta().custom_metadata_map["character"]
    return text.split("\n")


def pictures() -> Iterator[tuple[str, str, np.ndarray]]:
    """Yield (font, text, picture) of each line in each font."""
    for font, how in pages.fonts().items():
        for text in LINES:
            yield font, text, pages.normalised(pages.printed(text, *how))


def recogniser(folder: Path) -> Any:
    """Return transformers' class with the recovered weights; every tensor must be found."""
    model, report = transformers.PPOCRV6SmallRecForTextRecognition.from_pretrained(
        folder / "rec", output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    return model.eval()


class PaddleGate(torch.nn.Module):
    """The hard sigmoid with Paddle's slope, 0.1666667."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x * 0.1666667 + 0.5).clamp(0, 1)


def as_trained(model: Any) -> Any:
    """Let transformers' class compute what PaddleOCR trains: two known differences taken out."""
    for block in model.head.encoder.svtr_block:
        block.layer_norm1.eps = block.layer_norm2.eps = BLOCK_EPSILON
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, torch.nn.Hardsigmoid):
                setattr(module, name, PaddleGate())
    return model


def logits(model: Any, picture: np.ndarray) -> np.ndarray:
    """Return the values before the softmax."""
    found = []
    hook = model.head.head.register_forward_hook(lambda *call: found.append(call[2]))
    with torch.no_grad():
        model(torch.from_numpy(picture).to(model.dtype))
    hook.remove()
    result: np.ndarray = found[0].numpy()
    return result


def error(found: np.ndarray, reference: np.ndarray) -> float:
    """Return the largest difference, relative to the rms."""
    return float(np.abs(found - reference).max() / np.sqrt(np.mean(np.square(reference))))


@pytest.mark.slow
def test_the_recovered_recogniser_reads_the_same_text(folder: Path, alphabet: list[str]) -> None:
    """Strings are those of ONNX Runtime; logits round no more than the file's own.

    Errors are against the class in float64, both known differences taken out.
    """
    session, model = scores(), recogniser(folder)
    theirs, said = [], []
    for font, text, picture in pictures():
        probabilities, values = session.run(None, {"x": picture})
        theirs.append(values)
        said.append(pages.said(probabilities[0], alphabet))
        assert pages.said(logits(model, picture)[0], alphabet) == said[-1]
        assert font != "regular" or said[-1] == text
    same, exact = as_trained(model), as_trained(recogniser(folder)).double()
    for (*_, picture), values, text in zip(pictures(), theirs, said, strict=True):
        reference, found = logits(exact, picture), logits(same, picture)
        assert pages.said(found[0], alphabet) == text
        own = error(values, reference)
        assert own <= 2e-4  # measured: 6e-5 at most
        assert error(found, reference) <= max(4 * own, 2e-5)


@pytest.mark.slow
def test_the_recovered_detector_finds_the_same_lines(folder: Path, alphabet: list[str]) -> None:
    """The map of a page is the file's; the lines in it, cut out, are read."""
    forms = [pages.fonts()[font] for font in ("regular", "oblique", "small")]
    lines = zip(LINES, forms, strict=True)
    page = pages.page([pages.printed(text, *how) for text, how in lines])
    picture = pages.normalised(page, MEAN, STD)
    heat = onnxruntime.InferenceSession(source("det")).run(None, {"x": picture})[0]
    model = transformers.PPOCRV6SmallDetForObjectDetection.from_pretrained(folder / "det").eval()
    with torch.no_grad():
        found = model(torch.from_numpy(picture)).last_hidden_state.numpy()
    assert np.abs(found - heat).max() <= 1e-4  # measured: 2e-6
    boxes = list(pages.rows(found[0, 0]))
    assert boxes == list(pages.rows(heat[0, 0]))
    assert len(boxes) == len(LINES)
    reader = recogniser(folder)
    for (left, top, right, bottom), text in zip(boxes, LINES, strict=True):
        line = page.crop((left - 16, top - 15, right + 16, bottom + 15)).resize(
            ((right - left + 32) * pages.LINE // (bottom - top + 30), pages.LINE)
        )
        assert pages.said(logits(reader, pages.normalised(line))[0], alphabet) == text


@pytest.mark.slow
def test_folded_norms_are_recorded_and_go_to_paddle(folder: Path, tmp_path: Path) -> None:
    """The file says which norms are the identity; PaddleX's naming has the same values."""
    state = porter.open(folder / "rec")
    assert state.origin is not None
    record = state.origin.metadata["porter.recovered"]
    assert "folded batch norms set to the identity: model.backbone.encoder" in record
    assert "epsilon 1e-05, in the architecture 1e-06, as in train" in record
    done = porter.convert(
        "pp-ocrv6-small-rec", folder / "rec", tmp_path / "rec.pdparams", to="paddle:paddlex"
    )
    assert done.ok
    back = porter.open(tmp_path / "rec.pdparams")
    name = "head.encoder.svtr_block.1.mlp.fc1.weight"
    np.testing.assert_array_equal(back[name].read().T, state[name].read())
    assert len(back) == 250


def test_without_being_asked_folded_norms_are_refused(tmp_path: Path) -> None:
    """The refusal names norms and remedy; nothing is written."""
    with pytest.raises(InputError, match=r"33 batch norms are folded .*--fold-batchnorm"):
        porter.convert(
            "pp-ocrv6-small-rec", source("rec"), tmp_path / "out.safetensors", from_="onnx",
            to="torch:hf",
        )  # fmt: skip
    assert not list(tmp_path.iterdir())


def test_predict_reads_the_text(alphabet: list[str], folder: Path, tmp_path: Path) -> None:
    """The dictionary is in the file's metadata, and a folder takes it over; long lines are wide."""
    stated = {"mean": 0.5, "std": 0.5, "channels": "BGR", "padding": "width", "crop": 1.0,
              "interpolation": "bilinear", "antialias": False}  # fmt: skip
    (tmp_path / "how.json").write_text(json.dumps(stated))
    for number, text in enumerate(LINES):
        pages.printed(text, *pages.fonts()["regular"]).save(tmp_path / f"{number}.png")
    found = porter.predict(
        source("rec"), [tmp_path], preprocessing=str(tmp_path / "how.json"), image_size=(48, 320)
    )
    assert [one.text for one in found.texts.values()] == list(LINES)
    assert min(one.probability for one in found.texts.values()) > 0.9
    again = porter.predict(folder / "rec", [tmp_path])  # its graph is run: there is no other class
    assert [one.text for one in again.texts.values()] == list(LINES)
    assert again.architecture == "pp-ocrv6-small-rec"
    config = json.loads((folder / "rec" / "preprocessor_config.json").read_text())
    assert config["character_list"] == ["blank", *alphabet, " "]
