"""No command replaces an input, another file without --force, or two outputs by each other."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from porter import codecs
from porter.cli import cli
from porter.errors import PorterError
from porter.tensors.state_dict import StateDict
from porter.zoo.architectures import find
from porter.zoo.seeded import seeded

VIT = find("vit-tiny-p16-224")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with two checkpoints and a text of the user."""
    monkeypatch.chdir(tmp_path)
    state = StateDict.of(seeded(VIT, num_classes=10, image_size=32).arrays())
    codecs.write(state, "a.safetensors", "safetensors", record=False)
    codecs.write(state, "a.bin", "torch", max_shard_size="15MB", record=False)
    (tmp_path / "notes.md").write_text("my notes")
    (tmp_path / "link.md").symlink_to("a.safetensors")
    os.link("a.safetensors", "hard.trace")
    shard = next(p.name for p in tmp_path.iterdir() if "-00001-of-" in p.name)
    (tmp_path / "shard.md").symlink_to(shard)
    return tmp_path


def porter(line: str) -> Result:
    return CliRunner().invoke(cli, line.split())


VERIFY = f"verify {VIT.name} a.safetensors"
CONVERT = f"convert {VIT.name} a.safetensors --from torch --to paddle -o o.pdparams"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (f"{VERIFY} --save-trace a.safetensors", "is the input itself"),
        (f"{VERIFY} --save-trace hard.trace --force", "is the input itself"),
        (f"{VERIFY} --save-trace notes.md", "exists already"),
        (f"{VERIFY} --save-trace none/t", "its folder does not exist"),
        (f"{VERIFY} --save-trace .", "it is a folder"),
        (f"{VERIFY} a.safetensors --report notes.md", "exists already"),
        (f"{VERIFY} a.safetensors --report link.md --force", "is the input itself"),
        (f"verify {VIT.name} a.bin.index.json a.safetensors --report shard.md --force", "input"),
        (f"{VERIFY} a.safetensors --report r.md --report ./r.md", "is also r.md"),
        (f"{CONVERT} --report notes.md", "exists already"),
        (f"{CONVERT} --report link.md --force", "is the input itself"),
        (f"{CONVERT} --report o.pdparams.porter.json", "is also o.pdparams.porter.json"),
        (f"{CONVERT.removesuffix('pdparams')}json --report o.json", "is also o.json"),
        ("table infer a.safetensors a.safetensors -o a.safetensors --force", "is the input itself"),
        ("table infer a.safetensors a.safetensors -o notes.md", "exists already"),
        ("table infer a.safetensors a.safetensors -o none/t.toml", "its folder does not exist"),
    ],
)  # fmt: skip
def test_an_output_that_would_replace_is_refused_first(
    folder: Path, line: str, message: str
) -> None:
    """Refused before anything is written: the folder is as it was."""
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    done = porter(line)
    assert isinstance(done.exception, PorterError | SystemExit)
    assert message in str(done.exception) + done.output
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


@pytest.mark.parametrize(
    "line",
    [
        f"{VERIFY} --save-trace t --report r.md",
        f"{CONVERT} --report r.md --no-verify",
        f"{CONVERT.replace(VIT.name, 't.toml')} --report r.md",
    ],
)
def test_a_report_without_a_verdict_is_refused(folder: Path, line: str) -> None:
    """A report that could not be written is not promised."""
    (folder / "t.toml").write_text('[layers]\n"x" = "linear"\n[dialects.paddle]\n'
                                   'framework = "paddle"\n')  # fmt: skip
    done = porter(line)
    assert done.exit_code != 0
    assert "report" in str(done.exception) + done.output
    assert not (folder / "r.md").exists()


def test_a_table_is_written_through_a_link_and_not_through_a_planted_one(folder: Path) -> None:
    """--force writes the file that a link names; a link under a temporary name is not followed."""
    for name in ("x", "y"):
        codecs.write(StateDict.of({f"{name}.weight": np.ones(2, np.float32)}),
                     f"{name}.safetensors", "safetensors", record=False)  # fmt: skip
    (folder / "real.toml").write_text("old")
    (folder / "t.toml").symlink_to("real.toml")
    (folder / ".t.toml.new").symlink_to("notes.md")
    porter("table infer x.safetensors y.safetensors -o t.toml --force")
    assert (folder / "t.toml").is_symlink()
    assert "[layers]" in (folder / "real.toml").read_text()
    assert (folder / "notes.md").read_text() == "my notes"
