"""Accuracy of checkpoints on labelled pictures, side by side."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Unpack

from porter.commands.options import checked_options
from porter.errors import UsageError
from porter.frameworks.process import Pool
from porter.storage.progress import Progress
from porter.verification.accuracy.labelled import labelled
from porter.verification.accuracy.measure import Evaluation, Runner, measure
from porter.verification.options import RunOptions, Runs
from porter.verification.sides import open as sides
from porter.verification.sides.prepare import Checkpoint
from porter.verification.sides.processes import started
from porter.verification.sides.side import Can
from porter.verification.stamp import Clock
from porter.verification.steps import Steps
from porter.zoo.architectures import Architecture, find

BATCH = 32


@checked_options(RunOptions)
def evaluate(
    architecture: str | Architecture,
    checkpoints: Sequence[Checkpoint],
    data: str | os.PathLike[str],
    *,
    dialects: Sequence[str | None] = (),
    keys: Sequence[str | None] = (),
    batch_size: int = BATCH,
    most: int | None = None,
    pool: Pool | None = None,
    progress: Progress | None = None,
    **options: Unpack[RunOptions],
) -> Evaluation:
    """Measure top-1 and top-5 of checkpoints on labelled pictures, each in a separate process.

    Parameters:
        architecture: Name of the variant that all checkpoints are of.
        checkpoints: Checkpoints, ONNX models or state dicts.
        data: Folder with a folder of pictures for each class, in alphabetical order or named by
            the numbers of the classes, or a file of lines `PATH CLASS`.
        dialects: Namings of the checkpoints, in order; None to recognise one.
        keys: Names of state dicts to take from the checkpoints, in order.
        batch_size: Pictures that are run at a time.
        most: Take so many pictures only, evenly spaced.
        pool: Processes to use and keep; None to start them for this call only.
        progress: Called as `progress(step, 0, 0)` when a batch begins.
        options: `num_classes`, `image_size`, `device`, `python`, `timeout` and `behaviour` of
            `porter.verify`.

    Each checkpoint sees the pictures by its own preprocessing: that of its dialect, or what the
    files next to it state.

    Returns an `Evaluation`: top-1, top-5 and pictures of each checkpoint.
    Raises `InputError`, `MappingError` or `UsageError` for files that do not fit, and
    `MissingPackage` where a framework or pillow is not installed.
    """
    variant = find(architecture) if isinstance(architecture, str) else architecture
    runs, steps, clock = Runs.of(options), Steps(progress), Clock()
    if not checkpoints:
        raise UsageError("no checkpoint was given")
    if batch_size < 1 or (most is not None and most < 1):
        raise UsageError("batch_size and most are positive numbers")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="porter-")))
        steps.begin("reading the checkpoints")
        both = zip(checkpoints, _each(dialects, checkpoints), _each(keys, checkpoints), strict=True)
        opened = [
            sides.opened(variant, given, folder / f"side-{index}", dialect, key, None, runs)
            for index, (given, dialect, key) in enumerate(both)
        ]
        for side in opened:
            if Can.RUN not in side.can:
                raise UsageError("cannot be run on pictures: it is a trace", side.report.file)
        classes = min(side.num_classes for side in opened)
        pictures = labelled(data, classes, most)
        stack.enter_context(started(opened, folder, runs, pool, steps))
        runners = [
            Runner(side, sides.preprocessing_of(variant, side), variant.sides(side.image_size), [])
            for side in opened
        ]
        rows = measure(runners, pictures, batch_size, folder, steps)
    image_size = opened[0].image_size
    made = Evaluation(variant.name, os.fspath(data), len(pictures), image_size, variant.top1, rows)
    return replace(made, date=clock.date, seconds=clock.seconds)


def _each(given: Sequence[str | None], checkpoints: Sequence[Checkpoint]) -> Sequence[str | None]:
    """Return one value for each checkpoint: all the same one, one each, or none."""
    if len(given) not in (0, 1, len(checkpoints)):
        raise UsageError(f"{len(given)} dialects or keys for {len(checkpoints)} checkpoints")
    return [*(given or [None])] * (len(checkpoints) if len(given) < 2 else 1)
