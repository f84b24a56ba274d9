"""Load a checkpoint into a reference model that is ready to use."""

from __future__ import annotations

import os
from typing import Any

from porter.commands.options import Framework, checked_options
from porter.errors import UsageError, printable
from porter.frameworks.fill import fill
from porter.frameworks.models import build, need
from porter.planning.behaviour import behaviour_of, check_choice, settings
from porter.planning.endpoint import PROGRAM
from porter.planning.fit import fit
from porter.planning.locate import below
from porter.remote import fetch
from porter.zoo.architectures import find
from porter.zoo.image_size import Size


@checked_options()
def load_model(
    variant: str,
    path: str | os.PathLike[str],
    framework: Framework = "torch",
    num_classes: int | None = None,
    image_size: Size | None = None,
    *,
    dialect: str | None = None,
    key: str | None = None,
    prefix: str | None = None,
    device: str | None = None,
    behaviour: str = "canonical",
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.0,
) -> Any:
    """Load a checkpoint of any format and dialect into a reference model.

    Parameters:
        variant: Name of the variant, such as "deit-tiny-224" (`porter list` prints them).
        path: Path or address of the checkpoint.
        framework: Framework of the model.
        num_classes: Number of classes; None for the checkpoint's, another one is refused.
        image_size: Image size in pixels; None for the checkpoint's, another one is refused.
        dialect: Naming of the checkpoint; None to recognise it.
        key: Name of one of several state dicts in the file.
        prefix: What is before the names of the model's tensors, such as "teacher."; None for
            the only prefix below which they are complete.
        device: Device of a torch model, such as "cuda:1"; None for the CPU. Paddle's models
            are on the device that `paddle.set_device` chose.
        behaviour: "canonical", or "dialect" for a model that computes as the dialect's code
            does (`porter show` lists the settings).
        drop_rate: Dropout rate, used in training only.
        drop_path_rate: Rate of stochastic depth, used in training only.

    Returns an `nn.Module` (torch) or `nn.Layer` (paddle) in evaluation mode. Its parameters
    are float32 unless the whole checkpoint has another floating type.
    Raises `InputError`, `MappingError`, `UsageError` or `MissingPackage`.
    """
    if framework not in ("torch", "paddle"):
        raise UsageError(f"unknown framework {printable(framework)!r}; use torch or paddle")
    if device is not None and framework != "torch":
        raise UsageError(
            "device is for torch; paddle.set_device chooses the device of Paddle's models"
        )
    check_choice(behaviour)
    architecture = find(variant)
    architecture.need_model("loading it")
    need(framework)
    state = fetch.read(path, key=key)
    if state.origin is not None and state.origin.format == PROGRAM:
        from porter.onnx.recover.read import read

        state = read(architecture, path)
    if prefix is not None:
        state = below(state, prefix)
    fitted = fit(
        architecture, state, dialect, framework, num_classes=num_classes, image_size=image_size
    )
    name = fitted.plan.source.dialect.name
    rows = behaviour_of(fitted.architecture, name, state.origin) if behaviour == "dialect" else ()
    asked = {"drop_rate": drop_rate, "drop_path_rate": drop_path_rate}
    rates = {name: rate for name, rate in asked.items() if rate}  # Not every model has both.
    model = build(
        fitted.architecture,
        framework,
        num_classes=fitted.plan.num_classes,
        image_size=fitted.plan.image_size,
        features=fitted.plan.features,
        blank=True,
        device=device,
        **rates,
        **settings(rows),
    )
    fill(model, fitted.plan.apply(fitted.state), framework)
    model.eval()
    return model
