"""`porter show`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import click

from porter.cli.layout import columns, listing, say
from porter.cli.output import json_option, say_json, sizes_of
from porter.cli.shared import complete
from porter.planning.endpoint import purposes, spellings

if TYPE_CHECKING:
    from porter.mapping.link import Link
    from porter.zoo.architectures import Architecture


@click.command("show")
@click.argument("arch", shell_complete=complete.architectures)
@click.option(
    "--dialect",
    default="paddle",
    metavar="DIALECT",
    help="Dialect to link; default paddle.",
    shell_complete=complete.dialects,
)
@click.option("--full", is_flag=True, help="List every tensor instead of folding equal layers.")
@json_option
def command(arch: str, dialect: str, full: bool, as_json: bool) -> None:
    """Show the figures of ARCH, its preprocessing and its table linked to a dialect."""
    from porter.zoo.architectures import find

    variant = find(arch)
    dialect = dialect.rpartition(":")[2]
    rows = linked_rows(variant.name, dialect, full)
    if as_json:
        say_json(as_dict(variant, dialect, rows))
        return
    config = listing(f"{key} {value}" for key, value in variant.config.items())
    top1 = f", ImageNet top-1 {variant.top1} %" if variant.top1 else ""
    figures = [
        (variant.name, f"{variant.title}, {variant.paper}"),
        ("names", f"canonical: {variant.source}; aliases: {listing(variant.aliases) or '-'}"),
        ("size", f"{variant.parameters:,} parameters{top1}"),
        ("input", ", ".join(sizes_of(variant.num_classes, variant.sides())) or "-"),
        ("pictures", _pictures(variant, dialect)),
        ("config", config),
        ("dialects", listing(spellings(variant.table))),
        *(("", f"{name}: {about}") for name, about in purposes(variant.table).items()),
        *(("behaviour", line) for line in _behaviour(variant, dialect)),
    ]  # fmt: skip
    click.echo(columns(figures))
    click.echo()
    say(f"table: canonical name, shape, operation, {dialect} name")
    click.echo(table_text(rows, "  "))


def _pictures(variant: Architecture, dialect: str) -> str:
    """Return the preprocessing of a dialect's weights, and whose it is."""
    from porter.planning.preprocessing import chosen

    size = variant.sides(variant.image_size)
    how, why = chosen(variant, dialect, None, size)
    return f"{how.described(size)} ({why})"


def _behaviour(variant: Architecture, dialect: str) -> list[str]:
    """Return what the code of a dialect computes otherwise, a line each."""
    from porter.planning.behaviour import behaviour_of, short

    return [
        f"{dialect} {row.about}: {row.setting} is {row.value}, not {row.canonical};"
        f" its outputs differ by about {short(row.size)} ({row.seen})"
        for row in behaviour_of(variant, dialect)
    ]


def table_text(rows: Sequence[tuple[str, str, str, str]], indent: str = "") -> str:
    """Return linked rows for people: `same` where both names are equal."""
    lines = []
    for canonical, dialect, shape, how in rows:
        facts = (shape, how) if canonical else ("", "")
        lines.append((canonical, *facts, "same" if dialect == canonical else dialect))
    return columns(lines, indent)


def as_dict(
    variant: Architecture, dialect: str, rows: Sequence[tuple[str, str, str, str]]
) -> dict[str, Any]:
    """Return a variant and its linked table for machines."""
    from porter.planning.behaviour import behaviour_of
    from porter.planning.preprocessing import chosen

    how, why = chosen(variant, dialect, None, variant.sides(variant.image_size))
    names = ("canonical", "dialect", "shape", "how")
    return {
        "schema": "porter.architecture/1",
        "name": variant.name, "family": variant.family, "title": variant.title,
        "paper": variant.paper, "source": variant.source, "aliases": list(variant.aliases),
        "parameters": variant.parameters, "top1": variant.top1,
        "image_size": variant.image_size, "num_classes": variant.num_classes,
        "config": dict(variant.config),
        "preprocessing": {
            "mean": list(how.mean), "std": list(how.std), "interpolation": how.interpolation,
            "crop": how.crop, "squash": how.squash, "antialias": how.antialias,
            "channels": how.channels, "padding": how.padding, "why": why,
        },
        "behaviour": [row._asdict() for row in behaviour_of(variant, dialect)],
        "dialects": spellings(variant.table),
        "about": purposes(variant.table),
        "dialect": dialect,
        "table": [dict(zip(names, row, strict=True)) for row in rows],
    }  # fmt: skip


def linked_rows(name: str, dialect: str, full: bool) -> list[tuple[str, str, str, str]]:
    """Return (canonical, dialect, shape, operation) of each link, layers folded unless `full`."""
    from porter.mapping.fold import fold
    from porter.planning.plan import link_variant
    from porter.zoo.architectures import find
    from porter.zoo.canonical import canonical_tensors

    variant = find(name)
    features = tuple(variant.skeleton().features)
    linked = link_variant(variant, dialect, features)
    shapes = canonical_tensors(variant, features)
    groups: dict[tuple[object, ...], list[Link]] = {}
    for index, link in enumerate(linked.links):
        leaf = link.canonical[0].rpartition(".")[2]
        shape = shapes.get(link.canonical[0], ("", ()))[1]
        key = (index,) if full else (link.row, leaf, link.how, shape)
        groups.setdefault(key, []).append(link)
    rows = []
    for links in groups.values():
        size = str(list(shapes.get(links[0].canonical[0], ("", ()))[1]))
        ours = fold(n for link in links for n in link.canonical)
        theirs = fold(n for link in links for n in link.dialect)
        how = links[0].how or "unchanged"
        for left, right in zip_longest(ours, theirs, fillvalue=""):
            rows.append((left, right, size, how))
    reasons: dict[str, list[str]] = {}
    for gap in linked.gaps:
        reasons.setdefault(gap.reason, []).append(gap.canonical)
    for why, names in reasons.items():
        rows += [(n, "-", "", why) for n in (names if full else fold(names))]
    return rows
