"""What a model sees in pictures: the best classes of each, with the model's own preprocessing.

Of a recogniser it is the text of each.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from porter.checkpoints.characters import characters_of, read_characters
from porter.checkpoints.read import detect
from porter.commands import recognised
from porter.commands.convert import convert
from porter.commands.options import checked_options
from porter.commands.pictures.text import Text, width_of
from porter.commands.pictures.text import read as read_text
from porter.errors import UsageError, printable
from porter.frameworks import exchange
from porter.frameworks.process import Limit, Pool
from porter.onnx.export import metadata as notes
from porter.onnx.graph.signature import Signature, signature
from porter.planning import endpoint
from porter.planning.preprocessing import GIVEN, KEY, Chosen, chosen, labels_of, read
from porter.remote import fetch
from porter.tensors.blocks import Array
from porter.tensors.state_dict import Origin
from porter.verification.checks import SINGLE
from porter.verification.inputs import SUFFIXES, picture, sides_of_picture
from porter.verification.options import Runs
from porter.verification.sides import open as sides
from porter.verification.sides.pair import softmax
from porter.verification.sides.processes import started
from porter.verification.steps import Steps
from porter.zoo.architectures import find
from porter.zoo.image_size import Size, checked, sides_of
from porter.zoo.preprocessing import Preprocessing, understood
from porter.zoo.published import reads_text

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
    """What a recogniser reads, instead of classes."""


class _Run(NamedTuple):
    """A model's preprocessing, labels, and its probabilities for each picture."""

    architecture: str
    chosen: Chosen
    size: Size
    labels: Sequence[str]
    found: Mapping[str, Array]
    """Of a recogniser the scores, (positions, classes)."""


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
        channels: "RGB" or "BGR", the order in which the model takes the colours, likewise.
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
            run = _graph(local.path, files, folder, runs, preprocessing, given)
        else:
            wanted = recognised.source(architecture, model, from_, key, None)
            run = _checkpoint(model, wanted, key, files, folder, runs, preprocessing, given)
    first = next(iter(run.found.values()))
    how, why = run.chosen
    result = Predictions(local.shown, run.architecture, how, why, run.size, {})
    if first.ndim == _LINES:
        characters = run.labels
        if labels is not None:
            characters = read_characters(labels, first.shape[-1]).characters
        texts = {name: read_text(row[0], characters) for name, row in run.found.items()}
        return replace(result, texts=texts)
    names = notes.read_labels(labels, first.shape[-1]) if labels is not None else run.labels
    best = {name: _best(row[0], names, top) for name, row in run.found.items()}
    return replace(result, pictures=best)


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


def _checkpoint(
    model: str | os.PathLike[str],
    wanted: tuple[str, str],
    key: str | None,
    files: Sequence[str],
    folder: Path,
    runs: Runs,
    file: str | None,
    given: Mapping[str, Any],
) -> _Run:
    """Run a checkpoint in its framework."""
    variant = find(wanted[0])
    if not variant.module and reads_text(variant):  # Without a reference model its graph is run.
        exported = os.fspath(folder / "model.onnx")
        convert(variant.name, model, exported, from_=wanted[1], to="onnx", key=key, verify=False,
                read_back=False, sync=False, digests=False, record=False)  # fmt: skip
        run = _graph(exported, files, folder, runs, file, given)
        why = "its own metadata, or that of its dialect"
        return run._replace(
            architecture=variant.name,
            chosen=run.chosen if file or any(given.values()) else run.chosen._replace(why=why),
        )
    variant.need_model("a prediction")
    named = endpoint.parse(wanted[1], variant.table).named
    side = sides.opened(variant, model, folder / "side", named, key, None, runs)
    origin = side.prepared.state.origin
    size: Size = variant.sides(side.image_size)
    found = chosen(variant, named, origin, size, file=file, given=given)
    inputs = _prepared(files, found.how, size, folder, is_wide=variant.free_width)
    with started((side,), folder, runs, None, Steps(None)):
        side.compute(inputs, (SINGLE,))
    scores = {key.rpartition("/")[0]: row for key, row in side.trace.outputs[SINGLE].items()}
    named_scores = _named(scores, files, False)
    classes = next(iter(named_scores.values())).shape[-1]
    labels = labels_of(origin) or characters_of(origin, classes).characters
    return _Run(variant.name, found, size, labels, named_scores)


def _graph(
    path: str,
    files: Sequence[str],
    folder: Path,
    runs: Runs,
    file: str | None,
    given: Mapping[str, Any],
) -> _Run:
    """Run an ONNX file as it is: sizes, preprocessing and labels are those of its metadata."""
    stated = _stated(path)
    size = sides_of(runs.image_size or checked(stated.get("image_size") or 224))
    model = signature(path, size)
    if model.metadata.get(notes.CLASSES) == "0":
        raise UsageError("has no classifier, so it gives features: it was exported without", path)
    if runs.image_size is not None:
        model.check_sides(size, path)
    size = model.sides
    found = _of_graph(model, stated, path, size[0], file, given)
    height, width = size
    is_wide = signature(path, (height, width + 8)).sides[1] != width
    inputs = _prepared(files, found.how, size, folder, is_wide=is_wide)
    pixels = found.how.normalising() if model.as_bytes else None
    output = folder / "output.safetensors"
    with ExitStack() as stack:
        pool = stack.enter_context(Pool())
        python = (runs.python or {}).get("onnxruntime")
        worker = stack.enter_context(pool.worker("onnxruntime", python))
        worker.limit = Limit.of(path, runs.timeout)
        worker.request("hello", device=runs.device)
        worker.request("load", weights=os.path.abspath(path), pixels=pixels)
        worker.request("run", inputs=os.fspath(inputs), output=os.fspath(output), precision=SINGLE)
    scores = {
        name.removeprefix("output/").rpartition("/")[0]: row
        for name, row in exchange.load(output)[0].items()
    }
    given_as = model.metadata.get(notes.OUTPUT) == notes.PROBABILITIES
    return _Run("", found, size, _labels(model), _named(scores, files, given_as))


def _stated(path: str) -> dict[str, Any]:
    """Return the preprocessing that the metadata of an ONNX file state, as plain values."""
    from porter.onnx.graph.parse import parse
    from porter.storage.input_file import InputFile

    with InputFile(path) as file:
        text = parse(file).metadata.get(KEY, "{}")
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}


def _of_graph(
    model: Signature,
    stated: Mapping[str, Any],
    path: str,
    size: int,
    file: str | None,
    given: Mapping[str, Any],
) -> Chosen:
    fields, why = understood(stated, size), "its own metadata"
    if file is not None:
        fields, why = {**fields, **read(file, size)}, f"{os.path.basename(file)}, given"
    own = {key: value for key, value in given.items() if value is not None}
    if own:
        options = ", ".join(f"--{name}" for name in own)
        why = f"{options}, given" + (f"; else {why}" if fields else "")
    fields |= own
    missing = [name for name in GIVEN if name not in ("channels", *fields)]
    if missing:
        options = ", ".join(f"--{name}" for name in missing)
        raise UsageError(f"states no preprocessing: pass {options}, or --preprocessing", path)
    how = Preprocessing((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "bicubic", 1.0).changed(fields)
    return Chosen(how, why)


def _labels(model: Signature) -> list[str]:
    try:
        found = json.loads(model.metadata.get(notes.LABELS, "[]"))
    except (ValueError, RecursionError):
        return []
    if isinstance(found, list) and found:
        return [str(label) for label in found]
    origin = Origin("", "onnx", metadata=model.metadata)
    return list(characters_of(origin, model.num_classes).characters)


def _prepared(
    files: Sequence[str], how: Preprocessing, size: Size, folder: Path, *, is_wide: bool
) -> Path:
    """Write the pictures as inputs to a file, by their number.

    A line that is longer than usual has an input of its own width where a model takes any.
    """
    arrays = {}
    for number, file in enumerate(files):
        wanted = width_of(sides_of_picture(file), how, size) if is_wide else size
        arrays[str(number)] = picture(file, how, wanted)
    path = folder / "inputs.safetensors"
    exchange.save(path, arrays, {})
    return path


def _named(scores: Mapping[str, Array], files: Sequence[str], given_as: bool) -> dict[str, Array]:
    """Return the probabilities of each picture by its path."""
    found = {}
    for number, file in enumerate(files):
        row = np.asarray(scores[str(number)], np.float64)
        if row.ndim == _LINES:
            found[file] = row
            continue
        if row.ndim != 2:
            raise UsageError(f"gives {list(row.shape)}: one score for each class is expected")
        found[file] = row if given_as else softmax(row)
    return found


def _best(row: Array, labels: Sequence[str], top: int) -> tuple[Guess, ...]:
    names = labels if len(labels) == len(row) else [f"class {n}" for n in range(len(row))]
    order = np.argsort(-row, kind="stable")[:top]
    return tuple(Guess(int(n), printable(names[n]), float(row[n])) for n in order)
