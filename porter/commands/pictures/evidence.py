"""The evidence for a port of several variants: verdicts, and accuracy on pictures."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from porter.commands.pictures.evaluate import evaluate
from porter.commands.verify import verify
from porter.errors import UsageError, listed
from porter.frameworks.process import Pool
from porter.storage.progress import Progress
from porter.verification.accuracy.evidence import Evidence, Row
from porter.verification.tolerance import PRESETS
from porter.zoo.architectures import find

PLACE = "{arch}"
_SHARED = ("num_classes", "image_size", "device", "python", "timeout", "behaviour")
"""Options of `verify` that the evaluation has, too."""


def evidence(
    architectures: Sequence[str],
    left: str,
    right: str,
    data: str | os.PathLike[str] | None = None,
    *,
    most: int | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Evidence:
    """Verify variants, and measure both sides of each on labelled pictures.

    `{arch}` in `left` and `right` is replaced by the variant's name; `data` and `most` are those
    of `porter.evaluate`, `options` those of `porter.verify`. Raises as these do.
    """
    names = [find(name).name for name in architectures]
    for path in (left, right) if len(names) > 1 else ():
        if PLACE not in path:
            raise UsageError(f"does not name the variant: write {PLACE} for {listed(names)}", path)
    rows = []
    with Pool() as pool:
        for name in names:
            files = [path.replace(PLACE, name) for path in (left, right)]
            verdict = verify(name, *files, pool=pool, progress=progress, **options)
            made = None
            if data is not None:
                made = evaluate(
                    name, files, data, most=most, pool=pool, progress=progress,
                    dialects=[options.get("left_dialect"), options.get("right_dialect")],
                    keys=[options.get("left_key"), options.get("right_key")],
                    **{key: options[key] for key in _SHARED if key in options},
                )  # fmt: skip
            rows.append(Row(verdict, made))
    asked = PRESETS[options.get("preset", "default")].asked
    return Evidence(tuple(rows), asked, options.get("precision", "float32"))
