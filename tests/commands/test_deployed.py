"""Inference programs of Paddle as they are deployed, judged by their outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import porter
from porter import codecs
from porter.cli import cli
from porter.commands.published.deployed import Deployed
from porter.commands.published.verify import verify_published
from porter.errors import InputError, UsageError
from porter.frameworks.published.paddlex import paddlex
from porter.tensors.lazy import LazyTensor
from porter.tensors.state_dict import StateDict
from porter.verification.checks import EXACT, SINGLE
from porter.zoo.architectures import find
from porter.zoo.published import published_config
from tests.commands.test_paddlex import pool

__all__ = ["pool"]
NAMES = ("pp-ocrv6-tiny-rec", "pp-ocrv6-tiny-det", "pp-lcnet-x0_25-textline-ori")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seeded weights of each model for transformers, and programs of them."""
    return tmp_path_factory.mktemp("deployed")


def saved(name: str, folder: Path, change: Any = None) -> tuple[Path, Path]:
    """Return the program of a model, `change`d before it is saved, and its weights."""
    import paddle

    from tests.zoo.record_wiring import Bare, save

    weights, paddled = folder / f"{name}.safetensors", folder / f"{name}.pdparams"
    if not weights.exists():
        porter.init(name, weights, to="torch:hf")
        porter.convert(name, weights, paddled, from_="torch:hf", to="paddle:paddlex", verify=False)
    place = folder / (f"{name}-{change.__name__}" if change else name)
    if not place.exists():
        variant = find(name)
        model = paddlex(variant.aliases[0])
        model.set_state_dict(paddle.load(str(paddled)))
        model.eval()
        if change is not None:
            change(model)
        kind = (published_config(variant) or {})["model_type"]
        save(Bare(model, kind), variant.sides(), place)
    return place, weights


def merged(model: Any) -> None:
    """Put each batch norm into the convolution before it; what is left of it is a sum."""
    import paddle

    class Shift(paddle.nn.Layer):  # type: ignore[misc]
        def __init__(self, values: Any) -> None:
            super().__init__()
            self.shift = self.create_parameter([1, len(values), 1, 1])
            self.shift.set_value(values.reshape([1, -1, 1, 1]))

        def forward(self, x: Any) -> Any:
            return x + self.shift

    for layer in model.sublayers():
        norm = getattr(layer, "normalization", None)
        if isinstance(norm, paddle.nn.BatchNorm2D) and hasattr(layer, "convolution"):
            weight = layer.convolution.weight
            scale = norm.weight / paddle.sqrt(norm._variance + norm._epsilon)
            weight.set_value(weight * scale.reshape([-1, 1, 1, 1]))
            layer.normalization = Shift(norm.bias - norm._mean * scale)


def test_the_program_and_its_weights_are_both_proven(folder: Path) -> None:
    """Without an option the program runs in float32, the weights in PaddleX's class in float64."""
    name = NAMES[0]
    program, weights = saved(name, folder)
    verdict = verify_published(find(name), program, weights)
    assert verdict.passed, verdict.reason
    precisions = {check.case: check.precision for check in verdict.checks}
    assert precisions["the program itself"] == SINGLE
    assert any(check.precision == EXACT for check in verdict.checks)


def test_a_merged_program_is_proven_by_its_outputs(folder: Path) -> None:
    """Its batch norms cannot be told apart from the convolutions; what it computes can."""
    name = NAMES[1]
    program, weights = saved(name, folder, merged)
    assert len(codecs.read(str(program / "inference.json"))) == 169  # of 271
    verdict = verify_published(find(name), weights, program)
    assert verdict.passed, verdict.reason
    assert [check.case for check in verdict.checks] == ["the program itself"]
    assert "no class" in verdict.notes[-1]


def test_other_weights_are_caught(folder: Path) -> None:
    """One convolution of the file in another order."""
    name = NAMES[1]
    program, weights = saved(name, folder, merged)
    state = codecs.read(str(weights))
    kernel = next(n for n, t in state.items() if len(t.shape) == 4 and t.shape[0] > 1)
    mixed = {**state, kernel: LazyTensor.of(np.ascontiguousarray(state[kernel].read()[::-1]))}
    path = folder / "wrong.safetensors"
    codecs.write(StateDict(mixed), str(path), "safetensors")
    verdict = verify_published(find(name), program, path)
    assert verdict.failed
    assert "the program itself" in verdict.reason


def test_a_program_is_named_by_its_folder(folder: Path) -> None:
    """Also for a model that has a reference model; its scores are compared after the softmax."""
    name = NAMES[2]

    def with_softmax(model: Any) -> None:
        import paddle

        model.head.register_forward_post_hook(
            lambda _, __, output: paddle.nn.functional.softmax(output)
        )

    program, weights = saved(name, folder, with_softmax)
    asked = ["verify", name, str(weights), str(program)]
    result = CliRunner().invoke(cli, [*asked, "--right-model", f"inference:{program}"])
    assert result.exit_code == 0, result.output
    assert "the program in Paddle" in result.output


def test_what_cannot_be_compared_is_refused(folder: Path, tmp_path: Path) -> None:
    """A program that loops, a second model, a folder without a program, a size that it has not."""
    variant = find(NAMES[0])
    program, weights = saved(NAMES[0], folder)
    named = f"inference:{program}"
    with pytest.raises(UsageError, match="leave the other model"):
        verify_published(variant, program, weights, left_model=named, right_model=named)
    with pytest.raises(InputError):
        verify_published(variant, program, weights, left_model=f"inference:{tmp_path}")
    deployed = Deployed(find("slanet"), codecs.read(str(weights)), 0, str(looping(tmp_path)))
    assert "loops" in deployed.refusal()


def looping(folder: Path) -> Path:
    """Return a program with a loop."""
    import paddle

    class Loop(paddle.nn.Layer):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.fc = paddle.nn.Linear(3, 3)

        def forward(self, x: Any) -> Any:
            step = paddle.zeros([1], dtype="int64")
            while step < x.shape[0]:
                x, step = self.fc(x), step + 1
            return x

    spec = [paddle.static.InputSpec([None, 3], "float32", "x")]
    saved = paddle.jit.to_static(Loop(), input_spec=spec, full_graph=True)
    paddle.jit.save(saved, f"{folder}/loop/inference")
    return folder / "loop"


@pytest.mark.parametrize("name", NAMES)
def test_a_program_becomes_an_onnx_file_that_computes_the_same(name: str, folder: Path) -> None:
    """Its weights are those of the checkpoint, bit for bit; its outputs those of the program."""
    import onnxruntime
    import paddle

    from porter.frameworks.published.program import inference

    program, weights = saved(name, folder)
    graph, back = folder / f"{name}.onnx", folder / f"{name}-back.safetensors"
    porter.convert(name, program, graph, from_="paddle", verify=False)
    porter.convert(name, graph, back, to="torch:hf", verify=False)
    one, two = codecs.read(str(weights)), codecs.read(str(back))
    assert one.keys() == two.keys()
    for tensor in (n for n in one if not n.endswith("num_batches_tracked")):
        np.testing.assert_array_equal(one[tensor].read(), two[tensor].read())
    height = 48 if name.endswith("rec") else 96
    picture = np.random.default_rng(0).standard_normal((1, 3, height, 160), np.float32)
    if "lcnet" in name:
        picture = picture[:, :, :80]
    (given,) = inference(str(program))(paddle.to_tensor(picture)).values()
    session = onnxruntime.InferenceSession(graph)
    if "lcnet" in name:
        assert session.get_inputs()[0].shape[2:] == [80, 160]
    found = session.run(None, {session.get_inputs()[0].name: picture})[0]
    np.testing.assert_allclose(found, given.numpy(), rtol=1e-3, atol=1e-5 * np.abs(found).max())
