"""The commands of README.md and of pages in docs/ run as they are written, in an empty folder."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from porter.codecs.detect import SUFFIXES
from tests.docs.pages import ROOT, commands, run, shape

PAGES = {"docs/README.md": 4, "docs/concepts.md": 8, "docs/faq.md": 7}
"""{page: number of commands that it has at least}."""

WORDS = (
    "variant", "family", "dialect", "canonical name", "kind", "table", "plan", "tensor travels",
    "behaviour", "trace", "template", "verdict", "total", "exact", "proven", "exit codes",
)  # fmt: skip


@pytest.mark.parametrize("page", PAGES)
def test_every_command_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each ends with the exit code that the page states, 0 by default, after those before it."""
    monkeypatch.chdir(tmp_path)
    found = commands(page)
    assert len(found) >= PAGES[page]
    for command in found:
        run(command)


def test_the_session_of_the_readme_is_a_real_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its output is what the command prints, but for figures that differ between machines."""
    monkeypatch.chdir(tmp_path)
    (session,) = (command for command in commands("README.md") if command.output)
    assert shape(run(session).stdout) == shape(session.output)


def test_every_variable_is_on_the_page() -> None:
    """docs/environment.md names every variable of porter that the code reads, and no other."""
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "porter").rglob("*.py")]
    read = {name for text in sources for name in re.findall(r"\bPORTER_[A-Z]+(?:_[A-Z]+)*", text)}
    page = (ROOT / "docs/environment.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(PORTER_[A-Z_]+)`", page))
    assert len(read) >= 3
    assert named == read - {"PORTER_COMPLETE"}
    assert "_PORTER_COMPLETE" in page


def test_every_concept_has_a_drawing() -> None:
    """Each word has a section with one drawing, and each drawing its place."""
    page = (ROOT / "docs/concepts.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL))
    words = " ".join(sections).lower()
    for word in WORDS:
        assert word in words, word
    drawn = {
        name: re.findall(r"\(img/concepts/(\S+)\.svg\)", text) for name, text in sections.items()
    }
    text_only = {"Which proof shows what", "Exit codes"}
    assert {name for name, found in drawn.items() if len(found) != 1} == text_only
    files = {path.stem for path in (ROOT / "docs/img/concepts").glob("*.svg")}
    assert {name for found in drawn.values() for name in found} == files


def test_every_format_is_on_the_page() -> None:
    """docs/formats.md names the suffixes of every container."""
    page = (ROOT / "docs/formats.md").read_text(encoding="utf-8")
    suffixes = {suffix for found in SUFFIXES.values() for suffix in found}
    assert len(suffixes) >= 8
    assert {suffix for suffix in suffixes if suffix not in page} == set()


def test_the_readme_is_one_screen() -> None:
    """It has a session, a picture and links by reader, in at most fifty lines."""
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 50
    assert sum(line.startswith("![") for line in lines) == 1
