"""`porter list`."""

from __future__ import annotations

import click

from porter.cli import complete
from porter.cli.output import columns, counted, json_option, say_json


@click.command("list")
@click.argument("family", required=False, shell_complete=complete.families)
@json_option
def command(family: str | None, as_json: bool) -> None:
    """List families, variants and dialects; with FAMILY, that one alone."""
    from porter.errors import UsageError, listed
    from porter.planning.endpoint import spellings
    from porter.zoo.architectures import families

    known = families()
    if family is not None:
        if family not in known:
            raise UsageError(f"no family {family!r}; there are {listed(known, 20)}")
        known = {family: known[family]}
    if as_json:
        say_json(
            {
                name: {
                    "title": variants[0].title,
                    "dialects": spellings(variants[0].table),
                    "variants": {
                        v.name: {
                            "aliases": list(v.aliases), "parameters": v.parameters,
                            "image_size": v.image_size, "top1": v.top1,
                        }
                        for v in variants
                    },
                }
                for name, variants in known.items()
            }
        )  # fmt: skip
        return
    for name, variants in known.items():
        click.echo(f"{name}  ({variants[0].title})")
        click.echo(f"  dialects  {', '.join(spellings(variants[0].table))}")
        rows = [
            (v.name, f"{counted(v.parameters)} parameters", f"{v.image_size} px",
             f"top-1 {v.top1}" if v.top1 else "", ", ".join(v.aliases))
            for v in variants
        ]  # fmt: skip
        click.echo(columns(rows, "    ") + "\n")
