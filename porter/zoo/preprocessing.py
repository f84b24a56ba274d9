"""How a picture becomes the input of a model: size, crop, interpolation, normalisation.

It belongs to who trained or published the weights, not to the architecture: each variant has the
official figures and those of other sources, by the name of a dialect.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil, isfinite
from typing import Any, NamedTuple

from porter.errors import UsageError, listed, printable
from porter.zoo.image_size import Size, sides_of

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")
RESAMPLE = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
"""Pillow's numbers, which transformers writes."""
CHANNELS = ("RGB", "BGR", "GREY")
GREY = (0.299, 0.587, 0.114)
"""Shares of red, green and blue in a grey, as in Pillow and OpenCV."""
PADDINGS = ("", "width", "both", "centred")
Triple = tuple[float, float, float]


class Preprocessing(NamedTuple):
    """From a picture to the model's input.

    Mean and std are of values in [0, 1], in the order of `channels`.
    """

    mean: Triple
    std: Triple
    interpolation: str
    crop: float
    """Side of the central crop over the side that the picture is resized to."""
    squash: bool = False
    """Whether both sides are resized to that, whatever the aspect ratio; else the shorter one."""
    antialias: bool = True
    """Whether resizing averages over the pixels that become one, as Pillow does."""
    channels: str = "RGB"
    """The order in which the model takes the colours; OpenCV reads them as BGR. GREY: the same
    grey three times."""
    padding: str = ""
    """What is filled with zeros after normalising, the aspect ratio being kept: the `width` right
    of a line of text, whose height is the input's, or `both`, right and below. `centred` is for
    formulas: the margin is cut off, and the picture is in the middle of black pixels."""

    def resize(self, size: int) -> int:
        """Return the side (pixels) that a picture is resized to for square inputs of `size`."""
        return int(size / self.crop + 1e-6)  # 248 of 224 / 0.9: rounded down, as in timm

    def target(self, picture: tuple[int, int], size: Size) -> tuple[int, int]:
        """Return the width and height that a picture of such is resized to, before the crop."""
        height, width = sides_of(size)
        if self.padding:
            return self._padded(picture, height, width)
        if height != width:
            return width, height
        side = self.resize(height)
        scale = 0.0 if self.squash else side / min(picture)
        return max(side, round(picture[0] * scale)), max(side, round(picture[1] * scale))

    def _padded(self, picture: tuple[int, int], height: int, width: int) -> tuple[int, int]:
        """Return the size of a picture that is not larger than the input."""
        scale = height / picture[1]
        if self.padding == "width":  # A line that is too long is squeezed, as in PaddleOCR.
            return min(width, max(1, ceil(picture[0] * scale - 1e-6))), height
        scale = min(scale, width / picture[0])
        return max(1, round(picture[0] * scale)), max(1, round(picture[1] * scale))

    def described(self, size: Size) -> str:
        """Return in words what becomes of a picture for inputs of `size` pixels."""
        height, width = sides_of(size)
        side = self.resize(height)
        resized, cut = f"shorter side {side} px", f", central {height} px"
        if self.padding:
            kept = f"height {height}" if self.padding == "width" else f"longer side {width}"
            centred = self.padding == "centred"
            kept, how = (
                (f"margin cut off, {kept}", "centred on") if centred else (kept, "padded to")
            )
            resized = f"{kept} px, {how} {height} × {width} px"
            cut = ""
        elif height != width:
            resized, cut = f"resized to {height} × {width} px", ""
        elif self.squash:
            resized = f"squashed to {side} × {side} px"
            cut = cut if side > height else ""
        how = self.interpolation + ("" if self.antialias else " without antialiasing")
        mean, std = (", ".join(f"{value:g}" for value in row) for row in (self.mean, self.std))
        order = "" if self.channels == "RGB" else f", channels {self.channels}"
        return f"{resized}, {how}{cut}{order}, mean {mean}, std {std}"

    def as_dict(self, size: Size) -> dict[str, Any]:
        """Return it as plain values, for inputs of `size` pixels."""
        height, width = sides_of(size)
        square = height == width
        return {
            "image_size": height if square else [height, width],
            "resize": self.resize(height) if square else [height, width],
            "crop": self.crop,
            "squash": self.squash or not (square or self.padding),
            "padding": self.padding,
            "interpolation": self.interpolation,
            "antialias": self.antialias,
            "color": self.channels,
            "channels": self.channels,
            "range": [0, 1],
            "mean": list(self.mean),
            "std": list(self.std),
        }

    def normalising(self) -> dict[str, Any]:
        """Return what becomes of the values of a resized picture."""
        return {"mean": self.mean, "std": self.std, "channels": self.channels}

    def changed(self, given: Mapping[str, Any]) -> Preprocessing:
        """Return it with some fields replaced; `UsageError` for values that no picture allows."""
        return checked(self._replace(**given))


def checked(given: Preprocessing) -> Preprocessing:
    """Return preprocessing with plain numbers; `UsageError` for what cannot be carried out."""
    mean, std = _triple(given.mean, "mean"), _triple(given.std, "std")
    if min(std) <= 0:
        raise UsageError(f"std {listed(f'{v:g}' for v in std)}: positive numbers are expected")
    if given.interpolation not in INTERPOLATIONS:
        raise UsageError(
            f"unknown interpolation {printable(given.interpolation)!r}; use"
            f" {listed(INTERPOLATIONS)}"
        )
    crop = given.crop
    if isinstance(crop, bool) or not isinstance(crop, int | float) or not 0 < crop <= 1:
        raise UsageError(f"crop {printable(crop)}: a number above 0 and at most 1 is expected")
    if not given.antialias and given.interpolation != "bilinear":
        raise UsageError("without antialiasing only bilinear interpolation is known")
    for value, known in ((given.channels, CHANNELS), (given.padding, PADDINGS)):
        if value not in known:
            raise UsageError(
                f"{printable(value)!r}: {' or '.join(filter(None, known))} is expected"
            )
    return Preprocessing(
        mean, std, given.interpolation, float(crop), bool(given.squash), bool(given.antialias),
        given.channels, given.padding,
    )  # fmt: skip


def _triple(values: Any, name: str) -> Triple:
    numbers = list(values) if isinstance(values, list | tuple) else [values]
    numbers = numbers * 3 if len(numbers) == 1 else numbers
    fits = all(isinstance(v, int | float) and not isinstance(v, bool) for v in numbers)
    if len(numbers) != 3 or not fits or not all(isfinite(v) for v in numbers):
        raise UsageError(f"{name} {printable(values)}: one number or three are expected")
    first, second, third = (float(value) for value in numbers)
    return first, second, third


def of_variant(
    family: Mapping[str, Any], variant: Mapping[str, Any], size: int
) -> tuple[Preprocessing, dict[str, Preprocessing]]:
    """Return the canonical preprocessing and those of other sources, from the family's file.

    A key of a source is laid over the family's, then that of the image size, then the variant's.
    """
    plain = {k: v for k, v in family.items() if k != "source" and not isinstance(v, dict)}
    own = {k: v for k, v in variant.items() if not isinstance(v, dict)}
    canonical = _of({**plain, **own}, size)
    found = {}
    for name in dict.fromkeys([*family, *variant]):
        body, more = family.get(name, {}), variant.get(name, {})
        if isinstance(body, dict) and isinstance(more, dict):
            merged = {**plain, **body, **body.get(str(size), {}), **more}
            found[name] = _of({k: v for k, v in merged.items() if not isinstance(v, dict)}, size)
    return canonical, found


def _of(body: Mapping[str, Any], size: int) -> Preprocessing:
    body = dict(body)
    if "resize" in body:
        body["crop"] = size / body.pop("resize")
    return checked(Preprocessing(**body))


_BLUE_FIRST = ("PPLCNet", "PPOCRV5ServerDet", "PPOCRV6SmallRec", "UVDoc")
"""Image processors of transformers that give the blue channel first.

They normalise before that: what they state is of red, green and blue.
"""


def understood(given: Mapping[str, Any], size: int) -> dict[str, Any]:
    """Return the fields of `Preprocessing` that a JSON object states, empty if it states none.

    The forms are porter's own, `preprocessor_config.json` of transformers and timm's
    `pretrained_cfg`, alone or inside `config.json`.
    """
    inner = given.get("pretrained_cfg")
    given = {**given, **inner} if isinstance(inner, dict) else given
    found: dict[str, Any] = {
        field: given[key]
        for key, field in (
            ("mean", "mean"), ("std", "std"), ("image_mean", "mean"), ("image_std", "std"),
            ("interpolation", "interpolation"), ("crop", "crop"), ("crop_pct", "crop"),
            ("eval_crop_ratio", "crop"),
            ("squash", "squash"), ("antialias", "antialias"),
            ("channels", "channels"), ("padding", "padding"),
        )
        if given.get(key) is not None
    }  # fmt: skip
    kind = str(given.get("image_processor_type") or "")
    if kind.startswith(_BLUE_FIRST):
        rows = {key: found[key] for key in ("mean", "std") if isinstance(found.get(key), list)}
        found |= {key: tuple(row)[::-1] for key, row in rows.items()}
        found["channels"] = "BGR"
    elif kind and found:
        found["channels"] = "RGB"
    if given.get("do_normalize") is False:
        found |= {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    if "crop_mode" in given:
        found["squash"] = given["crop_mode"] == "squash"
    resample = given.get("resample")
    if isinstance(resample, int) and 0 <= resample < len(RESAMPLE):
        found["interpolation"] = RESAMPLE[resample]
    return {**found, **_sizes(given, size)}


def _sizes(given: Mapping[str, Any], size: int) -> dict[str, Any]:
    """Return crop and squash of transformers' `size` and `crop_size`."""
    target, wanted = _side(given.get("size")), _side(given.get("crop_size"))
    if target is None or not given.get("do_resize", True):
        return {}
    kind = str(given.get("image_processor_type") or given.get("feature_extractor_type") or "")
    body = given["size"]
    short = "shortest_edge" in body if isinstance(body, dict) else kind.startswith("CLIP")
    cropped = given.get("do_center_crop", wanted is not None)
    crop = (wanted or size) / target if cropped else 1.0
    return {"crop": min(crop, 1.0), "squash": not short}


def _side(value: Any) -> int | None:
    if isinstance(value, dict):
        value = value.get("shortest_edge", value.get("height"))
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
