"""What a model sees in pictures: the best classes of each, with the model's own preprocessing.

Of a recogniser it is the text of each, of a detector the boxes.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from porter.checkpoints.characters import characters_of, read_characters
from porter.checkpoints.read import detect
from porter.commands import recognised
from porter.commands.options import checked_options
from porter.commands.pictures.boxes import Box, objects, regions
from porter.commands.pictures.run import Run, main_of
from porter.commands.pictures.run import checkpoint as run_checkpoint
from porter.commands.pictures.run import graph as run_graph
from porter.commands.pictures.sequences import STRUCTURE, formula, table, tokenizer_of
from porter.commands.pictures.text import Text
from porter.commands.pictures.text import read as read_text
from porter.errors import UsageError, printable
from porter.onnx.export import metadata as notes
from porter.planning.preprocessing import GIVEN
from porter.remote import fetch
from porter.tensors.blocks import Array
from porter.verification.inputs import SUFFIXES, sides_of_picture
from porter.verification.options import Runs
from porter.verification.sides.pair import softmax
from porter.zoo.image_size import Size
from porter.zoo.preprocessing import Preprocessing

_MAP = 4
_LINES = 3
"""Axes of what a recogniser gives: (1, positions, classes)."""


class Guess(NamedTuple):
    """One class of a picture."""

    number: int
    label: str
    probability: float


@dataclass(frozen=True, slots=True)
class Predictions:
    """The best classes of each picture, and how the pictures were prepared."""

    model: str
    architecture: str
    """Empty for an ONNX file, which is run as it is."""
    preprocessing: Preprocessing
    why: str
    size: Size
    pictures: Mapping[str, tuple[Guess, ...]]
    texts: Mapping[str, Text] = field(default_factory=dict)
    """What a recogniser reads, instead of classes: a line, a formula, the HTML of a table."""
    boxes: Mapping[str, tuple[Box, ...]] = field(default_factory=dict)
    """What a detector finds, instead of classes."""
    outputs: Mapping[str, tuple[Output, ...]] = field(default_factory=dict)
    """What a model gives that is none of these."""


class Output(NamedTuple):
    """An output of a model as it is."""

    name: str
    shape: tuple[int, ...]
    least: float
    largest: float


@checked_options()
def predict(
    model: str | os.PathLike[str],
    pictures: Sequence[str | os.PathLike[str]],
    *,
    architecture: str | None = None,
    from_: str | None = None,
    key: str | None = None,
    top: int = 5,
    labels: str | None = None,
    image_size: Size | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    crop: float | None = None,
    interpolation: str | None = None,
    channels: str | None = None,
    preprocessing: str | None = None,
    behaviour: str = "canonical",
    device: str = "auto",
    python: Mapping[str, str] | None = None,
    timeout: float | None = None,
) -> Predictions:
    """Run a checkpoint or an ONNX file on pictures and name the best classes of each.

    Parameters:
        model: Path or address of a checkpoint or an ONNX model.
        pictures: Files or folders of pictures.
        architecture: Name of the checkpoint's variant; None to recognise it.
        from_: Format and naming of the checkpoint; None to recognise them.
        key: Name of one of several state dicts in the checkpoint.
        top: Number of classes to name.
        labels: File with the names of the classes, or the characters of a recogniser; None for
            those in the model's metadata or in files next to it.
        image_size: Pixels, or height and width; None for the model's own.
        mean: Mean of values in [0, 1], by channel, instead of the model's own.
        std: Deviation, likewise.
        crop: Side of the central crop over the side that a picture is resized to, likewise.
        interpolation: How a picture is resized, likewise.
        channels: "RGB", "BGR" or "GREY", how the model takes the colours, likewise.
        preprocessing: JSON or TOML file that states the preprocessing.
        behaviour: "dialect" to run a checkpoint as its dialect's code computes.
        device: "auto", "cpu" or "cuda[:n]".
        python: {framework: interpreter of another environment that has it and porter}.
        timeout: Seconds that an ONNX file may take to load, and to run.

    Returns `Predictions`: the best classes of each picture and how it was prepared.
    Raises `InputError`, `MappingError`, `UsageError` or `MissingPackage`.
    """
    if top < 1:
        raise UsageError(f"the best {top} of the classes: a number above 0 is expected")
    given = dict(zip(GIVEN, (mean, std, crop, interpolation, channels), strict=True))
    files = _files(pictures)
    local = fetch.local(model)
    with fetch.named(local):
        is_graph = detect(local.path) == "onnx"
    runs = Runs(
        image_size=image_size, device=device, python=python, timeout=timeout, behaviour=behaviour
    )
    with tempfile.TemporaryDirectory(prefix="porter-") as name:
        folder = Path(name)
        if is_graph:
            run = run_graph(local.path, files, folder, runs, preprocessing, given)
        else:
            wanted = recognised.source(architecture, model, from_, key, None)
            run = run_checkpoint(model, wanted, key, files, folder, runs, preprocessing, given)
    how, why = run.chosen
    result = Predictions(local.shown, run.architecture, how, why, run.size, {})
    return replace(result, **_read(run, labels, top))


def _read(run: Run, labels: str | None, top: int) -> dict[str, Any]:
    """Return what the outputs mean, as fields of `Predictions`."""
    first = next(iter(run.found.values()))
    axes = {name: array.ndim for name, array in first.items()}
    if {"logits", "pred_boxes"} <= axes.keys():
        count = first["logits"].shape[-1]
        names = notes.read_labels(labels, count) if labels is not None else run.labels
        return {"boxes": {file: objects(outputs, names, sides_of_picture(file))
                          for file, outputs in run.found.items()}}  # fmt: skip
    if {"fetch_name_0", "scores"} == axes.keys():
        tokenizer = tokenizer_of(run.origin, labels)
        return {"texts": {file: formula(row, tokenizer) for file, row in run.found.items()}}
    main = {file: outputs[main_of(outputs)] for file, outputs in run.found.items()}
    shape = next(iter(main.values())).shape
    if len(shape) == _LINES and shape[-1] == len(STRUCTURE) and "structure_probs" in axes:
        return {"texts": {file: table(row[0]) for file, row in main.items()}}
    if len(shape) == _LINES:
        characters = run.labels
        if labels is not None:
            characters = read_characters(labels, shape[-1]).characters
        elif len(characters) != shape[-1]:
            why = characters_of(run.origin, shape[-1]).why
            reason = f" ({why})" if why else ""
            path = None if run.origin is None else run.origin.shown
            raise UsageError(
                f"no dictionary is known{reason}: pass --labels FILE, one character a line", path
            )
        return {"texts": {file: read_text(row[0], characters) for file, row in main.items()}}
    if len(shape) == _MAP and shape[1] == 1:
        return {"boxes": {file: regions(row[0, 0], sides_of_picture(file))
                          for file, row in main.items()}}  # fmt: skip
    if len(shape) != 2:
        return {"outputs": {file: _described(outputs) for file, outputs in run.found.items()}}
    names = notes.read_labels(labels, shape[-1]) if labels is not None else run.labels
    rows = {file: row if run.are_probabilities else softmax(row) for file, row in main.items()}
    return {"pictures": {file: _best(row[0], names, top) for file, row in rows.items()}}


def _described(outputs: Mapping[str, Array]) -> tuple[Output, ...]:
    return tuple(
        Output(name, array.shape, float(array.min()), float(array.max()))
        for name, array in outputs.items()
    )


def _files(given: Sequence[str | os.PathLike[str]]) -> list[str]:
    """Return the pictures that files and folders name."""
    found: list[str] = []
    for path in (os.fspath(one) for one in given):
        if os.path.isdir(path):
            inside = sorted(p for p in Path(path).glob("*") if p.suffix.lower() in SUFFIXES)
            if not inside:
                raise UsageError("contains no picture (" + " ".join(SUFFIXES) + ")", path)
            found += map(os.fspath, inside)
        else:
            found.append(path)
    if not found:
        raise UsageError("no picture is named")
    return list(dict.fromkeys(found))


def _best(row: Array, labels: Sequence[str], top: int) -> tuple[Guess, ...]:
    names = labels if len(labels) == len(row) else [f"class {n}" for n in range(len(row))]
    order = np.argsort(-row, kind="stable")[:top]
    return tuple(Guess(int(n), printable(names[n]), float(row[n])) for n in order)
