"""`config.json` of the models that transformers publishes and porter has no reference model for.

The files are those of the published folders, one a variant: `reference_models/configs/`.
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
