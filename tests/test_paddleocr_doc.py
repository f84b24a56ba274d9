"""The commands of docs/paddleocr.md run as they stand, one after the other."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import porter
from porter import codecs
from porter.cli import cli
from porter.errors import MappingError
from porter.planning.check import dialect_tensors
from porter.tensors.state_dict import StateDict
from porter.zoo.architectures import all_variants, find

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "paddleocr.md"
TEXT = DOCUMENT.read_text(encoding="utf-8")
COMMANDS = re.findall(r"^```console\n\$ (porter .*)\n(refused\n)?```$", TEXT, re.MULTILINE)


def write_training(variant: str, path: str) -> None:
    """Write a random training checkpoint, as its authors' code would name it.

    Values are as large as those of trained ones, so that outputs are finite.
    """
    draw = np.random.default_rng(1)
    arrays = {}
    for name, (dtype, shape) in dialect_tensors(find(variant), "train").items():
        if len(shape) > 1:
            array = draw.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
        else:
            array = draw.uniform(0.5, 1.5, shape) if "bias" not in name else np.zeros(shape)
        arrays[name] = array.astype(dtype)
    codecs.write(StateDict.of(arrays), path, "paddle", record=False)


def test_the_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each command ends with 0, or is refused where the page says so."""
    monkeypatch.chdir(tmp_path)
    write_training("pp-ocrv6-tiny-rec", "PP-OCRv6_tiny_rec.pdparams")
    porter.init("pp-lcnet-x1_0-textline-ori", "textline.safetensors", record=False)
    assert len(COMMANDS) >= 6
    for command, refused in COMMANDS:
        result = CliRunner().invoke(cli, shlex.split(command)[1:])
        if refused:
            assert isinstance(result.exception, MappingError)
            assert "no way back" in str(result.exception)
            continue
        assert result.exit_code == 0, (command, result.output, result.exception)
        if "inspect" in command:
            assert "pp-ocrv6-tiny-rec, naming train (paddle)" in result.output


def test_every_variant_is_on_the_page() -> None:
    """The table lists the variants that have PaddleX's names, and no others."""
    named = set(re.findall(r"`((?:pp|rt|hgnet|slane|uvdoc)[a-z0-9_-]*)`", TEXT))
    variants = [v for v in all_variants().values() if "paddlex" in v.table.aliases and not v.study]
    assert named == {variant.name for variant in variants}
