"""The commands of a worker on a live model: open it, record it, match it, run it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np

from porter.checkpoints.read import read
from porter.errors import InputError, listed
from porter.frameworks import build_reference, exchange, models
from porter.frameworks.live.cases import read_cases
from porter.frameworks.live.model import Live
from porter.frameworks.live.search import Attempt, Search, apart
from porter.frameworks.live.units import Unit
from porter.tensors.blocks import Array
from porter.tensors.dtypes import DTYPES

_SILENT, _SILENT_EXACT = 1e-7, 1e-12
"""A parameter whose loss would move the outputs by less, relative to their size, is not seen: in
float32, in float64."""


class LiveSession:
    """One live model, from `live_open` to the next one."""

    def __init__(self, framework: str) -> None:
        self._framework = framework
        self._live: Live | None = None

    @property
    def live(self) -> Live:
        """The model that was opened."""
        assert self._live is not None
        return self._live

    def live_open(
        self, *, drawn: bool = True, device: str = "cpu", **reference: Any
    ) -> dict[str, Any]:
        """Build the model of a reference; return its tensors and what shares them.

        torch leaves weights that are not `drawn` as they are allocated. `device` is what `hello`
        has chosen.
        """
        module = importlib.import_module(f"porter.frameworks.live.{self._framework}")
        module.begin()
        make = module.TorchModel if self._framework == "torch" else module.PaddleModel
        try:
            with nullcontext() if drawn else models.undrawn():
                model = build_reference.build(**reference)
            self._live = Live(make(model, device), module.array)
        except InputError as error:
            raise InputError(error.message, reference["text"]) from error
        live = self._live.model
        return {
            "tensors": {
                name: [str(value.dtype).rpartition(".")[2].lower(), list(value.shape)]
                for name, value in live.state.items()
            },
            "parameters": sorted(live.parameters),
            "aliases": self._live.aliases,
        }

    def live_values(self, output: str) -> dict[str, Any]:
        """Write the model's tensors as they are to a file."""
        model = self.live.model
        exchange.save(output, {name: model.value(name) for name in model.state}, {})
        return {}

    def live_seed(self, seed: int, inputs: str, output: str, precision: str) -> dict[str, Any]:
        """Give the model weights that matter, in a precision, and write them to a file."""
        live = self.live
        live.cast(precision)
        live.randomise(seed, next(iter(read_cases(inputs).values())))
        return self.live_values(output)

    def live_record(
        self, seed: int, inputs: str, output: str, precision: str = "float32"
    ) -> dict[str, Any]:
        """Give the model weights that matter; write them and all outputs to a file."""
        live, cases = self.live, read_cases(inputs)
        live.cast(precision)
        first = next(iter(cases.values()))
        live.randomise(seed, first)
        live.record(first)
        arrays = {f"weight/{name}": live.model.value(name) for name in live.model.state}
        keys: dict[str, list[str]] = {}
        for case, given in cases.items():
            outputs = live.run(given)
            keys[case] = list(outputs)
            arrays |= {f"output/{case}/{key}": value for key, value in outputs.items()}
        units = [unit.as_json() for unit in live.units]
        about = {"units": units, "aliases": live.aliases, "outputs": keys}
        exchange.save(output, arrays, about)
        return about

    def live_match(
        self, left: str, inputs: str, seconds: float, precision: str = "float32"
    ) -> dict[str, Any]:
        """Find what fills the model; `left` is the file that the left's `live_record` wrote."""
        live, cases = self.live, read_cases(inputs)
        live.cast(precision)
        first = next(iter(cases.values()))
        live.randomise(1, first)
        live.record(first)
        arrays, about = exchange.load(left)
        values = {n[7:]: a for n, a in arrays.items() if n.startswith("weight/")}
        lefts = [Unit.of(unit) for unit in about["units"]]
        wanted = {
            case: {key: arrays[f"output/{case}/{key}"] for key in keys}
            for case, keys in about["outputs"].items()
        }
        search = Search(
            live, lefts, values, first, next(iter(wanted.values())), seconds, self._silent([first])
        )
        best = search.run()
        errors = {}
        for case, given in cases.items():
            errors[case] = apart(wanted[case], live.run(given))
        return {**_found(best), "errors": errors, "runs": search.runs,
                "silent": self._silent(cases.values()),
                "units": [unit.as_json() for unit in live.units]}  # fmt: skip

    def live_fill(
        self,
        weights: str,
        key: str | None = None,
        rounded: str | None = None,
        precision: str | None = None,
    ) -> dict[str, Any]:
        """Load a checkpoint into the model, strictly but for names of one tensor.

        `rounded` is the element type that its values are rounded to first, `precision` that in
        which the model computes from now on.
        """
        live, state = self.live, read(weights, key=key)
        if precision is not None:
            live.cast(precision)
        own = live.model.state
        missing = [
            n for n in own
            if n not in state and live.aliases.get(n, n) not in state
            and n in live.model.parameters
        ]  # fmt: skip
        unexpected = [n for n in state if n not in own]
        misshapen = [
            f"{n} is {list(t.shape)}, not {list(own[n].shape)}"
            for n, t in state.items() if n in own and tuple(own[n].shape) != tuple(t.shape)
        ]  # fmt: skip
        problems = [f"missing {listed(missing, 12)}"] if missing else []
        problems += [f"unexpected {listed(unexpected, 12)}"] if unexpected else []
        if problems or misshapen:
            raise InputError(
                f"does not load strictly: {'; '.join([*problems, *misshapen[:6]])}", weights
            )
        for name, tensor in state.items():
            array = tensor.read()
            if tensor.dtype.is_float and rounded is not None:
                array = array.astype(DTYPES[rounded].numpy)
            if tensor.dtype.is_float:
                array = array.astype(np.float64 if tensor.dtype.itemsize > 4 else np.float32)
            live.model.assign(name, np.array(array, order="C"))
        return {}

    def live_run(self, inputs: str, output: str, precision: str = "float32") -> dict[str, Any]:
        """Run every case and write the outputs to a file."""
        live = self.live
        live.cast(precision)
        arrays: dict[str, Array] = {}
        keys: dict[str, list[str]] = {}
        for case, given in read_cases(inputs).items():
            outputs = live.run(given)
            keys[case] = list(outputs)
            arrays |= {f"output/{case}/{key}": value for key, value in outputs.items()}
        exchange.save(output, arrays, {"outputs": keys})
        return {"outputs": keys}

    def live_mutate(
        self, left: str, inputs: str, values: str, trials: Sequence[Mapping[str, str]]
    ) -> dict[str, Any]:
        """Return how far the outputs are from the left's, and how far each trial moves them.

        A trial is {tensor: name of its value in the file `values`}.
        """
        live, given = self.live, next(iter(read_cases(inputs).values()))
        arrays, about = exchange.load(left)
        case, keys = next(iter(about["outputs"].items()))
        wanted = {key: arrays[f"output/{case}/{key}"] for key in keys}
        before = live.run(given)
        replacements = exchange.load(values)[0]
        errors = []
        for trial in trials:
            kept = {name: live.model.value(name) for name in trial}
            for name, key in trial.items():
                live.model.assign(name, replacements[key])
            errors.append(min(apart(before, live.run(given)), 1e9))
            for name, value in kept.items():
                live.model.assign(name, value)
        return {"agreement": min(apart(wanted, before), 1e9), "errors": errors}

    def live_calls(self, inputs: str) -> dict[str, Any]:
        """Return the calls of all modules that have no others in them, in the first case."""
        return {"calls": self.live.calls(next(iter(read_cases(inputs).values())))}

    def live_silent(self, inputs: str) -> dict[str, Any]:
        """Return the parameters that no output of any case shows, by its gradient."""
        return {"silent": self._silent(read_cases(inputs).values())}

    def _silent(self, cases: Iterable[Mapping[str, Array]]) -> list[str]:
        live = self.live
        draw = np.random.default_rng(3)
        seen: dict[str, float] = {}
        for given in cases:
            outputs = live.run(given)
            size = (
                sum(float(np.square(a.astype(np.float64)).sum()) for a in outputs.values()) ** 0.5
            )
            try:
                found = live.gradients(given, lambda shape: draw.standard_normal(shape, np.float32))
            except InputError:
                return self._still(given)
            for name, slope in found.items():
                value = live.model.value(name)
                effect = slope * float(np.sqrt(np.mean(np.square(value)))) if value.size else 0.0
                seen[name] = max(seen.get(name, 0.0), effect / (size or 1.0))
        return [name for name, effect in seen.items() if effect <= self._least]

    @property
    def _least(self) -> float:
        return _SILENT_EXACT if "float64" in str(self.live.model.dtype) else _SILENT

    def _still(self, given: Mapping[str, Array]) -> list[str]:
        """Return the parameters that no output shows, by changing each."""
        live, draw = self.live, np.random.default_rng(3)
        before, still = live.run(given), []
        for name in live.model.parameters:
            value = live.model.value(name)
            noise = draw.standard_normal(value.shape) * 0.5 * (np.abs(value).mean() or 1.0)
            live.model.assign(name, np.asarray(value + noise, value.dtype, order="C"))
            if apart(before, live.run(given)) <= self._least:
                still.append(name)
            live.model.assign(name, value)
        return still


def _found(best: Attempt) -> dict[str, Any]:
    """Return an attempt as a JSON value."""
    return {
        "choices": [
            {
                "unit": choice.unit.key,
                "left": list(choice.option.left) if choice.option else [],
                "matched": choice.matched,
                "fitting": len(choice.fitting),
                "layout": choice.option.layout if choice.option else "",
                "recipes": {
                    name: {
                        "left": list(r.left), "first": list(r.first), "join": r.join,
                        "part": r.part, "ops": list(r.ops),
                    }
                    for name, r in (choice.option.recipes if choice.option else {}).items()
                },
            }
            for choice in best.choices
        ],
        "diverged": None if best.diverged is None else best.choices[best.diverged].unit.key,
        "differing": best.differing,
    }  # fmt: skip


def commands(framework: str) -> dict[str, Callable[..., dict[str, Any]]]:
    """Return the commands of a worker on live models."""
    session = LiveSession(framework)
    return {name: getattr(session, name) for name in dir(session) if name.startswith("live_")}
