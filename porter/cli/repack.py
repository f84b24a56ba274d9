"""`porter repack`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from porter.cli.layout import columns
from porter.cli.output import (
    counted,
    digest_option,
    force_option,
    json_option,
    progress,
    quiet_option,
    record_option,
    say_json,
    sized,
)
from porter.cli.shared.shards import pool_of, shard_options

if TYPE_CHECKING:
    from porter.commands.repack import Repacking

_FORMATS = ["torch", "paddle", "safetensors", "npz", "npy"]


@click.command("repack")
@click.argument("source", metavar="INPUT", type=click.Path())
@click.option("-o", "--output", required=True, type=click.Path(), help="The file to write.")
@click.option(
    "--from", "from_", metavar="F", help="Format of INPUT, where its suffix means another one."
)
@click.option(
    "--to", type=click.Choice(_FORMATS), help="Container; default: by the suffix of the output."
)
@click.option("--dtype", type=click.Choice(["fp32", "fp16", "bf16"]), help="Cast floating tensors.")
@click.option(
    "--max-shard-size", metavar="SIZE", help="Split the output into shards, for example 5GB."
)
@shard_options
@click.option(
    "--key", metavar="NAME", help="State dict to take from the file, for example model_ema."
)
@click.option("--uint16", type=click.Choice(["auto", "uint16", "bfloat16"]), default="auto",
              help="Type of Paddle's two-byte elements; default: by the file.")  # fmt: skip
@click.option("--read-back/--no-read-back", default=True,
              help="Read the finished output again and compare it (default).")  # fmt: skip
@click.option("--sync/--no-sync", default=True,
              help="Wait until the output is on the disk (default).")  # fmt: skip
@click.option("--digests/--no-digests", default=True,
              help="Record digests of the source and of every tensor (default).")  # fmt: skip
@digest_option
@record_option
@force_option
@json_option
@quiet_option
def command(source: str, output: str, as_json: bool, quiet: bool, **options: Any) -> None:
    """Write INPUT to another container; names, layout and values stay."""
    from porter.commands.repack import repack

    pool = pool_of(options)
    with progress(quiet or as_json) as moved:
        outcome = repack(source, output, progress=moved, pool=pool, **options)
    if as_json:
        say_json(as_dict(outcome))
    elif not quiet:
        click.echo(columns(_rows(outcome)))


def _rows(outcome: Repacking) -> list[tuple[str, str]]:
    from porter.commands.summary import cast_line

    origin, written, state = outcome.origin, outcome.written, outcome.state
    rows = [("source", f"{origin.shown}  ({origin.format})")]
    if origin.wrapper:
        others = f"; the file also has {', '.join(origin.others)}" if origin.others else ""
        rows.append(("", f"state dict {origin.wrapper!r}{others}"))
        if all(name.startswith(f"{origin.wrapper}.") for name in state):
            rows.append(("", f"names keep {origin.wrapper!r}; --key {origin.wrapper} removes it"))
    if origin.skipped:
        rows.append(("", f"not ported: {', '.join(origin.skipped[:8])}"))
    rows += [("", note) for note in origin.notes]
    rows.append(("tensors", f"{len(state)}, {counted(state.parameters)} elements"))
    if outcome.casts:
        rows.append(("cast", cast_line(outcome.casts)))
    many = f", {len(written.files)} files" if len(written.files) > 2 else ""
    rows.append(("output", f"{written.path}  ({outcome.format}, {sized(written.nbytes)}{many})"))
    if written.record:
        rows.append(("record", written.record))
    return rows


def as_dict(outcome: Repacking) -> dict[str, Any]:
    """Return what happened, for machines."""
    origin, written = outcome.origin, outcome.written
    return {
        "schema": "porter.repacking/1",
        "source": {
            "path": origin.shown, "format": origin.format, "wrapper": origin.wrapper,
            "skipped": list(origin.skipped), "notes": list(origin.notes),
        },
        "output": {
            "path": written.path, "format": outcome.format, "bytes": written.nbytes,
            "files": list(written.files),
        },
        "tensors": {
            name: {"dtype": tensor.dtype.name, "shape": list(tensor.shape),
                   "digest": written.digests.get(name)}
            for name, tensor in outcome.state.items()
        },
        "casts": {
            name: {"max_error": cost.max_error, "overflows": cost.overflows}
            for name, cost in outcome.casts.items()
        },
    }  # fmt: skip
