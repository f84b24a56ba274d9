"""The forward proof: both sides run on the same inputs, judged against float64.

The steps are those of `verify`: open the sides, start their processes, run, judge, compare what
else was asked for, look for the fault.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Unpack

from porter import codecs
from porter.commands.options import checked_options
from porter.errors import MissingPackage, PorterError, UsageError
from porter.frameworks.process import Pool
from porter.planning.locate import option_of
from porter.storage.outputs import check_outputs
from porter.storage.progress import Progress
from porter.verification import trace as traces
from porter.verification.behaviour import with_behaviour
from porter.verification.checks import EXACT, SINGLE
from porter.verification.comparisons import with_comparisons
from porter.verification.judge import QUANTISED, UNRANKED, Bound, agreement, bounds, concluded
from porter.verification.judge import judge as judged
from porter.verification.options import RunOptions, Runs
from porter.verification.run_notes import with_run_notes
from porter.verification.sensitivity.fuzzed_weights import prove_unseen
from porter.verification.sides import open as sides
from porter.verification.sides.pair import Pair
from porter.verification.sides.prepare import Checkpoint
from porter.verification.sides.processes import arguments_of, layers_of, started
from porter.verification.sides.side import Can, Side
from porter.verification.stamp import Clock
from porter.verification.steps import Steps
from porter.verification.trace import Trace
from porter.verification.verdict import NOT_MADE, Verdict
from porter.verification.weights import WeightProof
from porter.zoo.architectures import Architecture, find
from porter.zoo.published import finds_text


@checked_options(RunOptions)
def verify(
    architecture: str | Architecture,
    left: Checkpoint,
    right: Checkpoint,
    *,
    left_dialect: str | None = None,
    right_dialect: str | None = None,
    left_key: str | None = None,
    right_key: str | None = None,
    left_prefix: str | None = None,
    right_prefix: str | None = None,
    grad: bool = False,
    train_step: bool = False,
    diagnose: bool = True,
    sensitivity: bool = False,
    judge: str | None = None,
    pool: Pool | None = None,
    weights: WeightProof | None = None,
    progress: Progress | None = None,
    **options: Unpack[RunOptions],
) -> Verdict:
    """Run both sides on the same inputs, each in a separate process, and compare them.

    Parameters:
        architecture: Name of a variant, such as "shunted-s" (`porter list` prints them).
        left: Checkpoint, trace that `record` wrote, ONNX model or state dict; the float64 run
            of this side is the reference (of a checkpoint and an ONNX model, the checkpoint's; of
            two ONNX models, the left one's run without the runtime's optimisations).
        right: The other side, of the same kinds.
        left_dialect: Naming of `left`; None to recognise it.
        right_dialect: Naming of `right`; None to recognise it.
        left_key: Name of one of several state dicts in `left`.
        right_key: Name of one of several state dicts in `right`.
        left_prefix: What is before the names of the model in `left`, such as "teacher."; None
            for the only prefix below which they are complete.
        right_prefix: The same for `right`.
        grad: Also compare the gradient of every parameter.
        train_step: Also compare all weights after one AdamW step.
        diagnose: Name the likely faults of a verdict that fails.
        sensitivity: If the verdict passes, name the tensors that the outputs do not show, and
            run both sides again on fuzzed weights that show them.
        judge: Limits for the outputs of all inputs together instead of those derived from the
            source's own error, such as "top1>=99,cosine>=0.999" (`porter.verification.judge`);
            None: these for a quantised ONNX model.
        pool: Processes to use and keep; None to start them for this verdict only.
        weights: Proof of the weights that `convert` made; not repeated if it found no problem.
        progress: Called as `progress(step, 0, 0)` when a step begins, from any thread.
        options: What both sides run, and where. `num_classes`, `image_size` (pixels): None for
            those of the checkpoint. `preset`: "default", "strict" or "paddleclas", inputs and
            limits (docs/verification.md). `seeds` of the noise, or how many, and `batch_sizes`:
            None for those of the preset. `images`: folder of pictures, or `inputs`: `.npz` or
            `.npy` file of batches (N, 3, H, W), instead of noise. `precision` of the right
            side: "float32", "tf32", "float16" or "bfloat16", in addition to float64. `device`:
            "auto", "cpu" or "cuda[:n]". `python`: {framework: interpreter of another
            environment that has it and porter}. `per_layer`: compare every module even if the
            verdict passes. `timeout`: seconds that a given ONNX file may take to load, and to
            run (None: the environment's `PORTER_TIMEOUT`, or 600). `behaviour`: "canonical", or
            "dialect": each checkpoint is run as its dialect's code computes.

    Returns a `Verdict` with `passed`, `failed`, `reason` and every figure; its status is
    "not made" if a framework is not installed.
    Raises `InputError`, `MappingError` or `UsageError` for files that do not fit the
    architecture or each other.
    """
    variant = find(architecture) if isinstance(architecture, str) else architecture
    runs, steps, clock = Runs.of(options), Steps(progress), Clock()
    limits = bounds(judge) if judge is not None else ()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="porter-")))
        steps.begin("reading the checkpoints")
        given = {
            "left": (left, left_dialect, left_key, left_prefix),
            "right": (right, right_dialect, right_key, right_prefix),
        }
        one, two = _opened(variant, given, folder, runs)
        if runs.num_classes is None and (one.num_classes == 0) != (two.num_classes == 0):
            # one is an ONNX model without classifier: features are compared
            one, two = _opened(variant, given, folder / "features", runs.changed(num_classes=0))
        sides.check_agreement(one, two)
        one, two, notes = sides.reference_first(one, two)
        runs = sides.runs_of(runs, one, two)
        if two.quantised and not limits:
            limits = bounds(UNRANKED if finds_text(variant) else QUANTISED)
        case = sides.write_inputs(folder / "inputs.safetensors", runs, variant, (one, two))
        if runs.images is not None:
            how, why = sides.preprocessing_of(variant, one)
            notes = (*notes, f"pictures: {how.described(one.image_size)} ({why})")
        verdict = _not_made(variant, one, two, runs, notes)
        try:
            stack.enter_context(started((one, two), folder, runs, pool, steps))
        except MissingPackage as error:
            return clock.stamped(replace(verdict, reason=str(error)))
        if Can.RUN | Can.FLOAT64 in one.can:
            one.rounded = sides.rounding(one, two)
        pair = Pair(variant, one, two, folder, runs.precision, case, steps)
        pair.compute(layers=runs.per_layer)
        verdict = with_run_notes(_judged(verdict, pair, runs, limits), pair)
        verdict = with_comparisons(
            verdict, pair, per_layer=runs.per_layer, grad=grad, train_step=train_step,
            diagnose=diagnose, proven=weights is not None and weights.holds,
        )  # fmt: skip
        verdict = prove_unseen(verdict, pair, diagnose) if sensitivity else verdict
        return clock.stamped(concluded(with_behaviour(verdict, pair, diagnose)))


def _opened(
    variant: Architecture,
    given: Mapping[str, tuple[Checkpoint, str | None, str | None, str | None]],
    folder: Path,
    runs: Runs,
) -> tuple[Side, Side]:
    """Return both sides; what is wrong with one names its option."""
    found = []
    for place, (checkpoint, dialect, key, prefix) in given.items():
        with option_of(place):
            found.append(
                sides.opened(variant, checkpoint, folder / place, dialect, key, prefix, runs)
            )
    one, two = found
    return one, two


def record(
    architecture: str | Architecture,
    checkpoint: Checkpoint,
    output: str | os.PathLike[str],
    *,
    dialect: str | None = None,
    key: str | None = None,
    prefix: str | None = None,
    force: bool = False,
    progress: Progress | None = None,
    **options: Unpack[RunOptions],
) -> Trace:
    """Run one side and write its outputs to the trace `output`, to be compared elsewhere.

    The options are those of `verify`. With `per_layer` the arguments of every module are stored
    as well, which makes the file large: the other machine can then find the module that causes a
    difference. With `force` a file at `output` is replaced, unless it is an input. Raises as
    `verify` does, and `MissingPackage` if the framework is not installed.
    """
    variant = find(architecture) if isinstance(architecture, str) else architecture
    runs, steps = Runs.of(options), Steps(progress)
    check_outputs([output], files_read((checkpoint,), runs.inputs, runs.images), force)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="porter-")))
        side = sides.opened(variant, checkpoint, folder / "side", dialect, key, prefix, runs)
        if Can.MODULES not in side.can:
            raise UsageError("cannot be recorded: it is not a checkpoint", side.report.file)
        inputs = folder / "inputs.safetensors"
        case = sides.write_inputs(inputs, runs, variant, (side,))
        stack.enter_context(started((side,), folder, runs, None, steps))
        precisions = list(dict.fromkeys([EXACT, SINGLE, runs.precision]))
        side.compute(inputs, precisions, case, steps.begin)
        trace, calls = side.trace, ""
        if runs.per_layer:
            steps.begin("arguments of the modules")
            calls = side.calls(inputs, case, EXACT, None, "all")
            trace = replace(trace, layers={**trace.layers, EXACT: layers_of(calls)})
        traces.save(trace, output, *arguments_of(calls), force=force)
        return trace


def files_read(
    checkpoints: Iterable[Checkpoint],
    inputs: str | os.PathLike[str] | None = None,
    images: str | os.PathLike[str] | None = None,
) -> list[str]:
    """Return the files that a comparison reads, so that no output replaces one of them."""
    files = [] if inputs is None else [os.fspath(inputs)]
    if images is not None and os.path.isdir(images):
        files += [entry.path for entry in os.scandir(images)]
    for checkpoint in checkpoints:
        if not isinstance(checkpoint, Mapping):
            files.append(os.fspath(checkpoint))
        with suppress(PorterError):  # It is read again and refused.
            state = (
                checkpoint
                if isinstance(checkpoint, Mapping)
                else codecs.read(os.fspath(checkpoint))
            )
            files += state.origin.files if state.origin is not None else ()
    return files


def _not_made(
    variant: Architecture, left: Side, right: Side, runs: Runs, notes: tuple[str, ...]
) -> Verdict:
    """Return the verdict before anything has run."""
    return Verdict(
        architecture=variant.name,
        status=NOT_MADE,
        reason="",
        left=left.report,
        right=right.report,
        num_classes=left.num_classes,
        image_size=left.image_size,
        precision=runs.precision,
        preset=runs.preset,
        behaviour=runs.behaviour,
        notes=notes,
    )


def _judged(verdict: Verdict, pair: Pair, runs: Runs, limits: tuple[Bound, ...]) -> Verdict:
    left, right = pair.left.trace, pair.right.trace
    if limits:
        checks = agreement(left, right, runs.precision, limits)
        verdict = replace(verdict, limits=", ".join(map(str, limits)))
    else:
        checks = judged(left, right, runs.precision)
    return replace(verdict, left=left.report, right=right.report, cases=left.cases, checks=checks)
