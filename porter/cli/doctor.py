"""`porter doctor`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from porter.cli.layout import columns, wrapped
from porter.cli.output import json_option, progress, say_json

if TYPE_CHECKING:
    from porter.commands.doctor import Finding


@click.command("doctor")
@json_option
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """Report which packages are installed, what they are for, and how to install the others.

    The exit code is 3 if a package of porter's core is missing.
    """
    from porter.commands.doctor import doctor

    with progress(as_json) as move:
        if move is not None:
            move("asking torch for its CUDA device", 0, 0)
        health = doctor()
    if as_json:
        say_json({"schema": "porter.health/1", **asdict(health), "ok": health.ok})
    else:
        click.echo(wrapped(f"Python {health.python} on {health.machine}"))
        click.echo(wrapped(f"CUDA device: {health.cuda}"))
        for title, core in (("core", True), ("for some commands", False)):
            click.echo(f"\n{title}")
            chosen = [f for f in health.findings if f.core is core]
            click.echo(columns([_row(f) for f in chosen], "  "))
    ctx.exit(0 if health.ok else 3)


def _row(finding: Finding) -> tuple[str, str, str]:
    purpose = finding.purpose if finding.version else f"{finding.purpose}: {finding.remedy}"
    return finding.module, finding.version or "missing", purpose
