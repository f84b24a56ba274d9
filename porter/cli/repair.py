"""`porter repair`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from porter.cli.layout import columns
from porter.cli.output import (
    digest_option,
    force_option,
    json_option,
    progress,
    python_option,
    quiet_option,
    record_option,
    say_json,
    sized,
)
from porter.cli.shared import complete

if TYPE_CHECKING:
    from porter.commands.repair import Repair


@click.command("repair")
@click.argument("source", metavar="FILE", type=click.Path())
@click.option("--like", required=True, type=click.Path(), metavar="REFERENCE",
              help="Checkpoint that FILE was made from; or a trace or ONNX model.")  # fmt: skip
@click.option("-o", "--output", required=True, type=click.Path(), help="The file to write.")
@click.option("--arch", "architecture", metavar="ARCH",
              help="Variant or table that pairs the names; default: recognised.",
              shell_complete=complete.architectures)  # fmt: skip
@click.option("--key", metavar="NAME", help="State dict to take from FILE.")
@click.option("--like-key", metavar="NAME", help="State dict to take from REFERENCE.")
@python_option
@digest_option
@record_option
@force_option
@json_option
@quiet_option
@click.pass_context
def command(
    ctx: click.Context, /, source: str, output: str, as_json: bool, quiet: bool, **options: Any
) -> None:
    """Restore the tensors of FILE whose bytes are those of an untransposed view.

    Converters that pass transposed views to safetensors write such files; they load without a
    warning. Values are taken from FILE only; REFERENCE shows which tensors are concerned and
    proves the result. The exit code is 1, and nothing is written, where the proof fails.
    """
    from porter.commands.repair import repair

    with progress(quiet or as_json) as move:
        outcome = repair(source, output, progress=move, **options)
    if as_json:
        say_json(as_dict(outcome))
    elif not quiet:
        click.echo(columns(_rows(outcome)))
    ctx.exit(0 if outcome.ok else 1)


def _rows(outcome: Repair) -> list[tuple[str, str]]:
    rows = [("file", f"{outcome.origin.shown}  ({outcome.origin.format})")]
    through = "" if outcome.comparison is None else f", paired by {outcome.comparison.through}"
    rows.append(("reference", f"{outcome.reference}{through}"))
    if outcome.comparison is not None:
        rows += [("", line) for line in outcome.comparison.lines]
    if outcome.written is None:
        reason = "the restored weights do not compute what the reference does"
        if outcome.comparison is not None:
            reason = "restoring would leave tensors that are not the reference's"
        return [*rows, ("output", f"not written: {reason}")]
    rows.append(("restored", f"{len(outcome.views)} tensors; {outcome.kept} copied as they are"))
    proof = "every restored tensor is the reference's, bit for bit"
    if outcome.verdict is not None:
        proof = "the restored weights compute what the reference does, the file's do not"
    rows.append(("proof", proof))
    rows.append(("output", f"{outcome.written.path}  ({sized(outcome.written.nbytes)})"))
    if outcome.written.record:
        rows.append(("record", outcome.written.record))
    return rows


def as_dict(outcome: Repair) -> dict[str, Any]:
    """Return what happened, for machines."""
    comparison, written = outcome.comparison, outcome.written
    return {
        "schema": "porter.repair/1",
        "path": outcome.origin.shown,
        "reference": outcome.reference,
        "proof": outcome.proof or None,
        "restored": {name: list(order) for name, order in outcome.views.items()},
        "kept": outcome.kept,
        "cut": [] if comparison is None else list(comparison.cut),
        "others": [] if comparison is None else list(comparison.others),
        "unknown": [] if comparison is None else list(comparison.unknown),
        "output": None if written is None else {
            "path": written.path, "bytes": written.nbytes, "files": list(written.files),
        },
    }  # fmt: skip
