"""Load a checkpoint into a reference model that is ready to use."""

from __future__ import annotations

import os
import warnings
from typing import Any

from porter.errors import UsageError, printable
from porter.frameworks.fill import fill
from porter.frameworks.models import build, need
from porter.planning.fit import fit
from porter.remote import fetch
from porter.zoo.architectures import find


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
