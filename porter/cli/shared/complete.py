"""Completion of arguments in the shell (`_PORTER_COMPLETE=bash_source porter`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

if TYPE_CHECKING:
    from porter.mapping.table import Table


def architectures(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Offer variants; files where a path was begun, for custom tables."""
    from porter.planning.families import families as known

    if "/" in incomplete or "." in incomplete:
        return [CompletionItem(incomplete, type="file")]
    return _starting(
        {
            name: f"{family['title']}, {variant['parameters'] / 1e6:.0f} M"
            for family in known().values()
            for name, variant in family["variants"].items()
        },
        incomplete,
    )


def families(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer families."""
    from porter.planning.families import families as known

    return _starting({name: found["title"] for name, found in known().items()}, incomplete)


def sides(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer the values of `--from` and `--to`, with the dialects of ARCH if it is typed already."""
    from porter.errors import PorterError
    from porter.planning.endpoint import FORMATS, spellings

    offered = dict.fromkeys(FORMATS, "")
    try:
        table = _table(ctx)
    except PorterError:
        table = None
    if table is not None:
        offered |= {name.partition(" ")[0]: "" for name in spellings(table)}
    return _starting(offered, incomplete)


def dialects(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer the dialects of ARCH."""
    from porter.errors import PorterError

    try:
        table = _table(ctx)
    except PorterError:
        return []
    if table is None:
        return []
    return _starting(dict.fromkeys([*table.dialects, *table.aliases], ""), incomplete)


def _table(ctx: click.Context) -> Table | None:
    """Return the table of ARCH; an option without its value leaves ARCH among the rest."""
    from pathlib import Path

    from porter.mapping.reader import load
    from porter.zoo.architectures import find

    arch = ctx.params.get("arch") or next(iter(ctx.args), None)
    if arch is None:
        return None
    return load(Path(arch)) if arch.endswith(".toml") else find(arch).table


def _starting(offered: dict[str, str], incomplete: str) -> list[CompletionItem]:
    found = [name for name in offered if name.startswith(incomplete)]
    return [CompletionItem(name, help=offered[name] or None) for name in found]
