"""A verdict for machines: JSON by the schema `verdict.schema.json`, and JUnit XML."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any
from xml.etree import ElementTree

from porter import __version__
from porter.errors import json_escaped, visible
from porter.mapping.fold import fold
from porter.verification.checks import LayerCheck
from porter.verification.verdict import NOT_MADE, Verdict

VERSION = 1
"""Of the JSON: raised when a field changes its meaning or goes away."""


def as_dict(verdict: Verdict) -> dict[str, Any]:
    """Return a verdict as plain values: NaN and infinities become null."""
    found: dict[str, Any] = _plain(asdict(verdict))
    return {
        "schema": f"porter.verdict/{VERSION}",
        "version": VERSION,
        "porter": __version__,
        "passed": verdict.passed,
        **found,
    }


def as_json(verdict: Verdict) -> str:
    """Return a verdict as JSON."""
    return json_escaped(json.dumps(as_dict(verdict), indent=1, ensure_ascii=False)) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def as_junit(verdict: Verdict) -> str:
    """Return a verdict as JUnit XML: one case for each output, layer group and table row."""
    name = _xml(f"porter verify {verdict.architecture}")
    suite = ElementTree.Element("testsuite", name=name, time=f"{verdict.seconds:.3f}")
    if verdict.date:
        suite.set("timestamp", verdict.date.partition("+")[0])
    _properties(suite, verdict)
    if verdict.status == NOT_MADE:
        _case(suite, "forward proof", verdict.architecture, skipped=verdict.reason)
    for check in (*verdict.checks, *verdict.gradients):
        name = f"{check.output} of {check.case} in {check.precision}"
        _case(suite, "outputs", name, check.problem)
    for check in verdict.fuzzed:
        name = f"{check.output} of {check.case} in {check.precision}"
        _case(suite, "fuzzed weights", name, check.problem)
    for group, layers in layer_groups(verdict.layers):
        _case(suite, "layers", group, _all(f"{c.place}: {c.problem}" for c in layers if c.problem))
    for row, problems in table_rows(verdict):
        _case(suite, "table rows", row, _all(problems))
    for reason in verdict.skipped:
        _case(suite, "not made", reason.partition(":")[0], skipped=reason)
    cases = suite.findall("testcase")
    suite.set("tests", str(len(cases)))
    suite.set("failures", str(sum(case.find("failure") is not None for case in cases)))
    suite.set("skipped", str(sum(case.find("skipped") is not None for case in cases)))
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def layer_groups(layers: Iterable[LayerCheck]) -> Iterator[tuple[str, list[LayerCheck]]]:
    """Yield the layers by what they are part of: a block, or a module at the top."""
    groups: dict[str, list[LayerCheck]] = {}
    for check in layers:
        groups.setdefault(_group(check.place), []).append(check)
    yield from groups.items()


def _group(place: str) -> str:
    """Return `blocks.3` for `blocks.3.attn.proj`, `layers.0.blocks.1` for a part of that."""
    segments = place.split(".")
    numbers = [index for index, segment in enumerate(segments) if segment.isdecimal()]
    nested = len(numbers) > 1 and numbers[1] == numbers[0] + 2
    end = (numbers[1] if nested else numbers[0]) if numbers else 0
    return ".".join(segments[: end + 1]) or "the model"


def table_rows(verdict: Verdict) -> Iterator[tuple[str, list[str]]]:
    """Yield each row of the mapping table with the problems of its tensors."""
    rows: dict[str, list[str]] = {}
    for check in verdict.tensors:
        problems = rows.setdefault(check.row or check.name, [])
        if check.problem:
            problems.append(f"{check.name} {check.problem}")
    yield from rows.items()


def row_sizes(verdict: Verdict) -> dict[str, tuple[list[str], int, int]]:
    """Return {row: (folded names, tensors, tensors that differ)}."""
    names: dict[str, list[str]] = {}
    wrong: dict[str, int] = {}
    for check in verdict.tensors:
        row = check.row or check.name
        names.setdefault(row, []).append(check.name)
        wrong[row] = wrong.get(row, 0) + (not check.passed)
    return {row: (fold(found), len(found), wrong[row]) for row, found in names.items()}


def _properties(suite: ElementTree.Element, verdict: Verdict) -> None:
    """Add what ties the verdict to files: command, versions, state dicts and digests."""
    values = {"command": verdict.command}
    for name, side in (("left", verdict.left), ("right", verdict.right)):
        values |= {f"{name}.file": side.file, f"{name}.key": side.key}
        values |= {f"{name}.digest": side.digest}
        values |= {f"{name}.{package}": version for package, version in side.versions.items()}
    element = ElementTree.SubElement(suite, "properties")
    for name, value in values.items():
        if value:
            ElementTree.SubElement(element, "property", name=_xml(name), value=_xml(value))


def _all(problems: Iterable[str]) -> str:
    return "\n".join(problems)


def _case(
    suite: ElementTree.Element, group: str, name: str, problem: str = "", skipped: str = ""
) -> None:
    case = ElementTree.SubElement(suite, "testcase", classname=f"porter.{group}", name=_xml(name))
    if problem:
        first = problem.splitlines()[0]
        ElementTree.SubElement(case, "failure", message=_xml(first)).text = _xml(problem)
    if skipped:
        ElementTree.SubElement(case, "skipped", message=_xml(skipped))


def _xml(text: str) -> str:
    """Return text whose lines are escaped: XML cannot represent every character."""
    return "\n".join(visible(line) for line in text.split("\n"))
