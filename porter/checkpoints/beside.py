"""The files next to a checkpoint: `config.json` and `preprocessor_config.json` of hubs,
`inference.yml` of PaddleX."""

from __future__ import annotations

import json
import os
import re
from typing import Any

from porter.errors import MissingPackage, PorterError, printable
from porter.storage.input_file import read_small
from porter.tensors.state_dict import Origin

CONFIG = "config.json"
PREPROCESSOR = "preprocessor_config.json"
PROGRAM = "inference.yml"
"""What PaddleX writes next to an inference model."""
_LARGEST = 16 << 20
_ENDINGS = "(_(pretrained|trained|train|infer|inference|safetensors|onnx|student|slim))+$"
"""What PaddleX adds to the names of its models."""


def beside(origin: Origin | None, name: str) -> dict[str, Any]:
    """Return the object in the file `name` next to a checkpoint; empty if there is none.

    A file that is no JSON object is left alone: nothing that is read depends on it.
    """
    path = place(origin, name)
    if not path:
        return {}
    try:
        found = json.loads(read_small(path, _LARGEST))
    except (PorterError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def model_name(origin: Origin | None) -> str:
    """Return the name of the model in `inference.yml`, empty where there is none."""
    name = stated_in_program(origin, "Global", "model_name")
    return name if isinstance(name, str) else ""


def class_names(origin: Origin | None) -> list[str]:
    """Return the names of the classes in `inference.yml`: those of a detector or a classifier."""
    for keys in (("label_list",), ("PostProcess", "Topk", "label_list")):
        names = stated_in_program(origin, *keys)
        if isinstance(names, list) and names:
            return [str(name) for name in names]
    return []


def stated_in_program(origin: Origin | None, *keys: str) -> Any:
    """Return what is under keys in `inference.yml`, None where it is not there."""
    path = place(origin, PROGRAM)
    try:
        body = read_yaml(path) if path else None
    except (PorterError, ValueError, RecursionError):
        return None
    for key in keys:
        body = body.get(key) if isinstance(body, dict) else None
    return body


def names_of(origin: Origin | None) -> set[str]:
    """Return the names of a model, in small letters, that its file and its folder may be called.

    `PP-LCNet_x1_0_table_cls_pretrained.pdparams` and `PP-LCNet_x1_0_table_cls_infer/` are both
    `pp-lcnet_x1_0_table_cls`.
    """
    if origin is None or not origin.path:
        return set()
    folder, name = os.path.split(os.path.abspath(origin.path))
    both = (name.partition(".pd")[0], os.path.splitext(name)[0], os.path.basename(folder))
    return {re.sub(_ENDINGS, "", one.lower()) for one in both} - {""}


def read_yaml(path: str) -> Any:
    """Return the values of a YAML file; `ValueError` where it is malformed.

    `MissingPackage` without PyYAML, which only these files need.
    """
    try:
        import yaml
    except ModuleNotFoundError as error:
        raise MissingPackage("it is YAML; run `pip install pyyaml`") from error
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        return yaml.load(read_small(path, _LARGEST), Loader=loader)
    except yaml.YAMLError as fault:
        raise ValueError(printable(fault, 160)) from fault


def place(origin: Origin | None, name: str) -> str:
    """Return the path of the file `name` next to a checkpoint, empty if there is none."""
    if origin is None or not origin.path:
        return ""
    folder = origin.path if os.path.isdir(origin.path) else os.path.dirname(origin.path)
    path = os.path.join(folder, name)
    return path if os.path.isfile(path) else ""
