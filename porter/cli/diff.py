"""`porter diff`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from porter.cli.layout import columns, say
from porter.cli.output import json_option, progress, say_json
from porter.cli.shared import complete


@click.command("diff")
@click.argument("left", type=click.Path())
@click.argument("right", type=click.Path())
@click.option("--arch", "architecture", metavar="ARCH",
              help="Variant or table that maps the names; default: recognised.",
              shell_complete=complete.architectures)  # fmt: skip
@click.option("--left-dialect", metavar="DIALECT", help="Dialect of LEFT; default: recognised.")
@click.option("--right-dialect", metavar="DIALECT", help="Dialect of RIGHT; default: recognised.")
@click.option("--key", metavar="NAME", help="State dict to take from the files.")
@click.option("--left-key", metavar="NAME", help="State dict to take from LEFT.")
@click.option("--right-key", metavar="NAME", help="State dict to take from RIGHT.")
@click.option("--left-prefix", metavar="PREFIX",
              help="What is before the names to compare in LEFT, for example teacher.")  # fmt: skip
@click.option("--right-prefix", metavar="PREFIX", help="The same for RIGHT.")
@json_option
@click.pass_context
def command(ctx: click.Context, /, left: str, right: str, as_json: bool, **options: Any) -> None:
    """Compare two checkpoints tensor by tensor, bit for bit; exit code 1 if they differ."""
    from porter.commands.diff import diff

    with progress(as_json) as move:
        result = diff(left, right, progress=move, **options)
    if as_json:
        say_json({"schema": "porter.diff/1", "equal": result.equal, **asdict(result)})
    else:
        rows = [
            (d.name, d.what, d.left and f"{d.left} and {d.right}",
             "" if d.max_error is None else f"max error {d.max_error:.3g}",
             "" if d.differing is None else f"{d.differing} elements")
            for d in result.differences
        ]  # fmt: skip
        if rows:
            click.echo(columns(rows))
        verdict = "equal, bit for bit" if result.equal else f"{len(rows)} differ"
        for note in result.notes:
            say(f"note: {note}")
        say(f"{result.compared} tensors compared by {result.through}: {verdict}")
    ctx.exit(0 if result.equal else 1)
