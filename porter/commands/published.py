"""Verdicts of variants without reference model: by the models that other packages publish.

Paddle's side is PaddleX's class, PyTorch's that of transformers; neither comes with porter.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from porter.commands.deployed import PROVIDER, Deployed, runs_here
from porter.commands.live.models import Models, Side
from porter.errors import InputError, MissingPackage, UsageError
from porter.frameworks.live.cases import read_inputs
from porter.frameworks.references import Reference, parse, with_framework
from porter.mapping.table import CANONICAL, PADDLE
from porter.onnx.recover.read import read as recover
from porter.planning.behaviour import behaviour_of, settings
from porter.planning.endpoint import PROGRAM
from porter.planning.fit import fit
from porter.planning.locate import option_of
from porter.planning.pairing import refuse_foreign_layout
from porter.planning.recognise import best_dialect, shapes_of
from porter.remote import fetch
from porter.storage.progress import Progress
from porter.tensors.blocks import Array
from porter.tensors.state_dict import StateDict
from porter.verification.checks import EXACT, Check
from porter.verification.judge import concluded
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
_CLOSE = 1e-8
"""Largest error of two float64 runs of one network: at most 5e-11 was seen. SLANet had 5e-7 where a
matrix of its attention was transposed, which seeded weights hardly show."""
_TOKENS, _VOCABULARY = 8, 50_000
"""Tokens that PP-FormulaNet is given as those before, and how many there are."""


class _Given(NamedTuple):
    state: StateDict
    """Under the names of its model."""
    dialect: str
    key: str | None
    reference: Reference
    is_file: bool


def verify_published(
    variant: Architecture,
    left: str | os.PathLike[str],
    right: str | os.PathLike[str],
    *,
    left_dialect: str | None = None,
    right_dialect: str | None = None,
    left_key: str | None = None,
    right_key: str | None = None,
    left_model: str | None = None,
    right_model: str | None = None,
    inputs: str | os.PathLike[str] | None = None,
    python: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> Verdict:
    """Run PaddleX's and transformers' models on two checkpoints and compare their outputs.

    Each checkpoint is mapped to the names of its framework's class; a training checkpoint runs in
    PaddleX's. The models, and the inputs (`.npz`), are the published ones unless they are given.
    Raises `MappingError`, `UsageError` or `MissingPackage`, as `verify` does.
    """
    if progress is not None:
        progress("reading the checkpoints", 0, 0)
    if "onnx" in (fetch.detect(left), fetch.detect(right)):
        if left_model or right_model or inputs is not None:
            raise UsageError(
                "an ONNX file is compared with transformers' class, on pictures of noise: leave"
                " --left-model, --right-model and --inputs out"
            )
        graphs = _Side(left, left_dialect, left_key), _Side(right, right_dialect, right_key)
        return _with_graph(variant, *graphs, python, progress)
    programs = [(model or "").startswith(f"{PROVIDER}:") for model in (left_model, right_model)]
    given = _Side(left, left_dialect, left_key), _Side(right, right_dialect, right_key)
    if any(programs):
        return _by_program(variant, given, (left_model, right_model), inputs, python)
    deployed = None
    if left_model is None and right_model is None and inputs is None and runs_here(python):
        deployed = _deployed(variant, *given)
    if deployed is not None and not deployed.refusal():
        return _with_program(variant, deployed, given, python, progress)
    return _by_classes(
        variant, given, (left_model, right_model), inputs=inputs, python=python, progress=progress
    )


def _by_classes(
    variant: Architecture,
    given: tuple[_Side, _Side],
    models: tuple[str | None, str | None],
    *,
    inputs: str | os.PathLike[str] | None,
    python: Mapping[str, str] | None,
    progress: Progress | None,
) -> Verdict:
    """Run the classes of both packages."""
    (left, left_dialect, left_key), (right, right_dialect, right_key) = given
    left_model, right_model = models
    with option_of("left"):
        one = _given(variant, left, left_dialect, left_key, left_model, python)
    with option_of("right"):
        two = _given(variant, right, right_dialect, right_key, right_model, python)
    arrays = pictures(variant) if inputs is None else read_inputs(inputs)
    others = inputs is not None or variant.family not in _SLOW
    both = Models(one.reference, two.reference, arrays, python, others=others)
    fitted = fit(variant, one.state, one.dialect, two.dialect)
    with both.opened() as session:
        session.check_source(one.state)
        if progress is not None:
            progress("running both models", 0, 0)
        sides = [Side(s.state, s.dialect, s.key, s.is_file) for s in (one, two)]
        verdict = session.verdict(fitted.plan, *sides)
    if left_model is None and right_model is None:
        verdict = judged_closely(verdict)
    return judged_exactly(verdict) if variant.name.startswith(_DETECTORS) else verdict


class _Side(NamedTuple):
    path: str | os.PathLike[str]
    dialect: str | None
    key: str | None


def _with_graph(
    variant: Architecture,
    left: _Side,
    right: _Side,
    python: Mapping[str, str] | None,
    progress: Progress | None,
) -> Verdict:
    """Run an ONNX file, and transformers' class with the weights of the other side."""
    from porter.commands.exported import Exported

    is_graph = fetch.detect(right.path) == "onnx"
    graph, source = (right, left) if is_graph else (left, right)
    mapped, classes = _canonical(variant, source)
    file = Exported(variant, mapped, classes, fetch.local(graph.path).path)
    return file.verdict(python=python, progress=progress)


def _canonical(variant: Architecture, source: _Side) -> tuple[StateDict, int]:
    """Read a checkpoint under the canonical names; also return its number of classes."""
    state, dialect = fetch.read(source.path, key=source.key), source.dialect
    if state.origin is not None and state.origin.format in (PROGRAM, "onnx"):
        state, dialect = recover(variant, source.path), CANONICAL
    elif dialect is None:
        refuse_foreign_layout(state, variant)
        is_paddle = state.origin is not None and state.origin.format == PADDLE
        dialect = best_dialect(variant, shapes_of(state), PADDLE if is_paddle else CANONICAL)
    fitted = fit(variant, state, variant.table.dialect(dialect).name, CANONICAL)
    return StateDict(fitted.plan.apply(fitted.state), state.origin), fitted.plan.num_classes


def _deployed(variant: Architecture, left: _Side, right: _Side) -> Deployed | None:
    """Return the program that one of two sides is, None where none or both are."""
    is_program = [fetch.detect(side.path) == PROGRAM for side in (left, right)]
    if is_program[0] == is_program[1]:
        return None
    file, source = (left, right) if is_program[0] else (right, left)
    mapped, classes = _canonical(variant, source)
    return Deployed(variant, mapped, classes, fetch.local(file.path).path)


def _by_program(
    variant: Architecture,
    sides: tuple[_Side, _Side],
    models: tuple[str | None, str | None],
    inputs: str | os.PathLike[str] | None,
    python: Mapping[str, str] | None,
) -> Verdict:
    """Run the program that a reference names, and transformers' class on the other side."""
    named = [model is not None for model in models]
    if all(named) or inputs is not None:
        raise UsageError(
            f"{PROVIDER}:FOLDER is compared with transformers' class, on a picture of noise: leave"
            " the other model and --inputs out"
        )
    place = named.index(True)
    path = (models[place] or "").partition(":")[2]
    mapped, classes = _canonical(variant, sides[1 - place])
    deployed = Deployed(variant, mapped, classes, path)
    if reason := deployed.refusal():
        raise InputError(f"is not compared by its outputs: {reason}", path)
    return deployed.verdict(python)


def _with_program(
    variant: Architecture,
    deployed: Deployed,
    sides: tuple[_Side, _Side],
    python: Mapping[str, str] | None,
    progress: Progress | None,
) -> Verdict:
    """Run the program, and its weights in PaddleX's class where they can be told apart."""
    ran = deployed.verdict(python)
    try:
        verdict = _by_classes(
            variant, sides, (None, None), inputs=None, python=python, progress=progress
        )
    except (InputError, MissingPackage) as error:
        return replace(ran, notes=(*ran.notes, f"the program was run, and no class: {error}"))
    return concluded(
        replace(
            verdict, checks=(*verdict.checks, *ran.checks), cases=(*verdict.cases, *ran.cases)
        )
    )  # fmt: skip


def judged_closely(verdict: Verdict) -> Verdict:
    """Return the verdict with the limit of two models that differ by known causes only.

    With the same behaviour on both sides what is left in float64 is the epsilon of Paddle's batch
    norms, which it keeps in float32: 1e-13 to 1e-11 of the outputs.
    """

    if not verdict.passed:
        return verdict
    return concluded(replace(verdict, checks=tuple(map(_closely, verdict.checks))))


def _closely(check: Check) -> Check:
    if check.precision != EXACT:
        return check
    error = check.right.error
    problem = f"error {error:.1e} is over the limit {_CLOSE:.1e}" if error > _CLOSE else ""
    return replace(check, limit=_CLOSE, problem=problem)


def judged_exactly(verdict: Verdict) -> Verdict:
    """Leave out float32 where float64 was compared: of a detector, near rows change places.

    A detector takes the 300 best of its encoder's scores. In float32 scores that are closer than
    rounding change places, and with them rows of the outputs.
    """
    exact = tuple(check for check in verdict.checks if check.precision == EXACT)
    if not exact or all(check.passed for check in verdict.checks):
        return verdict
    good = all(check.passed for check in exact)
    return concluded(
        replace(
            verdict, checks=exact, story="" if good else verdict.story,
            findings=() if good else verdict.findings,
            skipped=(*verdict.skipped, "outputs in float32: near scores change places there"),
        )
    )  # fmt: skip


def _given(
    variant: Architecture,
    path: str | os.PathLike[str],
    dialect: str | None,
    key: str | None,
    model: str | None,
    python: Mapping[str, str] | None,
) -> _Given:
    """Read a checkpoint, in the names of the class that runs it."""
    state = fetch.read(path, key=key)
    container = "" if state.origin is None else state.origin.format
    if container == PROGRAM:  # Its names are found by its operations; PaddleX's class runs it.
        state, dialect = recover(variant, path), CANONICAL
    if dialect is None:
        refuse_foreign_layout(state, variant)
        dialect = best_dialect(
            variant, shapes_of(state), PADDLE if container == PADDLE else CANONICAL
        )
    known = variant.table.dialect(dialect)
    is_paddle = container == PROGRAM or known.convention.framework == PADDLE
    target = PADDLE if is_paddle else CANONICAL
    if model is None:
        reference = parse(published_reference(variant, target))
    else:
        reference = with_framework(parse(model), python)
    fitted = fit(variant, state, known.name, target)
    mapped = fitted.plan.apply(fitted.state)
    mapped = StateDict(mapped, state.origin)
    return _Given(mapped, target, key, reference, known.name == target and fitted.state is state)


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
