"""Variants that other packages bring are named as porter's own."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import porter
from porter.cli import cli
from porter.errors import TableError, UsageError
from porter.mapping import reader
from porter.planning.check import check
from porter.zoo import architectures, plugins

VARIANTS = """
family = "tower"
title = "Tower"
paper = ""
source = "a package of our own"
[preprocessing]
mean = [0.5, 0.5, 0.5]
std = [0.5, 0.5, 0.5]
interpolation = "bilinear"
crop = 1.0
[defaults]
image_size = 8
[variants.tower-small]
aliases = ["tower_s"]
parameters = 104
"""
TABLE = """
family = "tower"
[layers]
"floors.{i}" = "linear"
"head" = "linear"
"""
SKELETON = """floors.{0..1}:
  weight float32 4 4
  bias float32 4
head.weight float32 classes 4
head.bias float32 classes
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package's folder, brought by entry points of both groups."""
    for name, text in (
        ("variants/tower.toml", VARIANTS),
        ("skeletons/tower-small.torch.txt", SKELETON),
        ("skeletons/tower-small.paddle.txt", SKELETON),
        ("tower.toml", TABLE),
    ):
        (tmp_path / "brought" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "brought" / name).write_text(text, encoding="utf-8")
    brought = tmp_path / "brought"
    monkeypatch.setattr(EntryPoint, "load", lambda self: brought)
    groups = (plugins.GROUP, reader.GROUP)
    entries = {group: [EntryPoint("tower", "tower:FOLDER", group)] for group in groups}
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: entries.get(group, []))
    _forget()
    yield brought
    _forget()


def _forget() -> None:
    plugins.folders.cache_clear()
    architectures.all_variants.cache_clear()
    reader.builtin.cache_clear()


def test_a_variant_that_a_package_brings_is_converted_and_checked(
    folder: Path, tmp_path: Path
) -> None:
    """By name and alias; Linears are transposed for Paddle; the table is total and exact."""
    rng = np.random.default_rng(0)
    shapes = {"floors.0": (4, 4), "floors.1": (4, 4), "head": (3, 4)}
    arrays = {
        f"{layer}.{leaf}": rng.standard_normal(shape if leaf == "weight" else shape[:1])
        for layer, shape in shapes.items()
        for leaf in ("weight", "bias")
    }
    np.savez(tmp_path / "a.npz", **{n: array.astype("f4") for n, array in arrays.items()})
    done = porter.convert(
        "tower_s", tmp_path / "a.npz", tmp_path / "a.pdparams", from_="numpy:torch", to="paddle"
    )
    assert done.ok
    assert done.plan.num_classes == 3
    found = porter.open(tmp_path / "a.pdparams")
    assert np.array_equal(found["head.weight"].read(), arrays["head.weight"].astype("f4").T)
    assert all(proof.holds for proof in check([architectures.find("tower-small")]))
    assert "tower-small" in CliRunner().invoke(cli, ["list"]).output


def test_two_packages_with_one_name_are_refused(folder: Path) -> None:
    """Nobody's variant is replaced in silence."""
    path = folder / "variants" / "tower.toml"
    path.write_text(VARIANTS.replace("tower-small", "deit-tiny-224"), encoding="utf-8")
    with pytest.raises(TableError, match="two packages bring a variant deit-tiny-224"):
        architectures.all_variants()


def test_a_folder_without_variants_is_refused(folder: Path) -> None:
    """The entry point is named."""
    (folder / "variants" / "tower.toml").unlink()
    (folder / "variants").rmdir()
    with pytest.raises(TableError, match=r"entry point tower of porter\.variants"):
        architectures.find("tower-small")


def test_a_misspelled_name_is_answered_with_those_that_are_brought(folder: Path) -> None:
    """The nearest names are searched among all."""
    with pytest.raises(UsageError, match="did you mean tower-small"):
        architectures.find("tower-smal")
