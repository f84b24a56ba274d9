"""`porter convert`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from porter.cli import complete
from porter.cli.layout import columns
from porter.cli.onnx_options import onnx_options, taken
from porter.cli.output import (
    counted,
    digest_option,
    force_option,
    json_option,
    progress,
    quiet_option,
    say_json,
    say_verdict,
    sized,
)

if TYPE_CHECKING:
    from porter.commands.convert import Conversion
    from porter.planning.plan import Plan


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
    return found


def _python(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for value in values:
        name, equals, path = value.partition("=")
        if not equals:
            raise click.BadParameter(f"{value!r} is not NAME=PATH")
        found[name] = path
    return found


@click.command("convert")
@click.argument("arch", shell_complete=complete.architectures)
@click.argument("source", metavar="[INPUT]", required=False, type=click.Path())
@click.option(
    "-o", "--output", type=click.Path(), help="Output; default ARCH with the usual suffix."
)
@click.option("--from", "from_", required=True, metavar="F[:DIALECT]", help="What INPUT is.",
              shell_complete=complete.sides)  # fmt: skip
@click.option("--to", required=True, metavar="F[:DIALECT]", help="What OUTPUT shall be.",
              shell_complete=complete.sides)  # fmt: skip
@click.option("--dtype", type=click.Choice(["fp32", "fp16", "bf16"]), help="Cast floats.")
@click.option("--num-classes", type=click.IntRange(1), help="Classes; default: the checkpoint's.")
@click.option("--image-size", type=click.IntRange(1), help="Pixels; default: the checkpoint's.")
@click.option(
    "--adapt", is_flag=True, help="Change classes or image size: new head, resized positions."
)
@click.option("--max-shard-size", metavar="SIZE", help="Cut the output into shards, 5GB say.")
@click.option("--key", metavar="NAME", help="Which state dict of the file, model_ema say.")
@click.option("--drop", multiple=True, metavar="NAME", help="Leave a tensor out that has no place.")
@click.option("--fill", multiple=True, metavar="NAME=VALUE", callback=_fill,
              help="Write a value for a tensor that INPUT does not have.")  # fmt: skip
@click.option("--seed", type=int, default=0, help="Seed of the checkpoint made without INPUT.")
@click.option("--verify/--no-verify", default=True, help="Prove the result (default).")
@click.option("--read-back/--no-read-back", default=True,
              help="Read the output again before it gets its name (default).")  # fmt: skip
@click.option("--sync/--no-sync", default=True,
              help="Bring the output to the disk before it gets its name (default).")  # fmt: skip
@click.option("--digests/--no-digests", default=True,
              help="Take and record digests of source and tensors (default).")  # fmt: skip
@digest_option
@click.option("--layout", type=click.Choice(["contiguous", "view"]), default="contiguous",
              help="Do transposes, or have torch and Paddle files state them.")  # fmt: skip
@click.option("--python", multiple=True, metavar="NAME=PATH", callback=_python,
              help="Interpreter in which torch or paddle is installed.")  # fmt: skip
@click.option("--report", "reports", multiple=True, type=click.Path(), metavar="FILE",
              help="Write the verdict: .md, .html, .json or .xml.")  # fmt: skip
@onnx_options
@force_option
@click.option("--dry-run", is_flag=True, help="Show the plan and write nothing.")
@json_option
@quiet_option
@click.pass_context
def command(
    ctx: click.Context,
    /,
    arch: str,
    source: str | None,
    reports: tuple[str, ...],
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Convert a checkpoint of ARCH, a variant's name or the path of a mapping table.

    F is torch, paddle, numpy, safetensors or onnx. Without INPUT, the file of the variant's
    name in the working directory is taken, or a seeded checkpoint is made.
    """
    from porter.commands.convert import convert

    with progress(quiet or as_json) as moved:
        outcome = convert(arch, source, progress=moved, onnx=taken(options), **options)
    if as_json:
        say_json(as_dict(outcome))
    elif not quiet:
        _say(outcome, options["dry_run"])
    if outcome.verdict is not None and reports:
        from porter.report import write_reports

        write_reports(outcome.verdict, reports)
    ctx.exit(0 if outcome.ok else 1)


def _say(outcome: Conversion, dry_run: bool) -> None:
    plan = outcome.plan
    made = " (made here: seeded weights, as no INPUT was given)" if outcome.made_source else ""
    rows = [("source", f"{outcome.source}{made}")]
    origin = outcome.origin
    if origin.wrapper or origin.prefix:
        chosen = f"state dict {origin.wrapper!r}" if origin.wrapper else "names"
        prefix = f", without the prefix {origin.prefix!r}" if origin.prefix else ""
        others = f"; also there: {', '.join(origin.others)}" if origin.others else ""
        rows.append(("", f"{chosen}{prefix}{others}"))
    if origin.skipped:
        rows.append(("", f"not ported: {', '.join(origin.skipped[:8])}"))
    rows += [("", note) for note in (*origin.notes, *outcome.notes)]
    sizes = f", {plan.num_classes} classes, {plan.image_size} px" if plan.image_size else ""
    rows.append(("plan", f"{plan.architecture.name}{sizes}"))
    rows += [("", line) for line in plan_lines(outcome)]
    if dry_run:
        rows.append(("output", f"{outcome.output}: not written (dry run)"))
    elif outcome.written is not None:
        rows.append(("output", f"{outcome.output}  {sized(outcome.written.nbytes)}"))
    if outcome.casts:
        rows.append(("cast", _cast_line(outcome)))
    if outcome.weights is not None:
        rows.append(("weights", _weights_line(outcome)))
    if outcome.graph is None and outcome.verdict is not None and outcome.to == "onnx":
        missing = "onnx, which is not installed; run `pip install onnx`"
        rows.append(("graph", f"not checked: this needs {missing}"))
    if outcome.graph is not None:
        sound = "PASS  onnx's checker, with full shape inference"
        rows.append(("graph", f"FAIL  {outcome.graph}" if outcome.graph else sound))
    click.echo(columns(rows))
    if outcome.verdict is not None:
        say_verdict(outcome.verdict)


def plan_lines(outcome: Conversion) -> list[str]:
    """Return what the plan does with the tensors, a line each."""
    from porter.mapping.fold import fold

    plan = outcome.plan
    total = sum(1 for dtype, _ in plan.canonical.values() if dtype)
    size = sum(_count(shape) for _, shape in plan.canonical.values())
    lines = [f"{total} tensors, {counted(size)} elements"]
    lines += [
        f"{dialect} {what}: {count} tensors" for (dialect, what), count in _work(plan).items()
    ]
    for what, group in (("left out", plan.dropped), ("no place in the target", plan.lost)):
        reasons: dict[str, list[str]] = {}
        for name, reason in group.items():
            reasons.setdefault(reason, []).append(name)
        lines += [f"{what}: {', '.join(fold(names)[:4])} ({why})" for why, names in reasons.items()]
    if plan.filled:
        lines.append(f"filled: {', '.join(fold(plan.filled)[:4])} ({_values(plan.filled)})")
    if plan.computed:
        lines.append(f"computed by the architecture: {', '.join(fold(plan.computed)[:4])}")
    return lines


def _values(filled: Any) -> str:
    return "with " + ", ".join(sorted({f"{value:g}" for value in filled.values()}))


def _work(plan: Plan) -> dict[tuple[str, str], int]:
    found: dict[tuple[str, str], int] = {}
    done = [(plan.source.dialect.name, m.how_back, len(m.dialect)) for m in plan.source.links]
    done += [(plan.target.dialect.name, m.how, len(m.dialect)) for m in plan.target.links]
    for dialect, how, count in done:
        if how:
            found[dialect, how] = found.get((dialect, how), 0) + count
    return found


def _count(shape: tuple[int, ...]) -> int:
    from math import prod

    return prod(shape)


def _cast_line(outcome: Conversion) -> str:
    worst = max(outcome.casts.values(), key=lambda cast: cast.max_error)
    over = sum(cast.overflows for cast in outcome.casts.values())
    return f"{len(outcome.casts)} tensors, largest error {worst.max_error:.3g}, {over} overflows"


def _weights_line(outcome: Conversion) -> str:
    proof = outcome.weights
    assert proof is not None
    if not proof.holds:
        return f"FAIL  {'; '.join(proof.problems[:4])}"
    same = (
        "bit-identical when mapped back"
        if proof.cast is None
        else f"equal when rounded to {proof.cast}"
    )
    return f"PASS  {proof.compared} tensors {same} ({sized(proof.nbytes)})"


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
        "notes": list(outcome.notes),
        "casts": {
            name: {"max_error": cast.max_error, "overflows": cast.overflows}
            for name, cast in outcome.casts.items()
        },
        "weights": None if weights is None else {
            "holds": weights.holds, "compared": weights.compared,
            "problems": list(weights.problems),
        },
        "graph": outcome.graph,
        "verdict": None if outcome.verdict is None else {
            "status": outcome.verdict.status, "reason": outcome.verdict.reason,
        },
        "ok": outcome.ok,
    }  # fmt: skip
