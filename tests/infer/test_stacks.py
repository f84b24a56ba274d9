"""Inferred tables have a row for experts that one of the files stacks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import porter
from porter import codecs
from porter.infer.propose import converted, infer
from porter.infer.stacks import apart
from porter.infer.tensor_file import TensorFile
from porter.mapping.conventions import conventions
from porter.mapping.reader import parse
from porter.tensors.lazy import LazyTensor
from porter.tensors.state_dict import StateDict
from tests.planning.test_stacks import SQUARE, TABLE, WIDTH, weights


def sides(width: dict[str, tuple[int, int]], dialect: str) -> tuple[StateDict, StateDict]:
    """Return a model of experts, one by one and stacked."""
    single = StateDict.of(weights(width=width))
    return single, StateDict.of(converted(TABLE, single, ("torch", dialect)).arrays())


@pytest.mark.parametrize("width", [WIDTH, SQUARE])
@pytest.mark.parametrize("dialect", ["stacked", "paddle"])
@pytest.mark.parametrize("is_left", [False, True])
def test_equal_values_prove_a_stack(
    width: dict[str, tuple[int, int]], dialect: str, is_left: bool, tmp_path: Path
) -> None:
    """Whichever file has it, gate and up together, Paddle's transposed; files convert both ways."""
    single, stacked = sides(width, dialect)
    if dialect == "paddle":
        framework = {"left_framework" if is_left else "right_framework": "paddle"}
    else:
        framework = {}
    found = infer(*((stacked, single) if is_left else (single, stacked)), **framework)
    assert found.proven
    assert found.swapped is is_left
    rows = parse(found.text, "t").dialects[found.dialect].rows
    stacks = {row.dialect[0].text: (len(row.canonical), row.stack) for row in rows if row.stack}
    assert stacks == {"layers.{i}.experts.gate_up": (2, "j"), "layers.{i}.experts.down": (1, "j")}
    (tmp_path / "t.toml").write_text(found.text)
    name = f"{'paddle' if dialect == 'paddle' else 'torch'}:{found.dialect}"
    for source, target, ends in (
        (single, stacked, ("torch", name)),
        (stacked, single, (name, "torch")),
    ):
        codecs.write(source, str(tmp_path / "in.safetensors"), "safetensors", force=True)
        paths = (tmp_path / "in.safetensors", tmp_path / "out.safetensors")
        done = porter.convert(
            str(tmp_path / "t.toml"), *paths, from_=ends[0], to=ends[1], force=True
        )
        assert done.weights is not None
        assert done.weights.holds
        out = porter.open(tmp_path / "out.safetensors").arrays()
        assert set(out) == set(target)
        assert all(np.array_equal(out[n], target[n].read()) for n in out)


@pytest.mark.parametrize("width", [WIDTH, SQUARE])
@pytest.mark.parametrize("is_left", [False, True])
@pytest.mark.parametrize("leaf", ["", ".weight"])
def test_stacks_of_pytorch_s_file_only(
    width: dict[str, tuple[int, int]], is_left: bool, leaf: str, tmp_path: Path
) -> None:
    """Paddle has the experts one by one, each transposed; both files convert to each other."""
    single, stacked = sides(width, "stacked")
    stacked = StateDict.of(
        {f"{n}{leaf}" if "experts" in n else n: t.read() for n, t in stacked.items()}
    )
    paddle = StateDict.of(
        {n: t.read() if "embed" in n else t.read().T.copy() for n, t in single.items()}
    )
    framework = {"left_framework" if is_left else "right_framework": "paddle"}
    found = infer(*((paddle, stacked) if is_left else (stacked, paddle)), **framework)
    assert found.proven
    assert found.exact
    assert any("torch:stacked" in note for note in found.notes)
    rows = parse(found.text, "t").dialects["stacked"].rows
    assert {row.dialect[0].text for row in rows if row.stack} == {
        "layers.{i}.experts.gate_up", "layers.{i}.experts.down"
    }  # fmt: skip
    (tmp_path / "t.toml").write_text(found.text)
    for source, target, from_, to in (
        (stacked, paddle, "torch:stacked", "paddle"),
        (paddle, stacked, "paddle", "torch:stacked"),
    ):
        suffixes = ("pth", "pdparams") if to == "paddle" else ("pdparams", "pth")
        paths = [tmp_path / f"{end}.{suffix}" for end, suffix in zip("io", suffixes, strict=True)]
        codecs.write(source, str(paths[0]), from_.partition(":")[0], force=True)
        done = porter.convert(str(tmp_path / "t.toml"), *paths, from_=from_, to=to, force=True)
        assert done.weights is not None
        assert done.weights.holds
        out = porter.open(paths[1]).arrays()
        assert set(out) == set(target)
        assert all(np.array_equal(out[n], target[n].read()) for n in out)


def test_layers_that_are_stacked() -> None:
    """What is numbered may be the blocks of a model as well, its biases and norms with them."""
    rng = np.random.default_rng(0)
    shapes = {"q.weight": (6, 4), "q.bias": (6,), "norm.weight": (4,), "norm.bias": (4,)}
    single = {
        f"blocks.{i}.{name}": rng.standard_normal(shape).astype("f4")
        for i in range(12) for name, shape in shapes.items()
    }  # fmt: skip
    stacked = {
        f"blocks.{n}": np.stack([single[f"blocks.{i}.{n}"] for i in range(12)]) for n in shapes
    }
    found = infer(StateDict.of(single), StateDict.of(stacked))
    assert found.proven
    assert found.text.count('stack = "i"') == 2


def test_parts_that_follow_no_rule_are_no_stack() -> None:
    """Experts that the stack has in another order are not called one; nothing is made up."""
    single, stacked = sides(WIDTH, "stacked")
    arrays = {name: tensor.read() for name, tensor in stacked.items()}
    arrays["layers.0.experts.down"] = arrays["layers.0.experts.down"][::-1].copy()
    found = infer(single, StateDict.of(arrays))
    assert not found.proven
    assert "stack" not in found.text
    assert any("experts.down" in line for line in found.unmatched)


def test_one_value_more_or_less_is_seen() -> None:
    """A stack with another element is not one of these experts."""
    single, stacked = sides(WIDTH, "stacked")
    arrays = {name: tensor.read().copy() for name, tensor in stacked.items()}
    arrays["layers.1.experts.gate_up"][7, 3, 3] += 1
    known = conventions()["torch"]
    files = [
        TensorFile(StateDict({n: LazyTensor.of(a) for n, a in one.items()}), known)
        for one in (single.arrays(), arrays)
    ]
    parts = apart(*files)
    assert parts is not None
    assert "layers.1.experts.gate_up" in parts
    assert "layers.0.experts.gate_up@11" in parts
    assert not infer(*(file.state for file in files)).proven
