"""What a worker does when it is asked; knows no framework but through its `Side`."""

from __future__ import annotations

import contextlib
import dataclasses
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from porter import __version__, codecs
from porter.errors import InputError, UsageError, listed, printable
from porter.frameworks import exchange
from porter.frameworks.side import PRECISIONS, Record, Side, Watch
from porter.mapping.fold import fold
from porter.tensors.blocks import Array
from porter.tensors.dtypes import DTYPES
from porter.tensors.lazy import LazyTensor
from porter.tensors.state_dict import StateDict
from porter.zoo.architectures import find


class Session:
    """One side's model and weights over the life of a worker."""

    def __init__(self, side: Side) -> None:
        self._side = side
        self._weights: Mapping[str, LazyTensor] = {}
        self._loaded: tuple[str, str | None] | None = None

    def hello(self, device: str) -> dict[str, Any]:
        """Return the versions, and the device after choosing it."""
        versions = {
            "porter": __version__, "python": platform.python_version(), "numpy": np.__version__,
        }  # fmt: skip
        versions.update(self._side.environment())
        return {"versions": versions, "device": self._side.place(device)}

    def load(
        self,
        architecture: str,
        weights: str,
        num_classes: int,
        image_size: int,
        *,
        features: Sequence[str] = (),
        config: Mapping[str, Any] | None = None,
        key: str | None = None,
        lacking: Sequence[str] = (),
        skipped: Sequence[str] = (),
    ) -> dict[str, Any]:
        """Build the model and read `weights`, a file in the framework's reference naming.

        Every tensor of the model must be there but those `lacking`, every tensor of the file
        must have its place but those `skipped`; else `InputError` lists what is wrong.
        """
        chosen = find(architecture)
        chosen = dataclasses.replace(chosen, config={**chosen.config, **(config or {})})
        self._side.build(chosen, num_classes, image_size, features, blank=not lacking)
        state = codecs.read(weights, key=key)
        left_out = set(skipped)
        self._weights = {n: t for n, t in state.items() if n not in left_out}
        self._hold(state, lacking, weights)
        self._loaded = None
        return {"tensors": self._side.tensors()}

    def _hold(self, state: StateDict, lacking: Sequence[str], path: str) -> None:
        own = self._side.tensors()
        there = {name: tensor.shape for name, tensor in self._weights.items()}
        missing = fold(set(own) - set(there) - set(lacking))
        unexpected = fold(set(there) - set(own))
        misshapen = [
            f"{printable(name)} is {list(shape)}, not {list(own[name][1])}"
            for name, shape in there.items()
            if name in own and own[name][1] != shape
        ]
        said = [
            *([f"missing {listed(sorted(missing), 12)}"] if missing else []),
            *([f"unexpected {listed(sorted(unexpected), 12)}"] if unexpected else []),
            *misshapen[:6],
        ]
        if said:
            raise InputError(f"does not load strictly: {'; '.join(said)}", path)

    def run(
        self,
        inputs: str,
        output: str,
        precision: str,
        *,
        cases: Sequence[str] | None = None,
        rounded: str | None = None,
        layers: str | None = "",
        watch: Sequence[str] | None = None,
        calls: bool = False,
        limit: int | None = None,
    ) -> dict[str, Any]:
        """Run each case of the file `inputs` and write what comes out to the file `output`.

        `rounded` names an element type through which the floating weights go first. In the case
        named `layers` modules are watched: those of `watch`, or all.
        """
        arrays, _ = exchange.load(inputs)
        self._use(precision, rounded)
        found: dict[str, Array] = {}
        about: dict[str, Any] = {"precision": precision}
        for case in cases or arrays:
            watched = Watch(watch, calls, limit) if case == layers else Watch()
            record = self._side.forward(arrays[case], watched)
            found.update({f"output/{case}/{k}": v for k, v in record.outputs.items()})
            if case == layers:
                about |= _pack_layers(found, record)
        exchange.save(output, found, about)
        return {}

    def rerun(
        self,
        calls: str,
        output: str,
        precision: str,
        trials: Sequence[Mapping[str, Any]],
        *,
        rounded: str | None = None,
        values: str | None = None,
    ) -> dict[str, Any]:
        """Run modules by themselves on the arguments that a run kept in the file `calls`.

        A trial has the `place` of the call and what to alter for it: `settings` of the module,
        `tensors` of the state dict by name, each the name of an array in the file `values`.
        """
        known = exchange.about(calls)["calls"]
        arguments = {a["array"] for t in trials for a in known[t["place"]] if "array" in a}
        arrays, _ = exchange.load(calls, arguments)
        given = exchange.load(values)[0] if values else {}
        self._use(precision, rounded)
        found: dict[str, Array] = {}
        for index, trial in enumerate(trials):
            module = trial["place"].partition("#")[0]
            called = [_unpacked(a, arrays) for a in known[trial["place"]]]
            tensors = {name: given[key] for name, key in trial.get("tensors", {}).items()}
            settings = trial.get("settings", {})
            with self._replaced(tensors), self._side.altered(module, settings):
                for part, array in self._called(module, called, bool(settings)).items():
                    found[f"{index}{part}"] = array
        exchange.save(output, found, {})
        return {}

    def _called(self, module: str, arguments: Sequence[Any], altered: bool) -> dict[str, Array]:
        """Run a module; one whose alteration does not fit its arguments gives nothing."""
        try:
            return self._side.call(module, arguments)
        except (RuntimeError, ValueError, TypeError) as error:
            if altered:
                return {}
            said = f"cannot be called with what the other side's was: {printable(error, 200)}"
            raise InputError(f"{printable(module) or 'the model'} {said}") from error

    def settings(self, modules: Sequence[str], names: Sequence[str]) -> dict[str, Any]:
        """Return the settings of modules that are numbers: {module: {name: value}}."""
        found: dict[str, dict[str, Any]] = {}
        for module in modules:
            values = {name: self._side.attribute(module, name) for name in names}
            found[module] = {n: v for n, v in values.items() if isinstance(v, int | float)}
        return {"settings": found}

    def mutate(
        self, inputs: str, output: str, precision: str, trials: Sequence[Mapping[str, str]],
        values: str, watch: Sequence[str] = (),
    ) -> dict[str, Any]:  # fmt: skip
        """Run the whole model once for each trial, {tensor: name of its value in `values`}.

        Outputs of the modules in `watch` are written beside the model's.
        """
        arrays, _ = exchange.load(inputs)
        given, _ = exchange.load(values)
        self._use(precision, None)
        found: dict[str, Array] = {}
        for index, trial in enumerate(trials):
            with self._replaced({name: given[key] for name, key in trial.items()}):
                for case, array in arrays.items():
                    record = self._side.forward(array, Watch(watch))
                    both = {**record.outputs, **{f"layer/{k}": v for k, v in record.layers.items()}}
                    found.update({f"{index}/{case}/{k}": v for k, v in both.items()})
        exchange.save(output, found, {})
        return {}

    def gradients(
        self, inputs: str, output: str, precision: str, *, rounded: str | None = None,
        rate: float | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """Write the gradient of sum(projection * logits) by every parameter.

        The file `inputs` holds `input` and `projection`. With a learning `rate`, an AdamW step
        is taken instead and the parameters after it are written.
        """
        arrays, _ = exchange.load(inputs)
        self._use(precision, rounded)
        given = arrays["input"], arrays["projection"]
        if rate is None:
            found = self._side.gradients(*given)
        else:
            found = self._side.step(*given, rate)
            self._loaded = None
        exchange.save(output, found, {})
        return {}

    def _use(self, precision: str, rounded: str | None) -> None:
        if precision not in PRECISIONS:
            raise UsageError(f"precision {printable(precision)!r} is none of {listed(PRECISIONS)}")
        if (precision, rounded) == self._loaded:
            return
        self._side.cast(precision)
        own = self._side.tensors()
        for name, tensor in self._weights.items():
            self._side.assign(name, _array(tensor, own[name][0], rounded))
        self._loaded = precision, rounded

    @contextlib.contextmanager
    def _replaced(self, tensors: Mapping[str, Array]) -> Iterator[None]:
        before = {name: self._side.value(name) for name in tensors}
        try:
            for name, array in tensors.items():
                self._side.assign(name, array)
            yield
        finally:
            for name, array in before.items():
                self._side.assign(name, array)


def _array(tensor: LazyTensor, dtype: str, rounded: str | None) -> Array:
    """Return a tensor's values in a type that every framework takes, none rounded unasked."""
    array = tensor.read()
    if tensor.dtype.is_float:
        if rounded is not None:
            with np.errstate(over="ignore", invalid="ignore"):
                array = array.astype(DTYPES[rounded].numpy)
        array = array.astype(np.float64 if dtype == "float64" else np.float32)
    return np.array(array, order="C")


def _pack_layers(found: dict[str, Array], record: Record) -> dict[str, Any]:
    """Add layers and calls to the arrays of a file; return what is said of them beside it."""
    found.update({f"layer/{place}": array for place, array in record.layers.items()})
    calls: dict[str, list[Any]] = {}
    for place, arguments in record.calls.items():
        calls[place] = []
        for index, argument in enumerate(arguments):
            if isinstance(argument, np.ndarray):
                found[f"call/{place}/{index}"] = argument
                calls[place].append({"array": f"call/{place}/{index}"})
            else:
                calls[place].append({"value": argument})
    return {
        "layers": list(record.layers),
        "shapes": record.shapes,
        "kinds": record.kinds,
        "calls": calls,
    }


def _unpacked(argument: Mapping[str, Any], arrays: Mapping[str, Array]) -> Any:
    return arrays[argument["array"]] if "array" in argument else argument["value"]


def commands(session: Session) -> dict[str, Callable[..., dict[str, Any]]]:
    """Return what a worker can be asked."""
    names = ("hello", "load", "run", "rerun", "settings", "mutate", "gradients")
    return {name: getattr(session, name) for name in names}
