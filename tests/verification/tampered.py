"""Record reference models with a fault in their code: one trace for each fault.

    python tampered.py FRAMEWORK VARIANT SIZE WEIGHTS FOLDER FAULT...

It stands for the model of a user whose code differs from the reference, not his weights.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from porter import codecs
from porter.frameworks.fill import fill
from porter.frameworks.models import build
from porter.testing import record
from porter.verification.inputs import noise
from porter.zoo.architectures import find


def main(framework: str, variant: str, size: int, weights: str, folder: str, *faults: str) -> None:
    """Record one trace for each fault in `folder`; `none` is a good model."""
    model = build(find(variant), framework, num_classes=10, image_size=size)
    fill(model, codecs.read(weights), framework)
    model.eval()
    for fault in faults:
        with tampered(model, framework, fault):
            output = Path(folder) / f"{fault}.safetensors"
            record(
                model, output, architecture=variant, image_size=size, inputs=noise([0], [1], size)
            )


@contextlib.contextmanager
def tampered(model: Any, framework: str, fault: str) -> Iterator[None]:
    """Give a model a fault for a while."""
    library = importlib.import_module(framework)
    undo: list[tuple[Any, str, Any]] = []

    def put(target: Any, name: str, value: Any) -> None:
        undo.append((target, name, getattr(target, name)))
        setattr(target, name, value)

    modules = list(model.named_modules() if framework == "torch" else model.named_sublayers())
    if fault == "eps":
        name = "eps" if framework == "torch" else "_epsilon"
        for _, module in modules:
            if "LayerNorm" in type(module).__name__:
                put(module, name, 1e-6 if getattr(module, name) == 1e-5 else 1e-5)
    elif fault == "heads":
        for _, module in modules:
            if hasattr(module, "num_heads") and not hasattr(module, "proj_l"):
                put(module, "num_heads", 2 * module.num_heads)
                put(module, "scale", module.scale * 2**0.5)
    elif fault == "tanh":
        functional = library.nn.functional
        own = functional.gelu
        if framework == "torch":
            put(functional, "gelu", lambda x, approximate="none": own(x, approximate="tanh"))
        else:
            put(functional, "gelu", lambda x, approximate=False, name=None: own(x, True))
    elif fault == "token":
        _class_token_last(model, library, framework, put)
    try:
        yield
    finally:
        for target, name, value in reversed(undo):
            setattr(target, name, value)


def _class_token_last(model: Any, library: Any, framework: str, put: Any) -> None:
    """Join patches and class token in the wrong order, where they first meet."""
    name = "cat" if framework == "torch" else "concat"
    own, forward, joined = getattr(library, name), model.forward, []
    most = len(getattr(model, "blocks_token_only", [0]))

    def join(parts: Any, *args: Any, **options: Any) -> Any:
        if len(parts) == 2 and parts[0].shape[1] == 1 and len(joined) < most:
            joined.append(1)
            parts = [parts[1], parts[0]]
        return own(parts, *args, **options)

    def run(x: Any) -> Any:
        joined.clear()
        return forward(x)

    put(library, name, join)
    put(model, "forward", run)


if __name__ == "__main__":
    main(*sys.argv[1:3], int(sys.argv[3]), *sys.argv[4:])
