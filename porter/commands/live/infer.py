"""Propose a table: by running two models, or by the values of two files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from porter.errors import UsageError
from porter.storage.progress import Progress
from porter.tensors.state_dict import StateDict

if TYPE_CHECKING:
    from porter.infer.propose import Inferred

File = str | os.PathLike[str] | StateDict


def infer(
    left: File | None = None,
    right: File | None = None,
    *,
    left_model: str | None = None,
    right_model: str | None = None,
    inputs: str | os.PathLike[str] | None = None,
    left_framework: str | None = None,
    right_framework: str | None = None,
    dialect: str | None = None,
    family: str | None = None,
    key: str | None = None,
    python: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> Inferred:
    """Propose a table whose canonical names are the left's, and `dialect` the right's.

    With two models, references as in `porter.frameworks.references`, both are run on `inputs`
    (an `.npz` file; None: pictures) and equal outputs prove the rows; checkpoints of both are then
    not needed, but where they have the same weights their values are used, too. With two files
    only, equal values prove the rows. `python`: interpreters of other environments by
    framework. Raises `UsageError` where neither is given, `InputError` where a model cannot be
    built or run.
    """
    if left_model is None and right_model is None:
        if left is None or right is None:
            raise UsageError("name two files, or two models by --left-model and --right-model")
        if inputs is not None:
            raise UsageError("--inputs are for models: name both by --left-model, --right-model")
        from porter.infer.propose import infer as by_values

        return by_values(
            left, right, left_framework=left_framework, right_framework=right_framework,
            dialect=dialect, family=family, key=key, progress=progress,
        )  # fmt: skip
    if left_model is None or right_model is None:
        raise UsageError("--left-model and --right-model are needed both")
    if (left is None) is not (right is None):
        raise UsageError("name both files, or none: models are enough")
    from porter.frameworks.live.cases import read_inputs
    from porter.frameworks.references import parse, with_framework
    from porter.infer.models import infer_models
    from porter.infer.propose import opened

    references = (
        with_framework(parse(text, framework or ""), python)
        for text, framework in ((left_model, left_framework), (right_model, right_framework))
    )
    files = None
    if left is not None and right is not None:
        files = (opened(left, key, progress), opened(right, key, progress))
    return infer_models(
        *references, inputs=None if inputs is None else read_inputs(inputs), dialect=dialect,
        family=family, python=python, progress=progress, files=files,
    )  # fmt: skip
