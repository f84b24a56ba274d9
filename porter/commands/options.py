"""Types of the options of porter's functions, and the refusal of a name that is not one of them.

A type checker finds a misspelled option by these types; at run time `UsageError` names the
nearest one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from typing import Literal, ParamSpec, TypedDict, TypeVar

from porter.errors import UsageError, listed, nearest, printable
from porter.storage.progress import Progress
from porter.storage.tasks import ShardPlaces, ShardPool
from porter.zoo import image_size

FloatType = Literal["fp32", "fp16", "bf16"]
Container = Literal["torch", "paddle", "safetensors", "npz", "npy"]
Framework = Literal["torch", "paddle"]
Uint16 = Literal["auto", "uint16", "bfloat16"]
Digest = Literal["xxh3", "sha256"]


class WriteKeywords(TypedDict, total=False):
    """How an output is written: the options that `convert`, `repack` and `init` share."""

    read_back: bool
    """Read the output again and compare it before it gets its name (default)."""
    sync: bool
    """Bring the output to the disk before it gets its name (default)."""
    digests: bool
    """Take and record digests of source and tensors (default)."""
    digest: Digest
    """Digest algorithm, xxh3 (default) or sha256."""
    record: bool
    """Write the record OUTPUT.porter.json: provenance and digests (default)."""


class ShardKeywords(WriteKeywords, total=False):
    """The options of commands whose shards other processes may write."""

    pool: ShardPool | None
    """Processes that write the shards, such as `porter.fleet.shards.Local(4)`."""
    places: ShardPlaces | None
    """Where shards go; porter sets it for an output at an address."""


class InitKeywords(WriteKeywords, total=False):
    """The other options of `init`."""

    max_shard_size: str | int | None
    """Bytes of a shard, or a text such as "5GB"."""
    progress: Progress | None
    """Called with a step's name, the bytes done and the bytes in all."""


class OnnxKeywords(TypedDict, total=False):
    """The fields of `porter.onnx.export.write.Options`."""

    opset: int
    """Operator set, 11 to 23 (default 20)."""
    batch: int | None
    """Size of every batch; None leaves it free."""
    free_size: bool
    """Leave height and width open (multiples of 32), where the model does not depend on them."""
    external_data: bool
    """Store the weights in a file next to the model, even below 2 GiB."""
    optimize: Literal["onnxruntime", "onnxscript"] | None
    """Rewrite the graph; the file then does not map back exactly."""
    io_dtype: Literal["fp32", "fp16"] | None
    """fp32 keeps the input and output of an fp16 model in float32."""
    calibrate: str | os.PathLike[str]
    """Folder of pictures on which the ranges of an int8 model's activations are measured."""
    input_name: str
    output_name: str
    labels: str | None
    """File with the names of the classes: lines, or a JSON list or object. A recogniser's
    characters, a line each, also for a folder of transformers."""
    mean: float | Sequence[float] | None
    """Mean that is subtracted from values in [0, 1], by channel; None for that of the weights."""
    std: float | Sequence[float] | None
    """Deviation that it is divided by."""
    crop: float | None
    """Side of the central crop over the side that a picture is resized to."""
    interpolation: str | None
    """How a picture is resized: "bilinear", "bicubic", …"""
    channels: Literal["RGB", "BGR", "GREY"] | None
    """The order in which the model takes the colours."""
    preprocessing: str | None
    """JSON or TOML file that states the preprocessing."""
    with_preprocessing: bool
    """Take pictures as bytes, uint8 (N, height, width, 3), and normalise them in the graph."""
    with_softmax: bool
    """Give probabilities, not scores."""
    behaviour: Literal["canonical", "dialect"]
    """"dialect" for a graph that computes as the code of the source's dialect does."""


P = ParamSpec("P")
R = TypeVar("R")


def checked_options(*typed: type) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a function refuse options that are neither its parameters nor keys of `typed`.

    The size of pictures is checked as well.
    """
    keys = [key for keywords in typed for key in keys_of(keywords)]

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        code = function.__code__
        known = [*code.co_varnames[: code.co_argcount + code.co_kwonlyargcount], *keys]

        @wraps(function)
        def checked(*args: P.args, **kwargs: P.kwargs) -> R:
            refuse_unknown(kwargs, known, code.co_name)
            if kwargs.get("image_size") is not None:
                kwargs["image_size"] = image_size.checked(kwargs["image_size"])
            return function(*args, **kwargs)

        return checked

    return decorate


def keys_of(keywords: type) -> list[str]:
    """Return the keys of a `TypedDict`, those of its bases included."""
    return list(keywords.__annotations__)


def refuse_unknown(given: Iterable[str], known: Iterable[str], place: str) -> None:
    """Raise `UsageError` for the first name that is not known."""
    known = list(known)
    for name in given:
        if name not in known:
            near = nearest(name, known)
            hint = f"did you mean {near[0]}?" if near else f"use {listed(known, 40)}"
            raise UsageError(f"{place} has no option {printable(name)!r}; {hint}")
