"""Files that others converted: the bytes of untransposed views are found, counted and restored."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file, save_file

import porter
from porter import codecs
from porter.cli import cli
from porter.commands.repair import OUTPUTS, VALUES
from porter.errors import UsageError
from porter.planning.check import dialect_tensors
from porter.tensors.state_dict import StateDict
from porter.verification.diagnose.strided_views import restored, stored_order
from porter.zoo.architectures import find
from porter.zoo.seeded import seeded

VARIANTS = {"pp-lcnet-x0_25-textline-ori": 1, "vit-labml-cifar10": 38}
"""{variant: its Linears}; those of the second are square, too."""

Arrays = dict[str, np.ndarray]


def converted(variant: str, folder: Path) -> tuple[Path, Path]:
    """Return a checkpoint of Paddle, and what a converter makes of it that transposes by a view.

    The writer is safetensors' own, which ignores strides.
    """
    arrays = seeded(find(variant)).arrays()
    source, broken = folder / "source.pdparams", folder / "broken.safetensors"
    porter.init(variant, folder / "right.safetensors", to="safetensors")
    porter.convert(variant, folder / "right.safetensors", source, from_="safetensors", to="paddle",
                   verify=False)  # fmt: skip
    views = {
        n: np.ascontiguousarray(a.T).T if a.ndim == 2 else np.array(a) for n, a in arrays.items()
    }
    save_file(views, broken, {"format": "pt"})
    return source, broken


def same(path: Path, other: Path) -> bool:
    """Whether two files have the same tensors, bit for bit."""
    left, right = load_file(path), load_file(other)
    return left.keys() == right.keys() and all(
        (a.dtype, a.shape, a.tobytes()) == (right[n].dtype, right[n].shape, right[n].tobytes())
        for n, a in left.items()
    )


def test_the_writer_ignores_strides(tmp_path: Path) -> None:
    """The tests need it (safetensors#825): once it is mended, they need another writer."""
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    save_file({"a": array.T}, tmp_path / "a.safetensors")
    assert load_file(tmp_path / "a.safetensors")["a"].tolist() == [[0, 1], [2, 3], [4, 5]]


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_broken_file_is_counted_and_restored(variant: str, tmp_path: Path) -> None:
    """Every Linear is named once, and the file from the same bytes is the right one."""
    source, broken = converted(variant, tmp_path)
    assert not same(broken, tmp_path / "right.safetensors")
    comparison = porter.inspect(broken, like=source).comparison
    assert comparison is not None
    assert len(comparison.views) == VARIANTS[variant]
    assert not comparison.others
    assert "Linear weight" in next(iter(comparison.lines))
    done = porter.repair(broken, tmp_path / "fixed.safetensors", like=source)
    assert (done.ok, done.proof, set(done.views)) == (True, VALUES, set(comparison.views))
    assert same(tmp_path / "fixed.safetensors", tmp_path / "right.safetensors")
    again = porter.inspect(tmp_path / "fixed.safetensors", like=source).comparison
    assert again is not None
    assert again.ok


OCR = {"pp-ocrv6-tiny-rec": 2, "slanet": 4, "pp-ocrv5-mobile-rec": 9}
"""{variant of PaddleOCR: its Linears that are stored wrong}, without those of a single row."""


def as_paddlex_writes(variant: str, folder: Path, dtype: str) -> tuple[Path, Arrays, Arrays]:
    """Return a checkpoint of PaddleX, what its converter passes to the writer, and what is right.

    The names are those of PaddleX; every matrix of these models belongs to a Linear.
    """
    draw = np.random.default_rng(2)
    tensors = dialect_tensors(find(variant), "paddle")
    arrays = {n: draw.random(shape, np.float32) for n, (_, shape) in tensors.items()}
    source = folder / "source.pdparams"
    codecs.write(StateDict.of(arrays), str(source), "paddle", record=False)
    porter.convert(variant, source, folder / "right.safetensors", from_="paddle", to="torch:hf",
                   verify=False)  # fmt: skip
    right = {
        n: a.astype(dtype) if a.dtype == np.float32 else a
        for n, a in load_file(folder / "right.safetensors").items()
        if not n.endswith("num_batches_tracked")
    }
    cells = ("rnn.weight_ih", "rnn.weight_hh")  # of a GRU: not transposed
    views = {
        n: np.ascontiguousarray(a.T).T if a.ndim == 2 and not n.endswith(cells) else a
        for n, a in right.items()
    }
    return source, views, right


@pytest.mark.parametrize("variant", OCR)
@pytest.mark.parametrize("form", ["float32", "float16", "shards"])
def test_files_of_paddlex_are_counted_and_restored(variant: str, form: str, tmp_path: Path) -> None:
    """Whole, in half precision and in shards with an index: right, from the same bytes."""
    dtype = "float16" if form == "float16" else "float32"
    source, views, right = as_paddlex_writes(variant, tmp_path, dtype)
    broken = tmp_path / "broken.safetensors"
    if form == "shards":
        broken = tmp_path / "shards"
        broken.mkdir()
        names, places = list(views), {}
        for number, part in enumerate((names[::2], names[1::2]), 1):
            file = f"model-{number:05}-of-00002.safetensors"
            save_file({n: views[n] for n in part}, broken / file, {"format": "pt"})
            places |= dict.fromkeys(part, file)
        index = {"metadata": {}, "weight_map": places}
        (broken / "model.safetensors.index.json").write_text(json.dumps(index))
    else:
        save_file(views, broken, {"format": "pt"})
    comparison = porter.inspect(broken, like=source).comparison
    assert comparison is not None
    assert (len(comparison.views), comparison.others) == (OCR[variant], ())
    assert "safetensors#825" in next(iter(comparison.lines))
    done = porter.repair(broken, tmp_path / "fixed.safetensors", like=source)
    assert (done.ok, done.proof, len(done.views)) == (True, VALUES, OCR[variant])
    found = load_file(tmp_path / "fixed.safetensors")
    assert found.keys() == right.keys()
    for name, array in right.items():
        assert (found[name].dtype, found[name].tobytes()) == (array.dtype, array.tobytes()), name


def test_a_right_file_of_another_naming_has_nothing_to_restore(tmp_path: Path) -> None:
    """Nothing is written where nothing is wrong."""
    source, _ = converted("vit-labml-cifar10", tmp_path)
    with pytest.raises(UsageError, match="nothing to restore"):
        porter.repair(tmp_path / "right.safetensors", tmp_path / "x.safetensors", like=source)
    assert not (tmp_path / "x.safetensors").exists()


def test_files_that_porter_does_not_know_are_compared_by_their_names(tmp_path: Path) -> None:
    """Any permutation of axes is found, in any element type; bias and squares are kept apart."""
    rng = np.random.default_rng(0)
    arrays: Arrays = {
        "a.weight": rng.standard_normal((5, 7)).astype(np.float16),
        "conv.weight": rng.standard_normal((4, 3, 2, 5)).astype(np.float32),
        "square": rng.integers(0, 99, (6, 6)),
        "b.bias": rng.standard_normal(9),
    }
    save_file(arrays, tmp_path / "right.safetensors")
    views = dict(arrays)
    for name, axes in (("a.weight", (1, 0)), ("conv.weight", (2, 3, 1, 0)), ("square", (1, 0))):
        memory = np.ascontiguousarray(arrays[name].transpose(axes))
        views[name] = memory.transpose(np.argsort(axes))
    save_file(views, tmp_path / "broken.safetensors")
    done = porter.repair(
        tmp_path / "broken.safetensors", tmp_path / "fixed.npz", like=tmp_path / "right.safetensors"
    )
    assert done.views == {"a.weight": (1, 0), "conv.weight": (2, 3, 1, 0), "square": (1, 0)}
    found = np.load(tmp_path / "fixed.npz")
    assert {n: found[n].tobytes() for n in found} == {n: a.tobytes() for n, a in arrays.items()}


def test_folds_of_another_converter_are_equal_up_to_rounding(tmp_path: Path) -> None:
    """What the table computes may be rounded otherwise; the rest must have the same bytes."""
    variant, draw = find("pp-ocrv6-tiny-rec"), np.random.default_rng(1)
    arrays = {
        name: draw.random(shape).astype(dtype)
        for name, (dtype, shape) in dialect_tensors(variant, "train").items()
    }
    np.savez(tmp_path / "source.npz", **arrays)
    porter.repack(tmp_path / "source.npz", tmp_path / "source.pdparams")
    right = tmp_path / "right.safetensors"
    porter.convert(variant.name, tmp_path / "source.pdparams", right, to="torch:hf", verify=False)
    found = load_file(right)
    folded = "model.backbone.encoder.blocks.0.blocks.0.token_conv.weight"
    views = {n: np.ascontiguousarray(a.T).T if a.ndim == 2 else a for n, a in found.items()}
    views[folded] = np.nextafter(found[folded], np.float32(9))
    save_file(views, tmp_path / "broken.safetensors")
    done = porter.repair(tmp_path / "broken.safetensors", tmp_path / "fixed.safetensors",
                         like=tmp_path / "source.pdparams")  # fmt: skip
    assert done.comparison is not None
    assert done.comparison.rounded == (folded,)
    assert set(done.views) == {"head.fc1.weight", "head.fc2.weight"}
    other = "head.conv1.weight" if "head.conv1.weight" in views else "head.fc1.bias"
    save_file({**views, other: np.nextafter(found[other], np.float32(9))},
              tmp_path / "broken.safetensors")  # fmt: skip
    comparison = porter.inspect(
        tmp_path / "broken.safetensors", like=tmp_path / "source.pdparams"
    ).comparison
    assert comparison is not None
    assert comparison.others == (other,)


def test_a_custom_table_pairs_the_names(tmp_path: Path) -> None:
    """A model that porter does not know, through the table of its user."""
    table = tmp_path / "toy.toml"
    table.write_text('[layers]\n"fc" = "linear"\n[dialects.paddle]\nframework = "paddle"\n')
    weight = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    save_file({"fc.weight": np.ascontiguousarray(weight.T).T, "fc.bias": weight[0]},
              tmp_path / "broken.safetensors")  # fmt: skip
    save_file({"fc.weight": np.ascontiguousarray(weight.T), "fc.bias": weight[0]},
              tmp_path / "paddle.safetensors")  # fmt: skip
    porter.repack(tmp_path / "paddle.safetensors", tmp_path / "source.pdparams")
    done = porter.repair(
        tmp_path / "broken.safetensors", tmp_path / "fixed.safetensors",
        like=tmp_path / "source.pdparams", architecture=str(table),
    )  # fmt: skip
    assert done.views == {"fc.weight": (1, 0)}
    assert (load_file(tmp_path / "fixed.safetensors")["fc.weight"] == weight).all()


def test_a_file_that_is_wrong_otherwise_is_not_written(tmp_path: Path) -> None:
    """A tensor of another checkpoint is named, the exit code is 1, and there is no output."""
    source, broken = converted("vit-labml-cifar10", tmp_path)
    arrays = load_file(broken)
    name = next(n for n in arrays if n.endswith("bias"))
    save_file({**arrays, name: arrays[name] + 1}, broken)
    output = tmp_path / "fixed.safetensors"
    done = CliRunner().invoke(
        cli, ["repair", str(broken), "--like", str(source), "-o", str(output)]
    )
    assert done.exit_code == 1
    assert f"1 differ otherwise: {name}" in done.output
    assert not output.exists()


FUSED = """
[layers]
"{n:q,k,v}" = "linear"
[dialects.train]
framework = "paddle"
[[dialects.train.rows]]
canonical = ["q", "k", "v"]
path = "attn"
leaves = { weight = "in_proj_weight", bias = "in_proj_bias" }
"""


def test_pieces_of_a_view_are_named_and_not_restored(tmp_path: Path) -> None:
    """Of pieces of a view, such a writer stores overlapping runs: values are lost."""
    (tmp_path / "fused.toml").write_text(FUSED)
    rng = np.random.default_rng(0)
    fused = rng.standard_normal((4, 12)).astype(np.float32)  # (in, q k v)
    bias = rng.standard_normal(12).astype(np.float32)
    np.savez(tmp_path / "s.npz", **{"attn.in_proj_weight": fused, "attn.in_proj_bias": bias})
    porter.repack(tmp_path / "s.npz", tmp_path / "source.pdparams")
    pieces = {f"{n}.weight": fused.T[4 * i : 4 * i + 4] for i, n in enumerate("qkv")}
    biases = {f"{n}.bias": bias[4 * i : 4 * i + 4] for i, n in enumerate("qkv")}
    save_file({**pieces, **biases}, tmp_path / "broken.safetensors")
    done = porter.repair(
        tmp_path / "broken.safetensors", tmp_path / "fixed.safetensors",
        like=tmp_path / "source.pdparams", architecture=str(tmp_path / "fused.toml"),
    )  # fmt: skip
    assert done.comparison is not None
    assert set(done.comparison.cut) == {"q.weight", "k.weight", "v.weight"}
    assert (done.ok, done.comparison.others) == (False, ())
    assert "convert the source again" in "".join(done.comparison.lines)
    assert not (tmp_path / "fixed.safetensors").exists()


def test_outputs_prove_what_no_checkpoint_shows(tmp_path: Path) -> None:
    """With a recorded trace of the source, the weights of every Linear are tried."""
    variant = "pp-lcnet-x0_25-textline-ori"
    source, broken = converted(variant, tmp_path)
    trace = tmp_path / "trace.safetensors"
    from porter.commands.verify import record

    record(variant, source, trace)
    done = porter.repair(broken, tmp_path / "fixed.safetensors", like=trace, architecture=variant)
    assert (done.proof, done.views) == (OUTPUTS, {"head.weight": (1, 0)})
    assert same(tmp_path / "fixed.safetensors", tmp_path / "right.safetensors")
    with pytest.raises(UsageError, match="nothing to restore"):
        porter.repair(tmp_path / "right.safetensors", tmp_path / "x.safetensors", like=trace,
                      architecture=variant)  # fmt: skip


def test_a_verdict_names_the_cause_once(tmp_path: Path) -> None:
    """Square and other Linears have one finding, with their number and the remedy."""
    source, broken = converted("vit-labml-cifar10", tmp_path)
    verdict = porter.verify("vit-labml-cifar10", source, broken)
    assert verdict.failed
    (finding,) = [f for f in verdict.findings if "untransposed" in f.what]
    assert finding.count == VARIANTS["vit-labml-cifar10"]
    assert str(finding).startswith("38 Linear weights (")
    assert "have the bytes of an untransposed view" in str(finding)
    assert "safetensors#825" in finding.remedy
    assert not [f for f in verdict.findings if "transposed" in f.what and f is not finding]


def test_the_command_line_says_what_was_restored(tmp_path: Path) -> None:
    """`inspect --like` ends with 1 for a broken file, `repair` with 0, and `inspect` then too."""
    source, broken = converted("pp-lcnet-x0_25-textline-ori", tmp_path)
    fixed = tmp_path / "fixed.safetensors"
    seen = CliRunner().invoke(cli, ["inspect", str(broken), "--like", str(source)])
    assert seen.exit_code == 1
    assert "1 Linear weight has the bytes of an untransposed view" in seen.output
    made = CliRunner().invoke(cli, ["repair", str(broken), "--like", str(source), "-o", str(fixed)])
    assert made.exit_code == 0, made.output
    assert "bit for bit" in made.output
    seen = CliRunner().invoke(cli, ["inspect", str(fixed), "--like", str(source)])
    assert seen.exit_code == 0, seen.output


@pytest.mark.parametrize("shape", [(3, 4), (3, 3), (2, 3, 4), (1, 5, 1, 4), (4, 3, 2, 2)])
def test_an_order_is_found_and_undone(shape: tuple[int, ...]) -> None:
    """Whatever the axes: elements come back to their places; other values have no order."""
    from itertools import permutations

    from porter.tensors.lazy import LazyTensor

    array = np.random.default_rng(1).standard_normal(shape)
    for axes in permutations(range(len(shape))):
        stored = np.ascontiguousarray(array.transpose(axes)).reshape(shape)
        order = stored_order(array, stored)
        if stored.tobytes() != array.tobytes():
            assert order is not None
            assert (restored(LazyTensor.of(stored), order).read() == array).all()
    assert stored_order(array, array + 1) is None
