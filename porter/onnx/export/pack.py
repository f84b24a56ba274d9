"""Templates made beforehand: into the user's cache, or into a folder to take elsewhere."""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from porter.errors import SystemFault
from porter.onnx.export.stamped import packed
from porter.onnx.export.template import template
from porter.storage.outputs import publish_content
from porter.zoo.architectures import Architecture
from porter.zoo.image_size import Size


@dataclass(frozen=True, slots=True)
class Packed:
    """A template that is there now."""

    architecture: str
    path: str
    nbytes: int


def pack(
    architectures: Iterable[Architecture],
    folder: str | os.PathLike[str] | None = None,
    *,
    image_size: Size | None = None,
    free: bool = False,
    force: bool = False,
) -> Iterator[Packed]:
    """Yield the template of each variant, traced where there was none.

    With `folder` it is put there too; brought to `porter.onnx.export.template.folder()` of another
    machine it is used without torch. Another file there is replaced with `force`
    only. `image_size` is in pixels; a `free` template takes any. Raises as `template` does.
    """
    for architecture in architectures:
        path = Path(template(architecture, image_size=image_size, free=free).path)
        if folder is not None:
            path = _copied(path, Path(folder), force)
        yield Packed(architecture.name, os.fspath(path), path.stat().st_size)


def _copied(path: Path, folder: Path, force: bool) -> Path:
    """Copy a template; one that is there already is left as it is, another file is replaced
    with `force` only."""
    target, content = folder / path.name, packed(gzip.decompress(path.read_bytes()))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SystemFault(f"cannot be made: {error.strerror}", folder) from error
    if not (target.is_file() and target.read_bytes() == content):
        publish_content(target, content, force=force)
    return target
