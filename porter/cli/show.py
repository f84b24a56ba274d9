"""`porter show`."""

from __future__ import annotations

from itertools import zip_longest
from typing import TYPE_CHECKING

import click

from porter.cli import complete
from porter.cli.output import columns, json_option, say_json
from porter.planning.endpoint import spellings

if TYPE_CHECKING:
    from porter.mapping.link import Link


@click.command("show")
@click.argument("arch", shell_complete=complete.architectures)
@click.option(
    "--dialect",
    default="paddle",
    metavar="DIALECT",
    help="Naming to link; default paddle.",
    shell_complete=complete.dialects,
)
@click.option("--full", is_flag=True, help="Every tensor, not layers folded.")
@json_option
def command(arch: str, dialect: str, full: bool, as_json: bool) -> None:
    """Show ARCH: its figures, its preprocessing and its table linked to a dialect."""
    from porter.zoo.architectures import find

    variant = find(arch)
    dialect = dialect.rpartition(":")[2]
    table = variant.table
    rows = linked_rows(variant.name, dialect, full)
    pre = variant.preprocessing
    if as_json:
        say_json(
            {
                "schema": "porter.architecture/1", "name": variant.name, "family": variant.family,
                "title": variant.title, "paper": variant.paper, "source": variant.source,
                "aliases": list(variant.aliases), "parameters": variant.parameters,
                "top1": variant.top1, "image_size": variant.image_size,
                "num_classes": variant.num_classes, "config": dict(variant.config),
                "preprocessing": {
                    "mean": list(pre.mean), "std": list(pre.std),
                    "interpolation": pre.interpolation, "crop": pre.crop,
                },
                "dialects": spellings(table), "dialect": dialect,
                "table": [
                    dict(zip(("canonical", "dialect", "shape", "how"), row, strict=True))
                    for row in rows
                ],
            }
        )  # fmt: skip
        return
    figures = [
        (variant.name, f"{variant.title}, {variant.paper}"),
        ("names", f"canonical: {variant.source}; aliases: {', '.join(variant.aliases) or '-'}"),
        ("size", f"{variant.parameters:,} parameters"
                 + (f", ImageNet top-1 {variant.top1} %" if variant.top1 else "")),
        ("input", f"{variant.image_size} px, {variant.num_classes} classes, crop {pre.crop},"
                  f" {pre.interpolation}, mean {list(pre.mean)}, std {list(pre.std)}"),
        ("config", ", ".join(f"{key} {value}" for key, value in variant.config.items())),
        ("dialects", ", ".join(spellings(table))),
    ]  # fmt: skip
    click.echo(columns(figures))
    click.echo(f"\ntable, canonical = {dialect}")
    click.echo(columns(rows, "  "))


def linked_rows(name: str, dialect: str, full: bool) -> list[tuple[str, str, str, str]]:
    """Return (canonical, dialect, shape, how) of each link, alike layers folded unless `full`."""
    from porter.mapping.fold import fold
    from porter.planning.plan import link_variant
    from porter.zoo.architectures import find
    from porter.zoo.canonical import canonical_tensors

    variant = find(name)
    features = tuple(variant.skeleton().features)
    linked = link_variant(variant, dialect, features)
    shapes = canonical_tensors(variant, features)
    groups: dict[tuple[object, ...], list[Link]] = {}
    for index, made in enumerate(linked.links):
        leaf = made.canonical[0].rpartition(".")[2]
        shape = shapes.get(made.canonical[0], ("", ()))[1]
        key = (index,) if full else (made.row, leaf, made.how, shape)
        groups.setdefault(key, []).append(made)
    rows = []
    for links in groups.values():
        size = str(list(shapes.get(links[0].canonical[0], ("", ()))[1]))
        ours = fold(n for made in links for n in made.canonical)
        theirs = fold(n for made in links for n in made.dialect)
        how = links[0].how or "as it is"
        for left, right in zip_longest(ours, theirs, fillvalue=""):
            rows.append((left, right, size, how))
    reasons: dict[str, list[str]] = {}
    for gap in linked.gaps:
        reasons.setdefault(gap.reason, []).append(gap.canonical)
    for why, names in reasons.items():
        rows += [(n, "-", "", why) for n in (names if full else fold(names))]
    return rows
