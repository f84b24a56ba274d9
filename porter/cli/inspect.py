"""`porter inspect`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import click

from porter.cli.layout import columns, say
from porter.cli.output import counted, json_option, progress, say_json, sized, sizes_of

if TYPE_CHECKING:
    from porter.commands.inspect import Inspection
    from porter.verification.reference import Comparison


@click.command("inspect")
@click.argument("file", type=click.Path())
@click.option("--key", metavar="NAME", help="State dict to take from the file.")
@click.option("--like", type=click.Path(), metavar="REFERENCE",
              help="Compare every tensor with a checkpoint's, in any naming.")  # fmt: skip
@click.option("--tensors", is_flag=True, help="List every tensor.")
@click.option(
    "--check", is_flag=True, help="Read every byte and compare it with the recorded digests."
)
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    file: str,
    key: str | None,
    like: str | None,
    tensors: bool,
    check: bool,
    as_json: bool,
) -> None:
    """Identify FILE: format, wrapper, architecture, dialect, sizes, dtypes, provenance.

    With --check, the exit code is 1 if a byte differs from the record; with --like, if a tensor
    differs from REFERENCE.
    """
    from porter.commands.inspect import inspect

    checked = None
    with progress(as_json) as move:
        inspection = inspect(file, key=key, like=like, progress=move)
        if check:
            from porter.codecs.check import check as compare

            advance = None if move is None else partial(move, "checking")
            checked = compare(inspection.origin.path, progress=advance)
    if as_json:
        say_json(
            {
                **as_dict(inspection, tensors),
                "check": None if checked is None else checked.as_dict(),
            }
        )
    else:
        click.echo(columns(_rows(inspection)))
        if tensors:
            click.echo()
            click.echo(
                columns(
                    [(n, t.dtype.name, str(list(t.shape))) for n, t in inspection.state.items()]
                )
            )
        if checked is not None:
            for line in str(checked).splitlines():
                say(line)
    alike = inspection.comparison is None or inspection.comparison.ok
    ctx.exit(0 if alike and (checked is None or checked.ok) else 1)


def _rows(inspection: Inspection) -> list[tuple[str, str]]:
    origin, state = inspection.origin, inspection.state
    many = f", {len(origin.files)} files" if len(origin.files) > 1 else ""
    rows = [("file", f"{origin.shown}  ({origin.format}{many})")]
    if origin.wrapper or origin.prefix:
        rows.append(("inside", f"{origin.wrapper or 'top'}, prefix {origin.prefix or 'none'}"))
    if origin.others:
        rows.append(("others", ", ".join(origin.others)))
    if origin.skipped:
        rows.append(("not tensors", ", ".join(origin.skipped[:12])))
    rows.append(
        ("tensors", f"{len(state)}, {counted(state.parameters)} elements, {sized(state.nbytes)}")
    )
    rows.append(
        ("dtypes", ", ".join(f"{name} ({count})" for name, count in inspection.dtypes.items()))
    )
    if inspection.tied:
        rows.append(("shared", "; ".join(" = ".join(group) for group in inspection.tied[:4])))
    if inspection.graph:
        rows.append(("graph", inspection.graph))
    rows += [("note", note) for note in origin.notes]
    rows += _matches(inspection)
    rows += [(name, value) for name, value in origin.metadata.items() if len(value) < 200]
    if inspection.comparison is not None:
        rows += _compared(inspection.comparison)
    return rows


def _compared(comparison: Comparison) -> list[tuple[str, str]]:
    equal = f"{len(comparison.equal)} tensors equal, bit for bit, paired by {comparison.through}"
    rows = [("reference", equal), *(("", line) for line in comparison.lines)]
    if comparison.views:
        rows.append(("", "`porter repair` restores them from the same bytes"))
    return rows


def _matches(inspection: Inspection) -> list[tuple[str, str]]:
    if not inspection.matches:
        return [("architecture", "unknown to porter")]
    rows: list[tuple[str, str]] = []
    for match in inspection.matches[:3]:
        framework = match.architecture.table.dialect(match.dialect).convention.framework
        label = f"{match.architecture.name}, naming {match.dialect} ({framework})"
        of_program = inspection.origin.format == "paddle-inference"
        if of_program:
            seen = "its operations" if match.exact else "the shapes of its tensors"
            label = f"{match.architecture.name}, by {seen}"
        if match.prefix:
            label += f", prefix {match.prefix}"
        if match.exact:
            headless = match.architecture.num_classes and not match.num_classes
            sizes = sizes_of(match.num_classes, match.image_size)
            label = ", ".join([label, *(["no classifier"] if headless else []), *sizes])
        elif not of_program:
            label += f": not exact, {match.overlap:.0%} of the names"
        rows.append(("architecture" if not rows else "or", label))
    return rows


def as_dict(inspection: Inspection, tensors: bool) -> dict[str, Any]:
    """Return an inspection for machines."""
    origin = inspection.origin
    body: dict[str, Any] = {
        "schema": "porter.inspection/1",
        "path": origin.shown,
        "format": origin.format,
        "files": list(origin.files),
        "wrapper": origin.wrapper,
        "prefix": origin.prefix,
        "others": list(origin.others),
        "skipped": list(origin.skipped),
        "notes": list(origin.notes),
        "metadata": dict(origin.metadata),
        "tensors": len(inspection.state),
        "parameters": inspection.state.parameters,
        "bytes": inspection.state.nbytes,
        "dtypes": inspection.dtypes,
        "tied": [list(group) for group in inspection.tied],
        "graph": inspection.graph or None,
        "reference": None if inspection.comparison is None else {
            "through": inspection.comparison.through,
            "equal": len(inspection.comparison.equal),
            "views": {n: list(order) for n, order in inspection.comparison.views.items()},
            "cut": list(inspection.comparison.cut),
            "rounded": list(inspection.comparison.rounded),
            "others": list(inspection.comparison.others),
            "unknown": list(inspection.comparison.unknown),
        },
        "matches": [
            {
                "architecture": m.architecture.name, "dialect": m.dialect, "exact": m.exact,
                "num_classes": m.num_classes, "image_size": m.image_size,
            }
            for m in inspection.matches
        ],
    }  # fmt: skip
    if tensors:
        body["state"] = {
            name: {"dtype": t.dtype.name, "shape": list(t.shape)}
            for name, t in inspection.state.items()
        }
    return body
