"""The units of a live model: modules with tensors, of which kind, in which layout.

Kinds come from the types of modules. A module of a type that is not known is a unit if it is a
leaf with the tensors of a layer; any other tensor is a unit by itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from porter.frameworks.live.signature import Signature
from porter.tensors.lazy import Shape

_KINDS = {
    "torch": [
        (r"ConvTranspose\dd", "conv_transpose"), (r"Conv\dd", "conv"),
        (r"(NonDynamicallyQuantizable)?Linear", "linear"),
        (r"(Sync)?BatchNorm(\dd)?|_BatchNorm", "batchnorm"),
        (r"(Layer|Group|RMS)Norm|InstanceNorm\dd", "norm"), (r"Embedding(Bag)?", "embedding"),
        (r"MultiheadAttention", "mha"), (r"LSTM|GRU|RNN|RNNBase|RNNCellBase", "rnn"),
        (r"PReLU", "prelu"),
    ],
    "paddle": [
        (r"Conv\dDTranspose", "conv_transpose"), (r"Conv\dD", "conv"),
        (r"(Column|Row)?(Sequence)?(Parallel)?Linear", "linear"),
        (r"(Sync)?BatchNorm(\dD)?|_BatchNormBase", "batchnorm"),
        (r"(Layer|Group|RMS)Norm|InstanceNorm\dD", "norm"),
        (r"(VocabParallel)?Embedding", "embedding"),
        (r"LSTM|GRU|SimpleRNN|RNNBase|RNNCellBase", "rnn"),
        (r"PReLU", "prelu"),
    ],
}  # fmt: skip
"""Kinds by the names of the frameworks' own classes."""
ROLES = {
    "weight": ("weight", "scale", "_weight", "gamma", "g", "w", "kernel"),
    "bias": ("bias", "beta", "shift", "b"),
    "mean": ("running_mean", "_mean"),
    "var": ("running_var", "_variance"),
    "count": ("num_batches_tracked",),
}
"""What a tensor is in its layer, by the last part of its name."""
_ROLE = {leaf: role for role, leaves in ROLES.items() for leaf in leaves}
_LIST = ".parametrizations.weight"


@dataclass
class Unit:
    """A module with its tensors, or a tensor by itself."""

    key: str
    kind: str
    """linear, conv, conv_transpose, batchnorm, norm, embedding, mha, rnn, prelu, custom, bare."""
    hook: str
    """Path of the module whose call uses it."""
    cls: str
    roles: dict[str, str] = field(default_factory=dict)
    """{role: name of the tensor}."""
    shapes: dict[str, Shape] = field(default_factory=dict)
    shared: tuple[str, ...] = ()
    """Roles of its tensors that are second names of others."""
    trained: bool = True
    """Whether one of its tensors is a parameter."""
    flipped: bool = False
    """Whether a matrix is stored as (in, out)."""
    sizes: tuple[int, ...] = ()
    """Whole numbers among the settings of the module and of those around it: heads, groups."""
    floating: bool = True
    order: int = 0
    """Place among the units as they are registered."""
    call: int = -1
    """Place among the calls, -1 if it is never called."""
    inputs: list[Signature] = field(default_factory=list)
    """Of the tensors of its first call."""
    output: Signature | None = None

    @property
    def single(self) -> str | None:
        """The role of its one tensor, None where there are several; second names count last."""
        own = [role for role in self.roles if role not in self.shared] or list(self.roles)
        return own[0] if len(own) == 1 else None

    @property
    def matrix(self) -> Shape | None:
        """(out, in) of what multiplies by a matrix: a Linear or a 1×1 convolution."""
        shape = self.shapes.get("weight") or self.shapes.get("weight_v") or ()
        if self.kind == "linear" and len(shape) == 2:
            return shape[::-1] if self.flipped else shape
        if self.kind == "conv" and len(shape) > 2 and set(shape[2:]) == {1}:
            return shape[:2]
        return None

    def as_json(self) -> dict[str, Any]:
        """Return it as a JSON value."""
        return dict(vars(self))

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> Unit:
        """Return a unit from its JSON value."""
        return cls(**{
            **value,
            "shapes": {role: tuple(shape) for role, shape in value["shapes"].items()},
            "sizes": tuple(value["sizes"]), "shared": tuple(value["shared"]),
            "inputs": [tuple(s) for s in value["inputs"]],
            "output": None if value["output"] is None else tuple(value["output"]),
        })  # fmt: skip


def kind_of(module: Any, framework: str) -> str:
    """Return the kind of a module by the frameworks' own class that it is, "" for none."""
    for cls in type(module).__mro__:
        if cls.__module__.partition(".")[0] != framework or cls.__name__ in ("Module", "Layer"):
            continue
        for pattern, kind in _KINDS[framework]:
            if re.fullmatch(pattern, cls.__name__):
                return kind
    return ""


def is_flipped(module: Any, framework: str) -> bool:
    """Whether a Linear stores its matrix as (in, out): Paddle's own, but those of its `compat`."""
    return framework == "paddle" and ".compat" not in type(module).__module__


def units_of(model: Any) -> tuple[list[Unit], dict[str, str]]:
    """Return the units of a live model in order, and {name: the first name of the same tensor}."""
    first: dict[int, str] = {}
    aliases: dict[str, str] = {}
    owned: dict[str, dict[str, str]] = {}
    for name, value in model.state.items():
        main = first.setdefault(model.storage(name), name)
        if main != name and value.shape != () and 0 not in tuple(value.shape):
            aliases[name] = main
        path, role = _place(name, model.modules)
        owned.setdefault(path, {})[role] = name
    parents = {path.rpartition(".")[0] for path in owned if path}
    found: list[Unit] = []
    for path, roles in owned.items():
        found += _units(model, path, roles, path in parents or path == "")
    for index, unit in enumerate(found):
        unit.order = index
        unit.shared = tuple(role for role, name in unit.roles.items() if name in aliases)
    return found, aliases


def _place(name: str, modules: Mapping[str, Any]) -> tuple[str, str]:
    """Return the module and the role of a tensor."""
    path, _, leaf = name.rpartition(".")
    if path.endswith(_LIST) and path in modules:
        kinds = [type(m).__name__ for m in modules[path].children()]
        if kinds == ["_WeightNorm"]:
            role = {"original0": "weight_g", "original1": "weight_v"}[leaf]
            return path[: -len(_LIST)], role
    return path, leaf


def _units(model: Any, path: str, leaves: dict[str, str], is_parent: bool) -> list[Unit]:
    module = model.modules.get(path)
    kind = "" if module is None else kind_of(module, model.framework)
    normal = {_ROLE.get(leaf, leaf): name for leaf, name in leaves.items()}
    layer = {"weight", "bias", "mean", "var", "count", "weight_g", "weight_v"}
    if kind in ("mha", "rnn"):
        return [_unit(model, path, kind, leaves, path)]
    if kind and set(normal) <= layer:
        return [_unit(model, path, kind, normal, path)]
    if module is not None and not is_parent and set(normal) <= layer and len(normal) == len(leaves):
        return [_unit(model, path, "custom", normal, path)]
    return [_unit(model, name, "bare", {"": name}, path) for name in leaves.values()]


def _unit(model: Any, key: str, kind: str, roles: dict[str, str], hook: str) -> Unit:
    module = model.modules.get(hook)
    return Unit(
        key, kind, hook, type(module).__name__, roles,
        {role: tuple(model.state[name].shape) for role, name in roles.items()},
        trained=any(name in model.parameters for name in roles.values()),
        floating=any(model.value(name).dtype.kind == "f" for name in roles.values()),
        flipped=kind == "linear" and module is not None and is_flipped(module, model.framework),
        sizes=_sizes(model.modules, hook),
    )  # fmt: skip


def _sizes(modules: Mapping[str, Any], path: str) -> tuple[int, ...]:
    """Return the whole numbers among the attributes of a module and of the two around it."""
    found: dict[int, None] = {}
    for _ in range(3):
        if path in modules:
            for value in vars(modules[path]).values():
                if type(value) is int and 1 < value <= 4096:
                    found[value] = None
        if not path:
            break
        path = path.rpartition(".")[0]
    return tuple(found)
