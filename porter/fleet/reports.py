"""The summary of a manifest as text, Markdown, HTML with a page per job, JSON, JUnit, badge."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable
from importlib import resources
from xml.etree import ElementTree

from porter import __version__
from porter.errors import UsageError, html_escaped, json_escaped, listed, visible
from porter.fleet.job import FAILED, NOT_MADE, REFUSED, Result
from porter.fleet.summary import SCHEMA, Summary
from porter.report.cells import code, table
from porter.report.cells import text as cell
from porter.storage.outputs import check_outputs, publish_content

SUFFIXES = (".md", ".html", ".json", ".xml", ".badge.json")
_COLOURS = {0: "brightgreen", 1: "red", 3: "yellow"}
_NAMES = ("job", "architecture", "sides", "verdict", "error", "of its limit", "bytes", "seconds")


def suffix_of(path: str | os.PathLike[str]) -> str:
    """Return the kind of a report; `UsageError` for a name that has none of `SUFFIXES`."""
    name = os.fspath(path).lower()
    for suffix in sorted(SUFFIXES, key=len, reverse=True):
        if name.endswith(suffix):
            return suffix
    raise UsageError(f"is not a report: the name must end in {listed(SUFFIXES)}", path)


def check(paths: Iterable[str], inputs: Iterable[str], force: bool) -> None:
    """Raise `UsageError` for reports that cannot be written, before anything is run."""
    paths = list(paths)
    for path in paths:
        if suffix_of(path) == ".html" and os.path.lexists(pages_of(path)) and not force:
            raise UsageError("exists already; --force replaces it", pages_of(path))
    check_outputs(paths, inputs, force)


def write(summary: Summary, path: str, *, force: bool = False, inputs: Iterable[str] = ()) -> None:
    """Write a report by its suffix; next to an HTML page goes a folder with a page per job."""
    suffix = suffix_of(path)
    if suffix == ".html":
        _write_pages(summary, pages_of(path))
    publish_content(path, render(summary, suffix, path), force=force, inputs=inputs)


def pages_of(path: str) -> str:
    """Return the folder of the pages of an HTML report."""
    return f"{os.path.splitext(path)[0]}.jobs"


def render(summary: Summary, suffix: str, path: str = "summary.html") -> str:
    """Return a report; the links of an HTML page are as seen from `path`."""
    renderers: dict[str, Callable[[], str]] = {
        ".md": lambda: markdown(summary),
        ".html": lambda: _html(summary, os.path.basename(pages_of(path))),
        ".json": lambda: _json(summary),
        ".xml": lambda: _junit(summary),
        ".badge.json": lambda: _badge(summary),
    }
    return renderers[suffix]()


def columns(summary: Summary, result: Result) -> tuple[str, ...]:
    """Return the cells of a job's row, `_NAMES` says of what."""
    change = summary.change(result)
    error = "" if result.error is None else f"{result.error:.2g}"
    return (
        result.name,
        result.architecture,
        result.sides,
        result.status,
        f"{error} ({change})" if change else error,
        "" if result.share is None else f"{100 * result.share:.0f} %",
        f"{result.nbytes:,}" if result.nbytes else "",
        f"{result.seconds:.1f}",
    )


def markdown(summary: Summary) -> str:
    """Return a table for a pull request."""
    mark = {0: "✅", 1: "❌", 3: "⚠️"}[summary.exit_code]
    rows = [
        (code(row[0]), *map(cell, row[1:]))
        for row in (columns(summary, result) for result in summary.results)
    ]
    lines = [f"## {mark} {cell(summary.headline)}", "", table(_NAMES, rows), ""]
    problems = [r for r in summary.results if not r.good and r.message]
    lines += [f"- {code(result.name)}: {cell(result.message)}" for result in problems]
    lines += ["", f"_porter {__version__}, {cell(summary.manifest)}, {summary.seconds:.0f} s_"]
    return "\n".join(lines) + "\n"


def _html(summary: Summary, pages: str) -> str:
    style = (resources.files("porter.report") / "style.css").read_text()
    kind, mark = {0: ("passed", "✓"), 1: ("failed", "✗"), 3: ("open", "!")}[summary.exit_code]
    title = html_escaped(summary.headline)
    rows = "".join(_row(summary, result, pages) for result in summary.results)
    names = "".join(f"<th>{name}</th>" for name in _NAMES)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        f'<header class="{kind}"><span class="mark">{mark}</span><div><h1>{title}</h1>'
        f"<p>{html_escaped(summary.manifest)}, porter {__version__}, {summary.seconds:.0f} s</p>"
        f'</div></header>\n<div class="scroll"><table><thead><tr>{names}</tr></thead>\n'
        f"<tbody>{rows}</tbody></table></div>\n</main>\n</body>\n</html>\n"
    )


def _row(summary: Summary, result: Result, pages: str) -> str:
    name, *cells = map(html_escaped, columns(summary, result))
    if result.has_report:
        name = f'<a href="{html_escaped(pages)}/{name}.html">{name}</a>'
    if result.message and not result.good:
        cells[2] += f'<span class="why">{html_escaped(result.message)}</span>'
    return f"<tr><td><code>{name}</code></td>" + "".join(f"<td>{c}</td>" for c in cells) + "</tr>\n"


def _write_pages(summary: Summary, folder: str) -> None:
    """Copy the pages of the jobs next to the index, in place of those of an earlier report."""
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder, exist_ok=True)
    for result in summary.results:
        if result.has_report:
            shutil.copy(os.path.join(summary.reports, f"{result.name}.html"), folder)


def _json(summary: Summary) -> str:
    value = {
        "schema": SCHEMA,
        "porter": __version__,
        "manifest": summary.manifest,
        "exit_code": summary.exit_code,
        "counts": summary.counts,
        "seconds": round(summary.seconds, 3),
        "jobs": [
            {**result.as_json(), "before": summary.before.get(result.name)}
            for result in summary.results
        ],
    }
    return json_escaped(json.dumps(value, indent=1, ensure_ascii=False)) + "\n"


def _junit(summary: Summary) -> str:
    suite = ElementTree.Element(
        "testsuite", name=visible(summary.manifest), tests=str(len(summary.results)),
        time=f"{summary.seconds:.3f}",
    )  # fmt: skip
    for result in summary.results:
        case = ElementTree.SubElement(
            suite, "testcase", classname=visible(result.architecture or "porter"),
            name=visible(result.name), time=f"{result.seconds:.3f}",
        )  # fmt: skip
        message = visible(result.message or result.status)
        kinds = {FAILED: "failure", REFUSED: "error", NOT_MADE: "skipped"}
        if result.status in kinds:
            ElementTree.SubElement(case, kinds[result.status], message=message)
    for kind, count in (("failure", "failures"), ("error", "errors"), ("skipped", "skipped")):
        suite.set(count, str(len(suite.findall(f"testcase/{kind}"))))
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def _badge(summary: Summary) -> str:
    """Return what shields.io reads at an endpoint."""
    value = {
        "schemaVersion": 1,
        "label": "porter",
        "message": ", ".join(f"{count} {status}" for status, count in summary.counts.items()),
        "color": _COLOURS[summary.exit_code],
    }
    return json.dumps(value) + "\n"
