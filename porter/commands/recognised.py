"""What need not be typed: the architecture and the naming of a source, the naming of a target."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path as FilePath

from porter.checkpoints.beside import model_name, names_of
from porter.checkpoints.read import detect
from porter.codecs.detect import container_of
from porter.codecs.paddle import inference
from porter.errors import InputError, MappingError, UsageError, listed, printable
from porter.mapping.prefix import student_of
from porter.mapping.reader import load
from porter.mapping.table import CANONICAL
from porter.planning import custom_table
from porter.planning.by_shapes import variants_of
from porter.planning.endpoint import FORMATS, PROGRAM, parse, spelled
from porter.planning.fit import refuse_optimizer
from porter.planning.locate import below
from porter.planning.plan import plan
from porter.planning.program.names import fitting as of_program
from porter.planning.recognise import Match, preferred, recognise, shapes_of
from porter.remote import address, fetch
from porter.remote.address import is_url
from porter.tensors.state_dict import StateDict
from porter.zoo.architectures import Architecture, all_variants, find, of_family

Path = str | os.PathLike[str]


def target(output: Path | None) -> str:
    """Return the `--to` that the suffix of an output means."""
    container = None if output is None else container_of(os.fspath(output))
    if container is None:
        where = "" if output is None else f" for {printable(os.fspath(output))}"
        raise UsageError(f"--to is needed{where}: {listed(FORMATS)}, or an output with a suffix")
    return next(word for word, known in FORMATS.items() if known == container)


def source(
    architecture: str | None,
    given: Path | None,
    from_: str | None,
    key: str | None,
    prefix: str | None,
) -> tuple[str, str]:
    """Return the architecture and the `--from` of a source, recognised where they are None.

    A name such as `cait-xxs24`, which several variants begin with, is completed too. Raises
    `UsageError` where several variants fit, with their names, and where none does.
    """
    among = None if architecture is None else _variants(architecture)
    if from_ in (None, "paddle", PROGRAM) and given is not None and _is_program(given):
        return _of_program(architecture, among, given), PROGRAM
    if architecture is not None and from_ is not None and among is None:
        return architecture, from_
    if given is None:
        raise UsageError("ARCH and --from are needed where there is no INPUT")
    state = fetch.read(given, key=key)
    refuse_optimizer(state)
    if architecture is not None and among is None:
        among = [] if custom_table.is_table(architecture) else [find(architecture)]
    if architecture is not None and among == []:
        table = load(FilePath(architecture))
        container = "" if state.origin is None else state.origin.format
        fitting = custom_table.fitting(table, shapes_of(state), None, container)[1]
        return architecture, spelled(table.dialect(fitting))
    match = _chosen(_matches(state, among, from_, prefix), state, among, given)
    dialect = match.architecture.table.dialect(match.dialect)
    is_graph = state.origin is not None and state.origin.format == "onnx"
    if is_graph and (dialect.name == CANONICAL or not match.exact):
        return match.architecture.name, from_ or "onnx"
    return match.architecture.name, from_ or spelled(dialect)


def _is_program(given: Path) -> bool:
    """Whether an input is an inference model of Paddle, whose names say nothing."""
    suffixes = (*inference.PROGRAMS, inference.STREAM)
    is_likely = os.path.isdir(given) or os.fspath(given).endswith(suffixes)
    return is_likely and not is_url(given) and detect(os.fspath(given)) == PROGRAM


def _of_program(architecture: str | None, among: Sequence[Architecture] | None, given: Path) -> str:
    """Return the variant of an inference model, by its operations or shapes if none is named."""
    if architecture is not None and among is None:
        return architecture
    state = fetch.read(given)
    fitting = [named.architecture for named, _ in of_program(state)]
    fitting = fitting or variants_of([t.shape for t in state.values() if t.dtype.is_float])
    names = [v.name for v in fitting if among is None or v in among]
    if not names:
        raise InputError(
            "fits no architecture that porter knows by its operations or shapes; name it as ARCH"
            " if it is one, or take them under the program's names with `porter repack`",
            os.fspath(given),
        )
    stated = model_name(state.origin)
    named = [name for name in names if stated in find(name).aliases]
    if len(names) > 1 and len(named) != 1:
        raise UsageError(
            f"fits {listed(names, 8)}: name one of them (ARCH or --arch)", os.fspath(given)
        )
    return (named or names)[0]


def _variants(name: str) -> list[Architecture] | None:
    """Return the variants that an incomplete name may mean, None for a name as it is."""
    if custom_table.is_table(name):
        return None
    try:
        find(name)
    except UsageError:
        begun = [v for v in all_variants().values() if v.name.startswith(f"{name.lower()}-")]
        if begun:
            return begun
        raise
    return None


def _matches(
    state: StateDict,
    among: Sequence[Architecture] | None,
    from_: str | None,
    prefix: str | None,
) -> list[Match]:
    shapes = shapes_of(state if prefix is None else below(state, prefix))
    matches = [match for match in recognise(shapes, among) if match.exact]
    if from_ is None:
        return matches
    return [m for m in matches if _is_named(m, from_)]


def _is_named(match: Match, from_: str) -> bool:
    try:
        return parse(from_, match.architecture.table).dialect == match.dialect
    except UsageError:
        return False


def _chosen(
    matches: Sequence[Match],
    state: StateDict,
    among: Sequence[Architecture] | None,
    given: Path,
) -> Match:
    """Return the one variant and naming; `UsageError` lists several variants."""
    assert state.origin is not None
    student = student_of(match.prefix for match in matches)
    matches = [match for match in matches if not student or match.prefix == student]
    names = list(dict.fromkeys(match.architecture.name for match in matches))
    recorded = state.origin.metadata.get("porter.architecture")
    if recorded in names:
        names = [recorded]
    if len(names) > 1:
        names = _named_by_file(names, state) or names
    if len(names) > 1:
        raise UsageError(
            f"fits {listed(names, 8)}: name one of them (ARCH or --arch)", state.origin.shown
        )
    fitting = [match for match in matches if match.architecture.name in names]
    if fitting:
        return preferred(fitting, state.origin.format)
    known = all_variants() if among is None else {variant.name: variant for variant in among}
    if state.origin.format == "onnx" and recorded in known:  # A tool may have renamed its weights.
        return Match(known[recorded], CANONICAL, False, 0)
    if among is not None and len(among) == 1:  # The plan says in which names it does not fit.
        return Match(among[0], _default(among[0], state), False, 0)
    raise InputError(_unknown(state, among), address.shown(given))


def _named_by_file(names: Sequence[str], state: StateDict) -> list[str]:
    """Return the one variant after which the file or its folder is named, if there is one."""
    stated = names_of(state.origin)
    named = [name for name in names if stated & {name, *map(str.lower, find(name).aliases)}]
    return named if len(named) == 1 else []


def _unknown(state: StateDict, among: Sequence[Architecture] | None) -> str:
    """Return what to say of a checkpoint that no variant fits: the nearest and what differs."""
    near = next(iter(recognise(shapes_of(state), among)), None)
    if near is None:
        return (
            "fits no architecture that porter knows (`porter list`); for another model write a"
            " table, or let `porter table infer` propose one"
        )
    if near.exact:
        naming = spelled(near.architecture.table.dialect(near.dialect))
        return f"is a {near.architecture.name} as {naming}, which --from or --prefix excludes"
    family = [v for v in of_family(near.architecture.family) if among is None or v in among]
    tried = [(variant, _problems(variant, state, near.dialect)) for variant in family]
    nearest, problems = min(tried, key=lambda row: len(row[1]))
    more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
    return (
        f"fits no architecture that porter knows; most like {nearest.name}"
        f" ({near.overlap:.0%} of the names): {problems[0]}{more}"
    )


def _problems(architecture: Architecture, state: StateDict, dialect: str) -> tuple[str, ...]:
    """Return why a checkpoint is not of a variant."""
    try:
        plan(architecture, shapes_of(state), dialect, CANONICAL)
    except MappingError as error:
        return error.problems or (error.message,)
    return ("it has many more elements",)


def _default(architecture: Architecture, state: StateDict) -> str:
    from porter.planning.recognise import best_dialect

    assert state.origin is not None
    prefer = "paddle" if state.origin.format == "paddle" else "torch"
    return best_dialect(architecture, shapes_of(state), prefer)
