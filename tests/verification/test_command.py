"""`porter verify` from the command line: checkpoints, traces, inputs, reports, exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from porter import codecs
from porter.cli.verify import command
from porter.planning.plan import plan
from porter.planning.recognise import shapes_of
from porter.tensors.state_dict import StateDict
from porter.zoo.architectures import find
from porter.zoo.seeded import seeded

VIT = find("vit-tiny-p16-224")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source, a good port and one with a square weight left untransposed."""
    folder = tmp_path_factory.mktemp("files")
    source = StateDict.of(seeded(VIT, num_classes=10, image_size=32).arrays())
    ported = plan(VIT, shapes_of(source), "torch", "paddle", image_size=32).apply(source)
    name = "blocks.2.attn.proj.weight"
    wrong = StateDict({**ported, name: source[name]})
    codecs.write(source, str(folder / "source.pth"), "torch")
    codecs.write(ported, str(folder / "good.pdparams"), "paddle")
    codecs.write(wrong, str(folder / "wrong.pdparams"), "paddle")
    return folder


def run(*words: object) -> Result:
    return CliRunner().invoke(command, [VIT.name, *map(str, words)])


def test_a_good_port_exits_with_0(files: Path, tmp_path: Path) -> None:
    """Files are recognised, read by each side itself, gradients and layers compared, reported."""
    report = tmp_path / "report.json"
    made = run(files / "source.pth", files / "good.pdparams", "--batch-sizes", 2, "--per-layer",
               "--grad", "--train-step", "--report", report)  # fmt: skip
    assert made.exit_code == 0, made.output
    found = json.loads(report.read_text())
    assert found["status"] == "passed"
    assert found["left"]["direct"]
    assert found["right"]["direct"]
    assert found["layers"]
    assert len(found["gradients"]) == 2 * 152


def test_a_wrong_port_exits_with_1_and_names_the_fault(files: Path) -> None:
    """The exit code and the JSON say that it failed, and where."""
    made = run(files / "source.pth", files / "wrong.pdparams", "--batch-sizes", 1, "--json")
    assert made.exit_code == 1
    (finding,) = json.loads(made.output)["findings"]
    assert finding["place"] == "blocks.2.attn.proj.weight"
    assert finding["what"] == "matches when transposed"


def test_a_side_is_recorded_and_compared_later(files: Path, tmp_path: Path) -> None:
    """A trace with its layers' arguments stands for a side; causes are told from it."""
    trace = tmp_path / "wrong.safetensors"
    made = run(files / "wrong.pdparams", "--save-trace", trace, "--per-layer", "--batch-sizes", 1)
    assert made.exit_code == 0, made.output
    made = run(files / "source.pth", trace, "--json")
    assert made.exit_code == 1, made.output
    found = json.loads(made.output)
    causes = [layer["place"] for layer in found["layers"] if layer["role"] == "causes"]
    assert causes == ["blocks.2.attn.proj"]
    assert [f["what"] for f in found["findings"]] == ["matches when transposed"]
    assert any("trace" in reason for reason in found["skipped"])


def test_pictures_and_arrays_are_inputs(files: Path, tmp_path: Path) -> None:
    """Both sides get the same pixels, under the variant's own preprocessing."""
    from PIL import Image

    draw = np.random.default_rng(0)
    pixels = draw.integers(0, 255, (40, 60, 3), np.uint8)
    (tmp_path / "pictures").mkdir()
    Image.fromarray(pixels).save(tmp_path / "pictures" / "a.png")
    made = run(files / "source.pth", files / "good.pdparams", "--json",
               "--images", tmp_path / "pictures")  # fmt: skip
    assert made.exit_code == 0, made.output
    assert json.loads(made.output)["cases"] == ["a.png"]


def test_arrays_of_a_file_are_inputs(tmp_path: Path) -> None:
    """Each array is a case, as float32; what is refused is in `test_bad_sides.py`."""
    from porter.verification.inputs import arrays

    np.savez(tmp_path / "x.npz", batch=np.ones((3, 3, 32, 32)), **{"a/b": np.ones((1, 3, 32, 32))})
    found = arrays(tmp_path / "x.npz", 32)
    assert {name: (a.dtype, a.shape) for name, a in found.items()} == {
        "batch": (np.dtype("float32"), (3, 3, 32, 32)),
        "a_b": (np.dtype("float32"), (1, 3, 32, 32)),
    }


def test_what_cannot_be_asked_is_refused(files: Path, tmp_path: Path) -> None:
    """No right side, a report of unknown kind, a preset that is none: exit code not 0."""
    source, good = files / "source.pth", files / "good.pdparams"
    assert run(source).exit_code == 2
    assert run(source, good, "--save-trace", tmp_path / "t").exit_code == 2
    assert run(source, good, "--report", tmp_path / "report.pdf").exit_code != 0
    assert run(source, good, "--preset", "loose").exit_code != 0
