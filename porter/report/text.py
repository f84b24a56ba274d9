"""A verdict in the terminal, by rich."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from porter.errors import listed, visible
from porter.mapping.fold import fold
from porter.report.figures import (
    behaviour_lines,
    blind_lines,
    file_of,
    headline,
    number,
    pixels,
    sameness,
)
from porter.verification.checks import BY_BYTES, CAUSES, ON_FUZZED, UNPROVEN, Check
from porter.verification.sides.report import SideReport
from porter.verification.verdict import FAILED, PASSED, Verdict

_STYLES = {PASSED: "bold green", FAILED: "bold red"}


def render(verdict: Verdict, narrow: bool = False) -> RenderableType:
    """Return a verdict for `rich.console.Console.print`: the outcome, the sides, the figures.

    With `narrow`, for fewer than 80 characters, the figures are those that decide.
    """
    parts: list[RenderableType] = [_headline(verdict)]
    if verdict.checks:
        parts += [_sides(verdict), _figures(verdict, narrow)]
    if verdict.tensors:
        parts.append(_tensors(verdict))
    if verdict.layers:
        parts.append(_layers(verdict))
    if verdict.gradients:
        parts.append(_gradients(verdict))
    parts += _blind(verdict)
    parts += [_text(f"behaviour: {line}") for line in behaviour_lines(verdict)]
    if verdict.findings:
        parts.append(Text("likely faults", "bold"))
        parts += [_text(f"  {finding}") for finding in verdict.findings[:20]]
    parts += [_text(f"not made: {line}", "dim") for line in verdict.skipped]
    parts += [_text(f"note: {note}", "dim") for note in verdict.notes]
    return Group(*parts)


def plain(verdict: Verdict, width: int = 100) -> str:
    """Return a verdict as lines without colour."""
    from rich.console import Console

    console = Console(width=width, no_color=True, highlight=False)
    with console.capture() as capture:
        console.print(render(verdict, narrow=width < 80))
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def _headline(verdict: Verdict) -> Text:
    line = Text.assemble(
        (verdict.status.upper(), _STYLES.get(verdict.status, "bold yellow")),
        visible(f"  {verdict.architecture}: {headline(verdict)}"),
    )
    return line.append(f"\n{visible(verdict.reason)}") if verdict.reason else line


def _sides(verdict: Verdict) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_row("left", _side(verdict.left))
    grid.add_row("right", _side(verdict.right))
    cases = ", ".join(verdict.cases[:4]) + (", …" if len(verdict.cases) > 4 else "")
    grid.add_row("inputs", _text(f"{len(verdict.cases)}{pixels(verdict)}: {cases}"))
    return grid


def _side(side: SideReport) -> Text:
    version = side.versions.get(side.framework, "")
    how = "" if side.direct else ", names mapped by the table"
    return _text(f"{side.label} {version} on {side.device}: {file_of(side)}{how}")


def _text(value: str, style: str = "") -> Text:
    """Return escaped text for a cell, in which rich would interpret a plain string as markup."""
    return Text(visible(value), style)


def _figures(verdict: Verdict, narrow: bool) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    names = ["", "output", "error", "source's own", "limit", "max abs", "cosine", "top-1"]
    del names[5 if narrow else len(names) :]
    for name in names:
        table.add_column(name, justify="left" if name in ("", "output") else "right")
    for precision in dict.fromkeys(check.precision for check in verdict.checks):
        worst = verdict.worst(precision)
        if worst is not None:
            table.add_row(*_row(worst, verdict)[: len(names)])
    return table


def _row(check: Check, verdict: Verdict) -> tuple[str | Text, ...]:
    right = check.right
    same = [c for c in verdict.checks if c.precision == check.precision]
    mark = Text("✓", "green") if all(c.passed for c in same) else Text("✗", "red")
    if right.problem:
        return mark, _text(f"{check.output} {check.precision}"), _text(right.problem, "red")
    return (
        mark,
        _text(f"{check.output} {check.precision}"),
        f"{right.error:.1e}",
        "reference" if check.left is None else f"{check.left.error:.1e}",
        number(check.limit),
        f"{right.max_abs:.1e}",
        f"{right.cosine:.9f}",
        "" if right.top1 is None else f"{right.top1:.0%}",
    )


def _tensors(verdict: Verdict) -> Text:
    wrong = sum(not check.passed for check in verdict.tensors)
    if not wrong:
        line = f"  {len(verdict.tensors)} tensors, {sameness(verdict)}"
        return Text.assemble(("✓", "green"), line)
    return Text.assemble(("✗", "red"), f"  {wrong} of {len(verdict.tensors)} tensors differ")


def _gradients(verdict: Verdict) -> Text:
    wrong = [check for check in verdict.gradients if not check.passed]
    if not wrong:
        return Text.assemble(("✓", "green"), f"  {len(verdict.gradients)} gradients agree")
    first = f": {wrong[0].case} of {wrong[0].output}, {wrong[0].problem}"
    said = f"  {len(wrong)} of {len(verdict.gradients)} gradients differ{first}"
    return Text.assemble(("✗", "red"), visible(said))


def _blind(verdict: Verdict) -> list[Text]:
    marks = {ON_FUZZED: ("✓", "green"), BY_BYTES: ("!", "yellow"), UNPROVEN: ("✗", "red")}
    return [
        Text.assemble(marks[proof], visible(f"  {line}"))
        for proof, line in blind_lines(verdict).items()
    ]


def _layers(verdict: Verdict) -> Group:
    wrong = [check for check in verdict.layers if not check.passed]
    mark = ("✗", "red") if wrong else ("✓", "green")
    lines = [Text.assemble(mark, visible(f"  {len(verdict.layers)} layers: {verdict.story}"))]
    causes: dict[str, list[str]] = {}
    for check in wrong:
        if check.role == CAUSES:
            causes.setdefault(check.kind, []).append(check.place or "the model")
    for kind, places in list(causes.items())[:12]:
        lines.append(_text(f"   causes it: {listed(fold(places))} ({kind})"))
    return Group(*lines)
