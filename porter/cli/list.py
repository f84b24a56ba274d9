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
    from porter.zoo.architectures import Architecture


@click.command("list")
@click.argument("family", required=False, shell_complete=complete.families)
@json_option
def command(family: str | None, as_json: bool) -> None:
    """List families, variants and dialects, or those of FAMILY only."""
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
