"""`porter verify`."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from porter.cli.layout import say
from porter.cli.output import (
    command_line,
    force_option,
    json_option,
    judge_option,
    model_options,
    progress,
    python_option,
    quiet_option,
    say_json,
    say_verdict,
)
from porter.cli.shared import complete
from porter.cli.shared.image_size import image_size_option

if TYPE_CHECKING:
    from porter.mapping.table import Table
    from porter.verification.verdict import Verdict
    from porter.zoo.architectures import Architecture


def _numbers(
    ctx: click.Context, param: click.Parameter, value: str | None
) -> tuple[int, ...] | None:
    if value is None:
        return None
    try:
        found = tuple(int(word) for word in value.split(","))
    except ValueError:
        found = ()
    if not found or min(found) < 1:
        raise click.BadParameter(f"{value!r} is not a list of positive numbers such as 1,4")
    return found


_PRECISIONS = {"fp32": "float32", "fp64": "float64", "tf32": "tf32", "fp16": "float16",
               "bf16": "bfloat16"}  # fmt: skip


@click.command("verify")
@click.argument("arch", shell_complete=complete.architectures)
@click.argument("left", type=click.Path())
@click.argument("right", required=False, type=click.Path())
@click.option("--left", "left_dialect", metavar="F[:DIALECT]",
              help="Format and dialect of LEFT.", shell_complete=complete.sides)  # fmt: skip
@click.option("--right", "right_dialect", metavar="F[:DIALECT]",
              help="Format and dialect of RIGHT.", shell_complete=complete.sides)  # fmt: skip
@click.option(
    "--left-key", metavar="NAME", help="State dict to take from LEFT, for example model_ema."
)
@click.option("--right-key", metavar="NAME", help="State dict to take from RIGHT.")
@click.option("--left-prefix", metavar="PREFIX",
              help="What is before the names of the model in LEFT.")  # fmt: skip
@click.option("--right-prefix", metavar="PREFIX",
              help="What is before the names of the model in RIGHT.")  # fmt: skip
@image_size_option("the variant's")
@click.option("--preset", default="default", help="Protocol: default, strict or paddleclas.")
@click.option("--seeds", type=click.IntRange(1), help="Number of seeded inputs; default 1.")
@click.option("--batch-sizes", callback=_numbers, metavar="N,N", help="Default 1,2.")
@click.option("--images", type=click.Path(), metavar="DIR", help="Pictures (the first 64).")
@model_options
@click.option("--data", type=click.Path(), metavar="FOLDER|LIST",
              help="Also measure accuracies, as `porter evaluate`.")  # fmt: skip
@click.option("--most", type=click.IntRange(1), metavar="N", help="Pictures of --data to take.")
@click.option("--precision", type=click.Choice(list(_PRECISIONS)), default="fp32",
              help="Precision of RIGHT, in addition to float64.")  # fmt: skip
@click.option("--behaviour", type=click.Choice(["canonical", "dialect"]), default="canonical",
              help="Run each side as the canonical model, or as its dialect computes.")  # fmt: skip
@click.option("--device", default="auto", metavar="auto|cpu|cuda[:N]", help="Where to run.")
@click.option("--timeout", type=float, metavar="SECONDS",
              help="Limit for a given ONNX file; default: PORTER_TIMEOUT or 600.")  # fmt: skip
@click.option("--per-layer", is_flag=True, help="Compare every layer, pass or fail.")
@click.option("--grad", is_flag=True, help="Compare the gradient of every parameter.")
@click.option("--train-step", is_flag=True, help="Compare the weights after one AdamW step.")
@click.option("--diagnose/--no-diagnose", default=True, help="Name the likely faults (default).")
@click.option("--sensitivity/--no-sensitivity", default=True,
              help="Prove on fuzzed weights what the outputs do not show (default).")  # fmt: skip
@judge_option
@click.option("--save-trace", type=click.Path(), metavar="FILE",
              help="Record LEFT only, to be compared on another machine.")  # fmt: skip
@python_option
@click.option("--report", "reports", multiple=True, type=click.Path(), metavar="FILE",
              help="Write the verdict: .md, .html, .json or .xml.")  # fmt: skip
@force_option
@json_option
@quiet_option
@click.pass_context
def command(
    ctx: click.Context,
    /,
    arch: str,
    left: str,
    right: str | None,
    save_trace: str | None,
    data: str | None,
    most: int | None,
    reports: tuple[str, ...],
    force: bool,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Prove that LEFT and RIGHT, checkpoints or traces of ARCH, compute the same.

    Each side runs in a separate process; errors are judged against a float64 run of LEFT.
    The exit code is 0 when they are equal, 1 when not, 3 when a framework must be installed.
    ARCH may be several variants, a,b; {arch} in LEFT and RIGHT is then each one's name.
    """
    from porter.cli.shared import evidence
    from porter.commands.verify import files_read, verify
    from porter.planning.custom_table import is_table
    from porter.report import check_names, write_reports
    from porter.storage.outputs import check_outputs
    from porter.zoo.architectures import find

    check_names(reports)
    _refuse_combinations(save_trace, data, most, reports, options["judge"])
    options["precision"] = _PRECISIONS[options["precision"]]
    if is_table(arch):
        _refuse_for_tables(ctx, "variants that porter knows, not for a mapping table")
        check, record = partial(_by_table, arch), partial(_record_table, arch)
    elif "," not in arch and (not find(arch).module or _names_program(options)):
        _refuse_for_tables(ctx, "variants that have a reference model")
        check = partial(_by_published, find(arch))
        record = partial(_record_published, find(arch))
        _parse_dialects(options, find(arch).table)
    else:
        check, record = partial(verify, arch), partial(_record_variant, arch)
        if options.pop("left_model") is not None or options.pop("right_model") is not None:
            raise click.UsageError("--left-model and --right-model go with a mapping table")
        table_wanted = evidence.wanted(arch, data, options["preset"])
        if table_wanted and save_trace is None and right is not None:
            evidence.run(
                ctx, arch, left, right, data=data, most=most, reports=reports, force=force,
                as_json=as_json, quiet=quiet, **options,
            )  # fmt: skip
        _parse_dialects(options, find(arch).table)
    if save_trace is not None:
        if right is not None:
            raise click.UsageError("--save-trace records LEFT only: leave RIGHT out")
        for name in ("dialect", "key", "prefix", "model"):
            if options.get(f"right_{name}") is not None:
                raise click.UsageError("--save-trace records LEFT only: leave options of RIGHT out")
        with progress(quiet or as_json) as move:
            made, label = record(left, save_trace, force=force, progress=move, **options)
        if as_json:
            say_json({"schema": "porter.trace/1", "path": save_trace, **made})
        elif not quiet:
            say(f"{save_trace}: {len(made['inputs'])} inputs through {label}")
        ctx.exit(0)
    if right is None:
        raise click.UsageError("RIGHT is missing; only --save-trace works without it")
    read = files_read((left, right), options["inputs"], options["images"]) if reports else []
    check_outputs(reports, read, force)
    with progress(quiet or as_json) as move:
        verdict = check(left, right, progress=move, **options)
    verdict = replace(verdict, command=command_line(ctx))
    write_reports(verdict, reports, force=force, inputs=read)
    if as_json:
        from porter.report.machine import as_dict

        say_json(as_dict(verdict))
    elif not quiet:
        say_verdict(verdict)
    ctx.exit(0 if verdict.passed else 1 if verdict.failed else 3)


def _refuse_combinations(
    save_trace: str | None,
    data: str | None,
    most: int | None,
    reports: tuple[str, ...],
    judge: str | None,
) -> None:
    """Refuse options that would not be carried out."""
    if save_trace is not None and data is not None:
        raise click.UsageError("--save-trace measures no accuracy: leave --data out")
    if save_trace is not None and reports:
        raise click.UsageError("--save-trace makes no verdict: leave --report out")
    if save_trace is not None and judge is not None:
        raise click.UsageError("--save-trace makes no verdict: leave --judge out")
    if most is not None and data is None:
        raise click.UsageError("--most takes some of the pictures of --data")


_OF_TABLES = {
    "arch", "left", "right", "left_dialect", "right_dialect", "left_key", "right_key", "inputs",
    "left_model", "right_model", "python", "device", "save_trace", "reports", "force", "as_json",
    "quiet",
}  # fmt: skip
"""What `porter verify` takes with a mapping table, or a variant without reference model."""


def _parse_dialects(options: dict[str, Any], table: Table) -> None:
    from porter.planning.endpoint import parse

    for side in ("left_dialect", "right_dialect"):
        if options[side] is not None:
            options[side] = parse(options[side], table).named


def _refuse_for_tables(ctx: click.Context, whose: str) -> None:
    """Refuse the options that need a reference model: they are for `whose`."""
    given = click.core.ParameterSource.COMMANDLINE
    for parameter in ctx.command.params:
        name = parameter.name or ""
        if name not in _OF_TABLES and ctx.get_parameter_source(name) is given:
            raise click.UsageError(f"{parameter.opts[0]} is for {whose}")


def _by_table(table: str, left: str, right: str, **options: Any) -> Verdict:
    from porter.commands.live.verify import verify_models

    kept = {name: value for name, value in options.items() if name in _OF_TABLES}
    return verify_models(table, left, right, progress=options["progress"], **kept)


def _names_program(options: dict[str, Any]) -> bool:
    """Whether a side is an inference model that is to be run as it is."""
    return any(
        (options[name] or "").startswith("inference:") for name in ("left_model", "right_model")
    )


def _by_published(variant: Architecture, left: str, right: str, **options: Any) -> Verdict:
    from porter.commands.published.verify import verify_published

    kept = {name: value for name, value in options.items() if name in _OF_TABLES}
    return verify_published(variant, left, right, progress=options["progress"], **kept)


def _record_variant(arch: str, left: str, path: str, **options: Any) -> tuple[dict[str, Any], str]:
    from porter.commands.verify import record
    from porter.verification.options import RunOptions

    made = record(
        arch, left, path, dialect=options["left_dialect"], key=options["left_key"],
        prefix=options["left_prefix"], force=options["force"], progress=options["progress"],
        **{n: v for n, v in options.items() if n in RunOptions.__annotations__},
    )  # fmt: skip
    return {"architecture": made.architecture, "inputs": list(made.inputs)}, made.report.label


def _record_table(table: str, left: str, path: str, **options: Any) -> tuple[dict[str, Any], str]:
    from porter.commands.live.verify import record_model

    made = record_model(
        table, left, path, model=options["left_model"], dialect=options["left_dialect"],
        key=options["left_key"], **_of_live(options),
    )  # fmt: skip
    return {"architecture": made.name, "inputs": list(made.cases)}, made.report.label


def _record_published(
    variant: Architecture, left: str, path: str, **options: Any
) -> tuple[dict[str, Any], str]:
    from porter.commands.live.one import Asked
    from porter.commands.published.classes import record_class

    asked = Asked(left, options["left_dialect"], options["left_key"], options["left_model"])
    made = record_class(variant, asked, path, **_of_live(options))
    return {"architecture": made.name, "inputs": list(made.cases)}, made.report.label


def _of_live(options: dict[str, Any]) -> dict[str, Any]:
    return {name: options[name] for name in ("inputs", "python", "device", "force", "progress")}
