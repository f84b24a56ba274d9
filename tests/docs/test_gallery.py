"""docs/gallery is made from the tables: its commands run, its proofs hold, nothing is missing."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest

from porter.cli import cli
from porter.zoo.architectures import all_variants, families
from tests.docs.pages import ROOT, commands, run

GALLERY = ROOT / "docs" / "gallery"
RUN = ("pp-lcnet", "pp-ocrv6-tiny-rec")
"""The smallest family with reference models, and the smallest without."""
LARGEST = 30_000_000
"""Parameters, as in docs/reports/proofs.py."""


def test_every_family_has_a_page_and_a_row() -> None:
    """No page is left of a family that is gone."""
    pages = {path.stem for path in GALLERY.glob("*.md")} - {"README"}
    assert pages == set(families())
    index = (GALLERY / "README.md").read_text(encoding="utf-8")
    for name, variants in families().items():
        text = (GALLERY / f"{name}.md").read_text(encoding="utf-8")
        assert f"[{name}]({name}.md)" in index
        assert all(f"`{variant.name}`" in text for variant in variants)


@pytest.mark.parametrize("family", sorted(families()))
def test_every_command_is_understood(family: str) -> None:
    """Options and their values exist; `test_the_commands_run` runs those of two families."""
    found = commands(f"docs/gallery/{family}.md")
    assert len(found) >= 4
    for command in found:
        with click.Context(cli) as context:
            _, chosen, rest = cli.resolve_command(context, list(command.words))
            assert chosen is not None
            if isinstance(chosen, click.Group):
                _, chosen, rest = chosen.resolve_command(click.Context(chosen), rest)
            assert chosen is not None
            chosen.make_context("porter", rest, parent=context).close()


@pytest.mark.parametrize("family", RUN)
def test_the_commands_run(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other, in an empty folder, each with exit code 0."""
    monkeypatch.chdir(tmp_path)
    for command in commands(f"docs/gallery/{family}.md"):
        run(command)


def test_the_proofs_hold() -> None:
    """Every family has one, and every published variant of at most LARGEST parameters."""
    proofs = json.loads((ROOT / "docs/reports/proofs.json").read_text())
    wanted = {v.name for v in all_variants().values() if not v.study and v.parameters <= LARGEST}
    assert wanted <= set(proofs)
    for variants in families().values():
        assert any(variant.name in proofs for variant in variants), variants[0].family
    for name, proof in proofs.items():
        variant = all_variants()[name]
        assert (proof["status"] == "outputs") == bool(variant.module), name
        assert len(proof["errors"]) == (2 if variant.module else 0)
        assert all(0 < error <= limit for error, limit in proof["errors"].values())
