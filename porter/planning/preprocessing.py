"""The preprocessing of one checkpoint, and why: the user's, its own, or that of its dialect."""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Mapping
from typing import Any, NamedTuple

from porter.checkpoints.beside import CONFIG, PREPROCESSOR, beside, class_names
from porter.errors import InputError, UsageError, listed
from porter.storage.input_file import read_small
from porter.tensors.state_dict import Origin
from porter.zoo.architectures import Architecture
from porter.zoo.image_size import Size, sides_of
from porter.zoo.preprocessing import Preprocessing, understood

_LARGEST = 1 << 20
_UNNAMED = re.compile("LABEL_[0-9]+")
"""What transformers writes where classes have no names."""
KEY = "porter.preprocessing"
"""Key of the metadata of an ONNX file."""


GIVEN = ("mean", "std", "crop", "interpolation", "channels")
"""Fields that a user may state one by one."""


class Chosen(NamedTuple):
    """A preprocessing and where it is from."""

    how: Preprocessing
    why: str


def chosen(
    architecture: Architecture,
    dialect: str,
    origin: Origin | None,
    size: Size,
    *,
    file: str | os.PathLike[str] | None = None,
    given: Mapping[str, Any] | None = None,
) -> Chosen:
    """Return the preprocessing of a checkpoint for inputs of `size` pixels.

    The first that there is: `file` of the user, metadata of the checkpoint,
    `preprocessor_config.json` or `config.json` next to it, arguments of its training (timm's and
    DeiT's), that of the dialect or alias, the canonical one. `given`
    are fields of the user's that replace those. Raises `InputError` or `UsageError`.
    """
    found, side = _of_dialect(architecture, dialect), sides_of(size)[0]
    if file is not None:
        found = Chosen(found.how.changed(read(file, side)), f"{os.path.basename(file)}, given")
    else:
        for why, body in _stated(origin, side):
            if body:
                try:
                    found = Chosen(found.how.changed(body), why)
                except UsageError:  # What is next to a checkpoint is not the user's to mend.
                    continue
                break
    given = {key: value for key, value in (given or {}).items() if value is not None}
    if given:
        names = listed(f"--{name}" for name in given)
        found = Chosen(found.how.changed(given), f"{names}, given; else {found.why}")
    return found


def read(file: str | os.PathLike[str], size: int) -> dict[str, Any]:
    """Return the fields that a JSON or TOML file states; `InputError` if it states none."""
    body = _object(read_small(file, _LARGEST), os.fspath(file).endswith(".toml"))
    if body is None:
        raise InputError("is not an object in JSON or TOML", file)
    found = understood(body, size)
    if not found:
        raise InputError(
            "states no preprocessing: mean, std, interpolation, crop, squash and channels, or the"
            " fields of preprocessor_config.json are expected", file,
        )  # fmt: skip
    return found


def labels_of(origin: Origin | None) -> list[str]:
    """Return the names of the classes that files next to a checkpoint state, if any does.

    They are in `config.json` of a hub, or in PaddleX's `inference.yml`.
    """
    labels = beside(origin, CONFIG).get("id2label")
    if not isinstance(labels, dict):
        return class_names(origin)
    names = [labels.get(str(number)) for number in range(len(labels))]
    known = [name for name in names if isinstance(name, str) and not _UNNAMED.fullmatch(name)]
    return known if len(known) == len(names) else []


def _of_dialect(architecture: Architecture, dialect: str) -> Chosen:
    """Return that of a dialect or alias: `hf-v5` and `torchvision-v1` are as what is before `-`."""
    known = architecture.preprocessings
    for name in (dialect, dialect.rpartition("-")[0]):
        if name in known:
            return Chosen(known[name], f"that of {name}")
    return Chosen(architecture.preprocessing, f"that of {architecture.preprocessing_source}")


def _stated(origin: Origin | None, size: int) -> list[tuple[str, dict[str, Any]]]:
    """Return what the checkpoint and the files next to it state."""
    if origin is None:
        return []
    rows = [(f"{name} of the checkpoint", understood(beside(origin, name), size))
            for name in (PREPROCESSOR, CONFIG)]  # fmt: skip
    own = _object(origin.metadata.get(KEY, "{}").encode(), False) or {}
    arguments = ("the arguments in the checkpoint", understood(origin.pictures, size))
    return [("metadata of the file", understood(own, size)), *rows, arguments]


def _object(text: bytes, toml: bool) -> dict[str, Any] | None:
    """Return the object of a JSON or TOML text, None if it is none."""
    try:
        body = tomllib.loads(text.decode()) if toml else json.loads(text)
    except (ValueError, RecursionError):
        return None
    return body if isinstance(body, dict) else None
