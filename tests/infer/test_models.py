"""Tables inferred by running two models, and conversions that the two models prove."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from porter import codecs
from porter.commands.convert import convert
from porter.commands.live.infer import infer
from porter.commands.live.verify import verify_models
from porter.errors import MappingError, UsageError
from porter.infer.propose import Inferred
from porter.tensors.lazy import LazyTensor

PAIRS = Path(__file__).parent / "pairs"
MODELS = {
    "left_model": f"{PAIRS / 'torch_nets.py'}:Net",
    "right_model": f"{PAIRS / 'paddle_nets.py'}:Net",
}
SAVE = """
import sys, torch
sys.path.append(sys.argv[1])
import torch_nets
torch.manual_seed(3)
model = torch_nets.Net()
with torch.no_grad():
    for p in model.parameters():
        p.add_(torch.randn(p.shape) * 0.2)
torch.save(model.state_dict(), sys.argv[2])
"""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("inputs") / "x.npz"
    np.savez(path, x=np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32))
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "net.pth"
    subprocess.run([sys.executable, "-c", SAVE, str(PAIRS), str(path)], check=True)
    return path


@pytest.fixture(scope="module")
def found(inputs: Path) -> Inferred:
    return infer(**MODELS, inputs=inputs)


@pytest.fixture(scope="module")
def table(found: Inferred, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("table") / "net.toml"
    path.write_text(found.text)
    return path


def test_two_fresh_models_give_a_proven_table(found: Inferred) -> None:
    """Names, order of registration and layout differ; the outputs of both models decide."""
    assert found.proven, (found.problems, found.unmatched, found.unproven)
    rows = [
        '"blocks.{i}.gate" = "w1.{i}"',
        '"blocks.{i}.up" = "w2.{i}"',
        'path = ["attn.{i}.q", "attn.{i}.k", "attn.{i}.v"], first = ["regroup 0 3,3,* -> 1,0,2"]',
        '"pos.weight" = { path = "table", ops = ["unsqueeze 0"] }',
        '"one" = "a constant of the model',
        '"order" = "a constant that the other model does not store"',
    ]
    assert [row for row in rows if row not in found.text] == []
    assert "[unproven]" not in found.text


def test_a_conversion_is_proven_by_both_models(
    table: Path, weights: Path, inputs: Path, tmp_path: Path
) -> None:
    """The output has all tensors of the target, its constants kept, and computes the same."""
    output = tmp_path / "net.pdparams"
    outcome = convert(str(table), weights, output, **MODELS, inputs=inputs)
    assert outcome.ok
    assert outcome.verdict is not None
    assert outcome.verdict.passed
    assert len(outcome.verdict.checks) == 12  # 2 outputs, 3 inputs, 2 precisions
    written = codecs.read(str(output))
    assert written["one"].read().tolist() == [1.0]
    assert verify_models(table, weights, output, **MODELS, inputs=inputs).passed

    swapped = dict(written.items())
    one, two = "w1.0.weight", "w2.0.weight"
    swapped[one], swapped[two] = swapped[two], swapped[one]
    wrong = tmp_path / "wrong.pdparams"
    codecs.write(codecs.StateDict(swapped), str(wrong), format="paddle")
    verdict = verify_models(table, weights, wrong, **MODELS, inputs=inputs)
    assert verdict.failed
    assert {t.name for t in verdict.tensors if t.problem} == {one, two}
    assert {f"{t.name} {t.problem}" for t in verdict.tensors if t.problem} == {
        f"{one} has the values of {two}", f"{two} has the values of {one}",
    }  # fmt: skip
    assert "swap the two rows of the mapping" in {f.remedy for f in verdict.findings}
    assert verdict.date
    assert verdict.seconds > 0
    assert verdict.left.digest != verdict.right.digest


def test_a_wrong_row_is_refused_or_fails(
    table: Path, weights: Path, inputs: Path, tmp_path: Path
) -> None:
    """Rows exchanged fail the verdict; a misspelt name is refused before anything is written."""
    wrong, output = tmp_path / "wrong.toml", tmp_path / "net.pdparams"
    text = table.read_text()
    wrong.write_text(text.replace('"w1.{i}"', '"X"').replace('"w2.{i}"', '"w1.{i}"').replace(
        '"X"', '"w2.{i}"'))  # fmt: skip
    outcome = convert(str(wrong), weights, output, **MODELS, inputs=inputs)
    assert not outcome.ok
    assert outcome.verdict is not None
    assert outcome.verdict.findings
    output.unlink()
    wrong.write_text(text.replace('"w1.{i}"', '"w1_.{i}"'))
    with pytest.raises(MappingError, match=r"missing: w1\.\S+; .*unexpected: w1_\."):
        convert(str(wrong), weights, output, **MODELS, inputs=inputs, force=True)
    assert not output.exists()


def test_a_language_model_with_a_picture_is_proven_where_no_token_is_padding(
    tmp_path: Path,
) -> None:
    """Positions of one row or of each, maps flattened channels last, a tied head, an idle pooler.

    The right model masks token 0: that is named, and the table is found without it.
    """
    path, draw = tmp_path / "x.npz", np.random.default_rng(0)
    ids = np.concatenate([draw.integers(1, 20, (1, 5)), [[4, 7, 2, 0, 0]]])
    np.savez(path, ids=ids, x=draw.standard_normal((2, 3, 4, 6)).astype(np.float32))
    models = {side: ref.replace(":Net", ":Reader") for side, ref in MODELS.items()}
    found = infer(**models, inputs=path)
    rows = [
        '"whole" = { path = "fc", ops = { weight = ["permute 0 2 3 1", "reshape 8,4,6,6 -> 8,144"',
        '"head.bias" = "bias"',
        '"pooler.weight" = "no output of the model shows it: a conversion keeps the target',
    ]
    assert [row for row in rows if row not in found.text] == []
    assert (found.exact, found.unproven, found.unmatched) == (True, (), ())
    (problem,) = found.problems
    assert "equal where no token is 0: one of the models masks 0 as padding" in problem


def test_a_recurrent_model_with_one_dict_for_input_is_proven(tmp_path: Path) -> None:
    """Paddle's recurrent layers have no gradients here; half of an attention is one projection."""
    path, draw = tmp_path / "x.npz", np.random.default_rng(0)
    frames, memory = draw.standard_normal((2, 5, 6)), draw.standard_normal((2, 4, 8))
    np.savez(path, frames=frames.astype(np.float32), memory=memory.astype(np.float32))
    models = {side: ref.replace(":Net", ":Speaker") for side, ref in MODELS.items()}
    found = infer(**models, inputs=path)
    assert found.proven, (found.problems, found.unmatched, found.unproven)
    assert '"attn.in_proj_weight" = { path = ["q.weight", "kv.weight"]' in found.text


def test_models_that_compute_otherwise_are_not_proven(tmp_path: Path) -> None:
    """All names and shapes fit, the outputs do not: the module and its setting are named."""
    path = tmp_path / "x.npz"
    np.savez(path, x=np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32))
    models = {side: ref.replace(":Net", ":Faded") for side, ref in MODELS.items()}
    found = infer(**models, inputs=path)
    assert not found.proven
    (problem,) = found.problems
    assert "body.1 (Dropout) multiplies by 0.75" in problem
    assert "downscale_in_infer" in problem


def test_values_of_two_files_prove_what_outputs_do_not(tmp_path: Path) -> None:
    """Equal after a cast counts, flat tensors prove nothing, a file of another model is refused."""
    draw, path = np.random.default_rng(0), tmp_path / "x.npz"
    np.savez(path, x=draw.standard_normal((4, 6)).astype(np.float32))
    models = {side: ref.replace(":Net", ":Faded") for side, ref in MODELS.items()}
    left = {
        "body.0.weight": draw.standard_normal((8, 6)).astype(np.float32),
        "body.0.bias": np.zeros(8, np.float32),
        "body.2.weight": np.ones((3, 8), np.float32),
        "body.2.bias": np.zeros(3, np.float32),
    }
    right = {name: np.ascontiguousarray(a.T).astype(np.float16) for name, a in left.items()}
    files = tmp_path / "left.pth", tmp_path / "right.pdparams"
    for file, arrays, container in zip(files, (left, right), ("torch", "paddle"), strict=True):
        state = {name: LazyTensor.of(a) for name, a in arrays.items()}
        codecs.write(codecs.StateDict(state), str(file), format=container)
    found = infer(*map(str, files), **models, inputs=path)
    assert ["body.2" in row for row in found.unproven] == [True]
    assert "the same weights: 1 equal after a cast to float16; 3 are flat" in found.notes[1]
    del state["body.0.bias"]
    codecs.write(codecs.StateDict(state), str(files[1]), format="paddle", force=True)
    with pytest.raises(MappingError, match=r"right\.pdparams: does not fit the model .*missing"):
        infer(*map(str, files), **models, inputs=path)


def test_both_models_or_none() -> None:
    """One model, or inputs without models, is a usage error."""
    with pytest.raises(UsageError, match="needed both"):
        infer(left_model=MODELS["left_model"])
    with pytest.raises(UsageError, match="name both files, or none"):
        infer("a.pth", **MODELS)
    with pytest.raises(UsageError, match="two files, or two models"):
        infer()
    with pytest.raises(UsageError, match="--inputs are for models"):
        infer("a.pth", "b.pdparams", inputs="x.npz")
