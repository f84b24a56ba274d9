"""Options of `porter convert` for ONNX files only."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import click

if TYPE_CHECKING:
    from porter.commands.options import OnnxKeywords

NAMES = (
    "opset", "batch", "free_size", "external_data", "optimize", "io_dtype", "input_name",
    "output_name", "labels", "calibrate",
    "mean", "std", "crop", "interpolation", "channels", "preprocessing", "with_preprocessing",
    "with_softmax", "behaviour",
)  # fmt: skip
"""Fields of `porter.onnx.export.write.Options`."""


def _numbers(
    ctx: click.Context, param: click.Parameter, value: str | None
) -> tuple[float, ...] | None:
    if value is None:
        return None
    try:
        return tuple(float(word) for word in value.split(","))
    except ValueError:
        raise click.BadParameter(
            f"{value!r} is not a number or three such as 0.5,0.5,0.5"
        ) from None


PREPROCESSING = (
    click.option("--mean", callback=_numbers, metavar="N[,N,N]",
                 help="Mean of values in [0, 1], by channel; default: that of the weights."),
    click.option("--std", callback=_numbers, metavar="N[,N,N]", help="Deviation, likewise."),
    click.option("--crop", type=float, metavar="SHARE",
                 help="Side of the central crop over the side a picture is resized to."),
    click.option("--interpolation", metavar="NAME", help="bilinear, bicubic, …"),
    click.option("--channels", type=click.Choice(["RGB", "BGR", "GREY"]),
                 help="Order in which the model takes the colours."),
    click.option("--preprocessing", type=click.Path(), metavar="FILE",
                 help="Preprocessing as JSON, such as preprocessor_config.json, or TOML."),
)  # fmt: skip
"""How pictures become inputs, where the user states it."""
_OPTIONS = (
    click.option("--opset", type=click.IntRange(1),
                 help="ONNX: operator set, 11 to 23 (default 20)."),
    click.option("--batch", type=click.IntRange(1), help="ONNX: freeze the batch (default: free)."),
    click.option("--free-size", is_flag=True,
                 help="ONNX: leave height and width open, in multiples of 32 (PVTv2, Shunted, …)."),
    click.option("--external-data", is_flag=True,
                 help="ONNX: weights in a file next to the model (always above 2 GiB)."),
    click.option("--optimize", type=click.Choice(["onnxruntime", "onnxscript"]),
                 help="ONNX: rewrite the graph; the file then no longer maps back exactly."),
    click.option("--io-dtype", type=click.Choice(["fp32", "fp16"]),
                 help="ONNX: fp32 keeps the input and output of an fp16 model float32."),
    click.option("--input-name", metavar="NAME", help="ONNX: name of the input (image)."),
    click.option("--output-name", metavar="NAME", help="ONNX: name of the output (logits)."),
    click.option("--labels", type=click.Path(), metavar="FILE",
                 help="ONNX: names of the classes: lines, or a JSON list or object. Of a"
                      " recogniser, also for hf: its characters, a line each."),
    click.option("--calibrate", type=click.Path(), metavar="FOLDER",
                 help="ONNX, int8: pictures to measure the ranges of activations on."),
    *PREPROCESSING,
    click.option("--with-preprocessing", is_flag=True,
                 help="ONNX: take pixels, uint8 (N, height, width, 3), and normalise them."),
    click.option("--with-softmax", is_flag=True, help="ONNX: give probabilities, not scores."),
    click.option("--behaviour", type=click.Choice(["canonical", "dialect"]), default=None,
                 help="ONNX: a graph that computes as the code of the source's dialect does, where"
                      " that differs (porter show --dialect)."),
    click.option("--fold-batchnorm", is_flag=True,
                 help="Of foreign ONNX or a Paddle program: take folded norms as they are."),
    click.option("--timeout", type=float, metavar="SECONDS",
                 help="From foreign ONNX: limit for each step; default: PORTER_TIMEOUT or 600."),
)  # fmt: skip


def preprocessing_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of the preprocessing to a command."""
    for option in reversed(PREPROCESSING):
        command = option(command)
    return command


def onnx_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def taken(options: dict[str, Any]) -> OnnxKeywords:
    """Remove the ONNX options from a command's options; return those that were given."""
    values = {name: options.pop(name) for name in NAMES}
    given = {name: value for name, value in values.items() if value not in (None, False)}
    return cast("OnnxKeywords", given)
