"""A live model of either framework: run it, record its calls, give it weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from porter.errors import InputError, printable
from porter.frameworks.live.hooks import tensors_of
from porter.frameworks.live.signature import Signature, signature
from porter.frameworks.live.units import Unit, units_of
from porter.tensors.blocks import Array


class Live:
    """A model with its units; whatever it keeps from one run is forgotten before the next."""

    def __init__(self, model: Any, array: Callable[[Any], Array]) -> None:
        self.model = model
        self._array = array
        self.units, self.aliases = units_of(model)
        self.hooks: dict[str, list[Unit]] = {}
        for unit in self.units:
            self.hooks.setdefault(unit.hook, []).append(unit)
        self._kept = {path: _attributes(module) for path, module in model.modules.items()}

    def forget(self) -> None:
        """Remove what runs have left in the modules: tables that were computed from weights."""
        for path, module in self.model.modules.items():
            _restore(module, self._kept[path])

    def cast(self, precision: str) -> None:
        """Compute in another precision from now on; after `InputError` it must be built again."""
        self.forget()
        try:
            self.model.cast(precision)
        except Exception as error:
            raise InputError(
                f"the {self.model.framework} model cannot compute in {precision}:"
                f" {printable(error, 200)}"
            ) from error
        self._kept = {path: _attributes(module) for path, module in self.model.modules.items()}

    def run(
        self,
        inputs: Mapping[str, Array],
        before: Callable[[str, tuple[Any, ...], Mapping[str, Any]], None] | None = None,
        after: Callable[[str, Any], None] | None = None,
    ) -> dict[str, Array]:
        """Return the outputs by their keys; `InputError` where the model fails."""
        self.forget()
        silent = lambda *_: None  # noqa: E731
        try:
            if before is None and after is None:
                output = self.model.run(inputs)
            else:
                with self.model.hooked(before or silent, after or silent):
                    output = self.model.run(inputs)
        except (Stop, InputError):
            raise
        except Exception as error:
            raise InputError(
                f"the {self.model.framework} model cannot be run on these inputs:"
                f" {type(error).__name__}: {printable(error, 300)}{self._elsewhere}"
            ) from error
        return {key: self._array(tensor) for key, tensor in tensors_of(output).items()}

    @property
    def _elsewhere(self) -> str:
        """What may help a model whose code asks for a CPU."""
        device = self.model.device
        return "" if device == "cpu" else f" (on {device}; --device cpu runs it on the CPU)"

    def signatures(self, arguments: Any) -> list[Signature]:
        """Return the signatures of the tensors among arguments or outputs."""
        return [signature(self._array(t)) for t in tensors_of(arguments).values()]

    def record(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run the model and set the calls of its units: order, inputs, output."""
        count = 0
        waiting: dict[str, Any] = {}

        def before(path: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
            nonlocal count
            for unit in self.hooks.get(path, ()):
                if unit.call < 0:
                    unit.call, unit.inputs = count, self.signatures([args, dict(kwargs)])
                    waiting[path] = (args, kwargs)
                    count += 1

        def after(path: str, output: Any) -> None:
            if path not in waiting:
                return
            args, kwargs = waiting.pop(path)
            signatures = self.signatures(output)
            for unit in self.hooks[path]:
                unit.output = signatures[0] if signatures else None
                if unit.kind == "custom":
                    self._classify(unit, [args, dict(kwargs)], output)

        for unit in self.units:
            unit.call = -1
        return self.run(inputs, before, after)

    def gradients(
        self, inputs: Mapping[str, Array], weigh: Callable[[tuple[int, ...]], Array]
    ) -> dict[str, float]:
        """Return the largest gradient of each parameter, of the sum of weighed outputs.

        `InputError` where a model has none: Paddle's recurrent layers cannot go back as they run.
        """
        self.forget()
        try:
            return dict(self.model.gradients(inputs, weigh))
        except Exception as error:
            raise InputError(f"no gradients: {printable(error, 200)}") from error

    def calls(self, inputs: Mapping[str, Array]) -> list[dict[str, Any]]:
        """Return the first call of each unit's module and of each module without others in it."""
        paths = self.model.modules
        parents = {path.rpartition(".")[0] for path in paths if path}
        watched = {path for path in paths if path not in parents} | set(self.hooks)
        weighty = {unit.hook for unit in self.units if unit.kind != "bare"}
        found: dict[str, dict[str, Any]] = {}

        def before(path: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
            if path in watched and path not in found:
                found[path] = {
                    "path": path, "kind": type(paths[path]).__name__, "output": None,
                    "weights": path in weighty, "settings": _settings(paths[path]),
                    "inputs": self.signatures([args, dict(kwargs)]),
                }  # fmt: skip

        def after(path: str, output: Any) -> None:
            if path in found and found[path]["output"] is None:
                made = self.signatures(output)
                found[path]["output"] = made[0] if made else None

        self.run(inputs, before, after)
        return list(found.values())

    def _classify(self, unit: Unit, arguments: Any, output: Any) -> None:
        """Recognise a layer of an unknown type by what it computes."""
        weight = unit.shapes.get("weight", ())
        ins, outs = list(tensors_of(arguments).values()), list(tensors_of(output).values())
        if len(weight) != 2 or not ins or not outs or set(unit.roles) - {"weight", "bias"}:
            return
        x, y = self._array(ins[0]), self._array(outs[0])
        w = self.model.value(unit.roles["weight"])
        b = self.model.value(unit.roles["bias"]) if "bias" in unit.roles else 0.0
        if x.dtype.kind in "iu":
            if x.size and x.min() >= 0 and x.max() < len(w) and _near(w[x], y):
                unit.kind = "embedding"
            return
        for flipped in (True, False):
            matrix = w if flipped else w.T
            if x.shape[-1:] == matrix.shape[:1] and _near(x @ matrix + b, y):
                unit.kind, unit.flipped = "linear", flipped
                return

    def randomise(self, seed: int, inputs: Mapping[str, Array]) -> None:
        """Give every tensor values that matter, as those of a trained model do."""
        draw = np.random.default_rng(seed)
        values: dict[str, Array] = {}
        for unit in self.units:
            for role, name in unit.roles.items():
                main = self.aliases.get(name, name)
                if main != name and main in values:
                    continue
                value = self.model.value(name)
                if value.dtype.kind == "f" and (unit.trained or _is_layer(unit)):
                    values[name] = _drawn(unit, role, value.shape, draw).astype(value.dtype)
        for name, value in values.items():
            self.model.assign(name, value)
        self._calibrate(draw, inputs)

    def _calibrate(self, draw: np.random.Generator, inputs: Mapping[str, Array]) -> None:
        """Set the statistics of batch norms to those of their inputs, moved a little.

        Otherwise a signal fades or grows beyond measure in a deep network.
        """
        done: set[str] = set()

        def before(path: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
            for unit in self.hooks.get(path, ()):
                if "mean" not in unit.roles or "var" not in unit.roles or path in done:
                    continue
                done.add(path)
                tensors = list(tensors_of([args, dict(kwargs)]).values())
                size = unit.shapes["mean"][0] if unit.shapes["mean"] else 0
                if not tensors or not size:
                    continue
                x = self._array(tensors[0])
                axis = 1 if x.ndim > 1 and x.shape[1] == size else x.ndim - 1
                if x.shape[axis] != size:
                    continue
                others = tuple(a for a in range(x.ndim) if a != axis)
                mean, var = x.mean(others), x.var(others)
                # Of a batch of one there is none: eps would be all that it is divided by.
                var = np.maximum(var, 0.1 * float(x.var())) + 1e-3
                for role, value in (
                    ("mean", mean + 0.2 * np.sqrt(var) * draw.standard_normal(size)),
                    ("var", var * draw.uniform(0.5, 1.5, size)),
                ):
                    name = unit.roles[role]
                    dtype = self.model.value(name).dtype
                    self.model.assign(name, np.ascontiguousarray(value, dtype))

        if any("mean" in unit.roles for unit in self.units):
            self.run(inputs, before)


class Stop(Exception):
    """Raised in a hook to end a run of which enough is known."""


def _near(x: Array, y: Array) -> bool:
    if x.shape != y.shape:
        return False
    scale = float(np.abs(y).max(initial=0.0))
    return bool(scale > 0 and np.abs(x - y).max() <= 1e-3 * scale)


def _is_layer(unit: Unit) -> bool:
    return unit.kind == "batchnorm" or {"mean", "var"} <= set(unit.roles)


def _drawn(unit: Unit, role: str, shape: tuple[int, ...], draw: np.random.Generator) -> Array:
    """Return values for a tensor that keep a signal alive: by its role in its layer."""
    scale = _scale(unit, role, shape)
    if scale is not None:
        return np.asarray(draw.standard_normal(shape) * scale)
    low, high = (0.1, 0.4) if unit.kind == "prelu" else (0.5, 1.5)
    return np.asarray(draw.uniform(low, high, shape))


def _scale(unit: Unit, role: str, shape: tuple[int, ...]) -> float | None:
    """Return the deviation of normal values around 0, None for factors around 1."""
    if role in ("var", "weight_g") or role.endswith("_g") or unit.kind == "prelu":
        return None
    if role == "mean" or (role.endswith("bias") and len(shape) == 1) or "bias_" in role:
        return 0.2
    if unit.kind == "embedding":
        return 0.7
    if unit.kind == "conv_transpose":
        return float((shape[0] * np.prod(shape[2:]) / 4) ** -0.5)
    if unit.kind == "conv":
        return float((2 / np.prod(shape[1:])) ** 0.5)
    if unit.kind == "linear" and len(shape) == 2:
        return float(shape[0 if unit.flipped else 1] ** -0.5)
    if len(shape) >= 2 and min(shape) > 1:
        return float(max(shape[-2:]) ** -0.5)
    if unit.kind == "bare" and max(shape, default=1) > 1 and len(shape) > 2:
        return 0.5
    return None


def _settings(module: Any) -> dict[str, Any]:
    """Return the settings of a module that are numbers, texts or lists of numbers."""
    plain = int | float | str | bool
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in vars(module).items()
        if isinstance(value, plain)
        or (isinstance(value, tuple | list) and all(isinstance(v, plain) for v in value))
    }


def _attributes(module: Any) -> dict[str, Any]:
    kept = {
        key: value.copy() if isinstance(value, dict | list) else value
        for key, value in vars(module).items()
        if not key.startswith("_")
    }
    buffers = vars(module).get("_buffers")
    return {"attributes": kept, "buffers": dict(buffers) if buffers is not None else None}


def _restore(module: Any, kept: Mapping[str, Any]) -> None:
    own, before = vars(module), kept["attributes"]
    for key in [key for key in own if not key.startswith("_") and key not in before]:
        del own[key]
    for key, value in before.items():
        now = own.get(key)
        if isinstance(value, dict) and isinstance(now, dict):
            now.clear()
            now.update(value)
        elif isinstance(value, list) and isinstance(now, list):
            now[:] = value
        elif now is not value or key not in own:  # Paddle moves a tensor to the buffers
            own[key] = value
    if kept["buffers"] is not None:
        own["_buffers"].clear()
        own["_buffers"].update(kept["buffers"])
