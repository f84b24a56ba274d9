"""Pictures that are not square: exported, proven, run, read back, or refused for a reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from PIL import Image

import porter
from porter import codecs
from porter.cli import cli
from porter.errors import MappingError, UsageError
from porter.tensors.state_dict import StateDict

NAME = "deit-tiny-224"
SIZE = (64, 112)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an export whose positions were resized, next to the checkpoint that has them."""
    folder = tmp_path_factory.mktemp("size")
    porter.init(NAME, folder / "square.safetensors")
    done = porter.convert(NAME, folder / "square.safetensors", folder / "a.safetensors",
                          image_size=SIZE, adapt=True, verify=False)  # fmt: skip
    assert any("197 positions became 29 (4 × 7), bicubic" in note for note in done.notes)
    made = porter.convert(NAME, folder / "a.safetensors", folder / "a.onnx")
    assert made.verdict is not None
    assert made.verdict.passed
    assert made.verdict.image_size == SIZE  # from the metadata of the checkpoint
    return folder / "a.onnx"


def test_an_export_takes_pictures_of_that_height_and_width(model: Path) -> None:
    """They are in the graph; the same weights come back."""
    dims = onnx.load(model).graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_value for dim in dims][1:] == [3, *SIZE]
    back = model.with_name("b.safetensors")
    porter.convert(NAME, model, back, verify=False)
    found, source = codecs.read(str(back)), codecs.read(str(model.with_suffix(".safetensors")))
    assert list(found) == list(source)
    for name, tensor in source.items():
        np.testing.assert_array_equal(found[name].read(), tensor.read())


def test_a_rewritten_export_comes_back_with_its_size(model: Path) -> None:
    """Read as a foreign file, whose graph shows the height and the width."""
    changed = onnx.load(model)
    changed.graph.node.append(onnx.helper.make_node("Identity", ["logits"], ["scores"]))
    changed.graph.output[0].name = "scores"
    onnx.save(changed, model.with_name("changed.onnx"))
    back = model.with_name("c.safetensors")
    porter.convert(NAME, model.with_name("changed.onnx"), back, verify=False)
    source = codecs.read(str(model.with_suffix(".safetensors")))["pos_embed"]
    np.testing.assert_array_equal(codecs.read(str(back))["pos_embed"].read(), source.read())


def test_commands_take_height_and_width(model: Path) -> None:
    """`verify` compares at that size, and of a file without metadata it must be given."""
    plain = str(model.with_name("plain.safetensors"))
    codecs.write(
        StateDict(codecs.read(str(model.with_suffix(".safetensors")))), plain, "safetensors"
    )
    line = ["verify", NAME, plain, str(model)]
    asked = CliRunner().invoke(cli, [*line, "--image-size", "64x112"])
    assert asked.exit_code == 0, asked.output
    assert "64 × 112 px" in asked.output
    with pytest.raises(MappingError, match="--image-size 256x192 for example"):
        porter.verify(NAME, plain, model)
    picture = model.with_name("a.png")
    Image.new("RGB", (40, 30), "red").save(picture)
    named = CliRunner().invoke(cli, ["predict", str(model), str(picture)])
    assert named.exit_code == 0, named.output
    assert "resized to 64 × 112 px" in " ".join(named.output.split())
    with pytest.raises(UsageError, match="takes pictures of 64x112 px, not of 112x64"):
        porter.predict(model, [picture], image_size=(112, 64))


@pytest.mark.parametrize("size", ["0x3", "64x", "x", "1x2x3", "99999999999", "½"])
def test_malformed_sizes_are_refused(size: str) -> None:
    """One line says what is expected; nothing is written."""
    done = CliRunner().invoke(cli, ["init", NAME, "-o", "a.pth", "--image-size", size])
    assert done.exit_code == 2
    assert "256x192" in done.output
    with pytest.raises(UsageError, match="image size"):
        porter.init(NAME, "a.pth", image_size=size)


def test_models_of_square_windows_are_refused(tmp_path: Path) -> None:
    """Swin cuts its maps into square windows; the message says so before anything is traced."""
    name = "swin-tiny-w7-224"
    with pytest.raises(UsageError, match="takes square images only, not 224x448"):
        porter.init(name, tmp_path / "a.pth", image_size=(224, 448))
    assert not (tmp_path / "a.pth").exists()
