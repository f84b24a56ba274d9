"""ONNX files of models that transformers has and porter has not."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from click.testing import CliRunner

import porter
from porter import codecs
from porter.cli import cli
from porter.errors import MissingPackage, UsageError
from porter.onnx.export.template import template
from porter.tensors.state_dict import StateDict
from porter.verification.sides.rows import in_rows_of
from porter.zoo.architectures import all_variants, find

PUBLISHED = [v for v in all_variants().values() if v.has_graph and not v.module and not v.study]
TEXT = [v for v in PUBLISHED if v.graph.is_free]


def export(name: str, folder: Path, **options: Any) -> tuple[Path, Path]:
    """Return a seeded checkpoint and its ONNX file, which is not proven."""
    source, target = folder / f"{name}.safetensors", folder / f"{name}.onnx"
    porter.init(name, source, to="torch:hf", force=True)
    porter.convert(
        name, source, target, from_="torch:hf", verify=False, force=True, **options
    )  # fmt: skip
    return source, target


def names(values: Any) -> list[str]:
    return [value.name for value in values]


@pytest.mark.parametrize("variant", PUBLISHED, ids=lambda v: v.name)
def test_a_template_has_every_tensor_and_output(variant: Any) -> None:
    """Each canonical tensor is a weight, another name of one, or not used; outputs are as named."""
    made = template(variant)
    onnx.checker.check_model(gzip.decompress(Path(made.path).read_bytes()))
    known = [*made.weights, *made.unused, *made.shared]
    assert sorted(known) == sorted(t.name for t in variant.skeleton().tensors)
    assert set(made.shared.values()) <= set(made.weights)
    assert names(made.model.graph.outputs) == list(variant.graph.outputs)
    plain = [n for n in made.unused if not n.endswith("num_batches_tracked")]
    assert all("denoising" in n or "rel_pos" in n or "lab" in n for n in plain), plain


def test_a_recogniser_takes_lines_of_any_width(tmp_path: Path) -> None:
    """Named as the published inference model; probabilities first, then their scores."""
    _, path = export("pp-ocrv6-tiny-rec", tmp_path)
    session = ort.InferenceSession(path)
    (image,) = session.get_inputs()
    assert (image.name, image.shape) == ("x", ["batch", 3, 48, "width"])
    assert names(session.get_outputs()) == ["fetch_name_0", "logits"]
    for width in (16, 323, 640):
        picture = np.random.default_rng(0).standard_normal((2, 3, 48, width), np.float32)
        probabilities, logits = session.run(None, {"x": picture})
        assert probabilities.shape[:2] == (2, width // 8)
        raised = np.exp(logits - logits.max(-1, keepdims=True))
        np.testing.assert_allclose(probabilities, raised / raised.sum(-1, keepdims=True), rtol=1e-4)


def test_a_detector_takes_pictures_of_any_size_or_of_one(tmp_path: Path) -> None:
    """Free unless a size is asked for."""
    _, path = export("pp-ocrv6-tiny-det", tmp_path)
    session = ort.InferenceSession(path)
    assert session.get_inputs()[0].shape == ["batch", 3, "height", "width"]
    (found,) = session.run(None, {"x": np.zeros((1, 3, 64, 96), np.float32)})
    assert found.shape == (1, 1, 64, 96)
    _, path = export("pp-ocrv6-tiny-det", tmp_path, image_size=(64, 96), onnx={"opset": 13})
    assert ort.InferenceSession(path).get_inputs()[0].shape == ["batch", 3, 64, 96]
    (fixed,) = ort.InferenceSession(path).run(None, {"x": np.zeros((1, 3, 64, 96), np.float32)})
    np.testing.assert_allclose(fixed, found, atol=1e-6)


@pytest.mark.parametrize("name", ["pp-ocrv6-tiny-det", "slanet"])
@pytest.mark.parametrize("to", ["torch:hf", "paddle:paddlex"])
def test_the_way_back_is_exact(name: str, to: str, tmp_path: Path) -> None:
    """Over ONNX a checkpoint becomes what it becomes without."""
    source, path = export(name, tmp_path)
    suffix = ".pdparams" if to.startswith("paddle") else ".safetensors"
    one, other = tmp_path / f"one{suffix}", tmp_path / f"other{suffix}"
    for given, target, from_ in ((source, one, "torch:hf"), (path, other, "onnx")):
        porter.convert(name, given, target, from_=from_, to=to, verify=False)
    ours, theirs = codecs.read(str(one)), codecs.read(str(other))
    assert list(ours) == list(theirs)
    for tensor in ours:
        np.testing.assert_array_equal(ours[tensor].read(), theirs[tensor].read())


def test_tables_are_written_until_their_last_part(tmp_path: Path) -> None:
    """A Loop ends when every table has ended, and not before."""
    _, path = export("slanet", tmp_path)
    (found,) = ort.InferenceSession(path).run(
        None, {"x": np.random.default_rng(0).standard_normal((2, 3, 488, 488), np.float32)}
    )
    last = found.argmax(-1) == 49
    assert last.any(1).all() or found.shape[1] == 501
    assert not last[:, :-1].any(1).all()
    body = next(n for n in onnx.load(path).graph.node if n.op_type == "Loop")
    assert len(body.attribute) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [({"dtype": "fp16"}, "stays float32"), ({"onnx": {"opset": 17}}, "needs opset 18 or later")],
)
def test_what_a_loop_does_not_take_is_refused(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    """By name, and nothing is written."""
    with pytest.raises(UsageError, match=message):
        export("slanet", tmp_path, **options)
    assert not (tmp_path / "slanet.onnx").exists()


def test_a_softmax_is_for_scores_of_classes(tmp_path: Path) -> None:
    """A detector has none; a recogniser gives its probabilities in any case."""
    with pytest.raises(UsageError, match="--with-softmax"):
        export("pp-ocrv6-tiny-det", tmp_path, onnx={"with_softmax": True})
    export("pp-ocrv6-tiny-rec", tmp_path, onnx={"with_softmax": True})


def test_the_outputs_are_proven_by_the_class(tmp_path: Path) -> None:
    """`verify` runs the ONNX file and transformers' class, from either side."""
    source, path = export("pp-ocrv6-tiny-rec", tmp_path)
    result = CliRunner().invoke(cli, ["verify", "pp-ocrv6-tiny-rec", str(path), str(source)])
    assert result.exit_code == 0, result.output
    assert "fetch_name_0" in result.output


def test_a_wrong_weight_fails(tmp_path: Path) -> None:
    """The file of other weights does not compute what the class does."""
    source, path = export("pp-ocrv6-tiny-rec", tmp_path)
    state = codecs.read(str(source))
    name = "head.fc2.weight"
    other = StateDict.of({n: t.read() for n, t in state.items()} | {name: -state[name].read()})
    codecs.write(other, str(source), format="safetensors", force=True)
    result = CliRunner().invoke(cli, ["verify", "pp-ocrv6-tiny-rec", str(source), str(path)])
    assert result.exit_code == 1, result.output
    assert "logits" in result.output


def test_without_transformers_the_weights_are_proven_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The report says what is missing; the file is written."""
    from porter.commands.published import exported

    def missing(*_: Any) -> Any:
        raise MissingPackage("this needs transformers; run `pip install transformers`")

    monkeypatch.setattr(exported.Exported, "by_class", missing)
    porter.init("pp-ocrv6-tiny-det", tmp_path / "det.safetensors", to="torch:hf")
    made = porter.convert("pp-ocrv6-tiny-det", tmp_path / "det.safetensors", tmp_path / "det.onnx")
    assert made.ok
    assert not made.proven
    assert made.weights is not None
    assert made.verdict is not None
    assert "needs transformers" in made.verdict.reason


def test_another_name_of_a_tensor_comes_back(
    tmp_path: Path, exported_template: Callable[..., Any]
) -> None:
    """It is stored once, and refused where it is not the same."""
    tensors = {"a": np.ones(2, np.float32), "b": np.ones(2, np.float32)}
    state, note = exported_template(tensors, {"b": "a"})
    assert list(state) == ["a"]
    assert note
    with pytest.raises(UsageError, match="one tensor for both"):
        exported_template({**tensors, "b": np.zeros(2, np.float32)}, {"b": "a"})


@pytest.fixture
def exported_template() -> Callable[..., Any]:
    """Return what an export does with tensors that a template shares."""
    from porter.onnx.export import write

    def run(tensors: dict[str, np.ndarray], shared: dict[str, str]) -> Any:
        made: Any = SimpleNamespace(shared=shared, architecture=find("pp-doclayoutv3"))
        return write._without_shared(StateDict.of(tensors), made)

    return run


def test_rows_that_changed_places_are_matched() -> None:
    """By scores and boxes; what is not the same remains different."""
    draw = np.random.default_rng(0)
    reference = {
        "logits": draw.standard_normal((1, 9, 2)), "pred_boxes": draw.random((1, 9, 4)),
        "order_logits": draw.standard_normal((1, 9, 9)),
    }  # fmt: skip
    places = draw.permutation(9)
    found = {name: array[:, places] for name, array in reference.items()}
    found["order_logits"] = found["order_logits"][:, :, places]
    for name, array in in_rows_of(reference, found).items():
        np.testing.assert_array_equal(array, reference[name])
    found["logits"] = found["logits"] + 1
    assert not np.allclose(in_rows_of(reference, found)["logits"], reference["logits"])
