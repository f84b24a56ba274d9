"""`porter table check|show|infer|schema`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from porter.cli.layout import columns, say
from porter.cli.output import (
    Group,
    force_option,
    json_option,
    model_options,
    progress,
    python_option,
    say_json,
)
from porter.cli.shared import complete

if TYPE_CHECKING:
    from porter.infer.propose import Inferred
    from porter.mapping.table import Table
    from porter.planning.check import Proof
    from porter.tensors.state_dict import StateDict
    from porter.zoo.architectures import Architecture


@click.group("table", cls=Group)
def command() -> None:
    """Check, show or infer mapping tables; print their schema."""


@command.command("check")
@click.argument("archs", nargs=-1, metavar="[ARCH|TABLE.toml]...",
                shell_complete=complete.architectures)  # fmt: skip
@click.option("--with", "checkpoint", metavar="FILE", type=click.Path(),
              help="Check a custom table against a checkpoint.")  # fmt: skip
@click.option("--dialect", metavar="DIALECT", help="Naming of that checkpoint; default: it fits.")
@click.option("--prove", "proving", is_flag=True,
              help="Mutate each row: every fault must show in the outputs. Of several"
              " variants the smallest with a reference model is run, for each layout.")  # fmt: skip
@click.option("--like", metavar="FILE", type=click.Path(),
              help="Checkpoint of the target: its names are checked, too.")  # fmt: skip
@model_options
@python_option
@json_option
@click.pass_context
def check(
    ctx: click.Context,
    /,
    archs: tuple[str, ...],
    checkpoint: str | None,
    dialect: str | None,
    proving: bool,
    like: str | None,
    as_json: bool,
    **models: Any,
) -> None:
    """Check that tables are total and exact, every variant and dialect, both ways.

    ARCH is a variant or a family; by default, every variant is checked. A custom TABLE.toml is
    checked as far as possible without a checkpoint, with one for its names and shapes. --prove
    runs the two models of a custom table: those of its [models], or those named.
    """
    from porter.errors import UsageError
    from porter.planning.check import check as proofs
    from porter.planning.custom_table import is_table

    own = [name for name in archs if is_table(name)]
    if (checkpoint or dialect) and (len(own) != 1 or len(archs) != 1 or not checkpoint):
        raise UsageError("--with FILE, and --dialect with it, go with one TABLE.toml")
    if like is not None and checkpoint is None:
        raise UsageError("--like FILE goes with --with FILE")
    given = any(models[name] is not None for name in ("left_model", "right_model", "inputs"))
    if given and not (proving and len(own) == len(archs) == 1):
        raise UsageError("--left-model, --right-model and --inputs go with --prove TABLE.toml")
    chosen = [variant for name in archs if name not in own for variant in _variants(name)]
    if proving and own:
        if len(archs) > 1:
            raise UsageError("--prove takes one TABLE.toml at a time")
        _prove_own(ctx, own[0], models, as_json)
        return
    found = [proof for name in own for proof in _own(name, checkpoint, dialect, like)]
    if proving:
        _prove(ctx, chosen if archs else _variants(None), as_json)
        return
    with progress(as_json) as move:
        for variant in chosen if archs else _variants(None):
            if move is not None:
                move(f"checking {variant.name}", 0, 0)
            found += proofs([variant])
    if as_json:
        rows = [
            {"variant": p.variant, "dialect": p.dialect, "tensors": p.tensors, "holds": p.holds,
             "problems": list(p.problems)}
            for p in found
        ]  # fmt: skip
        say_json({"schema": "porter.proofs/1", "proofs": rows})
    else:
        _say(found)
    ctx.exit(0 if all(p.holds for p in found) else 1)


def _prove(ctx: click.Context, variants: list[Architecture], as_json: bool) -> None:
    from porter.cli.shared import prove

    if not any(variant.module for variant in variants):
        variants[0].need_model("--prove")
    variants = [variant for variant in variants if variant.module]
    made = prove.prove(variants, as_json)
    if not as_json:
        ctx.exit(0 if prove.say(made) else 1)
    proofs = list(made)
    say_json({"schema": "porter.sensitivities/1", "proofs": prove.as_dicts(proofs)})
    ctx.exit(0 if all(proof.holds for proof in proofs) else 1)


def _prove_own(ctx: click.Context, table: str, models: dict[str, Any], as_json: bool) -> None:
    """Mutate each row of a custom table, and print what the outputs of its models show."""
    from porter.commands.live.prove_table import prove_table

    with progress(as_json) as move:
        made = prove_table(table, progress=move, **models)
    rows = [
        {"row": m.row, "tensor": m.tensor, "kind": m.kind, "error": m.error} for m in made.uncaught
    ]
    if as_json:
        proof = {
            "variant": made.table, "dialect": made.dialect, "image_size": 0,
            "mutations": len(made.mutations), "holds": made.holds, "smallest_margin": None,
            "layers_only": [], "uncaught": rows, "unprovable": {},
        }  # fmt: skip
        say_json({"schema": "porter.sensitivities/1", "proofs": [proof]})
        ctx.exit(0 if made.holds else 1)
    caught = len(made.mutations) - len(rows)
    say(f"{made.table} {made.dialect}: {caught} of {len(made.mutations)} mutations caught; with"
        f" the table as it is, outputs differ by {made.agreement:.1e}")  # fmt: skip
    for row in rows:
        say(f"unproven: {row['row']}: {row['tensor']} {row['kind']} moves the outputs by"
            f" {row['error']:.1e} only", err=True)  # fmt: skip
    ctx.exit(0 if made.holds else 1)


def _own(
    name: str, checkpoint: str | None, dialect: str | None, like: str | None = None
) -> list[Proof]:
    """Return a proof of each dialect, as far as it can be made without a checkpoint."""
    from porter.mapping import gallery
    from porter.mapping.reader import load
    from porter.planning import custom_table
    from porter.planning.check import Proof
    from porter.planning.gallery import proofs as by_skeletons
    from porter.planning.recognise import shapes_of
    from porter.remote.fetch import read

    table = load(Path(name))
    problems = tuple(custom_table.unknown_operations(table))
    if checkpoint is None and not problems and gallery.is_entry(name):
        return list(by_skeletons(table, name, gallery.sides(name)))
    if checkpoint is None or problems:
        return [Proof(name, ", ".join(table.dialects), 0, problems)]
    state = read(checkpoint)
    container = "" if state.origin is None else state.origin.format
    proofs = list(custom_table.check_against(table, shapes_of(state), dialect, container))
    if like is None:
        return [replace(proof, words=custom_table.NAMES_UNCHECKED) for proof in proofs]
    return list(_against(proofs, table, state, dialect, container, like))


def _against(
    proofs: list[Proof], table: Table, state: StateDict, dialect: str | None, container: str,
    like: str,
) -> Iterator[Proof]:  # fmt: skip
    """Yield the proof of the dialect that the target of `like` has, its names checked."""
    from porter.planning import custom_table
    from porter.planning.plan import plan
    from porter.planning.recognise import shapes_of
    from porter.planning.target import Target, mismatches
    from porter.remote.fetch import read

    target = read(like)
    shapes = shapes_of(state)
    architecture, source = custom_table.fitting(table, shapes, dialect, container)
    tried = []
    for proof in proofs:
        if proof.dialect == source or not proof.holds:
            continue
        found = plan(architecture, shapes, source, proof.dialect)
        problems = mismatches(found.apply(state), Target(like, target), found.target)
        tried.append(replace(proof, problems=tuple(problems)))
    yield min(tried, key=lambda proof: len(proof.problems), default=proofs[0])


def _say(found: list[Proof]) -> None:
    rows = []
    for p in found:
        count = f"{p.tensors} tensors" if p.tensors else "no checkpoint"
        words = p.words if p.tensors else "well-formed"
        rows.append((p.variant, p.dialect, count, words if p.holds else "FAILS"))
    click.echo(columns(rows))
    for p in found:
        for problem in p.problems:
            say(f"{p.variant} {p.dialect}: {problem}", err=True)
    if any(p.tensors for p in found):
        click.echo(f"{sum(p.holds for p in found)} of {len(found)} total and exact, both ways")


def _variants(name: str | None) -> list[Architecture]:
    from porter.zoo.architectures import all_variants, families, find

    if name is None:
        return list(all_variants().values())
    return families().get(name) or [find(name)]


@command.command("show")
@click.argument("arch", shell_complete=complete.architectures)
@click.option("--dialect", default="paddle", metavar="DIALECT", help="Default: paddle.",
              shell_complete=complete.dialects)  # fmt: skip
@click.option("--full", is_flag=True, help="List every tensor instead of folding equal layers.")
def show(arch: str, dialect: str, full: bool) -> None:
    """Print the linked table of ARCH."""
    from porter.cli.show import linked_rows, table_text

    click.echo(table_text(linked_rows(arch, dialect.rpartition(":")[2], full)))


@command.command("schema")
def schema() -> None:
    """Print the JSON Schema of mapping tables, for editors."""
    import json

    from porter.mapping.schema import schema as table_schema

    click.echo(json.dumps(table_schema(), indent=1))


@command.command("infer")
@click.argument("left", required=False, type=click.Path())
@click.argument("right", required=False, type=click.Path())
@model_options
@click.option("-o", "--output", type=click.Path(), help="The table; default: print it.")
@click.option("--left", "left_framework", metavar="F", help="Layout of LEFT; default: recognised.")
@click.option(
    "--right", "right_framework", metavar="F", help="Layout of RIGHT; default: recognised."
)
@click.option("--dialect", metavar="NAME", help="What the table calls the naming of RIGHT.")
@click.option("--key", metavar="NAME", help="Which state dict of the files.")
@python_option
@force_option
@json_option
@click.pass_context
def infer(
    ctx: click.Context,
    /,
    left: str | None,
    right: str | None,
    left_model: str | None,
    right_model: str | None,
    inputs: str | None,
    output: str | None,
    python: dict[str, str],
    force: bool,
    as_json: bool,
    **options: str | None,
) -> None:
    """Propose a table for two models, or for two files of one model.

    The canonical names are LEFT's. With --left-model and --right-model both models are run: the
    right one is filled with the left one's weights, and equal outputs prove the rows; so do the
    files' values, where both have the same weights. F is torch, paddle or numpy. Of two files
    only, equal values prove the rows; every other row is marked as unproven and listed. The exit
    code is 1 if anything is unproven.
    """
    from porter.commands.live.infer import infer as propose
    from porter.storage.outputs import check_outputs, publish_content

    files = _files(*filter(None, (left, right))) if output is not None else []
    check_outputs([output] if output is not None else [], files, force)
    family = Path(output).stem if output is not None else None
    with progress(as_json) as moved:
        found = propose(
            left, right, left_model=left_model, right_model=right_model, inputs=inputs,
            family=family, python=python, progress=moved, **options,
        )  # fmt: skip
    if output is not None:
        publish_content(output, found.text, force=force, inputs=files)
    if as_json:
        say_json(_as_dict(found, output))
    else:
        if output is None:
            click.echo(found.text, nl=False)
        for line in _report(found, output):
            say(line, err=output is None)
    ctx.exit(0 if found.proven else 1)


def _files(*checkpoints: str) -> list[str]:
    """Return the files of the checkpoints, which no output may replace."""
    from porter.commands.verify import files_read

    return files_read(checkpoints)


def _report(found: Inferred, output: str | None) -> list[str]:
    lines = [f"unproven  {row}" for row in found.unproven]
    lines += [f"unmatched {name}" for name in found.unmatched]
    lines += [f"FAILS     {problem}" for problem in found.problems]
    if found.swapped:
        lines.append("the canonical names are those of RIGHT: PyTorch's are needed")
    lines += [f"note      {note}" for note in found.notes]
    doubts = f", {len(found.unproven)} unproven" if found.unproven else ""
    exact = "bit for bit" if found.exact else "but not its values: those differ"
    lines.append(
        f"{output or 'the table'}: {found.rows} rows{doubts}, naming {found.dialect};"
        f" used both ways it gives the other file's tensors, {exact}"
    )
    return lines


def _as_dict(found: Inferred, output: str | None) -> dict[str, Any]:
    return {
        "schema": "porter.inferred/1",
        "output": output,
        "table": found.text,
        "dialect": found.dialect,
        "swapped": found.swapped,
        "rows": found.rows,
        "unproven": list(found.unproven),
        "unmatched": list(found.unmatched),
        "problems": list(found.problems),
        "notes": list(found.notes),
        "exact": found.exact,
        "proven": found.proven,
    }
