"""What writes an output: a codec, the export of an ONNX model, a folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from porter import codecs
from porter.checkpoints.characters import Dictionary, characters_of, read_characters
from porter.commands.conversion.fitting import Prepared
from porter.commands.options import OnnxKeywords
from porter.errors import UsageError
from porter.planning import endpoint
from porter.planning.behaviour import check_choice, computing
from porter.planning.fit import Fitted
from porter.planning.plan import Plan
from porter.planning.preprocessing import GIVEN, Chosen, chosen, labels_of
from porter.storage.atomic_output import Written
from porter.tensors.state_dict import StateDict
from porter.verification.inputs import Halves, halved
from porter.zoo.architectures import Architecture
from porter.zoo.image_size import Size
from porter.zoo.published import published_path, reads_text

UNCALIBRATED = (
    "int8: activations are quantised as they come; judged on noise, pictures would be better"
    " (--calibrate)"
)
"""Note on an int8 model without pictures."""


def check_asked(
    container: str, dtype: str | None, verify: bool, judge: str | None, onnx: OnnxKeywords | None
) -> None:
    """Refuse options that need others."""
    if dtype == "int8" and container != "onnx":
        raise UsageError("--dtype int8: for --to onnx only")
    if onnx and "calibrate" in onnx and dtype != "int8":
        raise UsageError("--calibrate: with --dtype int8 only")
    check_choice((onnx or {}).get("behaviour", "canonical"))
    if judge is not None:
        if not verify:
            raise UsageError("--judge needs the proof that --no-verify leaves out")
        from porter.verification.judge import bounds  # With all that proofs need.

        bounds(judge)


@dataclass(frozen=True, slots=True)
class Writer:
    """How an output is written."""

    write: Callable[..., Written]
    """A codec's, or the ONNX export's; takes the state dict and the path."""
    pictures: Halves | None
    """What a quantised model is calibrated and judged on."""
    notes: tuple[str, ...]
    """What the user should know of it."""


def writer_of(
    container: str,
    ready: Prepared,
    named: str,
    dtype: str | None,
    max_shard_size: str | int | None,
    onnx: OnnxKeywords | None,
    is_sized: bool,
) -> Writer:
    """Return how a fitted source is written.

    `named` is the naming that the user gave the source; `is_sized`: whether an image size was asked
    for. Raises `UsageError` where an option does not belong to the container.
    """
    fitted, plan, asked = ready.fitted, ready.target, onnx or {}
    picture = _picture_of(container, fitted, named, plan, asked)
    pictures = _pictures_of(picture, fitted.architecture, ready.plan.image_size, onnx)
    dictionary = _dictionary_of(container, fitted, plan, asked)
    notes = tuple(_notes(ready, picture, pictures, dtype, dictionary))
    fitted = fitted._replace(architecture=computing(fitted.architecture, ready.behaviour))
    write = _function(
        container, fitted, plan, max_shard_size, onnx, dtype, pictures, picture, dictionary,
        is_sized,
    )  # fmt: skip
    return Writer(write, pictures, notes)


def _picture_of(
    container: str, fitted: Fitted, named: str, plan: Plan, onnx: OnnxKeywords
) -> Chosen | None:
    """Return the preprocessing of the weights, for an output that states it."""
    variant = fitted.architecture  # Published image processors have figures of their own.
    is_folder = (
        container == endpoint.FOLDER and bool(variant.module) and published_path(variant) is None
    )
    if container != "onnx" and not is_folder:
        return None
    size = fitted.architecture.sides(plan.image_size)
    given = {key: onnx.get(key) for key in GIVEN}
    return chosen(
        fitted.architecture, named, fitted.state.origin, size, file=onnx.get("preprocessing"),
        given=given,
    )  # fmt: skip


def _dictionary_of(
    container: str, fitted: Fitted, plan: Plan, onnx: OnnxKeywords
) -> Dictionary | None:
    """Return the characters of a recogniser, for an output that states them; None for others.

    They are the user's (`labels`), or those next to the checkpoint.
    """
    if container not in ("onnx", endpoint.FOLDER) or not reads_text(fitted.architecture):
        return None
    given = onnx.get("labels")
    if given is not None:
        return read_characters(given, plan.num_classes)
    return characters_of(fitted.state.origin, plan.num_classes)


def _pictures_of(
    picture: Chosen | None, variant: Architecture, image_size: Size, onnx: OnnxKeywords | None
) -> Halves | None:
    """Return the pictures of --calibrate."""
    if not onnx or "calibrate" not in onnx or picture is None:
        return None
    if onnx.get("with_preprocessing"):
        raise UsageError("--calibrate takes normalised pictures: leave --with-preprocessing out")
    return halved(onnx["calibrate"], picture.how, variant.sides(image_size), onnx.get("batch"))


def _notes(
    ready: Prepared,
    picture: Chosen | None,
    pictures: Halves | None,
    dtype: str | None,
    dictionary: Dictionary | None,
) -> Iterator[str]:
    """Yield what the user should know of how the output is written."""
    if picture is not None:
        size = ready.fitted.architecture.sides(ready.target.image_size)
        yield f"preprocessing: {picture.how.described(size)} ({picture.why})"
    if dictionary is not None:
        yield _of_dictionary(dictionary)
    if dtype == "int8":
        yield pictures.note if pictures else UNCALIBRATED
        share = 0 if pictures else _share_of_convolutions(ready.canonical)
        if share >= 0.1:
            yield (
                f"convolutions, {share:.0%} of the weights' bytes, stay as they are without"
                " --calibrate"
            )


def _of_dictionary(dictionary: Dictionary) -> str:
    if dictionary.characters:
        return f"dictionary: {len(dictionary.characters)} characters ({dictionary.why})"
    why = f" ({dictionary.why})" if dictionary.why else ""
    return f"no dictionary is known{why}: pass --labels FILE, one character a line"


def _share_of_convolutions(state: StateDict) -> float:
    """Return the share of the bytes that are in kernels, tensors of four axes and more."""
    weights = [tensor for tensor in state.values() if tensor.dtype.is_float]
    kernels = sum(tensor.nbytes for tensor in weights if len(tensor.shape) > 3)
    return kernels / max(sum(tensor.nbytes for tensor in weights), 1)


def _function(
    container: str,
    fitted: Fitted,
    plan: Plan,
    max_shard_size: str | int | None,
    onnx: OnnxKeywords | None,
    dtype: str | None,
    pictures: Halves | None,
    picture: Chosen | None,
    dictionary: Dictionary | None,
    is_sized: bool,
) -> Callable[..., Written]:
    """Return the function that writes a state dict: a codec, or the ONNX export.

    `is_sized`: whether an image size was asked for.
    """
    characters = () if dictionary is None else dictionary.characters
    if container != "onnx":
        is_taken = container == endpoint.FOLDER and dictionary is not None
        left = [name for name in onnx or () if not (is_taken and name == "labels")]
        if left:
            where = ", or a folder for --to hf" if left == ["labels"] else ""
            raise UsageError(f"{', '.join(left)}: for --to onnx{where} only")
        if container == endpoint.FOLDER:
            from porter.commands import snapshot

            snapshot.config(fitted.architecture, plan)  # Refused before anything is read.
            return partial(
                snapshot.write, fitted.architecture, plan, max_shard_size=max_shard_size,
                preprocessing=None if picture is None else picture.how, characters=characters,
                labels=labels_of(fitted.state.origin),
            )  # fmt: skip
        return partial(codecs.write, format=container, max_shard_size=max_shard_size)
    if max_shard_size is not None:
        raise UsageError("an ONNX model is not cut into shards; use --external-data")
    fitted.architecture.need_graph("ONNX export")
    from porter.onnx.export.write import Options, export

    also = ["labels"] if characters else []
    left_out = (*GIVEN, "preprocessing", "calibrate", "behaviour", *also)
    given: dict[str, Any] = {k: v for k, v in (onnx or {}).items() if k not in left_out}
    graph, usual = fitted.architecture.graph, fitted.architecture.image_size
    if graph.is_free and not is_sized and plan.image_size == usual:
        given["free_size"] = True
    options = Options(
        **given, int8=dtype == "int8", calibration=pictures.calibrating if pictures else {}
    )
    return partial(
        export, fitted.architecture, num_classes=plan.num_classes, image_size=plan.image_size,
        features=plan.features, options=options,
        preprocessing=None if picture is None else picture.how,
        labels=characters or labels_of(fitted.state.origin),
    )  # fmt: skip
