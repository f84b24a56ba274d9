"""Make the skeleton files from the reference models: `python -m porter.frameworks.skeletons`.

Each model is built at two numbers of classes and two image sizes; a size that follows one of
them becomes a symbol. Needs torch and paddle, one at a time. A variant without reference model
has the names of transformers' class, which is then needed (version 5.24) with torch.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

from porter.frameworks.models import build
from porter.tensors.lazy import Shape
from porter.zoo import skeleton as skeletons
from porter.zoo.architectures import Architecture, all_variants, find
from porter.zoo.image_size import Size
from porter.zoo.published import published_config
from porter.zoo.skeleton import Dim, Skeleton, SkeletonTensor

_CLASSES = 7  # a number of classes that no layer has as its width
_Tensors = dict[str, tuple[str, Shape]]


def derive(architecture: Architecture, framework: str) -> Skeleton:
    """Return the skeleton of a variant's reference model."""
    base = tensors(architecture, framework)
    other_size = architecture.image_size * (2 if architecture.resizable else 1)
    larger = tensors(architecture, framework, num_classes=_CLASSES, image_size=other_size)
    fixed = _constant_names(architecture, framework)
    symbols = architecture.symbols()
    entries = [
        SkeletonTensor(name, constant=True)
        if name in fixed
        else SkeletonTensor(name, dtype, _dims(name, shape, larger[name][1], symbols))
        for name, (dtype, shape) in base.items()
    ]
    for feature in architecture.features:
        more = tensors(architecture, framework, features=(feature,))
        place = 0
        for name, (dtype, shape) in more.items():
            if name in base:
                place = [e.name for e in entries].index(name) + 1
                continue
            entries.insert(place, SkeletonTensor(name, dtype, shape, feature=feature))
            place += 1
    return Skeleton(tuple(entries))


def derive_published(architecture: Architecture) -> Skeleton:
    """Return the skeleton of a variant as transformers' class has it."""
    base, larger = (_published(architecture, n) for n in (None, _CLASSES))
    symbols = {"classes": architecture.num_classes}
    return Skeleton(
        tuple(
            SkeletonTensor(name, dtype, _dims(name, shape, larger[name][1], symbols))
            for name, (dtype, shape) in base.items()
        )
    )


def _published(architecture: Architecture, num_classes: int | None) -> _Tensors:
    import torch
    import transformers

    config = published_config(architecture, num_classes)
    assert config is not None, architecture.name
    model_class = getattr(transformers, config["architectures"][0])
    with torch.device("meta"):
        model = model_class(model_class.config_class.from_dict(config))
    return {
        name: (str(value.dtype).rpartition(".")[2], tuple(value.shape))
        for name, value in model.state_dict().items()
    }


def tensors(
    architecture: Architecture,
    framework: str,
    *,
    num_classes: int | None = None,
    image_size: Size | None = None,
    features: Sequence[str] = (),
) -> _Tensors:
    """Return {name: (dtype name, shape)} of a model's state dict, in its order."""
    with _no_memory(framework):
        model = build(
            architecture,
            framework,
            num_classes=num_classes,
            image_size=image_size,
            features=features,
        )
        return {
            name: (str(value.dtype).rpartition(".")[2].lower(), tuple(value.shape))
            for name, value in model.state_dict().items()
        }


def parameter_count(architecture: Architecture, framework: str) -> int:
    """Return the number of elements of all parameters, buffers left out."""
    with _no_memory(framework):
        model = build(architecture, framework)
        return sum(prod(p.shape) for p in model.parameters())


def _no_memory(framework: str) -> Any:
    """Return a context in which models are built without allocating their weights."""
    if framework == "torch":
        import torch

        return torch.device("meta")
    import paddle

    return paddle.LazyGuard() if hasattr(paddle, "LazyGuard") else contextlib.nullcontext()


def _constant_names(architecture: Architecture, framework: str) -> set[str]:
    made = architecture.constants()
    return set(made)


def _dims(name: str, base: Shape, larger: Shape, symbols: dict[str, int]) -> tuple[Dim, ...]:
    dims: list[Dim] = []
    tables = {size: symbol for symbol, size in symbols.items() if symbol != "classes"}
    for size, other in zip(base, larger, strict=True):
        if size == other:
            dims.append(size)
        elif size == symbols["classes"] and other == _CLASSES:
            dims.append("classes")
        elif size == symbols["classes"] + 1 and other == _CLASSES + 1:
            dims.append("classes+1")
        elif size in tables:
            dims.append(tables[size])
        else:
            raise ValueError(f"{name}: {size} becomes {other} for no reason that is known")
    return tuple(dims)


def main(names: Sequence[str]) -> None:
    """Write the skeleton files of the variants named, of all without names."""
    folder = Path(__file__).parents[2] / "reference_models" / "skeletons"
    chosen = [find(name) for name in names] or list(all_variants().values())
    for framework in ("torch", "paddle"):
        for architecture in chosen:
            if architecture.skeleton_of or (framework == "paddle" and not architecture.module):
                continue
            made = derive(architecture, framework) if architecture.module else derive_published(
                architecture
            )  # fmt: skip
            comment = f"{architecture.name} in {framework}, made by `make skeletons`: do not edit"
            text = skeletons.render(made, comment)
            assert skeletons.parse(text) == made
            (folder / f"{architecture.name}.{framework}.txt").write_text(text)
            print(f"{architecture.name} {framework}: {len(made.tensors)} tensors")


if __name__ == "__main__":
    main(sys.argv[1:])
