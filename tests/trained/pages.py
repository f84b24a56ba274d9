"""Pages of printed text, and what a recogniser's scores say: what a reader of text needs."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageDraw, ImageFont

LINE = 48
"""Height of a line (pixels) as the recogniser takes it."""
Array = np.ndarray


def fonts() -> dict[str, tuple[object, float, int]]:
    """Return (font, slant, stroke in pixels): those that Pillow brings, and forms of them."""
    plain = ImageFont.load_default(size=34)
    return {
        "regular": (plain, 0.0, 0),
        "bold": (plain, 0.0, 1),
        "oblique": (plain, 0.2, 0),
        "small": (ImageFont.load_default(size=22), 0.0, 0),
        "bitmap": (ImageFont.load_default_imagefont(), 0.0, 0),
    }


def printed(text: str, font: object, slant: float, stroke: int) -> Image.Image:
    """Return a picture of one line of text, black on white, 48 pixels high."""
    drawn = Image.new("L", (2200, 120), 255)
    ImageDraw.Draw(drawn).text((40, 30), text, 0, font, stroke_width=stroke)  # type: ignore[arg-type]
    if slant:
        drawn = drawn.transform(
            drawn.size, Image.Transform.AFFINE, (1, slant, -slant * 60, 0, 1, 0),
            Image.Resampling.BICUBIC, fillcolor=255,
        )  # fmt: skip
    left, top, right, bottom = Image.eval(drawn, lambda v: 255 - v).getbbox() or (0, 0, 1, 1)
    cut = drawn.crop((left, top, right, bottom))
    height = 34
    cut = cut.resize((round(cut.width * height / cut.height), height), Image.Resampling.BICUBIC)
    line = Image.new("RGB", (cut.width + 24, LINE), "white")
    line.paste(cut, (12, (LINE - height) // 2))
    return line


def normalised(picture: Image.Image, mean: object = 0.5, std: object = 0.5) -> Array:
    """Return a picture as (1, 3, height, width), blue first, as PaddleOCR reads files."""
    pixels = np.asarray(picture, np.float32)[..., ::-1] / 255
    scaled = (pixels - np.float32(mean)) / np.float32(std)
    return np.ascontiguousarray(scaled.transpose(2, 0, 1)[None])


def page(lines: list[Image.Image]) -> Image.Image:
    """Return a page of lines, its sides multiples of 32."""
    width = max(line.width for line in lines) + 64
    sheet = Image.new("RGB", (-(-width // 32) * 32, -(-(len(lines) * 72 + 32) // 32) * 32), "white")
    for index, line in enumerate(lines):
        sheet.paste(line, (32, 32 + index * 72))
    return sheet


def rows(heat: Array, threshold: float = 0.3) -> Iterator[tuple[int, int, int, int]]:
    """Yield the boxes (left, top, right, bottom) of the lines in a map of where text is."""
    found = heat > threshold
    inside, top = found.any(1), 0
    for y, is_text in enumerate([*inside, False]):
        if is_text and (y == 0 or not inside[y - 1]):
            top = y
        if not is_text and y and inside[y - 1]:
            columns = np.flatnonzero(found[top:y].any(0))
            yield int(columns[0]), top, int(columns[-1]) + 1, y


def said(scores: Array, alphabet: list[str]) -> str:
    """Return the text of scores (positions, classes): the best ones, repetitions and blanks out."""
    best = scores.argmax(-1)
    kept = best[np.diff(best, prepend=-1) != 0]
    return "".join(["", *alphabet, " "][index] for index in kept if index)
