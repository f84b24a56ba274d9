"""Inferred tables: what values prove is exact, what they do not prove is said."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest

import porter
from porter.errors import MappingError, UsageError
from porter.infer.evidence import fingerprint, relation
from porter.infer.generalise import Item, generalise
from porter.infer.propose import Inferred, infer
from porter.mapping.reader import parse
from porter.mapping.table import CANONICAL
from porter.planning.fit import fit
from porter.tensors.lazy import LazyTensor
from porter.tensors.state_dict import StateDict
from porter.zoo.architectures import families, find
from porter.zoo.seeded import seeded

ALL = [
    (smallest.name, dialect)
    for variants in families().values()
    for smallest in [min(variants, key=lambda v: v.parameters)]
    if smallest.module
    for dialect in smallest.dialects
    if dialect != CANONICAL and not smallest.table.dialect(dialect).folds
]


@cache
def canonical(variant: str, seed: int = 0) -> StateDict:
    return StateDict.of(seeded(find(variant), seed=seed).arrays())


def in_dialect(state: StateDict, variant: str, dialect: str) -> StateDict:
    """Return a canonical state dict in a dialect, by the built-in table."""
    made = fit(find(variant), state, CANONICAL, dialect).plan
    return StateDict.of(made.apply(state).arrays())


def fresh(state: StateDict) -> StateDict:
    """Return weights as they are before training: norms of one, biases of zero."""
    arrays = state.arrays()
    for name, array in arrays.items():
        if "norm" in name and name.endswith(".weight"):
            arrays[name] = np.ones_like(array)
        elif name.endswith((".bias", "_mean", "cls_token")):
            arrays[name] = np.zeros_like(array)
    return StateDict.of(arrays)


def links(found: Inferred) -> dict[str, str]:
    """Return {canonical text: dialect text} of the rows that the table has."""
    table = parse(found.text, "inferred.toml")
    return {
        " + ".join(p.text for p in row.canonical): " + ".join(p.text for p in row.dialect)
        for row in table.dialects[found.dialect].rows
    }


REGROUPED = ("swin-tiny-w7-224", "mmpretrain")
"""Its patch merge has the channels in another order."""


@pytest.mark.parametrize(("variant", "dialect"), ALL)
def test_equal_values_give_every_built_in_dialect_back(variant: str, dialect: str) -> None:
    """From two files alone the inferred table converts as the built-in one does, bit for bit."""
    left = canonical(variant)
    found = infer(left, in_dialect(left, variant, dialect))
    if (variant, dialect) == REGROUPED:
        # The order of channels within an axis is not tried: it is named, not proposed as proven.
        assert len(found.problems) == 2
        assert all("downsample" in line for line in found.problems)
        assert not found.exact
        return
    assert found.unproven == ()
    assert found.problems == ()
    assert found.exact
    buffers = ("relative_position_index", "attn_mask")  # not in every file, so not in every table
    assert all(line.endswith(buffers) for line in found.unmatched)


@pytest.mark.parametrize(
    ("variant", "to"),
    [("vit-tiny-p16-224", "paddle"), ("vit-tiny-p16-224", "torch:hf-v4"),
     ("shunted-t", "paddle"), ("vit-tiny-p16-224", "numpy:google")],
)  # fmt: skip
def test_an_inferred_table_converts_files(variant: str, to: str, tmp_path: Path) -> None:
    """Written to a file it is a user's table: both ways, bit for bit."""
    suffix = {"t": "pth", "p": "pdparams", "n": "npz"}[to[0]]
    left, right = tmp_path / "left.pth", tmp_path / f"right.{suffix}"
    porter.init(variant, left)
    porter.init(variant, right, to=to)
    if suffix == "pdparams":  # the counters that Paddle does not keep come back as zeros
        porter.convert(variant, right, left, from_=to, to="torch", verify=False, force=True)
    found = infer(left, right)
    assert found.proven
    table = tmp_path / "table.toml"
    table.write_text(found.text)
    name = f"{to.partition(':')[0]}:{found.dialect}"
    for source, target, ends in ((left, right, ("torch", name)), (right, left, (name, "torch"))):
        out = tmp_path / f"out{target.suffix}"
        done = porter.convert(str(table), source, out, from_=ends[0], to=ends[1], force=True)
        assert done.weights is not None
        assert done.weights.holds
        assert porter.diff(out, target).equal


def test_rows_are_as_a_person_would_write_them() -> None:
    """Layers alike share a row with holes; nothing is linked that the conventions link."""
    left = canonical("vit-tiny-p16-224")
    assert links(infer(left, in_dialect(left, "vit-tiny-p16-224", "paddle"))) == {}
    rows = links(infer(left, in_dialect(left, "vit-tiny-p16-224", "hf-v4")))
    assert len(rows) == 11
    assert rows["blocks.{i}.norm2"] == "vit.encoder.layer.{i}.layernorm_after"
    assert rows["blocks.{i}.attn.qkv"].count(" + ") == 2
    assert rows["head"] == "classifier"


def test_what_equal_values_do_not_tell_is_unproven() -> None:
    """Fresh norms are all ones: where they go is a guess, and said to be one."""
    left = fresh(canonical("vit-tiny-p16-224"))
    found = infer(left, in_dialect(left, "vit-tiny-p16-224", "hf-v4"))
    assert found.exact
    assert not found.proven
    doubted = {line.partition(" = ")[0] for line in found.unproven}
    assert doubted == {"cls_token", "blocks.{i}.norm1", "blocks.{i}.norm2", "norm"}
    marked = [line for line in found.text.splitlines() if "# unproven" in line]
    assert len(marked) == 4
    proven = [line for line in found.text.splitlines() if "mlp.fc1" in line]
    assert not any("unproven" in line for line in proven)


def test_a_bias_of_zeros_is_proven_beside_its_weight() -> None:
    """One parameter of a layer says where the others are."""
    left = fresh(canonical("vit-tiny-p16-224"))
    found = infer(left, in_dialect(left, "vit-tiny-p16-224", "hf-v4"))
    assert not any(line.startswith("blocks.{i}.attn") for line in found.unproven)


@pytest.mark.parametrize("alphabetical", [False, True])
@pytest.mark.parametrize("dialect", ["hf-v4", "paddlevit"])
def test_other_weights_are_never_proven(dialect: str, alphabetical: bool) -> None:
    """Two trainings of one model give a whole table, of which each row is doubted."""
    left = canonical("vit-tiny-p16-224")
    other = in_dialect(canonical("vit-tiny-p16-224", seed=1), "vit-tiny-p16-224", dialect)
    right = StateDict({n: other[n] for n in sorted(other)}) if alphabetical else other
    found = infer(left, right)
    assert not found.exact
    assert found.problems == ()
    assert found.unmatched == ()
    assert len(found.unproven) == found.rows
    same = infer(left, in_dialect(left, "vit-tiny-p16-224", dialect))
    assert links(found).items() >= links(same).items()


def test_a_tensor_of_one_side_alone_is_listed() -> None:
    """It is left out by the table, for a reason that says that nobody knows."""
    left = canonical("shunted-t").arrays()
    right = dict(left)
    left["teacher.weight"] = np.arange(6, dtype=np.float32).reshape(2, 3)
    right["queue"] = np.arange(5, dtype=np.float32)
    found = infer(StateDict.of(left), StateDict.of(right))
    assert found.unmatched == ("left teacher.weight", "right queue")
    assert not found.proven
    table = parse(found.text, "t")
    assert [a.path.text for a in table.dialects["other"].absent] == ["teacher.weight"]
    assert [e.path.text for e in table.dialects["other"].extra] == ["queue"]


def test_one_altered_value_leaves_its_tensor_untied() -> None:
    """Where everything else is the same, a near miss is no match."""
    left = canonical("shunted-t").arrays()
    right = {name: array.copy() for name, array in left.items()}
    right["block1.0.attn.q.weight"][0, 0] += 1
    found = infer(StateDict.of(left), StateDict.of(right))
    assert not found.proven
    assert "left block1.0.attn.q.weight" in found.unmatched


def test_the_sides_are_swapped_where_only_the_right_is_pytorch_s() -> None:
    """Canonical names are PyTorch's whichever file comes first."""
    right = canonical("shunted-t")
    found = infer(in_dialect(right, "shunted-t", "paddle"), right)
    assert found.swapped
    assert found.proven
    assert found.dialect == "paddle"
    assert "[dialects" not in found.text  # every table has this one


def test_two_files_of_paddle_s_are_refused() -> None:
    """Nothing would say what is transposed."""
    state = in_dialect(canonical("shunted-t"), "shunted-t", "paddle")
    with pytest.raises(UsageError, match="both files look like paddle"):
        infer(state, state)


def test_files_of_nothing_in_common_are_refused() -> None:
    """There is no table to propose."""
    one = StateDict.of({"a.weight": np.ones((2, 3), np.float32)})
    other = StateDict.of({"b.weight": np.ones((4, 5), np.float32)})
    with pytest.raises(MappingError, match="nothing in common"):
        infer(one, other)


def test_names_that_a_table_cannot_hold_are_refused() -> None:
    """Braces are holes."""
    state = StateDict.of({"a{b}": np.ones(3, np.float32)})
    with pytest.raises(MappingError, match="braces"):
        infer(state, state)


def layer(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape, np.float32)


def test_a_join_of_unequal_parts_is_found() -> None:
    """q and kv on the left, one qkv on the right, in either framework's layout."""
    left, right = {}, {}
    for i in range(3):
        q, kv = layer(8, 8, seed=i), layer(16, 8, seed=i + 9)
        left |= {f"b.{i}.q.weight": q, f"b.{i}.kv.weight": kv, f"b.{i}.q.bias": layer(8, seed=i),
                 f"b.{i}.kv.bias": layer(16, seed=i)}  # fmt: skip
        right |= {
            f"l.{i}.qkv.weight": np.concatenate([q, kv]).T.copy(),
            f"l.{i}.qkv.bias": np.concatenate([layer(8, seed=i), layer(16, seed=i)]),
        }
    found = infer(StateDict.of(left), StateDict.of(right), right_framework="paddle")
    assert found.proven, (found.unproven, found.unmatched, found.problems)
    assert "concat 0 sizes 8,16" in found.text


def test_parts_in_another_order_are_found() -> None:
    """The order of the parts is that of the elements, not of the names."""
    q, k, v = (layer(4, 4, seed=s) for s in range(3))
    left = {"a.qkv.weight": np.concatenate([v, q, k])}
    right = {"a.q.weight": q, "a.k.weight": k, "a.v.weight": v}
    found = infer(StateDict.of(left), StateDict.of(right))
    assert links(found) == {"a.qkv": "a.v + a.q + a.k"}


def test_what_conventions_do_not_say_is_said_by_operations() -> None:
    """A torch dialect that stores a transpose, another order of axes, an axis more."""
    left = {
        "a.weight": layer(4, 6), "a.bias": layer(4), "c.weight": layer(4, 3, 2, 5),
        "p": layer(1, 7, 3), "r": layer(6, 2),
    }  # fmt: skip
    right = {
        "x.weight": left["a.weight"].T.copy(), "x.bias": left["a.bias"],
        "y.weight": left["c.weight"].transpose(2, 3, 1, 0).copy(),
        "s": left["p"][0], "t": left["r"].reshape(3, 2, 2).swapaxes(0, 1).reshape(6, 2).copy(),
    }  # fmt: skip
    found = infer(StateDict.of(left), StateDict.of(right))
    assert found.proven, (found.unproven, found.unmatched, found.problems)
    for operation in ("transpose", "permute 2 3 1 0", "squeeze 0", "interleave 0"):
        assert operation in found.text


def test_an_embedding_is_told_from_a_linear_layer_by_its_values() -> None:
    """Paddle transposes the one and not the other."""
    left = {"e.weight": layer(5, 4), "f.weight": layer(6, 4)}
    right = {"e.weight": left["e.weight"], "f.weight": left["f.weight"].T.copy()}
    found = infer(StateDict.of(left), StateDict.of(right), right_framework="paddle")
    kinds = {row.path.text: row.kind for row in parse(found.text, "t").layers}
    assert kinds == {"e": "embedding", "f": "linear"}


def test_a_symmetric_matrix_leaves_the_kind_open() -> None:
    """Where a transpose changes nothing, the table says which kind it also may be."""
    square = layer(4, 4)
    state = StateDict.of({"e.weight": square + square.T, "n.weight": layer(3)})
    found = infer(state, state, right_framework="paddle")
    assert "unproven: or" in found.text


@pytest.mark.parametrize("value", [np.nan, -0.0])
def test_values_are_compared_as_bits(value: float) -> None:
    """NaN is itself, and -0 is not 0."""
    array = layer(3, 4)
    array[0, 0] = value
    other = array.copy()
    assert relation([LazyTensor.of(array)], [LazyTensor.of(other)]) is not None
    other[0, 0] = 0.0
    assert relation([LazyTensor.of(array)], [LazyTensor.of(other)]) is None


def test_fingerprints_add_up_and_do_not_see_order() -> None:
    """That is what makes transposes, splits and joins findable."""
    q, k = layer(4, 6), layer(4, 6, seed=1)
    prints = [fingerprint(LazyTensor.of(a)) for a in (q, k, np.concatenate([k, q]), q.T.copy())]
    assert (prints[0].total + prints[1].total) % 2**64 == prints[2].total
    assert prints[0].key == prints[3].key
    assert prints[0].key != prints[1].key
    assert fingerprint(LazyTensor.of(np.ones(3, np.float32))).flat


def rows(*items: Item) -> list[tuple[str, str]]:
    return [(row.canonical[0], row.dialect[0]) for row in generalise(items)]


def test_numbers_that_follow_a_rule_become_holes() -> None:
    """Moved by a constant, or the same; anything else is cut into rows of its own."""
    moved = [Item((f"s.{i}.down",), (f"s.{i + 1}.down",)) for i in range(3)]
    assert rows(*moved) == [("s.{i}.down", "s.{i+1}.down")]
    wild = [Item((f"m.{i}",), (f"n.{j}",)) for i, j in ((0, 3), (1, 1), (2, 7))]
    assert rows(*wild) == [("m.0", "n.3"), ("m.1", "n.1"), ("m.2", "n.7")]


def test_rows_that_would_overlap_are_limited_to_their_own() -> None:
    """`conv.{i}` for convolutions and for norms becomes two rows with words."""
    items = [Item((f"conv.{i}",), (f"conv.{i}",), i % 3) for i in range(6)]
    assert rows(*items) == [
        ("conv.{i:0,3}", "conv.{i:0,3}"),
        ("conv.{i:1,4}", "conv.{i:1,4}"),
        ("conv.{i:2,5}", "conv.{i:2,5}"),
    ]


def test_rows_that_words_cannot_part_are_cut() -> None:
    """Two holes that do not fill their square are cut along one of them."""
    odd = [Item((f"a.{i}.{j}",), (f"b.{i}.{j}",), (i + j) % 2) for i in range(2) for j in range(2)]
    assert len(rows(*odd)) == 4


def test_one_constant_on_each_side_proves_nothing() -> None:
    """Tensors of ones may be anything: alike and alone of their kind, they are still a guess."""
    shared = {"fc.weight": layer(4, 3), "up.weight": layer(5, 3)}
    left = StateDict.of({**shared, "scale": np.ones(8, np.float32)})
    right = StateDict.of({**shared, "counts": np.ones(8, np.float32)})
    found = infer(left, right)
    assert [line.partition(":")[0] for line in found.unproven] == ["scale = counts"]
    assert found.exact


def test_names_without_a_pattern_are_paired_in_bounded_time() -> None:
    """Random names, and names of more numbers than a row has placeholders, are not searched."""
    draw = np.random.default_rng(1)
    odd = ["".join(draw.choice(list("ab0.9_"), 40)) + str(i) for i in range(150)]
    many = [".".join(str((i >> k) & 7) for k in range(0, 60, 3)) + f".{i}" for i in range(150)]
    wide = [".".join(str(n) for n in draw.integers(0, 3, 14)) + f".{i}" for i in range(60)]
    for names in (odd, many, wide):
        arrays = {name: np.full(1, i, np.float32) for i, name in enumerate(names)}
        found = infer(StateDict.of(arrays), StateDict.of({f"m.{n}": a for n, a in arrays.items()}))
        assert found.exact
        assert found.problems == ()


def test_long_numbers_and_deep_names_are_names() -> None:
    """Numbers that are no integers are letters; of very deep names the beginning counts."""
    arrays = {
        "blocks." + "9" * 5000 + ".weight": layer(3, 4),
        "a." * 3000 + "weight": layer(4, 5),
    }
    found = infer(StateDict.of(arrays), StateDict.of({f"m.{n}": a for n, a in arrays.items()}))
    assert found.exact
