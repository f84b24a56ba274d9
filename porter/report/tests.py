"""The verdicts of a run of tests: which test, what came of it, where its report is."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import resources
from xml.etree import ElementTree

from porter.errors import html_escaped, json_escaped, visible
from porter.report.cells import table
from porter.report.cells import text as _cell

PASSED, FAILED = "passed", "failed"


@dataclass(frozen=True, slots=True)
class Row:
    """One verdict, or one test that failed without any."""

    test: str
    """Pytest's node id."""
    status: str
    """`passed`, `failed` or `not made`; of a test without a verdict `failed`."""
    reason: str = ""
    report: str = ""
    """File name of the verdict's own report, next to this one."""


@dataclass(frozen=True, slots=True)
class TestRun:
    """A run of tests; it passed if every test did and at least one verdict was made."""

    __test__ = False  # Not a class of tests, whatever pytest makes of its name.
    passed: bool
    rows: tuple[Row, ...]
    reason: str = ""
    """Why the run as a whole failed, where no row says it."""


def render(run: TestRun, suffix: str) -> str:
    """Return the run as Markdown, HTML, JSON or JUnit XML."""
    renderers: dict[str, Callable[[TestRun], str]] = {
        ".md": _markdown, ".html": _html, ".json": _json, ".xml": _junit,
    }  # fmt: skip
    return renderers[suffix](run)


def _headline(run: TestRun) -> str:
    made = sum(bool(row.report) for row in run.rows)
    good = sum(row.status == PASSED for row in run.rows)
    text = f"{good} of {made} verdicts passed"
    failed = sum(row.status == FAILED and not row.report for row in run.rows)
    return text + (f", {failed} tests failed without a verdict" if failed else "")


def _markdown(run: TestRun) -> str:
    lines = [f"## {'✅' if run.passed else '❌'} {_headline(run)}", ""]
    lines += [_cell(run.reason), ""] if run.reason else []
    rows = [(_cell(row.test), row.status, _cell(row.reason), _cell(row.report)) for row in run.rows]
    return "\n".join([*lines, table(("test", "verdict", "reason", "report"), rows)]) + "\n"


def _html(run: TestRun) -> str:
    style = (resources.files("porter.report") / "style.css").read_text()
    kind, mark = ("passed", "✓") if run.passed else ("failed", "✗")
    rows = "".join(
        f"<tr><td><code>{html_escaped(row.test)}</code></td><td>{html_escaped(row.status)}</td>"
        f'<td><span class="why">{html_escaped(row.reason)}</span></td>'
        f"<td>{_link(row.report)}</td></tr>\n"
        for row in run.rows
    )
    title = html_escaped(_headline(run))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        f'<header class="{kind}"><span class="mark">{mark}</span><div><h1>{title}</h1>'
        f"<p>{html_escaped(run.reason)}</p></div></header>\n"
        '<div class="scroll"><table><thead><tr><th>test</th><th>verdict</th><th>reason</th>'
        f"<th>report</th></tr></thead>\n<tbody>{rows}</tbody></table></div>\n"
        "</main>\n</body>\n</html>\n"
    )


def _link(report: str) -> str:
    name = html_escaped(report)
    return f'<a href="{name}">{name}</a>' if report else ""


def _json(run: TestRun) -> str:
    value = {"schema": "porter.tests/1", **asdict(run)}
    return json_escaped(json.dumps(value, indent=1, ensure_ascii=False)) + "\n"


def _junit(run: TestRun) -> str:
    suite = ElementTree.Element("testsuite", name="porter verdicts", tests=str(len(run.rows)))
    for row in run.rows:
        case = ElementTree.SubElement(suite, "testcase", classname="porter", name=visible(row.test))
        if row.status != PASSED:
            ElementTree.SubElement(case, "failure", message=visible(row.reason or row.status))
    if not run.passed and all(row.status == PASSED for row in run.rows):
        case = ElementTree.SubElement(suite, "testcase", classname="porter", name="the run")
        ElementTree.SubElement(case, "failure", message=visible(run.reason))
        suite.set("tests", str(len(run.rows) + 1))
    suite.set("failures", str(len(suite.findall("testcase/failure"))))
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"
