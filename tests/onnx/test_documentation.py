"""Every command in docs/onnx.md runs, on the smallest variant of its family."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import porter
from porter.cli import cli
from tests.codecs.paddle.programs import save

DOCUMENT = Path(__file__).parents[2] / "docs" / "onnx.md"
VIT, DEIT = "vit-tiny-p16-224", "deit-tiny-224"
SMALLER = {
    "vit-base-p16-224": VIT, "deit-base-224": DEIT, "shunted-t": VIT, "ARCH": VIT,
    "checkpoint": "a.pdparams", "256": "32", "inference.pdmodel": "inference.json",
}  # fmt: skip
"""Words of the document, and what they are here."""
PADDLE = f"""
from porter.frameworks.models import build
from porter.zoo.architectures import find
model = build(find("{VIT}"), "paddle")
"""


def commands() -> list[str]:
    """Return the commands with arguments, in lines of their own or within a sentence."""
    text = DOCUMENT.read_text("utf-8")
    return re.findall(r"^    (porter .+)$|`(porter [a-z-]+ [^`]+)`", text, re.M)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the commands read."""
    made = tmp_path_factory.mktemp("onnx")
    porter.init(VIT, made / "a.pdparams", to="paddle")
    porter.init(DEIT, made / "a.pth")
    (made / "PICTURES").mkdir()
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 255, (40, 50, 3), np.uint8)
        Image.fromarray(pixels).save(made / "PICTURES" / f"{number}.jpg")
    Image.fromarray(pixels).save(made / "cat.jpg")
    save(made, pir=True, build=PADDLE, shape="[None, 3, 224, 224]", fill=False)
    return made


def test_every_command_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order of the document; none is refused, and no proof that they make fails."""
    monkeypatch.chdir(folder)
    found = [one or other for one, other in commands()]
    assert len(found) >= 7
    handler = signal.getsignal(signal.SIGTERM)
    for command in found:
        words = [SMALLER.get(word, word) for word in command.split()[1:]]
        if words[0] == "convert":
            words.append("--force")
        done = CliRunner().invoke(cli, words)
        signal.signal(signal.SIGTERM, handler)
        assert done.exit_code == 0, f"{command}\n{done.output}\n{done.exception!r}"
