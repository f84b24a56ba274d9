"""`porter convert … --to onnx`, `--from onnx`, `porter verify` and `porter export-templates`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from porter.cli import cli
from porter.errors import UsageError

NAME = "pvtv2-b0"


def porter(*arguments: str | Path) -> Result:
    """Run the command line in this process."""
    return CliRunner().invoke(cli, [str(a) for a in arguments], catch_exceptions=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a seeded Paddle checkpoint."""
    made = tmp_path_factory.mktemp("onnx")
    assert porter("init", NAME, "-o", made / "m.pdparams", "--to", "paddle").exit_code == 0
    return made


def test_a_paddle_checkpoint_becomes_onnx_and_comes_back(folder: Path, tmp_path: Path) -> None:
    """Proven at batch 1 and 3 and by onnx's checker; back, the file is the same byte for byte."""
    model, back = tmp_path / "m.onnx", tmp_path / "m.pdparams"
    done = porter("convert", NAME, folder / "m.pdparams", "-o", model, "--from", "paddle",
                  "--to", "onnx", "--json", "--report", tmp_path / "verdict.json")  # fmt: skip
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert said["graph"] == ""
    assert said["verdict"]["status"] == "passed"
    verdict = json.loads((tmp_path / "verdict.json").read_text())
    assert {c["case"] for c in verdict["checks"]} == {"seed0.batch1", "seed0.batch3"}
    done = porter("convert", NAME, model, "-o", back, "--from", "onnx", "--to", "paddle",
                  "--no-verify")  # fmt: skip
    assert done.exit_code == 0, done.output
    assert back.read_bytes() == (folder / "m.pdparams").read_bytes()


def test_verify_takes_a_frozen_half_precision_model(folder: Path, tmp_path: Path) -> None:
    """An ONNX model is run at its own batch and judged by its own floating type."""
    model = tmp_path / "m.onnx"
    done = porter("convert", NAME, folder / "m.pdparams", "-o", model, "--from", "paddle", "--to",
                  "onnx", "--dtype", "fp16", "--batch", "2", "--no-verify")  # fmt: skip
    assert done.exit_code == 0, done.output
    done = porter("verify", NAME, model, folder / "m.pdparams", "--json")
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert {(c["case"], c["precision"]) for c in said["checks"]} == {("seed0.batch2", "float16")}


def test_options_of_onnx_are_for_onnx_alone(folder: Path, tmp_path: Path) -> None:
    """Asked of another format they are refused, as are shards of a model."""
    for more, why in (
        (["--to", "torch", "--opset", "20"], "--to onnx only"),
        (["--to", "onnx", "--max-shard-size", "1MB"], "not cut into shards"),
    ):
        suffix = ".onnx" if "onnx" in more else ".pth"
        done = porter("convert", NAME, folder / "m.pdparams", "-o", tmp_path / f"m{suffix}",
                      "--from", "paddle", *more)  # fmt: skip
        assert isinstance(done.exception, UsageError)
        assert why in str(done.exception)
    assert list(tmp_path.iterdir()) == []


def test_templates_are_packed_into_a_folder(tmp_path: Path) -> None:
    """A folder of templates can be taken to a machine without torch."""
    done = porter("export-templates", NAME, "-o", tmp_path / "templates", "--json")
    assert done.exit_code == 0, done.output
    (made,) = json.loads(done.stdout)["templates"]
    assert Path(made["path"]).stat().st_size == made["nbytes"]
    assert porter("export-templates").exit_code == 2
