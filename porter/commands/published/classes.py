"""Two checkpoints in the classes of PaddleX and transformers."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from porter.commands.live.models import Models, Side
from porter.commands.published.limits import judged_closely, judged_exactly
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
_TOKENS, _VOCABULARY = 8, 50_000
"""Tokens that PP-FormulaNet is given as those before, and how many there are."""


class Asked(NamedTuple):
    """A checkpoint as it is asked for."""

    path: str | os.PathLike[str]
    dialect: str | None
    key: str | None


class _Given(NamedTuple):
    state: StateDict
    """Under the names of its model."""
    dialect: str
    key: str | None
    reference: Reference
    is_file: bool


def by_classes(
    variant: Architecture,
    given: tuple[Asked, Asked],
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
