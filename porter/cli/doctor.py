"""`porter doctor`."""

from __future__ import annotations

from dataclasses import asdict

import click

from porter.cli.output import columns, json_option, say_json


@click.command("doctor")
@json_option
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """Say what is installed and what is missing; exit code 3 if the core is not whole."""
    from porter.commands.doctor import doctor

    health = doctor()
    if as_json:
        say_json({**asdict(health), "ok": health.ok})
    else:
        click.echo(f"Python {health.python} on {health.machine}; CUDA device: {health.cuda}\n")
        rows = [
            (
                f.module,
                f.version or "missing",
                f.purpose if f.version else f"{f.purpose}: {f.remedy}",
            )
            for f in health.findings
        ]
        click.echo(columns(rows))
    ctx.exit(0 if health.ok else 3)
