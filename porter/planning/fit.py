"""Fit a checkpoint to a variant: recognise its dialect, find a sibling, suggest a variant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import NamedTuple

from porter.checkpoints.placeholders import refuse_shard
from porter.errors import InputError, MappingError, UsageError, listed
from porter.mapping.fold import fold
from porter.planning.endpoint import spelled
from porter.planning.locate import locate, wanted
from porter.planning.plan import Plan, plan
from porter.planning.recognise import best_dialect, recognise, shapes_of
from porter.tensors.lazy import LazyTensor
from porter.tensors.state_dict import StateDict
from porter.zoo.architectures import Architecture, find
from porter.zoo.image_size import IMAGE_SIZE, Size, parsed
from porter.zoo.published import published_path


class Fitted(NamedTuple):
    """A plan, its variant, and notes for the user."""

    architecture: Architecture
    plan: Plan
    state: StateDict
    """The checkpoint under the names that the plan reads: without prefix and wrapper words."""
    notes: tuple[str, ...] = ()


def fit(
    architecture: Architecture,
    state: StateDict,
    source_dialect: str | None,
    target_dialect: str,
    *,
    num_classes: int | None = None,
    image_size: Size | None = None,
    drop: Sequence[str] = (),
    fill: Mapping[str, float] | None = None,
    prefix: str | None = None,
) -> Fitted:
    """Plan a conversion of `state`; its dialect is recognised when None.

    The tensors may be below a prefix, which is found, or is `prefix`. `drop` takes the names,
    patterns and modules of the file, with the prefix or without.

    A checkpoint of a declared sibling (PaddleViT publishes its DeiT under the plain names, and
    all of them are distilled) is converted as that sibling, with a note.
    `MappingError` names the dialect or variant that would fit, if there is one.
    """
    refuse_optimizer(state)
    variants = [architecture]
    if architecture.sibling is not None:
        variants.append(find(architecture.sibling))
    dialects = _readable(architecture, source_dialect) or architecture.table.dialects
    located = locate(state, [w for v in variants for w in wanted(v, dialects)], prefix)
    shapes = shapes_of(located.state)
    path = state.origin.shown if state.origin is not None else None
    if source_dialect is None:
        prefer = target_dialect if target_dialect in architecture.table.dialects else "torch"
        source_dialect = best_dialect(architecture, shapes, prefer)
    dropped = located.matching(drop, path)
    refusal: MappingError | None = None
    readable = _readable(architecture, source_dialect)
    for variant, dialect in product(variants, readable):
        try:
            fitted = plan(
                variant, shapes, dialect, target_dialect, num_classes=num_classes,
                image_size=image_size, drop=dropped, fill=fill, path=path,
                recorded=_recorded_size(state),
            )  # fmt: skip
        except MappingError as error:
            refusal = refusal or error
            continue
        notes = [*located.notes, *_other_constants(fitted, located.state)]
        if dialect != readable[0]:
            notes.append(f"the names of the file are those of the dialect {dialect}")
        if variant is not architecture:
            name = f"the checkpoint is a {variant.name}, not a {architecture.name}"
            notes.append(f"{name}: converted as that")
        return Fitted(variant, fitted, located.state, tuple(notes))
    assert refusal is not None
    if path is not None and any(line.startswith("missing") for line in refusal.problems):
        refuse_shard(path)
    refusal.message = "; ".join((refusal.message, *located.notes))
    raise _with_hint(refusal, architecture, located.state, source_dialect) from refusal


def _recorded_size(state: StateDict) -> Size | None:
    """Return the height and width that porter noted in the metadata of a file.

    One side is not taken: the shapes of the tensors show it.
    """
    text = state.origin.metadata.get(IMAGE_SIZE, "") if state.origin is not None else ""
    try:
        return parsed(text) if "x" in text else None
    except UsageError:
        return None


def refuse_optimizer(state: StateDict) -> None:
    """Raise `InputError` for the state of an optimizer, which Paddle stores like weights."""
    if state.origin is None or state.origin.format != "paddle":
        return
    from porter.codecs.paddle.reading import OPTIMIZER  # Other formats are read without it.

    if OPTIMIZER in state.origin.notes:
        raise InputError(
            "is the state of an optimizer, without weights; give the .pdparams", state.origin.shown
        )


def _readable(architecture: Architecture, dialect: str | None) -> list[str]:
    """Return the dialects whose names a file may have that is said to be in `dialect`."""
    if dialect is None:
        return []
    also = architecture.table.dialect(dialect).also
    return [dialect, also] if also else [dialect]


def _other_constants(fitted: Plan, state: StateDict) -> tuple[str, ...]:
    """Return a note on constants whose values in the checkpoint are not the architecture's."""
    computed = fitted.constants()
    differing = []
    for link in fitted.source.links:
        name = link.dialect[0]
        if link.constant and name in state and link.canonical[0] in computed:
            (expected,) = link.to_dialect([LazyTensor.of(computed[link.canonical[0]])])
            same = state[name].shape == expected.shape
            if not same or state[name].read().tobytes() != expected.read().tobytes():
                differing.append(name)
    if not differing:
        return ()
    return (f"computed anew, as the file has other values: {listed(fold(differing))}",)


def _with_hint(
    error: MappingError, architecture: Architecture, state: StateDict, dialect: str
) -> MappingError:
    """Return an error that says which dialect or variant the checkpoint is, if porter knows it."""
    if not architecture.module and published_path(architecture) is None:
        return error  # a custom table: there is nothing else to fit
    shapes = shapes_of(state)
    matches = [*recognise(shapes, [architecture]), *recognise(shapes)]
    exact = [match for match in matches if match.exact]
    if any((m.architecture, m.dialect) == (architecture, dialect) for m in exact):
        return error  # It fits as a backbone, and the error says what it lacks.
    for match in exact:
        spelling = spelled(match.architecture.table.dialect(match.dialect))
        return MappingError(
            f"it fits {match.architecture.name} as {spelling}; {error.message}",
            error.path,
            error.problems,
        )
    return error
