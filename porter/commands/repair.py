"""Write the right file from one that has the bytes of untransposed views.

The bytes are all there, in another order: no value is taken from the reference, which only shows
which tensors are concerned and proves the result. A checkpoint shows it tensor by tensor; a trace
or an ONNX model shows it by its outputs.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Unpack

from porter import __version__, codecs
from porter.codecs import safetensors
from porter.commands.options import WriteKeywords, checked_options
from porter.commands.repack import format_of
from porter.commands.verify import verify
from porter.errors import MissingPackage, UsageError
from porter.mapping.layers import place_of
from porter.mapping.table import CANONICAL
from porter.planning.fit import fit
from porter.remote import fetch
from porter.storage.atomic_output import Written, resolve
from porter.storage.progress import Progress
from porter.tensors.state_dict import Origin, StateDict
from porter.verification import trace as traces
from porter.verification.diagnose.strided_views import Order, restored
from porter.verification.reference import Comparison, compared, expected_of, original_names
from porter.verification.verdict import Verdict
from porter.zoo.architectures import find

VALUES, OUTPUTS = "values", "outputs"
_MATRICES = ("linear", "attention", "attention_output")
"""Kinds of layers whose weights Paddle stores transposed."""
_OWN = (*codecs.EARLIER_METADATA, safetensors.TIES)


@dataclass(frozen=True, slots=True)
class Repair:
    """What was wrong with a file, and what was written."""

    origin: Origin
    reference: str
    views: Mapping[str, Order]
    """{name of a tensor that was restored: the order in which its elements were stored}"""
    kept: int
    """Tensors that were copied as they are."""
    proof: str
    """`values`: every tensor is the reference's; `outputs`: it computes what the reference did."""
    comparison: Comparison | None = None
    """The file against the reference, tensor by tensor; None where outputs were compared."""
    verdict: Verdict | None = None
    """The restored weights against the reference, where outputs were compared."""
    written: Written | None = None
    """None where the proof failed: nothing was written then."""

    @property
    def ok(self) -> bool:
        """Whether the file was written."""
        return self.written is not None

    def __repr__(self) -> str:
        outcome = "written" if self.ok else "not written"
        return f"Repair({self.origin.shown}: {len(self.views)} tensors restored, {outcome})"


@checked_options(WriteKeywords)
def repair(
    input: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    like: str | os.PathLike[str],
    architecture: str | None = None,
    key: str | None = None,
    like_key: str | None = None,
    python: Mapping[str, str] | None = None,
    force: bool = False,
    progress: Progress | None = None,
    **options: Unpack[WriteKeywords],
) -> Repair:
    """Restore the tensors of a file that have the bytes of untransposed views.

    Parameters:
        input: Path, or http or https address, of the file.
        output: Path of the file to write; its suffix decides the format.
        like: Path or address of the reference: the checkpoint that `input` was converted from,
            in any format and naming, or a trace or an ONNX model of the same weights.
        architecture: Variant, or path of a table, that pairs the names; None to recognise it.
            A trace or an ONNX model needs a variant that porter has a reference model of.
        key: Name of one of several state dicts in `input`.
        like_key: The same in `like`.
        python: Interpreters in which torch or paddle is installed, by framework.
        force: Replace an existing output.
        progress: Called with a step's name, the bytes done and the bytes in all.
        options: How the output is written: `read_back`, `sync`, `digests`, `digest` and
            `record`, as in `porter.convert`.

    Returns a `Repair`; if its `ok` is False the proof failed, and nothing was written.
    Raises `UsageError` if there is nothing to restore, `InputError`, `MappingError`,
    `MissingPackage` or `SystemFault`; nothing is then written.
    """
    target = os.fspath(output)
    format = format_of(target)
    state = fetch.read(input, key=key, strip=False, progress=progress)
    assert state.origin is not None
    resolve(target, state.origin.files, force)
    if _computes(like):
        found = _by_outputs(state, like, architecture, python, progress)
    else:
        found = _by_values(state, like, like_key, architecture, progress)
    if not found.proof:
        return found
    fixed = StateDict(_restored(state, found.views), state.origin)
    written = codecs.write(
        fixed, target, format, force=force, metadata=_metadata(state.origin, format),
        inputs=[*state.origin.files, os.fspath(like)], progress=progress, **options,
    )  # fmt: skip
    return Repair(
        found.origin, found.reference, found.views, found.kept, found.proof, found.comparison,
        found.verdict, written,
    )  # fmt: skip


def _computes(like: str | os.PathLike[str]) -> bool:
    """Whether a reference shows outputs, not weights: a trace or an ONNX model."""
    local = fetch.local(like)
    from porter.checkpoints.read import detect

    return detect(local.path) == "onnx" or traces.is_trace(local.path)


def _by_values(
    state: StateDict, like: str | os.PathLike[str], key: str | None, architecture: str | None,
    progress: Progress | None,
) -> Repair:  # fmt: skip
    reference = fetch.read(like, key=key, progress=progress)
    comparison = compared(state, expected_of(state, reference, architecture))
    assert state.origin is not None
    assert reference.origin is not None
    if comparison.ok:
        raise UsageError(
            f"has the values of {reference.origin.shown}: there is nothing to restore",
            state.origin.shown,
        )
    proof = "" if comparison.others or comparison.cut else VALUES
    kept = len(state) - len(comparison.views)
    return Repair(
        state.origin, reference.origin.shown, comparison.views, kept, proof, comparison
    )  # fmt: skip


def _by_outputs(
    state: StateDict, like: str | os.PathLike[str], architecture: str | None,
    python: Mapping[str, str] | None, progress: Progress | None,
) -> Repair:  # fmt: skip
    """Restore every matrix that Paddle stores transposed, and run the result."""
    if architecture is None:
        raise UsageError("a trace or an ONNX model as reference needs --arch")
    variant = find(architecture)
    variant.need_model("comparing outputs")
    assert state.origin is not None
    fitted = fit(variant, state, None, CANONICAL)
    names = original_names(state, fitted)
    views: dict[str, Order] = {}
    for link in fitted.plan.source.links:
        place = place_of(variant.table, link.canonical[0])
        matrix = place is not None and place[0].kind in _MATRICES and len(link.dialect) == 1
        if matrix and len(fitted.state[link.dialect[0]].shape) == 2:
            views[names[link.dialect[0]]] = (1, 0)
    if _verdict(variant.name, state, like, python, progress).passed:
        raise UsageError(
            f"computes what {os.fspath(like)} does: there is nothing to restore",
            state.origin.shown,
        )
    fixed = StateDict(_restored(state, views), state.origin)
    verdict = _verdict(variant.name, fixed, like, python, progress)
    proof = OUTPUTS if verdict.passed else ""
    kept = len(state) - len(views)
    return Repair(
        state.origin, os.fspath(like), views, kept, proof, verdict=verdict
    )  # fmt: skip


def _verdict(
    variant: str, state: StateDict, like: str | os.PathLike[str],
    python: Mapping[str, str] | None, progress: Progress | None,
) -> Verdict:  # fmt: skip
    verdict = verify(
        variant, StateDict(dict(state)), os.fspath(like), diagnose=False, python=python,
        progress=progress,
    )  # fmt: skip
    if not (verdict.passed or verdict.failed):
        raise MissingPackage(verdict.reason)
    return verdict


def _restored(state: StateDict, views: Mapping[str, Order]) -> StateDict:
    return StateDict(
        {n: restored(t, views[n]) if n in views else t for n, t in state.items()}, state.origin
    )


def _metadata(origin: Origin, format: str) -> dict[str, str]:
    """Return the metadata of the source, with this step's provenance."""
    found = {key: value for key, value in origin.metadata.items() if key not in _OWN}
    if format == "safetensors":
        found.setdefault("format", "pt")
    return found | {
        "porter.version": __version__,
        "porter.source": os.path.basename(origin.path),
        "porter.source_format": origin.format,
        "porter.repaired": "untransposed views",
    }
