"""The manifest and every command in docs/scale.md and docs/ci-recipes.md run, on small models.

The steps of the action and the GitLab job have a test of their own, tests/test_action.py.
"""

from __future__ import annotations

import re
import shlex
import signal
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import porter
from porter.cli import cli
from tests.buckets import bucket, server

__all__ = ["bucket", "server"]

ROOT = Path(__file__).parents[2]
SCALE, RECIPES = (ROOT / "docs" / name for name in ("scale.md", "ci-recipes.md"))
VIT, DEIT = "vit-tiny-p16-224", "deit-tiny-224"
SMALLER = {
    "shunted-s": VIT, "vit-base-p16-224": VIT, "100MB": "4MB", "cuda": "cpu", "tf32": "fp32",
    "s3://bucket/run/vit.safetensors": "s3://models/run/vit.safetensors",
}  # fmt: skip
"""Words of the commands, and what they are here."""


def commands(page: Path) -> list[list[str]]:
    """Return the words of the commands that have a line of their own, without those in YAML."""
    lines = re.findall(r"^(?:    )?(porter .+)$", page.read_text("utf-8"), re.M)
    return [[SMALLER.get(word, word) for word in shlex.split(line)[1:]] for line in lines]


def run(words: list[str]) -> str:
    """Run a command; return what it prints."""
    handler = signal.getsignal(signal.SIGTERM)
    done = CliRunner().invoke(cli, words)
    signal.signal(signal.SIGTERM, handler)
    assert done.exit_code == 0, f"{words}\n{done.output}\n{done.exception!r}"
    return done.output


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in which the commands are run."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_manifest_and_the_large_checkpoint(folder: Path, bucket: Any) -> None:
    """The manifest of the page is checked as it stands, and run with smaller variants."""
    text = re.search(r"```toml\n(.+?)```", SCALE.read_text("utf-8"), re.S)
    assert text is not None
    jobs = folder / "jobs.toml"
    jobs.write_text(text[1])
    for name in ("shunted", "pvt", "weights/deit-tiny-224", "weights/deit-small-224", "exports/a"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / f"{name}.pth").write_bytes(b"x")
    (folder / "pvt.pdparams").write_bytes(b"x")
    assert "5 jobs" in run(["fleet", "jobs.toml", "--dry-run"])
    smaller = text[1].replace('"shunted-t"', f'"{VIT}"').replace('"pvtv2-b0"', f'"{VIT}"')
    jobs.write_text(smaller.replace(', "deit-small-224"', ""))
    for path, variant in (
        ("shunted.pth", VIT), ("pvt.pth", VIT), ("pvt.pdparams", VIT), ("vit.pth", VIT),
        ("weights/deit-tiny-224.pth", DEIT), ("exports/a.pth", VIT),
    ):  # fmt: skip
        to = "paddle" if path.endswith("pdparams") else "torch"
        porter.init(variant, folder / path, to=to, force=True)
    found = commands(SCALE)
    assert [words[0] for words in found] == ["fleet", "convert", "repack"]
    assert "4 jobs: 3 passed, 1 converted" in run(found[0])
    names = {path.name for path in folder.glob("summary*")}
    assert names >= {"summary.html", "summary.md", "summary.xml"}
    run([*found[1], "--no-verify"])
    assert len(list(folder.glob("out-*-of-*.safetensors"))) == 7
    run(found[2])
    assert sum("/vit-" in key for key in bucket.find("models/run")) == 7


def test_the_recipes(folder: Path) -> None:
    """One side is recorded, then the other is compared with it."""
    porter.init(VIT, folder / "shunted-s.pdparams", to="paddle")
    porter.init(VIT, folder / "official.pth")
    for words in commands(RECIPES):
        run(words)
    assert (folder / "paddle.safetensors").exists()
