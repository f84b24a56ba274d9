"""What is printed fits the terminal, and no word is broken."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import porter
from porter.cli.layout import columns, wrapped


def shown(folder: Path, *arguments: str, **environment: str) -> str:
    """Return what `python -m porter` prints into a pipe."""
    done = subprocess.run(
        [sys.executable, "-m", "porter", *arguments], capture_output=True, text=True, check=False,
        cwd=folder, env={"PATH": "/usr/bin:/bin", "HOME": str(folder), **environment},
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two checkpoints and a report of their conversion."""
    made = tmp_path_factory.mktemp("layout")
    porter.init("pvtv2-b0", made / "a.pth")
    porter.init("pvtv2-b0", made / "b.pth", seed=1)
    return made


@pytest.mark.parametrize("width", [80, 60])
@pytest.mark.parametrize(
    "arguments",
    [
        "list", "list vit", "show pvtv2-b0", "show vit-tiny-p16-224 --dialect hf",
        "show swin-tiny-w7-224 --full", "doctor", "inspect a.pth", "inspect a.pth --tensors",
        "diff a.pth b.pth", "table check pvtv2-b0", "table show vit-tiny-p16-224",
        "convert shunted-t --from paddle --to torch --dry-run",
        "convert pvtv2-b0 a.pth --from torch --to paddle --dry-run",
    ],
)  # fmt: skip
def test_lines_are_as_wide_as_the_terminal(folder: Path, arguments: str, width: int) -> None:
    """No line is longer, but for a name that is; the words are those of a pipe."""
    narrow = shown(folder, *arguments.split(), COLUMNS=str(width))
    wide = shown(folder, *arguments.split())
    for line in narrow.splitlines():
        assert len(line) <= width or len(line.split()) == 1, line
    assert sorted(narrow.split()) == sorted(wide.split())


def test_reasons_of_a_manifest_are_wrapped(folder: Path) -> None:
    """The reason of a refused job is as wide as the terminal, like the rows above it."""
    job = '[[jobs]]\narch = "pvtv2-b0"\ninput = "a.pth"\noutput = "a.npz"\nnum-classes = 7\n'
    (folder / "refused.toml").write_text(job)
    lines = shown(folder, "fleet", "refused.toml", COLUMNS="60").splitlines()
    assert "7 classes asked for" in " ".join(" ".join(lines).split())
    assert all(len(line) <= 60 or len(line.split()) == 1 for line in lines)


def test_a_pipe_gets_a_line_for_each_row(folder: Path) -> None:
    """Without `COLUMNS`, tools that read lines find whole rows."""
    lines = shown(folder, "list", "deit").splitlines()
    assert "paddle:paddleclas (= paddle)" in lines[1]


def test_text_is_broken_between_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next lines are indented; the last columns move down where they do not fit."""
    monkeypatch.setenv("COLUMNS", "30")
    text = wrapped("a sentence that is longer than the line", "  ", "    ")
    assert text == "  a sentence that is longer\n    than the line"
    rows = [("name", "an explanation in several words"), ("x", "short")]
    assert columns(rows) == "name  an explanation in\n      several words\nx     short"
    long = "/a/path/longer/than/thirty/characters"
    assert columns([("a" * 20, "second", long)]) == f"{'a' * 20}  second\n    {long}"


@pytest.mark.parametrize("arguments", [(), ("table",)])
def test_without_a_command_the_help_is_printed(folder: Path, arguments: tuple[str, ...]) -> None:
    """`porter` and `porter table` explain themselves over several lines, exit code 0."""
    done = subprocess.run(
        [sys.executable, "-m", "porter", *arguments], capture_output=True, text=True, check=False,
        cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0
    assert done.stderr == ""
    assert done.stdout.startswith("Usage: porter")
    assert "Commands:\n" in done.stdout
