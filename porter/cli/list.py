"""`porter list`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from porter.cli.layout import columns, listing, wrapped
from porter.cli.output import counted, json_option, say_json
from porter.cli.shared import complete
from porter.planning.families import families
from porter.zoo.image_size import pixels

if TYPE_CHECKING:
    from porter.mapping.gallery import Differing, Family


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
    known = families()
    if family is not None:
        from porter.errors import UsageError, listed, nearest

        if family not in known:
            near = nearest(family, known)
            hint = f"did you mean {near[0]}?" if near else f"use one of {listed(known, 20)}"
            raise UsageError(f"unknown family {family!r}; {hint}")
        known = {family: known[family]}
    if as_json:
        say_json({"schema": "porter.families/1", "families": known})
        return
    for name, found in known.items():
        click.echo(wrapped(f"{name}  {found['title']}"))
        click.echo(wrapped(f"dialects  {listing(found['dialects'])}", "  ", " " * 12))
        if found["about"]:
            click.echo(columns([*found["about"].items()], "            "))
        click.echo(columns([*_rows(found["variants"])], "  ") + "\n")


def _rows(variants: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """Yield what is printed of each variant; accuracies where one of them has one."""
    judged = any(variant["top1"] for variant in variants.values())
    for name, variant in variants.items():
        size = pixels((variant["image_size"], variant["image_width"]))
        top1 = f"top-1 {variant['top1']}" if variant["top1"] else ""
        parameters = f"{counted(variant['parameters'])} params"
        aliases = ", ".join(variant["aliases"])
        yield name, parameters, size, *([top1] if judged else []), aliases


def _list_gallery(chosen: str | None, as_json: bool) -> None:
    """Print the pairs of the gallery, and those that have no table since they compute otherwise."""
    from porter.errors import UsageError, listed, nearest
    from porter.mapping import gallery

    known = gallery.families()
    if chosen is not None:
        if chosen not in known:
            near = nearest(chosen, known) or list(known)
            raise UsageError(f"unknown table {chosen!r} of the gallery; use {listed(near[:12])}")
        known = {chosen: known[chosen]}
    others = gallery.differences() if chosen is None else {}
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
        rows = [
            (f"{gallery.PREFIX}{entry}", *models.values()) for entry, models in found.models.items()
        ]
        click.echo(columns(rows, "  ") + "\n")
    for name, pair in others.items():
        click.echo(wrapped(f"{name}  {pair.title}: no table, the two models differ"))
        click.echo(wrapped(f"{' and '.join(pair.models.values())}: {pair.about}", "  "))
        click.echo(wrapped(pair.note, "  ") + "\n" if pair.note else "")


def _plain(found: Family | Differing) -> dict[str, Any]:
    """Return a row of the gallery for machines."""
    return {key: value for key, value in found._asdict().items() if key != "name"}
