"""`porter export-templates`."""

from __future__ import annotations

import dataclasses

import click

from porter.cli import complete
from porter.cli.output import json_option, quiet_option, say_json, sized


@click.command("export-templates")
@click.argument("archs", metavar="[ARCH]...", nargs=-1, shell_complete=complete.architectures)
@click.option("--all", "everything", is_flag=True, help="Every variant.")
@click.option("-o", "--output", type=click.Path(), metavar="FOLDER",
              help="Put them there as well, to take to another machine.")  # fmt: skip
@click.option("--opset", type=click.IntRange(1), help="Operator set (default 20).")
@click.option("--image-size", type=click.IntRange(1), help="Pixels; default: the variant's own.")
@json_option
@quiet_option
def command(
    archs: tuple[str, ...],
    everything: bool,
    output: str | None,
    opset: int | None,
    image_size: int | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Make the ONNX templates of ARCH beforehand, so that exports need no torch.

    They are kept in the user's cache; a folder of them, made with -o, goes into the cache of a
    machine without torch (PORTER_CACHE_DIR/templates).
    """
    from porter.onnx.export.pack import pack
    from porter.onnx.export.template import OPSET
    from porter.zoo.architectures import all_variants, find

    if bool(archs) == everything:
        raise click.UsageError("name the architectures, or pass --all")
    chosen = list(all_variants().values()) if everything else [find(name) for name in archs]
    found = []
    for made in pack(chosen, output, image_size=image_size, opset=opset or OPSET):
        found.append(dataclasses.asdict(made))
        if not (quiet or as_json):
            click.echo(f"{made.architecture}  {made.path}  {sized(made.nbytes)}")
    if as_json:
        say_json({"schema": "porter.templates/1", "templates": found})
