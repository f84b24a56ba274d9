"""`porter list`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from porter.cli.layout import columns, listing, wrapped
from porter.cli.output import counted, json_option, say_json, sizes_of
from porter.cli.shared import complete
from porter.planning.endpoint import purposes, spellings

if TYPE_CHECKING:
    from porter.mapping.gallery import Differing, Family
    from porter.zoo.architectures import Architecture


@click.command("list")
@click.argument("family", required=False, shell_complete=complete.families)
@click.option("--gallery", "of_pairs", is_flag=True,
              help="List the tables for pairs of public packages instead.")  # fmt: skip
@json_option
def command(family: str | None, of_pairs: bool, as_json: bool) -> None:
    """List families, variants and dialects, or those of FAMILY only."""
    if of_pairs:
        _list_gallery(family, as_json)
        return
    from porter.errors import UsageError, listed, nearest
    from porter.zoo.architectures import families

    known = families()
    if family is not None:
        if family not in known:
            near = nearest(family, known)
            hint = f"did you mean {near[0]}?" if near else f"use one of {listed(known, 20)}"
            raise UsageError(f"unknown family {family!r}; {hint}")
        known = {family: known[family]}
    if as_json:
        say_json({"schema": "porter.families/1", "families": as_dict(known)})
        return
    for name, variants in known.items():
        click.echo(wrapped(f"{name}  {variants[0].title}"))
        dialects = listing(spellings(variants[0].table))
        click.echo(wrapped(f"dialects  {dialects}", "  ", " " * 12))
        if purposes(variants[0].table):
            click.echo(columns([*purposes(variants[0].table).items()], "            "))
        rows = [
            (v.name, f"{counted(v.parameters)} params", ", ".join(sizes_of(None, v.sides())),
             *([f"top-1 {v.top1}" if v.top1 else ""] if any(v.top1 for v in variants) else []),
             ", ".join(v.aliases))
            for v in variants
        ]  # fmt: skip
        click.echo(columns(rows, "  ") + "\n")


def _list_gallery(chosen: str | None, as_json: bool) -> None:
    """Print the pairs of the gallery, and those that have no table since they compute otherwise."""
    from porter.errors import UsageError, listed, nearest
    from porter.mapping.gallery import PREFIX, differences, families

    known = families()
    if chosen is not None:
        if chosen not in known:
            near = nearest(chosen, known) or list(known)
            raise UsageError(f"unknown table {chosen!r} of the gallery; use {listed(near[:12])}")
        known = {chosen: known[chosen]}
    others = differences() if chosen is None else {}
    if as_json:
        tables = {name: _plain(found) for name, found in known.items()}
        apart = {name: _plain(found) for name, found in others.items()}
        say_json({"schema": "porter.gallery/1", "tables": tables, "differences": apart})
        return
    for name, found in known.items():
        versions = ", ".join(f"{package} {number}" for package, number in found.versions.items())
        click.echo(wrapped(f"{name}  {found.title}"))
        proof = f"{found.difference:.1e} in {found.precision} (limit {found.limit:.0e})"
        click.echo(wrapped(f"outputs differ by {proof}; {versions}; {found.date}", "  "))
        rows = [(f"{PREFIX}{entry}", *models.values()) for entry, models in found.models.items()]
        click.echo(columns(rows, "  ") + "\n")
    for name, pair in others.items():
        click.echo(wrapped(f"{name}  {pair.title}: no table, the two models differ"))
        click.echo(wrapped(f"{' and '.join(pair.models.values())}: {pair.about}", "  "))
        click.echo(wrapped(pair.note, "  ") + "\n" if pair.note else "")


def _plain(found: Family | Differing) -> dict[str, Any]:
    """Return a row of the gallery for machines."""
    return {key: value for key, value in found._asdict().items() if key != "name"}


def as_dict(known: Mapping[str, list[Architecture]]) -> dict[str, Any]:
    """Return families for machines."""
    return {
        name: {
            "title": variants[0].title,
            "dialects": spellings(variants[0].table),
            "about": purposes(variants[0].table),
            "variants": {
                v.name: {
                    "aliases": list(v.aliases), "parameters": v.parameters,
                    "image_size": v.image_size, "top1": v.top1,
                }
                for v in variants
            },
        }
        for name, variants in known.items()
    }  # fmt: skip
