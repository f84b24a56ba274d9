"""Read the state dict out of a graph: porter's own ONNX, or anybody's of a known architecture.

A file with the graph that porter wrote contains it under its names. In any other, one of porter's
that another tool rewrote included, each weight is found by what it does (`search`). The result is
exported again and both files are run: only what computes the same is accepted. A Paddle inference
model is such a file too, once its program is written as ONNX; where the program of the variant is
recorded, the operations are compared instead.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from pathlib import Path

from porter.checkpoints.read import detect
from porter.checkpoints.read import read as read_checkpoint
from porter.codecs.onnx.transposed import straightened
from porter.codecs.onnx.weights import initializers
from porter.codecs.paddle import inference
from porter.errors import InputError, PorterError, UsageError, listed
from porter.frameworks.process import Limit
from porter.mapping.fold import fold
from porter.onnx.export import metadata as notes
from porter.onnx.graph.constants import weights as weights_of
from porter.onnx.program import translate
from porter.onnx.recover.recorded import is_as_written
from porter.onnx.recover.search import Recovered, Search
from porter.planning.program.names import canonical, named_as, steps_of
from porter.remote import fetch
from porter.remote.address import is_url
from porter.storage.input_file import InputFile
from porter.storage.progress import Progress
from porter.tensors.lazy import LazyTensor
from porter.tensors.state_dict import StateDict
from porter.zoo.architectures import Architecture
from porter.zoo.wiring import wiring_of

FORMATS = ("onnx", inference.FORMAT)
"""What is read by its graph."""
SAVE_AGAIN = "save it again by paddle.jit.save without optimising it"


def recover(
    architecture: Architecture,
    path: str | os.PathLike[str],
    *,
    fold_batchnorm: bool = False,
    timeout: float | None = None,
) -> Recovered:
    """Return the canonical state dict of an ONNX file, or a Paddle inference model, of a variant.

    That of a file that porter wrote is bit for bit what it was written from. `timeout` is in
    seconds, for each step with another one. Raises `InputError`
    when weights of a foreign file cannot be placed, were folded into others (unless
    `fold_batchnorm` takes them so), or do not compute what the file computes; `MissingPackage`
    without onnx, onnxscript and onnxruntime, which a foreign file needs.
    """
    name = os.fspath(path)
    Limit.of(name, timeout)  # a malformed one is refused, whether it is needed or not
    if detect(name) == inference.FORMAT:
        if wiring_of(architecture):
            return _of_steps(architecture, name, fold_batchnorm)
        return _of_program(architecture, name, fold_batchnorm, timeout)
    state = initializers(InputFile(name))  # stricter than what reads the graph
    if is_as_written(name):  # its Constant nodes, if there are any, belong to the graph
        return Recovered(restore(state))
    weights = weights_of(name)
    assert weights.origin is not None
    if notes.QUANTIZED in weights.origin.metadata:
        raise InputError(
            "has quantised weights, which do not come back; take the model that it was made from",
            name,
        )
    return Search(architecture, name, weights, fold_batchnorm, timeout=timeout).recovered()


def _of_steps(architecture: Architecture, path: str, fold_batchnorm: bool) -> Recovered:
    """Return that of an inference model by what its operations do with each tensor."""
    state = read_checkpoint(path)
    named = named_as(architecture, steps_of(state))
    if named is None:
        raise InputError(
            f"its operations are not those of {architecture.name}; `porter inspect` says what it"
            f" is, if porter knows it, and `porter repack` takes its tensors as they are named;"
            f" of a model that was optimised, {SAVE_AGAIN}",
            path,
        )
    merged = named.form.merged
    if merged and not fold_batchnorm:
        raise InputError(
            f"{len(merged)} layers were merged for deployment and cannot be separated again:"
            f" {listed(fold(merged), 4)}; {SAVE_AGAIN}, or take them as they are with"
            " --fold-batchnorm",
            path,
        )
    return Recovered(*canonical(named, state))


def _of_program(
    architecture: Architecture, path: str, fold_batchnorm: bool, timeout: float | None
) -> Recovered:
    """Return the same of a Paddle inference model, which is written as an ONNX model for it."""
    state = read_checkpoint(path)
    assert state.origin is not None
    file = InputFile(state.origin.path)
    with tempfile.TemporaryDirectory(prefix="porter-") as folder:
        written, notes = translate.write(file, state, Path(folder))
        constants = weights_of(written).items()
        known = {name: LazyTensor.of(t.read()) for name, t in constants if name not in state}
        weights = StateDict({**known, **state}, state.origin)
        try:
            search = Search(architecture, written, weights, fold_batchnorm, SAVE_AGAIN, timeout)
            found = search.recovered()
        except PorterError as error:
            error.path = path if error.path == written else error.path
            raise
    return replace(found, how=(*notes, *found.how))


def read(
    architecture: Architecture,
    given: str | os.PathLike[str],
    *,
    fold_batchnorm: bool = False,
    timeout: float | None = None,
    progress: Progress | None = None,
) -> StateDict:
    """Return the canonical state dict of an ONNX file at a path or address; see `recover`.

    The notes of its origin say how it was obtained.
    """
    here = fetch.local(given, progress=progress)
    with fetch.named(here):
        found = detect(here.path)
    if found not in FORMATS:
        raise UsageError(f"is {found}, not onnx", here.shown)
    made = recover(architecture, here.path, fold_batchnorm=fold_batchnorm, timeout=timeout)
    assert made.state.origin is not None
    all_notes = (*made.state.origin.notes, *made.how)
    address = here.shown if is_url(given) else ""
    origin = replace(made.state.origin, notes=all_notes, recovered=made.how, address=address)
    return StateDict(made.state, origin)


def restore(state: StateDict) -> StateDict:
    """Return the state dict that a file of porter's was written from."""
    assert state.origin is not None
    whole = StateDict(straightened(state), replace(state.origin, skipped=()))
    return notes.with_unused(whole)
