"""What porter knows by name: families, variants, their configuration, tensors and tables.

Data files are read when they are first needed; no framework is imported.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from math import isqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from porter.errors import TableError, UsageError, listed, nearest, printable
from porter.mapping import reader
from porter.mapping.pattern import Pattern
from porter.mapping.table import CANONICAL, Table
from porter.reference_models import FOLDER
from porter.zoo import plugins
from porter.zoo import skeleton as skeletons
from porter.zoo.graph_form import GraphForm, form_of
from porter.zoo.image_size import Size, shown, sides_of
from porter.zoo.preprocessing import Preprocessing, of_variant

if TYPE_CHECKING:
    from porter.tensors.blocks import Array


class Positions(NamedTuple):
    """The tensor whose size follows the image size: (image_size / patch)² + prefix entries."""

    tensor: str
    axis: int
    patch: int
    prefix: int
    interpolation: str = "bicubic"
    """How the table is resized for another image size: `bicubic` or `bilinear`."""
    symbol: str = "positions"
    """What the number of entries is called in the skeleton."""

    def count(self, image_size: Size) -> int:
        """Return the number of positions at an image size (pixels)."""
        rows, columns = self.grid(image_size)
        return rows * columns + self.prefix

    def grid(self, image_size: Size) -> tuple[int, int]:
        """Return the rows and columns of positions at an image size (pixels)."""
        height, width = sides_of(image_size)
        return height // self.patch, width // self.patch

    def image_size(self, count: int) -> int | None:
        """Return the image size (pixels) of a number of positions, None if not square."""
        side = isqrt(max(count - self.prefix, 0))
        return side * self.patch if side and side * side == count - self.prefix else None


@dataclass(frozen=True, slots=True)
class Architecture:
    """One variant of a family."""

    name: str
    family: str
    title: str
    paper: str
    source: str
    module: str
    """Module of the reference models, `reference_models/{torch,paddle}/<module>.py`; empty for a
    family that has none: its weights are converted, its outputs are not compared."""
    model: str
    """Class in that module."""
    config: Mapping[str, Any]
    """Keyword arguments of the class."""
    image_size: int
    """Height of the pictures, in pixels, and their width unless `image_width` is given."""
    num_classes: int
    parameters: int
    preprocessing: Preprocessing
    """The canonical one: that of the source whose names are canonical."""
    positions: Positions | None = None
    further_positions: tuple[Positions, ...] = ()
    """Tables after the first, where a model has one for each stage."""
    aliases: tuple[str, ...] = ()
    top1: float | None = None
    sibling: str | None = None
    """Variant whose tensors a checkpoint of this name may have instead."""
    resizable: bool = True
    """Whether the model can be built for another image size."""
    free_width: bool = False
    """Whether it takes any width where it is not resizable: lines of text."""
    features: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Optional parts: {feature: keyword arguments}."""
    seeded_scales: Mapping[str, float] = field(default_factory=dict)
    """{pattern of layers: factor of their seeded values}, where the usual sizes overflow."""
    unused: Mapping[str, str] = field(default_factory=dict)
    """{pattern of tensors: why no output depends on them, although the model has them}"""
    skeleton_of: str = ""
    """Another variant with the same tensors, whose skeleton file is this one's too."""
    square: bool = False
    """Whether its pictures must be square, as maps that are cut into square windows demand."""
    graph: GraphForm = field(default_factory=GraphForm)
    """What its ONNX graph is called, gives and leaves open."""
    image_width: int = 0
    """Width of the variant's pictures, in pixels, where they are not square."""
    preprocessings: Mapping[str, Preprocessing] = field(default_factory=dict)
    """{dialect or alias: preprocessing of its weights}, where it is another."""
    preprocessing_source: str = ""
    """Whose the canonical preprocessing is."""
    study: bool = False
    """Whether it is only a form that an article compares with: no weights are published."""

    @property
    def table(self) -> Table:
        """The family's mapping table."""
        return reader.builtin(self.family)

    @property
    def dialects(self) -> tuple[str, ...]:
        """The dialects of the table that this variant has."""
        names = [tensor.name for tensor in self.skeleton().tensors]
        return tuple(name for name, one in self.table.dialects.items() if one.names(names))

    def skeleton(self, framework: str = CANONICAL) -> skeletons.Skeleton:
        """Return the tensors of the reference model in torch or paddle."""
        return _skeleton(self.skeleton_of or self.name, framework)

    @property
    def sizes(self) -> dict[str, int]:
        """The whole numbers of the configuration, which operations may name."""
        return {
            key: value
            for key, value in self.config.items()
            if isinstance(value, int) and not isinstance(value, bool)
        }

    @property
    def position_tables(self) -> tuple[Positions, ...]:
        """Every tensor whose size follows the image size, that of `positions` first."""
        return () if self.positions is None else (self.positions, *self.further_positions)

    def sides(self, image_size: Size | None = None) -> tuple[int, int]:
        """Return height and width (pixels) of pictures of an image size.

        One number is their height: their aspect ratio is that of the variant's then.
        """
        size = image_size or self.image_size
        if self.image_width and isinstance(size, int):
            return size, round(size * self.image_width / self.image_size)
        return sides_of(size)

    def size_of(self, height: int, width: int) -> Size:
        """Return the image size of pictures, one number where `sides` gives the width."""
        return height if self.sides(height) == (height, width) else (height, width)

    def constants(self, image_size: Size | None = None) -> dict[str, Array]:
        """Return the buffers that follow from the configuration at an image size (pixels)."""
        from porter.mapping.constants import constants  # It loads NumPy.

        height, _ = self.sides(image_size)
        return constants(self.table.constants, self.config, height)

    def unused_because(self, name: str) -> str:
        """Return why no output depends on a tensor; empty if one does."""
        reasons = (why for text, why in self.unused.items() if Pattern(text).match(name))
        return next(reasons, "")

    def seeded_scale(self, path: str) -> float:
        """Return the factor of a layer's seeded values."""
        factors = (f for text, f in self.seeded_scales.items() if Pattern(text).match(path))
        return next(factors, 1.0)

    def need_model(self, what: str) -> None:
        """Raise `UsageError` where a family has no reference model, which `what` needs."""
        if not self.module:
            raise UsageError(
                f"{what} needs a reference model, which porter does not have for {self.name}:"
                " its weights are converted and compared, not its outputs"
            )

    @property
    def any_size(self) -> bool:
        """Whether one ONNX graph can take pictures of any height and width, or of any width."""
        return bool(self.graph.free)

    @property
    def has_graph(self) -> bool:
        """Whether its ONNX graph can be traced: from a reference model, or a published one."""
        return bool(self.module or self.graph.outputs)

    def need_graph(self, what: str, remedy: str = "convert a checkpoint of it") -> None:
        """Raise `UsageError` where porter has no ONNX graph of a variant, which `what` needs."""
        if not self.has_graph:
            raise UsageError(
                f"{what} needs the graph of {self.name}, which porter does not have: {remedy}"
            )

    def _check_windows(self, image_size: int) -> None:
        """Raise `UsageError` where windows do not divide the maps of an image size (Swin)."""
        window = self.config.get("window_size")
        sides = [image_size / (4 << stage) for stage in range(4)]
        if window and any(side % 1 or (side > window and side % window) for side in sides):
            raise UsageError(
                f"{self.name} divides its maps into windows of {window} by {window} tokens, which"
                f" images of {image_size} px do not allow; use a multiple of {32 * window} px"
                f"{self._other_window(image_size)}"
            )

    def _other_window(self, image_size: int) -> str:
        """Return a hint at the variant that differs by a window which suits an image size."""
        for other in all_variants().values():
            window = other.config.get("window_size")
            same = {**self.config, "window_size": window} == other.config
            if same and other.model == self.model and image_size % (32 * (window or 1)) == 0:
                return f", or convert to {other.name} with --adapt"
        return ""

    def symbols(
        self, num_classes: int | None = None, image_size: Size | None = None
    ) -> dict[str, int]:
        """Return the values of the skeleton's symbols for a number of classes and an image size.

        `UsageError` is raised for an image size that the variant is not built for.
        """
        size = image_size or self.image_size
        height, width = self.sides(size)
        own_height, own_width = self.sides()
        fixed = (own_height, width if self.free_width else own_width)
        if not self.resizable and (height, width) != fixed:
            raise UsageError(
                f"{self.name} takes images of {self.image_size} px only, not {shown(size)}:"
                " it is built for that size"
            )
        if self.square and height != width:
            raise UsageError(
                f"{self.name} takes square images only, not {shown(size)}: it is built for one side"
            )
        symbols = {"classes": num_classes or self.num_classes}
        self._check_windows(height)
        return symbols | {table.symbol: table.count(size) for table in self.position_tables}


@cache
def all_variants() -> dict[str, Architecture]:
    """Return every variant by name, families in alphabetical order, those of plugins last."""
    variants: dict[str, Architecture] = {}
    for text in _texts():
        variants.update(_variants(text))
    for folder in plugins.folders():
        for text in _texts(folder):
            for name, variant in _variants(text).items():
                if name in variants:
                    raise TableError(f"two packages bring a variant {printable(name)}", folder)
                variants[name] = variant
    return variants


@cache
def _texts(folder: Path = FOLDER) -> list[str]:
    """Return the files of the families in a folder."""
    files = sorted((folder / "variants").glob("*.toml"))
    return [file.read_text(encoding="utf-8") for file in files]


def families() -> dict[str, list[Architecture]]:
    """Return the variants of each family."""
    groups: dict[str, list[Architecture]] = {}
    for architecture in all_variants().values():
        groups.setdefault(architecture.family, []).append(architecture)
    return groups


@cache
def of_family(family: str) -> list[Architecture]:
    """Return the variants of a built-in family, without reading the files of others."""
    if plugins.folders():  # they may have variants of it, too
        return families().get(family, [])
    file = FOLDER / "variants" / f"{family}.toml"
    return [*_variants(file.read_text(encoding="utf-8")).values()]


def find(name: str) -> Architecture:
    """Return a variant by name or alias; `UsageError` suggests the nearest."""
    plain = _plain(name)
    # Most files need not be parsed: they do not contain the name.
    likely = (_variants(text) for text in _texts() if plain in _plain(text))
    variants = {key: one for variants in likely for key, one in variants.items()}
    variant = variants.get(name) or _by_any_name(variants).get(plain)
    if variant is None and plugins.folders():
        variant = _by_any_name(all_variants()).get(plain)
    if variant is None:
        raise _unknown(name)
    return variant


def _by_any_name(variants: Mapping[str, Architecture]) -> dict[str, Architecture]:
    return {_plain(n): a for a in variants.values() for n in (a.name, *a.aliases)}


def _unknown(name: str) -> UsageError:
    """Return the error for a name that no variant has."""
    family = families().get(name)
    if family is not None:
        variants = listed((variant.name for variant in family), 12)
        return UsageError(f"{printable(name)} is a family; its variants are {variants}")
    names = _by_any_name(all_variants())
    hint = list(dict.fromkeys(names[n].name for n in nearest(_plain(name), names, 3)))
    return UsageError(
        f"unknown architecture {printable(name)!r}"
        + (f"; did you mean {listed(hint)}?" if hint else "; see `porter list`")
    )


def _plain(name: str) -> str:
    return name.lower().replace("_", "-")


@cache
def _variants(text: str) -> dict[str, Architecture]:
    """Return the variants of a family's file."""
    body = tomllib.loads(text)
    family = body["family"]
    defaults = body.get("defaults", {})
    variants = {}
    for name, variant in body["variants"].items():
        both = {**defaults, **variant}
        positions = {
            **body.get("positions", {}),
            **defaults.get("positions", {}),
            **variant.get("positions", {}),
        }
        preprocessing, preprocessings = of_variant(
            body["preprocessing"], variant.get("preprocessing", {}), both.get("image_size", 224)
        )
        variants[name] = Architecture(
            name=name,
            family=family,
            title=body["title"],
            paper=body["paper"],
            source=body["source"],
            module=body.get("module", family.replace("-", "_")) if "model" in body else "",
            model=both.get("model", body.get("model", "")),
            config={**defaults.get("config", {}), **variant.get("config", {})},
            image_size=both.get("image_size", 224),
            image_width=both.get("image_width", 0),
            square=both.get("square", body.get("square", False)),
            graph=form_of(body, both.get("any_size", body.get("any_size", False))),
            num_classes=both.get("num_classes", 1000),
            parameters=both["parameters"],
            preprocessing=preprocessing,
            preprocessings=preprocessings,
            preprocessing_source=body["preprocessing"].get("source", body["source"]),
            positions=Positions(**positions) if positions else None,
            further_positions=tuple(
                Positions(**{**positions, **further})
                for further in body.get("further_positions", ())
            ),
            aliases=tuple(both.get("aliases", ())),
            top1=both.get("top1"),
            sibling=both.get("sibling"),
            resizable=both.get("resizable", True),
            free_width=both.get("free_width", False),
            features=body.get("features", {}),
            skeleton_of=both.get("skeleton", ""),
            seeded_scales=body.get("seeded", {}),
            unused=body.get("unused", {}),
            study=both.get("study", False),
        )
    return variants


@cache
def _skeleton(variant: str, framework: str) -> skeletons.Skeleton:
    name = Path("skeletons", f"{variant}.{framework}.txt")
    file = FOLDER / name
    if not file.is_file():
        file = next(f / name for f in plugins.folders() if (f / name).is_file())
    return skeletons.parse(file.read_text(encoding="utf-8"))
