"""`porter verify` on several variants, with accuracies, or for a pull request."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from porter.cli.layout import columns, say
from porter.cli.output import command_line, progress, say_json, say_verdict

if TYPE_CHECKING:
    from porter.verification.accuracy.evidence import Evidence


def wanted(arch: str, data: str | None, preset: str) -> bool:
    """Whether `porter verify` makes a table of evidence, and not a verdict only."""
    return data is not None or "," in arch or preset == "paddleclas"


def run(
    ctx: click.Context, arch: str, left: str, right: str, *, data: str | None, most: int | None,
    reports: tuple[str, ...], force: bool, as_json: bool, quiet: bool, **options: Any,
) -> NoReturn:  # fmt: skip
    """Make the evidence, print it, write the reports and end with the exit code."""
    from porter.commands.pictures.evidence import PLACE, evidence
    from porter.commands.verify import files_read
    from porter.planning.endpoint import parse
    from porter.storage.outputs import check_outputs
    from porter.zoo.architectures import find

    names = arch.split(",")
    single = len(names) == 1 and data is None
    for path in reports:
        if not single and Path(path).suffix.lower() not in (".md", ".json"):
            raise click.UsageError(f"{path}: several variants and accuracies: .md or .json")
    for side in ("left_dialect", "right_dialect"):
        if options[side] is not None:
            options[side] = parse(options[side], find(names[0]).table).named
    sources = [path.replace(PLACE, name) for path in (left, right) for name in names]
    read = files_read(sources, options["inputs"], options["images"]) if reports else []
    check_outputs(reports, read, force)
    with progress(quiet or as_json) as move:
        made = evidence(names, left, right, data, most=most, progress=move, **options)
    made = replace(made, command=command_line(ctx))
    _write(made, reports, single, force)
    if as_json:
        say_json(_as_dict(made, single))
    elif not quiet:
        show(made)
    ctx.exit(0 if made.passed else 1 if made.failed else 3)


def _as_dict(made: Evidence, single: bool) -> dict[str, Any]:
    from porter.report.evidence import as_dict
    from porter.report.machine import as_dict as verdict_dict

    return verdict_dict(made.rows[0].verdict) if single else as_dict(made)


def _write(made: Evidence, reports: tuple[str, ...], single: bool, force: bool) -> None:
    """Write each report; of one verdict, kinds other than Markdown are those of the verdict."""
    from porter.report import write_reports
    from porter.report.evidence import rendered
    from porter.storage.outputs import publish_content

    verdict = replace(made.rows[0].verdict, command=made.command)
    for path in reports:
        if single and Path(path).suffix.lower() != ".md":
            write_reports(verdict, [path], force=force)
        else:
            publish_content(Path(path), rendered(made, path), force=force)


def show(made: Evidence) -> None:
    """Print the verdicts that are alone or do not pass, the table, and how to read it."""
    from porter.report.evidence import cells, names, notes

    for row in made.rows:
        if len(made.rows) == 1 or not row.verdict.passed:
            say_verdict(row.verdict)
    click.echo(columns([names(made), *cells(made)], "  "))
    for note in notes(made):
        say(note)
