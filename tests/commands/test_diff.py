"""A diff finds what differs, through the table where namings differ, bit by bit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import porter
from porter import codecs
from porter.errors import UsageError
from porter.tensors.state_dict import StateDict

BASE = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.array([1.0, np.nan, -0.0], np.float32),
    "c": np.array(7, np.int64),
}


def file(folder: Path, name: str, **changes: np.ndarray | None) -> Path:
    """Write BASE with changes; None leaves a tensor out."""
    both: Mapping[str, np.ndarray | None] = {**BASE, **changes}
    path = folder / f"{name}.safetensors"
    save_file({n: a for n, a in both.items() if a is not None}, path)
    return path


def test_equal_is_bit_for_bit(tmp_path: Path) -> None:
    """NaN equals itself."""
    found = porter.diff(file(tmp_path, "x"), file(tmp_path, "y"))
    assert found.equal
    assert found.compared == 3
    assert found.through == "names"


@pytest.mark.parametrize(
    ("changes", "name", "what"),
    [
        ({"c": None}, "c", "only left"),
        ({"d": np.ones(1, np.float32)}, "d", "only right"),
        ({"a": np.ones((3, 2), np.float32)}, "a", "shape"),
        ({"a": np.arange(6, dtype=np.float64).reshape(2, 3)}, "a", "dtype"),
        ({"a": np.arange(6, dtype=np.float32)[::-1].reshape(2, 3).copy()}, "a", "values"),
        ({"b": np.array([1.0, np.nan, 0.0], np.float32)}, "b", "values"),
        ({"b": np.array([1.0, 2.0, -0.0], np.float32)}, "b", "values"),
        ({"c": np.array(8, np.int64)}, "c", "values"),
    ],
)
def test_each_difference_is_named(
    tmp_path: Path, changes: dict[str, np.ndarray | None], name: str, what: str
) -> None:
    """Missing, added, misshapen, cast, changed; a sign of zero counts."""
    found = porter.diff(file(tmp_path, "x"), file(tmp_path, "y", **changes))
    assert not found.equal
    assert [(d.name, d.what) for d in found.differences] == [(name, what)]


def test_how_much_and_how_many(tmp_path: Path) -> None:
    """The largest difference in float64 and the number of elements with other bits."""
    other = BASE["a"].copy()
    other[0, 0], other[1, 2] = 0.25, 7
    (one,) = porter.diff(file(tmp_path, "x"), file(tmp_path, "y", a=other)).differences
    assert one.max_error == 2
    assert one.differing == 2


def test_a_cast_says_what_it_cost(tmp_path: Path) -> None:
    """Another dtype is a difference, with its largest error."""
    third = np.full((2, 3), 1 / 3, np.float32)
    left, right = file(tmp_path, "x", a=third), file(tmp_path, "y", a=third.astype(np.float16))
    (one,) = porter.diff(left, right).differences
    assert (one.left, one.right) == ("float32", "float16")
    assert one.max_error == pytest.approx(abs(float(np.float16(1 / 3)) - float(third[0, 0])))


def test_containers_do_not_matter(tmp_path: Path) -> None:
    """A torch file and an npz of the same tensors are equal."""
    import torch

    torch.save({n: torch.from_numpy(np.array(a)) for n, a in BASE.items()}, tmp_path / "x.pth")
    np.savez(tmp_path / "y.npz", **BASE)
    assert porter.diff(tmp_path / "x.pth", tmp_path / "y.npz").equal


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A variant in two frameworks' layouts."""
    folder = tmp_path_factory.mktemp("pair")
    left, right = folder / "a.pth", folder / "a.pdparams"
    porter.init("shunted-t", left)
    porter.convert("shunted-t", left, right, from_="torch", to="paddle", verify=False)
    return left, right


def test_namings_are_paired_through_the_table(pair: tuple[Path, Path]) -> None:
    """The variant is recognised; what Paddle does not keep is not a difference."""
    found = porter.diff(*pair)
    assert found.equal
    assert found.through == "shunted-t: torch and paddle"
    assert found.compared == 259


def test_one_changed_element_is_found_through_the_table(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    """Under its canonical name, whatever the other file calls it or how it lies."""
    import torch

    state = torch.load(pair[0], weights_only=True)
    state["block1.0.attn.q.weight"][3, 5] += 1
    torch.save(state, tmp_path / "b.pth")
    (one,) = porter.diff(tmp_path / "b.pth", pair[1]).differences
    assert (one.name, one.what, one.differing) == ("block1.0.attn.q.weight", "values", 1)


def test_a_port_in_the_layout_of_torch_is_not_equal(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    """A .pdparams whose matrices were not transposed: Paddle does not load it."""
    import torch

    wrong = tmp_path / "wrong.pdparams"
    codecs.write(codecs.read(str(pair[0])), str(wrong), format="paddle")
    found = porter.diff(pair[0], wrong)
    kinds = {(d.name, d.what) for d in found.differences}
    assert {("block1.0.attn.q.weight", "values"), ("head.weight", "shape")} <= kinds
    assert ("head.bias", "values") not in kinds
    assert porter.diff(wrong, pair[0], architecture="shunted-t").differences
    assert porter.diff(pair[0], wrong, right_dialect="torch").equal
    state = torch.load(pair[0], weights_only=True)
    torch.save({name: tensor.T if tensor.ndim == 2 else tensor for name, tensor in state.items()},
               tmp_path / "wrong.pth")  # fmt: skip
    assert porter.diff(tmp_path / "wrong.pth", pair[1]).differences


def test_two_models_are_not_compared(pair: tuple[Path, Path], tmp_path: Path) -> None:
    """Files of different architectures are told from files that differ."""
    porter.init("pvtv2-b0", tmp_path / "p.pth")
    with pytest.raises(UsageError, match="are a shunted-t and a pvtv2-b0"):
        porter.diff(pair[0], tmp_path / "p.pth")


def test_a_table_of_one_s_own_pairs_names(tmp_path: Path) -> None:
    """`architecture` may be a table: dialects by container, or as said."""
    table = tmp_path / "t.toml"
    table.write_text(
        '[layers]\n"fc" = "linear"\n[dialects.other]\nframework = "torch"\n'
        '[dialects.other.names]\n"fc" = "dense"\n'
    )
    weight = np.arange(6, dtype=np.float32).reshape(2, 3)
    save_file({"fc.weight": weight}, tmp_path / "x.safetensors")
    save_file({"dense.weight": weight}, tmp_path / "y.safetensors")
    paths = (tmp_path / "x.safetensors", tmp_path / "y.safetensors")
    found = porter.diff(*paths, architecture=str(table))
    assert found.equal
    assert found.through == "t: torch and other"
    assert not porter.diff(*paths).equal


def test_what_is_outside_of_a_prefix_is_named(pair: tuple[Path, Path], tmp_path: Path) -> None:
    """Files that are equal but for a tensor of the training are not called equal without a word."""
    import torch

    state = torch.load(pair[0], weights_only=True)
    wrapped = {f"model.{name}": tensor for name, tensor in state.items()}
    torch.save({**wrapped, "criterion.weight": torch.ones(3)}, tmp_path / "a.ckpt")
    found = porter.diff(tmp_path / "a.ckpt", pair[1])
    assert found.equal
    assert found.notes == ("left: prefix 'model.'; left out: criterion.weight",)


def test_layouts_that_are_not_considered_are_named(tmp_path: Path) -> None:
    """Two frameworks' files of an unknown model are compared as they are, and it says so."""
    arrays = {"fc.weight": np.ones((2, 3), np.float32)}
    states = [StateDict.of(arrays), StateDict.of({"fc.weight": arrays["fc.weight"].T})]
    for state, name, format in zip(
        states, ("a.pth", "b.pdparams"), ("torch", "paddle"), strict=True
    ):
        codecs.write(state, str(tmp_path / name), format=format)
    found = porter.diff(tmp_path / "a.pth", tmp_path / "b.pdparams")
    assert not found.equal
    assert found.notes[0].startswith("no architecture is recognised in both files")
