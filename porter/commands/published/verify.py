"""Verdicts of variants without reference model: by the models that other packages publish.

Paddle's side is PaddleX's class, PyTorch's that of transformers; neither comes with porter.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace

from porter.commands.live.one import Asked
from porter.commands.published.classes import by_classes
from porter.commands.published.deployed import PROVIDER, Deployed, runs_here
from porter.errors import InputError, MissingPackage, UsageError
from porter.mapping.table import CANONICAL, PADDLE
from porter.onnx.recover.read import read as recover
from porter.planning.endpoint import PROGRAM
from porter.planning.fit import fit
from porter.planning.pairing import refuse_foreign_layout
from porter.planning.recognise import best_dialect, shapes_of
from porter.remote import fetch
from porter.storage.progress import Progress
from porter.tensors.state_dict import StateDict
from porter.verification.judge import concluded
from porter.verification.live.trace import is_live_trace
from porter.verification.verdict import Verdict
from porter.zoo.architectures import Architecture


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
    device: str = "auto",
    progress: Progress | None = None,
) -> Verdict:
    """Run PaddleX's and transformers' models on two checkpoints and compare their outputs.

    Each checkpoint is mapped to the names of its framework's class; a training checkpoint runs in
    PaddleX's. The models, and the inputs (`.npz`), are the published ones unless they are given.
    They run on `device`: "cpu", "cuda[:n]", or "auto" for a GPU where the framework sees one.
    Raises `MappingError`, `UsageError` or `MissingPackage`, as `verify` does.
    """
    if progress is not None:
        progress("reading the checkpoints", 0, 0)
    given = (
        Asked(left, left_dialect, left_key, left_model),
        Asked(right, right_dialect, right_key, right_model),
    )
    if "onnx" in (fetch.detect(left), fetch.detect(right)):
        if left_model or right_model or inputs is not None:
            raise UsageError(
                "an ONNX file is compared with transformers' class, on pictures of noise: leave"
                " --left-model, --right-model and --inputs out"
            )
        return _with_graph(variant, *given, python, device, progress)
    if any(_names_program(asked) for asked in given):
        return _by_program(variant, given, inputs, python, device)
    deployed = None
    if left_model is None and right_model is None and inputs is None and runs_here(python):
        deployed = _deployed(variant, *given, device)
    if deployed is not None and not deployed.refusal():
        return _with_program(variant, deployed, given, python, progress)
    return by_classes(
        variant, given, inputs=inputs, python=python, device=device, progress=progress
    )


def _names_program(asked: Asked) -> bool:
    return (asked.model or "").startswith(f"{PROVIDER}:")


def _with_graph(
    variant: Architecture,
    left: Asked,
    right: Asked,
    python: Mapping[str, str] | None,
    device: str,
    progress: Progress | None,
) -> Verdict:
    """Run an ONNX file, and transformers' class with the weights of the other side."""
    from porter.commands.published.exported import Exported

    is_graph = fetch.detect(right.path) == "onnx"
    graph, source = (right, left) if is_graph else (left, right)
    mapped, classes = _canonical(variant, source)
    file = Exported(variant, mapped, classes, fetch.local(graph.path).path, device=device)
    return file.verdict(python=python, progress=progress)


def _canonical(variant: Architecture, source: Asked) -> tuple[StateDict, int]:
    """Read a checkpoint under the canonical names; also return its number of classes."""
    if is_live_trace(source.path):
        raise UsageError("is a trace: it is compared with a checkpoint in its class", source.path)
    state, dialect = fetch.read(source.path, key=source.key), source.dialect
    if state.origin is not None and state.origin.format in (PROGRAM, "onnx"):
        state, dialect = recover(variant, source.path), CANONICAL
    elif dialect is None:
        refuse_foreign_layout(state, variant)
        is_paddle = state.origin is not None and state.origin.format == PADDLE
        dialect = best_dialect(variant, shapes_of(state), PADDLE if is_paddle else CANONICAL)
    fitted = fit(variant, state, variant.table.dialect(dialect).name, CANONICAL)
    return StateDict(fitted.plan.apply(fitted.state), state.origin), fitted.plan.num_classes


def _deployed(variant: Architecture, left: Asked, right: Asked, device: str) -> Deployed | None:
    """Return the program that one of two sides is, None where none or both are."""
    is_program = [fetch.detect(side.path) == PROGRAM for side in (left, right)]
    if is_program[0] == is_program[1] or any(is_live_trace(side.path) for side in (left, right)):
        return None
    file, source = (left, right) if is_program[0] else (right, left)
    mapped, classes = _canonical(variant, source)
    return Deployed(variant, mapped, classes, fetch.local(file.path).path, device)


def _by_program(
    variant: Architecture,
    sides: tuple[Asked, Asked],
    inputs: str | os.PathLike[str] | None,
    python: Mapping[str, str] | None,
    device: str,
) -> Verdict:
    """Run the program that a reference names, and transformers' class on the other side."""
    named = [side.model is not None for side in sides]
    if all(named) or inputs is not None:
        raise UsageError(
            f"{PROVIDER}:FOLDER is compared with transformers' class, on a picture of noise: leave"
            " the other model and --inputs out"
        )
    place = named.index(True)
    path = (sides[place].model or "").partition(":")[2]
    mapped, classes = _canonical(variant, sides[1 - place])
    deployed = Deployed(variant, mapped, classes, path, device)
    if reason := deployed.refusal():
        raise InputError(f"is not compared by its outputs: {reason}", path)
    return deployed.verdict(python)


def _with_program(
    variant: Architecture,
    deployed: Deployed,
    sides: tuple[Asked, Asked],
    python: Mapping[str, str] | None,
    progress: Progress | None,
) -> Verdict:
    """Run the program, and its weights in PaddleX's class where they can be told apart."""
    ran = deployed.verdict(python)
    try:
        verdict = by_classes(
            variant, sides, inputs=None, python=python, device=deployed.device,
            progress=progress,
        )  # fmt: skip
    except (InputError, MissingPackage) as error:
        return replace(ran, notes=(*ran.notes, f"the program was run, and no class: {error}"))
    return concluded(
        replace(
            verdict, checks=(*verdict.checks, *ran.checks), cases=(*verdict.cases, *ran.cases)
        )
    )  # fmt: skip
