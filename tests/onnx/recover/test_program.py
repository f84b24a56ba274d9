"""Inference models of Paddle come back to the names of their architecture, bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest

import porter
from porter import codecs
from porter.commands.recognised import source
from porter.errors import InputError, UsageError
from porter.onnx.recover.read import read
from porter.planning.by_shapes import variants_of
from porter.planning.fit import fit
from porter.zoo.architectures import find
from tests.codecs.paddle.programs import save

MODEL = """
from paddle import nn
from porter.commands.init import seeded_state
from porter.frameworks.models import build
from porter.zoo.architectures import find
variant = find("{variant}")
model = build(variant, "paddle", num_classes={classes}, image_size=224, features=())
for name, tensor in seeded_state(variant, "paddle", num_classes={classes}).items():
    model.state_dict()[name].set_value(tensor.read())
"""
GELU = """
import paddle.nn.functional as F
from paddle.base.layer_helper import LayerHelper
def gelu(x, approximate=False, name=None):  # Paddle 3 has the function for PIR only
    helper = LayerHelper("gelu")
    made = helper.create_variable_for_type_inference("float32")
    helper.append_op(type="gelu", inputs={"X": [x]}, outputs={"Out": [made]},
                     attrs={"approximate": approximate})
    return made
F.gelu = gelu
"""
SOFTMAX = "\nmodel = nn.Sequential(model, nn.Softmax())\n"
BIASED = """
stem = model.patch_embed1.conv
stem[0], stem[1] = nn.Conv2D(3, 64, 7, 2, 3), nn.Identity()
"""
SHAPE = "[None, 3, 224, 224]"


def _saved(
    folder: Path, variant: str, *, pir: bool = True, classes: int = 1000, more: str = ""
) -> Path:
    build = MODEL.format(variant=variant, classes=classes) + more
    path = save(folder, pir=pir, build=build, shape=SHAPE, fill=False)
    path.with_suffix(".npz").unlink()
    path.with_suffix(".pdparams").rename(folder.parent / f"{variant}.pdparams")
    return path


def _same(one: str, other: str) -> None:
    found, truth = codecs.read(one).arrays(), codecs.read(other).arrays()
    assert found.keys() == truth.keys()
    for name, array in truth.items():
        assert found[name].tobytes() == array.tobytes(), name


def test_a_program_is_converted_by_its_graph(tmp_path: Path) -> None:
    """A folder with a program of PIR is recognised, converted, proven, and is what it was."""
    folder = tmp_path / "inference"
    folder.mkdir()
    _saved(folder, "shunted-t", classes=10)
    output = tmp_path / "output.pdparams"
    inspected = porter.inspect(folder)
    assert [match.architecture.name for match in inspected.matches] == ["shunted-t"]
    outcome = porter.convert(source=folder, output=output)
    assert outcome.ok
    assert outcome.verdict is not None
    assert outcome.verdict.passed
    assert outcome.from_ == "paddle-inference"
    assert outcome.plan.num_classes == 10
    _same(str(output), str(tmp_path / "shunted-t.pdparams"))
    model = porter.load_model("shunted-t", folder / "inference.json", "torch")
    assert model.state_dict()["head.weight"].shape == (10, 512)


def test_a_program_desc_with_a_softmax_comes_back(tmp_path: Path) -> None:
    """The older form of a program comes back; the softmax behind its classifier is noted."""
    folder = tmp_path / "inference"
    folder.mkdir()
    path = _saved(folder, "vit-tiny-p16-224", pir=False, more=GELU + SOFTMAX)
    state = read(find("vit-tiny-p16-224"), path)
    assert state.origin is not None
    assert any("softmax" in note for note in state.origin.notes)
    back = fit(find("vit-tiny-p16-224"), state, "torch", "paddle").plan.apply(state)
    truth = codecs.read(str(tmp_path / "vit-tiny-p16-224.pdparams"))
    assert len(truth) == 152
    for name, tensor in truth.items():
        assert back[name.removeprefix("0.")].read().tobytes() == tensor.read().tobytes(), name
    with pytest.raises(UsageError, match="fits deit-tiny-224, vit-tiny-p16-224: name one"):
        source(None, path, None, None, None)
    assert source("vit-tiny-p16-224", path, "paddle", None, None)[1] == "paddle-inference"


def test_windows_and_gathered_tables_come_back(tmp_path: Path) -> None:
    """Swin's rolled windows are views, and its tables are found behind the index."""
    folder = tmp_path / "inference"
    folder.mkdir()
    path = _saved(folder, "swin-tiny-w7-224")
    state = read(find("swin-tiny-w7-224"), path)
    back = fit(find("swin-tiny-w7-224"), state, "torch", "paddle").plan.apply(state)
    truth = codecs.read(str(tmp_path / "swin-tiny-w7-224.pdparams"))
    for name, tensor in truth.items():
        assert back[name].read().tobytes() == tensor.read().tobytes(), name


def test_a_folded_batch_norm_is_refused_by_name(tmp_path: Path) -> None:
    """A convolution that took a batch norm in is named with it, and the remedy is Paddle's."""
    folder = tmp_path / "inference"
    folder.mkdir()
    path = _saved(folder, "shunted-t", more=BIASED)
    with pytest.raises(
        InputError, match=r"patch_embed1\.conv\.1 into .*paddle\.jit\.save"
    ) as error:
        read(find("shunted-t"), path)
    assert error.value.path == str(path)


def test_what_fits_nothing_is_refused_with_the_next_step(tmp_path: Path) -> None:
    """A small program of another network is named as such, and can be repacked."""
    path = save(tmp_path, pir=True)
    with pytest.raises(InputError, match="porter repack"):
        porter.convert(source=path, output=tmp_path / "x.pth")
    with pytest.raises(UsageError, match="use --to paddle"):
        porter.convert("vit-tiny-p16-224", path, tmp_path / "x", to="paddle-inference")
    assert not (tmp_path / "x.pth").exists()


def test_shapes_tell_variants_apart() -> None:
    """Every variant is among those that its own shapes fit, at its usual size."""
    for name in ("deit-tiny-distilled-224", "cait-xxs24-224", "pvtv2-b2-li", "swin-small-w7-224"):
        bound = find(name).skeleton().bind({"classes": 7, "positions": 197})
        if find(name).positions is not None:
            count = find(name).positions.count(find(name).image_size)  # type: ignore[union-attr]
            bound = find(name).skeleton().bind({"classes": 7, "positions": count})
        shapes = [shape for dtype, shape in bound.values() if dtype == "float32"]
        assert [v.name for v in variants_of(shapes)] == [name]
