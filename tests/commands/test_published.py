"""Verdicts by the models that PaddleX and transformers publish: what is run, and on what."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import porter
from porter.cli import cli
from porter.commands.live.one import Asked
from porter.commands.published.classes import _one, pictures, published_reference
from porter.commands.published.limits import judged_closely, judged_exactly
from porter.errors import InputError
from porter.frameworks.published.paddlex import paddlex as build
from porter.frameworks.references import parse
from porter.planning.check import dialect_tensors
from porter.verification.checks import Check
from porter.verification.compare import compare
from porter.verification.sides.report import SideReport
from porter.verification.verdict import Verdict
from porter.zoo.architectures import all_variants, find
from porter.zoo.published import published_config
from tests.codecs.paddle import wired

PUBLISHED = [v for v in all_variants().values() if "paddlex" in v.table.aliases]


@pytest.mark.parametrize("variant", [v for v in PUBLISHED if not v.module], ids=lambda v: v.name)
def test_every_variant_without_reference_model_has_two_published_ones(variant: Any) -> None:
    """References are of the right framework, and lead to a configuration of the variant."""
    left, right = (parse(published_reference(variant, side)) for side in ("paddle", "torch"))
    assert (left.framework, right.framework) == ("paddle", "torch")
    assert find(left.name) is variant
    assert json.loads(Path(right.name).read_text())["architectures"]


def test_pictures_have_the_size_that_a_model_takes() -> None:
    """A recogniser's height is fixed; what takes any size gets a small one."""
    assert pictures(find("pp-ocrv6-small-rec"))["x"].shape == (1, 3, 48, 320)
    assert pictures(find("uvdoc"))["x"].shape == (1, 3, 712, 488)
    assert pictures(find("pp-ocrv5-server-det"))["x"].shape == (1, 3, 192, 192)
    assert pictures(find("pp-doclayoutv3"))["x"].shape == (1, 3, 192, 192)
    found = pictures(find("pp-formulanet-l"))
    assert [found[name].shape for name in ("x", "tokens")] == [(1, 3, 768, 768), (1, 8)]
    assert 2 < found["tokens"].min() < found["tokens"].max() < 50_000


def test_options_that_need_a_reference_model_are_refused(tmp_path: Path) -> None:
    """Before a file is read."""
    asked = ["verify", "pp-ocrv6-tiny-det", "a.pth", "b.pth", "--grad"]
    result = CliRunner().invoke(cli, asked)
    assert result.exit_code == 2
    assert "--grad is for variants that have a reference model" in result.output


def check(precision: str, problem: str) -> Check:
    """Return a check of an output."""
    figures = compare(np.ones(3), np.ones(3))
    return Check("given", "logits", precision, None, figures, 1e-4, problem)


def test_an_inference_model_runs_in_the_class_of_paddlex(tmp_path: Path) -> None:
    """Its tensors have the names of that class, found by its operations."""
    variant = find("pp-ocrv6-tiny-rec")
    tensors = dialect_tensors(variant, "paddle")
    arrays = {n: np.full(shape, 0.5, np.float32) for n, (_, shape) in tensors.items()}
    folder = wired.write(tmp_path / "model", variant, arrays)
    given = _one(variant, Asked(folder, None, None), "left", None, "cpu")
    assert (given.side.dialect, given.reference.framework) == ("paddle", "paddle")
    assert given.side.state.keys() == arrays.keys()


def test_a_detector_is_judged_in_float64() -> None:
    """Rows that change places in float32 are no fault; a difference in float64 is one."""
    side = SideReport(label="a", framework="torch", dialect="torch", file="", format="")
    verdict = Verdict("x", "failed", "", side, side, 0, 0)
    swapped = replace(verdict, checks=(check("float64", ""), check("float32", "error")))
    found = judged_exactly(swapped)
    assert found.passed
    assert [c.precision for c in found.checks] == ["float64"]
    assert "float32" in found.skipped[0]
    wrong = replace(verdict, checks=(check("float64", "error"), check("float32", "error")))
    assert judged_exactly(wrong).failed
    unknown = replace(verdict, checks=(check("float32", "error"),))
    assert judged_exactly(unknown) is unknown


def test_the_models_of_one_network_differ_by_rounding_only() -> None:
    """In float64 the limit is 1e-8; float32 has its own, and a failed verdict stays as it is."""
    side = SideReport(label="a", framework="torch", dialect="torch", file="", format="")
    verdict = Verdict("x", "passed", "", side, side, 0, 0)
    near, far = (
        Check("given", "logits", "float64", None, compare(np.full(3, 1 + e), np.ones(3)), 5e-4)
        for e in (1e-9, 1e-7)
    )
    assert judged_closely(replace(verdict, checks=(near, check("float32", "")))).passed
    found = judged_closely(replace(verdict, checks=(far,)))
    assert found.failed
    assert "1.0e-07 is over the limit 1.0e-08" in found.reason
    assert judged_closely(found) is found


@pytest.fixture
def paddlex(monkeypatch: pytest.MonkeyPatch) -> type:
    """Put a package in the place of PaddleX whose classes keep their configuration."""
    import paddle

    class Config:
        def __init__(self, **options: Any) -> None:
            self.options = options

    class Model(paddle.nn.Layer):  # type: ignore[misc]
        config_class = Config

        def __init__(self, config: Config) -> None:
            super().__init__()
            self.config = config
            self.model = lambda x: {
                "intermediate_logits": paddle.stack([x, x + 1], 1),
                "intermediate_reference_points": paddle.stack([x, x + 2], 1),
            }

        def forward(self, x: list[Any]) -> list[Any]:
            return [(x[0] * 2).numpy()]

    for place in (
        "text_detection.modeling.pp_ocrv5_server_det",
        "object_detection.modeling.rt_detr",
    ):
        module = ModuleType(f"paddlex.inference.models.{place}")
        module.PPOCRV5ServerDet = module.RTDETR = Model  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(sys.modules, "paddlex", ModuleType("paddlex"))
    return Model


def test_paddlex_builds_by_name_or_by_config(paddlex: type, tmp_path: Path) -> None:
    """The published configuration is used; options replace values; outputs are before boxes."""
    import paddle

    x = paddle.ones([1, 3])
    model = build("PP-OCRv5_server_det", mode="small")
    assert isinstance(model, paddlex)
    assert model.config.options["mode"] == "small"
    assert model.config.options["neck_out_channels"] == 256
    np.testing.assert_array_equal(model(x)["last_hidden_state"].numpy(), [[2, 2, 2]])
    path = tmp_path / "config.json"
    path.write_text(json.dumps(published_config(find("pp-doclayout-plus-l"), 3)))
    detector = build(str(tmp_path))
    assert len(detector.config.options["id2label"]) == 3
    found = detector(x)
    assert {key: float(value[0, 0]) for key, value in found.items()} == {
        "logits": 2, "pred_boxes": 3,
    }  # fmt: skip
    for wrong in ("vit-tiny-p16-224", "shunted-s"):
        with pytest.raises(InputError, match="not a model of PaddleX"):
            build(wrong)


def test_two_files_are_compared_by_models_that_are_named(tmp_path: Path) -> None:
    """A verdict of a variant without reference model, by models of the user's own code."""
    words = {"torch": ("Module", "add_module"), "paddle": ("Layer", "add_sublayer")}
    for framework, (base, add) in words.items():
        text = MODEL.format(framework=framework, base=base, add=add)
        (tmp_path / f"with_{framework}.py").write_text(text)
    left, right = tmp_path / "a.pdparams", tmp_path / "b.safetensors"
    porter.init("uvdoc", left, to="paddle:paddlex")
    porter.convert("uvdoc", left, right, from_="paddle:paddlex", to="torch:hf")
    other = tmp_path / "c.safetensors"
    porter.init("uvdoc", other, to="torch:hf", seed=1)
    inputs = tmp_path / "x.npz"
    np.savez(inputs, x=np.ones((1, 2), np.float32))
    asked = ["verify", "uvdoc", str(left), "--inputs", str(inputs), "--json"]
    asked += ["--left-model", f"{tmp_path}/with_paddle.py:build"]
    asked += ["--right-model", f"{tmp_path}/with_torch.py:build"]
    good = CliRunner().invoke(cli, [*asked, str(right)])
    assert good.exit_code == 0, good.output
    wrong = CliRunner().invoke(cli, [*asked, str(other)])
    assert wrong.exit_code == 1, wrong.output


MODEL = """
import {framework} as framework

from porter.planning.check import dialect_tensors
from porter.zoo.architectures import find


class Sum(framework.nn.{base}):
    def forward(self, x):
        values = [v for n, v in self.state_dict().items() if "num_batches" not in n]
        return x * sum(v.abs().mean() for v in values)


def build():
    root = Sum()
    for name, (dtype, shape) in dialect_tensors(find("uvdoc"), "{framework}").items():
        *path, leaf = name.split(".")
        layer = root
        for part in path:
            if part not in dict(layer.named_children()):
                layer.{add}(part, framework.nn.{base}())
            layer = getattr(layer, part)
        layer.register_buffer(leaf, framework.zeros(list(shape), dtype=getattr(framework, dtype)))
    return root
"""
"""A model with UVDoc's tensors that sums them."""
