"""A dialect's behaviour: settings of the reference models, with their size, and who has them."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

import porter
from porter.commands.published.classes import published_reference
from porter.errors import UsageError
from porter.frameworks.fill import fill
from porter.frameworks.models import build
from porter.mapping.table import Behaviour
from porter.planning.behaviour import behaviour_of, crossed, settings, short
from porter.planning.fit import fit
from porter.tensors.state_dict import Origin, StateDict
from porter.verification.compare import compare
from porter.verification.inputs import noise
from porter.zoo.architectures import all_variants, families, find
from porter.zoo.seeded import seeded
from tests.golden.cases import Case

MEASURED = [
    ("swin-tiny-w7-224", "paddleclas"), ("deit3-small-224", "mmpretrain"),
    ("vit-tiny-p16-224", "hf"), ("vit-tiny-p16-224", "passl"),
    ("vit-small-r26-s32-224", "google"), ("vit-tiny-r-s16-p8-224", "google"),
    ("deit-tiny-distilled-224", "hf-class"), ("pvt-tiny", "hf"),
    ("pvtv2-b0", "hf"), ("pvtv2-b0", "paddlevit"), ("pvtv2-b2-li", "hf"),
    ("pp-lcnet-x0_25-textline-ori", "train"), ("pp-ocrv5-mobile-det", "train"),
    ("pp-ocrv5-mobile-rec", "train"),
]  # fmt: skip
"""A variant for each difference, the smallest."""
PUBLISHED_ONLY = {
    "pp-ocrv6-small-det": "gate_slope", "pp-ocrv6-medium-det": "gate_slope",
    "pp-ocrv6-rec": "gate_slope", "pp-ocrv6-tiny-rec": "gate_slope", "slanet": "gate_slope",
    "rt-detr": "width_first", "pp-doclayoutv2": "width_first", "pp-doclayoutv3": "width_first",
}  # fmt: skip
"""{family without reference model: the setting of its row}, measured between published classes."""
TRAINED_ONLY = dict.fromkeys(
    ("pp-ocrv6-rec", "pp-ocrv5-mobile-rec", "pp-ocrv5-server-rec"), "block_norm_eps"
)
"""The same, measured on trained weights of PP-OCRv6 (tests/trained): seeded ones barely show it."""


def _size(variant: str) -> int:
    """Return a small image size (pixels), at which a difference is as large."""
    return 64 if find(variant).resizable and "swin" not in variant else find(variant).image_size


def every() -> Iterator[tuple[str, str, Behaviour]]:
    """Yield every row of every built-in table, in each of its forms."""
    for variants in families().values():
        for name, dialect in variants[0].table.dialects.items():
            for form in dialect.forms:
                yield from ((variants[0].name, name, row) for row in form.behaviour)


@pytest.mark.parametrize("framework", ["torch", "paddle"])
def test_every_row_is_a_setting_of_both_reference_models(framework: str) -> None:
    """A row names a keyword argument, whose default is the row's canonical value."""
    rows = [row for row in every() if find(row[0]).module]
    assert len(rows) > 10
    for variant, dialect, row in rows:
        chosen = find(variant)
        module = import_module(f"porter.reference_models.{framework}.{chosen.module}")
        parameter = inspect.signature(getattr(module, chosen.model)).parameters[row.setting]
        assert parameter.default == row.canonical, (variant, dialect)
        assert row.value != row.canonical
        assert row.seen
        assert row.size > 0


def test_every_difference_is_measured_below() -> None:
    """No row of a table is without a measurement of its size."""
    known = {(find(variant).family, dialect) for variant, dialect in MEASURED}
    like = {"hf-v5": "hf"}
    for variant, dialect, row in every():
        family = find(variant).family
        if not find(variant).module:
            assert row.setting in (PUBLISHED_ONLY.get(family), TRAINED_ONLY.get(family))
            continue
        inherited = row.setting == "norm_eps" and ("vit", like.get(dialect, dialect)) in known
        assert inherited or (family, dialect) in known or row.setting == "norm_eps"


def test_a_verdict_of_published_models_computes_the_canonical_behaviour() -> None:
    """Where a row says that Paddle's slope differs, PaddleX's class runs with PyTorch's."""
    for family, setting in PUBLISHED_ONLY.items():
        rows = behaviour_of(families()[family][0], "train")
        assert {row.setting for row in rows} == {setting, TRAINED_ONLY.get(family, setting)}
        reference = published_reference(families()[family][0], "paddle")
        assert ("slope=exact" in reference) == (setting == "gate_slope")


@pytest.mark.parametrize(("variant", "dialect"), MEASURED)
def test_the_size_of_a_difference_is_what_seeded_weights_show(variant: str, dialect: str) -> None:
    """The stated size is that of the logits on seeded weights, within a factor of three."""
    import torch

    chosen = find(variant)
    rows = behaviour_of(chosen, dialect)
    assert rows
    size = _size(variant)
    (image,) = noise([0], [1], chosen.sides(size)).values()
    outputs = []
    for given in ({}, settings(rows)):
        model = build(chosen, "torch", image_size=size, **given)
        fill(model, seeded(chosen, image_size=size), "torch")
        model.eval().double()
        with torch.no_grad():
            outputs.append(model(torch.from_numpy(image).double()).numpy())
    error = compare(outputs[1], outputs[0]).error
    trained = TRAINED_ONLY.get(chosen.family)
    largest = max(row.size for row in rows if row.setting != trained)
    assert largest / 3 < error < 3 * largest, error


PUBLISHED = [
    ("swin-tiny-w7-224.paddleclas", "paddleclas", 4.35e-2),
    ("deit-tiny-distilled-224.timm", "hf-class", 3.3),
    ("vit-small-r26-s32-224.timm", "google", 2.7e-4), ("vit-tiny-p16-224.timm", "hf", 2.0e-6),
    ("pvt-tiny.hf", "hf", 1.1e-5), ("pvtv2-b0.hf", "hf", 2.0e-5), ("pvtv2-b2-li.hf", "hf", 3.6e-4),
]  # fmt: skip
"""Golden case, dialect, and the difference that was measured between the authors' own codes."""


@pytest.mark.parametrize(("name", "dialect", "size"), PUBLISHED)
def test_a_behaviour_is_as_far_as_the_code_of_its_authors(
    name: str, dialect: str, size: float
) -> None:
    """On a golden case's weights the difference is the one between the two implementations."""
    import torch

    case = Case(name)
    variant = find(case.variant)
    state = StateDict.of({n: np.ascontiguousarray(a) for n, a in case.weights().items()})
    plan = fit(variant, state, None, "torch").plan
    outputs = []
    for given in ({}, settings(behaviour_of(variant, dialect))):
        model = build(variant, "torch", **given)
        fill(model, plan.apply(state), "torch")
        model.eval().double()
        with torch.no_grad():
            outputs.append(model(torch.from_numpy(case.image()[:1]).double()).numpy())
    assert compare(outputs[1], outputs[0]).error == pytest.approx(size, rel=0.5)


@pytest.mark.parametrize("variant", ["swin-tiny-w7-224", "vit-small-r26-s32-224", "deit3-small-224",
                                     "deit-tiny-distilled-224"])  # fmt: skip
def test_both_frameworks_compute_a_behaviour_alike(variant: str, tmp_path: Path) -> None:
    """A checkpoint loaded as its dialect computes gives the same logits in torch and Paddle."""
    import paddle
    import torch

    dialect = next(d for v, d in MEASURED if v == variant)
    chosen = find(variant)
    path = tmp_path / "weights.safetensors"
    side = f"safetensors:{dialect}"
    if dialect == "google":
        path, side = tmp_path / "weights.npz", "numpy:google"
    porter.init(variant, path, to=side, image_size=_size(variant))
    (image,) = noise([0], [1], _size(variant)).values()
    given = {"dialect": dialect, "behaviour": "dialect"}
    with torch.no_grad():
        model = porter.load_model(variant, path, **given)
        one = model(torch.from_numpy(image)).numpy()
        plain = porter.load_model(variant, path, dialect=dialect)(torch.from_numpy(image)).numpy()
    with paddle.no_grad():
        other = porter.load_model(variant, path, "paddle", **given)(paddle.to_tensor(image)).numpy()
    size = behaviour_of(chosen, dialect)[0].size
    assert compare(other, one).error < min(1e-4, size / 3)
    assert compare(plain, one).error > size / 5


def test_an_unknown_behaviour_is_refused(tmp_path: Path) -> None:
    """The choices are listed, before anything is read."""
    with pytest.raises(UsageError, match="use canonical, dialect"):
        porter.load_model("pvt-tiny", tmp_path / "none.pth", behaviour="their")


def test_a_value_in_config_json_replaces_that_of_the_table(tmp_path: Path) -> None:
    """A folder whose configuration has the canonical eps differs in nothing."""
    vit = find("vit-tiny-p16-224")
    origin = Origin(str(tmp_path / "model.safetensors"), "safetensors")
    assert settings(behaviour_of(vit, "hf", origin)) == {"norm_eps": 1e-12}
    (tmp_path / "config.json").write_text(json.dumps({"layer_norm_eps": 1e-6}))
    assert behaviour_of(vit, "hf", origin) == ()
    (tmp_path / "config.json").write_text(json.dumps({"layer_norm_eps": 1e-5}))
    assert settings(behaviour_of(vit, "hf", origin)) == {"norm_eps": 1e-5}
    (tmp_path / "config.json").write_text("[")
    assert settings(behaviour_of(vit, "hf", origin)) == {"norm_eps": 1e-12}


def test_a_variant_that_has_the_value_anyway_differs_in_nothing() -> None:
    """PaddleClas's small ViT has eps 1e-5 itself, as PASSL's classes do."""
    assert behaviour_of(find("vit-small768-p16-224"), "passl") == ()


def test_a_conversion_across_a_difference_says_so(tmp_path: Path) -> None:
    """One line names what the dialect's own code does, and the size."""
    porter.init("swin-tiny-w7-224", tmp_path / "a.pdparams", to="paddle:paddleclas")
    plan = porter.convert(
        "swin-tiny-w7-224", tmp_path / "a.pdparams", tmp_path / "b.pth", from_="paddle:paddleclas",
        to="torch", dry_run=True,
    )  # fmt: skip
    (line,) = [note for note in plan.notes if "outputs of its model" in note]
    assert line.startswith("paddleclas shifts the windows of the last stage")
    assert "about 4e-2" in line


def test_names_of_one_behaviour_cross_nothing() -> None:
    """Both forms of transformers' names have the same eps."""
    vit = find("vit-tiny-p16-224")
    both = [(name, behaviour_of(vit, name)) for name in ("hf", "hf-v5")]
    assert list(crossed(*both)) == []


@pytest.mark.parametrize(("size", "text"), [(4.4e-2, "4e-2"), (3.3, "3"), (2e-6, "2e-6")])
def test_a_size_has_one_digit(size: float, text: str) -> None:
    """Sizes are rough: they depend on the weights."""
    assert short(size) == text


def test_every_variant_knows_its_dialects_behaviours() -> None:
    """No variant fails to find the rows of a dialect that it has."""
    for variant in all_variants().values():
        for dialect in variant.dialects:
            values = settings(behaviour_of(variant, dialect)).values()
            assert all(isinstance(value, bool | float) for value in values)
            assert np.all([value is True or value < 1 for value in values])
