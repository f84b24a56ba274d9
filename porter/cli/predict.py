"""`porter predict`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from porter.cli.layout import columns, say
from porter.cli.output import json_option, python_option, say_json
from porter.cli.shared import complete
from porter.cli.shared.image_size import image_size_option
from porter.cli.shared.onnx_options import preprocessing_options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from porter.commands.pictures.boxes import Box
    from porter.commands.pictures.predict import Predictions


@click.command("predict")
@click.argument("model", type=click.Path())
@click.argument("pictures", nargs=-1, required=True, type=click.Path())
@click.option("--arch", "architecture", metavar="ARCH", shell_complete=complete.architectures,
              help="Variant of a checkpoint; default: recognised.")  # fmt: skip
@click.option("--from", "from_", metavar="F[:DIALECT]", shell_complete=complete.sides,
              help="Format and dialect of a checkpoint; default: recognised.")  # fmt: skip
@click.option("--key", metavar="NAME", help="State dict to take from the file.")
@click.option("--top", type=click.IntRange(1), default=5, help="Classes to name; default 5.")
@click.option("--labels", type=click.Path(), metavar="FILE",
              help="Names of the classes, or a recogniser's characters; default: those in the"
                   " model's metadata or next to it.")  # fmt: skip
@image_size_option("the model's")
@preprocessing_options
@click.option("--behaviour", type=click.Choice(["canonical", "dialect"]), default="canonical",
              help="Run as the canonical model, or as the dialect computes.")  # fmt: skip
@click.option("--device", default="auto", metavar="auto|cpu|cuda[:N]", help="Where to run.")
@click.option("--timeout", type=float, metavar="SECONDS",
              help="Limit for an ONNX file; default: PORTER_TIMEOUT or 600.")  # fmt: skip
@python_option
@json_option
def command(model: str, pictures: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Name the best classes of PICTURES, files or folders, by MODEL, or the text in them.

    MODEL is a checkpoint or an ONNX file. Pictures are prepared as its weights need it: as the
    options say, else the files next to it or its metadata, else its dialect.
    """
    from porter.commands.pictures.predict import predict
    from porter.errors import printable

    found = predict(model, pictures, **options)
    if as_json:
        say_json(as_dict(found))
        return
    for name, guesses in found.pictures.items():
        say(name)
        click.echo(columns([(f"{g.probability:.1%}", g.label) for g in guesses], "  "))
    for name, (text, probability) in found.texts.items():
        say(name)
        click.echo(columns([(f"{probability:.1%}", printable(text, 4000))], "  "))
    for name, boxes in found.boxes.items():
        say(name)
        click.echo(_boxes(boxes))
    for name, outputs in found.outputs.items():
        say(name)
        rows = [
            (o.name, "×".join(map(str, o.shape)), f"{o.least:.4g} … {o.largest:.4g}")
            for o in outputs
        ]
        click.echo(columns(rows, "  "))
    if found.outputs:
        say("outputs of the model as they are: porter has no rule that reads them")
    say(f"preprocessing: {found.preprocessing.described(found.size)} ({found.why})")


def _boxes(boxes: Sequence[Box]) -> str:
    """Return a line for each box: probability, label, left, top, right and bottom in pixels."""
    if not boxes:
        return "  nothing is above the least probability"
    return columns(
        [(f"{b.probability:.1%}", b.label, *map(str, (b.left, b.top, b.right, b.bottom)))
         for b in boxes], "  ",
    )  # fmt: skip


def as_dict(found: Predictions) -> dict[str, Any]:
    """Return the predictions for machines."""
    return {
        "schema": "porter.predictions/1",
        "model": found.model,
        "architecture": found.architecture or None,
        "preprocessing": {**found.preprocessing.as_dict(found.size), "why": found.why},
        "pictures": {
            name: [guess._asdict() for guess in guesses] for name, guesses in found.pictures.items()
        },
        "texts": {name: text._asdict() for name, text in found.texts.items()},
        "boxes": {name: [box._asdict() for box in boxes] for name, boxes in found.boxes.items()},
        "outputs": {name: [one._asdict() for one in rows] for name, rows in found.outputs.items()},
    }
