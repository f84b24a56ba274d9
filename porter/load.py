"""Load a checkpoint into a reference model that is ready to use."""

from __future__ import annotations

import os
import warnings
from typing import Any

from porter import fetch
from porter.architectures import find
from porter.errors import UsageError, printable
from porter.fit import fit
from porter.runtimes.models import build, need
from porter.tensor import Array, LazyTensor


def load_model(
    variant: str,
    path: str | os.PathLike[str],
    framework: str = "torch",
    num_classes: int | None = None,
    image_size: int | None = None,
    *,
    dialect: str | None = None,
    key: str | None = None,
    device: str | None = None,
    **options: Any,
) -> Any:
    """Return an `nn.Module` (torch) or `nn.Layer` (paddle) in evaluation mode, weights loaded.

    The checkpoint, a path or an http or https address, may be of any format and dialect of the
    family; the dialect is recognised when it is not given. `num_classes` and `image_size`
    (pixels) are taken from the checkpoint when None; what a checkpoint contradicts is refused.
    `device` ("cuda", "cuda:1") is where torch's model stands, the CPU unless given; Paddle's
    stands where `paddle.set_device` says. `options` go to the model's class.
    Parameters keep the model's own float32 unless the whole checkpoint is of another float.
    """
    if framework not in ("torch", "paddle"):
        raise UsageError(f"framework {printable(framework)!r} is neither torch nor paddle")
    if device is not None and framework != "torch":
        raise UsageError("device is for torch; paddle.set_device says where Paddle's models stand")
    architecture = find(variant)
    need(framework)
    state = fetch.read(path, key=key)
    for note in fetch.stale(state):
        warnings.warn(note, stacklevel=2)
    fitted = fit(
        architecture, state, dialect, framework, num_classes=num_classes, image_size=image_size
    )
    model = build(
        fitted.architecture,
        framework,
        num_classes=fitted.plan.num_classes,
        image_size=fitted.plan.image_size,
        features=fitted.plan.features,
        blank=True,
        device=device,
        **options,
    )
    fill(model, fitted.plan.apply(state), framework)
    model.eval()
    return model


def fill(model: Any, state: dict[str, LazyTensor] | Any, framework: str) -> None:
    """Load a state dict in the framework's own dialect into a model, strictly.

    One tensor is in memory beside the model at a time.
    """
    own = model.state_dict()
    missing, unexpected = sorted(set(own) - set(state)), sorted(set(state) - set(own))
    assert not missing, missing
    assert not unexpected, unexpected
    assign = _assign_torch if framework == "torch" else _assign_paddle
    for name, target in own.items():
        assign(target, state[name])


def _assign_paddle(target: Any, tensor: LazyTensor) -> None:
    import paddle

    dtype = str(target.dtype).rpartition(".")[2].lower()
    target.set_value(paddle.to_tensor(_wide(tensor).astype(dtype, order="C")))


def _assign_torch(target: Any, tensor: LazyTensor) -> None:
    """Fill a tensor on any device, its own memory where that is on the CPU."""
    import torch

    with torch.no_grad():
        alike = tuple(target.shape) == tensor.shape and target.is_contiguous()
        if not alike or str(target.dtype) != f"torch.{tensor.dtype.torch}":
            target.copy_(torch.from_numpy(_wide(tensor).copy(order="C")))
            return
        held = target if target.device.type == "cpu" else torch.empty_like(target, device="cpu")
        tensor.read_into(held.reshape(-1).view(torch.uint8).numpy().data)
        if held is not target:
            target.copy_(held)


def _wide(tensor: LazyTensor) -> Array:
    """Return a tensor's values, halves as float32."""
    array = tensor.read()
    return array.astype("float32") if tensor.dtype.name in ("bfloat16", "float16") else array
