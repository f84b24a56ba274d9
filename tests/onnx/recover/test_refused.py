"""ONNX files that are broken, hostile or of something else, through `--from onnx`: one line."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

import porter
from porter.errors import PorterError
from tests.badcases import Case, collect

VARIANT = "deit-tiny-224"


def refused(path: Path, folder: Path) -> PorterError:
    """Convert a file that must be refused; return the error, when nothing was written."""
    folder.mkdir(exist_ok=True)
    with pytest.raises(PorterError) as caught:
        porter.convert(VARIANT, path, folder / "out.pth", from_="onnx", to="torch", verify=False)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    assert list(folder.iterdir()) == []
    return caught.value


@pytest.mark.parametrize("case", collect("onnx"), ids=lambda case: case.name)
def test_no_stranger_becomes_a_state_dict(case: Case, tmp_path: Path) -> None:
    """Bad files and honest ones of no architecture are refused by name; nothing has run."""
    source = tmp_path / "in"
    source.mkdir()
    path = case.write(source)
    assert str(refused(path, tmp_path / "out")).startswith(str(source))
    assert case.marker is None or not case.marker.exists()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A model that porter wrote."""
    folder = tmp_path_factory.mktemp("refused")
    porter.init(VARIANT, folder / "in.pth", to="torch")
    path = folder / "model.onnx"
    porter.convert(VARIANT, folder / "in.pth", path, from_="torch", to="onnx", verify=False)
    return path.read_bytes()


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.9999])
def test_a_model_that_was_cut_is_refused(model: bytes, share: float, tmp_path: Path) -> None:
    """Cut anywhere, in the graph or in the weights, it is no model."""
    path = tmp_path / "cut.onnx"
    path.write_bytes(model[: int(len(model) * share)])
    refused(path, tmp_path / "out")


@pytest.mark.parametrize("seed", range(20))
def test_damage_in_the_graph_is_never_a_traceback(model: bytes, seed: int, tmp_path: Path) -> None:
    """Bytes of the graph altered at random: refused in one line, or the weights are untouched."""
    random.seed(seed)
    weights = model.index(b"blocks.0.attn.qkv.weight")
    data = bytearray(model)
    for _ in range(3):
        data[random.randrange(min(weights, 40_000))] = random.randrange(256)
    path = tmp_path / "damaged.onnx"
    path.write_bytes(data)
    out = tmp_path / "out"
    out.mkdir()
    refusal = None
    try:
        porter.convert(VARIANT, path, out / "o.pth", from_="onnx", to="torch", verify=False)
    except PorterError as error:
        refusal = error
    if refusal is not None:
        assert refusal.exit_code in (2, 3)
        assert "\n" not in str(refusal)
        assert list(out.iterdir()) == []
        return
    whole = tmp_path / "whole.onnx"
    whole.write_bytes(model)
    porter.convert(VARIANT, whole, out / "w.pth", from_="onnx", to="torch", verify=False)
    left, right = porter.open(out / "o.pth").arrays(), porter.open(out / "w.pth").arrays()
    assert left.keys() == right.keys()
    assert all(left[name].tobytes() == right[name].tobytes() for name in left)
