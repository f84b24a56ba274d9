"""Inputs of both sides: seeded noise, pictures, or arrays from a file."""

from __future__ import annotations

import os
import struct
import warnings
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from porter.errors import InputError, MissingPackage, printable
from porter.storage.input_file import check_file
from porter.tensors.blocks import Array
from porter.zoo.image_size import Size, sides_of
from porter.zoo.preprocessing import GREY, Preprocessing

MOST_LENGTHY = 50
"""Largest aspect ratio of a picture: its longer side is resized with the shorter."""

_LARGEST_PICTURE, _LARGEST_ARRAYS = 1 << 28, 1 << 33
"""Bytes of the files."""

_MOST_HALVED = 200
"""Pictures of a folder that is halved: enough to judge by percentages."""

_INK = 200
"""A byte below which a pixel belongs to a formula."""

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".ppm", ".tif", ".tiff")
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "PPM", "TIFF")
"""Pillow's readers that may be used. By the content it would choose others as well, and that of
PostScript runs Ghostscript."""


def noise(seeds: Sequence[int], batch_sizes: Sequence[int], size: Size) -> dict[str, Array]:
    """Return seeded normal inputs, float32 (batch, 3, height, width), by case name."""
    return {
        f"seed{seed}.batch{batch}": np.random.default_rng([seed, batch]).standard_normal(
            (batch, 3, *sides_of(size)), np.float32
        )
        for seed in seeds
        for batch in batch_sizes
    }


def pictures(
    folder: str | os.PathLike[str], preprocessing: Preprocessing, size: Size, most: int = 64
) -> dict[str, Array]:
    """Return the pictures of a folder as inputs, float32 (1, 3, height, width), by file name.

    Only the `most` first files are taken. Raises as `picture` does.
    """
    if not Path(folder).is_dir():
        raise InputError("is not a folder of pictures", folder)
    files = sorted(p for p in Path(folder).glob("*") if p.suffix.lower() in SUFFIXES)[:most]
    if not files:
        raise InputError("contains no picture (" + " ".join(SUFFIXES) + ")", folder)
    names = (os.fsencode(file.name).decode("utf-8", "backslashreplace") for file in files)
    return {name: picture(f, preprocessing, size) for name, f in zip(names, files, strict=True)}


def representable(inputs: Array, preprocessing: Preprocessing) -> Array:
    """Return inputs (N, 3, …), each value moved to the nearest that a byte of a picture gives."""
    mean, std = (
        np.reshape(np.asarray(v, np.float64), (3, 1, 1))
        for v in (preprocessing.mean, preprocessing.std)
    )
    pixels = np.clip(np.rint((inputs * std + mean) * 255), 0, 255)
    return ((pixels / 255 - mean) / std).astype(np.float32)


def picture(file: str | os.PathLike[str], preprocessing: Preprocessing, size: Size) -> Array:
    """Return a picture as an input, float32 (1, 3, height, width).

    It is resized and cropped or padded by `preprocessing`, scaled to [0, 1] and normalised. As in
    torchvision's image folders, pixels are used as they are stored, whatever the EXIF orientation,
    and greys, palettes, CMYK and alpha are converted to RGB. Raises `InputError` for a file that
    is damaged or no picture, `MissingPackage` without pillow.
    """
    return _prepared(_opened(file), preprocessing, size)


def sides_of_picture(file: str | os.PathLike[str]) -> tuple[int, int]:
    """Return the width and height of a picture, in pixels; raises as `picture` does."""
    width, height = _opened(file).size
    return width, height


def _opened(file: str | os.PathLike[str]) -> Any:
    """Return a picture as Pillow has it, in RGB."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ModuleNotFoundError as error:
        raise MissingPackage("pictures need pillow; run `pip install pillow`") from error
    # Pillow's readers raise many kinds of errors for damaged files.
    damaged = (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError,
               ValueError, EOFError, IndexError, struct.error, zlib.error)  # fmt: skip
    Image.init()
    formats = [name for name in FORMATS if name in Image.OPEN]  # Not every build has all.
    check_file(file, _LARGEST_PICTURE)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Of large pictures, damaged tags, odd palettes.
            with Image.open(file, formats=formats) as image:
                colours = image.convert("RGB")
    except damaged as error:
        raise InputError(f"cannot be read as a picture: {printable(error)}", file) from error
    if max(colours.size) > MOST_LENGTHY * min(colours.size):
        width, height = colours.size
        raise InputError(f"is {width} × {height} pixels: the aspect ratio is too large", file)
    return colours


def _prepared(image: Any, preprocessing: Preprocessing, size: Size) -> Array:
    height, width = sides_of(size)
    if preprocessing.padding == "centred":
        image = _centred(image, height, width)
    target = preprocessing.target(image.size, size)
    left, top = max(0, (target[0] - width) // 2), max(0, (target[1] - height) // 2)
    pixels = _resized(image, preprocessing, target)
    pixels = pixels[top : top + height, left : left + width] / np.float32(255)
    if preprocessing.channels == "BGR":
        pixels = pixels[..., ::-1]
    elif preprocessing.channels == "GREY":
        pixels = np.repeat(pixels @ np.array(GREY, np.float32)[:, None], 3, axis=2)
    mean, std = (np.array(v, np.float32) for v in (preprocessing.mean, preprocessing.std))
    normal = ((pixels - mean) / std).transpose(2, 0, 1)
    below, right = height - normal.shape[1], width - normal.shape[2]
    return np.ascontiguousarray(np.pad(normal, ((0, 0), (0, below), (0, right)))[None])


def _centred(image: Any, height: int, width: int) -> Any:
    """Return a formula without its margin in the middle of a black picture.

    What is darker than 200 of 255, from the darkest to the brightest pixel, is the formula. Its
    shorter side is resized to that of the input first, then the whole until it fits: a long
    formula is enlarged and shrunk again. PaddleOCR's `UniMERNetImgDecode`.
    """
    from PIL import Image

    grey = np.asarray(image.convert("L"), np.float64)
    spread = grey.max() - grey.min()
    if spread:
        rows, columns = np.nonzero((grey - grey.min()) / spread * 255 < _INK)
        corner = int(columns.min()), int(rows.min())
        image = image.crop((*corner, int(columns.max()) + 1, int(rows.max()) + 1))
    side, shorter = min(height, width), min(image.size)
    image = image.resize(
        tuple(side if one == shorter else int(side * one / shorter) for one in image.size),
        Image.Resampling.BILINEAR,
    )
    image.thumbnail((width, height))
    whole = Image.new("RGB", (width, height))
    whole.paste(image, ((width - image.width) // 2, (height - image.height) // 2))
    return whole


def _resized(image: Any, preprocessing: Preprocessing, target: tuple[int, int]) -> Array:
    """Return a picture of the size `target` (width, height), float32 (height, width, 3)."""
    from PIL import Image

    if preprocessing.antialias:
        resampling = Image.Resampling[preprocessing.interpolation.upper()]
        return np.asarray(image.resize(target, resampling), np.float32)
    pixels = np.asarray(image, np.float32)  # Bilinear between the four nearest: tf.image, cv2.
    for axis, length in ((0, target[1]), (1, target[0])):
        count = pixels.shape[axis]
        place = np.clip((np.arange(length) + 0.5) * (count / length) - 0.5, 0, count - 1)
        low = place.astype(np.int64)
        share = np.expand_dims((place - low).astype(np.float32), (1 - axis, 2))
        high = np.minimum(low + 1, count - 1)
        pixels = pixels.take(low, axis) * (1 - share) + pixels.take(high, axis) * share
    return pixels


class Halves(NamedTuple):
    """Pictures for an int8 model: some measure the ranges of its activations, others judge it.

    Batches, float32 (N, 3, height, width), by the name of the first picture in them.
    """

    calibrating: Mapping[str, Array]
    judging: Mapping[str, Array]

    @property
    def note(self) -> str:
        """What they are used for, for the report."""
        ours, theirs = (sum(map(len, part.values())) for part in self)
        return f"int8: calibrated on {ours} pictures, judged on {theirs} others"


def halved(
    folder: str | os.PathLike[str],
    preprocessing: Preprocessing,
    size: Size,
    batch: int | None = None,
) -> Halves:
    """Return the pictures of a folder in two halves; a single picture is in both.

    With `batch`, the only one that a model takes, they are grouped; the last group begins again
    with the first pictures. Raises as `pictures` does.
    """
    found = pictures(folder, preprocessing, size, _MOST_HALVED)
    names = list(found)
    halves = names[::2], names[1::2] or names
    one, two = ({name: found[name] for name in half} for half in halves)
    return Halves(_grouped(one, batch or 1), _grouped(two, batch or 1))


def _grouped(arrays: Mapping[str, Array], batch: int) -> dict[str, Array]:
    names = list(arrays)
    groups = [names[start : start + batch] for start in range(0, len(names), batch)]
    groups[-1] += [names[i % len(names)] for i in range(batch - len(groups[-1]))]
    return {group[0]: np.concatenate([arrays[name] for name in group]) for group in groups}


def arrays(path: str | os.PathLike[str], size: Size) -> dict[str, Array]:
    """Return the arrays of an `.npz` or `.npy` file, batches (N, 3, height, width), as float32."""
    check_file(path, _LARGEST_ARRAYS)
    try:
        loaded = np.load(path, allow_pickle=False)
        named = {"input": loaded} if isinstance(loaded, np.ndarray) else dict(loaded)
    except (OSError, ValueError, EOFError, KeyError, NotImplementedError, zipfile.BadZipFile,
            zlib.error) as error:  # fmt: skip
        raise InputError(
            f"is not a .npy or .npz file of plain arrays: {printable(error)}", path
        ) from error
    if not named:
        raise InputError("contains no array", path)
    for name, array in named.items():
        problem = misfit(array, size)
        if problem:
            raise InputError(f"array {printable(name)!r} {problem}", path)
    return {name.replace("/", "_"): array.astype(np.float32) for name, array in named.items()}


def misfit(array: Array, size: Size) -> str:
    """Return why an array is not a batch of pictures of a size; empty if it is one."""
    height, width = sides_of(size)
    fits = array.ndim == 4 and len(array) > 0 and array.shape[1:] == (3, height, width)
    if not fits or array.dtype.kind not in "fiu":
        return (
            f"is {array.dtype} {list(array.shape)};"
            f" a batch of pictures (N, 3, {height}, {width}) of numbers is expected"
        )
    if not np.isfinite(array).all():
        return "has NaN or infinite values"
    with np.errstate(over="ignore"):
        return "" if np.isfinite(array.astype(np.float32)).all() else "overflows float32"
