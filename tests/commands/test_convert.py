"""The pipeline on files that the real libraries wrote, and that they load back."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import porter
from porter import codecs
from porter.errors import InputError, MappingError, UsageError
from porter.frameworks.models import build
from porter.zoo.architectures import find
from porter.zoo.seeded import seeded

VARIANTS = ["shunted-t", "shunted-s", "shunted-b"]


def weights(variant: str, **options: int) -> dict[str, np.ndarray]:
    """Return seeded weights under canonical names."""
    return seeded(find(variant), **options).arrays()


def torch_save(arrays: dict[str, np.ndarray], path: Path, wrap: Callable = lambda x: x) -> Path:
    import torch

    torch.save(wrap({n: torch.from_numpy(np.array(a)) for n, a in arrays.items()}), path)
    return path


def same(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> None:
    """Hold two state dicts to the same names, dtypes, shapes and bytes."""
    assert list(left) == list(right)
    for name in left:
        assert left[name].dtype == right[name].dtype, name
        assert left[name].shape == right[name].shape, name
        assert left[name].tobytes() == right[name].tobytes(), name


@pytest.mark.parametrize("variant", VARIANTS)
def test_torch_to_paddle_loads_in_paddle(variant: str, tmp_path: Path) -> None:
    """What is written loads by `paddle.load` and `set_state_dict`, nothing missing or left over."""
    import paddle

    source = torch_save(weights(variant), tmp_path / "in.pth")
    target = tmp_path / "out.pdparams"
    porter.convert(variant, source, target, from_="torch", to="paddle", verify=False)
    model = build(find(variant), "paddle")
    assert model.set_state_dict(paddle.load(str(target))) == ([], [])


@pytest.mark.parametrize("variant", VARIANTS)
def test_paddle_to_torch_loads_in_torch_and_comes_back(variant: str, tmp_path: Path) -> None:
    """What `paddle.save` wrote loads strictly in torch, and is the same after the way back."""
    import paddle
    import torch

    model = build(find(variant), "paddle")
    first, second, third = (tmp_path / n for n in ("a.pdparams", "b.pth", "c.pdparams"))
    paddle.save(model.state_dict(), str(first))
    porter.convert(variant, first, second, from_="paddle", to="torch", verify=False)
    twin = build(find(variant), "torch")
    twin.load_state_dict(torch.load(second, weights_only=True, mmap=True), strict=True)
    porter.convert(variant, second, third, from_="torch", to="paddle", verify=False)
    back = paddle.load(str(third))
    for name, value in model.state_dict().items():
        assert back[name].numpy().tobytes() == value.numpy().tobytes(), name


@pytest.mark.parametrize("framework", ["torch", "paddle"])
def test_safetensors_both_ways(framework: str, tmp_path: Path) -> None:
    """Through safetensors and back, bit for bit; the library reads what is written."""
    from safetensors import safe_open
    from safetensors.numpy import load_file, save_file

    arrays = weights("shunted-t")
    save_file({n: np.ascontiguousarray(a).reshape(a.shape) for n, a in arrays.items()},
              tmp_path / "in.safetensors")  # fmt: skip
    suffix = {"torch": ".pth", "paddle": ".pdparams"}[framework]
    middle, out = tmp_path / f"m{suffix}", tmp_path / "out.safetensors"
    porter.convert("shunted-t", tmp_path / "in.safetensors", middle, from_="safetensors",
                   to=framework, verify=False)  # fmt: skip
    porter.convert("shunted-t", middle, out, from_=framework, to="safetensors", verify=False)
    found = load_file(out)
    counter = "patch_embed1.conv.1.num_batches_tracked"
    if framework == "paddle":
        assert found.pop(counter) == 0
        del arrays[counter]
    same({n: found[n] for n in arrays}, arrays)
    with safe_open(out, "np") as file:
        assert file.metadata()["porter.architecture"] == "shunted-t"


def test_a_downloaded_checkpoint_converts_as_it_is(tmp_path: Path) -> None:
    """`{"model", "optimizer", "epoch", "args": Namespace}` is unwrapped, and the rest reported."""
    arrays = weights("shunted-t")

    def wrap(state: dict) -> dict:
        return {
            "model": {f"module.{name}": value for name, value in state.items()},
            "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]},
            "epoch": 299,
            "args": argparse.Namespace(lr=0.1),
        }

    source = torch_save(arrays, tmp_path / "ckpt.pth", wrap)
    done = porter.convert(
        "shunted-t", source, tmp_path / "o.pth", from_="torch", to="torch", verify=False
    )
    assert done.origin.wrapper == "model"
    assert done.origin.prefix == "module."
    said = " ".join(done.origin.skipped)
    assert all(word in said for word in ("optimizer", "epoch", "args"))
    same(porter.open(tmp_path / "o.pth").arrays(), arrays)


@pytest.mark.parametrize(("classes", "size"), [(10, 224), (1000, 256), (10, 256)])
def test_other_classes_and_sizes_convert_and_load(classes: int, size: int, tmp_path: Path) -> None:
    """Classes come from the checkpoint; the model takes images of another size."""
    import torch

    source = torch_save(
        weights("shunted-t", num_classes=classes, image_size=size), tmp_path / "a.pth"
    )
    porter.convert("shunted-t", source, tmp_path / "a.pdparams", from_="torch", to="paddle",
                   image_size=size, verify=False)  # fmt: skip
    model = porter.load_model("shunted-t", tmp_path / "a.pdparams", image_size=size)
    with torch.no_grad():
        assert model(torch.zeros(1, 3, size, size)).shape == (1, classes)


def test_a_checkpoint_of_another_variant_is_named(tmp_path: Path) -> None:
    """The error says what the file is, and nothing is written."""
    source = torch_save(weights("shunted-s"), tmp_path / "a.pth")
    with pytest.raises(MappingError, match="it fits shunted-s as torch"):
        porter.convert("shunted-t", source, tmp_path / "o.pth", from_="torch", to="torch")
    assert not (tmp_path / "o.pth").exists()


def test_a_wrong_dialect_is_named(tmp_path: Path) -> None:
    """A Paddle file taken for a torch one is recognised."""
    source = torch_save(weights("shunted-t"), tmp_path / "a.pth")
    with pytest.raises(MappingError, match="it fits shunted-t as torch"):
        porter.convert("shunted-t", source, tmp_path / "o.pth", from_="paddle", to="torch")


def test_outputs_are_not_replaced_unasked(tmp_path: Path) -> None:
    """An existing output is refused without `force`; the input is never the output."""
    source = torch_save(weights("shunted-t"), tmp_path / "a.pth")
    before = source.read_bytes()
    (tmp_path / "o.pth").write_bytes(b"mine")
    with pytest.raises(UsageError):
        porter.convert(
            "shunted-t", source, tmp_path / "o.pth", from_="torch", to="torch", verify=False
        )
    assert (tmp_path / "o.pth").read_bytes() == b"mine"
    with pytest.raises(UsageError):
        porter.convert(
            "shunted-t", source, source, from_="torch", to="torch", force=True, verify=False
        )
    assert source.read_bytes() == before
    porter.convert(
        "shunted-t", source, tmp_path / "o.pth", from_="torch", to="torch", force=True, verify=False
    )


def test_a_name_that_contradicts_the_format_is_refused(tmp_path: Path) -> None:
    """`--to torch -o x.pdparams` would lie to whoever finds the file."""
    source = torch_save(weights("shunted-t"), tmp_path / "a.pth")
    with pytest.raises(UsageError, match="its suffix means paddle"):
        porter.convert("shunted-t", source, tmp_path / "o.pdparams", from_="torch", to="torch")


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    """The plan is there, the output is not."""
    source = torch_save(weights("shunted-t"), tmp_path / "a.pth")
    done = porter.convert(
        "shunted-t", source, tmp_path / "o.pdparams", from_="torch", to="paddle", dry_run=True
    )
    assert len(done.plan.target.links) == 259
    assert not (tmp_path / "o.pdparams").exists()


def test_adapting_changes_classes_and_says_so(tmp_path: Path) -> None:
    """A new head is drawn when asked, the rest stays bit for bit."""
    arrays = weights("shunted-t")
    source = torch_save(arrays, tmp_path / "a.pth")
    done = porter.convert("shunted-t", source, tmp_path / "o.pth", from_="torch", to="torch",
                          num_classes=7, adapt=True, verify=False)  # fmt: skip
    assert any("head.weight: 1000 classes became 7" in note for note in done.notes)
    found = porter.open(tmp_path / "o.pth").arrays()
    assert found["head.weight"].shape == (7, 512)
    assert found["norm4.bias"].tobytes() == arrays["norm4.bias"].tobytes()


def test_a_cast_is_reported(tmp_path: Path) -> None:
    """Half precision is a rounding of every float, its largest error known."""
    arrays = weights("shunted-t")
    source = torch_save(arrays, tmp_path / "a.pth")
    done = porter.convert("shunted-t", source, tmp_path / "o.safetensors", from_="torch",
                          to="safetensors", dtype="fp16", verify=False)  # fmt: skip
    found = porter.open(tmp_path / "o.safetensors").arrays()
    assert found["head.weight"].dtype == np.float16
    np.testing.assert_array_equal(found["head.weight"], arrays["head.weight"].astype(np.float16))
    assert 0 < done.casts["head.weight"].max_error < 1e-3
    assert found["patch_embed1.conv.1.num_batches_tracked"].dtype == np.int64


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    """Half a download gives one line and no output."""
    source = torch_save(weights("shunted-t"), tmp_path / "a.pth")
    source.write_bytes(source.read_bytes()[:100_000])
    with pytest.raises(InputError) as caught:
        porter.convert("shunted-t", source, tmp_path / "o.pth", from_="torch", to="torch")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "o.pth").exists()


def test_shards_are_written_proven_and_read_again(tmp_path: Path) -> None:
    """A sharded output is its index, and holds the same tensors."""
    arrays = weights("shunted-t")
    source = torch_save(arrays, tmp_path / "a.pth")
    done = porter.convert("shunted-t", source, tmp_path / "o.safetensors", from_="torch",
                          to="safetensors", max_shard_size="20MB")  # fmt: skip
    assert done.output == str(tmp_path / "o.safetensors.index.json")
    assert done.ok
    assert done.verdict is not None
    assert done.verdict.passed
    found = porter.open(done.output).arrays()
    same({name: found[name] for name in arrays}, arrays)
    porter.convert("shunted-t", done.output, tmp_path / "b.pth", from_="safetensors", to="torch",
                   verify=False)  # fmt: skip
    same(porter.open(tmp_path / "b.pth").arrays(), arrays)


def test_options_are_on_record(tmp_path: Path) -> None:
    """What was dropped, filled, cast and chosen is in the output's metadata."""
    arrays = {**weights("shunted-t"), "extra": np.ones(1)}
    del arrays["norm4.bias"]
    source = torch_save(arrays, tmp_path / "in.pth", lambda state: {"model_ema": state})
    target = tmp_path / "out.safetensors"
    options = {"drop": ["extra"], "fill": {"norm4.bias": 0.0}, "dtype": "fp16"}
    porter.convert(
        "shunted-t", source, target, from_="torch", to="safetensors", verify=False, **options
    )
    origin = codecs.read(str(target)).origin
    assert origin is not None
    assert origin.metadata["porter.drop"] == "extra"
    assert origin.metadata["porter.fill"] == "norm4.bias=0.0"
    assert origin.metadata["porter.dtype"] == "fp16"
    assert origin.metadata["porter.source_key"] == "model_ema"
    assert origin.metadata["porter.table"].startswith("shunted xxh3-128:")
    assert "porter.adapt" not in origin.metadata


def test_a_filled_head_of_other_classes_has_the_value(tmp_path: Path) -> None:
    """`--fill` wins over the head that `--adapt` draws, and what is drawn is what is said."""
    porter.init("pvtv2-b0", tmp_path / "a.pth")
    outcome = porter.convert(
        "pvtv2-b0", tmp_path / "a.pth", tmp_path / "o.safetensors", to="torch", adapt=True,
        num_classes=5, fill={"head.bias": 0.25}, verify=False,
    )  # fmt: skip
    state = codecs.read(str(tmp_path / "o.safetensors"))
    assert state["head.bias"].read().tolist() == [0.25] * 5
    assert state["head.weight"].shape == (5, 256)
    drawn = [note for note in outcome.notes if "drawn" in note]
    assert drawn == ["head.weight: 1000 classes became 5, drawn at random"]


def test_adapting_is_on_record(tmp_path: Path) -> None:
    """A new head came from a seed, which the output says."""
    source = torch_save(weights("shunted-t"), tmp_path / "in.pth")
    target = tmp_path / "out.safetensors"
    porter.convert(
        "shunted-t", source, target, from_="torch", to="safetensors", verify=False,
        adapt=True, num_classes=5, seed=7,
    )  # fmt: skip
    origin = codecs.read(str(target)).origin
    assert origin is not None
    assert origin.metadata["porter.adapt"] == "seed 7"
