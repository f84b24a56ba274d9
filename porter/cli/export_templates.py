"""`porter export-templates`."""

from __future__ import annotations

import dataclasses

import click

from porter.cli.layout import say, wrapped
from porter.cli.output import force_option, json_option, progress, quiet_option, say_json, sized
from porter.cli.shared import complete
from porter.cli.shared.image_size import image_size_option
from porter.zoo.image_size import Size


@click.command("export-templates")
@click.argument("archs", metavar="[ARCH]...", nargs=-1, shell_complete=complete.architectures)
@click.option("--all", "everything", is_flag=True, help="Every variant but those of studies.")
@click.option("-o", "--output", type=click.Path(), metavar="FOLDER",
              help="Copy them to a folder, for another machine.")  # fmt: skip
@image_size_option("the variant's")
@click.option(
    "--free-size", is_flag=True, help="Leave height and width open; --all: of models that allow it."
)
@force_option
@json_option
@quiet_option
def command(
    archs: tuple[str, ...],
    everything: bool,
    output: str | None,
    image_size: Size | None,
    free_size: bool,
    force: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Make the ONNX templates of ARCH, so that later exports need no torch.

    They are stored in the user's cache. A folder of them, made with -o, is to be copied to
    PORTER_CACHE_DIR/templates of a machine without torch.
    """
    from porter.onnx.export.pack import pack
    from porter.zoo.architectures import all_variants, find

    if bool(archs) == everything:
        raise click.UsageError("name the architectures, or pass --all")
    published = [one for one in all_variants().values() if one.has_graph and not one.study]
    published = [one for one in published if one.any_size or not free_size]
    chosen = published if everything else [find(name) for name in archs]
    templates = []
    for variant in chosen:
        with progress(quiet or as_json) as move:
            if move is not None:
                move(f"making the template of {variant.name}", 0, 0)
            (template,) = pack(
                [variant], output, image_size=image_size, free=free_size, force=force
            )
        templates.append(dataclasses.asdict(template))
        if not (quiet or as_json):
            path = wrapped(f"{template.path}  {sized(template.nbytes)}", "  ", "    ")
            say(template.architecture)
            click.echo(path)
    if as_json:
        say_json({"schema": "porter.templates/1", "templates": templates})
