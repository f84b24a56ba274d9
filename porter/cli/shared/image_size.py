"""The option for the size of pictures, which several commands have."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from porter.errors import UsageError

if TYPE_CHECKING:
    from porter.zoo.image_size import Size


class _Pixels(click.ParamType[Any]):
    name = "pixels"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Size:
        from porter.zoo.image_size import parsed

        try:
            return parsed(str(value))
        except UsageError as error:
            self.fail(error.message, param, ctx)


def image_size_option(default: str) -> Callable[..., Any]:
    """Return the option; its help names whose size is the default."""
    return click.option(
        "--image-size", type=_Pixels(), metavar="N|HxW",
        help=f"Pixels, or height and width; default: {default}.",
    )  # fmt: skip
