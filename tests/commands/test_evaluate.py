"""`porter evaluate`: top-1 and top-5, against the reference model run by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import porter
from porter import codecs
from porter.cli.evaluate import command
from porter.errors import InputError, UsageError
from porter.planning.plan import plan
from porter.planning.recognise import shapes_of
from porter.tensors.state_dict import StateDict
from porter.verification.accuracy.labelled import labelled
from porter.verification.accuracy.measure import _best
from porter.verification.inputs import picture
from porter.zoo.architectures import find
from porter.zoo.seeded import seeded

VIT = find("vit-tiny-p16-224")
CLASSES, SIZE = 7, 32


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pictures for each of seven classes, a list of them, and a checkpoint in two forms."""
    root = tmp_path_factory.mktemp("evaluate")
    rng = np.random.default_rng(5)
    lines = []
    for label in range(CLASSES):
        place = root / "data" / f"n{label:04}"
        place.mkdir(parents=True)
        for index in range(2):
            pixels = rng.integers(0, 256, (40, 48, 3), np.uint8)
            Image.fromarray(pixels).save(place / f"{index}.JPEG", quality=95)
            lines.append(f"data/n{label:04}/{index}.JPEG {label}")
    (root / "list.txt").write_text("# PATH CLASS\n" + "\n".join(lines) + "\n")
    source = StateDict.of(seeded(VIT, num_classes=CLASSES, image_size=SIZE).arrays())
    other = StateDict.of(seeded(VIT, num_classes=CLASSES, image_size=SIZE, seed=4).arrays())
    tensors = [{n: torch.from_numpy(np.array(t.read())) for n, t in s.items()}
               for s in (source, other)]  # fmt: skip
    torch.save({"model": tensors[0], "model_ema": tensors[1]}, root / "official.pth")
    ported = plan(VIT, shapes_of(source), "torch", "paddle", image_size=SIZE).apply(source)
    codecs.write(ported, str(root / "ported.pdparams"), format="paddle")
    return root


def by_hand(folder: Path, key: str) -> tuple[float, float]:
    """Top-1 and top-5 of the reference model, one picture at a time."""
    model = porter.load_model(VIT.name, folder / "official.pth", key=key, framework="torch")
    found = []
    for file, label in labelled(folder / "data", CLASSES):
        with torch.no_grad():
            scores = model(torch.from_numpy(picture(file, VIT.preprocessing, SIZE)))
        found.append(scores[0].topk(5).indices.tolist().index(label)
                     if label in scores[0].topk(5).indices else 9)  # fmt: skip
    return sum(rank == 0 for rank in found) / len(found), sum(r < 5 for r in found) / len(found)


def test_accuracies_are_those_of_the_model(folder: Path) -> None:
    """Three checkpoints in one table; two state dicts of one file are told apart."""
    files = [folder / "official.pth", folder / "ported.pdparams", folder / "official.pth"]
    steps: list[str] = []
    made = porter.evaluate(
        VIT.name, files, folder / "data", keys=["model", None, "model_ema"], batch_size=4,
        progress=lambda step, done, total: steps.append(step),
    )  # fmt: skip
    plain, ported, ema = made.rows
    assert (plain.top1, plain.top5) == by_hand(folder, "model")
    assert (ema.top1, ema.top5) == by_hand(folder, "model_ema")
    assert (ported.top1, ported.top5, ported.agreement) == (plain.top1, plain.top5, 1.0)
    assert plain.agreement is None
    assert ema.agreement is not None
    assert ema.agreement < 1
    assert [row.side.framework for row in made.rows] == ["torch", "paddle", "torch"]
    assert [row.side.key for row in made.rows] == ["model", "", "model_ema"]
    assert plain.side.digest == ema.side.digest != ported.side.digest
    assert made.pictures == 14
    assert [s for s in steps if "pictures" in s] == [f"{n} of 14 pictures" for n in (0, 4, 8, 12)]


def test_the_command_prints_a_table_and_writes_reports(folder: Path, tmp_path: Path) -> None:
    """A list gives the same pictures as the folder; JSON and Markdown say the same."""
    arguments = [VIT.name, str(folder / "ported.pdparams"), "--data", str(folder / "list.txt")]
    reports = ["--report", str(tmp_path / "a.md"), "--report", str(tmp_path / "a.json")]
    result = CliRunner().invoke(command, [*arguments, *reports], catch_exceptions=False)
    assert result.exit_code == 0
    found = json.loads((tmp_path / "a.json").read_text())
    assert found["schema"] == "porter.evaluation/1"
    share = f"{found['rows'][0]['top1']:.2%}"
    assert share in result.output
    assert share in (tmp_path / "a.md").read_text()
    assert "14 pictures" in result.output
    assert "mean 0.5" in result.output
    again = CliRunner().invoke(command, [*arguments, *reports])
    assert again.exit_code != 0


def test_classes_are_told_by_number_order_or_list(folder: Path, tmp_path: Path) -> None:
    """Folders named by number may be few; others must be as many as the classes."""
    for name in ("3", "11"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.png").write_bytes(b"")
    assert [one.label for one in labelled(tmp_path, 12)] == [11, 3]
    with pytest.raises(InputError, match="the class 11; the model has 7 classes"):
        labelled(tmp_path, 7)
    with pytest.raises(InputError, match="7 folders for 10 classes"):
        labelled(folder / "data", 10)
    assert [one.label for one in labelled(folder / "data", CLASSES, 3)] == [0, 2, 4]


@pytest.mark.parametrize(
    ("line", "message"),
    [("x.png", "is not PATH CLASS"), ("none.png 1", "not a file"), ("", "has no picture"),
     ("list.txt 7", "the class 7")],
)  # fmt: skip
def test_bad_lists_are_refused(folder: Path, line: str, message: str) -> None:
    """The line is named."""
    path = folder / "bad.txt"
    path.write_text(f"\n{line}\n")
    with pytest.raises(InputError, match=message):
        labelled(path, CLASSES)
    with pytest.raises(InputError, match="neither a folder"):
        labelled(folder / "none", CLASSES)


def test_outputs_that_are_not_finite_are_wrong() -> None:
    """A NaN does not count as class 0."""
    scores = np.array([[1.0, np.nan, 0], [0, 3.0, 2.0]])
    assert _best(scores).tolist() == [[-1, -1, -1], [1, 2, 0]]


def test_options_must_fit_the_checkpoints(folder: Path) -> None:
    """One value for all, or one for each."""
    with pytest.raises(UsageError, match="2 dialects or keys for 1 checkpoints"):
        porter.evaluate(VIT.name, [folder / "official.pth"], folder / "data", keys=["a", "b"])
    with pytest.raises(UsageError, match="no checkpoint"):
        porter.evaluate(VIT.name, [], folder / "data")
