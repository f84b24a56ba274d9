"""Rows with placeholders for names of flat lists."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from porter.infer.draft import Draft
from porter.infer.generalise import Item, generalise
from porter.infer.models import more_than_rounding, other_names
from porter.infer.render import render
from porter.mapping.reader import load
from porter.planning.custom_table import custom_architecture
from porter.planning.plan import plan
from porter.planning.recognise import shapes_of
from porter.planning.target import Target, mismatches
from porter.tensors.lazy import LazyTensor
from porter.tensors.state_dict import StateDict


def rows(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    wide = generalise(Item((left,), (right,), left.rpartition(".")[2]) for left, right in pairs)
    return [(one.canonical[0], one.dialect[0]) for one in wide]


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        (
            [(f"net.{3 * i}.w", f"features.{4 * i + 1}.w") for i in range(4)],
            [("net.{3i:0,1,2,3}.w", "features.{4i+1:0,1,2,3}.w")],
        ),
        ([(f"convs.{i}.w", f"net.{3 * i}.w") for i in range(4)], [("convs.{i}.w", "net.{3i}.w")]),
        (
            [(f"layer{s}.{i}.w", f"blocks.{3 * s + i - 3}.w") for s in (1, 2) for i in range(3)],
            [
                ("layer1.{i:0,1,2}.w", "blocks.{i:0,1,2}.w"),
                ("layer2.{i:0,1,2}.w", "blocks.{i+3:0,1,2}.w"),
            ],
        ),
        (
            [(f"net.{n}.w", f"convs.{i}.w") for i, n in enumerate((0, 2, 5, 8, 11, 14))],
            [("net.0.w", "convs.0.w"), ("net.{3i+2:0,1,2,3,4}.w", "convs.{i+1:0,1,2,3,4}.w")],
        ),
        (
            [(f"net.{3 * i + j}.w", f"mods.{4 * i + j + 1}.w") for i in range(3) for j in (0, 1)],
            [
                ("net.{3i:0,1,2}.w", "mods.{4i+1:0,1,2}.w"),
                ("net.{3i+1:0,1,2}.w", "mods.{4i+2:0,1,2}.w"),
            ],
        ),
        ([("net.0.w", "a.1.w"), ("net.3.w", "a.2.w")],
         [("net.0.w", "a.1.w"), ("net.3.w", "a.2.w")]),
    ],
)  # fmt: skip
def test_flat_lists_are_rows_that_count_steps(
    pairs: list[tuple[str, str]], expected: list[tuple[str, str]]
) -> None:
    """Three names on a line are a row; two are written out."""
    found = rows(pairs)
    assert [row for row in found if row not in expected] == []
    assert len(found) == len(expected)


def test_a_table_with_steps_converts_both_ways(tmp_path: Path) -> None:
    """Canonical names may count steps where they list their numbers."""
    path = tmp_path / "net.toml"
    path.write_text(
        '[layers]\n"net.{3i:0,1,2}" = "linear"\n"net.{3i+1:0,1,2}" = "norm"\n'
        '[dialects.paddle]\nframework = "paddle"\n[dialects.paddle.names]\n'
        '"net.{3i:0,1,2}" = "convs.{i}"\n"net.{3i+1:0,1,2}" = "norms.{2i+1}"\n'
    )
    state = {}
    for i in range(3):
        state[f"net.{3 * i}.weight"] = np.full((2, 3), i, np.float32)
        state[f"net.{3 * i + 1}.weight"] = np.full(2, i, np.float32)
    source = StateDict({name: LazyTensor.of(a) for name, a in state.items()})
    shapes = shapes_of(source)
    architecture = custom_architecture(load(path), shapes, "torch")
    made = plan(architecture, shapes, "torch", "paddle").apply(source)
    assert list(made) == [
        n for i in range(3) for n in (f"convs.{i}.weight", f"norms.{2 * i + 1}.weight")
    ]
    assert made["convs.2.weight"].read().tolist() == [[2, 2]] * 3
    back = plan(architecture, shapes_of(made), "paddle", "torch").apply(made)
    assert {name: t.read().tolist() for name, t in back.items()} == {
        name: a.tolist() for name, a in state.items()
    }


def test_a_tensor_with_three_names_has_two_copies() -> None:
    """T5 stores its words for the encoder, the decoder and the head: each name has its row."""
    names = {"encoder.words": "shared", "decoder.words": "shared", "head.0.w": "out.0.w"}
    names["head.1.w"] = "out.1.w"
    text = render(Draft((), (), (), (), {}, names), "paddle", "paddle", "t5", ())
    rows = [line for line in text.splitlines() if "copy" in line]
    assert [(row.split('"')[1], row.split('"')[-2]) for row in rows] == [
        ("encoder.words", "shared"), ("decoder.words", "shared"), ("head.{i}.w", "out.{i}.w"),
    ]  # fmt: skip


def test_names_of_one_tensor_are_found_among_those_that_are_free() -> None:
    """The first name may be free and a second one paired, or the other way round."""
    side = {"tensors": ["a", "b", "c", "d"], "aliases": {"b": "a", "d": "c"}}
    assert other_names(side, ["a"]) == {"a": "b"}
    assert other_names(side, ["b", "d"]) == {"b": "a", "d": "c"}
    assert other_names(side, ["a", "b"]) == {}


def test_a_target_takes_a_tensor_from_any_of_its_names() -> None:
    """Whichever name of a shared tensor the conversion writes, the others are the same tensor."""
    one = LazyTensor.of(np.ones(3, np.float32))
    target = Target("a model", dict.fromkeys("abc", one), set("abc"), {"b": "a", "c": "a"})
    assert [target.twin(name, {"b": one}) for name in "ac"] == ["b", "b"]
    assert mismatches({"c": one}, target) == []
    assert mismatches({}, target) == ["3 missing: a, b, c"]


def test_models_that_agree_by_less_than_rounding_are_noted() -> None:
    """GELU and its approximation are within the limit, and further apart than rounding."""
    (note,) = more_than_rounding(6.8e-5, "float64")
    assert note.startswith("6.8e-05 is more than rounding in float64")
    quiet = [(2e-7, "float64"), (6.8e-5, "float32"), (0.1, "float64")]
    assert [more_than_rounding(*case) for case in quiet] == [()] * 3
