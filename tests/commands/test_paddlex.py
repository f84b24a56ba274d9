"""PaddleX's classes load what porter converts, and compute what transformers' classes do.

Only the classes are run: what PaddleX's pipelines import (pandas, modelscope, OpenCV) is not here.
"""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import porter
from porter import codecs
from porter.commands.published.classes import published_reference
from porter.commands.published.limits import CLOSE
from porter.commands.published.verify import verify_published
from porter.errors import MissingPackage
from porter.frameworks.process import Pool, kept
from porter.frameworks.published.paddlex import _NEEDS, paddlex
from porter.frameworks.published.transformers import transformers
from porter.tensors.lazy import LazyTensor
from porter.tensors.state_dict import StateDict
from porter.verification.checks import EXACT
from porter.zoo.architectures import find
from porter.zoo.published import published_config

SMALL = (
    "pp-lcnet-x0_25-textline-ori", "pp-ocrv5-mobile-det", "pp-ocrv5-mobile-rec",
    "pp-ocrv6-tiny-det", "pp-ocrv6-small-det", "pp-ocrv6-tiny-rec", "pp-ocrv6-small-rec",
    "slanet", "uvdoc",
)  # fmt: skip
PROVEN = ("pp-lcnet-x0_25-textline-ori", "pp-ocrv6-tiny-det", "pp-ocrv6-tiny-rec", "slanet")


@pytest.fixture(scope="module", autouse=True)
def pool() -> Iterator[None]:
    """Let all verdicts use one process a framework."""
    with Pool() as one, kept(one):
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("paddlex")


def converted(name: str, folder: Path) -> tuple[Path, Path]:
    """Return a seeded file of transformers and what it becomes in PaddleX's naming."""
    source, target = folder / f"{name}.safetensors", folder / f"{name}.pdparams"
    if not target.exists():
        porter.init(name, source, to="torch:hf")
        porter.convert(name, source, target, from_="torch:hf", to="paddle:paddlex", verify=False)
    return source, target


@pytest.mark.parametrize("name", SMALL)
def test_the_class_loads_every_tensor(name: str, folder: Path) -> None:
    """`set_state_dict` names nothing missing and nothing unexpected, and the values arrive."""
    import paddle

    _, path = converted(name, folder)
    model = paddlex(find(name).aliases[0])
    state = paddle.load(str(path))
    own = model.state_dict()
    assert {n: list(t.shape) for n, t in state.items()} == {n: t.shape for n, t in own.items()}
    assert model.set_state_dict(state) == ([], [])
    for tensor, value in own.items():
        np.testing.assert_array_equal(value.numpy(), state[tensor].numpy())


@pytest.mark.parametrize("name", PROVEN)
def test_both_classes_compute_the_same(name: str, folder: Path) -> None:
    """In float64 they differ by less than 1e-8 on the weights given and on seeded ones."""
    right, left = converted(name, folder)
    verdict = verify_published(find(name), left, right)
    assert verdict.passed, verdict.reason
    exact = [c for c in (*verdict.checks, *verdict.fuzzed) if c.precision == EXACT]
    assert len(exact) >= 6
    assert all(check.right.error < CLOSE for check in exact)
    assert verdict.left.label == published_reference(find(name), "paddle")
    assert verdict.right.framework == "torch"


@pytest.mark.parametrize("name", ["pp-ocrv6-tiny-rec", "slanet"])
def test_one_tensor_in_another_order_is_caught(name: str, folder: Path) -> None:
    """A square matrix transposed, and the channels of a convolution in another order."""
    right, left = converted(name, folder)
    state = codecs.read(str(right))
    square = next(
        (n for n, t in state.items() if len(t.shape) == 2 and t.shape[0] == t.shape[1]), None
    )
    kernel = next(n for n, t in state.items() if len(t.shape) == 4 and t.shape[0] > 1)
    for tensor in filter(None, (square, kernel)):
        value = state[tensor].read()
        wrong = value.T if tensor == square else value[::-1]
        mixed = {**state, tensor: LazyTensor.of(np.ascontiguousarray(wrong))}
        path = folder / f"{name}-wrong.safetensors"
        codecs.write(StateDict(mixed), str(path), "safetensors", force=True)
        verdict = verify_published(find(name), left, path)
        assert verdict.failed, tensor
        assert any(check.precision == EXACT and check.problem for check in verdict.checks)


def test_two_tensors_of_the_same_bytes_are_both_loaded(folder: Path) -> None:
    """Seeded weights reach the other class whole, though two of its tensors are zeros."""
    from porter.frameworks.references import parse
    from porter.verification.live import pair as live

    zeros = {n: LazyTensor.of(np.zeros((2, 2), np.float32)) for n in ("a.weight", "b.weight")}
    code = folder / "two.py"
    code.write_text(TWO)
    given = {"x": np.ones((1, 2), np.float32)}
    reference = parse(f"{code}:build", "torch")
    with live.opened(reference, reference, given, None, folder) as pair:
        pair.right.fill_seeded(zeros, EXACT)
        found = pair.right.run(pair.inputs, EXACT)
    assert all(not a.any() for outputs in found.values() for a in outputs.values())


TWO = """
import torch

def build():
    net = torch.nn.Sequential()
    net.a, net.b = (torch.nn.Linear(2, 2, bias=False) for _ in "ab")
    return net
"""


def test_what_to_install_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message and the page name what the classes import, and not more is imported."""
    for missing in ("paddlex", "colorlog"):
        monkeypatch.setitem(sys.modules, missing, None)
        for name in [n for n in sys.modules if n.startswith("paddlex.")]:
            monkeypatch.delitem(sys.modules, name)
        with pytest.raises(MissingPackage, match="--no-deps paddlex") as found:
            paddlex("PP-OCRv6_tiny_rec")
        assert f"({missing} is missing)" in str(found.value)
        assert f"pip install {' '.join(_NEEDS)}`" in str(found.value)
        monkeypatch.undo()
    page = (Path(__file__).parents[2] / "docs" / "paddleocr.md").read_text()
    assert "pip install --no-deps paddlex" in page
    assert f"pip install {' '.join(_NEEDS)}" in page
    assert importlib.metadata.version("paddlex") in page


def test_nothing_else_of_paddlex_is_imported() -> None:
    """Building a class imports none of what PaddleX's own packages ask for besides."""
    script = (
        "import sys; from porter.frameworks.published.paddlex import CLASSES, _class\n"
        "for place in CLASSES.values(): _class(place)\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    imported = set(run.stdout.splitlines()[-1].split())
    assert {"paddlex", *_NEEDS} <= imported
    assert not imported & {"pandas", "modelscope", "cv2", "aistudio_sdk", "pydantic", "torch"}


SHALLOW = {
    "text_config": {"d_model": 32, "decoder_attention_heads": 4, "decoder_ffn_dim": 64,
                    "max_position_embeddings": 16, "vocab_size": 60},
    "vision_config": {"image_size": 128, "window_size": 3, "hidden_size": 48, "mlp_dim": 96,
                      "num_attention_heads": 4, "num_hidden_layers": 3, "output_channels": 16,
                      "post_conv_in_channels": 16, "post_conv_mid_channels": 24,
                      "post_conv_out_channels": 32, "decoder_hidden_size": 32},
}  # fmt: skip
"""A PP-FormulaNet of the same classes that takes no time."""


def test_pp_formulanet_takes_the_tokens_before(tmp_path: Path) -> None:
    """Both classes give the scores of what follows each token, to rounding; a swap is seen."""
    import paddle
    import torch

    config = published_config(find("pp-formulanet-l-shallow")) or {}
    for key, changes in SHALLOW.items():
        config[key] |= changes
    (tmp_path / "config.json").write_text(json.dumps(config))
    paddle.set_default_dtype("float64")
    left, right = paddlex(str(tmp_path)), transformers(str(tmp_path)).double()
    paddle.set_default_dtype("float32")
    draw = np.random.default_rng(0)
    for name, tensor in right.state_dict().items():
        value = draw.standard_normal(tuple(tensor.shape)) * 0.2 + ("norm" in name)
        tensor.copy_(torch.from_numpy(value))
        is_linear = value.ndim == 2 and "embed" not in name and "rel_pos" not in name
        left.state_dict()[name].set_value(paddle.to_tensor(value.T if is_linear else value))
    left.eval()
    right.eval()
    picture, tokens = draw.standard_normal((2, 3, 128, 128)), draw.integers(3, 60, (2, 5))
    with torch.no_grad(), paddle.no_grad():
        one = left(paddle.to_tensor(picture), paddle.to_tensor(tokens))["logits"].numpy()
        two = right(torch.from_numpy(picture), torch.from_numpy(tokens))["logits"].numpy()
        attention = right.model.decoder.layers[1].encoder_attn
        attention.q_proj, attention.k_proj = attention.k_proj, attention.q_proj
        three = right(torch.from_numpy(picture), torch.from_numpy(tokens))["logits"].numpy()
    assert one.shape == (2, 5, 60)
    assert np.abs(one - two).max() < 1e-11 * np.abs(one).max()
    assert np.abs(one - three).max() > 1e-4 * np.abs(one).max()
