"""ONNX models as sides: two of them, limits of the user's, the layer that differs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnxscript import optimizer

import porter
from porter import codecs
from porter.errors import UsageError
from porter.verification.verdict import Verdict
from porter.zoo.architectures import find
from porter.zoo.seeded import seeded

NAME = "pp-lcnet-x1_0-doc-ori"
BIAS = "encoder.blocks.1.layers.0.depthwise_convolution.normalization.bias"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a small checkpoint and what porter exports of it."""
    made = tmp_path_factory.mktemp("graphs")
    codecs.write(seeded(find(NAME)), str(made / "a.safetensors"), "safetensors")
    porter.convert(NAME, made / "a.safetensors", made / "a.onnx", from_="torch", to="onnx",
                   verify=False)  # fmt: skip
    return made


def changed(folder: Path, name: str, change: Callable[[onnx.ModelProto], object]) -> Path:
    """Save a changed copy of the export and return its path."""
    model = onnx.load(folder / "a.onnx")
    change(model)
    onnx.save(model, folder / name)
    return folder / name


def shift_bias(model: onnx.ModelProto) -> None:
    """Add to some entries of one bias."""
    tensor = next(i for i in model.graph.initializer if i.name == BIAS)
    array = numpy_helper.to_array(tensor).copy()
    array[:5] += 0.5
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def verify(left: Path, right: Path, **options: object) -> Verdict:
    """Compare two files on the CPU."""
    return porter.verify(NAME, left, right, device="cpu", batch_sizes=(1,), **options)


def test_a_model_is_compared_before_and_after_a_tool(folder: Path) -> None:
    """Rewritten but equal: every module that both name agrees; the reference is stated."""
    model = onnx.load(folder / "a.onnx")
    onnx.save(optimizer.optimize(model), folder / "tool.onnx")
    verdict = verify(folder / "a.onnx", folder / "tool.onnx", per_layer=True)
    assert verdict.passed
    assert len(verdict.layers) > 20
    assert any("the reference is the left one as it is written" in n for n in verdict.notes)
    (check, *_) = verdict.checks
    assert check.left is not None
    assert check.right.error < check.limit


def test_the_layer_that_differs_is_found_in_two_models(folder: Path) -> None:
    """The first layer that differs is the one with the changed bias."""
    verdict = verify(folder / "a.onnx", changed(folder, "bias.onnx", shift_bias))
    assert verdict.failed
    first = next(layer for layer in verdict.layers if not layer.passed)
    assert first.place == BIAS.removesuffix(".bias")
    assert f"a fault, not rounding: {first.place}" in verdict.story


def test_the_layer_that_differs_is_found_against_a_checkpoint(folder: Path) -> None:
    """Modules of PyTorch are compared with the values of the graph that are theirs."""
    verdict = verify(folder / "a.safetensors", changed(folder, "bias.onnx", shift_bias))
    assert verdict.failed
    first = next(layer for layer in verdict.layers if not layer.passed)
    assert first.place == BIAS.removesuffix(".bias")


def test_values_are_compared_where_no_module_is_named(folder: Path) -> None:
    """Without the names of nodes the values that both files name are the layers."""

    def unnamed(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            node.name = ""

    def both(model: onnx.ModelProto) -> None:
        unnamed(model)
        shift_bias(model)

    left, right = changed(folder, "l.onnx", unnamed), changed(folder, "r.onnx", both)
    verdict = verify(left, right)
    first = next(layer for layer in verdict.layers if not layer.passed)
    makers = {out: node for node in onnx.load(left).graph.node for out in node.output}
    assert BIAS in makers[first.place].input


def test_an_external_file_of_weights_is_found_when_layers_are_shown(folder: Path) -> None:
    """The model with more outputs is another file, its data are where they were."""
    model = onnx.load(folder / "a.onnx")
    onnx.save(model, folder / "big.onnx", save_as_external_data=True, location="big.data")
    verdict = verify(folder / "a.onnx", folder / "big.onnx", per_layer=True)
    assert verdict.passed
    assert len(verdict.layers) > 20


def test_limits_of_the_users_replace_the_derived_ones(folder: Path) -> None:
    """What fails passes with a larger limit of the error."""
    path = changed(folder, "bias.onnx", shift_bias)
    verdict = verify(folder / "a.onnx", path, judge="error<=10", per_layer=True)
    assert verdict.passed
    assert verdict.limits == "error<=10"


def test_a_softmax_and_another_model_are_named(folder: Path) -> None:
    """Findings on outputs and on the files' metadata are there for ONNX models as well."""

    def ends_in_softmax(model: onnx.ModelProto) -> None:
        model.graph.node.append(onnx.helper.make_node("Softmax", ["logits"], ["p"]))
        model.graph.output[0].name = "p"
        entry = next(e for e in model.metadata_props if e.key == "porter.architecture")
        entry.value = "swin-tiny-w7-224"

    verdict = verify(folder / "a.onnx", changed(folder, "soft.onnx", ends_in_softmax))
    found = [str(finding) for finding in verdict.findings]
    assert any("is the softmax of the left's" in text for text in found)
    assert any("of the right file is 'swin-tiny-w7-224'" in text for text in found)


def test_fixed_batches_must_agree(folder: Path) -> None:
    """A model with another fixed batch cannot be given the same input."""

    def fixed(size: int) -> Callable[[onnx.ModelProto], None]:
        def change(model: onnx.ModelProto) -> None:
            for value in (model.graph.input[0], model.graph.output[0]):
                value.type.tensor_type.shape.dim[0].dim_value = size

        return change

    one, two = (changed(folder, f"{n}.onnx", fixed(n)) for n in (1, 2))
    with pytest.raises(UsageError, match="different batch sizes: 1 and 2"):
        verify(one, two)
    assert verify(one, folder / "a.onnx", diagnose=False).cases == ("seed0.batch1",)


def test_rounded_models_are_judged_by_the_coarser_type(folder: Path) -> None:
    """Before and after rounding to float16, whichever is on the left."""
    porter.convert(NAME, folder / "a.safetensors", folder / "half.onnx", from_="torch", to="onnx",
                   dtype="fp16", verify=False)  # fmt: skip
    for left, right in (("a.onnx", "half.onnx"), ("half.onnx", "a.onnx")):
        verdict = verify(folder / left, folder / right, diagnose=False)
        assert verdict.passed
        assert verdict.precision == "float16"
        assert np.isfinite(verdict.checks[0].right.error)
