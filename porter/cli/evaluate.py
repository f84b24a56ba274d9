"""`porter evaluate`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from porter.cli.layout import columns, say
from porter.cli.output import (
    command_line,
    force_option,
    json_option,
    progress,
    python_option,
    quiet_option,
    say_json,
)
from porter.cli.shared import complete
from porter.cli.shared.image_size import image_size_option

if TYPE_CHECKING:
    from porter.verification.accuracy.measure import Evaluation


@click.command("evaluate")
@click.argument("arch", shell_complete=complete.architectures)
@click.argument("checkpoints", nargs=-1, required=True, type=click.Path())
@click.option("--data", required=True, type=click.Path(), metavar="FOLDER|LIST",
              help="A folder of pictures for each class, or lines PATH CLASS.")  # fmt: skip
@click.option("--from", "dialects", multiple=True, metavar="F[:DIALECT]",
              help="Format and dialect: once, or once for each checkpoint.",
              shell_complete=complete.sides)  # fmt: skip
@click.option("--key", "keys", multiple=True, metavar="NAME",
              help="State dict to take: once, or once for each checkpoint.")  # fmt: skip
@image_size_option("the variant's")
@click.option("--batch-size", type=click.IntRange(1), default=32, help="Default 32.")
@click.option("--most", type=click.IntRange(1), metavar="N",
              help="Take N pictures only, evenly spaced.")  # fmt: skip
@click.option("--behaviour", type=click.Choice(["canonical", "dialect"]), default="canonical",
              help="Run each as the canonical model, or as its dialect computes.")  # fmt: skip
@click.option("--device", default="auto", metavar="auto|cpu|cuda[:N]", help="Where to run.")
@click.option("--timeout", type=float, metavar="SECONDS",
              help="Limit for a given ONNX file; default: PORTER_TIMEOUT or 600.")  # fmt: skip
@python_option
@click.option("--report", "reports", multiple=True, type=click.Path(), metavar="FILE",
              help="Write the table: .md or .json.")  # fmt: skip
@force_option
@json_option
@quiet_option
@click.pass_context
def command(
    ctx: click.Context,
    /,
    arch: str,
    checkpoints: tuple[str, ...],
    data: str,
    dialects: tuple[str, ...],
    reports: tuple[str, ...],
    force: bool,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Measure top-1 and top-5 of CHECKPOINTS of ARCH on labelled pictures, in one table.

    Each checkpoint sees the pictures by its own preprocessing: that of its dialect, or what the
    files next to it state. A picture that is shown to several is read once.
    """
    from porter.commands.pictures.evaluate import evaluate
    from porter.commands.verify import files_read
    from porter.planning.endpoint import parse
    from porter.report.accuracy import as_dict, check_names, rendered
    from porter.storage.outputs import check_outputs, publish_content
    from porter.zoo.architectures import find

    check_names(reports)
    read = [data, *files_read(checkpoints)] if reports else []
    check_outputs(reports, read, force)
    table = find(arch).table
    named = [parse(dialect, table).dialect for dialect in dialects]
    with progress(quiet or as_json) as move:
        made = evaluate(arch, checkpoints, data, dialects=named, progress=move, **options)
    made = replace(made, command=command_line(ctx))
    for path in reports:
        publish_content(path, rendered(made, path), force=force)
    if as_json:
        say_json(as_dict(made))
    elif not quiet:
        show(made)


def show(made: Evaluation) -> None:
    """Print the table, and how each checkpoint saw the pictures."""
    from porter.report.accuracy import NAMES, cells

    published = f"; published top-1 {made.published:g} %" if made.published is not None else ""
    say(f"{made.architecture}: {made.pictures} pictures of {made.data}{published}")
    click.echo(columns([NAMES, *cells(made)], "  "))
    for row in made.rows:
        say(f"{row.side.file or row.side.label}: {row.preprocessing}")
