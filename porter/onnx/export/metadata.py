"""What a model file says about itself: preprocessing, labels, tensors that its graph does not use.

A deployer reads `porter.preprocessing` and `porter.labels`; `restore` reads `porter.unused`.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence

import numpy as np

from porter.errors import InputError, UsageError, printable
from porter.storage.input_file import read_small
from porter.tensors.dtypes import DTYPES
from porter.tensors.lazy import BLOCK, LazyTensor, Shape
from porter.tensors.shared_tensors import compact
from porter.tensors.state_dict import StateDict
from porter.zoo.architectures import Architecture
from porter.zoo.image_size import Size
from porter.zoo.image_size import pixels as in_pixels
from porter.zoo.preprocessing import Preprocessing, checked

PREPROCESSING = "porter.preprocessing"
LABELS = "porter.labels"
OUTPUT = "porter.output"
"""`probabilities` where the graph ends with a softmax."""
PROBABILITIES = "probabilities"
UNUSED = "porter.unused"
"""[[place in the state dict, name, dtype, shape, bytes in base64], …]"""
SHARED = "porter.shared"
"""[[place in the state dict, name, name of the tensor that it is], …]"""
GRAPH = "porter.graph"
"""Digest of the graph: what else the metadata say holds while the graph has it."""
OPTIMIZED = "porter.optimized"
"""Which optimiser rewrote the graph; such a file does not map back exactly."""
FEATURES = "features"
"""What the output of a model without classifier is called."""
CLASSES = "porter.num_classes"
OUTPUTS = {
    2: "one score for each class, before any softmax",
    3: "one score for each class at each position, before any softmax",
    4: "one map for each class, from 0 to 1",
}
"""{number of axes: what the output is}"""
QUANTIZED = "porter.quantized"
"""`dynamic` or `static`: how the weights were quantised; such a file does not map back."""
_LARGEST_UNUSED = 1 << 20
_LARGEST_LABELS = 16 << 20
_LONGEST = 64 << 20


def preprocessing(
    architecture: Architecture, how: Preprocessing, image_size: Size, pixels: bool
) -> str:
    """Return as JSON how a picture becomes the model's input.

    With `pixels` the input is the resized and cropped picture itself; the graph does the rest.
    """
    said = how.as_dict(architecture.sides(image_size))
    form = {"layout": "NCHW", "input": "float"}
    if pixels:
        form = {"layout": "NHWC", "input": "uint8", "color": "RGB"}
    return json.dumps({**said, **form})


def pixels(metadata: Mapping[str, str]) -> Preprocessing | None:
    """Return the preprocessing of a file whose input is pixels, as its metadata state it."""
    try:
        said = json.loads(metadata.get(PREPROCESSING, "{}"))
        if not isinstance(said, dict) or said.get("input") != "uint8":
            return None
        mean, std = tuple(said["mean"]), tuple(said["std"])
        order = said.get("channels", "RGB")
        return checked(
            Preprocessing(mean, std, said["interpolation"], said["crop"], channels=order)
        )
    except (ValueError, KeyError, TypeError, RecursionError, UsageError):
        return None


def document(
    architecture: Architecture, how: Preprocessing, image_size: Size, pixels: bool
) -> tuple[str, str]:
    """Return the doc strings of the model and of its input."""
    sides = architecture.sides(image_size)
    size = in_pixels(sides[0] if sides[0] == sides[1] else sides)
    model = (
        f"{architecture.title}, variant {architecture.name}, {size}."
        f" {architecture.paper} (weights named as in {architecture.source})"
    )
    values = "as bytes, normalised by the graph:" if pixels else "in [0, 1] and normalised:"
    order = "RGB" if pixels else how.channels
    return model, f"{order} pictures {values} {how.described(sides)}"


def read_labels(path: str, num_classes: int) -> list[str]:
    """Return the names of the classes.

    A JSON list or object of numbers, alone or as `id2label`, or lines: a name each, or all with
    their number before it, as in PaddleClas's `0 tench, Tinca tinca`.
    """
    try:
        text = read_small(path, _LARGEST_LABELS).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"the labels cannot be read: {error}", path) from error
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = [line.strip() for line in text.splitlines() if line.strip()]
        parts = [line.partition(" ") for line in found]
        if len(found) > 1 and {number for number, _, _ in parts} == set(
            map(str, range(len(found)))
        ):
            found = {number: name.strip() for number, _, name in parts}
    if isinstance(found, dict) and isinstance(found.get("id2label"), dict):
        found = found["id2label"]
    if isinstance(found, dict):
        found = in_order(found)
    if not isinstance(found, list) or not all(isinstance(label, str) for label in found):
        raise InputError("the labels are not a list of texts, nor numbered from 0", path)
    if len(found) != num_classes:
        raise UsageError(f"{len(found)} labels for {num_classes} classes", path)
    return found


def in_order(labels: Mapping[object, object]) -> list[str] | None:
    """Return the names of {number: name} by number; None unless all from 0 on are there."""
    rows = {str(number): name for number, name in labels.items()}
    names = [rows.get(str(number)) for number in range(len(rows))]
    found = [name for name in names if isinstance(name, str)]
    return found if len(found) == len(names) else None


def unused(state: Mapping[str, LazyTensor], names: Sequence[str]) -> str:
    """Return the tensors that the graph has no use for, as JSON."""
    places = {name: place for place, name in enumerate(state)}
    rows = []
    for name in names:
        tensor = state[name]
        if tensor.nbytes > _LARGEST_UNUSED:
            raise UsageError(f"the graph does not use {printable(name)}, which is too large a note")
        data = b"".join(bytes(block) for block in tensor.blocks(BLOCK))
        text = base64.b64encode(data).decode()
        rows.append([places[name], name, tensor.dtype.name, list(tensor.shape), text])
    return compact(rows)


def with_unused(state: StateDict) -> StateDict:
    """Return the state dict with what `unused` noted in its metadata, each at its place."""
    assert state.origin is not None
    text = state.origin.metadata.get(UNUSED, "[]")
    names = list(state)
    found = dict(state)
    for place, name, tensor in sorted(_rows(text, state.origin.path), key=lambda row: row[0]):
        if name not in found:
            names.insert(place, name)
            found[name] = tensor
    return with_shared(StateDict({name: found[name] for name in names}, state.origin))


def with_shared(state: StateDict) -> StateDict:
    """Return the state dict with the tensors that `SHARED` notes to be others of it, too."""
    assert state.origin is not None
    text = state.origin.metadata.get(SHARED, "[]")
    wrong = InputError(f"the note {SHARED} is malformed", state.origin.path)
    names, found = list(state), dict(state)
    if len(text) > _LONGEST:
        raise wrong
    try:
        rows = sorted((place, name, other) for place, name, other in json.loads(text))
    except (ValueError, TypeError, RecursionError) as error:
        raise wrong from error
    for place, name, other in rows:
        if type(place) is not int or not isinstance(name, str) or other not in state:
            raise wrong
        if name not in found:
            names.insert(max(place, 0), name)
            found[name] = found[other]
    return StateDict({name: found[name] for name in names}, state.origin)


def _rows(text: str, path: str) -> list[tuple[int, str, LazyTensor]]:
    wrong = InputError(f"the note {UNUSED} is malformed", path)
    if len(text) > _LONGEST:
        raise wrong
    found = []
    try:
        for place, name, dtype, shape, data in json.loads(text):
            numbers = [place, *shape]
            if not isinstance(name, str) or not all(type(n) is int and n >= 0 for n in numbers):
                raise wrong
            found.append((place, name, _tensor(str(dtype), tuple(shape), data)))
    except (ValueError, TypeError, KeyError, RecursionError, binascii.Error) as error:
        raise wrong from error
    return found


def _tensor(dtype: str, shape: Shape, data: str) -> LazyTensor:
    array = np.frombuffer(base64.b64decode(data, validate=True), np.uint8)
    return LazyTensor.of(array.view(DTYPES[dtype].numpy).reshape(shape))
