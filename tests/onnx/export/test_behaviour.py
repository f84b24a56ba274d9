"""`--behaviour dialect` to ONNX: the graph computes as the code of the source's dialect does."""

from __future__ import annotations

import re
from pathlib import Path

import onnx
import pytest

import porter
from porter.errors import UsageError

NAME, DIALECT = "deit-tiny-distilled-224", "torch:hf-class"
"""transformers' class takes one of two heads; the official code the mean of both."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("behaviour") / "a.safetensors"
    porter.init(NAME, path, to=DIALECT)
    return path


def test_the_graph_computes_as_the_source_does(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proof is on the dialect's model, the other graph fails it, and the weights come back."""
    monkeypatch.setenv("PORTER_CACHE_DIR", str(tmp_path / "cache"))
    path, back = tmp_path / "a.onnx", tmp_path / "b.safetensors"
    outcome = porter.convert(NAME, checkpoint, path, from_=DIALECT, onnx={"behaviour": "dialect"})
    assert outcome.proven
    assert any("it takes the logits of the class token" in note for note in outcome.notes)
    stated = {prop.key: prop.value for prop in onnx.load(path).metadata_props}
    assert stated["porter.behaviour"] == "dialect"
    assert not porter.verify(NAME, checkpoint, path, left_dialect="hf-class").passed
    assert len(list((tmp_path / "cache" / "templates").iterdir())) == 1
    porter.convert(NAME, path, back, from_="onnx", to=DIALECT, verify=False)
    before, after = porter.open(checkpoint).arrays(), porter.open(back).arrays()
    assert {n: a.tobytes() for n, a in before.items()} == {n: a.tobytes() for n, a in after.items()}


def test_the_usual_graph_fails_the_dialects_proof(checkpoint: Path, tmp_path: Path) -> None:
    """So the verdict of the first test can fail."""
    path = tmp_path / "a.onnx"
    assert porter.convert(NAME, checkpoint, path, from_=DIALECT).proven
    found = porter.verify(NAME, checkpoint, path, left_dialect="hf-class", behaviour="dialect")
    assert not found.passed


@pytest.mark.parametrize(
    ("name", "output", "message"),
    [
        (NAME, "b.pth", "behaviour: for --to onnx only"),
        ("pp-ocrv5-server-rec", "b.onnx", "the graph of pp-ocrv5-server-rec is that of"),
    ],
)
def test_where_there_is_no_such_graph_it_is_refused(
    name: str, output: str, message: str, tmp_path: Path
) -> None:
    """Before anything is written."""
    source = tmp_path / ("a.safetensors" if name == NAME else "a.pdparams")
    dialect = DIALECT if name == NAME else "paddle:train"
    porter.init(name, source, to=dialect)
    with pytest.raises(UsageError, match=re.escape(message)):
        porter.convert(
            name, source, tmp_path / output, from_=dialect, onnx={"behaviour": "dialect"}
        )
    assert not (tmp_path / output).exists()
