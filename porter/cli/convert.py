"""`porter convert`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from porter.cli.layout import columns, say
from porter.cli.output import (
    command_line,
    digest_option,
    force_option,
    json_option,
    judge_option,
    model_options,
    progress,
    python_option,
    quiet_option,
    record_option,
    say_json,
    say_verdict,
)
from porter.cli.shared import complete
from porter.cli.shared.image_size import image_size_option
from porter.cli.shared.onnx_options import onnx_options, taken
from porter.cli.shared.shards import pool_of, shard_options

if TYPE_CHECKING:
    from porter.commands.convert import Conversion


def _fill(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, float]:
    found = {}
    for value in values:
        name, equals, number = value.rpartition("=")
        try:
            found[name] = float(number)
        except ValueError:
            equals = ""
        if not equals:
            raise click.BadParameter(f"{value!r} is not NAME=NUMBER")
    if len(found) < len(values):
        raise click.BadParameter("one tensor is given two values")
    return found


@click.command("convert")
@click.argument("arch", metavar="[ARCH]", required=False, shell_complete=complete.architectures)
@click.argument("source", metavar="[INPUT]", required=False, type=click.Path())
@click.option("-o", "--output", type=click.Path(), help="Default: ARCH with the usual suffix.")
@click.option("--from", "from_", metavar="F[:DIALECT]", shell_complete=complete.sides,
              help="Format and dialect of INPUT; default: recognised.")  # fmt: skip
@click.option("--to", metavar="F[:DIALECT]", shell_complete=complete.sides,
              help="Format and dialect of the output; default: by its suffix.")  # fmt: skip
@click.option("--dtype", type=click.Choice(["fp32", "fp16", "bf16", "int8"]),
              help="Cast floating tensors; int8: quantise an ONNX output.")  # fmt: skip
@click.option("--num-classes", type=click.IntRange(0),
              help="Classes; default: the checkpoint's. 0: without classifier.")  # fmt: skip
@image_size_option("the checkpoint's")
@click.option(
    "--adapt", is_flag=True, help="Change classes or image size: new head, resized positions."
)
@click.option(
    "--max-shard-size", metavar="SIZE", help="Split the output into shards, for example 5GB."
)
@shard_options
@click.option(
    "--key", metavar="NAME", help="State dict to take from the file, for example model_ema."
)
@click.option("--prefix", metavar="PREFIX",
              help="What is before the names of the model, for example teacher.")  # fmt: skip
@click.option("--drop", multiple=True, metavar="NAME",
              help="Leave out a tensor, a module or a pattern such as decoder*.")  # fmt: skip
@click.option("--fill", multiple=True, metavar="NAME=VALUE", callback=_fill,
              help="Write a value for a tensor, in the place of INPUT's.")  # fmt: skip
@click.option(
    "--seed",
    type=int,
    default=0,
    help="Seed of the weights that are made without INPUT or by --adapt.",
)
@click.option(
    "--verify/--no-verify",
    default=True,
    help="Compare weights and outputs of both models (default).",
)
@judge_option
@click.option("--require-proof", is_flag=True,
              help="Exit with 3 if the outputs could not be compared.")  # fmt: skip
@click.option("--read-back/--no-read-back", default=True,
              help="Read the finished output again and compare it (default).")  # fmt: skip
@click.option("--sync/--no-sync", default=True,
              help="Wait until the output is on the disk (default).")  # fmt: skip
@click.option("--digests/--no-digests", default=True,
              help="Record digests of the source and of every tensor (default).")  # fmt: skip
@digest_option
@record_option
@python_option
@click.option("--report", "reports", multiple=True, type=click.Path(), metavar="FILE",
              help="Write the verdict: .md, .html, .json or .xml.")  # fmt: skip
@model_options
@click.option("--like", type=click.Path(), metavar="FILE",
              help="Checkpoint with the tensors that the output must have.")  # fmt: skip
@click.option("--accept-unproven", is_flag=True,
              help="Do not fail because rows of the table are unproven.")  # fmt: skip
@onnx_options
@force_option
@click.option("--dry-run", is_flag=True, help="Print the plan and write nothing.")
@json_option
@quiet_option
@click.pass_context
def command(
    ctx: click.Context,
    /,
    arch: str | None,
    source: str | None,
    reports: tuple[str, ...],
    require_proof: bool,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Convert a checkpoint of ARCH, a variant's name or the path of a mapping table.

    F is torch, paddle, numpy, safetensors, onnx or hf, a folder that transformers loads. ARCH,
    --from and --to may be left out where the content of INPUT and the suffix of the output decide.
    Without INPUT, the file of the variant's name in the working directory is read; if there is
    none, a checkpoint of seeded weights is made. The exit code is 1 if a proof fails, and with
    --require-proof 3 if none was made.
    """
    from porter.commands.convert import convert
    from porter.commands.summary import rows
    from porter.report import check_names

    check_names(reports)
    if arch is not None and source is None and _is_checkpoint(arch):
        arch, source = None, arch
    if reports and not options["verify"]:
        raise click.UsageError("--report needs the proof that --no-verify leaves out")
    if require_proof and not options["verify"]:
        raise click.UsageError("--require-proof and --no-verify contradict each other")
    _refuse_unused(ctx, source, reports, require_proof, options)
    onnx = taken(options)
    pool = pool_of(options)
    with progress(quiet or as_json) as move:
        outcome = convert(
            arch, source, reports=reports, progress=move, onnx=onnx, pool=pool, **options
        )
    if outcome.verdict is not None and reports:
        from porter.report import write_reports

        verdict = replace(outcome.verdict, command=command_line(ctx))
        write_reports(
            verdict, reports, force=options["force"],
            inputs=(*outcome.origin.files, outcome.output),
        )  # fmt: skip
    if as_json:
        say_json(as_dict(outcome))
    elif not quiet:
        click.echo(columns(rows(outcome)))
        if outcome.verdict is not None:
            say_verdict(outcome.verdict)
    if require_proof and outcome.ok and not outcome.proven and outcome.written is not None:
        raise click.exceptions.Exit(_unproven(outcome))
    ctx.exit(0 if outcome.ok else 1)


def _is_given(ctx: click.Context, name: str) -> bool:
    return ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE


def _refuse_unused(
    ctx: click.Context,
    source: str | None,
    reports: tuple[str, ...],
    require_proof: bool,
    options: Mapping[str, Any],
) -> None:
    """Refuse options that would have no effect."""
    if options["dry_run"] and (reports or require_proof):
        name = "--report" if reports else "--require-proof"
        raise click.UsageError(f"{name} needs the proof that --dry-run leaves out")
    if not options["digests"] and _is_given(ctx, "digest"):
        raise click.UsageError("--digest and --no-digests contradict each other")
    if source is not None and not options["adapt"] and _is_given(ctx, "seed"):
        raise click.UsageError("--seed is of weights that are made: without INPUT, or by --adapt")


def _unproven(outcome: Conversion) -> int:
    """Say that the proof that is required is not made; returns the exit code."""
    from porter.errors import printable

    reason = "" if outcome.verdict is None else f": {outcome.verdict.reason}"
    path = printable(outcome.output, 400)
    say(f"{path} is written and not proven{reason}", err=True)
    return 3


def _is_checkpoint(argument: str) -> bool:
    """Whether the only argument is INPUT: a file or an address, and not a table or a variant."""
    from porter.remote.address import is_url

    return is_url(argument) or (Path(argument).exists() and not argument.endswith(".toml"))


def as_dict(outcome: Conversion) -> dict[str, Any]:
    """Return what happened, for machines."""
    plan, written, weights = outcome.plan, outcome.written, outcome.weights
    return {
        "schema": "porter.conversion/1",
        "architecture": plan.architecture.name,
        "source": {
            "path": outcome.source, "as": outcome.from_, "made": outcome.made_source,
            "format": outcome.origin.format, "wrapper": outcome.origin.wrapper,
            "skipped": list(outcome.origin.skipped),
        },
        "output": {
            "path": str(Path(outcome.output)), "as": outcome.to,
            "bytes": None if written is None else written.nbytes,
        },
        "num_classes": plan.num_classes or None,
        "image_size": plan.image_size or None,
        "tensors": len(plan.canonical),
        "dropped": dict(plan.dropped),
        "filled": dict(plan.filled),
        "computed": list(plan.computed),
        "lost": dict(plan.lost),
        "one_way": plan.one_way,
        "shared": dict(plan.copied),
        "notes": list(outcome.notes),
        "casts": {
            name: {"max_error": cast.max_error, "overflows": cast.overflows}
            for name, cast in outcome.casts.items()
        },
        "weights": None if weights is None else {
            "holds": weights.holds, "compared": weights.compared,
            "problems": list(weights.problems),
        },
        "unproven": dict(outcome.unproven),
        "graph": outcome.graph,
        "verdict": None if outcome.verdict is None else {
            "status": outcome.verdict.status, "reason": outcome.verdict.reason,
        },
        "ok": outcome.ok,
    }  # fmt: skip
