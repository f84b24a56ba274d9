"""Models of other packages by name, freshly initialised; each function runs in a child process.

No weights are downloaded. How to add one: `porter.frameworks.references`.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from porter.errors import InputError, MissingPackage, nearest, printable


def _package(name: str, distribution: str = "") -> ModuleType:
    """Import a provider's package; `MissingPackage` says how to install it."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise MissingPackage(
            f"this needs {name}, which cannot be imported ({error.name} is missing);"
            f" run `pip install {distribution or name}`"
        ) from error


def timm(name: str, **options: Any) -> Any:
    """Return timm's model of a name."""
    return _package("timm").create_model(name, **{"pretrained": False, **options})


def torchvision(name: str, **options: Any) -> Any:
    """Return torchvision's model of a name."""
    models = _package("torchvision.models", "torchvision")
    return models.get_model(name, **{"weights": None, **options})


def transformers(config: str, **options: Any) -> Any:
    """Return the model of a `config.json`, or of the folder that has one.

    Its class is the first of `architectures` in the file, or `architecture=NAME`; without either,
    the plain model. Other options replace values of the configuration.
    """
    package = _package("transformers")
    path = Path(config)
    if path.is_dir():
        path = path / "config.json"
    if not path.is_file():
        raise InputError("is not a config.json of transformers", config)
    wanted = options.pop("architecture", None)
    settings = package.AutoConfig.from_pretrained(str(path), local_files_only=True)
    for key, value in options.items():
        setattr(settings, key, value)
    name = wanted or next(iter(settings.architectures or ()), None)
    if name is None:
        return package.AutoModel.from_config(settings)
    return _named(package, str(name), "transformers")(settings)


def paddle_vision(name: str, **options: Any) -> Any:
    """Return the model of a function of `paddle.vision.models`."""
    models = _package("paddle.vision.models", "paddlepaddle")
    return _named(models, name, "paddle.vision.models")(**options)


def paddleclas(name: str, **options: Any) -> Any:
    """Return PaddleClas's backbone of a name.

    Its packages above the backbones are not run: they import what training and serving need.
    """
    spec = importlib.util.find_spec("paddleclas")
    if spec is None or not spec.submodule_search_locations:
        raise MissingPackage("this needs paddleclas; run `pip install --no-deps paddleclas`")
    folder = Path(spec.submodule_search_locations[0]) / "ppcls"
    for path in (folder, folder / "arch", folder / "utils"):
        package = ".".join(path.relative_to(folder.parent).parts)
        if package not in sys.modules:
            module = ModuleType(package)
            module.__path__ = [str(path)]
            sys.modules[package] = module
    logger = importlib.import_module("ppcls.utils.logger")
    sys.modules["ppcls.utils"].logger = logger  # type: ignore[attr-defined]
    logger.init_logger()
    return _named(_package("ppcls.arch.backbone", "paddleclas"), name, "PaddleClas")(**options)


def _named(module: ModuleType, name: str, place: str) -> Any:
    found = None if name.startswith("_") else getattr(module, name, None)
    if found is None:
        near = nearest(name, [n for n in dir(module) if not n.startswith("_")])
        hint = f"; did you mean {near[0]}?" if near else ""
        raise InputError(f"{place} has no model {printable(name)!r}{hint}")
    return found
