"""A conversion in a few lines of text, for the terminal and for notebooks."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import TYPE_CHECKING, Any

from porter.errors import html_escaped as _escape
from porter.errors import listed
from porter.zoo.image_size import Size, pixels

if TYPE_CHECKING:
    from porter.commands.convert import Conversion
    from porter.planning.plan import Plan
    from porter.tensors.casts import Cast


def rows(outcome: Conversion) -> list[tuple[str, str]]:
    """Return (label, text) of what a conversion did, without its verdict."""
    plan = outcome.plan
    made = (
        " (made here from seeded weights, since no INPUT was given)" if outcome.made_source else ""
    )
    lines = [("source", f"{outcome.source}{made}")]
    origin = outcome.origin
    if origin.wrapper or origin.prefix:
        chosen = f"state dict {origin.wrapper!r}" if origin.wrapper else "names"
        prefix = f", without the prefix {origin.prefix!r}" if origin.prefix else ""
        others = f"; the file also has {', '.join(origin.others)}" if origin.others else ""
        lines.append(("", f"{chosen}{prefix}{others}"))
    if origin.skipped:
        lines.append(("", f"not ported: {', '.join(origin.skipped[:8])}"))
    lines += [("", note) for note in (*origin.notes, *outcome.notes)]
    sizes = sizes_of(plan.num_classes, plan.image_size) if plan.image_size else []
    lines.append(("plan", ", ".join([plan.architecture.name, *sizes])))
    lines += [("", line) for line in (*_purposes(plan), *plan_lines(outcome))]
    if outcome.written is None:
        lines.append(("output", f"{outcome.output}: not written (dry run)"))
    else:
        lines.append(("output", f"{outcome.output}  {sized(outcome.written.nbytes)}"))
        if outcome.written.record:
            lines.append(("record", outcome.written.record))
    if outcome.casts:
        lines.append(("cast", cast_line(outcome.casts)))
    if outcome.weights is not None:
        lines.append(("weights", _weights_line(outcome)))
    state = "accepted" if outcome.accepted else "FAIL"
    lines += [("unproven", f"{state}  {name}: {why}") for name, why in outcome.unproven.items()]
    if outcome.graph is None and outcome.verdict is not None and outcome.to == "onnx":
        remedy = "pip install 'porter-weights[onnx]'"
        lines.append(("graph", f"not checked: onnx is not installed; run `{remedy}`"))
    if outcome.graph is not None:
        passed = "PASS  ONNX checker with full shape inference"
        lines.append(("graph", f"FAIL  {outcome.graph}" if outcome.graph else passed))
    return lines


def sizes_of(num_classes: int | None, image_size: Size | None) -> list[str]:
    """Return the classes and the image size, those that there are."""
    classes = [f"{num_classes} classes"] if num_classes else []
    return classes + ([pixels(image_size)] if image_size else [])


def line(outcome: Conversion) -> str:
    """Return a conversion in one line."""
    done = [] if outcome.written else ["not written"]
    if outcome.weights is not None:
        done.append(f"weights {'pass' if outcome.weights.holds else 'fail'}")
    if outcome.graph is not None:
        done.append(f"graph {'fails' if outcome.graph else 'passes'}")
    if outcome.verdict is not None:
        done.append(f"outputs {outcome.verdict.status}")
    sides = f"{outcome.source} ({outcome.from_}) → {outcome.output} ({outcome.to})"
    return f"{outcome.plan.architecture.name}: {sides}, {', '.join(done or ['not proven'])}"


def html(outcome: Conversion) -> str:
    """Return a conversion as a table, for notebooks."""
    cells = [
        f"<tr><th style='text-align:left'>{_escape(label)}</th>"
        f"<td style='text-align:left'>{_escape(text)}</td></tr>"
        for label, text in rows(outcome)
    ]
    if outcome.verdict is not None:
        status, reason = outcome.verdict.status, _escape(outcome.verdict.reason)
        cells.append(f"<tr><th style='text-align:left'>outputs</th><td>{status} {reason}</td></tr>")
    return f"<table>{''.join(cells)}</table>"


def plan_lines(outcome: Conversion) -> list[str]:
    """Return what the plan does with the tensors, a line each."""
    from porter.mapping.fold import fold

    plan = outcome.plan
    total = sum(1 for dtype, _ in plan.canonical.values() if dtype)
    size = sum(prod(shape) for _, shape in plan.canonical.values())
    lines = [f"{total} tensors, {counted(size)} elements"]
    lines += [
        f"{dialect} {what}: {count} tensors" for (dialect, what), count in _work(plan).items()
    ]
    for what, group in (("left out", plan.dropped), ("no place in the target", plan.lost)):
        reasons: dict[str, list[str]] = {}
        for name, reason in group.items():
            reasons.setdefault(reason, []).append(name)
        lines += [f"{what}: {', '.join(fold(names)[:4])} ({why})" for why, names in reasons.items()]
    lines += [f"one way: {row}" for row in one_way_rows(plan)]
    if plan.copied:
        lines.append(f"shared with another tensor: {', '.join(fold(plan.copied)[:4])}")
    if plan.filled:
        lines.append(f"filled: {', '.join(fold(plan.filled)[:4])} ({_values(plan.filled)})")
    if plan.computed:
        lines.append(f"computed by the architecture: {', '.join(fold(plan.computed)[:4])}")
    return lines


def one_way_rows(plan: Plan) -> list[str]:
    """Return what does not come back from the target, a text for each row of the table."""
    from porter.mapping.fold import fold

    rows: dict[tuple[str, str], list[str]] = {}
    for link in plan.source.links:
        if link.fold is not None:
            rows.setdefault((link.row, str(link.fold)), []).append(link.canonical[0])
    for link in plan.target.links:
        if link.loses:
            rows.setdefault((link.row, link.how), []).append(link.canonical[0])
    return [f"{', '.join(fold(names)[:4])} ({how})" for (_, how), names in rows.items()]


def _purposes(plan: Plan) -> list[str]:
    """Return what the dialects are for, where a table says it."""
    from porter.mapping.table import CANONICAL

    dialects = {linked.dialect.name: linked.dialect for linked in (plan.source, plan.target)}
    return [f"{n}: {d.about}" for n, d in dialects.items() if d.about and n != CANONICAL]


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


def cast_line(casts: Mapping[str, Cast]) -> str:
    """Return the cost of a cast: tensors, largest error, overflows."""
    worst = max(cast.max_error for cast in casts.values())
    over = {name: cast.overflows for name, cast in casts.items() if cast.overflows}
    names = f" in {listed(over, 4)}" if over else ""
    return f"{len(casts)} tensors, largest error {worst:.3g}, {sum(over.values())} overflows{names}"


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
    again = f", {proof.folded} with no way back computed again" if proof.folded else ""
    return f"PASS  {proof.compared} tensors {same} ({sized(proof.nbytes)}){again}"


def sized(nbytes: int) -> str:
    """Return a number of bytes for people."""
    value, unit = float(nbytes), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def counted(number: int) -> str:
    """Return a number of parameters for people."""
    if number >= 10**9:
        return f"{number / 1e9:.2f} G"
    return f"{number / 1e6:.1f} M" if number >= 10**5 else str(number)
