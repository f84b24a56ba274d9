"""Experts: many equal layers of one side are one tensor of the other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import porter
from porter import codecs
from porter.errors import MappingError, TableError
from porter.mapping.reader import parse
from porter.planning.custom_table import check_against, custom_architecture, derive
from porter.planning.plan import plan
from porter.planning.recognise import shapes_of
from porter.tensors.lazy import LazyTensor
from porter.tensors.state_dict import StateDict

EXPERTS = "layers.{i}.experts.{e}"
TABLE = f"""
family = "moe"
[layers]
"embed" = "embedding"
"layers.{{i}}.{{n:router,q}}" = "linear"
"{EXPERTS}.{{n:gate,up,down}}" = "linear"
[dialects.stacked]
framework = "torch"
[[dialects.stacked.rows]]
canonical = ["{EXPERTS}.gate", "{EXPERTS}.up"]
path = "layers.{{i}}.experts.gate_up"
stack = "e"
leaves = {{ weight = "", bias = "shift" }}
[[dialects.stacked.rows]]
canonical = "{EXPERTS}.down"
path = "layers.{{i}}.experts.down"
stack = "e"
leaves = {{ weight = "" }}
[dialects.paddle]
framework = "paddle"
like = "stacked"
"""
WIDTH = {"gate": (6, 8), "up": (6, 8), "down": (8, 6)}


def weights(experts: int = 12, width: dict[str, tuple[int, int]] = WIDTH) -> dict[str, np.ndarray]:
    """Return a model of two layers; more than ten experts, whose order by name is another."""
    rng = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {"embed.weight": (5, 8)}
    for i in range(2):
        shapes |= {f"layers.{i}.q.weight": (8, 8), f"layers.{i}.router.weight": (experts, 8)}
        for e in range(experts):
            for name, shape in width.items():
                shapes[f"layers.{i}.experts.{e}.{name}.weight"] = shape
    return {name: rng.standard_normal(shape).astype("f4") for name, shape in shapes.items()}


def lazy(arrays: dict[str, np.ndarray]) -> dict[str, LazyTensor]:
    return {name: LazyTensor.of(array) for name, array in arrays.items()}


@pytest.fixture
def convert(tmp_path: Path) -> Callable[[StateDict, str, str], StateDict]:
    """Write a state dict, convert the file, read the output."""
    (tmp_path / "moe.toml").write_text(TABLE, encoding="utf-8")

    def run(state: StateDict, source: str, target: str) -> StateDict:
        codecs.write(state, str(tmp_path / "in.safetensors"), "safetensors", force=True)
        paths = (tmp_path / "in.safetensors", tmp_path / "out.safetensors")
        porter.convert(str(tmp_path / "moe.toml"), *paths, from_=source, to=target, force=True)
        return porter.open(tmp_path / "out.safetensors")

    return run


SQUARE = dict.fromkeys(WIDTH, (8, 8))


@pytest.mark.parametrize("width", [WIDTH, SQUARE])
def test_each_expert_is_an_entry_of_the_first_axis(
    convert: Callable[[StateDict, str, str], StateDict], width: dict[str, tuple[int, int]]
) -> None:
    """In order of the numbers; Paddle's transposed one by one, square or not; and back."""
    before = weights(width=width)
    for target, turned in (("torch:stacked", False), ("paddle", True)):
        state = convert(StateDict(lazy(before)), "torch", target)
        assert len(state) == 1 + 2 * (2 + 2)
        gate_up = state["layers.1.experts.gate_up"].read()
        for e in (0, 2, 10, 11):
            parts = [before[f"layers.1.experts.{e}.{name}.weight"] for name in ("gate", "up")]
            one = np.concatenate(parts)
            assert np.array_equal(gate_up[e], one.T if turned else one)
        back = convert(state, target, "torch")
        assert set(back) == set(before)
        assert all(np.array_equal(back[name].read(), before[name]) for name in before)


def test_the_stacked_names_of_one_framework_become_those_of_the_other(
    convert: Callable[[StateDict, str, str], StateDict],
) -> None:
    """Stack to stack: unstacked, transposed and stacked again."""
    before = convert(StateDict(lazy(weights())), "torch", "torch:stacked")
    arrays = {name: before[name].read() for name in before}
    after = convert(StateDict(lazy(arrays)), "torch:stacked", "paddle")
    for name in ("layers.0.experts.gate_up", "layers.0.experts.down"):
        assert np.array_equal(after[name].read(), arrays[name].swapaxes(1, 2))


def without(*parts: str) -> dict[str, np.ndarray]:
    return {name: one for name, one in weights().items() if not any(p in name for p in parts)}


@pytest.mark.parametrize(
    ("arrays", "problem"),
    [
        (without("0.experts.7.up"), r"layers.0.experts.7.up.weight is missing"),
        (without("0.experts.7.gate", "0.experts.7.up"), r"number 7 of 0 to 11 is missing for lay"),
        (without("1.experts.0.down"), r"number 0 of 0 to 11 is missing for layers.1.experts.down"),
        (
            {**weights(), "layers.1.experts.3.down.weight": np.zeros((8, 5), "f4")},
            r"number 3 has \[8, 5\], number 0 \[8, 6\]",
        ),
        (
            {**weights(), "layers.1.experts.99999999999.down.weight": np.zeros((8, 6), "f4")},
            r"number 12, 13, .* of 0 to 99999999999 is missing",
        ),
    ],
)
def test_an_expert_that_is_missing_is_named(arrays: dict[str, np.ndarray], problem: str) -> None:
    """A hole, a part of an expert, another shape, a number far away: nothing is made up."""
    source = shapes_of(StateDict(lazy(arrays)))
    with pytest.raises(MappingError, match=problem):
        plan(custom_architecture(parse(TABLE, "t"), source, "torch"), source, "torch", "stacked")


def test_a_shape_that_promises_too_much_is_refused() -> None:
    """The number of layers of a stack comes from a file."""
    source = {"layers.0.experts.down": ("float32", (1 << 40, 1, 1))}
    with pytest.raises(MappingError, match="1,099,511,627,776 layers"):
        derive(parse(TABLE, "t"), source, "stacked")


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('stack = "e"', 'stack = "x"', r"needs \{x\} in each name"),
        ("experts.gate_up", "experts.{e}.gate_up", r"the stacked tensor has no \{e\}"),
        (f'canonical = "{EXPERTS}.down"', 'canonical = "layers.{i}.q"', r"needs \{e\}"),
        ('stack = "e"\nleaves = { weight = "" }', "", "the same placeholders"),
    ],
)
def test_a_stack_that_cannot_be_is_refused(old: str, new: str, problem: str) -> None:
    """The placeholder numbers each canonical layer and is gone on the other side."""
    with pytest.raises(TableError, match=problem):
        parse(TABLE.replace(old, new), "t")


def test_a_model_of_256_experts_is_linked_both_ways() -> None:
    """The names and shapes of 671 thousand million parameters: total and exact, both ways."""
    hidden, inner = 7168, 2048
    shapes: dict[str, tuple[int, ...]] = {"embed.weight": (129_280, hidden)}
    for i in range(58):
        shapes[f"layers.{i}.router.weight"] = (256, hidden)
        for e in range(256):
            for name in ("gate", "up"):
                shapes[f"layers.{i}.experts.{e}.{name}.weight"] = (inner, hidden)
            shapes[f"layers.{i}.experts.{e}.down.weight"] = (hidden, inner)
    source = {name: ("bfloat16", shape) for name, shape in shapes.items()}
    table = parse(TABLE, "moe.toml")
    proofs = {proof.dialect: proof for proof in check_against(table, source, "torch")}
    assert all(proof.holds for proof in proofs.values())
    assert proofs["torch"].tensors == 44_603
    assert proofs["stacked"].tensors == proofs["paddle"].tensors == 1 + 58 * 3


def test_a_stack_is_written_an_expert_at_a_time() -> None:
    """Of a stack of 64 MB one expert is held, transposed or not."""
    before = LazyTensor.of(np.zeros((1, 1), "f4"))
    read = []

    def expert(number: int) -> LazyTensor:
        def make() -> np.ndarray:
            read.append(number)
            return np.full((512, 512), number, "f4")

        return LazyTensor(before.dtype, (512, 512), make)

    arrays = {f"layers.0.experts.{e}.down.weight": expert(e) for e in range(64)}
    source = shapes_of(StateDict(arrays))
    for target in ("stacked", "paddle"):
        read.clear()
        architecture = custom_architecture(parse(TABLE, "t"), source, "torch")
        stacked = plan(architecture, source, "torch", target).apply(arrays)
        tensor = stacked["layers.0.experts.down"]
        assert (tensor.shape, tensor.held) == ((64, 512, 512), 1 << 20)
        for at, block in enumerate(tensor.blocks(1 << 20)):
            assert len(read) == at + 1
            assert np.frombuffer(block, "f4")[0] == at
