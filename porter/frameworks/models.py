"""Build a reference model in torch or paddle, by the name of its variant."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from porter.errors import MissingPackage
from porter.zoo.architectures import Architecture
from porter.zoo.image_size import Size

_INITIALISERS = {
    "uniform_", "normal_", "kaiming_uniform_", "kaiming_normal_", "constant_", "erfinv_", "mul_",
    "add_", "clamp_", "fill_", "zero_",
}  # fmt: skip
"""Names of the functions of `torch.nn.init`, and of those they call."""
PACKAGES = {"torch": "torch", "paddle": "paddlepaddle"}


def build(
    architecture: Architecture,
    framework: str,
    *,
    num_classes: int | None = None,
    image_size: Size | None = None,
    features: Sequence[str] = (),
    blank: bool = False,
    device: str | None = None,
    **options: Any,
) -> Any:
    """Return a freshly initialised `nn.Module` (torch) or `nn.Layer` (paddle).

    `image_size` is in pixels; `num_classes` 0 leaves the classifier out; `options` are arguments of
    the model's class (`drop_path_rate` …) and replace those of the variant (`temperature`). With
    `blank`, parameters (in torch buffers, too) are NaN, to be filled: drawing them at random takes
    longer than reading a checkpoint. `device` is where torch allocates them. `MissingPackage` is
    raised when the framework is not installed.
    """
    need(framework)
    module = importlib.import_module(f"porter.reference_models.{framework}.{architecture.module}")
    config = dict(architecture.config)
    for feature in features:
        config.update(architecture.features[feature])
    make = partial(
        getattr(module, architecture.model),
        image_size=image_size or architecture.image_size,
        num_classes=num_classes or architecture.num_classes,
        **{**config, **options},
    )
    if num_classes == 0:
        make = partial(_headless, make, architecture, framework)
    if not blank:
        return make()
    return _blank_torch(make, device) if framework == "torch" else _blank_paddle(make)


def _headless(make: Callable[[], Any], architecture: Architecture, framework: str) -> Any:
    """Make a model whose classifiers are replaced by the identity: it returns features (B, dim)."""
    identity = importlib.import_module(f"{framework}.nn").Identity
    model = make()
    tensors = architecture.skeleton(framework).tensors
    for name in {t.name.rpartition(".")[0] for t in tensors if "classes" in t.dims}:
        parent, _, last = name.rpartition(".")
        owner = model
        for part in parent.split(".") if parent else ():
            owner = getattr(owner, part) if not part.isdecimal() else owner[int(part)]
        if last.isdecimal():
            owner[int(last)] = identity()
        else:
            setattr(owner, last, identity())
    return model


def undrawn(empties: str | None = None) -> AbstractContextManager[Any]:
    """Leave the weights of models that torch builds meanwhile as they are allocated.

    `empties` is the device where memory is allocated that nothing fills, such as "meta", on which
    nothing takes any. Were everything there, torch would load its compiler to compute something,
    if only a table of whole numbers, or to find out that nothing is to be filled.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    class Undrawn(TorchFunctionMode):  # type: ignore[misc]
        """Leaves a parameter as it is where an initialiser would fill it."""

        def __torch_function__(
            self, function: Any, types: Any, arguments: Any = (), named: Any = None
        ) -> Any:
            named = named or {}
            first = arguments[0] if arguments else named.get("tensor")
            if function.__name__ in _INITIALISERS and isinstance(first, torch.nn.Parameter):
                return first
            if empties and function is torch.empty and named.get("device") is None:
                named = {**named, "device": empties}
            return function(*arguments, **named)

    return Undrawn()


def _blank_torch(make: Callable[[], Any], device: str | None) -> Any:
    import torch

    with undrawn("meta"):
        model = make()

    def blank(like: Any) -> Any:
        value = math.nan if like.is_floating_point() else 0
        return torch.full(like.shape, value, dtype=like.dtype, device=device or "cpu")

    stored = set(model.state_dict())
    for path, module in model.named_modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            module.register_parameter(name, torch.nn.Parameter(blank(parameter)))
        for name, buffer in list(module.named_buffers(recurse=False)):
            is_stored = (f"{path}.{name}" if path else name) in stored
            module._buffers[name] = blank(buffer) if is_stored else buffer.to(device or "cpu")
    return model


def _blank_paddle(make: Callable[[], Any]) -> Any:
    import numpy as np
    import paddle

    with paddle.LazyGuard():
        model = make()
    for parameter in model.parameters():
        parameter.set_value(np.full(parameter.shape, np.nan, np.float32))
    return model


def need(framework: str) -> None:
    """Raise `MissingPackage` unless the framework can be imported."""
    try:
        importlib.import_module(framework)
    except ModuleNotFoundError as error:
        package = PACKAGES.get(framework, framework)
        raise MissingPackage(
            f"this needs {framework}, which is not installed ({error.name} is missing);"
            f" run `pip install {package}`"
        ) from error
