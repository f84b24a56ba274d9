"""The commands of a worker, carried out through its framework's `Runner`."""

from __future__ import annotations

import contextlib
import dataclasses
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from porter import __version__
from porter.checkpoints.read import read
from porter.errors import InputError, UsageError, listed, printable
from porter.frameworks import exchange
from porter.frameworks.runner import PRECISIONS, Naming, Recording, Runner, Watch, as_it_is
from porter.mapping.fold import fold
from porter.tensors.blocks import Array
from porter.tensors.dtypes import DTYPES
from porter.tensors.lazy import LazyTensor
from porter.tensors.state_dict import StateDict
from porter.zoo.architectures import find
from porter.zoo.image_size import as_size


class Session:
    """The model and the weights of a worker, from `load` to the next one."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._weights: Mapping[str, LazyTensor] = {}
        self._loaded: tuple[str, str | None] | None = None

    def hello(self, device: str) -> dict[str, Any]:
        """Return the versions, and the device after choosing it."""
        versions = {
            "porter": __version__, "python": platform.python_version(), "numpy": np.__version__,
        }  # fmt: skip
        versions.update(self._runner.environment())
        return {"versions": versions, "device": self._runner.place(device)}

    def load(
        self,
        architecture: str,
        weights: str,
        num_classes: int,
        image_size: int | Sequence[int],
        *,
        features: Sequence[str] = (),
        config: Mapping[str, Any] | None = None,
        key: str | None = None,
        lacking: Sequence[str] = (),
        skipped: Sequence[str] = (),
    ) -> dict[str, Any]:
        """Build the model and read `weights`, a file in the framework's reference naming.

        The names must be those of the model, except that `lacking` are not in the file and
        `skipped` not in the model; `InputError` lists what is missing, unexpected or misshapen.
        """
        chosen = find(architecture)
        chosen = dataclasses.replace(chosen, config={**chosen.config, **(config or {})})
        self._runner.build(chosen, num_classes, as_size(image_size), features, blank=not lacking)
        state = read(weights, key=key)
        left_out = set(skipped)
        self._weights = {n: t for n, t in state.items() if n not in left_out}
        self._check(state, lacking, weights)
        self._loaded = None
        return {"tensors": self._runner.tensors()}

    @contextlib.contextmanager
    def adopt(self, model: Any, name: Naming = as_it_is) -> Iterator[None]:
        """Use a live model with the weights that it has, until the context ends."""
        with self._runner.lent(model, name):
            values = {name: self._runner.value(name) for name in self._runner.tensors()}
            self._weights, self._loaded = StateDict.of(values), None
            yield

    @property
    def weights(self) -> Mapping[str, LazyTensor]:
        """The weights that were loaded; of a live model halves are float32."""
        return self._weights

    def types(self) -> dict[str, str]:
        """Return the element type of each tensor of the model."""
        return {name: dtype for name, (dtype, _) in self._runner.tensors().items()}

    def _check(self, state: StateDict, lacking: Sequence[str], path: str) -> None:
        own = self._runner.tensors()
        shapes = {name: tensor.shape for name, tensor in self._weights.items()}
        missing = fold(set(own) - set(shapes) - set(lacking))
        unexpected = fold(set(shapes) - set(own))
        misshapen = [
            f"{printable(name)} is {list(shape)}, not {list(own[name][1])}"
            for name, shape in shapes.items()
            if name in own and own[name][1] != shape
        ]
        problems = [
            *([f"missing {listed(sorted(missing), 12)}"] if missing else []),
            *([f"unexpected {listed(sorted(unexpected), 12)}"] if unexpected else []),
            *misshapen[:6],
        ]
        if problems:
            raise InputError(f"does not load strictly: {'; '.join(problems)}", path)

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
        """Run each case of the file `inputs` and write the outputs to the file `output`.

        `rounded` names an element type to which the floating weights are rounded first. In the case
        named `layers` modules are watched: those of `watch`, or all.
        """
        arrays, described = exchange.load(inputs)
        self._use(precision, rounded)
        results: dict[str, Array] = {}
        about: dict[str, Any] = {"precision": precision}
        for case, given in exchange.cases(arrays, described).items():
            if cases and case not in cases:
                continue
            watched = Watch(watch, calls, limit) if case == layers else Watch()
            recording = self._runner.forward(given, watched)
            results.update({f"output/{case}/{k}": v for k, v in recording.outputs.items()})
            about["outputs"] = list(recording.outputs)
            if case == layers:
                about |= _pack_layers(results, recording)
        exchange.save(output, results, about)
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
        """Run single modules on the arguments that `run` stored in the file `calls`.

        A trial has the `place` of the call and the changes to make for it: `settings` of the module
        and `tensors` of the state dict, by name, each the name of an array in `values`.
        """
        known = exchange.about(calls)["calls"]
        arguments = {a["array"] for t in trials for a in known[t["place"]] if "array" in a}
        arrays, _ = exchange.load(calls, arguments)
        replacements = exchange.load(values)[0] if values else {}
        self._use(precision, rounded)
        results: dict[str, Array] = {}
        for index, trial in enumerate(trials):
            module = trial["place"].partition("#")[0]
            called = [_unpacked(a, arrays) for a in known[trial["place"]]]
            tensors = {name: replacements[key] for name, key in trial.get("tensors", {}).items()}
            settings = trial.get("settings", {})
            with self._replaced(tensors), self._runner.altered(module, settings):
                for part, array in self._called(module, called, bool(settings)).items():
                    results[f"{index}{part}"] = array
        exchange.save(output, results, {})
        return {}

    def _called(self, module: str, arguments: Sequence[Any], altered: bool) -> dict[str, Array]:
        """Run a module; no output if it was altered and does not fit its arguments any more."""
        try:
            return self._runner.call(module, arguments)
        except (RuntimeError, ValueError, TypeError) as error:
            if altered:
                return {}
            name = printable(module) or "the model"
            raise InputError(
                f"{name} cannot be called with the other side's arguments: {printable(error, 200)}"
            ) from error

    def settings(self, modules: Sequence[str], names: Sequence[str]) -> dict[str, Any]:
        """Return the settings of modules that are numbers: {module: {name: value}}."""
        results: dict[str, dict[str, Any]] = {}
        for module in modules:
            values = {name: self._runner.attribute(module, name) for name in names}
            results[module] = {n: v for n, v in values.items() if isinstance(v, int | float)}
        return {"settings": results}

    def mutate(
        self, inputs: str, output: str, precision: str, trials: Sequence[Mapping[str, str]],
        values: str, watch: Sequence[str] = (),
    ) -> dict[str, Any]:  # fmt: skip
        """Run the whole model once for each trial, {tensor: name of its value in `values`}.

        The outputs of the modules in `watch` are written as well.
        """
        arrays, _ = exchange.load(inputs)
        replacements, _ = exchange.load(values)
        self._use(precision, None)
        results: dict[str, Array] = {}
        for index, trial in enumerate(trials):
            with self._replaced({name: replacements[key] for name, key in trial.items()}):
                for case, array in arrays.items():
                    recording = self._runner.forward(array, Watch(watch))
                    both = {
                        **recording.outputs,
                        **{f"layer/{k}": v for k, v in recording.layers.items()},
                    }
                    results.update({f"{index}/{case}/{k}": v for k, v in both.items()})
        exchange.save(output, results, {})
        return {}

    def gradients(
        self, inputs: str, output: str, precision: str, *, rounded: str | None = None,
        rate: float | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """Write the gradient of sum(projection * logits) by every parameter.

        The file `inputs` has the arrays `input` and `projection`. With a learning `rate`, an
        AdamW step is taken instead and the parameters after it are written.
        """
        arrays, _ = exchange.load(inputs)
        self._use(precision, rounded)
        task = arrays["input"], arrays["projection"]
        if rate is None:
            results = self._runner.gradients(*task)
        else:
            results = self._runner.step(*task, rate)
            self._loaded = None
        exchange.save(output, results, {})
        return {}

    def _use(self, precision: str, rounded: str | None) -> None:
        if precision not in PRECISIONS:
            raise UsageError(f"precision {printable(precision)!r} is none of {listed(PRECISIONS)}")
        if (precision, rounded) == self._loaded:
            return
        self._runner.cast(precision)
        own = self._runner.tensors()
        for name, tensor in self._weights.items():
            self._runner.assign(name, _array(tensor, own[name][0], rounded))
        self._loaded = precision, rounded

    @contextlib.contextmanager
    def _replaced(self, tensors: Mapping[str, Array]) -> Iterator[None]:
        before = {name: self._runner.value(name) for name in tensors}
        try:
            for name, array in tensors.items():
                self._runner.assign(name, array)
            yield
        finally:
            for name, array in before.items():
                self._runner.assign(name, array)


def _array(tensor: LazyTensor, dtype: str, rounded: str | None) -> Array:
    """Return a tensor's values as float64 or float32, or unchanged if they are integers."""
    array = tensor.read()
    if tensor.dtype.is_float:
        if rounded is not None:
            with np.errstate(over="ignore", invalid="ignore"):
                array = array.astype(DTYPES[rounded].numpy)
        array = array.astype(np.float64 if dtype == "float64" else np.float32)
    return np.require(array, requirements=("C", "W"))


def _pack_layers(results: dict[str, Array], recording: Recording) -> dict[str, Any]:
    """Add layers and calls to the arrays of a file; return their JSON description."""
    results.update({f"layer/{place}": array for place, array in recording.layers.items()})
    calls: dict[str, list[Any]] = {}
    for place, arguments in recording.calls.items():
        calls[place] = []
        for index, argument in enumerate(arguments):
            if isinstance(argument, np.ndarray):
                results[f"call/{place}/{index}"] = argument
                calls[place].append({"array": f"call/{place}/{index}"})
            else:
                calls[place].append({"value": argument})
    return {
        "layers": list(recording.layers),
        "shapes": recording.shapes,
        "kinds": recording.kinds,
        "calls": calls,
    }


def _unpacked(argument: Mapping[str, Any], arrays: Mapping[str, Array]) -> Any:
    return arrays[argument["array"]] if "array" in argument else argument["value"]


def commands(session: Session) -> dict[str, Callable[..., dict[str, Any]]]:
    """Return the commands of a worker."""
    names = ("hello", "load", "run", "rerun", "settings", "mutate", "gradients")
    return {name: getattr(session, name) for name in names}
