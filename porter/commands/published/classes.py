"""Two checkpoints in the classes of PaddleX and transformers."""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np

from porter.commands.live.models import Models
from porter.commands.live.one import Asked, One, Side, by_traces, traces_of
from porter.commands.published.limits import judged_closely, judged_exactly
from porter.commands.verify import files_read
from porter.errors import UsageError
from porter.frameworks.live.cases import read_inputs, varied
from porter.frameworks.references import parse, with_framework
from porter.mapping.table import CANONICAL, PADDLE
from porter.onnx.recover.read import read as recover
from porter.planning.behaviour import behaviour_of, settings
from porter.planning.endpoint import PROGRAM
from porter.planning.fit import fit
from porter.planning.locate import option_of
from porter.planning.pairing import refuse_foreign_layout
from porter.planning.recognise import best_dialect, shapes_of
from porter.remote import fetch
from porter.storage.outputs import check_outputs
from porter.storage.progress import Progress
from porter.tensors.blocks import Array
from porter.tensors.state_dict import StateDict
from porter.verification.live import trace as live_trace
from porter.verification.live.trace import LiveTrace
from porter.verification.verdict import Verdict
from porter.zoo.architectures import Architecture
from porter.zoo.published import published_path

_SIDE = 192
"""Largest side (pixels) of the picture where a model takes any: a proof needs no large one."""
_ANY_SIZE = ("det", "rt-detr", "pp-doclayout", "pp-docblocklayout")
_DETECTORS = ("rt-detr", "pp-doclayout", "pp-docblocklayout")
_WRITERS = ("slanet", "slanext")
"""Models that feed back what they write: a difference grows with each step."""
_SLOW = ("pp-formulanet",)
"""Families of which one picture is run: it takes ten seconds."""
_PROVIDERS = {"paddlex", "transformers"}
"""Of the references of classes that are known to compute the same."""
_TOKENS, _VOCABULARY = 8, 50_000
"""Tokens that PP-FormulaNet is given as those before, and how many there are."""


def by_classes(
    variant: Architecture,
    given: tuple[Asked, Asked],
    *,
    inputs: str | os.PathLike[str] | None,
    python: Mapping[str, str] | None,
    device: str,
    progress: Progress | None,
) -> Verdict:
    """Run the classes of both packages, or that of one side and compare it with a trace."""
    traces = traces_of(given, inputs)
    for trace, asked in zip(traces, given, strict=True):
        if trace is not None and trace.name != variant.name:
            raise UsageError(f"is a trace of {trace.name}, not of {variant.name}", asked.path)
    sides = [
        trace or _one(variant, asked, place, python, device)
        for trace, asked, place in zip(traces, given, ("left", "right"), strict=True)
    ]
    match sides:
        case [One() as one, One() as two]:
            verdict = _of_both(variant, one, two, inputs, progress)
        case _:
            verdict = by_traces(variant.name, sides, progress)
    providers = {side.label.partition(":")[0] for side in (verdict.left, verdict.right)}
    if all(asked.model is None for asked in given) and providers <= _PROVIDERS:
        verdict = judged_closely(verdict)
    return judged_exactly(verdict) if variant.name.startswith(_DETECTORS) else verdict


def record_class(
    variant: Architecture,
    checkpoint: Asked,
    output: str | os.PathLike[str],
    *,
    inputs: str | os.PathLike[str] | None = None,
    python: Mapping[str, str] | None = None,
    device: str = "auto",
    force: bool = False,
    progress: Progress | None = None,
) -> LiveTrace:
    """Run the class of one package and write the trace `output`, to be compared elsewhere.

    The options are those of `verify_published`; with `force` a file at `output` is replaced.
    """
    check_outputs([output], files_read((checkpoint.path,), inputs), force)
    cases = varied(_arrays(variant, inputs), others=_takes_others(variant, inputs))
    made = _one(variant, checkpoint, "left", python, device).trace(cases, progress)
    live_trace.save(made, output, force=force)
    return made


def _of_both(
    variant: Architecture,
    one: One,
    two: One,
    inputs: str | os.PathLike[str] | None,
    progress: Progress | None,
) -> Verdict:
    both = Models(
        one.reference, two.reference, _arrays(variant, inputs), one.python,
        others=_takes_others(variant, inputs), device=one.device,
    )  # fmt: skip
    fitted = fit(variant, one.side.state, one.side.dialect, two.side.dialect)
    with both.opened() as session:
        session.check_source(one.side.state)
        if progress is not None:
            progress("running both models", 0, 0)
        return session.verdict(fitted.plan, one.side, two.side)


def _arrays(variant: Architecture, inputs: str | os.PathLike[str] | None) -> dict[str, Array]:
    return pictures(variant) if inputs is None else read_inputs(inputs)


def _takes_others(variant: Architecture, inputs: str | os.PathLike[str] | None) -> bool:
    return inputs is not None or variant.family not in _SLOW


def _one(
    variant: Architecture, asked: Asked, place: str, python: Mapping[str, str] | None, device: str
) -> One:
    """Read a checkpoint, in the names of the class that runs it."""
    with option_of(place):
        state, dialect = fetch.read(asked.path, key=asked.key), asked.dialect
        container = "" if state.origin is None else state.origin.format
        if container == PROGRAM:  # Its names are found by its operations; PaddleX's class runs it.
            state, dialect = recover(variant, asked.path), CANONICAL
        if dialect is None:
            refuse_foreign_layout(state, variant)
            dialect = best_dialect(
                variant, shapes_of(state), PADDLE if container == PADDLE else CANONICAL
            )
        known = variant.table.dialect(dialect)
        is_paddle = container == PROGRAM or known.convention.framework == PADDLE
        target = PADDLE if is_paddle else CANONICAL
        if asked.model is None:
            reference = parse(published_reference(variant, target))
        else:
            reference = with_framework(parse(asked.model), python)
        fitted = fit(variant, state, known.name, target)
        mapped = StateDict(fitted.plan.apply(fitted.state), state.origin)
        is_file = known.name == target and fitted.state is state
        side = Side(mapped, target, asked.key, is_file)
        return One(variant.name, reference, side, python, device)


def published_reference(variant: Architecture, dialect: str) -> str:
    """Return the reference of the class that another package has for a variant."""
    path = published_path(variant)
    if path is None:
        variant.need_model("comparing outputs")
    options = []
    if variant.name.startswith(_WRITERS):
        options.append("max_text_length=1")
    if dialect == PADDLE:
        if "gate_slope" in settings(behaviour_of(variant, "train")):
            options.append("slope=exact")  # Both sides compute the canonical behaviour.
        return _with(f"paddlex:{variant.aliases[0]}", options)
    if variant.name.startswith(_DETECTORS):
        names = [output.of for output in variant.graph.outputs.values()]
        options.append(f"outputs={','.join(names)}")
    return _with(f"transformers:{path}", options)


def _with(reference: str, options: list[str]) -> str:
    return f"{reference}?{'&'.join(options)}" if options else reference


def pictures(variant: Architecture) -> dict[str, Array]:
    """Return one random picture of the size that a variant takes, small where it takes any.

    PP-FormulaNet has tokens, too: it is asked for what follows each of them.
    """
    height, width = variant.sides()
    if not height or any(part in variant.name for part in _ANY_SIZE):
        height = width = _SIDE
    draw = np.random.default_rng(11)
    found: dict[str, Array] = {"x": draw.standard_normal((1, 3, height, width), np.float32)}
    if variant.family == "pp-formulanet":
        found["tokens"] = draw.integers(3, _VOCABULARY, (1, _TOKENS))
    return found
