"""Some tables of the gallery are made and proven again with the packages that are installed."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from porter.commands.convert import convert
from porter.commands.live.infer import infer
from porter.frameworks.process import Pool, kept
from porter.mapping import gallery

pytestmark = pytest.mark.slow
STUBS = Path(__file__).parent / "stubs"
LIVE = ("mobilenet-v4", "regnet", "pit", "fasternet")
"""At least one table in ten, of every package: small, quick to run."""
SAVE = """
import sys, timm, torch
torch.manual_seed(3)
torch.save(timm.create_model(sys.argv[1]).state_dict(), sys.argv[2])
"""


@pytest.fixture(autouse=True)
def packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let timm be imported without torchvision, of which its models use nothing."""
    monkeypatch.setenv("PYTHONPATH", str(STUBS))


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    """One process of each framework for all tables."""
    with pytest.MonkeyPatch.context() as patch, Pool() as made, kept(made):
        patch.setenv("PYTHONPATH", str(STUBS))
        yield made


def test_one_in_ten_is_run() -> None:
    """The choice follows the gallery."""
    assert set(LIVE) <= gallery.families().keys()
    assert 10 * len(LIVE) >= len(gallery.families())
    packages = {p for name in gallery.families() for p in gallery.families()[name].versions}
    assert packages == {p for name in LIVE for p in gallery.families()[name].versions}


@pytest.mark.usefixtures("pool")
@pytest.mark.parametrize("name", LIVE)
def test_a_table_is_made_again(name: str, tmp_path: Path) -> None:
    """Both models, freshly built, give the rows that are stored, proven by their outputs."""
    family = gallery.families()[name]
    first = next(iter(family.models.values()))
    path = tmp_path / "x.npz"
    draw = np.random.default_rng(0)
    asked = re.search(r"pictures-(\d+)\.npz", family.command)
    size = int(asked[1]) if asked else 224
    np.savez(path, x=draw.standard_normal((2, 3, size, size)).astype(np.float32))
    found = infer(left_model=first["torch"], right_model=first["paddle"], inputs=path, family=name)
    assert found.proven, (found.problems, found.unmatched, found.unproven)
    stored = tomllib.loads((gallery.PLACE / f"{name}.toml").read_text(encoding="utf-8"))
    made = tomllib.loads(found.text)
    assert made.pop("models") == first
    assert made == stored


def test_a_conversion_by_name_is_proven_by_both_models(tmp_path: Path) -> None:
    """`porter convert gallery/resnet18` needs no other option."""
    source, output = tmp_path / "a.pth", tmp_path / "a.pdparams"
    subprocess.run([sys.executable, "-c", SAVE, "resnet18", str(source)], check=True)
    outcome = convert("gallery/resnet18", source, output)
    assert outcome.proven
    assert outcome.verdict is not None
    assert outcome.verdict.left.label == "timm:resnet18"
    assert outcome.verdict.right.label == "paddle.vision:resnet18"
