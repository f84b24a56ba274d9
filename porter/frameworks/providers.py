"""Models of other packages by name, freshly initialised; each function runs in a child process.

No weights are downloaded. How to add one: `porter.frameworks.references`.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from porter.errors import InputError, MissingPackage, nearest, printable


def package(name: str, distribution: str = "") -> ModuleType:
    """Import a module of a provider's package; `MissingPackage` says how to install it."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        wanted = [distribution or name]
        missing = str(error.name).partition(".")[0]
        if missing != name.partition(".")[0]:
            wanted.append(missing)
        raise MissingPackage(
            f"this needs {name}, which cannot be imported ({error.name} is missing);"
            f" run `pip install {' '.join(wanted)}`"
        ) from error


def timm(name: str, **options: Any) -> Any:
    """Return timm's model of a name."""
    return package("timm").create_model(name, **{"pretrained": False, **options})


def torchvision(name: str, **options: Any) -> Any:
    """Return torchvision's model of a name."""
    models = package("torchvision.models", "torchvision")
    return models.get_model(name, **{"weights": None, **options})


def paddle_vision(name: str, **options: Any) -> Any:
    """Return the model of a function of `paddle.vision.models`."""
    models = package("paddle.vision.models", "paddlepaddle")
    return named(models, name, "paddle.vision.models")(**options)


def ppim(name: str, **options: Any) -> Any:
    """Return the model of a function of Paddle Image Models."""
    return named(package("ppim.models", "--no-deps ppim"), name, "ppim.models")(**options)


def paddleclas(name: str, **options: Any) -> Any:
    """Return PaddleClas's backbone of a name.

    Its packages above the backbones are not run: they import what training and serving need.
    """
    spec = importlib.util.find_spec("paddleclas")
    if spec is None or not spec.submodule_search_locations:
        raise MissingPackage("this needs paddleclas; run `pip install --no-deps paddleclas`")
    folder = Path(spec.submodule_search_locations[0])
    bare(folder, ("ppcls", "ppcls.arch", "ppcls.utils"))
    logger = importlib.import_module("ppcls.utils.logger")
    sys.modules["ppcls.utils"].logger = logger  # type: ignore[attr-defined]
    logger.init_logger()
    return named(package("ppcls.arch.backbone", "paddleclas"), name, "PaddleClas")(**options)


def bare(folder: Path, names: Iterable[str]) -> None:
    """Let packages in a folder, by their dotted names, be imported without running their code."""
    for name in names:
        if name not in sys.modules:
            module = ModuleType(name)
            module.__path__ = [str(folder.joinpath(*name.split(".")))]
            sys.modules[name] = module


def named(module: ModuleType, name: str, place: str) -> Any:
    """Return the member of a name; `InputError` with the nearest one where there is none."""
    found = None if name.startswith("_") else getattr(module, name, None)
    if found is None:
        near = nearest(name, [n for n in dir(module) if not n.startswith("_")])
        hint = f"; did you mean {near[0]}?" if near else ""
        raise InputError(f"{place} has no model {printable(name)!r}{hint}")
    return found
