"""The gallery: every table links all tensors of both models of all its pairs."""

from __future__ import annotations

import tomllib
from datetime import date
from pathlib import Path

import numpy as np
import pytest

from porter import codecs
from porter.commands.convert import convert
from porter.errors import MappingError, UsageError
from porter.frameworks.references import parse
from porter.mapping import gallery
from porter.mapping.reader import load
from porter.mapping.reader import parse as read_table
from porter.planning.gallery import proofs
from porter.tensors.state_dict import StateDict

ROOT = Path(__file__).parents[2]
LARGEST = 1_500_000
"""Bytes of the gallery in the package."""


def test_every_pair_that_is_listed_is_proven_or_differs() -> None:
    """The index has each pair of `benchmarks/gallery.toml` once, and each file is a table's."""
    listed = tomllib.loads((ROOT / "benchmarks" / "gallery.toml").read_text(encoding="utf-8"))
    known, apart = gallery.families(), gallery.differences()
    assert len(known) >= 25
    assert not known.keys() & apart.keys()
    assert set(listed) == {*known, *apart}
    for name, family in known.items():
        assert [list(pair.values()) for pair in family.models.values()] == list(
            listed[name]["models"].values()
        )
    files = {f"{name}{suffix}" for name in known for suffix in (".toml", ".json.xz")}
    found = {path.name: path.stat().st_size for path in gallery.PLACE.iterdir()}
    assert set(found) == {*files, "gallery.json"}
    assert sum(found.values()) < LARGEST


@pytest.mark.parametrize("name", gallery.families())
def test_a_table_is_total_and_exact_for_its_pairs(name: str) -> None:
    """No tensor of either model is left, both ways, and the record of its proof is whole."""
    family = gallery.families()[name]
    table = load(gallery.PLACE / f"{name}.toml")
    assert not table.unproven
    assert gallery.skeletons(name).keys() == family.models.keys()
    for entry, sides in gallery.skeletons(name).items():
        for proof in proofs(table, entry, sides):
            assert proof.tensors
            assert proof.problems == ()
        models = load(Path(f"{gallery.PREFIX}{entry}")).models
        assert models == family.models[entry]
        assert [parse(text, code=False).framework for text in models.values()] == list(models)
    first = next(iter(family.models.values()))
    assert all(f"'{text}'" in family.command for text in first.values())
    assert 0 <= family.difference <= family.limit
    assert date.fromisoformat(family.date)
    assert "?" not in family.versions.values()


@pytest.mark.parametrize("name", gallery.differences())
def test_a_difference_is_described(name: str) -> None:
    """A pair without a table says where its models begin to differ."""
    pair = gallery.differences()[name]
    assert "differ" in pair.about or "no counterpart" in pair.about
    assert not (gallery.PLACE / f"{name}.toml").exists()


def test_a_wrong_table_is_noticed() -> None:
    """A layer under another name, and one of another kind, are problems both ways."""
    text = (gallery.PLACE / "resnet.toml").read_text(encoding="utf-8")
    sides = gallery.sides("gallery/resnet18")
    for old, new in (('"fc" = "linear"', '"fd" = "linear"'), ('"fc" = "linear"', '"fc" = "conv"')):
        wrong = read_table(text.replace(old, new), "wrong.toml")
        assert old in text
        assert any(proof.problems for proof in proofs(wrong, "resnet18", sides))


def test_an_unknown_pair_is_refused_with_those_that_are_near() -> None:
    """`gallery/resnet5` is not a pair; resnet50 is."""
    with pytest.raises(UsageError, match=r"did you mean .*gallery/resnet50"):
        load(Path("gallery/resnet5"))


@pytest.fixture
def without_timm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let timm be missing in child processes."""
    (tmp_path / "hidden").mkdir()
    text = "raise ModuleNotFoundError(\"No module named 'timm'\", name='timm')\n"
    (tmp_path / "hidden" / "timm.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "hidden"))


@pytest.mark.usefixtures("without_timm")
def test_without_the_packages_weights_are_moved_and_the_proof_is_not_made(tmp_path: Path) -> None:
    """The verdict says what to install; names are compared with those of the stored tensors."""
    side = gallery.sides("gallery/resnet18")["torch"]
    draw = np.random.default_rng(0)
    arrays = {
        name: np.asarray(draw.standard_normal(shape), dtype)
        for name, (dtype, shape) in side.tensors.items()
    }
    arrays["fc.weight"], arrays["fc.bias"] = arrays["fc.weight"][:7], arrays["fc.bias"][:7]
    source, output = tmp_path / "a.pth", tmp_path / "a.pdparams"
    codecs.write(StateDict.of(arrays), str(source), format="torch")
    outcome = convert("gallery/resnet18", source, output)
    assert outcome.ok
    assert not outcome.proven
    assert outcome.verdict is not None
    assert outcome.verdict.status == "not made"
    assert "pip install timm" in outcome.verdict.reason
    written = codecs.read(str(output))
    assert written["fc.weight"].read().tobytes() == arrays["fc.weight"].T.tobytes()

    del arrays["layer4.1.conv2.weight"]
    codecs.write(StateDict.of(arrays), str(source), format="torch", force=True)
    with pytest.raises(MappingError, match=r"timm:resnet18: 1 missing: layer4\.1\.conv2\.weight"):
        convert("gallery/resnet18", source, output, force=True)
