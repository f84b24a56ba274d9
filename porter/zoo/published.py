"""`config.json` of PaddleOCR's models in transformers, and how their pictures are prepared.

The configurations are those of the published folders, one a variant: `reference_models/configs/`;
`preprocessors.json` has what transformers' image processors are told, of every variant. Means and
deviations are in the order of the processor's channels: blue first for text and PP-LCNet.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from porter.reference_models import FOLDER
from porter.zoo.architectures import Architecture

_COUNT = "head_out_channels"
"""The key of a recogniser's number of characters; other models count their labels."""


def published_path(architecture: Architecture) -> Path | None:
    """Return the file of a variant's configuration, None where there is none."""
    path = FOLDER / "configs" / f"{architecture.name}.json"
    return path if path.is_file() else None


def reads_text(architecture: Architecture) -> bool:
    """Whether the classes of a variant are the characters of a line of text."""
    path = published_path(architecture)
    return path is not None and _COUNT in json.loads(path.read_text(encoding="utf-8"))


def finds_text(architecture: Architecture) -> bool:
    """Whether a variant gives a map of where text is."""
    path = published_path(architecture)
    config = json.loads(path.read_text(encoding="utf-8")) if path is not None else {}
    return str(config.get("model_type", "")).endswith("_det")


def published_labels(architecture: Architecture, classes: int) -> list[str]:
    """Return the names of the classes of the published weights; empty for another number."""
    found = (published_config(architecture) or {}).get("id2label", {})
    names = [str(found.get(str(number), "")) for number in range(len(found))]
    is_named = len(names) == classes and not any(name.startswith("LABEL_") for name in names)
    return names if is_named else []


def published_config(
    architecture: Architecture, num_classes: int | None = None
) -> dict[str, Any] | None:
    """Return the configuration for a number of classes; None for a variant that has no file.

    Labels of another number of classes than the variant's are numbered.
    """
    path = published_path(architecture)
    if path is None:
        return None
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    classes = architecture.num_classes if num_classes is None else num_classes
    if _COUNT in config:
        config[_COUNT] = classes
    elif architecture.num_classes and len(config.get("id2label", ())) != classes:
        config["id2label"] = {str(number): f"LABEL_{number}" for number in range(classes)}
    if "id2label" in config:
        config["label2id"] = {label: int(number) for number, label in config["id2label"].items()}
    return config


def published_processor(architecture: Architecture) -> dict[str, dict[str, Any]]:
    """Return {file name: content} of a variant's preprocessing; empty where none is published.

    PP-FormulaNet's processor has a tokenizer, too, and another file than the others. The
    characters of a recogniser are not in it: they belong to the dictionary it was trained with.
    """
    path = FOLDER / "configs" / "preprocessors.json"
    content = json.loads(path.read_text(encoding="utf-8")).get(architecture.name)
    if content is None:
        return {}
    is_nested = "image_processor" in content
    return {"processor_config.json" if is_nested else "preprocessor_config.json": content}
