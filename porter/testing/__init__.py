"""For the tests of a port: record any model's behaviour, assert that two sides are equivalent.

    from porter.testing import assert_equivalent, record

    def test_port(tmp_path):
        record(my_paddle_model, tmp_path / "mine.safetensors", architecture="vit-tiny-p16-224")
        assert_equivalent("vit-tiny-p16-224", "official.pth", tmp_path / "mine.safetensors")

`pytest --porter-report=report.html` gathers the verdicts of a test run (see `plugin`).
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from porter import __version__
from porter.errors import UsageError
from porter.tensors.blocks import Array
from porter.zoo.architectures import find

if TYPE_CHECKING:
    from porter.frameworks.runner import Recording, Runner
    from porter.verification.sides.prepare import Checkpoint
    from porter.verification.trace import Trace
    from porter.verification.verdict import Verdict

listeners: list[Callable[[Verdict], None]] = []
"""Called with every verdict of `assert_equivalent`."""


class NotEquivalent(AssertionError):
    """Two sides do not compute the same; `verdict` has the details."""

    def __init__(self, message: str, verdict: Verdict) -> None:
        super().__init__(message)
        self.verdict = verdict


def assert_equivalent(
    architecture: str, left: Checkpoint, right: Checkpoint, **options: Any
) -> Verdict:
    """Verify two checkpoints or traces and raise `NotEquivalent` unless the verdict passes.

    Options are those of `porter.verify`. A proof that could not be made (a framework is missing)
    raises too: a test that shows nothing must not pass.
    """
    __tracebackhide__ = True  # pytest shows the line of the test, not of this function
    from porter.commands.verify import verify
    from porter.report.text import plain

    verdict = verify(architecture, left, right, **options)
    for listener in listeners:
        listener(verdict)
    if not verdict.passed:
        raise NotEquivalent(plain(verdict), verdict)
    return verdict


def record(
    model: Any,
    output: str | os.PathLike[str],
    *,
    architecture: str,
    inputs: Mapping[str, Array] | None = None,
    num_classes: int | None = None,
    image_size: int | None = None,
    modules: Callable[[str], str | None] | None = None,
    exact: bool = True,
    device: str = "cpu",
    force: bool = False,
) -> Trace:
    """Run a live `nn.Module` or `nn.Layer` and write a trace to `output`.

    `inputs` maps names to batches (N, 3, H, W); None: seeded noise. Every module is recorded
    under its path; `modules` maps that path to the canonical one where they differ, and to None
    for a module to leave out. With `exact` the model also runs in float64, for which its weights
    are widened meanwhile: that run shows faults that float32 rounding hides. An `output` that
    exists is replaced with `force` only.
    """
    from porter.frameworks.runner import Watch
    from porter.frameworks.runner import runner as runner_of
    from porter.storage.outputs import check_outputs
    from porter.verification import trace as traces
    from porter.verification.inputs import noise
    from porter.verification.sides.report import SideReport
    from porter.verification.tolerance import PRESETS
    from porter.verification.trace import Trace

    check_outputs([output], (), force)
    chosen = find(architecture)
    if inputs and image_size is None:
        image_size = next(iter(inputs.values())).shape[-1]
    size = image_size or chosen.image_size
    protocol = PRESETS["default"]
    given = dict(inputs or noise(protocol.seeds, protocol.batch_sizes, size))
    framework = framework_of(model)
    runner = runner_of(framework)
    where = runner.place(device)
    runner.adopt(model)
    weights = {name: runner.value(name) for name in runner.tensors()}
    precisions = ["float64", "float32"] if exact else ["float32"]
    first, runs = next(iter(given)), {}
    for precision in precisions:
        _use(runner, weights, precision)
        watch = Watch(None, calls=precision == precisions[0])
        runs[precision] = {
            case: runner.forward(array, watch if case == first else Watch())
            for case, array in given.items()
        }
    classes = next(iter(runs[precisions[0]][first].outputs.values())).shape[-1]
    report = SideReport(
        label=f"{framework} (custom model)",
        framework=framework,
        dialect="",
        file="",
        format="",
        device=where,
        versions={
            "porter": __version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
            **runner.environment(),
        },
        recorded=True,
    )
    made = Trace(
        report, chosen.name, num_classes or classes, size, given,
        {p: _outputs(run) for p, run in runs.items()},
        {p: _layers(run[first], modules) for p, run in runs.items()},
    )  # fmt: skip
    arrays, about = _calls(runs[precisions[0]][first], modules)
    traces.save(made, output, arrays, about, force=force)
    return replace(made, calls=os.fspath(output))


def framework_of(model: Any) -> str:
    """Return `torch` or `paddle`, by the classes that a model inherits from."""
    for kind in type(model).__mro__:
        root = kind.__module__.partition(".")[0]
        if root in ("torch", "paddle"):
            return root
    raise UsageError(f"{type(model).__name__} is neither an nn.Module of torch nor of paddle")


def _use(runner: Runner, weights: Mapping[str, Array], precision: str) -> None:
    runner.cast(precision)
    for name, array in weights.items():
        wide = array.astype(precision) if array.dtype.kind == "f" else array
        runner.assign(name, np.ascontiguousarray(wide).reshape(array.shape))


def _outputs(run: Mapping[str, Recording]) -> dict[str, Array]:
    return {
        f"{case}/{k}": v for case, recording in run.items() for k, v in recording.outputs.items()
    }


def _layers(recording: Recording, modules: Callable[[str], str | None] | None) -> Any:
    from porter.verification.trace import Layers

    names = {place: _renamed(place, modules) for place in recording.layers}
    kept = {place: name for place, name in names.items() if name is not None}
    return Layers(
        {name: recording.layers[place] for place, name in kept.items()},
        {name: recording.shapes[place] for place, name in kept.items()},
        {name.partition("@")[0]: recording.kinds[place.partition("@")[0]]
         for place, name in kept.items()},
    )  # fmt: skip


def _calls(
    recording: Recording, modules: Callable[[str], str | None] | None
) -> tuple[dict[str, Array], dict[str, Any]]:
    arrays: dict[str, Array] = {}
    about: dict[str, list[Any]] = {}
    for place, arguments in recording.calls.items():
        name = _renamed(place, modules)
        if name is None:
            continue
        about[name] = []
        for index, argument in enumerate(arguments):
            if isinstance(argument, np.ndarray):
                arrays[f"call/{name}/{index}"] = argument
                about[name].append({"array": f"call/{name}/{index}"})
            else:
                about[name].append({"value": argument})
    return arrays, about


def _renamed(place: str, modules: Callable[[str], str | None] | None) -> str | None:
    if modules is None:
        return place
    path, mark, rest = _cut(place)
    name = modules(path)
    return None if name is None else f"{name}{mark}{rest}"


def _cut(place: str) -> tuple[str, str, str]:
    for mark in "#@":
        if mark in place:
            return place.partition(mark)
    return place, "", ""
