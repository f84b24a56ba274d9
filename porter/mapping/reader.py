"""Read mapping tables: TOML in, checked values out.

Loading checks everything that can be checked without a variant.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import xxhash

from porter.errors import PorterError, TableError, listed, printable
from porter.mapping import gallery, schema
from porter.mapping.dialects import Dialects, no_overlap
from porter.mapping.pattern import Pattern
from porter.mapping.table import BARE, Layer, Table
from porter.mappings import FOLDER
from porter.storage.input_file import read_small

GROUP = "porter.tables"
_LARGEST = 4 << 20
"""Bytes of a table; the largest that porter has are a few thousand."""


def parse(text: str, source: str) -> Table:
    """Read a table from its text; a `TableError` begins with `source`."""
    return _checked(text.encode(), source)


def load(path: Path) -> Table:
    """Read a custom table; a `TableError` begins with its path.

    A name without a folder that is not a file here is looked for among the tables that other
    packages bring: entry points of the group `porter.tables`, whose values are folders. A pair of
    the gallery (`gallery/resnet50`) is its table, with the models of the pair.
    """
    if gallery.is_entry(path.as_posix()):
        data, models = gallery.find(path.as_posix())
        return _checked(data, path.as_posix())._replace(models=models)
    path = path if path.parent != Path() or path.exists() else _installed(path)
    try:
        data = read_small(path, _LARGEST)
    except PorterError as error:
        raise TableError(f"cannot be read: {error.message}", path) from error
    return _checked(data, str(path))


def _installed(name: Path) -> Path:
    """Return the file of this name that a package brings, the name itself where none does."""
    from importlib.metadata import entry_points  # Loads a parser of mail.

    for entry in entry_points(group=GROUP):
        folder = entry.load()
        if not isinstance(folder, str | Path):
            raise TableError(
                f"the entry point {printable(entry.name)!r} of {GROUP} is not a folder"
            )
        if (Path(folder) / name).is_file():
            return Path(folder) / name
    return name


@cache
def builtin(family: str) -> Table:
    """Read the table that porter ships for a family, or another package brings.

    porter's own tables are checked by its tests, not each time. `TableError` is raised for unknown
    families.
    """
    known = [file.stem for file in sorted(FOLDER.glob("*.toml")) if file.stem != "conventions"]
    if family not in known:
        name = Path(f"{family}.toml")
        if (brought := _installed(name)) != name:
            return load(brought)
        raise TableError(f"unknown family {printable(family)!r}; porter has {listed(known, 20)}")
    data = (FOLDER / f"{family}.toml").read_bytes()
    return _checked(data, f"mappings/{family}.toml", shipped=True)


def _checked(data: bytes, source: str, shipped: bool = False) -> Table:
    """Parse and check a table; every error carries the table's file."""
    try:
        return _table(data, source, shipped)
    except TableError as error:
        raise TableError(error.message, source) from error


def _table(data: bytes, source: str, shipped: bool) -> Table:
    try:
        body = tomllib.loads(data.decode())
    except RecursionError as error:
        raise TableError("not a table: its arrays are nested too deeply") from error
    except ValueError as error:  # Of TOML, of UTF-8, or of a number of thousands of digits.
        raise TableError(f"not TOML: {printable(error)}") from error
    if not shipped:
        _refuse_old_spellings(body)
        schema.check(body)
    rows = {section: body.get(section, {}) for section in ("tensors", "layers")}
    layers = [_layer(section, *row) for section, body in rows.items() for row in body.items()]
    if not shipped:
        no_overlap([layer.path for layer in layers], "[tensors] and [layers]")
    reading = Dialects(body.get("dialects", {}), layers, builtin, shipped)
    dialects, aliases = reading.all()
    if unknown := [name for name in body.get("models", {}) if name not in dialects]:
        raise TableError(
            f"[models] {listed(unknown)}: this table has the dialects {listed(dialects, 20)}"
        )
    digest = xxhash.xxh3_128(data)
    for family in sorted(reading.families):
        digest.update(reading.families[family].digest.encode())
    return Table(
        body.get("family") or Path(source).stem, tuple(layers), dialects, aliases,
        body.get("constants", ""), digest.hexdigest(), source,
        body.get("models", {}), body.get("unproven", {}),
    )  # fmt: skip


def _layer(section: str, path: str, kind: str) -> Layer:
    pattern = Pattern(path)
    if any(one.moves and not one.words for one in pattern.placeholders.values()):
        raise TableError(
            f"[{section}] {path!r}: only a dialect's side may move a number ({{i+1}}), or a name"
            " that lists its numbers ({3i+1:0,1})"
        )
    return Layer(pattern, kind)


def _refuse_old_spellings(body: Mapping[str, Any]) -> None:
    """Raise `TableError` with the new spelling of what a table of porter 0.1.0 may have."""
    layers = body.get("layers")
    if isinstance(layers, dict):
        bare = [repr(name) for name, kind in layers.items() if kind in BARE]
        if bare:
            raise TableError(f"[layers] lists bare tensors: move {listed(bare)} to [tensors]")
    dialects = body.get("dialects")
    for name, entry in dialects.items() if isinstance(dialects, dict) else ():
        if isinstance(entry, dict) and {"requires", "otherwise"} & set(entry):
            raise TableError(
                f"[dialects.{name}] `requires` and `otherwise` are written as a case: the rows of"
                f" `otherwise` in [dialects.{name}], the others in [[dialects.{name}.cases]] with"
                f" `when = {_quoted(entry.get('requires', 'TENSOR'))}`"
            )


def _quoted(value: object) -> str:
    return '"' + printable(value) + '"'
