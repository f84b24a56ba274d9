"""int8: small, as accurate as asked, judged by agreement, honest about not coming back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic
from PIL import Image

import porter
from porter.errors import InputError, UsageError
from porter.onnx.graph.signature import signature
from porter.verification.inputs import halved
from porter.zoo.architectures import find

NAME = "deit-tiny-224"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a seeded checkpoint."""
    path = tmp_path_factory.mktemp("int8") / "m.pth"
    porter.init(NAME, path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of five small pictures."""
    made = tmp_path_factory.mktemp("pictures")
    for seed in range(5):
        pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
        Image.fromarray(pixels).resize((320, 240)).save(made / f"{seed}.png")
    return made


def run(path: Path, image: np.ndarray) -> np.ndarray:
    """Return what ONNX Runtime computes, after onnx's checker has passed the file."""
    onnx.checker.check_model(str(path), full_check=True)
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {"image": image})[0].ravel().astype(np.float64)


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    """Return the cosine of the angle between two outputs."""
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


@pytest.fixture(scope="module")
def plain(checkpoint: Path) -> Path:
    """Return the float32 model."""
    path = checkpoint.with_name("plain.onnx")
    porter.convert(NAME, checkpoint, path, from_="torch", to="onnx", verify=False)
    return path


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    """Return one noise image."""
    return np.random.default_rng(0).standard_normal((1, 3, 224, 224), np.float32)


def test_a_deployers_quantiser_finds_every_linear_weight(
    plain: Path, image: np.ndarray, tmp_path: Path
) -> None:
    """onnxruntime's quantize_dynamic takes a ViT-tiny below 6.5 MB, as it does other exports."""
    small = tmp_path / "small.onnx"
    quantize_dynamic(plain, small, weight_type=QuantType.QUInt8)
    assert small.stat().st_size < 6.5e6 < 22e6 < plain.stat().st_size
    assert cosine(run(small, image), run(plain, image)) > 0.999  # measured 0.9995


def test_a_dynamic_model_is_small_and_right(
    checkpoint: Path, plain: Path, image: np.ndarray, tmp_path: Path
) -> None:
    """A scale for each channel, no pictures needed; opset 11 will do."""
    path = tmp_path / "m.onnx"
    porter.convert(NAME, checkpoint, path, to="onnx", dtype="int8", verify=False,
                   onnx={"opset": 11})  # fmt: skip
    model = onnx.load(path)
    weights = {one.name: one for one in model.graph.initializer}
    qkv = weights["blocks.0.attn.qkv.weight.T_quantized"]
    assert (qkv.data_type, list(qkv.dims)) == (onnx.TensorProto.INT8, [192, 576])
    assert list(weights["blocks.0.attn.qkv.weight.T_scale"].dims) == [576]
    said = {entry.key: entry.value for entry in model.metadata_props}
    assert said["porter.quantized"] == "dynamic"
    assert "porter.preprocessing" in said
    assert not {"porter.unused", "porter.transposed"} & set(said)
    assert path.stat().st_size < 6.7e6
    assert cosine(run(path, image), run(plain, image)) > 0.999  # measured 0.9997


def test_a_static_model_is_calibrated_and_judged_on_other_pictures(
    checkpoint: Path, folder: Path, tmp_path: Path
) -> None:
    """QDQ: the verdict asks for agreement, and says within which limits and on how many."""
    path = tmp_path / "m.onnx"
    done = porter.convert(NAME, checkpoint, path, to="onnx", dtype="int8", judge="cosine>=0.998",
                          onnx={"calibrate": folder, "opset": 23})  # fmt: skip
    assert done.ok
    assert done.graph == ""
    assert done.verdict is not None
    assert done.verdict.limits == "cosine>=0.998"
    assert done.verdict.cases == ("1.png", "3.png")
    assert "calibrated on 3 pictures, judged on 2 others" in " ".join(done.notes)
    ops = {node.op_type for node in onnx.load(path).graph.node}
    assert {"QuantizeLinear", "DequantizeLinear", "LayerNormalization", "Gelu"} <= ops
    assert signature(path, (224, 224)).quantised
    failed = porter.verify(NAME, checkpoint, path, images=folder, judge="error<=1e-3")
    assert failed.failed
    found = porter.verify(NAME, checkpoint, path, seeds=1, batch_sizes=[1], diagnose=False)
    assert found.limits == "top1>=99, cosine>=0.999"


def test_quantised_weights_do_not_come_back(checkpoint: Path, tmp_path: Path) -> None:
    """Said in one line, and nothing is written."""
    path = tmp_path / "m.onnx"
    porter.convert(NAME, checkpoint, path, to="onnx", dtype="int8", verify=False)
    with pytest.raises(InputError, match="quantised weights"):
        porter.convert(None, path, tmp_path / "back.pth", verify=False)
    assert not (tmp_path / "back.pth").exists()


@pytest.mark.parametrize(
    ("name", "options", "why"),
    [
        ("m.pth", {"dtype": "int8"}, "for --to onnx only"),
        ("m.onnx", {"onnx": {"calibrate": "x"}}, "with --dtype int8 only"),
        ("m.onnx", {"dtype": "int8", "onnx": {"optimize": "onnxscript"}}, "one of them"),
        ("m.onnx", {"dtype": "int8", "onnx": {"external_data": True}}, "leave --external-data"),
        ("m.onnx", {"judge": "top1>=50", "verify": False}, "--judge needs the proof"),
        ("m.onnx", {"judge": "top1"}, "not a limit"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    name: str, options: dict, why: str, checkpoint: Path, tmp_path: Path
) -> None:
    """Before anything is written."""
    with pytest.raises(UsageError, match=why):
        porter.convert(NAME, checkpoint, tmp_path / name, **options)
    assert list(tmp_path.iterdir()) == []


def test_scales_by_channel_need_opset_13(checkpoint: Path, folder: Path, tmp_path: Path) -> None:
    """QuantizeLinear has no axis before."""
    with pytest.raises(UsageError, match="opset 13"):
        porter.convert(NAME, checkpoint, tmp_path / "m.onnx", dtype="int8", verify=False,
                       onnx={"calibrate": folder, "opset": 12})  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def test_pictures_are_halved_and_grouped(folder: Path) -> None:
    """A model of a fixed batch gets batches of it; one picture alone calibrates and judges."""
    how = find(NAME).preprocessing
    found = halved(folder, how, 224, 2)
    assert {n: len(a) for n, a in found.calibrating.items()} == {"0.png": 2, "4.png": 2}
    assert {n: len(a) for n, a in found.judging.items()} == {"1.png": 2}
    four = found.calibrating["4.png"]
    assert np.array_equal(four[1], found.calibrating["0.png"][0])
    for path in sorted(folder.iterdir())[1:]:
        path.unlink()
    found = halved(folder, how, 224)
    assert list(found.calibrating) == list(found.judging) == ["0.png"]


def test_what_stays_as_it_is_and_what_was_asked_for_are_stated(tmp_path: Path) -> None:
    """Without pictures the kernels of a convolutional model are left; a limit is not rounded."""
    name = "pp-lcnet-x0_25-textline-ori"
    porter.init(name, tmp_path / "a.safetensors")
    done = porter.convert(name, tmp_path / "a.safetensors", tmp_path / "a.onnx", dtype="int8",
                          judge="top1>=99,cosine>=0.9999999")  # fmt: skip
    assert any("of the weights' bytes, stay as they are" in note for note in done.notes)
    assert done.verdict is not None
    assert not done.verdict.passed  # 0.99998 was measured
    assert not done.ok
    assert (tmp_path / "a.onnx").exists()
    assert any("cosine>=0.9999999 " in check.problem for check in done.verdict.checks)


def test_kernels_are_stored_in_int8_without_pictures(tmp_path: Path) -> None:
    """A quarter of the size; one scale for each output channel."""
    name, source, path = "pp-lcnet-x1_0-doc-ori", tmp_path / "a.pth", tmp_path / "a.onnx"
    porter.init(name, source)
    porter.convert(name, source, path, from_="torch", to="onnx", dtype="int8", verify=False)
    assert path.stat().st_size < 0.3 * source.stat().st_size
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    (node, *_) = [n for n in model.graph.node if n.op_type == "DequantizeLinear"]
    kernel, scale = (numpy_helper.to_array(stored[key]) for key in node.input)
    assert kernel.dtype == np.int8
    assert np.abs(kernel.reshape(len(kernel), -1)).max(1).tolist() == [127] * len(scale)
    assert run(path, np.ones((1, 3, 224, 224), np.float32)).shape == (4,)
