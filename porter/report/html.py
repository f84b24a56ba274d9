"""A verdict as one self-contained HTML page: no JavaScript, light and dark, phone and desk."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib import resources

from porter import __version__
from porter.errors import html_escaped as escape
from porter.report.figures import (
    behaviour_lines,
    blind_lines,
    decimal,
    file_of,
    headline,
    number,
    origin_lines,
    pixels,
    sameness,
    share,
    side_line,
    worst_checks,
    worst_layers,
)
from porter.report.machine import row_sizes
from porter.report.plot import layer_plot
from porter.verification.sides.report import SideReport
from porter.verification.verdict import FAILED, PASSED, Verdict

_MARKS = {PASSED: ("passed", "✓"), FAILED: ("failed", "✗")}
_YES, _NO = '<b class="passed">✓</b>', '<b class="failed">✗</b>'


def render(verdict: Verdict) -> str:
    """Return the page."""
    style = (resources.files("porter.report") / "style.css").read_text()
    kind, mark = _MARKS.get(verdict.status, ("open", "!"))
    title = f"{verdict.architecture}: {headline(verdict)}"
    body = [
        f'<header class="{kind}"><span class="mark">{mark}</span><div><h1>'
        f"{escape(verdict.architecture)}</h1><p>{escape(headline(verdict))}</p></div></header>",
        f'<p class="reason">{escape(verdict.reason)}</p>' if verdict.reason else "",
        _findings(verdict),
        _outputs(verdict),
        _layers(verdict),
        _tensors(verdict),
        _gradients(verdict),
        _blind(verdict),
        _environment(verdict),
        f"<footer>porter {escape(__version__)}</footer>",
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in body if part)
        + "\n</main>\n</body>\n</html>\n"
    )


def _findings(verdict: Verdict) -> str:
    items = [
        f"<li><code>{escape(f.place)}</code> {escape(f.what)}"
        f'<span class="remedy">{escape(f.remedy)}</span>'
        + (
            f'<span class="proof">With the same fault the reference agrees:'
            f" {number(f.before)} becomes {number(f.after)}.</span>"
            if f.after is not None
            else ""
        )
        + "</li>"
        for f in verdict.findings
    ]
    return _section("Likely faults", f"<ul class='findings'>{''.join(items)}</ul>") if items else ""


def _outputs(verdict: Verdict) -> str:
    rows = [
        (
            _YES if check.passed else _NO,
            f"<code>{escape(check.output)}</code> {escape(check.precision)}",
            number(check.right.error) if not check.right.problem else escape(check.right.problem),
            number(check.limit),
            number(check.left.error if check.left is not None else None),
            number(check.right.max_abs),
            number(check.right.mean_abs),
            number(check.right.max_rel),
            decimal(check.right.cosine, 7),
            f"{decimal(check.right.snr_db, 0)} dB",
            share(check.right.top1),
            share(check.right.top5),
        )
        for check in worst_checks(verdict)
    ]
    if not rows:
        return ""
    names = ("", "output", "error", "limit", "source’s own", "max abs", "mean abs", "max rel",
             "cosine", "signal/noise", "top-1", "top-5")  # fmt: skip
    note = (
        f"Worst of {len(verdict.cases)} inputs{pixels(verdict)}. The error is"
        " max |x − ref| / rms(ref), the reference being the left side’s float64 run."
    )
    return _section("Outputs", _table(names, rows), note)


def _layers(verdict: Verdict) -> str:
    if not verdict.layers:
        return ""
    rows = [
        (
            _YES if check.passed else _NO,
            f"<code>{escape(check.place or 'the model')}</code>",
            number(check.judged.error if check.judged is not None else None),
            number(check.limit),
            escape(check.role),
            number(check.own.error if check.own is not None else None),
            escape(check.kind),
        )
        for check in worst_layers(verdict)
    ]
    names = ("", "layer", "error", "limit", "role", "source’s own", "kind")
    table = f"<details open><summary>worst layers</summary>{_table(names, rows)}</details>"
    plot = layer_plot(verdict.layers, verdict.precision)
    return _section(f"Layers ({len(verdict.layers)})", plot + table, verdict.story)


def _tensors(verdict: Verdict) -> str:
    """Return the rows that differ, and the others folded away."""
    if not verdict.tensors:
        return ""
    sizes = row_sizes(verdict).values()
    wrong = sum(not check.passed for check in verdict.tensors)
    names = ("", "tensors of a row", "count", "differ")
    differ = [(_NO, _folded(n), str(count), str(bad)) for n, count, bad in sizes if bad]
    agree = [(_YES, _folded(n), str(count)) for n, count, bad in sizes if not bad]
    note = f"{wrong} differ" if wrong else f"the same on both sides, {sameness(verdict)}"
    summary = f"{len(agree)} rows of the table that agree" if wrong else "by row of the table"
    return _section(
        f"Tensors ({len(verdict.tensors)})",
        (_table(names, differ) if differ else "")
        + f"<details><summary>{summary}</summary>{_table(names[:3], agree)}</details>",
        note,
    )


def _folded(names: Sequence[str]) -> str:
    """Return names with their layers folded, the first few."""
    more = f"<br>and {len(names) - 6} more" if len(names) > 6 else ""
    return "<br>".join(f"<code>{escape(name)}</code>" for name in names[:6]) + more


def _gradients(verdict: Verdict) -> str:
    if not verdict.gradients:
        return ""
    wrong = [check for check in verdict.gradients if not check.passed]
    errors = [c.right.error for c in verdict.gradients if c.right.error == c.right.error]
    worst = max(errors, default=None)
    note = f"{len(wrong)} differ; the largest error is {number(worst)}"
    items = "".join(
        f"<li>{escape(c.case)} of <code>{escape(c.output)}</code>: {escape(c.problem)}</li>"
        for c in wrong[:12]
    )
    listed = f"<ul>{items}</ul>" if items else ""
    return _section(f"Gradients ({len(verdict.gradients)})", listed, note)


def _blind(verdict: Verdict) -> str:
    if not verdict.blind:
        return ""
    rows = [
        (_YES if check.passed else _NO,
         f"<code>{escape(check.output)}</code> {escape(check.precision)}",
         number(check.right.error), number(check.limit), escape(check.problem))
        for check in verdict.fuzzed
    ]  # fmt: skip
    names = ("", "on fuzzed weights", "error", "limit", "")
    items = "".join(f"<li>{escape(line)}</li>" for line in blind_lines(verdict).values())
    table = _table(names, rows) if rows else ""
    return _section(f"Not shown by the outputs ({len(verdict.blind)})", f"<ul>{items}</ul>{table}")


def _environment(verdict: Verdict) -> str:
    sides = "".join(
        _side(name, side) for name, side in (("left", verdict.left), ("right", verdict.right))
    )
    items = [
        *(f"<li>Behaviour: {escape(line)}</li>" for line in behaviour_lines(verdict)),
        *(f"<li>Not made: {escape(reason)}</li>" for reason in verdict.skipped),
        *(f"<li>{escape(note)}</li>" for note in verdict.notes),
        *(f"<li>Made: {escape(line)}</li>" for line in origin_lines(verdict)[:1]),
        f"<li>Inputs: {escape(', '.join(verdict.cases[:12]))}; preset {escape(verdict.preset)}"
        + (f"; {verdict.num_classes} classes</li>" if verdict.num_classes else "</li>"),
    ]
    return _section("Environment", f'<div class="sides">{sides}</div><ul>{"".join(items)}</ul>')


def _side(name: str, side: SideReport) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in side.versions.items())
    lines = {
        "ran": escape(side_line(side)),
        "file": f"<code>{escape(file_of(side))}</code>",
        "digest": f"<code>{escape(side.digest)}</code>" if side.digest else "",
        "weights": escape(", ".join(side.weights)),
        "versions": escape(versions),
    }
    rows = "".join(f"<dt>{term}</dt><dd>{text}</dd>" for term, text in lines.items() if text)
    return f"<div><h3>{name}</h3><dl>{rows}</dl></div>"


def _section(title: str, content: str, note: str = "") -> str:
    paragraph = f"<p>{escape(note)}</p>" if note else ""
    return f"<section><h2>{escape(title)}</h2>{paragraph}{content}</section>"


def _table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{name}</th>" for name in names)
    body = "".join("<tr>" + "".join(f"<td>{c}</td>" for c in row) + "</tr>\n" for row in rows)
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>\n'
        f"<tbody>{body}</tbody></table></div>"
    )
