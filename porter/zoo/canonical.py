"""The tensors of a variant's default checkpoint, under their canonical names."""

from __future__ import annotations

from porter.zoo.architectures import Architecture
from porter.zoo.skeleton import Bound


def canonical_tensors(architecture: Architecture, features: tuple[str, ...] = ()) -> Bound:
    """Return {name: (dtype, shape)} of a variant's default checkpoint, constants included."""
    skeleton = architecture.skeleton()
    bound = skeleton.bind(architecture.symbols(), features)
    computed = architecture.constants()
    for name, array in computed.items():
        bound[name] = (array.dtype.name, array.shape)
    order = {tensor.name: index for index, tensor in enumerate(skeleton.tensors)}
    return dict(sorted(bound.items(), key=lambda item: order.get(item[0], len(order))))
