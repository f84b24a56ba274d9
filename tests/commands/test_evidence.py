"""The evidence for a pull request: variants in one table, with accuracies."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import porter
from porter import codecs
from porter.cli.verify import command
from porter.planning.plan import plan
from porter.planning.recognise import shapes_of
from porter.report.evidence import markdown, notes
from porter.tensors.state_dict import StateDict
from porter.verification.accuracy.evidence import Evidence, Figures, Row
from porter.verification.checks import Check
from porter.verification.compare import compare
from porter.verification.sides.report import SideReport
from porter.verification.verdict import FAILED, PASSED, Verdict
from porter.zoo.architectures import find
from porter.zoo.seeded import seeded

NAMES = ("vit-tiny-p16-224", "deit-tiny-224")
SCHEMAS = Path(porter.__file__).parent / "schemas"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sources and ports of two variants, the second port wrong, and four pictures."""
    root = tmp_path_factory.mktemp("evidence")
    for index, name in enumerate(NAMES):
        variant = find(name)
        source = StateDict.of(seeded(variant, num_classes=6, image_size=32).arrays())
        ported = plan(variant, shapes_of(source), "torch", "paddle", image_size=32).apply(source)
        weight = "blocks.2.attn.proj.weight"
        if index:
            ported = StateDict({**ported, weight: source[weight]})
        codecs.write(source, str(root / f"{name}.pth"), format="torch")
        codecs.write(ported, str(root / f"{name}.pdparams"), format="paddle")
    for label in range(4):
        (root / "data" / str(label)).mkdir(parents=True)
        pixels = np.random.default_rng(label).integers(0, 256, (36, 36, 3), np.uint8)
        Image.fromarray(pixels).save(root / "data" / str(label) / "x.png")
    return root


def run(folder: Path, names: str, *options: str) -> Result:
    """Run `porter verify` on the folder's files."""
    files = [str(folder / f"{{arch}}.{suffix}") for suffix in ("pth", "pdparams")]
    common = ["--image-size", "32", "--no-sensitivity"]
    return CliRunner().invoke(command, [names, *files, *common, *options], catch_exceptions=False)


def test_variants_and_accuracies_are_in_one_table(folder: Path, tmp_path: Path) -> None:
    """The good port passes with its absolute figures, the wrong one fails and is explained."""
    out = tmp_path / "e.md"
    result = run(
        folder, ",".join(NAMES), "--preset", "paddleclas", "--data", str(folder / "data"),
        "--report", str(out), "--report", str(tmp_path / "e.json"),
    )  # fmt: skip
    assert result.exit_code == 1
    text = out.read_text()
    assert "| `vit-tiny-p16-224` | ✅ passed |" in text
    assert "| `deit-tiny-224` | ❌ failed |" in text
    assert "max difference (asked: < 0.0001)" in text
    assert "TF32 is off" in text
    assert text.count("`logits of seed") == 20
    assert "matches when transposed" in text
    assert "matches when transposed" in result.output
    body = json.loads((tmp_path / "e.json").read_text())
    jsonschema.validate(body, json.loads((SCHEMAS / "evidence.json").read_text()))
    good, wrong = body["rows"]
    assert good["figures"]["rows"] == 25
    assert good["figures"]["top1"] == 1.0
    assert good["figures"]["max_abs"] < 1e-4 < wrong["figures"]["max_abs"]
    accuracy = [row["top1"] for row in good["evaluation"]["rows"]]
    assert accuracy[0] == accuracy[1]
    assert good["evaluation"]["pictures"] == 4


def test_several_variants_need_their_names_in_the_paths(folder: Path) -> None:
    """Else all would be compared on one file."""
    with pytest.raises(porter.errors.UsageError, match="does not name the variant"):
        CliRunner().invoke(
            command, [",".join(NAMES), str(folder / "a.pth"), str(folder / "{arch}.pdparams")],
            catch_exceptions=False,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data", "x", "--report", "e.html"], "several variants and accuracies: .md or .json"),
        (["--most", "3"], "some of the pictures of --data"),
    ],
)
def test_what_is_not_carried_out_is_refused(folder: Path, options: list[str], message: str) -> None:
    """Nothing is run first."""
    result = run(folder, NAMES[0], *options)
    assert result.exit_code == 2
    assert message in result.output


REF = 1e4 * np.random.default_rng(0).standard_normal((2, 10))
SIDE = SideReport("torch", "torch", "torch", "a.pth", "torch")


def verdict(status: str, factor: float) -> Verdict:
    """A verdict whose outputs are large."""
    own, port = REF * (1 + 1e-7), REF * factor
    check = Check("seed0.batch2", "logits", "float32", compare(own, REF), compare(port, REF), 1e-5,
                  "" if status == PASSED else "too far", compare(port, own))  # fmt: skip
    return Verdict("vit-tiny-p16-224", status, "", SIDE, SIDE, 10, 32, checks=(check,))


def test_a_sound_port_over_the_figure_asked_for_is_explained() -> None:
    """The absolute figure is next to the source's own; it is not called a failure."""
    row = Row(verdict(PASSED, 1 - 1e-7))
    made = Evidence((row,), 1e-4)
    assert made.passed
    assert isinstance(row.figures, Figures)
    assert row.figures.max_abs > 1e-4
    assert row.figures.own > 1e-4
    assert "over 0.0001 and sound" in notes(made)[-1]
    assert "❌" not in markdown(made)
    bad = replace(made, rows=(row, Row(verdict(FAILED, 1.01))))
    assert bad.failed
    assert "❌ failed" in markdown(bad)
    assert not any("vit-tiny-p16-224, vit" in note for note in notes(bad))
