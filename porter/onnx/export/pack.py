"""Templates made beforehand: into the user's cache, or into a folder to take elsewhere."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from porter.errors import SystemFault
from porter.onnx.export.template import OPSET, template
from porter.zoo.architectures import Architecture


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
    image_size: int | None = None,
    opset: int = OPSET,
) -> Iterator[Packed]:
    """Yield the template of each variant, traced where there was none.

    With `folder` it is put there too; brought to `porter.onnx.export.template.folder()` of another
    machine it is used without torch. `image_size` is in pixels. Raises as `template` does.
    """
    for architecture in architectures:
        path = Path(template(architecture, image_size=image_size, opset=opset).path)
        if folder is not None:
            path = _copied(path, Path(folder))
        yield Packed(architecture.name, os.fspath(path), path.stat().st_size)


def _copied(path: Path, folder: Path) -> Path:
    target = folder / path.name
    part = folder / f".{path.name}.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, part)
        os.replace(part, target)
    except OSError as error:
        raise SystemFault(f"cannot be written: {error.strerror}", target) from error
    finally:
        part.unlink(missing_ok=True)
    return target
