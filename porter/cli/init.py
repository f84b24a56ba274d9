"""`porter init`."""

from __future__ import annotations

import click

from porter.cli.layout import say
from porter.cli.output import force_option, progress, quiet_option, record_option, sized
from porter.cli.shared import complete
from porter.cli.shared.image_size import image_size_option
from porter.zoo.image_size import Size


@click.command("init")
@click.argument("arch", shell_complete=complete.architectures)
@click.option("-o", "--output", type=click.Path(), help="Default: ARCH with the usual suffix.")
@click.option(
    "--to",
    default="torch",
    metavar="F[:DIALECT]",
    help="Format and dialect; default torch.",
    shell_complete=complete.sides,
)
@click.option("--seed", type=int, default=0, help="Seed of the weights.")
@click.option("--num-classes", type=click.IntRange(1), help="Classes; default the variant's.")
@image_size_option("the variant's")
@record_option
@force_option
@quiet_option
def command(
    arch: str,
    output: str | None,
    to: str,
    seed: int,
    num_classes: int | None,
    image_size: Size | None,
    record: bool,
    force: bool,
    quiet: bool,
) -> None:
    """Write a seeded checkpoint of ARCH in which every tensor matters to the output."""
    from porter.commands.init import init
    from porter.planning import endpoint
    from porter.zoo.architectures import find

    variant = find(arch)
    target = output or variant.name + endpoint.parse(to, variant.table).suffix
    with progress(quiet) as moved:
        written = init(
            arch, target, to=to, seed=seed, num_classes=num_classes, image_size=image_size,
            force=force, record=record, progress=moved,
        )  # fmt: skip
    if not quiet:
        say(f"{target}  {sized(written.nbytes)}  {variant.name}, seed {seed}")
