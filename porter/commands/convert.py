"""Convert a checkpoint: read it, plan, apply the plan, write the output, prove it.

Nothing here imports a framework; the forward proof runs in child processes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Unpack

from porter import codecs
from porter.commands import recognised, summary
from porter.commands.conversion.proof import Proof, proving, verified
from porter.commands.conversion.provenance import metadata_of, options_of
from porter.commands.options import (
    FloatType,
    OnnxKeywords,
    WriteKeywords,
    checked_options,
    keys_of,
    refuse_unknown,
)
from porter.commands.outgoing import to_addresses
from porter.errors import MappingError, UsageError
from porter.mapping.reader import load as load_table
from porter.mapping.table import CANONICAL, Table
from porter.planning import custom_table, endpoint
from porter.planning.behaviour import behaviour_of, crossed
from porter.planning.endpoint import Endpoint
from porter.planning.fit import Fitted, fit
from porter.planning.locate import head_names
from porter.planning.plan import Plan
from porter.planning.preprocessing import GIVEN, Chosen, chosen, labels_of
from porter.planning.recognise import shapes_of
from porter.planning.target import Target, completed
from porter.remote import address, fetch
from porter.storage.atomic_output import Written
from porter.storage.outputs import check_outputs
from porter.storage.progress import Progress
from porter.storage.sidecar import SUFFIX
from porter.tensors import casts
from porter.tensors.state_dict import Origin, StateDict
from porter.verification.inputs import Halves, halved
from porter.verification.judge import bounds
from porter.zoo.architectures import Architecture, find

if TYPE_CHECKING:
    from porter.commands.live.models import Models
    from porter.verification.verdict import Verdict
    from porter.verification.weights import WeightProof


UNCALIBRATED = (
    "int8: activations are quantised as they come; judged on noise, pictures would be better"
    " (--calibrate)"
)


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


class Subject(NamedTuple):
    """The thing to convert: a variant that porter knows, or a custom table."""

    stem: str
    table: Table
    variant: Architecture | None

    @classmethod
    def of(cls, name: str) -> Subject:
        """Return the subject of an ARCH argument."""
        if custom_table.is_table(name):
            return cls(Path(name).stem, load_table(Path(name)), None)
        variant = find(name)
        return cls(variant.name, variant.table, variant)

    def refuse(self, options: Mapping[str, object]) -> None:
        """Raise `UsageError` for options that only a variant of porter has."""
        for name, value in options.items():
            if self.variant is None and value:
                raise UsageError(
                    f"{name} needs a variant that porter knows, not a custom table", self.stem
                )

    def models(
        self, sides: tuple[Endpoint, Endpoint], left: str | None, right: str | None,
        inputs: str | os.PathLike[str] | None, python: Mapping[str, str] | None,
    ) -> Models | None:  # fmt: skip
        """Return the two models of a custom table, None where neither it nor the user has any."""
        if self.variant is not None:
            if left is not None or right is not None or inputs is not None:
                raise UsageError(
                    "--left-model, --right-model and --inputs go with a mapping table: porter has"
                    " the models of its variants", self.stem,
                )  # fmt: skip
            return None
        if not self.table.models and left is None and right is None and inputs is None:
            return None  # The modules that run models are not loaded.
        from porter.commands.live.models import models_of

        dialects = (sides[0].dialect, sides[1].dialect)
        return models_of(self.table, dialects, left, right, inputs, python)

    def notes(self, left: Endpoint, right: Endpoint) -> tuple[str, ...]:
        """Return what the user should know about a custom table."""
        if self.variant is not None:
            return ()
        return tuple(custom_table.unwritten(self.table, left.dialect, right.dialect))

    def architecture(self, state: StateDict, dialect: str) -> Architecture:
        """Return the variant; that of a custom table follows from the checkpoint."""
        if self.variant is not None:
            return self.variant
        return custom_table.custom_architecture(self.table, shapes_of(state), dialect)


@to_addresses
@checked_options(WriteKeywords)
def convert(
    architecture: str | None = None,
    source: str | os.PathLike[str] | None = None,
    output: str | os.PathLike[str] | None = None,
    *,
    from_: str | None = None,
    to: str | None = None,
    dtype: FloatType | Literal["int8"] | None = None,
    num_classes: int | None = None,
    image_size: int | None = None,
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
    left_model: str | None = None,
    right_model: str | None = None,
    inputs: str | os.PathLike[str] | None = None,
    like: str | os.PathLike[str] | None = None,
    accept_unproven: bool = False,
    **options: Unpack[WriteKeywords],
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
        left_model: Model whose checkpoint `source` is, with a mapping table: FILE.py:build,
            package.module:Class or PROVIDER:NAME; None for that of the table's [models].
        right_model: Model whose checkpoint `output` is.
        inputs: `.npz` file of what both are run on; None for pictures.
        like: Checkpoint with the tensors that the output must have; those that the table does
            not write are taken from it.
        accept_unproven: Do not fail because rows of the table are unproven.
        options: How the output is written. `read_back`: read it again and compare; `sync`:
            bring it to the disk; `digests`: take and record digests; `digest`: "xxh3" or
            "sha256"; `record`: write the record OUTPUT.porter.json.

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
    _check_asked(container, dtype, verify, judge, onnx)
    made = source is None and not os.path.lexists(subject.stem + left.suffix)
    source = subject.stem + left.suffix if source is None else source
    parts = [target, *(target + suffix for suffix in (SUFFIX, ".index.json", ".data"))]
    if made:
        check_outputs(reports, (), force, [source, *parts])
        state = _seeded(subject, left, source, seed, num_classes, image_size, dry_run)
    else:
        state = _read(subject, left, source, key, fold_batchnorm, progress)
    assert state.origin is not None
    check_outputs(reports, state.origin.files, force, parts)
    variant = subject.architecture(state, left.dialect)
    fitting = partial(
        fit, state=state, source_dialect=left.dialect, target_dialect=right.dialect,
        drop=drop, fill=fill, prefix=prefix,
    )  # fmt: skip
    if adapt:
        fitted = _fitted_to_adapt(fitting, variant, num_classes)
    else:
        fitted = fitting(variant, num_classes=num_classes, image_size=image_size)
    unchanged = not (adapt or drop or fill or num_classes == 0) and fitted.state is state
    state = fitted.state
    assert state.origin is not None
    canonical, write_plan = fitted.plan.read(state), fitted.plan
    notes = (*fitted.notes, *subject.notes(left, right), *_crossed(fitted, container))
    if adapt:
        canonical, write_plan, changes = _adapted(
            fitted, variant, canonical, right, num_classes, image_size, seed
        )
        notes = (*notes, *changes)
        fitted = fitted._replace(architecture=write_plan.architecture)
    plan = replace(
        fitted.plan, architecture=fitted.architecture, num_classes=write_plan.num_classes,
        image_size=write_plan.image_size,
    )  # fmt: skip
    outcome = Conversion(plan, address.shown(source), from_, target, to, made, state.origin, notes)
    converted, report = write_plan.write(canonical), dict[str, casts.Cast]()
    if dtype is not None:
        converted, report = casts.cast(converted, "fp32" if dtype == "int8" else dtype)
    picture = _picture(container, fitted, left.named, write_plan, onnx or {})
    if picture is not None:
        size = fitted.architecture.sides(write_plan.image_size)
        line = f"preprocessing: {picture.how.described(size)} ({picture.why})"
        outcome = replace(outcome, notes=(*outcome.notes, line))
    pictures = _pictures(picture, fitted.architecture, plan.image_size, onnx)
    if dtype == "int8":
        note = pictures.note if pictures else UNCALIBRATED
        outcome = replace(outcome, notes=(*outcome.notes, note))
    write = _writer(container, fitted, write_plan, max_shard_size, onnx, dtype, pictures, picture)
    if like is not None:
        other = codecs.read(os.fspath(like))
        converted, kept = completed(converted, Target(os.fspath(like), other), write_plan.target)
        fitted = fitted._replace(plan=replace(fitted.plan, kept=tuple(kept)))
        write_plan = replace(write_plan, kept=tuple(kept))
    with ExitStack() as stack:
        session = None if models is None else stack.enter_context(models.opened())
        if session is not None:
            session.check_source(fitted.state)
            converted, kept = session.completed(converted, write_plan)
            fitted = fitted._replace(plan=replace(fitted.plan, kept=tuple(kept)))
            write_plan = replace(write_plan, kept=tuple(kept))
        if dry_run:
            return outcome
        rewritten = dtype == "int8" or bool(onnx and onnx.get("optimize"))
        proof = None
        if verify and not rewritten:
            proof = Proof(fitted.plan, state)
            if adapt:
                computed = write_plan.computed  # Masks and indices: checked against the plan.
                read = {name: t for name, t in canonical.items() if name not in computed}
                proof = Proof(write_plan, StateDict(read))
        written = write(
            converted,
            target,
            force=force,
            metadata={
                **metadata_of(outcome, fitted, right),
                **options_of(state.origin.wrapper, dtype, drop, fill, seed if adapt else None),
            },
            inputs=state.origin.files,
            proof=proof if dtype is None else None,
            progress=progress,
            **options,
        )
        outcome = replace(outcome, output=written.path, written=written, casts=report)
        if not verify:
            return _with_unproven(outcome, subject.table, accept_unproven)
        stack.enter_context(proving(written))
        if proof is not None:
            outcome = replace(outcome, weights=proof.proven(outcome, dtype))
        if session is not None:
            from porter.commands.live.models import Side

            left_of = Side(state, left.dialect, key, unchanged)
            right_of = Side(codecs.read(outcome.output), right.dialect)
            rounded = None if dtype is None else casts.FLOATS[dtype]
            verdict = session.verdict(
                fitted.plan, left_of, right_of, rounded=rounded, weights=outcome.weights
            )
            outcome = replace(outcome, verdict=verdict)
        if not fitted.architecture.module:
            return _with_unproven(outcome, subject.table, accept_unproven)
        # A state dict recovered from a graph is not a file that a framework could read, and of one
        # that was changed the same changes are in both sides.
        left_side: StateDict | str = state if state.origin.address else state.origin.path
        if not unchanged:
            left_side = _in_dialect(write_plan, canonical, left.dialect)
        elif state.origin.format in endpoint.GRAPHS:
            left_side = state
        heads = head_names(fitted.architecture)
        filled_head = bool(heads) and set(heads) <= set(plan.filled)
        without_head = plan.num_classes == 0 or filled_head
        if filled_head:
            note = "the classifier is filled with a constant: outputs are compared before it"
            outcome = replace(outcome, notes=(*outcome.notes, note))
        return verified(
            outcome, left_side, fitted.architecture, key,
            # Of a classifier that is filled with one value, only its input can be compared.
            num_classes=0 if without_head else None, image_size=image_size,
            judge=judge, pictures=pictures, quantised=dtype == "int8",
            python=python, progress=progress,
        )  # fmt: skip


def _with_unproven(outcome: Conversion, table: Table, accepted: bool) -> Conversion:
    """Repeat what is unproven in a table, unless the outputs of both models have proven it."""
    if outcome.verdict is not None and outcome.verdict.passed:
        return outcome
    return replace(outcome, unproven=dict(table.unproven), accepted=accepted)


def _check_asked(
    container: str, dtype: str | None, verify: bool, judge: str | None, onnx: OnnxKeywords | None
) -> None:
    """Refuse options that need others."""
    if dtype == "int8" and container != "onnx":
        raise UsageError("--dtype int8: for --to onnx only")
    if onnx and "calibrate" in onnx and dtype != "int8":
        raise UsageError("--calibrate: with --dtype int8 only")
    if judge is not None:
        if not verify:
            raise UsageError("--judge needs the proof that --no-verify leaves out")
        bounds(judge)


def _pictures(
    picture: Chosen | None, variant: Architecture, image_size: int, onnx: OnnxKeywords | None
) -> Halves | None:
    """Return the pictures of --calibrate."""
    if not onnx or "calibrate" not in onnx or picture is None:
        return None
    if onnx.get("with_preprocessing"):
        raise UsageError("--calibrate takes normalised pictures: leave --with-preprocessing out")
    return halved(onnx["calibrate"], picture.how, variant.sides(image_size), onnx.get("batch"))


def _crossed(fitted: Fitted, container: str) -> Iterator[str]:
    """Yield what only one of the two dialects computes."""
    source, target = (linked.dialect.name for linked in (fitted.plan.source, fitted.plan.target))
    read = behaviour_of(fitted.architecture, source, fitted.state.origin)
    written = behaviour_of(fitted.architecture, target)
    if container == endpoint.FOLDER:  # Its config.json states the canonical values.
        written = tuple(row for row in written if not row.config)
    return crossed((source, read), (target, written))


def _fitted_to_adapt(
    fitting: Callable[..., Fitted], variant: Architecture, num_classes: int | None
) -> Fitted:
    """Fit a checkpoint of which classes or size will change.

    It may lack its classifier, and be of a variant with another window.
    """
    from porter.planning.adapt import other_windows

    first: MappingError | None = None
    for one in (variant, *other_windows(variant)):
        for classes in (None, 0) if num_classes else (None,):
            try:
                return fitting(one, num_classes=classes)
            except MappingError as error:
                first = first or error
    assert first is not None
    raise first


def _in_dialect(plan: Plan, canonical: StateDict, dialect: str) -> StateDict:
    """Return a canonical state dict under the names of a dialect."""
    back = fit(
        plan.architecture, canonical, CANONICAL, dialect, image_size=plan.image_size,
        num_classes=0 if plan.num_classes == 0 else None,
    )  # fmt: skip
    return back.plan.apply(canonical)


def _read(
    subject: Subject,
    left: Endpoint,
    source: str | os.PathLike[str],
    key: str | None,
    fold_batchnorm: bool,
    progress: Progress | None,
) -> StateDict:
    """Return the source's state dict; that of a graph is recovered from what it computes."""
    if left.container not in endpoint.GRAPHS or subject.variant is None:
        state = fetch.read(source, key=key, progress=progress)
        is_graph = state.origin is not None and state.origin.format in endpoint.GRAPHS
        if not is_graph or subject.variant is None or left.dialect != CANONICAL:
            return state
    from porter.onnx.recover.read import read

    return read(subject.variant, source, fold_batchnorm=fold_batchnorm, progress=progress)


def _adapted(
    fitted: Fitted,
    wanted: Architecture,
    canonical: StateDict,
    right: Endpoint,
    num_classes: int | None,
    image_size: int | None,
    seed: int,
) -> tuple[StateDict, Plan, tuple[str, ...]]:
    """Return the state dict with other sizes, the plan that writes it, and what was changed."""
    from porter.planning.adapt import adapt, other_windows

    variant = wanted if fitted.architecture in other_windows(wanted) else fitted.architecture
    canonical, changes = adapt(
        variant, canonical, num_classes=num_classes, image_size=image_size, seed=seed
    )
    own = StateDict({n: t for n, t in canonical.items() if n not in fitted.plan.computed})
    plan = fit(variant, own, CANONICAL, right.dialect, image_size=image_size).plan
    return plan.read(canonical), plan, tuple(changes)


def _writer(
    container: str,
    fitted: Fitted,
    plan: Plan,
    max_shard_size: str | int | None,
    onnx: OnnxKeywords | None,
    dtype: str | None,
    pictures: Halves | None,
    picture: Chosen | None,
) -> Callable[..., Written]:
    """Return the function that writes a state dict: a codec, or the ONNX export."""
    if container != "onnx":
        if onnx:
            raise UsageError(f"{', '.join(onnx)}: for --to onnx only")
        if container == endpoint.FOLDER:
            from porter.commands import snapshot

            snapshot.config(fitted.architecture, plan)  # Refused before anything is read.
            return partial(
                snapshot.write, fitted.architecture, plan, max_shard_size=max_shard_size,
                preprocessing=None if picture is None else picture.how,
            )  # fmt: skip
        return partial(codecs.write, format=container, max_shard_size=max_shard_size)
    if max_shard_size is not None:
        raise UsageError("an ONNX model is not cut into shards; use --external-data")
    from porter.onnx.export.write import Options, export

    left_out = (*GIVEN, "preprocessing", "calibrate")
    given: dict[str, Any] = {k: v for k, v in (onnx or {}).items() if k not in left_out}
    options = Options(
        **given, int8=dtype == "int8", calibration=pictures.calibrating if pictures else {}
    )
    return partial(
        export, fitted.architecture, num_classes=plan.num_classes, image_size=plan.image_size,
        features=plan.features, options=options,
        preprocessing=None if picture is None else picture.how,
        labels=labels_of(fitted.state.origin),
    )  # fmt: skip


def _picture(
    container: str, fitted: Fitted, named: str, plan: Plan, onnx: OnnxKeywords
) -> Chosen | None:
    """Return the preprocessing of the weights, for an output that states it."""
    if container not in ("onnx", endpoint.FOLDER) or not fitted.architecture.module:
        return None
    size = fitted.architecture.sides(plan.image_size)
    given = {key: onnx.get(key) for key in GIVEN}
    return chosen(
        fitted.architecture, named, fitted.state.origin, size, file=onnx.get("preprocessing"),
        given=given,
    )  # fmt: skip


def _seeded(
    subject: Subject,
    left: Endpoint,
    path: str | os.PathLike[str],
    seed: int,
    num_classes: int | None,
    image_size: int | None,
    dry_run: bool,
) -> StateDict:
    """Return the seeded checkpoint that replaces an INPUT, written unless on a dry run."""
    from porter.commands.init import init, seeded_state

    variant, path = subject.variant, os.fspath(path)
    if variant is None:
        raise UsageError("a custom table needs an INPUT: porter cannot make its weights")
    if not dry_run:
        init(
            variant.name, path, to=left.text, seed=seed, num_classes=num_classes,
            image_size=image_size,
        )  # fmt: skip
        return codecs.read(path)
    state = seeded_state(
        variant, left.dialect, seed=seed, num_classes=num_classes, image_size=image_size
    )
    return StateDict(state, Origin(path, left.container))
