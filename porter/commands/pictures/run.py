"""Run a checkpoint or an ONNX file on pictures, prepared as its weights need it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from porter.checkpoints.characters import characters_of
from porter.commands.convert import convert
from porter.commands.pictures.boxes import page_size
from porter.commands.pictures.sequences import FORMULA
from porter.commands.pictures.text import width_of
from porter.errors import UsageError
from porter.frameworks import exchange
from porter.frameworks.process import Limit, Pool
from porter.onnx.export import metadata as notes
from porter.onnx.graph.parse import parse
from porter.onnx.graph.signature import Signature, open_sides, signature
from porter.onnx.graph.values import Model
from porter.planning import endpoint
from porter.planning.preprocessing import GIVEN, KEY, Chosen, chosen, labels_of, read
from porter.remote import fetch
from porter.storage.input_file import InputFile
from porter.tensors.blocks import Array
from porter.tensors.state_dict import Origin
from porter.verification.checks import SINGLE
from porter.verification.inputs import picture, sides_of_picture
from porter.verification.options import Runs
from porter.verification.sides import open as sides
from porter.verification.sides.processes import started
from porter.verification.steps import Steps
from porter.zoo.architectures import all_variants, find
from porter.zoo.image_size import Size, checked, sides_of
from porter.zoo.preprocessing import Preprocessing, understood
from porter.zoo.published import finds_text, published_labels, published_path

_MAP = 4
"""Axes of a map: (1, 1, height, width)."""


class Run(NamedTuple):
    """A model's preprocessing, labels, and its outputs for each picture."""

    architecture: str
    chosen: Chosen
    size: Size
    labels: Sequence[str]
    found: Mapping[str, Mapping[str, Array]]
    origin: Origin | None
    are_probabilities: bool = False


def checkpoint(
    model: str | os.PathLike[str],
    wanted: tuple[str, str],
    key: str | None,
    files: Sequence[str],
    folder: Path,
    runs: Runs,
    file: str | None,
    given: Mapping[str, Any],
) -> Run:
    """Run a checkpoint in its framework."""
    variant = find(wanted[0])
    # Without a reference model its graph is run; so is a text detector's, which takes any size.
    if published_path(variant) is not None and (not variant.module or finds_text(variant)):
        exported = os.fspath(folder / "model.onnx")
        convert(variant.name, model, exported, from_=wanted[1], to="onnx", key=key, verify=False,
                read_back=False, sync=False, digests=False, record=False)  # fmt: skip
        run = graph(exported, files, folder, runs, file, given)
        why = "its own metadata, or that of its dialect"
        origin = fetch.read(model, key=key).origin
        classes = _classes(run)
        return run._replace(
            architecture=variant.name,
            origin=origin,
            labels=run.labels or published_labels(variant, classes),
            chosen=run.chosen if file or any(given.values()) else run.chosen._replace(why=why),
        )
    variant.need_model("a prediction")
    named = endpoint.parse(wanted[1], variant.table).named
    side = sides.opened(variant, model, folder / "side", named, key, None, runs)
    origin = side.prepared.state.origin
    size: Size = variant.sides(side.image_size)
    found = chosen(variant, named, origin, size, file=file, given=given)
    inputs = _prepared(files, found.how, size, folder, is_wide=variant.free_width, is_page=False)
    with started((side,), folder, runs, None, Steps(None)):
        side.compute(inputs, (SINGLE,))
    run = Run(variant.name, found, size, (), _named(side.trace.outputs[SINGLE], files), origin)
    classes = _classes(run)
    labels = labels_of(origin) or characters_of(origin, classes).characters
    return run._replace(labels=labels or published_labels(variant, classes))


def _classes(run: Run) -> int:
    """Return the number of classes of the outputs: their last axis."""
    outputs = next(iter(run.found.values()))
    return int(outputs[main_of(outputs)].shape[-1])


def graph(
    path: str,
    files: Sequence[str],
    folder: Path,
    runs: Runs,
    file: str | None,
    given: Mapping[str, Any],
) -> Run:
    """Run an ONNX file as it is: sizes, preprocessing and labels are those of its metadata."""
    with InputFile(path) as graph_file:
        parsed = parse(graph_file)
    stated, outputs = _stated(parsed), parsed.graph.outputs
    size = sides_of(runs.image_size or checked(stated.get("image_size") or 224))
    writes_tokens = tuple(value.name for value in outputs) == FORMULA
    model = signature(path, size, 1 if writes_tokens else None)
    if model.metadata.get(notes.CLASSES) == "0":
        raise UsageError("has no classifier, so it gives features: it was exported without", path)
    if runs.image_size is not None:
        model.check_sides(size, path)
    size = model.sides
    found = _of_graph(model, stated, path, size[0], file, given)
    is_tall, is_wide = open_sides(path)
    is_map = len(outputs[0].dims) == _MAP and outputs[0].dims[1] == 1
    is_page = is_tall and is_wide and is_map and runs.image_size is None
    inputs = _prepared(files, found.how, size, folder, is_wide=is_wide, is_page=is_page)
    if is_page:
        size = page_size(sides_of_picture(files[0]))
        found = found._replace(why=f"{found.why}; the size is that of the first page")
    pixels = found.how.normalising() if model.as_bytes else None
    output = folder / "output.safetensors"
    with ExitStack() as stack:
        pool = stack.enter_context(Pool())
        python = (runs.python or {}).get("onnxruntime")
        worker = stack.enter_context(pool.worker("onnxruntime", python))
        worker.limit = Limit.of(path, runs.timeout)
        worker.request("hello", device=runs.device)
        worker.request("load", weights=os.path.abspath(path), pixels=pixels)
        worker.request(
            "run", inputs=os.fspath(inputs), output=os.fspath(output), precision=SINGLE, every=True
        )
    rows = exchange.load(output)[0].items()
    named = _named({name.removeprefix("output/"): row for name, row in rows}, files)
    given_as = model.metadata.get(notes.OUTPUT) == notes.PROBABILITIES
    origin = Origin(path, "onnx", metadata=model.metadata)
    return Run("", found, size, _labels(model), named, origin, given_as)


def _stated(model: Model) -> dict[str, Any]:
    """Return the preprocessing that the metadata of an ONNX file state, as plain values."""
    try:
        body = json.loads(model.metadata.get(KEY, "{}"))
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
    variant = all_variants().get(model.metadata.get("porter.architecture", ""))
    published = published_labels(variant, model.num_classes) if variant is not None else []
    return list(characters_of(origin, model.num_classes).characters) or published


def _prepared(
    files: Sequence[str],
    how: Preprocessing,
    size: Size,
    folder: Path,
    *,
    is_wide: bool,
    is_page: bool,
) -> Path:
    """Write the pictures as inputs to a file, by their number.

    A line that is longer than usual has an input of its own width where a model takes any, and a
    page in which text is looked for an input of its own size.
    """
    arrays = {}
    for number, file in enumerate(files):
        wanted = width_of(sides_of_picture(file), how, size) if is_wide else size
        wanted = page_size(sides_of_picture(file)) if is_page else wanted
        arrays[str(number)] = picture(file, how, wanted)
    path = folder / "inputs.safetensors"
    exchange.save(path, arrays, {})
    return path


def _named(rows: Mapping[str, Array], files: Sequence[str]) -> dict[str, dict[str, Array]]:
    """Return {file: {output: array}} of rows by the number of a picture and the output's name."""
    found: dict[str, dict[str, Array]] = {file: {} for file in files}
    for name, row in rows.items():
        number, _, output = name.partition("/")
        found[files[int(number)]][output] = np.asarray(row)
    return found


def main_of(outputs: Mapping[str, Array]) -> str:
    """Return the output that is read: scores where there are probabilities, too."""
    return "logits" if "logits" in outputs else next(iter(outputs))
