"""Build the model that a reference names; runs in the child process of its framework."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from porter.errors import InputError, MissingPackage, printable


def build(
    text: str, place: str, name: str, options: Mapping[str, Any], build: str | None = None
) -> Any:
    """Return the model of `Reference.request`.

    `InputError` where the code fails, `MissingPackage` where a provider's package is missing.
    """
    try:
        if build is not None:
            module, _, function = build.partition(":")
            return getattr(importlib.import_module(module), function)(name, **options)
        return member(place, name)(**options)
    except (InputError, MissingPackage):
        raise
    except Exception as error:
        raise InputError(
            f"the model cannot be built: {type(error).__name__}: {printable(error, 200)}", text
        ) from error


def member(place: str, name: str) -> Any:
    """Import a file or a module and return what `name` is in it, parts separated by dots."""
    found: Any = _file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    for part in name.split("."):
        found = getattr(found, part)
    return found


def _file(path: Path) -> ModuleType:
    """Import a file under its dotted name where it is part of a package, else by its path.

    Its folder is searched last, so that no file in it replaces an installed module.
    """
    root, names = path.parent, [path.stem]
    while (root / "__init__.py").is_file():
        names.insert(0, root.name)
        root = root.parent
    if str(root) not in sys.path:
        sys.path.append(str(root))
    if len(names) > 1:
        module = importlib.import_module(".".join(names))
        if module.__file__ is not None and Path(module.__file__).resolve() == path.resolve():
            return module
    spec = importlib.util.spec_from_file_location(f"porter_model_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
