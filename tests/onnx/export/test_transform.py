"""Exports with options: batch, names, floating type, labels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from porter.errors import InputError, UsageError
from porter.onnx.export.write import Options, export
from porter.tensors import casts
from porter.tensors.state_dict import StateDict
from porter.zoo.architectures import find
from porter.zoo.seeded import seeded

NAME = "vit-tiny-p16-224"


def write(path: Path, dtype: str | None = None, state: StateDict | None = None, **options: object):
    """Export seeded weights; return the model as onnx reads it."""
    architecture = find(NAME)
    state = seeded(architecture) if state is None else state
    state = casts.cast(state, dtype)[0] if dtype else state
    export(
        architecture, state, path, num_classes=1000, image_size=224, force=True,
        options=Options(**options),  # type: ignore[arg-type]
    )  # fmt: skip
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    return model


def logits(path: Path, image: np.ndarray) -> np.ndarray:
    """Return what ONNX Runtime computes."""
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    half = given.type == "tensor(float16)"
    return session.run(None, {given.name: image.astype(np.float16 if half else np.float32)})[0]


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    """Return one noise image."""
    return np.random.default_rng(0).standard_normal((1, 3, 224, 224), np.float32)


def test_half_precision_is_within_its_floor(tmp_path: Path, image: np.ndarray) -> None:
    """An fp16 model computes what the fp32 one does, to fp16's precision; weights are fp16."""
    write(tmp_path / "one.onnx")
    model = write(tmp_path / "half.onnx", "fp16")
    assert {i.data_type for i in model.graph.initializer} == {onnx.TensorProto.FLOAT16}
    full, half = (logits(tmp_path / n, image) for n in ("one.onnx", "half.onnx"))
    assert half.dtype == np.float16
    error = np.abs(half - full).max() / np.sqrt((full**2).mean())
    assert 0 < error < 2e-2  # measured 3e-3


def test_half_precision_keeps_wide_ends_on_request(tmp_path: Path, image: np.ndarray) -> None:
    """With io_dtype the image and the logits of an fp16 model are float32."""
    model = write(tmp_path / "half.onnx", "fp16", io_dtype="fp32")
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert logits(tmp_path / "half.onnx", image).dtype == np.float32


def test_softmax_is_computed_in_float32(tmp_path: Path) -> None:
    """In an fp16 model a Softmax reads what a Cast to float32 made."""
    model = write(tmp_path / "half.onnx", "fp16")
    casts_to = {n.output[0]: n.attribute[0].i for n in model.graph.node if n.op_type == "Cast"}
    softmax = [n for n in model.graph.node if n.op_type == "Softmax"]
    assert softmax
    assert all(casts_to[n.input[0]] == onnx.TensorProto.FLOAT for n in softmax)


def test_batch_and_names_are_as_asked(tmp_path: Path) -> None:
    """A frozen batch and other names stand in the graph's inputs and outputs."""
    model = write(tmp_path / "m.onnx", batch=3, input_name="pixels", output_name="scores")
    given, found = model.graph.input[0], model.graph.output[0]
    assert (given.name, found.name) == ("pixels", "scores")
    assert [d.dim_value for d in given.type.tensor_type.shape.dim] == [3, 3, 224, 224]
    assert [d.dim_value for d in found.type.tensor_type.shape.dim] == [3, 1000]


def test_a_model_says_how_pictures_are_prepared(tmp_path: Path) -> None:
    """Preprocessing and labels travel in the metadata, doc strings say the same."""
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join(f"class {i}" for i in range(1000)))
    model = write(tmp_path / "m.onnx", labels=str(labels))
    said = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(said["porter.preprocessing"])["mean"] == [0.5, 0.5, 0.5]
    assert json.loads(said["porter.labels"])[7] == "class 7"
    assert "0.5" in model.graph.input[0].doc_string


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"io_dtype": "fp16"}, "--dtype fp16"),
        ({"input_name": "logits"}, "already"),
        ({"optimize": "magic"}, "none of"),
        ({"opset": 7}, "11 to 23"),
    ],
)
def test_options_that_contradict_are_refused(
    tmp_path: Path, options: dict[str, object], why: str
) -> None:
    """What cannot be had is refused, and nothing is written."""
    with pytest.raises(UsageError, match=why):
        write(tmp_path / "m.onnx", **options)
    assert list(tmp_path.iterdir()) == []


def test_labels_of_another_number_are_refused(tmp_path: Path) -> None:
    """As many labels as classes, or none."""
    labels = tmp_path / "labels.json"
    labels.write_text('["cat", "dog"]')
    with pytest.raises(UsageError, match="2 labels for 1000 classes"):
        write(tmp_path / "m.onnx", labels=str(labels))
    with pytest.raises(InputError, match="no such file"):
        write(tmp_path / "m.onnx", labels=str(tmp_path / "none.txt"))


def test_weights_of_mixed_types_are_refused(tmp_path: Path) -> None:
    """bfloat16 weights need a --dtype that ONNX Runtime computes in."""
    with pytest.raises(UsageError, match="--dtype fp32 or fp16"):
        write(tmp_path / "m.onnx", "bf16")


@pytest.mark.parametrize("optimizer", ["onnxruntime", "onnxscript"])
def test_an_optimised_model_computes_the_same(
    tmp_path: Path, image: np.ndarray, optimizer: str
) -> None:
    """An optimiser changes the graph, says so in the metadata, and not the logits."""
    architecture = find(NAME)
    for name, chosen in (("plain", None), ("made", optimizer)):
        export(
            architecture, seeded(architecture), tmp_path / f"{name}.onnx", num_classes=1000,
            image_size=224, options=Options(optimize=chosen),
        )  # fmt: skip
    said = {e.key: e.value for e in onnx.load(tmp_path / "made.onnx").metadata_props}
    assert said["porter.optimized"] == optimizer
    plain, made = (logits(tmp_path / f"{n}.onnx", image) for n in ("plain", "made"))
    assert np.abs(made - plain).max() / np.sqrt((plain**2).mean()) < 1e-5
