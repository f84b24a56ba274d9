"""Tables of the user's own: used exactly as built-in ones, and refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import porter
from porter.errors import MappingError, UsageError
from porter.mapping.reader import load, parse
from porter.planning.custom_table import check_against, derive, unknown_operations
from porter.planning.recognise import shapes_of
from porter.tensors.state_dict import StateDict

TABLE = """
family = "mine"
[tensors]
"pos" = "parameter"
[layers]
"embed" = "embedding"
"stem.{n:0,3}" = "conv"
"stem.{n:1,4}" = "batchnorm"
"up" = "conv_transpose"
"blocks.{i}.{name:qkv,q,kv}" = "linear"
"blocks.{i}.norm" = "norm"
"blocks.{i}.mlp.{name:fc1,fc2}" = "linear"
"head" = "linear"
[dialects.port]
framework = "paddle"
[dialects.port.names]
"blocks.{i}.qkv" = ["layers.{i}.wq", "layers.{i}.wk", "layers.{i}.wv"]
"blocks.{i}.mlp.{name:fc1,fc2}" = "layers.{i}.{name}"
"blocks.{i}.norm" = "layers.{i}.ln"
"head" = { path = "out", leaves = { bias = "offset" } }
"pos" = { path = "position", ops = ["squeeze 0", "transpose"] }
[[dialects.port.rows]]
canonical = ["blocks.{i}.q", "blocks.{i}.kv"]
path = "layers.{i}.qkv2"
join = "concat 0 sizes 8,16"
[dialects.port.extra]
"layers.{i}.mask" = "a buffer"
[dialects.port.absent]
"embed.weight" = { reason = "it has none", fill = 0 }
"""


def weights() -> dict[str, np.ndarray]:
    """Return a small model that has every kind of layer."""
    rng = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {"embed.weight": (7, 8), "pos": (1, 5, 8)}
    shapes |= {"stem.0.weight": (4, 3, 3, 3), "stem.3.weight": (8, 4, 3, 3)}
    for place, size in ((1, 4), (4, 8)):
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"stem.{place}.{leaf}"] = (size,)
    shapes["up.weight"] = (8, 4, 2, 2)
    for i in range(2):
        for name, rows in (("qkv", 24), ("q", 8), ("kv", 16), ("mlp.fc1", 8), ("mlp.fc2", 8)):
            shapes |= {f"blocks.{i}.{name}.weight": (rows, 8), f"blocks.{i}.{name}.bias": (rows,)}
        shapes |= {f"blocks.{i}.norm.weight": (8,), f"blocks.{i}.norm.bias": (8,)}
    shapes |= {"head.weight": (3, 8), "head.bias": (3,)}
    found = {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    counters = {f"stem.{n}.num_batches_tracked": np.array(0, np.int64) for n in (1, 4)}
    return found | counters


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """The table as a file."""
    path = tmp_path / "mine.toml"
    path.write_text(TABLE)
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """The model, saved by torch."""
    import torch

    path = tmp_path / "in.pth"
    torch.save({n: torch.from_numpy(a) for n, a in weights().items()}, path)
    return path


def same(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> None:
    assert set(left) == set(right)
    for name in left:
        assert left[name].dtype == right[name].dtype, name
        assert left[name].shape == right[name].shape, name
        assert left[name].tobytes() == right[name].tobytes(), name


def test_a_table_of_one_s_own_goes_to_paddle_and_back(
    table: Path, source: Path, tmp_path: Path
) -> None:
    """Linear layers are transposed, embeddings are not, batch norm has Paddle's names."""
    import paddle

    out, back = tmp_path / "out.pdparams", tmp_path / "back.pth"
    done = porter.convert(str(table), source, out, from_="torch", to="paddle")
    assert done.weights is not None
    assert done.weights.holds
    assert done.verdict is None
    found = {name: value.numpy() for name, value in paddle.load(str(out)).items()}
    mine = weights()
    np.testing.assert_array_equal(found["head.weight"], mine["head.weight"].T)
    np.testing.assert_array_equal(found["embed.weight"], mine["embed.weight"])
    np.testing.assert_array_equal(found["up.weight"], mine["up.weight"])
    np.testing.assert_array_equal(found["stem.1._variance"], mine["stem.1.running_var"])
    assert not any("num_batches_tracked" in name for name in found)
    porter.convert(str(table), out, back, from_="paddle", to="torch")
    same(porter.open(back).arrays(), mine)


def test_splits_joins_and_operations_go_there_and_back(
    table: Path, source: Path, tmp_path: Path
) -> None:
    """qkv splits in three, q and kv join, leaves are renamed, a bare tensor loses an axis."""
    out, back = tmp_path / "out.pdparams", tmp_path / "back.pth"
    porter.convert(str(table), source, out, from_="torch", to="paddle:port")
    found, mine = porter.open(out).arrays(), weights()
    np.testing.assert_array_equal(found["layers.1.wk.weight"], mine["blocks.1.qkv.weight"][8:16].T)
    joined = np.concatenate([mine["blocks.0.q.weight"], mine["blocks.0.kv.weight"]])
    np.testing.assert_array_equal(found["layers.0.qkv2.weight"], joined.T)
    np.testing.assert_array_equal(found["out.offset"], mine["head.bias"])
    np.testing.assert_array_equal(found["position"], mine["pos"][0].T)
    np.testing.assert_array_equal(found["layers.1.fc2.bias"], mine["blocks.1.mlp.fc2.bias"])
    assert "embed.weight" not in found
    done = porter.convert(str(table), out, back, from_="paddle:port", to="torch")
    del mine["embed.weight"]
    same(porter.open(back).arrays(), mine)
    assert any(note.startswith("embed.weight is not written") for note in done.notes)


def test_two_dialects_compose(table: Path, source: Path, tmp_path: Path) -> None:
    """Paddle to the port goes through the canonical names, bit for bit as the straight way."""
    paths = [tmp_path / f"{n}.pdparams" for n in range(3)]
    porter.convert(str(table), source, paths[0], from_="torch", to="paddle")
    porter.convert(str(table), paths[0], paths[1], from_="paddle", to="paddle:port")
    porter.convert(str(table), source, paths[2], from_="torch", to="paddle:port")
    same(porter.open(paths[1]).arrays(), porter.open(paths[2]).arrays())


def state(**changes: np.ndarray | None) -> StateDict:
    """Return the model with tensors replaced, added or (None) left out; `__` stands for a dot."""
    arrays: dict[str, Any] = weights()
    for name, value in changes.items():
        arrays[name.replace("__", ".")] = value
    return StateDict.of({n: a for n, a in arrays.items() if a is not None})


def test_extra_tensors_are_left_out_and_unknown_ones_refused(table: Path, tmp_path: Path) -> None:
    """What the table gives a reason for is dropped; what it does not know is an error."""
    made = load(table)
    there = dict.fromkeys(["layers.0.mask", "layers.0.ln.weight"], ("float32", (8,)))
    names = [e.name for e in derive(made, there, "port").tensors]
    assert names == ["blocks.0.norm.weight"]
    with pytest.raises(MappingError, match=r"no row .* covers other\.mask in dialect port"):
        derive(made, {**there, "other.mask": ("float32", (8,))}, "port")


@pytest.mark.parametrize(
    ("changes", "to", "message"),
    [
        ({"blocks__0__kv__weight": None}, "port", r"blocks\.0\.kv\.weight is missing for layers"),
        ({"pos": np.ones((2, 5, 8), np.float32)}, "port", r"pos \[2, 5, 8\]: .* must be 1"),
        ({"blocks__0__qkv__weight": np.ones((25, 8), np.float32)}, "port", "multiple of 3"),
        ({"head__weight": np.ones(3, np.float32)}, "paddle", "2 axes expected"),
        ({"blocks__0__kv__bias": np.ones(16, np.float16)}, "port", "one dtype"),
        ({"stranger__weight": np.ones(3, np.float32)}, "paddle", "covers stranger.weight"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_one_line(
    table: Path, tmp_path: Path, changes: dict[str, Any], to: str, message: str
) -> None:
    """The error names tensor and row, and nothing is written."""
    from porter import codecs

    source, out = tmp_path / "in.pth", tmp_path / "out.pdparams"
    codecs.write(state(**changes), str(source), "torch")
    with pytest.raises(MappingError, match=message) as caught:
        porter.convert(str(table), source, out, from_="torch", to=f"paddle:{to}")
    assert "\n" not in str(caught.value)
    assert not out.exists()


@pytest.mark.parametrize(
    "options", [{"num_classes": 3}, {"image_size": 224}, {"adapt": True, "num_classes": 3}]
)
def test_what_needs_a_reference_model_is_refused(
    table: Path, source: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    """A table does not know classes or image sizes, and does not pretend to."""
    with pytest.raises(UsageError, match="needs a variant"):
        porter.convert(str(table), source, tmp_path / "o.pth", from_="torch", to="torch", **options)


def test_without_an_input_there_is_nothing_to_convert(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """porter cannot seed a model that it does not know."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="needs an INPUT"):
        porter.convert(str(table), from_="torch", to="paddle")


def test_operations_of_a_bare_tensor_act_once() -> None:
    """A transpose done twice would be none at all, and nobody would see it."""
    from porter.mapping.linking import link_dialect

    text = '[tensors]\n"t" = "parameter"\n[dialects.d]\nframework = "torch"\n'
    text += '[dialects.d.names]\n"t" = { path = "u", ops = ["transpose"] }'
    made = link_dialect(parse(text, "t.toml"), "d", ["t"], {})
    assert [link.how for link in made.links] == ["transpose"]


def test_a_hole_with_words_has_them_on_both_sides(table: Path) -> None:
    """`{name}` in a dialect stands for the words of `{name:fc1,fc2}`, not for a number."""
    names = [
        e.name
        for e in derive(load(table), {"layers.0.fc2.bias": ("float32", (8,))}, "port").tensors
    ]
    assert names == ["blocks.0.mlp.fc2.bias"]


def test_a_moved_number_is_held_to_the_canonical_side() -> None:
    """`{n-1}` of `{n:2,3}` does not stand for the stage before the first."""
    text = """
    [layers]
    "embed{n:1,2,3}" = "norm"
    [dialects.d]
    framework = "torch"
    [dialects.d.names]
    "embed1" = "first"
    "embed{n:2,3}" = "stages.{n-1}"
    """
    table = parse(text, "t.toml")
    made = derive(table, {"stages.1.weight": ("float32", (3,))}, "d")
    assert [e.name for e in made.tensors] == ["embed2.weight"]
    with pytest.raises(MappingError, match=r"covers stages\.0\.weight"):
        derive(table, {"stages.0.weight": ("float32", (3,))}, "d")


CASES = """
family = "two"
[tensors]
"token" = "parameter"
[layers]
"head" = "linear"
[dialects.lib]
framework = "torch"
names.head = "plain.head"
[[dialects.lib.cases]]
when = "token"
names = { "token" = "distilled.token", "head" = "distilled.head" }
"""


@pytest.mark.parametrize(
    ("names", "canonical"),
    [
        (["plain.head.weight"], ["head.weight"]),
        (["distilled.head.weight", "distilled.token"], ["head.weight", "token"]),
    ],
)
def test_the_case_of_a_checkpoint_is_recognised(names: list[str], canonical: list[str]) -> None:
    """Each form of a dialect is tried: the one whose rows cover the file and that applies."""
    source = dict.fromkeys(names, ("float32", (4, 4)))
    skeleton = derive(parse(CASES, "t.toml"), source, "lib")
    assert [tensor.name for tensor in skeleton.tensors] == canonical


def test_names_of_a_case_that_does_not_apply_are_unknown() -> None:
    """Without the tensor of the case, its names mean nothing; the nearest form is reported."""
    table = parse(CASES, "t.toml")
    with pytest.raises(MappingError, match=r"covers distilled\.head\.weight in dialect lib"):
        derive(table, {"distilled.head.weight": ("float32", (4, 4))}, "lib")
    mixed = dict.fromkeys(["distilled.token", "distilled.head.weight", "x"], ("float32", (4, 4)))
    with pytest.raises(MappingError, match="covers x in dialect lib"):
        derive(table, mixed, "lib")


def test_a_name_that_the_dialect_renamed_is_unknown_there(table: Path) -> None:
    """A file in the port's naming has no `pos`: taking it would be a guess."""
    with pytest.raises(MappingError, match="covers pos"):
        derive(load(table), {"pos": ("float32", (1, 5, 8))}, "port")


def test_a_table_is_held_to_a_checkpoint(table: Path) -> None:
    """Every dialect is proven both ways for the names and shapes of one file."""
    made, mine = load(table), shapes_of(state())
    proofs = list(check_against(made, mine))
    assert [(p.dialect, p.holds) for p in proofs] == [
        ("torch", True), ("paddle", True), ("port", True)
    ]  # fmt: skip
    broken = {**mine, "pos": ("float32", (2, 5, 8))}
    assert {p.dialect: p.holds for p in check_against(made, broken)} == {
        "torch": True, "paddle": True, "port": False
    }  # fmt: skip
    with pytest.raises(MappingError, match="fits none"):
        list(check_against(made, {"stranger": ("float32", (1,))}))


def test_operations_that_cannot_be_are_named_without_a_checkpoint(table: Path) -> None:
    """A verb that there is not, a size that only a variant has."""
    assert unknown_operations(load(table)) == []
    wrong = TABLE.replace("squeeze 0", "squash 0").replace("8,16", "dim,16")
    found = unknown_operations(parse(wrong, "t.toml"))
    assert len(found) == 2
    assert "squash" in found[0]
    assert "dim" in found[1]
