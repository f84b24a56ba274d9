"""The options that name two models and what they are run on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click


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
