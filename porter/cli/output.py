"""Output that several commands share: sizes, JSON, verdicts, progress bars."""

from __future__ import annotations

import json
import math
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from porter.cli.layout import width
from porter.commands.summary import counted as counted
from porter.commands.summary import sized as sized
from porter.commands.summary import sizes_of as sizes_of
from porter.errors import json_escaped, nearest

if TYPE_CHECKING:
    from porter.storage.progress import Progress
    from porter.verification.verdict import Verdict


_ARGUMENTS = "porter.arguments"
_RUNTIMES = ("torch", "paddle", "onnxruntime")


def _interpreters(
    ctx: click.Context, param: click.Parameter, values: tuple[str, ...]
) -> dict[str, str]:
    interpreters = {}
    for value in values:
        name, equals, path = value.partition("=")
        if not equals or name not in _RUNTIMES:
            names = ", ".join(_RUNTIMES)
            raise click.BadParameter(f"{value!r} is not NAME=PATH with NAME one of {names}")
        interpreters[name] = path
    return interpreters


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")
quiet_option = click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
python_option = click.option(
    "--python", multiple=True, metavar="NAME=PATH", callback=_interpreters,
    help="Python of another environment that has a framework, as torch=PATH.",
)  # fmt: skip
judge_option = click.option(
    "--judge", metavar="LIMITS",
    help="Limits for the outputs, such as top1>=99,cosine>=0.999 (the default for int8).",
)  # fmt: skip
force_option = click.option("--force", is_flag=True, help="Replace an existing output.")
digest_option = click.option(  # the names are those of `porter.storage.digests`, slow to load
    "--digest", type=click.Choice(["xxh3", "sha256"]), default="xxh3",
    help="Digest algorithm: fast, or a common standard.",
)  # fmt: skip
record_option = click.option(
    "--record/--no-record", default=True,
    help="Write OUTPUT.porter.json: provenance and digests (default).",
)  # fmt: skip


def model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--left-model`, `--right-model` and `--inputs` to a command."""
    options = (
        click.option("--left-model", metavar="REF",
                     help="Model of LEFT: FILE.py:build, package.module:Class or timm:NAME."),
        click.option("--right-model", metavar="REF",
                     help="Model of RIGHT; ?key=value&… after a REF are keyword arguments."),
        click.option("--inputs", type=click.Path(), metavar="FILE",
                     help="Named arrays (.npz) in the order of the models' arguments."),
    )  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


class Group(click.Group):
    """A group that prints its help when called without a command, and suggests the nearest."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args and not ctx.resilient_parsing:
            click.echo(ctx.get_help(), color=ctx.color)
            ctx.exit()
        ctx.meta.setdefault(_ARGUMENTS, tuple(args))
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        names = self.list_commands(ctx)
        if args and args[0] not in names and not args[0].startswith("-"):
            near = nearest(args[0], names)
            hint = f"did you mean {near[0]}?" if near else f"use one of {', '.join(names)}"
            raise click.UsageError(f"unknown command {args[0]!r}; {hint}")
        return super().resolve_command(ctx, args)


def command_line(ctx: click.Context) -> str:
    """Return the command as it was typed, quoted for a shell; addresses are without their query."""
    from porter.remote.address import shown

    words = [shown(word) for word in ctx.meta.get(_ARGUMENTS, ())]
    return shlex.join(["porter", *words])


def say_json(value: Any) -> None:
    """Print a value as JSON."""
    text = json.dumps(_plain(value), indent=2, ensure_ascii=False, allow_nan=False)
    click.echo(json_escaped(text))


def _plain(value: Any) -> Any:
    """Return a value without NaN and infinities, which JSON does not have: null."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def say_verdict(verdict: Verdict) -> None:
    """Print a verdict to the terminal."""
    from rich.console import Console

    from porter.report.text import render

    limit = width()
    narrow = limit is not None and limit < 80
    console = Console(width=limit, soft_wrap=limit is None, highlight=False)
    console.print(render(verdict, narrow))


@contextmanager
def progress(quiet: bool) -> Iterator[Progress | None]:
    """Yield a function that shows progress on stderr; None if quiet or not in a terminal."""
    if quiet or sys.stderr is None or not sys.stderr.isatty():
        yield None
        return
    from porter.cli.shared.bars import Bars

    with Bars() as bars:
        yield bars.move
