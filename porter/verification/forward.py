"""The forward proof: both sides run on the same inputs, judged against float64."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from porter.errors import MissingPackage, UsageError, listed, printable
from porter.frameworks import exchange
from porter.frameworks.process import Pool
from porter.remote.fetch import stale
from porter.tensors.blocks import Array
from porter.verification import inputs as sources
from porter.verification import trace as traces
from porter.verification.checks import EXACT, SINGLE
from porter.verification.diagnose.deep import Pair, deepen
from porter.verification.diagnose.layers import describe
from porter.verification.judge import judge
from porter.verification.live import Live, started, together
from porter.verification.participants import SideReport
from porter.verification.sensitivity.fuzzed import prove_unseen
from porter.verification.sides import Checkpoint, Prepared, agree, prepare
from porter.verification.tolerance import PRESETS, Preset, roundoff
from porter.verification.trace import Trace
from porter.verification.verdict import FAILED, NOT_MADE, PASSED, Verdict
from porter.zoo.architectures import Architecture, find


def verify(
    architecture: str | Architecture,
    left: Checkpoint,
    right: Checkpoint,
    *,
    left_dialect: str | None = None,
    right_dialect: str | None = None,
    left_key: str | None = None,
    right_key: str | None = None,
    num_classes: int | None = None,
    image_size: int | None = None,
    seeds: int | Sequence[int] | None = None,
    batch_sizes: Sequence[int] | None = None,
    images: str | os.PathLike[str] | None = None,
    inputs: str | os.PathLike[str] | None = None,
    precision: str = SINGLE,
    device: str = "auto",
    python: Mapping[str, str] | None = None,
    preset: str = "default",
    per_layer: bool = False,
    grad: bool = False,
    train_step: bool = False,
    diagnose: bool = True,
    sensitivity: bool = False,
    pool: Pool | None = None,
) -> Verdict:
    """Run `left` (the source) and `right`, each in a process of its own, and compare.

    Either may be a trace that `record` wrote. The reference is the float64 run of the left side;
    `porter.verification.judge` says what passes. Dialects are recognised when not given. Inputs are
    seeded noise, or the pictures of the folder `images` as the variant wants them, or the arrays
    of the file `inputs`; `image_size` is in pixels. `precision` is what the right side computes
    in, beside float64. `python` maps a framework to the interpreter of another environment that
    has it and porter; `pool` lends processes that are kept. A verdict that fails names the
    likely faults unless `diagnose` is off. With `sensitivity`, one that passes names the tensors
    that its outputs do not show, and both sides are run again on fuzzed weights that show them.
    A framework that is not installed gives a verdict whose status is `not made`.
    Raises `InputError`, `MappingError` or `UsageError` for checkpoints that do not fit.
    """
    chosen = find(architecture) if isinstance(architecture, str) else architecture
    protocol = _preset(preset, seeds, batch_sizes)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="porter-")))
        sized = {"num_classes": num_classes, "image_size": image_size}
        sides = [
            _given(chosen, left, folder / "left", left_dialect, left_key, **sized),
            _given(chosen, right, folder / "right", right_dialect, right_key, **sized),
        ]
        agree(sides[0], sides[1])
        sides, swapped = _graph_right(sides)
        protocol, precision = _as_graph(sides, protocol, precision)
        given = _Inputs(protocol, images, inputs)
        case = _write_inputs(folder, given, chosen, sides)
        watch = case if per_layer else ""
        told = stale(*(side.state for side in sides if isinstance(side, Prepared)))
        blank = replace(_blank(chosen, sides, precision, preset), notes=(*swapped, *told))
        try:
            lives = stack.enter_context(_started(sides, folder, device, python or {}, pool))
        except MissingPackage as error:
            return replace(blank, reason=str(error))
        found = _run(lives, sides, folder / "inputs.safetensors", precision, watch)
        verdict = replace(
            blank,
            left=found[0].report,
            right=found[1].report,
            cases=tuple(found[0].inputs),
            checks=judge(found[0], found[1], precision, protocol),
        )
        both = [None if _is_graph(s) else live for s, live in zip(sides, lives, strict=True)]
        pair = Pair(chosen, both[0], both[1], found[0], found[1], folder, precision, case)
        verdict = deepen(verdict, pair, per_layer, grad, train_step, diagnose)
        return _concluded(prove_unseen(verdict, pair, diagnose) if sensitivity else verdict)


def record(
    architecture: str | Architecture,
    checkpoint: Checkpoint,
    output: str | os.PathLike[str],
    *,
    dialect: str | None = None,
    key: str | None = None,
    num_classes: int | None = None,
    image_size: int | None = None,
    seeds: int | Sequence[int] | None = None,
    batch_sizes: Sequence[int] | None = None,
    images: str | os.PathLike[str] | None = None,
    inputs: str | os.PathLike[str] | None = None,
    precision: str = SINGLE,
    device: str = "auto",
    python: Mapping[str, str] | None = None,
    preset: str = "default",
    per_layer: bool = False,
) -> Trace:
    """Run one side and write what it computes to `output`, to be compared elsewhere.

    With `per_layer` the arguments of every module are kept as well (large): the other machine
    can then tell a layer that causes a difference from those that propagate it.
    Raises as `verify` does, and `MissingPackage` when the framework is not installed.
    """
    chosen = find(architecture) if isinstance(architecture, str) else architecture
    protocol = _preset(preset, seeds, batch_sizes)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="porter-")))
        side = prepare(
            chosen, checkpoint, folder / "side", dialect=dialect, key=key,
            num_classes=num_classes, image_size=image_size,
        )  # fmt: skip
        case = _write_inputs(folder, _Inputs(protocol, images, inputs), chosen, [side])
        (live,) = stack.enter_context(started([side], folder, device, python or {}))
        given = folder / "inputs.safetensors"
        if side.is_graph:
            raise UsageError("is an ONNX model: compare it by `porter verify`", side.report.file)
        steps = list(dict.fromkeys([EXACT, SINGLE, precision]))
        made = replace(live.run(given, steps, layers=case), report=live.report)
        calls, about = {}, {}
        if per_layer:
            path = live.keep_calls(given, case, EXACT, None, "all")
            arrays, said = exchange.load(path)
            calls = {n: a for n, a in arrays.items() if n.startswith("call/")}
            about = said["calls"]
            made = replace(made, layers={**made.layers, EXACT: live.layers_of(path)})
        traces.save(made, output, calls, about)
        return made


Side = Prepared | Trace


@dataclass(frozen=True, slots=True)
class _Inputs:
    protocol: Preset
    images: str | os.PathLike[str] | None
    arrays: str | os.PathLike[str] | None


def _preset(name: str, seeds: int | Sequence[int] | None, batches: Sequence[int] | None) -> Preset:
    if name not in PRESETS:
        raise UsageError(f"preset {printable(name)!r} is none of {listed(PRESETS)}")
    chosen = PRESETS[name]
    count = chosen.seeds if seeds is None else seeds
    numbers = tuple(range(count)) if isinstance(count, int) else tuple(count)
    return replace(chosen, seeds=numbers, batch_sizes=tuple(batches or chosen.batch_sizes))


def _given(
    architecture: Architecture,
    given: Checkpoint,
    folder: Path,
    dialect: str | None,
    key: str | None,
    num_classes: int | None,
    image_size: int | None,
) -> Side:
    if not isinstance(given, Mapping) and traces.is_trace(given):
        found = traces.load(given)
        if found.architecture not in (architecture.name, architecture.sibling):
            own = printable(found.architecture)
            raise UsageError(f"is a trace of {own}, not of {architecture.name}", given)
        return found
    return prepare(
        architecture, given, folder, dialect=dialect, key=key, num_classes=num_classes,
        image_size=image_size,
    )  # fmt: skip


def _write_inputs(
    folder: Path, given: _Inputs, architecture: Architecture, sides: Sequence[Side]
) -> str:
    """Write the inputs for both sides; return the name of the first, in which layers are watched.

    A trace has its inputs with it: the other side is given the same.
    """
    recorded = [side for side in sides if isinstance(side, Trace)]
    size = sides[0].image_size
    if recorded:
        if len(recorded) == 2 and not _same(recorded[0].inputs, recorded[1].inputs):
            raise UsageError("the two traces were recorded with different inputs")
        arrays = dict(recorded[0].inputs)
    elif given.images is not None:
        arrays = sources.pictures(given.images, architecture.preprocessing, size)
    elif given.arrays is not None:
        arrays = sources.arrays(given.arrays, size)
    else:
        arrays = sources.noise(given.protocol.seeds, given.protocol.batch_sizes, size)
    exchange.save(folder / "inputs.safetensors", arrays, {})
    return next(iter(arrays))


def _is_graph(side: Side) -> bool:
    return isinstance(side, Prepared) and side.is_graph


def _graph_right(sides: list[Side]) -> tuple[list[Side], tuple[str, ...]]:
    """Put an ONNX model on the right: the left side's float64 run is the reference."""
    if not _is_graph(sides[0]):
        return sides, ()
    if _is_graph(sides[1]):
        raise UsageError("both are ONNX models: one side must be a checkpoint, run in float64")
    return sides[::-1], ("the sides were swapped: an ONNX model has no float64 run",)


def _as_graph(sides: Sequence[Side], protocol: Preset, precision: str) -> tuple[Preset, str]:
    """Return protocol and precision as the right side's graph, if it is one, has them."""
    side = sides[1]
    if not isinstance(side, Prepared) or not side.is_graph:
        return protocol, precision
    batches = (side.batch,) if side.batch is not None else protocol.batch_sizes
    own = max(side.report.weights, key=roundoff, default=SINGLE)
    return replace(protocol, batch_sizes=batches), own if precision == SINGLE else precision


def _same(one: Mapping[str, Array], other: Mapping[str, Array]) -> bool:
    return one.keys() == other.keys() and all(
        one[case].shape == other[case].shape and bool((one[case] == other[case]).all())
        for case in one
    )


def _blank(
    architecture: Architecture, sides: Sequence[Side], precision: str, preset: str
) -> Verdict:
    return Verdict(
        architecture=architecture.name,
        status=NOT_MADE,
        reason="",
        left=sides[0].report,
        right=sides[1].report,
        num_classes=sides[0].num_classes,
        image_size=sides[0].image_size,
        precision=precision,
        preset=preset,
    )


@contextlib.contextmanager
def _started(
    sides: Sequence[Side], folder: Path, device: str, python: Mapping[str, str], pool: Pool | None
) -> Iterator[list[Live | None]]:
    """Start the sides that are no traces; None stands for one that is."""
    wanted = [side for side in sides if isinstance(side, Prepared)]
    with started(wanted, folder, device, python, pool) as lives:
        running = iter(lives)
        both = [next(running) if isinstance(side, Prepared) else None for side in sides]
        if both[0] is not None:
            both[0].rounded = _rounding(sides[0].report, sides[1].report)
        yield both


def _rounding(left: SideReport, right: SideReport) -> str | None:
    """Return the element type that the right side's weights were rounded to and the left's not."""
    coarse = [max(side.weights, key=roundoff, default=SINGLE) for side in (left, right)]
    return coarse[1] if roundoff(coarse[1]) > roundoff(coarse[0]) else None


def _run(
    lives: Sequence[Live | None], sides: Sequence[Side], inputs: Path, precision: str, watch: str
) -> list[Trace]:
    """Return both traces: in float64, and in float32 on the left, the precision on the right."""
    exact = () if _is_graph(sides[1]) else (EXACT,)
    steps = [(EXACT, SINGLE), tuple(dict.fromkeys([*exact, precision]))]

    def compute(index: int) -> Trace:
        live, side = lives[index], sides[index]
        if live is not None:
            return live.run(inputs, steps[index], layers="" if _is_graph(side) else watch)
        assert isinstance(side, Trace)
        lacking = [step for step in steps[index][-1:] if step not in side.outputs]
        if index == 0 and EXACT not in side.outputs:
            lacking.append(EXACT)
        if lacking:
            raise UsageError(
                f"the trace has no run in {listed(lacking)}; it has {listed(side.outputs)}",
                side.report.file,
            )
        return side

    return together([lambda: compute(0), lambda: compute(1)])


def _concluded(verdict: Verdict) -> Verdict:
    """Set status and reason from what was found."""
    layers = verdict.layers
    groups = [
        ("outputs", [c.problem and f"{c.output} of {c.case} in {c.precision}: {c.problem}"
                     for c in verdict.checks]),
        ("tensors", [t.problem and f"{t.name} {t.problem}" for t in verdict.tensors]),
        ("layers", [c.problem and f"{c.place or 'the model'}: {c.problem}" for c in layers]),
        ("gradients", [c.problem and f"{c.case} of {c.output}: {c.problem}"
                       for c in verdict.gradients]),
        ("outputs on fuzzed weights", [c.problem and f"{c.output} of {c.case}: {c.problem}"
                                       for c in verdict.fuzzed]),
    ]  # fmt: skip
    said = []
    for what, problems in groups:
        failed = [problem for problem in problems if problem]
        if failed:
            said.append(f"{len(failed)} of {len(problems)} {what} fail ({failed[0]})")
    if not verdict.checks:
        said.append("no output was compared")
    return replace(
        verdict,
        status=FAILED if said else PASSED,
        reason="; ".join(said),
        story=verdict.story or describe(layers),
    )
