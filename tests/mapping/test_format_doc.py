"""Every piece of TOML in docs/mapping-format.md is a table, or a part of one."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from porter.mapping.reader import parse
from porter.mapping.table import CANONICAL, PADDLE

TEXT = (Path(__file__).parents[2] / "docs" / "mapping-format.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```toml\n(.*?)^```$", TEXT, re.M | re.S)
LAYERS = """
[tensors]
"cls_token" = "parameter"
"dist_token" = "parameter"
"a.table" = "parameter"
"blocks.{i}.attn.bias_k" = "parameter"
[layers]
"a.{i}" = "linear"
"a.{i}.{n:qkv,in,q,kv}" = "linear"
"blocks.{i}.{n:norm1,norm2}" = "norm"
"blocks.{i}.attn.qkv" = "attention"
"blocks.{i}.token_conv" = "conv"
"layers.{i}.experts.{e}.{n:gate_proj,up_proj}" = "linear"
"head" = "linear"
"""
HF = '[dialects.hf]\nlike = "vit:hf"\n'


def completed(block: str) -> str:
    """Return a table that contains the block: with layers, and the dialects that it refers to."""
    body = tomllib.loads(block)
    if "layers" in body:
        return block
    text = LAYERS + block
    dialects = body.get("dialects", {})
    if "other" in dialects:
        text += '\n[dialects.other]\nframework = "torch"\n'
    if any(entry.get("like") == "hf" for entry in dialects.values()):
        text += HF
    return text


@pytest.mark.parametrize("block", BLOCKS)
def test_every_example_loads(block: str) -> None:
    """Parts of a table are completed by layers; every dialect of the example is read."""
    table = parse(completed(block), "docs/mapping-format.md")
    named = {*tomllib.loads(block).get("dialects", {}), CANONICAL, PADDLE}
    assert named <= {*table.dialects, *table.aliases}


def test_there_are_examples() -> None:
    """The page has not lost them, and the examples of rows differ from the layers' own names."""
    assert len(BLOCKS) >= 9
    rows = parse(completed(BLOCKS[1]), "t").dialect("other").rows
    assert len(rows) == 5


def test_the_kinds_are_listed() -> None:
    """Every kind has a row in one of the two tables."""
    from porter.mapping.conventions import conventions
    from porter.mapping.table import BARE

    listed = {
        kind
        for line in re.findall(r"^\| (`.*?) \|", TEXT, re.M)
        for kind in re.findall(r"`(\w+)`", line)
    }
    assert {*conventions()[CANONICAL].kinds, *BARE} <= listed
