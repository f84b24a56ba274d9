"""`--num-classes 0` to ONNX: the model ends before its classifier, in features."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch

import porter
from porter import codecs
from porter.errors import UsageError
from porter.frameworks.models import build
from porter.onnx.export.template import template
from porter.onnx.export.transform import headless
from porter.zoo.architectures import Architecture, all_variants, find
from porter.zoo.seeded import seeded

TEMPLATES = Path(str(resources.files("porter.onnx") / "templates"))
TO_ONNX = {"from_": "torch", "to": "onnx", "num_classes": 0}


@pytest.mark.parametrize("name", ["pvtv2-b0", "deit-tiny-distilled-224"])
def test_features_are_those_of_the_reference_model(name: str, tmp_path: Path) -> None:
    """Of two classifiers, the mean of what both read, as the reference model gives it."""
    variant, source, path = find(name), tmp_path / "a.safetensors", tmp_path / "a.onnx"
    state = seeded(variant)
    codecs.write(state, str(source), "safetensors")
    outcome = porter.convert(name, source, path, verify=False, **TO_ONNX)
    assert outcome.plan.num_classes == 0
    session = ort.InferenceSession(path)
    assert [value.name for value in session.get_outputs()] == ["features"]
    model = build(variant, "torch", num_classes=0).eval()
    kept = model.state_dict().keys()
    model.load_state_dict(
        {n: torch.from_numpy(np.array(t.read())) for n, t in state.items() if n in kept}
    )
    noise = np.random.default_rng(0).standard_normal((2, 3, *variant.sides()), np.float32)
    with torch.no_grad():
        expected = model(torch.from_numpy(noise)).numpy()
    found = session.run(None, {"image": noise})[0]
    # 3e-6 was measured
    assert np.abs(found - expected).max() < 3e-5 * np.sqrt((expected**2).mean())


def test_it_is_proven_and_comes_back_without_a_classifier(tmp_path: Path) -> None:
    """The verdict compares features; reading it needs the same option."""
    name, source, path = "pp-lcnet-x1_0-doc-ori", tmp_path / "a.pth", tmp_path / "a.onnx"
    porter.init(name, source)
    outcome = porter.convert(name, source, path, **TO_ONNX)
    assert outcome.verdict is not None
    assert outcome.verdict.passed
    assert porter.verify(name, source, path).passed  # the checkpoint has a classifier
    back = tmp_path / "b.pth"
    porter.convert(name, path, back, from_="onnx", to="torch", num_classes=0, verify=False)
    before, after = porter.open(source).arrays(), porter.open(back).arrays()
    assert set(before) - set(after) == {"head.weight", "head.bias"}
    assert all(after[key].tobytes() == before[key].tobytes() for key in after)


def test_scores_of_no_classes_are_not_named(tmp_path: Path) -> None:
    """Options about classes are refused, before anything is written."""
    source, path = tmp_path / "a.pth", tmp_path / "a.onnx"
    porter.init("pvtv2-b0", source)
    with pytest.raises(UsageError, match="--with-softmax and --num-classes 0"):
        porter.convert(
            "pvtv2-b0", source, path, verify=False, onnx={"with_softmax": True}, **TO_ONNX
        )
    assert not path.exists()


def test_every_classifier_of_the_zoo_can_be_cut_off() -> None:
    """One variant of each family that gives one score for each class."""
    cut, not_cut = set(), set()
    packed = {path.name.partition(".")[0] for path in TEMPLATES.iterdir()}
    families: dict[str, Architecture] = {}
    # Where there is no packed template, torch traces the model, which takes ten seconds.
    order = sorted(all_variants().values(), key=lambda v: (v.name not in packed, v.parameters))
    for variant in order:
        if variant.module:
            families.setdefault(variant.family, variant)
    for family, variant in families.items():
        graph = template(variant).model.graph
        try:
            outputs = headless(graph).outputs
        except UsageError:
            not_cut.add(family)
        else:
            assert isinstance(outputs[0].dims[1], int), family
            cut.add(family)
    assert not_cut == {"pp-ocrv5-mobile-det", "pp-ocrv5-mobile-rec"}
    assert len(cut) > 15
