"""Convert a checkpoint: read it, plan, apply the plan, write the output, prove it.

Nothing here imports a framework; the forward proof runs in child processes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, Unpack

from porter import codecs
from porter.commands import recognised, summary
from porter.commands.conversion.fitting import Changes, Prepared, prepared
from porter.commands.conversion.outputs import How
from porter.commands.conversion.proof import proving, read_output
from porter.commands.conversion.provenance import metadata_of, options_of
from porter.commands.conversion.subject import Subject, read, seeded
from porter.commands.conversion.writer import check_asked, writer_of
from porter.commands.options import (
    FloatType,
    OnnxKeywords,
    ShardKeywords,
    checked_options,
    keys_of,
    refuse_unknown,
)
from porter.commands.outgoing import in_shards, to_addresses
from porter.errors import UsageError
from porter.mapping.table import Table
from porter.planning import endpoint, gallery
from porter.planning.endpoint import Endpoint
from porter.planning.plan import Plan
from porter.planning.target import Target, completed
from porter.remote import address
from porter.storage.atomic_output import Written
from porter.storage.outputs import check_outputs
from porter.storage.progress import Progress
from porter.storage.replaced import replaced
from porter.storage.sidecar import SUFFIX
from porter.tensors import casts
from porter.tensors.state_dict import Origin
from porter.zoo.image_size import Size

if TYPE_CHECKING:
    from porter.commands.live.models import Session
    from porter.verification.verdict import Verdict
    from porter.verification.weights import WeightProof


@dataclass(frozen=True, slots=True)
class Conversion:
    """The result of a conversion, or of its dry run."""

    plan: Plan
    source: str
    from_: str
    """`FORMAT:DIALECT` of the source."""
    output: str
    to: str
    made_source: bool
    """Whether the source was made from seeded weights, since none was given."""
    origin: Origin
    notes: tuple[str, ...] = ()
    casts: Mapping[str, casts.Cast] = field(default_factory=dict)
    written: Written | None = None
    weights: WeightProof | None = None
    verdict: Verdict | None = None
    unproven: Mapping[str, str] = field(default_factory=dict)
    """Rows of the table that nothing proves, {name: why}, but where the outputs do."""
    accepted: bool = False
    """Whether those were accepted."""
    graph: str | None = None
    """The problem that the ONNX checker found in the output, empty for none; None: not checked."""

    def __repr__(self) -> str:
        return f"Conversion({summary.line(self)})"

    def _repr_html_(self) -> str:
        return summary.html(self)

    def noting(self, *notes: str) -> Conversion:
        """Return it with more notes."""
        return replace(self, notes=(*self.notes, *notes))

    @property
    def ok(self) -> bool:
        """Whether no proof has failed."""
        failed = self.verdict is not None and self.verdict.failed
        whole = not self.unproven or self.accepted
        proven = self.weights is None or self.weights.holds
        return not failed and not self.graph and proven and whole

    @property
    def proven(self) -> bool:
        """Whether the outputs of both models were compared, and are the same."""
        return self.ok and self.verdict is not None and self.verdict.passed


@in_shards
@to_addresses
@checked_options(ShardKeywords)
def convert(
    architecture: str | None = None,
    source: str | os.PathLike[str] | None = None,
    output: str | os.PathLike[str] | None = None,
    *,
    from_: str | None = None,
    to: str | None = None,
    dtype: FloatType | Literal["int8"] | None = None,
    num_classes: int | None = None,
    image_size: Size | None = None,
    adapt: bool = False,
    max_shard_size: str | int | None = None,
    key: str | None = None,
    prefix: str | None = None,
    drop: Sequence[str] = (),
    fill: Mapping[str, float] | None = None,
    seed: int = 0,
    verify: bool = True,
    judge: str | None = None,
    python: Mapping[str, str] | None = None,
    force: bool = False,
    dry_run: bool = False,
    reports: Sequence[str | os.PathLike[str]] = (),
    progress: Progress | None = None,
    onnx: OnnxKeywords | None = None,
    fold_batchnorm: bool = False,
    timeout: float | None = None,
    left_model: str | None = None,
    right_model: str | None = None,
    inputs: str | os.PathLike[str] | None = None,
    like: str | os.PathLike[str] | None = None,
    accept_unproven: bool = False,
    **options: Unpack[ShardKeywords],
) -> Conversion:
    """Convert a checkpoint to another framework, naming or container, and prove the result.

    Parameters:
        architecture: Name of a variant, such as "shunted-t", or path of a mapping table; None
            for the only variant that `source` fits.
        source: Path or address of the checkpoint. None for the file of the
            variant's name in the working directory; without one, seeded weights are made there.
        output: Path of the file to write; None for the variant's name with the usual suffix.
        from_: Format and naming of `source`, `FORMAT[:DIALECT]`; None for those of its content.
        to: Format and naming of `output`; None for those that its suffix means.
        dtype: Floating type to cast to; None keeps every dtype. "int8" quantises the weights of
            an ONNX output, which then does not map back.
        num_classes: Number of classes; None for the checkpoint's, another one needs `adapt`,
            0 leaves the classifier out.
        image_size: Image size in pixels; None for the checkpoint's, another one needs `adapt`.
        adapt: Change classes or image size: a new head, resized positions.
        max_shard_size: Bytes, or a text such as "5GB": a larger output is cut into shards.
        key: Name of one of several state dicts in the source.
        prefix: What is before the names of the model's tensors, such as "teacher."; None for
            the only prefix below which they are complete.
        drop: Tensors of the source to leave out: names, modules or patterns such as "decoder*".
        fill: Values for canonical tensors, in the place of the source's.
        seed: Seed of weights that are made: without a source, or by `adapt`.
        verify: Compare the weights, and the outputs of both models where the frameworks are.
        judge: Limits for the outputs of all inputs together, as `verify` takes them.
        python: Interpreters in which torch or paddle is installed, by framework.
        force: Replace an existing output.
        dry_run: Plan the conversion and write nothing.
        reports: Files that the caller will write the verdict to: checked, with the output, before
            anything is written.
        progress: Called with a step's name, the bytes done and the bytes in all.
        onnx: Options of an ONNX output (`porter.commands.options.OnnxKeywords`).
        fold_batchnorm: Take a foreign ONNX file whose batch norms are folded into convolutions.
        timeout: Seconds that each step with a foreign ONNX file may take; None: the environment's
            `PORTER_TIMEOUT`, or 600.
        left_model: Model whose checkpoint `source` is, with a mapping table: FILE.py:build,
            package.module:Class or PROVIDER:NAME; None for that of the table's [models].
        right_model: Model whose checkpoint `output` is.
        inputs: `.npz` file of what both are run on; None for pictures.
        like: Checkpoint with the tensors that the output must have; those that the table does
            not write are taken from it.
        accept_unproven: Do not fail because rows of the table are unproven.
        options: How the output is written. `read_back`: read it again and compare; `sync`:
            bring it to the disk; `digests`: take and record digests; `digest`: "xxh3" or
            "sha256"; `record`: write the record OUTPUT.porter.json. `pool`: processes that
            write the shards, such as `porter.fleet.shards.Local(4)`; `places`: where they go, which
            porter sets for an output at an address.

    Returns a `Conversion` with the plan, the output and the proofs; its `ok` is False if a proof
    failed.
    Raises `InputError`, `MappingError`, `UsageError` or `SystemFault`; nothing is then written.
    """
    if onnx:
        refuse_unknown(onnx, keys_of(OnnxKeywords), "onnx")
    architecture, from_ = recognised.source(architecture, source, from_, key, prefix)
    to = to or recognised.target(output)
    subject = Subject.of(architecture)
    left, right = endpoint.parse(from_, subject.table), endpoint.parse(to, subject.table)
    subject.refuse(
        {"num_classes": num_classes, "image_size": image_size, "adapt": adapt, "judge": judge}
    )
    models = subject.models((left, right), left_model, right_model, inputs, python)
    if reports and models is None and subject.variant is None:
        raise UsageError(
            "--report needs a verdict, and that needs the table's two models: name them by"
            " --left-model and --right-model", subject.stem,
        )  # fmt: skip
    target = os.fspath(output) if output is not None else subject.stem + right.suffix
    container = endpoint.container_for(target, right)
    target = target.rstrip("/") if container == endpoint.FOLDER else target
    check_asked(container, dtype, verify, judge, onnx)
    made = source is None and not os.path.lexists(subject.stem + left.suffix)
    source = subject.stem + left.suffix if source is None else source
    parts = [target, *(target + suffix for suffix in (SUFFIX, ".index.json", ".data"))]
    if made:
        check_outputs(reports, (), force, [source, *parts])
        state = seeded(subject, left, source, seed, num_classes, image_size, dry_run)
    else:
        state = read(subject, left, source, key, fold_batchnorm, timeout, progress)
    assert state.origin is not None
    check_outputs(reports, state.origin.files, force, parts)
    behaviour = (onnx or {}).get("behaviour", "canonical")
    changes = Changes(num_classes, image_size, adapt, drop, fill, prefix, seed, behaviour)
    variant = subject.architecture(state, left.dialect)
    ready = prepared(variant, state, (left, right), container, changes)
    origin = ready.state.origin
    assert origin is not None
    notes = (*ready.notes, *subject.notes(left, right))
    outcome = Conversion(ready.plan, address.shown(source), from_, target, to, made, origin, notes)
    converted, report = ready.target.write(ready.canonical), dict[str, casts.Cast]()
    if dtype is not None:
        converted, report = casts.cast(converted, "fp32" if dtype == "int8" else dtype)
    is_sized = image_size is not None
    writer = writer_of(container, ready, left.named, dtype, max_shard_size, onnx, is_sized)
    outcome = outcome.noting(*writer.notes)
    if like is not None:
        other = Target(os.fspath(like), codecs.read(os.fspath(like)))
        converted, kept = completed(converted, other, ready.target.target)
        ready = ready.keeping(kept)
    with ExitStack() as stack:
        session, missing = (None, "") if models is None else models.opened_or_missing(stack)
        if missing:
            states = {left.dialect: ready.state, right.dialect: converted}
            outcome = outcome.noting(*gallery.checked(architecture, states))
        elif session is not None:
            session.check_source(ready.state)
            converted, kept = session.completed(converted, ready.target)
            ready = ready.keeping(kept)
        if dry_run:
            return outcome
        rewritten = dtype == "int8" or bool(onnx and onnx.get("optimize"))
        proof = ready.proof() if verify and not rewritten else None
        old = stack.enter_context(replaced(target) if verify else replaced())
        written = writer.write(
            converted,
            target,
            force=force,
            metadata={
                **metadata_of(outcome, ready.fitted, right),
                **options_of(origin.wrapper, dtype, drop, fill, changes.seed_used, behaviour),
            },
            inputs=origin.files,
            proof=None if proof is None else proof.rounded(dtype),
            progress=progress,
            **options,
        )
        outcome = replace(outcome, output=written.path, written=written, casts=report)
        if not verify:
            return _with_unproven(outcome, subject.table, accept_unproven)
        stack.enter_context(proving(written, old))
        if proof is not None:
            outcome = replace(outcome, weights=proof.proven(outcome, dtype))
        if models is not None and session is None:
            names = (left.dialect, right.dialect)
            verdict = models.not_made(ready.plan.architecture.name, names, missing)
            outcome = replace(outcome, verdict=verdict)
        elif session is not None:
            verdict = _by_models(session, ready, outcome, (left, right), key, dtype)
            outcome = replace(outcome, verdict=verdict)
        how = How(
            container=container, key=key, judge=judge, python=python, image_size=image_size,
            behaviour=behaviour, pictures=writer.pictures, quantised=dtype == "int8",
            progress=progress,
        )  # fmt: skip
        outcome = how.proven(outcome, ready)
        return _with_unproven(outcome, subject.table, accept_unproven)


def _by_models(
    session: Session,
    ready: Prepared,
    outcome: Conversion,
    sides: tuple[Endpoint, Endpoint],
    key: str | None,
    dtype: FloatType | Literal["int8"] | None,
) -> Verdict:
    """Compare the outputs of the user's own models."""
    from porter.commands.live.one import Side

    left, right = sides
    return session.verdict(
        ready.fitted.plan,
        Side(ready.state, left.dialect, key, ready.unchanged),
        Side(read_output(outcome.output), right.dialect),
        rounded=None if dtype is None else casts.FLOATS[dtype],
        weights=outcome.weights,
    )


def _with_unproven(outcome: Conversion, table: Table, accepted: bool) -> Conversion:
    """Repeat what is unproven in a table, unless the outputs of both models have proven it."""
    if outcome.verdict is not None and outcome.verdict.passed:
        return outcome
    return replace(outcome, unproven=dict(table.unproven), accepted=accepted)
