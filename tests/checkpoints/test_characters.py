"""The dictionaries of recognisers: next to a checkpoint, in its metadata, given by the user."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from porter.checkpoints.characters import Dictionary, characters_of, read_characters
from porter.commands.pictures.text import read, width_of
from porter.errors import InputError, UsageError
from porter.tensors.state_dict import Origin
from porter.zoo.architectures import find

LINES = ["a", "\u3000", "'", "#", "\u2028", "1"]
"""A wide space, a line separator, what YAML quotes."""
WHOLE = ("blank", *LINES, " ")


@pytest.fixture
def origin(tmp_path: Path) -> Origin:
    """A checkpoint in a folder."""
    return Origin(str(tmp_path / "inference.pdiparams"), "paddle-inference")


@pytest.mark.parametrize("quoted", [True, False])
def test_an_inference_model_has_its_dictionary_next_to_it(origin: Origin, quoted: bool) -> None:
    """A blank and a space are added, and a digit without quotes is a character."""
    import yaml

    rows = LINES if quoted else [*LINES[:-1], 1]
    body = {"PostProcess": {"name": "CTCLabelDecode", "character_dict": rows}}
    path = Path(origin.path).with_name("inference.yml")
    path.write_text(yaml.dump(body, allow_unicode=True), encoding="utf-8")
    assert characters_of(origin, 8) == Dictionary(WHOLE, "inference.yml")
    assert read_characters(path, 8).characters == WHOLE
    found = characters_of(origin, 99)
    assert not found.characters
    assert found.why == "inference.yml has 6 characters, not those of 99 classes"


@pytest.mark.parametrize("text", ["a: [", "a: 1", "- 1", "PostProcess: {character_dict: [[]]}",
                                  "[" * 5000, "!!python/object/apply:os.abort []",
                                  "\0"])  # fmt: skip
def test_a_broken_inference_yml_is_named(origin: Origin, text: str) -> None:
    """The conversion goes on without; a file that the user names is refused."""
    path = Path(origin.path).with_name("inference.yml")
    path.write_text(text)
    found = characters_of(origin, 8)
    assert not found.characters
    assert found.why.startswith("inference.yml ")
    assert "\n" not in found.why
    with pytest.raises(InputError):
        read_characters(path, 8)


@pytest.mark.parametrize(
    ("config", "dictionary", "stated"),
    [
        ("config.yml", "ppocr/utils/dict/my.txt", "./ppocr/utils/dict/my.txt"),
        ("../config.yaml", "../ppocr/utils/dict/my.txt", "ppocr/utils/dict/my.txt"),
        ("config.yml", "my.txt", "/other/machine/my.txt"),
    ],
)
def test_a_training_names_its_dictionary(
    config: str, dictionary: str, stated: str, tmp_path: Path
) -> None:
    """A path of the repository it ran in, or the file next to `config.yml`."""
    folder = tmp_path / "output" / "rec"
    folder.mkdir(parents=True)
    origin = Origin(str(folder / "best_accuracy.pdparams"), "paddle")
    (folder / config).write_text(f"Global: {{character_dict_path: {stated}}}")
    found = characters_of(origin, 8)
    name = Path(config).name
    assert found == Dictionary((), f"{name} names the dictionary {stated}, which is not there")
    path = folder / dictionary
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(LINES) + "\n", encoding="utf-8")
    assert characters_of(origin, 8) == Dictionary(WHOLE, f"my.txt, which {name} names")
    path.write_bytes(b"\xff\xfe")
    assert "cannot be read" in characters_of(origin, 8).why


@pytest.mark.parametrize("text", ["a: [", "- 1", "Global: 1", "Global: {character_dict_path: [1]}",
                                  'Global: {character_dict_path: "a\\0b"}'])  # fmt: skip
def test_a_broken_config_of_a_training_is_passed_over(origin: Origin, text: str) -> None:
    """The conversion goes on without characters."""
    Path(origin.path).with_name("config.yml").write_text(text)
    found = characters_of(origin, 8)
    assert not found.characters
    assert "\n" not in found.why


def test_what_transformers_and_rapidocr_state_is_found(origin: Origin) -> None:
    """`character_list` has a blank and a space already; metadata have lines."""
    path = Path(origin.path).with_name("preprocessor_config.json")
    path.write_text(json.dumps({"character_list": list(WHOLE)}))
    assert characters_of(origin, 8) == Dictionary(WHOLE, "preprocessor_config.json")
    onnx = Origin("", "onnx", metadata={"character": "\n".join(LINES)})
    assert characters_of(onnx, 8).characters == WHOLE
    assert characters_of(None, 8) == characters_of(Origin("", "onnx"), 8) == Dictionary()


@pytest.mark.parametrize("ending", ["\n", "\r\n", ""])
def test_a_dictionary_has_a_character_a_line(ending: str, tmp_path: Path) -> None:
    """Lines are taken as they are, a space of any width included."""
    text = "\n".join(LINES) + ending
    if ending == "\r\n":
        text = "\r\n".join(LINES) + ending
    path = tmp_path / "dict.txt"
    path.write_bytes(text.encode())
    assert read_characters(path, 8).characters == WHOLE
    assert read_characters(path, 7).characters == WHOLE[:-1]
    with pytest.raises(UsageError, match="6 characters for 12 classes"):
        read_characters(path, 12)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="cannot be read"):
        read_characters(path, 8)


def test_without_pyyaml_a_note_says_so(origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package is not one of porter's own needs."""
    Path(origin.path).with_name("inference.yml").write_text("a: 1")
    monkeypatch.setitem(sys.modules, "yaml", None)
    assert "pip install pyyaml" in characters_of(origin, 8).why


def test_text_is_the_best_class_of_each_position() -> None:
    """A repeated class counts once, a blank separates; scores may be probabilities or not."""
    characters = ("blank", "h", "e", "l", "o", " ")
    path = [0, 1, 1, 2, 3, 3, 0, 3, 4, 0]
    scores = np.full((len(path), 6), -4.0)
    scores[np.arange(len(path)), path] = 4
    found = read(scores, characters)
    assert found.text == "hello"
    assert found.probability == pytest.approx(1 / (1 + 5 * np.exp(-8)))
    shares = np.full((len(path), 6), 0.05)
    shares[np.arange(len(path)), path] = 0.75
    assert read(shares, characters) == ("hello", 0.75)
    assert read(scores[:1], characters) == ("", 0.0)
    with pytest.raises(UsageError, match="pass --labels"):
        read(scores, ())


def test_a_long_line_has_an_input_of_its_own_width() -> None:
    """As wide as its aspect ratio needs, up to a limit; nothing else is widened."""
    text, page = find("pp-ocrv6-small-rec"), find("slanet")
    assert width_of((100, 48), text.preprocessing, (48, 320)) == (48, 320)
    assert width_of((1000, 96), text.preprocessing, (48, 320)) == (48, 500)
    assert width_of((9600, 48), text.preprocessing, (48, 320)) == (48, 3200)
    assert width_of((1000, 96), page.preprocessing, (488, 488)) == (488, 488)
