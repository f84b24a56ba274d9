"""The size of a model's pictures: one side, or height and width."""

from __future__ import annotations

from collections.abc import Sequence

from porter.errors import UsageError, printable

Size = int | tuple[int, int]
"""Pixels: the side of square inputs, or their height and width."""
IMAGE_SIZE = "porter.image_size"
"""Metadata key of the size that a file was written for."""
_LARGEST = 1 << 14


def sides_of(size: Size) -> tuple[int, int]:
    """Return height and width."""
    return (size, size) if isinstance(size, int) else size


def as_size(value: int | Sequence[int]) -> Size:
    """Return a size as JSON has it: a list instead of a tuple."""
    return value if isinstance(value, int) else (value[0], value[1])


def parsed(text: str) -> Size:
    """Return the size that a text such as `224` or `256x192`, height and width, gives.

    `UsageError` for any other text.
    """
    parts = text.lower().replace("×", "x").split("x")
    sides = [
        int(part) if part.isascii() and part.isdecimal() and len(part) < 9 else 0 for part in parts
    ]
    if len(sides) > 2 or not all(0 < side <= _LARGEST for side in sides):
        raise UsageError(
            f"image size {printable(text)}: pixels are expected, 224, or height and width, 256x192"
        )
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])


def checked(value: object) -> Size:
    """Return a size as a caller gives it: a number, two, or text; `UsageError` for others."""
    if isinstance(value, str):
        return parsed(value)
    sides = list(value) if isinstance(value, list | tuple) else [value]
    if len(sides) > 2 or not all(type(side) is int for side in sides):
        raise UsageError(
            f"image size {printable(value)}: pixels, or height and width, are expected"
        )
    return parsed("x".join(map(str, sides)))


def pixels(size: Size) -> str:
    """Return a size in words."""
    return f"{size} px" if isinstance(size, int) else f"{size[0]} × {size[1]} px"


def shown(size: Size) -> str:
    """Return a size as text that `parsed` reads."""
    return str(size) if isinstance(size, int) else "x".join(map(str, size))
