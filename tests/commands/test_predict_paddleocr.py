"""What detectors, table models and formula models see, in a plain form."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import porter
from porter.cli import cli
from porter.commands.pictures.boxes import objects, page_size, reading_order, regions
from porter.commands.pictures.sequences import STRUCTURE, formula, table, tokenizer_of
from porter.errors import InputError
from porter.tensors.blocks import Array
from porter.tensors.state_dict import Origin


def logit(probability: float) -> float:
    """The logit of a probability."""
    return float(np.log(probability / (1 - probability)))


@pytest.fixture
def found() -> dict[str, Array]:
    """Three queries of two classes: one sure, one likely, one nothing; in the picture's corners."""
    chances = [[0.01, 0.7], [0.9, 0.01], [0.3, 0.2]]
    boxes = [[0.25, 0.25, 0.5, 0.5], [0.9, 0.9, 0.4, 0.2], [0.5, 0.5, 1, 1]]
    return {
        "logits": np.array([[[logit(p) for p in row] for row in chances]], np.float32),
        "pred_boxes": np.array([boxes], np.float32),
    }


def test_objects_are_named_from_half_on(found: dict[str, Array]) -> None:
    """The most probable first, in pixels of the picture and inside of it."""
    one, two = objects(found, ["cell", "table"], (200, 100))
    assert one[:2] == (0, "cell")
    assert one[3:] == (140, 80, 200, 100)
    assert two[:2] == (1, "table")
    assert two[3:] == (0, 0, 100, 50)
    assert (one.probability, two.probability) == pytest.approx((0.9, 0.7))
    assert objects(found, [], (200, 100))[0].label == "class 0"


def test_a_layout_is_in_reading_order(found: dict[str, Array]) -> None:
    """Pairs vote: query 1 before 2 before 0, whatever their probabilities."""
    order = np.full((3, 3), -9.0, np.float32)
    order[1, 2] = 9
    order[0, 1] = order[0, 2] = -9
    assert reading_order(order).tolist() == [2, 0, 1]
    found["logits"][0, 0, 1] = logit(0.95)
    by_chance = [box.number for box in objects(found, [], (200, 100))]
    by_order = [box.number for box in objects(found | {"order_logits": order[None]}, [], (9, 9))]
    assert (by_chance, by_order) == ([1, 0], [0, 1])


def test_regions_of_text_are_enlarged() -> None:
    """Each region by its area times 1.5 over its perimeter; specks and doubt are left out."""
    chances = np.zeros((60, 120), np.float32)
    chances[10:20, 10:50] = 0.9
    chances[20, 50:52] = 0.9  # a corner that touches belongs to it
    chances[40:50, 60:100] = 0.5  # above a pixel's least, below a region's
    chances[55:57, 5:20] = 0.9  # two pixels high
    (box,) = regions(chances, (240, 120))
    grown = 42 * 11 * 1.5 / (2 * (42 + 11))
    assert box[3:] == tuple(round(2 * v) for v in (10 - grown, 10 - grown, 52 + grown, 21 + grown))
    assert (box.label, box.probability) == ("text", pytest.approx(0.9))
    chances[15:30, 30] = 0.9
    chances[30:40, 20:40] = 0.9
    (joined,) = regions(chances, (240, 120))
    assert joined.bottom > 80
    assert regions(np.zeros((32, 32), np.float32), (9, 9)) == ()


def test_a_page_keeps_its_aspect_ratio_in_steps_of_32() -> None:
    """The longer side is at most 960 pixels."""
    assert page_size((1920, 1080)) == (544, 960)
    assert page_size((100, 10)) == (32, 96)


def test_the_tokens_of_a_table_are_html() -> None:
    """Up to the end, without the start."""
    wanted = [
        "sos",
        "<tr>",
        "<td></td>",
        "<td",
        ' colspan="3"',
        ">",
        "</td>",
        "</tr>",
        "eos",
        "<tr>",
    ]
    chances = np.full((len(wanted), 50), 0.1 / 49)
    chances[np.arange(len(wanted)), [STRUCTURE.index(token) for token in wanted]] = 0.9
    assert len(STRUCTURE) == 50
    assert table(chances) == (
        '<table><tr><td></td><td colspan="3"></td></tr></table>', pytest.approx(0.9)
    )  # fmt: skip


def test_a_formula_is_latex_by_the_tokenizer_next_to_it(tmp_path: Path) -> None:
    """Byte-level tokens; without a tokenizer the numbers are given."""
    vocabulary = {"<s>": 0, "<pad>": 1, "</s>": 2, "\\frac": 3, "Ġ{": 4, "Ġa": 5, "Ġ}": 6, "Ã©": 7}
    special = [{"id": number, "special": True} for number in range(3)]
    body = {"model": {"vocab": vocabulary}, "added_tokens": special}
    outputs = {"fetch_name_0": np.array([[3, 4, 5, 7, 6, 2, 1, 1]]), "scores": np.zeros((1, 8))}
    origin = Origin(str(tmp_path / "model.safetensors"), "safetensors")
    assert formula(outputs, tokenizer_of(origin, None)) == ("3 4 5 7 6", 1.0)
    (tmp_path / "inference.yml").write_text(
        json.dumps({"PostProcess": {"character_dict": {"fast_tokenizer_file": body}}})
    )
    assert formula(outputs, tokenizer_of(origin, None)).text == "\\frac { aé }"
    (tmp_path / "tokenizer.json").write_text(json.dumps(body).replace("frac", "sqrt"))
    assert formula(outputs, tokenizer_of(origin, None)).text == "\\sqrt { aé }"
    for text in ("[", "[]", "{}", '{"model": {"vocab": [1]}}'):
        with pytest.raises(InputError, match="the tokenizer is not one of tokens by number"):
            formula(outputs, text)


@pytest.mark.parametrize(
    ("variant", "field"), [("pp-ocrv6-tiny-det", "boxes"), ("uvdoc", "outputs"),
                           ("slanet", "texts")]
)  # fmt: skip
def test_each_kind_of_model_is_run(variant: str, field: str, tmp_path: Path) -> None:
    """A checkpoint and its ONNX file see the same."""
    source = tmp_path / "a.safetensors"
    porter.init(variant, source, record=False)
    picture = tmp_path / "p.png"
    tiles = np.random.default_rng(0).integers(0, 255, (6, 9, 3), np.uint8)
    Image.fromarray(tiles.repeat(20, 0).repeat(20, 1)).save(picture)
    seen = CliRunner().invoke(cli, ["predict", str(source), str(picture), "--json"])
    assert seen.exit_code == 0, seen.output
    body = json.loads(seen.output)
    assert [key for key in ("pictures", "texts", "boxes", "outputs") if body[key]] == [field]
    plain = CliRunner().invoke(cli, ["predict", str(source), str(picture), "--arch", variant])
    assert plain.exit_code == 0
    assert "class " not in plain.output
    graph = tmp_path / "a.onnx"
    porter.convert(variant, source, graph, to="onnx", verify=False, record=False)
    again = CliRunner().invoke(cli, ["predict", str(graph), str(picture), "--json"])
    assert json.loads(again.output)[field] == body[field]


def test_greys_are_made_in_the_graph(tmp_path: Path) -> None:
    """A graph that takes RGB pixels sees what one that takes normalised greys sees."""
    source, picture = tmp_path / "a.safetensors", tmp_path / "p.png"
    porter.init("pp-lcnet-x0_25-textline-ori", source, record=False)
    tiles = np.random.default_rng(0).integers(0, 255, (4, 8, 3), np.uint8)
    Image.fromarray(tiles.repeat(20, 0).repeat(20, 1)).save(picture)
    seen = []
    for channels, within in (("GREY", True), ("GREY", False), ("RGB", True)):
        graph = tmp_path / f"{channels}{within}.onnx"
        porter.convert(
            None, source, graph, verify=False, record=False,
            onnx={"with_preprocessing": within, "channels": channels},
        )  # fmt: skip
        found = porter.predict(graph, [picture]).pictures[str(picture)]
        seen.append([guess.probability for guess in sorted(found)])
    assert seen[0] == pytest.approx(seen[1], abs=0.003)  # greys between bytes
    assert seen[0] != pytest.approx(seen[2], abs=0.02)


def test_a_detector_in_int8_is_not_asked_for_classes(tmp_path: Path) -> None:
    """Its map ranks nothing: the cosine alone decides."""
    source = tmp_path / "a.safetensors"
    porter.init("pp-ocrv5-mobile-det", source, record=False)
    done = porter.convert(
        "pp-ocrv5-mobile-det", source, tmp_path / "a.onnx", image_size=64, dtype="int8",
        record=False,
    )  # fmt: skip
    assert done.verdict is not None
    assert done.verdict.limits == "cosine>=0.999"
    assert done.verdict.passed, done.verdict.reason
